"""Both callbacks in several processes: reports are those of one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lightning_relay import LatentStructure, RelayReport, load_reports
from tests.support.distributed import main
from tests.support.reports import assert_equal

ROOT = Path(__file__).parents[2]


def start(*runs: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    """Do all runs, one after the other, in as many processes; if they hang, it is an error."""
    return subprocess.run(
        [sys.executable, "-m", "tests.support.distributed", json.dumps(runs)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def said_in(dirpath: Path) -> list[Any]:
    """What each process logged, or the weights after a fit and the next random number."""
    return [json.loads(path.read_text()) for path in sorted(dirpath.glob("process*.json"))]


def reports(dirpath: Path) -> dict[str, dict[str, Any]]:
    """Contents of the files, but for latent structures and numbers of batches."""
    found = {}
    for path in sorted(dirpath.glob("*.npz")):
        with np.load(path) as file:
            names = [name for name in file.files if not name.startswith(("checksum", "latent/"))]
            arrays = {name: file[name] for name in names}
        header = json.loads(str(arrays.pop("header")))
        for name in ("batches", "batches_seen", "arrays"):
            header.pop(name, None)
        for layer in header.get("layers", {}).values():
            layer.pop("latent", None)
        found[path.name] = {**arrays, **header}
    return found


def latent_of(dirpath: Path) -> dict[str, LatentStructure]:
    """Latent structure of each layer of the only relay report."""
    (path,) = dirpath.glob("relay*.npz")
    layers = RelayReport.load(path).layers
    return {key: layer.latent for key, layer in layers.items() if layer.latent is not None}


def assert_same(found: dict[str, dict[str, Any]], expected: dict[str, dict[str, Any]]) -> None:
    assert found.keys() == expected.keys()
    assert found
    for name, contents in expected.items():
        assert found[name].keys() == contents.keys()
        for part, value in contents.items():
            np.testing.assert_equal(found[name][part], value, err_msg=f"{name}: {part}")


VALIDATIONS: dict[str, dict[str, Any]] = {
    "all samples": {
        "measure": {"n_bootstraps": 40, "n_permutations": 20},
        "which": "RandomSets",
        "which_options": {"n": 10, "n_bootstraps": 5},
        "inputs_end": "auto",
        "latent": {},
    },
    "some": {
        "sample": {"max_samples": 100, "storage": "half"},
        "which": "EveryUnit",
        "which_options": {"steps": "each", "max_sets": 20},
        "value": "Mean",
        "cell": "LSTM",
        "latent": {"max_samples": 60, "inputs": "mean"},
    },
    "a process without a batch": {
        "uneven": True,
        "which": "EveryUnit",
        "cell": "LSTM",
        "latent": {"inputs": "mean"},
    },
    "one by one": {"batch_size": 1, "latent": {"max_samples": 60}},
}


@pytest.mark.timeout(600)
def test_reports_and_training_are_bit_for_bit_those_of_one_process(tmp_path: Path) -> None:
    """331 samples: with 2 and with 3 processes some are repeated.

    The last digits of a state depend on its place in the batch, and latent structures depend on
    them: only those of batches of one sequence are bit for bit the same.

    Training is what it is without callbacks, the random streams, too; EarlyStopping finds what it
    monitors in each process. A run that is resumed has its reports in each process.
    """
    fitted = {"fit": True, "which": "EveryUnit", "cell": "LSTM", "latent": {"inputs": "mean"}}
    fits: dict[str, dict[str, Any]] = {
        name: {**fitted, "callbacks": name == "fit"} for name in ("fit", "plain fit")
    }
    checkpoint = str(tmp_path / "last.ckpt")
    resumed = {**fits["fit"], "resumed": checkpoint, "max_epochs": 3}
    fits["fit"] |= {"checkpoint": checkpoint}
    in_two = {"all samples": VALIDATIONS["all samples"], **fits, "resumed": resumed}
    for devices, runs in ((1, VALIDATIONS), (2, in_two), (3, VALIDATIONS)):
        asked = [
            {"devices": devices, "dirpath": str(tmp_path / str(devices) / name), **options}
            for name, options in runs.items()
        ]
        if devices == 1:
            for options in asked:
                main(options)
            continue
        done = start(*asked)
        assert done.returncode == 0, done.stderr[-3000:]
        for name in VALIDATIONS.keys() & runs.keys():
            found = tmp_path / str(devices) / name
            assert_same(reports(found), reports(tmp_path / "1" / name))
            latent = latent_of(tmp_path / "1" / name)
            assert latent["rnn.l0"].attractors is not None
            atol = 0 if runs[name].get("batch_size") == 1 else 1e-9
            assert_equal(latent_of(found), latent, atol)
            (alone,) = said_in(tmp_path / "1" / name)
            logged = said_in(found)
            assert len(logged) == devices
            assert all(numbers == logged[0] for numbers in logged)
            ours = {own: number for own, number in logged[0].items() if own != "val_loss"}
            assert ours
            assert ours == {own: alone[own] for own in ours}
    weights = [said_in(tmp_path / "2" / name) for name in fits]
    assert weights[0] == weights[1]
    assert weights[0][0] == weights[0][1]
    first, second = said_in(tmp_path / "2" / "resumed")
    assert first == second  # each process has all reports
    assert [epoch for epoch, _ in first] == [0, 1, 2, 0, 1, 2]
    assert len(load_reports(tmp_path / "2" / "resumed").knockout) == 3
    saved = [
        len(list((tmp_path / "2" / "fit").glob(f"{kind}*.npz"))) for kind in ("relay", "knock")
    ]
    assert saved == [2, 2]


@pytest.mark.timeout(300)
def test_a_process_that_fails_ends_the_others_with_the_reason(tmp_path: Path) -> None:
    done = start({"devices": 2, "dirpath": str(tmp_path), "fails_in": 1})
    assert done.returncode != 0
    words = "process 1: ValueError: states of 'rnn.l0': nan at step 0"
    assert words in done.stderr
    assert not list(tmp_path.glob("*.npz"))


@pytest.mark.timeout(300)
def test_one_device_under_a_strategy_for_several(tmp_path: Path) -> None:
    asked: dict[str, dict[str, Any]] = {
        name: {
            "devices": 1,
            "dirpath": str(tmp_path / name),
            "which": "EveryUnit",
            "strategy": name,
        }
        for name in ("auto", "ddp", "ddp_spawn")
    }
    main(asked["auto"])
    for name in ("ddp", "ddp_spawn"):
        done = start(asked[name])
        assert done.returncode == 0, done.stderr[-3000:]
        assert_same(reports(tmp_path / name), reports(tmp_path / "auto"))
