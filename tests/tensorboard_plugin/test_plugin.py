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
from lightning_relay.ablation.figures import damage_names, prediction_figure
from lightning_relay.ablation.report import KnockoutReport, KnockoutSet
from lightning_relay.relay.figures import FIGURES
from lightning_relay.relay.history_figure import history_figure
from lightning_relay.relay.sentences import sentences
from lightning_relay.reports.figure import to_csv, to_json
from lightning_relay.reports.files import checksum_of, write
from lightning_relay.tensorboard_plugin.histories import spread
from lightning_relay.tensorboard_plugin.plugin import STATIC, RelaysPlugin
from tests.support.knockouts import prediction, random_sets, single_units, small_knockouts
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
                f"{series['prefix']}, {series['stage']}": [
                    one["epoch"] for one in series["reports"]
                ]
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


def test_a_run_that_was_resumed_elsewhere_has_what_was_before(tmp_path: Path) -> None:
    source = [save(tmp_path, "before", epoch) for epoch in range(4)][1]
    save(tmp_path, "after", 2)
    note = tmp_path / "after" / "relay_reports" / "relay-resumed_from.json"
    note.write_text(json.dumps({"path": str(source), "checksum": checksum_of(source)}))
    tab = Tab(tmp_path)
    assert tab.runs() == {
        "after": {"relay, validation": [0, 1, 2]},
        "before": {"relay, validation": [0, 1, 2, 3]},
    }
    reports = tab.get("/runs").json["runs"][0]["series"][0]["reports"]
    asked = {"run": "after", "report": reports[0]["report"]}
    assert tab.get("/report", **asked).json["epoch"] == 0
    for logdir, words in (
        (tmp_path / "after", "is outside the log directory"),
        (None, "was moved"),
    ):
        if logdir is None:
            source.unlink()
        (found,) = Tab(logdir or tmp_path).get("/runs").json["notes"]
        assert str(source.parent) in found
        assert words in found


def test_the_kind_of_reports_elsewhere_is_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_knockouts().save(tmp_path / "mine-validate-epoch=0-step=5.npz")
    REPORT.save(tmp_path / "others-validate-epoch=0-step=5.npz")
    (tmp_path / "broken-validate-epoch=0-step=5.npz").write_bytes(b"nothing")
    tab = Tab(tmp_path)

    def fails_to_open(path: Path) -> None:
        raise OSError(24, "Too many open files", str(path))

    def kinds(tab: Tab = tab) -> dict[str, str]:
        (run,) = tab.get("/runs").json["runs"]
        return {series["prefix"]: series["kind"] for series in run["series"]}

    expected = {"broken": "relay", "others": "relay", "mine": "knock-out"}
    assert kinds() == expected
    opened: list[Path] = []
    kind_of = index_module.kind_of
    fresh = Tab(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(index_module, "kind_of", fails_to_open)
        assert kinds(fresh)["mine"] == "relay"
    assert kinds(fresh) == expected  # it is read again, and told
    monkeypatch.setattr(index_module, "kind_of", lambda path: opened.append(path) or kind_of(path))
    assert kinds() == expected
    assert [path.name.partition("-")[0] for path in opened] == ["broken"]


def test_the_log_directory_itself_may_have_any_name(tmp_path: Path) -> None:
    logdir = tmp_path / "relay_reports" / "study"
    (logdir / "run").mkdir(parents=True)
    small_knockouts().save(logdir / "run" / "mine-validate-epoch=0-step=5.npz")
    (run,) = Tab(logdir).get("/runs").json["runs"]
    assert [series["kind"] for series in run["series"]] == ["knock-out"]


def test_a_file_that_is_removed_meanwhile_loses_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for epoch in range(2):
        save(tmp_path, epoch=epoch)
    saved_of = index_module.saved_of

    def gone(entry: Any, logdir: str) -> Any:
        if "epoch=0" in entry.name:
            raise FileNotFoundError(2, "No such file", entry.path)
        return saved_of(entry, logdir)

    monkeypatch.setattr(index_module, "saved_of", gone)
    assert Tab(tmp_path).runs() == {"run": {"relay, validation": [1]}}


def test_runs_are_sent_again_only_if_they_changed(tmp_path: Path) -> None:
    save(tmp_path)
    tab = Tab(tmp_path)
    first = tab.get("/runs").json
    same = tab.get("/runs", known=first["number"]).json
    assert same == {"number": first["number"], "complete": True}
    save(tmp_path, epoch=1)
    later = tab.get("/runs", known=first["number"]).json
    assert len(later["runs"][0]["series"][0]["reports"]) == 2
    assert Tab(tmp_path).get("/runs").json["number"] != later["number"]  # of another TensorBoard


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
    assert about["figures"] == [name for name in FIGURES if name != "layers"]  # there is one
    (layer,) = about["layers"]
    assert (layer["name"], layer["units"]) == ("rnn.l0", 5)
    assert layer["time_steps"] == list(range(6))
    assert layer["concepts"] == list(REPORT["rnn.l0"].concepts)


def test_what_is_chosen_is_said_in_words(tmp_path: Path) -> None:
    path = save(tmp_path)
    tab = Tab(tmp_path)
    asked = {"layer": "rnn.l0", "concept": "class_1", "step": "4", "unit": "1"}
    words = tab.get("/words", **tab.key(path, tmp_path), **asked).json["sentences"]
    assert words == sentences(REPORT, "rnn.l0", "class_1", 4, 1)
    assert words[2].startswith("Unit 1 has a share of ")
    other = {**asked, "unit": "9"}  # of another run with a larger layer
    words = tab.get("/words", **tab.key(path, tmp_path), **other).json["sentences"]
    assert words == sentences(REPORT, "rnn.l0", "class_1", 4, None)


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
    (layer,) = about["layers"]
    assert (layer["name"], layer["units"], layer["concepts"]) == (
        "rnn.l0",
        5,
        list(report.concepts),
    )
    assert about["measures"] == damage_names(report)
    assert about["figures"] == ["damage", "damage_map", "agreement", "deletion"]


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_that_of_the_report(tmp_path: Path, name: str) -> None:
    report = dataclasses.replace(REPORT, stage="validate", epoch=0, global_step=10)
    concept = list(REPORT["rnn.l0"].concepts)[1]
    path = save(tmp_path)
    tab = Tab(tmp_path)
    asked = {"figure": name, "layer": "rnn.l0", "concept": concept, "step": "4", "unit": "2"}
    answer = tab.get("/figure", **tab.key(path, tmp_path), **asked)
    if name == "latent":  # not measured
        assert answer.status_code == 200
        assert "measure it with RelayInformationCallback(latent=True)" in answer.json["error"]
        return
    assert answer.status_code == 200
    expected = FIGURES[name](report, "rnn.l0", concept, 4, 2)
    assert_same(unpacked(answer.json), expected | {"note": ""})
    table = tab.get("/csv", **tab.key(path, tmp_path), **asked)
    assert table.get_data(as_text=True) == to_csv(expected)
    assert table.headers["Content-Disposition"] == f"attachment; filename={name}.csv"


@pytest.mark.parametrize("name", ["damage", "damage_map", "deletion"])
def test_a_figure_of_knockouts_is_that_of_the_report(tmp_path: Path, name: str) -> None:
    path = tmp_path / "run" / "knockout_reports" / "knockout-test-epoch=0-step=10.npz"
    path.parent.mkdir(parents=True)
    report = small_knockouts()
    report.save(path)
    tab = Tab(tmp_path)
    answer = tab.get("/figure", **tab.key(path, tmp_path), figure=name)
    assert answer.status_code == 200
    assert_same(unpacked(answer.json), OF_KNOCKOUTS[name](report) | {"note": ""})


@pytest.mark.parametrize(
    ("asked", "concept", "step", "note"),
    [
        ({}, "joint", -1, ""),
        ({"concept": "bit_0"}, "bit_0", -1, ""),
        ({"concept": "bit_0", "step": "4"}, "bit_0", 4, ""),
        ({"concept": "joint", "measure": "bit_0"}, "bit_0", -1, ""),
        ({"concept": "joint", "measure": "accuracy"}, "joint", -1, ""),
        ({"concept": "joint", "step": "9", "last": "9"}, "joint", -1, ""),
        ({"concept": "bit_0", "step": "-1", "last": "4"}, "bit_0", -1, ""),
        (
            {"concept": "joint", "step": "9", "last": "12"},
            "joint",
            -1,
            "Nothing was measured of step 9; this is what was.",
        ),
        (
            {"layer": "rnn.l1", "concept": "bit_1", "step": "3"},
            "joint",
            -1,
            "Nothing was measured of layer rnn.l1, concept bit_1, step 3; this is what was.",
        ),
    ],
)
def test_knockouts_show_what_fits_best_and_say_if_that_is_not_what_is_chosen(
    tmp_path: Path, asked: dict[str, str], concept: str, step: int, note: str
) -> None:
    path = tmp_path / "run" / "knockout_reports" / "knockout-validate-epoch=0-step=10.npz"
    path.parent.mkdir(parents=True)
    measured = [("joint", -1), ("bit_0", -1), ("bit_0", 4)]
    found = tuple(prediction(concept=concept, step=step) for concept, step in measured)
    report = small_knockouts(random_sets(), predictions=found)
    report.save(path)
    tab = Tab(tmp_path)
    key = tab.key(path, tmp_path)
    answer = unpacked(tab.get("/figure", **key, figure="prediction", **asked).json)
    expected = prediction_figure(report, "rnn.l0", concept, step)
    assert_same(answer, expected | {"note": note})
    words = tab.get("/words", **key, **asked).json["sentences"]
    assert f"damage to {concept} of which their size alone explains 0.25" in words[0]


def shown_of(tmp_path: Path, report: KnockoutReport, **asked: str) -> Any:
    path = tmp_path / "run" / "knockout_reports" / "knockout-validate-epoch=0-step=10.npz"
    path.parent.mkdir(parents=True)
    report.save(path)
    tab = Tab(tmp_path)
    return unpacked(tab.get("/figure", **tab.key(path, tmp_path), **asked).json)


def test_sets_and_measures_that_are_not_shown_are_said(tmp_path: Path) -> None:
    both = KnockoutSet("both", "given", {"rnn.l0": (1,), "dec.l0": (3,)})
    sets = [*single_units(3), both]
    report = small_knockouts(sets, curves=False)
    answer = shown_of(tmp_path / "a", report, figure="damage", layer="rnn.l0", concept="odd")
    assert answer["note"] == (
        "Sets with units of several layers are left out: 1. Damage to odd was not measured; this "
        "is damage to accuracy."
    )
    answer = shown_of(
        tmp_path / "b", report, figure="damage", layer="dec.l0", concept="joint", unit="1"
    )
    assert answer["note"] == "No units of dec.l0 alone were held; others are shown."
    assert answer["layout"]["shapes"] == []  # it is a unit of another layer
    answer = shown_of(
        tmp_path / "c", report, figure="damage", layer="rnn.l0", concept="joint", unit="1"
    )
    assert [band["y0"] for band in answer["layout"]["shapes"]] == ["unit 1"]


def test_steps_that_are_the_first_part_of_a_run_do_not_hide_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path)
    small_report(steps=2, inputs_end=1, concepts="per_class").save(named(tmp_path, epoch=1))
    monkeypatch.setattr(plugin_module, "_AT_ONCE", 0.0)
    tab = Tab(tmp_path)
    tab.runs()
    first = history(tab, step="4")
    assert first == {"note": "", "read": 1, "of": 2}
    assert unpacked(history(tab, step="4"))["data"][0]["x"].tolist() == [0, 1]


def test_an_error_that_passes_is_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for epoch in range(2):
        save(tmp_path, epoch=epoch)
    tab = Tab(tmp_path)
    tab.runs()
    load = reading_module._load

    def fails(path: Path) -> Any:
        if "epoch=0" in path.name:
            raise OSError(24, "Too many open files")
        return load(path)

    with monkeypatch.context() as patched:
        patched.setattr(reading_module, "_load", fails)
        answer = history(tab)
        assert (answer["read"], answer["of"]) == (2, 2)
        assert "Too many open files" in answer["note"]
    assert history(tab)["note"] == ""


def test_the_unit_of_a_larger_layer_is_not_marked_in_a_history(tmp_path: Path) -> None:
    save(tmp_path)
    tab = Tab(tmp_path)
    tab.runs()
    names = [trace["name"] for trace in history(tab, unit="7")["data"]]
    assert "unit 4" in names


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
    routes = {"/static/plotly.min.js", "/runs", "/report", "/words", "/figure", "/csv"}
    assert set(tab.apps) == own | routes


@pytest.mark.parametrize(
    ("changed", "code", "words"),
    [
        ({"run": "walk"}, 404, "no run 'walk' with reports under the log directory"),
        ({"report": "x.npz"}, 404, "no report 'x.npz' in this run; it may have been removed"),
        ({"figure": "pie"}, 404, "figure: no figure 'pie' in this report; it has 'relay_share', "),
        ({"layer": "rnn.l9"}, 404, "layer: no layer 'rnn.l9' in this report; it has 'rnn.l0'"),
        ({"concept": "x"}, 404, "concept: no concept 'x' in this report; it has 'class_0', "),
        ({"step": "six"}, 400, "step: got 'six'; it takes a step of the layer"),
        ({"step": "17"}, 200, "Step: got 17"),
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
    monkeypatch.setattr(reading_module, "_KEPT", 5 * paths[0].stat().st_size // 2)
    tab = Tab(tmp_path)
    for epoch in (0, 1, 0, 2, 0, 1):
        assert tab.get("/report", **tab.key(paths[epoch], tmp_path)).json["epoch"] == epoch
    assert loaded == [paths[0], paths[1], paths[2], paths[1]]


def history(tab: Tab, run: str = "run", **asked: str) -> Any:
    chosen = {"layer": "rnn.l0", "concept": "class_1", "prefix": "relay", "stage": "validation"}
    answer = tab.get("/figure", run=run, figure="history", **{**chosen, **asked})
    assert answer.status_code == 200
    return answer.json


def test_a_history_is_that_of_the_reports_read_a_few_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for epoch in range(6):
        save(tmp_path, epoch=epoch, samples=80 + epoch)
    monkeypatch.setattr(plugin_module, "_AT_ONCE", 0.0)
    loaded: list[str] = []
    load = reading_module._load
    monkeypatch.setattr(
        reading_module, "_load", lambda path: loaded.append(path.name) or load(path)
    )
    tab = Tab(tmp_path)
    tab.runs()
    epochs = []
    for read in range(1, 7):
        answer = history(tab, step="4", unit="2")
        assert (answer["read"], answer["of"], answer["note"]) == (read, 6, "")
        epochs.append(sorted(unpacked(answer)["data"][0]["x"].tolist()))
    assert epochs[:3] == [[5], [1, 5], [1, 3, 5]]  # from everywhere early on
    reports = [(float(epoch), REPORT) for epoch in range(6)]
    expected = history_figure(reports, "rnn.l0", "class_1", 4, unit=2)
    assert_same(unpacked(answer), expected | {"note": "", "read": 6, "of": 6})
    history(tab, step="4", unit="3")
    assert len(loaded) == 6
    table = tab.get(
        "/csv", run="run", figure="history", layer="rnn.l0", concept="class_1", step="4"
    )
    assert table.status_code == 404  # names no callback
    asked = {"prefix": "relay", "stage": "validation", "step": "4", "unit": "2"}
    asked |= {"layer": "rnn.l0", "concept": "class_1"}
    table = tab.get("/csv", run="run", figure="history", **asked)
    assert table.get_data(as_text=True) == to_csv(expected)


def test_several_evaluations_of_an_epoch_are_drawn_over_steps(tmp_path: Path) -> None:
    path = save(tmp_path)
    path.with_name("relay-validate-epoch=0-step=3.npz").write_bytes(path.read_bytes())
    tab = Tab(tmp_path)
    tab.runs()
    answer = unpacked(history(tab))
    assert answer["data"][0]["x"].tolist() == [3, 10]
    assert answer["layout"]["xaxis"]["title"]["text"] == "optimizer steps"
    path.with_name("relay-validate-epoch=0-step=3-v1.npz").write_bytes(path.read_bytes())
    tab.runs()
    assert history(tab)["note"] == "Several reports are of one step; the last of each is shown."


def test_reports_of_a_history_that_cannot_be_read_are_counted(tmp_path: Path) -> None:
    for epoch in range(3):
        save(tmp_path, epoch=epoch)
    path = named(tmp_path, epoch=1)
    path.write_bytes(path.read_bytes()[:500])
    tab = Tab(tmp_path)
    tab.runs()
    answer = history(tab)
    assert answer["note"].startswith("1 of the reports cannot be read: path: ")
    assert unpacked(answer)["data"][0]["x"].tolist() == [0, 2]
    for epoch in (0, 2):
        named(tmp_path, epoch=epoch).write_bytes(b"nothing")
    tab = Tab(tmp_path)
    tab.runs()
    assert history(tab)["error"].startswith("3 of the reports cannot be read: path: ")


def test_a_history_of_what_was_not_measured_is_said_in_words(tmp_path: Path) -> None:
    small_report(n_orders=0, concepts="per_class").save(named(tmp_path))
    tab = Tab(tmp_path)
    tab.runs()
    words = history(tab)["layout"]["title"]["subtitle"]["text"]
    assert "measure them with RelayMeasure(n_orders=16)" in words
    assert history(tab, concept="odd")["error"].startswith("Reports: none has the layer")


@pytest.mark.parametrize("number", [1, 2, 7, 64, 1000])
def test_places_are_spread_from_the_last_on(number: int) -> None:
    places = spread(number)
    assert places[0] == number - 1
    assert sorted(places) == list(range(number))
    for read in range(2, number):  # no gap is larger than four times what it has to be
        gaps = np.diff(sorted({*places[:read], 0, number - 1}))
        assert gaps.max() <= max(1, 4 * number / read)


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
    for _ in range(100):
        if tab.get("/runs").json["complete"]:
            break
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
