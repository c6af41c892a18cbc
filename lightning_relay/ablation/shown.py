"""What pictures, figures and tables of a knock-out report have in common: words."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from lightning_relay.ablation.report import (
        DamagePrediction,
        DeletionCurve,
        KnockoutSet,
        ScoreAgreement,
    )

NONE = "–"
"""Stands for a number that is undefined."""

_MOST_NAMED = 12
"""Above this number, units or steps are counted instead of named."""

_NAMES = {
    "most_first": "most relay first",
    "least_first": "least first",
    "random_first": "random order",
}


def units_in_words(some: KnockoutSet) -> str:
    """Units of a set by layer; ≈ marks those whose places the data leave open."""
    parts = []
    for key, units in some.units.items():
        named = " ".join(f"≈{unit}" if unit in some.ambiguous else str(unit) for unit in units)
        parts.append(f"{key}: {named if len(units) <= _MOST_NAMED else f'{len(units)} units'}")
    return "; ".join(parts)


def steps_in_words(some: KnockoutSet) -> str:
    """Steps at which a set was held."""
    if some.steps is None:
        return "all"
    if len(some.steps) > _MOST_NAMED:
        return f"{len(some.steps)} from {some.steps[0]} to {some.steps[-1]}"
    return " ".join(map(str, some.steps))


def with_interval(value: float, lower: float, upper: float, digits: int) -> str:
    """A number with its 95 % interval, if there is one."""
    if np.isnan(value):
        return NONE
    if np.isnan(lower) or np.isnan(upper):
        return f"{value:z.{digits}f}"
    return f"{value:z.{digits}f} [{lower:z.{digits}f}, {upper:z.{digits}f}]"


def curve_in_words(curve: DeletionCurve) -> str:
    """Order of a curve, and the mean accuracy along it."""
    orders = len(curve.area)
    words = f"{_NAMES[curve.direction]}: area {curve.area.mean():.3f}"
    if orders > 1:
        words += f" ({curve.area.min():.3f} to {curve.area.max():.3f} of {orders})"
    return words


def all_alike(found: ScoreAgreement) -> str | None:
    """A sentence if all damages, or all shares, are equal; otherwise None."""
    damage = found.damage[np.isfinite(found.damage)]
    if not damage.size or damage.min() == damage.max():
        largest = damage.max(initial=0.0)
        return f"every unit alone does the same damage to {found.concept}: {largest:.3g}"
    if found.scores.min() == found.scores.max():
        return f"every unit has the same {found.kind.partition(',')[0]}: {found.scores[0]:.3g}"
    return None


def all_damage_alike(found: DamagePrediction) -> str | None:
    """A sentence if all random sets do the same damage; otherwise None."""
    damage = found.damage
    if damage.min() != damage.max():
        return None
    words = f"each of {len(damage)} random sets does the same damage to {found.concept}"
    return f"{words}: {damage[0]:.3g}"


def r2_in_words(found: DamagePrediction) -> list[str]:
    """R² of size, of size and information, and what information adds, with intervals."""
    labels = ("R2 of size alone", "R2 with relay information", "partial R2")
    values = (found.r2_size, found.r2, found.partial_r2)
    words = []
    for place, (label, value) in enumerate(zip(labels, values, strict=True)):
        text = with_interval(value, found.lower[place], found.upper[place], 2)
        words.append(f"{label}: {'undefined' if text == NONE else text}")
    return words
