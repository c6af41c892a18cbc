"""A knock-out report in words and tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from lightning_relay.ablation.damage import Damage
    from lightning_relay.ablation.report import KnockoutReport, KnockoutSet

_MOST_SETS = 20
_MOST_NAMED = 12
"""More units or steps than this are counted instead of named."""

_NONE = "–"


def knockout_table(report: KnockoutReport) -> str:
    """Markdown: what was run, concepts' own units, the sets that do most damage, unit scores.

    Up to 20 sets are shown, worst first: by the damage to the accuracy, or to the first metric
    where there were no class labels, or by the predictions changed where there is neither.
    """
    order = _worst_first(report)
    parts = [_note(report, len(order))]
    if concepts := _rows(_concepts(report)):
        parts += [
            "Units that relay most of a concept: the damage to the concept itself, to the others, "
            "and to it by as many units at random. ≈ before a unit: the data leave its place open, "
            "as another was as good or there are too few sequences.",
            concepts,
        ]
    parts.append(_rows(_sets(report, order)))
    if agreement := _rows(_agreement(report)):
        parts += [
            "Do unit scores predict damage? Rank correlation (Spearman) over the units of a "
            "layer, each knocked out alone; – where all scores or all damages are equal.",
            agreement,
        ]
    return "\n\n".join(part for part in parts if part)


def _note(report: KnockoutReport, shown: int) -> str:
    sentences = [
        f"{report.samples} of {report.samples_seen} samples in {report.batches} of "
        f"{report.batches_seen} batches were run again, with {len(report.sets)} sets of units "
        f"held at: {report.value}."
    ]
    if report.sets_left_out:
        sentences.append(f"{report.sets_left_out} more sets were left out for the time they take.")
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
            f"Orders and scores are those of the relay report of epoch {report.relay_epoch}{step}."
        )
    sentences.append(
        "Damage: how much worse than without knock-out; negative where it is better. In brackets "
        "95 % intervals, where there are any: of accuracies, of the difference on the same "
        "samples. Each is for one set alone, not corrected for the number of sets."
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
        "units": [_units(some) for some in sets],
        "steps": [_steps(some) for some in sets],
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
        columns["predictions changed"] = [_share(changed[place]) for place in order]
    if report.class_accuracy is not None:
        labels = [str(label) for label in report.classes]
        found = report.class_accuracy
        columns["worst class"] = [_worst_part(found, place, labels) for place in order]
    if report.concept_accuracy is not None:
        found = report.concept_accuracy
        columns["worst concept"] = [_worst_part(found, place, report.concepts) for place in order]
    return columns


def _concepts(report: KnockoutReport) -> dict[str, list[str]]:
    columns: dict[str, list[str]] = {
        "concept": [],
        "units": [],
        "damage to it [95 %]": [],
        "to the others, mean": [],
        "to it by random sets, mean (number)": [],
    }
    found = report.concept_accuracy
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
        row = (
            some.concept,
            _units(some),
            _damage(found, (place, own)),
            _mean(np.delete(found.damage[place], own)),
            _mean(np.array(random)) + (f" ({len(random)})" if random else ""),
        )
        for column, cell in zip(columns.values(), row, strict=True):
            column.append(cell)
    return columns


def _agreement(report: KnockoutReport) -> dict[str, list[str]]:
    return {
        "layer": [found.layer for found in report.agreement],
        "concept": [found.concept for found in report.agreement],
        "units": [str(len(found.scores)) for found in report.agreement],
        "rank correlation [95 %]": [
            _interval(found.correlation, found.lower, found.upper, 2) for found in report.agreement
        ],
    }


def _rows(columns: Mapping[str, Sequence[str]]) -> str:
    """Markdown of columns by name; nothing where there are no rows."""
    rows = list(zip(*columns.values(), strict=True))
    if not rows:
        return ""
    lines = [tuple(columns), (":---",) * len(columns), *rows]
    escaped = [[cell.replace("|", r"\|") for cell in line] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in escaped)


def _units(some: KnockoutSet) -> str:
    return "; ".join(
        f"{key}: {' '.join(_unit(some, unit) for unit in units)}"
        if len(units) <= _MOST_NAMED
        else f"{key}: {len(units)} units"
        for key, units in some.units.items()
    )


def _unit(some: KnockoutSet, unit: int) -> str:
    return f"≈{unit}" if unit in some.ambiguous else str(unit)


def _steps(some: KnockoutSet) -> str:
    if some.steps is None:
        return "all"
    if len(some.steps) > _MOST_NAMED:
        return f"{len(some.steps)} from {some.steps[0]} to {some.steps[-1]}"
    return " ".join(map(str, some.steps))


def _size(some: KnockoutSet) -> int:
    return sum(map(len, some.units.values()))


def _worst_part(found: Damage, place: int, names: Sequence[str]) -> str:
    """The class or concept with the largest damage, and that damage."""
    damage = found.damage[place]
    if not (damage > 0).any():
        return "none"
    worst = int(np.nanargmax(damage))
    return f"{names[worst]}: {_damage(found, (place, worst))}"


def _damage(found: Damage, place: int | tuple[int, int]) -> str:
    return _interval(found.damage[place], found.lower[place], found.upper[place], 3)


def _interval(value: float, lower: float, upper: float, digits: int) -> str:
    if np.isnan(value):
        return _NONE
    if np.isnan(lower) or np.isnan(upper):
        return f"{value:.{digits}f}"
    return f"{value:.{digits}f} [{lower:.{digits}f}, {upper:.{digits}f}]"


def _mean(values: NDArray[np.float64]) -> str:
    known = values[~np.isnan(values)]
    return f"{known.mean():.3f}" if len(known) else _NONE


def _value(value: NDArray[np.float64] | float) -> str:
    return _NONE if np.isnan(value) else f"{float(value):.3f}"


def _share(value: float) -> str:
    return _NONE if np.isnan(value) else f"{value:.1%}"
