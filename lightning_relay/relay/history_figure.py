"""Interactive figure of many relay reports: when the shares of units formed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lightning_relay.relay.shown import share_of
from lightning_relay.reports.figure import (
    BLUE,
    GREY,
    LIMIT,
    SERIES,
    Figure,
    axis,
    faded,
    figure_of,
    line,
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
        ValueError: If there is no report, if several are of one epoch, or if none has shares at
            the step or the unit.
    """
    shares: dict[float, NDArray[np.float64] | None] = {}
    bits: dict[float, tuple[float, float, bool]] = {}
    layers: dict[str, Mapping[str, Any]] = {}
    lacking: ValueError | None = None
    most = 0.0
    for x, report in reports:
        if x in shares:
            raise ValueError(
                f"reports: got two of {along} {x:g}; name the callback that made them with "
                "load_reports(log_dir, prefix=...), or the dataloader"
            )
        shares[x] = None
        layer = next(iter(report.layers)) if layer is None else layer
        layers |= {key: {**layers.get(key, {}), **report[key].concepts} for key in report.layers}
        if layer not in report.layers:
            continue
        results = report[layer]
        concept = next(iter(results.concepts)) if concept is None else concept
        if concept not in results.concepts:
            continue
        relay = results[concept]
        most = max(most, report.input_entropy[concept])
        try:
            place = relay.place(step)
            covered = bool(report.covered(layer, concept)[place])
            bits[x] = relay.information[place, 0], relay.mutual_information[place], covered
            shares[x] = share_of(relay)[place]
        except ValueError as error:
            lacking = error
    if layer is None:
        raise ValueError("reports: there is no report of an epoch; it takes one or more")
    found = known("layer", layer, layers)
    if concept is None:
        raise ValueError(f"layer: got {layer!r}, of which no concept was measured")
    known("concept", concept, found)
    if all(own is None for own in shares.values()):
        raise lacking or ValueError("reports: relay shares were not measured")
    return _drawn(shares, bits, most, f"{layer}: {concept}", step, unit, along)


def _drawn(
    shares: Mapping[float, NDArray[np.float64] | None],
    bits: Mapping[float, tuple[float, float, bool]],
    most: float,
    title: str,
    step: int,
    unit: int | None,
    along: str,
) -> Figure:
    times = sorted(shares)
    units = max(len(own) for own in shares.values() if own is not None)
    if unit is not None and not 0 <= unit < units:
        raise ValueError(f"unit: got {unit}; the layer has units 0 to {units - 1}")
    table = np.full((len(times), units), np.nan)
    for row, x in enumerate(times):
        own = shares[x]
        if own is not None:
            table[row, : len(own)] = own
    rows = np.flatnonzero(np.isfinite(table).any(1))
    order = np.argsort(-np.nan_to_num(table[rows[-1]], nan=-np.inf), kind="stable")
    coloured = order[:_COLOURED].tolist()
    if unit is not None and unit not in coloured:
        coloured.append(unit)
    drawn = np.array([own[:2] for own in bits.values()])
    lowest, highest = min(0.0, float(drawn.min())), max(most, float(drawn.max()))
    margin = 0.05 * (highest - lowest)
    when = "at the last step" if step == -1 else f"at step {step}"
    text = f"relayed {when} by all units, and each unit's share"
    others = [own for own in order.tolist() if own not in coloured]
    drawn_others = others[: _MOST_POINTS // len(times)]
    if others:
        text += f"; coloured: the {min(_COLOURED, units)} largest at {along} {times[rows[-1]]:g}"
    if not all(covered for _, _, covered in bits.values()):
        text += "; hollow: too few sequences"
    if len(drawn_others) < len(others):
        text += f"; {len(others) - len(drawn_others)} smaller ones are not drawn"
    return figure_of(
        title,
        text,
        [
            *_bits(np.array(times, dtype=np.float64), bits),
            *_others(times, table, drawn_others),
            *_units(times, table, coloured, unit),
        ],
        xaxis=axis(along, anchor="y2"),
        yaxis=axis("bits", domain=[0.62, 1], range=[lowest - margin, highest + margin]),
        yaxis2=axis("share, bits", domain=[0, 0.54], zeroline=True, zerolinecolor=GREY),
        legend={"x": 1.02, "y": 1},
    )


def _bits(
    times: NDArray[np.float64], bits: Mapping[float, tuple[float, float, bool]]
) -> list[dict[str, Any]]:
    """Traces of what all units relay, hollow for too few sequences, and of what there is."""
    missing = (np.nan, np.nan, True)
    columns = np.array([bits.get(x, missing) for x in times.tolist()], dtype=np.float64).T
    relayed, shared, covered = columns
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
    return [limit, whole]


def _others(
    times: Sequence[float], table: NDArray[np.float64], units: Sequence[int]
) -> list[dict[str, Any]]:
    """One grey trace with a line for each other unit; gaps part them."""
    if not units:
        return []
    gap = np.full((len(units), 1), np.nan)
    x = np.concatenate([np.tile(np.array(times, dtype=np.float64), (len(units), 1)), gap], 1)
    y = np.concatenate([table[:, list(units)].T, gap], 1)
    grey = line(x.ravel(), y.ravel(), "other units", faded(GREY, 0.6))
    return [
        grey
        | {
            "yaxis": "y2",
            "line": {"color": faded(GREY, 0.6), "width": 1},
            "customdata": np.repeat(np.array(units), x.shape[1]),
            "hoverinfo": None,
            "hovertemplate": "%{x}: unit %{customdata}, share %{y:.3f} bits<extra></extra>",
        }
    ]


def _units(
    times: Sequence[float], table: NDArray[np.float64], units: Sequence[int], marked: int | None
) -> list[dict[str, Any]]:
    """A trace for each coloured unit, the marked one thick."""
    return [
        line(np.array(times), table[:, unit], f"unit {unit}", SERIES[row % len(SERIES)])
        | {
            "yaxis": "y2",
            "mode": "lines+markers",
            "marker": {"size": 4},
            "line": {
                "color": SERIES[row % len(SERIES)],
                "width": 4 if unit == marked else 1.5,
            },
            "hoverinfo": None,
            "hovertemplate": f"%{{x}}: unit {unit}, share %{{y:.3f}} bits<extra></extra>",
        }
        for row, unit in enumerate(units)
    ]
