"""Slow and independent: joint entropies from counts of tuples, after the printed formulas."""

from __future__ import annotations

from collections import Counter
from math import log2
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

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
) -> Order:
    """The published algorithm."""
    left = list(range(len(hidden[0])))
    ties: list[set[int]] = []
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
        ties.append(set(as_good))
        left.remove(as_good[0])
    return Order.of(units, information, tied, ties, growing=False)


def growing_order(
    x_in: Sequence[int], x_out: Sequence[int], hidden: Sequence[Sequence[int]]
) -> Order:
    """As ``shrinking_order``, found by adding the most important unit first."""
    chosen: list[int] = []
    ties: list[set[int]] = []
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
        ties.append(set(as_good))
    return Order.of(chosen[::-1], information[::-1], tied[::-1], ties, growing=True)


class Order(NamedTuple):
    """An order, and what it says of each unit, by unit index."""

    units: list[int]
    information: list[float]
    places: list[float]
    scores: list[float]
    groups: list[int]
    tied: list[bool]

    @classmethod
    def of(
        cls,
        units: list[int],
        information: list[float],
        tied: list[bool],
        ties: list[set[int]],
        *,
        growing: bool,
    ) -> Order:
        groups: list[set[int]] = []
        for chosen, tie in zip(units[::-1] if growing else units, ties, strict=True):
            if not any(chosen in group for group in groups):
                groups.append(tie.difference(*groups))
        group_of = {unit: group for group in groups for unit in group}
        ordered = [unit for group in groups for unit in group]
        if growing:
            ordered.reverse()
        sums = [
            sum(information[0] - left for left in information[1 : units.index(unit) + 2])
            for unit in range(len(units))
        ]

        def means(values: list[float]) -> list[float]:
            return [
                sum(values[other] for other in group_of[unit]) / len(group_of[unit])
                for unit in range(len(units))
            ]

        largest = max(means(sums))
        return cls(
            units,
            information,
            means([float(ordered.index(unit)) for unit in range(len(units))]),
            [mean / largest if largest > TIE * len(units) else 0.0 for mean in means(sums)],
            [min(group_of[unit]) for unit in range(len(units))],
            [tied[units.index(unit)] for unit in range(len(units))],
        )


def all_states(bits: int) -> Tensor:
    """Every state of ``bits`` fair bits once: ``(2**bits, bits)``."""
    return (torch.arange(2**bits).unsqueeze(1) >> torch.arange(bits)) & 1
