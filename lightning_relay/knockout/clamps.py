"""What was asked: which units are held, at which values and at which steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lightning_relay.recurrent.states import StepError, TooShortError

if TYPE_CHECKING:
    from lightning_relay.recurrent.layers import StateKey


Place = tuple[int, bool, bool]
"""Layer, backward direction, cell state."""

_DRAWS = 1_000_003
"""Seeds of draws are so far apart from one seed of the user to the next."""

Steps = slice | tuple[int, ...] | None
"""Positions in the sequence; None for all, and for the initial state."""


@dataclass(frozen=True, eq=False)
class Clamp:
    """Units of one layer that are held.

    Attributes:
        key: Whose units.
        units: Indices of the units.
        values: What they are held at, ``(1 or batch, 1 or step, unit)``, the units in the order of
            ``units``; for donors, recorded states ``(sequence, step, unit)`` to draw from.
        steps: At which positions.
        donors: Lengths of the sequences to draw from, int64 ``(sequence,)``; None where the values
            are given.
        seed: Seed of the draw.
        begun: Number of calls that the module had before, from which draws are counted.
    """

    key: StateKey
    units: tuple[int, ...]
    values: Tensor
    steps: Steps = None
    donors: Tensor | None = None
    seed: int = 0
    begun: int = 0

    def at(self, lengths: Tensor, steps: int, call: int) -> Tensor:
        """The values for a call, ``(1 or batch, 1 or step, unit)``.

        Args:
            lengths: Lengths of the sequences of the call, int64 ``(batch,)``.
            steps: Number of steps that are needed.
            call: Number of calls that the module had before; donors are drawn anew in each.

        Raises:
            ValueError: If the values are for other sequences, or no donor is long enough.
        """
        values = self.values
        if self.donors is not None:
            return values[self._drawn(lengths, call - self.begun), :steps]
        if values.shape[0] not in (1, len(lengths)):
            raise ValueError(
                f"value: got values for {values.shape[0]} sequences of {str(self.key)!r}, which "
                f"was called on {len(lengths)}; it takes (batch, step, unit) with batch 1 or "
                f"{len(lengths)}"
            )
        if 1 < values.shape[1] < steps:
            raise TooShortError(
                f"value: got values for {values.shape[1]} steps of {str(self.key)!r}, which was "
                f"called on {steps}; it takes values for every step, or (1, {len(self.units)}) for "
                "the same at all"
            )
        return values[:, :steps]

    def _drawn(self, lengths: Tensor, draw: int) -> Tensor:
        assert self.donors is not None
        generator = torch.Generator().manual_seed((self.seed * _DRAWS + draw) % 2**32)
        by_length = self.donors.argsort(descending=True)
        long_enough = (self.donors >= lengths.cpu().unsqueeze(1)).sum(1)
        if bool((long_enough == 0).any()):
            raise TooShortError(
                f"states: the longest recorded sequence of {str(self.key)!r} has "
                f"{int(self.donors.max())} steps, and a sequence of the call has "
                f"{int(lengths.max())}; 'resample' takes recorded sequences at least as long"
            )
        drawn = torch.rand(len(lengths), generator=generator, dtype=torch.float64) * long_enough
        return by_length[drawn.long()].to(self.values.device)

    @property
    def place(self) -> Place:
        """Whose units, within the module."""
        return self.key.layer, self.key.reverse, self.key.cell

    @property
    def counts_from_end(self) -> bool:
        """Whether its steps are counted from the end of a sequence."""
        steps = self.steps
        named = (steps.start, steps.stop) if isinstance(steps, slice) else steps or ()
        return any(step is not None and step < 0 for step in named)

    @property
    def constant(self) -> bool:
        """Whether the units are held at one value each, in all sequences and always."""
        given = self.steps is None and self.donors is None
        return given and self.values.shape[:2] == (1, 1)


def step_mask(steps: Steps, lengths: Tensor) -> Tensor:
    """Which positions are meant, bool ``(1 or batch, step)``; one row if it is the same for all.

    Args:
        steps: Positions; negative ones count back from the end of each sequence.
        lengths: Lengths of the sequences, int64 ``(batch,)``.
    """
    longest = int(lengths.max())
    if steps is None:
        return torch.ones(1, longest, dtype=torch.bool)
    if len(lengths.unique()) == 1:
        return _positions(steps, longest).unsqueeze(0)
    mask = torch.zeros(len(lengths), longest, dtype=torch.bool)
    for sequence, length in enumerate(lengths.tolist()):
        mask[sequence, :length] = _positions(steps, length)
    return mask


def check_within(steps: Steps, length: int) -> None:
    """Raise a StepError if a position lies outside the longest sequence, or none is named."""
    named = (steps.start, steps.stop) if isinstance(steps, slice) else steps or ()
    for step in named:
        end = length if isinstance(steps, slice) and step == steps.stop else length - 1
        if step is not None and not -length <= step <= end:
            raise StepError(
                f"steps: got {describe(steps)}, but the longest sequence has {length} steps; it "
                f"takes positions from 0 to {length - 1}, or -1 to {-length} from the end of each "
                "sequence"
            )
    if steps is not None and not bool(_positions(steps, length).any()):
        raise StepError(
            f"steps: got {describe(steps)}, which names none of the {length} steps of the longest "
            "sequence"
        )


def describe(steps: Steps) -> str:
    """Steps in words."""
    if isinstance(steps, slice):
        parts = [steps.start, steps.stop] + [steps.step] * (steps.step is not None)
        return "slice(" + ", ".join(repr(part) for part in parts) + ")"
    return "all steps" if steps is None else ", ".join(map(str, steps))


def _positions(steps: Steps, length: int) -> Tensor:
    mask = torch.zeros(length, dtype=torch.bool)
    if isinstance(steps, slice):
        mask[list(range(*steps.indices(length)))] = True
    else:
        mask[[step for step in steps or () if -length <= step < length]] = True
    return mask
