"""Checks of a report before it is saved and after it is loaded: types and shapes of all parts."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np

_PLAIN: dict[str, tuple[type, ...]] = {"int": (int,), "float": (int, float), "str": (str,)}


def check_types(value: object, kind: str, name: str) -> None:
    """Refuse a value that is not of a kind, in the words of an annotation, with a ValueError.

    Results that are dataclasses are followed; one that checks its own fields is not.
    """
    if not any(_is(value, some, name) for some in kind.split(" | ")):
        got = f"{value.dtype} array" if isinstance(value, np.ndarray) else repr(value)[:80]
        raise ValueError(f"{name}: got {got}; it takes {kind}")


def _is(value: object, kind: str, name: str) -> bool:
    if kind in _PLAIN:
        return isinstance(value, _PLAIN[kind]) and not isinstance(value, bool)
    if kind in ("None", "bool"):
        return value is None if kind == "None" else isinstance(value, bool)
    if found := re.fullmatch(r"NDArray\[np\.(\w+)\]", kind):
        return isinstance(value, np.ndarray) and value.dtype == getattr(np, found[1])
    if found := re.fullmatch(r"Mapping\[str, (.+)\]", kind):
        if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
            return False
        for key, part in value.items():
            check_types(part, found[1], f"{name}[{key!r}]")
        return True
    if found := re.fullmatch(r"tuple\[(.+), \.\.\.\]", kind):
        if not isinstance(value, tuple):
            return False
        for place, part in enumerate(value):
            check_types(part, found[1], f"{name}[{place}]")
        return True
    if not is_dataclass(value) or type(value).__name__ != kind:
        return False
    if not hasattr(value, "__post_init__"):
        for field in fields(value):
            check_types(getattr(value, field.name), str(field.type), f"{name}.{field.name}")
    return True


def check_shapes(
    result: Any, dimensions: Mapping[str, Sequence[str]], sizes: dict[str, int], name: str
) -> None:
    """Refuse arrays whose shapes do not go together, with a ValueError.

    Args:
        result: Dataclass with arrays.
        dimensions: Names of the dimensions of each array. ``"unit + 1"`` is one longer than
            ``"unit"``.
        sizes: Known lengths by name of the dimension; those that are found are added.
        name: Name of the result in the message.
    """
    for field in fields(result):
        array = getattr(result, field.name)
        if not isinstance(array, np.ndarray):
            continue
        own = dimensions[field.name]
        refusal = f"{name}.{field.name}: got shape {array.shape}; it takes ({', '.join(own)})"
        if array.ndim != len(own):
            raise ValueError(refusal)
        for length, dimension in zip(array.shape, own, strict=True):
            plain, _, more = dimension.partition(" + ")
            if sizes.setdefault(plain, length - int(more or 0)) != length - int(more or 0):
                raise ValueError(f"{refusal} with {sizes[plain]} for {plain}")
