"""Results looked up by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Mapping

Result = TypeVar("Result")


class UnknownNameError(KeyError):
    """No result has this name; its message reads as it was written."""

    def __str__(self) -> str:
        """The message, without the quotation marks that a KeyError puts around it."""
        return str(self.args[0])


def known(kind: str, name: str, results: Mapping[str, Result]) -> Result:
    """The result of this name.

    Raises:
        UnknownNameError: If there is none; lists the names there are.
    """
    if name in results:
        return results[name]
    names = ", ".join(map(repr, results))
    raise UnknownNameError(f"{kind}: no {kind} {name!r} in this report; it has {names}")
