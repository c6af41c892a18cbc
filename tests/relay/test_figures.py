"""Interactive figures of relay reports show the numbers of the report."""

from __future__ import annotations

import builtins
import json
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from lightning_relay.relay.figures import FIGURES
from lightning_relay.reports.figure import bits_scale, signed_scale
from tests.support.changed import changed
from tests.support.reports import EVIDENCE, small_report

REPORT = small_report(**EVIDENCE)
RELAY = REPORT["rnn.l0"]["joint"]
STEPS = [str(step) for step in range(6)]


def traces(what: Any, report: Any = REPORT, **options: Any) -> dict[str, Any]:
    """Traces by their name, or their type."""
    return {own.name or own.type: own for own in report.figure(what, **options).data}


def colour_at(scale: dict[str, Any], value: float) -> np.ndarray:
    """Red, green and blue that plotly gives a value."""
    place = (value - scale["zmin"]) / (scale["zmax"] - scale["zmin"])
    stops = [own for own, _ in scale["colorscale"]]
    colours = np.array(
        [[int(part) for part in own[4:-1].split(",")] for _, own in scale["colorscale"]]
    )
    return np.array([np.interp(place, stops, colours[:, part]) for part in range(3)])


@pytest.mark.parametrize("what", sorted(set(FIGURES) - {"latent"}))
def test_a_figure_is_plotlys_and_can_be_written(what: Any) -> None:
    figure = REPORT.figure(what)
    written = json.loads(figure.to_json())
    assert written["data"]
    title = written["layout"]["title"]
    assert title["text"].startswith("joint" if what == "layers" else "rnn.l0: joint")
    assert title["subtitle"]["text"]
    assert figure.to_html(include_plotlyjs=False)


def test_shares_and_their_errors_are_those_of_the_report() -> None:
    cells = traces("relay_share")["share"]
    assert cells.z.shape == (5, 6)
    np.testing.assert_array_equal(cells.z, RELAY.share.T)
    np.testing.assert_array_equal(cells.customdata, RELAY.share_error.T)
    assert list(cells.x) == STEPS


def test_bars_add_up_to_what_all_units_relay() -> None:
    found = traces("relay_share")
    sums = dict.fromkeys(STEPS, 0.0)
    for own in REPORT.figure("relay_share").data:
        if own.type == "bar":
            assert np.isfinite(own.y).all()  # else plotly does not stack them
            for step, bits in zip(own.x, own.y, strict=True):
                sums[step] += bits
    np.testing.assert_allclose([*sums.values()], RELAY.information[:, 0])
    np.testing.assert_allclose(
        found["in units' shares"].y, np.minimum(RELAY.share.sum(1), RELAY.information[:, 0])[2:]
    )
    assert list(found["in units' shares"].x) == STEPS[2:]
    assert list(found["not all input seen"].x) == STEPS[:2]
    np.testing.assert_array_equal(found["I(in; out)"].y, RELAY.mutual_information)
    np.testing.assert_array_equal(found["corrected"].y, RELAY.corrected[:, 0])
    np.testing.assert_array_equal(found["chance level of I(in; out)"].y, RELAY.chance_level[:, 0])
    bars = found["95 % interval"].error_y
    np.testing.assert_allclose(bars.array, RELAY.upper[:, 0] - RELAY.information[:, 0])
    np.testing.assert_allclose(bars.arrayminus, RELAY.information[:, 0] - RELAY.lower[:, 0])


def test_a_bar_says_what_is_known_about_its_step() -> None:
    bars = [own for own in REPORT.figure("relay_share").data if own.hovertext]
    words = [text for own in reversed(bars) for text in own.hovertext]
    assert words[3].startswith(f"step 3: {RELAY.information[3, 0]:.3f} bits relayed by all units [")
    assert f"of {RELAY.mutual_information[3]:.3f} bits that input and output share" in words[3]
    assert "80 sequences" in words[3]
    assert "not all input seen" in words[1]
    assert "not all input seen" not in words[2]


def test_the_number_of_sequences_is_said_and_drawn_where_it_differs() -> None:
    words = REPORT.figure("relay_share").layout.title.subtitle.text
    assert words.endswith("; 80 sequences")
    samples = np.array([80, 80, 60, 40, 20, 10])
    found = traces("relay_share", changed(REPORT, samples=samples))
    np.testing.assert_array_equal(found["sequences"].y, samples)
    assert found["sequences"].yaxis == "y3"


def test_bars_without_enough_sequences_are_hollow() -> None:
    full = REPORT.full_condition
    coverage = RELAY.coverage.copy()
    coverage[:, full] = [0, 1, 1, 1, 0.5, 1]
    bar = traces("relay_share", changed(REPORT, coverage=coverage))["in units' shares"]
    hollow = [colour == "rgba(0,0,0,0)" for colour in bar.marker.color]
    assert hollow == [False, False, True, False]
    assert "too few sequences" in bar.hovertext[2]


def test_the_scale_of_bits_is_that_of_their_square_root_up_to_the_entropy_of_the_input() -> None:
    cells = traces("relay_share")["share"]
    assert cells.zmax == pytest.approx(REPORT.input_entropy["joint"])
    scale = bits_scale(2.0)
    assert colour_at(scale, 0.0) == pytest.approx([250, 250, 245], abs=1)
    assert colour_at(scale, 2.0) == pytest.approx([8, 48, 107], abs=1)
    assert colour_at(scale, 2.0 / 9) == pytest.approx([158, 202, 225], abs=6)  # a third, in roots
    assert colour_at(scale, -0.5)[2] < 150  # orange
    assert colour_at(signed_scale(), 0.0) == pytest.approx([250, 250, 245], abs=1)
    assert colour_at(signed_scale(), -1.0) == pytest.approx([166, 54, 3], abs=1)


@pytest.mark.parametrize("step", [-1, 3])
def test_units_are_told_at_the_step(step: int) -> None:
    found = traces("units_needed", step=step)
    place = RELAY.place(step)
    told = [own.y for name, own in found.items() if name.startswith("told")]
    np.testing.assert_array_equal(np.nanmax(told, 0), RELAY.told[place])
    left = [own.y for name, own in found.items() if name.startswith("relayed by")]
    np.testing.assert_array_equal(np.nanmax(left, 0), RELAY.information[place, ::-1])
    np.testing.assert_allclose(found["90 % of what all tell"].y, 0.9 * RELAY.told[place, -1])
    names = next(own for name, own in found.items() if name.startswith("told")).text
    assert names[0] == "no unit"
    assert names[1].startswith(f"unit {RELAY.telling[place, 0]}")


def test_without_too_few_sequences_no_line_is_pale() -> None:
    sure = np.ones((6, 5), dtype=bool)
    found = traces("units_needed", changed(REPORT, telling_resolved=sure, resolved=sure))
    assert not [name for name in found if "too few" in name]


def test_units_for_which_there_are_too_few_sequences_are_pale() -> None:
    sure = np.zeros((6, 5), dtype=bool)
    sure[:, :2] = True
    found = traces("units_needed", changed(REPORT, telling_resolved=sure))
    assert np.isfinite(found["told by a growing set"].y).tolist() == [True] * 3 + [False] * 3
    pale = found["told by a growing set, too few sequences"]
    assert np.isfinite(pale.y).tolist() == [False] * 2 + [True] * 4
    assert pale.line.color != found["told by a growing set"].line.color


def test_a_growing_order_has_no_line_of_its_own() -> None:
    found = traces("units_needed", small_report(direction="grow"))
    assert not [name for name in found if name.startswith("relayed")]


def test_places_without_enough_sequences_are_grey() -> None:
    resolved = np.ones((6, 5), dtype=bool)
    resolved[2, 3], resolved[4, 0] = False, False
    figure = changed(REPORT, resolved=resolved).figure("greedy_order")
    grey, order = figure.data
    np.testing.assert_array_equal(np.isnan(order.z), ~resolved.T)
    np.testing.assert_array_equal(np.isfinite(grey.z), ~resolved.T)
    assert "too few sequences for 2 of 30 places" in figure.layout.title.subtitle.text


def test_transfer_is_drawn_by_pair_and_by_lag() -> None:
    found = traces("relay_transfer")
    cells = [own for own in REPORT.figure("relay_transfer").data if own.customdata is not None]
    np.testing.assert_array_equal(cells[0].z, RELAY.transfer)
    np.testing.assert_array_equal(cells[0].customdata, RELAY.transfer_error)
    np.testing.assert_array_equal(found["mean by lag"].y, RELAY.lag_profile)
    assert list(found["mean by lag"].x) == [1, 2, 3]
    transfer = RELAY.transfer.copy()
    transfer[1, 2] = np.nan
    grey = changed(REPORT, transfer=transfer).figure("relay_transfer").data[0]
    assert np.isfinite(grey.z)[1, 2]
    assert np.isfinite(grey.z).sum() == np.isnan(transfer).sum()


def test_steps_are_names_so_that_the_last_stands_where_it_is() -> None:
    report = changed(REPORT, time_steps=np.array([0, 1, 2, 3, 4, -1]))
    figure = report.figure("relay_share")
    assert figure.layout.xaxis.type == "category"
    assert list(figure.layout.xaxis.categoryarray) == [*STEPS[:5], "-1"]


def test_the_step_is_marked() -> None:
    (frame,) = REPORT.figure("relay_share", step=4).layout.shapes
    assert (frame.x0, frame.x1) == (3.5, 4.5)


def test_the_units_of_the_step_are_marked_in_transfer_and_lines_part_the_steps_with_input() -> None:
    *lines, frame = REPORT.figure("relay_transfer", step=4).layout.shapes
    assert (frame.y0, frame.y1, frame.x0, frame.x1) == (3.5, 4.5, -0.5, 5.5)
    level, upright = lines  # the last input comes at step 2
    assert (upright.x0, upright.x1, upright.y0, upright.y1) == (1.5, 1.5, -0.5, 5.5)
    assert (level.y0, level.y1, level.x0, level.x1) == (1.5, 1.5, -0.5, 5.5)


@pytest.mark.parametrize(("what", "axis"), [("relay_share", "y2"), ("greedy_order", "y")])
def test_the_row_of_a_chosen_unit_is_marked(what: Any, axis: str) -> None:
    assert len(REPORT.figure(what).layout.shapes) == 1
    _, row = REPORT.figure(what, unit=3).layout.shapes
    assert (row.yref, row.y0, row.y1) == (axis, 2.5, 3.5)


def test_a_chosen_unit_has_rings_where_it_joins_the_sets() -> None:
    unit = int(RELAY.telling[-1, 1])
    rings = [own for own in REPORT.figure("units_needed", unit=unit).data if "joins" in own.name]
    size = 5 - int(np.argmax(RELAY.units[-1] == unit))
    assert [(own.x[0], own.y[0]) for own in rings] == [
        (2, RELAY.told[-1, 2]),
        (size, RELAY.information[-1, 5 - size]),
    ]
    assert RELAY.telling[-1, 2] == -1  # the others are not needed, so none joins
    (only,) = [
        own
        for own in REPORT.figure("units_needed", unit=int(RELAY.units[-1, 0])).data
        if "joins" in own.name
    ]
    assert only.x[0] == 5


def test_bits_of_each_layer() -> None:
    (cells,) = REPORT.figure("layers").data
    np.testing.assert_array_equal(cells.z, RELAY.information[:, 0][None])
    assert list(cells.y) == ["rnn.l0"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"what": "shares"}, "no figure 'shares'"),
        ({"what": "relay_share", "layer": "rnn"}, "no layer 'rnn'"),
        ({"what": "relay_share", "concept": "odd"}, "no concept 'odd'"),
        ({"what": "units_needed", "step": 9}, "step: got 9, which was not analysed"),
        ({"what": "relay_share", "unit": 5}, "unit: got 5; 'rnn.l0' has units 0 to 4"),
        ({"what": "layers", "layer": "rnn.l0"}, "'layers' draws all layers"),
    ],
)
def test_what_cannot_be_drawn_is_named(options: Any, message: str) -> None:
    with pytest.raises((KeyError, ValueError), match=message):
        REPORT.figure(**options)


@pytest.mark.parametrize(
    ("what", "options", "argument"),
    [
        ("relay_share", {"n_orders": 0}, "n_orders"),
        ("relay_transfer", {"n_splits": 0}, "n_splits"),
        ("latent", {}, "latent=True"),
    ],
)
def test_what_was_not_measured_is_named(what: Any, options: Any, argument: str) -> None:
    with pytest.raises(ValueError, match=f"not measured; measure (it|them) with .*{argument}"):
        small_report(**options).figure(what)


def test_without_plotly_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = builtins.__import__

    def failing(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("plotly"):
            raise ImportError(name)
        return plain(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", failing)
    with pytest.raises(ImportError, match="pip install plotly"):
        REPORT.figure("relay_share")


def test_reports_load_no_plotly() -> None:
    code = "import sys; from lightning_relay import RelayReport; print('plotly' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"
