import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest

from lightning_relay import RelayReport
from tests.reports import small_report


def assert_equal(first: object, second: object, atol: float = 0.0) -> None:
    """Equality of reports, which hold arrays."""
    if dataclasses.is_dataclass(first):
        assert type(first) is type(second)
        for field in dataclasses.fields(first):
            assert_equal(getattr(first, field.name), getattr(second, field.name), atol)
    elif isinstance(first, dict):
        assert isinstance(second, dict)
        assert list(first) == list(second)
        for key in first:
            assert_equal(first[key], second[key], atol)
    elif isinstance(first, np.ndarray):
        assert isinstance(second, np.ndarray)
        assert first.dtype == second.dtype
        np.testing.assert_allclose(first, second, atol=atol, rtol=0)
    else:
        assert first == second


def test_a_report_is_the_same_after_saving_and_loading(tmp_path: Path) -> None:
    report = dataclasses.replace(
        small_report(concepts="per_class"), stage="test", epoch=3, global_step=40, dataloader=1
    )
    report.save(tmp_path / "report.npz")
    assert_equal(report, RelayReport.load(tmp_path / "report.npz"))


def test_the_most_important_units_are_named_with_their_ambiguity() -> None:
    relay = small_report(steps=2, inputs_end=None).layers["rnn.l0"].concepts["joint"]
    relay = dataclasses.replace(
        relay,
        units=np.array([[4, 3, 2, 1, 0], [0, 1, 2, 3, 4]]),
        ambiguous=np.array([[True, False, False, True, True], [True, False, True, False, False]]),
    )
    assert relay.most_important(0, 3) == "≈0 ≈1 2"
    assert relay.most_important(-1, 9) == "4 3 ≈2 1 ≈0"


def test_names_of_any_kind_survive(tmp_path: Path) -> None:
    report = small_report()
    layer = report.layers["rnn.l0"]
    names = ["a/b", "units", "header", "größer als 2"]
    odd = dataclasses.replace(
        report,
        layers={
            "l0": dataclasses.replace(
                layer, concepts=dict.fromkeys(names, *layer.concepts.values())
            )
        },
    )
    odd.save(tmp_path / "odd.npz")
    assert list(RelayReport.load(tmp_path / "odd.npz").layers["l0"].concepts) == names


def test_the_file_is_plain_numpy_without_pickle(tmp_path: Path) -> None:
    small_report().save(tmp_path / "report.npz")
    with np.load(tmp_path / "report.npz", allow_pickle=False) as file:
        assert file["rnn.l0/joint/scores"].shape == (6, 5)
        assert file["rnn.l0/samples"].tolist() == [80] * 6
        assert json.loads(str(file["header"]))["samples"] == 80


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.npz"
    np.savez(path, values=np.zeros(2))
    with pytest.raises(ValueError, match=re.escape(f"path: {str(path)!r} holds no relay report")):
        RelayReport.load(path)
    path.write_text("text")
    with pytest.raises(ValueError, match="holds no relay report"):
        RelayReport.load(path)
    with pytest.raises(FileNotFoundError):
        RelayReport.load(tmp_path / "nothing.npz")
    np.savez(path, header=np.array(json.dumps({"format": 2})))
    with pytest.raises(ValueError, match="is of another format than 1; load it with the version"):
        RelayReport.load(path)
    np.savez(path, header=np.array({"pickled": "object"}, dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="allow_pickle=False"):
        RelayReport.load(path)
