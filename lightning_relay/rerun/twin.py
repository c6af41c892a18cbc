"""A copy of a module that shares its parameters and nothing else that can change."""

from __future__ import annotations

import copy
from types import CellType, FunctionType, ModuleType
from typing import TYPE_CHECKING, Any, Self

from lightning.pytorch import LightningDataModule
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.data import DataLoader, Dataset

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, MutableMapping

_SHARED = (Dataset, DataLoader, LightningDataModule, ModuleType)
"""Attributes of a module that are only read from, and are large or cannot be copied."""

_HOOKS = ("_forward_pre_hooks", "_forward_hooks")


class Memo(dict[int, Any]):
    """What ``copy.deepcopy`` has copied so far: copies by the identity of the original.

    A module made by ``torch.compile`` is copied as the module that was compiled.

    Args:
        model: The model to be copied.
        stand_ins: Pairs of an object and what the copy has in its place.
    """

    def __init__(self, model: nn.Module, stand_ins: Iterable[tuple[object, object]]) -> None:
        super().__init__((id(original), stand_in) for original, stand_in in stand_ins)
        self._uncompiled: dict[int, nn.Module] = {}
        self.update((id(parameter), parameter) for parameter in model.parameters())
        for module in model.modules():
            if "_orig_mod" in module._modules:
                self._uncompiled[id(module)] = module.get_submodule("_orig_mod")
            for value in vars(module).values():
                if isinstance(value, _SHARED):
                    self[id(value)] = value
        self._at_first = dict(self)

    def afresh(self, model: nn.Module) -> Self:
        """A memo as this one was at first, to copy what holds the model's modules but not these."""
        memo = copy.copy(self)
        memo.clear()
        memo.update(self._at_first)
        memo.update((id(module), module) for module in model.modules())
        return memo

    def get(self, key: int, default: Any = None) -> Any:
        """The copy of what has this identity."""
        if key not in self and key in self._uncompiled:
            self[key] = copy.deepcopy(self._uncompiled[key], self)
        return super().get(key, default)


def twin_of(model: nn.Module, memo: Memo) -> nn.Module:
    """A deep copy of a model that shares its parameters and runs without ``torch.compile``.

    Datasets and dataloaders in attributes are shared too. Hooks are copied, and so is what a
    function that is a hook or an attribute holds in its closure.

    Args:
        model: The model.
        memo: Made for the model; it tells afterwards what became of the parts.

    Raises:
        TypeError: If an attribute cannot be copied; says which.
    """
    with _DetachedCopies():
        try:
            twin = copy.deepcopy(model, memo)
            for original in model.modules():
                if id(original) in memo:
                    _uncompile(original, memo[id(original)], memo)
        except Exception as error:
            raise _refusal(model, memo, error) from error
    return twin


class _DetachedCopies(TorchFunctionMode):
    """Copies tensors that a graph leads to, which torch refuses, without their graph."""

    def __init__(self) -> None:
        super().__init__()
        self._kept: list[Tensor] = []  # a memo goes by identities, which must not be used again

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is not Tensor.__deepcopy__ or args[0].is_leaf or id(args[0]) in args[1]:
            return func(*args, **(kwargs or {}))
        tensor, memo = args
        detached = tensor.detach()
        self._kept.append(detached)
        memo[id(tensor)] = func(detached, memo)  # type: ignore[no-untyped-call]
        return memo[id(tensor)]


def _uncompile(original: nn.Module, twin: nn.Module, memo: Memo) -> None:
    """Give a twin its own functions instead of those that deepcopy left shared."""
    vars(twin).pop("_compiled_call_impl", None)
    _own_functions(vars(original), vars(twin), memo)
    for hooks in _HOOKS:
        _own_functions(getattr(original, hooks), getattr(twin, hooks), memo)


def _own_functions(original: Mapping[Any, Any], twin: MutableMapping[Any, Any], memo: Memo) -> None:
    for name, value in list(original.items()):
        if twin.get(name) is value and isinstance(value, FunctionType):
            twin[name] = _own_function(value, memo)


def _own_function(function: FunctionType, memo: Memo) -> Any:
    """The function with a closure of its own; if it was compiled, that which was compiled."""
    compiled = getattr(function, "_torchdynamo_orig_callable", None)
    if compiled is not None:
        return _own(compiled, memo)
    if function.__closure__ is None:
        return function
    if id(function) in memo:
        return memo[id(function)]
    cells = tuple(memo.setdefault(id(cell), CellType()) for cell in function.__closure__)
    own = FunctionType(
        function.__code__, function.__globals__, function.__name__, function.__defaults__, cells
    )
    own.__kwdefaults__ = function.__kwdefaults__
    own.__qualname__ = function.__qualname__
    own.__dict__.update(function.__dict__)
    memo[id(function)] = own
    for cell, own_cell in zip(function.__closure__, cells, strict=True):
        if _filled(cell) and not _filled(own_cell):
            own_cell.cell_contents = _own(cell.cell_contents, memo)
    return own


def _own(value: Any, memo: Memo) -> Any:
    if isinstance(value, FunctionType):
        return _own_function(value, memo)
    if isinstance(value, _SHARED):
        return value
    return copy.deepcopy(value, memo)


def _filled(cell: CellType) -> bool:
    try:
        cell.cell_contents  # noqa: B018 - an empty cell raises
    except ValueError:
        return False
    return True


def _refusal(model: nn.Module, memo: Memo, error: Exception) -> TypeError:
    name = type(model).__name__
    found = ((path, value) for path, value in _attributes(model) if _fails(model, memo, value))
    path, value = next(found, ("", None))
    what = f"{name}.{path} ({type(value).__name__})" if path else name
    return TypeError(
        f"pl_module: {what} cannot be copied: {error}. Knock-outs run the step again on a copy of "
        "the module; keep what cannot be copied outside of the module, or give its class a "
        "__deepcopy__ that returns what the copy is to have"
    )


def _attributes(model: nn.Module) -> Iterator[tuple[str, Any]]:
    for prefix, module in model.named_modules():
        before = f"{prefix}." if prefix else ""
        for name, value in vars(module).items():
            if name == "_buffers":
                yield from ((f"{before}{buffer}", value[buffer]) for buffer in value)
            elif name in _HOOKS:
                yield from ((f"{before}{name}", hook) for hook in value.values())
            elif name not in ("_parameters", "_modules"):
                yield f"{before}{name}", value


def _fails(model: nn.Module, memo: Memo, value: Any) -> bool:
    try:
        _own(value, memo.afresh(model))
    except Exception:
        return True
    return False
