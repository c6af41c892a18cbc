"""A copy of a module that shares its parameters and nothing else that can change."""

from __future__ import annotations

import copy
import weakref
from contextlib import contextmanager
from functools import lru_cache
from types import BuiltinMethodType, CellType, FunctionType, MethodType, ModuleType
from typing import TYPE_CHECKING, Any, Self

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.data import DataLoader, Dataset

from lightning_relay.rerun.functions import (
    holds_constants,
    is_shared_by_deepcopy,
    methods_with_changeable_defaults,
    parts_of,
    reachable,
)
from lightning_relay.rerun.packages import classes

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

SHARED = (Dataset, DataLoader, *classes("LightningDataModule"), ModuleType)
"""Attributes of a module that are only read, and are large or cannot be copied."""

_HOOKS = ("_forward_pre_hooks", "_forward_hooks")


class Memo(dict[int, Any]):
    """Copies that ``copy.deepcopy`` has made so far, by the identity of the original.

    A module made by ``torch.compile`` is copied as the module that was compiled. ``stand_ins`` are
    pairs of an object and what the copy has in its place. ``instead`` has the functions that the
    copy has in methods in place of others. ``referents`` are copies that something in the copy
    refers to weakly; they must live as long as the copy. ``modules`` are all that the model leads
    to, also those in lists, which are no submodules.
    """

    def __init__(
        self,
        model: nn.Module,
        stand_ins: Iterable[tuple[object, object]],
        instead: Mapping[Any, Any],
    ) -> None:
        super().__init__((id(original), stand_in) for original, stand_in in stand_ins)
        self.instead = instead
        self._uncompiled: dict[int, nn.Module] = {}
        self.update((id(parameter), parameter) for parameter in model.parameters())
        for module in model.modules():
            if "_orig_mod" in module._modules:
                self._uncompiled[id(module)] = module.get_submodule("_orig_mod")
            for value in vars(module).values():
                if isinstance(value, SHARED):
                    self[id(value)] = value
        self.referents: list[object] = []
        self._at_first = dict(self)
        reached = list(reachable([model], self._copies_parts))
        self.modules = [one for one in reached if issubclass(type(one), nn.Module)]
        self._copied_here = {
            id(value): value
            for value in reached
            if is_shared_by_deepcopy(value) or holds_constants(value) or self._has_another(value)
        }

    def _has_another(self, value: Any) -> bool:
        return type(value) is MethodType and value.__func__ in self.instead

    def _copies_parts(self, value: Any) -> bool:
        """Whether ``copy.deepcopy`` copies what the object leads to."""
        kind = type(value)
        says_itself = hasattr(kind, "__deepcopy__") and not issubclass(kind, nn.Module | Tensor)
        return not says_itself and id(value) not in self._at_first and not issubclass(kind, SHARED)

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
        if key not in self and key in self._copied_here:
            self[key] = _own_version(self._copied_here[key], self)
        return super().get(key, default)


def twin_of(model: nn.Module, memo: Memo) -> nn.Module:
    """A deep copy of a model that shares its parameters and runs without ``torch.compile``.

    Datasets and dataloaders in attributes are shared too. Hooks are copied, and so are functions
    with their closures and defaults, methods of lists and other containers, and weak references,
    wherever attributes and hooks lead to them. Afterwards the memo tells the copy of each part. A
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


class OwnDefaults:
    """Copies of the defaults of methods, which all modules of a class share, for a twin."""

    def __init__(self, model: nn.Module, memo: Memo) -> None:
        self._methods = [
            (method, _own(method.__defaults__, memo), _own(method.__kwdefaults__, memo))
            for method in methods_with_changeable_defaults(model)
        ]

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Have the methods use the copies in the block."""
        before = [(one, one.__defaults__, one.__kwdefaults__) for one, *_ in self._methods]
        try:
            _set_defaults(self._methods)
            yield
        finally:
            _set_defaults(before)


def _set_defaults(methods: Iterable[tuple[FunctionType, Any, Any]]) -> None:
    for method, defaults, keyword_defaults in methods:
        method.__defaults__, method.__kwdefaults__ = defaults, keyword_defaults


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
    if id(function) in memo:
        return memo[id(function)]
    if not is_shared_by_deepcopy(function):
        return function
    closure = function.__closure__ or ()
    cells = tuple(memo.setdefault(id(cell), CellType()) for cell in closure)
    own = FunctionType(
        function.__code__, function.__globals__, function.__name__, None, cells or None
    )
    memo[id(function)] = own
    own.__qualname__ = function.__qualname__
    own.__defaults__ = _own(function.__defaults__, memo)
    own.__kwdefaults__ = _own(function.__kwdefaults__, memo)
    own.__dict__.update({name: _own(value, memo) for name, value in vars(function).items()})
    for cell, own_cell in zip(closure, cells, strict=True):
        if _filled(cell) and not _filled(own_cell):
            own_cell.cell_contents = _own(cell.cell_contents, memo)
    return own


def _own_version(value: Any, memo: Memo) -> Any:
    """What ``copy.deepcopy`` would leave shared, or copy one by one, as the copy's own."""
    kind = type(value)
    if kind in (dict, list, set):
        return value.copy()
    if kind is FunctionType:
        return _own_function(value, memo)
    if kind is BuiltinMethodType:
        return getattr(_own(value.__self__, memo), value.__name__)
    if kind is type(lru_cache(_filled)):
        return lru_cache(**value.cache_parameters())(_own(value.__wrapped__, memo))
    if kind is MethodType:
        return MethodType(memo.instead[value.__func__], _own(value.__self__, memo))
    (referent,) = parts_of(value)
    own = _own(referent, memo)
    memo.referents.append(own)
    return weakref.ref(own) if kind is weakref.ref else weakref.proxy(own)


def _own(value: Any, memo: Memo) -> Any:
    if type(value) is FunctionType:
        return _own_function(value, memo)
    if isinstance(value, SHARED):
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
