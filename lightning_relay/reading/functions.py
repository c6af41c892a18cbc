"""The type of functions that a user gives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    Function = Callable[..., Any]
else:

    class _Callable(type):
        def __instancecheck__(cls, value: object) -> bool:
            return callable(value) and not isinstance(value, type)

        def __subclasscheck__(cls, kind: type) -> bool:
            return "__call__" in dir(kind)

    class Function(metaclass=_Callable):
        """A function, or an object that can be called.

        Where ``Callable`` stands beside ``str`` or ``int``, jsonargparse cannot write strings and
        numbers to a configuration file, and it refuses functions without annotations.
        """
