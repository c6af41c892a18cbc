"""Weights of a layer, and weights with which PyTorch's kernels hold some of its states."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor

if TYPE_CHECKING:
    from torch import nn

    from lightning_relay.knockout.held import HeldAlways


_SATURATED = 1e4
"""A gate with this much input is exactly 1 in every precision, and 0 with a minus."""


@dataclass(frozen=True, eq=False)
class LayerWeights:
    """Weights of one layer and direction.

    Attributes:
        mode: ``"RNN_TANH"``, ``"RNN_RELU"``, ``"GRU"`` or ``"LSTM"``.
        of_input: ``weight_ih``, ``(gate and unit, channel)``.
        of_state: ``weight_hh``, ``(gate and unit, unit)``.
        input_bias: ``bias_ih``, or None.
        state_bias: ``bias_hh``, or None.
        projection: ``weight_hr`` of an LSTM, or None.
    """

    mode: str
    of_input: Tensor
    of_state: Tensor
    input_bias: Tensor | None = None
    state_bias: Tensor | None = None
    projection: Tensor | None = None

    @classmethod
    def of(cls, module: nn.RNNBase) -> list[Self]:
        """Those of all layers and directions of a module as they are now, in PyTorch's order."""
        found = []
        for of_input, of_state, *rest in module.all_weights:
            projection = rest.pop() if module.proj_size else None
            input_bias, state_bias = rest or (None, None)
            found.append(cls(module.mode, of_input, of_state, input_bias, state_bias, projection))
        return found

    def to(self, dtype: torch.dtype) -> Self:
        """The same in another precision."""
        parts: dict[str, Any] = {
            name: part.to(dtype) for name, part in vars(self).items() if isinstance(part, Tensor)
        }
        return replace(self, **parts)

    @property
    def biases(self) -> tuple[Tensor, Tensor]:
        """Both biases, zeros where there are none."""
        if self.input_bias is not None and self.state_bias is not None:
            return self.input_bias, self.state_bias
        zeros = self.of_input.new_zeros(len(self.of_input))
        return zeros, zeros

    def from_input(self, inputs: Tensor) -> Tensor:
        """What the gates get from the input."""
        return torch.nn.functional.linear(inputs, self.of_input, self.input_bias)

    def from_state(self, hidden: Tensor) -> Tensor:
        """What the gates get from the hidden state of the step before."""
        return torch.nn.functional.linear(hidden, self.of_state, self.state_bias)


def holding_units(weights: LayerWeights, held: HeldAlways) -> LayerWeights:
    """Weights with which a layer reads its own held units at their values."""
    units, values = held.on(weights.of_state)
    of_state = weights.of_state.index_fill(1, units, 0)
    if held.zero:
        return replace(weights, of_state=of_state)
    input_bias, state_bias = weights.biases
    added = weights.of_state[:, units] @ values
    return replace(weights, of_state=of_state, input_bias=input_bias, state_bias=state_bias + added)


def keeping_cells(weights: LayerWeights, held: HeldAlways) -> LayerWeights:
    """Weights of an LSTM with which held cell units keep their state.

    Their forget gate is 1 and their input gate 0, whatever the layer reads.
    """
    taken, _ = held.on(weights.of_state)
    kept = taken + len(weights.of_input) // 4  # the order of PyTorch's gates is i, f, g, o
    rows = torch.cat([taken, kept])
    input_bias, state_bias = weights.biases
    return replace(
        weights,
        of_input=weights.of_input.index_fill(0, rows, 0),
        of_state=weights.of_state.index_fill(0, rows, 0),
        input_bias=input_bias.index_fill(0, taken, -_SATURATED).index_fill(0, kept, _SATURATED),
        state_bias=state_bias.index_fill(0, rows, 0),
    )


def reading_held(weights: LayerWeights, held: HeldAlways, first: int) -> LayerWeights:
    """Weights with which a layer reads held units of the layer below at their values.

    ``first`` is the input channel of the first unit of the direction in which they are held.
    """
    units, values = held.on(weights.of_input)
    channels = units + first
    of_input = weights.of_input.index_fill(1, channels, 0)
    if held.zero:
        return replace(weights, of_input=of_input)
    input_bias, state_bias = weights.biases
    added = weights.of_input[:, channels] @ values
    return replace(weights, of_input=of_input, input_bias=input_bias + added, state_bias=state_bias)
