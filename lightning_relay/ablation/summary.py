"""A knock-out report as a few lines of text, and as a pandas frame."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lightning_relay.reports.edges import edges_in_words
from lightning_relay.reports.frames import evaluation_of, optional

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pandas import DataFrame

    from lightning_relay.ablation.report import KnockoutReport

MOST_LINES = 15
_TOP = 3


def distinct_measures(report: KnockoutReport) -> tuple[str, ...]:
    """Measures of a report; an only concept is left out, as it repeats the accuracy."""
    if report.accuracy is not None and len(report.concepts) == 1:
        return tuple(name for name in report.measures if name not in report.concepts)
    return report.measures


def summary(report: KnockoutReport) -> str:
    """The knock-outs that do most damage, in at most 15 lines."""
    where = "" if report.stage is None else f"{report.stage}, epoch {report.epoch}; "
    head = (
        f"Knock-out report: {where}{len(report.sets)} sets of units held at {report.value}; "
        f"{report.samples} of {report.samples_seen} samples"
    )
    lines = [head, *_lines(report)]
    if len(lines) > MOST_LINES:
        left = len(lines) - MOST_LINES + 1
        lines = [*lines[: MOST_LINES - 1], f"… and {left} more lines; to_dataframe() has all"]
    return "\n".join(lines)


def label_count(report: KnockoutReport) -> str:
    """Which labels count and how real ones were divided, in words; empty if all count as read."""
    words = []
    if report.step_accuracy is not None:
        words.append(f"{report.step_samples.sum()} labels of steps")
    if report.ignored:
        words.append(f"{report.ignored} labels that do not count")
    if report.edges is not None:
        words.append(edges_in_words(report.edges))
    return ", ".join(words)


def _lines(report: KnockoutReport) -> Iterator[str]:
    if counted := label_count(report):
        yield counted
    if report.step_accuracy is not None:
        baseline = report.step_accuracy.baseline
        worst, best = int(np.nanargmin(baseline)), int(np.nanargmax(baseline))
        lowest, highest = f"{baseline[worst]:.3g}", f"{baseline[best]:.3g}"
        words = f"from {lowest} (step {worst}) to {highest} (step {best})"
        yield f"accuracy at single steps: {words if lowest != highest else lowest}"
    held = {some.steps for some in report.sets}
    if report.step_accuracy is not None and all(own and len(own) == 1 for own in held):
        yield (
            "units are held at one step, and the labels of all steps are counted; label_step= "
            "counts those of one"
        )
    if report.sets_left_out:
        yield f"{report.sets_left_out} more sets were not run"
    for measure in distinct_measures(report):
        together = report.accuracy is not None and report.class_accuracy is None
        words = " of all labels together" * (together and measure == report.measures[0])
        yield f"{measure}{words}: {_worst(report, measure)}"
    for layer, concept in dict.fromkeys((curve.layer, curve.concept) for curve in report.curves):
        areas = [
            f"{curve.direction.replace('_', ' ')} {curve.area.mean():.3f}"
            for curve in report.curves
            if (curve.layer, curve.concept) == (layer, concept)
        ]
        yield f"{layer}, {concept}, mean accuracy along the order: {', '.join(areas)}"
    for predicted in report.predictions:
        words = "undefined"
        if np.isfinite(predicted.r2):
            words = f"{predicted.r2:.2f} ({predicted.r2_size:.2f} by their size alone)"
        if np.isfinite(predicted.share_correlation):
            words += f"; rank correlation of the units' shares: {predicted.share_correlation:.2f}"
        there = " there" * (report.step_accuracy is not None)
        yield (
            f"{predicted.layer}, {predicted.concept}, step {predicted.step}: damage{there} by "
            f"random sets explained by size and relay information, R²: {words}"
        )
    for found in report.agreement:
        words = "undefined (fewer than 4 units, or all alike)"
        if np.isfinite(found.correlation):
            words = f"{found.correlation:.2f} [{found.lower:.2f}, {found.upper:.2f}]"
        kind = found.kind.partition(",")[0]
        yield (
            f"{found.layer}, {found.concept}, rank correlation of {kind} and damage of single "
            f"units: {words}"
        )


def _worst(report: KnockoutReport, measure: str) -> str:
    found = report.damage_of(measure)
    without = f"{float(found.baseline):.3g} without knock-out"
    known = np.flatnonzero(~np.isnan(found.damage))
    if not len(known):
        return without
    worst = known[np.argsort(-found.damage[known], kind="stable")]
    beyond = int(found.beyond_zero.sum())
    if not beyond:
        name, damage = report.sets[worst[0]].name, found.damage[worst[0]]
        tested = bool(np.isfinite(found.lower).any())
        found_none = "no damage differs from 0; the largest" if tested else "the largest damage"
        return f"{without}; {found_none}: {damage:.3g} by {name}"
    telling = [at for at in worst if found.beyond_zero[at]][:_TOP]
    some = ", ".join(f"{found.damage[at]:.3g} by {report.sets[at].name}" for at in telling)
    return f"{without}; damage of {beyond} of {len(known)} sets differs from 0, such as {some}"


def dataframe(report: KnockoutReport) -> DataFrame:
    """A row for each set and measure."""
    pandas = optional("pandas", "to_dataframe")
    about = evaluation_of(report)
    rows = []
    for measure in report.measures:
        found = report.damage_of(measure)
        for place, some in enumerate(report.sets):
            rows.append(
                {
                    **about,
                    "set": some.name,
                    "group": some.group,
                    "layer": some.layer,
                    "units": tuple(unit for units in some.units.values() for unit in units),
                    "steps": some.steps,
                    "concept": some.concept,
                    "measure": measure,
                    "baseline": float(found.baseline),
                    "damage": found.damage[place],
                    "lower": found.lower[place],
                    "upper": found.upper[place],
                    "beyond_zero": found.beyond_zero[place],
                }
            )
    return pandas.DataFrame(rows)
