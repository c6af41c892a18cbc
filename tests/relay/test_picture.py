import dataclasses
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from lightning_relay.relay.picture import _legend, relay_image
from lightning_relay.relay.report import ConceptRelay, LayerRelay
from tests.support.reports import EVIDENCE, small_report

UNRESOLVED = small_report().layers["rnn.l0"]
TOP = 36 + 70 + 24
LIMIT, MARK = [200, 80, 20], [0, 0, 0]


def changed(layer: LayerRelay, **fields: Any) -> LayerRelay:
    """The layer with other results of its concept."""
    relay = dataclasses.replace(layer.concepts["joint"], **fields)
    return dataclasses.replace(layer, concepts={"joint": relay})


LAYER = changed(UNRESOLVED, resolved=np.ones((6, 5), dtype=bool))


def cells(layer: LayerRelay, width: int, height: int) -> NDArray[np.uint8]:
    """Colour ``(step, unit, channel)`` of each cell, read near its corner, away from marks."""
    image = relay_image(layer, "joint", "title")
    steps, units = layer.concepts["joint"].scores.shape
    area = image[TOP : TOP + units * height, 40 : 40 + steps * width]
    return area[1::height, 1::width].transpose(1, 0, 2)


def with_scores(scores: NDArray[np.float64]) -> LayerRelay:
    return changed(LAYER, scores=scores)


def test_a_cell_is_the_darker_the_higher_its_score() -> None:
    scores = np.linspace(0, 1, 30).reshape(6, 5)
    brightness = cells(with_scores(scores), 24, 14).astype(int).sum(2).flatten()
    assert np.all(np.diff(brightness) < 0)
    assert cells(with_scores(scores), 24, 14)[0, 0].tolist() == [250, 250, 245]
    assert cells(with_scores(scores), 24, 14)[5, 4].tolist() == [8, 48, 107]


def test_negative_scores_have_a_colour_of_their_own_on_the_same_scale() -> None:
    scores = np.zeros((6, 5))
    scores[0, 0], scores[1, 0], scores[2, 0] = -1.0, -4.0, -1e-12
    drawn = cells(with_scores(scores), 24, 14)
    assert drawn[:3, 0].tolist() == [[230, 120, 40], [230, 120, 40], [250, 250, 245]]


def test_bars_are_grey_while_input_is_still_to_come() -> None:
    image = relay_image(LAYER, "joint", "title")
    foot = image[36 + 70 - 2, 40 : 40 + 6 * 24].reshape(6, 24, 3)[:, 5]
    assert [tuple(colour) for colour in foot.tolist()] == [(176,) * 3] * 2 + [(96, 150, 208)] * 4


def of_cells(layer: LayerRelay, width: int = 24, height: int = 14) -> NDArray[np.int64]:
    """Pixels ``(step, unit, pixel, channel)`` of all cells."""
    image = relay_image(layer, "joint", "title").astype(int)
    steps, units = layer.concepts["joint"].scores.shape
    area = image[TOP : TOP + units * height, 40 : 40 + steps * width]
    parts = area.reshape(units, height, steps, width, 3).transpose(2, 0, 1, 3, 4)
    return parts.reshape(steps, units, -1, 3)


def has(pixels: NDArray[np.int64], colour: tuple[int, int, int]) -> NDArray[np.bool]:
    found: NDArray[np.bool] = (pixels == colour).all(-1).any(-1)
    return found


def test_dots_mark_ambiguous_units_and_stripes_unresolved_ones() -> None:
    random = np.random.default_rng(0)
    resolved = random.random((6, 5)) < 0.5
    groups = np.array([[0, 0, 2, 3, 4], [0, 1, 2, 1, 2], [0, 1, 2, 3, 0]] * 2)
    ambiguous = np.array([[1, 1, 0, 0, 0], [0, 1, 1, 1, 1], [1, 0, 0, 0, 1]] * 2, dtype=bool)
    scores = random.random((6, 5))
    pixels = of_cells(changed(LAYER, groups=groups, resolved=resolved, scores=scores))
    dots = np.where(scores > 0.5, has(pixels, (255,) * 3), has(pixels, (90,) * 3))
    stripes = np.where(scores > 0.5, has(pixels, (200,) * 3), has(pixels, (150,) * 3))
    np.testing.assert_array_equal(dots, ambiguous)
    np.testing.assert_array_equal(stripes, ~resolved)
    colours = np.array([[len(np.unique(cell, axis=0)) for cell in row] for row in pixels])
    np.testing.assert_array_equal(colours, 1 + dots + stripes)


def test_the_smallest_striped_cell_has_a_stripe() -> None:
    layer = large(75, 75, resolved=np.zeros((75, 75), dtype=bool))
    pixels = of_cells(layer, 4, 4)
    assert (has(pixels, (150,) * 3) | has(pixels, (200,) * 3)).all()


def test_small_cells_are_blended_towards_grey_where_unresolved() -> None:
    steps, units = 100, 128
    resolved = np.random.default_rng(0).random((steps, units)) < 0.5
    one_group = np.zeros((steps, units), dtype=np.int64)
    layer = large(steps, units, groups=one_group, resolved=resolved)
    scores = layer.concepts["joint"].scores
    pixels = of_cells(layer, 3, 2)
    assert (pixels == pixels[:, :, :1]).all()
    expected = of_cells(changed(layer, resolved=np.ones_like(resolved)), 3, 2)
    blended = np.where(resolved[..., None], expected[:, :, 0], 90 + 0.4 * expected[:, :, 0])
    np.testing.assert_allclose(pixels[:, :, 0], blended, atol=0.5)
    assert scores[0, 0] == 0.0
    assert pixels[0, 0, 0].tolist() in ([250, 250, 245], [190, 190, 188])


def test_unresolved_and_ambiguous_units_are_counted_in_the_legend() -> None:
    texts = [text for _, text in _legend(UNRESOLVED, UNRESOLVED.concepts["joint"])]
    relay = UNRESOLVED.concepts["joint"]
    assert 0 < (~relay.resolved).sum() < 30
    assert texts[:2] == [
        f"unresolved: {(~relay.resolved).sum()} of 30",
        f"ambiguous: {relay.ambiguous.sum()} of 30",
    ]
    assert texts[2:] == ["I(in; out)", "corrected", "not all input seen"]
    everything = small_report(inputs_end=None, **EVIDENCE).layers["rnn.l0"]
    texts = [text for _, text in _legend(everything, everything.concepts["joint"])]
    assert texts[2:] == ["I(in; out)", "corrected", "chance level of I(in; out)", "95 % interval"]


def bars(layer: LayerRelay) -> NDArray[np.uint8]:
    """Pixels ``(step, row, column, channel)`` of the upper panel, from 2 bits down to 0."""
    image = relay_image(layer, "joint", "title")
    return image[42 : 36 + 71, 40 : 40 + 6 * 24].reshape(65, 6, 24, 3).swapaxes(0, 1)


def rows_of(part: NDArray[np.uint8], colour: list[int]) -> list[int]:
    """Rows in which a colour occurs."""
    found: list[int] = np.flatnonzero((part == colour).all(-1).any(-1)).tolist()
    return found


def level(bits: float, **fields: float) -> dict[str, NDArray[np.float64]]:
    values = {"information": bits} | fields
    return {name: np.full((6, 6), value) for name, value in values.items()}


def test_a_black_tick_is_the_corrected_value() -> None:
    layer = changed(LAYER, mutual_information=np.full(6, 2.0), **level(1.5, corrected=1.0))
    for bar in bars(layer):
        assert rows_of(bar, MARK) == [32]
        assert rows_of(bar, LIMIT) == [0]
        tick = (bar[32] == MARK).all(-1)
        assert 8 <= tick.sum() < 20


def test_whiskers_are_intervals_and_a_dashed_line_the_chance_level() -> None:
    layer = changed(
        LAYER,
        mutual_information=np.full(6, 2.0),
        **level(1.5, corrected=1.5, lower=1.0, upper=1.75, chance_level=0.25),
    )
    for bar in bars(layer):
        assert rows_of(bar, MARK) == list(range(8, 33))
        assert rows_of(bar, LIMIT) == [0, 56]
    dashes = (bars(layer)[:, 56] == LIMIT).all(-1)
    solid = (bars(layer)[:, 0] == LIMIT).all(-1)
    assert solid.all()
    assert 0.5 < dashes.mean() < 0.7
    assert dashes.any(1).all()
    plain = changed(LAYER, mutual_information=np.full(6, 2.0), **level(1.5, corrected=1.5))
    assert [rows_of(bar, MARK) for bar in bars(plain)] == [[16]] * 6
    assert [rows_of(bar, LIMIT) for bar in bars(plain)] == [[0]] * 6


def test_values_beyond_the_bars_stay_inside_the_panel() -> None:
    layer = changed(
        LAYER,
        mutual_information=np.full(6, 1.0),
        **level(0.5, corrected=-1.0, lower=-2.0, upper=2.0),
    )
    image = relay_image(layer, "joint", "title")
    marks = (image[:TOP, 40:184] == MARK).all(-1)
    rows = np.flatnonzero(marks.any(1))
    assert (rows.min(), rows.max()) == (42, 106)


def test_every_value_is_in_the_range_of_the_panel() -> None:
    for name in ("corrected", "lower", "upper", "chance_level", "information"):
        fields = {"corrected": 0.0, "lower": 0.0, "upper": 0.0, "chance_level": 0.0} | {name: 2.0}
        panel = changed(LAYER, mutual_information=np.zeros(6), **level(0.0, **fields))
        colours = np.unique(relay_image(panel, "joint", "title")[42, 40:180], axis=0).tolist()
        assert [colour for colour in colours if colour not in ([255] * 3, [205] * 3)], name


def test_numbers_of_the_axis_do_not_lie_on_each_other() -> None:
    images = [
        relay_image(changed(LAYER, corrected=np.full((6, 6), bits)), "joint", "title")[:TOP, :38]
        for bits in (0.0, -1e-4, -1.0)
    ]
    np.testing.assert_array_equal(images[0], images[1])
    assert (images[0] != images[2]).any()


def large(steps: int, units: int, **fields: Any) -> LayerRelay:
    """Results of any size, of which every second unit is tied with the first."""
    order = np.tile(np.arange(units), (steps, 1))
    ones = np.ones((steps, units + 1))
    parts = {
        "information": ones,
        "units": order,
        "places": order.astype(np.float64),
        "scores": order / units,
        "groups": np.where(order % 2 == 0, 0, order),
        "tied": order % 2 == 0,
        "mutual_information": np.ones(steps),
        "corrected": 0.9 * ones,
        "gap": 0 * ones,
        "coverage": ones,
        "distinct_states": ones.astype(np.int64),
        "alone": 0 * ones,
        "resolved": order % 3 == 0,
    }
    return LayerRelay(
        time_steps=np.arange(steps),
        inputs_ended=np.arange(steps) > 2,
        samples=np.full(steps, 9),
        distinct_states=np.full(steps, 9),
        concepts={"joint": ConceptRelay(**(parts | fields))},
    )


@pytest.mark.parametrize(("steps", "units"), [(1, 1), (3, 2), (13, 20), (100, 128), (400, 500)])
def test_pictures_of_every_size_fit_their_cells(steps: int, units: int) -> None:
    everything = {name: np.ones((steps, units + 1)) for name in ("lower", "upper", "chance_level")}
    layer = large(steps, units, **everything)
    image = relay_image(layer, "joint", "title")
    assert image.dtype == np.uint8
    assert image.shape[2] == 3
    assert image.shape[1] == max(350, 50 + steps)


def test_a_layer_that_relays_nothing_can_be_drawn() -> None:
    flat = dataclasses.replace(
        LAYER.concepts["joint"],
        information=np.zeros((6, 6)),
        corrected=np.zeros((6, 6)),
        mutual_information=np.zeros(6),
        scores=np.zeros((6, 5)),
    )
    relay_image(dataclasses.replace(LAYER, concepts={"joint": flat}), "joint", "title")


def test_an_unknown_concept_is_refused() -> None:
    with pytest.raises(KeyError):
        relay_image(LAYER, "colour", "title")
