"""What synthetic tasks share: splits of generated sequences, in batches."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING

import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, TensorDataset

if TYPE_CHECKING:
    from torch import Tensor


class SequenceTask(LightningDataModule):
    """Three splits of generated sequences; no random state but its own generator is touched."""

    def __init__(self, sizes: dict[str, int], batch_size: int, seed: int) -> None:
        super().__init__()
        for name, value in {**sizes, "batch_size": batch_size}.items():
            check_at_least(1, name, value)
        self.batch_size = batch_size
        self.seed = seed
        self._sizes = tuple(sizes.values())
        self._splits: list[TensorDataset] = []

    @abstractmethod
    def _sequences(self, size: int, generator: torch.Generator) -> TensorDataset:
        """Sequences ``(size, step, channel)`` and labels ``(size,)``."""

    def setup(self, stage: str) -> None:
        """Generate the sequences of all splits."""
        generator = torch.Generator().manual_seed(self.seed)
        self._splits = [self._sequences(size, generator) for size in self._sizes]

    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        """Shuffled batches of sequences ``(batch, step, channel)`` and labels ``(batch,)``."""
        return DataLoader(self._splits[0], self.batch_size, shuffle=True)

    def val_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        """Batches of sequences ``(batch, step, channel)`` and labels ``(batch,)``."""
        return DataLoader(self._splits[1], self.batch_size)

    def test_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        """Batches of sequences ``(batch, step, channel)`` and labels ``(batch,)``."""
        return DataLoader(self._splits[2], self.batch_size)


def balanced_labels(size: int, classes: int, generator: torch.Generator) -> Tensor:
    """Shuffled labels ``(size,)`` whose numbers differ by at most one."""
    labels = torch.arange(size) % classes
    return labels[torch.randperm(size, generator=generator)]


def check_at_least(least: int, name: str, value: int, unit: str = "") -> None:
    """Raise a ValueError unless a number is ``least`` or more."""
    if value < least:
        raise ValueError(f"{name}: got {value}; it takes at least {least}{unit}")
