"""A module that holds states, and whether it came to it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightning_relay.knockout.clamps import check_within
from lightning_relay.recurrent.hooks import HOOK_GUARDS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn

    from lightning_relay.knockout.clamps import Clamp


class HoldingModule:
    """A module that holds states, and how far its sequences reached."""

    def __init__(self, name: str, module: nn.Module) -> None:
        self.name = name
        self.module = module
        self.calls = 0
        self.longest = 0

    def check_was_called(self, before: int) -> None:
        """Raise a RuntimeError if the module has not been called since."""
        if self.calls == before:
            raise RuntimeError(
                f"units: {self.name!r} ({type(self.module).__name__}) was not called inside the "
                "block, so nothing was knocked out; call the model there. If it was called, "
                f"compiled code left out the knock-out: set {HOOK_GUARDS} and call "
                "torch.compiler.reset()"
            )

    def check_steps_were_reached(self, clamps: Sequence[Clamp]) -> None:
        """Raise a ValueError if a clamp names a step that no sequence had."""
        for clamp in clamps:
            if clamp.key.module == self.name:
                check_within(clamp.steps, self.longest)


def check_evaluated(name: str, module: nn.Module) -> None:
    """Raise a RuntimeError if a module is in training mode."""
    if module.training:
        raise RuntimeError(
            f"model: {name!r} ({type(module).__name__}) is in training mode; knock-outs take a "
            "model in evaluation mode: model.eval()"
        )
