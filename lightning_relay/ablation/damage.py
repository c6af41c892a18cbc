"""How much worse a model is with units knocked out, and how sure that is; knows no model.

Accuracies are fractions of 1. The samples with and without a knock-out are the same, so their
difference is one of paired proportions. All intervals cover 95 %.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

_QUANTILE = 1.959963984540054
"""Of the standard normal distribution, for intervals of 95 %."""

_FEWEST_RANKED = 4
"""Fewer points than this have no interval of their rank correlation."""


@dataclass(frozen=True, eq=False)
class Damage:
    """What one measure was without and with each knock-out.

    The axes after ``set`` are those of the measure: none, class or concept. Accuracies are
    fractions of 1, other measures in units of their own.

    Attributes:
        baseline: The measure without knock-out, float64 ``(…)``.
        knocked_out: The measure with it, float64 ``(set, …)``.
        damage: How much worse it is, float64 ``(set, …)``; positive is worse, also of measures
            that are better when lower.
        lower: Lower ends of 95 % intervals of the damage, float64 ``(set, …)``; NaN, like the
            following, where there is none.
        upper: Upper ends, float64 ``(set, …)``.
    """

    baseline: NDArray[np.float64]
    knocked_out: NDArray[np.float64]
    damage: NDArray[np.float64]
    lower: NDArray[np.float64]
    upper: NDArray[np.float64]

    @property
    def beyond_zero(self) -> NDArray[np.bool]:
        """Whether the interval excludes 0, bool ``(set, …)``; not so where there is none."""
        beyond: NDArray[np.bool] = (self.lower > 0) | (self.upper < 0)
        return beyond


def paired_accuracy(
    right_before: ArrayLike, broken: ArrayLike, mended: ArrayLike, samples: ArrayLike
) -> Damage:
    """The damage to an accuracy, from counts of the same samples without and with knock-outs.

    ``damage = (broken − mended) / samples``. Its interval is that of the difference of paired
    proportions by the hybrid of two score intervals: with d₁, d₂ the distances of the two
    accuracies from the ends of their Wilson intervals towards, and away from, each other,
    ``√(d₁² − 2 φ d₁ d₂ + d₂²)`` is the distance of the end from the difference. φ is the
    correlation of being right without and with the knock-out, whose numerator, where positive, is
    reduced by samples / 2, not below 0.

    Args:
        right_before: Number of samples that are right without knock-out, ``(…)``.
        broken: Number of those that are wrong with it, ``(set, …)``.
        mended: Number of samples that are wrong without it and right with it, ``(set, …)``.
        samples: Number of samples, ``(…)``; where it is 0, all results are NaN.

    Returns:
        Accuracies, damage and 95 % intervals, fractions of 1.

    Raises:
        ValueError: If counts are negative, or there are more broken samples than right ones or
            more mended ones than wrong ones.

    Example:
        >>> found = paired_accuracy(90, [30, 0], [2, 0], 100)
        >>> found.damage.tolist(), found.lower.round(3).tolist(), found.upper.round(3).tolist()
        ([0.28, 0.0], [0.18, -0.035], [0.377, 0.035])

    Source:
        Newcombe, Statistics in Medicine 17:2635 (1998), method 10.
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
    phi = _correlation(before - lost, lost, won, total)
    before_lower, before_upper = wilson_interval(before, total)
    after_lower, after_upper = wilson_interval(after, total)
    below = _distance(baseline - before_lower, after_upper - knocked_out, phi)
    above = _distance(before_upper - baseline, knocked_out - after_lower, phi)
    ends = np.asarray(damage - below), np.asarray(damage + above)
    return Damage(baseline, knocked_out, damage, *ends)


def wilson_interval(
    successes: ArrayLike, samples: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Ends of the 95 % score interval of a proportion.

    ``(p + z²/2n ± z √(p (1 − p)/n + z²/4n²)) / (1 + z²/n)`` with p = successes / n, n = samples.

    Args:
        successes: Number of successes, ``(…)``.
        samples: Number of samples, broadcastable to it; where it is 0, the ends are NaN.

    Returns:
        Lower and upper ends, fractions of 1, float64 ``(…)`` each.

    Raises:
        ValueError: If counts are negative, or there are more successes than samples.

    Example:
        >>> [float(end.round(4)) for end in wilson_interval(81, 263)]
        [0.2553, 0.3662]

    Source:
        Wilson, Journal of the American Statistical Association 22:209 (1927).
    """
    total, found = _counts(samples, "samples"), _counts(successes, "successes")
    _check_part(found, total, "successes", "samples there are")
    share = _fraction(found, total)
    square = _fraction(np.full_like(total, _QUANTILE**2), total)
    centre = (share + square / 2) / (1 + square)
    half = np.sqrt(share * (1 - share) * square + square**2 / 4) / (1 + square)
    # At 0 and 1 rounding would leave the proportion itself outside.
    lower = np.where(found == 0, 0 * share, centre - half)
    upper = np.where(found == total, share, centre + half)
    return lower, upper


def area_under_curve(sizes: ArrayLike, accuracy: ArrayLike) -> NDArray[np.float64]:
    """Mean accuracy over the fraction of units knocked out, by trapezoids.

    Args:
        sizes: Numbers of units knocked out, increasing, ``(size,)``.
        accuracy: Accuracy with so many knocked out, ``(…, size)``.

    Returns:
        Fraction of 1, float64 ``(…)``; NaN where an accuracy is.

    Raises:
        ValueError: If the sizes do not increase, are fewer than 2 or not as many as the accuracies.

    Example:
        >>> area_under_curve([0, 1, 4], [[1.0, 0.5, 0.5]]).tolist()
        [0.5625]
    """
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
    """Rank correlation of two variables (Spearman), and its 95 % interval.

    The correlation r of the ranks, tied values sharing the mean of theirs; the interval is
    ``tanh(artanh r ± 1.96 √((1 + r²/2) / (n − 3)))``. As artanh 1 is infinite, the end of the
    interval towards 0 is that of the correlation next to ±1 that two orders of n values can have,
    ``1 − 12 / (n (n² − 1))``, where r is larger; the other end of r = ±1 is ±1.

    Args:
        first: One variable, ``(point,)``.
        second: The other, ``(point,)``.

    Returns:
        Correlation, lower and upper end; all NaN where a variable has one value only, or one that
        is NaN, or there are fewer than 4 points.

    Raises:
        ValueError: If the variables are not two lists of the same length.

    Example:
        >>> [round(value, 3) for value in rank_correlation([1, 2, 3, 4, 5, 6], [1, 3, 2, 4, 6, 5])]
        [0.886, 0.066, 0.992]

    Source:
        Bonett and Wright, Psychometrika 65:23 (2000).
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
    """Newcombe's φ of being right without and with the knock-out, corrected; 0 where undefined."""
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
