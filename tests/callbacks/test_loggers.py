"""Where reports go with loggers that need no other package, and with none."""

from __future__ import annotations

import random
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import lightning.pytorch
import numpy as np
import pytest
import torch
from lightning.pytorch import seed_everything
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger

from lightning_relay import KnockoutCallback, RelayInformationCallback, load_reports
from lightning_relay.callbacks.evaluations import report_directory
from lightning_relay.callbacks.loggers import shower_of
from lightning_relay.sampling.processes import OtherProcessError
from tests.support.models import Classifier, loader
from tests.support.training import quiet_trainer

if TYPE_CHECKING:
    from collections.abc import Mapping

SHOWN = "; pictures and tables go to TensorBoard, W&B and MLflow, and none is a logger here."


class Keeping(Logger):
    """A logger of the user's."""

    def __init__(self, save_dir: Any = None) -> None:
        self._save_dir = save_dir
        self.names: set[str] = set()

    name = "own"
    version = 3

    @property
    def save_dir(self) -> Any:
        return self._save_dir

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self.names |= metrics.keys()

    def log_hyperparams(self, *_: Any, **__: Any) -> None: ...


def fit(*loggers: Logger, **options: Any) -> RelayInformationCallback:
    relay = RelayInformationCallback(**options)
    trainer = quiet_trainer(relay, logger=list(loggers), max_epochs=1, log_every_n_steps=1)
    trainer.fit(Classifier(), loader(), loader())
    return relay


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [text for text in caplog.messages if text.startswith("The relay callback: ")]


def test_a_csv_logger_gets_the_scalars_and_the_files(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    logger = CSVLogger(tmp_path)
    with caplog.at_level("INFO"):
        fit(logger)
    header = Path(logger.log_dir, "metrics.csv").read_text().splitlines()[0]
    assert "relay/rnn.l0/joint/information_last" in header.split(",")
    assert len(load_reports(logger.log_dir).relay) == 1
    place = Path(logger.log_dir, "relay_reports")
    assert said(caplog) == [f"The relay callback: reports are saved in {str(place)!r}{SHOWN}"]


def test_without_a_logger_it_is_said_once_that_nothing_is_saved(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level("INFO"):
        fit()
    assert said(caplog) == [
        "The relay callback: reports are not saved, unless dirpath= names a local directory" + SHOWN
    ]


def test_dirpath_is_enough_and_tensorboard_says_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        fit(TensorBoardLogger(tmp_path / "logs"), dirpath=tmp_path / "here")
        assert said(caplog) == []
        fit(dirpath=tmp_path / "here")
    assert said(caplog) == [
        f"The relay callback: reports are saved in {str(tmp_path / 'here')!r}{SHOWN}"
    ]
    assert len(load_reports(tmp_path / "here").relay) == 2
    assert list((tmp_path / "logs").rglob("*.npz")) == []


def test_nothing_is_said_where_nothing_is_analysed(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        fit(stages=["test"])
        quiet_trainer(RelayInformationCallback(), fast_dev_run=True, logger=None).fit(
            Classifier(), loader(), loader()
        )
    assert said(caplog) == []


def test_runs_of_a_logger_of_the_users_have_directories_of_their_own(tmp_path: Path) -> None:
    logger = Keeping(tmp_path)
    fit(logger)
    assert "relay/rnn.l0/joint/information" in logger.names
    (path,) = tmp_path.rglob("*.npz")
    assert path.parent == tmp_path / "own" / "version_3" / "relay_reports"


def test_the_first_logger_with_a_local_directory_keeps_the_reports(tmp_path: Path) -> None:
    fit(Keeping(), Keeping("s3://runs"), CSVLogger(tmp_path), TensorBoardLogger(tmp_path / "no"))
    (path,) = tmp_path.rglob("*.npz")
    assert path.parent == tmp_path / "lightning_logs" / "version_0" / "relay_reports"


def test_reports_that_would_go_to_a_remote_directory_are_warned_of() -> None:
    with pytest.warns(UserWarning, match=r"not saved to 's3://runs/own/version_3', unless dirp"):
        assert len(fit(Keeping("s3://runs")).reports) == 1


def test_an_error_in_one_logger_costs_the_others_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = TensorBoardLogger(tmp_path / "a"), TensorBoardLogger(tmp_path / "b")

    def fail(*_: Any, **__: Any) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(first.experiment, "add_image", fail)
    drawn: list[str] = []
    monkeypatch.setattr(second.experiment, "add_image", lambda tag, *_, **__: drawn.append(tag))
    with pytest.warns(UserWarning, match="failed while logging images, .*no space left"):
        fit(first, second)
    assert "relay/rnn.l0/joint/relay_share" in drawn
    assert len(load_reports(first.log_dir).relay) == 1


@pytest.mark.parametrize("is_first", [True, False])
def test_an_error_of_a_logger_in_the_first_process_is_one_of_all(is_first: bool) -> None:
    class Failing(Keeping):
        @property
        def log_dir(self) -> str:
            raise ConnectionError("no network")

    told: list[Any] = []
    answers = {
        True: lambda own: told.append(own) or own,
        False: lambda own: (None, "process 0: no"),
    }
    trainer: Any = SimpleNamespace(
        fast_dev_run=False,
        is_global_zero=is_first,
        loggers=[Failing()],
        strategy=SimpleNamespace(broadcast=answers[is_first]),
    )
    with pytest.raises(ConnectionError if is_first else OtherProcessError, match="no"):
        report_directory(trainer, None, "relay_reports")
    assert told == [(None, "process 0: ConnectionError: no network")] * is_first


def test_random_numbers_that_a_logger_draws_are_not_those_of_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    following = []
    for draws in (False, True):
        logger, drawn = TensorBoardLogger(tmp_path, version=int(draws)), []

        def draw(*_: Any, draws: bool = draws, drawn: list[Any] = drawn, **__: Any) -> None:
            drawn += [random.random(), torch.rand(1), np.random.rand()] if draws else []  # noqa: NPY002

        monkeypatch.setattr(logger.experiment, "add_image", draw)
        seed_everything(1)
        fit(logger)
        assert bool(drawn) is draws
        following.append([random.random(), torch.rand(1).item(), np.random.rand()])  # noqa: NPY002
    assert following[0] == following[1]


def test_loggers_of_both_packages_are_known(tmp_path: Path) -> None:
    separate = pytest.importorskip("pytorch_lightning", reason="it need not be installed")
    for package in (lightning.pytorch, separate):
        assert shower_of(package.loggers.TensorBoardLogger(tmp_path)) is not None
        assert shower_of(package.loggers.CSVLogger(tmp_path)) is None


def test_several_callbacks_save_beside_each_other(tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path)
    callbacks = [RelayInformationCallback(), KnockoutCallback()]
    quiet_trainer(*callbacks, logger=logger).validate(Classifier(), loader(), verbose=False)
    assert repr(load_reports(logger.log_dir)) == "RunReports: 1 relay, 1 knock-out"
