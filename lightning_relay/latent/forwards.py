"""Whether the forwards of subclasses of nn.RNN, nn.GRU and nn.LSTM give what PyTorch's give."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Self

from lightning_relay.recurrent.forwards import difference, given_arguments, may_pass_on
from lightning_relay.recurrent.hooks import FunctionHook, is_compiled

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn
    from torch.utils.hooks import RemovableHandle


class ComparedForwards:
    """Context manager that compares calls of modules with PyTorch's forward.

    Only modules with a forward of their own are compared, in every call.

    Attributes:
        differences: What differed first, in words, by module name.
    """

    def __init__(self, modules: Mapping[str, nn.Module], model: nn.Module) -> None:
        self.differences: dict[str, str] = {}
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

    def _compare(
        self,
        name: str,
        module: nn.RNNBase,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        result: Any,
    ) -> None:
        if name not in self.differences and (
            why := difference(module, *given_arguments(module, args, kwargs), result)
        ):
            self.differences[name] = f"{type(module).__name__} has a forward of its own, {why}"
