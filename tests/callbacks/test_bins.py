"""Both callbacks on models that predict real numbers."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torchmetrics import MeanAbsoluteError

from lightning_relay import (
    EveryUnit,
    KnockoutCallback,
    KnockoutReport,
    Logged,
    NamedSets,
    RandomSets,
    RelayInformationCallback,
    RelayMeasure,
    RelayReport,
    SequenceSample,
    knocked_out,
    mutual_information,
)
from lightning_relay.reading.bins import binned
from tests.support.models import STEPS, Classifier
from tests.support.training import INPUTS, batch_of, quiet_trainer

SAMPLES = len(INPUTS)
NEXT = INPUTS.mean(1)[:, 0] + torch.randn(SAMPLES, generator=torch.Generator().manual_seed(3))
FORECAST = torch.stack([NEXT, NEXT.flip(0), NEXT * 2], 1)
EACH = INPUTS.roll(-1, 1)
MEASURE = RelayMeasure(n_orders=0, n_splits=0)


class Forecaster(Classifier):
    """Predicts numbers ``(batch, number)`` after the last step."""

    def __init__(self, numbers: int = 1) -> None:
        super().__init__()
        self.head = nn.Linear(6, numbers)

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        self.log("val_loss", self.loss_of(batch))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.loss_of(batch)

    def loss_of(self, batch: Any) -> Tensor:
        found = self(batch[0])
        return functional.mse_loss(found, batch[1].reshape(found.shape))


class AtEachStep(Forecaster):
    """Predicts the next number at each step, ``(batch, step, 1)``."""

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.head(self.rnn(x)[0])
        return found


def made(kind: Any, *arguments: Any) -> Any:
    torch.manual_seed(1)
    model = kind(*arguments)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=1.2)
    return model


def said(model: Any, units: Any = None, steps: Any = None) -> Tensor:
    model.eval()
    held = nullcontext() if units is None else knocked_out(model, units, steps=steps)
    with torch.no_grad(), held:
        return model(INPUTS).double()  # type: ignore[no-any-return]


def reports_of(
    model: Any, labels: Tensor, which: Any = None, **options: Any
) -> tuple[RelayReport, KnockoutReport]:
    relay = RelayInformationCallback(measure=MEASURE, **options)
    knockouts = KnockoutCallback(which)
    quiet_trainer(relay, knockouts).validate(model, batch_of(INPUTS, labels), verbose=False)
    return relay.reports[0], knockouts.reports[0]


@pytest.mark.parametrize("which", [EveryUnit(), EveryUnit(steps="each"), RandomSets(n=8)])
@pytest.mark.parametrize("bins", [4, [-1.0, 0.5]], ids=["quantiles", "edges"])
def test_labels_and_answers_lie_in_the_same_bins(bins: Any, which: Any) -> None:
    model = made(Forecaster)
    relay, knockouts = reports_of(model, NEXT, which, bins=bins)
    edges = np.quantile(NEXT.double().numpy(), [0.25, 0.5, 0.75]) if bins == 4 else np.array(bins)
    assert relay.edges is not None
    np.testing.assert_allclose(relay.edges, edges)
    assert knockouts.edges == relay.edges
    labels = binned(NEXT, relay.edges)
    before = binned(said(model)[:, 0], relay.edges)
    expected = float(mutual_information(labels, before))
    assert relay.mutual_information["joint"] == pytest.approx(expected)
    assert knockouts.classes.tolist() == list(range(len(edges) + 1))
    for place, some in enumerate(knockouts.sets):
        after = binned(said(model, some.units, some.steps)[:, 0], relay.edges)
        confusion = np.zeros_like(knockouts.confusion[0])
        np.add.at(confusion, (labels, after), 1)
        np.testing.assert_array_equal(knockouts.confusion[place + 1], confusion)
    words = "in up to 4 bins" if bins == 4 else "in 3 bins"
    assert (relay.x_in, relay.x_out) == (
        f"batch[1], {words}",
        f"the model's own forward, {words}",
    )
    assert (knockouts.x_in, knockouts.x_out) == (relay.x_in, relay.x_out)


def last(batch: Any) -> Tensor:
    return batch[0][:, -1, 0]  # type: ignore[no-any-return]


def test_up_or_down_from_the_last_value() -> None:
    model = made(Forecaster)
    relay, knockouts = reports_of(model, NEXT, bins=("up/down", last))
    now = INPUTS[:, -1, 0]
    up, said_up = (now < NEXT).long(), (said(model)[:, 0] > now).long()
    assert relay.edges == knockouts.edges == (0.0,)
    assert relay.mutual_information["joint"] == pytest.approx(
        float(mutual_information(up, said_up))
    )
    assert knockouts.accuracy is not None
    assert knockouts.accuracy.baseline == pytest.approx(float((up == said_up).double().mean()))
    assert relay.x_in == "batch[1], up or down from last"


@pytest.mark.parametrize("bins", [3, ("up/down", last)], ids=["quantiles", "up or down"])
def test_one_number_of_a_forecast(bins: Any) -> None:
    model = made(Forecaster, 3)
    relay, knockouts = reports_of(model, FORECAST, bins=bins, label_step=2)
    since = 0 if bins == 3 else INPUTS[:, -1, 0].double()
    wanted, answers = FORECAST[:, 2].double() - since, said(model)[:, 2] - since
    assert relay.edges is not None
    labels, classes = binned(wanted, relay.edges), binned(answers, relay.edges)
    assert relay.mutual_information["joint"] == pytest.approx(
        float(mutual_information(labels, classes))
    )
    assert knockouts.accuracy is not None
    assert knockouts.accuracy.baseline == pytest.approx(float((labels == classes).double().mean()))


def test_numbers_of_each_step_with_gaps() -> None:
    labels = EACH.clone()
    labels[::3, 4:] = torch.nan
    model = made(AtEachStep)
    relay, knockouts = reports_of(model, labels, target=1, bins=3)
    counted = ~labels[:, :, 0].isnan()
    assert relay.edges is not None
    np.testing.assert_allclose(
        relay.edges, np.quantile(labels[:, :, 0][counted].double().numpy(), [1 / 3, 2 / 3])
    )
    wanted, answers = (
        binned(part, relay.edges) for part in (labels[:, :, 0], said(model)[:, :, 0])
    )
    layer = relay["rnn.l0"]
    for step in range(STEPS):
        own = counted[:, step]
        expected = mutual_information(wanted[own, step], answers[own, step])
        assert layer["joint"].mutual_information[step] == pytest.approx(float(expected))
        assert layer.samples[step] == int(own.sum())
    assert relay.ignored == knockouts.ignored == int((~counted).sum())
    assert knockouts.accuracy is not None
    right = (wanted == answers)[counted].double().mean()
    assert knockouts.accuracy.baseline == pytest.approx(float(right))


def test_a_fair_sample_of_real_labels_is_kept() -> None:
    model = made(AtEachStep)
    options: Any = {"target": 1, "lengths": 2, "bins": [0.0], "measure": MEASURE}
    whole, some = (
        RelayInformationCallback(sample=sample, prefix=prefix, **options)
        for sample, prefix in ((None, "all"), (SequenceSample(max_samples=9), "some"))
    )
    short = [
        (INPUTS[:7, :4], EACH[:7, :4], torch.full((7,), 4)),
        (INPUTS[7:], EACH[7:], torch.full((SAMPLES - 7,), STEPS)),
    ]
    data = torch.utils.data.DataLoader(short, batch_size=None)  # type: ignore[arg-type]
    quiet_trainer(whole, some).validate(model, data, verbose=False)
    assert (whole.reports[0].ignored, whole.reports[0].samples) == (14, SAMPLES)
    assert (some.reports[0].samples, some.reports[0].samples_seen) == (9, SAMPLES)


def test_metrics_are_given_the_numbers() -> None:
    model, which = made(Forecaster), NamedSets({"some": {"rnn.l0": [0, 3]}})
    callback = KnockoutCallback(which, score=MeanAbsoluteError(), bins=2)
    quiet_trainer(callback).validate(model, batch_of(INPUTS, NEXT), verbose=False)
    found = callback.reports[0]["MeanAbsoluteError"]
    error = (said(model, {"rnn.l0": [0, 3]})[:, 0] - NEXT).abs().mean()
    assert found.knocked_out[0] == pytest.approx(float(error))
    assert found.damage[0] == pytest.approx(float(error - (said(model)[:, 0] - NEXT).abs().mean()))


def test_bins_make_a_logged_number_one_of_several_scores() -> None:
    callback = KnockoutCallback(score=Logged("val_loss"), bins=2)
    quiet_trainer(callback).validate(made(Forecaster), batch_of(INPUTS, NEXT), verbose=False)
    assert callback.reports[0].measures == ("accuracy", "joint", "val_loss")


def test_knock_outs_of_some_batches_are_compared_in_the_bins_of_the_relay_report() -> None:
    relay, knockouts = RelayInformationCallback(bins=4), KnockoutCallback(max_batches=1)
    other = KnockoutCallback(max_batches=1, bins=3, prefix="other")
    data = batch_of(INPUTS, NEXT.sort().values)
    quiet_trainer(relay, knockouts, other).validate(made(Forecaster), data, verbose=False)
    assert knockouts.reports[0].edges == relay.reports[0].edges
    own = np.quantile(NEXT.sort().values[:16].double().numpy(), [1 / 3, 2 / 3])
    np.testing.assert_allclose(np.array(other.reports[0].edges), own)


def test_equal_labels_in_the_sanity_check_are_no_error() -> None:
    labels = NEXT.clone()
    labels[:32] = 0.5
    callbacks = RelayInformationCallback(bins=2), KnockoutCallback()
    data = batch_of(INPUTS, labels)
    quiet_trainer(*callbacks, max_epochs=1).fit(made(Forecaster), data, data)
    assert [len(callback.reports) for callback in callbacks] == [1, 1]


def test_gaps_in_what_is_compared_with() -> None:
    past, wanted = INPUTS.clone(), EACH.clone()
    past[::3, 4:] = wanted[1::3, :2] = torch.nan
    options: Any = {"target": 2, "bins": ("up/down", 1), "measure": MEASURE}
    relay, knockouts = RelayInformationCallback(**options), KnockoutCallback()
    model = made(AtEachStep)
    data = torch.utils.data.TensorDataset(INPUTS, past, wanted)
    loader = torch.utils.data.DataLoader(data, 16)
    quiet_trainer(relay, knockouts).validate(model, loader, verbose=False)
    counted = ~(past.isnan() | wanted.isnan())[:, :, 0]
    up, answers = (wanted > past)[counted].long(), (said(model) > past)[counted].long()
    report = relay.reports[0]
    assert report.ignored == knockouts.reports[0].ignored == int((~counted).sum())
    expected = mutual_information(up[:, 0], answers[:, 0])
    assert report.mutual_information["joint"] == pytest.approx(float(expected))


def test_reports_keep_the_edges(tmp_path: Any) -> None:
    relay, knockouts = reports_of(made(Forecaster), NEXT, bins=2, latent=True)
    for report in (relay, knockouts):
        report.save(tmp_path / "report.npz")
        again = type(report).load(tmp_path / "report.npz")
        assert again.edges == report.edges
        assert again.edges is not None
        assert f"bins with the edges {again.edges[0]:.3g}" in str(again)
    latent = relay["rnn.l0"].latent
    assert latent is not None
    assert latent.classes.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("labels", "options", "words"),
    [
        (NEXT, {}, r"^bins: batch\[1\] float32 \(16,\) holds real numbers for the model's"),
        (FORECAST, {"bins": 2}, r"label_step: batch\[1\] float32 \(16, 3\) holds 3 numbers"),
        (NEXT.round() * 0, {"bins": 2}, "bins: got 2, but the quantiles of the 48 labels leave"),
        (NEXT, {"bins": 2, "target": 0}, r"target: target=0 .* holds no real numbers of the sha"),
    ],
)
def test_what_is_not_clear_is_refused(labels: Any, options: Any, words: str) -> None:
    model = made(Forecaster, 3 if labels is FORECAST else 1)
    with pytest.raises(ValueError, match=words):
        quiet_trainer(RelayInformationCallback(**options)).validate(
            model, batch_of(INPUTS, labels), verbose=False
        )


def test_illegal_bins_are_refused_at_once() -> None:
    for kind in (RelayInformationCallback, KnockoutCallback):
        with pytest.raises(ValueError, match=r"^bins: got 1; it takes at least 2 bins"):
            kind(bins=1)
