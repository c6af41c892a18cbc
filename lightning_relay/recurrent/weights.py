"""Weights of one layer of a recurrent module, and the step that it computes with them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Hold = Callable[[Tensor], Tensor]


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
    def of(cls, module: nn.RNNBase | nn.RNNCellBase) -> list[Self]:
        """Those of all layers and directions of a module as they are now, in PyTorch's order."""
        if isinstance(module, nn.RNNCellBase):
            biases = (module.bias_ih, module.bias_hh) if module.bias else ()
            return [cls(_mode(module), module.weight_ih, module.weight_hh, *biases)]
        found = []
        for of_input, of_state, *rest in module.all_weights:
            projection = rest.pop() if module.proj_size else None
            input_bias, state_bias = rest or (None, None)
            found.append(cls(module.mode, of_input, of_state, input_bias, state_bias, projection))
        return found

    def to(self, dtype: torch.dtype, **how: Any) -> Self:
        """The same in another precision; other arguments as of ``Tensor.to``."""
        parts: dict[str, Any] = {
            name: part.to(dtype=dtype, **how)
            for name, part in vars(self).items()
            if isinstance(part, Tensor)
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


def _mode(cell: nn.RNNCellBase) -> str:
    if isinstance(cell, nn.RNNCell):
        return f"RNN_{cell.nonlinearity.upper()}"
    return "GRU" if isinstance(cell, nn.GRUCell) else "LSTM"


def _as_it_is(states: Tensor) -> Tensor:
    return states


def next_states(
    weights: LayerWeights,
    from_input: Tensor,
    state: Sequence[Tensor],
    hold_hidden: Hold = _as_it_is,
    hold_cell: Hold = _as_it_is,
) -> list[Tensor]:
    """Hidden and, for an LSTM, cell states ``(…, unit)`` of one step, from those before it.

    ``from_input`` is what ``weights.from_input`` gives. ``hold_hidden`` and ``hold_cell`` change
    new states before anything reads them.
    """
    from_state = weights.from_state(state[0])
    if weights.mode == "GRU":
        units = state[0].shape[-1]
        gates = torch.sigmoid(from_state[..., : 2 * units] + from_input[..., : 2 * units])
        reset, update = gates.chunk(2, -1)
        candidate = torch.addcmul(from_input[..., 2 * units :], reset, from_state[..., 2 * units :])
        return [hold_hidden(torch.lerp(torch.tanh(candidate), state[0], update))]
    gates = from_state + from_input
    if weights.mode != "LSTM":
        return [hold_hidden(torch.tanh(gates) if weights.mode == "RNN_TANH" else gates.relu())]
    taken, kept, candidate, shown = gates.chunk(4, -1)
    cell = torch.sigmoid(kept) * state[1] + torch.sigmoid(taken) * torch.tanh(candidate)
    cell = hold_cell(cell)
    new = torch.sigmoid(shown) * torch.tanh(cell)
    if weights.projection is not None:
        new = torch.nn.functional.linear(new, weights.projection)
    return [hold_hidden(new), cell]
