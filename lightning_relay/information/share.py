"""The relay share of every unit: its Shapley value in the relay information of all."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import lru_cache
from itertools import permutations
from math import factorial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from lightning_relay.information.compiled import compiled, in_threads
from lightning_relay.information.counting import (
    CANCELS,
    SIZE,
    VARYING,
    list_bags,
    one_stratum,
    room_for_bags,
    room_for_strata,
    split,
)
from lightning_relay.information.estimators import (
    Estimator,
    check_estimator,
    is_additive,
    psi_of,
)
from lightning_relay.information.evidence import measure_evidence
from lightning_relay.information.given import information_given
from lightning_relay.information.ordering import check_evidence_rule
from lightning_relay.information.rows import MOST_COUNTED, Samples
from lightning_relay.information.subsets import conditioned_on_all_subsets

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from lightning_relay.information.compiled import Integer
    from lightning_relay.information.counting import Strata
    from lightning_relay.information.estimators import Psi
    from lightning_relay.information.rows import Rows

_FEW_UNITS = 12
"""Plain shares of up to so many units come from all subsets."""

_SHIFT = 4
"""Orders of a block are rotated by so many units, or more."""

_FEWEST_BLOCKS = 4
"""A standard error is taken of at least so many blocks of orders, if there are that many pairs."""

_SMALL = 25
"""Means of psi over permutations are kept for strata of fewer samples."""

_MOST_ORDERS = 2**14
"""No error is aimed at with more orders."""


@dataclass(frozen=True, eq=False)
class RelayShare:
    """The relay share of every unit, for every leading index apart.

    Attributes:
        share: Relay share by unit index, bits, float64 ``(…, units)``.
        standard_error: Standard error of the share by the choice of orders, bits, float64
            ``(…, units)``; 0 where all orders were taken. It says nothing about the choice of
            samples: ``bootstrap`` does.
        unattributed: Relay information of all units minus the sum of their shares, bits, float64
            ``(…)``. What the samples do not attribute to any unit; noise can make it slightly
            negative.
        resolved: Fraction of the orders in which there were samples enough at the turn of the unit,
            float64 ``(…, units)``; by the rule of ``relay_order`` for the condition that holds the
            unit and all before it.
        n_orders: Number of orders; 0 if all subsets were looked at instead.
        corrected: Whether the gain of a permuted copy was subtracted.
        estimator: How entropies were estimated from counts.
        seed: Seed of the orders.
    """

    share: Tensor
    standard_error: Tensor
    unattributed: Tensor
    resolved: Tensor
    n_orders: int
    corrected: bool
    estimator: Estimator
    seed: int


def relay_share(
    x_in: Tensor,
    x_out: Tensor,
    hidden: Tensor,
    *,
    n_orders: int | float = 64,
    corrected: bool = True,
    valid: Tensor | None = None,
    weights: Tensor | None = None,
    estimator: Estimator = "plugin",
    min_coverage: float = 0.9,
    max_gap: float = 0.1,
    seed: int = 0,
) -> RelayShare:
    r"""Relay share of every unit: what it takes away when it becomes known, over random orders.

    The share of a unit is its Shapley value in the game :math:`v(R) = I_R(R)`: the mean, over
    orders in which the units leave R and join the condition S, of what
    :math:`I(X_{in}; X_{out} | S)` loses at the unit's own turn. It needs no direction, since units
    that join R instead give the same values. Copies of one unit have equal shares. The shares add
    up to the relay information of all units.

    Units of mere noise, too, lower the plug-in information, because samples run out. So what a
    copy of the unit would have taken away is subtracted at every turn, a copy permuted among the
    samples that share a state of S:

    .. math:: I(X_{in}; X_{out} | S, \tilde Y_u) - I(X_{in}; X_{out} | S, Y_u)

    The first term is the exact mean over all permutations: the number of samples of a bag that have
    a level follows a hypergeometric distribution. A unit that does nothing then has a share of 0 on
    average, whatever the number of samples. What is left over is ``unattributed``.

    Synergy is credited too little as samples run out. A small share in a wide layer means "not told
    by these samples" and not "unimportant": read it beside ``unattributed`` and ``resolved``.

    Orders come in blocks: a random one, the same rotated, and the reverse of each. They are the
    same for all leading indices, so that steps compare.

    Args:
        x_in: Integer labels of the input, ``(samples,)`` or broadcastable to ``(…, samples)``; any
            values.
        x_out: Integer labels of the output, of a shape like that of ``x_in``.
        hidden: Integer codes of the units' states, ``(…, samples, units)``; any values, any number
            of levels and of units.
        n_orders: Number of orders, an int from 4, rounded up to whole blocks. Or the standard error
            aimed at, a float in bits: orders are added until no unit's is larger. Where there are
            no more orders than that, all are taken.
        corrected: Whether to subtract the gain of a permuted copy. Without, shares of up to 12
            units are exact, from all subsets.
        valid: Boolean mask broadcastable to ``(…, samples)``; a sample with False is not counted.
        weights: How many times each sample counts, integers broadcastable to ``(…, samples)``;
            default: once.
        estimator: How entropies are estimated from counts; all but ``"chao_shen"``.
        min_coverage: A condition with a lower coverage resolves nothing, fraction of 1.
        max_gap: Nor does one whose corrected and plug-in information differ by more, bits.
        seed: Seed of the orders; no other random state is touched.

    Returns:
        The shares with their errors and evidence, with the leading dimensions of the arguments.

    Raises:
        TypeError: If labels, codes or weights are not integers, or ``n_orders`` is no number.
        ValueError: If shapes do not fit, an option is unknown or out of range, a weight is
            negative, or there is no sample to count.

    Warns:
        UserWarning: If the error aimed at is not reached with 16,384 orders.

    Example:
        Two units that copy a fair bit share it; a third is always off:

        >>> import torch
        >>> bit = torch.tensor([0, 1]).repeat(50)
        >>> hidden = torch.stack([bit, bit, torch.zeros_like(bit)], dim=-1)
        >>> found = relay_share(bit, bit, hidden, corrected=False)
        >>> found.share.tolist(), found.unattributed.item()
        ([0.5, 0.5, 0.0], 0.0)

    Source:
        This project's own; Shapley, A value for n-person games (1953). Related: Ghorbani and Zou,
        Neuron Shapley (2020); Fakhar and Hilgetag, PLoS Comput. Biol. 18:e1010250 (2022), where the
        payoff is performance.
    """
    check_estimator(estimator)
    if not is_additive(estimator):
        raise ValueError(
            f"estimator: got {estimator!r}, which depends on all counts at once; for shares it "
            "takes 'plugin', 'miller_madow', 'grassberger'"
        )
    check_orders(n_orders)
    check_evidence_rule(min_coverage, max_gap)
    samples = Samples.of(x_in, x_out, hidden, valid, weights)
    rule = _Rule(corrected, estimator, min_coverage, max_gap)
    blocks = _Blocks(samples.units, n_orders, seed)
    exact = not corrected and samples.units <= _FEW_UNITS
    while True:
        gains, resolved = _gains(samples, blocks.orders, rule)
        means = gains.reshape(samples.indices, blocks.number, -1, samples.units).mean(2)
        error = np.zeros_like(means[:, 0])
        if not blocks.complete:
            error = means.std(1, ddof=1) / np.sqrt(blocks.number)
        if exact or not blocks.more(float(error.max())):
            break
    share = means.mean(1)
    if exact:
        share = np.stack(samples.each(lambda rows: _exact(rows, estimator)))
        error = np.zeros_like(share)
    ends = np.array([[False] * samples.units, [True] * samples.units])
    totals = samples.each(lambda rows: information_given(rows, estimator, ends))
    information = np.array([nothing - everything for nothing, everything in totals])
    return RelayShare(
        share=samples.shaped(share),
        standard_error=samples.shaped(error),
        unattributed=samples.shaped(information - share.sum(1)),
        resolved=samples.shaped(resolved),
        n_orders=0 if exact else len(blocks.orders),
        corrected=corrected,
        estimator=estimator,
        seed=seed,
    )


def check_orders(n_orders: int | float) -> None:
    """Raise unless ``n_orders`` is a number of orders from 4, or an error in bits above 0."""
    if isinstance(n_orders, bool) or not isinstance(n_orders, int | float):
        raise TypeError(
            f"n_orders: got {n_orders!r}; it takes a number of orders, an int, or the standard "
            "error aimed at in bits, a float"
        )
    if isinstance(n_orders, int) and n_orders < 4:
        raise ValueError(f"n_orders: got {n_orders}; it takes at least 4, so that errors are known")
    if isinstance(n_orders, float) and not n_orders > 0:
        raise ValueError(f"n_orders: got {n_orders}; an error aimed at is above 0 bits")


@dataclass(frozen=True)
class _Rule:
    """How gains are measured and turns resolved."""

    corrected: bool
    estimator: Estimator
    min_coverage: float
    max_gap: float


class _Blocks:
    """Orders of the units in blocks that are alike: a random order, rotated, and all reversed.

    Args:
        units: Number of units.
        n_orders: Number of orders, or the error aimed at.
        seed: Seed of the random orders.
    """

    def __init__(self, units: int, n_orders: int | float, seed: int) -> None:
        self._aim = n_orders if isinstance(n_orders, float) else None
        wanted = 64 if isinstance(n_orders, float) else n_orders
        self.complete = units < 10 and factorial(units) <= wanted
        if self.complete:
            self.orders = np.array(list(permutations(range(units))), dtype=np.int64)
            self.number = 1
            return
        self._generator = torch.Generator().manual_seed(seed)
        self._units = units
        self._rotations = max(1, min(-(-units // _SHIFT), wanted // (2 * _FEWEST_BLOCKS)))
        self.number = -(-wanted // (2 * self._rotations))
        self.orders = self._drawn(self.number)

    def more(self, error: float) -> bool:
        """Draw as many orders again if the error is above the one aimed at."""
        if self.complete or self._aim is None or error <= self._aim:
            return False
        if 2 * len(self.orders) > _MOST_ORDERS:
            warnings.warn(
                f"n_orders: the standard error is {error:.3g} bits after {len(self.orders)} "
                f"orders, above the {self._aim:.3g} aimed at; give more samples, or aim higher",
                stacklevel=3,
            )
            return False
        self.orders = np.concatenate([self.orders, self._drawn(self.number)])
        self.number *= 2
        return True

    def _drawn(self, blocks: int) -> NDArray[np.int64]:
        shifts = [round(turn * self._units / self._rotations) for turn in range(self._rotations)]
        drawn = []
        for _ in range(blocks):
            order = torch.randperm(self._units, generator=self._generator, device="cpu").numpy()
            for shift in shifts:
                drawn += [np.roll(order, shift), np.roll(order, shift)[::-1]]
        return np.stack(drawn)


def _gains(
    samples: Samples, orders: NDArray[np.int64], rule: _Rule
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """What each unit takes away in each order, bits, and in how many of them that is resolved.

    Returns:
        Float64 ``(indices, orders, units)`` and, as a fraction, float64 ``(indices, units)``.
    """

    def measured(rows: Rows, some: NDArray[np.int64]) -> tuple[NDArray[Any], NDArray[Any]]:
        psi = psi_of(rule.estimator, rows.samples)
        sizes = rows.outs, rows.samples, rows.levels, rows.planes, 8 * rows.bytes
        limits = rule.min_coverage, rule.max_gap
        means = _small_means(rule.estimator)
        if not rule.corrected:
            means = means[:0]
        return _taken(rows.table, some, sizes, psi, means, limits)

    if samples.indices > 1:
        found = samples.each(lambda rows: measured(rows, orders))
        return np.stack([gain for gain, _ in found]), np.stack([kept.mean(0) for _, kept in found])
    rows = samples.rows(0)
    parts = np.array_split(orders, min(len(orders), 4 * torch.get_num_threads()))
    found = in_threads(lambda some: measured(rows, some), parts)
    gains, resolved = (np.concatenate(part) for part in zip(*found, strict=True))
    return gains[np.newaxis], resolved.mean(0)[np.newaxis]


def _exact(rows: Rows, estimator: Estimator) -> NDArray[np.float64]:
    """Plain shares in bits from the information of all subsets, float64 ``(units,)``."""
    given = conditioned_on_all_subsets(rows, estimator)
    sets = np.arange(len(given))
    size = np.array([int(number).bit_count() for number in sets])
    orders = np.array(
        [factorial(k) * factorial(rows.units - 1 - k) for k in range(rows.units)], dtype=np.float64
    )
    shares = []
    for unit in range(rows.units):
        without = sets[sets >> unit & 1 == 0]
        lost = given[without] - given[without | 1 << unit]
        shares.append((orders[size[without]] * lost).sum() / factorial(rows.units))
    return np.array(shares)


@compiled
def _taken(
    table: NDArray[np.uint64],
    orders: NDArray[np.int64],
    sizes: tuple[int, int, int, int, int],
    psi: Psi,
    means: NDArray[np.float64],
    limits: tuple[float, float],
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """What each unit takes away at its turn, bits, and whether the turn is resolved.

    Returns:
        Float64 and bool ``(orders, units)``.
    """
    outs, samples, _, planes, stride = sizes
    units = orders.shape[1]
    gains = np.zeros(orders.shape, np.float64)
    resolved = np.zeros(orders.shape, np.bool_)
    label, bag = np.empty(len(table) + 2, np.uint64), room_for_bags(len(table), outs)
    strata, other = room_for_strata(table), room_for_strata(table)
    start, first = one_stratum(table, VARYING)
    for place in range(len(orders)):
        order = orders[place]
        coverage = _coverage(table, samples, order, planes, stride, limits[0])
        strata.table[:], strata.begin[:], strata.end[:] = start.table, start.begin, start.end
        number = first
        before = 0.0
        is_resolved = True
        for turn in range(units + 1):
            unit = order[min(turn, units - 1)]
            total, compared, permuted = _sums(strata, number, unit, sizes, psi, means, label, bag)
            gap = abs(compared - total) / samples
            is_resolved = is_resolved and coverage[turn] >= limits[0] and gap <= limits[1]
            if turn > 0:
                gains[place, order[turn - 1]] = (before - total) / samples
                resolved[place, order[turn - 1]] = is_resolved
            before = permuted if len(means) else total
            if number > 0 and turn < units:
                for plane in range(planes):
                    number = split(strata, number, plane * stride + unit, VARYING, other)
                    strata, other = other, strata
    return gains, resolved


@compiled
def _coverage(
    table: NDArray[np.uint64],
    samples: int,
    order: NDArray[np.int64],
    planes: int,
    stride: int,
    lowest: float,
) -> NDArray[np.float64]:
    """Coverage of each condition until it is too low, then 0, float64 ``(units + 1,)``."""
    coverage = np.zeros(len(order) + 1, np.float64)
    known = min(16, len(order))
    while True:
        found = measure_evidence(table, samples, order[:known], planes, stride)[0]
        coverage[: known + 1] = found
        if found[-1] < lowest or known == len(order):
            return coverage
        known = min(4 * known, len(order))


@compiled
def _sums(
    strata: Strata,
    number: int,
    unit: int,
    sizes: tuple[int, int, int, int, int],
    psi: Psi,
    means: NDArray[np.float64],
    label: NDArray[np.uint64],
    bag: NDArray[np.uint32],
) -> tuple[float, float, float]:
    """Sums over the bags of a condition S.

    Returns:
        N I(X_in; X_out | S) in bits, the same by the estimator that it is compared with, and what
        is left of it when a permuted copy of the unit joins S.
    """
    table, value, other = strata.table, psi.value, psi.other
    _, _, levels, planes, stride = sizes
    holders = np.empty(levels, np.int64)
    total = compared = permuted = 0.0
    for stratum in range(number):
        begin, end = np.uint64(strata.begin[stratum]), np.uint64(strata.end[stratum])
        whole, bags = list_bags(table, begin, end, label, bag)
        if len(means):
            holders[:] = 0
            for line in range(begin, end):
                holders[_level(table, line, unit, levels, planes, stride)] += table[line, -1]
        samples = np.int64(bag[SIZE, whole])
        for here in range(1, bags):
            if bag[CANCELS, here] == 1:
                continue
            sign, drawn = 1.0 - bag[CANCELS, here], np.int64(bag[SIZE, here])
            total += sign * value[drawn]
            compared += sign * other[drawn]
            if len(means) == 0:
                continue
            if samples < len(means):
                for level in range(levels):
                    permuted += sign * means[samples, holders[level], drawn]
            elif levels == 2:
                permuted += sign * _expected(value, samples, holders[1], drawn, True)
            else:
                for level in range(levels):
                    permuted += sign * _expected(value, samples, holders[level], drawn, False)
    return total, compared, permuted


@lru_cache(maxsize=4)
def _small_means(estimator: Estimator) -> NDArray[np.float64]:
    """Mean of psi by the number of samples, holders, and those drawn, for few samples."""
    means = np.zeros((_SMALL, _SMALL, _SMALL))
    value = psi_of(estimator, _SMALL).value
    for samples in range(_SMALL):
        for holders in range(samples + 1):
            for drawn in range(samples + 1):
                means[samples, holders, drawn] = _expected(value, samples, holders, drawn, False)
    return means


@compiled
def _level(
    table: NDArray[np.uint64], line: Integer, unit: int, levels: int, planes: int, stride: int
) -> int:
    """Level of a unit in a row."""
    level = 0
    for plane in range(planes):
        bit = plane * stride + unit
        if (table[line, bit >> 6] >> np.uint64(bit & 63)) & np.uint64(1):
            level += plane if 2 < levels <= MOST_COUNTED else 1 << plane
    return level


@compiled
def _expected(
    value: NDArray[np.float64],
    samples: Integer,
    holders: Integer,
    drawn: Integer,
    both: bool,
) -> float:
    """Mean of psi(c), or psi(c) + psi(drawn - c), for c holders among samples that are drawn.

    c is hypergeometric. The sum runs from its mode to both sides, until nothing is added.
    """
    lowest, highest = max(0, drawn + holders - samples), min(drawn, holders)
    mode = (drawn + 1) * (holders + 1) // (samples + 2)
    others = samples - holders - drawn
    total = weights = 0.0
    for step in (1, -1):
        count = mode if step > 0 else mode - 1
        weight = 1.0
        if step < 0:
            weight = mode * (others + mode) / ((holders - mode + 1.0) * (drawn - mode + 1.0))
        while lowest <= count <= highest and weight > 1e-18:
            total += weight * (value[count] + (value[drawn - count] if both else 0.0))
            weights += weight
            if step > 0:
                weight *= (holders - count) * (drawn - count)
                weight /= (count + 1.0) * (others + count + 1.0)
            else:
                weight *= count * (others + count)
                weight /= (holders - count + 1.0) * (drawn - count + 1.0)
            count += step
    return total / weights
