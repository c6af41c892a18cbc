"""Results looked up by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Mapping

Result = TypeVar("Result")


class UnknownNameError(KeyError):
    """A KeyError whose message has no quotation marks around it."""

    def __str__(self) -> str:
        """The message as it was written."""
        return str(self.args[0])


def known(kind: str, name: str, results: Mapping[str, Result]) -> Result:
    """The result with this name; an UnknownNameError lists the known names."""
    if name in results:
        return results[name]
    names = ", ".join(map(repr, results))
    raise UnknownNameError(f"{kind}: no {kind} {name!r} in this report; it has {names}")
