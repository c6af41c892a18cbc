"""Runs that are resumed: their reports go on, in memory and on disk."""

from __future__ import annotations

import logging
import shutil
from typing import TYPE_CHECKING, Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger

from lightning_relay import (
    AlongOrder,
    KnockoutCallback,
    RelayInformationCallback,
    RelayMeasure,
    load_reports,
)
from lightning_relay.callbacks import reporting_callback
from tests.support.models import Classifier, loader
from tests.support.reports import assert_equal
from tests.support.training import quiet_trainer

if TYPE_CHECKING:
    from pathlib import Path

MEASURE = RelayMeasure(n_orders=0, n_splits=0)

pytestmark = [
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* is not empty"),
    pytest.mark.filterwarnings("ignore:The dirpath has changed from"),
]


def relay(**options: Any) -> RelayInformationCallback:
    return RelayInformationCallback(**({"measure": MEASURE} | options))


def both(**options: Any) -> tuple[RelayInformationCallback, KnockoutCallback]:
    return relay(**options), KnockoutCallback(AlongOrder(n_random=1), **options)


def fit(
    root: Path, *callbacks: Callback, epochs: int, resumed: str | None = None, **options: Any
) -> Trainer:
    """A run in the next version directory; its checkpoints are ``{version}-{epoch}.ckpt``."""
    logger = CSVLogger(root) if options.pop("saving", True) else False
    version = logger.version if logger else "unsaved"
    checkpoints = ModelCheckpoint(
        root, f"{version}-{{epoch}}", save_top_k=-1, auto_insert_metric_name=False
    )
    trainer = quiet_trainer(
        *callbacks,
        checkpoints,
        logger=logger,
        max_epochs=epochs,
        enable_checkpointing=True,
        num_sanity_val_steps=0,
        **options,
    )
    path = None if resumed is None else root / f"{resumed}.ckpt"
    trainer.fit(Classifier(), loader(), loader(), ckpt_path=path, weights_only=True)
    return trainer


def of_version(root: Path, version: int) -> Path:
    return root / "lightning_logs" / f"version_{version}"


def epochs_of(reports: Any) -> list[int]:
    return [report.epoch for report in reports]


def test_a_run_resumed_twice_has_the_whole_history(tmp_path: Path) -> None:
    first = both()
    fit(tmp_path, *first, epochs=4)
    second = both()
    fit(tmp_path, *second, epochs=4, resumed="0-2")
    assert epochs_of(second[0].reports) == [0, 1, 2, 3]
    for callback, before in zip(second, first, strict=True):
        expected = [report for report in before.reports if report.epoch <= 2]
        assert len(callback.reports) == len(expected) + 1
        for own, other in zip(callback.reports, expected, strict=False):
            assert_equal(own, other)
    third = both()
    trainer = fit(tmp_path, *third, epochs=5, resumed="1-3")
    assert epochs_of(third[0].own_reports) == [0, 1, 2, 3, 4]
    assert [(one.epoch, one.relay_epoch) for one in third[1].own_reports] == [
        (1, 0),
        (2, 1),
        (3, 2),
        (4, 3),
    ]
    model = trainer.lightning_module
    trainer.test(model, loader(), ckpt_path=tmp_path / "0-1.ckpt", verbose=False)
    trainer.validate(model, loader(), ckpt_path=tmp_path / "0-1.ckpt", verbose=False)
    stages = ["validate"] * 5 + ["test", "validate"]
    assert [report.stage for report in third[0].reports] == stages
    found = load_reports(of_version(tmp_path, 2))
    assert epochs_of(found.relay)[:5] == [0, 1, 2, 3, 4]
    assert epochs_of(found.knockout)[:4] == [1, 2, 3, 4]
    assert len(found.relay) == 7
    assert found.notes == ()
    for own, other in zip(found.relay, third[0].reports[:5], strict=False):
        assert_equal(own, other)
    assert epochs_of(load_reports(of_version(tmp_path, 0), "relay").relay) == [0, 1, 2, 3]
    # All of it may be moved.
    shutil.move(tmp_path / "lightning_logs", tmp_path / "elsewhere")
    assert len(load_reports(tmp_path / "elsewhere" / "version_2").relay) == 7


def test_only_the_newest_are_read_again_over_all_directories(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reporting_callback, "KEPT", 3)
    fit(tmp_path, relay(), epochs=3)
    fit(tmp_path, relay(), epochs=4, resumed="0-2")
    third = relay()
    fit(tmp_path, third, epochs=4, resumed="1-3")
    assert epochs_of(third.reports) == [1, 2, 3]
    assert not (of_version(tmp_path, 2) / "relay_reports").exists()  # nothing was left to train
    fit(tmp_path, third, epochs=5, resumed="1-3")
    assert epochs_of(third.reports) == [2, 3, 4]
    assert epochs_of(load_reports(of_version(tmp_path, 3)).relay) == [0, 1, 2, 3, 4]


def test_attempts_in_one_directory_are_told_apart(tmp_path: Path) -> None:
    reports = tmp_path / "reports"
    trainer = fit(tmp_path, *both(dirpath=reports), epochs=4)
    trainer.test(trainer.lightning_module, loader(), verbose=False)
    fit(
        tmp_path, *both(dirpath=reports), epochs=5, resumed="0-3"
    )  # nothing lies there from after this checkpoint
    assert [path for path in reports.iterdir() if path.suffix != ".npz"] == []
    again = both(dirpath=reports)
    trainer = fit(tmp_path, *again, epochs=3, resumed="0-1")
    assert sorted(path.name for path in (reports / "resumed_1").iterdir()) == [
        "knockout-resumed_from.json",
        "knockout-validate-epoch=2-step=9.npz",
        "relay-resumed_from.json",
        "relay-validate-epoch=2-step=9.npz",
    ]
    assert epochs_of(again[0].reports) == [0, 1, 2]
    trainer.test(trainer.lightning_module, loader(), verbose=False)
    found = load_reports(reports)
    assert [(one.epoch, one.stage) for one in found.relay] == [
        *((epoch, "validate") for epoch in range(3)),
        (3, "test"),
    ]
    assert_equal(found.relay[2], again[0].reports[2])
    assert_equal(found.knockout[1], again[1].reports[1])
    assert len(found.notes) == 2
    assert found.notes[0].startswith(
        "4 reports left out: of other runs or attempts that saved in t"
    )
    assert repr(found).startswith("RunReports: 4 relay, 3 knock-out\n4 reports left out")
    # The first attempt goes on from its end, and then is the last.
    fit(tmp_path, *both(dirpath=reports), epochs=6, resumed="1-4")
    found = load_reports(reports, "relay")
    assert epochs_of(found.relay) == [0, 1, 2, 3, 4, 4, 5]  # with the test after epoch 3
    assert [path.name for path in (reports / "resumed_2").glob("relay*.npz")] == [
        "relay-validate-epoch=5-step=18.npz"
    ]
    assert found.notes[0].startswith("2 reports left out")
    # Another goes on in the directory of the last.
    fit(tmp_path, *both(dirpath=reports), epochs=7, resumed="3-5")
    assert epochs_of(load_reports(reports, "relay").relay) == [0, 1, 2, 3, 4, 4, 5, 6]
    assert not (reports / "resumed_3").exists()
    # A new run does not mix with them.
    fit(tmp_path, relay(dirpath=reports), epochs=1)
    found = load_reports(reports, "relay")
    assert epochs_of(found.relay) == [0]
    assert found.notes[0].startswith("10 reports left out")
    assert len(load_reports(reports / "resumed_2", "relay").relay) == 8


def test_reports_that_are_gone_are_told_and_not_an_error(tmp_path: Path) -> None:
    fit(tmp_path, *both(), epochs=3)
    fit(tmp_path, *both(), epochs=4, resumed="0-2")
    shutil.rmtree(of_version(tmp_path, 0))
    with pytest.warns(UserWarning, match="before a resume are missing: '.*version_0.* was moved"):
        found = load_reports(of_version(tmp_path, 1), "relay")
    assert epochs_of(found.relay) == [3]
    assert found.notes[0].startswith("reports from before a resume are missing")
    own = both()
    with (
        pytest.warns(UserWarning, match="2 of the 3 newest relay reports .*: '.*version_0.*'"),
        pytest.warns(UserWarning, match="1 of the 2 newest knock-out reports .*: '.*version_0.*'"),
    ):
        fit(tmp_path, *own, epochs=4, resumed="0-2")
    assert epochs_of(own[0].reports) == epochs_of(own[1].reports) == [2, 3]


def test_reports_of_another_run_at_the_same_place_are_not_taken(tmp_path: Path) -> None:
    fit(tmp_path, relay(), epochs=2)
    own = relay()
    shutil.rmtree(of_version(tmp_path, 0))
    fit(tmp_path / "other", relay(), epochs=2)
    shutil.move(of_version(tmp_path / "other", 0), of_version(tmp_path, 0))
    with pytest.warns(UserWarning, match="1 of the 2 newest relay reports .* moved, deleted or c"):
        fit(tmp_path, own, epochs=3, resumed="0-1")
    assert epochs_of(own.reports) == [1, 2]


def test_a_damaged_report_is_left_out_of_a_history(tmp_path: Path) -> None:
    fit(tmp_path, relay(), epochs=3)
    (path,) = of_version(tmp_path, 0).rglob("*epoch=0-*.npz")
    path.write_bytes(path.read_bytes()[:-40])
    own = relay()
    with pytest.warns(UserWarning, match="1 of the 3 newest relay .*epoch=0.* holds no relay"):
        fit(tmp_path, own, epochs=4, resumed="0-2")
    assert epochs_of(own.reports) == [1, 2, 3]
    with pytest.warns(UserWarning, match="1 report from before a resume cannot be read: path: "):
        found = load_reports(of_version(tmp_path, 1))
    assert epochs_of(found.relay) == [1, 2, 3]


def test_reports_moved_together_with_their_checkpoint_are_found(tmp_path: Path) -> None:
    fit(tmp_path / "here", relay(), epochs=2)
    run = tmp_path / "there" / "run"
    shutil.move(of_version(tmp_path / "here", 0), run)
    (run / "checkpoints").mkdir()
    shutil.move(tmp_path / "here" / "0-1.ckpt", run / "checkpoints" / "last.ckpt")
    own = relay()
    fit(run / "checkpoints", own, epochs=3, resumed="last")
    assert epochs_of(own.reports) == [0, 1, 2]
    assert epochs_of(load_reports(of_version(run / "checkpoints", 0)).relay) == [0, 1, 2]


def test_what_was_not_saved_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fit(tmp_path, *both(), epochs=3, saving=False)
    fresh = both()
    with caplog.at_level(logging.INFO):
        fit(tmp_path, *fresh, epochs=3, resumed="unsaved-1", saving=False)
    assert (
        "1 of the 2 newest relay reports from before the checkpoint are not in the callback's "
        "reports: they were not saved" in caplog.messages
    )
    assert epochs_of(fresh[0].reports) == [1, 2]


def test_reports_after_the_checkpoint_leave_the_callback_that_made_them(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model, own = Classifier(), both()
    checkpoints = ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1)
    for path in (None, tmp_path / "epoch=1.ckpt"):
        trainer = quiet_trainer(*own, checkpoints, max_epochs=4, enable_checkpointing=True)
        with caplog.at_level(logging.INFO):
            trainer.fit(model, loader(), loader(), ckpt_path=path, weights_only=True)
        assert epochs_of(own[0].reports) == [0, 1, 2, 3]
        assert epochs_of(own[1].reports) == [1, 2, 3]
    assert [one for one in caplog.messages if "reports that the run has not had at" in one] == [
        f"2 {kind} reports that the run has not had at the checkpoint are no longer in the "
        "callback's reports."
        for kind in ("relay", "knock-out")
    ]


def test_a_callback_with_other_options_begins_anew_and_says_which(tmp_path: Path) -> None:
    fit(tmp_path, *both(), epochs=2)
    other = relay(measure=RelayMeasure(n_orders=4, n_splits=0), layers="all"), both()[1]
    with (
        pytest.warns(UserWarning, match="callbacks used to create the checkpoint need"),
        pytest.warns(UserWarning, match=r"'relay' begin anew: .* options \(layers=, measure=\)"),
    ):
        fit(tmp_path, *other, epochs=3, resumed="0-1")
    assert epochs_of(other[0].reports) == [2]
    assert epochs_of(other[1].reports) == [1]  # it follows a report, and 'relay' has none yet
    assert epochs_of(load_reports(of_version(tmp_path, 1)).relay) == [2]


def test_a_callback_that_is_new_in_a_resumed_run_begins_there(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fit(tmp_path, relay(dirpath=tmp_path / "reports"), epochs=2)
    added = relay(prefix="new", dirpath=tmp_path / "reports")
    with caplog.at_level(logging.INFO):
        old = relay(dirpath=tmp_path / "reports")
        fit(tmp_path, old, added, epochs=3, resumed="0-1")
    assert (
        caplog.messages.count(
            "The relay reports 'new' begin anew: the checkpoint has no state of this callback."
        )
        == 1
    )
    assert epochs_of(old.reports) == [0, 1, 2]
    assert epochs_of(added.reports) == [2]
    assert epochs_of(load_reports(tmp_path / "reports", "new").relay) == [2]
    assert len(load_reports(tmp_path / "reports").relay) == 4


def test_a_callback_that_a_resumed_run_lacks_costs_nothing(tmp_path: Path) -> None:
    fit(tmp_path, *both(), epochs=2)
    own = relay()
    with pytest.warns(UserWarning, match="need to be provided.*KnockoutCallback"):
        fit(tmp_path, own, epochs=3, resumed="0-1")
    assert epochs_of(own.reports) == [0, 1, 2]
    found = load_reports(of_version(tmp_path, 1))
    assert (len(found.relay), len(found.knockout)) == (3, 0)


@pytest.mark.parametrize("kind", [RelayInformationCallback, KnockoutCallback])
@pytest.mark.parametrize("options", [{"target": 7}, {"concepts": {"odd": lambda label: [label]}}])
def test_wrong_arguments_of_a_new_callback_end_a_resumed_run_at_once(
    tmp_path: Path, kind: Any, options: dict[str, Any]
) -> None:
    path, epochs = tmp_path / "within.ckpt", []

    class Watching(Callback):
        def on_train_epoch_end(self, trainer: Trainer, *_: Any) -> None:
            epochs.append(trainer.current_epoch)

    within_an_epoch = ModelCheckpoint(tmp_path, "within", every_n_train_steps=5)
    quiet_trainer(within_an_epoch, enable_checkpointing=True).fit(Classifier(), loader(), loader())
    trainer = quiet_trainer(kind(**options), Watching(), max_epochs=5)
    with (
        pytest.warns(UserWarning, match="callbacks used to create|ended before the epoch ended"),
        pytest.raises((ValueError, TypeError), match=f"^{next(iter(options))}: "),
    ):
        trainer.fit(Classifier(), loader(), loader(), ckpt_path=path)
    assert epochs == []


def test_a_checkpoint_holds_one_report_and_where_it_is_saved(tmp_path: Path) -> None:
    callbacks = both()
    fit(tmp_path, *callbacks, epochs=4)
    for callback in callbacks:
        states = [
            torch.load(tmp_path / f"0-{epoch}.ckpt", weights_only=True)["callbacks"]
            for epoch in (1, 3)
        ]
        (first, last) = (state[callback.state_key] for state in states)
        assert list(first) == list(last) == ["newest_report", "reports", "saved_as", "checksum"]
        assert last["reports"] == first["reports"] + 2


def test_reports_that_the_user_clears_do_not_hide_new_ones(tmp_path: Path) -> None:
    own = relay()
    fit(tmp_path, own, epochs=2)
    fit(tmp_path, own, epochs=1)  # another model
    own.reports.clear()
    assert own.own_reports == []
    fit(tmp_path, own, epochs=2)
    assert epochs_of(own.own_reports) == epochs_of(own.reports) == [0, 1]
