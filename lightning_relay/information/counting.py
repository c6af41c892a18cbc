r"""The counting engine behind orders, shares and the information of all subsets.

All of them ask: what is :math:`I(X_{in}; X_{out} | S)`, and what does it become when one more unit
joins the condition S? With a function psi of counts (see ``estimators``) the answer is a sum over
*bags*, sets of samples. A *stratum* is a bag alike in S, a *cell* is alike in S, X_in and X_out;
the other bags are alike in S and X_in, or in S and X_out:

.. math:: N I(X_{in}; X_{out} | S) = \sum_{in, out, s} \psi(c) + \sum_s \psi(c)
    - \sum_{in, s} \psi(c) - \sum_{out, s} \psi(c)

S grows by one unit at a time. The rows of a stratum stand side by side, in the order of X_in and
X_out. A unit that joins S splits the strata in which it varies: their rows move, and only these
strata are counted again. Some parts of the sum need no counting. A stratum in which X_in or X_out
is constant adds 0. A bag alike in X_in (or X_out) that holds a single cell cancels with it. A bag
of one row adds the same whatever unit joins S. In all other bags, the samples that have a unit on
are counted for eight units at once, in the bytes of a machine word, and as whole numbers where a
byte is too small.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from lightning_relay.information.compiled import compiled

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lightning_relay.information.compiled import Floats, Integer, Ints, Numbers, Words
    from lightning_relay.information.estimators import Psi

_BYTE = 255
"""Largest count that fits into a byte."""

_OUT = np.uint64(2**32 - 1)
"""The half of a label word that is X_out; X_in is the other half."""

SPREAD = np.array(
    [sum((byte >> bit & 1) << (8 * bit) for bit in range(8)) for byte in range(256)], np.uint64
)
"""For each byte, a word with each of its bits in a byte of its own."""

HOLE, CONSTANT, COUNTED = range(3)
"""Kinds of strata: no stratum, one in which X_in or X_out is constant, any other."""

FIRST, LAST, KIND, FRESH, LONE_IN, LONE_OUT, HOLES, CHANGED = range(8)
"""Lines of ``Strata.about``, which describes the stratum at each place.

- ``FIRST``, ``LAST``: Line of ``Strata.table`` with its first row, and the line after its last.
- ``KIND``: Its kind.
- ``FRESH``: 1 until it is counted.
- ``LONE_IN``, ``LONE_OUT``: Number of its samples that are alone in S and X_in (X_out).
- ``HOLES``: A list of places without a stratum.
- ``CHANGED``: A list of places of strata that are about to be split, or are new.
"""

USED, HOLE_COUNT, CHANGE_COUNT, SINGLE, ALONE, ALONE_IN, ALONE_OUT, KEEPS = range(8)
"""Entries of ``Strata.tally``.

- ``USED``: All strata are at places below this.
- ``HOLE_COUNT``, ``CHANGE_COUNT``: Lengths of the two lists.
- ``SINGLE``: Number of strata of a single row; they have no place.
- ``ALONE``: Number of samples in strata of a single row that are alone in their state of S.
- ``ALONE_IN``, ``ALONE_OUT``: Number of samples in all other strata that are alone in their state
  of S and X_in (X_out).
- ``KEEPS``: 1 to split and keep strata of the kind ``CONSTANT``, for evidence; 0 to drop them.
"""

VALUE, OTHER = range(2)
"""Lines of ``Strata.adds``: by the estimator, and by the one that it is compared with."""


class Strata(NamedTuple):
    """Rows by the state of a condition S.

    The rows of a stratum stand side by side in rising order of X_in and X_out, in one half of the
    table. A split moves them to the other half.
    """

    table: Words  # (2 * rows, words + 2), with the columns of ``Rows.table``.
    about: Numbers  # (8, rows + 1), see ``FIRST``.
    varies: Words  # (words + 1, places): bits that are not the same in all rows of a stratum.
    adds: Floats  # (2, places): what each stratum adds to N I(X_in; X_out | S), bits.
    tally: Ints  # (8,), see ``USED``.


LINE, CELL, ALIKE_IN, ALIKE_OUT, SIZE, CANCELS, CELLS_WITH, BAG_WITH, LOOKED_AT = range(9)
"""Lines of a table of the bags of one stratum, uint32 ``(9, room)``.

Bag 0 stands for "no bag" and takes what is not counted, so that loops need no condition. Then come
the cells, the stratum itself, and the bags of several cells.

- ``LINE``: First line of each cell, and behind them the line after the last.
- ``CELL``: Cell of each row of the stratum.
- ``ALIKE_IN``, ``ALIKE_OUT``: For each cell, the bag alike in X_in (X_out); 0 if it is the cell.
- ``SIZE``: Number of samples in each bag.
- ``CANCELS``: A bag enters the sum with the sign 1 - ``CANCELS``.
- ``CELLS_WITH``, ``BAG_WITH``: For each X_out, its number of cells and its bag; 0 between strata.
- ``LOOKED_AT``: Bags in which the ones of the units are counted.
"""


class Counters(NamedTuple):
    """How many samples of each bag have each bit."""

    eight: Words  # (bags, bytes): eight counts in the bytes of a word.
    held: Numbers  # (bags,): number of samples counted in ``eight``.
    spilled: NDArray[np.int32]  # (bags, bits): counts moved out of ``eight``.


@compiled
def room_for_strata(table: Words) -> Strata:
    """Room for strata of these rows."""
    rows, places = len(table), len(table) // 2 + 1
    return Strata(
        np.empty((2 * rows, table.shape[1]), np.uint64),
        np.empty((8, rows + 1), np.uint32),
        np.empty((table.shape[1] - 1, places), np.uint64),
        np.empty((2, places), np.float64),
        np.empty(8, np.int64),
    )


@compiled
def begin_with(table: Words, strata: Strata) -> None:
    """Make all rows one stratum: the empty condition."""
    about, tally = strata.about, strata.tally
    for line in range(len(table)):
        for column in range(table.shape[1]):
            strata.table[line, column] = table[line, column]
    tally[:], tally[KEEPS] = 0, 1
    if len(table) == 1:
        tally[SINGLE], tally[ALONE] = 1, table[0, -1] == 1
        return
    place, last = np.uint32(0), np.uint64(len(table))
    tally[USED] = tally[CHANGE_COUNT] = 1
    about[FIRST, place], about[LAST, place], about[FRESH, place] = 0, last, 1
    about[LONE_IN, place] = about[LONE_OUT, place] = about[CHANGED, 0] = 0
    about[KIND, place] = _kind(table, np.uint64(0), last, strata.varies, place)


@compiled
def copy(strata: Strata, into: Strata) -> None:
    """Copy strata that are to be counted, but not what they add."""
    about, table = strata.about, strata.table
    for number in range(len(strata.tally)):
        into.tally[number] = strata.tally[number]
    for here in range(strata.tally[USED]):
        for number in range(len(about)):
            into.about[number, here] = about[number, here]
        for word in range(len(strata.varies)):
            into.varies[word, here] = strata.varies[word, here]
        if about[KIND, here] == COUNTED:
            for line in range(np.uint64(about[FIRST, here]), np.uint64(about[LAST, here])):
                for column in range(table.shape[1]):
                    into.table[line, column] = table[line, column]


@compiled
def find_changed(strata: Strata, unit: Integer, planes: int, stride: int) -> None:
    """List the strata in which a unit varies.

    The unit has ``planes`` bits, which are ``stride`` bits apart.
    """
    about, tally, varies = strata.about, strata.tally, strata.varies
    found = np.uint64(0)
    for here in range(tally[USED]):
        varying = np.uint64(0)
        for plane in range(planes):
            bit = plane * stride + unit
            varying |= varies[bit >> 6, here] >> np.uint64(bit & 63)
        about[CHANGED, found] = here
        found += varying & np.uint64(1)
    tally[CHANGE_COUNT] = found


@compiled
def split(strata: Strata, unit: Integer, planes: int, stride: int) -> None:
    """Let a unit join the condition after ``find_changed`` has listed the strata to split."""
    table, about, varies, tally = strata.table, strata.about, strata.varies, strata.tally
    one, half = np.uint64(1), np.uint64(len(table) // 2)
    for plane in range(planes):
        bit = plane * stride + unit
        word, shift = bit >> 6, np.uint64(bit & 63)
        for number in range(tally[CHANGE_COUNT]):
            here = about[CHANGED, number]
            if not (varies[word, here] >> shift) & one:
                continue
            if about[KIND, here] == CONSTANT and not tally[KEEPS]:
                continue
            first, last = np.uint64(about[FIRST, here]), np.uint64(about[LAST, here])
            ones = np.uint64(0)
            for line in range(first, last):
                ones += (table[line, word] >> shift) & one
            low = first + half if first < half else first - half
            middle, end = low + last - first - ones, low + last - first
            begin, high = low, middle
            for line in range(first, last):
                is_one = (table[line, word] >> shift) & one
                into = high if is_one else low
                for column in range(table.shape[1]):
                    table[into, column] = table[line, column]
                high += is_one
                low += one - is_one
            tally[ALONE_IN] -= about[LONE_IN, here]
            tally[ALONE_OUT] -= about[LONE_OUT, here]
            place, stop = here, middle
            for _ in range(2):
                if stop - begin == one:
                    tally[SINGLE] += 1
                    tally[ALONE] += table[begin, -1] == one
                else:
                    about[KIND, place] = _kind(table, begin, stop, varies, place)
                    if about[KIND, place] == COUNTED or tally[KEEPS]:
                        about[FIRST, place], about[LAST, place] = begin, stop
                        about[FRESH, place] = 1
                        about[LONE_IN, place] = about[LONE_OUT, place] = 0
                        if tally[HOLE_COUNT]:
                            tally[HOLE_COUNT] -= 1
                            place = about[HOLES, tally[HOLE_COUNT]]
                        else:
                            place = np.uint32(tally[USED])
                            tally[USED] += 1
                        about[CHANGED, tally[CHANGE_COUNT]] = place
                        tally[CHANGE_COUNT] += 1
                begin, stop = middle, end
            about[KIND, place], varies[:, place] = HOLE, 0
            about[HOLES, tally[HOLE_COUNT]] = place
            tally[HOLE_COUNT] += 1
    if tally[HOLE_COUNT] == tally[USED]:
        tally[HOLE_COUNT] = tally[USED] = 0


@compiled
def _kind(table: Words, first: np.uint64, last: np.uint64, varies: Words, place: np.uint32) -> int:
    """Write which bits vary in a stratum, and return its kind."""
    for word in range(len(varies)):
        differ = np.uint64(0)
        for line in range(first, last):
            differ |= table[line, word] ^ table[first, word]
        varies[word, place] = differ
    labels = varies[-1, place]
    return COUNTED if labels >> np.uint64(32) and labels & _OUT else CONSTANT


@compiled
def evidence_of(strata: Strata, samples: int) -> tuple[float, float, int]:
    """Evidence for S: coverage, fraction of samples alone in their state, number of states.

    The Good-Turing coverage is that of (X_in, S) or (X_out, S), whichever is lower. Constant strata
    must have been kept, and all strata counted.
    """
    tally = strata.tally
    missed = tally[ALONE] + max(tally[ALONE_IN], tally[ALONE_OUT])
    states = tally[USED] - tally[HOLE_COUNT] + tally[SINGLE]
    return 1 - missed / samples, tally[ALONE] / samples, states


@compiled
def room_for_bags(rows: int, outs: int) -> tuple[Words, Numbers]:
    """Room for labels of cells, and for bags, of strata of up to this many rows and outputs."""
    return np.empty(rows + 2, np.uint64), np.zeros((9, max(2 * rows + 3, outs)), np.uint32)


@compiled
def list_bags(
    table: Words, first: np.uint64, last: np.uint64, label: Words, bag: Numbers
) -> tuple[int, int]:
    """List the bags of a stratum in the room for them.

    Returns the bag that is the stratum itself (the number of cells + 1), and the number of bags.
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
    """Room to count the bits of the units in this many bags."""
    width = planes * ((units + 7) // 8)
    return Counters(
        np.empty((bags, width), np.uint64),
        np.empty(bags, np.uint32),
        np.empty((bags, 8 * width), np.int32),
    )


@compiled
def count(
    strata: Strata,
    candidates: Numbers,
    planes: int,
    psi: Psi,
    label: Words,
    bag: Numbers,
    counters: Counters,
    parts: Floats,
    sums: Floats,
) -> tuple[float, float]:
    """N I(X_in; X_out | S) in bits, by the estimator and by the one that it is compared with.

    Counts the fresh strata only. ``parts`` ``(places, units)``, what each stratum adds once a unit
    joins S, is therefore kept from one condition to the next. Writes what the strata add, and for
    each candidate unit N I(X_in; X_out | S and the unit) to ``sums`` ``(units,)``. The other
    arguments are room for the bags of the largest stratum. ``planes`` must be 1 or one for each
    level.
    """
    table, about, varies, adds, tally = strata
    value, other, pairs = psi.value, psi.other, psi.pairs
    eight, spilled = counters.eight, counters.spilled
    byte = eight.view(np.uint8)
    stride = byte.shape[1] // planes
    labels = table.shape[1] - 2
    part = np.empty(len(candidates), np.float64)
    for number in range(tally[CHANGE_COUNT]):
        here = about[CHANGED, number]
        if about[KIND, here] == HOLE or not about[FRESH, here]:
            continue
        about[FRESH, here] = 0
        first, last = np.uint64(about[FIRST, here]), np.uint64(about[LAST, here])
        if about[KIND, here] == CONSTANT:
            lone = _lone_cells(table, first, last)
            about[LONE_IN, here] = lone if varies[labels, here] >> np.uint64(32) else 0
            about[LONE_OUT, here] = lone if varies[labels, here] & _OUT else 0
        elif last - first == np.uint64(2):
            one, two = table[first, labels + 1], table[first + np.uint64(1), labels + 1]
            total = value[one + two] - value[one] - value[two]
            adds[VALUE, here] = total
            adds[OTHER, here] = other[one + two] - other[one] - other[two]
            about[LONE_IN, here] = about[LONE_OUT, here] = (one == 1) + (two == 1)
            for unit in candidates:
                differ = np.uint64(0)
                for bit in range(unit, byte.shape[1], stride):
                    differ |= varies[bit >> 6, here] >> np.uint64(bit & 63)
                parts[here, unit] = 0.0 if differ & np.uint64(1) else total
        else:
            whole, bags = list_bags(table, first, last, label, bag)
            looks = 0
            constant = total = compared = 0.0
            for one in range(1, bags):
                if bag[CANCELS, one] == 1:
                    continue
                sign, samples = 1.0 - bag[CANCELS, one], bag[SIZE, one]
                total += sign * value[samples]
                compared += sign * other[samples]
                if one < whole and bag[LINE, one + 1] - bag[LINE, one] == 1:
                    constant += sign * value[samples]
                else:
                    bag[LOOKED_AT, looks] = one
                    looks += 1
            adds[VALUE, here], adds[OTHER, here] = total, compared
            for cell in range(1, whole):
                if bag[SIZE, cell] == 1:
                    about[LONE_IN, here] += bag[ALIKE_IN, cell] == 0
                    about[LONE_OUT, here] += bag[ALIKE_OUT, cell] == 0
            if len(candidates) == 0:
                pass
            elif bag[SIZE, whole] <= _BYTE:
                _count_few(table, first, last, whole, bags, bag, eight)
            else:
                _count_many(table, whole, bags, bag, counters)
            part[:] = constant
            for look in range(looks if len(part) else 0):
                one = bag[LOOKED_AT, look]
                sign, samples = 1.0 - bag[CANCELS, one], np.int64(bag[SIZE, one])
                if planes == 1 and samples <= _BYTE:
                    at = samples * (samples + 1) >> 1
                    for place in range(len(part)):
                        part[place] += sign * pairs[at + byte[one, candidates[place]]]
                elif planes == 1:
                    for place in range(len(part)):
                        ones = spilled[one, candidates[place]] + byte[one, candidates[place]]
                        part[place] += sign * (value[ones] + value[samples - ones])
                else:
                    for place in range(len(part)):
                        for bit in range(candidates[place], byte.shape[1], stride):
                            held = np.int64(byte[one, bit])
                            if samples > _BYTE:
                                held += spilled[one, bit]
                            part[place] += sign * value[held]
            for place in range(len(part)):
                parts[here, candidates[place]] = part[place]
        tally[ALONE_IN] += about[LONE_IN, here]
        tally[ALONE_OUT] += about[LONE_OUT, here]
    total = compared = 0.0
    sums[:] = 0.0
    for here in range(tally[USED]):
        if about[KIND, here] == COUNTED:
            total += adds[VALUE, here]
            compared += adds[OTHER, here]
            for unit in range(len(sums)):
                sums[unit] += parts[here, unit]
    return total, compared


@compiled
def _lone_cells(table: Words, first: np.uint64, last: np.uint64) -> int:
    """Number of cells of a single sample in a stratum."""
    labels, lone = table.shape[1] - 2, 0
    begins = True
    for line in range(first, last):
        ends = line + np.uint64(1) == last
        ends = ends or table[line + np.uint64(1), labels] != table[line, labels]
        lone += begins and ends and table[line, labels + 1] == 1
        begins = ends
    return lone


@compiled
def _count_few(
    table: Words,
    first: np.uint64,
    last: np.uint64,
    whole: int,
    bags: int,
    bag: Numbers,
    eight: Words,
) -> None:
    """Count the bits of all bags of a stratum so small that no byte overflows."""
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
def _count_many(table: Words, whole: int, bags: int, bag: Numbers, counters: Counters) -> None:
    """Count the bits of all bags of a stratum, and spill bytes before they overflow."""
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
        for into in (whole, np.int64(bag[ALIKE_IN, cell]), np.int64(bag[ALIKE_OUT, cell])):
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
