"""Relay information of every set of units."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from lightning_relay.information.compiled import compiled, in_threads
from lightning_relay.information.counting import (
    ALIKE_IN,
    ALIKE_OUT,
    CANCELS,
    CELL,
    COUNTED,
    FIRST,
    KEEPS,
    KIND,
    LAST,
    LINE,
    SIZE,
    USED,
    Strata,
    begin_with,
    copy,
    find_changed,
    list_bags,
    room_for_bags,
    room_for_strata,
    split,
)
from lightning_relay.information.estimators import psi_of
from lightning_relay.information.options import check_additive
from lightning_relay.information.rows import Samples

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from lightning_relay.information.compiled import Floats, Ints, Words
    from lightning_relay.information.estimators import Psi
    from lightning_relay.information.options import Estimator
    from lightning_relay.information.rows import Rows

_MOST_UNITS = 24
"""Largest number of units: more have more subsets than anyone waits for."""

_TOGETHER = 4
"""Number of units of two levels whose combinations are all computed at once."""

_TASKS = 6
"""A thread computes all sets that agree in this many units."""


def relay_information_of_all_subsets(
    x_in: Tensor,
    x_out: Tensor,
    hidden: Tensor,
    *,
    valid: Tensor | None = None,
    weights: Tensor | None = None,
    estimator: Estimator = "plugin",
    progress: bool = True,
) -> Tensor:
    r"""Relay information I_R of every set R of units, in bits.

    Args:
        x_in: Integer labels of the input, ``(samples,)`` or broadcastable to ``(…, samples)``.
        x_out: Integer labels of the output, ``(samples,)`` or broadcastable to ``(…, samples)``.
        hidden: Integer codes of the units' states, ``(…, samples, units)``, at most 24 units.
        valid: Boolean mask broadcastable to ``(…, samples)``; a sample with False is not counted.
        weights: Times each sample counts (default 1), integers broadcastable to ``(…, samples)``.
        estimator: Estimator of entropies from counts, any but ``"chao_shen"``.
        progress: Whether to show a progress bar.

    Returns:
        float64 tensor of shape ``(…, 2**units)``, in bits. Entry k is I_R of the set that holds
        unit u exactly when bit u of k is set. So entry 0 (no unit) is 0, and the last entry is that
        of all units.

    Raises:
        TypeError: If labels, codes or weights are not integers.
        ValueError: If shapes do not fit, a weight is negative, there are more than 24 units, the
            estimator is unknown or ``"chao_shen"``, or there is no sample to count.

    Example:
        Two copies of a fair bit relay it only together:

        >>> import torch
        >>> bit = torch.tensor([0, 1, 0, 1])
        >>> hidden = torch.stack([bit, bit], dim=-1)
        >>> relay_information_of_all_subsets(bit, bit, hidden, progress=False).tolist()
        [0.0, 0.0, 0.0, 1.0]

    Source:
        Hintze and Adami, Entropy 25(3):401 (2023).
    """
    check_additive(estimator)
    samples = Samples.of(x_in, x_out, hidden, valid, weights)
    units = hidden.shape[-1]
    if units > _MOST_UNITS:
        memory = samples.indices * 2.0 ** (units - 27)
        raise ValueError(
            f"hidden: got {units} units, so 2**{units} subsets, whose results alone would take "
            f"{memory:.3g} GiB; it takes at most {_MOST_UNITS} units: select the units that "
            "relay_order finds important, or give relay_order a beam_width"
        )
    total = samples.indices * 2**units
    with tqdm(total=total, unit=" sets", unit_scale=True, disable=not progress) as bar:
        parts = [
            conditioned_on_all_subsets(samples.rows(index), estimator, bar.update)
            for index in range(samples.indices)
        ]
    return samples.shaped([given[::-1] - given[-1] for given in parts])


def conditioned_on_all_subsets(
    rows: Rows, estimator: Estimator, done: Callable[[int], Any] = int
) -> Floats:
    """I(X_in; X_out | S) in bits of every set S of units, ``(2**units,)``.

    Entry k is that of the set that holds unit u exactly when bit u of k is set. ``done`` is called
    with the number of sets that are finished since its last call.
    """
    together = min(rows.units, _TOGETHER) if rows.planes == 1 else 0
    alike = min(rows.units - together, _TASKS)
    low = rows.units - alike
    psi = psi_of(estimator, rows.samples)

    def part(high: int) -> Floats:
        alike_in = [low + unit for unit in range(alike) if high >> unit & 1]
        units = np.array(alike_in, dtype=np.int64)
        sizes = rows.outs, rows.planes, 8 * rows.bytes
        found = _with_subsets_of(rows.table, units, low, together, sizes, psi)
        done(len(found))
        return found

    return np.concatenate(in_threads(part, range(2**alike))) / rows.samples


@compiled
def _with_subsets_of(
    table: Words, known: Ints, units: int, together: int, sizes: tuple[int, int, int], psi: Psi
) -> Floats:
    """N I(X_in; X_out | S) of every S that holds the known units and any of the first ``units``.

    Bit u of an index of the result, ``(2**units,)``, says whether unit u is in S. Sets of the units
    from ``together`` on come in the order of binary numbers. The strata of a set follow by one
    split from those of the set without its lowest unit; for each unit, the strata of the last set
    with this lowest unit are kept. The units before ``together`` split nothing: the samples with
    each combination of their codes are counted, and sums over codes make the counts a cube of side
    3.
    """
    outs, planes, stride = sizes
    top = units - together
    start = top + 1
    first = room_for_strata(table)
    tables = np.empty((start + 1, *first.table.shape), np.uint64)
    about = np.empty((start + 1, *first.about.shape), np.uint32)
    varies = np.empty((start + 1, *first.varies.shape), np.uint64)
    tallies = np.empty((start + 1, len(first.tally)), np.int64)
    begin_with(table, first)
    first.tally[KEEPS] = 0
    for unit in known:
        find_changed(first, unit, planes, stride)
        split(first, unit, planes, stride)
    copy(first, Strata(tables[start], about[start], varies[start], first.adds, tallies[start]))
    label, bag = room_for_bags(len(table), outs)
    combinations = 1 << together
    counts = np.empty((2 * len(table) + 3, combinations), np.int64)
    corner, summed, without = _cube(together)
    cube = np.zeros(3**together, np.int64)
    sums = np.empty(3**together, np.float64)
    values = np.zeros((1 << top, combinations), np.float64)
    for subset in range(1 << top):
        source, target = start, top
        if subset > 0:
            target = _lowest_bit(subset)
            rest = subset & (subset - 1)
            source = _lowest_bit(rest) if rest else top
        strata = Strata(tables[target], about[target], varies[target], first.adds, tallies[target])
        copy(
            Strata(tables[source], about[source], varies[source], first.adds, tallies[source]),
            strata,
        )
        if subset > 0:
            find_changed(strata, together + target, planes, stride)
            split(strata, together + target, planes, stride)
        here = strata.table
        sums[:] = 0.0
        constant = 0.0
        for stratum in range(strata.tally[USED]):
            if about[target, KIND, stratum] != COUNTED:
                continue
            begin = np.uint64(about[target, FIRST, stratum])
            end = np.uint64(about[target, LAST, stratum])
            whole, bags = list_bags(here, begin, end, label, bag)
            counts[:bags] = 0
            for line in range(begin, end):
                pattern = here[line, 0] & np.uint64(combinations - 1)
                counts[bag[CELL, line - begin], pattern] += np.int64(here[line, -1])
            for cell in range(1, whole):
                with_in, with_out = bag[ALIKE_IN, cell], bag[ALIKE_OUT, cell]
                for pattern in range(combinations):
                    part = counts[cell, pattern]
                    counts[whole, pattern] += part
                    counts[with_in, pattern] += part
                    counts[with_out, pattern] += part
            for one in range(1, bags):
                if bag[CANCELS, one] == 1:
                    continue
                sign = 1.0 - bag[CANCELS, one]
                if one < whole and bag[LINE, one + 1] - bag[LINE, one] == 1:
                    constant += sign * psi.value[bag[SIZE, one]]
                    continue
                for pattern in range(combinations):
                    cube[corner[pattern]] = counts[one, pattern]
                for line in range(len(summed)):
                    cube[summed[line, 0]] = cube[summed[line, 1]] + cube[summed[line, 2]]
                for place in range(len(cube)):
                    sums[place] += sign * psi.value[cube[place]]
        values[subset] += constant
        for place in range(len(cube)):
            values[subset, without[place]] += sums[place]
    return values.ravel()


@compiled
def _lowest_bit(number: int) -> int:
    place = 0
    while not number >> place & 1:
        place += 1
    return place


@compiled
def _cube(sides: int) -> tuple[Ints, Ints, Ints]:
    """Places of a cube with sides 0, 1 and their sum, the first side being the lowest digit.

    Returns the place of each combination of zeros and ones; all other places, each with the two
    that it is the sum of, in an order in which sums can be formed; and for each place, as bits, the
    units whose codes are not summed over.
    """
    corner = np.zeros(1 << sides, np.int64)
    for pattern in range(1 << sides):
        for side in range(sides):
            corner[pattern] += (pattern >> side & 1) * 3**side
    summed = np.zeros((3**sides - (1 << sides), 3), np.int64)
    within = np.zeros(3**sides, np.int64)
    found = 0
    for side in range(sides):
        for place in range(3**sides):
            later = place // 3 ** (side + 1)
            is_plain = True
            while later:
                is_plain = is_plain and later % 3 < 2
                later //= 3
            if place // 3**side % 3 == 2:
                if is_plain:
                    summed[found] = place, place - 3**side, place - 2 * 3**side
                    found += 1
            else:
                within[place] |= 1 << side
    return corner, summed, within
