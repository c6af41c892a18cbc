"""What a reader of the tab has chosen, as it stands in the address of a request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class View:
    """The selection that all figures share.

    Attributes:
        layer: Key of the layer.
        concept: Name of the concept.
        step: Step of the layer; -1 is the one that it computes last.
        last: That step by its number, as far as it is known; else -1.
        unit: Index of a unit that is marked; None if none is.
        measure: Name of what damage is drawn to; empty if that is the concept.
    """

    layer: str
    concept: str
    step: int
    last: int
    unit: int | None
    measure: str

    @classmethod
    def of(cls, asked: Mapping[str, str]) -> View:
        """The view of a request; a ValueError names what is no number."""
        unit = asked.get("unit", "")
        return cls(
            layer=asked.get("layer", ""),
            concept=asked.get("concept", ""),
            step=_number("step", asked.get("step", "-1"), "a step of the layer"),
            last=_number("last", asked.get("last", "-1"), "the last step of the layer"),
            unit=_number("unit", unit, "the index of a unit") if unit else None,
            measure=asked.get("measure", ""),
        )


def _number(name: str, given: str, takes: str) -> int:
    try:
        return int(given)
    except ValueError:
        raise ValueError(f"{name}: got {given!r}; it takes {takes}") from None
