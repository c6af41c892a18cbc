from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from lightning_relay.ablation.report import KnockoutSet
from lightning_relay.ablation.sets import (
    Sets,
    along_orders,
    at_steps,
    check_known,
    counting_all,
    named_sets,
    single_units,
    top_relays,
)
from tests.support.reports import small_report

if TYPE_CHECKING:
    from lightning_relay.relay.report import RelayReport

LAYER = "rnn.l0"


def units_of(sets: Sets) -> list[frozenset[int]]:
    return [frozenset(some.units[LAYER]) for some in sets.sets]


def names_of(sets: Sets) -> list[str]:
    names = [some.name for some in sets.sets]
    assert len(set(names)) == len(names)
    return names


def wide_report(units: int = 5, concepts: str = "per_class") -> RelayReport:
    return small_report(steps=3, units=units, concepts=concepts)


def test_single_units_of_several_layers() -> None:
    sets = single_units({"a.l0": 2, "b.l1_reverse": 3})
    assert names_of(sets)[1:4] == ["a.l0: 1", "b.l1_reverse: 0", "b.l1_reverse: 1"]
    assert len(sets.sets) == 5
    assert (sets.left_out, sets.deletions) == (0, ())
    assert sets.sets[-1] == KnockoutSet("b.l1_reverse: 2", "each", {"b.l1_reverse": (2,)})


def test_single_units_at_single_steps() -> None:
    sets = single_units({"a.l0": 2, "b.l0": 1}, steps={"a.l0": 2, "b.l0": 3})
    first, second = ["a.l0: 0 @0", "a.l0: 1 @0", "a.l0: 0 @1", "a.l0: 1 @1"], range(3)
    assert names_of(sets) == first + [f"b.l0: 0 @{step}" for step in second]
    assert [some.steps for some in sets.sets[-3:]] == [(0,), (1,), (2,)]


def test_a_sample_of_single_units_is_fair_and_of_the_seed() -> None:
    everything = names_of(single_units({LAYER: 20}))
    counts = dict.fromkeys(everything, 0)
    for seed in range(400):
        sets = single_units({LAYER: 20}, max_sets=5, seed=seed)
        assert (len(sets.sets), sets.left_out) == (5, 15)
        chosen = names_of(sets)
        assert chosen == [name for name in everything if name in chosen]
        for name in chosen:
            counts[name] += 1
    assert max(abs(count - 100) for count in counts.values()) < 5 * np.sqrt(400 * 0.25 * 0.75)
    assert names_of(single_units({LAYER: 20}, max_sets=5, seed=0)) == names_of(
        single_units({LAYER: 20}, max_sets=5, seed=0)
    )
    assert single_units({LAYER: 20}, max_sets=20).left_out == 0


def test_sets_by_name() -> None:
    sets = named_sets({"a": {LAYER: [3, 1], "b.l0": range(2)}, "b": {LAYER: 4}})  # type: ignore[dict-item]
    assert [dict(some.units) for some in sets.sets] == [
        {LAYER: (3, 1), "b.l0": (0, 1)},
        {LAYER: (4,)},
    ]
    assert {some.group for some in sets.sets} == {"given"}


def test_every_prefix_of_every_order_is_there_and_equal_ones_once() -> None:
    report = wide_report()
    concepts = list(report.layers[LAYER].concepts)
    sets = along_orders(report, {LAYER: 5}, concepts=concepts, n_random=3, seed=1)
    known = units_of(sets)
    assert len(set(known)) == len(known)
    names_of(sets)
    assert len(sets.deletions) == 3 * len(concepts)
    wanted = set()
    random = set()
    for deletion in sets.deletions:
        share = report[LAYER][deletion.concept].share
        assert share is not None
        order = share[-1].argsort()
        expected = {"most_first": order[::-1], "least_first": order}
        if deletion.direction == "random_first":
            assert deletion.units.shape == (3, 5)
            random.add(deletion.units.tobytes())
        else:
            assert deletion.units.tolist() == [expected[deletion.direction].tolist()]
        assert deletion.sizes.tolist() == [0, 1, 2, 3, 4, 5]
        for row, places in zip(deletion.units, deletion.places, strict=True):
            assert places[0] == -1
            for size, place in zip(deletion.sizes[1:], places[1:], strict=True):
                prefix = frozenset(row[:size].tolist())
                assert known[place] == prefix
                wanted.add(prefix)
    assert wanted == set(known)
    assert len(random) == 1  # all concepts are compared with the same orders


def test_only_the_first_concept_is_followed_unless_more_are_named() -> None:
    sets = along_orders(wide_report(), {LAYER: 5}, n_random=1)
    assert {deletion.concept for deletion in sets.deletions} == {"class_0"}


@pytest.mark.parametrize("units", [5, 24, 64])
@pytest.mark.parametrize("most", [16, 40, 63])
def test_fewer_sizes_where_there_are_too_many_sets(units: int, most: int) -> None:
    report = wide_report(units, "joint")
    whole = along_orders(report, {LAYER: units}, n_random=3)
    sets = along_orders(report, {LAYER: units}, n_random=3, max_sets=most)
    assert len(sets.sets) <= most
    assert sets.left_out == len(whole.sets) - len(sets.sets)
    if len(whole.sets) <= most:
        assert units_of(sets) == units_of(whole)
        return
    sizes = sets.deletions[0].sizes
    assert (sizes[0], sizes[-1]) == (0, units)
    gaps = np.diff(sizes)
    assert gaps.max() - gaps.min() <= 1
    assert len(sets.sets) > most - 3 * 5  # no room for another size in all five orders and more
    for deletion in sets.deletions:
        for row, places in zip(deletion.units, deletion.places, strict=True):
            for size, place in zip(sizes[1:], places[1:], strict=True):
                assert units_of(sets)[place] == frozenset(row[:size].tolist())


def test_orders_of_many_units_are_thinned_in_no_time() -> None:
    report = wide_report(6, "joint")
    relay = report.layers[LAYER].concepts["joint"]
    order = np.random.default_rng(0).permutation(512)
    units = np.tile(order, (len(relay.units), 1))
    wide = dataclasses.replace(
        relay,
        units=units,
        groups=np.tile(np.arange(512), (len(units), 1)),
        resolved=np.ones_like(units, dtype=bool),
    )
    layer = dataclasses.replace(report.layers[LAYER], concepts={"joint": wide})
    begun = time.monotonic()
    sets = along_orders(
        dataclasses.replace(report, layers={LAYER: layer}), {LAYER: 512}, max_sets=256
    )
    assert 240 < len(sets.sets) <= 256
    assert time.monotonic() - begun < 5


def test_too_few_sets_for_the_orders() -> None:
    with pytest.raises(
        ValueError,
        match=r"max_sets: got 0; 3 orders take at least 1 sets; raise it, or take fewer concepts",
    ):
        along_orders(wide_report(), {LAYER: 5}, max_sets=0)
    assert len(along_orders(wide_report(), {LAYER: 5}, max_sets=1).sets) == 1  # all at once


def with_ties(groups: list[int], resolved: list[bool], places: list[float]) -> RelayReport:
    """A report of four units without shares; tie groups, what is resolved and places by unit."""
    report = wide_report(4, "joint")
    relay = report.layers[LAYER].concepts["joint"]
    last = dataclasses.replace(
        relay,
        units=np.tile([2, 0, 3, 1], (3, 1)),
        places=np.tile(places, (3, 1)),
        share=None,
        groups=np.tile(groups, (3, 1)),
        resolved=np.tile(resolved, (3, 1)),
    )
    layer = dataclasses.replace(report.layers[LAYER], concepts={"joint": last})
    return dataclasses.replace(report, layers={LAYER: layer})


def test_units_whose_places_are_open_are_named() -> None:
    report = with_ties([0, 1, 2, 2], [True, True, True, True], [1.0, 3.0, 0.5, 2.0])
    top, *random = top_relays(report, {LAYER: 4}, top=3).sets
    assert (top.units[LAYER], top.ambiguous) == ((1, 3, 0), (3,))
    assert {some.ambiguous for some in random} == {()}
    unresolved = with_ties([0, 1, 2, 3], [True, False, True, False], [1.0, 3.0, 0.0, 2.0])
    top, *_ = top_relays(unresolved, {LAYER: 4}, top=3).sets
    assert top.ambiguous == (1, 3)
    found = {some.units[LAYER]: some.ambiguous for some in along_orders(report, {LAYER: 4}).sets}
    assert found[1, 3] == (3,)
    assert found[2,] == (2,)
    assert found[2, 0, 3] == (2, 3)


def with_shares(share: list[float], error: float) -> RelayReport:
    report = with_ties([0, 1, 2, 3], [True] * 4, [0.0, 1.0, 2.0, 3.0])
    relay = dataclasses.replace(
        report[LAYER]["joint"],
        share=np.tile(share, (3, 1)),
        share_error=np.full((3, 4), error),
    )
    layer = dataclasses.replace(report[LAYER], concepts={"joint": relay})
    return dataclasses.replace(report, layers={LAYER: layer})


def test_units_are_ranked_by_their_shares_which_are_open_within_two_standard_errors() -> None:
    report = with_shares([0.5, 0.1, 0.4, 0.2], 0.03)
    top, *_ = top_relays(report, {LAYER: 4}, top=3).sets
    assert (top.units[LAYER], top.ambiguous) == ((0, 2, 3), ())
    report = with_shares([0.5, 0.1, 0.4, 0.2], 0.036)
    top, *_ = top_relays(report, {LAYER: 4}, top=3).sets
    assert (top.units[LAYER], top.ambiguous) == ((0, 2, 3), (0, 2, 3))


def test_ties_are_broken_at_random_in_as_many_orders_as_random_ones() -> None:
    report = with_shares([0.0, 0.3, 0.0, 0.0], 0.0)
    sets = along_orders(report, {LAYER: 4}, n_random=12)
    names_of(sets)
    most, least, _ = sets.deletions
    assert most.units.shape == (12, 4)
    assert (most.units[:, 0] == 1).all()
    assert set(most.units[:, 1].tolist()) == {0, 2, 3}
    np.testing.assert_array_equal(least.units, most.units[:, ::-1])
    firsts = {
        top_relays(report, {LAYER: 4}, top=2, seed=seed).sets[0].units[LAYER] for seed in range(20)
    }
    assert firsts == {(1, 0), (1, 2), (1, 3)}


def test_top_relays_and_as_many_at_random() -> None:
    report = wide_report()
    sets = top_relays(report, {LAYER: 5}, top=2, n_random=3)
    names_of(sets)
    for place, concept in enumerate(report.layers[LAYER].concepts):
        top, *random = sets.sets[4 * place : 4 * place + 4]
        assert list(top.units[LAYER]) == report[LAYER][concept].top_units(2)
        assert (top.group, top.concept) == ("concept", concept)
        for some in random:
            assert (some.group, some.concept) == ("concept_random", concept)
            assert len(set(some.units[LAYER])) == 2
    fewer = top_relays(report, {LAYER: 5}, top=2, n_random=3, max_sets=11)
    assert (len(fewer.sets), fewer.left_out) == (8, 8)
    assert [some.group for some in fewer.sets[:3]] == ["concept", "concept_random", "concept"]
    with pytest.raises(ValueError, match=r"max_sets: got 7; 4 concepts and .* take 8 sets; raise"):
        top_relays(report, {LAYER: 5}, top=2, max_sets=7)
    with pytest.raises(ValueError, match=r"top: got 6; it takes at most 5, the units of 'rnn.l0'"):
        top_relays(report, {LAYER: 5}, top=6)


def test_random_sets_are_fair() -> None:
    counts = np.zeros(5)
    report = wide_report()
    for seed in range(200):
        for some in top_relays(report, {LAYER: 5}, top=2, n_random=2, seed=seed).sets:
            if some.group == "concept_random":
                counts[list(some.units[LAYER])] += 1
    number = 200 * 4 * 2
    assert np.abs(counts - 0.4 * number).max() < 5 * np.sqrt(number * 0.4 * 0.6)


def test_a_backward_layer_is_ordered_at_the_step_it_computes_last() -> None:
    report = wide_report(concepts="joint")
    relay = report[LAYER]["joint"]
    assert relay.share is not None
    relay.share[0], relay.share[-1] = [0, 0, 0, 0, 1], [0, 1, 0, 0, 0]
    layer = dataclasses.replace(
        report[LAYER], concepts={"joint": dataclasses.replace(relay, backward=True)}
    )
    backward = dataclasses.replace(report, layers={"rnn.l0_reverse": layer})
    sets = top_relays(backward, {"rnn.l0_reverse": 5}, top=1)
    assert sets.sets[0].units == {"rnn.l0_reverse": (4,)}
    assert top_relays(report, {LAYER: 5}, top=1).sets[0].units == {LAYER: (1,)}


def test_layers_and_concepts_that_the_report_does_not_have() -> None:
    report = wide_report()
    for choose in (along_orders, lambda *args, **own: top_relays(*args, top=1, **own)):
        with pytest.raises(
            ValueError, match=r"relay report has 'rnn.l0', and none .* 'gru.l0'; an"
        ):
            choose(report, {"gru.l0": 5})
        with pytest.raises(ValueError, match=r"'rnn.l0' has 5 units in the .*, and 6 in the model"):
            choose(report, {LAYER: 6})
        with pytest.raises(ValueError, match=r"concepts: no concept 'bit' .* has: 'class_0'"):
            choose(report, {LAYER: 5}, concepts=["bit"])
        sets = choose(report, {"gru.l0": 3, LAYER: 5})  # what it has
        assert {layer for some in sets.sets for layer in some.units} == {LAYER}


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ((1, 4), (1, 4)),
        ((-2,), (-2,)),
        (slice(1, 3), (1, 2)),
        (slice(2, None), (2, 3, 4, 5)),
        (slice(None, None, 4), (0, 4)),
        (slice(-2, None), (-2, -1)),
        (slice(-3, -1), (-3, -2)),
        (slice(0, -4), (0, 1)),
    ],
)
def test_sets_say_at_which_steps(steps: Any, expected: tuple[int, ...]) -> None:
    sets = Sets((KnockoutSet("a", "each", {LAYER: (0,)}),))
    longest = {"rnn": 6, "other": 9}
    assert at_steps(sets, steps, longest).sets[0].steps == expected
    assert at_steps(sets, None, longest) is sets
    own = Sets((KnockoutSet("a", "each", {LAYER: (0,)}, (5,)),))
    assert at_steps(own, steps, longest).sets[0].steps == (5,)


def test_units_at_steps_that_came_later_are_left_out() -> None:
    layers = {"a.l0": 2, "b.l0": 3}
    sets = single_units(layers, steps={"a.l0": 4, "b.l0": 2}, max_sets=10)
    assert counting_all(sets, layers, {"a": 4, "b": 2}).left_out == 4
    assert counting_all(sets, layers, {"a": 6, "b": 3}).left_out == 4 + 4 + 3
    assert counting_all(sets, layers, {"a": 6}) is sets


@pytest.mark.parametrize(
    ("concepts", "known", "unknown"),
    [
        ("joint", ["joint"], "class_1"),
        ("per_class", ["joint", "class_3"], "bit_0"),
        ({"bit_0": abs}, ["joint", "bit_0"], "bit_1"),
    ],
)
def test_what_orders_are_of_must_be_known(concepts: Any, known: list[str], unknown: str) -> None:
    def sets_of(names: list[str]) -> Sets:
        return Sets(tuple(KnockoutSet(name, "given", {}, concept=name) for name in names))

    check_known(concepts, sets_of(known))
    with pytest.raises(
        ValueError, match=f"concepts: got .* follows '{unknown}' of .*; give the ca"
    ):
        check_known(concepts, sets_of([*known, unknown]))
