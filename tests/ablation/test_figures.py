"""Interactive figures of knock-out reports show the numbers of the report."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pytest

from lightning_relay.ablation.damage import Damage
from lightning_relay.ablation.figures import FIGURES, damage_names
from lightning_relay.ablation.report import KnockoutReport, KnockoutSet
from tests.support.knockouts import (
    LAYER,
    agreement,
    curve,
    prediction,
    random_sets,
    single_units,
    small_knockouts,
)

REPORT = small_knockouts(epoch=3)


PREDICTED = small_knockouts(random_sets(), predictions=(prediction(),))
STEPS = small_knockouts(single_units(5, steps=4), curves=False)
REPORTS: dict[str, KnockoutReport] = dict.fromkeys(FIGURES, REPORT) | {
    "prediction": PREDICTED,
    "damage_share": PREDICTED,
    "step_damage": STEPS,
}


def traces(what: Any, report: KnockoutReport = REPORT, **options: Any) -> dict[str, Any]:
    return {own.name: own for own in report.figure(what, **options).data}


def subtitle(what: Any, report: KnockoutReport = REPORT, **options: Any) -> str:
    return str(report.figure(what, **options).layout.title.subtitle.text)


def damage_in(found: dict[str, Any]) -> dict[str, float]:
    return {
        name: value
        for trace in found.values()
        for name, value in zip(trace.y, trace.x, strict=True)
    }


def with_damage(report: KnockoutReport, damage: list[float], half: float) -> KnockoutReport:
    values = np.array(damage)
    found = Damage(np.array(0.9), 0.9 - values, values, values - half, values + half)
    return dataclasses.replace(report, accuracy=found)


@pytest.mark.parametrize("what", FIGURES)
def test_a_figure_is_plotlys_and_can_be_written(what: Any) -> None:
    figure = REPORTS[what].figure(what)
    written = json.loads(figure.to_json())
    assert written["data"]
    assert written["layout"]["title"]["text"].startswith("rnn.l0: ")
    assert written["layout"]["title"]["subtitle"]["text"]
    assert figure.to_html(include_plotlyjs=False)


def test_damage_and_intervals_are_those_of_the_report_in_points() -> None:
    figure = REPORT.figure("damage", measure="bit_0")
    found = REPORT.damage_of("bit_0")
    drawn, ends = {}, {}
    for own in figure.data:
        bars = own.error_x
        for name, x, high, low in zip(own.y, own.x, bars.array, bars.arrayminus, strict=True):
            drawn[name], ends[name] = x, (x - low, x + high)
    names = [some.name.removeprefix(f"{LAYER}: ") for some in REPORT.sets]
    for place, name in enumerate(names):
        key = f"unit {name}" if name.isdecimal() else name
        assert drawn[key] == pytest.approx(100 * found.damage[place])
        assert ends[key] == pytest.approx((100 * found.lower[place], 100 * found.upper[place]))
    assert figure.layout.xaxis.title.text == "damage to accuracy of bit_0, percentage points"
    assert "600 samples" in figure.layout.title.subtitle.text


def test_damage_that_may_be_0_is_pale_and_the_rest_is_worse_or_better() -> None:
    sets = single_units(4)
    report = with_damage(small_knockouts(sets), [0.3, 0.05, -0.2, 0.0], 0.1)
    found = traces("damage", report)
    assert list(found["worse"].y) == ["unit 0"]
    assert list(found["better"].y) == ["unit 2"]
    pale = found["95 % interval includes 0"]
    assert list(pale.y) == ["unit 1", "unit 3"]
    assert pale.marker.color.endswith("0.5)")
    assert "2 of 4 differ from 0" in subtitle("damage", report)
    none = with_damage(small_knockouts(sets), [0.03, 0.05, -0.02, 0.0], 0.1)
    assert set(traces("damage", none)) == {"95 % interval includes 0"}
    assert "none of 4 differ from 0" in subtitle("damage", none)


def test_damage_without_an_interval_is_hollow() -> None:
    report = with_damage(small_knockouts(single_units(3)), [0.3, 0.0, 0.1], np.nan)
    (trace,) = traces("damage", report).values()
    assert trace.name == "without an interval"
    assert trace.marker.symbol == "circle-open"
    assert "differ" not in subtitle("damage", report)


def test_a_text_says_what_is_known_about_a_set() -> None:
    report = with_damage(small_knockouts(single_units(3)), [0.3, 0.0, 0.1], 0.05)
    text = traces("damage", report)["worse"].text[0]
    assert text.startswith("unit rnn.l0: 0; held at steps: all<br>")
    assert "damage to accuracy: 30.0 [25.0, 35.0] points" in text
    assert "0.900 without, 0.600 with the knock-out, 600 samples" in text
    open_place = KnockoutSet("joint: top", "concept", {LAYER: (1, 2)}, (-1,), "joint", (2,))
    report = with_damage(small_knockouts([open_place]), [0.3], 0.05)
    assert (
        "joint: top: units rnn.l0: 1 ≈2; held at steps: -1"
        in traces("damage", report)["worse"].text[0]
    )


def test_sets_come_by_damage_or_in_order() -> None:
    report = with_damage(small_knockouts(single_units(4)), [0.0, 0.3, -0.2, np.nan], 0.1)
    layout = report.figure("damage").layout
    assert list(layout.yaxis.categoryarray) == ["unit 1", "unit 0", "unit 2", "unit 3"]
    (menu,) = layout.updatemenus
    orders = {own.label: own.args[0]["yaxis.categoryarray"] for own in menu.buttons}
    assert orders["by damage"] == ["unit 1", "unit 0", "unit 2", "unit 3"]
    assert orders["in order"] == ["unit 0", "unit 1", "unit 2", "unit 3"]


def test_a_metric_keeps_its_unit() -> None:
    report = small_knockouts(metrics=("loss",))
    found = report.metrics["loss"].damage
    drawn = damage_in(traces("damage", report, measure="loss"))
    assert sorted(drawn.values()) == pytest.approx(sorted(found))
    assert report.figure("damage", measure="loss").layout.xaxis.title.text == "damage to loss"


def test_damage_to_a_class_or_the_labels_of_a_step_is_drawn_alone() -> None:
    found = damage_in(traces("damage", measure="class 2"))
    expected = 100 * REPORT.class_accuracy.part(2).damage
    np.testing.assert_allclose(sorted(found.values()), np.sort(expected))
    number = REPORT.class_samples[2]
    assert subtitle("damage", measure="class 2").startswith("damage to accuracy of class 2: ")
    assert f", {number} samples" in subtitle("damage", measure="class 2")
    assert damage_names(REPORT)[:2] == ["accuracy", *REPORT.concepts][:2]
    assert damage_names(REPORT)[-1] == f"class {REPORT.classes[-1]}"


def test_a_chosen_unit_is_marked_wherever_it_is_drawn_alone() -> None:
    names = {place: f"unit {REPORT.sets[place].unit}" for place in REPORT.places("each")}
    bands = REPORT.figure("damage", unit=2).layout.shapes
    assert [own.y0 for own in bands] == [own for own in names.values() if own == "unit 2"]
    (rings,) = (own for own in REPORT.figure("damage_map", unit=2).data if own.name == "unit 2")
    assert set(rings.y) == {"unit 2"}
    assert rings.marker.symbol == "circle-open"  # what is filled would look like damage
    fewer = [some for some in single_units(5, steps=4) if some.unit != 1]
    cells = small_knockouts(fewer, curves=False).figure("step_damage").data
    (not_run,) = [own for own in cells if own.name == "not run"]
    assert np.isfinite(not_run.z).any(1).tolist() == [False, True, False, False, False]
    (row,) = STEPS.figure("step_damage", unit=2).layout.shapes
    assert (row.y0, row.y1) == (1.5, 2.5)
    (point,) = [row for row, place in enumerate(REPORT.single_units(LAYER)) if place == 2]
    ring = traces("agreement", unit=2)["unit 2"]
    found = REPORT.agreement[0]
    assert (ring.x[0], ring.y[0]) == (found.scores[point], 100 * found.damage[point])
    ring = traces("damage_share", PREDICTED, unit=1)["unit 1"]
    assert (ring.x[0], ring.y[0]) == (0.5, 10.0)


def test_sets_of_one_layer_can_be_drawn_alone() -> None:
    sets = single_units(3) + single_units(2, layer="other.l0")
    report = small_knockouts(sets, curves=False)
    assert len(damage_in(traces("damage", report))) == 5
    drawn = damage_in(traces("damage", report, layer="other.l0"))
    assert drawn == pytest.approx(
        {f"unit {unit}": 100 * report["accuracy"].damage[3 + unit] for unit in range(2)}
    )
    with pytest.raises(ValueError, match=r"layer: got 'l9'; .* in: 'rnn.l0', 'other.l0'"):
        report.figure("damage", layer="l9")


def heatmaps(figure: Any) -> list[Any]:
    return [own for own in figure.data if own.type == "heatmap" and own.coloraxis]


def cells_of(figure: Any) -> np.ndarray:
    """Numbers of the pale heatmap and of the other one; each cell is in one of them."""
    drawn = [own.z for own in heatmaps(figure)]
    assert (np.isfinite(drawn).sum(0) <= 1).all()
    return np.where(np.isfinite(drawn).any(0), np.nansum(drawn, 0), np.nan)


def test_the_map_has_the_accuracy_concepts_and_classes_of_every_set() -> None:
    figure = REPORT.figure("damage_map")
    drawn, cells = cells_of(figure), figure.data[0]
    parts = [
        REPORT["accuracy"].damage[:, None],
        REPORT.concept_accuracy.damage,
        REPORT.class_accuracy.damage,
    ]
    np.testing.assert_allclose(drawn, 100 * np.column_stack(parts))
    heads = ["accuracy", "joint", "bit_0", "bit_1", *(f"class {label}" for label in range(4))]
    assert list(cells.x) == heads
    assert figure.layout.coloraxis.cmax == pytest.approx(np.abs(drawn).max())
    orders = {
        own.label: own.args[0]["yaxis.categoryarray"]
        for own in figure.layout.updatemenus[0].buttons
    }
    assert list(orders) == ["in order", *(f"by {head}" for head in heads)]
    row = [list(cells.y).index(name) for name in orders["by class 2"]]
    assert (np.diff(drawn[row, heads.index("class 2")]) <= 0).all()


def test_cells_that_may_be_0_are_pale_and_the_others_have_dots() -> None:
    drawn = traces("damage_map")
    pale, dots = drawn["interval includes 0"], drawn["interval excludes 0"]
    assert len(dots.x) == np.isnan(pale.z).sum()
    for x, y in zip(dots.x, dots.y, strict=True):
        assert np.isnan(pale.z[list(pale.y).index(y), list(pale.x).index(x)])
    found = REPORT.class_accuracy
    np.testing.assert_array_equal(np.isfinite(pale.z)[:, 4:], ~found.beyond_zero)
    assert pale.opacity < 0.5
    words = (
        f"dot: the 95 % interval excludes 0 ({len(dots.x)} of {pale.z.size}), pale: it includes 0"
    )
    assert words in subtitle("damage_map")


def test_a_class_without_samples_is_grey() -> None:
    parts = {name: own.copy() for name, own in vars(REPORT.class_accuracy).items()}
    for own in parts.values():
        own[..., 1] = np.nan
    report = dataclasses.replace(REPORT, class_accuracy=Damage(**parts))
    grey = report.figure("damage_map").data[0]
    assert grey.hovertemplate.startswith("not measured: no samples")
    np.testing.assert_array_equal(
        np.flatnonzero(np.isfinite(grey.z).all(0)), [list(grey.x).index("class 1")]
    )


def test_metrics_are_drawn_if_there_is_no_accuracy_each_on_its_own_scale() -> None:
    report = small_knockouts(classes=0, curves=False, metrics=("loss", "mae"))
    drawn = cells_of(report.figure("damage_map"))
    expected = np.column_stack([own.damage for own in report.metrics.values()])
    np.testing.assert_allclose(drawn, expected / np.abs(expected).max(0))
    assert "as a fraction of the largest" in subtitle("damage_map", report)
    with pytest.raises(ValueError, match="it has no accuracy and no metric"):
        small_knockouts(classes=0, curves=False).figure("damage_map")


def test_damage_at_labels_of_each_step_is_in_the_map() -> None:
    whole = REPORT.class_accuracy
    report = dataclasses.replace(REPORT, step_accuracy=whole, step_samples=np.array([7, 8, 9, 10]))
    figure = report.figure("damage_map")
    cells = figure.data[0]
    np.testing.assert_allclose(cells_of(figure)[:, -4:], 100 * whole.damage)
    assert list(cells.x)[-4:] == ["step 0", "step 1", "step 2", "step 3"]
    (first,) = (own.text[0][0] for own in heatmaps(figure) if own.text[0][0])
    (last,) = (own.text[0][-1] for own in heatmaps(figure) if own.text[0][-1])
    assert "34 labels" in first
    assert "damage to accuracy of step 3:" in last
    assert "10 labels" in last


def test_damage_by_unit_and_step() -> None:
    figure = STEPS.figure("step_damage", measure="bit_1")
    expected = 100 * STEPS.damage_of("bit_1").damage.reshape(5, 4)
    np.testing.assert_allclose(cells_of(figure), expected)
    assert list(figure.layout.xaxis.categoryarray) == ["0", "1", "2", "3"]
    fewer = single_units(5, steps=4)
    del fewer[6]
    grey = small_knockouts(fewer, curves=False).figure("step_damage").data[0]
    assert np.argwhere(np.isfinite(grey.z)).tolist() == [[1, 2]]


def test_damage_of_units_is_drawn_over_what_they_relay() -> None:
    sets = single_units(5)
    report = small_knockouts(sets)
    scores = np.array([0.0, 0.5, 1.0, 0.25, 0.1])
    found = agreement("bit_0", scores, report.damage_of("bit_0").damage)
    report = dataclasses.replace(report, agreement=(found,))
    drawn = traces("agreement", report)
    points = {
        int(text): (x, y)
        for own in drawn.values()
        for text, x, y in zip(own.text, own.x, own.y, strict=True)
    }
    for unit in range(5):
        assert points[unit] == pytest.approx((scores[unit], 100 * found.damage[unit]))
    sure = report.damage_of("bit_0").beyond_zero
    assert list(drawn["95 % interval excludes 0"].text) == [
        str(unit) for unit in np.flatnonzero(sure)
    ]
    assert f"rank correlation {found.correlation:.2f} [" in subtitle("agreement", report)
    alike = dataclasses.replace(report, agreement=(agreement("bit_0", scores, np.zeros(5)),))
    assert subtitle("agreement", alike).startswith("every unit alone does the same damage")


def test_damage_at_the_step_of_the_unit_has_no_interval_of_all_labels() -> None:
    report = small_knockouts(single_units(5))
    other = report.damage_of("bit_0").damage + 0.1
    report = dataclasses.replace(report, agreement=(agreement("bit_0", np.arange(5.0), other),))
    assert set(traces("agreement", report)) == {"without an interval"}


def test_random_sets_are_drawn_over_information_and_over_size() -> None:
    found = PREDICTED.predictions[0]
    drawn = traces("prediction", PREDICTED)
    for name, expected in (("information", found.information), ("size", found.sizes)):
        np.testing.assert_array_equal(drawn[name].x, expected)
        np.testing.assert_allclose(drawn[name].y, 100 * found.damage)
        np.testing.assert_array_equal(drawn[name].marker.color, found.sizes)
    assert subtitle("prediction", PREDICTED) == (
        "R² of size alone: 0.25 [0.12, 0.38]; R² with relay information: 0.88 [0.50, 0.95]; "
        "partial R²: 0.75 [0.50, 0.90]"
    )
    assert drawn["size"].text[1] == (
        f"rnn.l0: random 1: units rnn.l0: 0 1<br>I_R {found.information[1]:.3f} bits<br>"
        f"damage {100 * found.damage[1]:.1f} points, 500 sequences"
    )
    title = PREDICTED.figure("prediction").layout.title.text
    assert title == "rnn.l0: joint, 30 random sets held at the last step"
    same = dataclasses.replace(found, damage=np.full(30, 0.125))
    alike = dataclasses.replace(PREDICTED, predictions=(same,))
    assert "each of 30 random sets does the same damage to joint: 0.125" in subtitle(
        "prediction", alike
    )


def test_the_step_at_which_sets_were_held_can_be_named() -> None:
    both = (prediction(step=2), prediction(step=4, concept="bit_0"))
    report = small_knockouts(random_sets(), predictions=both)
    assert "held at step 2" in report.figure("prediction").layout.title.text
    assert "bit_0" in report.figure("prediction", step=4).layout.title.text
    with pytest.raises(ValueError, match="step: got 3; random sets were held at: 2, 4"):
        report.figure("prediction", step=3)


def test_shares_of_the_damage_are_drawn_over_relay_shares() -> None:
    found = PREDICTED.predictions[0]
    drawn = traces("damage_share", PREDICTED)
    assert {name: list(own.text) for name, own in drawn.items()} == {
        "95 % interval excludes 0": ["0", "1", "3"],
        "95 % interval includes 0": ["2"],
        "without an interval": ["4"],
    }
    first = drawn["95 % interval excludes 0"]
    np.testing.assert_allclose(first.x, found.unit_share[[0, 1, 3]])
    np.testing.assert_allclose(first.y, 100 * found.unit_damage[[0, 1, 3]])
    np.testing.assert_allclose(first.error_y.array, [10, 5, 0.5])
    assert "0.90; the shares of the damage add up to 34.0 points" in subtitle(
        "damage_share", PREDICTED
    )
    unknown = dataclasses.replace(found, unit_damage=np.full(5, np.nan))
    with pytest.raises(ValueError, match="RandomOrders"):
        dataclasses.replace(PREDICTED, predictions=(unknown,)).figure("damage_share")


def test_curves_and_their_bands_are_those_of_the_report() -> None:
    drawn = traces("deletion")
    for own in REPORT.curves:
        (mean,) = [trace for name, trace in drawn.items() if f"area {own.area.mean():.3f}" in name]
        np.testing.assert_array_equal(mean.x, own.sizes)
        np.testing.assert_allclose(mean.y, 100 * own.accuracy.mean(0))
        band = drawn[f"{own.direction}, band"]
        above, below = np.split(np.asarray(band.y), 2)
        several = own.direction == "random_first"
        np.testing.assert_allclose(above, 100 * (own.accuracy.max(0) if several else own.upper[0]))
        np.testing.assert_allclose(
            below[::-1], 100 * (own.accuracy.min(0) if several else own.lower[0])
        )


def test_units_of_a_single_order_are_named_and_open_places_marked() -> None:
    sets = [
        KnockoutSet(f"most {size}", "most_first", {LAYER: (3, 1)[:size]}, (-1,), "joint", (1,))
        for size in (1, 2)
    ]
    one = curve("most_first", "joint", 2)
    report = small_knockouts(sets, curves=False)
    report = dataclasses.replace(report, curves=(one,))
    (mean,) = [own for own in report.figure("deletion").data if own.text is not None]
    assert mean.text[1].endswith("<br>rnn.l0: 3")
    assert mean.text[2].endswith("<br>rnn.l0: 3 ≈1")
    tied = dataclasses.replace(report, curves=(curve("most_first", "joint", 2, orders=3),))
    (mean,) = [own for own in tied.figure("deletion").data if own.text is not None]
    assert "rnn.l0" not in mean.text[2]


@pytest.mark.parametrize(
    ("report", "options", "message"),
    [
        (REPORT, {"what": "damages"}, "no figure 'damages'"),
        (REPORT, {"what": "damage", "measure": "odd"}, "measure: no 'odd' in the report"),
        (REPORT, {"what": "damage", "step": 3}, "step: got 3, but 'damage' takes only layer, meas"),
        (
            REPORT,
            {"what": "damage_map", "measure": "bit_0"},
            "'damage_map' takes only layer, unit; leave",
        ),
        (REPORT, {"what": "step_damage"}, r"EveryUnit\(steps='each'\)"),
        (STEPS, {"what": "step_damage", "layer": "l9"}, "layer: got 'l9'; .* in: 'rnn.l0'"),
        (STEPS, {"what": "deletion"}, r"not measured .*KnockoutCallback\(AlongOrder\(\)\)"),
        (REPORT, {"what": "deletion", "measure": "bit_1"}, r"got None and 'bit_1'; .*'joint'\)"),
        (REPORT, {"what": "prediction"}, r"KnockoutCallback\(RandomSets\(\)\)"),
    ],
)
def test_what_cannot_be_drawn_is_named(report: Any, options: Any, message: str) -> None:
    with pytest.raises((KeyError, ValueError), match=message):
        report.figure(**options)
