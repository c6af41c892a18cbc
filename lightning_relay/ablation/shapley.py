"""Shapley values of the units in the damage, from random sets or along random orders.

The game: d(S) is the damage when the units S are held, d(∅) = 0. A unit's value is the mean, over
all orders of the units, of what the damage grows by when the unit is held after those before it.
The values add up to the damage when all units are held.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Bools = NDArray[np.bool]

_SINGULAR = 1e-9
"""An eigenvalue this small, relative to the largest, leaves a difference between units open."""


def shapley_of_sets(members: Bools, damage: Floats, whole: Floats, weights: Floats) -> Floats:
    """Estimate of the Shapley values ``(concept, unit)`` from the damage by random sets.

    A weighted least-squares regression of ``damage (concept, set)`` on ``members (set, unit)``,
    with a constant for each size of set and the constraint that the values add up to ``whole
    (concept,)``, the damage by all units. ``weights (set,)`` are those of ``set_weights``. NaN
    where the sets do not tell all units apart, or a weight is NaN.

    Without constants for the sizes this is KernelSHAP. Over all subsets, with Shapley's weights,
    both give the Shapley values: a function of the size alone is orthogonal to differences between
    units. The weights of ``set_weights`` are made for random sets. Over all subsets they are exact
    if all sizes are equally frequent, and not if each subset is there once. On random sets
    the constants take away what the size alone does to the damage, which is noise otherwise.
    ``benchmarks/damage_shares.py`` compares estimates with exact values in games of 8 units, by 112
    sets. Root mean square errors of this one: copies .021, parity .034, saturation .010, a random
    read-out .003; of KernelSHAP .047, .034, .034 and .010; of the mean over sizes of the difference
    between sets with and without the unit .025, .029, .012 and .005. The last needs sets of every
    size with and without every unit, and has errors where damages add up; the others have none.

    Source: Lundberg and Lee, NeurIPS (2017); the constants are this project's own.
    """
    concepts, units = len(damage), members.shape[1]
    if np.isnan(weights).any():
        return np.full((concepts, units), np.nan)
    sizes = members.sum(1)
    of_size = (sizes[:, np.newaxis] == np.unique(sizes)).astype(np.float64)
    counts = of_size.sum(0)[:, np.newaxis]
    table = np.column_stack([members, damage.T]).astype(np.float64)
    table -= of_size @ (of_size.T @ table / counts)
    regressors = table[:, :units]
    weighted = regressors.T * weights
    values, vectors = np.linalg.eigh(weighted @ regressors)
    if units > 1 and values[1] <= _SINGULAR * values[-1]:
        return np.full((concepts, units), np.nan)
    projected = vectors[:, 1:].T @ (weighted @ table[:, units:])
    apart = vectors[:, 1:] @ (projected / values[1:, np.newaxis])
    found: Floats = (apart - apart.mean(0)).T + whole[:, np.newaxis] / units
    return found


def set_weights(sizes: NDArray[np.int64], units: int) -> Floats:
    """Weights ``(set,)`` that make every size from 1 to all but one unit count as Shapley's do.

    The Shapley kernel gives all sets of size s together the weight ``1 / (s (units − s))``; it is
    divided by the number of these sets, less the one that their mean takes. All NaN if there are
    not two sets of each of these sizes: then some differences that the values average over are not
    measured at all. Sets of all units weigh 0.
    """
    counts = np.bincount(sizes, minlength=units + 1)
    if (counts[1:units] < 2).any():
        return np.full(len(sizes), np.nan)
    inner = sizes < units
    weights = np.zeros(len(sizes))
    own = sizes[inner]
    weights[inner] = 1 / (own * (units - own) * (counts[own] - 1.0))
    return weights


def shapley_of_orders(members: Bools, damage: Floats, whole: Floats) -> Floats:
    """Estimate of the Shapley values ``(concept, unit)`` along random orders, without bias.

    ``members (set, unit)`` and ``damage (concept, set)`` are of the first 1, 2, … units of each
    order, all but one, one order after the other; ``whole (concept,)`` is the damage by all units.
    A unit's value is the mean of what the damage grows by at the unit's turn.

    Source: Castro, Gómez and Tejada, Computers & Operations Research 36:1726 (2009).
    """
    units = members.shape[1]
    held = members.reshape(-1, units - 1, units)
    orders = len(held)
    ends = np.zeros((orders, 1, units)), np.ones((orders, 1, units))
    turns = np.diff(np.concatenate([ends[0], held, ends[1]], axis=1), axis=1)
    along = damage.reshape(len(damage), orders, units - 1)
    last = np.broadcast_to(whole[:, np.newaxis, np.newaxis], (len(damage), orders, 1))
    grown = np.diff(np.concatenate([np.zeros_like(last), along, last], axis=2), axis=2)
    found: Floats = np.einsum("otu,cot->cu", turns, grown) / orders
    return found
