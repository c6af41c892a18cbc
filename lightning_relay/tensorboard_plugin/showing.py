"""What the tab shows of a report: choices, words, and the figures that fit what is chosen."""

from __future__ import annotations

from inspect import signature
from typing import TYPE_CHECKING, Any

from lightning_relay.reports.names import known

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lightning_relay.ablation.report import DamagePrediction, KnockoutReport
    from lightning_relay.relay.report import RelayReport
    from lightning_relay.reports.figure import Figure
    from lightning_relay.tensorboard_plugin.view import View

_RESULTS = {
    "agreement": "agreement",
    "prediction": "predictions",
    "damage_share": "predictions",
    "deletion": "curves",
}
"""Fields with the results of knock-outs that a figure shows one of, by layer and concept."""


def described(report: RelayReport | KnockoutReport) -> dict[str, Any]:
    """What a report holds, for the choices in the tab; and its summary in words."""
    from lightning_relay.ablation.figures import damage_names
    from lightning_relay.relay.figures import FIGURES
    from lightning_relay.relay.report import RelayReport

    about: dict[str, Any] = {"epoch": report.epoch, "summary": str(report)}
    if isinstance(report, RelayReport):
        layers = [
            {
                "name": key,
                "units": layer.common_code.shape[1],
                "time_steps": layer.time_steps.tolist(),
                "last": int(layer.time_steps[layer.place()]),
                "concepts": list(layer.concepts),
            }
            for key, layer in report.layers.items()
        ]
        figures = [name for name in FIGURES if name != "layers" or len(layers) > 1]
        return about | {"figures": figures, "layers": layers, "measures": []}
    layers = [
        {
            "name": key,
            "units": 1 + max(unit for some in report.sets for unit in some.units.get(key, ())),
            "time_steps": sorted({own.step for own in report.predictions if own.layer == key}),
            "last": -1,
            "concepts": list(report.concepts),
        }
        for key in report.layers
    ]
    return about | {
        "figures": _measured(report),
        "layers": layers,
        "measures": damage_names(report),
    }


def in_words(report: RelayReport | KnockoutReport, view: View) -> list[str]:
    """Sentences about what is chosen.

    Raises a KeyError for names that the report does not have, and a ValueError for a step that was
    not analysed.
    """
    from lightning_relay.ablation.summary import (
        prediction_in_words,
        unit_in_words,
        worst_in_words,
    )
    from lightning_relay.relay.report import RelayReport
    from lightning_relay.relay.sentences import sentences

    if isinstance(report, RelayReport):
        unit = _unit(report, view)
        return sentences(report, view.layer, view.concept, view.step, unit)
    words = []
    if report.predictions:
        found: DamagePrediction = _fitting(report.predictions, report, view)
        words.append(prediction_in_words(found))
    measure = _measure(report, view)
    if measure in report.measures:
        of = "accuracy of " * (measure in report.concepts and measure != "accuracy")
        words.append(f"{of}{measure}: {worst_in_words(report, measure)}")
        if view.unit is not None:
            words.append(unit_in_words(report, view.layer, measure, view.unit))
    when = "" if report.epoch is None else f", in the knock-outs of epoch {report.epoch}"
    return [f"{own[0].upper()}{own[1:]}{when}." for own in words if own]


def drawn(report: RelayReport | KnockoutReport, what: str, view: View) -> tuple[Figure, str]:
    """A figure by its name, and a note if it shows other results than those that are chosen.

    Raises a KeyError for names that the report does not have, and a ValueError for what was not
    measured.
    """
    from lightning_relay.ablation.figures import FIGURES as OF_KNOCKOUTS
    from lightning_relay.relay.figures import FIGURES as OF_RELAYS
    from lightning_relay.relay.report import RelayReport

    if isinstance(report, RelayReport):
        draw = known("figure", what, OF_RELAYS)
        return draw(report, view.layer, view.concept, view.step, _unit(report, view)), ""
    draw_damage = known("figure", what, OF_KNOCKOUTS)
    options: dict[str, Any] = {"layer": view.layer, "measure": _measure(report, view) or None}
    notes = []
    if what in _RESULTS and (results := getattr(report, _RESULTS[what])):
        found = _fitting(results, report, view)
        options = {"layer": found.layer, "measure": found.concept}
        options["step"] = getattr(found, "step", None)
        notes.append(_other(found, report, view))
    else:
        held = [some for some in report.sets if view.layer in some.units]
        if what == "step_damage":
            held = held if report.single_steps(view.layer) else []
        if not any(some.layer for some in held):
            options["layer"] = None
            if view.layer:
                notes.append(f"No units of {view.layer} alone were held; others are shown.")
        elif several := sum(some.layer is None for some in held):
            notes.append(f"Sets with units of several layers are left out: {several}.")
        if what != "damage_map":
            notes.append(_other_measure(report, view))
    if options["layer"] == view.layer and _has_unit(report, view):
        options["unit"] = view.unit
    takes = signature(draw_damage).parameters
    given = {name: value for name, value in options.items() if name in takes}
    return draw_damage(report, **given), " ".join(note for note in notes if note)


def _measured(report: KnockoutReport) -> list[str]:
    """Figures of a knock-out report for which something was measured."""
    from lightning_relay.ablation.figures import FIGURES

    there = {name: bool(getattr(report, field)) for name, field in _RESULTS.items()}
    there["step_damage"] = any(report.single_steps(layer) for layer in report.layers)
    return [name for name in FIGURES if there.get(name, True)]


def _measure(report: KnockoutReport, view: View) -> str:
    """What damage is drawn to: what is chosen, else the concept, else the first; empty if none."""
    from lightning_relay.ablation.figures import damage_names

    names = damage_names(report)
    return next((own for own in (view.measure, view.concept, *names) if own in names), "")


def _other_measure(report: KnockoutReport, view: View) -> str:
    """A sentence if damage is drawn to another measure than the concept that is followed."""
    measure = _measure(report, view)
    if measure in ("", view.measure, view.concept) or not view.concept or len(report.concepts) == 1:
        return ""
    return (
        f"Damage to {view.measure or view.concept} was not measured; this is damage to {measure}."
    )


def _has_unit(report: KnockoutReport, view: View) -> bool:
    """Whether the chosen unit of the chosen layer was held in some set."""
    return any(view.unit in some.units.get(view.layer, ()) for some in report.sets)


def _fitting(results: Sequence[Any], report: KnockoutReport, view: View) -> Any:
    """The result that fits best what is chosen: its layer before its concept before its step."""
    concept = _concept(report, view)
    return max(
        results,
        key=lambda own: (
            own.layer == view.layer,
            own.concept == concept,
            _same_step(own, view),
        ),
    )


def _same_step(found: Any, view: View) -> bool:
    """Whether a result is of the chosen step, or of none; -1 and the last step are the same."""
    own, last = getattr(found, "step", None), (-1, view.last)
    return own in (None, view.step) or (own in last and view.step in last)


def _concept(report: KnockoutReport, view: View) -> str:
    return view.measure if view.measure in report.concepts else view.concept


def _other(found: Any, report: KnockoutReport, view: View) -> str:
    """A sentence if a result is not of what is chosen."""
    concept = _concept(report, view)
    other = [f"layer {view.layer}"] * (view.layer not in ("", found.layer))
    other += [f"concept {concept}"] * (concept not in ("", found.concept))
    if not _same_step(found, view):
        other.append("the last step" if view.step == -1 else f"step {view.step}")
    if view.measure not in ("", "accuracy", *report.concepts):
        other.append(view.measure)
    return f"Nothing was measured of {', '.join(other)}; this is what was." if other else ""


def _unit(report: RelayReport, view: View) -> int | None:
    """The chosen unit, if the layer has it: that of another run can be smaller."""
    layer = report.layers.get(view.layer)
    there = (
        layer is not None and view.unit is not None and 0 <= view.unit < len(layer.common_code[0])
    )
    return view.unit if there else None
