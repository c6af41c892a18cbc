"""Recurrent layers with units held at values, one step and one sequence at a time, by definition.

Everything can be differentiated; nothing is computed in place or for several sequences at once.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from tests.support.recurrence import step

if TYPE_CHECKING:
    from lightning_relay import HiddenStates

Key = tuple[int, bool, bool]
"""Layer, whether it is the reverse direction, and whether its cell units are meant."""

Units = Mapping[str, Sequence[int] | int]
Steps = slice | Collection[int] | int | None
Value = str | float | Tensor


@dataclass(frozen=True)
class Held:
    """At which steps which units of one layer are held, and where.

    Attributes:
        mask: Whether a unit is held, bool ``(step, unit)``; all units of the layer.
        values: At which value ``(step, unit)``; unused where ``mask`` is False.
        initial: Mask and values ``(unit,)`` for the state before the first step; None to leave it.
    """

    mask: Tensor
    values: Tensor
    initial: tuple[Tensor, Tensor] | None = None


@dataclass(frozen=True)
class Run:
    """What a fused module computes for one sequence.

    Attributes:
        output: ``(step, unit)`` of the last layer; with two directions, both side by side.
        h_n: Last hidden states ``(layer and direction, unit)``.
        c_n: Last cell states, of an LSTM.
        states: All states ``(step, unit)`` by layer key such as ``"l0_reverse"``.
    """

    output: Tensor
    h_n: Tensor
    c_n: Tensor | None
    states: dict[str, Tensor]


def run(
    module: nn.RNNBase,
    sequence: Tensor,
    initial: tuple[Tensor, ...] | None = None,
    held: Mapping[Key, Held] | None = None,
) -> Run:
    """Compute one sequence ``(step, channel)`` with units held.

    Args:
        module: Fused module in evaluation mode; its weights are used.
        sequence: Inputs.
        initial: h_0 and, for an LSTM, c_0, ``(layer and direction, unit)``; default: zeros.
        held: Units held, by layer, direction and kind of state.
    """
    held = held or {}
    directions = 1 + module.bidirectional
    inputs = sequence
    states: dict[str, Tensor] = {}
    last_hidden, last_cell = [], []
    for layer in range(module.num_layers):
        outputs = []
        for reverse in (False, True)[:directions]:
            row = layer * directions + reverse
            h = sequence.new_zeros(module.proj_size or module.hidden_size)
            c = sequence.new_zeros(module.hidden_size)
            if initial is not None:
                h = initial[0][row]
                c = initial[1][row] if len(initial) > 1 else c
            hidden_held = held.get((layer, reverse, False))
            cell_held = held.get((layer, reverse, True))
            h, c = _first(h, hidden_held), _first(c, cell_held)
            suffix = f"l{layer}{'_reverse' * reverse}"
            hidden: dict[int, Tensor] = {}
            cells: dict[int, Tensor] = {}
            order = range(len(inputs))
            for t in reversed(order) if reverse else order:
                if module.mode == "LSTM":
                    h, c = _lstm_step(module, suffix, inputs[t], h, c, cell_held, t)
                    cells[t] = c
                else:
                    h, _ = step(module, f"_{suffix}", inputs[t], h, None)
                h = _replaced(h, hidden_held, t)
                hidden[t] = h
            states[suffix] = torch.stack([hidden[t] for t in order])
            if cells:
                states[f"{suffix}.cell"] = torch.stack([cells[t] for t in order])
            outputs.append(states[suffix])
            last_hidden.append(h)
            last_cell.append(c)
        inputs = torch.cat(outputs, dim=-1)
    c_n = torch.stack(last_cell) if module.mode == "LSTM" else None
    return Run(inputs, torch.stack(last_hidden), c_n, states)


def _lstm_step(
    module: nn.RNNBase,
    suffix: str,
    x: Tensor,
    h: Tensor,
    c: Tensor,
    cell_held: Held | None,
    t: int,
) -> tuple[Tensor, Tensor]:
    """Hidden and cell state; what is held of the cell state is so before it is read."""
    gates = getattr(module, f"weight_ih_{suffix}") @ x + getattr(module, f"weight_hh_{suffix}") @ h
    if module.bias:
        gates = gates + getattr(module, f"bias_ih_{suffix}") + getattr(module, f"bias_hh_{suffix}")
    i, f, g, o = gates.chunk(4)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    c = _replaced(c, cell_held, t)
    h = torch.sigmoid(o) * torch.tanh(c)
    return (getattr(module, f"weight_hr_{suffix}") @ h if module.proj_size else h), c


def _replaced(state: Tensor, held: Held | None, t: int) -> Tensor:
    return state if held is None else torch.where(held.mask[t], held.values[t], state)


def _first(state: Tensor, held: Held | None) -> Tensor:
    return state if held is None or held.initial is None else torch.where(*held.initial, state)


def positions(steps: Steps, length: int) -> set[int]:
    """Which positions of a sequence ``steps`` names; those that it does not have are left out."""
    if steps is None:
        return set(range(length))
    if isinstance(steps, slice):
        return set(range(length)[steps])
    named = [steps] if isinstance(steps, int) else steps
    return {t % length for t in named if -length <= t < length}


def trajectory(
    value: Value,
    count: int,
    length: int,
    sequence: int,
    recorded: tuple[HiddenStates, Sequence[int]] | None = None,
    donor: int | None = None,
) -> Tensor:
    """Values ``(step, unit)`` for ``count`` units of one layer and one sequence of the batch.

    Args:
        value: As ``knocked_out`` takes it, for one layer.
        count: Number of units held.
        length: Steps of the sequence.
        sequence: Its index in the batch.
        recorded: Recorded states of the layer, and the units held; of "mean" and its like.
        donor: Which recorded sequence was drawn, of "resample".
    """
    if isinstance(value, str) and value != "zero":
        assert recorded is not None
        states, units = recorded
        own = [
            row[:steps, list(units)].double()
            for row, steps in zip(states.values, states.lengths.tolist(), strict=True)
        ]
        if value == "mean":
            return torch.cat(own).mean(0).expand(length, count)
        if value == "mean_per_step":
            return torch.stack(
                [
                    torch.stack([row[t] for row in own if len(row) > t]).mean(0)
                    for t in range(length)
                ]
            )
        assert value == "resample"
        assert donor is not None
        return own[donor][:length]
    if isinstance(value, str):
        value = 0.0
    if not isinstance(value, Tensor):
        return torch.full((length, count), float(value), dtype=torch.float64)
    value = value.double()
    if value.dim() == 3:
        value = value[sequence if len(value) > 1 else 0]
    if value.dim() == 2:
        return value[:length] if len(value) > 1 else value.expand(length, count)
    return value.expand(length, count)


def holding(
    module: nn.RNNBase,
    units: Units,
    values: Mapping[str, Tensor],
    steps: Steps,
    length: int,
) -> dict[Key, Held]:
    """What is held in one sequence.

    Args:
        module: The module.
        units: Units by layer key of the module, such as ``"l0_reverse.cell"``.
        values: Their values ``(step, unit)`` by layer key.
        steps: As ``knocked_out`` takes it.
        length: Steps of the sequence.
    """
    found = {}
    for name, named in units.items():
        match = re.fullmatch(r"l(\d+)(_reverse)?(\.cell)?", name)
        assert match is not None
        layer, reverse, cell = int(match[1]), bool(match[2]), bool(match[3])
        indices = [named] if isinstance(named, int) else list(named)
        size = module.hidden_size if cell else module.proj_size or module.hidden_size
        mask = torch.zeros(length, size, dtype=torch.bool)
        full = torch.zeros(length, size, dtype=torch.float64)
        for place, unit in enumerate(indices):
            for t in positions(steps, length):
                mask[t, unit] = True
                full[t, unit] = values[name][t, place]
        first = length - 1 if reverse else 0
        initial = (mask[first], full[first]) if steps is None else None
        found[layer, reverse, cell] = Held(mask, full, initial)
    return found
