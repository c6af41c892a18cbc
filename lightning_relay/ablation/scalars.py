"""Scalars of a knock-out report, for curves and monitors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from lightning_relay.ablation.report import DamagePrediction, KnockoutReport

_AREAS = {
    "most_first": "area_most_first",
    "least_first": "area_least_first",
    "random_first": "area_random",
}


def knockout_scalars(report: KnockoutReport) -> dict[str, float]:
    """Scalars of a knock-out report by name, to be logged under a prefix.

    Undefined scalars are left out: no value is NaN or infinite. Damage and areas of accuracies are
    fractions of 1.

    - ``accuracy``: accuracy without knock-out, with class labels.
    - ``{layer}/largest_damage``, ``{layer}/mean_damage``: largest and mean damage to the accuracy
      by single units.
    - ``{layer}/{concept}/area_most_first``, ``area_least_first``, ``area_random``: mean accuracy of
      the concept over the fraction of units knocked out along the order, mean of several orders.
    - ``{layer}/{concept}/score_correlation``: rank correlation of the relay shares of single units
      (unit scores, where shares were not measured) with their damage.
    - ``{layer}/{concept}/top_damage``, ``random_damage``: mean damage to the concept by its top
      units, and by random sets of the same size.
    - ``{layer}/{concept}/predicts_damage``: partial R² of the relay information of random sets,
      given their sizes; with several steps, ``…/predicts_damage_{step}``.
    - ``{layer}/{concept}/share_correlation``: rank correlation of the units' relay shares with
      their shares of the damage, likewise.
    - ``{metric}``, ``{metric}/largest_damage``: a metric of the user without knock-out, and the
      largest damage to it by any set.
    """
    scalars: dict[str, float] = {}
    for name, metric in report.metrics.items():
        scalars[name] = float(metric.baseline)
        scalars[f"{name}/largest_damage"] = _largest(metric.damage)
    for layer in report.layers:
        scalars |= _of_layer(report, layer)
    for curve in report.curves:
        name = f"{curve.layer}/{curve.concept}/{_AREAS[curve.direction]}"
        scalars[name] = float(curve.area.mean())
    for found in report.agreement:
        scalars[f"{found.layer}/{found.concept}/score_correlation"] = found.correlation
    for name, prediction in by_name(report, "predicts_damage").items():
        scalars[name] = prediction.partial_r2
    for name, prediction in by_name(report, "share_correlation").items():
        scalars[name] = prediction.share_correlation
    if report.accuracy is not None:
        scalars["accuracy"] = float(report.accuracy.baseline)
    return {name: value for name, value in scalars.items() if np.isfinite(value)}


def by_name(report: KnockoutReport, last: str) -> dict[str, DamagePrediction]:
    """Predictions by tag: layer, concept and ``last``, which has the step if there are several."""
    steps = {found.step for found in report.predictions}
    return {
        f"{found.layer}/{found.concept}/{last}{f'_{found.step}' * (len(steps) > 1)}": found
        for found in report.predictions
    }


def _of_layer(report: KnockoutReport, layer: str) -> dict[str, float]:
    scalars = {}
    if report.accuracy is not None:
        damage = report.accuracy.damage[report.places("each", layer=layer)]
        scalars[f"{layer}/largest_damage"] = _largest(damage)
        scalars[f"{layer}/mean_damage"] = _mean(damage)
    if report.concept_accuracy is None:
        return scalars
    for column, concept in enumerate(report.concepts):
        for group, name in (("concept", "top_damage"), ("concept_random", "random_damage")):
            places = report.places(group, layer=layer)
            damage = report.concept_accuracy.damage[:, column]
            own = [damage[place] for place in places if report.sets[place].concept == concept]
            scalars[f"{layer}/{concept}/{name}"] = _mean(own)
    return scalars


def _largest(damage: NDArray[np.float64]) -> float:
    finite = damage[np.isfinite(damage)]
    return float(finite.max()) if len(finite) else np.nan


def _mean(damage: Iterable[float]) -> float:
    finite = [value for value in damage if np.isfinite(value)]
    return float(np.mean(finite)) if finite else np.nan
