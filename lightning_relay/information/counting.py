r"""The counting engine: for every stratum, for every bag, for every candidate.

Everything the project measures asks one question again and again: what is
:math:`I(X_{in}; X_{out} | S)`, and what does it become when one more unit joins the condition S?
With a function psi of counts (see ``estimators``) it is a sum over *bags* of samples that are
alike in S, X_in and X_out (*cells*), in S and X_in, in S and X_out, and in S alone (*strata*),

.. math:: N I(X_{in}; X_{out} | S) = \sum_{in, out, s} \psi(c) + \sum_s \psi(c)
    - \sum_{in, s} \psi(c) - \sum_{out, s} \psi(c)

Rows stand in the order of stratum, X_in and X_out, and are moved when a stratum is split, so that
every loop walks through memory. A stratum in which X_in or X_out is constant adds 0 for ever and is
dropped; a bag alike in X_in (or X_out) that holds a single cell cancels with it; a bag of one row
adds the same whatever joins S. How often each unit is 1 in a bag is counted for eight units at
once, in the bytes of one machine word, and in whole numbers where a byte is too small.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from lightning_relay.information.compiled import compiled

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lightning_relay.information.compiled import Integer
    from lightning_relay.information.estimators import Psi

VARYING, SEVERAL = 0, 1
"""Strata that a split keeps: those in which X_in and X_out vary, or all of several rows."""

_BYTE = 255
"""Counts up to here fit into a byte."""

_OUT = np.uint64(2**32 - 1)
"""The half of a label that is X_out; X_in is the other."""

SPREAD = np.array(
    [sum((byte >> bit & 1) << (8 * bit) for bit in range(8)) for byte in range(256)], np.uint64
)
"""Each bit of a byte in a byte of its own."""


class Strata(NamedTuple):
    """Rows by the state of a condition; see ``Rows.table`` for its lines.

    Attributes:
        table: The rows, those of a stratum side by side in rising order of X_in and X_out, uint64
            ``(rows, words + 2)``.
        begin: First line of each stratum, uint32 ``(strata,)``; the rest of it is room.
        end: Line after its last, likewise.
    """

    table: NDArray[np.uint64]
    begin: NDArray[np.uint32]
    end: NDArray[np.uint32]


LINE, CELL, ALIKE_IN, ALIKE_OUT, SIZE, CANCELS, CELLS_WITH, BAG_WITH = range(8)
"""What is known of the bags of one stratum: lines of a table, uint32 ``(8, room)``.

Its bags are: none, the cells, the stratum itself, and those of several cells. Bag 0 stands for no
bag, so that loops need not ask: what has no other bag is put there, and it is never looked at.

- ``LINE``: First line of each cell, and behind them the line after the last.
- ``CELL``: Cell of each row of the stratum.
- ``ALIKE_IN``, ``ALIKE_OUT``: Bag of each cell that holds all alike in X_in (X_out); 0 if it is the
  cell itself.
- ``SIZE``: Number of samples in each bag.
- ``CANCELS``: A bag enters the sum with the sign 1 - ``CANCELS``.
- ``CELLS_WITH``, ``BAG_WITH``: Number of cells with each X_out, and their bag; 0 between strata.
"""


class Counters(NamedTuple):
    """How many samples of each bag have each bit.

    Attributes:
        eight: Eight counts in the bytes of a word, uint64 ``(bags, bytes)``.
        held: Number of samples that these count, uint32 ``(bags,)``.
        spilled: What was counted before, int32 ``(bags, bits)``.
    """

    eight: NDArray[np.uint64]
    held: NDArray[np.uint32]
    spilled: NDArray[np.int32]


@compiled
def room_for_strata(table: NDArray[np.uint64]) -> Strata:
    """Room for strata of these rows; no stratum."""
    strata = len(table) // 2 + 1
    return Strata(np.empty_like(table), np.empty(strata, np.uint32), np.empty(strata, np.uint32))


@compiled
def one_stratum(table: NDArray[np.uint64], keep: int) -> tuple[Strata, int]:
    """All rows as one stratum, that of the empty condition; and 1, or 0 if it is not kept."""
    strata = room_for_strata(table)
    strata.table[:] = table
    strata.begin[0], strata.end[0] = 0, len(table)
    return strata, int(_is_kept(table, np.uint64(0), np.uint64(len(table)), keep))


@compiled
def split(strata: Strata, number: int, bit: int, keep: int, into: Strata) -> int:
    """Split strata by one more bit.

    Args:
        strata: The strata.
        number: Number of them.
        bit: The bit.
        keep: Which of the new strata are kept.
        into: Where they go.

    Returns:
        The number of new strata.
    """
    table, begin, end = strata
    new, new_begin, new_end = into
    word, place, one = bit // 64, np.uint64(bit % 64), np.uint64(1)
    found = 0
    for stratum in range(number):
        first, last = np.uint64(begin[stratum]), np.uint64(end[stratum])
        ones = np.uint64(0)
        for line in range(first, last):
            ones += (table[line, word] >> place) & one
        middle = last - ones
        low, high = first, middle
        for line in range(first, last):
            is_one = (table[line, word] >> place) & one
            target = high if is_one else low
            for column in range(table.shape[1]):
                new[target, column] = table[line, column]
            high += is_one
            low += one - is_one
        if _is_kept(new, first, middle, keep):
            new_begin[found], new_end[found] = first, middle
            found += 1
        if _is_kept(new, middle, last, keep):
            new_begin[found], new_end[found] = middle, last
            found += 1
    return found


@compiled
def _is_kept(table: NDArray[np.uint64], first: np.uint64, last: np.uint64, keep: int) -> bool:
    if last < first + np.uint64(2):
        return False
    if keep == SEVERAL:
        return True
    labels, half = table.shape[1] - 2, np.uint64(32)
    if table[first, labels] >> half == table[last - np.uint64(1), labels] >> half:
        return False
    x_out = table[first, labels] & _OUT
    line = first + np.uint64(1)
    while line < last and table[line, labels] & _OUT == x_out:
        line += np.uint64(1)
    return bool(line < last)


@compiled
def room_for_bags(rows: int, outs: int) -> NDArray[np.uint32]:
    """Room for the bags of strata of so many rows and labels of X_out."""
    return np.zeros((8, max(2 * rows + 3, outs)), np.uint32)


@compiled
def list_bags(
    table: NDArray[np.uint64],
    first: np.uint64,
    last: np.uint64,
    label: NDArray[np.uint64],
    bag: NDArray[np.uint32],
) -> tuple[int, int]:
    """List the bags of a stratum.

    Args:
        table: The rows.
        first: First line of the stratum.
        last: Line after its last.
        label: Room for the labels of its cells.
        bag: Room for its bags.

    Returns:
        The bag that is the stratum, which is the number of cells and 1, and the number of bags.
    """
    labels, half = table.shape[1] - 2, np.uint64(32)
    cells = 0
    label[0] = ~table[first, labels]
    for line in range(first, last):
        if table[line, labels] != label[cells]:
            cells += 1
            label[cells] = table[line, labels]
            bag[LINE, cells], bag[SIZE, cells] = line, 0
            bag[CELLS_WITH, label[cells] & _OUT] += 1
        bag[CELL, line - first] = cells
        bag[SIZE, cells] += np.uint32(table[line, labels + 1])
    whole = cells + 1
    label[whole], bag[LINE, whole] = ~label[cells], last
    bag[SIZE, 0], bag[CANCELS, 0] = 0, 1
    bag[SIZE, whole], bag[CANCELS, whole] = 0, 0
    bags = whole + 1
    for cell in range(1, whole):
        x_in, x_out, samples = label[cell] >> half, label[cell] & _OUT, bag[SIZE, cell]
        with_in = with_out = np.uint32(0)
        if label[cell - 1] >> half == x_in:
            with_in = bag[ALIKE_IN, cell - 1]
        elif label[cell + 1] >> half == x_in:
            with_in = np.uint32(bags)
            bag[SIZE, bags], bag[CANCELS, bags] = 0, 2
            bags += 1
        if bag[CELLS_WITH, x_out] > 1:
            with_out = bag[BAG_WITH, x_out]
            if with_out == 0:
                with_out = np.uint32(bags)
                bag[BAG_WITH, x_out] = with_out
                bag[SIZE, bags], bag[CANCELS, bags] = 0, 2
                bags += 1
        bag[ALIKE_IN, cell], bag[ALIKE_OUT, cell] = with_in, with_out
        bag[CANCELS, cell] = (with_in == 0) + (with_out == 0)
        bag[SIZE, with_in] += samples
        bag[SIZE, with_out] += samples
        bag[SIZE, whole] += samples
    for cell in range(1, whole):
        bag[CELLS_WITH, label[cell] & _OUT] = bag[BAG_WITH, label[cell] & _OUT] = 0
    return whole, bags


@compiled
def room_for_counters(bags: int, units: int, planes: int) -> Counters:
    """Room to count the bits of so many bags."""
    width = planes * ((units + 7) // 8)
    return Counters(
        np.empty((bags, width), np.uint64),
        np.empty(bags, np.uint32),
        np.empty((bags, 8 * width), np.int32),
    )


@compiled
def count(
    strata: Strata,
    number: int,
    candidates: NDArray[np.uint32],
    planes: int,
    psi: Psi,
    label: NDArray[np.uint64],
    bag: NDArray[np.uint32],
    counters: Counters,
    sums: NDArray[np.float64],
) -> tuple[float, float]:
    """Sums over bags for a condition S, and for S with each candidate.

    Args:
        strata: The rows by the state of S.
        number: Number of strata.
        candidates: Units that may join S, in any order, uint32 ``(candidates,)``.
        planes: Number of bits of a unit: 1, or one for each level.
        psi: What a bag adds.
        label: Room for labels of the cells of the largest stratum, uint64.
        bag: Room for its bags.
        counters: Room to count in them.
        sums: N I(X_in; X_out | S and the candidate) of each, in bits, float64 ``(candidates,)``: is
            written.

    Returns:
        N I(X_in; X_out | S) in bits, and the same by the estimator that it is compared with.
    """
    table = strata.table
    value, other, pairs = psi.value, psi.other, psi.pairs
    eight, spilled = counters.eight, counters.spilled
    byte = eight.view(np.uint8)
    stride = byte.shape[1] // planes
    looked_at = np.empty(bag.shape[1], np.uint32)
    total = compared = constant = 0.0
    sums[:] = 0.0
    for stratum in range(number):
        first, last = np.uint64(strata.begin[stratum]), np.uint64(strata.end[stratum])
        whole, bags = list_bags(table, first, last, label, bag)
        looks = 0
        for here in range(1, bags):
            if bag[CANCELS, here] == 1:
                continue
            sign, samples = 1.0 - bag[CANCELS, here], bag[SIZE, here]
            total += sign * value[samples]
            compared += sign * other[samples]
            if here < whole and bag[LINE, here + 1] - bag[LINE, here] == 1:
                constant += sign * value[samples]
            else:
                looked_at[looks] = here
                looks += 1
        if len(sums) == 0:
            continue
        if bag[SIZE, whole] <= _BYTE:
            _count_few(table, first, last, whole, bags, bag, eight)
        else:
            _count_many(table, whole, bags, bag, counters)
        for look in range(looks):
            here = looked_at[look]
            sign, samples = 1.0 - bag[CANCELS, here], np.int64(bag[SIZE, here])
            if planes == 1 and samples <= _BYTE:
                at = samples * (samples + 1) >> 1
                for place in range(len(sums)):
                    sums[place] += sign * pairs[at + byte[here, candidates[place]]]
            elif planes == 1:
                for place in range(len(sums)):
                    ones = spilled[here, candidates[place]] + byte[here, candidates[place]]
                    sums[place] += sign * (value[ones] + value[samples - ones])
            else:
                for place in range(len(sums)):
                    for bit in range(candidates[place], byte.shape[1], stride):
                        held = np.int64(byte[here, bit])
                        if samples > _BYTE:
                            held += spilled[here, bit]
                        sums[place] += sign * value[held]
    sums += constant
    return total, compared


@compiled
def _count_few(
    table: NDArray[np.uint64],
    first: np.uint64,
    last: np.uint64,
    whole: int,
    bags: int,
    bag: NDArray[np.uint32],
    eight: NDArray[np.uint64],
) -> None:
    """Count the bits of all bags of a stratum so small that no byte runs over."""
    weights = table.shape[1] - 1
    width = eight.shape[1]
    for here in range(bags):
        for byte in range(width):
            eight[here, byte] = 0
    for line in range(first, last):
        cell, weight = bag[CELL, line - first], table[line, weights]
        for byte in range(width):
            bits = (table[line, byte >> 3] >> np.uint64(8 * (byte & 7))) & np.uint64(_BYTE)
            eight[cell, byte] += weight * SPREAD[bits]
    for cell in range(1, whole):
        with_in, with_out = bag[ALIKE_IN, cell], bag[ALIKE_OUT, cell]
        for byte in range(width):
            part = eight[cell, byte]
            eight[whole, byte] += part
            eight[with_in, byte] += part
            eight[with_out, byte] += part


@compiled
def _count_many(
    table: NDArray[np.uint64], whole: int, bags: int, bag: NDArray[np.uint32], counters: Counters
) -> None:
    """Count the bits of all bags of a stratum, and spill bytes before they run over."""
    eight, held, spilled = counters
    weights = table.shape[1] - 1
    width = eight.shape[1]
    eight[:bags], held[:bags], spilled[:bags] = 0, 0, 0
    for cell in range(1, whole):
        for line in range(np.uint64(bag[LINE, cell]), np.uint64(bag[LINE, cell + 1])):
            weight = table[line, weights]
            if held[cell] + weight > np.uint64(_BYTE):
                _spill(counters, cell)
            if weight > np.uint64(_BYTE):
                for bit in range(8 * width):
                    is_one = (table[line, bit >> 6] >> np.uint64(bit & 63)) & np.uint64(1)
                    spilled[cell, bit] += np.int32(weight * is_one)
                continue
            for byte in range(width):
                bits = (table[line, byte >> 3] >> np.uint64(8 * (byte & 7))) & np.uint64(_BYTE)
                eight[cell, byte] += weight * SPREAD[bits]
            held[cell] += np.uint32(weight)
        for into in (np.uint32(whole), bag[ALIKE_IN, cell], bag[ALIKE_OUT, cell]):
            if into == 0:
                continue
            if held[into] + held[cell] > _BYTE:
                _spill(counters, into)
            for byte in range(width):
                eight[into, byte] += eight[cell, byte]
            held[into] += held[cell]
            if bag[SIZE, cell] > _BYTE:
                for bit in range(8 * width):
                    spilled[into, bit] += spilled[cell, bit]


@compiled
def _spill(counters: Counters, bag: Integer) -> None:
    """Move the counts of a bag from bytes to whole numbers."""
    eight, held, spilled = counters
    byte = eight.view(np.uint8)
    for bit in range(spilled.shape[1]):
        spilled[bag, bit] += byte[bag, bit]
    eight[bag], held[bag] = 0, 0
