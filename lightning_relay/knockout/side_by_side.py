"""One call in several lanes at once, each of which holds other states."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from lightning_relay.knockout.calls import ModuleCall, Result, by_sequence, by_step
from lightning_relay.knockout.running import Holds, run_clamped
from lightning_relay.knockout.stepping import run_steps
from lightning_relay.recurrent.weights import LayerWeights

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

_ROWS = {"cpu": 1024, "cuda": 2**16}
"""Maximum number of lanes times sequences that are computed at once, by type of device.

Calls of few steps may have more, in proportion, from ``_ROWS_FOR`` steps down.
"""

_ROWS_FOR = 16

_LEAST_LANES = {"RNN_TANH": 4, "RNN_RELU": 4, "GRU": 4, "LSTM": math.inf}
"""Minimum number of lanes that a CPU computes faster at once than by PyTorch's kernel for each."""

_SHORT = 4
"""Maximum number of steps that a CPU computes faster at once for any number of lanes from 2."""

_BYTES = 2**28
"""Approximate maximum size of the states of all lanes that are computed at once."""


def run_lanes(call: ModuleCall, held: Sequence[Holds]) -> list[Result]:
    """Results of a call in several lanes; either all lanes hold always or none does."""
    by_kernel = torch.is_grad_enabled() or torch.is_autocast_enabled(call.inputs.device.type)
    if by_kernel or len(held) < _least_lanes(call):
        return [run_clamped(call, own) for own in held]
    layers = LayerWeights.of(call.module)
    inputs, sizes = by_step(call.inputs, call.batch_sizes)
    inputs = inputs.unsqueeze(0)  # one lane as long as all lanes read the same
    finals: list[list[Tensor]] = []
    for layer in range(call.module.num_layers):
        outputs = []
        for reverse in (False, True)[: 1 + call.module.bidirectional]:
            own = [lane.get((layer, reverse, False)) for lane in held]
            cells = [lane.get((layer, reverse, True)) for lane in held]
            if len(inputs) == 1 and not any(own) and not any(cells):
                own, cells = own[:1], cells[:1]
            row = len(finals)
            initial = [state[row] for state in call.initial]
            output, final = run_steps(
                layers[row], inputs, initial, own, cells, sizes, reverse=reverse
            )
            outputs.append(output)
            finals.append([state.expand(len(held), -1, -1) for state in final])
        inputs = outputs[0]
        if len(outputs) > 1:
            lanes = max(map(len, outputs))
            inputs = torch.cat([output.expand(lanes, -1, -1, -1) for output in outputs], -1)
        inputs = inputs.transpose(1, 2)
    states = [torch.stack(parts) for parts in zip(*finals, strict=True)]
    return [
        Result(by_sequence(output, call.batch_sizes), tuple(part[:, lane] for part in states))
        for lane, output in enumerate(inputs.transpose(1, 2).expand(len(held), -1, -1, -1))
    ]


def lanes_at_once(call: ModuleCall, first: int = 0) -> int:
    """Number of lanes to compute at once; 1 where PyTorch's kernel for each lane is faster.

    The lanes are computed from a step on, and take the steps before from elsewhere.
    """
    batch, steps = call.initial[0].shape[1], call.steps - first
    width = (1 + call.module.bidirectional) * call.module.hidden_size + call.inputs.shape[-1]
    bytes_of_lane = call.steps * batch * width * call.inputs.element_size()
    rows = _ROWS.get(call.inputs.device.type, _ROWS["cuda"]) * max(1, _ROWS_FOR // steps)
    count = min(rows // batch, _BYTES // bytes_of_lane)
    return count if count >= _least_lanes(call, first) else 1


def _least_lanes(call: ModuleCall, first: int = 0) -> float:
    short = call.batch_sizes is None and call.steps - first <= _SHORT
    if short or call.inputs.device.type != "cpu":
        return 2
    return _LEAST_LANES[call.module.mode]
