"""Functions, methods and references that ``copy.deepcopy`` leaves shared, and what they lead to."""

from __future__ import annotations

import sys
import weakref
from collections import deque
from contextlib import suppress
from functools import lru_cache, partial
from types import (
    BuiltinMethodType,
    CellType,
    CodeType,
    FunctionType,
    MemberDescriptorType,
    MethodType,
    ModuleType,
)
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

from lightning_relay.reading.code import LIGHTNING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

_Found = TypeVar("_Found")

_CONSTANTS = frozenset(
    {int, float, complex, bool, str, bytes, type(None), type, range, slice, type(Ellipsis)}
    | {CodeType, ModuleType, torch.dtype, torch.device, torch.Size}
)
"""Types of objects that cannot change and lead to nothing that can."""

LIBRARIES = (
    *("builtins", "abc", "typing", "logging", "numpy"),
    *("torch", "torchmetrics", "lightning_relay"),
    *LIGHTNING,
)
"""Packages whose classes and functions keep nothing that a step changes."""

_PROXIES = (weakref.ProxyType, weakref.CallableProxyType)

_Cached = type(lru_cache(lambda: None))


def once_for_each_class(function: Callable[[type], _Found]) -> Callable[[type], _Found]:
    """The function, which is called once for each class and keeps none of them alive."""
    known: weakref.WeakKeyDictionary[type, _Found] = weakref.WeakKeyDictionary()

    def found(kind: type) -> _Found:
        try:
            return known[kind]
        except KeyError:
            return known.setdefault(kind, function(kind))

    return found


def is_shared_by_deepcopy(value: Any) -> bool:
    """Whether ``copy.deepcopy`` gives the object itself, though something behind it can change.

    A function of a module is shared with all that import it, as global variables are, unless it
    keeps something in its defaults.
    """
    kind = type(value)
    if kind is FunctionType:
        return has_changeable_defaults(value) or (
            (value.__closure__ is not None or bool(vars(value))) and not _is_global(value)
        )
    if kind is BuiltinMethodType:
        return not isinstance(value.__self__, ModuleType | type | None)
    if kind is _Cached:
        return not _is_global(value)
    return kind in (weakref.ref, *_PROXIES) and bool(parts_of(value))


def holds_constants(value: Any) -> bool:
    """Whether a container holds nothing that can change, such as a vocabulary."""
    kind = type(value)
    if kind is dict and not {*map(type, value.values())} <= _CONSTANTS:
        return False
    return kind in (dict, list, set) and {*map(type, value)} <= _CONSTANTS


def has_changeable_defaults(function: FunctionType) -> bool:
    """Whether a default of a function is an object that can change."""
    defaults = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
    return not all(_is_constant(value) for value in defaults)


def methods_with_changeable_defaults(model: nn.Module) -> list[FunctionType]:
    """Functions of the classes of all modules, but for those of torch and Lightning."""
    bases = {base for module in model.modules() for base in type(module).__mro__}
    own = [base for base in bases if base.__module__.partition(".")[0] not in LIBRARIES]
    found = [getattr(value, "__func__", value) for base in own for value in vars(base).values()]
    return [one for one in found if type(one) is FunctionType and has_changeable_defaults(one)]


def parts_of(value: Any) -> list[Any]:
    """Objects that an object leads to, but for the globals of functions and attributes of classes.

    The attributes of an object are one part, its ``__dict__``. None for tensors and classes.
    """
    kind = type(value)
    if kind in _CONSTANTS or issubclass(kind, type | Tensor):
        return []
    if kind in _PARTS:
        return _PARTS[kind](value)
    parts: list[Any] = []
    with suppress(Exception):  # of any type, by any class that has its own way to attributes
        parts.append(value.__dict__)
    if issubclass(kind, dict):
        parts += value.values()
    elif issubclass(kind, list | tuple | set | frozenset | deque):
        parts += value
    return [*parts, *slots_of(value).values()]


def slots_of(value: Any) -> dict[MemberDescriptorType, Any]:
    """What an object has in its slots, read as its class cannot forbid or change."""
    found: dict[MemberDescriptorType, Any] = {}
    bases = type(value).__mro__
    for depth, name in _slots(type(value)):
        slot = vars(bases[depth])[name]
        with suppress(AttributeError):  # empty
            found[slot] = slot.__get__(value)
    return found


def has_slots(kind: type) -> bool:
    """Whether objects of a class have slots."""
    return bool(_slots(kind))


@once_for_each_class
def _slots(kind: type) -> list[tuple[int, str]]:
    """Names of slots, each with the place of its class among the bases."""
    return [
        (depth, name)
        for depth, base in enumerate(kind.__mro__)
        if "__slots__" in vars(base)
        for name, attribute in vars(base).items()
        if type(attribute) is MemberDescriptorType
    ]


def reachable(roots: Iterable[Any], enters: Callable[[Any], bool]) -> Iterator[Any]:
    """Objects that others lead to, with these; each once, and none that ``enters`` says no to."""
    seen: dict[int, Any] = {}  # with the objects, or identities would be used again
    left = list(roots)
    while left:
        value = left.pop()
        if type(value) in _CONSTANTS or id(value) in seen or not enters(value):
            continue
        seen[id(value)] = value
        yield value
        left += parts_of(value)


def _of_function(function: FunctionType) -> list[Any]:
    parts = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
    if _is_global(function):
        return parts
    return [*parts, vars(function), *(function.__closure__ or ())]


def _of_cell(cell: CellType) -> list[Any]:
    try:
        return [cell.cell_contents]
    except ValueError:  # empty
        return []


def _of_reference(reference: Any) -> list[Any]:
    referent = reference()
    return [] if referent is None else [referent]


def _of_proxy(proxy: Any) -> list[Any]:
    try:
        return [proxy.__init__.__self__]
    except ReferenceError:
        return []


_PARTS: dict[type, Callable[[Any], list[Any]]] = {
    dict: lambda values: [*values.values()],
    **dict.fromkeys((list, tuple, set, frozenset, deque), list),
    FunctionType: _of_function,
    CellType: _of_cell,
    MethodType: lambda method: [method.__self__, method.__func__],
    BuiltinMethodType: lambda method: [method.__self__],
    _Cached: lambda cached: [cached.__wrapped__],
    partial: lambda function: [function.func, *function.args, *function.keywords.values()],
    weakref.ref: _of_reference,
    **dict.fromkeys(_PROXIES, _of_proxy),
}


def _is_global(function: Any) -> bool:
    """Whether a function is an attribute of the module that defines it, or of a class there."""
    found: Any = sys.modules.get(function.__module__)
    for name in function.__qualname__.split("."):
        found = getattr(found, name, None)
    return found is function


def _is_constant(value: Any) -> bool:
    if isinstance(value, tuple | frozenset):
        return all(map(_is_constant, value))
    kind = type(value)
    return (
        kind in _CONSTANTS
        or issubclass(kind, type)
        or (kind in (FunctionType, BuiltinMethodType) and not is_shared_by_deepcopy(value))
    )
