"""What knock-outs log, save and keep in their state."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_relay import (
    AlongOrder,
    KnockoutCallback,
    KnockoutReport,
    Mean,
    RelayInformationCallback,
)
from tests.support.ablation import (
    UNITS,
    assert_report,
    batches,
    lively,
    refused_before_training,
    validated,
)
from tests.support.models import Classifier, loader
from tests.support.reports import assert_equal
from tests.support.training import quiet_trainer

if TYPE_CHECKING:
    import pytest


def test_scalars_pictures_table_and_report_of_each_epoch(tmp_path: Path) -> None:
    relay = RelayInformationCallback(stages=["validate"])
    callback = KnockoutCallback()
    trainer = quiet_trainer(relay, callback, logger=TensorBoardLogger(tmp_path), max_epochs=2)
    trainer.fit(Classifier(), loader(), loader())
    events = EventAccumulator(str(trainer.log_dir), size_guidance={"images": 0, "tensors": 0})
    events.Reload()
    tags = events.Tags()
    assert {
        "knockout/accuracy",
        "knockout/rnn.l0/largest_damage",
        "knockout/rnn.l0/mean_damage",
    } <= set(tags["scalars"])
    assert [len(report.sets) for report in callback.reports] == [UNITS] * 2
    assert [event.step for event in events.Images("knockout/damage")] == [3, 6]
    assert "knockout/knockout_table/text_summary" in tags["tensors"]
    damage = [report.accuracy.damage for report in callback.reports if report.accuracy is not None]
    largest = [event.value for event in events.Scalars("knockout/rnn.l0/largest_damage")]
    np.testing.assert_allclose(largest, [own.max() for own in damage], atol=1e-6)
    mean = [event.value for event in events.Scalars("knockout/rnn.l0/mean_damage")]
    np.testing.assert_allclose(mean, [own.mean() for own in damage], atol=1e-6)
    saved = sorted(Path(str(trainer.log_dir), "knockout_reports").iterdir())
    assert [path.name for path in saved] == [
        "knockout-validate-epoch=0-step=3.npz",
        "knockout-validate-epoch=1-step=6.npz",
    ]
    for path, report in zip(saved, callback.reports, strict=True):
        assert_equal(KnockoutReport.load(path), report)


def test_scalars_can_be_monitored(tmp_path: Path) -> None:
    stopping = EarlyStopping("knockout/accuracy", mode="min", patience=1)
    callback = KnockoutCallback()
    trainer = quiet_trainer(
        callback, stopping, max_epochs=20, logger=CSVLogger(tmp_path), log_every_n_steps=1
    )
    trainer.fit(Classifier(), loader(), loader())
    assert 2 <= len(callback.reports) < 20


def test_without_a_logger_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    validated(Classifier(), KnockoutCallback())
    options = {"fast_dev_run": True}
    quiet_trainer(KnockoutCallback(dirpath="here"), **options).fit(Classifier(), loader(), loader())
    assert list(tmp_path.iterdir()) == []
    validated(Classifier(), KnockoutCallback(dirpath="here"))
    validated(Classifier(), KnockoutCallback(dirpath="here"))
    assert sorted(path.name for path in Path("here").iterdir()) == [
        "knockout-validate-epoch=0-step=0-v1.npz",
        "knockout-validate-epoch=0-step=0.npz",
    ]


def test_the_newest_report_is_the_state() -> None:
    callback = KnockoutCallback()
    assert callback.state_dict() == {}
    quiet_trainer(callback).fit(Classifier(), loader(), loader())
    again = KnockoutCallback()
    again.load_state_dict(callback.state_dict())
    assert len(again.reports) == 1
    assert_equal(again.reports[0], callback.reports[-1])
    again.load_state_dict(callback.state_dict())  # those there are stay
    assert len(again.reports) == 1
    assert KnockoutCallback(AlongOrder()).state_key != callback.state_key
    assert KnockoutCallback(value=0.5).state_key != callback.state_key
    assert KnockoutCallback().state_key == callback.state_key
    of_states = [KnockoutCallback(value=Mean(lengths=lambda batch: batch[1])) for _ in range(2)]
    assert of_states[0].state_key == of_states[1].state_key  # in another process, too
    twin = pickle.loads(pickle.dumps(callback))
    assert_equal(twin.reports[-1], callback.reports[-1])


def test_two_callbacks_take_prefixes_of_their_own() -> None:
    message = "prefix: two callbacks log under 'same'; give one of them another prefix"
    for other in (
        KnockoutCallback(value=1, prefix="same"),
        RelayInformationCallback(prefix="same"),
    ):
        refused_before_training(KnockoutCallback(prefix="same"), message, other)
    model = lively(Classifier)
    callbacks = [KnockoutCallback(), KnockoutCallback(value=0.5, prefix="half")]
    trainer = validated(model, *callbacks)
    for callback, value in zip(callbacks, (0, 0.5), strict=True):
        assert_report(callback.reports[0], model, batches(), value=value)
    assert {"knockout/accuracy", "half/accuracy"} <= set(trainer.callback_metrics)
