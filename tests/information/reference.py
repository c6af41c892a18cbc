"""Slow and independent: joint entropies from counts of tuples, after the printed formulas."""

from __future__ import annotations

from collections import Counter
from math import log2
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

TIE = 1e-9


def joint_entropy(*variables: Iterable[object]) -> float:
    counts = Counter(zip(*variables, strict=True))
    total = sum(counts.values())
    return -sum(count / total * log2(count / total) for count in counts.values())


def rows_of(hidden: Sequence[Sequence[int]], units: Iterable[int]) -> list[tuple[int, ...]]:
    units = list(units)
    return [tuple(row[unit] for unit in units) for row in hidden]


def relay_information(
    x_in: Sequence[int],
    x_out: Sequence[int],
    hidden: Sequence[Sequence[int]],
    relay_units: Iterable[int],
) -> float:
    """I_R from its eight joint entropies."""
    everything = range(len(hidden[0]))
    others = rows_of(hidden, sorted(set(everything) - set(relay_units)))
    whole = rows_of(hidden, everything)
    return (
        -joint_entropy(others)
        + joint_entropy(x_in, others)
        + joint_entropy(x_out, others)
        - joint_entropy(x_in, x_out, others)
        + joint_entropy(whole)
        - joint_entropy(x_in, whole)
        - joint_entropy(x_out, whole)
        + joint_entropy(x_in, x_out, whole)
    )


def conditional_information(
    x_in: Sequence[int], x_out: Sequence[int], given: list[tuple[int, ...]]
) -> float:
    return (
        joint_entropy(x_in, given)
        + joint_entropy(x_out, given)
        - joint_entropy(x_in, x_out, given)
        - joint_entropy(given)
    )


def shrinking_order(
    x_in: Sequence[int], x_out: Sequence[int], hidden: Sequence[Sequence[int]]
) -> tuple[list[int], list[float], list[bool], list[bool], list[float]]:
    """Units, information, ties, ambiguity and scores of the published algorithm."""
    left = list(range(len(hidden[0])))
    rivals: set[int] = set()
    units, information, tied = [], [relay_information(x_in, x_out, hidden, left)], []
    while left:
        values = {
            unit: relay_information(x_in, x_out, hidden, [u for u in left if u != unit])
            for unit in left
        }
        best = max(values.values())
        as_good = [unit for unit in left if values[unit] >= best - TIE]
        units.append(as_good[0])
        information.append(values[as_good[0]])
        tied.append(len(as_good) > 1)
        rivals |= set(as_good) if tied[-1] else set()
        left.remove(as_good[0])
    return units, information, tied, [u in rivals for u in units], scores(units, information)


def growing_order(
    x_in: Sequence[int], x_out: Sequence[int], hidden: Sequence[Sequence[int]]
) -> tuple[list[int], list[float], list[bool], list[bool], list[float]]:
    """As ``shrinking_order``, found by adding the most important unit first."""
    chosen: list[int] = []
    rivals: set[int] = set()
    total = conditional_information(x_in, x_out, rows_of(hidden, []))
    information, tied = [0.0], []
    while len(chosen) < len(hidden[0]):
        left = [unit for unit in range(len(hidden[0])) if unit not in chosen]
        values = {
            unit: conditional_information(x_in, x_out, rows_of(hidden, [*chosen, unit]))
            for unit in left
        }
        best = min(values.values())
        as_good = [unit for unit in left if values[unit] <= best + TIE]
        chosen.append(as_good[0])
        information.append(total - values[as_good[0]])
        tied.append(len(as_good) > 1)
        rivals |= set(as_good) if tied[-1] else set()
    units, information = chosen[::-1], information[::-1]
    ambiguous = [unit in rivals for unit in units]
    return units, information, tied[::-1], ambiguous, scores(units, information)


def scores(units: list[int], information: list[float]) -> list[float]:
    sums = [0.0] * len(units)
    total = 0.0
    for unit, after in zip(units, information[1:], strict=True):
        total += information[0] - after
        sums[unit] = total
    largest = max(sums)
    return [value / largest if largest > TIE * len(units) else 0.0 for value in sums]
