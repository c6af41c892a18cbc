"""What is held in one layer and direction, always or during one call."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import torch

from lightning_relay.knockout.clamps import step_mask

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from lightning_relay.knockout.clamps import Clamp


class HeldAlways:
    """Units of one layer and direction that are always held, each at one value.

    Units and values are ``(unit,)``, the units int64 on the CPU. ``zero`` tells whether all values
    are 0.
    """

    def __init__(self, units: Tensor, values: Tensor) -> None:
        self._units = units
        self._values = values
        self._on: dict[tuple[torch.device, torch.dtype, bool], tuple[Tensor, Tensor]] = {}
        self.zero = not bool(values.any())

    @classmethod
    def of(cls, clamps: Sequence[Clamp]) -> Self:
        """What constant clamps of one layer and direction hold together; a later one wins."""
        values = {
            unit: clamp.values[0, 0, column]
            for clamp in clamps
            for column, unit in enumerate(clamp.units)
        }
        return cls(torch.tensor(list(values)), torch.stack(list(values.values())))

    def on(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Units and values on the device of a tensor, the values in its dtype."""
        kind = (like.device, like.dtype, torch.is_inference_mode_enabled())
        if kind not in self._on:
            self._on[kind] = (self._units.to(like.device), self._values.to(like))
        return self._on[kind]


@dataclass(frozen=True, eq=False)
class Held:
    """What is held in one layer and direction during one call.

    Along its second axis, entry 0 is the initial state and entry ``step + 1`` that of a step.

    Attributes:
        mask: Which states, bool ``(1 or batch, 1 + step, unit)``, on the CPU.
        values: Their values, ``(1 or batch, 1 + step, unit)``.
    """

    mask: Tensor
    values: Tensor

    @classmethod
    def of(
        cls,
        clamps: Sequence[Clamp],
        call: int,
        *,
        units: int,
        lengths: Tensor,
        offset: int,
        like: Tensor,
    ) -> Self:
        """What clamps of one layer and direction hold together; a later one wins.

        ``call`` is the number of calls of the module before this one, and ``offset`` the position
        of its first step in the sequence. ``lengths``, int64 ``(batch,)`` on the CPU, are those of
        the sequences of the call. ``like`` has the device and dtype of the states.
        """
        entries = 1 + int(lengths.max())
        lengths = lengths + offset
        mask = torch.zeros(1, entries, units, dtype=torch.bool)
        values = like.new_zeros(1, entries, units)
        for clamp in clamps:
            own = list(clamp.units)
            at = clamp.at(lengths, offset + entries - 1, call).to(like)
            at = _with_initial(at, lengths, offset, entries, reverse=clamp.key.reverse)
            where = step_mask(clamp.steps, lengths)[:, offset:]
            initial = torch.full((len(where), 1), clamp.steps is None)
            where = torch.cat([initial, where], 1).unsqueeze(-1)
            rows = max(len(values), len(at), len(where))
            if len(values) < rows:
                values = values.expand(rows, -1, -1).clone()
            if len(mask) < len(where):
                mask = mask.expand(len(where), -1, -1).clone()
            values[..., own] = torch.where(where.to(values.device), at, values[..., own])
            mask[..., own] |= where
        return cls(mask, values)

    @classmethod
    def in_lanes(
        cls, clamps: Sequence[Clamp], *, units: int, steps: int, first: int, like: Tensor
    ) -> list[Self]:
        """What is held from a step on in several lanes, each with one ``simple`` clamp.

        The clamps have the same steps, and all sequences have as many; see ``of`` and ``after``.
        """
        at = step_mask(clamps[0].steps, torch.tensor([steps]))[0]
        where = torch.cat([torch.tensor([clamps[0].steps is None]), at])[first:]
        columns = torch.tensor([unit for clamp in clamps for unit in clamp.units])
        rows = torch.arange(len(clamps)).repeat_interleave(
            torch.tensor([len(clamp.units) for clamp in clamps])
        )
        mask = torch.zeros(len(clamps), len(where), units, dtype=torch.bool)
        mask[rows, :, columns] = where
        values = like.new_zeros(mask.shape)
        own = torch.cat([clamp.values[0, 0] for clamp in clamps]).to(like)
        values[rows.to(like.device), :, columns.to(like.device)] = own.unsqueeze(1) * where.to(like)
        return [cls(*parts) for parts in zip(mask.split(1), values.split(1), strict=True)]

    @property
    def shared(self) -> bool:
        """Whether all sequences are held alike, at the same values."""
        return len(self.mask) == 1 and len(self.values) == 1

    def flipped(self) -> Held:
        """The same in the opposite direction of time."""
        entries = [0, *range(self.mask.shape[1] - 1, 0, -1)]
        return Held(self.mask[:, entries], self.values[:, entries])

    def after(self, step: int) -> Held:
        """The same from a step on; its initial state is that of the step before."""
        return Held(self.mask[:, step:], self.values[:, step:])

    def reordered(self, sequences: Tensor) -> Held:
        """The same with the sequences in another order, as in packing."""
        mask, values = (
            part if len(part) == 1 else part[sequences.to(part.device)]
            for part in (self.mask, self.values)
        )
        return Held(mask, values)

    def hold(self, states: Tensor, first: int) -> Tensor:
        """States ``(batch, entry, unit)`` from an entry on, with those held at their values."""
        entries = slice(first, first + states.shape[1])
        mask = self.mask[:, entries]
        if not bool(mask.any()):
            return states
        values = self.values[:, entries].to(states)
        return torch.where(mask.to(states.device), values, states)

    def hold_one(self, states: Tensor, entry: int) -> Tensor:
        """States ``(batch, unit)`` of one entry, with those held at their values."""
        return self.hold(states.unsqueeze(1), entry).squeeze(1)


def _with_initial(
    values: Tensor, lengths: Tensor, offset: int, entries: int, *, reverse: bool
) -> Tensor:
    """Values ``(1 or batch, entry, unit)`` of a call that begins at a position in the sequence.

    The initial state is held as the step that the layer computes first.
    """
    if values.shape[1] == 1:
        return values.expand(-1, entries, -1)
    if not reverse:
        initial = values[:, max(offset - 1, 0)]
    else:
        if len(lengths.unique()) > 1:
            values = values.expand(len(lengths), -1, -1)
        rows = torch.arange(len(values), device=values.device)
        initial = values[rows, lengths[: len(values)].to(values.device) - 1]
    return torch.cat([initial.unsqueeze(1), values[:, offset:]], 1)
