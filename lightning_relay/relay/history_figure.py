"""Interactive figure of many relay reports: when the shares of units formed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lightning_relay.relay.shown import SHARES_NOT_MEASURED
from lightning_relay.reports.figure import (
    BLUE,
    GREEN,
    GREY,
    LIMIT,
    SERIES,
    Figure,
    axis,
    faded,
    figure_of,
    line,
    plain,
)
from lightning_relay.reports.names import known

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from lightning_relay.relay.report import RelayReport

_COLOURED = 8
"""Number of units with a colour of their own, those with the largest shares."""


_MOST_POINTS = 100_000
"""Maximum number of points of the other units; a browser draws them in less than two seconds."""


@dataclass(frozen=True)
class Moment:
    """What a history shows of one report, of a layer and a concept at a step.

    Attributes:
        information: I_R of all units, bits.
        mutual_information: I(X_in; X_out), bits.
        input_entropy: H(X_in), bits.
        accuracy: Fraction of the sequences whose X_out equals X_in.
        covered: Whether there are enough sequences for the states of all units.
        share: Relay share of each unit, bits, float64 ``(unit,)``; None if it was not measured.
    """

    information: float
    mutual_information: float
    input_entropy: float
    accuracy: float
    covered: bool
    share: NDArray[np.float64] | None


def moment_of(report: RelayReport, layer: str, concept: str, step: int) -> Moment | None:
    """What a report has to show; None if it lacks the layer, the concept or the step."""
    results = report.layers.get(layer)
    if results is None or concept not in results.concepts:
        return None
    relay = results[concept]
    try:
        place = relay.place(step)
    except ValueError:
        return None
    return Moment(
        information=float(relay.information[place, 0]),
        mutual_information=float(relay.mutual_information[place]),
        input_entropy=report.input_entropy[concept],
        accuracy=float(relay.accuracy[place]),
        covered=bool(report.covered(layer, concept)[place]),
        share=None if relay.share is None else relay.share[place].copy(),
    )


def history_figure(
    reports: Iterable[tuple[float, RelayReport]],
    layer: str | None = None,
    concept: str | None = None,
    step: int = -1,
    *,
    unit: int | None = None,
    along: str = "epoch",
) -> Figure:
    """Bits relayed at a step over the reports of a run, and below each unit's share of them.

    Args:
        reports: Epoch (or number of optimizer steps) and report, in any order. They are read one
            after the other and not kept. Where one lacks the layer, the concept, the step or
            shares, there is a gap.
        layer: Key of the layer. Default: the first of the first report.
        concept: Name of the concept. Default: the first of the layer.
        step: One of the layer's ``time_steps``; or -1, the step that the layer computes last.
        unit: Index of a unit that is highlighted. Default: none.
        along: Title of the horizontal axis.

    Raises:
        KeyError: If no report has the layer or the concept; lists the known ones.
        ValueError: If there is no report, if several are of one epoch, or if none has the step or
            the unit.
    """
    moments: dict[float, Moment | None] = {}
    layers: dict[str, Mapping[str, Any]] = {}
    for x, report in reports:
        if x in moments:
            raise ValueError(
                f"reports: got two of {along} {x:g}; name the callback that made them with "
                "load_reports(log_dir, prefix=...), or the dataloader"
            )
        layer = next(iter(report.layers)) if layer is None else layer
        layers |= {key: {**layers.get(key, {}), **report[key].concepts} for key in report.layers}
        if concept is None and layer in report.layers:
            concept = next(iter(report[layer].concepts))
        moments[x] = None if concept is None else moment_of(report, layer, concept, step)
    if layer is None:
        raise ValueError("reports: there is no report of an epoch; it takes one or more")
    found = known("layer", layer, layers)
    if concept is None:
        raise ValueError(f"layer: got {layer!r}, of which no concept was measured")
    relay = known("concept", concept, found)
    if not any(moments.values()):
        relay.place(step)  # says which steps there are
    return moments_figure(moments, f"{layer}: {concept}", step, unit, along)


def moments_figure(
    moments: Mapping[float, Moment | None],
    title: str,
    step: int,
    unit: int | None,
    along: str = "epoch",
) -> Figure:
    """The figure of what reports have to show, by epoch or number of optimizer steps.

    Without shares there are the bits and the accuracy. Raises a ValueError if no report has
    anything to show, or there is no such unit.
    """
    times = np.array(sorted(moments), dtype=np.float64)
    there = {x: own for x, own in moments.items() if own is not None}
    if not there:
        raise ValueError(f"reports: none has the layer, the concept and step {step}")
    bits = [part for own in there.values() for part in (own.information, own.mutual_information)]
    lowest = min(0.0, *bits)
    highest = max(*(own.input_entropy for own in there.values()), *bits)
    margin = 0.05 * (highest - lowest)
    when = "at the last step" if step == -1 else f"at step {step}"
    text = f"relayed {when} by all units"
    if not all(own.covered for own in there.values()):
        text += "; hollow: too few sequences"
    traces, words = _of_units(times, there, unit, along)
    layout = {
        "xaxis": axis(along, anchor="y2" if traces else "y"),
        "yaxis": axis(
            "bits",
            domain=[0.62 if traces else 0, 1],
            range=[lowest - margin, highest + margin],
        ),
        "yaxis3": axis(
            "accuracy",
            overlaying="y",
            side="right",
            range=[-0.05, 1.05],
            tickvals=[0, 0.5, 1],
            showgrid=False,
        ),
    }
    if traces:
        zero = {"zeroline": True, "zerolinecolor": GREY}
        layout["yaxis2"] = axis("share, bits", domain=[0, 0.54], **zero)
    return figure_of(
        plain(title),
        f"{text}; {words}",
        [*_bits(times, moments), *traces],
        **layout,
        legend={"x": 1.08, "y": 1},
        margin={"l": 60, "r": 60, "t": 70, "b": 50},
    )


def _of_units(
    times: NDArray[np.float64], there: Mapping[float, Moment], unit: int | None, along: str
) -> tuple[list[dict[str, Any]], str]:
    """Traces of the shares, and words about them; no trace if shares were not measured."""
    units = max(len(own.share) if own.share is not None else 0 for own in there.values())
    if not units:
        return [], SHARES_NOT_MEASURED.removeprefix("report: ")
    if unit is not None and not 0 <= unit < units:
        raise ValueError(f"unit: got {unit}; the layer has units 0 to {units - 1}")
    table = np.full((len(times), units), np.nan)
    for row, x in enumerate(times.tolist()):
        if x in there and (share := there[x].share) is not None:
            table[row, : len(share)] = share
    rows = np.flatnonzero(np.isfinite(table).any(1))
    order = np.argsort(-np.nan_to_num(table[rows[-1]], nan=-np.inf), kind="stable")
    coloured = order[:_COLOURED].tolist()
    if unit is not None and unit not in coloured:
        coloured.append(unit)
    words = "below, each unit's share"
    others = [own for own in order.tolist() if own not in coloured]
    drawn_others = others[: _MOST_POINTS // len(times)]
    if others:
        words += f"; coloured: the {min(_COLOURED, units)} largest at {along} {times[rows[-1]]:g}"
    if len(drawn_others) < len(others):
        words += f"; {len(others) - len(drawn_others)} smaller ones are not drawn"
    traces = [*_others(times, table, drawn_others), *_units(times, table, coloured, unit)]
    return traces, words


def _bits(
    times: NDArray[np.float64], moments: Mapping[float, Moment | None]
) -> list[dict[str, Any]]:
    """Traces of bits, hollow for too few sequences, and of the accuracy."""
    parts = [
        (own.information, own.mutual_information, own.accuracy, own.covered)
        if (own := moments[x])
        else (np.nan, np.nan, np.nan, True)
        for x in times.tolist()
    ]
    relayed, shared, accuracy, covered = np.array(parts, dtype=np.float64).T
    fill = ["white" if not own else BLUE for own in covered]
    words = ["" if own else "<br>too few sequences" for own in covered]
    whole = line(times, relayed, "I_R of all units", BLUE) | {
        "mode": "lines+markers",
        "marker": {"size": 6, "color": fill, "line": {"color": BLUE, "width": 1.5}},
        "text": words,
        "hoverinfo": None,
        "hovertemplate": "%{x}: %{y:.3f} bits relayed by all units%{text}<extra></extra>",
    }
    limit = line(times, shared, "I(in; out)", LIMIT) | {
        "mode": "lines+markers",
        "marker": {"size": 3},
        "hoverinfo": None,
        "hovertemplate": "%{x}: input and output share %{y:.3f} bits<extra></extra>",
    }
    right = line(times, accuracy, "accuracy (right)", GREEN, dash="dot") | {
        "yaxis": "y3",
        "hoverinfo": None,
        "hovertemplate": "%{x}: accuracy %{y:.3f}<extra></extra>",
    }
    return [limit, right, whole]


def _others(
    times: NDArray[np.float64], table: NDArray[np.float64], units: Sequence[int]
) -> list[dict[str, Any]]:
    """One grey trace with a line for each other unit; gaps part them."""
    if not units:
        return []
    gap = np.full((len(units), 1), np.nan)
    x = np.concatenate([np.tile(times, (len(units), 1)), gap], 1)
    y = np.concatenate([table[:, list(units)].T, gap], 1)
    grey = line(x.ravel(), y.ravel(), "other units", faded(GREY, 0.6))
    return [
        grey
        | {
            "yaxis": "y2",
            "line": {"color": faded(GREY, 0.6), "width": 1},
            "customdata": np.repeat(np.array(units), x.shape[1]),
            "meta": {"unit": "customdata"},
            "hoverinfo": None,
            "hovertemplate": "%{x}: unit %{customdata}, share %{y:.3f} bits<extra></extra>",
        }
    ]


def _units(
    times: NDArray[np.float64], table: NDArray[np.float64], units: Sequence[int], marked: int | None
) -> list[dict[str, Any]]:
    """A trace for each coloured unit, the marked one thick."""
    return [
        line(times, table[:, unit], f"unit {unit}", SERIES[row % len(SERIES)])
        | {
            "yaxis": "y2",
            "mode": "lines+markers",
            "marker": {"size": 4},
            "customdata": np.full(len(times), unit),
            "meta": {"unit": "customdata"},
            "line": {
                "color": SERIES[row % len(SERIES)],
                "width": 4 if unit == marked else 1.5,
            },
            "hoverinfo": None,
            "hovertemplate": f"%{{x}}: unit {unit}, share %{{y:.3f}} bits<extra></extra>",
        }
        for row, unit in enumerate(units)
    ]
