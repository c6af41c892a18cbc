"""I(X_in; X_out | S) of given sets S of units. A hash table groups the rows by their state of S."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lightning_relay.information.compiled import compiled
from lightning_relay.information.estimators import entropy_of_counts, psi_of
from lightning_relay.information.rows import mixed

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lightning_relay.information.compiled import Bools, Floats, Ints, Numbers, Words
    from lightning_relay.information.estimators import Psi
    from lightning_relay.information.options import Estimator
    from lightning_relay.information.rows import Rows


def information_given(rows: Rows, estimator: Estimator, members: Bools) -> Floats:
    """I(X_in; X_out | S) in bits ``(sets,)`` of sets S with these members ``(sets, units)``."""
    psi = psi_of(estimator, rows.samples)
    return _given(rows.table, rows.by_out, rows.samples, rows.masks(members), psi)


def information_along(rows: Rows, estimator: Estimator, chain: Ints) -> Floats:
    """I(X_in; X_out | S) in bits before a chain of units joins S and after each unit."""
    joined = np.arange(len(chain) + 1)[:, np.newaxis] > np.argsort(chain)
    return information_given(rows, estimator, joined)


@compiled
def _given(table: Words, by_out: Numbers, samples: int, masks: Words, psi: Psi) -> Floats:
    found = np.empty(len(masks), np.float64)
    for place in range(len(masks)):
        found[place] = information_of(table, by_out, samples, masks[place], psi)
    return found


@compiled
def information_of(table: Words, by_out: Numbers, samples: int, mask: Words, psi: Psi) -> float:
    """I(X_in; X_out | S) in bits, S being the units in a mask.

    Rows come in the order of a label. So within a state, rows with the same label follow each other
    and belong to the bag that the state began last.
    """
    state, states = number_states(table, mask)
    labels, out = table.shape[1] - 2, np.uint64(2**32 - 1)
    rows = len(table)
    whole = np.zeros(states, np.uint32)
    size = np.empty((3, rows), np.uint32)
    label = np.empty((3, states), np.uint64)
    bag = np.empty((3, states), np.int32)
    bags = np.zeros(3, np.int64)
    kept = np.array([~np.uint64(0), ~out, out])  # cells, alike in X_in, alike in X_out
    for kind in range(3):
        label[kind] = ~np.uint64(0)
        for line in range(rows):
            row = line if kind < 2 else np.int64(by_out[line])
            here, key = state[row], table[row, labels] & kept[kind]
            if label[kind, here] != key:
                label[kind, here] = key
                bag[kind, here] = bags[kind]
                size[kind, bags[kind]] = 0
                bags[kind] += 1
            weight = np.uint32(table[row, labels + 1])
            size[kind, bag[kind, here]] += weight
            if kind == 0:
                whole[here] += weight
    return (
        entropy_of_counts(size[1, : bags[1]], samples, psi)
        + entropy_of_counts(size[2, : bags[2]], samples, psi)
        - entropy_of_counts(size[0, : bags[0]], samples, psi)
        - entropy_of_counts(whole, samples, psi)
    )


@compiled
def number_states(table: Words, mask: Words) -> tuple[NDArray[np.int32], int]:
    """For each row the number of its state of the units in a mask, and the number of states."""
    slots = 4
    while slots < 2 * len(table):
        slots *= 2
    last = np.uint64(slots - 1)
    slot_of = np.full(slots, -1, np.int32)
    first = np.empty(len(table), np.int32)
    state = np.empty(len(table), np.int32)
    states = 0
    for row in range(len(table)):
        key = np.uint64(0)
        for word in range(len(mask)):
            key = mixed(key ^ (table[row, word] & mask[word]))
        slot = key & last
        while True:
            found = slot_of[slot]
            if found < 0:
                slot_of[slot] = states
                first[states] = row
                found = states
                states += 1
                break
            equal = True
            for word in range(len(mask)):
                equal = equal and (table[row, word] ^ table[first[found], word]) & mask[word] == 0
            if equal:
                break
            slot = (slot + np.uint64(1)) & last
        state[row] = found
    return state, states
