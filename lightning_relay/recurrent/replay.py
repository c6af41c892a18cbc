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
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from torch import Tensor, nn

    from lightning_relay.recurrent.layers import StateKey

_KERNELS: dict[str, Callable[..., tuple[Tensor, ...]]] = {
    "RNN_TANH": torch.rnn_tanh,
    "RNN_RELU": torch.rnn_relu,
    "GRU": torch.gru,
    "LSTM": torch.lstm,
}

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
    """

    name: str
    module: nn.RNNBase
    inputs: Tensor | PackedSequence
    initial: tuple[Tensor, ...]
    final: tuple[Tensor, ...]
    hidden: Tensor
    valid: Tensor
    autocast: tuple[str, bool, torch.dtype]


def layers_to_run(module: nn.RNNBase, keys: Collection[StateKey]) -> int:
    """Number of layers, from the first, that must be run again for the states of ``keys``."""
    last = module.num_layers - 1
    return max(
        (key.layer + 1 if key.layer < last else last if key.cell else 0 for key in keys), default=0
    )


def needs_replay(module: nn.RNNBase, keys: Collection[StateKey]) -> bool:
    """Whether the output of a call does not hold the states of all ``keys``."""
    return any(key.cell or key.layer < module.num_layers - 1 for key in keys)


def check_replayable(name: str, module: nn.RNNBase, keys: Collection[StateKey]) -> None:
    """Raise a ValueError if random dropout stands before a layer that must be replayed."""
    behind_dropout = layers_to_run(module, keys) > 1 or any(key.cell and key.layer for key in keys)
    if behind_dropout and module.training and module.dropout > 0:
        raise ValueError(
            f"layers, states: {name!r} is in training mode with dropout={module.dropout} between "
            "its layers, whose random masks are not known afterwards, so its inner states cannot "
            "be replayed; record in evaluation mode (model.eval()), or only layers='last' and "
            "states=('hidden',)"
        )


@torch.no_grad()
def replay(call: FusedCall, keys: Collection[StateKey]) -> dict[StateKey, Tensor]:
    """States ``(batch, step, unit)`` that the output of a call does not hold.

    Args:
        call: The call.
        keys: Inner layers and cell states wanted.

    Raises:
        ValueError: If the replay does not end in the states that the module returned.
    """
    module = call.module
    found: dict[StateKey, Tensor] = {}
    inputs = call.inputs
    to_run = layers_to_run(module, keys)
    for layer in range(module.num_layers):
        wanted = [key for key in keys if key.layer == layer]
        if layer >= to_run and not wanted:
            continue
        outputs: Tensor | PackedSequence = call.hidden
        if layer < to_run:
            outputs = _run_layer(call, layer, inputs)
        hidden = _padded(outputs)
        for key in wanted:
            index = module.hidden_size if not module.proj_size else module.proj_size
            own = hidden[..., index:] if key.reverse else hidden[..., :index]
            found[key] = _cell_states(call, key, _padded(inputs), own) if key.cell else own
        inputs = outputs
    return found


def _run_layer(
    call: FusedCall, layer: int, inputs: Tensor | PackedSequence
) -> Tensor | PackedSequence:
    """Output of one layer, both directions side by side."""
    module = call.module
    run = _KERNELS[module.mode]
    directions = 1 + module.bidirectional
    rows = slice(layer * directions, (layer + 1) * directions)
    initial = tuple(state[rows] for state in call.initial)
    weights = [
        weight
        for reverse in (False, True)[:directions]
        for weight in _weights(call, layer, reverse)
    ]
    options = (module.bias, 1, 0.0, False, module.bidirectional)
    device, enabled, dtype = call.autocast
    with torch.autocast(device, dtype=dtype, enabled=enabled):
        if isinstance(inputs, PackedSequence):
            order = inputs.sorted_indices
            if order is not None:
                initial = tuple(state.index_select(1, order) for state in initial)
            hx = initial if module.mode == "LSTM" else initial[0]
            data, *final = run(inputs.data, inputs.batch_sizes, hx, weights, *options)
            outputs: Tensor | PackedSequence = inputs._replace(data=data)
            restored = inputs.unsorted_indices
            if restored is not None:
                final = [state.index_select(1, restored) for state in final]
        else:
            hx = initial if module.mode == "LSTM" else initial[0]
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
    at_once = max(1, _GATES_AT_ONCE // (3 * c_0.numel()))
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
    suffix = f"_l{layer}{'_reverse' * reverse}"
    names = ["weight_ih", "weight_hh"]
    names += ["bias_ih", "bias_hh"] * bool(call.module.bias)
    names += ["weight_hr"] * bool(call.module.proj_size)
    return [getattr(call.module, name + suffix) for name in names]


def _padded(states: Tensor | PackedSequence) -> Tensor:
    if isinstance(states, PackedSequence):
        return pad_packed_sequence(states, batch_first=True)[0]
    return states


def _check_final(call: FusedCall, replayed: Tensor, returned: Tensor) -> None:
    tolerance = _TOLERANCE[returned.dtype]
    if not torch.allclose(
        replayed.double(), returned.double(), rtol=tolerance, atol=tolerance, equal_nan=True
    ):
        difference = float((replayed.double() - returned.double()).abs().max())
        raise ValueError(
            f"layers, states: the replay of {call.name!r} ({type(call.module).__name__}) ends up "
            f"to {difference:.1e} away from the final states that its forward returned, so its "
            "inner states cannot be known. Either its weights have changed since the call: read "
            "the states before they do; or its forward does more than PyTorch's: record only "
            "layers='last' and states=('hidden',), or register an adapter for its class"
        )
