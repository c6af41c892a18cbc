"""Calls of nn.RNN, nn.GRU and nn.LSTM in one layout, and PyTorch's kernels for them."""

from __future__ import annotations

import warnings
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from lightning_relay.recurrent.layers import hidden_units
from lightning_relay.recurrent.replay import KERNELS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lightning_relay.recurrent.weights import LayerWeights


@dataclass(frozen=True, eq=False)
class ModuleCall:
    """A call of nn.RNN, nn.GRU or nn.LSTM, in one layout.

    Attributes:
        module: The module.
        inputs: ``(batch, step, channel)``, or the data of a packed sequence.
        batch_sizes: Number of sequences at each step of a packed sequence; None for a tensor.
        initial: h_0 and, for an LSTM, c_0, ``(layer and direction, batch, unit)``. The sequences
            are in the order of the packing.
        order: Index in the batch of each packed sequence; None if the packing did not sort them.
    """

    module: nn.RNNBase
    inputs: Tensor
    batch_sizes: Tensor | None
    initial: tuple[Tensor, ...]
    order: Tensor | None = None

    @property
    def steps(self) -> int:
        """Number of steps of the longest sequence."""
        return self.inputs.shape[1] if self.batch_sizes is None else len(self.batch_sizes)

    @property
    def lengths(self) -> Tensor:
        """Lengths of the sequences, int64 ``(batch,)``, on the CPU, in the order of the batch."""
        if self.batch_sizes is None:
            return torch.full((len(self.inputs),), self.inputs.shape[1])
        sequences = int(self.batch_sizes[0])
        lengths = (self.batch_sizes.unsqueeze(1) > torch.arange(sequences)).sum(0)
        if self.order is None:
            return lengths
        return torch.empty_like(lengths).index_copy_(0, self.order.cpu(), lengths)

    @property
    def needs_gradients(self) -> bool:
        """Whether the call becomes part of a graph."""
        return torch.is_grad_enabled() and any(
            tensor.requires_grad
            for tensor in (self.inputs, *self.initial, *self.module.parameters())
        )

    def copied(self) -> ModuleCall:
        """The same call with tensors of its own."""
        return replace(
            self,
            inputs=self.inputs.clone(),
            batch_sizes=None if self.batch_sizes is None else self.batch_sizes.clone(),
            initial=tuple(state.clone() for state in self.initial),
            order=None if self.order is None else self.order.clone(),
        )

    def part(self, first: int, last: int, initial: tuple[Tensor, ...]) -> ModuleCall:
        """The same call on some steps of its tensor, from other initial states."""
        return ModuleCall(self.module, self.inputs[:, first:last], None, initial)


@dataclass(frozen=True, eq=False)
class Result:
    """What a call gives, in the layout of ``ModuleCall``.

    Attributes:
        output: ``(batch, step, direction and unit)``, or the data of a packed sequence.
        final: h_n and, for an LSTM, c_n.
    """

    output: Tensor
    final: tuple[Tensor, ...]

    def followed_by(self, later: Result) -> Result:
        """This result and that of the steps after it, as one; not for packed sequences."""
        return Result(torch.cat([self.output, later.output], 1), later.final)


def as_call(module: nn.RNNBase, inputs: Any, state: Any) -> ModuleCall | None:
    """A call in the layout of ``ModuleCall``; None where only the module's own forward knows.

    That is so for arguments of a wrong type or number of dimensions, and for empty inputs. For
    wrong sizes this raises what the module raises.
    """
    lstm = module.mode == "LSTM"
    order = None
    if isinstance(inputs, PackedSequence):
        data, sizes, order = inputs.data, inputs.batch_sizes, inputs.sorted_indices
        batch, dims = int(sizes[0]), 3
    elif isinstance(inputs, Tensor) and inputs.dim() in (2, 3) and inputs.numel():
        dims, sizes = inputs.dim(), None
        data = inputs if dims == 3 else inputs.unsqueeze(0 if module.batch_first else 1)
        batch = data.shape[0 if module.batch_first else 1]
    else:
        return None
    if state is None:
        rows = module.num_layers * (1 + module.bidirectional)
        widths = [hidden_units(module)] + [module.hidden_size] * lstm
        initial = tuple(data.new_zeros(rows, batch, width) for width in widths)
    else:
        parts = state if lstm else (state,)
        if not isinstance(parts, tuple) or len(parts) != 1 + lstm:
            return None
        if not all(isinstance(part, Tensor) and part.dim() == dims for part in parts):
            return None
        initial = tuple(part if dims == 3 else part.unsqueeze(1) for part in parts)
    module.check_forward_args(data, cast("Tensor", initial if lstm else initial[0]), sizes)
    if order is not None:
        initial = tuple(part.index_select(1, order) for part in initial)
    if sizes is None and not module.batch_first:
        data = data.transpose(0, 1)
    return ModuleCall(module, data, sizes, initial, order)


def in_layout(
    result: Result, module: nn.RNNBase, inputs: Tensor | PackedSequence
) -> tuple[Tensor | PackedSequence, Tensor | tuple[Tensor, Tensor]]:
    """A result as the module returns it."""
    output: Tensor | PackedSequence = result.output
    final = result.final
    if isinstance(inputs, PackedSequence):
        output = inputs._replace(data=result.output)
        if inputs.unsorted_indices is not None:
            indices = inputs.unsorted_indices
            final = tuple(part.index_select(1, indices) for part in final)
    else:
        output = result.output if module.batch_first else result.output.transpose(0, 1)
        if inputs.dim() == 2:
            output = output.squeeze(0 if module.batch_first else 1)
            final = tuple(part.squeeze(1) for part in final)
    return output, cast("tuple[Tensor, Tensor]", final) if module.mode == "LSTM" else final[0]


def run_kernel(
    layers: Sequence[LayerWeights],
    inputs: Tensor,
    batch_sizes: Tensor | None,
    initial: tuple[Tensor, ...],
    bidirectional: bool = False,
) -> Result:
    """PyTorch's kernel with the weights of one or several layers."""
    has_biases = any(weights.input_bias is not None for weights in layers)
    flat: list[Tensor] = []
    for weights in layers:
        biases = weights.biases if has_biases else ()
        projection = () if weights.projection is None else (weights.projection,)
        flat += [weights.of_input, weights.of_state, *biases, *projection]
    mode = layers[0].mode
    hx = initial if mode == "LSTM" else initial[0]
    options = (has_biases, len(layers) // (1 + bidirectional), 0.0, False, bidirectional)
    with warnings.catch_warnings() if inputs.is_cuda else nullcontext():
        if inputs.is_cuda:  # weights that live for one call need not be in one piece of memory
            words = "RNN module weights are not part of single contiguous"
            warnings.filterwarnings("ignore", words)
        if batch_sizes is None:
            output, *final = KERNELS[mode](inputs, hx, flat, *options, True)
        else:
            output, *final = KERNELS[mode](inputs, batch_sizes, hx, flat, *options)
    return Result(output, tuple(final))


def by_step(inputs: Tensor, batch_sizes: Tensor | None) -> tuple[Tensor, list[int]]:
    """Inputs ``(step, batch, channel)``, 0 in padding, and the number of sequences at each step."""
    if batch_sizes is None:
        return inputs.transpose(0, 1), [len(inputs)] * inputs.shape[1]
    sizes = batch_sizes.tolist()
    parts = inputs.split(sizes)
    rows = [nn.functional.pad(part, (0, 0, 0, sizes[0] - len(part))) for part in parts]
    return torch.stack(rows), sizes


def by_sequence(states: Tensor, batch_sizes: Tensor | None) -> Tensor:
    """States ``(batch, step, unit)``, or of a packed sequence their data."""
    if batch_sizes is None:
        return states
    by_step = zip(states.unbind(1), batch_sizes.tolist(), strict=True)
    return torch.cat([part[:size] for part, size in by_step])
