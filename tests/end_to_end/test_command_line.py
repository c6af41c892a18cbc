"""Configurations of LightningCLI, and ``python -m lightning_relay`` on what it saved."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch.cli import LightningCLI
from torch import Tensor

from lightning_relay import (
    KnockoutCallback,
    LatentMeasure,
    RelayInformationCallback,
    RelayMeasure,
    load_reports,
)
from lightning_relay.command_line import main
from lightning_relay.tasks import MemoryTask, RecurrentClassifier
from tests.support.training import quiet_trainer

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


EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the example leaves in an empty folder; fewer sequences, units and epochs."""
    folder = tmp_path_factory.mktemp("empty")
    for name in ("command_line.py", "memory_task.yaml"):
        shutil.copy(EXAMPLES / name, folder)
    small = ("--trainer.max_epochs=2", "--data.train_size=64", "--data.val_size=64")
    units = ("--model.hidden_size=4", "--trainer.accelerator=cpu")
    command = [sys.executable, "command_line.py", "fit", "--config=memory_task.yaml"]
    options = [*small, *units, "--data.test_size=48"]
    result = subprocess.run([*command, *options], cwd=folder, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return folder / "lightning_logs" / "version_0"


@pytest.fixture
def asked(run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Configuration and checkpoint of the run, asked for in another folder."""
    monkeypatch.chdir(tmp_path)
    (checkpoint,) = run.glob("checkpoints/*.ckpt")
    return [f"--config={run / 'config.yaml'}", f"--ckpt_path={checkpoint}"]


QUIET = ["--trainer.enable_progress_bar=false", "--trainer.logger=false"]


def test_the_example_writes_the_configuration_that_it_was_given(run: Path) -> None:
    saved = yaml.safe_load((run / "config.yaml").read_text())
    relays, knockouts = (own["init_args"] for own in saved["trainer"]["callbacks"])
    assert (relays["inputs_end"], relays["concepts"], relays["latent"]) == (2, "per_class", True)
    assert knockouts["value"]["class_path"] == "lightning_relay.Mean"


@pytest.mark.filterwarnings("ignore")
def test_a_checkpoint_is_analysed_with_the_callbacks_of_its_run(
    asked: list[str], run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["analyse", *asked, *QUIET, "--stage=test"]) == 0
    output = capsys.readouterr().out
    (relay,) = load_reports("relay_reports").relay
    (knockout,) = load_reports("knockout_reports").knockout
    assert (relay.stage, relay.samples) == ("test", 48)
    assert knockout.stage == "test"
    assert any(some.name.startswith("rnn.l0: 1 most first") for some in knockout.sets)
    assert f"{relay}\nSaved: relay_reports/relay-test-epoch=1-step=2.npz\n" in output
    assert f"{knockout}\nSaved: knockout_reports/knockout-test-epoch=1-step=2.npz\n" in output

    assert main(["analyse", *asked, *QUIET, "--dirpath=ours"]) == 0
    (again,) = load_reports("ours").relay
    own = load_reports(run).relay[-1]
    assert (again.epoch, again.global_step) == (own.epoch, own.global_step) == (1, 2)
    for concept, found in own["rnn.l0"].concepts.items():
        assert (found.information == again["rnn.l0"][concept].information).all()


class Passing(RecurrentClassifier):
    """Its hyperparameters are those of its base, too."""

    def __init__(self, extra: int = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.save_hyperparameters()


@pytest.mark.filterwarnings("ignore")
def test_hyperparameters_that_are_passed_on_count(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = Passing(cell="lstm", input_size=1, num_classes=8, hidden_size=7)
    trainer = quiet_trainer()
    trainer.strategy.connect(model)
    trainer.save_checkpoint(tmp_path / "own.ckpt", weights_only=True)
    arguments = [f"--model={__name__}.Passing", f"--ckpt_path={tmp_path / 'own.ckpt'}"]
    assert main(["layers", *arguments]) == 0
    assert "rnn.l0       LSTM        7  hidden" in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore")
def test_knock_outs_that_follow_nothing_run_once(
    asked: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["--trainer.callbacks+=lightning_relay.KnockoutCallback", "--trainer.callbacks.prefix=e"]
    assert main(["analyse", *asked, *QUIET, *more]) == 0
    names = sorted(path.name for path in Path("knockout_reports").iterdir())
    assert names == ["e-validate-epoch=1-step=2.npz", "knockout-validate-epoch=1-step=2.npz"]


@pytest.mark.filterwarnings("ignore")
def test_a_checkpoint_without_configuration_gets_a_relay_callback(
    asked: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    data = ["--data=lightning_relay.tasks.MemoryTask", "--data.val_size=32", "--data.bits=3"]
    assert main(["analyse", asked[1], *data, *QUIET]) == 0
    output = capsys.readouterr().out
    assert "No callback of lightning_relay is configured: RelayInformationCallback()" in output
    assert load_reports("relay_reports").relay[0].samples == 32


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("configured", [True, False])
def test_the_layers_of_a_model_are_listed(
    asked: list[str], configured: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = asked[:1] if configured else asked[1:]
    assert main(["layers", *arguments]) == 0
    assert (
        capsys.readouterr().out == "layer   module  units  states\nrnn.l0  GRU         4  hidden\n"
    )
    assert main(["layers", *arguments, "--model.cell=lstm"]) == 0
    assert "rnn.l0.cell  LSTM        4  cell" in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore")
def test_a_configuration_of_a_program_that_names_its_classes_itself_takes_them(
    asked: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "fixed.yaml"
    path.write_text("{model: {cell: rnn, input_size: 1}, data: {bits: 3}, note: ours}")
    config = f"--config={path}"
    assert main(["layers", config]) == 2
    assert (
        "--model: neither configuration nor checkpoint names the class" in capsys.readouterr().err
    )
    model = "--model=lightning_relay.tasks.RecurrentClassifier"
    assert main(["layers", config, model, "--model.num_classes=8"]) == 0
    assert "rnn.l0  RNN        20  hidden" in capsys.readouterr().out
    assert main(["analyse", config, model, asked[1], *QUIET]) == 2
    assert "--data: the configuration has arguments" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--config=missing.yaml"], 2, "--config: there is no file missing.yaml"),
        (["--ckpt_path=missing.ckpt"], 2, "--ckpt_path: there is no file missing.ckpt"),
        (["--ckpt_path=text"], 2, "--ckpt_path: text is no checkpoint of PyTorch"),
        (["--config=text"], 2, "--config: text is no configuration of LightningCLI"),
        (["--model=no.such.Class"], 2, "--model: cannot import no.such.Class"),
        (["--model=lightning_relay.tasks.MemoryTask"], 2, "it takes a LightningModule"),
        (["--trainer.epochs=3"], 2, "--trainer.epochs"),
        (
            ["--model.hidden_size=7"],
            2,
            "rnn.weight_ih_l0 has shape (12, 1), and (21, 1) in the model",
        ),
        (["--trainer.callbacks.stages=[test]", "--stage=validate"], 2, "--stage: got validate"),
        (["--trainer.fast_dev_run=true"], 2, "nothing is saved in a fast_dev_run"),
        (["--trainer.callbacks.target=9"], 1, "target: the batch has no 9"),
    ],
)
def test_what_cannot_be_done_is_told_in_words(
    arguments: list[str],
    code: int,
    words: str,
    asked: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "text").write_text("words")
    if "callbacks" in arguments[0]:  # of the callback that is added last
        arguments = ["--trainer.callbacks=lightning_relay.RelayInformationCallback", *arguments]
    assert main(["analyse", *asked, *QUIET, *arguments]) == code
    error = capsys.readouterr().err
    assert "lightning_relay analyse: " in error
    assert words in error


@pytest.mark.filterwarnings("ignore")
def test_a_checkpoint_without_data_is_refused(
    asked: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["analyse", asked[1], *QUIET]) == 2
    assert "--data: no LightningDataModule is named" in capsys.readouterr().err


def test_without_jsonargparse_the_package_to_install_is_named(
    asked: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "jsonargparse", None)
    assert main(["layers", *asked]) == 2
    assert "pip install 'jsonargparse[signatures]" in capsys.readouterr().err


def test_help_is_quick_and_lists_the_commands(tmp_path: Path) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "lightning_relay", "--help"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "analyse" in result.stdout
    assert "layers" in result.stdout
    assert "torch" not in result.stderr
