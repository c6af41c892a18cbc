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
    from collections.abc import Iterable, Iterator

_SHARED = (Dataset, DataLoader, LightningDataModule, ModuleType)
"""Attributes of a module that are only read, and are large or cannot be copied."""

_HOOKS = ("_forward_pre_hooks", "_forward_hooks")


class Memo(dict[int, Any]):
    """Copies that ``copy.deepcopy`` has made so far, by the identity of the original.

    A module made by ``torch.compile`` is copied as the module that was compiled. ``stand_ins`` are
    pairs of an object and what the copy has in its place.
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
        """A memo as this one was at first, which shares the model's modules instead of copying."""
        memo = copy.copy(self)
        memo.clear()
        memo.update(self._at_first)
        memo.update((id(module), module) for module in model.modules())
        return memo

    def get(self, key: int, default: Any = None) -> Any:
        """The copy of the object with this identity."""
        if key not in self and key in self._uncompiled:
            self[key] = copy.deepcopy(self._uncompiled[key], self)
        return super().get(key, default)


def twin_of(model: nn.Module, memo: Memo) -> nn.Module:
    """A deep copy of a model that shares its parameters and runs without ``torch.compile``.

    Datasets and dataloaders in attributes are shared too. Hooks are copied, and so are the closures
    of functions that are hooks or attributes. Afterwards the memo tells the copy of each part. A
    TypeError names an attribute that cannot be copied.
    """
    with _DetachedCopies():
        try:
            twin = copy.deepcopy(model, memo)
            for original in model.modules():
                if id(original) in memo:
                    _give_own_functions(original, memo[id(original)], memo)
        except Exception as error:
            raise _refusal(model, memo, error) from error
    return twin


class _DetachedCopies(TorchFunctionMode):
    """Copies tensors that have a graph without it; torch refuses to copy them with it."""

    def __init__(self) -> None:
        super().__init__()
        self._kept: list[Tensor] = []  # a memo needs identities that are not used again

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


def _give_own_functions(original: nn.Module, twin: nn.Module, memo: Memo) -> None:
    """Give a twin its own uncompiled functions instead of those that deepcopy left shared."""
    vars(twin).pop("_compiled_call_impl", None)
    for holder in ("__dict__", *_HOOKS):
        own = getattr(twin, holder)
        for name, value in list(getattr(original, holder).items()):
            if own.get(name) is value and isinstance(value, FunctionType):
                own[name] = _own_function(value, memo)


def _own_function(function: FunctionType, memo: Memo) -> Any:
    """The function with its own closure; for a compiled one, the function that was compiled."""
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
        cell.cell_contents  # noqa: B018 - raises if the cell is empty
    except ValueError:
        return False
    return True


def _refusal(model: nn.Module, memo: Memo, error: Exception) -> TypeError:
    """The error that names the first attribute of a model that cannot be copied."""
    name = type(model).__name__
    found = ((path, value) for path, value in _attributes(model) if _fails(model, memo, value))
    path, value = next(found, ("", None))
    what = f"{name}.{path} ({type(value).__name__})" if path else name
    return TypeError(
        f"pl_module: {what} cannot be copied: {error}. Knock-outs run the step again on a copy of "
        "the module; keep what cannot be copied outside of the module, or give its class a "
        "__deepcopy__ that returns an object for the copy"
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
