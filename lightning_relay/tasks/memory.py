"""The memory task: a pattern of bits, a delay, and the question which pattern it was."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, TensorDataset

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor


class MemoryTask(LightningDataModule):
    """Recall a pattern of k bits after a delay of d steps.

    One bit is presented per step, as +1 or -1 on a single channel; then come d steps with input 0.
    The class is the pattern, read as a binary number whose lowest bit came first. Every split
    holds all patterns equally often, up to one.

    Args:
        bits: Number of bits k, presented at steps 0 to k - 1.
        delay: Number of steps d without input after them.
        noise: Standard deviation of normal noise that is added to every input, the delay included.
        train_size: Number of sequences to train on.
        val_size: Number of sequences to validate on.
        test_size: Number of sequences to test on.
        batch_size: Number of sequences in a batch.
        seed: Seed of patterns and noise; the task has its own generator.

    Raises:
        ValueError: If an argument is out of its range.

    Example:
        >>> task = MemoryTask(bits=3, delay=10)
        >>> task.num_classes, task.steps, task.inputs_end
        (8, 13, 2)
        >>> [task.concepts["bit_1"](label) for label in range(4)]
        [0, 0, 1, 1]
    """

    input_size = 1

    def __init__(
        self,
        bits: int = 3,
        delay: int = 10,
        *,
        noise: float = 0.1,
        train_size: int = 4096,
        val_size: int = 1024,
        test_size: int = 1024,
        batch_size: int = 64,
        seed: int = 0,
    ) -> None:
        super().__init__()
        sizes = {"train_size": train_size, "val_size": val_size, "test_size": test_size}
        for name, value in {"bits": bits, **sizes, "batch_size": batch_size}.items():
            if value < 1:
                raise ValueError(f"{name}: got {value}; it takes at least 1")
        if delay < 0:
            raise ValueError(f"delay: got {delay}; it takes at least 0 steps")
        if noise < 0:
            raise ValueError(f"noise: got {noise}; it takes a standard deviation of at least 0")
        self.bits = bits
        self.delay = delay
        self.noise = noise
        self.batch_size = batch_size
        self.seed = seed
        self._sizes = tuple(sizes.values())
        self._splits: list[TensorDataset] = []

    @property
    def num_classes(self) -> int:
        """Number of patterns."""
        return int(2**self.bits)

    @property
    def steps(self) -> int:
        """Number of steps of a sequence."""
        return self.bits + self.delay

    @property
    def inputs_end(self) -> int:
        """The step at which the last bit is presented."""
        return self.bits - 1

    @property
    def concepts(self) -> dict[str, Callable[[int], int]]:
        """Each bit of the pattern as a function of the class label: ``bit_0`` came first."""
        return {f"bit_{bit}": partial(_bit, bit) for bit in range(self.bits)}

    def setup(self, stage: str) -> None:
        """Make the sequences."""
        generator = torch.Generator().manual_seed(self.seed)
        self._splits = [self._sequences(size, generator) for size in self._sizes]

    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        """Shuffled batches of sequences ``(batch, step, 1)`` and labels ``(batch,)``."""
        return DataLoader(self._splits[0], self.batch_size, shuffle=True)

    def val_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        """Batches of sequences ``(batch, step, 1)`` and labels ``(batch,)``."""
        return DataLoader(self._splits[1], self.batch_size)

    def test_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        """Batches of sequences ``(batch, step, 1)`` and labels ``(batch,)``."""
        return DataLoader(self._splits[2], self.batch_size)

    def _sequences(self, size: int, generator: torch.Generator) -> TensorDataset:
        labels = torch.arange(size) % self.num_classes
        labels = labels[torch.randperm(size, generator=generator)]
        pattern = (labels[:, None] >> torch.arange(self.bits)) & 1
        inputs = torch.zeros(size, self.steps, 1)
        inputs[:, : self.bits, 0] = 2.0 * pattern - 1.0
        inputs += self.noise * torch.randn(inputs.shape, generator=generator)
        return TensorDataset(inputs, labels)


def _bit(bit: int, label: int) -> int:
    return (label >> bit) & 1
