from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lightning_relay import (
    HiddenStates,
    RelayMeasure,
    RelayReport,
    SequenceSample,
    discretize,
    mutual_information,
    relay_information,
    relay_order,
    relay_report,
)
from lightning_relay.information import bootstrap, chance_level, relay_share, relay_transfer
from lightning_relay.relay.analysis import _blocks
from lightning_relay.relay.table import order_in_words, relay_table
from lightning_relay.sampling import SequenceBuffer
from tests.support import brute_force
from tests.support.reports import assert_equal

if TYPE_CHECKING:
    from pathlib import Path

GENERATOR = torch.Generator().manual_seed(0)
X_IN = torch.randint(4, (60,), generator=GENERATOR)
X_OUT = torch.where(torch.rand(60, generator=GENERATOR) < 0.8, X_IN, 0)
LENGTHS = torch.randint(2, 7, (60,), generator=GENERATOR)
VALUES = torch.randn(60, 8, 5, generator=GENERATOR)
VALUES[..., 2] += 3 * (X_IN & 1)[:, None]
STATES = {"rnn.l0": HiddenStates.of_lengths(VALUES, LENGTHS)}


def at_step(step: int) -> tuple[Tensor, Tensor, Tensor]:
    """Labels and codes of the sequences that have the step, gathered the slow way."""
    chosen = [
        (index, int(length) + step if step < 0 else step)
        for index, length in enumerate(LENGTHS)
        if (-step <= length if step < 0 else step < length)
    ]
    sequences = torch.tensor([index for index, _ in chosen])
    states = torch.stack([VALUES[index, position] for index, position in chosen])
    return X_IN[sequences], X_OUT[sequences], discretize(states)


def test_padded_steps_never_count() -> None:
    layer = relay_report(STATES, X_IN, X_OUT)["rnn.l0"]
    relay = layer["joint"]
    assert layer.time_steps.tolist() == [*range(int(LENGTHS.max())), -1]
    for step in layer.time_steps[:-1]:
        data = at_step(int(step))
        order = relay_order(*data)
        assert layer.samples[step] == len(data[0]) == int((step < LENGTHS).sum())
        assert layer.distinct_states[step] == len(set(map(tuple, data[2].tolist())))
        assert relay.units[step].tolist() == order.units.tolist()
        assert relay.tied[step].tolist() == order.tied.tolist()
        assert relay.groups[step].tolist() == order.groups.tolist()
        assert relay.places[step].tolist() == order.places.tolist()
        assert relay.ambiguous[step].tolist() == order.ambiguous.tolist()
        np.testing.assert_allclose(relay.information[step], order.information, atol=1e-12)
        np.testing.assert_allclose(relay.scores[step], order.scores, atol=1e-9)
        expected = float(mutual_information(data[0], data[1]))
        assert relay.mutual_information[step] == pytest.approx(expected, abs=1e-12)


def test_negative_steps_count_from_the_end_of_each_sequence() -> None:
    report = relay_report(STATES, X_IN, X_OUT, time_steps=[-1, 3, -4])
    layer = report["rnn.l0"]
    assert layer.time_steps.tolist() == [-1, 3, -4]
    for place, step in enumerate((-1, 3, -4)):
        data = at_step(step)
        assert layer.samples[place] == len(data[0])
        expected = float(relay_information(*data))
        assert layer["joint"].information[place, 0] == pytest.approx(expected, abs=1e-12)


def test_concepts_are_measured_apart() -> None:
    concepts = {"low": lambda label: label & 1, "high": lambda label: label >> 1}
    report = relay_report(STATES, X_IN, X_OUT, concepts=concepts)
    assert list(report.mutual_information) == ["low", "high"]
    low = relay_report(STATES, X_IN & 1, X_OUT & 1)
    np.testing.assert_allclose(
        report["rnn.l0"]["low"].information,
        low["rnn.l0"]["joint"].information,
        atol=1e-12,
    )
    assert report.mutual_information["low"] == pytest.approx(low.mutual_information["joint"])
    per_class = relay_report(STATES, X_IN, X_OUT, concepts="per_class", num_classes=9)
    assert list(per_class["rnn.l0"].concepts) == [f"class_{label}" for label in range(9)]


@pytest.mark.parametrize(
    ("options", "same"),
    [
        ({}, {"joint": lambda a, b: a == b}),
        (
            {"concepts": "per_class"},
            {f"class_{k}": lambda a, b, k=k: (a == k) == (b == k) for k in range(4)},
        ),
        ({"concepts": {"half": lambda label: label // 2}}, {"half": lambda a, b: a // 2 == b // 2}),
        (
            {"num_labels": 2},
            {f"label_{k}": lambda a, b, k=k: a >> k & 1 == b >> k & 1 for k in range(2)},
        ),
    ],
)
def test_accuracy_is_that_of_the_sequences_that_have_the_step(options: Any, same: Any) -> None:
    steps = [0, 3, 5, -1, -4]
    layer = relay_report(STATES, X_IN, X_OUT, time_steps=steps, **options)["rnn.l0"]
    assert list(layer.concepts) == list(same)
    for name, equal in same.items():
        for place, step in enumerate(steps):
            x_in, x_out, _ = at_step(step)
            right = [equal(int(a), int(b)) for a, b in zip(x_in, x_out, strict=True)]
            assert layer[name].accuracy[place] == sum(right) / len(right)


def test_boolean_labels_are_labels() -> None:
    report = relay_report(STATES, X_IN > 1, X_OUT > 1, concepts={"high": bool})
    expected = relay_report(STATES, (X_IN > 1).long(), (X_OUT > 1).long())
    assert report.mutual_information["high"] == expected.mutual_information["joint"]


@pytest.mark.parametrize(
    ("inputs_end", "time_steps", "ended"),
    [
        (None, [0, -1], [True, True]),
        (2, [0, 1, 2, 3], [False, False, True, True]),
        (-1, [0, 5, -2, -1], [False, True, False, True]),
        (0, [0, -1], [True, True]),
    ],
)
def test_steps_with_input_still_to_come_are_marked(
    inputs_end: int | None, time_steps: list[int], ended: list[bool]
) -> None:
    assert int(LENGTHS.max()) == 6
    report = relay_report(STATES, X_IN, X_OUT, inputs_end=inputs_end, time_steps=time_steps)
    assert report["rnn.l0"].inputs_ended.tolist() == ended


def test_options_reach_the_measure_and_stand_in_the_report() -> None:
    report = relay_report(
        STATES,
        X_IN,
        X_OUT,
        time_steps=[1],
        samples_seen=1000,
        measure=RelayMeasure(discretization="quantile", levels=3, direction="grow"),
    )
    assert report.measure == RelayMeasure(discretization="quantile", levels=3, direction="grow")
    assert (report.samples, report.samples_seen) == (60, 1000)
    hidden = discretize(VALUES[LENGTHS > 1, 1], "quantile", levels=3)
    order = relay_order(X_IN[LENGTHS > 1], X_OUT[LENGTHS > 1], hidden, direction="grow")
    relay = report["rnn.l0"]["joint"]
    assert relay.units[0].tolist() == order.units.tolist()


def test_every_layer_is_reported() -> None:
    states = STATES | {"other.l0": HiddenStates.of_lengths(VALUES[..., :2], LENGTHS)}
    layers = relay_report(states, X_IN, X_OUT).layers
    assert {key: layer["joint"].units.shape[1] for key, layer in layers.items()} == {
        "rnn.l0": 5,
        "other.l0": 2,
    }


SPOILT = VALUES.clone()
SPOILT[7, 1, 4] = torch.nan


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"x_in": X_IN[1:]}, ValueError, "got 60 sequences of 'rnn.l0', 59 and 60 labels; they ta"),
        ({"time_steps": [6]}, ValueError, "time_steps: got 6, but the longest sequence has 6 ste"),
        ({"inputs_end": 6}, ValueError, "inputs_end: got 6, but the longest sequence has 6 steps"),
        ({"inputs_end": -7}, ValueError, "inputs_end: got -7, but the longest sequence has 6 ste"),
        ({"states": {}}, ValueError, "states: got no layer; it takes hidden states by layer key"),
        ({"states": {"rnn": STATES["rnn.l0"]}}, ValueError, "layer key: got 'rnn'; it takes one s"),
        ({"x_out": X_OUT.float()}, TypeError, "x_out: got torch.float32; it takes integers"),
        ({"x_in": X_IN[:, None, None]}, ValueError, r"x_in: got shape \(60, 1, 1\); it takes \(b"),
        (
            {"x_in": X_IN[:, None]},
            ValueError,
            r"x_in, x_out: got shapes \(60, 1\) and \(60,\); they take",
        ),
        *(
            ({"time_steps": steps}, ValueError, "time_steps: got ")
            for steps in ([], [1, 1], [1.7], [True], 5)
        ),
        (
            {"states": {"rnn.l0": HiddenStates.of_lengths(SPOILT, LENGTHS)}},
            ValueError,
            r"states of 'rnn.l0': nan at step 1, unit 4 \(in 1 of 60",
        ),
    ],
)
def test_bad_arguments_say_what_is_wrong(
    options: dict[str, Any], error: type[Exception], message: str
) -> None:
    arguments: dict[str, Any] = {"states": STATES, "x_in": X_IN, "x_out": X_OUT}
    with pytest.raises(error, match=message):
        relay_report(**(arguments | options))


def bidirectional(*, lengths: list[int] | None = None) -> tuple[dict[str, HiddenStates], Tensor]:
    """States of a bidirectional model of two layers, and labels."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(3, (40,), generator=generator)
    counts = torch.tensor([6] * 40 if lengths is None else lengths * (40 // len(lengths)))
    keys = ("rnn.l0", "rnn.l0_reverse", "rnn.l1", "rnn.l1_reverse", "rnn.l1.cell", "head.l0")
    states = {
        key: HiddenStates.of_lengths(torch.randn(40, 6, 3, generator=generator), counts)
        for key in keys
    }
    return states, labels


def test_a_backward_layer_has_seen_all_input_at_its_first_position_only() -> None:
    states, labels = bidirectional()
    ended = {
        key: layer.inputs_ended.tolist()
        for key, layer in relay_report(states, labels, labels, inputs_end=2).layers.items()
    }
    forward = [False, False, True, True, True, True]
    assert ended == {
        "rnn.l0": forward,
        "rnn.l0_reverse": [True] + [False] * 5,
        "rnn.l1": [True] * 6,
        "rnn.l1_reverse": [True] * 6,
        "rnn.l1.cell": [True] * 6,
        "head.l0": forward,
    }
    states, labels = bidirectional(lengths=[6, 2])
    report = relay_report(states, labels, labels, inputs_end=-1)
    assert report.layers["rnn.l0_reverse"].inputs_ended.tolist() == [True] + [False] * 6


def test_codes_are_taken_as_they_are_and_steps_may_come_in_blocks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    states, labels = bidirectional(lengths=[6, 2])
    states = {"rnn.l0": states["rnn.l0"]}
    expected = relay_report(states, labels, labels, concepts="per_class")
    monkeypatch.setattr("lightning_relay.relay.analysis._CODES_AT_ONCE", 250)
    in_blocks = relay_report(states, labels, labels, concepts="per_class")
    assert_equal(in_blocks, expected, atol=1e-12)
    buffer = SequenceBuffer(SequenceSample(max_samples=40))
    buffer.add(states, labels, labels)
    of_buffer = relay_report(buffer.states, labels, labels, concepts="per_class")
    assert_equal(of_buffer, expected, atol=1e-12)
    buffer = SequenceBuffer(SequenceSample(max_samples=40, fit_samples=39))
    buffer.add(states, labels, labels)
    coded = buffer.states["rnn.l0"]
    with pytest.warns(
        UserWarning, match=r"'rnn.l0': thresholds were fitted .*, and too few of the"
    ):
        found = relay_report(buffer.states, labels, labels, time_steps=[1, -1])
    assert found.samples_fitted == 39
    assert found.threshold_agreement == {"rnn.l0": coded.agreement()}
    assert found.expected_agreement == {"rnn.l0": coded.expected_agreement}
    assert found.beyond_thresholds == {"rnn.l0": coded.left_out()} == {"rnn.l0": 20}
    with pytest.raises(
        ValueError,
        match=r"discretization, levels: got 'median', 2, but the codes of 'rnn.l0' were made",
    ):
        relay_report(buffer.states, labels, labels, measure=RelayMeasure(discretization="median"))
    for place, step in enumerate((1, -1)):
        codes = coded.at(step)
        order = relay_order(labels, labels, codes.values[:, 0], valid=codes.valid[:, 0])
        relay = found["rnn.l0"]["joint"]
        information = torch.from_numpy(relay.information[place])
        torch.testing.assert_close(information, order.information, atol=1e-12, rtol=0)
        assert torch.equal(torch.from_numpy(relay.units[place]), order.units)


# Evidence


def test_evidence_is_that_of_the_order_the_permutations_and_the_resamples() -> None:
    rule: dict[str, Any] = {"min_coverage": 0.4, "max_gap": 0.7, "direction": "grow"}
    report = relay_report(
        STATES,
        X_IN,
        X_OUT,
        time_steps=[1],
        measure=RelayMeasure(n_permutations=39, n_bootstraps=40, seed=5, **rule),
    )
    relay = report["rnn.l0"]["joint"]
    mask = LENGTHS > 1
    assert mask.all()
    data = (X_IN, X_OUT, discretize(VALUES[:, 1]))
    order = relay_order(*data, **rule)
    usual = relay_order(*data, direction="grow")
    assert order.resolved.tolist() != usual.resolved.tolist()
    for name in ("corrected", "gap", "coverage", "distinct_states", "alone", "resolved"):
        expected = getattr(order, name).numpy()
        found = getattr(relay, name)[0]
        assert found.dtype == expected.dtype
        np.testing.assert_allclose(found, expected, atol=1e-12, err_msg=name)
    intervals = bootstrap(*data, direction="grow", n_bootstraps=40, seed=5)
    for name in ("lower", "upper", "rank_lower", "rank_upper", "rank_stability"):
        found = getattr(relay, name)[0]
        np.testing.assert_allclose(found, getattr(intervals, name), atol=1e-12, err_msg=name)
    sets = [[0, 1, 2, 3, 4], [0], [1], [2], [3], [4], []]
    chance = chance_level(*data, sets, n_permutations=39, seed=5)
    assert relay.chance_level is not None
    np.testing.assert_allclose(relay.chance_level[0], chance.threshold[:-1], atol=1e-12)
    np.testing.assert_array_equal(relay.chance_p_values, chance.family_p_values[None, :-1])
    np.testing.assert_array_equal(relay.unexplained_p_values, chance.family_p_values[None, -1])
    np.testing.assert_array_equal(relay.movable, chance.movable[None, :-1])


@pytest.mark.parametrize("n_orders", [8, 0.05])
def test_shares_are_those_of_the_codes_with_the_same_orders_at_all_steps(
    n_orders: int | float, monkeypatch: pytest.MonkeyPatch
) -> None:
    rule: dict[str, Any] = {"min_coverage": 0.4, "max_gap": 0.7, "estimator": "miller_madow"}
    steps = [-1, 3, 0]
    hidden = torch.stack(
        [HiddenStates.of_lengths(VALUES, LENGTHS).at(s).values[:, 0] for s in steps]
    )
    valid = torch.stack([HiddenStates.of_lengths(VALUES, LENGTHS).at(s).valid[:, 0] for s in steps])
    codes = discretize(hidden, valid=valid)
    expected = relay_share(X_IN, X_OUT, codes, n_orders=n_orders, valid=valid, seed=3, **rule)
    other = relay_share(X_IN, X_OUT, codes, n_orders=n_orders, valid=valid, seed=4, **rule)
    assert not torch.equal(other.share, expected.share)
    # A step by itself would take fewer orders for the error aimed at.
    monkeypatch.setattr("lightning_relay.relay.analysis._CODES_AT_ONCE", 1)
    measure = RelayMeasure(n_orders=n_orders, seed=3, **rule)
    report = relay_report(STATES, X_IN, X_OUT, time_steps=steps, measure=measure)
    assert report.measure is measure
    relay = report["rnn.l0"]["joint"]
    for found, values in (
        (relay.share, expected.share),
        (relay.share_error, expected.standard_error),
        (relay.share_resolved, expected.resolved),
        (relay.unattributed, expected.unattributed),
    ):
        assert found is not None
        np.testing.assert_allclose(found, values, atol=1e-12)


def test_transfer_is_that_of_the_codes_and_its_profile_leaves_out_steps_with_input_to_come(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    steps = [0, 1, 3, -1]
    lasting = HiddenStates.of_lengths(VALUES, LENGTHS)
    hidden = torch.stack([lasting.at(step).values[:, 0] for step in steps])
    valid = torch.stack([lasting.at(step).valid[:, 0] for step in steps])
    options: dict[str, Any] = {"n_splits": 6, "seed": 3, "estimator": "grassberger"}
    codes = discretize(hidden, valid=valid)
    expected = relay_transfer(X_IN, X_OUT, codes, valid=valid, **options)
    monkeypatch.setattr("lightning_relay.relay.analysis._CODES_AT_ONCE", 1)
    measure = RelayMeasure(**options)
    relay = relay_report(STATES, X_IN, X_OUT, time_steps=steps, measure=measure)["rnn.l0"]["joint"]
    for found, values in (
        (relay.transfer, expected.transfer),
        (relay.transfer_error, expected.standard_error),
        (relay.set_size, expected.set_size),
        (relay.reached, expected.reached),
    ):
        assert found is not None
        np.testing.assert_allclose(found, values, atol=1e-12)
    copies = torch.randn(200, 4, 6)
    bit = (copies[:, 0, 0] > 0).long()
    copies[:, :, 0] = 2.0 * bit.unsqueeze(1) - 1
    states = {"rnn.l0": HiddenStates(copies, torch.ones(200, 4, dtype=torch.bool))}
    report = relay_report(states, bit, bit, time_steps=[0, 1, 3, -1], inputs_end=1)
    relay = report["rnn.l0"]["joint"]
    assert relay.transfer is not None
    assert relay.transfer.tolist() == np.ones((4, 4)).tolist()
    assert relay.lag_profile is not None
    np.testing.assert_array_equal(relay.lag_profile, [np.nan, 1.0])
    assert np.isnan(relay.migration)
    assert relay.half_life == np.inf
    assert relay.period == 0
    whole = relay_report(states, bit, bit)["rnn.l0"]["joint"]
    assert whole.migration == 0.0


def test_units_with_nearly_one_code_are_named() -> None:
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(3, (100, 2, 4), generator=generator)
    codes[:, 1, 1] = 7
    codes[3:8, 1, 1] = -2
    codes[:4, 0, 2], codes[4:, 0, 2] = 1, 0
    lengths = torch.tensor([2] * 90 + [1] * 10)
    states = {"rnn.l0": HiddenStates.of_lengths(codes, lengths)}
    label = torch.randint(2, (100,), generator=generator)
    layer = relay_report(states, label, label, time_steps=[0, 1])["rnn.l0"]
    for step, count in enumerate((100, 90)):
        for unit in range(4):
            most = np.unique(codes[:count, step, unit], return_counts=True)[1].max()
            assert layer.common_code[step, unit] == most / count
    assert np.argwhere(layer.nearly_constant).tolist() == [[0, 2]]
    report = relay_report(states, label, label, time_steps=[0])
    assert "; 1 of 4 units nearly constant |" in relay_table(report, "rnn.l0", "joint")
    assert "1 of 4 units nearly constant" in str(report)


def test_transfer_may_be_left_out_and_is_where_the_estimator_gives_none() -> None:
    for measure in (RelayMeasure(n_splits=0), RelayMeasure(estimator="chao_shen")):
        relay = relay_report(STATES, X_IN, X_OUT, time_steps=[1], measure=measure)["rnn.l0"][
            "joint"
        ]
        assert relay.transfer is relay.transfer_error is relay.set_size is relay.reached is None
        assert relay.lag_profile is None
        assert np.isnan(relay.half_life)
        assert relay.period == 0
    with pytest.raises(ValueError, match="n_splits: got 3; it takes at least 4"):
        RelayMeasure(n_splits=3)
    with pytest.raises(TypeError, match="n_splits: got True; it takes a number of splits"):
        RelayMeasure(n_splits=True)


@pytest.mark.parametrize(("levels", "dtype"), [(3, torch.uint8), (300, torch.int32)])
def test_codes_are_as_narrow_as_their_number_allows(
    levels: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Tensor] = []

    def order(x_in: Tensor, x_out: Tensor, hidden: Tensor, **options: Any) -> Any:
        given.append(hidden)
        return relay_order(x_in, x_out, hidden, **options)

    monkeypatch.setattr("lightning_relay.relay.analysis.relay_order", order)
    measure = RelayMeasure(discretization="quantile", levels=levels)
    relay_report(STATES, X_IN, X_OUT, time_steps=[1], measure=measure)
    codes = given[0]
    assert codes.dtype == dtype
    assert torch.equal(codes[0].long(), discretize(VALUES[:, 1], "quantile", levels=levels))


def test_shares_may_be_left_out_and_are_where_the_estimator_gives_none() -> None:
    for measure in (RelayMeasure(n_orders=0), RelayMeasure(estimator="chao_shen", n_orders=0.01)):
        report = relay_report(STATES, X_IN, X_OUT, time_steps=[1], measure=measure)
        relay = report["rnn.l0"]["joint"]
        assert relay.share is relay.share_error is relay.share_resolved is None
        assert relay.unattributed is None
    with pytest.raises(ValueError, match="n_orders: got 3; it takes at least 4"):
        relay_report(STATES, X_IN, X_OUT, measure=RelayMeasure(estimator="chao_shen", n_orders=3))


def test_evidence_is_the_same_in_blocks_of_steps_and_touches_no_random_state(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lengths = torch.tensor([3] * 30 + [4] * 29 + [8])  # one sequence alone has the last steps
    states = {"rnn.l0": HiddenStates.of_lengths(VALUES, lengths)}

    def found(seed: int = 0) -> RelayReport:
        measure = RelayMeasure(n_permutations=39, n_bootstraps=40, seed=seed)
        return relay_report(states, X_IN, X_OUT, concepts="per_class", measure=measure)

    torch.manual_seed(3)
    before = torch.get_rng_state()
    expected = found()
    assert torch.equal(torch.get_rng_state(), before)
    monkeypatch.setattr("lightning_relay.relay.analysis._CODES_AT_ONCE", 700)
    blocks = list(_blocks(states["rnn.l0"], range(8)))
    assert [len(block) for block in blocks] == [2] * 4
    assert_equal(found(), expected, atol=1e-12)
    other = found(seed=1)["rnn.l0"]["class_1"]
    of_zero = expected["rnn.l0"]["class_1"]
    for name in ("lower", "chance_level"):
        assert not np.array_equal(getattr(other, name), getattr(of_zero, name))
    np.testing.assert_array_equal(other.information, of_zero.information)


def test_codes_of_any_value_are_evidence_as_they_are() -> None:
    codes = discretize(VALUES)
    reports = [
        relay_report(
            {"rnn.l0": HiddenStates.of_lengths(values, LENGTHS)},
            X_IN,
            X_OUT,
            measure=RelayMeasure(n_permutations=19, n_bootstraps=40),
        )
        for values in (codes, 256 * codes, codes - 7)
    ]
    for report in reports[1:]:
        assert_equal(report.layers, reports[0].layers, atol=1e-12)


def test_coverage_tells_where_neither_correction_nor_interval_can() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(8, (1000,), generator=generator)
    coins = torch.randint(2, (1000, 1, 24), generator=generator)  # they relay nothing
    states = {"rnn.l0": HiddenStates(coins, torch.ones(1000, 1, dtype=torch.bool))}
    report = relay_report(states, labels, labels, measure=RelayMeasure(n_bootstraps=40))
    relay = report["rnn.l0"]["joint"]
    assert relay.lower is not None
    assert relay.information[0, 0] > 2.9
    assert relay.corrected[0, 0] > 2.9
    assert relay.lower[0, 0] > 2.9
    assert relay.coverage[0, report.full_condition] < 0.01
    assert "units not ranked" in order_in_words(relay, 0, 5)


@pytest.mark.parametrize("constant", ["x_in", "x_out"])
def test_a_constant_concept_is_not_tested_and_not_warned_of(constant: str) -> None:
    same = torch.zeros_like(X_IN)
    labels = (same, X_OUT) if constant == "x_in" else (X_IN, same)
    report = relay_report(STATES, *labels, time_steps=[1], measure=RelayMeasure(n_permutations=19))
    relay = report["rnn.l0"]["joint"]
    hidden = discretize(VALUES[:, 1])
    with pytest.warns(UserWarning, match="nothing can be permuted"):
        chance = chance_level(*labels, hidden, [range(5), [0], [1], [2], [3], [4], []])
    for found, expected in (
        (relay.chance_level, chance.threshold[:-1]),
        (relay.chance_p_values, chance.family_p_values[:-1]),
        (relay.unexplained_p_values, chance.family_p_values[-1]),
        (relay.movable, chance.movable[:-1]),
    ):
        assert found is not None
        assert found.dtype == np.float64
        np.testing.assert_array_equal(found, expected[None])


def test_a_concept_that_varies_at_one_step_only_is_tested_there() -> None:
    labels = torch.where(LENGTHS > 4, 0, X_IN)  # at step 4 all are 0
    report = relay_report(
        STATES, labels, labels, time_steps=[4, 1], measure=RelayMeasure(n_permutations=19)
    )
    relay = report["rnn.l0"]["joint"]
    assert relay.movable is not None
    assert (relay.movable[:, 0] > 0).tolist() == [False, True]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_coverage": 1.5}, "min_coverage: got 1.5; it takes a fraction from 0 to 1"),
        ({"max_gap": -0.1}, "max_gap: got -0.1; it takes bits from 0"),
        ({"n_orders": 3}, "n_orders: got 3; it takes at least 4, so that errors are known"),
        ({"n_orders": 0.0}, "n_orders: got 0.0; an error aimed at is above 0 bits"),
        ({"n_permutations": 18}, "with n_permutations=18 no p-value is below"),
        ({"n_permutations": -1}, "n_permutations: got -1; it takes at least 1"),
        ({"n_bootstraps": 39}, "n_bootstraps: got 39; for a confidence of 0.95 it takes at least"),
        ({"levels": 3}, "levels: got 3 with 'kmeans'"),
        *(
            ({"n_orders": number}, "n_orders: got .*; it takes a number of orders, an int, o")
            for number in (True, False, "16", None)
        ),
    ],
)
def test_evidence_that_cannot_be_had_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        RelayMeasure(**options)


def test_kept_steps_are_the_default_and_absent_ones_are_warned_of() -> None:
    states, labels = bidirectional(lengths=[6, 2])
    states = {"rnn.l0": states["rnn.l0"]}
    buffer = SequenceBuffer(SequenceSample(max_samples=40, time_steps=[-1, 3]))
    buffer.add(states, labels, labels)
    report = relay_report(buffer.states, labels, labels)
    assert report["rnn.l0"].time_steps.tolist() == [-1, 3]
    warning = r"no sequence of 'rnn.l0' has the steps \[7, 2\], or none of them was kept; they are"
    with pytest.warns(UserWarning, match=warning):
        report = relay_report(buffer.states, labels, labels, time_steps=[7, 3, 2])
    assert report["rnn.l0"].time_steps.tolist() == [3]
    with pytest.raises(ValueError, match=r"time_steps: got 2, which was not kept of 'rnn.l0'"):
        relay_report(buffer.states, labels, labels, time_steps=[2])


def test_modules_with_steps_of_their_own_have_ends_of_their_own(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(3, (40,), generator=generator)
    states = {
        f"{name}.l0": HiddenStates.of_lengths(
            torch.randn(40, steps, 3, generator=generator), torch.full((40,), steps)
        )
        for name, steps in (("encoder", 6), ("decoder", 2), ("other", 3))
    }
    with pytest.raises(
        ValueError,
        match=r"inputs_end: got 5, but the longest sequence has 2 steps in 'decoder.l0'; if",
    ):
        relay_report(states, labels, labels, inputs_end=5)
    with pytest.raises(
        ValueError,
        match=r"inputs_end: no recorded module 'encodr'; it takes 'decoder', 'encoder'",
    ):
        relay_report(states, labels, labels, inputs_end={"encodr": -2, "decoder": 0})
    report = relay_report(states, labels, labels, inputs_end={"encoder": -2, "decoder": 0})
    ended = {key: layer.inputs_ended.tolist() for key, layer in report.layers.items()}
    assert ended == {
        "encoder.l0": [False] * 4 + [True] * 2,
        "decoder.l0": [True] * 2,
        "other.l0": [True] * 3,
    }
    report.save(tmp_path / "report.npz")
    assert RelayReport.load(tmp_path / "report.npz").inputs_end == {"encoder": -2, "decoder": 0}
    with pytest.warns(UserWarning, match=r"no sequence of 'decoder.l0' has the steps \[4\]"):
        report = relay_report(
            {key: states[key] for key in ("encoder.l0", "decoder.l0")},
            labels,
            labels,
            time_steps=[0, 4],
        )
    assert [layer.time_steps.tolist() for layer in report.layers.values()] == [[0, 4], [0]]


def test_noise_is_not_beyond_chance_where_the_states_do_not_account_for_everything() -> None:
    generator = torch.Generator().manual_seed(0)
    label = torch.randint(4, (400,), generator=generator)
    values = torch.randn(400, 2, 3, generator=generator)
    values[:, 1, 0] = label & 1
    values[:, 1, 1] = label >> 1
    states = {"rnn.l0": HiddenStates(values, torch.ones(400, 2, dtype=torch.bool))}
    report = relay_report(states, label, label, measure=RelayMeasure(n_permutations=99))
    relay = report["rnn.l0"]["joint"]
    assert relay.chance_p_values is not None
    assert relay.beyond_chance is not None
    assert (relay.chance_p_values[0, 1:] <= 0.05).all()
    assert relay.beyond_chance.tolist() == [[False] * 3, [True, True, False]]


@pytest.mark.parametrize("direction", ["shrink", "grow"])
def test_what_units_tell_alone_and_together_agrees_with_joint_entropies(direction: str) -> None:
    layer = relay_report(STATES, X_IN, X_OUT, measure=RelayMeasure(direction=direction))["rnn.l0"]
    relay = layer["joint"]
    for place, step in enumerate(layer.time_steps):
        x_in, x_out, codes = at_step(int(step))
        data = x_in.tolist(), x_out.tolist(), codes.tolist()
        order = brute_force.growing_order(*data)
        whole = brute_force.relay_information(*data, range(5))
        for unit in range(5):
            others = [other for other in range(5) if other != unit]
            alone = brute_force.relay_information(*data, [unit])
            told = whole - brute_force.relay_information(*data, others)
            assert relay.irreplaceable[place, unit] == pytest.approx(alone, abs=1e-9)
            assert relay.tells[place, unit] == pytest.approx(told, abs=1e-9)
        np.testing.assert_allclose(relay.told[place], order.information[::-1], atol=1e-9)
        complete = [bits >= whole - 1e-9 for bits in relay.told[place, :-1]]
        first = complete.index(True) if any(complete) else 5
        expected = order.units[::-1][:first] + [-1] * (5 - first)
        assert relay.telling[place].tolist() == expected
        assert relay.smallest_set(1, step=int(step)) == expected[:first]


def test_two_copies_tell_the_same_and_neither_is_irreplaceable() -> None:
    bit = torch.tensor([0, 1]).repeat(40)
    codes = torch.stack([0 * bit, bit, bit], dim=-1)[:, None]
    states = HiddenStates(codes, torch.ones(80, 1, dtype=torch.bool))
    report = relay_report({"rnn.l0": states}, bit, bit)
    relay = report["rnn.l0"]["joint"]
    np.testing.assert_allclose(relay.tells, [[0, 1, 1]], atol=1e-12)
    np.testing.assert_allclose(relay.irreplaceable, 0, atol=1e-12)
    np.testing.assert_allclose(relay.told, [[0, 1, 1, 1]], atol=1e-12)
    assert relay.telling.tolist() == [[1, -1, -1]]
    assert relay.telling_tied[0, 1]
    assert relay.smallest_set() == [1]
    assert set(relay.top_units(3)) == {1, 2}
    assert report.input_entropy == {"joint": 1.0}
