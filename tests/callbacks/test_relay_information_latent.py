"""The callback with ``latent``: what is logged and kept, of which models, and what is left."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence
from torch.utils.data import DataLoader, TensorDataset

from lightning_relay import (
    HiddenStateRecorder,
    LatentMeasure,
    RelayInformationCallback,
    RelayReport,
    SequenceSample,
    latent_structure,
)
from tests.support.hooks import hook_count
from tests.support.models import STEPS, Classifier, PlainRNN, Projected, Stepped, loader
from tests.support.reports import assert_equal


def validated(
    model: LightningModule, data: Any = None, **options: Any
) -> tuple[RelayReport, dict[str, float]]:
    callback = RelayInformationCallback(**({"latent": True} | options))
    trainer = Trainer(
        logger=False,
        callbacks=[callback],
        enable_progress_bar=False,
        enable_checkpointing=False,
        enable_model_summary=False,
    )
    trainer.validate(model, data or loader(), verbose=False)
    assert hook_count(model) == 0
    logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
    return callback.reports[-1], logged


class LSTM(Classifier):
    cell = nn.LSTM


class Both(Classifier):
    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(1, 3, bidirectional=True, batch_first=True)


class Packed(Classifier):
    """Packs its sequences, whose lengths are those of the first channel."""

    def forward(self, x: Tensor) -> Tensor:
        lengths = 2 + (x[:, 2, 0] > 0).long() * (STEPS - 2)
        packed = pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False)
        _, final = self.rnn(packed)
        scores: Tensor = self.head(final[-1])
        return scores


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@pytest.mark.parametrize("kind", [Classifier, LSTM, Projected, Stepped, PlainRNN, Packed])
def test_the_structure_is_that_of_recorded_states(kind: type[Classifier]) -> None:
    torch.manual_seed(0)
    model = kind()
    report, _ = validated(model, inputs_end=1)
    model.eval()
    recorder = HiddenStateRecorder(model, layers="all", states=("hidden", "cell"))
    with torch.no_grad(), recorder:
        for x, _ in loader():
            model(x)
    labels = torch.cat([y for _, y in loader()])
    expected = latent_structure(recorder.states, labels, model=model, inputs_end=1)
    for key, layer in report.layers.items():
        assert layer.latent is not None
        assert_equal(layer.latent, expected[key], atol=1e-6)
        assert layer.latent.attractors is not None
    assert not any(key.endswith(".cell") for key in report.layers)


def test_scalars_are_logged_and_can_be_monitored() -> None:
    _, logged = validated(Classifier())
    names = ("dimension", "between_classes_last", "speed_last", "settled", "attractors")
    assert all(f"relay/rnn.l0/{name}" in logged for name in (*names, "attractor_bits"))


def test_without_it_nothing_of_it_is_logged() -> None:
    report, logged = validated(Classifier(), latent=False)
    assert report["rnn.l0"].latent is None
    assert not any("settled" in name for name in logged)


def test_a_bidirectional_module_is_not_iterated_and_says_why() -> None:
    report, logged = validated(Both())
    for layer in report.layers.values():
        assert layer.latent is not None
        assert layer.latent.attractors is None
        assert "bidirectional" in layer.latent.no_attractors
    assert "relay/rnn.l0/settled" not in logged
    assert "relay/rnn.l0/dimension" in logged


class Dropping(Classifier):
    """Drops units between layers in validation too."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(1, 6, num_layers=2, dropout=0.3, batch_first=True)

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        self.rnn.train()
        return super().validation_step(batch, batch_idx, dataloader_idx)


class Clamping(Classifier):
    """Limits its weights after it used them."""

    cell = nn.LSTM

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.head(self.rnn(x)[0][:, -1])
        with torch.no_grad():
            self.rnn.weight_hh_l0.clamp_(-1, 1)
        return scores


@pytest.mark.parametrize(("kind", "why"), [(Dropping, "dropout=0.3"), (Clamping, "have changed")])
@pytest.mark.parametrize("inputs", ["zero", "mean"])
def test_states_that_cannot_be_had_do_not_end_a_run(
    kind: type[Classifier], why: str, inputs: Any
) -> None:
    report, logged = validated(kind(), latent=LatentMeasure(inputs=inputs))
    (layer,) = report.layers.values()
    assert layer.latent is not None
    assert layer.latent.attractors is None
    assert why in layer.latent.no_attractors
    assert np.isfinite(layer.latent.dimension)
    assert not any("settled" in name for name in logged)


def test_memory_is_that_of_the_sequences_that_come() -> None:
    need = 48 * (STEPS + 1) * 6 * 4
    report, _ = validated(LSTM(), sample=SequenceSample(max_bytes=need))
    latent = report["rnn.l0"].latent
    assert latent is not None
    assert latent.attractors is not None


def test_starts_can_be_left_out() -> None:
    report, _ = validated(LSTM(), latent=LatentMeasure(n_starts=0))
    latent = report["rnn.l0"].latent
    assert latent is not None
    assert latent.attractors is None


@pytest.mark.parametrize("kind", [Classifier, Stepped])
def test_the_mean_input_is_that_of_all_steps(kind: type[Classifier]) -> None:
    torch.manual_seed(0)
    model = kind()
    report, _ = validated(model, latent=LatentMeasure(inputs="mean"))
    inputs = torch.cat([x for x, _ in loader()])
    model.eval()
    states = ("hidden", "cell") if kind is Stepped else ("hidden",)
    with torch.no_grad(), HiddenStateRecorder(model, states=states) as recorder:  # type: ignore[arg-type]
        model(inputs)
    (key,) = report.layers
    expected = latent_structure(
        recorder.states,
        torch.cat([y for _, y in loader()]),
        model=model,
        inputs={key.removesuffix(".l0"): inputs.mean((0, 1))},
    )[key]
    found = report[key].latent
    assert found is not None
    assert found.attractors is not None
    assert found.attractors.inputs == "mean"
    assert "under the mean input" in found.attractors.in_words()
    own = dataclasses.replace(found.attractors, inputs="given")
    assert_equal(dataclasses.replace(found, attractors=own), expected, atol=1e-6)


def test_each_dataloader_has_its_own_mean_input() -> None:
    class Shifted(Classifier):
        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
            x, y = batch
            super().validation_step((x + 3 * dataloader_idx, y), batch_idx)

    found = []
    for loaders in (loader(), [loader(), loader()]):
        torch.manual_seed(0)
        callback = RelayInformationCallback(latent=LatentMeasure(inputs="mean"))
        trainer = Trainer(logger=False, callbacks=[callback], enable_progress_bar=False)
        trainer.validate(Shifted(), loaders, verbose=False)
        found.append(callback.reports)
    (alone,), (first, second) = found
    assert_equal(first["rnn.l0"].latent, alone["rnn.l0"].latent)
    states = [report["rnn.l0"].latent.attractors.states for report in (first, second)]  # type: ignore[union-attr]
    assert not np.allclose(states[0], states[1], atol=0.05)


@pytest.mark.parametrize("batch_first", [True, False])
def test_padding_counts_neither_as_input_nor_as_state(batch_first: bool) -> None:
    class Padded(Classifier):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = nn.RNN(1, 6, batch_first=batch_first)

        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
            x, lengths, y = batch
            output, _ = self.rnn(x if batch_first else x.transpose(0, 1))
            output = output if batch_first else output.transpose(0, 1)
            scores = self.head(output[torch.arange(len(x)), lengths - 1])
            self.log("val_loss", self.loss(scores, y))
            return scores

    torch.manual_seed(1)
    x, lengths, y = torch.randn(40, 5, 1) + 1, torch.arange(40) % 4 + 2, torch.arange(40) % 4
    inside = torch.arange(5) < lengths[:, None]
    found = []
    for padding in (0.0, 100.0):
        torch.manual_seed(2)
        data = TensorDataset(x.masked_fill(~inside[..., None], padding), lengths, y)
        report, _ = validated(
            Padded(),
            DataLoader(data, 8),
            target=2,
            lengths=1,
            prediction=lambda outputs: outputs,
            latent=LatentMeasure(inputs="mean"),
        )
        found.append(report["rnn.l0"].latent)
    assert_equal(found[0], found[1], atol=1e-9)


def test_at_most_max_samples_sequences_are_kept() -> None:
    report, _ = validated(Classifier(), latent=LatentMeasure(max_samples=20, n_starts=64))
    latent = report["rnn.l0"].latent
    assert latent is not None
    assert latent.attractors is not None
    assert report.samples == 48
    assert (latent.samples.sum(0) == 20).all()
    assert latent.attractors.starts == 64


def test_each_dataloader_has_a_structure_of_its_own() -> None:
    callback = RelayInformationCallback(latent=True)
    trainer = Trainer(logger=False, callbacks=[callback], enable_progress_bar=False)
    trainer.validate(Classifier(), [loader(48), loader(32)], verbose=False)
    first, second = (report["rnn.l0"].latent for report in callback.reports)
    assert first is not None
    assert second is not None
    assert (first.samples.sum(), second.samples.sum()) == (48 * STEPS, 32 * STEPS)
    assert not np.array_equal(first.mean, second.mean)


def test_weights_are_those_that_were_evaluated() -> None:
    class Swap(Callback):
        """Changes the weights after the last batch, as averaging callbacks do."""

        def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            with torch.no_grad():
                for parameter in pl_module.parameters():
                    parameter.zero_()

    def run(*others: Callback) -> Any:
        torch.manual_seed(0)
        callback = RelayInformationCallback(latent=True)
        trainer = Trainer(logger=False, callbacks=[*others, callback], enable_progress_bar=False)
        trainer.validate(Classifier(), loader(), verbose=False)
        return callback.reports[-1]["rnn.l0"].latent

    assert_equal(run(Swap()), run())


def test_no_hook_is_left_when_a_step_fails() -> None:
    class Failing(Classifier):
        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
            raise RuntimeError("of the user")

    model = Failing()
    with pytest.raises(RuntimeError, match="of the user"):
        validated(model, latent=LatentMeasure(inputs="mean"))
    assert hook_count(model) == 0


def test_other_arguments_are_refused() -> None:
    with pytest.raises(TypeError, match=r"latent: got 3; it takes True, False or LatentMeasure\(…"):
        RelayInformationCallback(latent=3)  # type: ignore[arg-type]


def test_too_much_memory_names_the_options_of_the_latent_structure() -> None:
    sample = SequenceSample(storage="half", max_bytes=9000)
    told = (
        r"max_bytes: got 9000 \(9.0 kB\), but 96 sequences take 16.1 kB.* raw states for the "
        r"latent structure\. Keep fewer sequences \(max_samples of LatentMeasure\)"
    )
    with pytest.raises(ValueError, match=told):
        validated(Classifier(), loader(96), sample=sample, latent=True)
    validated(Classifier(), loader(96), sample=sample, latent=LatentMeasure(max_samples=48))
