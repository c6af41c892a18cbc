"""Calls of nn.RNN, nn.GRU and nn.LSTM with states held inside the recurrence.

What reads a held state is the recurrence of its own layer, the layer above and the module's
output. For states held at one value at all steps, PyTorch's kernels do that exactly with other
weights: the columns that read the unit are zero, what they would add goes to the biases. Held for
some steps, the kernels run in segments between which the state is handed over. All else is computed
step by step.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from lightning_relay.knockout.calls import ModuleCall, Result, packed, run_kernel, unpacked
from lightning_relay.knockout.held import HeldAlways
from lightning_relay.knockout.segments import run_segments, segments
from lightning_relay.knockout.stepping import run_steps
from lightning_relay.knockout.weights import (
    LayerWeights,
    holding_units,
    keeping_cells,
    reading_held,
)
from lightning_relay.recurrent.layers import hidden_units

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lightning_relay.knockout.clamps import Place
    from lightning_relay.knockout.held import Held

_RUNS = 4
"""Steps are computed one by one where segments would have fewer steps than this on average."""


def run_clamped(
    call: ModuleCall, held: Mapping[Place, Held] | Mapping[Place, HeldAlways]
) -> Result:
    """The output and final states of a call with states held.

    Args:
        call: The call.
        held: What is held in each layer and direction, of its hidden or cell states.
    """
    weights = call.weights
    if not held or isinstance(next(iter(held.values())), HeldAlways):
        return _whole(call, weights, cast("Mapping[Place, HeldAlways]", held))
    held = cast("Mapping[Place, Held]", held)
    device = call.inputs.device.type
    if torch.is_autocast_enabled(device):
        return _in_precision(call, weights, held, torch.get_autocast_dtype(device))
    return _by_layer(call, weights, held)


def _in_precision(
    call: ModuleCall, weights: Sequence[Tensor], held: Mapping[Place, Held], dtype: torch.dtype
) -> Result:
    """Layer by layer in the precision of autocast, given as the kernel gives it."""
    first = (
        call.inputs[:, :1]
        if call.batch_sizes is None
        else call.inputs[: int(call.batch_sizes[0])].unsqueeze(1)
    )
    like = run_clamped(ModuleCall(call.module, first, None, call.initial), {})
    lower = replace(
        call,
        inputs=call.inputs.to(dtype),
        initial=tuple(state.to(dtype) for state in call.initial),
    )
    with torch.autocast(call.inputs.device.type, enabled=False):
        result = _by_layer(lower, [weight.to(dtype) for weight in weights], held)
    final = zip(result.final, like.final, strict=True)
    return Result(
        result.output.to(like.output.dtype), tuple(state.to(own.dtype) for state, own in final)
    )


def _whole(call: ModuleCall, weights: Sequence[Tensor], held: Mapping[Place, HeldAlways]) -> Result:
    """All layers in one call of the kernel, with other weights."""
    module = call.module
    directions = 1 + module.bidirectional
    layers = [
        LayerWeights.of(module, weights, layer, bool(reverse))
        for layer in range(module.num_layers)
        for reverse in range(directions)
    ]
    initial = list(call.initial)
    for (layer, reverse, cell), part in held.items():
        row = layer * directions + reverse
        layers[row] = (keeping_cells if cell else holding_units)(layers[row], part)
        if cell:
            initial[1] = _with_row(initial[1].clone(), part, row)
        elif layer + 1 < module.num_layers:
            for above in range((layer + 1) * directions, (layer + 2) * directions):
                layers[above] = reading_held(layers[above], part, reverse * hidden_units(module))
    result = _kernel(call, layers, tuple(initial))
    units = hidden_units(module)
    output, final = result.output, list(result.final)
    for (layer, reverse, cell), part in held.items():
        if cell:
            continue
        row = layer * directions + reverse
        final[0] = _with_row(final[0], part, row)
        if layer == module.num_layers - 1:
            output = _with_columns(output, part, reverse * units)
    return Result(output, tuple(final))


def _by_layer(call: ModuleCall, weights: Sequence[Tensor], held: Mapping[Place, Held]) -> Result:
    """One layer after the other."""
    module = call.module
    directions = 1 + module.bidirectional
    inputs = call.inputs
    finals: list[tuple[Tensor, ...]] = []
    for layer in range(module.num_layers):
        rows = range(layer * directions, (layer + 1) * directions)
        own = {place: part for place, part in held.items() if place[0] == layer}
        layers = [LayerWeights.of(module, weights, layer, bool(row - rows.start)) for row in rows]
        initial = tuple(state[rows.start : rows.stop] for state in call.initial)
        if not own:
            result = _kernel(ModuleCall(module, inputs, call.batch_sizes, initial), layers, initial)
            inputs = result.output
            finals += zip(*result.final, strict=True)
            continue
        outputs = []
        for reverse, own_weights in enumerate(layers):
            output, final = run_direction(
                own_weights,
                inputs,
                call.batch_sizes,
                tuple(state[reverse] for state in initial),
                own.get((layer, bool(reverse), False)),
                own.get((layer, bool(reverse), True)),
                reverse=bool(reverse),
            )
            outputs.append(output)
            finals.append(final)
        inputs = outputs[0] if len(outputs) == 1 else torch.cat(outputs, -1)
    return Result(inputs, tuple(torch.stack(states) for states in zip(*finals, strict=True)))


def run_direction(
    weights: LayerWeights,
    inputs: Tensor,
    batch_sizes: Tensor | None,
    initial: tuple[Tensor, ...],
    hidden: Held | None,
    cell: Held | None,
    *,
    reverse: bool,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Output and final states of one layer and direction, with states held.

    Args:
        weights: Its weights.
        inputs: As in ``ModuleCall``.
        batch_sizes: As in ``ModuleCall``.
        initial: h_0 and, for an LSTM, c_0, ``(batch, unit)``.
        hidden: What is held of the hidden states.
        cell: What is held of the cell states.
        reverse: Whether it reads from the end.
    """
    held = [part for part in (hidden, cell) if part is not None]
    if batch_sizes is None and all(part.shared for part in held):
        if reverse:
            inputs = inputs.flip(1)
            hidden, cell = (part and part.flipped() for part in (hidden, cell))
        parts = segments(hidden, cell, inputs.shape[1])
        if len(parts) * _RUNS <= inputs.shape[1] or len(parts) == 1:
            output, final = run_segments(weights, inputs, initial, hidden, cell, parts)
            return (output.flip(1) if reverse else output), final
        if reverse:
            inputs = inputs.flip(1)
            hidden, cell = (part and part.flipped() for part in (hidden, cell))
    return _stepped(weights, inputs, batch_sizes, initial, hidden, cell, reverse=reverse)


def _stepped(
    weights: LayerWeights,
    inputs: Tensor,
    batch_sizes: Tensor | None,
    initial: tuple[Tensor, ...],
    hidden: Held | None,
    cell: Held | None,
    *,
    reverse: bool,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    if batch_sizes is None:
        sizes = [len(inputs)] * inputs.shape[1]
        by_step = inputs.transpose(0, 1)
    else:
        sizes = batch_sizes.tolist()
        by_step = unpacked(inputs, sizes)
    output, h_n, c_n = run_steps(
        weights,
        by_step.unsqueeze(0),
        initial[0].unsqueeze(0),
        initial[1].unsqueeze(0) if len(initial) > 1 else None,
        [hidden],
        [cell],
        batch_sizes=sizes,
        reverse=reverse,
    )
    final = (h_n[0],) if c_n is None else (h_n[0], c_n[0])
    return (output[0] if batch_sizes is None else packed(output[0], sizes)), final


def _kernel(
    call: ModuleCall, layers: Sequence[LayerWeights], initial: tuple[Tensor, ...]
) -> Result:
    bidirectional = bool(call.module.bidirectional)
    return run_kernel(
        call.module.mode, call.inputs, call.batch_sizes, initial, layers, bidirectional
    )


def _with_columns(output: Tensor, held: HeldAlways, first: int) -> Tensor:
    """Outputs of which the held units have their value; in place where that does no harm."""
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
