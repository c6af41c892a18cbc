"""Interactive figures of a knock-out report: what breaks, and whether relay information tells."""

from __future__ import annotations

from dataclasses import dataclass
from inspect import signature
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np

from lightning_relay.ablation.shown import (
    all_alike,
    all_damage_alike,
    curve_in_words,
    r2_in_words,
    steps_in_words,
    units_in_words,
    with_interval,
)
from lightning_relay.ablation.summary import distinct_measures
from lightning_relay.reports.figure import (
    BLUE,
    GREY,
    LIMIT,
    Figure,
    axis,
    blues,
    damage_scale,
    error_bars,
    faded,
    figure_of,
    line,
    marked_row,
    missing,
    plain,
    ring,
    steps_axis,
)
from lightning_relay.reports.names import known

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from lightning_relay.ablation.damage import Damage
    from lightning_relay.ablation.report import (
        DamagePrediction,
        DeletionCurve,
        KnockoutReport,
        KnockoutSet,
        ScoreAgreement,
    )

    Result = TypeVar("Result", DamagePrediction, DeletionCurve, ScoreAgreement)

_POINTS = "percentage points"

_DIRECTIONS = {"random_first": GREY, "least_first": BLUE, "most_first": LIMIT}
_PALE = 0.3
"""Opacity of damage that may be 0."""

_NAMED_POINTS = 24
"""Above this number of points, unit indices are not drawn."""


@dataclass(frozen=True)
class _Measure:
    """Damage to one measure, ``(set,)``, and what it is counted over, in words.

    ``accuracy``: whether it is one, so that its damage is drawn in points.
    """

    name: str
    found: Damage
    counted: str
    accuracy: bool = True

    @property
    def title(self) -> str:
        """Title of an axis of damage."""
        return f"damage to {self.what}" + (f", {_POINTS}" if self.accuracy else "")

    @property
    def what(self) -> str:
        """The measure in words."""
        if not self.accuracy or self.name == "accuracy":
            return plain(self.name)
        return plain(f"accuracy of {self.name}")

    @property
    def unsure(self) -> NDArray[np.bool]:
        """Whether the interval includes 0, bool ``(set,)``; False without an interval."""
        return np.isfinite(self.found.lower) & ~self.found.beyond_zero

    def drawn(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Damage as it is drawn: accuracies in points; NaN where it is infinite."""
        return np.where(np.isfinite(values), values, np.nan) * (100 if self.accuracy else 1)

    def in_words(self, place: int, some: KnockoutSet) -> str:
        """What is known about the damage by a set, for a hover text."""
        found, scale = self.found, 100 if self.accuracy else 1
        damage, lower, upper = (
            scale * part[place] for part in (found.damage, found.lower, found.upper)
        )
        words = with_interval(damage, lower, upper, 1 if self.accuracy else 3)
        words += " points" * self.accuracy
        return "<br>".join(
            [
                f"{_in_words(some)}; held at steps: {steps_in_words(some)}",
                f"damage to {self.what}: {words}",
                f"{float(found.baseline):.3f} without, {found.knocked_out[place]:.3f} with the "
                f"knock-out, {self.counted}",
            ]
        )


def damage_figure(
    report: KnockoutReport,
    layer: str | None = None,
    measure: str | None = None,
    unit: int | None = None,
) -> Figure:
    """Damage to a measure by each set with its 95 % interval, the largest first."""
    whole = _measure(report, measure)
    places = _places(report, layer)
    damage = whole.drawn(whole.found.damage[places])
    lower, upper = (whole.drawn(end[places]) for end in (whole.found.lower, whole.found.upper))
    names = _names(report, places)
    tested, unsure = np.isfinite(lower), whole.unsure[places]
    sure = tested & ~unsure
    words = np.array([whole.in_words(place, report.sets[place]) for place in places])
    parts = {
        "worse": (sure & (damage > 0), LIMIT, 1.0),
        "better": (sure & (damage < 0), BLUE, 1.0),
        "95 % interval includes 0": (unsure, GREY, 0.5),
        "without an interval": (~tested, LIMIT, 1.0),
    }
    traces = []
    for name, (own, colour, opacity) in parts.items():
        if own.any():
            hollow = name == "without an interval"
            traces.append(
                {
                    "type": "scatter",
                    "mode": "markers",
                    "name": name,
                    "x": damage[own],
                    "y": [names[row] for row in np.flatnonzero(own)],
                    "error_x": error_bars(
                        damage[own], lower[own], upper[own], faded(colour, opacity)
                    ),
                    "marker": {
                        "color": faded(colour, opacity),
                        "size": 7,
                        "symbol": "circle-open" if hollow else "circle",
                    },
                    "text": words[own],
                    "hovertemplate": "%{text}<extra></extra>",
                }
            )
    number = f"{float(whole.found.baseline):.3g} without knock-out, {whole.counted}"
    text = f"damage to {whole.what}: {number}"
    if tested.any():
        text += f"; {sure.sum() or 'none'} of {tested.sum()} differ from 0"
    return figure_of(
        _title(report, layer),
        text,
        traces,
        xaxis=axis(whole.title, zeroline=True, zerolinecolor=GREY),
        yaxis=_sets_axis(_sorted(names, damage)),
        shapes=_marked_sets(report, places, names, unit),
        showlegend=True,
        updatemenus=[_sorting({"by damage": _sorted(names, damage), "in order": names})],
    )


def map_figure(report: KnockoutReport, layer: str | None = None, unit: int | None = None) -> Figure:
    """Damage by each set to the accuracy, to each concept, class and step, or to each metric."""
    places = _places(report, layer)
    columns = _columns(report)
    if not columns:
        raise ValueError("report: it has no accuracy and no metric, so nothing to draw damage of")
    names, heads = _names(report, places), [plain(own.name) for own in columns]
    damage = np.column_stack([own.drawn(own.found.damage[places]) for own in columns])
    unsure = np.column_stack([own.unsure[places] for own in columns])
    sure = np.column_stack([own.found.beyond_zero[places] for own in columns])
    words = [[own.in_words(place, report.sets[place]) for own in columns] for place in places]
    most = np.nanmax(np.abs(damage), axis=0, initial=0.0)
    shades, colours = damage, _colours(float(most.max()), "points")
    text = f"damage in {_POINTS}"
    if not columns[0].accuracy:
        shades, colours = damage / np.where(most > 0, most, 1.0), _colours(1.0, "of largest")
        text = "damage to each metric, as a fraction of the largest"
    orders = {"in order": names} | {
        f"by {plain(own.name)}": _sorted(names, column)
        for own, column in zip(columns, damage.T, strict=True)
    }
    return figure_of(
        _title(report, layer),
        f"{text}; {_dotted(sure, unsure)}",
        [
            *missing(heads, names, np.isnan(damage), "not measured: no samples"),
            *_cells(heads, names, shades, unsure, words),
            *_dots(heads, names, sure),
            *(
                ring(heads, [name] * len(heads), f"unit {unit}", "black") | {"showlegend": False}
                for place, name in zip(places, names, strict=True)
                if unit is not None and report.sets[place].unit == unit
            ),
        ],
        xaxis=axis("", type="category", showgrid=False, automargin=True),
        yaxis=_sets_axis(names) | {"showgrid": False},
        coloraxis=colours,
        updatemenus=[_sorting(orders)],
    )


def step_damage_figure(
    report: KnockoutReport,
    layer: str | None = None,
    measure: str | None = None,
    unit: int | None = None,
) -> Figure:
    """Damage to a measure by each unit alone at each step alone."""
    whole = _measure(report, measure)
    layers = [key for key in report.layers if report.single_steps(key)]
    if not layers:
        raise ValueError(
            "report: no unit was held at single steps; KnockoutCallback(EveryUnit(steps='each')) "
            "does that"
        )
    if layer not in (None, *layers):
        raise ValueError(
            f"layer: got {layer!r}; units were held at single steps in: "
            f"{', '.join(map(repr, layers))}"
        )
    key = layers[0] if layer is None else layer
    cells = report.single_steps(key)
    units = np.arange(1 + max(unit for unit, _ in cells))
    steps = np.array(sorted({step for _, step in cells}, key=lambda step: (step < 0, step)))
    damage = np.full((len(units), len(steps)), np.nan)
    sure, unsure = np.zeros(damage.shape, dtype=bool), np.zeros(damage.shape, dtype=bool)
    words = [["not run"] * len(steps) for _ in units]
    shown = whole.drawn(whole.found.damage)
    for (own, step), place in cells.items():
        column = steps.tolist().index(step)
        damage[own, column] = shown[place]
        sure[own, column] = whole.found.beyond_zero[place]
        unsure[own, column] = whole.unsure[place]
        words[own][column] = whole.in_words(place, report.sets[place])
    x, y = [str(step) for step in steps], units
    return figure_of(
        _title(report, key),
        f"{whole.title}, by single units at single steps; {_dotted(sure, unsure)}",
        [
            *missing(x, y, np.isnan(damage), "not run"),
            *(
                cells | {"meta": {"step": "x", "unit": "y"}}
                for cells in _cells(x, y, damage, unsure, words)
            ),
            *_dots(x, y.tolist(), sure),
        ],
        xaxis=steps_axis(steps, "unit held at step"),
        coloraxis=_colours(
            float(np.nanmax(np.abs(damage), initial=0.0)), "points" * whole.accuracy
        ),
        yaxis=axis("unit", autorange="reversed", showgrid=False),
        shapes=marked_row(unit),
    )


def agreement_figure(
    report: KnockoutReport,
    layer: str | None = None,
    measure: str | None = None,
    unit: int | None = None,
) -> Figure:
    """Damage by each unit alone, over its relay share."""
    found = _one(report.agreement, "damage by single units", "EveryUnit()", layer, measure)
    places = report.single_units(found.layer)
    whole = _measure(report, found.concept)
    rows = list(places.values())
    damage = 100 * found.damage
    lower, upper = (100 * end[rows] for end in (whole.found.lower, whole.found.upper))
    # Damage to the labels of the step at which units are held has no interval in the report.
    same = np.isclose(found.damage, whole.found.damage[rows], rtol=0, atol=1e-12, equal_nan=True)
    lower, upper = (np.where(same, end, np.nan) for end in (lower, upper))
    words = [
        f"unit {own}: {score:.3g} ({found.kind})<br>damage "
        f"{with_interval(lost, low, high, 1)} points, {whole.counted}"
        for own, score, lost, low, high in zip(
            places, found.scores, damage, lower, upper, strict=True
        )
    ]
    text = all_alike(found)
    if text is None:
        value = with_interval(found.correlation, found.lower, found.upper, 2)
        text = f"does what a unit relays tell what breaks without it? rank correlation {value}"
    return figure_of(
        _title(report, found.layer, found.concept),
        text,
        _units(list(places), found.scores, damage, lower, upper, words, unit),
        xaxis=axis(found.kind, zeroline=True, zerolinecolor=GREY),
        yaxis=axis(f"damage, {_POINTS}", zeroline=True, zerolinecolor=GREY),
    )


def prediction_figure(
    report: KnockoutReport,
    layer: str | None = None,
    measure: str | None = None,
    step: int | None = None,
) -> Figure:
    """Damage by random sets held at a step, over what they relay there and over their size."""
    found = _predicted(report, layer, measure, step)
    damage = 100 * found.damage
    words = [
        f"{_in_words(report.sets[place])}<br>I_R {bits:z.3f} bits<br>"
        f"damage {lost:z.1f} points, {found.samples} sequences"
        for place, bits, lost in zip(found.places, found.information, damage, strict=True)
    ]
    points = {
        "type": "scatter",
        "mode": "markers",
        "y": damage,
        "text": words,
        "hovertemplate": "%{text}<extra></extra>",
        "showlegend": False,
    }
    shades = {
        "color": found.sizes,
        "colorscale": blues(1.0)["colorscale"],
        "cmin": 0,
        "cmax": int(found.sizes.max()),
        "line": {"color": GREY, "width": 0.5},
    }
    scale = {"title": {"text": "units"}, "thickness": 12}
    same = all_damage_alike(found)
    text = "; ".join(r2_in_words(found)).replace("R2", "R²") if same is None else same
    here = f"damage, {_POINTS}" + (" at the step" if report.step_accuracy is not None else "")
    return figure_of(
        f"{_title(report, found.layer, found.concept)}, {len(found.places)} random sets held at "
        f"{'the last step' if found.step == -1 else f'step {found.step}'}",
        text,
        [
            {
                **points,
                "name": "information",
                "x": found.information,
                "marker": {"size": 7, "colorbar": scale, **shades},
            },
            {
                **points,
                "name": "size",
                "x": found.sizes,
                "xaxis": "x2",
                "marker": {"size": 7, **shades},
            },
        ],
        xaxis=axis("relayed by the set (I_R), bits", domain=[0, 0.6]),
        xaxis2=axis("number of units", domain=[0.66, 1]),
        yaxis=axis(here, zeroline=True, zerolinecolor=GREY),
    )


def damage_share_figure(
    report: KnockoutReport,
    layer: str | None = None,
    measure: str | None = None,
    step: int | None = None,
    unit: int | None = None,
) -> Figure:
    """Each unit's share of the damage by all units at a step, over its relay share there."""
    found = _predicted(report, layer, measure, step)
    if np.isnan(found.unit_damage).all() or np.isnan(found.unit_share).all():
        raise ValueError(
            "report: shares of the damage and relay shares are not both there; "
            "KnockoutCallback(RandomOrders()) and RelayMeasure(n_orders=16) measure them"
        )
    damage, lower, upper = (
        100 * part for part in (found.unit_damage, found.unit_lower, found.unit_upper)
    )
    units = list(range(len(damage)))
    words = [
        f"unit {own}: relay share {share:.3f} bits<br>share of the damage "
        f"{with_interval(lost, low, high, 1)} points"
        for own, share, lost, low, high in zip(
            units, found.unit_share, damage, lower, upper, strict=True
        )
    ]
    value = (
        f"{found.share_correlation:.2f}" if np.isfinite(found.share_correlation) else "undefined"
    )
    return figure_of(
        _title(report, found.layer, found.concept),
        f"rank correlation over {len(units)} units: {value}; the shares of the damage add up to "
        f"{damage.sum():.1f} points",
        _units(units, found.unit_share, damage, lower, upper, words, unit),
        xaxis=axis("relay share, bits", zeroline=True, zerolinecolor=GREY),
        yaxis=axis(f"share of damage, {_POINTS}", zeroline=True, zerolinecolor=GREY),
    )


def deletion_figure(
    report: KnockoutReport, layer: str | None = None, measure: str | None = None
) -> Figure:
    """Accuracy of a concept while units are knocked out one after the other."""
    first = _one(report.curves, "accuracy along an order", "AlongOrder()", layer, measure)
    curves = {
        curve.direction: curve
        for curve in report.curves
        if (curve.layer, curve.concept) == (first.layer, first.concept)
    }
    traces = []
    for direction, colour in _DIRECTIONS.items():
        if direction in curves:
            traces += _curve(report, curves[direction], colour)
    return figure_of(
        _title(report, first.layer, first.concept),
        "accuracy while units are knocked out one after the other; bands: 95 % interval, or the "
        "range of several orders",
        traces,
        xaxis=axis("number of units knocked out"),
        yaxis=axis(plain(f"accuracy of {first.concept}, %"), range=[-2, 102]),
    )


KnockoutFigureName = Literal[
    "damage",
    "damage_map",
    "agreement",
    "prediction",
    "damage_share",
    "deletion",
    "step_damage",
]
"""Name of a figure."""

FIGURES: Mapping[str, Callable[..., Figure]] = {
    "damage": damage_figure,
    "damage_map": map_figure,
    "agreement": agreement_figure,
    "prediction": prediction_figure,
    "damage_share": damage_share_figure,
    "deletion": deletion_figure,
    "step_damage": step_damage_figure,
}


def knockout_figure(report: KnockoutReport, what: str, **options: str | int | None) -> Figure:
    """A figure by its name; an option that it does not take must be None."""
    draw = known("figure", what, FIGURES)
    given = {name: value for name, value in options.items() if value is not None}
    takes = list(signature(draw).parameters)[1:]
    for name, value in given.items():
        if name not in takes:
            raise ValueError(
                f"{name}: got {value!r}, but {what!r} takes only {', '.join(takes)}; leave it out"
            )
    return draw(report, **given)


def _measure(report: KnockoutReport, name: str | None) -> _Measure:
    """A measure, a class or a step by its name; the first measure of the report by default."""
    if not report.measures:
        raise ValueError("report: it has no accuracy and no metric, so nothing to draw damage of")
    name = report.measures[0] if name is None else name
    for part in _parts(report):
        if part.name == name and name not in report.measures:
            return part
    found = report.damage_of(name)
    accuracy = not any(found is metric for metric in report.metrics.values())
    return _Measure(name, found, _counted(report, accuracy), accuracy)


def damage_names(report: KnockoutReport) -> list[str]:
    """Names of what damage is drawn to: measures, then classes and steps."""
    parts = [own.name for own in _parts(report)]
    return list(dict.fromkeys([*distinct_measures(report), *parts]))


def _counted(report: KnockoutReport, accuracy: bool) -> str:
    if accuracy and report.step_accuracy is not None:
        return f"{report.step_samples.sum()} labels"
    if accuracy and len(report.classes):
        return f"{report.class_samples.sum()} samples"
    return f"{report.samples} samples"


def _columns(report: KnockoutReport) -> list[_Measure]:
    """Columns of the map of damage, as in the picture."""
    if report.accuracy is None:
        return [_measure(report, name) for name in report.metrics]
    names = [name for name in distinct_measures(report) if name not in report.metrics]
    return [_measure(report, name) for name in names] + _parts(report)


def _parts(report: KnockoutReport) -> list[_Measure]:
    """Accuracy on the samples of each class, and on the labels of each step."""
    parts = []
    if report.class_accuracy is not None:
        parts += [
            _Measure(f"class {label}", report.class_accuracy.part(place), f"{number} samples")
            for place, (label, number) in enumerate(
                zip(report.classes, report.class_samples, strict=True)
            )
        ]
    if report.step_accuracy is not None:
        parts += [
            _Measure(f"step {step}", report.step_accuracy.part(step), f"{number} labels")
            for step, number in enumerate(report.step_samples)
        ]
    return parts


def _places(report: KnockoutReport, layer: str | None) -> list[int]:
    """Indices of all sets, or of those in a layer alone."""
    places = [
        place for place, some in enumerate(report.sets) if layer is None or some.layer == layer
    ]
    if not places:
        layers = dict.fromkeys(some.layer for some in report.sets if some.layer is not None)
        where = "" if layer is None else f"layer: got {layer!r}; "
        raise ValueError(
            f"{where}sets of one layer were knocked out in: "
            f"{', '.join(map(repr, layers)) or 'none'}"
        )
    return places


def _one(
    results: Sequence[Result], what: str, which: str, layer: str | None, concept: str | None
) -> Result:
    """The first result of a layer and a concept."""
    for found in results:
        if layer in (None, found.layer) and concept in (None, found.concept):
            return found
    if not results:
        raise ValueError(
            f"report: {what} was not measured together with relay shares; "
            f"KnockoutCallback({which}) beside a RelayInformationCallback measures it"
        )
    there = dict.fromkeys((found.layer, found.concept) for found in results)
    raise ValueError(
        f"layer, measure: got {layer!r} and {concept!r}; the report has {what} of: "
        f"{', '.join(map(str, there))}"
    )


def _predicted(
    report: KnockoutReport, layer: str | None, concept: str | None, step: int | None
) -> DamagePrediction:
    own = [found for found in report.predictions if step in (None, found.step)]
    if report.predictions and not own:
        steps = dict.fromkeys(found.step for found in report.predictions)
        raise ValueError(
            f"step: got {step}; random sets were held at: {', '.join(map(str, steps))}"
        )
    return _one(own, "damage by random sets", "RandomSets()", layer, concept)


def _title(report: KnockoutReport, layer: str | None, concept: str | None = None) -> str:
    if layer is None and len(report.layers) == 1:
        layer = report.layers[0]
    what = "knock-outs" if concept is None else concept
    epoch = "" if report.epoch is None else f", epoch {report.epoch}"
    return plain(f"{what if layer is None else f'{layer}: {what}'}{epoch}")


def _names(report: KnockoutReport, places: Sequence[int]) -> list[str]:
    """Names of sets, without the layer if that is the same in all."""
    layers = {report.sets[place].layer for place in places}
    start = f"{next(iter(layers))}: " if len(layers) == 1 else ""
    return [
        f"unit {name}" if name.isdecimal() else plain(name)
        for name in (report.sets[place].name.removeprefix(start) for place in places)
    ]


def _in_words(some: KnockoutSet) -> str:
    """A set by its name and its units; a unit alone needs no other name."""
    units = units_in_words(some)
    return plain(f"unit {units}" if some.unit is not None else f"{some.name}: units {units}")


def _sorted(names: Sequence[str], damage: NDArray[np.float64]) -> list[str]:
    """Names of sets by their damage, the largest first."""
    order = np.argsort(-np.nan_to_num(damage, nan=-np.inf), kind="stable")
    return [names[row] for row in order]


def _marked_sets(
    report: KnockoutReport, places: Sequence[int], names: Sequence[str], unit: int | None
) -> list[dict[str, Any]]:
    """Bands behind the sets that hold a unit alone, wherever the axis has them."""
    return [
        {
            "type": "line",
            "layer": "below",
            "xref": "paper",
            "x0": 0,
            "x1": 1,
            "y0": name,
            "y1": name,
            "line": {"color": faded(BLUE), "width": 14},
        }
        for place, name in zip(places, names, strict=True)
        if unit is not None and report.sets[place].unit == unit
    ]


def _sets_axis(names: Sequence[str]) -> dict[str, Any]:
    return axis(
        "",
        type="category",
        categoryorder="array",
        categoryarray=names,
        autorange="reversed",
        automargin=True,
    )


def _sorting(orders: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """A menu of orders of the sets."""
    return {
        "buttons": [
            {"label": name, "method": "relayout", "args": [{"yaxis.categoryarray": sets}]}
            for name, sets in orders.items()
        ],
        "x": 1,
        "xanchor": "right",
        "y": 1.02,
        "yanchor": "bottom",
        "pad": {"t": 0, "r": 0},
        "font": {"size": 11},
    }


def _cells(
    x: Sequence[str],
    y: Sequence[Any] | NDArray[np.int64],
    damage: NDArray[np.float64],
    unsure: NDArray[np.bool],
    words: list[list[str]],
) -> list[dict[str, Any]]:
    """Heatmaps of damage, a pale one where it may be 0 and one of the rest; none is empty."""
    cells = {
        "type": "heatmap",
        "x": x,
        "y": y,
        "hovertemplate": "%{text}<extra></extra>",
        "hoverongaps": False,
        "coloraxis": "coloraxis",
    }
    return [
        {
            **cells,
            "name": name,
            "z": np.where(own, damage, np.nan),
            "text": np.where(own, words, "").tolist(),
            "opacity": opacity,
        }
        for name, own, opacity in (
            ("interval includes 0", unsure, _PALE),
            ("damage", ~unsure, 1.0),
        )
        if (own & np.isfinite(damage)).any()
    ]


def _colours(most: float, unit: str) -> dict[str, Any]:
    """Colours of damage up to ``most``."""
    scale = damage_scale(most or 1.0)
    return {
        "colorscale": scale["colorscale"],
        "cmin": scale["zmin"],
        "cmax": scale["zmax"],
        "colorbar": {"title": {"text": unit}, "thickness": 12},
    }


def _dots(x: Sequence[str], y: Sequence[Any], sure: NDArray[np.bool]) -> list[dict[str, Any]]:
    """A trace of dots in the cells of damage that is not 0."""
    rows, columns = np.nonzero(sure)
    if not len(rows):
        return []
    return [
        {
            "type": "scatter",
            "mode": "markers",
            "name": "interval excludes 0",
            "x": [x[column] for column in columns],
            "y": [y[row] for row in rows],
            "marker": {"size": 4, "color": "black", "line": {"color": "white", "width": 0.5}},
            "hoverinfo": "skip",
            "showlegend": False,
        }
    ]


def _dotted(sure: NDArray[np.bool], unsure: NDArray[np.bool]) -> str:
    tested = (sure | unsure).sum()
    if not tested:
        return "without intervals"
    return f"dot: the 95 % interval excludes 0 ({sure.sum()} of {tested}), pale: it includes 0"


def _units(
    units: Sequence[int],
    scores: NDArray[np.float64],
    damage: NDArray[np.float64],
    lower: NDArray[np.float64],
    upper: NDArray[np.float64],
    words: list[str],
    chosen: int | None,
) -> list[dict[str, Any]]:
    """Traces of a point for each unit: those whose interval includes 0 are pale."""
    unsure = (lower <= 0) & (upper >= 0)
    alone = np.isnan(lower)
    parts = {
        "95 % interval excludes 0": (~unsure & ~alone, LIMIT, 1.0, "circle"),
        "95 % interval includes 0": (unsure, GREY, 0.5, "circle"),
        "without an interval": (alone, LIMIT, 1.0, "circle-open"),
    }
    named = len(units) <= _NAMED_POINTS
    row = units.index(chosen) if chosen in units else None
    rings = [] if row is None else [ring(scores[[row]], damage[[row]], f"unit {chosen}", BLUE)]
    return rings + [
        {
            "type": "scatter",
            "mode": "markers+text" if named else "markers",
            "name": name,
            "x": scores[own],
            "y": damage[own],
            "error_y": error_bars(damage[own], lower[own], upper[own], faded(colour, opacity / 2)),
            "marker": {"color": faded(colour, opacity), "size": 7, "symbol": symbol},
            "showlegend": True,
            "text": [str(units[row]) for row in np.flatnonzero(own)],
            "customdata": np.array(units)[own],
            "meta": {"unit": "customdata"},
            "textposition": "middle right",
            "textfont": {"size": 10},
            "hovertext": [words[row] for row in np.flatnonzero(own)],
            "hovertemplate": "%{hovertext}<extra></extra>",
        }
        for name, (own, colour, opacity, symbol) in parts.items()
        if own.any()
    ]


def _curve(report: KnockoutReport, curve: DeletionCurve, colour: str) -> list[dict[str, Any]]:
    """Traces of a band and of the mean over orders, with the units in the text of a single one."""
    several = len(curve.accuracy) > 1 or curve.direction == "random_first"
    below = 100 * (curve.accuracy.min(0) if several else curve.lower[0])
    above = 100 * (curve.accuracy.max(0) if several else curve.upper[0])
    mean = 100 * curve.accuracy.mean(0)
    orders = f"{len(curve.accuracy)} orders, from" if several else "95 % interval"
    words = [
        f"{size} units: accuracy {value:.1f} %<br>{orders} {low:.1f} to {high:.1f}"
        for size, value, low, high in zip(curve.sizes, mean, below, above, strict=True)
    ]
    if not several:
        held = {
            sum(map(len, some.units.values())): units_in_words(some)
            for some in (report.sets[place] for place in _along(report, curve))
        }
        words = [
            f"{own}<br>{held[size]}" if size in held else own
            for own, size in zip(words, curve.sizes.tolist(), strict=True)
        ]
    band = line(
        np.concatenate([curve.sizes, curve.sizes[::-1]]),
        np.concatenate([above, below[::-1]]),
        f"{curve.direction}, band",
        colour,
    )
    label = curve_in_words(curve)
    return [
        band
        | {
            "line": {"width": 0},
            "fill": "toself",
            "fillcolor": faded(colour),
            "legendgroup": label,
            "showlegend": False,
        },
        line(curve.sizes, mean, label, colour)
        | {
            "mode": "lines+markers",
            "legendgroup": label,
            "text": words,
            "hoverinfo": None,
            "hovertemplate": "%{text}<extra></extra>",
        },
    ]


def _along(report: KnockoutReport, curve: DeletionCurve) -> list[int]:
    """Indices of the sets of a curve."""
    places = report.places(curve.direction, layer=curve.layer)
    return [place for place in places if report.sets[place].concept == curve.concept]
