"""The server of the Relays tab: what it answers, and what it never opens or raises."""

from __future__ import annotations

import base64
import dataclasses
import json
import os
import pickle
import subprocess
import sys
import time
from importlib.metadata import entry_points
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from werkzeug.test import Client, TestResponse

import lightning_relay.tensorboard_plugin.index as index_module
import lightning_relay.tensorboard_plugin.plugin as plugin_module
import lightning_relay.tensorboard_plugin.reading as reading_module
from lightning_relay.ablation.figures import FIGURES as OF_KNOCKOUTS
from lightning_relay.relay.figures import FIGURES
from lightning_relay.reports.figure import to_json
from lightning_relay.reports.files import write
from lightning_relay.tensorboard_plugin.plugin import STATIC, RelaysPlugin
from tests.support.knockouts import small_knockouts
from tests.support.reports import small_report

REPORT = small_report(n_orders=4, n_splits=4, concepts="per_class")


def save(logdir: Path, run: str = "run", epoch: int = 0, **changed: Any) -> Path:
    """A report as the callback saves it."""
    report = dataclasses.replace(
        REPORT, stage="validate", epoch=epoch, global_step=10 * (epoch + 1), **changed
    )
    path = named(logdir, run, epoch)
    report.save(path)
    return path


def named(logdir: Path, run: str = "run", epoch: int = 0) -> Path:
    directory = logdir / run / "relay_reports"
    directory.mkdir(parents=True, exist_ok=True)
    return directory / f"relay-validate-epoch={epoch}-step={10 * (epoch + 1)}.npz"


class Tab:
    """What the tab's page asks the server."""

    def __init__(self, logdir: Path | str) -> None:
        self.plugin = RelaysPlugin(SimpleNamespace(logdir=str(logdir)))
        self.apps = {name: Client(app) for name, app in self.plugin.get_plugin_apps().items()}

    def get(self, route: str, **query: str) -> TestResponse:
        return self.apps[route].get(route, query_string=query)

    def runs(self) -> dict[str, dict[str, list[int]]]:
        """Epochs by run and series."""
        return {
            run["run"]: {
                series["series"]: [one["epoch"] for one in series["reports"]]
                for series in run["series"]
            }
            for run in self.get("/runs").json["runs"]
        }

    def key(self, path: Path, logdir: Path) -> dict[str, str]:
        self.runs()
        return {"run": "run", "report": path.relative_to(logdir).as_posix()}


def unpacked(part: Any) -> Any:
    """Arrays as they were before ``to_json``."""
    if isinstance(part, dict) and "bdata" in part:
        array = np.frombuffer(base64.b64decode(part["bdata"]), part["dtype"])
        shape = part.get("shape", str(array.size)).split(",")
        return array.reshape([int(length) for length in shape])
    if isinstance(part, dict):
        return {name: unpacked(own) for name, own in part.items()}
    return [unpacked(own) for own in part] if isinstance(part, list) else part


def assert_same(found: Any, expected: Any) -> None:
    if isinstance(expected, dict):
        assert list(found) == list(expected)
        for name in expected:
            assert_same(found[name], expected[name])
    elif isinstance(expected, list):
        for own, other in zip(found, expected, strict=True):
            assert_same(own, other)
    elif isinstance(expected, np.ndarray) and expected.dtype.kind in "fiub":
        np.testing.assert_allclose(found, expected, rtol=1e-6)
        assert np.isnan(expected).sum() == np.isnan(found).sum()
    else:
        assert found == (expected.tolist() if isinstance(expected, np.ndarray) else expected)


def test_the_entry_point_is_the_plugin() -> None:
    (found,) = entry_points(group="tensorboard_plugins", name="lightning_relay")
    assert found.load() is RelaysPlugin
    about = Tab("").plugin.frontend_metadata()
    assert (about.tab_name, about.es_module_path) == ("Relays", "/static/index.js")


def test_tensorboard_starts_without_what_takes_long_to_import() -> None:
    code = (
        "import sys, lightning_relay.tensorboard_plugin.plugin; heavy = ('torch', 'lightning', "
        "'numba', 'plotly', 'PIL', 'pandas'); print([name for name in heavy if name in "
        "sys.modules]); import lightning_relay.relay.report, lightning_relay.ablation.report; "
        "print([name for name in ('torch', 'lightning', 'numba', 'plotly') if name in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.split() == ["[]", "[]"]


def test_runs_are_listed_with_their_epochs(tmp_path: Path) -> None:
    for run in ("version_10", "version_9"):
        for epoch in (10, 2):
            save(tmp_path, run, epoch)
    own = tmp_path / "own"
    own.mkdir()
    REPORT.save(own / "my-prefix-test-epoch=3-step=5-dataloader_1-v1.npz")
    REPORT.save(own / "another name.npz")
    assert list(Tab(tmp_path).runs().items()) == [
        ("own", {"my-prefix, test, dataloader 1": [3]}),
        ("version_9", {"relay, validation": [2, 10]}),
        ("version_10", {"relay, validation": [2, 10]}),
    ]
    assert Tab(own).runs() == {".": {"my-prefix, test, dataloader 1": [3]}}


def test_a_resumed_run_has_each_epoch_once(tmp_path: Path) -> None:
    for epoch in range(4):
        save(tmp_path, epoch=epoch)
    for epoch in (2, 3, 4):
        path = save(tmp_path, "again", epoch)
        later = tmp_path / "run" / "relay_reports" / "resumed_1"
        later.mkdir(exist_ok=True)
        path.rename(later / path.name)
    tab = Tab(tmp_path)
    assert tab.runs() == {"run": {"relay, validation": [0, 1, 2, 3, 4]}}
    reports = tab.get("/runs").json["runs"][0]["series"][0]["reports"]
    assert ["resumed_1" in one["report"] for one in reports] == [False, False, True, True, True]


def test_a_new_report_shows_up(tmp_path: Path) -> None:
    save(tmp_path)
    tab = Tab(tmp_path)
    assert tab.runs() == {"run": {"relay, validation": [0]}}
    path = save(tmp_path, epoch=1)
    assert tab.runs() == {"run": {"relay, validation": [0, 1]}}
    path.unlink()
    assert tab.runs() == {"run": {"relay, validation": [0]}}


def test_an_unchanged_directory_is_not_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = save(tmp_path).parent
    for own in (directory, directory.parent, tmp_path):
        os.utime(own, (1e9, 1e9))
    tab = Tab(tmp_path)
    tab.runs()
    monkeypatch.setattr(index_module.os, "scandir", lambda _: pytest.fail("read again"))
    assert tab.runs() == {"run": {"relay, validation": [0]}}
    assert tab.get("/runs").json["notes"] == []


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    save(tmp_path)
    (tmp_path / "run" / "circle").symlink_to(tmp_path)
    assert Tab(tmp_path).runs() == {"run": {"relay, validation": [0]}}


def test_a_report_is_described(tmp_path: Path) -> None:
    path = save(tmp_path)
    tab = Tab(tmp_path)
    about = tab.get("/report", **tab.key(path, tmp_path)).json
    assert about["summary"].splitlines()[0] == ("Relay report: validate, epoch 0; 80 sequences")
    assert about["figures"] == list(FIGURES)
    (layer,) = about["layers"]
    assert (layer["name"], layer["units"]) == ("rnn.l0", 5)
    assert layer["time_steps"] == list(range(6))
    concepts = list(REPORT["rnn.l0"].concepts)
    assert list(layer["concepts"]) == concepts
    heading, relayed, *_ = layer["concepts"][concepts[1]]
    assert heading == f"{concepts[1]} in rnn.l0, 5 units, at step 5 (80 sequences):"
    assert relayed.startswith("all units relay ")


def test_a_knockout_report_is_described_in_words(tmp_path: Path) -> None:
    save(tmp_path)
    path = tmp_path / "run" / "knockout_reports" / "knockout-test-epoch=0-step=10.npz"
    path.parent.mkdir()
    report = small_knockouts()
    report.save(path)
    tab = Tab(tmp_path)
    assert list(tab.runs()["run"]) == ["relay, validation", "knockout, test"]
    about = tab.get("/report", **tab.key(path, tmp_path)).json
    assert about["summary"] == str(report)
    assert about["layers"] == []


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_that_of_the_report(tmp_path: Path, name: str) -> None:
    report = dataclasses.replace(REPORT, stage="validate", epoch=0, global_step=10)
    concept = list(REPORT["rnn.l0"].concepts)[1]
    path = save(tmp_path)
    tab = Tab(tmp_path)
    asked = {"figure": name, "layer": "rnn.l0", "concept": concept, "step": "4"}
    answer = tab.get("/figure", **tab.key(path, tmp_path), **asked)
    if name == "latent":  # not measured
        assert answer.status_code == 200
        assert "measure it with RelayInformationCallback(latent=True)" in answer.json["error"]
        return
    assert answer.status_code == 200
    assert_same(unpacked(answer.json), FIGURES[name](report, "rnn.l0", concept, 4))


@pytest.mark.parametrize("name", ["damage", "damage_map", "deletion"])
def test_a_figure_of_knockouts_is_that_of_the_report(tmp_path: Path, name: str) -> None:
    path = tmp_path / "run" / "knockout_reports" / "knockout-test-epoch=0-step=10.npz"
    path.parent.mkdir(parents=True)
    report = small_knockouts()
    report.save(path)
    tab = Tab(tmp_path)
    answer = tab.get("/figure", **tab.key(path, tmp_path), figure=name)
    assert answer.status_code == 200
    assert_same(unpacked(answer.json), OF_KNOCKOUTS[name](report))


def test_arrays_are_packed_as_plotly_reads_them() -> None:
    figure = {
        "data": [{"z": np.array([[1.5, np.nan]]), "x": np.array([3, -1]), "b": np.array([True])}],
        "layout": {"names": np.array(["a", "b"]), "most": np.float64(2), "n": np.int64(3)},
    }
    assert json.loads(to_json(figure)) == {
        "data": [
            {
                "z": {"dtype": "f4", "bdata": "AADAPwAAwH8=", "shape": "1, 2"},
                "x": {"dtype": "i4", "bdata": "AwAAAP////8="},
                "b": {"dtype": "u1", "bdata": "AQ=="},
            }
        ],
        "layout": {"names": ["a", "b"], "most": 2.0, "n": 3},
    }
    with pytest.raises(TypeError, match=r"figure: got set in it; it takes numbers, text, arrays"):
        to_json({"data": [{1}]})


def test_plotly_is_served_once_and_then_kept() -> None:
    tab = Tab("")
    answer = tab.get("/static/plotly.min.js")
    assert answer.status_code == 200
    assert answer.content_type.startswith("text/javascript")
    assert b"plotly" in answer.data[:200]
    assert answer.headers["Cache-Control"] == "private, max-age=604800"
    tag = {"If-None-Match": answer.headers["ETag"]}
    again = tab.apps["/static/plotly.min.js"].get("/", headers=tag)
    assert (again.status_code, again.data) == (304, b"")


def test_without_plotly_the_tab_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    answer = Tab("").get("/static/plotly.min.js")
    assert answer.status_code == 404
    assert "install it there with pip install plotly" in answer.json["error"]


def test_own_files_are_served_and_no_others() -> None:
    tab = Tab("")
    for name, kind in STATIC.items():
        answer = tab.get(f"/static/{name}")
        assert answer.status_code == 200
        assert answer.content_type.startswith(kind)
    folder = Path(index_module.__file__).parent / "static"
    assert {path.name for path in folder.iterdir()} == set(STATIC)
    own = {f"/static/{name}" for name in STATIC}
    assert set(tab.apps) == own | {"/static/plotly.min.js", "/runs", "/report", "/figure"}


@pytest.mark.parametrize(
    ("changed", "code", "words"),
    [
        ({"run": "walk"}, 404, "no run 'walk' with reports under the log directory"),
        ({"report": "x.npz"}, 404, "no report 'x.npz' in this run; it may have been removed"),
        ({"figure": "pie"}, 404, "figure: no figure 'pie' in this report; it has 'relay_share', "),
        ({"layer": "rnn.l9"}, 404, "layer: no layer 'rnn.l9' in this report; it has 'rnn.l0'"),
        ({"concept": "x"}, 404, "concept: no concept 'x' in this report; it has 'class_0', "),
        ({"step": "six"}, 400, "step: got 'six'; it takes a step of the layer"),
        ({"step": "17"}, 200, "step: got 17"),
    ],
)
def test_what_is_not_there_is_said_in_words(
    tmp_path: Path, changed: dict[str, str], code: int, words: str
) -> None:
    path = save(tmp_path)
    tab = Tab(tmp_path)
    asked = {"figure": "relay_share", "layer": "rnn.l0", "concept": "class_1"}
    answer = tab.get("/figure", **{**tab.key(path, tmp_path), **asked, **changed})
    assert answer.status_code == code
    assert answer.json["error"].startswith(words)


def test_what_was_not_measured_is_said_in_words(tmp_path: Path) -> None:
    path = named(tmp_path)
    small_report(n_splits=0).save(path)
    tab = Tab(tmp_path)
    asked = {"figure": "relay_transfer", "layer": "rnn.l0", "concept": "joint"}
    answer = tab.get("/figure", **tab.key(path, tmp_path), **asked)
    assert answer.status_code == 200
    assert "measure it with RelayMeasure(n_splits=4)" in answer.json["error"]


def test_no_path_of_a_request_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logdir = tmp_path / "logs"
    save(logdir)
    outside = save(tmp_path / "outside")
    tab = Tab(logdir)
    tab.runs()
    monkeypatch.setattr("lightning_relay.tensorboard_plugin.reading._load", pytest.fail)
    for key in (
        str(outside),
        "../outside/run/relay_reports/" + outside.name,
        "run/relay_reports/../../../outside/run/relay_reports/" + outside.name,
        "run//relay_reports/" + outside.name,
        "/etc/passwd",
        "\0",
        "",
    ):
        assert tab.get("/report", run="run", report=key).status_code == 404
        assert tab.get("/report", run=key, report=key).status_code == 404


def broken(path: Path) -> dict[str, bytes]:
    """Files that are no report, by what the answer says of them."""
    whole = path.read_bytes()
    changed = bytearray(whole)
    changed[len(whole) // 2] ^= 255
    return {
        "holds a damaged relay report": bytes(changed),
        "holds no report, or a damaged one": whole[:1000],
        "remove it, or copy it again": pickle.dumps(REPORT.measure),
        "copy it again from where": b"",
    }


@pytest.mark.parametrize("number", range(4))
def test_a_broken_file_is_said_in_words(tmp_path: Path, number: int) -> None:
    path = save(tmp_path)
    words, data = list(broken(path).items())[number]
    path.write_bytes(data)
    tab = Tab(tmp_path)
    answer = tab.get("/report", **tab.key(path, tmp_path))
    assert answer.status_code == 422
    assert words in answer.json["error"]
    assert str(path) in answer.json["error"]


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ({"format": 99}, "is of another format than"),
        ({"format": 1, "kind": "weather"}, "a weather report, which this version does not show"),
    ],
)
def test_reports_of_other_versions_are_said_in_words(
    tmp_path: Path, header: dict[str, Any], words: str
) -> None:
    path = named(tmp_path)
    write(path, header, {"a": np.zeros(3)})
    tab = Tab(tmp_path)
    answer = tab.get("/report", **tab.key(path, tmp_path))
    assert answer.status_code == 422
    assert words in answer.json["error"]


def test_an_error_of_ours_is_an_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path)
    tab = Tab(tmp_path)
    key = tab.key(path, tmp_path)

    def fails(_: Path) -> None:
        raise RuntimeError("out of luck")

    monkeypatch.setattr("lightning_relay.tensorboard_plugin.reading._load", fails)
    answer = tab.get("/report", **key)
    assert (answer.status_code, answer.json) == (500, {"error": "RuntimeError: out of luck"})


def test_a_report_is_read_once_and_again_when_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(tmp_path)
    tab = Tab(tmp_path)
    assert "epoch 0; 80" in tab.get("/report", **tab.key(path, tmp_path)).json["summary"]
    with monkeypatch.context() as patched:
        patched.setattr("lightning_relay.tensorboard_plugin.reading._load", pytest.fail)
        assert tab.get("/report", **tab.key(path, tmp_path)).status_code == 200
    path.write_bytes(save(tmp_path, "other", samples=79).read_bytes())
    assert "epoch 0; 79" in tab.get("/report", **tab.key(path, tmp_path)).json["summary"]


def test_a_few_reports_are_kept_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [save(tmp_path, epoch=epoch) for epoch in range(3)]
    loaded: list[Path] = []
    load = reading_module._load
    monkeypatch.setattr(reading_module, "_load", lambda path: loaded.append(path) or load(path))
    monkeypatch.setattr(reading_module, "_KEPT", 2)
    tab = Tab(tmp_path)
    for epoch in (0, 1, 0, 2, 0, 1):
        assert tab.get("/report", **tab.key(paths[epoch], tmp_path)).json["epoch"] == epoch
    assert loaded == [paths[0], paths[1], paths[2], paths[1]]


def test_the_tab_is_active_where_there_are_reports(tmp_path: Path) -> None:
    tab = Tab(tmp_path)
    assert not tab.plugin.is_active()
    save(tmp_path)
    assert tab.plugin.is_active()


@pytest.mark.parametrize("logdir", ["", "gs://bucket/logs", "/there is no such directory"])
def test_without_a_local_directory_the_tab_says_so(logdir: str) -> None:
    tab = Tab(logdir)
    assert not tab.plugin.is_active()
    (note,) = tab.get("/runs").json["notes"]
    assert "--logdir" in note


def test_a_slow_disk_holds_nobody_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path)
    scandir = os.scandir

    def slow(path: str) -> Any:
        time.sleep(0.6)
        return scandir(path)

    monkeypatch.setattr(index_module.os, "scandir", slow)
    monkeypatch.setattr(plugin_module, "_LONGER", 0.1)
    tab = Tab(tmp_path)
    start = time.monotonic()
    assert not tab.plugin.is_active()
    assert time.monotonic() - start < 0.5
    assert not tab.get("/runs").json["complete"]
    while not tab.get("/runs").json["complete"]:
        pass
    assert tab.plugin.is_active()


def test_a_directory_that_cannot_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path)
    (tmp_path / "secret").mkdir()
    scandir = os.scandir

    def guarded(path: str) -> Any:
        if path.endswith("secret"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(index_module.os, "scandir", guarded)
    tab = Tab(tmp_path)
    assert tab.runs() == {"run": {"relay, validation": [0]}}
    assert tab.get("/runs").json["notes"] == [
        f"{str(tmp_path / 'secret')!r} cannot be read: Permission denied"
    ]


def test_a_search_that_fails_is_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_: str) -> None:
        raise RuntimeError("out of luck")

    monkeypatch.setattr(index_module.os, "scandir", fails)
    tab = Tab(tmp_path)
    assert not tab.plugin.is_active()
    assert tab.get("/runs").json["notes"] == [
        "The search for reports ended early: RuntimeError: out of luck"
    ]


def test_a_thousand_epochs_of_twenty_runs_are_listed_quickly(tmp_path: Path) -> None:
    data = save(tmp_path).read_bytes()
    for run in range(20):
        directory = named(tmp_path, f"run_{run}").parent
        first = directory / "relay-validate-epoch=0-step=0.npz"
        first.write_bytes(data)
        for epoch in range(1, 1000):
            (directory / f"relay-validate-epoch={epoch}-step={epoch}.npz").hardlink_to(first)
    tab = Tab(tmp_path)
    start = time.monotonic()
    assert sum(len(epochs["relay, validation"]) for epochs in tab.runs().values()) == 20_001
    assert time.monotonic() - start < 5
