"""Knock-outs along the orders of a relay report."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import nn

from lightning_relay import (
    AlongOrder,
    EveryUnit,
    KnockoutCallback,
    RelayInformationCallback,
    RelayMeasure,
    RelayReport,
    TopUnits,
)
from lightning_relay.ablation.damage import area_under_curve, wilson_interval
from tests.support.ablation import (
    UNITS,
    Untrained,
    as_loader,
    assert_report,
    batches,
    lively,
    refused_before_training,
    relay_of,
    validated,
)
from tests.support.models import CLASSES, Classifier, WithoutForward, loader
from tests.support.reports import assert_equal
from tests.support.training import LABELS, quiet_trainer

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

CONCEPTS: dict[str, Any] = {"low": lambda label: label & 1, "high": lambda label: label >> 1}


def shares(report: RelayReport, concept: str = "joint") -> NDArray[np.float64]:
    """Relay shares at the last step by unit, not all the same."""
    share = report["rnn.l0"][concept].share
    assert share is not None
    last: NDArray[np.float64] = share[-1].round(9)
    assert len(set(last.tolist())) > 2
    return last


def test_units_one_after_the_other_along_the_order() -> None:
    model = lively(Classifier)
    relay = relay_of(model, concepts=CONCEPTS)
    callback = KnockoutCallback(
        AlongOrder(concepts=["high", "low"], n_random=3), relay=relay, concepts=CONCEPTS, seed=2
    )
    validated(model, callback)
    (report,) = callback.reports
    classes = assert_report(report, model, batches(), CONCEPTS, steps=[-1])
    assert {some.steps for some in report.sets} == {(-1,)}
    assert len({frozenset(some.units["rnn.l0"]) for some in report.sets}) == len(report.sets)
    assert [(c.layer, c.concept, c.direction) for c in report.curves] == [
        ("rnn.l0", concept, direction)
        for concept in ("high", "low")
        for direction in ("most_first", "least_first", "random_first")
    ]
    labels = LABELS.numpy()
    known = {
        frozenset(some.units["rnn.l0"]): row
        for some, row in zip(report.sets, classes[1:], strict=True)
    } | {frozenset(): classes[0]}
    for curve in report.curves:
        share = shares(relay, curve.concept)
        if curve.direction == "random_first":
            assert curve.units.shape == (3, UNITS)
            assert all(sorted(row) == list(range(UNITS)) for row in curve.units.tolist())
        else:
            sign = {"most_first": -1, "least_first": 1}[curve.direction]
            assert len(curve.units) == (1 if len(set(share.tolist())) == UNITS else 3)
            assert (np.diff(sign * share[curve.units], axis=1) >= 0).all()
        assert curve.sizes.tolist() == list(range(UNITS + 1))
        function = CONCEPTS[curve.concept]
        for row, accuracy in zip(curve.units, curve.accuracy, strict=True):
            for size, value in zip(curve.sizes, accuracy, strict=True):
                own = known[frozenset(row[:size].tolist())]
                right = [function(a) == function(b) for a, b in zip(own, labels, strict=True)]
                assert value == pytest.approx(np.mean(right), abs=1e-12)
        lower, upper = wilson_interval((curve.accuracy * 48).round(), 48)
        np.testing.assert_allclose(curve.lower, lower, atol=1e-12)
        np.testing.assert_allclose(curve.upper, upper, atol=1e-12)
        expected = [area_under_curve(curve.sizes, row) for row in curve.accuracy]
        np.testing.assert_allclose(curve.area, expected, atol=1e-12)
    assert report.sets[0].concept == "high"


def test_the_units_that_relay_most_of_each_concept() -> None:
    model = lively(Classifier)
    relay = relay_of(model, concepts=CONCEPTS)
    callback = KnockoutCallback(TopUnits(2, n_random=4), relay=relay, concepts=CONCEPTS, seed=1)
    trainer = validated(model, callback)
    (report,) = callback.reports
    classes = assert_report(report, model, batches(), CONCEPTS, steps=[-1])
    assert {some.steps for some in report.sets} == {(-1,)}
    for concept in CONCEPTS:
        own = [some for some in report.sets if some.concept == concept]
        assert [some.group for some in own] == ["concept", *["concept_random"] * 4]
        share = shares(relay, concept)
        chosen = share[list(own[0].units["rnn.l0"])].tolist()
        assert chosen == sorted(share.tolist(), reverse=True)[:2]
        assert {len(some.units["rnn.l0"]) for some in own} == {2}
        right = np.array(
            [
                [
                    CONCEPTS[concept](a) == CONCEPTS[concept](b)
                    for a, b in zip(row, LABELS.tolist(), strict=True)
                ]
                for row in classes.tolist()
            ]
        )
        damage = right[0].mean() - right[1:].mean(1)
        place = report.sets.index(own[0])
        logged = trainer.callback_metrics
        assert logged[f"knockout/rnn.l0/{concept}/top_damage"] == pytest.approx(
            damage[place], abs=1e-6
        )
        mean = damage[place + 1 : place + 5].mean()
        assert logged[f"knockout/rnn.l0/{concept}/random_damage"] == pytest.approx(mean, abs=1e-6)


@pytest.mark.parametrize("first", [True, False])
def test_orders_are_those_of_the_newest_relay_report_before_the_evaluation(first: bool) -> None:
    relay = RelayInformationCallback()
    greedy = KnockoutCallback(AlongOrder(n_random=1), prefix="greedy")
    each = KnockoutCallback(prefix="each")
    callbacks = [relay, greedy, each] if first else [greedy, each, relay]
    quiet_trainer(*callbacks, max_epochs=3).fit(lively(Classifier), loader(), loader())
    assert [(r.epoch, r.relay_epoch, r.relay_step) for r in greedy.reports] == [
        (1, 0, 3),
        (2, 1, 6),
    ]
    for report in greedy.reports:
        assert report.relay_epoch is not None
        share = shares(relay.reports[report.relay_epoch])
        assert (np.diff(share[report.curves[1].units], axis=1) >= 0).all()
    # Unit scores and damage are compared in the same evaluation where that is possible.
    expected = [0, 1, 2] if first else [None, 0, 1]
    assert [report.relay_epoch for report in each.reports] == expected


def test_scores_and_damage_agree_as_far_as_scipy_finds() -> None:
    model = lively(Classifier)
    relay = RelayInformationCallback(concepts=CONCEPTS, inputs_end=3)
    callback = KnockoutCallback()
    validated(model, relay, callback)
    (report,) = callback.reports
    steps = relay.reports[0].layers["rnn.l0"]
    last = steps.inputs_ended
    assert report.concepts == ("low", "high")  # those of the relay callback
    assert [found.concept for found in report.agreement] == ["low", "high"]
    for found in report.agreement:
        share = steps[found.concept].share
        assert share is not None
        scores = share[last].mean(0).round(9)  # as many samples at each step
        np.testing.assert_allclose(found.scores, scores, atol=1e-12)
        damage = report.damage_of(found.concept).damage
        np.testing.assert_allclose(found.damage, damage, atol=1e-12)
        if np.ptp(scores) == 0:
            assert np.isnan([found.correlation, found.lower, found.upper]).all()
            continue
        expected = spearmanr(scores, damage).statistic
        assert abs(expected) > 0.1
        assert found.correlation == pytest.approx(expected, abs=1e-12)
        assert found.lower <= found.correlation <= found.upper


def test_damage_in_a_window_is_not_compared_with_scores() -> None:
    relay, callback = RelayInformationCallback(), KnockoutCallback(EveryUnit(steps=[1, 2]))
    validated(lively(Classifier), relay, callback)
    assert callback.reports[0].agreement == ()


@pytest.mark.parametrize(("step", "place"), [(1, 1), (-1, -1)])
def test_damage_at_a_step_is_compared_with_shares_at_the_step(step: int, place: int) -> None:
    relay, callback = RelayInformationCallback(), KnockoutCallback(EveryUnit(steps=step))
    validated(lively(Classifier), relay, callback)
    (found,) = callback.reports[0].agreement
    share = relay.reports[0]["rnn.l0"]["joint"].share
    assert share is not None
    np.testing.assert_allclose(found.scores, share[place].round(9))
    assert callback.reports[0].single_steps("rnn.l0") == {}


def test_a_report_can_be_given_as_a_file(tmp_path: Path) -> None:
    model = lively(Classifier)
    relay = relay_of(model)
    relay.save(tmp_path / "relay.npz")
    reports = []
    for given in (relay, tmp_path / "relay.npz", str(tmp_path / "relay.npz")):
        callback = KnockoutCallback(AlongOrder(n_random=1), relay=given)
        validated(model, callback)
        reports.append(callback.reports[0])
    assert_equal(reports[0], reports[1])
    assert_equal(reports[0], reports[2])
    with pytest.raises(
        ValueError, match=r"relay: no file '.*nothing\.npz'; it takes the path of a s"
    ):
        KnockoutCallback(AlongOrder(), relay=tmp_path / "nothing.npz")
    callback.reports[0].save(tmp_path / "knockout.npz")
    with pytest.raises(
        ValueError, match=r"but a knock-out report; load it with KnockoutReport\.lo"
    ):
        KnockoutCallback(AlongOrder(), relay=tmp_path / "knockout.npz")


def test_orders_without_a_relay_report() -> None:
    for which in (AlongOrder(), TopUnits()):
        with pytest.raises(
            ValueError,
            match=f"which: {type(which).__name__} follows a relay report, and there "
            "is none; add a RelayInformationCallback to the Trainer, or give a report as relay=",
        ):
            validated(Classifier(), KnockoutCallback(which))
    relay, callback = RelayInformationCallback(), KnockoutCallback(TopUnits())
    trainer = quiet_trainer(relay, callback)
    model = Classifier()
    with pytest.raises(
        ValueError, match=r"there is none before the end .* run trainer.validate twice, or g"
    ):
        trainer.validate(model, loader(), verbose=False)
    relay.reports.append(relay_of(model))
    trainer.validate(model, loader(), verbose=False)
    assert len(callback.reports) == 1


def test_a_fit_waits_for_the_first_relay_report(caplog: pytest.LogCaptureFixture) -> None:
    relay = RelayInformationCallback(every_n_epochs=2)
    callback = KnockoutCallback(AlongOrder(n_random=1))
    with caplog.at_level("INFO"):
        quiet_trainer(relay, callback, max_epochs=4).fit(Classifier(), loader(), loader())
    assert [report.epoch for report in callback.reports] == [2, 3]
    said = [text for text in caplog.messages if text.startswith("Knock-outs")]
    assert said == [
        "Knock-outs: AlongOrder follows a relay report, and there is none yet; they begin with the "
        "first evaluation after a report."
    ]


def test_a_relay_report_that_does_not_fit() -> None:
    relay = relay_of(Classifier())
    several = relay_of(Classifier(), concepts=CONCEPTS)

    class Wide(Untrained):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = nn.GRU(1, 7, batch_first=True)
            self.head = nn.Linear(7, CLASSES)

    for which in (EveryUnit(), AlongOrder(), TopUnits()):
        refused_before_training(
            KnockoutCallback(which, relay=relay),
            r"report: 'rnn.l0' has 6 units in the relay report, and 7 in the model; it takes",
            kind=Wide,
        )
    refused_before_training(
        KnockoutCallback(AlongOrder(states=["cell"], layers="all"), relay=relay),
        r"report: the relay report has 'rnn.l0', and none of the layers to knock out, 'rnn.l0.cel",
        kind=type("Cells", (WithoutForward, Untrained), {}),
    )
    refused_before_training(
        KnockoutCallback(TopUnits(7), relay=relay),
        r"top: got 7; it takes at most 6, the units of 'rnn.l0'",
    )
    refused_before_training(
        KnockoutCallback(AlongOrder(), relay=several),
        r"concepts: got 'joint', but the selection follows 'low' of the relay report; give the c",
    )
    refused_before_training(
        KnockoutCallback(TopUnits(), relay=several, concepts={"low": CONCEPTS["low"]}),
        r"concepts: got \['low'\], but the selection follows 'high' of the relay report",
    )


def test_too_few_sets() -> None:
    relay = relay_of(Classifier())
    refused_before_training(
        KnockoutCallback(TopUnits(max_sets=1), relay=relay),
        r"max_sets: got 1; 1 concepts and layers with one random set each take 2 sets; raise it",
    )


def test_the_relay_callback_to_follow_is_named_by_its_prefix() -> None:
    relays = [
        RelayInformationCallback(),
        RelayInformationCallback(prefix="grow", measure=RelayMeasure(discretization="sign")),
    ]
    knockouts = [
        KnockoutCallback(TopUnits(2), relay=relay, prefix=f"knockout_{relay}")
        for relay in (None, "grow")
    ]
    trainer = quiet_trainer(*relays, *knockouts, max_epochs=2)
    trainer.fit(lively(Classifier), loader(), loader())
    tops = []
    for relay, knockout in zip(relays, knockouts, strict=True):
        share = shares(relay.reports[-2])
        (report,) = knockout.reports
        tops.append(report.sets[0].units["rnn.l0"])
        chosen = share[list(tops[-1])].tolist()
        assert chosen == sorted(share.tolist(), reverse=True)[:2]
    assert tops[0] != tops[1]
    with pytest.raises(
        ValueError,
        match="relay: no RelayInformationCallback with the prefix 'gro' in the Trainer; it has: "
        "'relay', 'grow'",
    ):
        validated(lively(Classifier), *relays, KnockoutCallback(relay="gro"))


def in_reverse(report: RelayReport) -> RelayReport:
    """A report with every ranking turned round."""
    layer = report["rnn.l0"]
    joint = layer["joint"]
    assert joint.share is not None
    turned = dataclasses.replace(joint, share=-joint.share)
    layer = dataclasses.replace(layer, concepts={"joint": turned})
    return dataclasses.replace(report, layers={"rnn.l0": layer})


def test_every_dataloader_follows_the_orders_of_its_own() -> None:
    relay, knockout = RelayInformationCallback(), KnockoutCallback(TopUnits(5))
    model = lively(Classifier)
    data = [as_loader(batches()[:1]), as_loader(batches()[1:])]
    validated(model, relay, data=data)
    relay.reports[0] = in_reverse(relay.reports[0])
    validated(model, relay, knockout, data=data)
    for dataloader, report in enumerate(knockout.reports):
        own = relay.reports[dataloader]
        assert (own.dataloader, report.dataloader) == (dataloader, dataloader)
        share = shares(own)
        chosen = share[list(report.sets[0].units["rnn.l0"])].tolist()
        assert chosen == sorted(share.tolist(), reverse=True)[:5]
    first, second = (report.sets[0].units["rnn.l0"] for report in knockout.reports)
    assert first != second


class Dated(Classifier):
    """A batch with a second integer tensor."""

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        x, _, y = batch
        return super().validation_step((x, y), batch_idx)


def test_labels_and_scores_are_those_of_the_relay_callback() -> None:
    model = lively(Dated)
    data = [(x, torch.arange(len(x)) % CLASSES, y) for x, y in batches()]
    relay = RelayInformationCallback(target=2, prediction="head")
    knockout = KnockoutCallback()
    validated(model, relay, knockout, data=as_loader(data))
    found = knockout.reports[0]
    assert (found.x_in, found.x_out) == ("target=2", "argmax of 'head', 4 classes")
    own = KnockoutCallback(target=2, prediction="head")
    validated(model, own, data=as_loader(data))
    np.testing.assert_array_equal(found.confusion, own.reports[0].confusion)
    with pytest.raises(
        ValueError, match=r"target: several tensors \(batch\[1\] int64 \(16,\), batch"
    ):
        validated(model, knockout, data=as_loader(data))
    dates = KnockoutCallback(target=1)
    validated(model, relay, dates, data=as_loader(data))
    assert dates.reports[0].accuracy is not None
    assert own.reports[0].accuracy is not None
    assert dates.reports[0].accuracy.baseline != own.reports[0].accuracy.baseline
