"""Parts of interactive figures: dictionaries as plotly takes them, with NumPy arrays in them."""

from __future__ import annotations

import csv
import json
from base64 import b64encode
from functools import lru_cache
from html import escape, unescape
from io import StringIO
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

Figure = dict[str, Any]
"""``{"data": [trace, …], "layout": …}``."""

BLUE, PALE_BLUE = "#4280c2", "#bcd6ee"
GREY, PALE_GREY = "#969696", "#d6d6d6"
ORANGE, PALE_ORANGE = "#e07828", "#f7d6b8"
LIMIT = "#c85014"
GREEN = "#2e7d32"

SERIES = (
    "#1f77b4",
    "#ff7f0e",
    "#2ca02c",
    "#d62728",
    "#9467bd",
    "#8c564b",
    "#e377c2",
    "#7f7f7f",
    "#bcbd22",
    "#17becf",
)
"""Colours of classes and of single units."""

_WHITE, _DARK = (250, 250, 245), (8, 48, 107)
_BLUES = np.array([_WHITE, (158, 202, 225), (49, 130, 189), _DARK], dtype=np.float64)
_ORANGES = np.array([_WHITE, (253, 174, 97), (166, 54, 3)], dtype=np.float64)
_STOPS = 24

_PACKED = {"f": "f4", "i": "i4", "u": "u4", "b": "u1"}
"""Type in which plotly gets an array of numbers, by the array's kind."""


def figure_of(title: str, words: str, data: Sequence[dict[str, Any]], **layout: Any) -> Figure:
    """A figure with what all figures have in common, and words below its title."""
    common = {
        "title": {
            "text": title,
            "subtitle": {"text": words, "font": {"size": 12}},
            "font": {"size": 14},
            "x": 0.01,
            "xanchor": "left",
            "y": 1,
            "yanchor": "top",
            "pad": {"t": 12},
        },
        "margin": {"l": 60, "r": 20, "t": 70, "b": 50},
        "hovermode": "closest",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "legend": {"orientation": "h", "y": -0.2, "x": 0},
    }
    return {"data": [*data], "layout": common | layout}


def shown(figure: Figure) -> Any:
    """The figure as plotly's own; an ImportError says how to install plotly."""
    try:
        from plotly.graph_objects import Figure as Shown
    except ImportError as error:
        raise ImportError("figure: it takes plotly; install it with pip install plotly") from error
    return Shown(figure)


def to_json(figure: Figure) -> str:
    """The figure as JSON for plotly in a browser.

    Arrays of numbers become ``{"dtype": …, "bdata": base64, "shape": …}``, which plotly reads
    without parsing; NaN is allowed in them, and only there. Floats keep seven digits.
    """
    return json.dumps(figure, default=_packed, allow_nan=False, separators=(",", ":"))


def plain(name: str) -> str:
    """A name of the user in a text of a figure, where plotly would take ``<b>`` for a tag."""
    return escape(name, quote=False)


_COLUMNS = ("trace", "x", "y", "value", "error", "lower", "upper", "unit", "words")


def to_csv(figure: Figure) -> str:
    """The numbers of a figure as a table: a row for each point, bar or cell of each trace.

    Columns are the trace's name, ``x``, ``y`` (the row of a cell), the ``value`` of a cell and its
    standard error, the ``lower`` and ``upper`` end of an interval, the ``unit`` that a point or a
    line stands for, and the ``words`` over a point. Empty is what there is not.
    """
    file = StringIO()
    table = csv.DictWriter(file, _COLUMNS, lineterminator="\n")
    table.writeheader()
    for trace in figure["data"]:
        name = trace.get("name", "")
        for row in _cells(trace) if "z" in trace else _points(trace):
            table.writerow({"trace": name} | {key: _written(own) for key, own in row.items()})
    return file.getvalue()


def _cells(trace: dict[str, Any]) -> Iterator[dict[str, Any]]:
    values, missing = np.asarray(trace["z"]), "missing" in trace.get("meta", ())
    names, errors = trace.get("y", range(len(values))), trace.get("customdata")
    for row, column in np.argwhere(~np.isnan(values)):
        cell = {"x": trace["x"][column], "y": names[row]}
        if not missing:
            cell["value"] = values[row, column]
        if errors is not None:
            cell["error"] = errors[row, column]
        yield cell


def _points(trace: dict[str, Any]) -> Iterator[dict[str, Any]]:
    columns = {"x": trace["x"], "y": trace["y"]}
    for axis_name in ("x", "y"):
        bars = trace.get(f"error_{axis_name}")
        if bars is not None:
            values = trace[axis_name]
            columns |= {"lower": values - bars["arrayminus"], "upper": values + bars["array"]}
    if "unit" in trace.get("meta", ()):
        columns["unit"] = trace["customdata"]
    words = trace.get("hovertext", trace.get("text"))
    if words is not None and len(words) == len(trace["x"]):
        columns["words"] = words
    for row in zip(*columns.values(), strict=True):
        yield dict(zip(columns, row, strict=True))


def _written(value: Any) -> Any:
    """A cell of a table; NaN is an empty one, and text has no tags."""
    if isinstance(value, str):
        return unescape(value.replace("<br>", "; ")).removeprefix("; ")
    return "" if isinstance(value, float) and np.isnan(value) else value


def _packed(part: object) -> Any:
    if isinstance(part, np.generic):
        return part.item()
    if not isinstance(part, np.ndarray):
        raise TypeError(f"figure: got {type(part).__name__} in it; it takes numbers, text, arrays")
    if part.dtype.kind not in _PACKED:
        return part.tolist()
    dtype = _PACKED[part.dtype.kind]
    packed = {"dtype": dtype, "bdata": b64encode(part.astype(f"<{dtype}").tobytes()).decode()}
    return packed if part.ndim == 1 else packed | {"shape": ", ".join(map(str, part.shape))}


def axis(title: str, **more: Any) -> dict[str, Any]:
    """An axis with a title."""
    return {"title": {"text": title}, "zeroline": False, "gridcolor": "#dddddd"} | more


def steps_axis(time_steps: NDArray[np.int64], title: str = "step", **more: Any) -> dict[str, Any]:
    """An axis of steps, which are names: -1, each sequence's last step, stands where it is."""
    names = [str(step) for step in time_steps]
    ends = [-0.5, len(names) - 0.5]
    about = {"type": "category", "categoryarray": names, "range": ends, "showgrid": False}
    return axis(title, **about) | more


def line(
    x: Any, y: NDArray[np.float64], name: str, colour: str, *, dash: str = "solid"
) -> dict[str, Any]:
    """A trace of a line without a hover text."""
    return {
        "type": "scatter",
        "mode": "lines",
        "x": x,
        "y": y,
        "name": name,
        "line": {"color": colour, "width": 1.5, "dash": dash},
        "hoverinfo": "skip",
    }


def error_bars(
    values: NDArray[np.float64], lower: NDArray[np.float64], upper: NDArray[np.float64], colour: str
) -> dict[str, Any]:
    """Bars from the lower to the upper ends of intervals."""
    return {
        "type": "data",
        "symmetric": False,
        "array": upper - values,
        "arrayminus": values - lower,
        "color": colour,
        "thickness": 1,
        "width": 2,
    }


def ring(x: Any, y: Any, name: str, colour: str) -> dict[str, Any]:
    """A trace of rings around points that are chosen."""
    return {
        "type": "scatter",
        "mode": "markers",
        "x": x,
        "y": y,
        "name": name,
        "marker": {"symbol": "circle-open", "size": 14, "color": colour, "line": {"width": 3}},
        "hoverinfo": "skip",
    }


def marked_row(unit: int | None, yaxis: str = "y") -> list[dict[str, Any]]:
    """A frame around the row of a unit that is chosen."""
    if unit is None:
        return []
    return [frame(xref="paper", x0=0, x1=1, yref=yaxis, y0=unit - 0.5, y1=unit + 0.5)]


def frame(**where: Any) -> dict[str, Any]:
    """A frame, drawn as a shape, around what is chosen."""
    return {"type": "rect", "line": {"color": GREY, "width": 1}, **where}


def rgb(colour: str) -> tuple[int, int, int]:
    """Red, green and blue, from 0 to 255, of a colour such as ``#4280c2``."""
    red, green, blue = bytes.fromhex(colour[1:])
    return red, green, blue


def faded(colour: str, opacity: float = 0.2) -> str:
    """A colour such as ``#4280c2`` that lets through what is behind it."""
    red, green, blue = rgb(colour)
    return f"rgba({red}, {green}, {blue}, {opacity})"


@lru_cache(maxsize=64)
def bits_scale(most: float) -> dict[str, Any]:
    """Colours of the square root of bits up to ``most``: blue, and orange below 0."""
    low = -most / 4
    below, above = (np.sqrt(end) * np.linspace(0, 1, _STOPS + 1) for end in (-low, most))
    root = np.concatenate([-below[:0:-1], above])
    bits = np.sign(root) * root**2
    return _scale(low, most, bits, np.sign(root) * np.sqrt(np.abs(bits) / most))


def blues(most: float) -> dict[str, Any]:
    """Colours from 0 (white) to ``most`` (dark blue)."""
    values = np.linspace(0, 1, _STOPS + 1)
    return _scale(0, 1, values, values) | {"zmin": 0, "zmax": most}


@lru_cache
def signed_scale() -> dict[str, Any]:
    """Colours from -1 (orange) through 0 (white) to 1 (blue)."""
    values = np.linspace(-1, 1, 2 * _STOPS + 1)
    return _scale(-1, 1, values, values)


def damage_scale(most: float) -> dict[str, Any]:
    """Colours from better by ``most`` (blue) through 0 (white) to worse by ``most`` (orange)."""
    values = np.linspace(-1, 1, 2 * _STOPS + 1)
    return _scale(-1, 1, values, -values) | {"zmin": -most, "zmax": most}


def missing(x: Any, y: Any, cells: NDArray[np.bool], words: str) -> list[dict[str, Any]]:
    """A trace of grey cells below a heatmap, where it has no value; none if all have one."""
    if not cells.any():
        return []
    return [
        {
            "type": "heatmap",
            "name": words,
            "meta": {"missing": True},
            "x": x,
            **({} if y is None else {"y": y}),
            "z": np.where(cells, 0.0, np.nan),
            "colorscale": [[0, "#cdcdcd"], [1, "#cdcdcd"]],
            "showscale": False,
            "hovertemplate": f"{words}<extra></extra>",
        }
    ]


def _scale(
    low: float, high: float, values: NDArray[np.float64], positions: NDArray[np.float64]
) -> dict[str, Any]:
    places = (values - low) / (high - low)
    places[[0, -1]] = 0, 1
    colours = [_colour(float(position)) for position in positions]
    stops = [[float(place), colour] for place, colour in zip(places, colours, strict=True)]
    return {"colorscale": stops, "zmin": low, "zmax": high}


def _colour(position: float) -> str:
    anchors = _BLUES if position >= 0 else _ORANGES
    at = np.linspace(0, 1, len(anchors))
    parts = [round(float(np.interp(abs(position), at, anchors[:, part]))) for part in range(3)]
    return f"rgb({', '.join(map(str, parts))})"
