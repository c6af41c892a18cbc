"""Whether the relay information of random sets predicts the damage when they are held."""

from __future__ import annotations

from itertools import combinations, pairwise
from math import comb
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from scipy.stats import linregress, pearsonr, spearmanr
from torch import nn

from lightning_relay import (
    KnockoutCallback,
    KnockoutReport,
    Logged,
    Mean,
    RandomOrders,
    RandomSets,
    RelayInformationCallback,
    RelayMeasure,
)
from lightning_relay.ablation.prediction import statistics
from lightning_relay.ablation.report import STATISTICS
from lightning_relay.ablation.scalars import knockout_scalars
from lightning_relay.ablation.selection import Known
from lightning_relay.ablation.shapley import set_weights, shapley_of_sets
from lightning_relay.ablation.table import knockout_table
from lightning_relay.information import discretize, relay_information, relay_share
from tests.support.ablation import (
    Ragged,
    as_loader,
    batches,
    by_hand,
    lively,
    recorded,
    refused_before_training,
    validated,
)
from tests.support.models import STEPS, Classifier, Stepped, loader
from tests.support.reports import assert_equal
from tests.support.training import quiet_trainer

if TYPE_CHECKING:
    from pathlib import Path

    from lightning_relay.ablation.report import DamagePrediction

CONCEPTS: dict[str, Any] = {"low": lambda label: label & 1, "high": lambda label: label >> 1}


class LongMemory(Classifier):
    cell = nn.LSTM


def report_of(
    model: Classifier, which: RandomSets | RandomOrders, *others: Any, **options: Any
) -> KnockoutReport:
    callback = KnockoutCallback(which, **{"concepts": CONCEPTS} | options)
    validated(model, *others, callback, data=as_loader(batches(16, 20, 12)))
    return callback.reports[-1]


@pytest.mark.parametrize("step", [-1, 2])
def test_information_and_damage_are_those_of_the_sets_at_the_step(step: int) -> None:
    model = lively(Classifier)
    report = report_of(model, RandomSets(n=12, step=step, n_bootstraps=0))
    data = batches(16, 20, 12)
    labels = torch.cat([y for _, y in data])
    states = recorded(model, data)["rnn.l0"]
    codes = discretize(states.at(step).values[:, 0])
    plain = by_hand(model, data, None).argmax(1)
    assert [found.concept for found in report.predictions] == ["low", "high"]
    for found in report.predictions:
        concept = CONCEPTS[found.concept]
        assert (found.layer, found.step, found.samples) == ("rnn.l0", step, 48)
        for row, place in enumerate(found.places):
            some = report.sets[place]
            assert (some.group, some.steps) == ("random", (step,))
            units = list(some.units["rnn.l0"])
            assert found.sizes[row] == len(units)
            answers = by_hand(model, data, {"rnn.l0": units}, steps=[step]).argmax(1)
            right, after = (concept(part) == concept(labels) for part in (plain, answers))
            damage = (right.double() - after.double()).mean()
            assert found.damage[row] == pytest.approx(float(damage), abs=1e-12)
            bits = relay_information(concept(labels), concept(plain), codes, units)
            assert found.information[row] == pytest.approx(float(bits), abs=1e-9)
        share = relay_share(concept(labels), concept(plain), codes, n_orders=16).share
        np.testing.assert_allclose(found.unit_share, share)
        members = np.zeros((12, 6))
        for row, place in enumerate(found.places):
            members[row, list(report.sets[place].units["rnn.l0"])] = 1
        every = by_hand(model, data, {"rnn.l0": list(range(6))}, steps=[step]).argmax(1)
        whole = (right.double() - (concept(every) == concept(labels)).double()).mean()
        assert found.unit_damage.sum() == pytest.approx(float(whole), abs=1e-9)
        values = shapley_of_sets(
            members.astype(bool),
            found.damage[np.newaxis],
            np.array([float(whole)]),
            set_weights(found.sizes, 6),
        )
        np.testing.assert_allclose(found.unit_damage, values[0], atol=1e-9)
        assert np.isnan([found.unit_lower, found.unit_upper]).all()
        assert found.share_correlation == pytest.approx(
            spearmanr(found.unit_share.round(9), found.unit_damage.round(9)).statistic
        )
        assert np.isnan([found.lower, found.upper]).all()
        assert_statistics(found)


def assert_statistics(found: DamagePrediction) -> None:
    values = statistics(found.sizes, found.information[None], found.damage[None])[0]
    np.testing.assert_allclose([getattr(found, name) for name in STATISTICS[:4]], values[:4])


def test_sets_of_all_sizes_are_drawn_equally_often() -> None:
    which = RandomSets(n=50, step=[0, -1])
    sets = which.sets({"rnn.l0": 6}, Known(), 3).sets
    assert [some.group for some in sets] == ["random"] * 50 + ["all"] + ["random"] * 50 + ["all"]
    assert [some.units["rnn.l0"] for some in sets if some.group == "all"] == [tuple(range(6))] * 2
    sets = tuple(some for some in sets if some.group == "random")
    for step in (0, -1):
        own = [some.units["rnn.l0"] for some in sets if some.steps == (step,)]
        assert np.bincount([len(units) for units in own]).tolist() == [0, 10, 10, 10, 10, 10]
        assert len({units for units in own if len(units) == 3}) > 3
        assert all(list(units) == sorted(set(units)) for units in own)
    assert len({some.name for some in sets}) == 100
    again = which.sets({"rnn.l0": 6}, Known(), 3)
    assert again.sets == which.sets({"rnn.l0": 6}, Known(), 3).sets
    assert which.sets({"rnn.l0": 6}, Known(), 4).sets != again.sets
    few = RandomSets(n=9, sizes=[2]).sets({"rnn.l0": 6}, Known(), 0).sets
    assert [len(some.units["rnn.l0"]) for some in few] == [2] * 9 + [6]


def test_orders_come_with_their_reverse_and_are_knocked_out_one_unit_after_the_other() -> None:
    which = RandomOrders(n=4, step=[0, -1])
    found = which.sets({"rnn.l0": 6, "gru.l0": 3}, Known(), 3)
    assert found.left_out == 0
    assert found.in_orders
    assert len({some.name for some in found.sets}) == len(found.sets) == 2 * (4 * (5 + 2) + 2)
    for layer, units in (("rnn.l0", 6), ("gru.l0", 3)):
        for step in (0, -1):
            own = [some for some in found.sets if some.steps == (step,) and layer in some.units]
            sets = [some.units[layer] for some in own]
            assert [some.group for some in own] == ["random"] * 4 * (units - 1) + ["all"]
            assert sets.pop() == tuple(range(units))
            assert [len(some) for some in sets] == 4 * list(range(1, units))
            orders = [sets[first : first + units - 1] for first in range(0, len(sets), units - 1)]
            for order, reverse in zip(orders[::2], orders[1::2], strict=True):
                assert all(set(some) < set(more) for some, more in pairwise(order))
                whole = set(range(units))
                assert [set(some) for some in reverse] == [
                    whole - set(some) for some in order[::-1]
                ]
    assert found.sets == which.sets({"rnn.l0": 6, "gru.l0": 3}, Known(), 3).sets
    assert found.sets != which.sets({"rnn.l0": 6, "gru.l0": 3}, Known(), 4).sets


def test_above_the_maximum_number_of_sets_there_are_fewer_orders() -> None:
    fewer = RandomOrders(n=20, max_sets=60).sets({"rnn.l0": 6, "gru.l0": 3}, Known(), 0)
    assert (len(fewer.sets), fewer.left_out) == (8 * 7 + 2, 12 * 7)
    whole = RandomOrders(n=20, max_sets=None).sets({"rnn.l0": 6, "gru.l0": 3}, Known(), 0)
    assert (len(whole.sets), whole.left_out) == (20 * 7 + 2, 0)
    least = RandomOrders(max_sets=16).sets({"rnn.l0": 6, "gru.l0": 3}, Known(), 0)
    assert len(least.sets) == 16
    for most in (1, 15):
        with pytest.raises(
            ValueError, match=rf"max_sets: got {most}; an order and its reverse take 16 sets; raise"
        ):
            RandomOrders(max_sets=most).sets({"rnn.l0": 6, "gru.l0": 3}, Known(), 0)
    with pytest.raises(ValueError, match=r"layers: 'rnn.l0' has one unit, which has no order"):
        RandomOrders().sets({"rnn.l0": 1}, Known(), 0)


@pytest.mark.parametrize("which", [RandomSets(n=300), RandomOrders(n=60, max_sets=None)])
def test_shares_of_the_damage_are_the_shapley_values_of_all_subsets(
    which: RandomSets | RandomOrders,
) -> None:
    model, step, units = lively(Classifier), -1, 6
    report = report_of(model, which)
    data = batches(16, 20, 12)
    labels = torch.cat([y for _, y in data])
    subsets = [some for size in range(7) for some in combinations(range(units), size)]
    answers = [
        by_hand(model, data, {"rnn.l0": list(some)} if some else None, steps=[step]).argmax(1)
        if some
        else by_hand(model, data, None).argmax(1)
        for some in subsets
    ]
    errors = []
    for found in report.predictions:
        concept = CONCEPTS[found.concept]
        right = [float((concept(part) == concept(labels)).double().mean()) for part in answers]
        damage = {frozenset(some): right[0] - own for some, own in zip(subsets, right, strict=True)}
        exact = [
            sum(
                (damage[frozenset(some) | {unit}] - damage[frozenset(some)])
                / (units * comb(units - 1, len(some)))
                for some in subsets
                if unit not in some
            )
            for unit in range(units)
        ]
        assert found.unit_damage.sum() == pytest.approx(sum(exact), abs=1e-9)
        assert (found.unit_lower <= exact).all()
        assert (exact <= found.unit_upper).all()
        assert (found.unit_lower <= found.unit_damage).all()
        assert (found.unit_damage <= found.unit_upper).all()
        errors += list(found.unit_damage - exact)
        assert len(found.places) == {RandomSets: 300, RandomOrders: 60 * 5}[type(which)]
        assert_statistics(found)
        assert np.isfinite([found.lower[:3], found.upper[:3]]).all()
    assert np.sqrt(np.mean(np.square(errors))) < 0.02


def test_a_single_pair_of_orders_has_no_intervals() -> None:
    for n in (2, 4):
        found = report_of(lively(Classifier), RandomOrders(n=n, n_bootstraps=8)).predictions[0]
        assert np.isfinite(found.unit_damage).all()
        ends = [*found.lower, *found.upper, *found.unit_lower, *found.unit_upper]
        assert np.isfinite(ends).any() == (n > 2)


def test_shares_of_the_damage_that_sets_leave_open_are_nan() -> None:
    for which in (RandomSets(n=9), RandomSets(n=40, sizes=[2, 3])):
        found = report_of(lively(Classifier), which).predictions[0]
        numbers = found.unit_damage, found.unit_lower, found.unit_upper
        assert np.isnan(numbers).all()
        assert np.isnan(found.share_correlation)
        assert np.isfinite(found.r2)


def test_hidden_and_cell_states_of_a_unit_are_held_together() -> None:
    model = lively(LongMemory)
    report = report_of(model, RandomSets(n=8, step=3, states=("hidden", "cell")))
    data = batches(16, 20, 12)
    labels = torch.cat([y for _, y in data])
    plain = by_hand(model, data, None).argmax(1)
    codes = discretize(recorded(model, data)["rnn.l0.cell"].at(3).values[:, 0])
    found = report.predictions[0]
    assert found.layer == "rnn.l0.cell"
    for row, place in enumerate(found.places):
        units = list(report.sets[place].units["rnn.l0"])
        both = {"rnn.l0": units, "rnn.l0.cell": units}
        assert {key: list(own) for key, own in report.sets[place].units.items()} == both
        answers = by_hand(model, data, both, steps=[3]).argmax(1)
        low = [(part & 1) == (labels & 1) for part in (plain, answers)]
        damage = (low[0].double() - low[1].double()).mean()
        assert found.damage[row] == pytest.approx(float(damage), abs=1e-12)
        bits = relay_information(labels & 1, plain & 1, codes, units)
        assert found.information[row] == pytest.approx(float(bits), abs=1e-9)


def test_only_sequences_that_have_the_step_count() -> None:
    model = lively(Ragged)
    report = report_of(model, RandomSets(n=8, step=[4, -1], sizes=[1, 2]), concepts="joint")
    data = batches(16, 20, 12)
    labels = torch.cat([y for _, y in data])
    plain = by_hand(model, data, None).argmax(1)
    recordings = recorded(model, data)
    keys = ("rnn.l1", "rnn.l1_reverse")
    assert [(found.layer, found.step) for found in report.predictions] == [
        (key, step) for key in keys for step in (4, -1)
    ]
    for found in report.predictions:
        states = recordings[found.layer].at(found.step)
        valid = states.valid[:, 0]
        assert found.samples == int(valid.sum())
        assert (found.step == -1) == (found.samples == 48)
        codes = discretize(states.values[:, 0][valid])
        for row, place in enumerate(found.places):
            units = report.sets[place].units
            answers = by_hand(model, data, units, steps=[found.step]).argmax(1)
            lost = (plain == labels).double() - (answers == labels).double()
            assert found.damage[row] == pytest.approx(float(lost[valid].mean()), abs=1e-12)
            bits = relay_information(labels[valid], plain[valid], codes, list(units[found.layer]))
            assert found.information[row] == pytest.approx(float(bits), abs=1e-9)


def test_the_last_step_of_a_cell_in_a_loop_is_that_of_the_run_without_knock_out() -> None:
    model = lively(Stepped)
    report = report_of(model, RandomSets(n=8, step=-1), concepts="joint")
    data = batches(16, 20, 12)
    labels = torch.cat([y for _, y in data])
    plain = by_hand(model, data, None).argmax(1)
    (found,) = report.predictions
    (layer,) = report.layers
    codes = discretize(recorded(model, data)[layer].at(-1).values[:, 0])
    for row, place in enumerate(found.places):
        units = list(report.sets[place].units[layer])
        answers = by_hand(model, data, {layer: units}, steps=[STEPS - 1]).argmax(1)
        lost = (plain == labels).double() - (answers == labels).double()
        assert found.damage[row] == pytest.approx(float(lost.mean()), abs=1e-12)
        bits = relay_information(labels, plain, codes, units)
        assert found.information[row] == pytest.approx(float(bits), abs=1e-9)
    assert np.ptp(found.damage) > 0


def test_information_is_of_the_states_that_are_held_where_the_value_knows_of_padding() -> None:
    model = lively(Classifier)
    value = Mean(lengths=lambda batch: torch.full((len(batch[0]),), 2))
    padded = report_of(model, RandomSets(n=8), value=value)
    plain = report_of(model, RandomSets(n=8))
    for found, same in zip(padded.predictions, plain.predictions, strict=True):
        np.testing.assert_array_equal(found.information, same.information)  # of the last step held
    assert padded.value.startswith("mean of the states of the first 48 sequences")


def test_states_are_measured_as_in_the_relay_report() -> None:
    model = lively(Classifier)
    measure = RelayMeasure(discretization="quantile", levels=3, n_orders=0, estimator="grassberger")
    relay = RelayInformationCallback(measure=measure, concepts=CONCEPTS)
    report_of(model, RandomSets(n=8), relay)
    found = report_of(model, RandomSets(n=8), relay).predictions[0]
    data = batches(16, 20, 12)
    labels = torch.cat([y for _, y in data])
    plain = by_hand(model, data, None).argmax(1)
    states = recorded(model, data)["rnn.l0"].at(-1).values[:, 0]
    codes = discretize(states, "quantile", levels=3)
    members = torch.zeros(8, 6, dtype=torch.bool)
    whole = report_of(model, RandomSets(n=8), relay)
    for row, place in enumerate(found.places):
        members[row, list(whole.sets[place].units["rnn.l0"])] = True
    bits = relay_information(labels & 1, plain & 1, codes, members, estimator="grassberger")
    np.testing.assert_allclose(found.information, bits, atol=1e-9)
    assert np.isnan(found.unit_share).all()


def test_before_the_first_relay_report_states_are_measured_as_it_will_be() -> None:
    model = lively(Classifier)
    measure = RelayMeasure(discretization="quantile", levels=3, n_orders=0, estimator="grassberger")
    relay = RelayInformationCallback(measure=measure, concepts=CONCEPTS)
    knockouts = KnockoutCallback(RandomSets(n=8), concepts=CONCEPTS)
    validated(model, knockouts, relay, data=as_loader(batches(16, 20, 12)))
    after = report_of(model, RandomSets(n=8), relay).predictions
    for found, expected in zip(knockouts.reports[0].predictions, after, strict=True):
        np.testing.assert_array_equal(found.information, expected.information)


def test_statistics_are_those_of_regressions_and_ranks() -> None:
    generator = np.random.default_rng(0)
    sizes = generator.integers(1, 6, 60)
    information = sizes * 0.1 + generator.random((3, 60))
    damage = 0.3 * information + 0.02 * sizes + 0.1 * generator.random((3, 60))
    found = statistics(sizes, information, damage)
    for row in range(3):
        bits, lost = information[row], damage[row]
        alone = linregress(sizes, lost).rvalue ** 2
        of_size = [part - np.polyval(np.polyfit(sizes, part, 1), sizes) for part in (bits, lost)]
        partial = pearsonr(*of_size).statistic ** 2  # squared partial correlation
        ranks = [
            (spearmanr(bits[sizes == size], lost[sizes == size]).statistic, (sizes == size).sum())
            for size in range(1, 6)
        ]
        within = np.average([value for value, _ in ranks], weights=[number for _, number in ranks])
        apart = [part[row] - part.mean(0) for part in (information, damage)]
        expected = [
            alone,
            alone + (1 - alone) * partial,
            partial,
            within,
            pearsonr(*apart).statistic,
        ]
        np.testing.assert_allclose(found[row], expected, atol=1e-9)


def test_what_is_undefined_is_nan() -> None:
    sizes = np.array([1, 1, 2, 2, 3])
    random = np.random.default_rng(0).random((1, 5))
    assert np.isnan(statistics(sizes, random, np.zeros((1, 5)))).all()
    found = statistics(sizes, random, random[:, ::-1])
    assert np.isnan(found[0, 3:]).all()  # too few sets of one size, and a single concept
    assert np.isfinite(found[0, :3]).all()


def test_intervals_hold_the_values_and_come_back_with_the_seed() -> None:
    model = lively(Classifier)
    report, same = (report_of(model, RandomSets(n=60, n_bootstraps=60)) for _ in range(2))
    other = report_of(model, RandomSets(n=60, n_bootstraps=60), seed=1)
    assert_equal(report, same)
    for found, drawn in zip(report.predictions, other.predictions, strict=True):
        values = [getattr(found, name) for name in STATISTICS[:2]]
        assert (found.lower[:2] <= values).all()
        assert (values <= found.upper[:2]).all()
        assert (found.upper >= found.lower)[np.isfinite(found.upper)].all()
        assert np.isfinite(found.upper[[0, 1, 2, 4]]).all()
        assert not np.array_equal(found.information, drawn.information)


def test_predictions_are_saved_logged_drawn_and_tabled(tmp_path: Path) -> None:
    model = lively(Classifier)
    report = report_of(model, RandomSets(n=40, n_bootstraps=20))
    report.save(tmp_path / "report.npz")
    assert_equal(KnockoutReport.load(tmp_path / "report.npz"), report)
    scalars = knockout_scalars(report)
    for found in report.predictions:
        name = f"rnn.l0/{found.concept}/predicts_damage"
        assert scalars[name] == found.partial_r2
        words = f"{found.r2:.2f} ({found.r2_size:.2f} by their size alone)"
        words += f"; rank correlation of the units' shares: {found.share_correlation:.2f}"
        assert scalars[f"rnn.l0/{found.concept}/share_correlation"] == found.share_correlation
        assert f"rnn.l0, {found.concept}, step -1: damage by random sets" in str(report)
        assert words in str(report)
    table = knockout_table(report)
    first = report.predictions[0]
    ends = f"[{first.lower[2]:.2f}, {first.upper[2]:.2f}]"
    assert f"| rnn.l0 | -1 | low | 40 | 48 | {first.r2_size:.2f} " in table
    assert f"| {first.partial_r2:.2f} {ends} |" in table
    assert f"| {first.share_correlation:.2f} |" in table
    (worst, second, third, *_) = np.argsort(-first.unit_damage, kind="stable")
    for unit in (worst, second, third):
        ends = f"[{first.unit_lower[unit]:.3f}, {first.unit_upper[unit]:.3f}]"
        assert (
            f"| rnn.l0 | -1 | low | {first.unit_damage.sum():.3f} | {unit} "
            f"| {first.unit_damage[unit]:.3f} {ends} | {first.unit_share[unit]:.3f} |"
        ) in table
    assert "relay share, bits" not in knockout_table(report_of(model, RandomSets(n=9)))
    several = report_of(model, RandomSets(n=8, step=[0, 2], n_bootstraps=0))
    names = {name for name in knockout_scalars(several) if "predicts" in name}
    assert names <= {
        f"rnn.l0/{name}/predicts_damage_{step}" for name in CONCEPTS for step in (0, 2)
    }


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"n": 7}, ValueError, "n: got 7; it takes at least 8"),
        ({"n_bootstraps": -1}, ValueError, "n_bootstraps: got -1; it takes at least 0"),
        ({"step": []}, TypeError, r"step: got \[\]; it takes a step index or a list of them"),
        ({"step": 1.5}, TypeError, "step: got 1.5; it takes a step index or a list of them"),
        ({"step": True}, TypeError, "step: got True; it takes a step index or a list of them"),
        ({"step": [2, -1, 2]}, ValueError, r"step: got \[2, -1, 2\]; it takes different steps"),
        ({"sizes": 3}, TypeError, "sizes: got 3; it takes a list of numbers of units"),
        ({"sizes": []}, ValueError, "sizes: got none; it takes numbers of units from 1"),
        ({"sizes": [0]}, ValueError, "sizes: got 0; it takes at least 1"),
        ({"layers": "first"}, ValueError, "layers: got 'first'"),
    ],
)
def test_options_that_are_refused(
    options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        RandomSets(**options)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"n": 0}, ValueError, "n: got 0; it takes at least 2"),
        ({"n": 5}, ValueError, "n: got 5; it takes an even number, an order and its reverse"),
        ({"max_sets": 0}, ValueError, "max_sets: got 0; it takes at least 1"),
        ({"n_bootstraps": -1}, ValueError, "n_bootstraps: got -1; it takes at least 0"),
        ({"step": []}, TypeError, r"step: got \[\]; it takes a step index or a list of them"),
    ],
)
def test_options_of_orders_that_are_refused(
    options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        RandomOrders(**options)


def test_a_step_that_the_first_batch_has_not_passes_a_sanity_check_of_all_batches() -> None:
    x, y = batches()[0]
    callback = KnockoutCallback(RandomSets(n=8, step=4, n_bootstraps=0))
    refused_before_training(
        callback, "num_sanity_val_steps=-1", data=as_loader([(x[:, :3], y), (x, y)])
    )
    trainer = quiet_trainer(callback, num_sanity_val_steps=-1, max_epochs=1)
    trainer.fit(Classifier(), loader(), as_loader([(x[:, :3], y), (x, y)]))
    assert callback.reports[0].predictions[0].samples == 16


def test_a_logged_number_alone_has_no_accuracy_to_predict() -> None:
    with pytest.raises(
        ValueError, match=r"score: got Logged\(.*\) alone with RandomSets, which co"
    ):
        KnockoutCallback(RandomSets(), score=Logged("val_loss"))
    with pytest.raises(ValueError, match=r"alone with RandomOrders, which compares information wi"):
        KnockoutCallback(RandomOrders(), score=Logged("val_loss"))
    both = KnockoutCallback(RandomSets(n=8), score=Logged("val_loss"), concepts="joint")
    validated(lively(Classifier), both)
    assert len(both.reports[0].predictions) == 1


def test_models_that_do_not_fit_are_refused_before_training() -> None:
    refused_before_training(
        KnockoutCallback(RandomSets(sizes=[7])),
        r"sizes: got \[7\]; 'rnn.l0' has 6 units, so it takes numbers from 1 to 6",
    )
    refused_before_training(
        KnockoutCallback(RandomSets(step=9)),
        "steps: got 9, but the longest sequence has 6 steps",
    )
    refused_before_training(
        KnockoutCallback(RandomOrders(max_sets=10)),
        "max_sets: got 10; an order and its reverse take 11 sets; raise it, or take fewer layers",
    )
    together = RandomSets(n=8, states=("hidden", "cell"))
    with pytest.raises(ValueError, match=r"states: got 'l0' and 'l0.cell', which have 6 and 8 uni"):
        together.sets({"l0": 6, "l0.cell": 8}, None, 0)  # type: ignore[arg-type]
