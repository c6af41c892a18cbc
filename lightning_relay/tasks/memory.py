"""The memory task: recall which pattern of bits came before a delay."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch
from torch.utils.data import TensorDataset

from lightning_relay.tasks.sequences import SequenceTask, balanced_labels, check_at_least

if TYPE_CHECKING:
    from collections.abc import Callable


class MemoryTask(SequenceTask):
    """Recall a pattern of k bits after a delay of d steps.

    The only channel of the input presents one bit per step, as +1 or -1, and then d zeros. The
    class is the pattern, read as a binary number whose lowest bit came first. In every split, the
    numbers of sequences with each pattern differ by at most one.

    Args:
        bits: Number of bits k of the pattern, presented at steps 0 to k - 1; at least 1.
        delay: Number of steps d after the pattern, with input 0; at least 0.
        noise: Standard deviation of normal noise that is added to the input at every step.
        train_size: Number of sequences to train on.
        val_size: Number of sequences to validate on.
        test_size: Number of sequences to test on.
        batch_size: Number of sequences in a batch.
        seed: Seed of patterns and noise; no other random state is touched.

    Raises:
        ValueError: If an argument is out of its range; says which.

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
        sizes = {"train_size": train_size, "val_size": val_size, "test_size": test_size}
        super().__init__(sizes, batch_size, seed)
        check_at_least(1, "bits", bits)
        check_at_least(0, "delay", delay, " steps")
        if noise < 0:
            raise ValueError(f"noise: got {noise}; it takes a standard deviation of at least 0")
        self.bits = bits
        self.delay = delay
        self.noise = noise

    @property
    def num_classes(self) -> int:
        """Number of patterns, 2 to the power of ``bits``."""
        return int(2**self.bits)

    @property
    def steps(self) -> int:
        """Number of steps of a sequence."""
        return self.bits + self.delay

    @property
    def inputs_end(self) -> int:
        """Index of the step at which the last bit is presented."""
        return self.bits - 1

    @property
    def concepts(self) -> dict[str, Callable[[int], int]]:
        """Functions of the class label that give one bit each: ``bit_0`` is the first presented."""
        return {f"bit_{bit}": partial(_bit, bit) for bit in range(self.bits)}

    def _sequences(self, size: int, generator: torch.Generator) -> TensorDataset:
        labels = balanced_labels(size, self.num_classes, generator)
        pattern = (labels[:, None] >> torch.arange(self.bits)) & 1
        inputs = torch.zeros(size, self.steps, 1)
        inputs[:, : self.bits, 0] = 2.0 * pattern - 1.0
        inputs += self.noise * torch.randn(inputs.shape, generator=generator)
        return TensorDataset(inputs, labels)


def _bit(bit: int, label: int) -> int:
    return (label >> bit) & 1
