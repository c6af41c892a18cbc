"""Which reports are of one run, and what a note about a resume can make us read."""

from __future__ import annotations

import dataclasses
import json
import os
from typing import TYPE_CHECKING, Any

import pytest

from lightning_relay import load_reports
from lightning_relay.reports.files import checksum_of
from lightning_relay.reports.history import (
    Saved,
    before_resume,
    directory_of_attempt,
    in_order,
    place_of,
    up_to,
)
from tests.support.reports import small_report

if TYPE_CHECKING:
    from pathlib import Path

REPORT = small_report()


def saved(directory: Path, step: int, end: str = "", prefix: str = "relay") -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{prefix}-validate-epoch={step}-step={step}{end}.npz"
    dataclasses.replace(REPORT, epoch=step, global_step=step).save(path)
    return path


def note(directory: Path, about: Any) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    text = about if isinstance(about, str) else json.dumps(about)
    (directory / "relay-resumed_from.json").write_text(text)


def about(path: Path, **others: str) -> dict[str, str | None]:
    return {"path": str(path), "checksum": checksum_of(path), **others}


def test_a_report_that_is_a_link_has_its_history(tmp_path: Path) -> None:
    for step in (1, 2):
        path = saved(tmp_path / "run", step)
        store = tmp_path / f"object{step}"
        path.rename(store)
        path.symlink_to(store)
    newest = tmp_path / "run" / "relay-validate-epoch=2-step=2.npz"
    found = Saved(str(newest), checksum_of(newest) or "").found("relay")
    assert found == newest
    paths, lost = up_to(newest, "relay")
    assert ([path.name for path in paths], lost) == (
        ["relay-validate-epoch=1-step=1.npz", newest.name],
        None,
    )


def test_reports_are_in_the_order_of_their_steps_dataloaders_and_versions(tmp_path: Path) -> None:
    names = [
        "relay-validate-epoch=0-step=9-dataloader_0.npz",
        "relay-validate-epoch=0-step=9-dataloader_1.npz",
        "relay-test-epoch=0-step=9.npz",
        "relay-validate-epoch=1-step=10.npz",
        "relay-validate-epoch=1-step=10-v1.npz",
        "relay-validate-epoch=1-step=10-v2.npz",
        "relay-validate-epoch=1-step=10-v10.npz",
    ]
    for name in sorted([*names, "relay-x-validate-epoch=0-step=9.npz", "relay-other.npz"]):
        (tmp_path / name).touch()
    (tmp_path / "relay-validate-epoch=2-step=11.npz").mkdir()
    assert [path.name for path in in_order(tmp_path, "relay")] == names
    paths, lost = up_to(tmp_path / names[4], "relay")
    assert [path.name for path in paths] == names
    paths, lost = up_to(tmp_path / names[0], "relay")
    assert [path.name for path in paths] == names[:3]
    assert lost is None
    assert place_of(tmp_path / "a-b-validate-epoch=0-step=9.npz", "a/b") == (9, False, 0, 0)
    assert place_of(tmp_path / f"relay-validate-epoch=0-step={'9' * 200}.npz", "relay") is None


def test_notes_that_lead_in_a_circle_end(tmp_path: Path) -> None:
    one, two = saved(tmp_path / "one", 1), saved(tmp_path / "two", 2)
    note(tmp_path / "one", about(two))
    note(tmp_path / "two", about(one))
    paths, lost = before_resume(tmp_path / "two", "relay")
    assert paths == [two, one]
    assert lost is None
    assert len(load_reports(tmp_path / "one").relay) == 3


@pytest.mark.parametrize(
    "about",
    [
        "",
        "[" * 100_000,
        "\udcff".encode("utf-8", "surrogateescape").decode("latin1"),
        " " * 70_000 + "{}",
        [],
        {"path": 3, "checksum": "a"},
        {"path": "a\0b", "checksum": "a"},
        {"checksum": "a"},
        {"path": "/etc/passwd"},
    ],
)
def test_a_note_that_names_no_report_is_none(tmp_path: Path, about: Any) -> None:
    saved(tmp_path, 3)
    note(tmp_path, about)
    assert before_resume(tmp_path, "relay") == ([], None)
    assert len(load_reports(tmp_path).relay) == 1


def test_nothing_but_reports_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path / "run", 3)
    secret = tmp_path / "secret.npz"
    secret.write_bytes(path.read_bytes())
    pipe = tmp_path / "relay-validate-epoch=0-step=1.npz"
    os.mkfifo(pipe)  # to open it would wait for a writer
    for other in (secret, pipe, tmp_path, tmp_path / ("x" * 300)):
        source = Saved(str(other), str(checksum_of(path)))
        assert source.found("relay") is None
        note(tmp_path / "run", {"path": source.path, "checksum": source.checksum})
        with pytest.warns(UserWarning, match="was moved, deleted or changed"):
            assert len(load_reports(tmp_path / "run").relay) == 1
    note(tmp_path / "run", about(path) | {"path": str(pipe), "relative": "../secret.npz"})
    with pytest.warns(UserWarning, match="was moved, deleted or changed"):
        load_reports(tmp_path / "run")


def test_a_report_is_found_beside_its_checkpoint(tmp_path: Path) -> None:
    path = saved(tmp_path / "run" / "relay_reports" / "resumed_1", 3)
    gone = Saved("/nowhere/run/relay_reports/resumed_1/" + path.name, str(checksum_of(path)))
    for checkpoint in ("run/last.ckpt", "run/checkpoints/last.ckpt", "last.ckpt"):
        assert gone.found("relay", gone.beside(tmp_path / checkpoint)) == path
    assert gone.found("relay", gone.beside(None)) is None
    assert gone.found("relay", gone.beside(tmp_path.parent / "last.ckpt")) is None
    changed = dataclasses.replace(gone, checksum="0" * 16)
    assert changed.found("relay", changed.beside(tmp_path / "run" / "last.ckpt")) is None


def test_a_new_attempt_has_a_directory_of_its_own(tmp_path: Path) -> None:
    base = tmp_path / "base"
    assert directory_of_attempt(base, "relay", None, resumed=False) == base
    assert directory_of_attempt(base, "relay", None, resumed=True) == base
    assert list(base.iterdir()) == []
    first, second = (saved(base, step) for step in (1, 2))
    newest = {path: Saved(str(path), str(checksum_of(path))) for path in (first, second)}
    assert directory_of_attempt(base, "relay", newest[second], resumed=True) == base
    first.with_name("relay-test-epoch=3-step=2.npz").touch()  # of the same step
    assert directory_of_attempt(base, "relay", newest[second], resumed=True) == base
    assert directory_of_attempt(base, "relay", None, resumed=False) == base
    assert directory_of_attempt(base, "other", None, resumed=True) == base
    for number in (1, 2):  # also if two begin at once: the second finds the first's note
        own = directory_of_attempt(base, "relay", newest[first], resumed=True)
        assert own == base / f"resumed_{number}"
        assert before_resume(own, "relay") == ([first], None)
    own = directory_of_attempt(base, "relay", None, resumed=False)
    assert own == base / "resumed_3"
    assert before_resume(own, "relay") == ([], None)


def test_several_runs_in_one_directory_are_told(tmp_path: Path) -> None:
    for end in ("", "-v1", "-v2"):
        saved(tmp_path, 1, end)
    found = load_reports(tmp_path)
    assert len(found.relay) == 3
    assert found.notes[0].startswith("2 reports of an evaluation that has another (names with -v1")


def test_a_directory_that_is_a_link_is_followed(tmp_path: Path) -> None:
    path = saved(tmp_path / "real" / "run", 3)
    (tmp_path / "link").symlink_to(tmp_path / "real" / "run")
    source = Saved(str(tmp_path / "link" / path.name), str(checksum_of(path)))
    own = directory_of_attempt(tmp_path / "next", "relay", source, resumed=True)
    (tmp_path / "link").unlink()
    assert before_resume(own, "relay") == ([path], None)
