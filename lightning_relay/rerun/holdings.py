"""What objects hold, at any depth, kept to be put back."""

from __future__ import annotations

import random
from collections import deque
from functools import partial
from operator import is_
from types import BuiltinMethodType, CellType, FunctionType, MethodType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from lightning_relay.rerun.batches import copies_of, equal, put
from lightning_relay.rerun.functions import (
    LIBRARIES,
    has_slots,
    once_for_each_class,
    parts_of,
    reachable,
    slots_of,
)
from lightning_relay.rerun.twin import SHARED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_CONTAINERS = (dict, list, set, deque)

_GENERATORS = (random.Random, np.random.Generator, np.random.RandomState, torch.Generator)

_ENTERED = (
    *(*_CONTAINERS, tuple, frozenset, *_GENERATORS, Tensor, np.ndarray, nn.Module),
    *(CellType, FunctionType, MethodType, BuiltinMethodType),
)
"""Types of libraries, and of Python, that are looked into."""

_ABSENT = object()


class Variables:
    """Variables of a module by their names, or the attributes of a class; present or not."""

    def __init__(self, of: dict[str, Any] | type, names: Iterable[str] = ()) -> None:
        self._of = of
        self._names = frozenset(names)

    def now(self) -> dict[str, Any]:
        """The values of those that there are, by their names."""
        if isinstance(self._of, type):
            return {name: value for name, value in vars(self._of).items() if name[:2] != "__"}
        return {name: self._of[name] for name in self._names if name in self._of}

    def put_back(self, before: dict[str, Any]) -> None:
        """Have the values that there were, and no others."""
        now = self.now()
        for name in now.keys() | before.keys():
            value = before.get(name, _ABSENT)
            if value is not now.get(name, _ABSENT):
                self._set(name, value)

    def _set(self, name: str, value: Any) -> None:
        if isinstance(self._of, type):
            delattr(self._of, name) if value is _ABSENT else setattr(self._of, name, value)
        elif value is _ABSENT:
            del self._of[name]
        else:
            self._of[name] = value


class Holdings:
    """What objects hold now: contents of containers, attributes, closures and random generators.

    It looks at any depth, but not into objects of libraries other than modules, and not into what
    the twin shares.

    Args:
        roots: The objects.
        variables: Variables, whose values are objects too.
        numbers: Whether the numbers in tensors and arrays are kept too.
        but: Objects that are left out.
    """

    def __init__(
        self,
        roots: Iterable[Any],
        variables: Iterable[Variables] = (),
        *,
        numbers: bool = False,
        but: Iterable[Any] = (),
    ) -> None:
        self._variables = [(some, some.now()) for some in variables]
        left_out = {id(value) for value in but}
        held = list(
            reachable(
                [*roots, *(value for _, now in self._variables for value in now.values())],
                lambda value: id(value) not in left_out and is_entered(value),
            )
        )
        self._undo = [undo for value in held for undo in _undoing(value)]
        if numbers:
            tensors = [value for value in held if isinstance(value, Tensor)]
            copies = copies_of(tensors)
            self._undo += [partial(_put, tensor, copies[id(tensor)]) for tensor in tensors]
            arrays = [value for value in held if isinstance(value, np.ndarray)]
            self._undo += [
                partial(np.copyto, array, array.copy()) for array in arrays if array.flags.writeable
            ]

    def put_back(self) -> None:
        """Have the objects hold what they held; an error of one object spares no other."""
        errors: list[Exception] = []
        first = [partial(some.put_back, before) for some, before in self._variables]
        undone: list[Callable[[], Any]] = [*first, *self._undo]
        for undo in undone:
            try:
                undo()
            except Exception as error:  # of any type, by any class of the user's
                errors.append(error)
        if errors:
            raise errors[0]


def is_entered(value: Any) -> bool:
    """Whether an object may hold something that a step changes."""
    return _is_entered(type(value))


@once_for_each_class
def _is_entered(kind: type) -> bool:
    if issubclass(kind, SHARED):
        return False
    made_by = [base.__module__.partition(".")[0] for base in kind.__mro__]
    ours = "lightning_relay" in made_by
    return issubclass(kind, _ENTERED) or not (ours or made_by[0] in LIBRARIES)


def _undoing(value: Any) -> list[Callable[[], Any]]:
    """Functions that put back what an object holds now, if it holds something."""
    if isinstance(value, dict):
        return [partial(_fill_dict, value, dict(value))]
    if isinstance(value, _CONTAINERS):
        return [partial(_fill, value, list(value))]
    if isinstance(value, CellType):
        return [partial(setattr, value, "cell_contents", content) for content in parts_of(value)]
    if type(value) is torch.Generator:  # isinstance is slow here
        return [partial(value.set_state, value.get_state())]
    if isinstance(value, np.random.Generator):
        return [partial(setattr, value.bit_generator, "state", value.bit_generator.state)]
    if isinstance(value, np.random.RandomState):
        return [partial(value.set_state, value.get_state())]
    if isinstance(value, random.Random):
        return [partial(value.setstate, value.getstate())]
    if isinstance(value, Tensor | tuple | frozenset) or not has_slots(type(value)):
        return []
    return [partial(_fill_slots, value, slots_of(value))]


def _put(tensor: Tensor, copy: Tensor) -> None:
    if not equal(tensor, copy):
        put(tensor, copy)


def _fill_dict(holder: dict[Any, Any], content: dict[Any, Any]) -> None:
    if not (_same(holder, content) and _same(holder.values(), content.values())):
        holder.clear()
        holder.update(content)


def _fill(holder: Any, content: list[Any]) -> None:
    if not _same(holder, content):
        holder.clear()
        (holder.update if isinstance(holder, set) else holder.extend)(content)


def _fill_slots(holder: Any, content: dict[Any, Any]) -> None:
    now = slots_of(holder)
    for slot in now.keys() | content.keys():
        if slot not in content:
            slot.__delete__(holder)
        elif slot not in now or now[slot] is not content[slot]:
            slot.__set__(holder, content[slot])


def _same(some: Any, others: Any) -> bool:
    return len(some) == len(others) and all(map(is_, some, others))
