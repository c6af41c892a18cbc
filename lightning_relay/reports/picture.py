"""A figure as a picture: what plotly shows of it without what moves, for places that take images.

Only what our figures have is drawn: heatmaps, bars, lines and marks with error bars, frames, a
legend and scales of colours. Texts over points, menus and sliders are left out.
"""

from __future__ import annotations

from html import unescape
from typing import TYPE_CHECKING, Any

import numpy as np

from lightning_relay.reports.axes import Axis, axes_of
from lightning_relay.reports.canvas import (
    LARGE,
    SCALE,
    SMALL,
    Canvas,
    length,
    rgba,
    shortened,
    wrapped,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from lightning_relay.reports.canvas import Point
    from lightning_relay.reports.figure import Figure

WIDTH, HEIGHT = 350, 330
"""Size in points: TensorBoard shows images 350 pixels wide, and shrinks wider ones."""

_EDGE, _LINE, _ROW = 6, 13, 15
"""Free points at the edges; heights of a line of text and of a row of the legend."""

_BELOW = 32
"""Points below the lowest axis for its numbers and its title."""

_BAR, _BESIDE = 8, 44
"""Width of a scale of colours, and of what it takes at the right."""

_OUTLINED = 6
"""Minimum width of a hollow bar with an outline, points; of a narrower one, the end is drawn."""

_GRID, _FRAME = "#dddddd", "#bbbbbb"

_LONGEST = 110
"""Maximum length of a name at an axis, points."""


def picture_of(figure: Figure, *, large: bool = False) -> NDArray[np.uint8]:
    """Pixels of a figure, RGB, uint8 ``(330, 350, 3)``; twice as large in both ways if asked for.

    Raises a ValueError if a trace is of a type that is not drawn.
    """
    canvas, layout = Canvas(WIDTH, HEIGHT), figure["layout"]
    room = WIDTH - 2 * _EDGE
    title = unescape(layout["title"]["text"])
    canvas.text(_EDGE, 4, shortened(title, room, LARGE), "la", LARGE)
    told = layout["title"]["subtitle"]["text"].split("<br>")
    lines = [part for line in told for part in wrapped(unescape(line), room)]
    for place, line in enumerate(lines):
        canvas.text(_EDGE, 20 + place * _LINE, line, "la")
    entries = _entries(figure)
    rows = _rows(entries, room)
    scales = list(_scales(figure))
    beside = any("x" not in about["colorbar"] for about in scales)
    box = (
        float(_EDGE + _left(figure)),
        20.0 + len(lines) * _LINE + (22 if scales else 8),
        float(WIDTH - (_BESIDE if beside else _EDGE + 6)),
        float(HEIGHT - len(rows) * _ROW - _BELOW - 2),
    )
    axes = axes_of(figure, box)
    for axis in axes.values():
        _draw_axis(canvas, axis, axes)
    stacks: dict[Any, float] = {}
    for trace in figure["data"]:
        on = axes[trace.get("xaxis", "x")], axes[trace.get("yaxis", "y")]
        if trace["type"] == "heatmap":
            _draw_cells(canvas, trace, layout, *on)
        elif trace["type"] == "bar":
            _draw_bars(canvas, trace, 1 - layout.get("bargap", 0.2), *on, stacks)
        elif trace["type"] == "scatter":
            _draw_points(canvas, trace, *on)
        else:
            raise ValueError(f"figure: got a trace of type {trace['type']!r}, which is not drawn")
    for shape in layout.get("shapes", ()):
        _draw_shape(canvas, shape, axes, box)
    for about in scales:
        _draw_scale(canvas, about, box)
    _draw_legend(canvas, rows)
    return canvas.pixels(large=large)


def _left(figure: Figure) -> float:
    """Points left of the axes, for numbers or names and an upright title."""
    longest = 24.0
    for name, about in figure["layout"].items():
        if name.startswith("yaxis") and about.get("type") == "category":
            own = [
                str(value)
                for trace in figure["data"]
                if trace.get("yaxis", "y") == name.replace("axis", "")
                for value in trace.get("y", ())
            ]
            own += map(str, about.get("categoryarray", ()))
            longest = max([longest, *(min(_LONGEST, length(value)) for value in own)])
    return longest + 18


def _draw_axis(canvas: Canvas, axis: Axis, axes: Mapping[str, Axis]) -> None:
    """Lines, numbers or names, and the title."""
    across = axes[axis.anchor] if axis.anchor in axes else axes["y" if axis.key[0] == "x" else "x"]
    middle = (axis.start + axis.end) / 2
    title = shortened(unescape(axis.title), abs(axis.end - axis.start))
    for place, label in axis.ticks(13 if axis.key[0] == "y" else _apart(axis)):
        if axis.key[0] == "x":
            if axis.grid:
                canvas.line([(place, across.start), (place, across.end)], _GRID)
            canvas.text(place, across.start + 4, unescape(label), "ma")
        else:
            if axis.grid:
                canvas.line([(across.start, place), (across.end, place)], _GRID)
            canvas.text(across.start - 4, place, shortened(unescape(label), _LONGEST), "rm")
    ends = (axis.start, across.start), (axis.end, across.start)
    if axis.key[0] == "x":
        canvas.line(ends, _FRAME)
        canvas.text(middle, across.start + 18, title, "ma")
    else:
        canvas.line([(across.start, axis.start), (across.start, axis.end)], _FRAME)
        first = across.start == min(own.start for own in axes.values() if own.key[0] == "x")
        canvas.upright(2 if first else across.start - 38, middle, title)
    if axis.zero and axis.low <= 0 <= axis.high:
        place = float(axis.of(0))
        if axis.key[0] == "x":
            canvas.line([(place, across.start), (place, across.end)], _FRAME)
        else:
            canvas.line([(across.start, place), (across.end, place)], _FRAME)


def _apart(axis: Axis) -> float:
    """Points between ticks, so that numbers or names do not touch."""
    return 28.0 if axis.names is None else 8 + max(length(name) for name in axis.names)


def _scale_of(trace: Mapping[str, Any], layout: Mapping[str, Any]) -> Mapping[str, Any]:
    """What says the colours of a heatmap, or of marks, with ends ``low`` and ``high``."""
    about = layout[trace["coloraxis"]] if "coloraxis" in trace else trace
    low = about.get("zmin", about.get("cmin", 0.0))
    return {**about, "low": low, "high": about.get("zmax", about.get("cmax", 1.0))}


def _scales(figure: Figure) -> Iterator[Mapping[str, Any]]:
    """Scales of colours that are shown, each once."""
    if "coloraxis" in figure["layout"]:
        yield _scale_of({"coloraxis": "coloraxis"}, figure["layout"])
    for trace in figure["data"]:
        for about in (trace, trace.get("marker", {})):
            if "colorbar" in about and about.get("showscale", True):
                yield _scale_of(about, figure["layout"])


def _colours(about: Mapping[str, Any], values: NDArray[np.float64]) -> NDArray[np.uint8]:
    """The nearest colours of the scale, uint8 ``(…, 3)``: few colours make small files."""
    stops = [stop for stop, _ in about["colorscale"]]
    colours = np.array([rgba(colour)[:3] for _, colour in about["colorscale"]], dtype=np.uint8)
    places = (np.nan_to_num(values) - about["low"]) / (about["high"] - about["low"])
    nearest: NDArray[np.int64] = np.interp(places, stops, np.arange(len(stops))).round().astype(int)
    return colours[nearest]


def _draw_cells(
    canvas: Canvas, trace: dict[str, Any], layout: Mapping[str, Any], x: Axis, y: Axis
) -> None:
    """A heatmap. Of cells that share a point, the one that is farthest from 0 is drawn."""
    cells = np.asarray(trace["z"], dtype=np.float64)
    most, corner, sides = 1, [], []
    for axis, many, along in ((y, len(cells), 0), (x, cells.shape[1], 1)):
        places = axis.at(trace.get(axis.key[0], np.arange(many)))
        order = np.argsort(places)
        half = abs(axis.end - axis.start) / abs(axis.high - axis.low) / 2
        edges = np.round(np.append(places[order] - half, places[order][-1] + half)).astype(int)
        shown = np.flatnonzero(np.diff(edges))
        starts = np.append(0, shown[:-1] + 1)  # cells without a point join the next with one
        most *= int(np.diff(starts, append=many).max())
        cells = _joined(cells.take(order, along), starts, along)
        corner.append(int(edges[0]))
        sides.append(SCALE * np.diff(edges)[shown])
    opacity = np.where(np.isfinite(cells), round(255 * trace.get("opacity", 1.0)), 0)
    colours = _colours(_scale_of(trace, layout), cells)
    pixels = np.concatenate([colours, opacity[..., None].astype(np.uint8)], axis=-1)
    canvas.paste(pixels.repeat(sides[0], 0).repeat(sides[1], 1), corner[1], corner[0])
    if most > 1:
        words = f"of up to {most} cells, farthest from 0"
        canvas.text(x.start, min(y.start, y.end) - 3, words, "ls")


def _joined(cells: NDArray[np.float64], starts: NDArray[np.int64], along: int) -> Any:
    """Of the cells from each start to the next, the one that is farthest from 0."""
    if len(starts) == cells.shape[along]:
        return cells
    lowest, highest = (part.reduceat(cells, starts, along) for part in (np.fmin, np.fmax))
    return np.where(np.abs(np.nan_to_num(lowest)) > np.abs(np.nan_to_num(highest)), lowest, highest)


def _draw_bars(
    canvas: Canvas, trace: dict[str, Any], part: float, x: Axis, y: Axis, stacks: dict[Any, float]
) -> None:
    """Bars, stacked upwards from 0 or downwards."""
    half = part * abs(float(x.of(1) - x.of(0))) / 2
    edge = trace["marker"]["line"]["color"]
    lows = []
    for name, value in zip(trace["x"], trace["y"].tolist(), strict=True):
        lows.append(stacks.get(key := (y.key, name, value < 0), 0.0))
        stacks[key] = lows[-1] + value
    parts = x.at(trace["x"]), y.of(lows), y.of(np.array(lows) + trace["y"])
    bars = zip(*(own.tolist() for own in parts), trace["marker"]["color"], strict=True)
    for middle, start, end, fill in bars:
        hollow = rgba(fill)[3] == 0
        if hollow and 2 * half < _OUTLINED:  # outlines side by side would fill it
            canvas.line([(middle - half, end), (middle + half, end)], edge)
        else:
            canvas.box((middle - half, start), (middle + half, end), fill, edge if hollow else None)


def _draw_points(canvas: Canvas, trace: dict[str, Any], x: Axis, y: Axis) -> None:
    """A line, marks, or both; with error bars."""
    xs, ys = x.at(trace["x"]), y.at(trace["y"])
    line = trace.get("line", {})
    if trace.get("fill") == "toself":
        canvas.area(list(zip(xs.tolist(), ys.tolist(), strict=True)), trace["fillcolor"])
        return
    if "lines" in trace["mode"]:
        for part in _unbroken(xs, ys):
            way = _stairs(part, x) if line.get("shape") == "hvh" else part
            canvas.line(way, line["color"], line.get("width", 1.5), line.get("dash", "solid"))
    for axis, values in ((x, trace["x"]), (y, trace["y"])):
        bars = trace.get(f"error_{axis.key[0]}")
        if bars is not None:
            _draw_errors(canvas, bars, axis, axis.values(values), xs, ys)
    marker = trace.get("marker", {})
    if "markers" in trace["mode"]:
        _draw_marks(canvas, marker, line, xs, ys)
    if "text" in trace["mode"]:
        for place, words in enumerate(trace["text"]):
            canvas.text(xs[place] + 5, ys[place], words, "lm", SMALL - 1)


def _draw_marks(
    canvas: Canvas,
    marker: Mapping[str, Any],
    line: Mapping[str, Any],
    xs: NDArray[np.float64],
    ys: NDArray[np.float64],
) -> None:
    given = marker.get("color", line.get("color", "#444444"))
    if isinstance(given, str):
        fills = [given] * len(xs)
    elif "colorscale" in marker:
        colours = _colours(_scale_of(marker, {}), np.asarray(given, dtype=np.float64))
        fills = [f"#{bytes(own).hex()}" for own in colours]
    else:
        fills = list(given)
    for at, fill in zip(zip(xs, ys, strict=True), fills, strict=True):
        if np.isfinite(at).all():
            edge = marker.get("line", {}).get("color", fill)
            size = 0.8 * marker.get("size", 6)
            canvas.mark(at, size, marker.get("symbol", "circle"), fill, edge)


def _draw_errors(
    canvas: Canvas,
    bars: Mapping[str, Any],
    axis: Axis,
    values: NDArray[np.float64],
    xs: NDArray[np.float64],
    ys: NDArray[np.float64],
) -> None:
    ends = axis.of(values - bars["arrayminus"]), axis.of(values + bars["array"])
    for low, high, at_x, at_y in zip(*ends, xs, ys, strict=True):
        if np.isfinite([low, high]).all():
            across = axis.key[0] == "x"
            way = [(low, at_y), (high, at_y)] if across else [(at_x, low), (at_x, high)]
            canvas.line(way, bars["color"], bars.get("thickness", 1))


def _unbroken(xs: NDArray[np.float64], ys: NDArray[np.float64]) -> Iterator[list[Point]]:
    """Parts of a line between its gaps."""
    there = np.isfinite(xs) & np.isfinite(ys)
    for part in np.split(np.arange(len(xs)), np.flatnonzero(~there)):
        own = part[there[part]]
        if len(own):
            yield list(zip(xs[own].tolist(), ys[own].tolist(), strict=True))


def _stairs(points: Sequence[Point], x: Axis) -> list[Point]:
    """The line with a level part around each of its points."""
    half = abs(float(x.of(1) - x.of(0))) / 2
    ends = [[(at - half, y), (at + half, y)] for at, y in points]
    way = [end for pair in ends for end in pair]
    return [points[0], *way[1:-1], points[-1]]


def _draw_shape(
    canvas: Canvas, shape: Mapping[str, Any], axes: Mapping[str, Axis], box: Sequence[float]
) -> None:
    """A frame or a line between two corners."""
    left, top, right, bottom = box
    corners = []
    for end in ("0", "1"):
        x, y = shape[f"x{end}"], shape[f"y{end}"]
        on_x, on_y = axes.get(shape.get("xref", "x")), axes.get(shape.get("yref", "y"))
        corners.append(
            (
                left + x * (right - left) if on_x is None else _place(on_x, x),
                bottom + y * (top - bottom) if on_y is None else _place(on_y, y),
            )
        )
    about = shape["line"]
    if shape["type"] == "rect":
        canvas.box(corners[0], corners[1], None, about["color"], about["width"])
    else:
        canvas.line(corners, about["color"], about["width"])


def _place(axis: Axis, value: Any) -> float:
    return float(axis.at([value])[0] if isinstance(value, str) else axis.of(value))


def _draw_scale(canvas: Canvas, about: Mapping[str, Any], box: Sequence[float]) -> None:
    """A scale of colours with its ends, and its title above it."""
    left, top, right, bottom = box
    bar = about["colorbar"]
    size, middle = bar.get("len", 1.0), bar.get("y", 0.5)
    x = left + bar["x"] * (right - left) + 4 if "x" in bar else right + 6
    low, high = (bottom + (middle + sign * size / 2) * (top - bottom) for sign in (-1, 1))
    pixels = max(1, round(SCALE * (low - high)))
    values = np.linspace(about["high"], about["low"], pixels)
    colours = np.repeat(_colours(about, values)[:, None], SCALE * _BAR, 1)
    opaque = np.full((*colours.shape[:2], 1), 255, np.uint8)
    canvas.paste(np.concatenate([colours, opaque], -1), x, high)
    canvas.box((x, high), (x + _BAR, low), None, _FRAME)
    title = bar["title"]["text"]
    canvas.text(min(x, WIDTH - 2 - length(title)), high - 8, title, "ls")
    for value in sorted({about["low"], *([0.0] if about["low"] < 0 else []), about["high"]}):
        place = low + (value - about["low"]) / (about["high"] - about["low"]) * (high - low)
        canvas.text(x + _BAR + 3, place, f"{value:.{2 if abs(value) < 1 else 3}g}", "lm")


def _entries(figure: Figure) -> list[dict[str, Any]]:
    """Traces with a row in the legend; none if there is one only."""
    named = [
        trace
        for trace in figure["data"]
        if trace["type"] in ("scatter", "bar") and trace.get("showlegend", True)
    ]
    return named if len(named) > 1 or figure["layout"].get("showlegend") else []


def _label(trace: Mapping[str, Any]) -> str:
    return shortened(unescape(trace["name"]), WIDTH - 2 * _EDGE - 32)


def _rows(entries: Sequence[dict[str, Any]], room: float) -> list[list[dict[str, Any]]]:
    rows: list[list[dict[str, Any]]] = []
    left = 0.0
    for entry in entries:
        size = length(_label(entry)) + 32
        if not rows or size > left:
            rows.append([])
            left = room
        rows[-1].append(entry)
        left -= size
    return rows


def _draw_legend(canvas: Canvas, rows: Sequence[Sequence[dict[str, Any]]]) -> None:
    for row, entries in enumerate(rows):
        x, y = float(_EDGE), HEIGHT - (len(rows) - row) * _ROW + 4.0
        for trace in entries:
            if trace["type"] == "bar":
                fill = next((own for own in trace["marker"]["color"] if rgba(own)[3]), None)
                canvas.box((x + 3, y - 4), (x + 17, y + 4), fill, trace["marker"]["line"]["color"])
            else:
                sample = {
                    **{name: own for name, own in trace.items() if not name.startswith("error_")},
                    "mode": trace["mode"].replace("+text", ""),
                }
                _draw_sample(canvas, sample, x, y)
            canvas.text(x + 22, y, _label(trace), "lm")
            x += length(_label(trace)) + 32


def _draw_sample(canvas: Canvas, trace: dict[str, Any], x: float, y: float) -> None:
    """A line and a mark as in a trace."""
    line = trace.get("line", {})
    if "lines" in trace["mode"]:
        ends = [(x + 2, y), (x + 18, y)]
        canvas.line(ends, line["color"], line.get("width", 1.5), line.get("dash", "solid"))
    if "markers" in trace["mode"]:
        marker = dict(trace.get("marker", {}))
        colour = marker.get("color", line.get("color", "#444444"))
        if not isinstance(colour, str):
            marker["color"] = str(colour[0]) if "colorscale" not in marker else "#444444"
            marker.pop("colorscale", None)
        _draw_marks(canvas, marker, line, np.array([x + 10]), np.array([y]))
