import dataclasses

import numpy as np
import pytest
from numpy.typing import NDArray

from lightning_relay.figures import relay_image
from lightning_relay.report import ConceptRelay, LayerRelay
from tests.reports import small_report

LAYER = small_report().layers["rnn.l0"]
TOP = 36 + 70 + 24


def cells(layer: LayerRelay, width: int, height: int) -> NDArray[np.uint8]:
    """Colour ``(step, unit, channel)`` of each cell, read near its corner, away from marks."""
    image = relay_image(layer, "joint", "title")
    steps, units = layer.concepts["joint"].scores.shape
    area = image[TOP : TOP + units * height, 40 : 40 + steps * width]
    return area[1::height, 1::width].transpose(1, 0, 2)


def with_scores(scores: NDArray[np.float64]) -> LayerRelay:
    relay = dataclasses.replace(LAYER.concepts["joint"], scores=scores)
    return dataclasses.replace(LAYER, concepts={"joint": relay})


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
    assert [tuple(colour) for colour in foot.tolist()] == [(168,) * 3] * 2 + [(31, 84, 148)] * 4


def test_ambiguous_units_carry_a_dot() -> None:
    ambiguous = np.random.default_rng(0).random((6, 5)) < 0.5
    relay = dataclasses.replace(LAYER.concepts["joint"], ambiguous=ambiguous)
    layer = dataclasses.replace(LAYER, concepts={"joint": relay})
    image = relay_image(layer, "joint", "title").astype(int)
    for place in np.ndindex(ambiguous.shape):
        step, unit = place[0], int(relay.units[place])
        x, y = 40 + step * 24, TOP + unit * 14
        cell = image[y : y + 14, x : x + 24].reshape(-1, 3)
        assert (len(np.unique(cell, axis=0)) > 1) == ambiguous[place]


@pytest.mark.parametrize(("steps", "units"), [(1, 1), (3, 2), (13, 20), (100, 128), (400, 500)])
def test_pictures_of_every_size_fit_their_cells(steps: int, units: int) -> None:
    order = np.tile(np.arange(units), (steps, 1))
    relay = ConceptRelay(
        information=np.ones((steps, units + 1)),
        units=order,
        tied=order % 2 == 0,
        ambiguous=order % 2 == 0,
        scores=order / units,
        mutual_information=np.ones(steps),
    )
    layer = LayerRelay(
        time_steps=np.arange(steps),
        inputs_ended=np.arange(steps) > 2,
        samples=np.full(steps, 9),
        distinct_states=np.full(steps, 9),
        concepts={"joint": relay},
    )
    image = relay_image(layer, "joint", "title")
    assert image.dtype == np.uint8
    assert image.shape[2] == 3
    assert image.shape[1] == max(350, 50 + steps)


def test_a_layer_that_relays_nothing_can_be_drawn() -> None:
    flat = dataclasses.replace(
        LAYER.concepts["joint"],
        information=np.zeros((6, 6)),
        mutual_information=np.zeros(6),
        scores=np.zeros((6, 5)),
    )
    relay_image(dataclasses.replace(LAYER, concepts={"joint": flat}), "joint", "title")


def test_an_unknown_concept_is_refused() -> None:
    with pytest.raises(KeyError):
        relay_image(LAYER, "colour", "title")
