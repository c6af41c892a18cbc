"""A LightningCLI configuration can name the callback, the task and the model."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.cli import LightningCLI
from torch import Tensor

from lightning_relay import (
    KnockoutCallback,
    LatentMeasure,
    RelayInformationCallback,
    RelayMeasure,
)
from lightning_relay.tasks import MemoryTask, RecurrentClassifier

CONFIGURATION = """
seed_everything: 1
model: {cell: gru, input_size: 1, num_classes: 4}
data: {bits: 2, delay: 2, noise: 0, train_size: 64, val_size: 64, test_size: 64}
trainer:
  logger: false
  max_epochs: 1
  accelerator: cpu
  enable_checkpointing: false
  enable_progress_bar: false
  enable_model_summary: false
  callbacks:
    - class_path: lightning_relay.RelayInformationCallback
      init_args:
        modules: [rnn]
        target: 1
        prediction: readout
        lengths: tests.end_to_end.test_command_line.full_lengths
        calls: {rnn: -1}
        concepts: per_class
        inputs_end: auto
        measure: {estimator: grassberger, n_orders: 4}
        sample: {time_steps: [0, -1], max_samples: 60}
        latent: {n_starts: 16, inputs: mean}
        on_error: raise
        stages: [validate]
    - class_path: lightning_relay.KnockoutCallback
      init_args:
        which:
          class_path: lightning_relay.NamedSets
          init_args:
            units: {pair: {rnn.l0: [0, 3]}}
            steps: [1, -1]
        value: 0.5
        concepts: per_class
        score:
          class_path: torchmetrics.classification.MulticlassF1Score
          init_args: {num_classes: 4}
        max_batches: 1
    - class_path: lightning_relay.KnockoutCallback
      init_args:
        which:
          class_path: lightning_relay.EveryUnit
          init_args: {steps: 1, max_sets: 3}
        value:
          class_path: lightning_relay.Mean
          init_args: {reference_samples: 20}
        score:
          class_path: lightning_relay.Logged
          init_args: {name: val_loss}
        prefix: each
"""


def full_lengths(batch: Any) -> Tensor:
    return torch.full((len(batch[1]),), batch[0].shape[1])


# LightningCLI uses what jsonargparse has deprecated.
@pytest.mark.filterwarnings("ignore")
def test_a_configuration_file_runs_the_analysis(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["train"])
    path = tmp_path / "config.yaml"
    path.write_text(CONFIGURATION)
    cli = LightningCLI(
        RecurrentClassifier,
        MemoryTask,
        args=["fit", "--config", str(path)],
        save_config_callback=None,
    )
    (relays,) = (c for c in cli.trainer.callbacks if isinstance(c, RelayInformationCallback))
    (relay,) = relays.reports
    assert relay.measure == RelayMeasure(estimator="grassberger", n_orders=4)
    assert relays.latent == LatentMeasure(n_starts=16, inputs="mean")
    assert relays.on_error == "raise"
    assert relays.calls == {"rnn": -1}
    assert (relays.inputs_end, relay.inputs_end) == ("auto", {"rnn": 1})
    latent = relay["rnn.l0"].latent
    assert latent is not None
    assert latent.attractors is not None
    assert (latent.attractors.starts, latent.attractors.inputs) == (16, "mean")
    assert (relay.samples, relay.layers["rnn.l0"].time_steps.tolist()) == (60, [0, -1])
    assert list(relay.layers["rnn.l0"].concepts) == [f"class_{n}" for n in range(4)]
    given, each = (c for c in cli.trainer.callbacks if isinstance(c, KnockoutCallback))
    (report,) = given.reports
    assert [(some.name, dict(some.units), some.steps) for some in report.sets] == [
        ("pair", {"rnn.l0": (0, 3)}, (-1, 1))
    ]
    assert (report.value, list(report.metrics)) == ("0.5", ["MulticlassF1Score"])
    assert len(each.reports[0].sets) == 3
    assert list(each.reports[0].metrics) == ["val_loss"]
    assert each.reports[0].value == "mean of the states of the first 64 sequences"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("written", "calls"), [("joined", "joined"), ("1", 1), ("null", None)])
def test_calls_are_chosen_on_the_command_line(written: str, calls: Any) -> None:
    cli = LightningCLI(
        RecurrentClassifier,
        MemoryTask,
        args=[
            *("--model.cell=gru", "--model.input_size=1", "--model.num_classes=4"),
            *("--trainer.callbacks=lightning_relay.RelayInformationCallback",),
            f"--trainer.callbacks.calls={written}",
        ],
        run=False,
        save_config_callback=None,
    )
    (relays,) = (c for c in cli.trainer.callbacks if isinstance(c, RelayInformationCallback))
    assert relays.calls == calls
    assert type(relays.calls) is type(calls)
