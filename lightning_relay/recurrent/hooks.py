"""Hooks that a copy of a module does not inherit, and compiled code that ignores hooks."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

HOOK_GUARDS = "torch._dynamo.config.skip_nnmodule_hook_guards = False"
"""Setting with which compiled code calls hooks that were set after it was compiled."""


def is_compiled(model: nn.Module) -> bool:
    """Whether a model or one of its submodules is compiled."""
    return any(
        hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None
        for module in model.modules()
    )


def ignores_new_hooks(model: nn.Module) -> bool:
    """Whether a model has compiled code that ignores hooks set after it was compiled."""
    dynamo = sys.modules.get("torch._dynamo")
    return (
        dynamo is not None and bool(dynamo.config.skip_nnmodule_hook_guards) and is_compiled(model)
    )


class TransientHook:
    """Hook that does nothing on a deep copy or pickled copy of its module.

    Otherwise a copy of the model would write to the recordings and carry them along.
    """

    def __reduce__(self) -> tuple[type[_Nothing], tuple[()]]:
        return _Nothing, ()


class _Nothing:
    def __call__(self, *_: Any) -> None:
        return None


class HookErrors:
    """Keeps the first error of hooks, so that it does not end the forward pass they run in."""

    def __init__(self) -> None:
        self._first: Exception | None = None

    def keeping(self, function: Callable[..., None]) -> Callable[..., None]:
        """The function, whose errors are kept instead of raised."""

        def kept(*arguments: Any) -> None:
            try:
                function(*arguments)
            except Exception as error:
                self._first = self._first or error

        return kept

    def clear(self) -> None:
        """Forget the error."""
        self._first = None

    def check(self) -> None:
        """Raise the error, if there is one, and forget it."""
        first, self._first = self._first, None
        if first is not None:
            raise first


class TransientForward:
    """Forward set on a module itself; a copy of the module has the forward of its class again."""

    module: nn.Module

    def __reduce__(self) -> tuple[type[_ClassForward], tuple[nn.Module]]:
        return _ClassForward, (self.module,)


class _ClassForward:
    def __init__(self, module: nn.Module) -> None:
        self._module = module

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return type(self._module).forward(self._module, *args, **kwargs)


def own_forward(module: nn.Module) -> Any:
    """The forward that was set on a module itself and replaces that of its class, or None."""
    forward = vars(module).get("forward")
    return None if isinstance(forward, _ClassForward) else forward


class FunctionHook(TransientHook):
    """Hook that calls a function, which is never compiled itself; ``errors`` keeps its errors."""

    def __init__(
        self, function: Callable[..., None], compiled: bool, errors: HookErrors | None = None
    ) -> None:
        if errors is not None:
            function = errors.keeping(function)
        self._function = torch.compiler.disable(function) if compiled else function

    def __call__(self, *arguments: Any) -> None:
        """Call the function."""
        self._function(*arguments)
