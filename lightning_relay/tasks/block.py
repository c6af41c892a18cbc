"""The block task: recall how wide a block was, and where it drifted, after a delay."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch.utils.data import TensorDataset

from lightning_relay.tasks.sequences import SequenceTask, balanced_labels, check_at_least

if TYPE_CHECKING:
    from collections.abc import Callable


class BlockTask(SequenceTask):
    """Recall the width and the direction of a block that drifted over a ring of binary sensors.

    A block of one of several widths drifts left or right for some steps; then comes a delay without
    input. The class is width × direction. A sensor is 1 where the block is and 0 elsewhere. At
    every step with the block, each sensor is inverted with a small probability. The block starts
    anywhere on the ring, so no single frame tells the direction. In every split, the numbers of
    sequences of each class differ by at most one.

    Args:
        widths: Numbers of sensors of the block, each below ``sensors``.
        sensors: Number of sensors.
        shown: Number of steps for which the block is shown; at least 2.
        delay: Number of steps after that, with input 0; at least 0.
        speed: Number of sensors by which the block moves per step, from 1 to below half the ring:
            at half, left and right are the same.
        noise: Probability that a sensor is inverted, at every step with the block.
        distractors: Number of sensors that are switched on at random places, also under the block,
            at every step with the block.
        train_size: Number of sequences to train on.
        val_size: Number of sequences to validate on.
        test_size: Number of sequences to test on.
        batch_size: Number of sequences in a batch.
        seed: Seed of starts, classes and noise; no other random state is touched.

    Raises:
        ValueError: If an argument is out of its range; says which.

    Example:
        >>> task = BlockTask(widths=(2, 4))
        >>> task.num_classes, task.steps, task.inputs_end
        (4, 14, 7)
        >>> [task.concepts["width"](label) for label in range(4)]
        [2, 4, 2, 4]
        >>> [task.concepts["direction"](label) for label in range(4)]
        ['left', 'left', 'right', 'right']

    Source:
        After the second synthetic task of Hintze, Najam and Schossau, arXiv 2510.01271 (2025),
        whose parameters are not known to us; those here are ours.
    """

    def __init__(
        self,
        widths: Sequence[int] = (2, 4),
        *,
        sensors: int = 12,
        shown: int = 8,
        delay: int = 6,
        speed: int = 1,
        noise: float = 0.02,
        distractors: int = 0,
        train_size: int = 4096,
        val_size: int = 1024,
        test_size: int = 1024,
        batch_size: int = 64,
        seed: int = 0,
    ) -> None:
        sizes = {"train_size": train_size, "val_size": val_size, "test_size": test_size}
        super().__init__(sizes, batch_size, seed)
        check_at_least(3, "sensors", sensors)
        check_at_least(2, "shown", shown, " steps")
        check_at_least(0, "delay", delay, " steps")
        check_at_least(0, "distractors", distractors)
        listed = list(widths) if isinstance(widths, Sequence) else []
        fit = all(isinstance(width, int) and 1 <= width < sensors for width in listed)
        if not listed or not fit or len(set(listed)) < len(listed):
            raise ValueError(
                f"widths: got {widths!r}; it takes different numbers of sensors from 1 to "
                f"{sensors - 1}"
            )
        if isinstance(speed, float) or not 1 <= speed < sensors / 2:
            raise ValueError(
                f"speed: got {speed}; with {sensors} sensors it takes 1 to {(sensors - 1) // 2} "
                "sensors per step"
            )
        if not 0 <= noise < 0.5:
            raise ValueError(f"noise: got {noise}; it takes a probability from 0 to below 0.5")
        if distractors > sensors:
            raise ValueError(
                f"distractors: got {distractors}; it takes at most {sensors}, the sensors"
            )
        self.widths = tuple(widths)
        self.input_size = sensors
        self.shown = shown
        self.delay = delay
        self.speed = speed
        self.noise = noise
        self.distractors = distractors

    @property
    def num_classes(self) -> int:
        """Number of widths times two directions."""
        return 2 * len(self.widths)

    @property
    def steps(self) -> int:
        """Number of steps of a sequence."""
        return self.shown + self.delay

    @property
    def inputs_end(self) -> int:
        """Index of the last step with the block."""
        return self.shown - 1

    @property
    def concepts(self) -> dict[str, Callable[[int], int | str]]:
        """Functions of the class label: ``width`` in sensors, ``direction`` left or right."""
        return {"width": partial(_width, self.widths), "direction": partial(_way, self.widths)}

    def _sequences(self, size: int, generator: torch.Generator) -> TensorDataset:
        sensors, shown = self.input_size, self.shown
        labels = balanced_labels(size, self.num_classes, generator)
        width = torch.tensor(self.widths)[labels % len(self.widths)]
        way = 2 * (labels // len(self.widths)) - 1
        start = torch.randint(sensors, (size,), generator=generator)
        first = start[:, None] + way[:, None] * self.speed * torch.arange(shown)
        from_first = (torch.arange(sensors) - first[..., None]) % sensors
        on = from_first < width[:, None, None]
        if self.distractors:
            draws = torch.rand(size, shown, sensors, generator=generator)
            on |= draws.argsort(-1).argsort(-1) < self.distractors
        on ^= torch.rand(on.shape, generator=generator) < self.noise
        inputs = torch.zeros(size, self.steps, sensors)
        inputs[:, :shown] = on.float()
        return TensorDataset(inputs, labels)


def _width(widths: tuple[int, ...], label: int) -> int:
    return widths[label % len(widths)]


def _way(widths: tuple[int, ...], label: int) -> str:
    return ("left", "right")[label // len(widths)]
