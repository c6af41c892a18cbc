"""Replay of the states that nn.RNN, nn.GRU and nn.LSTM do not return.

These *fused* modules return the hidden states of the last layer, and cell states of the last step
only. A *replay* computes the other states from the inputs of a call and the weights it used: it
runs inner layers one by one, and finds cell states from the hidden states, with one product for the
gates of all steps and a scan over time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence

from lightning_relay.recurrent.forwards import (
    Unlike,
    compared,
    distance,
    may_pass_on,
    runs_pytorch_forward,
)
from lightning_relay.recurrent.layers import hidden_units
from lightning_relay.recurrent.transfer import on_cpu, padded

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from torch import Tensor

    from lightning_relay.recurrent.keys import StateKey

KERNELS: dict[str, Callable[..., tuple[Tensor, ...]]] = {
    "RNN_TANH": torch.rnn_tanh,
    "RNN_RELU": torch.rnn_relu,
    "GRU": torch.gru,
    "LSTM": torch.lstm,
}

_GATES_AT_ONCE = 2**23
"""Approximate number of gate values held at a time."""


@dataclass(frozen=True, eq=False)
class FusedCall:
    """All that a replay of one call needs; the tensors are copies, except for the weights."""

    name: str
    module: nn.RNNBase
    inputs: Tensor | PackedSequence  # (batch, step, channel)
    initial: tuple[Tensor, ...]  # h_0 and, for an LSTM, c_0: (layer and direction, batch, unit)
    final: tuple[Tensor, ...]  # h_n and, for an LSTM, c_n, as the module returned them
    hidden: Tensor  # output of the module, (batch, step, direction and unit)
    valid: Tensor | None  # steps that are no padding, bool (batch, step); None for all
    autocast: tuple[str, bool, torch.dtype]  # device type, whether autocast was on, its dtype
    weights: tuple[Tensor, ...]  # weights and biases that the call used, in PyTorch's order
    versions: tuple[int, ...]  # how often each weight had been changed in place by then
    unlike: Unlike | None = None  # what a forward of its own gave, beside PyTorch's


def check_replayable(
    name: str, module: nn.RNNBase, keys: Collection[StateKey], inputs: Any, state: Any, result: Any
) -> Unlike | None:
    """Raise a ValueError if the inner layers and cell states ``keys`` of a call cannot be replayed.

    The forward must be PyTorch's, or have given what PyTorch's gives, and no random dropout may
    come before a replayed layer. What a forward of its own gave on a GPU is returned and left to
    ``replay``, because it takes a wait to read.
    """
    unlike = None
    if not runs_pytorch_forward(module):
        found: str | Unlike = (
            "which was set on the module itself (a knock-out of its units sets one, too)"
        )
        if may_pass_on(module):
            found = compared(module, inputs, state, result)
        if isinstance(found, Unlike):
            unlike = found
            found = unlike.words(unlike.far) if unlike.is_known else ""
        if found:
            raise _not_replayable(name, module, found)
    behind_dropout = _layers_to_run(module, keys) > 1 or any(key.cell and key.layer for key in keys)
    if behind_dropout and module.training and module.dropout > 0:
        raise ValueError(
            f"layers, states: {name!r} is in training mode with dropout={module.dropout} between "
            "its layers. Its inner states cannot be replayed, because the random masks are not "
            "known afterwards; record in evaluation mode (model.eval()), or only layers='last' and "
            "states=('hidden',)"
        )
    return unlike


def _not_replayable(name: str, module: nn.RNNBase, why: str) -> ValueError:
    return ValueError(
        f"layers, states: {name!r} ({type(module).__name__}) has a forward of its own, {why}. So "
        "states that it does not return cannot be replayed; record only layers='last' and "
        "states=('hidden',), or register an adapter for its class with register_recurrent"
    )


@torch.no_grad()
def replay(call: FusedCall, keys: Collection[StateKey]) -> dict[StateKey, Tensor]:
    """Inner layers and cell states ``(batch, step, unit)`` of a call.

    A ValueError says that weights have changed since the call, or that the replay does not end in
    the final states that the module returned.
    """
    module = call.module
    if call.versions != versions_of(call.weights):
        raise ValueError(
            f"layers, states: the weights of {call.name!r} ({type(module).__name__}) have changed "
            "since it was called, so its inner states cannot be replayed; read the states before "
            "the weights change"
        )
    found: dict[StateKey, Tensor] = {}
    far: list[Tensor] = []  # of the final states
    inputs = call.inputs
    to_run = _layers_to_run(module, keys)
    units = hidden_units(module)
    with torch.autocast(call.autocast[0], enabled=False):
        for layer in range(1 + max(key.layer for key in keys)):
            outputs = _run_layer(call, layer, inputs, far) if layer < to_run else call.hidden
            hidden = _padded(outputs)
            for key in keys:
                if key.layer == layer:
                    own = hidden[..., units:] if key.reverse else hidden[..., :units]
                    if key.cell:
                        own = _cell_states(call, key, _padded(inputs), own, far)
                    found[key] = own
            inputs = outputs
    _check(call, far)
    return found


def versions_of(weights: Collection[Tensor]) -> tuple[int, ...]:
    """How often each tensor was changed in place; 0 for inference tensors, which do not count."""
    return tuple(0 if weight.is_inference() else weight._version for weight in weights)


def _layers_to_run(module: nn.RNNBase, keys: Collection[StateKey]) -> int:
    """Number of layers, from the first, to run again for the inner layers and cell states."""
    return max(min(key.layer + 1, module.num_layers - 1) for key in keys)


def _run_layer(
    call: FusedCall, layer: int, inputs: Tensor | PackedSequence, far: list[Tensor]
) -> Tensor | PackedSequence:
    """Output of one layer, both directions one after the other in the last dimension."""
    module = call.module
    run = KERNELS[module.mode]
    directions = 1 + module.bidirectional
    rows = slice(layer * directions, (layer + 1) * directions)
    initial = tuple(state[rows] for state in call.initial)
    if isinstance(inputs, PackedSequence) and inputs.sorted_indices is not None:
        initial = tuple(state.index_select(1, inputs.sorted_indices) for state in initial)
    hx = initial if module.mode == "LSTM" else initial[0]
    weights = _weights(call, layer, False)
    if module.bidirectional:
        weights += _weights(call, layer, True)
    options = (module.bias, 1, 0.0, False, module.bidirectional)
    device, enabled, dtype = call.autocast
    with torch.autocast(device, dtype=dtype, enabled=enabled):
        if isinstance(inputs, PackedSequence):
            data, *final = run(inputs.data, inputs.batch_sizes, hx, weights, *options)
            outputs: Tensor | PackedSequence = inputs._replace(data=data)
            restored = inputs.unsorted_indices
            if restored is not None:
                final = [state.index_select(1, restored) for state in final]
        else:
            outputs, *final = run(inputs, hx, weights, *options, True)
    far += [
        distance(own, given[rows], call.autocast)
        for own, given in zip(final, call.final, strict=True)
    ]
    return outputs


def _cell_states(
    call: FusedCall, key: StateKey, inputs: Tensor, hidden: Tensor, far: list[Tensor]
) -> Tensor:
    """Cell states of one layer and direction, ``(batch, step, unit)``."""
    module = call.module
    units = module.hidden_size
    precise = torch.float64 if hidden.dtype == torch.float64 else torch.float32
    weight_ih, weight_hh, *biases = (
        weight[: 3 * units].to(precise)  # PyTorch's order of the gates is i, f, g, o
        for weight in _weights(call, key.layer, key.reverse)[: 4 if module.bias else 2]
    )
    row = key.layer * (1 + module.bidirectional) + key.reverse
    h_0, c_0 = (state[row].to(precise) for state in call.initial)
    valid = call.valid
    if key.reverse:
        inputs, hidden = inputs.flip(1), hidden.flip(1)
        valid = None if valid is None else valid.flip(1)
    cell = c_0
    steps = hidden.shape[1]
    states = torch.empty(steps, *c_0.shape, dtype=hidden.dtype, device=hidden.device)
    at_once = max(1, _GATES_AT_ONCE // max(1, 3 * c_0.numel()))
    for first in range(0, steps, at_once):
        block = slice(first, min(first + at_once, steps))
        before = _before(hidden, valid, h_0, block)
        gates = inputs[:, block].transpose(0, 1).to(precise) @ weight_ih.T + before @ weight_hh.T
        gates += cast("Tensor", sum(biases))
        taken, kept, candidate = gates.split(units, dim=-1)
        taken = taken.sigmoid_() * candidate.tanh_()
        kept = kept.sigmoid_()
        for step in range(block.start, block.stop):
            new = torch.addcmul(taken[step - first], kept[step - first], cell)
            cell = new if valid is None else torch.where(valid[:, step, None], new, cell)
            states[step] = cell
    far.append(distance(cell, call.final[1][row], call.autocast))
    states = states.transpose(0, 1)
    return states.flip(1) if key.reverse else states


def _before(hidden: Tensor, valid: Tensor | None, h_0: Tensor, block: slice) -> Tensor:
    """Hidden states before each step of a block, ``(step, batch, unit)``."""
    start = max(block.start - 1, 0)
    shifted = hidden[:, start : block.stop - 1].transpose(0, 1).to(h_0.dtype)
    if valid is not None:
        begun = valid[:, start : block.stop - 1].T.unsqueeze(-1)
        shifted = torch.where(begun, shifted, h_0)
    return shifted if block.start else torch.cat([h_0.unsqueeze(0), shifted])


def _weights(call: FusedCall, layer: int, reverse: bool) -> list[Tensor]:
    """Weights and biases of one layer and direction, in PyTorch's order."""
    module = call.module
    count = 2 + 2 * bool(module.bias) + bool(module.proj_size)
    first = (layer * (1 + module.bidirectional) + reverse) * count
    return list(call.weights[first : first + count])


def _padded(states: Tensor | PackedSequence) -> Tensor:
    return padded(states) if isinstance(states, PackedSequence) else states


def _check(call: FusedCall, far: list[Tensor]) -> None:
    """Raise a ValueError if the call was not PyTorch's, or a replay ends in other final states."""
    own = () if call.unlike is None else call.unlike.far
    read = on_cpu(*own, *far)
    if call.unlike is not None and (why := call.unlike.words(read[: len(own)])):
        raise _not_replayable(call.name, call.module, why)
    for found in filter(bool, read[len(own) :]):
        raise ValueError(
            f"layers, states: the replay of {call.name!r} ({type(call.module).__name__}) ends up "
            f"to {float(found):.1e} away from the final states that its forward returned, so its "
            "inner and cell states cannot be known; do without what asks for them (layers='all', "
            "states=('cell',), latent, or a value of a knock-out such as Mean()), or register an "
            "adapter for its class with register_recurrent. If its weights changed after the call, "
            "read the states before the weights change"
        )
