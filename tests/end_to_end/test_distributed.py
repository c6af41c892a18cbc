"""Both callbacks in several processes: reports are those of one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.distributed import main

ROOT = Path(__file__).parents[2]


def run(dirpath: Path, devices: int, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run the script in so many processes; one that hangs is an error."""
    asked = json.dumps({"devices": devices, "dirpath": str(dirpath), **options})
    return subprocess.run(
        [sys.executable, "-m", "tests.support.distributed", asked],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def said(dirpath: Path, devices: int, **options: Any) -> list[Any]:
    """What each process logged, or the weights after a fit and the next random number."""
    if devices == 1 and "strategy" not in options:
        main({"devices": 1, "dirpath": str(dirpath), **options})  # needs no process of its own
    else:
        done = run(dirpath, devices, **options)
        assert done.returncode == 0, done.stderr[-3000:]
    found = [json.loads(path.read_text()) for path in sorted(dirpath.glob("process*.json"))]
    assert len(found) == devices
    return found


def reports(dirpath: Path) -> dict[str, dict[str, Any]]:
    """Contents of the files, but for the numbers of batches, which processes divide."""
    found = {}
    for path in sorted(dirpath.glob("*.npz")):
        with np.load(path) as file:
            arrays = {name: file[name] for name in file.files if name != "checksum"}
        header = json.loads(str(arrays.pop("header")))
        for name in ("batches", "batches_seen", "arrays"):
            header.pop(name, None)
        found[path.name] = {**arrays, **header}
    return found


def assert_same(found: dict[str, dict[str, Any]], expected: dict[str, dict[str, Any]]) -> None:
    assert found.keys() == expected.keys()
    assert found
    for name, contents in expected.items():
        assert found[name].keys() == contents.keys()
        for part, value in contents.items():
            np.testing.assert_equal(found[name][part], value, err_msg=f"{name}: {part}")


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("several", "options"),
    [
        (
            *((2, 3),),
            {
                "measure": {"n_bootstraps": 40, "n_permutations": 20},
                "which": "RandomSets",
                "which_options": {"n": 10, "n_bootstraps": 5},
                "inputs_end": "auto",
            },
        ),
        (
            *((3,),),
            {
                "sample": {"max_samples": 100, "storage": "half"},
                "which": "EveryUnit",
                "which_options": {"steps": "each", "max_sets": 20},
                "value": "Mean",
            },
        ),
    ],
    ids=["all samples", "some"],
)
def test_reports_are_bit_for_bit_those_of_one_process(
    tmp_path: Path, several: tuple[int, ...], options: Any
) -> None:
    """331 samples: with 2 and with 3 processes some are repeated."""
    (alone,) = said(tmp_path / "1", 1, **options)
    expected = reports(tmp_path / "1")
    assert len(expected) == 2
    for devices in several:
        logged = said(tmp_path / str(devices), devices, **options)
        assert_same(reports(tmp_path / str(devices)), expected)
        assert all(numbers == logged[0] for numbers in logged)
        ours = {name: number for name, number in logged[0].items() if name != "val_loss"}
        assert ours == {name: alone[name] for name in ours}


@pytest.mark.timeout(600)
def test_a_process_without_a_batch_neither_hangs_nor_counts(tmp_path: Path) -> None:
    options: dict[str, Any] = {"uneven": True, "which": "EveryUnit"}
    for devices in (1, 3):
        said(tmp_path / str(devices), devices, **options)
    assert_same(reports(tmp_path / "3"), reports(tmp_path / "1"))


@pytest.mark.timeout(600)
def test_a_process_that_fails_ends_the_others_with_the_reason(tmp_path: Path) -> None:
    done = run(tmp_path, 2, fails_in=1)
    assert done.returncode != 0
    words = "process 1: ValueError: states of 'rnn.l0': nan at step 0"
    assert words in done.stderr
    assert not list(tmp_path.glob("*.npz"))


@pytest.mark.timeout(600)
def test_training_in_two_processes_is_what_it_is_without_callbacks(tmp_path: Path) -> None:
    """The random streams, too; EarlyStopping finds what it monitors in each process."""
    weights = [
        said(tmp_path, 2, fit=True, callbacks=callbacks, which="EveryUnit")
        for callbacks in (True, False)
    ]
    assert weights[0] == weights[1]
    assert weights[0][0] == weights[0][1]
    assert len(list(tmp_path.glob("relay*.npz"))) == len(list(tmp_path.glob("knock*.npz"))) == 2


@pytest.mark.timeout(300)
@pytest.mark.parametrize("strategy", ["ddp", "ddp_spawn"])
def test_one_device_under_a_strategy_for_several(tmp_path: Path, strategy: str) -> None:
    options: dict[str, Any] = {"which": "EveryUnit", "strategy": strategy}
    said(tmp_path / "auto", 1, which="EveryUnit")
    done = run(tmp_path / strategy, 1, **options)
    assert done.returncode == 0, done.stderr[-3000:]
    assert_same(reports(tmp_path / strategy), reports(tmp_path / "auto"))
