"""A function run once for many lanes, by ``torch.func.vmap``."""

from __future__ import annotations

import re
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import torch
from torch.overrides import TorchFunctionMode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

_SLOW = ("ignore", re.compile("There is a performance drop because"), UserWarning, None, 0)
"""Filter for what vmap says of an operation that it runs for one lane after the other."""


class CannotMapError(BaseException):
    """An operation failed in a mapped run.

    No Exception, because the function may catch those and go on as it would in no single lane.
    """


def in_lanes(function: Callable[[Any], Tensor], mapped: Any) -> Tensor:
    """What a function gives in each lane, ``(lane, …)``, where it is called once for all lanes.

    It is called with a pytree of tensors without their first dimension, the lanes. Random numbers
    that it draws are the same in all lanes. A CannotMapError says that an operation failed, such as
    reading a number that differs between lanes.
    """
    with _not_told_of_slow_operations():
        return torch.func.vmap(_failing_for_good(function), randomness="same")(mapped)


def _failing_for_good(function: Callable[[Any], Tensor]) -> Callable[[Any], Tensor]:
    def inside(own: Any) -> Tensor:
        with _Operations():
            return function(own)

    return inside


class _Operations(TorchFunctionMode):
    """Turns every error of an operation into a CannotMapError."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        try:
            return func(*args, **(kwargs or {}))
        except Exception as error:
            raise CannotMapError(str(error)) from error


@contextmanager
def _not_told_of_slow_operations() -> Iterator[None]:
    """Set a filter of warnings in the block.

    ``warnings.catch_warnings`` would make Python tell the user once more what it tells only once.
    """
    filters = cast("list[Any]", warnings.filters)
    filters.insert(0, _SLOW)
    try:
        yield
    finally:
        if _SLOW in filters:
            filters.remove(_SLOW)
