"""How far the samples bear out a chain of conditions, each with one unit more than the one before.

If rows are sorted by the units in the order in which they join, the states of every condition of
the chain are runs of neighbours. So the first unit in which a row differs from its neighbours says
from which condition on it is alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from lightning_relay.information.compiled import compiled
from lightning_relay.information.rows import sorted_by

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lightning_relay.information.compiled import Integer
    from lightning_relay.information.rows import Rows


class Evidence(NamedTuple):
    """Evidence for each condition of a chain, from none of the units to all of them.

    Attributes:
        coverage: Good–Turing coverage of the joint states, the lower one of (X_in, S) and
            (X_out, S), float64 ``(units + 1,)``.
        alone: Fraction of the samples that are alone in their state of S, likewise.
        distinct_states: Number of different states of S, int64, likewise.
    """

    coverage: NDArray[np.float64]
    alone: NDArray[np.float64]
    distinct_states: NDArray[np.int64]


def evidence_along(rows: Rows, chain: NDArray[np.int64]) -> Evidence:
    """Evidence for a chain of units, in the order in which they join the condition."""
    return Evidence(*measure_evidence(rows.table, rows.samples, chain, rows.planes, 8 * rows.bytes))


@compiled
def measure_evidence(
    table: NDArray[np.uint64],
    samples: int,
    chain: NDArray[np.int64],
    planes: int,
    stride: int,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Fields of ``Evidence`` for a chain."""
    keys = _keys(table, chain, planes, stride)
    by_state = _sorted_by_keys(keys)
    labels = table[:, -2]
    alone = np.zeros((3, len(chain) + 1), np.int64)
    distinct = np.zeros(len(chain) + 1, np.int64)
    for kind in range(3):
        label = np.zeros(len(table), np.uint32)
        if kind > 0:
            for row in range(len(table)):
                half = labels[row] >> np.uint64(32) if kind == 1 else labels[row]
                label[row] = np.uint32(half & np.uint64(2**32 - 1))
        order = sorted_by(label, np.int64(label.max()) + 1, by_state) if kind else by_state
        before = 0
        for place in range(len(order)):
            row, after = order[place], 0
            if place + 1 < len(order) and label[order[place + 1]] == label[row]:
                after = _first_difference(keys, row, order[place + 1]) // planes + 1
            # Alone in the conditions in which it differs from both of its neighbours.
            if table[row, -1] == 1 and max(before, after) <= len(chain):
                alone[kind, max(before, after)] += 1
            if kind == 0 and before <= len(chain):
                distinct[before] += 1
            before = after
    for condition in range(1, len(chain) + 1):
        alone[:, condition] += alone[:, condition - 1]
        distinct[condition] += distinct[condition - 1]
    missed = np.maximum(alone[1], alone[2])
    return 1 - missed / samples, alone[0] / samples, distinct


@compiled
def _keys(
    table: NDArray[np.uint64], chain: NDArray[np.int64], planes: int, stride: int
) -> NDArray[np.uint64]:
    """The bits of each row in the order of the chain, the first unit's the highest."""
    bits = np.empty(len(chain) * planes, np.int64)
    for place in range(len(chain)):
        for plane in range(planes):
            bits[place * planes + plane] = plane * stride + chain[place]
    word, shift = bits >> 6, (bits & 63).astype(np.uint64)
    keys = np.empty((len(table), (len(bits) + 63) // 64), np.uint64)
    for row in range(len(table)):
        for part in range(keys.shape[1]):
            key = np.uint64(0)
            end = min(len(bits), 64 * part + 64)
            for place in range(64 * part, end):
                key = key << np.uint64(1) | (table[row, word[place]] >> shift[place]) & np.uint64(1)
            keys[row, part] = key << np.uint64(64 * part + 64 - end)
    return keys


@compiled
def _sorted_by_keys(keys: NDArray[np.uint64]) -> NDArray[np.uint32]:
    """Rows in rising order of their keys, byte by byte from the lowest."""
    order = np.arange(len(keys)).astype(np.uint32)
    digit = np.empty(len(keys), np.uint32)
    for word in range(keys.shape[1] - 1, -1, -1):
        varies = np.uint64(0)
        for row in range(len(keys)):
            varies |= keys[row, word] ^ keys[0, word]
        for byte in range(8):
            place = np.uint64(8 * byte)
            if (varies >> place) & np.uint64(255):
                for row in range(len(keys)):
                    digit[row] = (keys[row, word] >> place) & np.uint64(255)
                order = sorted_by(digit, 256, order)
    return order


@compiled
def _first_difference(keys: NDArray[np.uint64], one: Integer, two: Integer) -> int:
    """The first bit in which two rows differ; the number of all bits, or more, if none does."""
    for word in range(keys.shape[1]):
        difference = keys[one, word] ^ keys[two, word]
        if difference:
            bit = 64 * word
            step = 32
            while step:
                if difference >> np.uint64(64 - step) == 0:
                    difference <<= np.uint64(step)
                    bit += step
                step //= 2
            return bit
    return 64 * int(keys.shape[1])
