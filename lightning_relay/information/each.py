"""Information left once one unit is known, and once all units but one are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lightning_relay.information.compiled import compiled
from lightning_relay.information.counting import (
    CHANGE_COUNT,
    CHANGED,
    COUNTED,
    FRESH,
    KEEPS,
    KIND,
    USED,
    Strata,
    begin_with,
    copy,
    count,
    find_changed,
    list_bags,
    room_for_bags,
    room_for_counters,
    room_for_strata,
    split,
)
from lightning_relay.information.estimators import psi_of
from lightning_relay.information.given import information_given
from lightning_relay.information.rows import Samples

if TYPE_CHECKING:
    from torch import Tensor

    from lightning_relay.information.compiled import Floats, Words
    from lightning_relay.information.estimators import Psi
    from lightning_relay.information.options import Estimator
    from lightning_relay.information.rows import Rows


def given_each_unit(
    x_in: Tensor,
    x_out: Tensor,
    hidden: Tensor,
    *,
    valid: Tensor | None = None,
    estimator: Estimator = "plugin",
) -> tuple[Tensor, Tensor]:
    """I(X_in; X_out | S) in bits, S being each unit, and all units but each, ``(…, units)`` each.

    Arguments are those of ``relay_order``.
    """
    samples = Samples.of(x_in, x_out, hidden, valid, None)
    alone, others = zip(*samples.each(lambda rows: _given_each(rows, estimator)), strict=True)
    return samples.shaped(alone), samples.shaped(others)


def _given_each(rows: Rows, estimator: Estimator) -> tuple[Floats, Floats]:
    psi = psi_of(estimator, rows.samples)
    if rows.counted and psi.additive:
        sizes = rows.outs, rows.planes, 8 * rows.bytes
        alone, others = _counted(rows.table, rows.units, sizes, psi)
        return alone / rows.samples, others / rows.samples
    one = np.eye(rows.units, dtype=np.bool_)
    return information_given(rows, estimator, one), information_given(rows, estimator, ~one)


@compiled
def _counted(
    table: Words, units: int, sizes: tuple[int, int, int], psi: Psi
) -> tuple[Floats, Floats]:
    """N I(X_in; X_out | S) in bits of S one unit, and all units but one.

    Halving finds the latter with few splits. At each level, the units outside a range are known:
    all, then one half, then the other half of the range joins them, until it is a single unit.
    """
    outs, planes, stride = sizes
    levels = 1
    while 1 << (levels - 1) < units:
        levels += 1
    first = room_for_strata(table)
    tables = np.empty((levels + 1, *first.table.shape), np.uint64)
    about = np.empty((levels + 1, *first.about.shape), np.uint32)
    varies = np.empty((levels + 1, *first.varies.shape), np.uint64)
    tallies = np.empty((levels + 1, len(first.tally)), np.int64)
    label, bag = room_for_bags(len(table), outs)
    most = list_bags(table, np.uint64(0), np.uint64(len(table)), label, bag)[1]
    counters = room_for_counters(most, units, planes)
    alone, others = np.zeros(units, np.float64), np.zeros(units, np.float64)
    everything, nothing = np.arange(units).astype(np.uint32), np.empty(0, np.uint32)
    begin_with(table, first)
    parts = np.zeros((first.adds.shape[1], units), np.float64)
    count(first, everything, planes, psi, label, bag, counters, parts, alone)
    first.tally[KEEPS] = 0
    copy(first, Strata(tables[0], about[0], varies[0], first.adds, tallies[0]))
    waiting = np.empty((2 * levels + 2, 5), np.int64)  # range, level, units that join
    waiting[0] = 0, units, 0, 0, 0
    left = 1
    while left:
        left -= 1
        low, high, level, begin, end = waiting[left]
        here = Strata(tables[level], about[level], varies[level], first.adds, tallies[level])
        if level:
            above = level - 1
            copy(
                Strata(tables[above], about[above], varies[above], first.adds, tallies[above]),
                here,
            )
            for unit in range(begin, end):
                find_changed(here, unit, planes, stride)
                split(here, unit, planes, stride)
        if high - low > 1:
            middle = (low + high) // 2
            waiting[left] = low, middle, level + 1, middle, high
            waiting[left + 1] = middle, high, level + 1, low, middle
            left += 2
            continue
        here.tally[CHANGE_COUNT] = here.tally[USED]
        for place in range(here.tally[USED]):
            here.about[CHANGED, place] = place
            here.about[FRESH, place] = here.about[KIND, place] == COUNTED
        others[low] = count(here, nothing, planes, psi, label, bag, counters, parts, parts[0, :0])[
            0
        ]
    return alone, others
