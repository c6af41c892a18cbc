"""Recurrent layers computed step by step, many lanes at once, with states held on the way."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch

from lightning_relay.knockout.held import Held, HeldAlways
from lightning_relay.recurrent.weights import next_states

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from lightning_relay.recurrent.weights import LayerWeights


class HeldLanes:
    """What is held in each lane, entry by entry as in ``Held``; None where nothing is held.

    Either all lanes have a ``HeldAlways`` or none. ``like`` has the device and dtype of the states.
    """

    def __init__(self, held: Sequence[Held | HeldAlways | None], like: Tensor, steps: int) -> None:
        self._lanes = [lane for lane, part in enumerate(held) if part is not None]
        self._count = len(held)
        self._like = like
        self._masks: Tensor | None = None
        self._at: list[tuple[Tensor, Tensor, Tensor]] = []
        always = [part for part in held if isinstance(part, HeldAlways)]
        parts = [part for part in held if isinstance(part, Held)]
        if always:
            self._at = [self._always(always)] * (1 + steps)
        elif parts and (torch.is_grad_enabled() or any(len(part.mask) > 1 for part in parts)):
            self._masks = self._stacked([part.mask for part in parts]).to(like.device)
            self._values = self._stacked([part.values.to(like) for part in parts])
        elif parts:
            self._at = self._indexed(parts)

    def initial(self, states: Tensor) -> Tensor:
        """Initial states ``(1 or lane, sequence, unit)`` of states ``(sequence, unit)``.

        There is one lane as long as all lanes are alike.
        """
        return self(states.clone().unsqueeze(0), 0)

    def __call__(self, states: Tensor, entry: int) -> Tensor:
        """States ``(1 or lane, sequence, unit)``, those held at their values; may write to them.

        There may be fewer sequences than at the first step: those that are longest.
        """
        size = states.shape[1]
        if self._masks is not None:
            mask, values = self._masks[:, :size, entry], self._values[:, :size, entry]
            return torch.where(mask, values, states)
        if self._at:
            lanes, units, values = self._at[entry]
            if len(lanes):
                if len(states) < self._count:
                    states = states.expand(self._count, -1, -1).clone()
                states[lanes, :, units] = values[:, :size]
        return states

    def _stacked(self, parts: Sequence[Tensor]) -> Tensor:
        """One part for each lane, zeros or False where there is none."""
        rows = max(len(part) for part in parts)
        stacked = parts[0].new_zeros(self._count, rows, *parts[0].shape[1:])
        for lane, part in zip(self._lanes, parts, strict=True):
            stacked[lane] = part
        return stacked

    def _always(self, parts: Sequence[HeldAlways]) -> tuple[Tensor, Tensor, Tensor]:
        """Lanes, units and values ``(place, 1)`` that are written at every entry."""
        own = [part.on(self._like) for part in parts]
        sizes = torch.tensor([len(units) for units, _ in own])
        lanes = torch.tensor(self._lanes).repeat_interleave(sizes).to(self._like.device)
        units, values = (torch.cat(columns) for columns in zip(*own, strict=True))
        return lanes, units, values.unsqueeze(1)

    def _indexed(self, parts: Sequence[Held]) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Lanes, units and values ``(place, 1 or sequence)`` that are written at each entry."""
        masks = torch.stack([part.mask[0] for part in parts], 1)
        counts = masks.flatten(1).sum(1).tolist()
        entry, part, unit = masks.nonzero(as_tuple=True)
        rows = max(len(one.values) for one in parts)
        device = self._like.device
        stacked = torch.stack([one.values.to(self._like).expand(rows, -1, -1) for one in parts])
        values = stacked[part.to(device), :, entry.to(device), unit.to(device)]
        lanes = torch.tensor(self._lanes)[part].to(device)
        columns = (lanes, unit.to(device), values)
        return list(zip(*(column.split(counts) for column in columns), strict=True))


def run_steps(
    weights: LayerWeights,
    inputs: Tensor,
    initial: Sequence[Tensor],
    hidden: Sequence[Held | HeldAlways | None],
    cells: Sequence[Held | HeldAlways | None],
    batch_sizes: Sequence[int],
    *,
    reverse: bool,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Hidden and final states of one layer and direction, step by step, in several lanes.

    Inputs are ``(1 or lane, step, sequence, channel)``, longer sequences first; all lanes read a
    single one. All lanes begin with the same h_0 and, for an LSTM, c_0, ``(sequence, unit)``. For
    each lane, ``hidden`` and ``cells`` say what is held. ``batch_sizes`` is the number of sequences
    at each step. Hidden states are ``(lane, sequence, step, unit)``, 0 in padding, final states
    ``(lane, sequence, unit)``.
    """
    sequences, units = initial[0].shape
    projected = weights.from_input(inputs)
    steps = len(batch_sizes)
    hold = [HeldLanes(held, initial[0], steps) for held in (hidden, cells)]
    state = [own.initial(part) for own, part in zip(hold, initial, strict=False)]
    in_place = not torch.is_grad_enabled()
    outputs = state[0].new_zeros(len(hidden), sequences, steps if in_place else 0, units)
    by_step: list[Tensor] = [state[0]] * steps
    for step in reversed(range(steps)) if reverse else range(steps):
        size = batch_sizes[step]
        before = [part[:, :size] for part in state]
        at_step = [partial(own, entry=step + 1) for own in hold]
        new = next_states(weights, projected[:, step, :size], before, *at_step)
        if in_place:
            outputs[:, :size, step] = new[0]
        else:
            own = new[0].expand(len(hidden), -1, -1)
            by_step[step] = torch.nn.functional.pad(own, (0, 0, 0, sequences - size))
        if size < sequences:
            new = [
                torch.cat([own, old[:, size:].expand(len(own), -1, -1)], 1)
                if len(own) >= len(old)
                else torch.cat([own.expand(len(old), -1, -1), old[:, size:]], 1)
                for own, old in zip(new, state, strict=True)
            ]
        state = new
    final = tuple(part.expand(len(hidden), -1, -1) for part in state)
    return (outputs if in_place else torch.stack(by_step, 2)), final
