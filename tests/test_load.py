import dataclasses
import json
import os
from pathlib import Path

import numpy as np
import pytest

from lightning_relay import RunReports, load_reports
from tests.support.knockouts import small_knockouts
from tests.support.reports import assert_equal, small_report


def test_reports_of_a_run_come_in_the_order_of_its_steps(tmp_path: Path) -> None:
    relay, knockout = small_report(), small_knockouts()
    (tmp_path / "relay_reports").mkdir()
    for step, stage in ((100, "test"), (100, "validate"), (20, "validate"), (3, "validate")):
        dated = dataclasses.replace(relay, global_step=step, stage=stage)
        dated.save(tmp_path / "relay_reports" / f"relay-{stage}-epoch=0-step={step}.npz")
    relay.save(tmp_path / "other-validate-epoch=0-step=7.npz")
    knockout.save(tmp_path / "knockout-test-epoch=0-step=9.npz")
    np.savez(tmp_path / "relay-arrays.npz", header=np.zeros(2))
    np.savez(tmp_path / "relay-more.npz", values=np.zeros(2))
    for number, header in enumerate((["one", "two"], "one, two", "3", "null", '"format"', "{}")):
        np.savez(tmp_path / f"relay-data{number}.npz", header=np.array(header))
    (tmp_path / "relay-text.npz").write_text("text")
    found = load_reports(tmp_path)
    assert [report.global_step for report in found.relay] == [None, 3, 20, 100, 100]
    assert [report.stage for report in found.relay[3:]] == ["validate", "test"]
    assert_equal(found.relay[0], relay)
    assert len(found.knockout) == 1
    assert_equal(found.knockout[0], knockout)
    found = load_reports(str(tmp_path), "relay")
    assert [report.global_step for report in found.relay] == [3, 20, 100, 100]
    assert found.knockout == ()
    assert repr(found) == "RunReports: 4 relay, 0 knock-out"


def test_what_is_no_file_is_skipped(tmp_path: Path) -> None:
    small_report().save(tmp_path / "relay-validate-epoch=0-step=3.npz")
    (tmp_path / "relay-validate-epoch=1-step=6.npz").mkdir()
    (tmp_path / "relay-gone.npz").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "relay-pipe.npz")  # it would wait for a writer
    assert len(load_reports(tmp_path).relay) == 1


def test_reports_of_several_runs_are_not_mixed(tmp_path: Path) -> None:
    relay, knockout = small_report(), small_knockouts()
    for run in ("one", "two"):
        for kind, report in (("relay", relay), ("knockout", knockout)):
            folder = tmp_path / run / f"{kind}_reports"
            folder.mkdir(parents=True)
            report.save(folder / f"{kind}-validate-epoch=0-step=1.npz")  # type: ignore[attr-defined]
    with pytest.raises(
        ValueError, match=r"log_dir: got '.*' with reports of 2 runs; it takes one of '.*one', '.*t"
    ):
        load_reports(tmp_path)
    assert repr(load_reports(tmp_path / "two")) == "RunReports: 1 relay, 1 knock-out"


def test_where_there_is_no_report_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"log_dir: no directory '.*nothing'"):
        load_reports(tmp_path / "nothing")
    with pytest.raises(
        FileNotFoundError, match=r"no report 'relay-\*.npz' under .*; name the dire"
    ):
        load_reports(tmp_path, "relay")
    np.savez(tmp_path / "relay-test-epoch=0-step=1.npz", header=np.array(json.dumps({"format": 1})))
    with pytest.raises(ValueError, match=r"step=1.npz' is of another format than 11; load it with"):
        load_reports(tmp_path, "relay")


@pytest.mark.parametrize("prefix", ["relay", "relay-late", "relay/late", "a[1]*"])
def test_a_prefix_is_that_of_the_callback_to_the_letter(tmp_path: Path, prefix: str) -> None:
    relay = small_report()
    names = ["relay", "relay-late", "relay-later", "a1", "a[1]*"]
    for step, name in enumerate(names):
        stamped = dataclasses.replace(relay, global_step=step)
        stamped.save(tmp_path / f"{name}-validate-epoch=0-step={step}.npz")
    found = load_reports(tmp_path, prefix)
    assert [report.global_step for report in found.relay] == [names.index(prefix.replace("/", "-"))]


def evaluations(*of: tuple[int | None, int, str]) -> RunReports:
    """Reports of evaluations, by epoch, optimizer step and stage."""
    report = small_report()
    return RunReports(
        tuple(
            dataclasses.replace(report, epoch=epoch, global_step=step, stage=stage)
            for epoch, step, stage in of
        ),
        (),
    )


def test_a_run_is_drawn_over_its_epochs_without_its_tests() -> None:
    runs = evaluations((0, 10, "validate"), (2, 30, "validate"), (2, 30, "test"))
    figure = runs.figure("history", unit=1)
    assert figure.layout.xaxis.title.text == "epoch"
    (unit,) = (own for own in figure.data if own.name == "unit 1")
    assert list(unit.x) == [0, 2]
    assert unit.y[0] == runs.relay[0]["rnn.l0"]["joint"].share[-1, 1]


def test_several_evaluations_of_an_epoch_are_drawn_over_optimizer_steps() -> None:
    figure = evaluations((0, 10, "validate"), (0, 20, "validate")).figure("history")
    assert figure.layout.xaxis.title.text == "optimizer steps"
    assert list(figure.data[0].x) == [10, 20]


def test_a_history_that_cannot_be_drawn_says_why() -> None:
    runs = evaluations((0, 10, "validate"), (0, 10, "validate"))
    with pytest.raises(ValueError, match=r"got two of optimizer steps 10; .*prefix="):
        runs.figure("history")
    with pytest.raises(ValueError, match="no relay report of validation, dataloader 1, among 2"):
        runs.figure("history", dataloader=1)
    with pytest.raises(KeyError, match="no figure 'share'"):
        runs.figure("share")  # type: ignore[arg-type]
