"""Which states of a layer are held, at which values and at which steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lightning_relay.recurrent.states import StepError, TooShortError

if TYPE_CHECKING:
    from collections.abc import Sequence

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
    """

    key: StateKey
    units: tuple[int, ...]
    values: Tensor
    steps: Steps = None
    donors: Tensor | None = None
    seed: int = 0

    def at(self, lengths: Tensor, steps: int, draw: int) -> Tensor:
        """The values for a call, ``(1 or batch, 1 or step, unit)``.

        Args:
            lengths: Lengths of the sequences of the call, int64 ``(batch,)``.
            steps: Number of steps that are needed.
            draw: Number of the draw of donors, from 0.

        Raises:
            ValueError: If the values are for other sequences, or no donor is long enough.
        """
        values = self.values
        if self.donors is not None:
            return values[self._drawn(lengths, draw), :steps]
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
    def constant(self) -> bool:
        """Whether the units are held at one value each, in all sequences and always."""
        given = self.steps is None and self.donors is None
        return given and self.values.shape[:2] == (1, 1)


class Constant:
    """Units of one layer and direction that are held at one value each, always.

    Args:
        units: Indices of the units, int64 ``(unit,)``, on the CPU.
        values: Their values, ``(unit,)``.

    Attributes:
        zero: Whether all values are 0.
    """

    def __init__(self, units: Tensor, values: Tensor) -> None:
        self._units = units
        self._values = values
        self._on: dict[tuple[torch.device, torch.dtype, bool], tuple[Tensor, Tensor]] = {}
        self.zero = not bool(values.any())

    @classmethod
    def of(cls, clamps: Sequence[Clamp]) -> Constant:
        """What constant clamps of one place hold together; a later one wins."""
        values = {
            unit: clamp.values[0, 0, column]
            for clamp in clamps
            for column, unit in enumerate(clamp.units)
        }
        return cls(torch.tensor(list(values)), torch.stack(list(values.values())))

    def on(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Units and values on the device, and the values in the dtype, of a tensor."""
        kind = (like.device, like.dtype, torch.is_inference_mode_enabled())
        if kind not in self._on:
            self._on[kind] = (self._units.to(like.device), self._values.to(like))
        return self._on[kind]


@dataclass(frozen=True, eq=False)
class Held:
    """What is held in one layer and direction during one call.

    Attributes:
        mask: Which states, bool ``(1 or batch, step, unit)``, on the CPU.
        values: At what, ``(1 or batch, step, unit)``.
        initial_mask: Which units of the initial state, bool ``(unit,)``, on the CPU.
        initial: At what, ``(1 or batch, unit)``.
    """

    mask: Tensor
    values: Tensor
    initial_mask: Tensor
    initial: Tensor

    @property
    def shared(self) -> bool:
        """Whether all sequences are held alike, at the same values."""
        return len(self.mask) == 1 and len(self.values) == 1

    def flipped(self) -> Held:
        """In the opposite direction of time."""
        return Held(self.mask.flip(1), self.values.flip(1), self.initial_mask, self.initial)

    def after(self, step: int) -> Held:
        """From a step on, with an initial state that is not held."""
        nothing = torch.zeros_like(self.initial_mask)
        return Held(self.mask[:, step:], self.values[:, step:], nothing, self.initial)

    def reordered(self, sequences: Tensor) -> Held:
        """With the sequences in another order, as in packing."""
        mask, values, initial = (
            part if len(part) == 1 else part[sequences.to(part.device)]
            for part in (self.mask, self.values, self.initial)
        )
        return Held(mask, values, self.initial_mask, initial)

    def hold_initial(self, state: Tensor) -> Tensor:
        """An initial state ``(batch, unit)`` with its held units at their values."""
        if not bool(self.initial_mask.any()):
            return state
        return torch.where(self.initial_mask.to(state.device), self.initial.to(state), state)

    def hold(self, states: Tensor, first: int, last: int) -> Tensor:
        """States ``(batch, step, unit)`` of some steps with those held at their values."""
        mask = self.mask[:, first:last]
        if not bool(mask.any()):
            return states
        values = self.values[:, first:last].to(states)
        return torch.where(mask.to(states.device), values, states)


def held_states(
    clamps: Sequence[Clamp],
    draws: Sequence[int],
    *,
    units: int,
    lengths: Tensor,
    offset: int,
    like: Tensor,
) -> Held:
    """What several clamps of one layer and direction hold together; a later one wins.

    Args:
        clamps: The clamps.
        draws: For each the number of its draw.
        units: Number of units of the layer.
        lengths: Lengths of the sequences of the call, int64 ``(batch,)``, on the CPU.
        offset: Position of the first step of the call in the sequence.
        like: A tensor of the device and dtype of the states.

    Raises:
        ValueError: If values are for other sequences.
    """
    steps = int(lengths.max())
    total = lengths + offset
    mask = torch.zeros(1, steps, units, dtype=torch.bool)
    values = like.new_zeros(1, steps, units)
    initial_mask = torch.zeros(units, dtype=torch.bool)
    initial = like.new_zeros(1, units)
    for clamp, draw in zip(clamps, draws, strict=True):
        own = list(clamp.units)
        at = clamp.at(total, offset + steps, draw).to(like)
        first = _before_first(at, total, offset, reverse=clamp.key.reverse)
        at = at[:, offset:] if at.shape[1] > 1 else at.expand(-1, steps, -1)
        where = step_mask(clamp.steps, total)[:, offset:]
        batch = max(len(values), len(at), len(where))
        if len(values) < batch:
            values = values.expand(batch, -1, -1).clone()
        if len(mask) < len(where):
            mask = mask.expand(len(where), -1, -1).clone()
        everywhere = where.unsqueeze(-1).to(values.device)
        values[..., own] = torch.where(everywhere, at, values[..., own])
        mask[..., own] |= where.unsqueeze(-1)
        if clamp.steps is None:
            if len(initial) < len(first):
                initial = initial.expand(len(first), -1).clone()
            initial[:, own] = first
            initial_mask[own] = True
    return Held(mask, values, initial_mask, initial)


def _before_first(values: Tensor, lengths: Tensor, offset: int, *, reverse: bool) -> Tensor:
    """Values ``(1 or batch, unit)`` of the state that the first computed step of a call reads.

    The initial state is held as the step that the layer computes first.
    """
    if values.shape[1] == 1:
        return values[:, 0]
    if not reverse:
        return values[:, max(offset - 1, 0)]
    sequences = torch.arange(len(lengths), device=values.device)
    return values.expand(len(lengths), -1, -1)[sequences, lengths.to(values.device) - 1]


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
