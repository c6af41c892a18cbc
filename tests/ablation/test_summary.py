import dataclasses
import sys
from typing import Any

import numpy as np
import pytest

from lightning_relay.ablation.damage import Damage
from lightning_relay.ablation.summary import MOST_LINES, prediction_in_words, unit_in_words
from tests.support.knockouts import LAYER, agreement, prediction, single_units, small_knockouts


def of(damage: list[float], beyond: list[bool], baseline: float = 0.875) -> Damage:
    values, excluded = np.array(damage), np.array(beyond)
    lower = np.where(excluded, values / 2, values - 1)
    return Damage(np.array(baseline), baseline - values, values, lower, values + 1)


def test_a_report_is_printed_as_the_sets_that_do_most_damage() -> None:
    report = dataclasses.replace(
        small_knockouts(single_units(4), concepts=("joint",)),
        accuracy=of([0.1, 0.5, 0.0, 0.25], [False, True, False, True]),
        concept_accuracy=None,
        metrics={"loss": of([0.0, 0.01, 0.5, 0.0], [False] * 4, 2.0)},
        agreement=(agreement("joint", np.arange(4.0), np.arange(4.0)),),
        stage="test",
        epoch=3,
        sets_left_out=7,
    )
    lines = str(report).splitlines()
    assert lines[0] == (
        "Knock-out report: test, epoch 3; 4 sets of units held at zero; 600 of 1200 samples"
    )
    assert lines[1:4] == [
        "7 more sets were not run",
        "accuracy: 0.875 without knock-out; damage of 2 of 4 sets differs from 0, such as "
        f"0.5 by {LAYER}: 1, 0.25 by {LAYER}: 3",
        f"loss: 2 without knock-out; no damage differs from 0; the largest: 0.5 by {LAYER}: 2",
    ]
    areas = [f"{curve.area.mean():.3f}" for curve in report.curves]
    assert lines[4] == (
        f"{LAYER}, joint, mean accuracy along the order: most first {areas[0]}, least first "
        f"{areas[1]}, random first {areas[2]}"
    )
    assert lines[5].startswith(
        f"{LAYER}, joint, rank correlation of unit score and damage of single units: 1.00 ["
    )
    assert repr(report) == str(report)


def test_what_is_undefined_is_said() -> None:
    report = dataclasses.replace(
        small_knockouts(single_units(4), classes=0),
        metrics={
            "loss": of([np.nan] * 4, [False] * 4),
            "untested": dataclasses.replace(
                of([0.0, 0.5, 0.1, 0.0], [False] * 4), lower=np.full(4, np.nan)
            ),
            "perplexity": of([np.inf, 1.0, np.nan, 0.0], [True, True, False, False]),
        },
        agreement=(agreement("joint", np.arange(3.0), np.arange(3.0)),),
    )
    lines = str(report).splitlines()
    assert "loss: 0.875 without knock-out" in lines
    assert "units: undefined (fewer than 4 units, or all alike)" in str(report)
    assert f"untested: 0.875 without knock-out; the largest damage: 0.5 by {LAYER}: 1" in lines
    assert (
        f"perplexity: 0.875 without knock-out; damage of 2 of 3 sets differs from 0, such as inf "
        f"by {LAYER}: 0, 1 by {LAYER}: 1"
    ) in lines


def test_a_summary_fits_a_screen() -> None:
    concepts = tuple(f"c{number}" for number in range(30))
    lines = str(small_knockouts(concepts=concepts)).splitlines()
    assert len(lines) == MOST_LINES == 15
    assert lines[-1] == "… and 20 more lines; to_dataframe() has all"


def test_damage_is_found_by_name_and_in_a_frame() -> None:
    report = dataclasses.replace(small_knockouts(metrics=("loss",)), epoch=2)
    bits = report["bit_1"]
    np.testing.assert_array_equal(bits.damage, report.damage_of("bit_1").damage)
    with pytest.raises(
        KeyError, match="measure: no measure 'f1' in this report; it has 'accuracy'"
    ):
        report["f1"]
    frame = report.to_dataframe()
    assert len(frame) == len(report.sets) * len(report.measures)
    row: Any = frame.query("measure == 'bit_1'").iloc[3]
    assert (row["set"], row["damage"], row["epoch"]) == (report.sets[3].name, bits.damage[3], 2)
    assert (row["lower"], row["upper"]) == (bits.lower[3], bits.upper[3])
    assert row["units"] == report.sets[3].units[LAYER]


def test_a_frame_needs_pandas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match=r"^to_dataframe needs pandas: pip install pandas$"):
        small_knockouts().to_dataframe()


def test_a_unit_held_alone_has_a_sentence() -> None:
    always = dataclasses.replace(
        small_knockouts(single_units(4), concepts=("joint",)),
        accuracy=of([0.1, 0.5, 0.0, 0.25], [False, True, False, True]),
    )
    assert unit_in_words(always, LAYER, "accuracy", 1) == (
        "unit 1 of rnn.l0 held alone at all steps: damage to accuracy 0.500 [0.250, 1.500]"
    )
    assert unit_in_words(always, LAYER, "accuracy", 9) == ""
    assert unit_in_words(always, "other", "accuracy", 1) == ""
    each = dataclasses.replace(
        small_knockouts(single_units(2, steps=2), concepts=("joint",), curves=False),
        accuracy=of([0.1, 0.5, 0.0, 0.25], [False, True, False, True]),
    )
    assert unit_in_words(each, LAYER, "accuracy", 1) == (
        "unit 1 of rnn.l0 held alone 2 times, each at other steps: damage to accuracy from 0.000 "
        "to 0.250"
    )


def test_whether_information_predicts_damage_has_a_sentence() -> None:
    found = prediction(step=3)
    start = "random sets of units of rnn.l0, held at step 3,"
    assert prediction_in_words(found) == (
        f"{start} do damage to joint of which their size alone explains 0.25, and size and what "
        "they relay 0.88 (R²)"
    )
    few = dataclasses.replace(found, r2=np.nan)
    assert prediction_in_words(few).endswith("cannot be explained: too few differ")
    alike = dataclasses.replace(few, damage=np.zeros(30), step=-1)
    assert prediction_in_words(alike) == (
        "random sets of units of rnn.l0, held at the last step, all do the same damage to joint"
    )
