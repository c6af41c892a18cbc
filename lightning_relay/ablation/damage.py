"""Damage by knock-outs and its uncertainty, from counts alone.

Accuracies are fractions of 1. The same samples are run with and without a knock-out, so their
difference is one of paired proportions. All intervals cover 95 %.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

_QUANTILE = 1.959963984540054
"""Quantile .975 of the standard normal distribution, for intervals of 95 %."""

_FEWEST_RANKED = 4
"""Fewer points than this have no interval of their rank correlation."""


@dataclass(frozen=True, eq=False)
class Damage:
    """One measure without and with each knock-out.

    The axes after ``set`` are those of the measure: none, class or concept. Accuracies are
    fractions of 1; other measures have their own units.

    Attributes:
        baseline: The measure without knock-out, float64 ``(…)``.
        knocked_out: The measure with each knock-out, float64 ``(set, …)``.
        damage: How much worse the measure is with each knock-out, float64 ``(set, …)``; positive
            is worse, also for measures that are better when lower.
        lower: Lower ends of 95 % intervals of the damage, float64 ``(set, …)``; NaN without
            intervals.
        upper: Upper ends of these intervals, float64 ``(set, …)``; NaN without intervals.
    """

    baseline: NDArray[np.float64]
    knocked_out: NDArray[np.float64]
    damage: NDArray[np.float64]
    lower: NDArray[np.float64]
    upper: NDArray[np.float64]

    @property
    def beyond_zero(self) -> NDArray[np.bool]:
        """Whether the interval excludes 0, bool ``(set, …)``; False without an interval."""
        beyond: NDArray[np.bool] = (self.lower > 0) | (self.upper < 0)
        return beyond

    def part(self, place: int) -> Damage:
        """Damage to one class, concept or step, ``(set,)``: an index of the last axis."""
        parts = {own.name: getattr(self, own.name)[..., place] for own in fields(self)}
        return Damage(**{name: np.asarray(values) for name, values in parts.items()})


def paired_accuracy(
    right_before: ArrayLike,
    broken: ArrayLike,
    mended: ArrayLike,
    samples: ArrayLike,
    *,
    design_effect: ArrayLike = 1.0,
) -> Damage:
    """Damage to an accuracy, from counts of the same samples without and with knock-outs.

    ``right_before`` and ``samples``, ``(…)``, count all samples right without knock-out and all
    samples; ``broken`` and ``mended``, ``(set, …)``, count those that become wrong and right. Where
    ``samples`` is 0, results are NaN. For the intervals, all counts are divided by the
    ``design_effect``, ``(set, …)``, of samples that are not independent.

    ``damage = (broken − mended) / samples``. The interval combines two score intervals: with d₁, d₂
    the distances of the two accuracies from the ends of their Wilson intervals towards, or away
    from, each other, its end is ``√(d₁² − 2 φ d₁ d₂ + d₂²)`` from the damage. φ is the correlation
    of being right without and with the knock-out; samples / 2 is subtracted from its numerator if
    that is positive, but not below 0. Source: Newcombe, Statistics in Medicine 17:2635 (1998),
    method 10.
    """
    total = _counts(samples, "samples")
    before = _counts(right_before, "right_before")
    lost, won = _counts(broken, "broken"), _counts(mended, "mended")
    _check_part(before, total, "right_before", "samples there are")
    _check_part(lost, before, "broken", "samples right without knock-out")
    _check_part(won, total - before, "mended", "samples wrong without knock-out")
    after = before - lost + won
    baseline, knocked_out = _fraction(before, total), _fraction(after, total)
    damage = _fraction(lost - won, total)
    effect = np.asarray(design_effect, np.float64)
    if not (effect >= 1).all():
        raise ValueError(f"design_effect: got {effect.min()}; it takes 1 or more")
    phi = _correlation(*(part / effect for part in (before - lost, lost, won, total)))
    before_lower, before_upper = wilson_interval(before / effect, total / effect)
    after_lower, after_upper = wilson_interval(after / effect, total / effect)
    below = _distance(baseline - before_lower, after_upper - knocked_out, phi)
    above = _distance(before_upper - baseline, knocked_out - after_lower, phi)
    ends = np.asarray(damage - below), np.asarray(damage + above)
    return Damage(baseline, knocked_out, damage, *ends)


def wilson_interval(
    successes: ArrayLike, samples: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Ends of the 95 % score interval of a proportion, ``(…)`` each; NaN where ``samples`` is 0.

    ``(p + z²/2n ± z √(p (1 − p)/n + z²/4n²)) / (1 + z²/n)`` with p = successes / n, n = samples.
    Source: Wilson, Journal of the American Statistical Association 22:209 (1927).
    """
    total, found = _counts(samples, "samples"), _counts(successes, "successes")
    _check_part(found, total, "successes", "samples there are")
    share = _fraction(found, total)
    square = _fraction(np.full_like(total, _QUANTILE**2), total)
    centre = (share + square / 2) / (1 + square)
    half = np.sqrt(share * (1 - share) * square + square**2 / 4) / (1 + square)
    # Rounding must not leave a proportion of 0 or 1 outside of its own interval.
    lower = np.where(found == 0, 0 * share, centre - half)
    upper = np.where(found == total, share, centre + half)
    return lower, upper


def area_under_curve(sizes: ArrayLike, accuracy: ArrayLike) -> NDArray[np.float64]:
    """Mean of ``accuracy (…, size)`` over the fraction of units knocked out, by trapezoids."""
    places, heights = np.asarray(sizes, np.float64), np.asarray(accuracy, np.float64)
    if places.ndim != 1 or len(places) < 2 or not (np.diff(places) > 0).all():
        raise ValueError(
            f"sizes: got {places.tolist()}; it takes two or more numbers of units, increasing"
        )
    if heights.ndim == 0 or heights.shape[-1] != len(places):
        raise ValueError(
            f"accuracy: got shape {heights.shape}; it takes (…, {len(places)}), one for each of "
            "the sizes"
        )
    area: NDArray[np.float64] = np.trapezoid(heights, places) / (places[-1] - places[0])
    return np.asarray(area)


def rank_correlation(first: ArrayLike, second: ArrayLike) -> tuple[float, float, float]:
    """Spearman's rank correlation of two variables ``(point,)``, and its 95 % interval.

    The interval is ``tanh(artanh r ± 1.96 √((1 + r²/2) / (n − 3)))``. As artanh 1 is infinite, the
    end towards 0 uses at most ``1 − 12 / (n (n² − 1))``, the correlation next to 1 that two orders
    of n values can have; the other end of r = ±1 is ±1. All three are NaN if a variable has one
    value only or a NaN, or there are fewer than 4 points. Source: Bonett and Wright, Psychometrika
    65:23 (2000).
    """
    one, other = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if one.ndim != 1 or one.shape != other.shape:
        raise ValueError(
            f"first, second: got shapes {one.shape} and {other.shape}; they take (point,) each, "
            "of the same points"
        )
    points = len(one)
    undefined = bool(np.isnan(one).any() or np.isnan(other).any())
    if points < _FEWEST_RANKED or undefined or np.ptp(one) == 0 or np.ptp(other) == 0:
        return np.nan, np.nan, np.nan
    centred = [ranks - ranks.mean() for ranks in (_ranks(one), _ranks(other))]
    squares = [float(ranks @ ranks) for ranks in centred]
    value = float(centred[0] @ centred[1]) / float(np.sqrt(squares[0] * squares[1]))
    size = min(abs(value), 1.0)
    inner = min(size, 1 - 12 / (points * (points**2 - 1)))
    towards_zero = np.tanh(np.arctanh(inner) - _spread(inner, points))
    away = 1.0 if size == 1 else np.tanh(np.arctanh(size) + _spread(size, points))
    if value >= 0:
        return size, float(towards_zero), float(away)
    return -size, -float(away), -float(towards_zero)


def _spread(correlation: float, points: int) -> float:
    return _QUANTILE * float(np.sqrt((1 + correlation**2 / 2) / (points - 3)))


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ranks from 1; tied values share the mean of theirs."""
    _, numbers, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = counts.cumsum()
    ranks: NDArray[np.float64] = (last - (counts - 1) / 2)[numbers]
    return ranks


def _correlation(
    both: NDArray[np.float64],
    lost: NDArray[np.float64],
    won: NDArray[np.float64],
    total: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Newcombe's corrected φ; 0 where undefined."""
    neither = total - both - lost - won
    product = both * neither - lost * won
    product = np.where(product > 0, np.maximum(product - total / 2, 0), product)
    margins = (both + lost) * (won + neither) * (both + won) * (lost + neither)
    return np.where(margins > 0, product / np.sqrt(np.where(margins > 0, margins, 1)), 0)


def _distance(
    first: NDArray[np.float64], second: NDArray[np.float64], phi: NDArray[np.float64]
) -> NDArray[np.float64]:
    squares = first**2 - 2 * phi * first * second + second**2
    distance: NDArray[np.float64] = np.sqrt(np.maximum(squares, 0))
    return distance


def _fraction(part: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(whole > 0, part / np.where(whole > 0, whole, 1), np.nan)


def _counts(values: ArrayLike, name: str) -> NDArray[np.float64]:
    counts = np.asarray(values, np.float64)
    if not (counts >= 0).all():
        raise ValueError(f"{name}: got {counts.min()}; it takes counts of samples, 0 or more")
    return counts


def _check_part(
    part: NDArray[np.float64], whole: NDArray[np.float64], name: str, words: str
) -> None:
    over = np.broadcast_arrays(part, whole)
    beyond = over[0] > over[1]
    if beyond.any():
        raise ValueError(
            f"{name}: got {over[0][beyond][0]:g}, more than the {over[1][beyond][0]:g} {words}; "
            "count the same samples in both"
        )
