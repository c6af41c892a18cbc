"""What knock-outs measure: accuracies, logged numbers and metrics of torchmetrics."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score

from lightning_relay import Computed, EveryUnit, KnockoutCallback, Logged, Mean
from tests.support.ablation import (
    UNITS,
    as_loader,
    assert_report,
    batches,
    by_hand,
    lively,
    recorded,
    refused_before_training,
    validated,
)
from tests.support.models import CLASSES, Classifier
from tests.support.reports import assert_equal
from tests.support.training import LABELS


class Measuring(Classifier):
    """Logs what can be measured, and returns the loss."""

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        x, y = batch
        scores = self(x)
        loss = self.loss(scores, y)
        self.log_dict({"val_loss": loss, "share": (scores.argmax(1) == y).float().mean()})
        return {"loss": loss, "scores": scores}


@pytest.mark.parametrize("name", ["val_loss", "loss"])
def test_a_number_that_the_step_gives(name: str) -> None:
    model = lively(Measuring)
    data = batches(16, 16, 10)
    callback = KnockoutCallback(score=Logged(name, n_bootstraps=200))
    trainer = validated(model, callback, data=as_loader(data))
    (report,) = callback.reports
    sets = [None, *({"rnn.l0": [unit]} for unit in range(UNITS))]
    labels = torch.cat([y for _, y in data])
    expected = np.array(
        [float(nn.functional.cross_entropy(by_hand(model, data, some), labels)) for some in sets]
    )
    found = report.metrics[name]
    assert float(found.baseline) == pytest.approx(expected[0], rel=1e-5)
    np.testing.assert_allclose(found.knocked_out, expected[1:], rtol=1e-5)
    np.testing.assert_allclose(found.damage, expected[1:] - expected[0], rtol=1e-4)
    assert (found.lower <= found.damage).all()
    assert (found.damage <= found.upper).all()
    assert (found.lower < found.upper).any()
    assert float(trainer.callback_metrics["val_loss"]) == pytest.approx(expected[0], rel=1e-5)
    assert trainer.callback_metrics[f"knockout/{name}"] == pytest.approx(expected[0], rel=1e-5)
    # Without target= no labels are needed, and none are read.
    assert report.accuracy is report.class_accuracy is report.concept_accuracy is None
    assert report.confusion.shape == (UNITS + 1, 0, 0)
    assert np.isnan(report.predictions_changed).all()


def test_a_number_beside_accuracies_where_the_target_is_named() -> None:
    model = lively(Measuring)
    callback = KnockoutCallback(score=Logged("val_loss"), target=1)
    validated(model, callback)
    assert_report(callback.reports[0], model, batches())
    assert set(callback.reports[0].metrics) == {"val_loss"}


def test_a_model_without_classes() -> None:
    class Regressor(Classifier):
        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
            x, y = batch
            self.log("val_loss", (self(x)[:, 0] - y).square().mean())

    model = lively(Regressor)
    data = [(x, y.float()) for x, y in batches()]
    callback = KnockoutCallback(
        EveryUnit(steps=slice(1, 4)), value=Mean(), score=Logged("val_loss")
    )
    validated(model, callback, data=as_loader(data))
    states = recorded(model, data)
    expected = []
    for some in (None, *({"rnn.l0": [unit]} for unit in range(UNITS))):
        options = {} if some is None else {"value": "mean", "states": states, "steps": slice(1, 4)}
        expected.append(
            float((by_hand(model, data, some, **options)[:, 0] - LABELS).square().mean())
        )
    found = callback.reports[0].metrics["val_loss"]
    np.testing.assert_allclose(found.knocked_out, expected[1:], rtol=1e-5)
    np.testing.assert_allclose(found.damage, np.array(expected[1:]) - expected[0], rtol=1e-3)
    with pytest.raises(ValueError, match=r"target: batch\[1\] float32 \(16,\) could be class"):
        validated(model, KnockoutCallback(), data=as_loader(data))


def test_metrics_of_torchmetrics() -> None:
    model = lively(Classifier)
    metric = MetricCollection(
        {"f1": MulticlassF1Score(CLASSES), "micro": MulticlassAccuracy(CLASSES, average="micro")}
    )
    callback = KnockoutCallback(score=Computed(metric, n_bootstraps=60))
    validated(model, callback)
    (report,) = callback.reports
    assert_report(report, model, batches())
    assert list(report.metrics) == ["f1", "micro"]
    for name, part in metric.items():
        values = []
        for some in (None, *({"rnn.l0": [unit]} for unit in range(UNITS))):
            part.reset()
            part.update(by_hand(model, batches(), some), LABELS)
            values.append(float(part.compute()))
        part.reset()
        found = report.metrics[name]
        assert float(found.baseline) == pytest.approx(values[0], abs=1e-6)
        np.testing.assert_allclose(found.damage, values[0] - np.array(values[1:]), atol=1e-6)
        assert (found.lower <= found.damage + 1e-9).all()
        assert (found.damage <= found.upper + 1e-9).all()
    single = KnockoutCallback(score=Computed(MulticlassF1Score(CLASSES), n_bootstraps=0))
    validated(model, single)
    assert_equal(single.reports[0].metrics["MulticlassF1Score"].damage, report.metrics["f1"].damage)
    assert np.isnan(single.reports[0].metrics["MulticlassF1Score"].lower).all()


@pytest.mark.parametrize("source", ["head", lambda outputs: outputs["scores"].argmax(1)])
def test_where_the_scores_come_from_can_be_named(source: Any) -> None:
    class Naming(Measuring):
        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
            outputs = super().validation_step((batch["x"], batch["label"]), batch_idx)
            self.head(torch.zeros(len(batch["x"]), UNITS)) if not isinstance(source, str) else None
            return outputs

    model = lively(Naming)
    data = [{"x": x, "label": y, "other": y + 1} for x, y in batches()]
    callback = KnockoutCallback(target="label", prediction=source)
    validated(model, callback, data=as_loader(data))
    assert_report(callback.reports[0], model, batches())
    assert callback.reports[0].x_in == "target='label'"


def test_numbers_that_are_not_there() -> None:
    refused_before_training(
        KnockoutCallback(score=Logged("val_los")),
        r"score: validation_step neither logs nor returns a number 'val_los'; it logs: 'val_loss'; "
        r"it returns: none$",
    )
    refused_before_training(
        KnockoutCallback(score=Logged("loss")),
        r"score: validation_step returns no loss; return it, or name .* it logs: 'val_loss'; it re",
    )
    refused_before_training(
        KnockoutCallback(score=MulticlassF1Score(CLASSES, average="none")),
        r"score: 'MulticlassF1Score' returned \(4,\); it takes a metric that returns one number",
    )


class LogsMetrics(Classifier):
    """Logs a Metric, as most do."""

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        super().validation_step(batch, batch_idx, dataloader_idx)
        self.log("f1", self.accuracy)


def test_errors_about_metrics_say_what_to_do() -> None:
    refused_before_training(
        KnockoutCallback(score=Logged("f1")),
        r"score: validation_step logs a Metric as 'f1', .*; give such a Metric as score= instead",
        kind=LogsMetrics,
    )
    refused_before_training(
        KnockoutCallback(score=Logged("val_loss_epoch")),
        r"number 'val_loss_epoch'; it logs: 'val_loss'; .*The step itself calls it 'val_loss'",
    )
    refused_before_training(
        KnockoutCallback(score=MulticlassAccuracy(CLASSES + 3)),
        r"score: 'MulticlassAccuracy' cannot be computed from class scores \(\d+, 4\) and labels",
    )


def test_models_without_classes_are_told_of_numbers_that_are_logged() -> None:
    class Forecast(Classifier):
        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
            self.log("val_loss", self(batch[0]).square().mean())

    data = as_loader([(x, x[:, -1]) for x, _ in batches()])
    with pytest.raises(
        ValueError, match=r"bins: .* real numbers .* without classes, give score= a"
    ):
        validated(lively(Forecast), KnockoutCallback(), data=data)


@pytest.mark.parametrize(("mode", "sign"), [("min", -1), ("max", 1)])
def test_a_logged_number_is_best_at_its_least_or_its_most(mode: Any, sign: int) -> None:
    callback = KnockoutCallback(score=Logged("val_loss", mode))
    validated(lively(Classifier), callback)
    found = callback.reports[0].metrics["val_loss"]
    np.testing.assert_allclose(found.damage, sign * (found.baseline - found.knocked_out))
    assert (found.damage != 0).any()


def test_metrics_of_classes_are_said_where_there_are_no_scores(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Answering(Classifier):
        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
            answers: Tensor = self(batch[0]).argmax(1)
            return answers

    callback = KnockoutCallback(
        score=MulticlassAccuracy(CLASSES, average="micro"), prediction=lambda answers: answers
    )
    with caplog.at_level("INFO"):
        validated(lively(Answering), callback)
    said = [text for text in caplog.messages if text.startswith("Knock-outs")]
    assert said == [
        "Knock-outs: MulticlassAccuracy uses predicted classes, as prediction= gives no class "
        "scores."
    ]
    (report,) = callback.reports
    assert report.accuracy is not None
    np.testing.assert_allclose(
        report.metrics["MulticlassAccuracy"].damage, report.accuracy.damage, atol=1e-6
    )
