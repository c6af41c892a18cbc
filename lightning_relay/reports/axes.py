"""Axes of a picture: from values, or names, to points of the image."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from lightning_relay.reports.figure import Figure

_PAD = 0.05
"""Part of the range that is left free at its ends."""

_TICKS = 6
"""Number of ticks at most, as far as they have room."""


@dataclass(frozen=True)
class Axis:
    """An axis of an image.

    Attributes:
        key: ``"x"``, ``"y2"`` and so on, as traces name it.
        anchor: Key of the axis at whose end it is drawn.
        title: Its title.
        names: Names along it, in order; None if it has numbers.
        low: Value at its start: left or bottom.
        high: Value at its end.
        start: Place of its start, points.
        end: Place of its end, points.
        grid: Whether lines are drawn at its ticks.
        zero: Whether a line is drawn at 0.
    """

    key: str
    anchor: str
    title: str
    names: tuple[str, ...] | None
    low: float
    high: float
    start: float
    end: float
    grid: bool
    zero: bool

    def values(self, own: Any) -> NDArray[np.float64]:
        """Numbers of values: of names, their places."""
        if self.names is None:
            return np.asarray(own, dtype=np.float64)
        places = {name: place for place, name in enumerate(self.names)}
        return np.array([places[str(name)] for name in own], dtype=np.float64)

    def at(self, own: Any) -> NDArray[np.float64]:
        """Places of values in points."""
        return self.of(self.values(own))

    def of(self, numbers: Any) -> NDArray[np.float64]:
        """Places of numbers in points."""
        part = (np.asarray(numbers, dtype=np.float64) - self.low) / (self.high - self.low)
        return self.start + part * (self.end - self.start)

    def ticks(self, apart: float) -> list[tuple[float, str]]:
        """Places in points and labels, at least this many points apart."""
        room = abs(self.end - self.start)
        if self.names is not None:
            every = max(1, int(np.ceil(apart * len(self.names) / max(room, 1.0))))
            return [
                (float(self.of(place)), name)
                for place, name in enumerate(self.names)
                if place % every == 0 and self._inside(place)
            ]
        low, high = sorted((self.low, self.high))
        step = _round_step((high - low) / max(1, min(_TICKS, int(room / apart))))
        first = np.ceil(low / step - 1e-9)
        numbers = step * np.arange(first, np.floor(high / step + 1e-9) + 1)
        digits = max(0, -int(np.floor(np.log10(step) + 1e-9)))
        return [(float(self.of(own)), f"{own:z.{digits}f}") for own in numbers]

    def _inside(self, number: float) -> bool:
        low, high = sorted((self.low, self.high))
        return low <= number <= high


def axes_of(figure: Figure, box: tuple[float, float, float, float]) -> dict[str, Axis]:
    """Axes of a figure by key, in a box: left, top, right and bottom in points."""
    layout, traces = figure["layout"], figure["data"]
    left, top, right, bottom = box
    found: dict[str, Axis] = {}
    for name, about in layout.items():
        part = re.fullmatch(r"([xy])axis(\d*)", name)
        if part is None:
            continue
        letter, key = part[1], f"{part[1]}{part[2]}"
        own = [trace for trace in traces if trace.get(f"{letter}axis", letter) == key]
        if not own:
            continue
        names = _names(about, own, letter)
        low, high = _range(about, own, letter, names)
        start, end = about.get("domain", (0.0, 1.0))
        if letter == "x":
            ends = left + start * (right - left), left + end * (right - left)
        else:
            ends = bottom - start * (bottom - top), bottom - end * (bottom - top)
        other = "y" if letter == "x" else "x"
        found[key] = Axis(
            key=key,
            anchor=about.get("anchor", other),
            title=about.get("title", {}).get("text", ""),
            names=names,
            low=low,
            high=high,
            start=ends[0],
            end=ends[1],
            grid=about.get("showgrid", True) and names is None,
            zero=about.get("zeroline", False),
        )
    for name, about in layout.items():
        if "axis" in name and isinstance(about, dict) and "scaleanchor" in about:
            _level(found, name.replace("axis", ""), about["scaleanchor"])
    return found


def _names(
    about: Mapping[str, Any], traces: Sequence[dict[str, Any]], letter: str
) -> tuple[str, ...] | None:
    if about.get("type") != "category":
        return None
    own = [str(value) for trace in traces for value in trace.get(letter, ())]
    return tuple(dict.fromkeys([*map(str, about.get("categoryarray", ())), *own]))


def _range(
    about: Mapping[str, Any],
    traces: Sequence[dict[str, Any]],
    letter: str,
    names: tuple[str, ...] | None,
) -> tuple[float, float]:
    """Values at the start and the end."""
    if "range" in about:
        low, high = about["range"]
    elif names is not None:
        low, high = -0.5, len(names) - 0.5
    else:
        values = np.concatenate([[], *(_extent(trace, letter) for trace in traces)])
        values = values[np.isfinite(values)]
        low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
        if about.get("rangemode") == "tozero":
            low, high = min(0.0, low), max(0.0, high)
        elif all(trace["type"] != "heatmap" for trace in traces):
            pad = _PAD * (high - low) or 1.0
            low, high = low - pad, high + pad
    return (high, low) if about.get("autorange") == "reversed" else (low, high)


def _extent(trace: dict[str, Any], letter: str) -> NDArray[np.float64]:
    """Values that the axis has to reach."""
    if trace["type"] == "heatmap":
        number = len(trace["z"]) if letter == "y" else len(trace["x"])
        own = np.asarray(trace.get(letter, np.arange(number)), dtype=np.float64)
        return np.array([own.min() - 0.5, own.max() + 0.5])
    values = np.asarray(trace[letter], dtype=np.float64)
    bars = trace.get(f"error_{letter}")
    if bars is None:
        return values
    above, below = np.nan_to_num(bars["array"]), np.nan_to_num(bars["arrayminus"])
    return np.concatenate([values + above, values - below])


def _level(axes: dict[str, Axis], key: str, other: str) -> None:
    """Widen one of two axes so that a unit is as long on both."""
    a, b = axes[key], axes[other]
    each = [abs((own.high - own.low) / (own.end - own.start)) for own in (a, b)]
    for own, share in ((a, each[1] / each[0]), (b, each[0] / each[1])):
        if share > 1:
            middle, half = (own.low + own.high) / 2, share * (own.high - own.low) / 2
            axes[own.key] = replace(own, low=middle - half, high=middle + half)


def _round_step(least: float) -> float:
    """The next of 1, 2, 5, 10, … times a power of ten."""
    power = 10.0 ** np.floor(np.log10(least))
    return float(next(own * power for own in (1, 2, 5, 10) if own * power >= least * (1 - 1e-9)))
