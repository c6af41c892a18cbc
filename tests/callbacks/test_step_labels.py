"""Both callbacks on models that answer at each step."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from lightning_relay import (
    EveryUnit,
    KnockoutCallback,
    RandomSets,
    RelayInformationCallback,
    RelayMeasure,
    RelayReport,
    knocked_out,
    mutual_information,
)
from tests.support.models import CLASSES, STEPS, Classifier
from tests.support.training import INPUTS, batch_of, quiet_trainer

GENERATOR = torch.Generator().manual_seed(4)
SAMPLES = len(INPUTS)
LABELS = torch.randint(CLASSES, (SAMPLES, STEPS), generator=GENERATOR)
LENGTHS = torch.randint(2, STEPS + 1, (SAMPLES,), generator=GENERATOR)
PADDED = LABELS.masked_fill(torch.arange(STEPS) >= LENGTHS[:, None], -100)
MEASURE = RelayMeasure(n_orders=0, n_splits=0)


class Tagger(Classifier):
    """Class scores ``(batch, step, class)``."""

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.head(self.rnn(x)[0])
        return scores

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        scores = self(batch[0])
        self.log("val_loss", functional.cross_entropy(scores.flatten(0, 1), batch[1].flatten()))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return functional.cross_entropy(self(batch[0]).flatten(0, 1), batch[1].flatten())


class ClassesFirst(Tagger):
    """Class scores ``(batch, class, step)``, as the loss takes them."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).transpose(1, 2)

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        self.log("val_loss", functional.cross_entropy(self(batch[0]), batch[1]))


class FlipFlop(Tagger):
    """One logit at each step."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(6, 1)
        self.loss: Any = nn.BCEWithLogitsLoss()

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        logits = self(batch[0])
        self.log("val_loss", self.loss(logits.squeeze(-1), batch[1]))


class PackedTagger(Tagger):
    """Packs sequences by their lengths, and pads the answers again."""

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        if lengths is None:
            return super().forward(x)
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        states, _ = pad_packed_sequence(self.rnn(packed)[0], batch_first=True, total_length=STEPS)
        scores: Tensor = self.head(states)
        return scores

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        x, lengths, tags = batch
        scores = self(x, lengths)
        self.log("val_loss", functional.cross_entropy(scores.flatten(0, 1), tags.flatten()))


def made(kind: type[Classifier]) -> Classifier:
    torch.manual_seed(1)
    model = kind()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=1.2)
    return model


def relay_report_of(model: Any, *parts: Tensor, **options: Any) -> RelayReport:
    callback = RelayInformationCallback(measure=MEASURE, **options)
    quiet_trainer(callback).validate(model, batch_of(INPUTS, *parts), verbose=False)
    return callback.reports[0]


def assert_of_steps(report: RelayReport, labels: Tensor, classes: Tensor) -> None:
    """Information that input and output share is that of the labels and answers of each step."""
    layer = report["rnn.l0"]
    for place, step in enumerate(layer.time_steps.tolist()):
        if step < 0:
            continue
        counted = labels[:, step] != -100
        expected = mutual_information(labels[counted, step], classes[counted, step])
        assert layer["joint"].mutual_information[place] == pytest.approx(float(expected))
        assert layer.samples[place] == int(counted.sum())


def test_states_are_compared_with_labels_and_answers_of_their_own_step() -> None:
    model = made(Tagger)
    classes = model.eval()(INPUTS).argmax(2)
    report = relay_report_of(model, LABELS)
    assert report.x_in == "batch[1]"
    assert report.x_out == f"argmax of the model's own forward, {CLASSES} classes at each step"
    assert report.ignored == 0
    assert_of_steps(report, LABELS, classes)
    first = relay_report_of(made(ClassesFirst), LABELS)
    assert_of_steps(first, LABELS, classes)
    of_function = relay_report_of(
        made(ClassesFirst), LABELS, prediction=("", lambda scores: scores.argmax(1))
    )
    assert_of_steps(of_function, LABELS, classes)


def test_one_logit_at_each_step() -> None:
    yes, model = (LABELS > 1).float(), made(FlipFlop)
    report = relay_report_of(model, yes)
    assert report.x_in == "batch[1]"
    classes = (model.eval()(INPUTS).squeeze(2) > 0).long()
    assert_of_steps(report, yes.long(), classes)
    assert report.x_out == "sign of the model's own forward at each step"


def test_padding_is_not_counted() -> None:
    model = made(PackedTagger)
    report = relay_report_of(model, LENGTHS, PADDED, target=2)
    classes = model.eval()(INPUTS).argmax(2)
    assert_of_steps(report, PADDED, classes)
    assert report.ignored == int((PADDED == -100).sum())


@pytest.mark.parametrize("step", [0, 3, -1, -2])
def test_labels_of_one_step(step: int) -> None:
    model = made(PackedTagger)
    report = relay_report_of(model, LENGTHS, PADDED, target=2, label_step=step)
    classes = model.eval()(INPUTS).argmax(2)
    places = torch.full((SAMPLES,), step) if step >= 0 else LENGTHS + step
    labels = PADDED[torch.arange(SAMPLES), places]
    counted = labels != -100
    expected = mutual_information(labels[counted], classes[torch.arange(SAMPLES), places][counted])
    assert report.mutual_information["joint"] == pytest.approx(float(expected))
    assert (report.samples, report.samples_seen) == (int(counted.sum()), SAMPLES)
    assert report.ignored is None
    assert report.x_in == f"target=2 at step {step}"
    assert report.label_step == step
    assert f"sequences with labels of step {step}" in str(report)
    assert "inputs_end" not in str(report)


@pytest.mark.parametrize("which", [EveryUnit(), RandomSets(n=8)], ids=["units", "sets"])
@pytest.mark.parametrize("step", [2, -1])
@pytest.mark.parametrize("kind", [Tagger, ClassesFirst])
def test_knock_outs_measure_the_answers_of_one_step(kind: Any, step: int, which: Any) -> None:
    model = made(kind)
    callback = KnockoutCallback(which, label_step=step)
    quiet_trainer(callback).validate(model, batch_of(INPUTS, LABELS), verbose=False)
    (report,) = callback.reports
    model.eval()
    for place, some in ((1, report.sets[0]), (-1, report.sets[-1])):
        with torch.no_grad(), knocked_out(model, some.units, steps=some.steps):
            scores = model(INPUTS)
        scores = scores.transpose(1, 2) if kind is ClassesFirst else scores
        expected = np.zeros_like(report.confusion[0])
        np.add.at(expected, (LABELS[:, step], scores[:, step].argmax(1)), 1)
        np.testing.assert_array_equal(report.confusion[place], expected)


def test_knock_outs_take_the_step_of_the_relay_callback() -> None:
    relay, knockouts = RelayInformationCallback(label_step=3), KnockoutCallback()
    quiet_trainer(relay, knockouts).validate(made(Tagger), batch_of(INPUTS, LABELS), verbose=False)
    assert knockouts.reports[0].x_in == relay.reports[0].x_in == "batch[1] at step 3"


@pytest.mark.parametrize(
    ("callback", "kind", "parts", "words"),
    [
        (KnockoutCallback(), Tagger, (LABELS,), "label_step: batch.1. holds a label for each step"),
        (
            *(KnockoutCallback(target=2, label_step=3), PackedTagger, (LENGTHS, PADDED)),
            r"label_step: got 3; \d+ sequences have no label there",
        ),
        (
            *(RelayInformationCallback(label_step=6), Tagger, (LABELS,)),
            r"label_step: got 6, but batch\[1\] holds labels of 6 steps",
        ),
        (
            *(RelayInformationCallback(label_step=1), Classifier, (LABELS[:, 0],)),
            r"label_step: got 1, but batch\[1\] holds one label for each sequence",
        ),
        (
            *(RelayInformationCallback(latent=True), Tagger, (LABELS,)),
            "latent: it takes one label for each sequence; name a step",
        ),
        (
            *(RelayInformationCallback(), PackedTagger, (LENGTHS, PADDED)),
            r"target: batch\[2\] int64 \(16, 6\) fits .* but batch\[1\] int64 \(16,\) could also",
        ),
    ],
)
def test_what_is_not_clear_is_refused(callback: Any, kind: Any, parts: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        quiet_trainer(callback).validate(made(kind), batch_of(INPUTS, *parts), verbose=False)


def test_a_step_of_labels_is_an_integer() -> None:
    for kind in (RelayInformationCallback, KnockoutCallback):
        for label_step in (1.5, True, "last"):
            with pytest.raises(TypeError, match=r"^label_step: got .*; it takes a step of the lab"):
                kind(label_step=label_step)


def test_training_is_bit_for_bit_the_same() -> None:
    states = []
    for callbacks in (
        [],
        [RelayInformationCallback(on_error="raise")],
        [
            RelayInformationCallback(label_step=-1, on_error="raise"),
            KnockoutCallback(on_error="raise"),
        ],
    ):
        torch.manual_seed(3)
        model, data = Tagger(), batch_of(INPUTS, LABELS)
        quiet_trainer(*callbacks).fit(model, data, data)
        states.append(model.state_dict())
    torch.testing.assert_close(states[1], states[0], rtol=0, atol=0)
    torch.testing.assert_close(states[2], states[0], rtol=0, atol=0)
