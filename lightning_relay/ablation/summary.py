"""A knock-out report as a few lines of text, and as a pandas frame."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lightning_relay.ablation.shown import all_damage_alike, steps_in_words, with_interval
from lightning_relay.reports.edges import edges_in_words
from lightning_relay.reports.frames import evaluation_of, optional

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pandas import DataFrame

    from lightning_relay.ablation.report import DamagePrediction, KnockoutReport

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
        yield f"{measure}{words}: {worst_in_words(report, measure)}"
    for layer, concept in dict.fromkeys((curve.layer, curve.concept) for curve in report.curves):
        areas = [
            f"{curve.direction.replace('_', ' ')} {curve.area.mean():.3f}"
            for curve in report.curves
            if (curve.layer, curve.concept) == (layer, concept)
        ]
        yield f"{layer}, {concept}, mean accuracy along the order: {', '.join(areas)}"
    yield from (_predicted(report, found) for found in report.predictions)
    for found in report.agreement:
        words = "undefined (fewer than 4 units, or all alike)"
        if np.isfinite(found.correlation):
            words = f"{found.correlation:.2f} [{found.lower:.2f}, {found.upper:.2f}]"
        kind = found.kind.partition(",")[0]
        yield (
            f"{found.layer}, {found.concept}, rank correlation of {kind} and damage of single "
            f"units: {words}"
        )


def _predicted(report: KnockoutReport, found: DamagePrediction) -> str:
    words = "undefined"
    if np.isfinite(found.r2):
        words = f"{found.r2:.2f} ({found.r2_size:.2f} by their size alone)"
    if np.isfinite(found.share_correlation):
        words += f"; rank correlation of the units' shares: {found.share_correlation:.2f}"
    there = " there" * (report.step_accuracy is not None)
    return (
        f"{found.layer}, {found.concept}, step {found.step}: damage{there} by random sets "
        f"explained by size and relay information, R²: {words}"
    )


def prediction_in_words(found: DamagePrediction) -> str:
    """A sentence: does what sets of units relay predict what breaks without them?"""
    when = "the last step" if found.step == -1 else f"step {found.step}"
    held = f"random sets of units of {found.layer}, held at {when},"
    if all_damage_alike(found) is not None:
        return f"{held} all do the same damage to {found.concept}"
    if not np.isfinite(found.r2):
        return f"{held} do damage to {found.concept} that cannot be explained: too few differ"
    return (
        f"{held} do damage to {found.concept} of which their size alone explains "
        f"{found.r2_size:.2f}, and size and what they relay {found.r2:.2f} (R²)"
    )


def unit_in_words(report: KnockoutReport, layer: str, measure: str, unit: int) -> str:
    """Damage to a measure by a unit of a layer alone; empty if it was not held alone."""
    found = report.damage_of(measure)
    alone = report.places("each", "given", layer=layer)
    places = [place for place in alone if report.sets[place].unit == unit]
    if not places:
        return ""
    if len(places) == 1:
        (place,) = places
        ends = found.damage[place], found.lower[place], found.upper[place]
        steps = steps_in_words(report.sets[place])
        when = "at all steps" if steps == "all" else f"at steps {steps}"
        damage = with_interval(*ends, 3)
    else:
        when = f"{len(places)} times, each at other steps"
        lost = found.damage[places]
        known = lost[np.isfinite(lost)]
        damage = f"from {known.min():z.3f} to {known.max():z.3f}" if len(known) else "is undefined"
    return f"unit {unit} of {layer} held alone {when}: damage to {measure} {damage}"


def worst_in_words(report: KnockoutReport, measure: str) -> str:
    """A measure without knock-out, and the largest damage to it."""
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
