"""Where reports are saved: checked before training, and no reason to end it."""

from __future__ import annotations

import errno
import io
import os
import pathlib
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from lightning_relay import (
    AlongOrder,
    KnockoutCallback,
    RelayInformationCallback,
    RelayMeasure,
    RelayReport,
)
from lightning_relay.callbacks import reporting_callback
from lightning_relay.callbacks.saving import check_can_save
from tests.support.models import Classifier, loader
from tests.support.reports import assert_equal, small_report
from tests.support.training import quiet_trainer

if TYPE_CHECKING:
    from pathlib import Path

CALLBACKS = [RelayInformationCallback, KnockoutCallback]


def fit(callback: Any, **options: Any) -> Classifier:
    model = Classifier()
    quiet_trainer(callback, **options).fit(model, loader(), loader())
    return model


@pytest.mark.parametrize("kind", CALLBACKS)
def test_a_full_disk_costs_the_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Any
) -> None:
    torch.manual_seed(0)
    expected = fit(kind(dirpath=tmp_path / "expected"))
    assert len(list((tmp_path / "expected").iterdir())) == 2

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(pathlib.Path, "hardlink_to", full)
    monkeypatch.setattr(pathlib.Path, "replace", full)
    callback = kind(dirpath=tmp_path / "full")
    torch.manual_seed(0)
    with pytest.warns(UserWarning, match="A report was not saved") as warned:
        model = fit(callback)
    assert [str(one.message) for one in warned if "saved" in str(one.message)] == [
        "A report was not saved: No space left on device. It is kept in the callback's reports; "
        "training goes on. Make room, or choose another directory with dirpath="
    ]
    assert [report.epoch for report in callback.reports] == [0, 1]
    assert list((tmp_path / "full").iterdir()) == []
    for mine, theirs in zip(model.parameters(), expected.parameters(), strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("kind", CALLBACKS)
def test_a_directory_that_cannot_be_written_is_refused_before_training(
    tmp_path: Path, kind: Any
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(
        ValueError, match=r"dirpath: reports cannot be saved in '.*sub' \(Not a directory\); name a"
    ):
        fit(kind(dirpath=tmp_path / "file" / "sub"))
    with pytest.raises(
        ValueError, match=r"dirpath: reports cannot be saved in '.*file' \(File exists\); name a"
    ):
        fit(kind(dirpath=tmp_path / "file"))


def test_a_directory_without_permission_to_write_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(*_: Any) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(pathlib.Path, "touch", denied)
    with pytest.raises(
        ValueError, match=r"dirpath: .* in '.*new' \(Permission denied\); name a dir"
    ):
        fit(RelayInformationCallback(dirpath=tmp_path / "new"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", CALLBACKS)
@pytest.mark.parametrize("prefix", ["a" * 250, "a\0b"])
def test_a_prefix_that_names_no_file_is_refused_before_training(
    tmp_path: Path, kind: Any, prefix: str
) -> None:
    with pytest.raises(ValueError, match=r"prefix: got .*, and no file of that name can be writte"):
        fit(kind(dirpath=tmp_path / "new" / "sub", prefix=prefix))
    assert list(tmp_path.iterdir()) == []
    assert len(kind(prefix=prefix).prefix) == len(prefix)


@pytest.mark.parametrize("kind", CALLBACKS)
@pytest.mark.parametrize("dirpath", [3, True, b"reports", ["reports"]])
def test_what_is_no_path_is_refused_in_the_constructor(kind: Any, dirpath: Any) -> None:
    with pytest.raises(TypeError, match=r"dirpath: got .*; it takes the path of a directory, or N"):
        kind(dirpath=dirpath)


@pytest.mark.parametrize("kind", CALLBACKS)
def test_a_remote_directory_is_refused_in_the_constructor(kind: Any) -> None:
    with pytest.raises(ValueError, match="dirpath: got 's3://bucket/a'; it takes the path of a lo"):
        kind(dirpath="s3://bucket/a")


@pytest.mark.parametrize("name", ["nul\0", "\ud800", "a" * 300])
def test_a_directory_that_no_name_can_have_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=r"^dirpath: reports cannot be saved in "):
        fit(RelayInformationCallback(dirpath=tmp_path / name / "sub"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", CALLBACKS)
@pytest.mark.parametrize("options", [{"prefix": "\udc80"}, {"concepts": {"\udc80": bool}}])
def test_names_that_no_logger_can_write_are_refused(kind: Any, options: dict[str, Any]) -> None:
    (argument,) = options
    told = rf"{argument}: got '\\udc80'; it takes text that can be written in UTF-8 \(surr"
    with pytest.raises(ValueError, match=told):
        kind(**options)


def test_the_probe_leaves_nothing(tmp_path: Path) -> None:
    check_can_save(tmp_path / "new" / "sub", "a/relay")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "mine").write_text("text")
    check_can_save(tmp_path / "old", "relay")
    assert [path.name for path in tmp_path.rglob("*")] == ["old", "mine"]


def test_a_directory_that_another_run_tries_and_removes_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own_touch, tries = pathlib.Path.touch, []

    def touch(path: Path) -> None:
        tries.append(path)
        if len(tries) < 3:
            path.parent.rmdir()
        own_touch(path)

    monkeypatch.setattr(pathlib.Path, "touch", touch)
    check_can_save(tmp_path / "new", "relay")
    assert len(tries) == 3
    assert list(tmp_path.iterdir()) == []


def test_a_directory_is_only_tried_where_reports_will_be_saved(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    callback = RelayInformationCallback(dirpath=tmp_path / "file", stages=["test"])
    fit(callback)
    fit(RelayInformationCallback(dirpath=tmp_path / "file"), fast_dev_run=True)
    with pytest.raises(ValueError, match="dirpath: reports cannot be saved in"):
        quiet_trainer(callback).test(Classifier(), loader(), verbose=False)


def state_of(data: bytes) -> dict[str, Any]:
    return {"newest_report": torch.frombuffer(bytearray(data), dtype=torch.uint8)}


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda data: older(), "is of another format than 11"),
        (lambda data: data[:-30], "holds no relay report"),
        (lambda data: data[:900] + b"many bytes" + data[910:], "holds a damaged relay report"),
        (lambda data: b"a", "holds no relay report"),
    ],
)
def test_a_report_in_a_checkpoint_that_cannot_be_read_is_left_out(make: Any, words: str) -> None:
    file = io.BytesIO()
    small_report().save(file)
    callback = RelayInformationCallback()
    with pytest.warns(UserWarning, match="The newest relay report in the checkpoint is lost") as w:
        callback.load_state_dict(state_of(make(file.getvalue())))
    assert words in str(w[0].message)
    assert callback.reports == []
    callback.load_state_dict(state_of(file.getvalue()))
    assert_equal(callback.reports[0], small_report())


def older() -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, header=np.array('{"format": 7, "layers": {}}'), a=np.zeros(3))
    return file.getvalue()


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* is not empty")
def test_a_run_is_resumed_without_a_report_of_an_older_format(tmp_path: Path) -> None:
    callback = RelayInformationCallback()
    path = tmp_path / "last.ckpt"
    trainer = quiet_trainer(callback)
    trainer.fit(Classifier(), loader(), loader())
    trainer.save_checkpoint(path)
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["callbacks"][callback.state_key] = state_of(older())
    torch.save(checkpoint, path)
    resumed = RelayInformationCallback()
    with pytest.warns(UserWarning, match="checkpoint is lost, and what ranks units by it begins"):
        quiet_trainer(resumed, max_epochs=4).fit(Classifier(), loader(), loader(), ckpt_path=path)
    assert [report.epoch for report in resumed.reports] == [2, 3]


@pytest.mark.parametrize(
    "saved", ["text", torch.zeros(3, dtype=torch.bfloat16), torch.ones(2, requires_grad=True)]
)
def test_a_state_that_holds_no_bytes_is_left_out(saved: Any) -> None:
    callback = KnockoutCallback()
    with pytest.warns(UserWarning, match="The newest knock-out report in the checkpoint is lost"):
        callback.load_state_dict({"newest_report": saved})
    assert callback.reports == []


def test_any_text_names_a_concept_of_a_saved_report(tmp_path: Path) -> None:
    names = ["nul\0", "a/b", "a\\b", "%2F", "~", "x" * 70_000, "samples", "latent"]
    concepts = {name: lambda label: label % 2 for name in names}
    callback = RelayInformationCallback(concepts=concepts, dirpath=tmp_path)
    quiet_trainer(callback).validate(Classifier(), loader(), verbose=False)
    (path,) = tmp_path.iterdir()
    assert_equal(RelayReport.load(path), callback.reports[0])


@pytest.mark.parametrize("saved", [True, False])
def test_the_newest_reports_stay_in_memory_and_all_that_are_not_saved(
    tmp_path: Path, saved: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reporting_callback, "KEPT", 3)
    options: dict[str, Any] = {"dirpath": tmp_path} if saved else {}
    relay = RelayInformationCallback(measure=RelayMeasure(n_orders=0, n_splits=0), **options)
    knockouts = KnockoutCallback(AlongOrder(), **options)
    trainer = quiet_trainer(relay, knockouts, max_epochs=6)
    trainer.fit(Classifier(), loader(), loader())
    epochs = [report.epoch for report in relay.reports]
    assert epochs == ([3, 4, 5] if saved else list(range(6)))
    assert [report.epoch for report in knockouts.reports] == epochs[-5:]
    assert len(relay.own_reports) == len(epochs)
    assert [report.relay_epoch for report in knockouts.reports] == [
        report.epoch - 1 for report in knockouts.reports
    ]
    assert len(list(tmp_path.glob("relay-*.npz"))) == 6 * saved
    other = Classifier()
    quiet_trainer(relay, max_epochs=2).fit(other, loader(), loader())
    assert [report.epoch for report in relay.own_reports] == [0, 1]
