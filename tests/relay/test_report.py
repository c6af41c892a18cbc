import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest

from lightning_relay import RelayMeasure, RelayReport
from lightning_relay.relay.report import ConceptRelay
from tests.support.knockouts import small_knockouts
from tests.support.reports import EVIDENCE, assert_equal, small_report


@pytest.mark.parametrize(
    "options",
    [
        {},
        EVIDENCE,
        {"n_permutations": 19},
        {"n_bootstraps": 40},
        {"n_orders": 0},
        {"n_orders": 0.01},
    ],
)
def test_a_report_is_the_same_after_saving_and_loading(
    tmp_path: Path, options: dict[str, int | float]
) -> None:
    report = dataclasses.replace(
        small_report(concepts="per_class", **options),
        stage="test",
        epoch=3,
        global_step=40,
        dataloader=1,
    )
    report.save(tmp_path / "report.npz")
    loaded = RelayReport.load(tmp_path / "report.npz")
    assert_equal(report, loaded)
    relay = loaded.layers["rnn.l0"].concepts["class_3"]
    chance = (relay.chance_level, relay.chance_p_values, relay.movable, relay.beyond_chance)
    intervals = (
        relay.lower,
        relay.upper,
        relay.rank_lower,
        relay.rank_upper,
        relay.rank_stability,
    )
    shares = (relay.share, relay.share_error, relay.share_resolved, relay.unattributed)
    assert loaded.measure == RelayMeasure(**options)
    assert [part is None for part in shares] == [options.get("n_orders") == 0] * 4
    assert [part is None for part in chance] == ["n_permutations" not in options] * 4
    assert [part is None for part in intervals] == ["n_bootstraps" not in options] * 5


def with_order(
    units: list[int], ambiguous: list[int] | None = None, unresolved: list[int] | None = None
) -> ConceptRelay:
    """Two steps with one order, least important first; the ambiguous units are one tie group."""
    relay = small_report(steps=2, inputs_end=None).layers["rnn.l0"].concepts["joint"]
    groups, resolved = np.arange(len(units)), np.ones(len(units), dtype=bool)
    if ambiguous:
        groups[ambiguous] = min(ambiguous)
    resolved[unresolved or []] = False
    return dataclasses.replace(
        relay,
        units=np.array([units] * 2),
        groups=np.array([groups] * 2),
        resolved=np.array([resolved] * 2),
    )


def test_the_most_important_units_are_named_with_their_ambiguity() -> None:
    relay = with_order([4, 3, 2, 1, 0], ambiguous=[0, 1, 4])
    assert relay.most_important(0, 3) == "≈0 ≈1 2"
    assert relay.most_important(-1, 9) == "≈0 ≈1 2 3 ≈4"
    assert relay.most_important(0, 0) == ""


@pytest.mark.parametrize(
    ("unresolved", "count", "words"),
    [
        ([5, 0, 3], 2, "(0 3 5)"),
        ([5, 0, 3], 3, "(0 3 5)"),
        ([5, 0, 3], 4, "(0 3 5) 1"),
        ([5, 0, 3], 9, "(0 3 5) 1 ≈2 4"),
        ([5], 2, "(5) 0"),
        ([1, 2, 4], 2, "5 0"),
        ([1, 2, 4], 3, "5 0 ≈3"),
        ([1, 2, 4], 4, "5 0 ≈3 (1 2 4)"),
        ([0, 1, 2, 3, 4, 5], 3, "(0 1 2 3 4 5)"),
        ([0, 1, 2, 3, 4, 5], 0, ""),
    ],
)
def test_units_that_are_not_ranked_stand_in_brackets_all_or_none(
    unresolved: list[int], count: int, words: str
) -> None:
    relay = with_order([4, 2, 1, 3, 0, 5], ambiguous=[2, 3], unresolved=unresolved)
    assert relay.most_important(0, count) == words


def test_many_units_that_are_not_ranked_are_counted() -> None:
    order = list(range(100))
    assert with_order(order, unresolved=order).most_important(0, 10) == "(100 units not ranked)"
    relay = with_order(order, unresolved=order[:98])
    assert relay.most_important(0, 10) == "99 98 (98 units not ranked)"
    assert relay.most_important(0, 2) == "99 98"
    relay = with_order(order, unresolved=order[-13:])
    assert relay.most_important(0, 13) == "(13 units not ranked)"
    assert relay.most_important(0, 15) == "(13 units not ranked) 86 85"
    assert with_order(order, unresolved=order[-12:]).most_important(0, 10) == (
        "(88 89 90 91 92 93 94 95 96 97 98 99)"
    )


def test_units_of_a_tie_group_of_several_are_ambiguous() -> None:
    relay = dataclasses.replace(
        with_order([0, 1, 2, 3, 4]), groups=np.array([[0, 1, 0, 3, 3], [0, 1, 2, 1, 4]])
    )
    assert relay.ambiguous.tolist() == [
        [True, False, True, True, True],
        [False, True, False, True, False],
    ]


def test_units_beyond_chance_are_those_at_five_per_cent() -> None:
    relay = dataclasses.replace(
        with_order([1, 0]),
        chance_p_values=np.array([[0.9, 0.05, 0.051], [0.01, 1.0, 1 / 200], [0.01, 0.01, 0.01]]),
        unexplained_p_values=np.array([1.0, 0.051, 0.05]),
    )
    assert relay.beyond_chance is not None
    assert relay.beyond_chance.tolist() == [[True, False], [False, True], [False, False]]


@pytest.mark.parametrize("direction", ["shrink", "grow"])
def test_the_full_condition_holds_all_units(direction: str) -> None:
    report = small_report(direction=direction)
    layer = report.layers["rnn.l0"]
    states = layer.concepts["joint"].distinct_states
    assert states[:, report.full_condition].tolist() == layer.distinct_states.tolist()
    assert set(states.min(1)) == {1}


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
    for older in (1, 2, 3):
        np.savez(path, header=np.array(json.dumps({"format": older})))
        with pytest.raises(ValueError, match="is of another format than 4; load it with the versi"):
            RelayReport.load(path)
    small_knockouts().save(path)
    with pytest.raises(ValueError, match=r"no relay report but a knock-out report; load it with "):
        RelayReport.load(path)
    np.savez(path, header=np.array({"pickled": "object"}, dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="allow_pickle=False"):
        RelayReport.load(path)
