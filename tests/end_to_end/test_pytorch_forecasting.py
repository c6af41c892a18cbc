"""Models of pytorch-forecasting, whose LSTM and GRU have a forward of their own."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lightning_relay import (
    EveryUnit,
    HiddenStateRecorder,
    KnockoutCallback,
    LatentMeasure,
    Logged,
    RelayInformationCallback,
    knocked_out,
)
from tests.support.hooks import hook_count
from tests.support.training import quiet_trainer

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    pytest.importorskip(
        "pytorch_forecasting", reason="these models are those of the extra 'models'"
    )
    import pandas as pd
    from pytorch_forecasting import DeepAR, RecurrentNetwork, TimeSeriesDataSet
    from pytorch_forecasting.models.nn import rnn

pytestmark = pytest.mark.filterwarnings("ignore")

STEPS, HORIZON = 8, 3


def series() -> TimeSeriesDataSet:
    """Noisy sine waves, in windows of 8 steps with 3 steps to forecast."""
    generator = np.random.default_rng(0)
    time = np.arange(30)
    table = pd.concat(
        pd.DataFrame(
            {
                "time": time,
                "series": str(number),
                "value": np.sin(time / 3 + number) + generator.normal(0, 0.1, len(time)),
            }
        )
        for number in range(4)
    )
    return TimeSeriesDataSet(
        table.reset_index(drop=True),
        time_idx="time",
        target="value",
        group_ids=["series"],
        max_encoder_length=STEPS,
        max_prediction_length=HORIZON,
        time_varying_unknown_reals=["value"],
    )


def rises(batch: Any) -> Tensor:
    """Whether the series is higher at the end of the forecast than before it."""
    x, (future, _) = batch
    return (future[:, -1] > x["encoder_target"][:, -1]).long()


def is_forecast_to_rise(output: Any, batch: Any) -> Tensor:
    """Whether the forecast is higher at its end than the series before it."""
    x, _ = batch
    return (output.prediction[:, -1, 0] > x["encoder_target"][:, -1]).long()


def trained(kind: Any, cell: str, *callbacks: Any) -> Any:
    data = series()
    torch.manual_seed(0)
    model = kind.from_dataset(
        data, hidden_size=4, rnn_layers=2, cell_type=cell, dropout=0.1, log_interval=-1
    )
    trainer = quiet_trainer(*callbacks, max_epochs=2)
    trainer.fit(
        model,
        data.to_dataloader(train=True, batch_size=32, num_workers=0),
        data.to_dataloader(train=False, batch_size=32, num_workers=0),
    )
    return model


@pytest.mark.parametrize("cell", ["LSTM", "GRU"])
@pytest.mark.parametrize("kind", [RecurrentNetwork, DeepAR])
def test_both_callbacks(kind: Any, cell: str) -> None:
    answers: dict[str, Any] = {"target": rises, "prediction": ("", is_forecast_to_rise)}
    every = EveryUnit(layers="all", states=("hidden", "cell"))
    relay = RelayInformationCallback(
        layers="all",
        states=("hidden", "cell"),
        latent=LatentMeasure(n_starts=8, n_steps=32),
        **answers,
    )
    knockouts = KnockoutCallback(every, **answers)
    losses = KnockoutCallback(every, score=Logged("loss"), prefix="knockout_loss")
    model = trained(kind, cell, relay, knockouts, losses)
    assert hook_count(model) == 0

    layers = {"rnn.l0", "rnn.l1"}
    layers |= {f"{layer}.cell" for layer in layers if cell == "LSTM"}
    report = relay.reports[-1]
    assert report.layers.keys() == layers
    for layer in report.layers.values():
        # The encoder reads all steps but the first, and the decoder goes on from its state.
        assert layer.time_steps.tolist() == list(range(STEPS - 1 + HORIZON))
        assert not layer.latent.no_attractors
    for found in (knockouts.reports[-1], losses.reports[-1]):
        assert len(found.sets) == 4 * len(layers)
        assert found.samples == report.samples
    assert losses.reports[-1].metrics["loss"].damage.any()

    torch.testing.assert_close(
        model.state_dict(), trained(kind, cell).state_dict(), rtol=0, atol=0, equal_nan=True
    )


@pytest.mark.parametrize(("kind", "base"), [(rnn.LSTM, nn.LSTM), (rnn.GRU, nn.GRU)])
def test_states_and_knock_outs_are_those_of_pytorch(kind: Any, base: Any) -> None:
    modules = [made(2, 3, num_layers=2, batch_first=True).eval() for made in (kind, base)]
    modules[1].load_state_dict(modules[0].state_dict())
    inputs, lengths = torch.randn(4, 5, 2), torch.full((4,), 5)
    found: list[list[Any]] = []
    for module, options in zip(modules, ({"lengths": lengths}, {}), strict=True):
        with (
            torch.no_grad(),
            HiddenStateRecorder(module, layers="all", states=("hidden", "cell")) as recorder,
        ):
            module(inputs, **options)
        states = {key: part.values for key, part in recorder.states.items()}
        with torch.no_grad(), knocked_out(module, {"l0": 1, "l1": [0, 2]}, value=0.2):
            found.append([states, module(inputs, **options)])
    torch.testing.assert_close(*found)

    lengths[2] = 0
    with (
        torch.no_grad(),
        pytest.raises(ValueError, match="has a forward of its own, whose output is up to"),
        knocked_out(modules[0], {"l0": 1}),
    ):
        modules[0](inputs, lengths=lengths, enforce_sorted=False)
