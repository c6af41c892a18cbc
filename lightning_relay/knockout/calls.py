"""Calls of nn.RNN, nn.GRU and nn.LSTM in one layout, and PyTorch's kernels for them."""

from __future__ import annotations

import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from lightning_relay.recurrent.layers import hidden_units
from lightning_relay.recurrent.replay import KERNELS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from lightning_relay.knockout.weights import LayerWeights


@dataclass(frozen=True, eq=False)
class ModuleCall:
    """A call of nn.RNN, nn.GRU or nn.LSTM, in one layout.

    Attributes:
        module: The module.
        inputs: ``(batch, step, channel)``, or the data of a packed sequence.
        batch_sizes: Of a packed sequence; None for a tensor.
        initial: h_0 and, for an LSTM, c_0, ``(layer and direction, batch, unit)``, in the order of
            the packing.
        order: Where each packed sequence stands in the batch; None where they were not sorted.
    """

    module: nn.RNNBase
    inputs: Tensor
    batch_sizes: Tensor | None
    initial: tuple[Tensor, ...]
    order: Tensor | None = None

    @property
    def weights(self) -> list[Tensor]:
        """Weights and biases as they are now, in PyTorch's order."""
        return [weight for layer in self.module.all_weights for weight in layer]

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


@dataclass(frozen=True, eq=False)
class Result:
    """What a call gives, in the layout of ``ModuleCall``.

    Attributes:
        output: ``(batch, step, direction and unit)``, or the data of a packed sequence.
        final: h_n and, for an LSTM, c_n.
    """

    output: Tensor
    final: tuple[Tensor, ...]


def is_ordinary(module: nn.RNNBase, inputs: Any, state: Any) -> bool:
    """Whether a module takes such inputs, and there is something in them to hold.

    Of others its own forward has something to say.
    """
    if isinstance(inputs, PackedSequence):
        dims = 3
    elif isinstance(inputs, Tensor) and inputs.dim() in (2, 3) and inputs.numel():
        dims = inputs.dim()
    else:
        return False
    if state is None:
        return True
    lstm = module.mode == "LSTM"
    parts = state if lstm else (state,)
    return (
        isinstance(parts, tuple)
        and len(parts) == 1 + lstm
        and all(isinstance(part, Tensor) and part.dim() == dims for part in parts)
    )


def as_call(
    module: nn.RNNBase,
    inputs: Tensor | PackedSequence,
    state: Tensor | tuple[Tensor, Tensor] | None,
) -> ModuleCall:
    """A call of a module in the layout of ``ModuleCall``.

    Raises:
        RuntimeError: As the module itself, where inputs or states have a wrong shape.
    """
    if isinstance(inputs, PackedSequence):
        data, sizes = inputs.data, inputs.batch_sizes
        batch = int(sizes[0])
    else:
        data = inputs if inputs.dim() == 3 else inputs.unsqueeze(0 if module.batch_first else 1)
        sizes, batch = None, data.shape[0 if module.batch_first else 1]
    if state is None:
        rows = module.num_layers * (1 + module.bidirectional)
        widths = [hidden_units(module)] + [module.hidden_size] * (module.mode == "LSTM")
        initial = tuple(data.new_zeros(rows, batch, width) for width in widths)
    else:
        parts = (state,) if isinstance(state, Tensor) else state
        initial = tuple(part if part.dim() == 3 else part.unsqueeze(1) for part in parts)
    given = initial if module.mode == "LSTM" else initial[0]
    module.check_forward_args(data, cast("Tensor", given), sizes)
    order = inputs.sorted_indices if isinstance(inputs, PackedSequence) else None
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
    mode: str,
    inputs: Tensor,
    batch_sizes: Tensor | None,
    initial: tuple[Tensor, ...],
    layers: Sequence[LayerWeights],
    bidirectional: bool = False,
) -> Result:
    """PyTorch's kernel of one or several layers."""
    has_biases = any(weights.input_bias is not None for weights in layers)
    flat: list[Tensor] = []
    for weights in layers:
        biases = weights.biases if has_biases else ()
        projection = () if weights.projection is None else (weights.projection,)
        flat += [weights.of_input, weights.of_state, *biases, *projection]
    hx = initial if mode == "LSTM" else initial[0]
    run = KERNELS[mode]
    depth = len(layers) // (1 + bidirectional)
    options = (has_biases, depth, 0.0, False, bidirectional)
    with _scattered_weights(inputs):
        if batch_sizes is None:
            output, *final = run(inputs, hx, flat, *options, True)
        else:
            output, *final = run(inputs, batch_sizes, hx, flat, *options)
    return Result(output, tuple(final))


@contextmanager
def _scattered_weights(inputs: Tensor) -> Iterator[None]:
    """Without the advice to put weights into one piece of memory: these live for one call."""
    if not inputs.is_cuda:
        yield
        return
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "RNN module weights are not part of single contiguous")
        yield


def unpacked(data: Tensor, batch_sizes: Sequence[int]) -> Tensor:
    """The data of a packed sequence as ``(step, batch, …)``, 0 in padding."""
    rows = batch_sizes[0]
    return torch.stack(
        [
            nn.functional.pad(part, (0, 0, 0, rows - len(part)))
            for part in data.split(list(batch_sizes))
        ]
    )


def packed(states: Tensor, batch_sizes: Sequence[int]) -> Tensor:
    """The data of a packed sequence of states ``(batch, step, …)``."""
    by_step = zip(states.unbind(1), batch_sizes, strict=True)
    return torch.cat([part[:size] for part, size in by_step])
