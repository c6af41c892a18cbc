"""Reports of outcomes that are made up, against counting one sample after the other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassCalibrationError

from lightning_relay import Computed, EveryUnit, Logged
from lightning_relay.ablation.asked import Ablation
from lightning_relay.ablation.report import ORDERS
from lightning_relay.ablation.results import knockout_report
from lightning_relay.ablation.runs import Outcomes, Ran
from lightning_relay.ablation.sets import Sets, along_orders, single_units
from tests.support.reports import small_report

if TYPE_CHECKING:
    from lightning_relay.ablation.report import KnockoutReport

LAYER, UNITS, CLASSES = "rnn.l0", 5, 4
SIZES = (7, 12, 3)


def outcomes_of(sets: int, *, scores: bool = True, values: bool = False) -> Outcomes:
    """What runs might have given; class 3 does not occur among the labels."""
    generator = torch.Generator().manual_seed(0)
    outcomes = Outcomes(sizes=list(SIZES), x_out="somewhere")
    for size in SIZES:
        outcomes.labels.append(torch.randint(CLASSES - 1, (size,), generator=generator))
        own = torch.rand(sets + 1, size, CLASSES, generator=generator)
        own[0] += 0.7 * torch.nn.functional.one_hot(outcomes.labels[-1], CLASSES)
        outcomes.classes.append(own.argmax(2))
        if scores:
            outcomes.scores.append(own.softmax(2))
            outcomes.num_classes = CLASSES
        if values:
            outcomes.values.append(torch.rand(sets + 1, generator=generator, dtype=torch.float64))
    return outcomes


def reported(
    sets: Sets, outcomes: Outcomes, *, score: Any = None, seed: int = 0, **options: Any
) -> KnockoutReport:
    return knockout_report(
        Ran(sets, outcomes), Ablation(EveryUnit(), score=score, seed=seed), **options
    )


@pytest.mark.parametrize("scores", [True, False])
def test_counts(scores: bool) -> None:
    sets = single_units({LAYER: UNITS})
    outcomes = outcomes_of(UNITS, scores=scores)
    report = reported(sets, outcomes, concepts={"odd": lambda label: label % 2})
    labels = torch.cat(outcomes.labels).tolist()
    classes = torch.cat(outcomes.classes, 1).tolist()
    pairs = [list(zip(labels, row, strict=True)) for row in classes]
    assert report.accuracy is not None
    assert report.class_accuracy is not None
    accuracy = [np.mean([a == b for a, b in row]) for row in pairs]
    assert float(report.accuracy.baseline) == pytest.approx(accuracy[0])
    assert report.accuracy.knocked_out.tolist() == pytest.approx(accuracy[1:])
    assert report.classes.tolist() == list(range(CLASSES))
    for label in range(CLASSES):
        own = [[a == b for a, b in row if a == label] for row in pairs]
        assert report.class_samples[label] == len(own[0])
        found = report.class_accuracy.knocked_out[:, label]
        if own[0]:
            assert found.tolist() == pytest.approx([np.mean(row) for row in own[1:]])
        else:
            assert np.isnan(found).all()
    odd = [np.mean([a % 2 == b % 2 for a, b in row]) for row in pairs]
    damage = report.damage_of("odd").damage
    assert damage.tolist() == pytest.approx([odd[0] - value for value in odd[1:]])
    for place, row in enumerate(pairs):
        for label in range(CLASSES):
            for other in range(CLASSES):
                assert report.confusion[place, label, other] == row.count((label, other))
    changed = [np.mean([a != b for a, b in zip(row, classes[0], strict=True)]) for row in classes]
    assert report.predictions_changed.tolist() == pytest.approx(changed[1:])
    assert (report.samples, report.batches, report.x_out) == (22, 3, "somewhere")
    assert (report.samples_seen, report.batches_seen) == (22, 3)


def test_concepts_of_classes_that_never_occur() -> None:
    report = reported(single_units({LAYER: 2}), outcomes_of(2), concepts="per_class")
    assert report.concepts == ("class_0", "class_1", "class_2", "class_3")
    never = report.damage_of("class_3")
    assert np.isfinite(never.damage).all()  # it is right not to predict it


def test_a_value_of_batches_is_weighted_with_their_sizes() -> None:
    outcomes = outcomes_of(3, values=True)
    values = torch.stack(outcomes.values).numpy()  # (batch, set + 1)
    mean = np.average(values, axis=0, weights=SIZES)
    for better in (False, True):
        report = reported(
            single_units({LAYER: 3}),
            outcomes,
            score=Logged("loss", "max" if better else "min", n_bootstraps=4000),
        )
        found = report.metrics["loss"]
        assert float(found.baseline) == pytest.approx(mean[0])
        assert found.knocked_out.tolist() == pytest.approx(mean[1:])
        sign = 1 if better else -1
        assert found.damage.tolist() == pytest.approx(sign * (mean[0] - mean[1:]))
        # All resamples of three batches, each as often as it is drawn.
        places = np.stack(np.meshgrid(*[range(3)] * 3), -1).reshape(-1, 3)
        weights = np.asarray(SIZES)[places]
        means = np.einsum("rbs,rb->rs", values[places], weights) / weights.sum(1, keepdims=True)
        damage = sign * (means[:, :1] - means[:, 1:])
        ends = np.quantile(damage, (0.025, 0.975), axis=0, method="inverted_cdf")
        np.testing.assert_allclose(found.lower, ends[0], atol=1e-9)
        np.testing.assert_allclose(found.upper, ends[1], atol=1e-9)


def test_values_have_no_interval_where_there_can_be_none() -> None:
    outcomes = outcomes_of(2, values=True)
    none = reported(single_units({LAYER: 2}), outcomes, score=Logged("a", n_bootstraps=0))
    one = Outcomes(sizes=[4], values=outcomes.values[:1])
    single = reported(single_units({LAYER: 2}), one, score=Logged("a"))
    for report in (none, single):
        assert np.isnan(report.metrics["a"].lower).all()
        assert np.isfinite(report.metrics["a"].damage).all()
    assert single.accuracy is None


def test_metrics_are_better_higher_or_lower() -> None:
    outcomes = outcomes_of(3)
    labels, scores = torch.cat(outcomes.labels), torch.cat(outcomes.scores, 1)
    metrics = {
        "micro": MulticlassAccuracy(CLASSES, average="micro"),
        "error": MulticlassCalibrationError(CLASSES),
    }
    score = Computed(MetricCollection(metrics), n_bootstraps=200)
    report = reported(single_units({LAYER: 3}), outcomes, score=score, seed=1)
    assert report.accuracy is not None
    np.testing.assert_allclose(report.metrics["micro"].damage, report.accuracy.damage, atol=1e-6)
    plain = [float(metrics["error"](row, labels)) for row in scores]
    found = report.metrics["error"]
    np.testing.assert_allclose(found.damage, np.array(plain[1:]) - plain[0], atol=1e-6)
    # The samples are paired: intervals are about those of the paired accuracies.
    micro = report.metrics["micro"]
    np.testing.assert_allclose(micro.lower, report.accuracy.lower, atol=0.12)
    np.testing.assert_allclose(micro.upper, report.accuracy.upper, atol=0.12)
    again = reported(single_units({LAYER: 3}), outcomes, score=score, seed=1)
    assert (again.metrics["micro"].lower == micro.lower).all()


def test_a_metric_of_classes_where_there_are_no_scores() -> None:
    report = reported(
        single_units({LAYER: 2}),
        outcomes_of(2, scores=False),
        score=Computed(
            MetricCollection({"micro": MulticlassAccuracy(CLASSES, average="micro")}), 3
        ),
    )
    assert report.accuracy is not None
    np.testing.assert_allclose(report.metrics["micro"].damage, report.accuracy.damage, atol=1e-6)


def test_a_metric_that_gives_no_single_number_is_refused() -> None:
    with pytest.raises(ValueError, match=r"score: 'each' returned \(4,\); it takes a metric that"):
        reported(
            single_units({LAYER: 1}),
            outcomes_of(1),
            score=Computed(MetricCollection({"each": MulticlassAccuracy(CLASSES, average="none")})),
        )


@pytest.mark.parametrize("most", [None, 9])
def test_curves_follow_their_orders(most: int | None) -> None:
    relay = small_report(units=UNITS)
    sets = along_orders(relay, {LAYER: UNITS}, n_random=2, max_sets=most)
    outcomes = outcomes_of(len(sets.sets))
    report = reported(sets, outcomes, relay=relay)
    labels, classes = torch.cat(outcomes.labels), torch.cat(outcomes.classes, 1)
    accuracy = (classes == labels).double().mean(1).numpy()
    known = {
        frozenset(some.units[LAYER]): own for some, own in zip(sets.sets, accuracy[1:], strict=True)
    }
    known[frozenset()] = accuracy[0]
    assert [curve.direction for curve in report.curves] == list(ORDERS)
    for curve in report.curves:
        assert (curve.sizes[0], curve.sizes[-1]) == (0, UNITS)
        for row, values, area in zip(curve.units, curve.accuracy, curve.area, strict=True):
            own = [known[frozenset(row[:size].tolist())] for size in curve.sizes]
            assert values.tolist() == pytest.approx(own)
            trapezoids = [
                (b - a) * (left + right) / 2
                for a, b, left, right in zip(
                    curve.sizes, curve.sizes[1:], own, own[1:], strict=False
                )
            ]
            assert area == pytest.approx(sum(trapezoids) / UNITS)
    assert (report.relay_epoch, report.relay_step) == (relay.epoch, relay.global_step)


def test_scores_are_the_mean_over_steps_that_had_all_inputs() -> None:
    relay = small_report(units=UNITS, inputs_end=3)
    sets = single_units({LAYER: UNITS}, max_sets=4, seed=2)
    report = reported(sets, outcomes_of(4), relay=relay)
    (found,) = report.agreement
    units = [some.units[LAYER][0] for some in sets.sets]
    steps = relay.layers[LAYER]
    shares = steps["joint"].share
    assert shares is not None
    scores = shares[3:].mean(0)[units]
    np.testing.assert_allclose(found.scores, scores, atol=1e-9)
    assert found.kind == "relay share, bits"
    plain = small_report(units=UNITS, inputs_end=3, n_orders=0)
    (without,) = reported(sets, outcomes_of(4), relay=plain).agreement
    greedy = plain[LAYER]["joint"].scores[3:].mean(0)[units]
    np.testing.assert_allclose(without.scores, greedy, atol=1e-9)
    assert without.kind == "unit score"
    assert report.accuracy is not None
    np.testing.assert_allclose(found.damage, report.accuracy.damage)
    assert found.correlation == pytest.approx(spearmanr(scores, found.damage).statistic)


@pytest.mark.parametrize(
    "sets",
    [
        Sets(single_units({LAYER: 2}, steps={LAYER: 2}).sets),
        single_units({"other.l0": 2}),
    ],
)
def test_there_is_no_agreement_with_what_is_not_alike(sets: Any) -> None:
    report = reported(sets, outcomes_of(2), relay=small_report(units=UNITS))
    assert report.agreement == ()
