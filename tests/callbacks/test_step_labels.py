"""Both callbacks on models that answer at each step."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch.utils.data import DataLoader
from torchmetrics.classification import MulticlassF1Score

from lightning_relay import (
    AlongOrder,
    EveryUnit,
    KnockoutCallback,
    KnockoutReport,
    KnockoutSet,
    Logged,
    Mean,
    NamedSets,
    RandomSets,
    RelayInformationCallback,
    RelayMeasure,
    RelayReport,
    knocked_out,
    mutual_information,
)
from tests.support.models import CLASSES, STEPS, Classifier
from tests.support.training import INPUTS, batch_of, quiet_trainer

if TYPE_CHECKING:
    from pathlib import Path

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


class Constant(Tagger):
    """The answer of the last step, at each step."""

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.head(self.rnn(x)[0][:, -1:].expand(-1, STEPS, -1))
        return scores


class SomeLabels(Classifier):
    """One label for each sequence, -100 where there is none."""

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        self.log("val_loss", functional.cross_entropy(self(batch[0]), batch[1]))


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


def said(model: Any, some: KnockoutSet | None = None) -> Tensor:
    """Classes ``(batch, step)``, with a set held."""
    model.eval()
    held = nullcontext() if some is None else knocked_out(model, some.units, steps=some.steps)
    with torch.no_grad(), held:
        scores: Tensor = model(INPUTS)
    return scores.argmax(1 if isinstance(model, ClassesFirst) else 2)


def knockout_report_of(
    model: Any, *parts: Tensor, data: Any = None, **options: Any
) -> KnockoutReport:
    callback = KnockoutCallback(**options)
    data = batch_of(INPUTS, *parts) if data is None else data
    quiet_trainer(callback).validate(model, data, verbose=False)
    return callback.reports[0]


@pytest.mark.parametrize("which", [EveryUnit(), EveryUnit(steps="each"), EveryUnit(steps=2)])
@pytest.mark.parametrize("kind", [Tagger, ClassesFirst, PackedTagger])
def test_knock_outs_measure_the_answers_of_all_steps(kind: Any, which: Any) -> None:
    model = made(kind)
    packed = kind is PackedTagger
    parts, labels = ((LENGTHS, PADDED), PADDED) if packed else ((LABELS,), LABELS)
    options = {"target": 2} if packed else {}
    report = knockout_report_of(model, *parts, which=which, **options)
    counted = labels != -100
    assert report.samples == SAMPLES
    assert report.ignored == int((~counted).sum())
    assert report.step_samples.tolist() == counted.sum(0).tolist()
    assert report.accuracy is not None
    assert report.step_accuracy is not None
    classes, right = said(model), said(model) == labels
    assert report.accuracy.baseline == pytest.approx(float(right[counted].double().mean()))
    for place, some in list(enumerate(report.sets))[::5]:
        after = said(model, some)
        expected = np.zeros_like(report.confusion[0])
        np.add.at(expected, (labels[counted], after[counted]), 1)
        np.testing.assert_array_equal(report.confusion[place + 1], expected)
        changed = (after != classes)[counted].double().mean()
        assert report.predictions_changed[place] == pytest.approx(float(changed))
        for step in range(STEPS):
            own = counted[:, step]
            found = (after[own, step] == labels[own, step]).double().mean()
            at_step = report.step_accuracy.knocked_out[place, step]
            assert at_step == pytest.approx(float(found))
    assert "labels of steps" in str(report)
    assert "accuracy at single steps: " in str(report)


def test_intervals_allow_for_labels_of_one_sequence() -> None:
    """Repeating every sequence's labels makes no damage more certain; other samples would."""
    model = made(Constant)
    labels = LABELS[:, :1].expand(SAMPLES, STEPS)
    once = knockout_report_of(made(Constant), labels, label_step=0).accuracy
    found = knockout_report_of(model, labels).accuracy
    assert once is not None
    assert found is not None
    np.testing.assert_allclose(found.damage, once.damage)
    lengths = (found.upper - found.lower) / (once.upper - once.lower)
    np.testing.assert_allclose(lengths, 1, atol=0.03)
    curves = [
        knockout_report_of(
            *(made(Constant), labels),
            which=AlongOrder(steps=None),
            relay=relay_report_of(made(Constant), labels, label_step=0),
            label_step=step,
        ).curves[0]
        for step in (None, 0)
    ]
    np.testing.assert_allclose(curves[0].accuracy, curves[1].accuracy)
    lengths = (curves[0].upper - curves[0].lower) / (curves[1].upper - curves[1].lower)
    np.testing.assert_allclose(lengths, 1, atol=0.03)


@pytest.mark.parametrize("step", [1, -1])
def test_random_sets_are_judged_by_the_labels_of_their_step(step: int) -> None:
    model = made(PackedTagger)
    report = knockout_report_of(
        *(model, LENGTHS, PADDED), target=2, which=RandomSets(n=12, step=step, n_bootstraps=5)
    )
    (found,) = report.predictions
    rows = torch.arange(SAMPLES)
    places = LENGTHS - 1 if step < 0 else torch.full((SAMPLES,), step)
    labels = PADDED[rows, places]
    own = labels != -100
    assert found.samples == int(own.sum())
    before = said(model)[rows, places] == labels
    for place, damage in zip(found.places, found.damage, strict=True):
        some = report.sets[place]
        model.eval()
        with torch.no_grad(), knocked_out(model, some.units, steps=some.steps):
            after = model(INPUTS, LENGTHS).argmax(2)[rows, places] == labels
        expected = before[own].double().mean() - after[own].double().mean()
        assert damage == pytest.approx(float(expected))
    at_step = relay_report_of(model, LENGTHS, PADDED, target=2, label_step=step)
    whole = RelayInformationCallback(target=2)
    quiet_trainer(whole).validate(model, batch_of(INPUTS, LENGTHS, PADDED), verbose=False)
    layer = whole.reports[0]["rnn.l0"]
    share = layer["joint"].share
    assert share is not None
    np.testing.assert_allclose(found.unit_share, share[layer.time_steps.tolist().index(step)])
    assert at_step.samples == found.samples


def test_units_at_one_step_agree_with_their_damage_there() -> None:
    model, relay = made(Tagger), RelayInformationCallback()
    knockouts = KnockoutCallback(EveryUnit(steps=4))
    quiet_trainer(relay, knockouts).validate(model, batch_of(INPUTS, LABELS), verbose=False)
    (report,) = knockouts.reports
    (found,) = report.agreement
    assert report.step_accuracy is not None
    places = list(report.single_units("rnn.l0").values())
    np.testing.assert_allclose(found.damage, report.step_accuracy.damage[places, 4])
    share = relay.reports[0]["rnn.l0"]["joint"].share
    assert share is not None
    np.testing.assert_allclose(found.scores, share[4], atol=1e-9)


def test_metrics_are_computed_from_the_labels_that_count() -> None:
    model, some = made(PackedTagger), NamedSets({"some": {"rnn.l0": [0, 3]}})
    metric = MulticlassF1Score(CLASSES, average="macro")
    report = knockout_report_of(model, LENGTHS, PADDED, target=2, which=some, score=metric)
    counted = PADDED != -100
    model.eval()
    expected = metric(said(model, report.sets[0])[counted], PADDED[counted])
    found = report["MulticlassF1Score"]
    assert found.knocked_out[0] == pytest.approx(float(expected))
    assert found.lower[0] <= found.damage[0] <= found.upper[0]


def test_sequences_without_a_label_at_the_step_are_left_out() -> None:
    model = made(PackedTagger)
    report = knockout_report_of(model, LENGTHS, PADDED, target=2, label_step=3)
    own = PADDED[:, 3] != -100
    assert report.ignored == int((~own).sum())
    assert report.class_samples.tolist() == PADDED[own, 3].bincount(minlength=CLASSES).tolist()
    right = (said(model)[:, 3] == PADDED[:, 3])[own].double().mean()
    assert report.accuracy is not None
    assert report.accuracy.baseline == pytest.approx(float(right))
    assert "labels that do not count" in str(report)


def test_batches_of_other_lengths_and_reports_on_disk(tmp_path: Path) -> None:
    model = made(Tagger)
    parts = [(INPUTS[:16, :5], LABELS[:16, :5]), (INPUTS[16:], LABELS[16:])]
    report = knockout_report_of(model, data=DataLoader(parts, batch_size=None))  # type: ignore[arg-type]
    assert report.step_samples.tolist() == [SAMPLES] * 5 + [SAMPLES - 16]
    report.save(tmp_path / "report.npz")
    again = KnockoutReport.load(tmp_path / "report.npz")
    assert again.step_accuracy is not None
    assert report.step_accuracy is not None
    np.testing.assert_array_equal(again.step_accuracy.damage, report.step_accuracy.damage)
    assert "accuracy at single steps" in str(again)


def test_labels_beyond_named_lengths_do_not_count() -> None:
    model, zeros = made(PackedTagger), PADDED.clamp(min=0)
    options: dict[str, Any] = {"target": 2, "lengths": 1}
    relay, knockouts = RelayInformationCallback(**options), KnockoutCallback()
    data = batch_of(INPUTS, LENGTHS, zeros)
    quiet_trainer(relay, knockouts).validate(model, data, verbose=False)
    expected = relay_report_of(made(PackedTagger), LENGTHS, PADDED, target=2)
    report = relay.reports[0]
    assert report.mutual_information == expected.mutual_information
    assert (report.ignored, report.samples) == (expected.ignored, expected.samples)
    of_padded = knockout_report_of(made(PackedTagger), LENGTHS, PADDED, target=2)
    np.testing.assert_array_equal(knockouts.reports[0].confusion, of_padded.confusion)
    last = relay_report_of(made(PackedTagger), LENGTHS, zeros, label_step=-1, **options)
    assert (
        last.mutual_information
        == (
            relay_report_of(made(PackedTagger), LENGTHS, PADDED, target=2, label_step=-1)
        ).mutual_information
    )
    with pytest.raises(
        ValueError, match=r"^target: there are labels beyond the ends of the packed"
    ):
        relay_report_of(made(PackedTagger), LENGTHS, zeros, target=2)


def test_lengths_make_a_logged_number_one_of_several_scores() -> None:
    report = knockout_report_of(
        *(made(Tagger), LABELS), score=Logged("val_loss"), lengths=lambda batch: batch[1][:, 0] + 1
    )
    assert report.measures == ("accuracy", "joint", "val_loss")
    assert report.step_samples[0] == SAMPLES
    assert report.ignored == int((STEPS - 1 - LABELS[:, 0]).sum())


@pytest.mark.parametrize("answers", ["scores", "classes"])
def test_sequences_without_a_label_are_left_out_and_counted(answers: str) -> None:
    labels = LABELS[:, 0].clone()
    labels[3:9] = labels[-16:] = -100
    prediction: Any = None if answers == "scores" else ("", lambda scores: scores.argmax(1))
    relay, knockouts = RelayInformationCallback(prediction=prediction), KnockoutCallback()
    model = made(SomeLabels)
    quiet_trainer(relay, knockouts).validate(model, batch_of(INPUTS, labels), verbose=False)
    model.eval()
    own = labels >= 0
    expected = float(mutual_information(labels[own], model(INPUTS).argmax(1)[own]))
    (found,), (report,) = relay.reports, knockouts.reports
    assert found.mutual_information["joint"] == pytest.approx(expected)
    assert (found.samples, found.samples_seen) == (SAMPLES - 22, SAMPLES)
    assert (report.samples, report.ignored) == (SAMPLES, 22)
    assert report.class_samples.sum() == SAMPLES - 22


def test_metrics_of_few_sequences_with_labels() -> None:
    labels = torch.full_like(LABELS, -100)
    labels[20:24] = LABELS[20:24]
    metric = MulticlassF1Score(CLASSES, average="micro")
    data = DataLoader([(INPUTS[16:], labels[16:])], batch_size=None)  # type: ignore[arg-type]
    report = knockout_report_of(made(Tagger), data=data, score=metric)
    assert np.isfinite(report["MulticlassF1Score"].lower).all()


def test_too_few_labels_in_the_sanity_check_are_no_error() -> None:
    labels = LABELS.clone()
    labels[:32, 5] = -100
    data = batch_of(INPUTS, labels)
    callbacks: list[Any] = [
        RelayInformationCallback(label_step=5, measure=MEASURE),
        KnockoutCallback(label_step=5),
        RelayInformationCallback(prefix="all", measure=MEASURE),
        KnockoutCallback(RandomSets(n=8, n_bootstraps=0), prefix="sets", relay="all"),
    ]
    quiet_trainer(*callbacks, max_epochs=1).fit(made(Tagger), data, data)
    assert [len(callback.reports) for callback in callbacks] == [1, 1, 1, 1]
    nothing = batch_of(INPUTS, labels.index_fill(1, torch.tensor([5]), -100))
    for callback in (RelayInformationCallback(label_step=5), KnockoutCallback(label_step=5)):
        with pytest.raises(ValueError, match=r"^target: no label of batch\[1\] at step 5 counts"):
            quiet_trainer(callback).validate(made(Tagger), nothing, verbose=False)


def test_sequences_of_one_step_among_longer_ones() -> None:
    model = made(Tagger)
    parts = [(INPUTS[:16], LABELS[:16]), (INPUTS[16:32, :1], LABELS[16:32, :1])]
    data = DataLoader(parts, batch_size=None)  # type: ignore[arg-type]
    report = knockout_report_of(model, data=data, label_step=2)
    assert (report.samples, report.ignored) == (32, 16)
    assert knockout_report_of(model, data=data).step_samples.tolist() == [32] + [16] * 5


def test_knock_outs_take_the_step_of_the_relay_callback() -> None:
    relay, knockouts = RelayInformationCallback(label_step=3), KnockoutCallback()
    quiet_trainer(relay, knockouts).validate(made(Tagger), batch_of(INPUTS, LABELS), verbose=False)
    assert knockouts.reports[0].x_in == relay.reports[0].x_in == "batch[1] at step 3"


@pytest.mark.parametrize(
    ("callback", "kind", "parts", "words"),
    [
        (
            *(KnockoutCallback(target=2), PackedTagger, (LENGTHS, torch.full_like(LABELS, -100))),
            r"target: target=2 .* cannot be the class labels for the model's own forward",
        ),
        (
            *(RelayInformationCallback(label_step=6), Tagger, (LABELS,)),
            r"target: no label of batch\[1\] at step 6 counts; see label_step=",
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


@pytest.mark.parametrize("wrong", [1.5, True, [0], ("x", "y")])
@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (RelayInformationCallback, "target"),
        (RelayInformationCallback, "lengths"),
        (KnockoutCallback, "target"),
        (Mean, "lengths"),
    ],
)
def test_a_place_in_the_batch_is_an_index_a_key_or_a_function(
    kind: Any, name: str, wrong: Any
) -> None:
    with pytest.raises(TypeError, match=rf"^{name}: got .*; it takes an index, a key or"):
        kind(**{name: wrong})


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
