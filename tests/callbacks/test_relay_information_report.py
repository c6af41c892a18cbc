"""The report of an evaluation is that of the model, its labels and its predictions."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from lightning_relay import (
    HiddenStateRecorder,
    RelayInformationCallback,
    RelayMeasure,
    SequenceSample,
    recurrent_layers,
    relay_report,
)
from tests.support.models import CLASSES, STEPS, Classifier, Stacked, WithoutForward, loader
from tests.support.reports import assert_equal
from tests.support.training import INPUTS, LABELS, batch_of, quiet_trainer


@pytest.mark.parametrize("kind", [Classifier, WithoutForward])
def test_the_report_is_that_of_the_validated_model(kind: type[Classifier]) -> None:
    model = kind()
    callback = RelayInformationCallback(inputs_end=1)
    quiet_trainer(callback).validate(model, loader(), verbose=False)
    with torch.no_grad(), HiddenStateRecorder(model) as recorder:
        predicted = model.eval()(INPUTS).argmax(1)
    expected = relay_report(recorder.states, LABELS, predicted, inputs_end=1)
    (report,) = callback.reports
    assert_equal(report.layers, expected.layers)
    assert (report.stage, report.epoch, report.global_step) == ("validate", 0, 0)
    assert (report.samples, report.samples_seen) == (48, 48)


def test_options_reach_the_analysis() -> None:
    options: dict[str, Any] = {"concepts": {"low": lambda label: label & 1}, "inputs_end": 1}
    measure = RelayMeasure(
        discretization="quantile",
        levels=3,
        direction="grow",
        estimator="grassberger",
        min_coverage=0.5,
        max_gap=0.3,
        n_orders=8,
        n_permutations=19,
        n_bootstraps=40,
        seed=3,
    )
    sample = SequenceSample(time_steps=[1, -1])
    callback = RelayInformationCallback(["rnn"], measure=measure, sample=sample, **options)
    model = Classifier()
    quiet_trainer(callback).validate(model, loader(), verbose=False)
    with torch.no_grad(), HiddenStateRecorder(model) as recorder:
        predicted = model.eval()(INPUTS).argmax(1)
    expected = relay_report(
        recorder.states, LABELS, predicted, measure=measure, time_steps=[1, -1], **options
    )
    (report,) = callback.reports
    assert_equal(report.layers, expected.layers)
    assert report.measure is measure


def test_per_class_concepts_know_classes_that_do_not_occur() -> None:
    callback = RelayInformationCallback(concepts="per_class")
    none_of_the_last = LABELS.clamp(max=CLASSES - 2)
    quiet_trainer(callback).validate(
        Classifier(), batch_of(INPUTS, none_of_the_last), verbose=False
    )
    assert list(callback.reports[0].layers["rnn.l0"].concepts) == [
        f"class_{label}" for label in range(CLASSES)
    ]


def test_a_target_that_the_step_takes_out_of_the_batch_is_still_found() -> None:
    class Popping(Classifier):
        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
            y = batch.pop("y")
            self.log("val_loss", self.loss(self(batch.pop("x")), y), batch_size=len(y))

    data = [{"x": x, "y": y} for x, y in zip(INPUTS, LABELS, strict=True)]
    callback = RelayInformationCallback()
    quiet_trainer(callback).validate(Popping(), DataLoader(data, 16), verbose=False)
    assert callback.reports[0].samples == 48


def test_a_step_may_do_something_else_for_each_dataloader() -> None:
    class TwoHeads(Classifier):
        def __init__(self) -> None:
            super().__init__()
            self.other = nn.Linear(6, 7)

        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
            hidden = self.rnn(batch[0])[0][:, -1]
            (self.head if dataloader_idx == 0 else self.other)(hidden)

    callback = RelayInformationCallback(concepts="per_class")
    quiet_trainer(callback).validate(TwoHeads(), [loader(), loader()], verbose=False)
    assert [len(report.mutual_information) for report in callback.reports] == [CLASSES, 7]
    assert [report.x_out for report in callback.reports] == [
        "argmax of 'head', 4 classes",
        "argmax of 'other', 7 classes",
    ]


def test_what_was_found_is_said_once_and_kept(caplog: pytest.LogCaptureFixture) -> None:
    callback = RelayInformationCallback()
    with caplog.at_level("INFO"):
        quiet_trainer(callback).fit(Classifier(), loader(), loader())
    said = [text for text in caplog.messages if text.startswith("Relay information")]
    source = "argmax of the model's own forward, 4 classes"
    assert said == [
        f"Relay information: X_in is batch[1], X_out is {source}.",
        "Relay information: the states of up to 48 sequences take up to 8.1 kB of memory.",
    ]
    assert {(report.x_in, report.x_out) for report in callback.reports} == {("batch[1]", source)}


def test_cells_in_the_methods_of_the_model_itself_need_nothing_named() -> None:
    class Unrolled(Classifier):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTMCell(1, 6)
            del self.rnn

        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
            state = None
            for inputs in batch[0].unbind(1):
                state = self.lstm(inputs, state)
            assert state is not None
            self.loss(self.head(state[0]), batch[1])

    callback = RelayInformationCallback(states=("hidden", "cell"))
    quiet_trainer(callback).validate(Unrolled(), loader(), verbose=False)
    (report,) = callback.reports
    assert report.x_out == "argmax of 'head', 4 classes"
    assert [layer.samples.tolist() for layer in report.layers.values()] == [[48] * STEPS] * 2


def test_all_layers_and_states_are_reported_and_logged() -> None:
    callback = RelayInformationCallback(layers="all", states=("hidden", "cell"), inputs_end=1)
    trainer = quiet_trainer(callback)
    model = Stacked()
    trainer.validate(model, loader(), verbose=False)
    assert list(callback.reports[0].layers) == list(recurrent_layers(model))
    for key in recurrent_layers(model):
        assert f"relay/{key}/joint/information" in trainer.callback_metrics
