"""What is held in one layer and direction, always or during one call."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from lightning_relay.knockout.clamps import step_mask

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from lightning_relay.knockout.clamps import Clamp


class HeldAlways:
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
    def of(cls, clamps: Sequence[Clamp]) -> HeldAlways:
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
    call: int,
    *,
    units: int,
    lengths: Tensor,
    offset: int,
    like: Tensor,
) -> Held:
    """What several clamps of one layer and direction hold together; a later one wins.

    Args:
        clamps: The clamps.
        call: Number of calls that the module had before.
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
    for clamp in clamps:
        own = list(clamp.units)
        at = clamp.at(total, offset + steps, call).to(like)
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
