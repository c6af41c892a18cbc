"""Interactive figures of a relay report: shares, number of units, transfer, all layers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from lightning_relay.latent.figure import latent_figure
from lightning_relay.relay.shown import (
    epoch_of,
    latent_of,
    most_bits,
    share_of,
    title_of,
    transfer_of,
)
from lightning_relay.relay.summary import lags_in_words
from lightning_relay.reports.figure import (
    BLUE,
    GREY,
    LIMIT,
    ORANGE,
    PALE_BLUE,
    PALE_GREY,
    PALE_ORANGE,
    Figure,
    axis,
    bits_scale,
    blues,
    error_bars,
    figure_of,
    frame,
    line,
    marked_row,
    missing,
    plain,
    ring,
    signed_scale,
    steps_axis,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from numpy.typing import NDArray

    from lightning_relay.relay.report import ConceptRelay, LayerRelay, RelayReport

_IN_SHARES = "in units' shares"

_MARKED = 200
"""Curves with more points have no marks, which would touch and take long to draw."""


def share_figure(
    report: RelayReport, layer: str, concept: str, step: int, unit: int | None
) -> Figure:
    """Bits relayed by all units at each step, and below the share of each unit in them.

    Both scales end at H(X_in), so figures of different epochs can be compared.
    """
    results = report[layer]
    relay = results[concept]
    share = share_of(relay)
    names = [str(own) for own in results.time_steps]
    most = most_bits(report, [relay], concept)
    shares = {
        "type": "heatmap",
        "name": "share",
        "x": names,
        "z": share.T,
        "customdata": np.asarray(relay.share_error).T,
        "yaxis": "y2",
        "meta": {"step": "x", "unit": "y"},
        "hovertemplate": "step %{x}, unit %{y}<br>share %{z:.3f} ± %{customdata:.3f} bits"
        "<extra></extra>",
        "colorbar": {"title": {"text": "bits"}, "len": 0.6, "y": 0.3, "thickness": 12},
        **bits_scale(most),
    }
    traces = [*_bars(report, layer, concept), shares]
    differ = bool((results.samples != results.samples[0]).any())
    sequences: dict[str, Any] = {}
    if differ:
        traces.append(_sequences(results))
        sequences = {"yaxis3": axis("", domain=[0.92, 1], rangemode="tozero", nticks=3)}
    return figure_of(
        title_of(report, layer, concept),
        "relayed by all units, and each unit's share; "
        + ("on top, the number of sequences" if differ else f"{results.samples[0]} sequences"),
        traces,
        barmode="relative",
        bargap=0.15,
        xaxis=steps_axis(results.time_steps, anchor="y2"),
        yaxis=axis("bits", domain=[0.68, 0.84 if differ else 1], range=_range(relay, most)),
        **sequences,
        yaxis2=axis("unit", domain=[0, 0.6], autorange="reversed", showgrid=False),
        shapes=[_marked(results, step), *marked_row(unit, "y2")],
    )


def units_figure(
    report: RelayReport, layer: str, concept: str, step: int, unit: int | None
) -> Figure:
    """What growing sets of units tell at a step, and what shrinking ones still relay."""
    results = report[layer]
    relay = results[concept]
    place = relay.place(step)
    told = relay.told[place]
    units = len(told) - 1
    most = most_bits(report, [relay], concept)
    # Resolved are the first units of the whole growing order, which goes on where telling is -1.
    sure = np.arange(units) < relay.telling_resolved[place].sum()
    taken = [
        ("no more unit" if own < 0 else f"unit {own}") + (", tied" if tied and own >= 0 else "")
        for own, tied in zip(relay.telling[place], relay.telling_tied[place], strict=True)
    ]
    traces = _curve(told, sure, ["no unit", *taken], "told by a growing set", BLUE, PALE_BLUE)
    marks = _joins(unit, relay.telling[place], told, BLUE)
    if report.measure.direction == "shrink":
        last_first = relay.units[place, ::-1]
        kept = [
            f"unit {own}" + (", tied" if relay.ambiguous[place, own] else "") for own in last_first
        ]
        traces += _curve(
            relay.information[place, ::-1],
            relay.resolved[place, last_first],
            ["no unit", *kept],
            "relayed by the units that leave last",
            ORANGE,
            PALE_ORANGE,
        )
        marks += _joins(unit, last_first, relay.information[place, ::-1], ORANGE)
        traces.append(
            line(
                np.arange(units + 1),
                relay.corrected[place, ::-1],
                "relayed, corrected",
                ORANGE,
                dash="dot",
            )
        )
    ends = np.array([0, units])
    traces.append(line(ends, np.full(2, 0.9 * told[-1]), "90 % of what all tell", GREY))
    if relay.chance_level is not None:
        level = np.full(2, relay.chance_level[place, 0])
        traces.append(line(ends, level, "chance level of all units", LIMIT, dash="dot"))
    step_of = results.time_steps[place]
    when = "at the last step" if step_of == -1 else f"at step {step_of}"
    return figure_of(
        title_of(report, layer, concept),
        f"how many units it takes {when}",
        traces + marks,
        xaxis=axis("number of units"),
        yaxis=axis("bits", range=_range(relay, most)),
    )


def order_figure(
    report: RelayReport, layer: str, concept: str, step: int, unit: int | None
) -> Figure:
    """Place of each unit in the greedy order at each step; unresolved places are left out."""
    results = report[layer]
    relay = results[concept]
    words = [
        [
            ("tied with others" if tied else "not tied") + ("" if sure else ", too few sequences")
            for tied, sure in zip(*own, strict=True)
        ]
        for own in zip(relay.ambiguous.T, relay.resolved.T, strict=True)
    ]
    names = [str(own) for own in results.time_steps]
    unresolved = int((~relay.resolved).sum())
    order = {
        "type": "heatmap",
        "name": "place",
        "x": names,
        "z": np.where(relay.resolved, relay.places, np.nan).T,
        "text": words,
        "meta": {"step": "x", "unit": "y"},
        "hovertemplate": "step %{x}, unit %{y}<br>place %{z:.1f}, %{text}<extra></extra>",
        "colorbar": {"title": {"text": "place"}, "thickness": 12},
        **blues(max(1, relay.units.shape[1] - 1)),
    }
    text = f"place in the {report.measure.direction} order, 0 is the least important"
    if unresolved:
        text += f"; too few sequences for {unresolved} of {relay.resolved.size} places"
    return figure_of(
        title_of(report, layer, concept),
        text,
        [*missing(names, None, ~relay.resolved.T, "too few sequences"), order],
        xaxis=steps_axis(results.time_steps),
        yaxis=axis("unit", autorange="reversed", showgrid=False),
        shapes=[_marked(results, step), *marked_row(unit)],
    )


def transfer_figure(
    report: RelayReport, layer: str, concept: str, step: int, _: int | None
) -> Figure:
    """Relay transfer between all pairs of steps, and its mean by lag."""
    results = report[layer]
    relay = results[concept]
    transfer = transfer_of(report, relay)
    profile = np.asarray(relay.lag_profile)
    names = [str(own) for own in results.time_steps]
    pairs = {
        "type": "heatmap",
        "name": "transfer",
        "x": names,
        "y": names,
        "z": transfer,
        "customdata": np.asarray(relay.transfer_error),
        "meta": {"step": "y"},
        "hovertemplate": "units of step %{y}, read at step %{x}<br>transfer %{z:.2f} ± "
        "%{customdata:.2f}<extra></extra>",
        "colorbar": {"title": {"text": "transfer"}, "thickness": 12, "x": 0.56},
        **signed_scale(),
    }
    lags = line(np.arange(1, len(profile) + 1), profile, "mean by lag", BLUE) | {
        "mode": "lines+markers",
        "xaxis": "x2",
        "yaxis": "y2",
        "showlegend": False,
        "hovertemplate": "lag %{x}: %{y:.2f}<extra></extra>",
    }
    return figure_of(
        title_of(report, layer, concept),
        lags_in_words(relay),
        [*missing(names, names, np.isnan(transfer), "cannot be measured"), pairs, lags],
        xaxis=steps_axis(results.time_steps, "read at step", domain=[0, 0.55]),
        yaxis=steps_axis(results.time_steps, "units of step"),
        xaxis2=axis("lag in steps", domain=[0.78, 1], anchor="y2"),
        yaxis2=axis("mean transfer", anchor="x2", range=[-1.05, 1.05]),
        shapes=[*_between_inputs(results), _marked_units(results, step)],
    )


def layers_figure(
    report: RelayReport, layer: str, concept: str, step: int, _: int | None
) -> Figure:
    """Bits that all units of each layer relay, by layer and step."""
    steps = sorted({int(own) for layer in report.layers.values() for own in layer.time_steps})
    steps = [own for own in steps if own >= 0] + [own for own in steps if own < 0]
    bits = np.full((len(report.layers), len(steps)), np.nan)
    for row, results in enumerate(report.layers.values()):
        columns = [steps.index(int(own)) for own in results.time_steps]
        bits[row, columns] = results[concept].information[:, 0]
    most = most_bits(report, [own[concept] for own in report.layers.values()], concept)
    cells = {
        "type": "heatmap",
        "name": "bits",
        "x": [str(own) for own in steps],
        "y": list(report.layers),
        "z": bits,
        "meta": {"layer": "y", "step": "x"},
        "hovertemplate": "%{y}, step %{x}: %{z:.3f} bits<extra></extra>",
        "colorbar": {"title": {"text": "bits"}, "thickness": 12},
        **bits_scale(most),
    }
    return figure_of(
        plain(f"{concept}{epoch_of(report)}"),
        "relayed by all units of each layer",
        [
            *missing(cells["x"], cells["y"], np.isnan(bits), "the layer does not have this step"),
            cells,
        ],
        xaxis=steps_axis(np.array(steps)),
        yaxis=axis("", type="category", autorange="reversed", showgrid=False, automargin=True),
    )


def _latent_figure(
    report: RelayReport, layer: str, _concept: str, step: int, _unit: int | None
) -> Figure:
    title = plain(f"{layer}: states{epoch_of(report)}")
    return latent_figure(latent_of(report, layer), title, step)


FigureName = Literal[
    "relay_share", "greedy_order", "units_needed", "relay_transfer", "latent", "layers"
]
"""Name of a figure."""

FIGURES: Mapping[str, Callable[[RelayReport, str, str, int, int | None], Figure]] = {
    "relay_share": share_figure,
    "greedy_order": order_figure,
    "units_needed": units_figure,
    "relay_transfer": transfer_figure,
    "latent": _latent_figure,
    "layers": layers_figure,
}


def _bars(report: RelayReport, layer: str, concept: str) -> list[dict[str, Any]]:
    """Traces of what all units relay: two parts, corrected values, limits and chance levels."""
    results = report[layer]
    relay = results[concept]
    names = [str(step) for step in results.time_steps]
    whole = relay.information[:, 0]
    in_shares = np.minimum(share_of(relay).sum(1), whole)
    ended, covered = results.inputs_ended, report.covered(layer, concept)
    words = [
        "<br>".join(_bar_in_words(report, results, relay, place))
        for place in range(len(results.time_steps))
    ]

    def bars(
        name: str, bits: NDArray[np.float64], colour: str, early: str
    ) -> Iterator[dict[str, Any]]:
        for of, own, label in ((ended, colour, name), (~ended, early, "not all input seen")):
            steps = np.flatnonzero(of)
            if len(steps):
                fills = np.where(covered[of], own, "rgba(0,0,0,0)").tolist()
                hover: dict[str, Any] = {"hoverinfo": "skip"}
                if name == _IN_SHARES:
                    hover = {"hoverinfo": "text", "hovertext": [words[step] for step in steps]}
                yield {
                    "type": "bar",
                    "x": [names[step] for step in steps],
                    "y": bits[of],  # a NaN would keep plotly from stacking the bars
                    "name": label,
                    "legendgroup": label,
                    "meta": {"step": "x"},
                    "showlegend": of is ended or name == _IN_SHARES,
                    "marker": {"color": fills, "line": {"color": own, "width": 1.5}},
                    **hover,
                }

    traces = [
        *bars(_IN_SHARES, in_shares, BLUE, GREY),
        *bars("in no unit's share", whole - in_shares, PALE_BLUE, PALE_GREY),
        _level(names, relay.mutual_information, "I(in; out)", "solid"),
        {
            "type": "scatter",
            "mode": "markers",
            "x": names,
            "y": relay.corrected[:, 0],
            "name": "corrected",
            "marker": {"symbol": "line-ew-open", "color": "black", "size": 8},
            "hoverinfo": "skip",
        },
    ]
    if relay.lower is not None and relay.upper is not None:
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "x": names,
                "y": whole,
                "name": "95 % interval",
                "marker": {"color": "black", "size": 1},
                "error_y": error_bars(whole, relay.lower[:, 0], relay.upper[:, 0], "black"),
                "hoverinfo": "skip",
            }
        )
    if relay.chance_level is not None:
        chance = relay.chance_level[:, 0]
        traces.append(_level(names, chance, "chance level of I(in; out)", "dot"))
    return traces


def _sequences(layer: LayerRelay) -> dict[str, Any]:
    """Bars of the number of sequences that are counted at each step."""
    return {
        "type": "bar",
        "x": [str(step) for step in layer.time_steps],
        "y": layer.samples,
        "yaxis": "y3",
        "name": "sequences",
        "showlegend": False,
        "marker": {"color": [GREY] * len(layer.samples), "line": {"color": GREY, "width": 1}},
        "hovertemplate": "step %{x}: %{y} sequences<extra></extra>",
    }


def _bar_in_words(
    report: RelayReport, layer: LayerRelay, relay: ConceptRelay, place: int
) -> list[str]:
    """What is known about a step, for the hover text of its bar."""
    bits = f"{relay.information[place, 0]:z.3f} bits relayed by all units"
    if relay.lower is not None and relay.upper is not None:
        bits += f" [{relay.lower[place, 0]:z.3f}, {relay.upper[place, 0]:z.3f}]"
    coverage = relay.coverage[place, report.full_condition]
    lines = [
        f"step {layer.time_steps[place]}: {bits}",
        f"of {relay.mutual_information[place]:z.3f} bits that input and output share",
        f"corrected: {relay.corrected[place, 0]:z.3f} bits",
    ]
    if relay.unattributed is not None:
        lines.append(f"in no unit's share: {relay.unattributed[place]:z.3f} bits")
    if relay.chance_level is not None:
        lines.append(f"chance level of I(in; out): {relay.chance_level[place, 0]:z.3f} bits")
    sure = "" if coverage >= report.measure.min_coverage else ": too few sequences"
    lines.append(f"{layer.samples[place]} sequences, coverage {coverage:.2f}{sure}")
    if not layer.inputs_ended[place]:
        lines.append("not all input seen")
    return lines


def _joins(
    unit: int | None, joining: NDArray[np.int64], bits: NDArray[np.float64], colour: str
) -> list[dict[str, Any]]:
    """A ring where a unit joins a growing set; nothing if it never does."""
    if unit is None or unit not in joining:
        return []
    size = int(np.argmax(joining == unit)) + 1
    return [ring(np.array([size]), bits[size : size + 1], f"unit {unit} joins", colour)]


def _level(names: list[str], bits: NDArray[np.float64], name: str, dash: str) -> dict[str, Any]:
    """A line with a level part at each step; a stroke if there is one step."""
    level = line(names, bits, name, LIMIT, dash=dash)
    if len(names) == 1:
        stroke = {"symbol": "line-ew-open", "size": 40, "color": LIMIT}
        return level | {"mode": "markers", "marker": stroke}
    return level | {"line": {**level["line"], "shape": "hvh"}}


def _curve(
    bits: NDArray[np.float64],
    resolved: NDArray[np.bool],
    words: list[str],
    name: str,
    colour: str,
    pale: str,
) -> list[dict[str, Any]]:
    """A line over the number of units, pale where there are too few sequences."""
    numbers = np.arange(len(bits))
    sure, unsure = np.full_like(bits, np.nan), bits.copy()
    last = int(np.argmin([*resolved, False]))
    if last:
        sure[: last + 1] = bits[: last + 1]
        unsure[:last] = np.nan
    hover = {
        "mode": "lines+markers" if len(bits) <= _MARKED else "lines",
        "marker": {"size": 5},
        "text": words,
        "hoverinfo": None,
        "hovertemplate": "%{x} units: %{y:.3f} bits<br>%{text}<extra></extra>",
    }
    found = []
    for part, own, label in ((sure, colour, name), (unsure, pale, f"{name}, too few sequences")):
        if np.isfinite(part).sum() > 1:
            found.append(line(numbers, part, label, own) | hover)
    return found


def _range(relay: ConceptRelay, most: float) -> list[float]:
    """Ends of an axis of bits."""
    parts = [relay.information, relay.corrected[:, 0], relay.told]
    lowest = min(0.0, *(float(part.min()) for part in parts))
    highest = max(most, *(float(part.max()) for part in parts))
    margin = 0.05 * (highest - lowest)
    return [lowest - margin * (lowest < 0), highest + margin]


def _between_inputs(layer: LayerRelay) -> Iterator[dict[str, Any]]:
    """Lines across a map of pairs of steps where steps follow at which all input had been seen."""
    ends = {"0": -0.5, "1": len(layer.time_steps) - 0.5}
    for place in np.flatnonzero(np.diff(layer.inputs_ended)) + 0.5:
        for along, across in ("xy", "yx"):
            yield {
                "type": "line",
                "line": {"color": GREY, "width": 1.5},
                **{f"{along}{end}": value for end, value in ends.items()},
                **{f"{across}{end}": float(place) for end in ends},
            }


def _marked_units(layer: LayerRelay, step: int) -> dict[str, Any]:
    """A frame around the row of the units of a step."""
    place = layer.place(step)
    return frame(x0=-0.5, x1=len(layer.time_steps) - 0.5, y0=place - 0.5, y1=place + 0.5)


def _marked(layer: LayerRelay, step: int) -> dict[str, Any]:
    """A frame around the column of a step."""
    place = layer.place(step)
    return frame(xref="x", x0=place - 0.5, x1=place + 0.5, yref="paper", y0=0, y1=1)
