"""Hooks and forwards that stay with their module, and where torch.compile leaves hooks out."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

HOOK_GUARDS = "torch._dynamo.config.skip_nnmodule_hook_guards = False"
"""With this, compiled code notices hooks that are set after it was compiled."""


def is_compiled(model: nn.Module) -> bool:
    """Whether a model or a part of it is compiled."""
    return any(
        hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None
        for module in model.modules()
    )


def ignores_new_hooks(model: nn.Module) -> bool:
    """Whether a part of a model is compiled, and compiled code leaves out hooks set later."""
    dynamo = sys.modules.get("torch._dynamo")
    return (
        dynamo is not None and bool(dynamo.config.skip_nnmodule_hook_guards) and is_compiled(model)
    )


class TransientHook:
    """Hook that does nothing on a copy of its module, whether deep-copied or pickled.

    What it records belongs to whoever set it; a copy of the model must not write there, nor drag
    the recordings along.
    """

    def __reduce__(self) -> tuple[type[_Nothing], tuple[()]]:
        return _Nothing, ()


class _Nothing:
    """Hook that does nothing."""

    def __call__(self, *_: Any) -> None:
        return None


class TransientForward:
    """Forward that stands on an instance, and on a copy of it gives way to that of the class."""

    module: nn.Module

    def __reduce__(self) -> tuple[type[_ClassForward], tuple[nn.Module]]:
        return _ClassForward, (self.module,)


class _ClassForward:
    """The forward of a module's class."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return type(self._module).forward(self._module, *args, **kwargs)


def own_forward(module: nn.Module) -> Any:
    """A forward that was set on a module itself and replaces that of its class; None if none."""
    forward = vars(module).get("forward")
    return None if isinstance(forward, _ClassForward) else forward
