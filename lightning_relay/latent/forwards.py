"""Whether the forwards of subclasses of nn.RNN, nn.GRU and nn.LSTM give what PyTorch's give."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Self

from lightning_relay.recurrent.forwards import Unlike, compared, given_arguments, may_pass_on
from lightning_relay.recurrent.hooks import FunctionHook, is_compiled
from lightning_relay.recurrent.transfer import on_cpu

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn
    from torch.utils.hooks import RemovableHandle


class ComparedForwards:
    """Context manager that compares calls of modules with PyTorch's forward.

    Only modules with a forward of their own are compared, in every call.
    """

    def __init__(self, modules: Mapping[str, nn.Module], model: nn.Module) -> None:
        self._differences: dict[str, str] = {}
        self._new: list[tuple[str, str | Unlike]] = []
        self._modules = {name: module for name, module in modules.items() if may_pass_on(module)}
        self._compiled = is_compiled(model)
        self._handles: list[RemovableHandle] = []

    def __enter__(self) -> Self:
        for name, module in self._modules.items():
            hook = FunctionHook(partial(self._compare, name), self._compiled)
            self._handles.append(module.register_forward_hook(hook, with_kwargs=True))
        return self

    def __exit__(self, *_: object) -> None:
        while self._handles:
            self._handles.pop().remove()

    @property
    def differences(self) -> dict[str, str]:
        """What differed first, in words, by module name."""
        new, self._new = self._new, []
        for name, found in new:
            why = found if isinstance(found, str) else found.words(on_cpu(*found.far))
            if why and name not in self._differences:
                kind = type(self._modules[name]).__name__
                self._differences[name] = f"{kind} has a forward of its own, {why}"
        return self._differences

    def _compare(
        self,
        name: str,
        module: nn.RNNBase,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        result: Any,
    ) -> None:
        if name not in self._differences:
            given = given_arguments(module, args, kwargs)
            self._new.append((name, compared(module, *given, result)))
