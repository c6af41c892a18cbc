"""Means of samples that are alike within a sequence: variances, and intervals that cover."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from lightning_relay.ablation.damage import paired_accuracy
from lightning_relay.ablation.design_effect import design_effect

if TYPE_CHECKING:
    from numpy.typing import NDArray


def by_the_book(values: NDArray[np.float64], sequences: NDArray[np.int64]) -> float:
    """Ratio of the two variances of a mean, one sequence after the other."""
    samples, mean = len(values), values.mean()
    numbers = np.unique(sequences)
    apart = [
        (values[sequences == one].sum() - mean * (sequences == one).sum()) ** 2 for one in numbers
    ]
    of_sequences = len(numbers) / (len(numbers) - 1) * sum(apart) / samples**2
    return float(of_sequences / (values.var() / (samples - 1)))


def test_samples_of_their_own_sequences_have_no_effect() -> None:
    generator = np.random.default_rng(0)
    values = generator.integers(-1, 2, (5, 40))
    found = design_effect(values, np.arange(40), np.arange(40) % 3, 3)
    np.testing.assert_allclose(found, np.ones((5, 3)))


def test_copies_count_once() -> None:
    generator = np.random.default_rng(0)
    values = np.repeat(generator.integers(-1, 2, (4, 50)), 7, axis=1)
    found = design_effect(values, np.repeat(np.arange(50), 7), np.zeros(350, np.int64), 1)
    # 50 sequences and 350 samples have other numbers of degrees of freedom.
    np.testing.assert_allclose(found, np.full((4, 1), 7 * (349 / 350) / (49 / 50)))


def test_the_effect_is_that_of_the_book_in_each_part() -> None:
    generator = np.random.default_rng(0)
    sequences = np.sort(generator.integers(30, size=400))
    parts = generator.integers(3, size=400)
    shared = generator.normal(size=(6, 30))[:, sequences]
    values = np.sign(np.round(shared + generator.normal(size=(6, 400)))).astype(np.int8)
    found = design_effect(values, sequences, parts, 3)
    for row in range(6):
        for part in range(3):
            own = parts == part
            expected = by_the_book(values[row, own].astype(float), sequences[own])
            assert found[row, part] == pytest.approx(max(expected, 1.0))
    assert (found > 1.2).any()


def test_where_nothing_changes_sequences_are_counted() -> None:
    sequences = np.repeat(np.arange(10), 4)
    found = design_effect(np.zeros((2, 40)), sequences, np.zeros(40, np.int64), 2)
    np.testing.assert_allclose(found, [[4, 1], [4, 1]])
    alone = design_effect(
        np.random.default_rng(0).normal(size=(1, 8)), np.zeros(8, int), np.zeros(8, int), 1
    )
    assert alone.tolist() == [[8]]


@pytest.mark.parametrize(
    ("sequences", "steps", "broken", "mended"),
    [
        (60, 12, (0.25, 0.8), (0, 0)),
        (60, 12, (0.1, 0.1), (0.1, 0.1)),
        (200, 12, (0.1, 0.1), (0.1, 0.1)),
        (24, 50, (0.1, 0.8), (0, 0)),
        (12, 50, (0.1, 0.8), (0, 0)),
        (300, 12, (1, 0.02), (1, 0.02)),
    ],
)
def test_intervals_of_damage_cover_what_they_promise(
    sequences: int, steps: int, broken: tuple[float, float], mended: tuple[float, float]
) -> None:
    """A knock-out breaks a part of the labels of some sequences, and mends a part of others."""
    generator = np.random.default_rng(1)
    runs, shape = 600, (600, sequences, steps)

    def some(of_sequences: float, of_labels: float) -> NDArray[np.bool]:
        return (generator.random((runs, sequences, 1)) < of_sequences) & (
            generator.random(shape) < of_labels
        )

    right = generator.random((runs, sequences, 1)) < 0.8
    before = np.where(generator.random(shape) < 0.1, ~right, right)
    after = (before & ~some(*broken)) | some(*mended)
    accuracy = 0.8 * 0.9 + 0.2 * 0.1
    kept = accuracy * (1 - broken[0] * broken[1])
    truth = accuracy - kept - (1 - kept) * mended[0] * mended[1]
    change = (before.astype(int) - after).reshape(runs, -1)
    number = np.repeat(np.arange(sequences), steps)
    effect = design_effect(change, number, np.zeros(sequences * steps, np.int64), 1)[:, 0]

    def covered(effects: NDArray[np.float64]) -> float:
        found = [
            paired_accuracy(
                before[run].sum(),
                [(change[run] > 0).sum()],
                [(change[run] < 0).sum()],
                sequences * steps,
                design_effect=effects[run],
            )
            for run in range(runs)
        ]
        return float(np.mean([one.lower[0] <= truth <= one.upper[0] for one in found]))

    assert 0.91 <= covered(effect) <= 0.99
    if broken[1] > 0.5:  # whole sequences are broken
        assert covered(np.ones(runs)) < 0.75


def test_an_effect_below_1_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^design_effect: got 0.5; it takes 1 or more"):
        paired_accuracy(5, [1], [0], 10, design_effect=0.5)


def test_one_change_of_many_is_a_change() -> None:
    values = np.zeros((1, 1_200_000), np.int8)
    values[0, 7] = 1
    sequences = np.repeat(np.arange(1200), 1000)
    found = design_effect(values, sequences, np.zeros(1_200_000, np.int64), 1)
    assert found[0, 0] == pytest.approx(1, abs=1e-3)
