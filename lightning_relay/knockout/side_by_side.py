"""One call in several lanes at once, in each of which other states are held."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from lightning_relay.knockout.calls import ModuleCall, Result, packed, unpacked
from lightning_relay.knockout.running import run_clamped
from lightning_relay.knockout.stepping import run_steps
from lightning_relay.knockout.weights import LayerWeights

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from lightning_relay.knockout.clamps import Place
    from lightning_relay.knockout.held import Held, HeldAlways

_ROWS = {"cpu": 1024, "cuda": 2**16}
"""Lanes times sequences that are computed at once, by type of device."""

_LEAST_LANES = {"RNN_TANH": 4, "RNN_RELU": 4, "GRU": 4, "LSTM": math.inf}
"""With fewer lanes at once than this, PyTorch's kernel for each is faster on a CPU."""

_BYTES = 2**28
"""States of all lanes at once take about this much at most."""


def run_lanes(
    call: ModuleCall,
    held: Sequence[Mapping[Place, Held]] | Sequence[Mapping[Place, HeldAlways]],
) -> list[Result]:
    """The results of a call in several lanes, in each of which other states are held."""
    by_kernel = torch.is_grad_enabled() or torch.is_autocast_enabled(call.inputs.device.type)
    if by_kernel or len(held) < _least_lanes(call):
        return [run_clamped(call, own) for own in held]
    sizes = [len(call.inputs)] * call.steps
    by_step = call.inputs.transpose(0, 1)
    if call.batch_sizes is not None:
        sizes = call.batch_sizes.tolist()
        by_step = unpacked(call.inputs, sizes)
    inputs = by_step.unsqueeze(0)
    finals: list[tuple[Tensor, ...]] = []
    for layer in range(call.module.num_layers):
        outputs, final = _run_layer(call, layer, inputs, held, sizes)
        inputs = outputs.transpose(1, 2)
        finals += final
    lanes = len(held)
    outputs = inputs.transpose(1, 2).expand(lanes, -1, -1, -1)
    states = [torch.stack(parts) for parts in zip(*finals, strict=True)]
    return [
        Result(
            output if call.batch_sizes is None else packed(output, sizes),
            tuple(part[:, lane] for part in states),
        )
        for lane, output in enumerate(outputs)
    ]


def _run_layer(
    call: ModuleCall,
    layer: int,
    inputs: Tensor,
    held: Sequence[Mapping[Place, Held]] | Sequence[Mapping[Place, HeldAlways]],
    batch_sizes: Sequence[int],
) -> tuple[Tensor, list[tuple[Tensor, ...]]]:
    """Output ``(1 or lane, sequence, step, unit)`` of a layer, final states by direction."""
    module = call.module
    directions = 1 + module.bidirectional
    outputs, finals = [], []
    for reverse in (False, True)[:directions]:
        own = [lane.get((layer, reverse, False)) for lane in held]
        cells = [lane.get((layer, reverse, True)) for lane in held]
        if len(inputs) == 1 and not any(own) and not any(cells):
            own, cells = own[:1], cells[:1]
        initial = [state[layer * directions + reverse].unsqueeze(0) for state in call.initial]
        output, *final = run_steps(
            LayerWeights.of(module, call.weights, layer, reverse),
            inputs,
            initial[0],
            initial[1] if len(initial) > 1 else None,
            own,
            cells,
            batch_sizes=batch_sizes,
            reverse=reverse,
        )
        outputs.append(output)
        finals.append(
            tuple(state.expand(len(held), -1, -1) for state in final if state is not None)
        )
    if len(outputs) == 1:
        return outputs[0], finals
    lanes = max(map(len, outputs))
    return torch.cat([output.expand(lanes, -1, -1, -1) for output in outputs], -1), finals


def lanes_at_once(call: ModuleCall) -> int:
    """How many lanes are computed at once."""
    rows = _ROWS.get(call.inputs.device.type, _ROWS["cuda"])
    count = min(rows // call.initial[0].shape[1], _BYTES // _bytes_of_lane(call))
    return count if count >= _least_lanes(call) else 1


def _bytes_of_lane(call: ModuleCall) -> int:
    """Memory of the inputs and states of a lane."""
    directions = 1 + call.module.bidirectional
    width = directions * call.module.hidden_size + call.inputs.shape[-1]
    return call.steps * call.initial[0].shape[1] * width * call.inputs.element_size()


def _least_lanes(call: ModuleCall) -> float:
    return 2 if call.inputs.device.type != "cpu" else _LEAST_LANES[call.module.mode]
