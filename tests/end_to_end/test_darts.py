"""Recurrent models of darts, which take callbacks of ``pytorch_lightning``."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch

from lightning_relay import KnockoutCallback, RelayInformationCallback
from tests.support.hooks import hook_count

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    pytest.importorskip("darts", reason="these models are those of the extra 'models'")
    pytest.importorskip("pytorch_lightning", reason="darts' recurrent models are built on it")
    from darts import TimeSeries
    from darts.models import BlockRNNModel, RNNModel
    from darts.utils.likelihood_models.torch import GaussianLikelihood
    from pytorch_lightning.callbacks import EarlyStopping

pytestmark = pytest.mark.filterwarnings("ignore")

STEPS, UNITS = 12, 4


def series(first: int) -> list[Any]:
    """Noisy sine waves."""
    generator = np.random.default_rng(first)
    waves = (np.sin(np.arange(40) / 3 + first + number) for number in range(3))
    return [
        TimeSeries.from_values((wave + generator.normal(0, 0.1, 40)).astype(np.float32))
        for wave in waves
    ]


def trained(kind: Any, path: Any, *callbacks: Any, **options: Any) -> Any:
    """A model after up to three epochs of a fit with a validation series."""
    model = kind(
        input_chunk_length=8,
        hidden_dim=UNITS,
        n_epochs=3,
        random_state=0,
        work_dir=str(path),
        pl_trainer_kwargs={
            "callbacks": [*callbacks, EarlyStopping("val_loss", patience=1, min_delta=0.03)],
            "accelerator": "cpu",
            "logger": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
        },
        **options,
    )
    model.fit(series(0), val_series=series(5))
    return model


def forecast(output: Any) -> Any:
    """The mean, of the parameters of a normal distribution."""
    return output.prediction[..., 0]


CASES = [
    *((RNNModel, {"model": cell, "training_length": STEPS}, {}) for cell in ("RNN", "GRU", "LSTM")),
    (
        RNNModel,
        {"model": "GRU", "training_length": STEPS, "likelihood": GaussianLikelihood()},
        {"prediction": ("", forecast)},
    ),
    (BlockRNNModel, {"model": "LSTM", "output_chunk_length": 3}, {"label_step": -1}),
]


@pytest.mark.parametrize(("kind", "options", "arguments"), CASES)
def test_both_callbacks(kind: Any, options: Any, arguments: Any, tmp_path: Any) -> None:
    bins: Any = ("up/down", "past_target") if kind is RNNModel else 4
    relay, knockouts = (
        own(target="future_target", bins=bins, dirpath=tmp_path / "reports", **arguments)
        for own in (RelayInformationCallback, KnockoutCallback)
    )
    model = trained(kind, tmp_path, relay, knockouts, **options)
    plain = trained(kind, tmp_path, **options)
    assert hook_count(model.model) == 0
    assert model.epochs_trained == plain.epochs_trained
    torch.testing.assert_close(
        model.model.state_dict(), plain.model.state_dict(), rtol=0, atol=0, equal_nan=True
    )

    assert len(relay.reports) == len(knockouts.reports) == model.epochs_trained
    report = relay.reports[-1]
    assert report.x_in.startswith("target='future_target'")
    steps = STEPS if kind is RNNModel else 8
    assert report["rnn.l0"].time_steps.tolist() == list(range(steps))
    found = knockouts.reports[-1]
    assert (len(found.sets), found.samples) == (UNITS, report.samples)
    # The callbacks do not stand in the way of what comes after the fit.
    model.save(str(tmp_path / "model.pt"))
    loaded = kind.load(str(tmp_path / "model.pt"), trusted=True)
    expected = plain.predict(2, series(5)[0]).values()
    assert np.array_equal(loaded.predict(2, series(5)[0]).values(), expected)


def test_the_arguments_that_messages_ask_for(tmp_path: Any) -> None:
    likely = {"model": "GRU", "training_length": STEPS, "likelihood": GaussianLikelihood()}
    needed: dict[str, Any] = {"bins": 4, "target": "future_target", "prediction": ("", forecast)}
    named: dict[str, Any] = {}
    for argument, words in (
        ("bins", r"For numbers to predict at each step, give bins="),
        (
            "prediction",
            r"the step does not end with real numbers .* \.prediction \(\d+, 12, 1, 2\)",
        ),
        ("target", r"several tensors \(batch\.past_target .*, batch\.future_target .* target="),
    ):
        with pytest.raises(ValueError, match=words):
            trained(RNNModel, tmp_path, RelayInformationCallback(**named), **likely)
        named[argument] = needed[argument]
    relay = RelayInformationCallback(**named)
    trained(RNNModel, tmp_path, relay, **likely)
    assert relay.reports
