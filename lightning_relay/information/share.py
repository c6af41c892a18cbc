"""The relay share of every unit: its Shapley value in the relay information of all units."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import lru_cache
from itertools import permutations
from math import factorial
from typing import TYPE_CHECKING

import numpy as np
import torch

from lightning_relay.information.compiled import compiled, in_threads
from lightning_relay.information.counting import (
    CANCELS,
    CHANGE_COUNT,
    CHANGED,
    COUNTED,
    FIRST,
    KEEPS,
    KIND,
    LAST,
    SIZE,
    VALUE,
    begin_with,
    count,
    evidence_of,
    find_changed,
    list_bags,
    room_for_bags,
    room_for_counters,
    room_for_strata,
    split,
)
from lightning_relay.information.estimators import psi_of
from lightning_relay.information.given import information_given
from lightning_relay.information.options import (
    Estimator,
    check_additive,
    check_evidence_rule,
    check_orders,
)
from lightning_relay.information.rows import MOST_COUNTED, Samples
from lightning_relay.information.subsets import conditioned_on_all_subsets

if TYPE_CHECKING:
    from torch import Tensor

    from lightning_relay.information.compiled import Bools, Floats, Integer, Ints, Numbers, Words
    from lightning_relay.information.estimators import Psi
    from lightning_relay.information.rows import Rows

_FEW_UNITS = 12
"""Largest number of units at which plain shares come from all subsets."""

_SHIFT = 4
"""Orders of a block are rotated by this many units, or more."""

_FEWEST_BLOCKS = 4
"""Smallest number of blocks for a standard error, if there are enough orders."""

_SMALL = 64
"""Means of psi over permutations are kept for strata of fewer samples than this."""

_NOTHING = 1e-18
"""Numbers of holders that are less likely than this, relative to the likeliest, are left out."""

_MOST_ORDERS = 2**14
"""Largest number of orders for the standard error aimed at."""


@dataclass(frozen=True, eq=False)
class RelayShare:
    """The relay share of every unit, for every leading index apart.

    Attributes:
        share: Relay share by unit index, bits, float64 ``(…, units)``.
        standard_error: Standard error of the share by the choice of orders, bits, float64
            ``(…, units)``; 0 if all orders were used. It says nothing about the choice of samples:
            ``bootstrap`` does.
        unattributed: Relay information of all units minus the sum of their shares, bits, float64
            ``(…)``: what the samples attribute to no unit. Noise can make it negative.
        resolved: Fraction of the orders in which there were enough samples at the unit's turn,
            float64 ``(…, units)``. The condition there holds the unit and all units before it, and
            the rule is that of ``relay_order``.
        n_orders: Number of orders; 0 if all subsets were used instead.
        corrected: Whether the loss that a permuted copy would have caused was subtracted.
        estimator: Estimator of entropies from counts.
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
    r"""Relay share of every unit: the information it takes away when it becomes known, on average.

    The share of a unit is its Shapley value in the game :math:`v(R) = I_R(R)`. In an order, the
    units leave R and join the condition S one after the other. The share is the mean over orders of
    what :math:`I(X_{in}; X_{out} | S)` loses at the unit's own turn. Units that join R instead give
    the same values, so there is no direction to choose. Copies of one unit have equal shares. The
    shares add up to the relay information of all units.

    Units of mere noise, too, lower the plug-in information, because samples run out. So at every
    turn the loss that a copy of the unit would have caused is subtracted. The copy is permuted
    among the samples that share a state of S:

    .. math:: I(X_{in}; X_{out} | S, \tilde Y_u) - I(X_{in}; X_{out} | S, Y_u)

    The first term is the exact mean over all permutations: the number of samples of a bag that have
    a level follows a hypergeometric distribution. A unit that does nothing then has a share of 0 on
    average, whatever the number of samples. The shares then add up to less, and the rest is
    ``unattributed``.

    Synergy is credited too little as samples run out. A small share in a wide layer means "not told
    by these samples" and not "unimportant": read it beside ``unattributed`` and ``resolved``.

    Orders come in blocks: a random order, its rotations, and the reverse of each. They are the same
    for all leading indices, so that steps compare.

    Args:
        x_in: Integer labels of the input, ``(samples,)`` or broadcastable to ``(…, samples)``.
        x_out: Integer labels of the output, ``(samples,)`` or broadcastable to ``(…, samples)``.
        hidden: Integer codes of the units' states, ``(…, samples, units)``, of any values.
        n_orders: Number of orders, an int from 4, rounded up to whole blocks. A float is instead
            the standard error aimed at, in bits: orders are added until no unit's is larger. If
            there are no more orders than wanted, all are used.
        corrected: Whether to subtract the loss that a permuted copy would have caused. With False,
            shares of up to 12 units are exact, from all subsets.
        valid: Boolean mask broadcastable to ``(…, samples)``; a sample with False is not counted.
        weights: Times each sample counts (default 1), integers broadcastable to ``(…, samples)``.
        estimator: Estimator of entropies from counts, any but ``"chao_shen"``.
        min_coverage: Lowest coverage at which a condition counts as resolved, fraction of 1.
        max_gap: Largest difference between corrected and plug-in information at which a condition
            counts as resolved, bits.
        seed: Seed of the orders. No other random state is touched.

    Returns:
        The shares with their errors and evidence, with the leading dimensions of the arguments.

    Raises:
        TypeError: If labels, codes or weights are not integers, or ``n_orders``, ``min_coverage``
            or ``max_gap`` is not a number.
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
        Neuron Shapley (2020); Fakhar and Hilgetag, PLoS Comput. Biol. 18:e1010250 (2022), whose
        payoff is performance.
    """
    check_additive(estimator)
    check_orders(n_orders)
    check_evidence_rule(min_coverage, max_gap)
    samples = Samples.of(x_in, x_out, hidden, valid, weights)
    limits = min_coverage, max_gap
    blocks = _Blocks(samples.units, n_orders, seed)
    exact = not corrected and samples.units <= _FEW_UNITS
    while True:
        gains, resolved = _gains(samples, blocks.orders, estimator, corrected, limits)
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


class _Blocks:
    """Orders of the units, in blocks of a random order, its rotations, and the reverse of each.

    ``n_orders`` is the number of orders or the standard error aimed at, as in ``relay_share``.
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
        """Double the orders if the error is above the one aimed at; returns whether it did."""
        if self.complete or self._aim is None or error <= self._aim:
            return False
        if 2 * len(self.orders) > _MOST_ORDERS:
            warnings.warn(
                f"n_orders: the standard error is {error:.3g} bits after {len(self.orders)} "
                f"orders, above the {self._aim:.3g} aimed at; give more samples or a larger error",
                stacklevel=3,
            )
            return False
        self.orders = np.concatenate([self.orders, self._drawn(self.number)])
        self.number *= 2
        return True

    def _drawn(self, blocks: int) -> Ints:
        shifts = [round(turn * self._units / self._rotations) for turn in range(self._rotations)]
        drawn = []
        for _ in range(blocks):
            order = torch.randperm(self._units, generator=self._generator, device="cpu").numpy()
            for shift in shifts:
                drawn += [np.roll(order, shift), np.roll(order, shift)[::-1]]
        return np.stack(drawn)


def _gains(
    samples: Samples,
    orders: Ints,
    estimator: Estimator,
    corrected: bool,
    limits: tuple[float, float],
) -> tuple[Floats, Floats]:
    """What each unit takes away in each order, bits ``(indices, orders, units)``.

    Also returns the fraction of the orders in which this is resolved, ``(indices, units)``.
    """
    means = small_means(estimator)[: None if corrected else 0]

    def measured(rows: Rows, some: Ints) -> tuple[Floats, Bools]:
        sizes = rows.outs, rows.samples, rows.levels, rows.planes, 8 * rows.bytes
        psi = psi_of(estimator, rows.samples)
        gains, resolved = taken_along(rows.table, some, sizes, psi, means, limits)
        turn = some.argsort(1)
        return np.take_along_axis(gains, turn, 1), np.take_along_axis(resolved, turn, 1)

    if samples.indices > 1:
        found = samples.each(lambda rows: measured(rows, orders))
        return np.stack([gain for gain, _ in found]), np.stack([kept.mean(0) for _, kept in found])
    rows = samples.rows(0)
    parts = np.array_split(orders, min(len(orders), 4 * torch.get_num_threads()))
    found = in_threads(lambda some: measured(rows, some), parts)
    gains, resolved = (np.concatenate(part) for part in zip(*found, strict=True))
    return gains[np.newaxis], resolved.mean(0)[np.newaxis]


def _exact(rows: Rows, estimator: Estimator) -> Floats:
    """Plain shares in bits ``(units,)`` from the information of all subsets."""
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
def taken_along(
    table: Words,
    orders: Ints,
    sizes: tuple[int, int, int, int, int],
    psi: Psi,
    means: Floats,
    limits: tuple[float, float],
) -> tuple[Floats, Bools]:
    """What the unit of each turn takes away, bits, and whether the turn is resolved.

    Both are ``(orders, turns)``, as are the orders. Empty ``means`` stand for plain gains.
    ``sizes`` are the number of X_out, of samples, of levels, of planes, and of bits from plane to
    plane.
    """
    outs, samples, levels, planes, stride = sizes
    turns = orders.shape[1]
    gains = np.zeros(orders.shape, np.float64)
    resolved = np.zeros(orders.shape, np.bool_)
    label, bag = room_for_bags(len(table), outs)
    none, nothing = np.empty(0, np.uint32), np.empty((1, 0), np.float64)
    counters = room_for_counters(0, 0, 1)
    strata = room_for_strata(table)
    about = strata.about
    holders = np.empty(levels, np.int64)
    for place in range(len(orders)):
        begin_with(table, strata)
        is_resolved = True
        before = total = 0.0
        for turn in range(turns + 1):
            if turn == 0 or strata.tally[CHANGE_COUNT]:
                total, compared = count(
                    strata, none, planes, psi, label, bag, counters, nothing, nothing[0]
                )
                if is_resolved:
                    coverage = evidence_of(strata, samples)[0]
                    gap = abs(compared - total) / samples
                    is_resolved = coverage >= limits[0] and gap <= limits[1]
            if turn > 0:
                gains[place, turn - 1] = (before - total) / samples
                resolved[place, turn - 1] = is_resolved
            if turn == turns:
                break
            unit = orders[place, turn]
            before = total
            find_changed(strata, unit, planes, stride)
            for number in range(strata.tally[CHANGE_COUNT] if len(means) else 0):
                here = about[CHANGED, number]
                if about[KIND, here] == COUNTED:
                    begin, end = np.uint64(about[FIRST, here]), np.uint64(about[LAST, here])
                    _count_holders(strata.table, begin, end, unit, planes, stride, holders)
                    bags = list_bags(strata.table, begin, end, label, bag)
                    before += (
                        _permuted(bag, bags, holders, psi.value, means) - strata.adds[VALUE, here]
                    )
            if strata.tally[CHANGE_COUNT]:
                strata.tally[KEEPS] = is_resolved
                split(strata, unit, planes, stride)
    return gains, resolved


@compiled
def _permuted(
    bag: Numbers, bags: tuple[int, int], holders: Ints, value: Floats, means: Floats
) -> float:
    """What a stratum adds, on average over permutations, when a copy of a unit joins the condition.

    ``bags`` is the result of ``list_bags``, ``holders`` the number of samples with each level of
    the unit, ``value`` psi, and ``means`` its means for strata of few samples.
    """
    permuted = 0.0
    samples, is_pair = np.int64(bag[SIZE, bags[0]]), len(holders) == 2
    for here in range(1, bags[1]):
        if bag[CANCELS, here] == 1:
            continue
        sign, drawn = 1.0 - bag[CANCELS, here], np.int64(bag[SIZE, here])
        if samples < len(means):
            for held in holders:
                permuted += sign * means[samples, held, drawn]
        else:
            for held in holders[: 1 if is_pair else len(holders)]:
                permuted += sign * _expected(value, samples, held, drawn, is_pair)
    return permuted


@lru_cache(maxsize=4)
def small_means(estimator: Estimator) -> Floats:
    """Mean of psi by the numbers of samples, of holders and of samples drawn, for few samples."""
    return _means_of(psi_of(estimator, _SMALL).value)


@compiled
def _means_of(value: Floats) -> Floats:
    means = np.zeros((_SMALL, _SMALL, _SMALL))
    for samples in range(_SMALL):
        for held in range(samples + 1):
            for drawn in range(samples + 1):
                means[samples, held, drawn] = _expected(value, samples, held, drawn, False)
    return means


@compiled
def _count_holders(
    table: Words,
    first: np.uint64,
    last: np.uint64,
    unit: int,
    planes: int,
    stride: int,
    holders: Ints,
) -> None:
    """Write how many samples of a stratum have each level of a unit to ``holders``."""
    one, weights = np.uint64(1), table.shape[1] - 1
    holders[:] = 0
    if planes == 1:
        word, shift = unit >> 6, np.uint64(unit & 63)
        ones = samples = np.uint64(0)
        for line in range(first, last):
            samples += table[line, weights]
            ones += table[line, weights] * ((table[line, word] >> shift) & one)
        holders[0], holders[1] = samples - ones, ones
        return
    for line in range(first, last):
        level = 0
        for plane in range(planes):
            bit = plane * stride + unit
            if (table[line, bit >> 6] >> np.uint64(bit & 63)) & one:
                level += plane if len(holders) <= MOST_COUNTED else 1 << plane
        holders[level] += np.int64(table[line, weights])


@compiled
def _expected(
    value: Floats, samples: Integer, holders: Integer, drawn: Integer, both: bool
) -> float:
    """Mean of psi(c), or with ``both`` psi(c) + psi(drawn - c), for c holders among those drawn.

    c is hypergeometric. The sum runs from its mode to both sides until terms are negligible.
    """
    lowest, highest = max(0, drawn + holders - samples), min(drawn, holders)
    mode = (drawn + 1) * (holders + 1) // (samples + 2)
    held, taken, others = float(holders), float(drawn), float(samples - holders - drawn)
    total = weights = 0.0
    weight, c = 1.0, float(mode)
    for n in range(mode, highest + 1):
        total += weight * (value[n] + (value[drawn - n] if both else 0.0))
        weights += weight
        weight *= (held - c) * (taken - c) / ((c + 1.0) * (others + c + 1.0))
        c += 1.0
        if weight < _NOTHING:
            break
    weight, c = 1.0, float(mode)
    for n in range(mode - 1, lowest - 1, -1):
        weight *= c * (others + c) / ((held - c + 1.0) * (taken - c + 1.0))
        c -= 1.0
        if weight < _NOTHING:
            break
        total += weight * (value[n] + (value[drawn - n] if both else 0.0))
        weights += weight
    return total / weights
