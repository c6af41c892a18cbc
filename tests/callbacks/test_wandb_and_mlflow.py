"""What arrives in W&B and MLflow, beside TensorBoard and CSV files, without any network."""

from __future__ import annotations

import csv
import json
import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, MLFlowLogger, TensorBoardLogger, WandbLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_relay import KnockoutCallback, RelayInformationCallback, load_reports
from lightning_relay.ablation.faces import knockout_faces
from lightning_relay.ablation.scalars import knockout_scalars
from lightning_relay.relay.faces import relay_faces
from lightning_relay.relay.scalars import relay_scalars
from lightning_relay.reports.figure import shown, to_json
from lightning_relay.reports.picture import picture_of
from tests.support.diary import trained
from tests.support.images import decoded
from tests.support.models import Classifier, loader
from tests.support.reports import assert_equal
from tests.support.training import quiet_trainer

if TYPE_CHECKING:
    from collections.abc import Iterator

WHY = "the extra 'loggers' is not installed"
wandb = pytest.importorskip("wandb", reason=WHY)
mlflow = pytest.importorskip("mlflow", reason=WHY)
pytest.importorskip("sqlalchemy", reason=WHY)

from tests.support.wandb_files import rows, uploaded  # noqa: E402 - needs wandb

pytestmark = pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")

NO_NETWORK = {
    "DO_NOT_TRACK": "true",
    "MLFLOW_ALLOW_FILE_STORE": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "WANDB_ERROR_REPORTING": "false",
    "WANDB_MODE": "offline",
    "WANDB_SILENT": "true",
}

SHOWING = ["TensorBoardLogger", "WandbLogger", "MLFlowLogger, files", "MLFlowLogger, database"]
PICTURED = [kind for kind in SHOWING if kind != "WandbLogger"]
INTERACTIVE = SHOWING[1:]
KINDS = ["CSVLogger", *SHOWING]

Values = dict[str, list[float]]


@dataclass
class Logged:
    """A run with all loggers."""

    relay: RelayInformationCallback
    knockout: KnockoutCallback
    diary: list[dict[str, Any]]
    loggers: dict[str, Any]
    wandb_files: Path


@pytest.fixture(scope="module", autouse=True)
def _offline() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in NO_NETWORK.items():
            patch.setenv(name, value)
        yield
        wandb.teardown()


def end_wandb() -> None:
    """End the run and W&B's own process, which writes the rest of the run's file."""
    wandb.finish()
    wandb.teardown()


def run(directory: Path, *callbacks: Any) -> Logged:
    loggers = {
        "CSVLogger": CSVLogger(directory),
        "TensorBoardLogger": TensorBoardLogger(directory, name="tensorboard"),
        "WandbLogger": WandbLogger(save_dir=directory, offline=True),
        "MLFlowLogger, files": MLFlowLogger(save_dir=str(directory / "mlruns")),
        "MLFlowLogger, database": MLFlowLogger(
            tracking_uri=f"sqlite:///{directory.parent}/mlflow.db",
            artifact_location=f"file:{directory}/artifacts",
            experiment_name=directory.name,
        ),
    }
    options = {"logger": list(loggers.values()), "log_every_n_steps": 1}
    diary = trained(Classifier, options, *callbacks)
    files = Path(loggers["WandbLogger"].experiment.dir)
    end_wandb()
    return Logged(*(callbacks or (None, None)), diary, loggers, files)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("loggers")


@pytest.fixture(scope="module")
def logged(folder: Path) -> Logged:
    return run(folder / "with", RelayInformationCallback(), KnockoutCallback())


@pytest.fixture(scope="module")
def alone(folder: Path) -> Logged:
    return run(folder / "without")


def scalars(run: Logged, kind: str) -> Values:
    """All values of all scalars, in the order in which they were logged."""
    logger, found = run.loggers[kind], defaultdict(list)
    if kind == "CSVLogger":
        with Path(logger.log_dir, "metrics.csv").open() as file:
            pairs = [pair for row in csv.DictReader(file) for pair in row.items()]
    elif kind == "TensorBoardLogger":
        events = EventAccumulator(logger.log_dir).Reload()
        tags = events.Tags()["scalars"]
        pairs = [(tag, event.value) for tag in tags for event in events.Scalars(tag)]
    elif kind == "WandbLogger":
        pairs = [pair for row in rows(run.wandb_files.parent) for pair in row.items()]
    else:
        client, own = logger.experiment, logger.run_id
        tags = client.get_run(own).data.metrics
        pairs = [(tag, one.value) for tag in tags for one in client.get_metric_history(own, tag)]
    for tag, value in pairs:
        if value not in ("", None) and not isinstance(value, dict) and not tag.startswith("_"):
            found[tag].append(float(value))
    return dict(found)


def artifacts(run: Logged, kind: str) -> Path:
    logger = run.loggers[kind]
    return Path(logger.experiment.get_run(logger.run_id).info.artifact_uri.removeprefix("file:"))


def images(run: Logged, kind: str) -> dict[str, dict[int, Any]]:
    """Pixels of all images, by tag and step."""
    logger, found = run.loggers[kind], defaultdict(dict)
    if kind == "TensorBoardLogger":
        events = EventAccumulator(logger.log_dir, size_guidance={"images": 0}).Reload()
        for tag in events.Tags()["images"]:
            for event in events.Images(tag):
                found[tag][event.step] = decoded(event.encoded_image_string)
    else:
        for path in artifacts(run, kind).glob("images/*.png"):
            tag, _, step, *_ = path.name.split("+")
            found[tag.replace("~", "/")][int(step)] = decoded(path.read_bytes())
    return dict(found)


def figures(run: Logged, kind: str) -> dict[str, dict[int, Any]]:
    """Traces and layout of all interactive figures, by tag and step."""
    found: dict[str, dict[int, Any]] = defaultdict(dict)
    if kind == "WandbLogger":
        for row in rows(run.wandb_files.parent):
            for tag, value in row.items():
                if isinstance(value, dict) and value["_type"] == "plotly-file":
                    path = run.wandb_files / value["path"]
                    step = row["trainer/global_step"] + 1  # Lightning logs the step before
                    found[tag][step] = json.loads(path.read_text())
    else:
        root = artifacts(run, kind)
        for path in root.rglob("*.html"):
            page = path.read_text()
            if "Plotly.newPlot" in page:
                call = re.search(r"Plotly.newPlot\(\s*\"[\w-]+\",\s*", page)
                assert call is not None
                decoder = json.JSONDecoder()
                data, end = decoder.raw_decode(page, call.end())
                layout, _ = decoder.raw_decode(page, page.index("{", end))
                tag = path.parent.relative_to(root).as_posix()
                found[tag][int(path.stem[5:])] = {"data": data, "layout": layout}
    return dict(found)


def tables(run: Logged, kind: str) -> dict[str, list[str]]:
    """All tables, by tag, in the order of the steps."""
    logger = run.loggers[kind]
    if kind == "TensorBoardLogger":
        events = EventAccumulator(logger.log_dir).Reload()
        return {
            tag.removesuffix("/text_summary"): [
                one.tensor_proto.string_val[0].decode() for one in events.Tensors(tag)
            ]
            for tag in events.Tags()["tensors"]
        }
    found = defaultdict(list)
    if kind == "WandbLogger":
        for row in rows(run.wandb_files.parent):
            for tag, value in row.items():
                if isinstance(value, dict) and value["_type"] == "html-file":
                    found[tag].append((run.wandb_files / value["path"]).read_text())
    else:
        root = artifacts(run, kind)
        for path in sorted(root.rglob("*_table/*.html"), key=lambda path: int(path.stem[5:])):
            found[path.parent.relative_to(root).as_posix()].append(path.read_text())
    return dict(found)


def expected_scalars(run: Logged) -> Values:
    found = defaultdict(list)
    for report in run.relay.reports:
        for name, value in relay_scalars(report).items():
            found[f"relay/{name}"].append(value)
    for report in run.knockout.reports:
        for name, value in knockout_scalars(report).items():
            found[f"knockout/{name}"].append(value)
    return dict(found)


def faces(run: Logged, kind: type) -> list[tuple[int, str, Any]]:
    """Step, tag and face of all figures, or of all tables."""
    reports = [("relay", report, relay_faces(report)) for report in run.relay.reports]
    reports += [("knockout", report, knockout_faces(report)) for report in run.knockout.reports]
    return [
        (report.global_step, f"{prefix}/{tag}", face)
        for prefix, report, own in reports
        for tag, face in own.items()
        if isinstance(face, kind)
    ]


def ours(values: dict[str, Any]) -> dict[str, Any]:
    return {tag: value for tag, value in values.items() if tag.startswith(("relay", "knockout"))}


@pytest.mark.parametrize("kind", KINDS)
def test_every_logger_gets_every_scalar_and_none_of_the_sanity_check(
    logged: Logged, kind: str
) -> None:
    assert len(logged.relay.reports) == 3
    found, expected = ours(scalars(logged, kind)), expected_scalars(logged)
    assert found.keys() == expected.keys()
    for tag, values in expected.items():
        np.testing.assert_allclose(found[tag], values, rtol=1e-6, err_msg=tag)


@pytest.mark.parametrize("kind", PICTURED)
def test_the_pictures_are_those_of_the_report_at_its_step(logged: Logged, kind: str) -> None:
    found, expected = images(logged, kind), faces(logged, dict)
    assert {(tag, step) for tag, own in found.items() for step in own} == {
        (tag, step) for step, tag, _ in expected
    }
    for step, tag, figure in expected:
        picture = picture_of(figure)
        np.testing.assert_array_equal(found[tag][step], picture, err_msg=f"{tag}, {step}")


@pytest.mark.parametrize("kind", INTERACTIVE)
def test_the_figures_are_those_of_the_report_at_its_step(logged: Logged, kind: str) -> None:
    found, expected = figures(logged, kind), faces(logged, dict)
    assert {(tag, step) for tag, own in found.items() for step in own} == {
        (tag, step) for step, tag, _ in expected
    }
    for step, tag, figure in expected:
        own = json.loads(shown(json.loads(to_json(figure))).to_json())
        written = found[tag][step]
        assert written["data"] == own["data"], (tag, step)
        assert written["layout"]["title"] == own["layout"]["title"]
        assert "yaxis" in written["layout"]


@pytest.mark.parametrize("kind", SHOWING)
def test_the_tables_have_every_number_of_the_reports(logged: Logged, kind: str) -> None:
    found, expected = tables(logged, kind), defaultdict(list)
    for _, tag, table in faces(logged, str):
        expected[tag].append(table)
    assert found.keys() == expected.keys()
    for tag, own in expected.items():
        for text, table in zip(found[tag], own, strict=True):
            if kind == "TensorBoardLogger":
                assert text == table
                continue
            rows_of_cells = [line for line in table.splitlines() if line.startswith("|")]
            cells = [cell.strip() for row in rows_of_cells for cell in row.strip("|").split("|")]
            written = [cell for cell in cells if cell.strip(":-")]
            assert text.count("<td>") + text.count("<th>") == len(written)
            assert all(f">{cell}<" in text for cell in written)
            assert text.startswith("<!doctype html>")


def test_reports_are_files_of_the_first_directory_and_artifacts_of_every_mlflow_run(
    logged: Logged,
) -> None:
    places = [Path(logged.loggers["CSVLogger"].log_dir)]
    places += [artifacts(logged, kind) for kind in KINDS[3:]]
    for place in places:
        saved = load_reports(place)
        for found, own in ((saved.relay, logged.relay), (saved.knockout, logged.knockout)):
            assert len(found) == 3
            for report, mine in zip(found, own.reports, strict=True):
                assert_equal(report, mine)
    everywhere = {path.parents[1] for path in places[0].parents[2].rglob("*.npz")}
    assert everywhere == set(places)


def test_artifacts_that_are_downloaded_are_loaded(logged: Logged, tmp_path: Path) -> None:
    logger = logged.loggers["MLFlowLogger, database"]
    path = logger.experiment.download_artifacts(logger.run_id, "relay_reports", str(tmp_path))
    assert len(load_reports(path).relay) == 3


def test_no_report_is_taken_for_an_experiment(logged: Logged) -> None:
    client = logged.loggers["MLFlowLogger, files"].experiment
    names = {experiment.name for experiment in client.search_experiments()}
    assert names == {"Default", "lightning_logs"}


@pytest.mark.parametrize("kind", KINDS)
def test_the_users_values_are_what_they_are_without_us(
    logged: Logged, alone: Logged, kind: str
) -> None:
    found, expected = scalars(logged, kind), scalars(alone, kind)
    assert {tag: found[tag] for tag in found.keys() - ours(found).keys()} == expected


def test_rows_of_wandb_are_the_users_rows(logged: Logged, alone: Logged) -> None:
    own = [
        [
            {tag: value for tag, value in row.items() if not tag.startswith(("_r", "_t"))}
            for row in rows(run.wandb_files.parent)
        ]
        for run in (logged, alone)
    ]
    assert [row["_step"] for row in own[0]] == [row["_step"] for row in own[1]]
    assert [{tag: row[tag] for tag in row.keys() - ours(row).keys()} for row in own[0]] == own[1]
    with_faces = [row for row in own[0] if ours(row)]
    assert len(with_faces) == 3
    assert all("relay/rnn.l0/joint/relay_share" in row and "val_loss" in row for row in with_faces)


def test_training_is_bit_identical_with_every_logger(logged: Logged, alone: Logged) -> None:
    for page in (*logged.diary, *alone.diary):
        del page["python"]  # threads of the packages themselves may draw from it at any time
    torch.testing.assert_close(logged.diary, alone.diary, rtol=0, atol=0, equal_nan=True)


def fitted(logger: Any, **options: Any) -> RelayInformationCallback:
    relay = RelayInformationCallback(**options)
    trainer = quiet_trainer(relay, logger=logger, log_every_n_steps=1, max_epochs=1)
    trainer.fit(Classifier(), loader(), loader())
    trainer.test(trainer.lightning_module, loader(), verbose=False)
    return relay


def test_reports_are_uploaded_with_a_wandb_run_from_its_own_directory(tmp_path: Path) -> None:
    logger = WandbLogger(save_dir=tmp_path, offline=True)
    relay = fitted(logger, prefix="relay[1]")
    files = Path(logger.experiment.dir)
    end_wandb()
    names = sorted(path.relative_to(files).as_posix() for path in files.rglob("*.npz"))
    assert names == [
        "relay_reports/relay[1]-test-epoch=1-step=3.npz",
        "relay_reports/relay[1]-validate-epoch=0-step=3.npz",
    ]
    assert sorted(uploaded(files.parent)) == names
    for found, own in zip(load_reports(files).relay, relay.reports, strict=True):
        assert_equal(found, own)
    tested = rows(files.parent)[-1]
    assert {"test_loss", "relay[1]_test/rnn.l0/joint/relay_share"} <= tested.keys()


def test_dirpath_wins_over_the_directory_of_a_wandb_run(tmp_path: Path) -> None:
    logger = WandbLogger(save_dir=tmp_path / "run", offline=True)
    fitted(logger, dirpath=tmp_path / "here")
    end_wandb()
    assert len(load_reports(tmp_path / "here").relay) == 2
    assert list((tmp_path / "run").rglob("*.npz")) == []
    assert uploaded(Path(logger.experiment.dir).parent) == []


def test_a_wandb_run_that_is_switched_off_saves_nothing_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        relay = fitted(WandbLogger(save_dir=tmp_path, mode="disabled"))
    assert len(relay.reports) == 2
    assert list(tmp_path.rglob("*.npz")) == []
    assert (
        said(caplog)
        == ["The relay callback: reports are not saved, unless dirpath= names a local directory."]
        * 2
    )


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [text for text in caplog.messages if text.startswith("The relay callback: ")]


def test_mlflow_keeps_all_reports_of_evaluations_at_one_step(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    logger = MLFlowLogger(save_dir=str(tmp_path / "mlruns"))
    relay = RelayInformationCallback(dirpath=tmp_path / "here")
    trainer = quiet_trainer(relay, logger=logger)
    with caplog.at_level("INFO"):
        for _ in range(2):
            trainer.validate(Classifier(), loader(), verbose=False)
        quiet_trainer(RelayInformationCallback(), logger=logger).validate(
            Classifier(), loader(), verbose=False
        )
    places = [tmp_path / "here", *(tmp_path / "mlruns").glob("*/*/artifacts/relay_reports")]
    names = [{path.name for path in place.iterdir()} for place in places]
    stem = "relay-validate-epoch=0-step=0"
    assert names == [
        {f"{stem}.npz", f"{stem}-v1.npz"},
        {f"{stem}.npz", f"{stem}-v1.npz", f"{stem}-v2.npz"},
    ]
    assert said(caplog) == [
        f"The relay callback: reports are saved as artifacts of the MLflow run {logger.run_id}, "
        "under relay_reports."
    ]


def test_mlflow_gets_names_that_it_takes(tmp_path: Path) -> None:
    logger = MLFlowLogger(save_dir=str(tmp_path / "mlruns"))
    concepts = {"odd: [1]": lambda label: label % 2, "odd 1": lambda label: label % 2}
    with pytest.warns(RuntimeWarning, match="MLFlow only allows"):
        fitted(logger, concepts=concepts)
    root = Path(logger.experiment.get_run(logger.run_id).info.artifact_uri.removeprefix("file:"))
    names = {path.name.split("+")[0] for path in root.glob("images/relay~*.png")}
    first = "odd-3a -5b1-5d"
    for name in ("relay_share", "relay_transfer"):
        assert f"relay~rnn.l0~{first}~{name}" in names
        assert (root / f"relay/rnn.l0/{first}/{name}/step=3.html").is_file()
    for concept in (first, "odd 1"):
        assert (root / f"relay/rnn.l0/{concept}/relay_table/step=3.html").is_file()


def test_a_concept_whose_name_mlflow_cannot_write_is_refused_before_training(
    tmp_path: Path,
) -> None:
    logger = MLFlowLogger(save_dir=str(tmp_path / "mlruns"))
    words = "MLFlowLogger takes no scalar named 'relay/.*日本/.*information'; give each concept a n"
    with pytest.raises(ValueError, match=f"concepts: {words}"):
        fitted(logger, concepts={"日本": bool})
    relay = RelayInformationCallback(concepts={"日本": bool, "a": bool})
    trainer = quiet_trainer(relay, logger=logger, num_sanity_val_steps=0)
    with pytest.warns(UserWarning, match=f"failed while logging.*{words}"):
        trainer.fit(Classifier(), loader(), loader())
    assert "relay/a/mutual_information" in trainer.logged_metrics


def test_an_error_of_mlflow_costs_what_it_takes_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise mlflow.exceptions.MlflowException("no room for artifacts")

    monkeypatch.setattr(mlflow.MlflowClient, "log_artifact", fail)
    logger = MLFlowLogger(save_dir=str(tmp_path / "mlruns"))
    relay = RelayInformationCallback()
    trainer = quiet_trainer(relay, logger=[logger, CSVLogger(tmp_path)], log_every_n_steps=1)
    with pytest.warns(UserWarning, match="failed while .*no room for artifacts") as caught:
        trainer.fit(Classifier(), loader(), loader())
    assert sum("no room" in str(one.message) for one in caught) == 2  # pictures, and the report
    assert len(load_reports(tmp_path / "lightning_logs").relay) == 2


def test_the_guide_says_what_arrives_where(logged: Logged) -> None:
    page = (Path(__file__).parents[2] / "docs" / "guide.md").read_text()
    section = page.split("\n## Loggers\n")[1].split("\n## ")[0]
    lines = [line.strip("| ").split(" | ") for line in section.splitlines() if line[:1] == "|"]
    told = {line[0].strip("`"): line[1:] for line in lines[2:]}
    places = {
        "CSVLogger": "`relay_reports` in its `log_dir`",
        "TensorBoardLogger": "`relay_reports` in its `log_dir`",
        "WandbLogger": "`relay_reports` in the run's `dir`; uploaded with the run",
        "MLFlowLogger": "artifacts of the run, under `relay_reports`",
    }
    for name, place in places.items():
        kind = next(kind for kind in KINDS if kind.startswith(name))
        pictures = images(logged, kind) if kind in PICTURED else {}
        interactive = figures(logged, kind) if kind in INTERACTIVE else {}
        texts = tables(logged, kind) if kind in SHOWING else {}
        arrived = (ours(scalars(logged, kind)), pictures, interactive, texts)
        words = [cell.split(",")[0] for cell in told[name][:4]]
        assert words == ["yes" if found else "no" for found in arrived], name
        assert told[name][4] == place
