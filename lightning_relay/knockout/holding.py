"""Modules that hold states: whether they can, and whether they were called."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

from lightning_relay.knockout.clamps import check_within
from lightning_relay.recurrent.adapters import adapter_of
from lightning_relay.recurrent.forwards import may_pass_on, runs_pytorch_forward
from lightning_relay.recurrent.hooks import HOOK_GUARDS, ignores_new_hooks, own_forward

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lightning_relay.knockout.clamps import Clamp
    from lightning_relay.recurrent.forwards import OwnCall

_CELL_FORWARDS = (nn.RNNCell.forward, nn.GRUCell.forward, nn.LSTMCell.forward)


class HoldingModule:
    """A module that holds states, its number of calls, and the length of its longest sequence."""

    def __init__(self, name: str, module: nn.Module) -> None:
        self.name = name
        self.module = module
        self.calls = 0
        self.longest = 0

    def check_was_called(self, before: int) -> None:
        """Raise a RuntimeError if the module has no more calls than before."""
        if self.calls == before:
            raise RuntimeError(
                f"units: {self.name!r} ({type(self.module).__name__}) was not called inside the "
                "block, so nothing was knocked out; call the model there. If it was called, "
                f"compiled code left out the knock-out: set {HOOK_GUARDS} and call "
                "torch.compiler.reset()"
            )

    def check_passed_on(self) -> None:
        """Raise the error of a call whose forward does not pass on, where the model kept it."""

    def check_steps_were_reached(self, clamps: Sequence[Clamp]) -> None:
        """Raise a StepError if a clamp names a step that no sequence had."""
        for clamp in clamps:
            if clamp.key.module == self.name:
                check_within(clamp.steps, self.longest)


def check_can_be_held(model: nn.Module, name: str, module: nn.Module) -> None:
    """Raise a ValueError or RuntimeError unless units of a module can be knocked out now."""
    check_kind(name, module)
    check_evaluated(name, module)
    if not isinstance(module, nn.RNNBase) and ignores_new_hooks(model):
        raise RuntimeError(
            f"units: {name!r} ({type(module).__name__}) may be compiled, and compiled code leaves "
            f"out hooks that are set after it was first called. Set {HOOK_GUARDS} before the first "
            "compiled call; or, where that has been made, also call torch.compiler.reset()"
        )


def check_kind(name: str, module: nn.Module) -> None:
    """Raise a ValueError unless the forward of a module is PyTorch's, or may pass on to it."""
    kind = type(module).__name__
    if adapter_of(module) is not None:
        raise ValueError(
            f"units: {name!r} ({kind}) has an adapter, which tells how its states are read but not "
            "how they are replaced; knock-outs take nn.RNN, nn.GRU, nn.LSTM and their cells"
        )
    own = own_forward(module)
    is_cell = type(module).forward in _CELL_FORWARDS and own is None
    is_fused = runs_pytorch_forward(module) or may_pass_on(module)
    if not (is_cell or is_fused or isinstance(own, HoldingModule)):
        raise ValueError(
            f"units: {name!r} ({kind}) has a forward of its own, and what happens in it is not "
            "known; knock-outs take nn.RNN, nn.GRU, nn.LSTM and their cells with PyTorch's "
            "forward, and subclasses of nn.RNN, nn.GRU and nn.LSTM that give the same"
        )


def check_passed_on(name: str, call: OwnCall, result: Any) -> None:
    """Raise a ValueError if a forward of its own gave something else than PyTorch's forward."""
    if why := call.difference(result):
        raise ValueError(
            f"units: {name!r} ({type(call.module).__name__}) has a forward of its own, {why}. So "
            "what happens in it is not known; knock-outs take nn.RNN, nn.GRU and nn.LSTM, and "
            "subclasses whose forward gives the same. Leave its units out"
        )


def check_evaluated(name: str, module: nn.Module) -> None:
    """Raise a RuntimeError if a module is in training mode."""
    if module.training:
        raise RuntimeError(
            f"model: {name!r} ({type(module).__name__}) is in training mode; knock-outs take a "
            "model in evaluation mode: model.eval()"
        )
