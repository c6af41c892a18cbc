"""Weights of a layer, and those with which PyTorch's kernels hold some of its states."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn

    from lightning_relay.knockout.held import HeldAlways


_SATURATED = 1e4
"""A gate that gets this much is exactly 1 in every precision, and 0 with a minus."""


@dataclass(frozen=True, eq=False)
class LayerWeights:
    """Weights of one layer and direction.

    Attributes:
        mode: ``"RNN_TANH"``, ``"RNN_RELU"``, ``"GRU"`` or ``"LSTM"``.
        of_input: ``weight_ih``, ``(gate and unit, channel)``.
        of_state: ``weight_hh``, ``(gate and unit, unit)``.
        input_bias: ``bias_ih``; None without.
        state_bias: ``bias_hh``; None without.
        projection: ``weight_hr`` of an LSTM; None without.
    """

    mode: str
    of_input: Tensor
    of_state: Tensor
    input_bias: Tensor | None = None
    state_bias: Tensor | None = None
    projection: Tensor | None = None

    @classmethod
    def of(
        cls, module: nn.RNNBase, weights: Sequence[Tensor], layer: int, reverse: bool
    ) -> LayerWeights:
        """Those of one layer and direction among all of a module, in PyTorch's order."""
        biased, projected = bool(module.bias), bool(module.proj_size)
        count = 2 + 2 * biased + projected
        first = (layer * (1 + module.bidirectional) + reverse) * count
        of_input, of_state, *rest = weights[first : first + count]
        return cls(
            module.mode,
            of_input,
            of_state,
            input_bias=rest[0] if biased else None,
            state_bias=rest[1] if biased else None,
            projection=rest[-1] if projected else None,
        )

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
        """What the gates get from the state before."""
        return torch.nn.functional.linear(hidden, self.of_state, self.state_bias)


def holding_units(weights: LayerWeights, held: HeldAlways) -> LayerWeights:
    """Weights with which a layer reads its own held units at their value."""
    units, values = held.on(weights.of_state)
    of_state = weights.of_state.index_fill(1, units, 0)
    if held.zero:
        return replace(weights, of_state=of_state)
    input_bias, state_bias = weights.biases
    added = weights.of_state[:, units] @ values
    return replace(weights, of_state=of_state, input_bias=input_bias, state_bias=state_bias + added)


def keeping_cells(weights: LayerWeights, held: HeldAlways) -> LayerWeights:
    """Weights of an LSTM with which held cell units keep what they have.

    Their forget gate is 1 and their input gate 0, whatever is read.
    """
    taken, _ = held.on(weights.of_state)
    kept = taken + len(weights.of_input) // 4  # the gates of PyTorch stand as i, f, g, o
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
    """Weights with which a layer reads held units of the layer below at their value.

    Args:
        weights: Those of the layer that reads.
        held: What is held in a layer and direction below.
        first: Where the units of that direction begin in the input.
    """
    units, values = held.on(weights.of_input)
    channels = units + first
    of_input = weights.of_input.index_fill(1, channels, 0)
    if held.zero:
        return replace(weights, of_input=of_input)
    input_bias, state_bias = weights.biases
    added = weights.of_input[:, channels] @ values
    return replace(weights, of_input=of_input, input_bias=input_bias + added, state_bias=state_bias)
