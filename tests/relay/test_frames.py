import dataclasses
import sys

import numpy as np
import pytest

from lightning_relay.relay.frames import dimensions
from lightning_relay.relay.report import ConceptRelay
from tests.support.reports import EVIDENCE, small_report

REPORT = dataclasses.replace(
    small_report(concepts="per_class", **EVIDENCE), stage="validate", epoch=2, global_step=9
)


def test_a_frame_has_a_row_for_each_layer_concept_step_and_unit() -> None:
    layer = REPORT["rnn.l0"]
    two = dataclasses.replace(REPORT, layers={"rnn.l0": layer, "rnn.l1": layer})
    frame = two.to_dataframe()
    assert len(frame) == 2 * 4 * 6 * 5
    assert set(frame["epoch"]) == {2}
    row = frame.query("layer == 'rnn.l1' and concept == 'class_2' and step == 3 and unit == 4")
    relay = layer["class_2"]
    for name in ("share", "share_error", "tells", "irreplaceable", "scores", "tied", "rank_upper"):
        assert row[name].item() == getattr(relay, name)[3, 4]
    assert row["information"].item() == relay.information[3, 0]
    assert row["unattributed"].item() == relay.unattributed[3]
    assert row["samples"].item() == layer.samples[3]
    assert row["common_code"].item() == layer.common_code[3, 4]
    assert "chance_level" not in frame


def test_a_tree_has_a_dataset_for_each_layer_with_all_arrays() -> None:
    tree = REPORT.to_xarray()
    assert tree.attrs == {"stage": "validate", "epoch": 2, "global_step": 9}
    dataset = tree["rnn.l0"].dataset
    relay = REPORT["rnn.l0"]["class_3"]
    for field in dataclasses.fields(ConceptRelay):
        values = getattr(relay, field.name)
        if isinstance(values, np.ndarray) and field.name != "time_steps":
            array = dataset[field.name].sel(concept="class_3")
            assert array.dims == dimensions(field.name)
            np.testing.assert_array_equal(array.values, values)
    np.testing.assert_array_equal(dataset["samples"], REPORT["rnn.l0"].samples)
    np.testing.assert_array_equal(dataset["common_code"], REPORT["rnn.l0"].common_code)
    np.testing.assert_array_equal(dataset["step"], REPORT["rnn.l0"].time_steps)
    np.testing.assert_array_equal(dataset["read_at"], REPORT["rnn.l0"].time_steps)
    assert dataset["lag"].values.tolist() == [1, 2, 3]


def test_a_tree_takes_names_of_modules_with_a_slash() -> None:
    layer = REPORT["rnn.l0"]
    report = dataclasses.replace(REPORT, layers={"rnn.l0": layer, "in/out.rnn.l0": layer})
    tree = report.to_xarray()
    np.testing.assert_array_equal(tree["in/out.rnn.l0"]["tells"][2], layer["class_2"].tells)


@pytest.mark.parametrize("package", ["pandas", "xarray"])
def test_without_the_package_it_says_what_to_install(
    package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    method = {"pandas": REPORT.to_dataframe, "xarray": REPORT.to_xarray}[package]
    with pytest.raises(ImportError, match=f"needs {package}: pip install {package}"):
        method()
