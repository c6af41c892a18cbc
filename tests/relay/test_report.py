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

RELAY = small_report()["rnn.l0"]["joint"]


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


def test_units_of_a_tie_group_of_several_are_ambiguous() -> None:
    relay = dataclasses.replace(RELAY, groups=np.array([[0, 1, 0, 3, 3], [0, 1, 2, 1, 4]]))
    assert relay.ambiguous.tolist() == [
        [True, False, True, True, True],
        [False, True, False, True, False],
    ]


def test_units_beyond_chance_are_those_at_five_per_cent() -> None:
    relay = dataclasses.replace(
        RELAY,
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
    names = ["a/b", "a%2Fb", "units", "header", "größer als 2", "nul\0", "l0", "x" * 70_000]
    odd = dataclasses.replace(
        report,
        layers={
            key: dataclasses.replace(layer, concepts=dict.fromkeys(names, *layer.concepts.values()))
            for key in ("l0", "latent", "a/b", "a")
        },
    )
    odd.save(tmp_path / "odd.npz")
    assert_equal(RelayReport.load(tmp_path / "odd.npz"), odd)


def test_a_report_that_could_not_be_loaded_is_not_saved(tmp_path: Path) -> None:
    layer = dataclasses.replace(small_report()["rnn.l0"], samples=np.zeros(7, np.int64))
    wrong = dataclasses.replace(small_report(), layers={"rnn.l0": layer})
    with pytest.raises(ValueError, match=r"rnn.l0.samples: got shape \(7,\); it takes \(step\) wi"):
        wrong.save(tmp_path / "report.npz")
    wrong = dataclasses.replace(small_report(), samples=np.int64(80))
    with pytest.raises(ValueError, match=r"report.samples: got np.int64\(80\); it takes int"):
        wrong.save(tmp_path / "report.npz")
    assert list(tmp_path.iterdir()) == []


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
    for older in (1, 2, 3, 4):
        np.savez(path, header=np.array(json.dumps({"format": older})))
        with pytest.raises(
            ValueError, match="is of another format than 11; load it with the versi"
        ):
            RelayReport.load(path)
    small_knockouts().save(path)
    with pytest.raises(ValueError, match=r"no relay report but a knock-out report; load it with "):
        RelayReport.load(path)
    np.savez(path, header=np.array({"pickled": "object"}, dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="holds no relay report"):
        RelayReport.load(path)


def with_steps(steps: list[int], *, backward: bool = False) -> ConceptRelay:
    return dataclasses.replace(RELAY, time_steps=np.array(steps), backward=backward)


@pytest.mark.parametrize(
    ("steps", "backward", "step", "place"),
    [
        ([0, 1, 2, 3, 4, 5], False, -1, 5),
        ([5, 3, 1, 0, 2, 4], False, -1, 0),
        ([0, 1, 2, 3, 4, -1], False, -1, 5),
        ([0, -1, 2, 3, 4, 5], False, -1, 1),
        ([0, 1, 2, 3, 4, -3], False, -3, 5),
        ([2, 3, 0, 1, 4, -1], True, -1, 2),
        ([5, 3, 1, 0, 2, 4], False, 0, 3),
    ],
)
def test_a_step_is_found_and_minus_one_is_the_last_the_layer_computes(
    steps: list[int], backward: bool, step: int, place: int
) -> None:
    assert with_steps(steps, backward=backward).place(step) == place


def test_a_step_that_was_not_analysed_is_refused() -> None:
    message = "step: got -2, which was not analysed; it takes -1 for the last, or one of 0, 1, 2"
    with pytest.raises(ValueError, match=message):
        RELAY.top_units(2, step=-2)
    with pytest.raises(ValueError, match="step: got 7, which was not analysed"):
        small_report()["rnn.l0"].place(7)


def test_top_units_are_those_with_the_largest_shares_and_only_those_with_any() -> None:
    share = np.tile([0.1, 0.4, -0.2, 0.4, 0.0], (6, 1))
    share[2] = [1, 2, 3, 4, 5]
    relay = dataclasses.replace(RELAY, share=share)
    assert relay.top_units(2) == [1, 3]
    assert relay.top_units(5) == [1, 3, 0]
    assert relay.top_units(3, step=2) == [4, 3, 2]
    assert all(type(unit) is int for unit in relay.top_units(5))


@pytest.mark.parametrize("k", [0, -1, 2.0, True])
def test_a_number_of_top_units_that_is_none_is_refused(k: int) -> None:
    with pytest.raises(ValueError, match=f"k: got {k}; it takes a number of units from 1"):
        RELAY.top_units(k)


def test_top_units_need_shares() -> None:
    with pytest.raises(ValueError, match="top_units: relay shares were not measured; measure them"):
        small_report(n_orders=0)["rnn.l0"]["joint"].top_units(3)


def test_the_smallest_set_is_the_first_that_tells_enough() -> None:
    relay = dataclasses.replace(
        RELAY,
        told=np.array([[0, 1, 1.8, 2, 2, 2]] * 5 + [[0, 0, 0, 0, 0, 0]]),
        telling=np.array([[4, 2, 0, -1, -1]] * 5 + [[-1] * 5]),
    )
    assert relay.smallest_set(step=0) == [4, 2]
    assert relay.smallest_set(0.5, step=0) == [4]
    assert relay.smallest_set(1, step=0) == [4, 2, 0]
    assert relay.smallest_set() == []


@pytest.mark.parametrize("fraction", [0, -0.5, 1.01, float("nan")])
def test_a_fraction_out_of_range_is_refused(fraction: float) -> None:
    with pytest.raises(ValueError, match=r"fraction: got .*; it takes a number above 0 and"):
        RELAY.smallest_set(fraction)


def test_results_are_found_by_name_and_unknown_names_list_the_known() -> None:
    report = small_report(concepts="per_class")
    assert report["rnn.l0"]["class_2"] is report.layers["rnn.l0"].concepts["class_2"]
    with pytest.raises(KeyError) as error:
        report["gru.l0"]
    assert str(error.value) == "layer: no layer 'gru.l0' in this report; it has 'rnn.l0'"
    with pytest.raises(KeyError, match="concept: no concept 'joint' in this report; it has 'class"):
        report["rnn.l0"]["joint"]
