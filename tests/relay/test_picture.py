import dataclasses
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from lightning_relay.relay.picture import PICTURES, Picture, _where_early
from lightning_relay.relay.report import RelayReport
from tests.support.changed import changed
from tests.support.reports import EVIDENCE, small_report

REPORT = small_report()
OF_CONCEPTS = [what for what in PICTURES if what != "latent"]
TOP = 36 + 70 + 24
BITS = REPORT.input_entropy["joint"]
WHITE, DARKEST, ORANGE = [250, 250, 245], [8, 48, 107], [230, 120, 40]
BAR, PALE, LIMIT, MARK = [66, 128, 194], [188, 214, 238], [200, 80, 20], [0, 0, 0]


def drawn(report: RelayReport, what: Picture = "relay_share") -> NDArray[np.int64]:
    return np.asarray(report.picture(what)).astype(np.int64)


def cells(
    report: RelayReport, what: Picture = "relay_share", width: int = 24, height: int = 14
) -> NDArray[np.int64]:
    """Pixels ``(step, unit, pixel, channel)`` of all cells."""
    steps, units = report["rnn.l0"]["joint"].units.shape
    top = {"relay_share": TOP, "greedy_order": 40}[what]
    area = drawn(report, what)[top : top + units * height, 40 : 40 + steps * width]
    parts = area.reshape(units, height, steps, width, 3).transpose(2, 0, 1, 3, 4)
    return parts.reshape(steps, units, -1, 3)


def has(pixels: NDArray[np.int64], colour: list[int]) -> NDArray[np.bool]:
    found: NDArray[np.bool] = (pixels == colour).all(-1).any(-1)
    return found


def rows_of(part: NDArray[np.int64], colour: list[int]) -> list[int]:
    """Rows in which a colour occurs."""
    return [int(row) for row in np.flatnonzero(has(part, colour))]


def test_a_cell_is_the_darker_the_larger_the_share_up_to_the_entropy_of_the_input() -> None:
    share = BITS * np.linspace(0, 1, 30).reshape(6, 5)
    pixels = cells(changed(REPORT, share=share))
    assert (pixels == pixels[:, :, :1]).all()
    assert np.all(np.diff(pixels[:, :, 0].sum(2).flatten()) < 0)
    assert pixels[0, 0, 0].tolist() == WHITE
    assert pixels[5, 4, 0].tolist() == DARKEST


def test_the_same_share_has_the_same_colour_whatever_the_others_have() -> None:
    share = np.full((6, 5), 0.1)
    alone, beside = share.copy(), share.copy()
    beside[0, 1:] = 1.5
    assert cells(changed(REPORT, share=alone))[0, 0, 0].tolist() == (
        cells(changed(REPORT, share=beside))[0, 0, 0].tolist()
    )


def test_negative_shares_have_a_colour_of_their_own_on_the_same_scale() -> None:
    share = np.zeros((6, 5))
    share[:3, 0] = -BITS, -4.0, -1e-12
    assert cells(changed(REPORT, share=share))[:3, 0, 0].tolist() == [ORANGE, ORANGE, WHITE]


def bars(report: RelayReport) -> NDArray[np.int64]:
    """Pixels ``(step, row, column, channel)`` of the upper panel, from the highest value to 0."""
    return drawn(report)[42:107, 40 : 40 + 6 * 24].reshape(65, 6, 24, 3).swapaxes(0, 1)


def test_bars_are_the_shares_and_on_top_what_is_in_no_units_share() -> None:
    share = np.full((6, 5), 0.1 * BITS)
    whole = np.full((6, 6), BITS)
    panel = bars(
        changed(
            REPORT,
            share=share,
            information=whole,
            corrected=whole,
            inputs_ended=np.ones(6, dtype=bool),
        )
    )
    for bar in panel:
        assert rows_of(bar, BAR) == list(range(32, 65))
        assert set(rows_of(bar, PALE)) >= set(range(1, 32))


def test_bars_are_grey_while_input_is_still_to_come() -> None:
    covered = changed(REPORT, coverage=np.ones((6, 6)))
    feet = bars(covered)[:, -2, 5].tolist()
    assert feet == [[150, 150, 150]] * 2 + [BAR] * 4


def test_bars_are_hollow_where_there_are_too_few_sequences() -> None:
    coverage = np.ones((6, 6))
    coverage[3:5, -1] = [0.89, 0.9]
    inside = bars(changed(REPORT, coverage=coverage))[:, -2, 5].tolist()
    assert inside[3] == [255, 255, 255]
    assert inside[2] == inside[4] == inside[5] == BAR
    assert changed(REPORT, coverage=coverage).covered("rnn.l0", "joint").tolist() == [
        *(True, True, True, False, True, True)
    ]


def test_lines_stand_at_shared_corrected_chance_and_interval() -> None:
    report = small_report(inputs_end=None, **EVIDENCE)
    rows = np.full((6, 6), BITS)
    report = changed(
        report,
        mutual_information=np.full(6, BITS / 2),
        corrected=rows / 4,
        information=0 * rows,
        lower=rows * 0.75,
        upper=rows,
        chance_level=0 * rows + BITS / 8,
    )
    for bar in bars(report):
        assert rows_of(bar[:, 1:5], LIMIT) == [32, 56]
        assert rows_of(bar[:, 11:12], MARK) == [*range(17), 48]
    plain = bars(changed(REPORT, mutual_information=rows[:, 0] / 2, corrected=rows / 4))
    assert rows_of(plain[0], LIMIT) == [32]


def test_the_axis_holds_values_above_the_entropy_and_below_zero() -> None:
    corrected = np.full((6, 6), 2 * BITS)
    information = np.full((6, 6), -BITS)
    panel = bars(changed(REPORT, corrected=corrected, information=information))
    assert rows_of(panel[0], MARK) == [0]
    assert has(panel[5, -1], BAR)


def test_numbers_of_sequences_are_drawn_where_they_differ() -> None:
    plain = drawn(REPORT)
    samples = np.array([80, 80, 60, 40, 20, 2])
    more = drawn(changed(REPORT, samples=samples))
    assert len(more) == len(plain) + 30 + 24
    strip = more[TOP : TOP + 31, 40 : 40 + 6 * 24].reshape(31, 6, 24, 3).swapaxes(0, 1)
    heights = [len(rows_of(bar, [150, 150, 150])) for bar in strip]
    assert heights == [31, 31, 23, 16, 9, 2]


def test_the_last_step_of_each_sequence_has_a_label_apart() -> None:
    steps = np.array([0, 1, 2, 3, 4, 5])
    ended = np.array([0, 1, 2, 3, 4, -1])
    row = 40 + 5 * 14 + 8
    for times, known in ((steps, [0, 2, 4]), (ended, [0, 2, 5])):
        area = drawn(changed(REPORT, time_steps=times), "greedy_order")
        labels = area[row - 5 : row + 5, 40 : 40 + 6 * 24].reshape(10, 6, 24, 3)
        labelled = (labels != 255).any((0, 2, 3))
        assert np.flatnonzero(labelled).tolist() == known


def test_tied_units_have_one_shade_and_stripes_are_where_sequences_are_too_few() -> None:
    random = np.random.default_rng(0)
    resolved = random.random((6, 5)) < 0.5
    places = np.array([[0.5, 0.5, 2, 3, 4], [0, 1.5, 3.5, 1.5, 3.5], [1, 3, 4, 1, 1]] * 2)
    pixels = cells(changed(REPORT, places=places, resolved=resolved), "greedy_order")
    np.testing.assert_array_equal(has(pixels, [150, 150, 150]), ~resolved)
    whole = cells(changed(REPORT, places=places, resolved=resolved | True), "greedy_order")
    assert (whole == whole[:, :, :1]).all()
    for cell, place in zip(whole[:, :, 0], places, strict=True):
        np.testing.assert_array_equal(
            (cell[:, None] == cell[None]).all(-1), place[:, None] == place[None]
        )
        assert (np.diff(cell.sum(-1)[place.argsort(kind="stable")]) <= 0).all()


def large(steps: int, units: int, **fields: Any) -> RelayReport:
    """A report of many steps and units."""
    shape = steps, units
    plain: dict[str, Any] = {
        "time_steps": np.arange(steps),
        "inputs_ended": np.ones(steps, dtype=bool),
        "samples": np.full(steps, 80),
        "units": np.tile(np.arange(units), (steps, 1)),
        "places": np.tile(np.arange(units, dtype=float), (steps, 1)),
        "groups": np.tile(np.arange(units), (steps, 1)),
        "resolved": np.ones(shape, dtype=bool),
        "share": np.zeros(shape),
        "information": np.zeros((steps, units + 1)),
        "corrected": np.zeros((steps, units + 1)),
        "coverage": np.ones((steps, units + 1)),
        "mutual_information": np.zeros(steps),
    }
    return changed(REPORT, **(plain | fields))


def test_the_smallest_striped_cell_has_a_stripe() -> None:
    report = large(75, 75, resolved=np.zeros((75, 75), dtype=bool))
    assert has(cells(report, "greedy_order", 4, 4), [150, 150, 150]).all()


def test_smaller_cells_are_grey_where_sequences_are_too_few() -> None:
    resolved = np.random.default_rng(0).random((100, 128)) < 0.5
    pixels = cells(large(100, 128, resolved=resolved), "greedy_order", 3, 2)
    np.testing.assert_array_equal((pixels == 150).all((2, 3)), ~resolved)


@pytest.mark.parametrize("what", ["relay_share", "greedy_order", "units_needed", "relay_transfer"])
@pytest.mark.parametrize(("steps", "units"), [(1, 1), (6, 5), (300, 300)])
def test_up_to_300_steps_tensorboard_shows_it_unscaled(
    what: Picture, steps: int, units: int
) -> None:
    wide = np.linspace(1, 0, units + 1)[None].repeat(steps, 0)
    flags = np.ones((steps, units), dtype=bool)
    report = large(
        steps,
        units,
        told=wide[:, ::-1],
        telling=np.tile(np.arange(units), (steps, 1)),
        telling_resolved=flags,
        transfer=np.ones((steps, steps)),
    )
    assert drawn(report, what).shape[1] == 350


def curve(report: RelayReport, colour: list[int], most: int = 3) -> list[float]:
    """Heights in pixels above 0 of a line at 1, 2 and so on units."""
    panel = drawn(report, "units_needed")[36:218, 40:340]
    columns = [number * 299 // 5 for number in range(1, most + 1)]
    return [float(180 - np.median(rows_of(panel[:, [x]], colour))) for x in columns]


def test_curves_are_what_growing_and_remaining_sets_tell() -> None:
    told = np.tile(BITS * np.array([0, 0.5, 0.75, 1, 1, 1]), (6, 1))
    left = np.tile(BITS * np.array([1, 1, 0.75, 0.5, 0, 0]), (6, 1))
    telling = np.tile([3, 1, 2, -1, -1], (6, 1))
    sure = np.ones((6, 5), dtype=bool)
    report = changed(
        REPORT, told=told, information=left, telling=telling, telling_resolved=sure, resolved=sure
    )
    np.testing.assert_allclose(curve(report, BAR), [87, 130.5, 174], atol=2.5)
    np.testing.assert_allclose(curve(report, [224, 120, 40]), [0, 87, 130.5], atol=2.5)
    unsure = changed(report, telling_resolved=~sure, resolved=~sure)
    np.testing.assert_allclose(curve(unsure, PALE, 2), [87, 130.5], atol=2.5)
    resolved = np.tile([False, False, False, True, False], (6, 1))
    first = drawn(changed(report, telling_resolved=resolved), "units_needed")[36:218, 40:340]
    pale_from = int(np.flatnonzero((first == PALE).all(-1).any(0)).min())
    assert pale_from == pytest.approx(299 // 5, abs=2)
    assert not (first[:, pale_from + 2 :] == BAR).all(-1).any()
    growing = dataclasses.replace(
        report, measure=dataclasses.replace(report.measure, direction="grow")
    )
    assert not has(drawn(growing, "units_needed"), [224, 120, 40]).any()


def test_transfer_begins_at_the_lower_left_with_a_column_for_each_step_of_reading() -> None:
    transfer = np.zeros((6, 6))
    transfer[0, 1:4] = 1.0, -1.0, np.nan
    transfer[5, 5] = 1.5
    report = changed(REPORT, transfer=transfer)
    area = drawn(report, "relay_transfer")[40 : 40 + 6 * 24, 40 : 40 + 6 * 24]
    found = area.reshape(6, 24, 6, 24, 3)[::-1, 12, :, 12]
    assert found[0, :4].tolist() == [WHITE, DARKEST, [166, 54, 3], [205, 205, 205]]
    assert found[5, 5].tolist() == DARKEST
    assert (found[1:5] == WHITE).all()
    early = changed(REPORT, transfer=transfer, inputs_ended=np.arange(6) > 2)
    area = drawn(early, "relay_transfer")[40 : 40 + 6 * 24, 40 : 40 + 6 * 24]
    assert has(area, LIMIT).sum() == 6 * 24  # a row and a point in each other row
    assert rows_of(area[:, 80:], LIMIT) == [72]
    backward = changed(REPORT, transfer=transfer, inputs_ended=np.arange(6) == 0)
    area = drawn(backward, "relay_transfer")[40 : 40 + 6 * 24, 40 : 40 + 6 * 24]
    assert rows_of(area[:, 30:], LIMIT) == [5 * 24]
    ragged = changed(REPORT, transfer=transfer, inputs_ended=np.array([0, 0, 1, 1, 1, 0]) > 0)
    area = drawn(ragged, "relay_transfer")[40 : 40 + 6 * 24, 40 : 40 + 6 * 24]
    assert rows_of(area[:, 125:], LIMIT) == [24, 4 * 24]


@pytest.mark.parametrize(
    ("ended", "where"),
    [
        ([0, 0, 1], "left and below"),
        ([1, 0, 0], "right and above"),
        ([0, 1, 0], "outside the lines"),
        ([1, 0, 1], "between the lines"),
        ([0, 0, 0], "everywhere"),
    ],
)
def test_the_legend_says_on_which_side_input_is_missing(ended: list[int], where: str) -> None:
    assert _where_early(np.array(ended) > 0) == where


def test_layers_have_a_row_each_and_grey_where_they_have_no_such_step() -> None:
    first = REPORT["rnn.l0"]
    second = small_report(steps=4)["rnn.l0"]
    both = dataclasses.replace(REPORT, layers={"rnn.l0": first, "rnn.l1": second})
    area = drawn(both, "layers")[40 : 40 + 2 * 20, 40 : 40 + 6 * 24]
    rows = area.reshape(2, 20, 6, 24, 3)[:, 3, :, 3]
    assert (rows[1, 4:] == 225).all()
    assert (rows[0] != 225).any(-1).all()
    assert (rows[1, :4] != 225).any(-1).all()


def test_a_report_of_nothing_is_drawn() -> None:
    report = dataclasses.replace(large(6, 5), input_entropy={"joint": 0.0})
    for what in OF_CONCEPTS:
        report.picture(what)  # type: ignore[arg-type]


def test_what_cannot_be_drawn_is_said() -> None:
    with pytest.raises(ValueError, match=r"report: relay shares were not measured; measure "):
        small_report(n_orders=0).picture("relay_share")
    with pytest.raises(ValueError, match=r"report: relay transfer was not measured; measure "):
        small_report(n_splits=0).picture("relay_transfer")
    with pytest.raises(ValueError, match=r"report: the latent structure was not measured; measure"):
        REPORT.picture("latent")
    with pytest.raises(
        ValueError, match=r"concept: got 'joint', but 'latent' shows classes; leave"
    ):
        REPORT.picture("latent", concept="joint")
    for what in OF_CONCEPTS:
        with pytest.raises(KeyError, match="no concept 'colour' in this report; it has 'joint'"):
            REPORT.picture(what, concept="colour")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"layer: got 'rnn.l0', but 'layers' draws all layers; l"):
        REPORT.picture("layers", "rnn.l0")
    with pytest.raises(KeyError, match="no picture 'pie' in this report; it has 'relay_share'"):
        REPORT.picture("pie")  # type: ignore[arg-type]
