"""Shapley values of the damage: closed forms, and all orders of small games."""

from __future__ import annotations

from itertools import permutations
from typing import TYPE_CHECKING

import numpy as np
import pytest

from lightning_relay.ablation.selection import Known, RandomOrders, RandomSets
from lightning_relay.ablation.shapley import set_weights, shapley_of_orders, shapley_of_sets

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Bools = NDArray[np.bool]
    Game = Callable[[Bools], Floats]
    """Damage ``(set,)`` by sets ``(set, unit)``."""

UNITS = 6
COSTS = np.array([0.05, 0.3, 0.0, 0.1, 0.02, 0.2])


def members_of(which: RandomSets | RandomOrders, units: int = UNITS, seed: int = 0) -> Bools:
    sets = which.sets({"rnn.l0": units}, Known(), seed).sets
    found = np.zeros((len(sets) - 1, units), bool)
    for row, some in enumerate(sets[:-1]):
        found[row, list(some.units["rnn.l0"])] = True
    assert (sets[-1].group, sets[-1].units["rnn.l0"]) == ("all", tuple(range(units)))
    return found


def by_sets(game: Game, members: Bools) -> Floats:
    units = members.shape[1]
    weights = set_weights(members.sum(1), units)
    whole = game(np.ones((1, units), bool))
    return shapley_of_sets(members, game(members)[np.newaxis], whole, weights)[0]


def by_orders(game: Game, members: Bools) -> Floats:
    whole = game(np.ones((1, members.shape[1]), bool))
    return shapley_of_orders(members, game(members)[np.newaxis], whole)[0]


def by_all_orders(game: Game, units: int = UNITS) -> Floats:
    """The definition, word for word."""
    values = np.zeros(units)
    orders = list(permutations(range(units)))
    damage = {}
    for held in range(2**units):
        own = np.array([[held >> unit & 1 for unit in range(units)]], bool)
        damage[held] = float(game(own)[0]) if held else 0.0
    for order in orders:
        held = 0
        for unit in order:
            values[unit] += damage[held | 1 << unit] - damage[held]
            held |= 1 << unit
    return values / len(orders)


def additive(members: Bools) -> Floats:
    return members @ COSTS


def copies(members: Bools) -> Floats:
    """Units 0 and 1 are copies: damage if both are held; unit 2 does damage of its own."""
    return 0.4 * (members[:, 0] & members[:, 1]) + 0.1 * members[:, 2]


def parity(members: Bools) -> Floats:
    return 0.3 * (members[:, 0] ^ members[:, 1]) + 0.2 * members[:, 2:5].all(1)


def saturating(members: Bools) -> Floats:
    return np.minimum(0.5, members @ COSTS)


ESTIMATES = [(by_sets, RandomSets(n=60)), (by_orders, RandomOrders(n=10))]


@pytest.mark.parametrize(("estimate", "which"), ESTIMATES)
def test_damages_that_add_up_are_found_exactly(
    estimate: Callable[[Game, Bools], Floats], which: RandomSets | RandomOrders
) -> None:
    np.testing.assert_allclose(estimate(additive, members_of(which)), COSTS, atol=1e-12)


@pytest.mark.parametrize("n", [2, 10])
def test_two_copies_get_half_each_along_orders_and_others_nothing(n: int) -> None:
    found = by_orders(copies, members_of(RandomOrders(n=n)))
    np.testing.assert_allclose(found, [0.2, 0.2, 0.1, 0, 0, 0], atol=1e-12)


def every_subset(repeated: bool) -> Bools:
    """All sets but none and all; repeated so that all sizes are equally frequent, or once."""
    found = np.array([[held >> unit & 1 for unit in range(UNITS)] for held in range(2**UNITS)])
    found = found[1:-1].astype(bool)
    times = 60 // np.bincount(found.sum(1))[found.sum(1)] if repeated else 1
    return np.repeat(found, times, axis=0)


@pytest.mark.parametrize("game", [additive, copies, parity, saturating])
@pytest.mark.parametrize("repeated", [True, False])
def test_all_subsets_give_the_exact_values(game: Game, repeated: bool) -> None:
    members = every_subset(repeated)
    found, exact = by_sets(game, members), by_all_orders(game)
    if repeated:
        np.testing.assert_allclose(found, exact, atol=1e-12)
    else:  # one is taken from the number of sets of each size, for their mean
        np.testing.assert_allclose(found, exact, atol=0.02)


def test_two_copies_get_half_each_by_all_subsets_and_single_knock_outs_show_nothing() -> None:
    members = every_subset(repeated=True)
    np.testing.assert_allclose(by_sets(copies, members), [0.2, 0.2, 0.1, 0, 0, 0], atol=1e-12)
    assert copies(np.eye(UNITS, dtype=bool)).tolist() == [0, 0, 0.1, 0, 0, 0]


@pytest.mark.parametrize("game", [additive, copies, parity, saturating])
@pytest.mark.parametrize(("estimate", "which"), ESTIMATES)
def test_values_add_up_to_the_damage_by_all_and_come_close_to_the_exact_ones(
    game: Game, estimate: Callable[[Game, Bools], Floats], which: RandomSets | RandomOrders
) -> None:
    exact = by_all_orders(game)
    found = [estimate(game, members_of(which, seed=seed)) for seed in range(200)]
    whole = game(np.ones((1, UNITS), bool))[0]
    np.testing.assert_allclose(np.sum(found, axis=1), whole, atol=1e-12)
    error = np.std(found, axis=0) / np.sqrt(200)
    assert (np.abs(np.mean(found, axis=0) - exact) <= 4 * error + 1e-9).all()
    assert np.sqrt(np.mean((np.array(found) - exact) ** 2)) < 0.05


def test_several_concepts_are_estimated_as_each_alone() -> None:
    for which, shapley in ((RandomSets(n=40), "sets"), (RandomOrders(n=4), "orders")):
        members = members_of(which)
        damage = np.stack([game(members) for game in (copies, parity)])
        whole = np.array([0.5, 0.2])
        if shapley == "orders":
            found = shapley_of_orders(members, damage, whole)
        else:
            weights = set_weights(members.sum(1), UNITS)
            found = shapley_of_sets(members, damage, whole, weights)
        alone = by_orders if shapley == "orders" else by_sets
        np.testing.assert_allclose(found[0], alone(copies, members), atol=1e-12)
        np.testing.assert_allclose(found[1], alone(parity, members), atol=1e-12)


def test_the_estimate_does_not_depend_on_how_units_are_numbered() -> None:
    members, order = members_of(RandomSets(n=40)), np.array([3, 0, 5, 1, 4, 2])
    found = by_sets(lambda own: parity(own[:, np.argsort(order)]), members[:, order])
    np.testing.assert_allclose(found, by_sets(parity, members)[order], atol=1e-12)


def test_what_the_size_alone_does_is_shared_equally_without_error() -> None:
    members = members_of(RandomSets(n=40))
    found = by_sets(lambda own: np.sqrt(own.sum(1)), members)
    np.testing.assert_allclose(found, np.full(UNITS, np.sqrt(UNITS) / UNITS), atol=1e-12)


@pytest.mark.parametrize(
    "members",
    [
        members_of(RandomSets(n=60, sizes=[3])),
        members_of(RandomSets(n=60, sizes=[1, 2, 3, 4])),
        members_of(RandomSets(n=9)),  # one set only of some size
        np.tile(np.tri(UNITS - 1, UNITS, dtype=bool), (9, 1)),  # units 5 and 4 are never apart
        np.repeat(every_subset(repeated=False)[:1], 9, axis=0),
    ],
)
def test_values_that_the_sets_leave_open_are_nan(members: Bools) -> None:
    assert np.isnan(by_sets(additive, members)).all()


def test_sets_of_all_units_among_the_sets_change_nothing() -> None:
    members = members_of(RandomSets(n=60))
    more = np.vstack([members, np.ones((3, UNITS), bool)])
    np.testing.assert_allclose(by_sets(parity, more), by_sets(parity, members), atol=1e-12)


def test_a_layer_of_two_units() -> None:
    members = np.array([[True, False], [False, True], [True, False], [False, True]])
    found = by_sets(lambda own: 0.5 * own.all(1) + 0.1 * own[:, 0], members)
    np.testing.assert_allclose(found, [0.35, 0.25], atol=1e-12)
    assert np.isnan(by_sets(additive_of_two, members[::2])).all()


def additive_of_two(members: Bools) -> Floats:
    return members @ np.array([0.1, 0.2])
