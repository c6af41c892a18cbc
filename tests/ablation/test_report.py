import dataclasses
import json
from io import BytesIO
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lightning_relay import KnockoutReport, KnockoutSet
from tests.support.knockouts import LAYER, agreement, single_units, small_knockouts
from tests.support.reports import assert_equal, small_report


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"metrics": ("loss", "accuracy", "a/b")},
        {"classes": 0},
        {"classes": 0, "metrics": ("loss",)},
        {"curves": False},
        {"sets": single_units(3, 4)},
        {"sets": []},
        {
            "x_in": "batch[1]",
            "stage": "test",
            "epoch": 3,
            "global_step": 40,
            "dataloader": 1,
            "relay_epoch": 2,
            "relay_step": 30,
            "sets_left_out": 4,
        },
    ],
)
def test_a_report_is_the_same_after_saving_and_loading(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    report = small_knockouts(**options)
    report.save(tmp_path / "report.npz")
    loaded = KnockoutReport.load(tmp_path / "report.npz")
    assert_equal(report, loaded)
    assert (loaded.accuracy is None) == (options.get("classes") == 0)
    assert loaded.sets == report.sets
    assert list(loaded.metrics) == list(options.get("metrics", ()))


def test_sets_of_any_kind_survive() -> None:
    sets = [
        KnockoutSet("a|b", "given", {"rnn.l0": (1, 2), "rnn.l1.cell": (0,)}, (0, -1), "größer"),
        KnockoutSet("header", "given", {}, ()),
    ]
    with BytesIO() as file:
        small_knockouts(sets, concepts=("joint",)).save(file)
        file.seek(0)
        assert KnockoutReport.load(file).sets == tuple(sets)


def test_an_undefined_correlation_survives(tmp_path: Path) -> None:
    undefined = agreement("joint", np.ones(5), np.arange(5.0))
    assert np.isnan(undefined.correlation)
    report = small_knockouts(agreement=(undefined,))
    report.save(tmp_path / "report.npz")
    assert_equal(report, KnockoutReport.load(tmp_path / "report.npz"))


def test_the_file_is_plain_numpy_without_pickle(tmp_path: Path) -> None:
    small_knockouts(metrics=("loss",)).save(tmp_path / "report.npz")
    with np.load(tmp_path / "report.npz", allow_pickle=False) as file:
        assert file["accuracy/damage"].shape == (17,)
        assert file["class_accuracy/damage"].shape == (17, 4)
        assert file["metrics/loss/baseline"].shape == ()
        assert file["curves/2/accuracy"].shape == (8, 6)
        assert file["confusion"].shape == (18, 4, 4)
        header = json.loads(str(file["header"]))
    assert header["samples"] == 600
    assert header["sets"][0]["units"] == {LAYER: [0]}


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"values": np.zeros(2)}, "path: '.*other.npz' holds no knock-out report"),
        (
            {"header": np.array(json.dumps({"kind": "knock-out", "format": 99}))},
            "is of another format than 6; load it with the version",
        ),
        (
            {"header": np.array(json.dumps({"kind": "other", "format": 1}))},
            "load it with the class that wrote it",
        ),
        ({"header": np.array({"pickled": "object"}, dtype=object)}, "holds no knock-out rep"),
        ({"header": np.array("one, two")}, "path: '.*other.npz' holds no knock-out report"),
    ],
)
def test_other_arrays_are_refused(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    np.savez(tmp_path / "other.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        KnockoutReport.load(tmp_path / "other.npz")


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.npz"
    with pytest.raises(FileNotFoundError):
        KnockoutReport.load(path)
    path.write_text("text")
    with pytest.raises(ValueError, match=r"path: '.*other\.npz' holds no knock-out report"):
        KnockoutReport.load(path)
    small_report().save(path)
    with pytest.raises(ValueError, match=r"but a relay report; load it with RelayReport\.load$"):
        KnockoutReport.load(path)


def test_a_set_says_which_layer_or_unit_it_is() -> None:
    assert KnockoutSet("", "given", {"rnn.l0": (3,)}).unit == 3
    assert KnockoutSet("", "given", {"rnn.l0": (3,)}).layer == "rnn.l0"
    assert KnockoutSet("", "given", {"rnn.l0": (3, 4)}).unit is None
    assert KnockoutSet("", "given", {"rnn.l0": (3,), "rnn.l1": (3,)}).unit is None
    assert KnockoutSet("", "given", {"rnn.l0": (3,), "rnn.l1": ()}).layer is None


def test_measures_are_found_by_name() -> None:
    report = small_knockouts(metrics=("loss", "bit_1"))
    assert report.measures == ("accuracy", "joint", "bit_0", "bit_1", "loss")
    assert report.damage_of("accuracy") is report.accuracy
    assert report.damage_of("loss") is report.metrics["loss"]
    assert report.concept_accuracy is not None
    found = report.damage_of("bit_1")
    np.testing.assert_array_equal(found.upper, report.concept_accuracy.upper[:, 2])
    assert found.baseline == report.concept_accuracy.baseline[2]
    with pytest.raises(ValueError, match="measure: no 'bit' in the report; it has: 'accuracy', 'j"):
        report.damage_of("bit")
    empty = small_knockouts(classes=0)
    assert empty.measures == ()
    with pytest.raises(ValueError, match="no 'accuracy' in the report; it has: none"):
        empty.damage_of("accuracy")


def test_sets_are_found_by_group_layer_and_step() -> None:
    other = single_units(2, layer="rnn.l1")
    both = KnockoutSet("both", "given", {LAYER: (0,), "rnn.l1": (0,)})
    pair = KnockoutSet("pair", "each", {LAYER: (0, 1)}, (5,))
    report = small_knockouts([both, *single_units(2, 3), pair, *single_units(2), *other])
    assert report.layers == (LAYER, "rnn.l1")
    assert report.places("each", layer="rnn.l1") == [10, 11]
    assert report.places("given", "each") == list(range(12))
    assert report.places("given", layer=LAYER) == []
    places = dict(zip(product(range(2), range(3)), range(1, 7), strict=True))
    assert report.single_steps(LAYER) == places
    assert report.single_steps("rnn.l1") == {}


def test_reports_do_not_change() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        small_knockouts().samples = 3  # type: ignore[misc]
