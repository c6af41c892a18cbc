"""Clamps: which units are held, at which values and at which steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lightning_relay.recurrent.errors import StepError, TooShortError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lightning_relay.recurrent.keys import StateKey


Place = tuple[int, bool, bool]
"""Layer, whether it is the backward direction, and whether its cell states are meant."""

_DRAWS = 1_000_003
"""Distance between the generator seeds of two successive user seeds; each draw adds one."""

Steps = slice | tuple[int, ...] | None
"""Positions in the sequence; None for all, and for the initial state."""


@dataclass(frozen=True, eq=False)
class Clamp:
    """Units of one layer that are held.

    Attributes:
        key: Layer of the units.
        units: Indices of the units.
        values: Values ``(1 or batch, 1 or step, unit)``, the units in the order of ``units``; for
            donors, recorded states ``(sequence, step, unit)`` to draw from.
        steps: Positions at which the units are held.
        donors: Lengths of the sequences to draw from, int64 ``(sequence,)``; None if the values are
            given.
        seed: Seed of the draw.
        begun: Number of earlier calls of the module; draws are counted from there.
    """

    key: StateKey
    units: tuple[int, ...]
    values: Tensor
    steps: Steps = None
    donors: Tensor | None = None
    seed: int = 0
    begun: int = 0

    def at(self, lengths: Tensor, steps: int, call: int) -> Tensor:
        """Values ``(1 or batch, 1 or step, unit)`` for the first steps of a call.

        ``lengths`` are those of the sequences of the call, int64 ``(batch,)``. ``call`` is the
        number of calls of the module before this one: every call draws donors anew.
        """
        values = self.values
        if self.donors is not None:
            return values[self._drawn(self.donors, lengths, call - self.begun), :steps]
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

    def _drawn(self, donors: Tensor, lengths: Tensor, draw: int) -> Tensor:
        """For each sequence the index of a recorded one that is at least as long."""
        generator = torch.Generator().manual_seed((self.seed * _DRAWS + draw) % 2**32)
        long_enough = (donors >= lengths.cpu().unsqueeze(1)).sum(1)
        if bool((long_enough == 0).any()):
            raise TooShortError(
                f"states: the longest recorded sequence of {str(self.key)!r} has "
                f"{int(donors.max())} steps, and a sequence of the call has "
                f"{int(lengths.max())}; 'resample' takes recorded sequences at least as long"
            )
        drawn = torch.rand(len(lengths), generator=generator, dtype=torch.float64) * long_enough
        return donors.argsort(descending=True)[drawn.long()].to(self.values.device)

    @property
    def place(self) -> Place:
        """Where in its module the units are."""
        return self.key.layer, self.key.reverse, self.key.cell

    @property
    def counts_from_end(self) -> bool:
        """Whether a step is counted from the end of a sequence."""
        return any(step < 0 for step in _named(self.steps))

    @property
    def simple(self) -> bool:
        """Whether each unit is held at one value, in all sequences and at all held steps."""
        return self.donors is None and self.values.shape[:2] == (1, 1)

    @property
    def constant(self) -> bool:
        """Whether each unit is held at one value, in all sequences and always."""
        return self.steps is None and self.simple


def step_mask(steps: Steps, lengths: Tensor) -> Tensor:
    """Which positions are meant, bool ``(1 or batch, step)``; one row if all rows are the same.

    Negative steps count back from the end of each sequence; ``lengths`` are int64 ``(batch,)``.
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
    """Raise a StepError if a position lies outside the longest sequence, or there is none."""
    if steps is None:
        return
    got = ", ".join(map(str, _named(steps)))
    if isinstance(steps, slice):
        parts = (steps.start, steps.stop, steps.step)
        got = f"slice({', '.join(map(repr, parts[: 2 if steps.step is None else 3]))})"
    for step in _named(steps):
        end = length if isinstance(steps, slice) and step == steps.stop else length - 1
        if not -length <= step <= end:
            raise StepError(
                f"steps: got {got}, but the longest sequence has {length} steps; it takes "
                f"positions from 0 to {length - 1}, or -1 to {-length} from the end of each "
                "sequence"
            )
    if not bool(_positions(steps, length).any()):
        raise StepError(
            f"steps: got {got}, which names none of the {length} steps of the longest sequence; it "
            "takes at least one of them"
        )


def _named(steps: Steps) -> list[int]:
    """Positions that are named: for a slice where it starts and stops."""
    named = (steps.start, steps.stop) if isinstance(steps, slice) else steps or ()
    return [step for step in named if step is not None]


def positions(steps: slice | tuple[int, ...], length: int) -> Sequence[int]:
    """Positions in a sequence that are meant, counted from 0."""
    if isinstance(steps, slice):
        return range(*steps.indices(length))
    return [step % length for step in steps if -length <= step < length]


def _positions(steps: slice | tuple[int, ...], length: int) -> Tensor:
    mask = torch.zeros(length, dtype=torch.bool)
    mask[list(positions(steps, length))] = True
    return mask
