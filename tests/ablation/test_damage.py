from itertools import product
from math import sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from lightning_relay.ablation.damage import (
    Damage,
    area_under_curve,
    paired_accuracy,
    rank_correlation,
    wilson_interval,
)

Z = stats.norm.ppf(0.975)


def reference_interval(right: int, broken: int, mended: int, n: int) -> tuple[float, float]:
    """Newcombe's method 10, one table at a time, its score limits as roots of a polynomial."""

    def limits(count: int) -> list[float]:
        p = count / n
        return sorted(np.roots([1 + Z**2 / n, -(2 * p + Z**2 / n), p**2]).real)

    e, f, g = right - broken, broken, mended
    h = n - e - f - g
    first, second = (e + f) / n, (e + g) / n
    (l1, u1), (l2, u2) = limits(e + f), limits(e + g)
    product = e * h - f * g
    if product > 0:
        product = max(product - n / 2, 0)
    margins = (e + f) * (g + h) * (e + g) * (f + h)
    phi = product / sqrt(margins) if margins else 0.0
    below = (first - l1) ** 2 - 2 * phi * (first - l1) * (u2 - second) + (u2 - second) ** 2
    above = (u1 - first) ** 2 - 2 * phi * (u1 - first) * (second - l2) + (second - l2) ** 2
    return first - second - sqrt(max(below, 0)), first - second + sqrt(max(above, 0))


def test_a_published_interval_of_a_paired_difference() -> None:
    """Cavo 2012, as the tests of the R package contingencytables have it for this method."""
    found = paired_accuracy(59 + 6, [6], [16], 59 + 6 + 16 + 80)
    assert found.damage[0] == pytest.approx(-0.0621, abs=5e-5)
    assert found.lower[0] == pytest.approx(-0.1186, abs=5e-5)
    assert found.upper[0] == pytest.approx(-0.0046, abs=5e-5)


@pytest.mark.parametrize("table", [(36, 12, 2, 0), (14, 5, 0, 22), (1, 1, 7, 12), (59, 6, 16, 80)])
def test_larger_tables_have_the_interval_of_the_slow_reference(
    table: tuple[int, int, int, int],
) -> None:
    both, broken, mended, _ = table
    found = paired_accuracy(both + broken, [broken], [mended], sum(table))
    expected = reference_interval(both + broken, broken, mended, sum(table))
    np.testing.assert_allclose((found.lower[0], found.upper[0]), expected, atol=1e-9)


def test_all_small_tables_have_the_interval_of_the_slow_reference() -> None:
    for n in (1, 2, 7):
        for right, broken, mended in product(range(n + 1), repeat=3):
            if broken > right or mended > n - right:
                continue
            found = paired_accuracy(right, broken, mended, n)
            expected = reference_interval(right, broken, mended, n)
            np.testing.assert_allclose((found.lower, found.upper), expected, atol=1e-7)


def test_counts_are_taken_with_any_shape() -> None:
    random = np.random.default_rng(0)
    samples = np.array([50, 0, 200])
    right = random.binomial(samples, 0.7)
    broken, mended = (
        random.binomial(right, 0.3, (4, 3)),
        random.binomial(samples - right, 0.2, (4, 3)),
    )
    found = paired_accuracy(right, broken, mended, samples)
    assert found.baseline.shape == (3,)
    assert found.baseline[0] == right[0] / 50
    for part in (found.knocked_out, found.damage, found.lower, found.upper):
        assert part.shape == (4, 3)
        assert np.isnan(part[:, 1]).all()
        assert not np.isnan(part[:, [0, 2]]).any()
    one = paired_accuracy(right[2], broken[:, 2], mended[:, 2], samples[2])
    np.testing.assert_array_equal(one.lower, found.lower[:, 2])
    np.testing.assert_allclose(found.baseline - found.knocked_out, found.damage)


@pytest.mark.parametrize(
    ("right", "lost", "won", "at_most"),
    [
        (0.9, 0.05, 0.5, 0.98),
        (0.9, 0.5, 0.1, 0.98),
        (0.6, 0.2, 0.3, 0.98),
        (0.97, 0.02, 0.0, 1.0),  # four samples broken on average: wider than need be
    ],
)
def test_about_95_percent_of_intervals_cover_the_damage(
    right: float, lost: float, won: float, at_most: float
) -> None:
    random = np.random.default_rng(0)
    shares = [right * (1 - lost), right * lost, (1 - right) * won, (1 - right) * (1 - won)]
    both, broken, mended, _ = random.multinomial(200, shares, 20_000).T
    found = paired_accuracy(both + broken, broken, mended, 200)
    true = right * lost - (1 - right) * won
    covered = ((found.lower <= true) & (true <= found.upper)).mean()
    assert 0.94 < covered < at_most


def test_an_interval_is_beyond_zero_on_either_side() -> None:
    nan = np.nan
    ends = np.array([0.1, -0.3, -0.1, nan, 0.0]), np.array([0.3, -0.1, 0.1, nan, 0.2])
    zeros = np.zeros(5)
    found = Damage(np.array(0.0), zeros, zeros, *ends)
    assert found.beyond_zero.tolist() == [True, True, False, False, False]


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ((5, 6, 0, 10), "broken: got 6, more than the 5 samples right without knock-out; count"),
        ((5, 0, 6, 10), "mended: got 6, more than the 5 samples wrong without knock-out"),
        ((11, 0, 0, 10), "right_before: got 11, more than the 10 samples there are"),
        ((5, -1, 0, 10), r"broken: got -1\.0; it takes counts of samples, 0 or more"),
        ((5, 0, 0, np.nan), "samples: got nan; it takes counts"),
    ],
)
def test_counts_that_cannot_be_are_refused(counts: tuple[int, int, int, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        paired_accuracy(*counts)


def test_wilson_intervals_are_those_of_scipy() -> None:
    for samples in (1, 9, 263):
        successes = np.unique([0, samples // 3, samples])
        lower, upper = wilson_interval(successes, samples)
        for place, count in enumerate(successes):
            ends = stats.binomtest(int(count), samples).proportion_ci(method="wilson")
            np.testing.assert_allclose((lower[place], upper[place]), ends, atol=1e-12)
        assert lower[0] == 0.0
        assert upper[-1] == 1.0
    assert np.isnan(wilson_interval([0], [0])).all()
    with pytest.raises(ValueError, match="successes: got 3, more than the 2 samples there are"):
        wilson_interval([1, 3], 2)


def test_the_area_is_the_mean_over_the_units_knocked_out() -> None:
    assert area_under_curve([0, 3, 10], [0.4, 0.4, 0.4]) == pytest.approx(0.4)
    assert area_under_curve([0, 10], [1, 0]) == 0.5
    orders = area_under_curve([0, 1, 4], [[1, 0, 0], [1, 1, 0]])
    np.testing.assert_allclose(orders, [0.125, 0.625])
    assert np.isnan(area_under_curve([0, 1], [1, np.nan]))
    for sizes in ([0, 2, 2], [0], [2, 1]):
        with pytest.raises(ValueError, match=r"sizes: got .*two or more numbers of units, increas"):
            area_under_curve(sizes, np.zeros(len(sizes)))
    with pytest.raises(ValueError, match=r"accuracy: got shape \(3,\); it takes \(…, 2\), one for"):
        area_under_curve([0, 1], [1, 1, 1])


@given(
    arrays(np.float64, st.shared(st.integers(4, 12), key="n"), elements=st.integers(0, 6)),
    arrays(np.float64, st.shared(st.integers(4, 12), key="n"), elements=st.integers(0, 6)),
)
def test_rank_correlations_are_those_of_scipy(first: np.ndarray, second: np.ndarray) -> None:
    found, lower, upper = rank_correlation(first, second)
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        assert np.isnan([found, lower, upper]).all()
        return
    assert found == pytest.approx(stats.spearmanr(first, second).statistic, abs=1e-12)
    assert -1 <= lower <= found + 1e-12
    assert found - 1e-12 <= upper <= 1
    mirrored = rank_correlation(first, -second)
    assert mirrored == pytest.approx((-found, -upper, -lower), abs=1e-12)


def test_the_interval_of_a_rank_correlation_is_bonett_and_wright_s() -> None:
    random = np.random.default_rng(0)
    first = random.normal(size=30)
    second = first + random.normal(size=30)
    found, lower, upper = rank_correlation(first, second)
    error = sqrt((1 + found**2 / 2) / 27)
    ends = np.tanh(np.arctanh(found) + np.array([-1, 1]) * Z * error)
    assert (lower, upper) == pytest.approx(tuple(ends))


def test_a_perfect_rank_correlation_has_an_interval_as_wide_as_the_one_next_to_it() -> None:
    for points in (4, 5, 20):
        values = np.arange(points)
        found, lower, upper = rank_correlation(values, values)
        assert (found, upper) == (1, 1)
        swapped = values.copy()
        swapped[:2] = 1, 0
        near, near_lower, _ = rank_correlation(values, swapped)
        assert near < 1
        assert lower == pytest.approx(near_lower)
        assert rank_correlation(values, -values) == (-1, -1, -lower)


def test_about_95_percent_of_intervals_cover_the_rank_correlation() -> None:
    random = np.random.default_rng(0)
    true = 6 / np.pi * np.arcsin(0.6 / 2)
    covered = 0
    for _ in range(1000):
        first, other = random.normal(size=(2, 32))
        _, lower, upper = rank_correlation(first, 0.6 * first + 0.8 * other)
        covered += lower <= true <= upper
    assert 925 <= covered <= 980


@pytest.mark.parametrize("values", [([1, 2, 3], [1, 2, 3]), ([1, 2, 3, np.nan], [1, 2, 3, 4])])
def test_too_few_points_have_no_rank_correlation(values: tuple[list[float], list[float]]) -> None:
    assert np.isnan(rank_correlation(*values)).all()


def test_variables_of_other_points_are_refused() -> None:
    with pytest.raises(ValueError, match=r"first, second: got shapes \(3,\) and \(4,\); they take"):
        rank_correlation([1, 2, 3], [1, 2, 3, 4])
