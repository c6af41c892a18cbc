"""Both callbacks on models that answer several labels of each sample."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchmetrics.classification import MultilabelAUROC

from lightning_relay import (
    AlongOrder,
    EveryUnit,
    KnockoutCallback,
    KnockoutReport,
    NamedSets,
    RandomSets,
    RelayInformationCallback,
    RelayMeasure,
    TopUnits,
    knocked_out,
    mutual_information,
)
from tests.support.ablation import lively
from tests.support.models import STEPS, Classifier
from tests.support.training import INPUTS, LABELS, batch_of, quiet_trainer

SEVERAL = torch.stack([LABELS % 2, (LABELS > 1).long(), (LABELS > 0).long()], 1)
NAMES = ("label_0", "label_1", "label_2")
MEASURE = RelayMeasure(n_orders=0, n_splits=0)


class Diagnoses(Classifier):
    """Three logits, with labels 0 and 1 ``(batch, 3)``."""

    def __init__(self, labels: int = 3) -> None:
        super().__init__()
        self.head = nn.Linear(6, labels)
        self.loss: Any = nn.BCEWithLogitsLoss()

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        self.log("val_loss", self.loss(self(batch[0]), batch[1].float()))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss: Tensor = self.loss(self(batch[0]), batch[1].float())
        return loss


class AtEachStep(Diagnoses):
    """The same at each step."""

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.rnn(x)[0])
        return logits


def said(model: Classifier, units: Any = None, steps: Any = None) -> Tensor:
    model.eval()
    held = nullcontext() if units is None else knocked_out(model, units, steps=steps)
    with torch.no_grad(), held:
        return (model(INPUTS) > 0).long()


def knockout_report_of(model: Classifier, *callbacks: Any, **options: Any) -> KnockoutReport:
    callback = KnockoutCallback(**options)
    trainer = quiet_trainer(*callbacks, callback)
    trainer.validate(model, batch_of(INPUTS, SEVERAL), verbose=False)
    return callback.reports[-1]


def test_each_label_is_a_concept() -> None:
    model = lively(Diagnoses)
    callback = RelayInformationCallback(measure=MEASURE)
    quiet_trainer(callback).validate(model, batch_of(INPUTS, SEVERAL), verbose=False)
    (report,) = callback.reports
    answers = said(model)
    assert tuple(report["rnn.l0"].concepts) == NAMES
    for label, name in enumerate(NAMES):
        expected = float(mutual_information(SEVERAL[:, label], answers[:, label]))
        assert report.mutual_information[name] == pytest.approx(expected)
    assert report.x_out == "sign of the model's own forward for each of 3 labels"


def test_concepts_of_several_labels() -> None:
    answers, bits = said(lively(Diagnoses)), torch.tensor([1, 2, 4])
    concepts = {"any": any, "first": lambda labels: labels[0], "number": sum}
    expected = {
        "any": mutual_information(SEVERAL.any(1).long(), answers.any(1).long()),
        "first": mutual_information(SEVERAL[:, 0], answers[:, 0]),
        "number": mutual_information(SEVERAL.sum(1), answers.sum(1)),
        "joint": mutual_information(SEVERAL @ bits, answers @ bits),
    }
    asked: Any
    for asked, names in ((concepts, tuple(concepts)), ("joint", ("joint",)), ("per_class", NAMES)):
        callback = RelayInformationCallback(measure=MEASURE, concepts=asked)
        quiet_trainer(callback).validate(
            lively(Diagnoses), batch_of(INPUTS, SEVERAL), verbose=False
        )
        found = callback.reports[0].mutual_information
        assert tuple(found) == names
        for name in found.keys() & expected.keys():
            assert found[name] == pytest.approx(float(expected[name]))
    callback = RelayInformationCallback(concepts={"fourth": lambda labels: labels[3]})
    with pytest.raises(
        ValueError, match=r"concepts: 'fourth' failed for label \(0, 0, 0\): IndexE"
    ):
        quiet_trainer(callback).validate(
            lively(Diagnoses), batch_of(INPUTS, SEVERAL), verbose=False
        )


@pytest.mark.parametrize("which", [EveryUnit(), EveryUnit(steps="each"), RandomSets(n=8)])
def test_knock_outs_measure_each_label_and_all_together(which: Any) -> None:
    model = lively(Diagnoses)
    report = knockout_report_of(model, which=which)
    assert report.concepts == NAMES
    assert report.concept_accuracy is not None
    assert report.class_accuracy is None
    assert report.confusion.shape == (len(report.sets) + 1, 0, 0)
    before = said(model)
    assert report.accuracy is not None
    assert report.accuracy.baseline == pytest.approx(
        float((before == SEVERAL).all(1).double().mean())
    )
    for place, some in enumerate(report.sets):
        after = said(model, units=some.units, steps=some.steps)
        right = after == SEVERAL
        found = report.concept_accuracy.knocked_out[place]
        np.testing.assert_allclose(found, right.double().mean(0))
        assert report.accuracy.knocked_out[place] == pytest.approx(
            float(right.all(1).double().mean())
        )
        changed = (after != before).any(1).double().mean()
        assert report.predictions_changed[place] == pytest.approx(float(changed))


def test_knock_outs_follow_the_labels_of_the_relay_report() -> None:
    model, relay = lively(Diagnoses), RelayInformationCallback()
    quiet_trainer(relay).validate(model, batch_of(INPUTS, SEVERAL), verbose=False)
    for which in (TopUnits(2, max_sets=32), AlongOrder(steps=None)):
        report = knockout_report_of(model, relay, which=which)
        assert {some.concept for some in report.sets} <= {*NAMES, None}
        assert report.concepts == NAMES
    assert {curve.concept for curve in report.curves} == {"label_0"}


def test_a_report_of_several_labels_is_saved_and_printed(tmp_path: Any) -> None:
    report = knockout_report_of(lively(Diagnoses))
    report.save(tmp_path / "report.npz")
    again = KnockoutReport.load(tmp_path / "report.npz")
    assert again.concepts == NAMES
    assert again.class_accuracy is None
    assert "label_1: " in str(again)


def test_metrics_are_given_all_labels() -> None:
    model = lively(Diagnoses)
    metric = MultilabelAUROC(num_labels=3)
    report = knockout_report_of(model, which=NamedSets({"some": {"rnn.l0": [0, 3]}}), score=metric)
    model.eval()
    with torch.no_grad(), knocked_out(model, {"rnn.l0": [0, 3]}):
        expected = metric(model(INPUTS).sigmoid(), SEVERAL)
    found = report["MultilabelAUROC"]
    assert found.knocked_out[0] == pytest.approx(float(expected))
    assert found.lower[0] <= found.damage[0] <= found.upper[0]


def test_as_many_labels_as_steps_are_refused_unless_concepts_are_named() -> None:
    labels = torch.cat([SEVERAL, SEVERAL.flip(1)], 1)
    assert labels.shape[1] == STEPS
    data = batch_of(INPUTS, labels)
    for kind in (RelayInformationCallback, KnockoutCallback):
        with pytest.raises(ValueError, match=r"^concepts: batch\[1\] .* has 6 numbers for each"):
            quiet_trainer(kind()).validate(Diagnoses(6), data, verbose=False)
    relay, knockouts = RelayInformationCallback(concepts="per_class"), KnockoutCallback()
    quiet_trainer(relay, knockouts).validate(Diagnoses(6), data, verbose=False)
    assert len(knockouts.reports[0].concepts) == 6


def test_several_labels_of_each_step() -> None:
    labels = torch.stack([SEVERAL.roll(step, 0) for step in range(STEPS)], 1)
    labels[3:7, 4:] = -100
    model = AtEachStep()
    relay, knockouts = RelayInformationCallback(target=1, measure=MEASURE), KnockoutCallback()
    quiet_trainer(relay, knockouts).validate(model, batch_of(INPUTS, labels), verbose=False)
    answers, counted = said(model), (labels >= 0).all(-1)
    layer = relay.reports[0]["rnn.l0"]
    for step in range(STEPS):
        own = counted[:, step]
        assert layer.samples[step] == int(own.sum())
        for label, name in enumerate(NAMES):
            expected = mutual_information(labels[own, step, label], answers[own, step, label])
            assert layer[name].mutual_information[step] == pytest.approx(float(expected))
    (report,) = knockouts.reports
    right = (answers == labels)[counted].double().mean(0)
    assert report.concept_accuracy is not None
    np.testing.assert_allclose(report.concept_accuracy.baseline, right)
    assert report.ignored == 8
