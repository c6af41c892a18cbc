"""Weights with which PyTorch's kernels hold some of a layer's states."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from lightning_relay.knockout.held import HeldAlways
    from lightning_relay.recurrent.weights import LayerWeights


_SATURATED = 1e4
"""A gate with this much input is exactly 1 in every precision, and 0 with a minus."""


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
