"""Classification of real time series that the package aeon contains."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch.nn.utils.rnn import PackedSequence, pack_sequence
from torch.utils.data import DataLoader

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from torch import Tensor

_LOADERS = {
    "BasicMotions": "load_basic_motions",
    "ItalyPowerDemand": "load_italy_power_demand",
    "JapaneseVowels": "load_japanese_vowels",
}


class TimeSeriesTask(LightningDataModule):
    """Classify real time series, of equal or different lengths.

    The data sets and their division into training and test set are those of the UCR and UEA
    archives. The package aeon contains them, so nothing is downloaded. The same fraction of every
    class of the training set is kept for validation. Every channel is standardised with the mean
    and standard deviation of the training sequences. Batches are pairs of a packed sequence and
    labels ``(batch,)``.

    Args:
        name: Name of the data set: ``"BasicMotions"``, ``"ItalyPowerDemand"`` or
            ``"JapaneseVowels"``.
        val_fraction: Fraction of the training set that is kept for validation, between 0 and 1.
        batch_size: Number of sequences in a batch.
        seed: Seed of the division into training and validation; no other random state is touched.

    Attributes:
        class_names: Name of each class in the archive; the label of a class is its index.
        input_size: Number of channels.

    Raises:
        ImportError: If aeon is not installed.
        ValueError: If the name is unknown or an argument is out of its range; says which.
    """

    def __init__(
        self, name: str, *, val_fraction: float = 0.2, batch_size: int = 32, seed: int = 0
    ) -> None:
        super().__init__()
        if name not in _LOADERS:
            legal = ", ".join(map(repr, _LOADERS))
            raise ValueError(f"name: got {name!r}; it takes {legal}")
        if not 0 < val_fraction < 1:
            raise ValueError(
                f"val_fraction: got {val_fraction}; it takes a fraction between 0 and 1"
            )
        if batch_size < 1:
            raise ValueError(f"batch_size: got {batch_size}; it takes at least 1")
        self.name = name
        self.batch_size = batch_size
        train, train_classes = _load(name, "train")
        test, test_classes = _load(name, "test")
        self.class_names: list[str] = sorted({*train_classes, *test_classes})
        self.input_size = train[0].shape[1]

        training, validation = _divide(train_classes, val_fraction, seed)
        steps = torch.cat([train[index] for index in training])
        mean, deviation = steps.mean(0), steps.std(0)

        def examples(sequences: list[Tensor], classes: list[str]) -> list[tuple[Tensor, int]]:
            return [
                ((sequence - mean) / deviation, self.class_names.index(name))
                for sequence, name in zip(sequences, classes, strict=True)
            ]

        known = examples(train, train_classes)
        self._train = [known[index] for index in training]
        self._val = [known[index] for index in validation]
        self._test = examples(test, test_classes)

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    def train_dataloader(self) -> DataLoader[tuple[Tensor, int]]:
        """Shuffled batches of packed sequences and labels ``(batch,)``."""
        return self._loader(self._train, shuffle=True)

    def val_dataloader(self) -> DataLoader[tuple[Tensor, int]]:
        """Batches of packed sequences and labels ``(batch,)``."""
        return self._loader(self._val, shuffle=False)

    def test_dataloader(self) -> DataLoader[tuple[Tensor, int]]:
        """Batches of packed sequences and labels ``(batch,)``."""
        return self._loader(self._test, shuffle=False)

    def _loader(
        self, examples: list[tuple[Tensor, int]], *, shuffle: bool
    ) -> DataLoader[tuple[Tensor, int]]:
        return DataLoader(
            examples,  # type: ignore[arg-type]
            self.batch_size,
            shuffle=shuffle,
            collate_fn=_packed,
        )


def _packed(examples: list[tuple[Tensor, int]]) -> tuple[PackedSequence, Tensor]:
    sequences, labels = zip(*examples, strict=True)
    return pack_sequence(list(sequences), enforce_sorted=False), torch.tensor(labels)


def _load(name: str, split: str) -> tuple[list[Tensor], list[str]]:
    """Sequences ``(step, channel)`` and class names of a split."""
    try:
        from aeon import datasets
    except ImportError as error:
        raise ImportError(
            "TimeSeriesTask needs the package aeon: pip install 'lightning_relay[examples]'"
        ) from error
    load: Callable[[str], tuple[NDArray[np.float64] | list[NDArray[np.float64]], NDArray[np.str_]]]
    load = getattr(datasets, _LOADERS[name])
    sequences, classes = load(split)
    tensors = [torch.from_numpy(np.ascontiguousarray(series.T)).float() for series in sequences]
    return tensors, [str(label) for label in classes]


def _divide(classes: list[str], fraction: float, seed: int) -> tuple[list[int], list[int]]:
    """Indices for training and for validation; ``fraction`` of every class is for validation."""
    generator = torch.Generator().manual_seed(seed)
    training, validation = [], []
    for name in sorted(set(classes)):
        members = [index for index, label in enumerate(classes) if label == name]
        shuffled = [members[i] for i in torch.randperm(len(members), generator=generator).tolist()]
        kept = max(1, round(fraction * len(members)))
        validation += shuffled[:kept]
        training += shuffled[kept:]
    return sorted(training), sorted(validation)
