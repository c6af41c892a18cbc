"""States that fused modules keep to themselves: inner layers, and the cell states of an LSTM.

nn.RNN, nn.GRU and nn.LSTM return the hidden states of their last layer only, and of the cell states
the last step only. From the inputs of a call and the module's weights the rest follows exactly:
inner layers by running them one by one, cell states from the hidden states by one product for the
gates of all steps and a scan over time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

from lightning_relay.recurrent.hooks import own_forward
from lightning_relay.recurrent.layers import hidden_units

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from torch import Tensor

    from lightning_relay.recurrent.layers import StateKey

KERNELS: dict[str, Callable[..., tuple[Tensor, ...]]] = {
    "RNN_TANH": torch.rnn_tanh,
    "RNN_RELU": torch.rnn_relu,
    "GRU": torch.gru,
    "LSTM": torch.lstm,
}

_FORWARDS = (nn.RNN.forward, nn.GRU.forward, nn.LSTM.forward)

_GATES_AT_ONCE = 2**23
"""The gates of about this many values are held at once."""

_TOLERANCE = {torch.float64: 1e-9, torch.float32: 5e-3, torch.bfloat16: 0.1, torch.float16: 2e-2}
"""How far a replayed final state may be from the one that the module returned.

It tells a wrong replay from rounding, which on accelerators includes reduced products (TF32).
"""


@dataclass(frozen=True, eq=False)
class FusedCall:
    """What a replay needs of one call of nn.RNN, nn.GRU or nn.LSTM; all tensors are copies.

    Attributes:
        name: Dotted name of the module, for messages.
        module: The module.
        inputs: Input, ``(batch, step, channel)`` or packed.
        initial: h_0 and, for an LSTM, c_0, each ``(layer and direction, batch, unit)``.
        final: h_n and, for an LSTM, c_n, as the module returned them.
        hidden: Output of the module, ``(batch, step, direction and unit)``.
        valid: Steps that are no padding, bool ``(batch, step)``.
        autocast: Type of device, whether autocast was on there, and its dtype.
        weights: Weights and biases that the call used, in PyTorch's order; not copies.
        versions: How often each of them had been changed in place by then.
    """

    name: str
    module: nn.RNNBase
    inputs: Tensor | PackedSequence
    initial: tuple[Tensor, ...]
    final: tuple[Tensor, ...]
    hidden: Tensor
    valid: Tensor
    autocast: tuple[str, bool, torch.dtype]
    weights: tuple[Tensor, ...]
    versions: tuple[int, ...]


def layers_to_run(module: nn.RNNBase, keys: Collection[StateKey]) -> int:
    """Number of layers, from the first, that must be run again for the states of ``keys``."""
    last = module.num_layers - 1
    return max(
        (key.layer + 1 if key.layer < last else last if key.cell else 0 for key in keys), default=0
    )


def needs_replay(module: nn.RNNBase, keys: Collection[StateKey]) -> bool:
    """Whether the output of a call does not hold the states of all ``keys``."""
    return any(key.cell or key.layer < module.num_layers - 1 for key in keys)


def runs_pytorch_forward(module: nn.Module) -> bool:
    """Whether a module is called as nn.RNN, nn.GRU or nn.LSTM is, without a forward of its own."""
    return type(module).forward in _FORWARDS and own_forward(module) is None


def check_replayable(name: str, module: nn.RNNBase, keys: Collection[StateKey]) -> None:
    """Raise a ValueError if a call of a module cannot be replayed for the states of ``keys``.

    That is so if its forward is not PyTorch's, or random dropout stands before a replayed layer.
    """
    if not runs_pytorch_forward(module):
        raise ValueError(
            f"layers, states: {name!r} ({type(module).__name__}) has a forward of its own, so "
            "states that it does not return cannot be replayed (so it is where units are knocked "
            "out); record only layers='last' and states=('hidden',), or register an adapter for "
            "its class with register_recurrent"
        )
    behind_dropout = layers_to_run(module, keys) > 1 or any(key.cell and key.layer for key in keys)
    if behind_dropout and module.training and module.dropout > 0:
        raise ValueError(
            f"layers, states: {name!r} is in training mode with dropout={module.dropout} between "
            "its layers, whose random masks are not known afterwards, so its inner states cannot "
            "be replayed; record in evaluation mode (model.eval()), or only layers='last' and "
            "states=('hidden',)"
        )


def replay(call: FusedCall, keys: Collection[StateKey]) -> dict[StateKey, Tensor]:
    """States ``(batch, step, unit)`` that the output of a call does not hold.

    Args:
        call: The call.
        keys: Inner layers and cell states wanted.

    Raises:
        ValueError: If weights have changed since, or the replay does not end in the states that
            the module returned.
    """
    with torch.no_grad(), torch.autocast(call.autocast[0], enabled=False):
        return _replayed(call, keys)


def _replayed(call: FusedCall, keys: Collection[StateKey]) -> dict[StateKey, Tensor]:
    module = call.module
    if call.versions != versions_of(call.weights):
        raise ValueError(
            f"layers, states: the weights of {call.name!r} ({type(module).__name__}) have changed "
            "since it was called, so its inner states cannot be replayed; read the states before "
            "the weights change"
        )
    found: dict[StateKey, Tensor] = {}
    inputs = call.inputs
    to_run = layers_to_run(module, keys)
    units = hidden_units(module)
    for layer in range(module.num_layers):
        wanted = [key for key in keys if key.layer == layer]
        if layer >= to_run and not wanted:
            continue
        outputs = _run_layer(call, layer, inputs) if layer < to_run else call.hidden
        hidden = _padded(outputs)
        for key in wanted:
            own = hidden[..., units:] if key.reverse else hidden[..., :units]
            found[key] = _cell_states(call, key, _padded(inputs), own) if key.cell else own
        inputs = outputs
    return found


def versions_of(weights: Collection[Tensor]) -> tuple[int, ...]:
    """How often each tensor has been changed in place; 0 for those that do not count it."""
    return tuple(0 if weight.is_inference() else weight._version for weight in weights)


def _run_layer(
    call: FusedCall, layer: int, inputs: Tensor | PackedSequence
) -> Tensor | PackedSequence:
    """Output of one layer, both directions side by side."""
    module = call.module
    run = KERNELS[module.mode]
    directions = 1 + module.bidirectional
    rows = slice(layer * directions, (layer + 1) * directions)
    initial = tuple(state[rows] for state in call.initial)
    if isinstance(inputs, PackedSequence) and inputs.sorted_indices is not None:
        initial = tuple(state.index_select(1, inputs.sorted_indices) for state in initial)
    hx = initial if module.mode == "LSTM" else initial[0]
    weights = [
        weight
        for reverse in (False, True)[:directions]
        for weight in _weights(call, layer, reverse)
    ]
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
    for replayed, returned in zip(final, call.final, strict=True):
        _check_final(call, replayed, returned[rows])
    return outputs


def _cell_states(call: FusedCall, key: StateKey, inputs: Tensor, hidden: Tensor) -> Tensor:
    """Cell states of one layer and direction, ``(batch, step, unit)``."""
    module = call.module
    units = module.hidden_size
    precise = torch.float64 if hidden.dtype == torch.float64 else torch.float32
    weight_ih, weight_hh, *biases = (
        weight[: 3 * units].to(precise)  # the gates of PyTorch stand as i, f, g, o
        for weight in _weights(call, key.layer, key.reverse)[: 4 if module.bias else 2]
    )
    row = key.layer * (1 + module.bidirectional) + key.reverse
    h_0, c_0 = (state[row].to(precise) for state in call.initial)
    valid = call.valid
    if key.reverse:
        inputs, hidden, valid = inputs.flip(1), hidden.flip(1), valid.flip(1)

    cell = c_0
    steps = hidden.shape[1]
    states = torch.empty(steps, *c_0.shape, dtype=hidden.dtype, device=hidden.device)
    padded = not bool(valid.all())
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
            cell = torch.where(valid[:, step, None], new, cell) if padded else new
            states[step] = cell
    _check_final(call, cell, call.final[1][row])
    states = states.transpose(0, 1)
    return states.flip(1) if key.reverse else states


def _before(hidden: Tensor, valid: Tensor, h_0: Tensor, block: slice) -> Tensor:
    """Hidden states before each step of a block, ``(step, batch, unit)``, in the order of time."""
    start = max(block.start - 1, 0)
    shifted = hidden[:, start : block.stop - 1].transpose(0, 1).to(h_0.dtype)
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
    if isinstance(states, PackedSequence):
        return pad_packed_sequence(states, batch_first=True)[0]
    return states


def _check_final(call: FusedCall, replayed: Tensor, returned: Tensor) -> None:
    tolerance = _TOLERANCE.get(returned.dtype, 5e-3)
    if not torch.allclose(
        replayed.double(), returned.double(), rtol=tolerance, atol=tolerance, equal_nan=True
    ):
        difference = float((replayed.double() - returned.double()).abs().max())
        raise ValueError(
            f"layers, states: the replay of {call.name!r} ({type(call.module).__name__}) ends up "
            f"to {difference:.1e} away from the final states that its forward returned, so its "
            "inner states cannot be known; record only layers='last' and states=('hidden',), or "
            "register an adapter for its class with register_recurrent. If its weights have "
            "changed since the call, read the states before they do"
        )
