"""Recurrent models of neuralforecast, which copies the callbacks that it is given."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torchmetrics import MeanAbsoluteError

from lightning_relay import KnockoutCallback, RelayInformationCallback, load_reports
from tests.support.hooks import hook_count

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    pytest.importorskip("neuralforecast", reason="these models are those of the extra 'models'")
    import pandas as pd
    from neuralforecast import NeuralForecast
    from neuralforecast.models import GRU, LSTM, RNN

pytestmark = pytest.mark.filterwarnings("ignore")

SERIES, STEPS, HORIZON, VALIDATED, UNITS = 5, 8, 3, 16, 4
WINDOWS = VALIDATED - HORIZON + 1


def table() -> pd.DataFrame:
    """Noisy sine waves."""
    generator, time = np.random.default_rng(0), np.arange(50)
    return pd.concat(
        pd.DataFrame(
            {
                "unique_id": str(number),
                "ds": pd.date_range("2020-01-01", periods=len(time)),
                "y": np.sin(time / 3 + number) + generator.normal(0, 0.1, len(time)),
            }
        )
        for number in range(SERIES)
    )


def future(batch: Any) -> Tensor:
    """What is to be forecast in each window of the validated end of each series."""
    ends = batch["temporal"][:, 0, -VALIDATED:]
    return ends.unfold(1, HORIZON, 1).flatten(0, 1)  # type: ignore[no-any-return]


def next_value(batch: Any) -> Tensor:
    """The same where one value is forecast."""
    return batch["temporal"][:, 0, -VALIDATED:].flatten()  # type: ignore[no-any-return]


def last(batch: Any) -> Tensor:
    """The last value before it."""
    return batch["temporal"][:, 0, -VALIDATED - 1 : -HORIZON].flatten()  # type: ignore[no-any-return]


def trained(kind: Any, callbacks: list[Any], path: Path, horizon: int = HORIZON) -> Any:
    """A model after up to 12 steps of a fit that may be stopped early."""
    model = kind(
        h=horizon,
        input_size=STEPS,
        max_steps=12,
        val_check_steps=3,
        early_stop_patience_steps=2,
        learning_rate=0.05,
        scaler_type="identity",  # answers are on the scale of the labels
        encoder_hidden_size=UNITS,
        encoder_n_layers=1,
        callbacks=callbacks,
        accelerator="cpu",
        default_root_dir=path,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    fitted = NeuralForecast([model], freq="D")
    fitted.fit(table(), val_size=VALIDATED)
    assert fitted.predict().shape == (horizon * SERIES, 3)
    return fitted.models[0]


@pytest.mark.parametrize("kind", [RNN, GRU, LSTM])
def test_both_callbacks(kind: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    asked: dict[str, Any] = {"target": future, "bins": ("up/down", last), "label_step": -1}
    own = [RelayInformationCallback(**asked), KnockoutCallback(**asked)]
    with caplog.at_level("INFO"):
        model = trained(kind, list(own), tmp_path / "watched")
    plain = trained(kind, [], tmp_path / "plain")
    assert hook_count(model) == 0
    torch.testing.assert_close(model.state_dict(), plain.state_dict(), rtol=0, atol=0)
    assert torch.equal(model.metrics["valid_loss"], plain.metrics["valid_loss"])

    # The callbacks in use are copies, and a line says where to look for their reports.
    assert [one.reports for one in own] == [[], []]
    logs = tmp_path / "watched" / "lightning_logs" / "version_0"
    assert f"load_reports({str(logs / 'relay_reports')!r})" in caplog.text
    reports = load_reports(logs)
    assert len(reports.relay) == len(reports.knockout) > 1
    report, found = reports.relay[-1], reports.knockout[-1]
    assert report.samples == found.samples == SERIES * WINDOWS
    assert report["hist_encoder.l0"].time_steps.tolist() == list(range(STEPS))
    assert len(found.sets) == UNITS


def test_labels_and_answers_are_those_of_the_step(tmp_path: Path) -> None:
    asked: dict[str, Any] = {"target": next_value, "bins": 4, "dirpath": tmp_path}
    knockouts = KnockoutCallback(score=MeanAbsoluteError(), **asked)
    model = trained(LSTM, [RelayInformationCallback(**asked), knockouts], tmp_path, horizon=1)
    reports = load_reports(tmp_path)
    assert reports.relay[-1].samples == SERIES * VALIDATED
    # The loss of the model is the mean absolute error of all forecasts.
    baseline = reports.knockout[-1].metrics["MeanAbsoluteError"].baseline
    np.testing.assert_allclose(baseline, model.metrics["valid_loss"], rtol=1e-5)


def test_numbers_that_are_not_named_as_real(tmp_path: Path) -> None:
    message = (
        r"bins: target=future float32 \(70, 3\) holds real numbers for the model's own forward"
    )
    with pytest.raises(ValueError, match=message):
        trained(LSTM, [RelayInformationCallback(target=future)], tmp_path)
