"""Interactive figure of a latent structure: the ways of classes, step by step, and attractors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lightning_relay.latent.shown import (
    KINDS,
    frequent_classes,
    kinds_of,
    plane,
    steps_in_time,
    variance_along,
)
from lightning_relay.reports.figure import GREY, SERIES, Figure, axis, faded, figure_of, line
from lightning_relay.reports.steps import place_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lightning_relay.latent.structure import Attractors, LatentStructure

_SYMBOLS = ({"symbol": "x"}, {"symbol": "circle-open"}, {"symbol": "diamond"})
"""Marks of the kinds of attractors."""


def latent_figure(latent: LatentStructure, title: str, step: int) -> Figure:
    """Class means on their way in the first two components, and attractors.

    A slider moves a disc for each class along its way; it begins at ``step``.
    """
    order = steps_in_time(latent)
    last = place_of(-1, latent.time_steps, backward=latent.backward)
    moments = [*order.tolist(), *([] if last in order else [last])]
    start = moments.index(place_of(step, latent.time_steps, backward=latent.backward))
    rows = frequent_classes(latent, len(SERIES))
    means = plane(latent.trajectories)
    traces: list[dict[str, Any]] = []
    for row, colour in zip(rows, SERIES, strict=False):
        traces += _of_class(latent, int(row), colour, order)
    discs = [
        {
            **_points(means[row, moments[start]][None], f"class {latent.classes[row]}"),
            "marker": {"size": 12, "color": colour, "line": {"color": "black", "width": 1}},
            "legendgroup": f"class {latent.classes[row]}",
            "showlegend": False,
            "hovertemplate": f"mean of class {latent.classes[row]}<extra></extra>",
        }
        for row, colour in zip(rows, SERIES, strict=False)
    ]
    numbers = list(range(len(traces), len(traces) + len(discs)))
    steps = []
    for moment in moments:
        at = [
            [[None if np.isnan(own) else float(own)] for own in part]
            for part in means[rows, moment].T
        ]
        name = str(latent.time_steps[moment])
        moved = {"x": at[0], "y": at[1]}
        steps.append({"label": name, "method": "restyle", "args": [moved, numbers]})
    if latent.attractors is not None:
        discs += _attractors(latent, latent.attractors)
    ranges = [_range([trace[part] for trace in traces + discs]) for part in ("x", "y")]
    first, second = variance_along(latent)
    words = [latent.in_words()]
    if latent.attractors is not None:
        words.append(latent.attractors.in_words())
    words.append(
        "lines: class means"
        + ("" if latent.inputs_ended[order].all() else ", dotted: not all input seen")
        + "; small dots: single sequences at the last step"
    )
    if len(rows) < len(latent.classes):
        words.append(f"{len(latent.classes) - len(rows)} less frequent classes are not drawn")
    return figure_of(
        title,
        "<br>".join(words),
        [*traces, *discs],
        xaxis=axis(f"component 1 ({first} of the variance)", range=ranges[0]),
        yaxis=axis(f"component 2 ({second})", range=ranges[1], scaleanchor="x"),
        legend={"x": 1.02, "y": 1},
        margin={"l": 60, "r": 20, "t": 60 + 16 * len(words), "b": 50},
        sliders=[
            {
                "active": start,
                "steps": steps,
                "currentvalue": {"prefix": "discs: class means at step "},
                "pad": {"t": 55},
            }
        ],
    )


def _of_class(
    latent: LatentStructure, row: int, colour: str, order: NDArray[np.int64]
) -> list[dict[str, Any]]:
    """Traces of single sequences at the last step, and of the way of the class mean."""
    label, name = latent.classes[row], f"class {latent.classes[row]}"
    group = {"legendgroup": name}
    own = plane(latent.points[latent.point_classes == label])
    steps = order[latent.samples[row, order] > 0]
    way = plane(latent.trajectories[row, steps])
    ended = latent.inputs_ended[steps]
    # The line to a step is thick if all inputs were seen there, so the last step before joins it.
    thick = ended | np.append(ended[1:], False)
    dots = _points(own, f"{name}: sequences at the last step") | group
    words = [
        f"{name} at step {latent.time_steps[step]}<br>mean of {latent.samples[row, step]} sequences"
        + ("" if latent.inputs_ended[step] else "<br>not all input seen")
        for step in steps
    ]
    hover = {"text": words, "hoverinfo": None, "hovertemplate": "%{text}<extra></extra>"}
    traces = [
        dots | {"showlegend": False, "marker": {"size": 3, "color": faded(colour, 0.4)}},
        line(way[:, 0], way[:, 1], f"{name}: not all input seen", colour, dash="dot")
        | group
        | hover
        | {"showlegend": False, "line": {"color": colour, "width": 1, "dash": "dot"}},
    ]
    y = np.where(thick, way[:, 1], np.nan)
    mode = {"mode": "lines+markers", "marker": {"size": 4}, "line": {"color": colour, "width": 2}}
    return [*traces, line(way[:, 0], y, name, colour) | group | hover | mode]


def _attractors(latent: LatentStructure, found: Attractors) -> list[dict[str, Any]]:
    """A trace for each kind of attractor that there is."""
    kinds = kinds_of(found)
    traces = []
    for kind, name in enumerate(KINDS):
        own = np.flatnonzero(kinds == kind)
        if not len(own):
            continue
        drawn, words = [], []
        for attractor in own:
            states = plane(latent.projected(found.states[found.attractor == attractor]))
            closed = [*states, states[0]] if kind == 1 else [*states]
            drawn += [*closed, np.full(2, np.nan)]
            words += [*[_attractor_in_words(found, int(attractor), name)] * len(closed), ""]
        traces.append(
            {
                **_points(np.array(drawn), name),
                "legendrank": 1,
                "mode": "lines+markers" if kind == 1 else "markers",
                "line": {"color": GREY, "width": 1},
                "marker": {"color": "black", "size": 8, **_SYMBOLS[kind]},
                "text": words,
                "hoverinfo": None,
                "hovertemplate": "%{text}<extra></extra>",
            }
        )
    return traces


def _attractor_in_words(found: Attractors, attractor: int, kind: str) -> str:
    """What is known about an attractor, for its hover text."""
    starts = int(found.basins[attractor].sum())
    period = f" of period {found.period[attractor]}" if found.period[attractor] > 1 else ""
    words = f"{kind}{period}<br>{starts} of {found.starts} states lead to it"
    largest = found.largest[attractor]
    if not np.isnan(largest):
        words += f"<br>largest eigenvalue {largest:.3f}"
    return words


def _range(parts: list[NDArray[np.float64]]) -> list[float]:
    """Ends of an axis, so that it stays while the discs move."""
    drawn = np.concatenate(parts)
    low, high = float(np.nanmin(drawn)), float(np.nanmax(drawn))
    margin = 0.08 * (high - low) or 1.0
    return [low - margin, high + margin]


def _points(states: NDArray[np.float64], name: str) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": states[:, 0],
        "y": states[:, 1],
        "hoverinfo": "skip",
    }
