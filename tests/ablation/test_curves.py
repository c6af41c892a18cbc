import dataclasses

import numpy as np
import pytest
from numpy.typing import NDArray

from lightning_relay.ablation.curves import agreement_image, deletion_image
from lightning_relay.ablation.report import DeletionCurve, KnockoutSet
from tests.support.knockouts import LAYER, agreement, single_units, small_knockouts

LEFT, TOP, WIDTH, HEIGHT = 40, 42, 300, 180
BOTTOM = TOP + HEIGHT
RED, BLUE, GREY = (205, 30, 35), (49, 130, 189), (110, 110, 110)


def curve(direction: str, accuracy: list[list[float]], half: float = 0.0) -> DeletionCurve:
    values = np.array(accuracy)
    size = np.arange(values.shape[1])
    units = np.tile(size[:-1], (len(values), 1))
    area = values.mean(1)
    return DeletionCurve(
        LAYER, "joint", direction, units, size, values, values - half, values + half, area
    )


def drawn(*curves: DeletionCurve) -> NDArray[np.uint8]:
    report = dataclasses.replace(small_knockouts(), curves=curves)
    return deletion_image(report, LAYER, "joint", "title")


def has(image: NDArray[np.uint8], colour: tuple[int, int, int], size: float, value: float) -> bool:
    """Whether the pixel at this fraction of the units and this accuracy has the colour."""
    x, y = LEFT + round(size * WIDTH), BOTTOM - round(value * HEIGHT)
    return bool((image[y, x] == colour).all())


def test_curves_run_through_their_accuracies_in_their_colours() -> None:
    image = drawn(
        curve("most_first", [[1.0, 0.2, 0.1]]),
        curve("least_first", [[1.0, 0.9, 0.1]]),
        curve("random_first", [[1.0, 0.4, 0.1], [1.0, 0.6, 0.1]]),
    )
    assert image.shape[1] == 350
    assert has(image, RED, 0.5, 0.2)
    assert has(image, BLUE, 0.5, 0.9)
    assert has(image, GREY, 0.5, 0.5)
    assert has(image, RED, 0.25, 0.6)
    assert has(image, RED, 1.0, 0.1)
    assert has(image, RED, 0.0, 1.0)


def test_bands_are_intervals_and_of_random_orders_the_range() -> None:
    image = drawn(curve("most_first", [[0.3] * 3], half=0.1))
    column = image[TOP:BOTTOM, LEFT + 60].astype(int)
    tinted = np.flatnonzero(column[:, 0] > column[:, 1] + 20)
    assert BOTTOM - TOP - tinted.max() == pytest.approx(0.2 * HEIGHT, abs=1.5)
    assert BOTTOM - TOP - tinted.min() == pytest.approx(0.4 * HEIGHT, abs=1.5)
    image = drawn(curve("random_first", [[0.6] * 3, [0.9] * 3], half=0.0))
    column = image[TOP:BOTTOM, LEFT + 60].astype(int)
    tinted = np.flatnonzero(column.max(-1) < 240)
    inside = tinted[(tinted > 0) & (tinted != HEIGHT // 2)]
    assert BOTTOM - TOP - inside.max() == pytest.approx(0.6 * HEIGHT, abs=1.5)
    assert BOTTOM - TOP - inside.min() == pytest.approx(0.9 * HEIGHT, abs=1.5)


def test_sizes_are_drawn_to_scale() -> None:
    sizes = np.array([0, 1, 10])
    values = np.array([[1.0, 0.3, 0.1]])
    some = dataclasses.replace(curve("most_first", [[1.0, 0.3, 0.1]]), sizes=sizes, accuracy=values)
    image = drawn(some)
    assert has(image, RED, 0.1, 0.3)
    assert not has(image, RED, 0.5, 0.3)


def test_a_line_of_the_legend_for_each_curve() -> None:
    one = drawn(curve("most_first", [[1.0, 0.2]]))
    two = drawn(curve("most_first", [[1.0, 0.2]]), curve("least_first", [[1.0, 0.2]]))
    assert two.shape[0] == one.shape[0] + 16
    legend = [tuple(image[BOTTOM + 34 + 7, 10].tolist()) for image in (one, two)]
    assert legend == [RED, RED]
    assert tuple(two[BOTTOM + 34 + 16 + 7, 10].tolist()) == BLUE
    other = drawn(dataclasses.replace(curve("most_first", [[1.0, 0.2]]), area=np.array([0.123])))
    assert (one[BOTTOM + 34 :] != other[BOTTOM + 34 :]).any()
    assert (one[: BOTTOM + 34] == other[: BOTTOM + 34]).all()


def test_curves_that_are_not_there_are_refused() -> None:
    message = r"layer, concept: no curve of 'rnn.l0' and 'bit_1' in the report; it has: "
    with pytest.raises(ValueError, match=message + r"\('rnn.l0', 'joint'\)$"):
        deletion_image(small_knockouts(), LAYER, "bit_1", "title")
    with pytest.raises(ValueError, match=r"it has: none$"):
        deletion_image(small_knockouts(curves=False), LAYER, "joint", "title")


def scattered(
    scores: list[float], damage: list[float], sets: list[KnockoutSet] | None = None
) -> NDArray[np.uint8]:
    found = agreement("joint", np.array(scores), np.array(damage))
    sets = single_units(len(scores)) if sets is None else sets
    return agreement_image(small_knockouts(sets, agreement=(found,)), LAYER, "joint", "title")


def test_a_point_for_each_unit_at_its_score_and_damage() -> None:
    image = scattered([0.0, 0.5, 1.0, 0.25], [0.0, 0.1, 0.2, -0.2])
    for score, damage in ((0.0, 0.0), (0.5, 0.1), (1.0, 0.2), (0.25, -0.2)):
        x = LEFT + 4 + round(score * (WIDTH - 8))
        y = BOTTOM - round((damage + 0.2) / 0.4 * HEIGHT)
        assert (image[y, x] == RED).all()
    points = (image == RED).all(-1).sum()
    assert points == 4 * 9


@pytest.mark.parametrize(
    ("scores", "damage"),
    [
        ([0.0, 1.0, 2.0], [0.0] * 3),
        ([0.0, 1.0, 2.0], [np.nan] * 3),
        ([0.5] * 3, [0.0, 0.1, 0.2]),
    ],
)
def test_where_all_units_are_alike_a_sentence_says_so(
    scores: list[float], damage: list[float]
) -> None:
    image = scattered(scores, damage)
    assert len(image) < 100
    assert not (image == RED).all(-1).any()


def test_a_correlation_of_few_units_is_undefined_and_drawn() -> None:
    assert scattered([0.0, 0.5, 1.0], [0.0, 0.1, 0.2]).shape == (278, 350, 3)


def test_points_carry_the_indices_of_the_units_that_were_run() -> None:
    values = np.linspace(0, 1, 5).tolist()
    sampled = [single_units(20)[unit] for unit in (1, 2, 3, 4, 17)]
    first, some = scattered(values, values), scattered(values, values, sampled)
    assert (first[:, : LEFT + 30] != some[:, : LEFT + 30]).any()
    assert (first[: TOP + 10] != some[: TOP + 10]).any()


def test_many_points_carry_no_names() -> None:
    scores = np.linspace(0, 1, 64).tolist()
    image = scattered(scores, scores)
    panel = image[TOP + 3 : BOTTOM - 3, LEFT + 3 : LEFT + WIDTH - 3]
    ink = (panel < 100).all(-1).sum()
    assert ink == 0


def test_scores_that_were_not_compared_are_refused() -> None:
    message = "layer, concept: no scores of 'rnn.l9' and 'joint' in the report; it has: "
    with pytest.raises(ValueError, match=message):
        agreement_image(small_knockouts(), "rnn.l9", "joint", "title")
