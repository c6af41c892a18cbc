"""A knock-out report as Markdown, for TensorBoard."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lightning_relay.ablation.report import STATISTICS
from lightning_relay.ablation.shown import NONE, steps_in_words, units_in_words, with_interval
from lightning_relay.ablation.summary import label_count

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from lightning_relay.ablation.damage import Damage
    from lightning_relay.ablation.report import KnockoutReport, KnockoutSet

_MOST_SETS = 20
_MOST_SHARES = 3


def knockout_table(report: KnockoutReport) -> str:
    """Markdown: what was run, the top units of concepts, the worst sets, and rank correlations.

    The 20 worst sets are shown: by damage to the accuracy, or else to the first metric, or else by
    the fraction of predictions changed.
    """
    order = _worst_first(report)
    parts = [_note(report, len(order))]
    if concepts := _rows(_concepts(report)):
        parts += [
            "Top units of each concept: damage to this concept, to the others, and to this one by "
            "random sets of the same size. ≈ marks a unit whose place the data leave open.",
            concepts,
        ]
    parts.append(_rows(_sets(report, order)))
    if agreement := _rows(_agreement(report)):
        parts += [
            "Do the units that relay most do most damage? Rank correlation (Spearman) over units "
            "knocked out alone; – if undefined.",
            agreement,
        ]
    if predictions := _rows(_predictions(report)):
        parts += [
            "Does the relay information of random sets predict the damage when they are held at "
            "the step? R² of a regression of the damage on the number of units, and on number and "
            "information; partial R² of the information; rank correlation among sets of one size; "
            "specificity: correlation of the deviations of information and damage from their means "
            "over concepts; rank correlation over units of relay shares and shares of the damage; "
            "– if undefined.",
            predictions,
        ]
    if shares := _rows(_shares(report)):
        parts += [
            "Which units share the damage by all units held at the step? The 3 largest shares "
            "(Shapley values) of each concept, and the relay shares of the same units.",
            shares,
        ]
    return "\n\n".join(part for part in parts if part)


def _note(report: KnockoutReport, shown: int) -> str:
    sentences = [
        f"{report.samples} of {report.samples_seen} samples ({report.batches} of "
        f"{report.batches_seen} batches) were run with {len(report.sets)} sets of units held at: "
        f"{report.value}."
    ]
    if counted := label_count(report):
        sentences.append(f"{counted[0].upper()}{counted[1:]}.")
    if report.sets_left_out:
        sentences.append(f"{report.sets_left_out} more sets were not run.")
    if shown < len(report.sets):
        sentences.append(f"The table shows the {shown} worst.")
    if report.accuracy is not None:
        sentences.append(f"Accuracy without knock-out: {_value(report.accuracy.baseline)}.")
    sentences += [
        f"{name} without knock-out: {_value(found.baseline)}."
        for name, found in report.metrics.items()
    ]
    if report.x_in is not None:
        sentences.append(f"X_in: {report.x_in}.")
    if report.x_out is not None:
        sentences.append(f"X_out: {report.x_out}.")
    if report.relay_epoch is not None:
        step = "" if report.relay_step is None else f" (step {report.relay_step})"
        sentences.append(
            f"Orders and shares are from the relay report of epoch {report.relay_epoch}{step}."
        )
    sentences.append(
        "Damage is how much worse the model is than without knock-out; negative is better. "
        "Brackets are 95 % intervals for one set, not corrected for the number of sets."
    )
    return " ".join(sentences)


def _worst_first(report: KnockoutReport) -> list[int]:
    if report.accuracy is not None:
        damage = report.accuracy.damage
    elif report.metrics:
        damage = next(iter(report.metrics.values())).damage
    else:
        damage = report.predictions_changed
    order = np.argsort(-np.nan_to_num(damage, nan=-np.inf), kind="stable")
    worst: list[int] = order[:_MOST_SETS].tolist()
    return worst


def _sets(report: KnockoutReport, order: Sequence[int]) -> dict[str, list[str]]:
    sets = [report.sets[place] for place in order]
    columns = {
        "set": [some.name for some in sets],
        "units": [units_in_words(some) for some in sets],
        "steps": [steps_in_words(some) for some in sets],
    }
    if report.accuracy is not None:
        found = report.accuracy
        columns["accuracy"] = [_value(found.knocked_out[place]) for place in order]
        columns["damage [95 %]"] = [_damage(found, place) for place in order]
    for name, found in report.metrics.items():
        columns[name] = [_value(found.knocked_out[place]) for place in order]
        columns[f"damage to {name}"] = [_damage(found, place) for place in order]
    if not np.isnan(report.predictions_changed).all():
        changed = report.predictions_changed
        columns["predictions changed"] = [
            NONE if np.isnan(changed[place]) else f"{changed[place]:.1%}" for place in order
        ]
    if report.class_accuracy is not None:
        labels = [str(label) for label in report.classes]
        found = report.class_accuracy
        columns["worst class"] = [_worst_part(found, place, labels) for place in order]
    if report.step_accuracy is not None:
        steps = [f"step {step}" for step in range(len(report.step_samples))]
        found = report.step_accuracy
        columns["worst label step"] = [_worst_part(found, place, steps) for place in order]
    if report.concept_accuracy is not None:
        found = report.concept_accuracy
        columns["worst concept"] = [_worst_part(found, place, report.concepts) for place in order]
    return columns


def _concepts(report: KnockoutReport) -> dict[str, list[str]]:
    found = report.concept_accuracy
    rows = []
    for place in report.places("concept"):
        some = report.sets[place]
        if found is None or some.concept not in report.concepts:
            continue
        own = report.concepts.index(some.concept)
        random = [
            found.damage[other, own]
            for other in report.places("concept_random", layer=some.layer)
            if report.sets[other].concept == some.concept
            and _size(report.sets[other]) == _size(some)
            and report.sets[other].steps == some.steps
        ]
        row = {
            "concept": some.concept,
            "units": units_in_words(some),
            "damage to it [95 %]": _damage(found, (place, own)),
            "to the others, mean": _mean(np.delete(found.damage[place], own)),
            "to it by random sets, mean (number)": _mean(np.array(random))
            + (f" ({len(random)})" if random else ""),
        }
        rows.append(row)
    return {name: [row[name] for row in rows] for name in (rows[0] if rows else ())}


def _agreement(report: KnockoutReport) -> dict[str, list[str]]:
    results = report.agreement
    return {
        "layer": [found.layer for found in results],
        "concept": [found.concept for found in results],
        "units": [str(len(found.scores)) for found in results],
        "rank correlation [95 %]": [
            with_interval(found.correlation, found.lower, found.upper, 2) for found in results
        ],
    }


def _predictions(report: KnockoutReport) -> dict[str, list[str]]:
    results = report.predictions
    columns = {
        "layer": [found.layer for found in results],
        "step": [str(found.step) for found in results],
        "concept": [found.concept for found in results],
        "sets": [str(len(found.places)) for found in results],
        "sequences": [str(found.samples) for found in results],
    }
    names = ("R² of size", "R² with information", "partial R²", "within size", "specificity")
    for row, name in enumerate(names):
        columns[f"{name} [95 %]"] = [
            with_interval(getattr(found, STATISTICS[row]), found.lower[row], found.upper[row], 2)
            for found in results
        ]
    columns["rank correlation of shares"] = [
        NONE if np.isnan(found.share_correlation) else f"{found.share_correlation:.2f}"
        for found in results
    ]
    return columns


def _shares(report: KnockoutReport) -> dict[str, list[str]]:
    rows = [
        {
            "layer": found.layer,
            "step": str(found.step),
            "concept": found.concept,
            "damage by all": _value(found.unit_damage.sum()),
            "unit": str(unit),
            "share of the damage [95 %]": with_interval(
                found.unit_damage[unit], found.unit_lower[unit], found.unit_upper[unit], 3
            ),
            "relay share, bits": _value(found.unit_share[unit]),
        }
        for found in report.predictions
        if not np.isnan(found.unit_damage).any()
        for unit in np.argsort(-found.unit_damage, kind="stable")[:_MOST_SHARES].tolist()
    ]
    return {name: [row[name] for row in rows] for name in (rows[0] if rows else ())}


def _rows(columns: Mapping[str, Sequence[str]]) -> str:
    """Markdown table of columns by name; empty without rows."""
    rows = list(zip(*columns.values(), strict=True))
    if not rows:
        return ""
    lines = [tuple(columns), (":---",) * len(columns), *rows]
    escaped = [[cell.replace("|", r"\|") for cell in line] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in escaped)


def _size(some: KnockoutSet) -> int:
    return sum(map(len, some.units.values()))


def _worst_part(found: Damage, place: int, names: Sequence[str]) -> str:
    """The class or concept with the largest damage, and its damage."""
    damage = found.damage[place]
    if not (damage > 0).any():
        return "none"
    worst = int(np.nanargmax(damage))
    return f"{names[worst]}: {_damage(found, (place, worst))}"


def _damage(found: Damage, place: int | tuple[int, int]) -> str:
    return with_interval(found.damage[place], found.lower[place], found.upper[place], 3)


def _mean(values: NDArray[np.float64]) -> str:
    known = values[~np.isnan(values)]
    return _value(known.mean()) if len(known) else NONE


def _value(value: NDArray[np.float64] | float) -> str:
    return NONE if np.isnan(value) else f"{float(value):.3f}"
