"""The tests of the callbacks with ``pytorch_lightning`` in the place of ``lightning.pytorch``."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import lightning.pytorch
import pytest

from lightning_relay import KnockoutCallback, RelayInformationCallback
from tests.support.models import Classifier, loader
from tests.support.training import quiet_trainer

ROOT = Path(__file__).parents[2]
FILES = [
    *("test_knockout_logs.py", "test_knockout_runs.py", "test_on_error.py", "test_progress.py"),
    *("test_relay_information_lifecycle.py", "test_saving.py"),
]
"""Tests of what touches the Trainer: logs, metrics, progress bars, exceptions and checkpoints."""

separate = pytest.importorskip("pytorch_lightning", reason="it need not be installed")


@pytest.mark.timeout(600)
def test_the_callbacks_work_alike(tmp_path: Path) -> None:
    for source in (ROOT / "tests").rglob("*.py"):
        target = tmp_path / source.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(source.read_text().replace("lightning.pytorch", "pytorch_lightning"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    files = [f"tests/callbacks/{name}" for name in FILES]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *files],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-8000:]


@pytest.mark.parametrize("package", [lightning.pytorch, separate])
def test_a_callback_need_not_be_in_a_list(package: object) -> None:
    for callback in (RelayInformationCallback(), KnockoutCallback()):
        assert isinstance(callback, package.Callback)  # type: ignore[attr-defined]
    trainer = package.Trainer(  # type: ignore[attr-defined]
        callbacks=RelayInformationCallback(), logger=False, enable_progress_bar=False
    )
    assert any(isinstance(own, RelayInformationCallback) for own in trainer.callbacks)


def test_a_module_and_a_trainer_of_different_packages_are_lightnings_own_error() -> None:
    class Foreign(separate.LightningModule):
        pass

    with pytest.raises(TypeError, match="must be a `LightningModule`"):
        quiet_trainer(RelayInformationCallback()).validate(Foreign(), loader(), verbose=False)
    assert isinstance(Classifier(), lightning.pytorch.LightningModule)
