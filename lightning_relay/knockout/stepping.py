"""Recurrent layers computed step by step, many lanes at once, with states held on the way."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from lightning_relay.knockout.held import Held, HeldAlways

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from lightning_relay.knockout.weights import LayerWeights


class HeldLanes:
    """What is held in each lane, step by step.

    Args:
        held: For each lane; None where nothing is. Either all are constants or none is.
        like: A tensor of the device and dtype of the states.
        steps: Number of steps.
    """

    def __init__(self, held: Sequence[Held | HeldAlways | None], like: Tensor, steps: int) -> None:
        self._lanes = [lane for lane, part in enumerate(held) if part is not None]
        self._held = [part for part in held if isinstance(part, Held)]
        constants = [part for part in held if isinstance(part, HeldAlways)]
        self._count = len(held)
        self._like = like
        self._masks: Tensor | None = None
        self._at: list[tuple[Tensor, Tensor, Tensor]] = []
        if constants:
            self._at = [self._always(constants)] * steps
        elif torch.is_grad_enabled() or any(len(part.mask) > 1 for part in self._held):
            if self._held:
                self._masks = self._stacked([part.mask for part in self._held]).to(like.device)
                self._values = self._stacked([part.values.to(like) for part in self._held])
        elif self._held:
            self._at = self._indexed()

    def initial(self, states: Tensor) -> Tensor:
        """Initial states ``(1 or lane, sequence, unit)``, one for each lane."""
        states = states.expand(self._count, -1, -1)
        if self._at and not self._held:
            return self(states.clone(), 0)
        if not any(bool(part.initial_mask.any()) for part in self._held):
            return states
        masks = self._stacked([part.initial_mask.view(1, -1) for part in self._held])
        values = self._stacked([part.initial.to(states) for part in self._held])
        return torch.where(masks.to(states.device), values, states)

    def __call__(self, states: Tensor, step: int) -> Tensor:
        """States ``(lane, sequence, unit)`` at a step; only the first sequences may be there."""
        size = states.shape[1]
        if self._masks is not None:
            mask, values = self._masks[:, :size, step], self._values[:, :size, step]
            return torch.where(mask, values, states)
        if self._at:
            lanes, units, values = self._at[step]
            if len(lanes):
                states[lanes, :, units] = values[:, :size]
        return states

    def _stacked(self, parts: Sequence[Tensor]) -> Tensor:
        """One part for each lane, zeros or False where there is none."""
        rows = max(len(part) for part in parts)
        stacked = parts[0].new_zeros(self._count, rows, *parts[0].shape[1:])
        for lane, part in zip(self._lanes, parts, strict=True):
            stacked[lane] = part
        return stacked

    def _always(self, constants: Sequence[HeldAlways]) -> tuple[Tensor, Tensor, Tensor]:
        """Lanes, units and values ``(1,)`` that are written at every step."""
        own = [part.on(self._like) for part in constants]
        sizes = torch.tensor([len(units) for units, _ in own])
        lanes = torch.tensor(self._lanes).repeat_interleave(sizes).to(self._like.device)
        units, values = (torch.cat(parts) for parts in zip(*own, strict=True))
        return lanes, units, values.unsqueeze(1)

    def _indexed(self) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Lanes, units and values ``(1 or sequence)`` that are written at each step."""
        masks = torch.stack([part.mask[0] for part in self._held], 1)
        counts = masks.flatten(1).sum(1).tolist()
        step, place, unit = masks.nonzero(as_tuple=True)
        rows = max(len(part.values) for part in self._held)
        parts = [part.values.to(self._like).expand(rows, -1, -1) for part in self._held]
        device = self._like.device
        values = torch.stack(parts)[place.to(device), :, step.to(device), unit.to(device)]
        lane = torch.tensor(self._lanes)[place].to(device)
        columns = (lane, unit.to(device), values)
        return list(zip(*(column.split(counts) for column in columns), strict=True))


def run_steps(
    weights: LayerWeights,
    inputs: Tensor,
    hidden: Tensor,
    cell: Tensor | None,
    held: Sequence[Held | HeldAlways | None],
    held_cells: Sequence[Held | HeldAlways | None],
    *,
    batch_sizes: Sequence[int],
    reverse: bool = False,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """One layer and direction, step by step, in several lanes.

    Args:
        weights: Its weights.
        inputs: ``(1 or lane, step, sequence, channel)``; with one lane, all lanes share it. Longer
            sequences come first.
        hidden: Initial hidden states, ``(1 or lane, sequence, unit)``.
        cell: Initial cell states of an LSTM.
        held: Hidden states held, for each lane.
        held_cells: Cell states held, for each lane.
        batch_sizes: Number of sequences that have each step.
        reverse: Whether the layer reads from the end.

    Returns:
        Hidden states ``(lane, sequence, step, unit)``, 0 in padding; final hidden and cell states
        ``(lane, sequence, unit)``.
    """
    sequences = hidden.shape[1]
    projected = weights.from_input(inputs)
    steps = len(batch_sizes)
    hold, hold_cell = HeldLanes(held, hidden, steps), HeldLanes(held_cells, hidden, steps)
    hidden = hold.initial(hidden)
    if cell is not None:
        cell = hold_cell.initial(cell)
    in_place = not torch.is_grad_enabled()
    outputs = hidden.new_zeros(*hidden.shape[:2], steps if in_place else 0, hidden.shape[-1])
    by_step: list[Tensor] = [hidden] * steps
    for step in reversed(range(steps)) if reverse else range(steps):
        size = batch_sizes[step]
        new, new_cell = _step(
            weights,
            projected[:, step, :size],
            hidden[:, :size],
            None if cell is None else cell[:, :size],
            hold_cell,
            step,
        )
        new = hold(new, step)
        if in_place:
            outputs[:, :size, step] = new
        else:
            by_step[step] = torch.nn.functional.pad(new, (0, 0, 0, sequences - size))
        hidden = new if size == sequences else torch.cat([new, hidden[:, size:]], 1)
        if new_cell is not None and cell is not None:
            cell = new_cell if size == sequences else torch.cat([new_cell, cell[:, size:]], 1)
    return (outputs if in_place else torch.stack(by_step, 2)), hidden, cell


def _step(
    weights: LayerWeights,
    from_input: Tensor,
    hidden: Tensor,
    cell: Tensor | None,
    hold_cell: HeldLanes,
    step: int,
) -> tuple[Tensor, Tensor | None]:
    """One step: hidden and, for an LSTM, cell states ``(lane, sequence, unit)``."""
    if weights.mode == "GRU":
        return _gru_step(weights, from_input, hidden), None
    gates = weights.from_state(hidden) + from_input
    if weights.mode == "RNN_TANH":
        return torch.tanh(gates), None
    if weights.mode == "RNN_RELU":
        return torch.relu(gates), None
    assert cell is not None
    taken, kept, candidate, shown = gates.chunk(4, -1)
    cell = torch.sigmoid(kept) * cell + torch.sigmoid(taken) * torch.tanh(candidate)
    cell = hold_cell(cell, step)
    new = torch.sigmoid(shown) * torch.tanh(cell)
    if weights.projection is not None:
        new = torch.nn.functional.linear(new, weights.projection)
    return new, cell


def _gru_step(weights: LayerWeights, from_input: Tensor, hidden: Tensor) -> Tensor:
    units = hidden.shape[-1]
    from_state = weights.from_state(hidden)
    gates = torch.sigmoid(from_state[..., : 2 * units] + from_input[..., : 2 * units])
    reset, update = gates.chunk(2, -1)
    candidate = torch.addcmul(from_input[..., 2 * units :], reset, from_state[..., 2 * units :])
    return torch.lerp(torch.tanh(candidate), hidden, update)
