"""The figure of many reports has the numbers of each, and gaps where one has none."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from lightning_relay.relay.history_figure import history_figure
from tests.support.changed import changed
from tests.support.reports import small_report

REPORT = small_report()
RELAY = REPORT["rnn.l0"]["joint"]
LATER = changed(REPORT, share=2 * RELAY.share, information=1.5 * RELAY.information)
WITHOUT = small_report(n_orders=0)


def drawn(*reports: Any, **options: Any) -> dict[str, Any]:
    return {own["name"]: own for own in history_figure(reports, **options)["data"]}


@pytest.mark.parametrize("step", [-1, 3])
def test_shares_and_bits_are_those_of_the_reports_at_the_step(step: int) -> None:
    found = drawn((0, REPORT), (1, LATER), step=step)
    place = RELAY.place(step)
    for unit in range(5):
        share = RELAY.share[place, unit]
        np.testing.assert_allclose(found[f"unit {unit}"]["y"], [share, 2 * share])
        np.testing.assert_array_equal(found[f"unit {unit}"]["x"], [0, 1])
    bits = RELAY.information[place, 0]
    np.testing.assert_allclose(found["I_R of all units"]["y"], [bits, 1.5 * bits])
    np.testing.assert_allclose(found["I(in; out)"]["y"], [RELAY.mutual_information[place]] * 2)


def test_a_report_that_lacks_something_leaves_a_gap() -> None:
    other = dataclasses.replace(REPORT, layers={"other": REPORT["rnn.l0"]})
    found = drawn((0, REPORT), (1, WITHOUT), (2, other), (3, LATER))
    assert np.isnan(found["unit 0"]["y"]).tolist() == [False, True, True, False]
    assert np.isnan(found["I_R of all units"]["y"]).tolist() == [False, False, True, False]


def test_reports_come_in_the_order_of_their_epochs() -> None:
    found = drawn((7, LATER), (2, REPORT))
    assert found["unit 0"]["x"].tolist() == [2, 7]
    np.testing.assert_allclose(found["unit 0"]["y"], RELAY.share[-1, 0] * np.array([1, 2]))


def test_the_largest_are_coloured_and_the_others_are_one_trace_with_gaps() -> None:
    wide = small_report(units=12)
    share = wide["rnn.l0"]["joint"].share.copy()
    share[-1] = np.arange(12)
    wide = changed(wide, share=share)
    found = drawn((0, wide), (1, wide), unit=2)
    names = [name for name in found if name.startswith("unit")]
    assert names == [*(f"unit {unit}" for unit in (11, 10, 9, 8, 7, 6, 5, 4)), "unit 2"]
    assert found["unit 2"]["line"]["width"] > found["unit 11"]["line"]["width"]
    grey = found["other units"]
    units, values = grey["customdata"].reshape(3, 3), grey["y"].reshape(3, 3)
    assert units[:, 0].tolist() == [3, 1, 0]
    np.testing.assert_array_equal(values[:, :2], [[3, 3], [1, 1], [0, 0]])
    assert np.isnan(values[:, 2]).all()


def test_units_beyond_what_a_browser_draws_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning_relay.relay.history_figure._MOST_POINTS", 5)
    share = np.tile(np.arange(12.0), (6, 1))
    wide = changed(small_report(units=12), share=share)
    figure = history_figure([(0, wide), (1, wide)])
    (grey,) = (own for own in figure["data"] if own["name"] == "other units")
    assert np.unique(grey["customdata"]).tolist() == [2, 3]  # the largest that are left
    words = figure["layout"]["title"]["subtitle"]["text"]
    assert "coloured: the 8 largest at epoch 1" in words
    assert words.endswith("; 2 smaller ones are not drawn")


def test_without_shares_there_are_the_bits_and_the_accuracy() -> None:
    figure = history_figure([(0, WITHOUT), (1, WITHOUT)], unit=2)
    names = [own["name"] for own in figure["data"]]
    assert names == ["I(in; out)", "accuracy (right)", "I_R of all units"]
    words = figure["layout"]["title"]["subtitle"]["text"]
    assert words.endswith(
        "relay shares were not measured; measure them with RelayMeasure(n_orders=16)"
    )
    assert figure["layout"]["yaxis"]["domain"] == [0, 1]


def test_the_accuracy_is_drawn_beside_the_bits() -> None:
    right = drawn((0, changed(REPORT, accuracy=np.full(6, 0.25))), (1, REPORT))["accuracy (right)"]
    np.testing.assert_array_equal(right["y"], [0.25, RELAY.accuracy[-1]])
    assert right["yaxis"] == "y3"


def test_bits_without_enough_sequences_are_hollow() -> None:
    coverage = RELAY.coverage.copy()
    coverage[-1, REPORT.full_condition] = 0.1
    reports = [(0, changed(REPORT, coverage=coverage)), (1, REPORT)]
    found = drawn(*reports)["I_R of all units"]
    assert found["marker"]["color"][0] == "white"
    assert found["marker"]["color"][1] != "white"
    assert found["text"] == ["<br>too few sequences", ""]
    words = history_figure(reports)["layout"]["title"]["subtitle"]["text"]
    assert "; hollow: too few sequences; below, each unit's share" in words


@pytest.mark.parametrize(
    ("reports", "options", "message"),
    [
        ([], {}, "there is no report"),
        ([(0, REPORT), (0, LATER)], {}, r"got two of epoch 0; .*prefix="),
        ([(0, REPORT)], {"layer": "l9"}, "no layer 'l9' .* 'rnn.l0'"),
        ([(0, REPORT)], {"concept": "odd"}, "no concept 'odd' .* 'joint'"),
        ([(0, REPORT)], {"step": 9}, "step: got 9, which was not analysed"),
        ([(0, REPORT)], {"unit": 5}, "unit: got 5; the layer has units 0 to 4"),
    ],
)
def test_what_cannot_be_drawn_is_named(reports: Any, options: Any, message: str) -> None:
    with pytest.raises((KeyError, ValueError), match=message):
        history_figure(reports, **options)
