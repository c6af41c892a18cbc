"""A recurrent module under a constant input, as one map from its states to the next ones."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor, nn

from lightning_relay.recurrent.adapters import adapter_of
from lightning_relay.recurrent.forwards import may_pass_on, runs_pytorch_forward
from lightning_relay.recurrent.layers import state_units
from lightning_relay.recurrent.weights import LayerWeights, next_states

if TYPE_CHECKING:
    from lightning_relay.recurrent.keys import StateKey

_FORWARDS = (nn.RNNCell.forward, nn.GRUCell.forward, nn.LSTMCell.forward)


@dataclass(frozen=True, eq=False)
class ModuleMap:
    """The states of all layers of a module, one after the other, as one vector.

    A copy of the weights, in float64 on the CPU, so that later training does not change it.

    Attributes:
        units: Number of units of each state, in the order of the vector.
        inputs: Constant input, ``(channel,)``.
        kind: What the input is: ``"zero"``, ``"mean"`` of the inputs, or ``"given"`` by the user.
    """

    units: dict[StateKey, int]
    inputs: Tensor
    _layers: tuple[LayerWeights, ...]
    kind: str = "zero"

    @classmethod
    def of(cls, name: str, module: nn.Module, *, compared: bool = False) -> Self | str:
        """That of a module as it is now, without input; or why it has none.

        ``compared``: calls of a forward of its own are compared with PyTorch's.
        """
        if why_not := why_no_map(module, compared=compared):
            return why_not
        assert isinstance(module, nn.RNNBase | nn.RNNCellBase)
        with torch.inference_mode(False), torch.no_grad():
            layers = tuple(
                weights.to(torch.float64, device="cpu", copy=True)
                for weights in LayerWeights.of(module)
            )
            inputs = torch.zeros(layers[0].of_input.shape[1], dtype=torch.float64)
        return cls(state_units(name, module), inputs, layers)

    def with_inputs(self, inputs: Tensor, kind: str) -> Self:
        """The map under another constant input ``(channel,)``."""
        if inputs.shape != self.inputs.shape:
            raise ValueError(
                f"inputs: got shape {tuple(inputs.shape)}; it takes {tuple(self.inputs.shape)}"
            )
        with torch.inference_mode(False):
            own = inputs.detach().to("cpu", torch.float64, copy=True)
            return replace(self, inputs=own, kind=kind)

    @property
    def parts(self) -> dict[StateKey, slice]:
        """Where each state is in the vector."""
        found, first = {}, 0
        for key, units in self.units.items():
            found[key] = slice(first, first + units)
            first += units
        return found

    def __call__(self, states: Tensor) -> Tensor:
        """The states ``(…, state)`` one step later."""
        parts = iter(states.split(list(self.units.values()), -1))
        read, new = self.inputs, []
        for weights in self._layers:
            own = [next(parts) for _ in range(1 + (weights.mode == "LSTM"))]
            new += next_states(weights, weights.from_input(read), own)
            read = new[-len(own)]
        return torch.cat(new, -1)

    def jacobian(self, states: Tensor) -> Tensor:
        """Derivatives of the next states, ``(batch, next, state)``, at ``(batch, state)``."""
        found: Tensor = torch.func.vmap(torch.func.jacrev(self))(states)
        return found


def why_no_map(module: nn.Module, *, compared: bool = False) -> str:
    """Why a module is no map from states to states; empty if it is one.

    ``compared``: calls of a forward of its own are compared with PyTorch's.
    """
    kind = type(module).__name__
    known = runs_pytorch_forward(module) or type(module).forward in _FORWARDS
    if not (known or (compared and may_pass_on(module))) or adapter_of(module) is not None:
        return f"{kind} computes its states in a way of its own"
    if isinstance(module, nn.RNNBase) and module.bidirectional:
        return f"{kind} is bidirectional: one direction begins where the other ends"
    return ""
