"""Calls of nn.RNN, nn.GRU and nn.LSTM with states held inside the recurrence.

A held state is read by the recurrence of its own layer, the layer above and the module's output.
If states are held at one value at all steps, PyTorch's kernels compute that exactly with other
weights: the columns that read the unit are zero, and what they would add goes to the biases. If
states are held for some steps, the kernels run in segments that hand the state over. Everything
else is computed step by step.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from lightning_relay.knockout.calls import ModuleCall, Result, by_sequence, by_step, run_kernel
from lightning_relay.knockout.clamps import Place
from lightning_relay.knockout.held import Held, HeldAlways
from lightning_relay.knockout.segments import run_segments, segments
from lightning_relay.knockout.stepping import run_steps
from lightning_relay.knockout.weights import (
    holding_units,
    keeping_cells,
    reading_held,
)
from lightning_relay.recurrent.layers import hidden_units
from lightning_relay.recurrent.weights import LayerWeights

if TYPE_CHECKING:
    from collections.abc import Sequence

Holds = Mapping[Place, Held | HeldAlways]
"""What is held in each layer and direction, of its hidden or cell states; all of one type."""

_RUNS = 4
"""Minimum mean number of steps in a segment; below it, steps are computed one by one."""


def run_clamped(call: ModuleCall, held: Holds) -> Result:
    """The output and final states of a call with states held."""
    layers = LayerWeights.of(call.module)
    if not held or isinstance(next(iter(held.values())), HeldAlways):
        return _whole(call, layers, cast("Mapping[Place, HeldAlways]", held))
    held = cast("Mapping[Place, Held]", held)
    device = call.inputs.device.type
    if torch.is_autocast_enabled(device):
        return _in_precision(call, layers, held, torch.get_autocast_dtype(device))
    return _by_layer(call, layers, held)


def _in_precision(
    call: ModuleCall, layers: Sequence[LayerWeights], held: Mapping[Place, Held], dtype: torch.dtype
) -> Result:
    """Layer by layer in the precision of autocast, returned in the dtypes of the kernel."""
    short = call.part(0, 1, call.initial)
    if call.batch_sizes is not None:
        # First and last step: the dtypes may depend on whether all sequences are equally long.
        parts = call.inputs.split(call.batch_sizes.tolist())
        ends = torch.cat([parts[0], parts[-1]])
        short = replace(call, inputs=ends, batch_sizes=call.batch_sizes[[0, -1]])
    like = run_clamped(short, {})
    initial = tuple(state.to(dtype) for state in call.initial)
    lower = replace(call, inputs=call.inputs.to(dtype), initial=initial)
    with torch.autocast(call.inputs.device.type, enabled=False):
        result = _by_layer(lower, [weights.to(dtype) for weights in layers], held)
    final = zip(result.final, like.final, strict=True)
    return Result(
        result.output.to(like.output.dtype), tuple(state.to(own.dtype) for state, own in final)
    )


def _whole(
    call: ModuleCall, layers: Sequence[LayerWeights], held: Mapping[Place, HeldAlways]
) -> Result:
    """All layers in one call of the kernel, with other weights."""
    module, units = call.module, hidden_units(call.module)
    directions = 1 + module.bidirectional
    layers, initial = list(layers), list(call.initial)
    for (layer, reverse, cell), part in held.items():
        row = layer * directions + reverse
        layers[row] = (keeping_cells if cell else holding_units)(layers[row], part)
        if cell:
            initial[1] = _with_row(initial[1].clone(), part, row)
        elif layer + 1 < module.num_layers:
            for above in range((layer + 1) * directions, (layer + 2) * directions):
                layers[above] = reading_held(layers[above], part, reverse * units)
    result = run_kernel(
        layers, call.inputs, call.batch_sizes, tuple(initial), bool(module.bidirectional)
    )
    output, final = result.output, list(result.final)
    for (layer, reverse, cell), part in held.items():
        if not cell:
            final[0] = _with_row(final[0], part, layer * directions + reverse)
        if not cell and layer == module.num_layers - 1:
            output = _with_columns(output, part, reverse * units)
    return Result(output, tuple(final))


def _by_layer(
    call: ModuleCall, layers: Sequence[LayerWeights], held: Mapping[Place, Held]
) -> Result:
    """One layer after the other."""
    directions = 1 + call.module.bidirectional
    inputs, sizes = call.inputs, call.batch_sizes
    finals: list[tuple[Tensor, ...]] = []
    for layer in range(call.module.num_layers):
        rows = slice(layer * directions, (layer + 1) * directions)
        if not any(place[0] == layer for place in held):
            initial = tuple(state[rows] for state in call.initial)
            result = run_kernel(layers[rows], inputs, sizes, initial, directions == 2)
            inputs = result.output
            finals += zip(*result.final, strict=True)
            continue
        outputs = []
        for reverse in (False, True)[:directions]:
            row = rows.start + reverse
            hidden, cell = held.get((layer, reverse, False)), held.get((layer, reverse, True))
            initial = tuple(state[row] for state in call.initial)
            output, final = _run_direction(
                layers[row], inputs, sizes, initial, hidden, cell, reverse=reverse
            )
            outputs.append(output)
            finals.append(final)
        inputs = outputs[0] if len(outputs) == 1 else torch.cat(outputs, -1)
    return Result(inputs, tuple(torch.stack(states) for states in zip(*finals, strict=True)))


def _run_direction(
    weights: LayerWeights,
    inputs: Tensor,
    batch_sizes: Tensor | None,
    initial: tuple[Tensor, ...],
    hidden: Held | None,
    cell: Held | None,
    *,
    reverse: bool,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Output and final states of one layer and direction, from initial ``(batch, unit)``."""
    if batch_sizes is None and all(part is None or part.shared for part in (hidden, cell)):
        held = (hidden, cell)
        if reverse:
            held = (hidden and hidden.flipped(), cell and cell.flipped())
        steps = inputs.shape[1]
        parts = segments(*held, steps)
        if len(parts) * _RUNS <= steps or len(parts) == 1:
            read = inputs.flip(1) if reverse else inputs
            output, final = run_segments(weights, read, initial, *held, parts)
            return (output.flip(1) if reverse else output), final
    steps_first, sizes = by_step(inputs, batch_sizes)
    output, final = run_steps(
        weights, steps_first.unsqueeze(0), initial, [hidden], [cell], sizes, reverse=reverse
    )
    return by_sequence(output[0], batch_sizes), tuple(state[0] for state in final)


def _with_columns(output: Tensor, held: HeldAlways, first: int) -> Tensor:
    """Outputs with the held units at their values; written in place where no gradient needs it."""
    units, values = held.on(output)
    if torch.is_grad_enabled():
        values = values.expand(*output.shape[:-1], -1)
        return output.index_copy(-1, units + first, values)
    output[..., units + first] = values
    return output


def _with_row(states: Tensor, held: HeldAlways, row: int) -> Tensor:
    """States ``(layer and direction, batch, unit)`` with one layer and direction held."""
    if torch.is_grad_enabled():
        own = _with_columns(states[row], held, 0).unsqueeze(0)
        return torch.cat([states[:row], own, states[row + 1 :]])
    _with_columns(states[row], held, 0)
    return states
