"""The tensors in nested containers, and copies of the containers."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, MutableMapping, MutableSequence
from dataclasses import fields, is_dataclass
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def tensors_in(value: Any, path: str = "") -> Iterator[tuple[str, Tensor]]:
    """Tensors in mappings, lists, tuples and dataclasses, each with its place such as ``[0]``."""
    if isinstance(value, Tensor):
        yield path, value
    for place, part in _parts(value):
        yield from tensors_in(part, path + place)


def leaves_in(value: Any) -> Iterator[Any]:
    """What is in the containers and in packed sequences and is no container itself."""
    if isinstance(value, PackedSequence):
        yield from value
    elif isinstance(value, Mapping | MutableSequence | tuple) or _is_record(value):
        for _, part in _parts(value):
            yield from leaves_in(part)
    else:
        yield value


def numbers_in(value: Any, *, _inside: tuple[int, ...] = ()) -> Iterator[tuple[str, float]]:
    """Single numbers in mappings, dataclasses and named tuples, each with its keys joined by dots.

    Tensors and arrays with one number count as numbers. A container inside itself is left out.
    """
    if isinstance(value, Tensor | np.ndarray | np.bool):
        number = value.item() if math.prod(value.shape) == 1 else None
        if isinstance(number, Real):
            yield "", float(number)
    elif isinstance(value, Real):
        yield "", float(value)
    elif id(value) not in _inside:
        for key, part in _named_parts(value):
            for path, number in numbers_in(part, _inside=(*_inside, id(value))):
                yield f"{key}.{path}" if path else key, number


def rebuilt(value: Any, of: Callable[[Any], Any] = lambda leaf: leaf) -> Any:
    """A copy of the containers that holds the same tensors, or what a function makes of each leaf.

    A packed sequence is a leaf.
    """
    parts = [rebuilt(part, of) for _, part in _parts(value)]
    if isinstance(value, MutableMapping):
        mapping = copy.copy(value)
        mapping.update(zip(value, parts, strict=True))
        return mapping
    if isinstance(value, MutableSequence):
        sequence = copy.copy(value)
        for place, part in enumerate(parts):
            sequence[place] = part
        return sequence
    if isinstance(value, tuple) and not isinstance(value, PackedSequence):
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    if _is_record(value):
        record = copy.copy(value)
        for field, part in zip(fields(value), parts, strict=True):
            object.__setattr__(record, field.name, part)
        return record
    return of(value)


def _parts(value: Any) -> list[tuple[str, Any]]:
    """The parts of a container, each with its place; none if the value is no container."""
    if isinstance(value, Mapping):
        return [(f"[{key!r}]", part) for key, part in value.items()]
    if isinstance(value, MutableSequence | tuple) and not isinstance(value, PackedSequence):
        return [(f"[{place}]", part) for place, part in enumerate(value)]
    if _is_record(value):
        return [(f".{field.name}", getattr(value, field.name)) for field in fields(value)]
    return []


def _named_parts(value: Any) -> list[tuple[str, Any]]:
    """The parts of a mapping, dataclass or named tuple, each with its key."""
    if isinstance(value, Mapping):
        return [(str(key), part) for key, part in value.items()]
    if _is_record(value):
        return [(field.name, getattr(value, field.name)) for field in fields(value)]
    if isinstance(value, tuple) and not isinstance(value, PackedSequence):
        return list(zip(getattr(value, "_fields", ()), value, strict=False))
    return []


def _is_record(value: Any) -> bool:
    return is_dataclass(value) and not isinstance(value, type)
