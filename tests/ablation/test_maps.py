import dataclasses
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from lightning_relay.ablation.damage import Damage
from lightning_relay.ablation.maps import damage_image, step_damage_image
from lightning_relay.ablation.report import KnockoutReport, KnockoutSet
from tests.support.knockouts import LAYER, concept_sets, single_units, small_knockouts

TOP, NAMES, LEFT = 42, 104, 40
WHITE, DARK_RED, DARK_BLUE = [250, 250, 245], [85, 0, 15], [8, 48, 107]


def known(damage: Any, beyond: Any = None) -> Damage:
    """Damage of these values, whose intervals exclude 0 where that is said, or they are not 0."""
    values = np.asarray(damage, np.float64)
    excluded = values != 0 if beyond is None else np.asarray(beyond)
    lower = np.where(excluded, np.where(values > 0, values / 2, values - 1), values - 9)
    upper = np.where(excluded, np.where(values > 0, values + 1, values / 2), values + 9)
    return Damage(np.zeros(values.shape[1:]), -values, values, lower, upper)


def with_damage(accuracy: list[float], classes: Any, beyond: Any = None) -> KnockoutReport:
    """Single units with this damage to the accuracy and to four classes."""
    report = small_knockouts(single_units(len(accuracy)), concepts=("joint",))
    return dataclasses.replace(
        report, accuracy=known(accuracy), class_accuracy=known(classes, beyond)
    )


def cells(
    image: NDArray[np.uint8], shape: tuple[int, int], left: int, width: int, height: int = 14
) -> NDArray[np.uint8]:
    """Pixels ``(row, column, y, x, channel)`` of cells."""
    rows, columns = shape
    area = image[TOP : TOP + rows * height, left : left + columns * width]
    return area.reshape(rows, height, columns, width, 3).swapaxes(1, 2)


CLASSES = NAMES + 24 + 5


def test_a_cell_is_the_redder_the_more_damage_and_blue_where_it_is_better() -> None:
    damage = np.linspace(0, 0.5, 12).reshape(3, 4)
    report = with_damage([0.0, 0.5, -0.5], damage)
    image = damage_image(report, "title")
    assert image.shape[1] == 350
    shades = cells(image, (3, 4), CLASSES, 24)[:, :, 0, 0].astype(int)
    assert np.all(np.diff(shades.sum(-1).flatten()) < 0)
    assert np.all(np.diff(shades[..., 1].flatten()) < 0)
    assert (shades[0, 0].tolist(), shades[2, 3].tolist()) == (WHITE, DARK_RED)
    accuracy = cells(image, (3, 1), NAMES, 24)[:, 0, 0, 0].tolist()
    assert accuracy == [WHITE, DARK_RED, DARK_BLUE]


def test_the_largest_absolute_damage_is_darkest_on_one_scale() -> None:
    damage = np.zeros((3, 4))
    damage[0, 0], damage[1, 1] = -0.4, 0.2
    image = damage_image(with_damage([0.1, 0.0, 0.0], damage), "title")
    shades = cells(image, (3, 4), CLASSES, 24)[:, :, 0, 0].tolist()
    assert shades[0][0] == DARK_BLUE
    middle = cells(damage_image(with_damage([0.4, 0.2, 0.0], damage), ""), (3, 1), NAMES, 24)
    assert shades[1][1] == middle[1, 0, 0, 0].tolist()


def test_a_dot_lies_where_the_interval_excludes_0() -> None:
    random = np.random.default_rng(0)
    damage, beyond = random.uniform(0.1, 1, (3, 4)), random.random((3, 4)) < 0.5
    image = damage_image(with_damage([1.0, 0.0, 0.0], damage, beyond), "title")
    pixels = cells(image, (3, 4), CLASSES, 24)
    dots = (pixels != pixels[:, :, :1, :1]).any(-1).sum((-1, -2))
    np.testing.assert_array_equal(dots, np.where(beyond, 4, 0))
    white = (pixels[:, :, 6:8, 11:13] == 255).all((-1, -2, -3))
    np.testing.assert_array_equal(white, beyond & (damage > 0.5))


def test_only_sets_that_change_something_are_drawn() -> None:
    damage = np.zeros((5, 4))
    damage[1, 0], damage[3, 2] = 0.5, -0.25
    image = damage_image(with_damage([0.0] * 5, damage), "title")
    shades = cells(image, (2, 4), CLASSES, 24)[:, :, 0, 0].tolist()
    assert shades[0][0] == DARK_RED
    assert shades[1][2] != WHITE
    assert (image[TOP + 2 * 14, NAMES] == 255).all()


@pytest.mark.parametrize("damage", [0.0, 0.1])
def test_where_no_interval_excludes_0_a_sentence_says_so(damage: float) -> None:
    report = with_damage([0.0] * 5, np.full((5, 4), damage), np.zeros((5, 4)))
    assert len(damage_image(report, "title")) < 100


def test_damage_without_intervals_is_drawn() -> None:
    report = small_knockouts(single_units(3), classes=0, metrics=("loss",))
    nan = np.full(3, np.nan)
    values = np.array([0.0, 4.0, 2.0])
    loss = Damage(np.zeros(()), values, values, nan, nan)
    image = damage_image(dataclasses.replace(report, metrics={"loss": loss}), "title")
    assert (image[TOP, NAMES] == DARK_RED).all()


def test_classes_without_samples_are_striped() -> None:
    damage = np.full((3, 4), 0.01)
    damage[:, 2] = np.nan
    plain, striped = (
        damage_image(with_damage([1.0, 0.0, 0.0], some), "")
        for some in (np.full((3, 4), 0.01), damage)
    )
    pixels = cells(striped, (3, 4), CLASSES, 24)
    grey = (pixels == 150).all(-1).any((-1, -2))
    assert grey.tolist() == [[False, False, True, False]] * 3
    assert striped.shape[0] == plain.shape[0] + 16


def test_columns_are_accuracy_several_concepts_and_classes() -> None:
    report = small_knockouts(single_units(3))
    drawn = dataclasses.replace(
        report,
        accuracy=known([0.0] * 3),
        concept_accuracy=known(np.full((3, 3), 0.5)),
        class_accuracy=known(np.full((3, 4), -0.5)),
    )
    image = damage_image(drawn, "title")
    row = image[TOP, NAMES:]
    red, blue = ((row == colour).all(-1) for colour in (DARK_RED, DARK_BLUE))
    assert (red.sum(), blue.sum()) == (3 * 24, 4 * 24)
    assert np.flatnonzero(red)[0] == 24 + 5
    assert np.flatnonzero(blue)[0] == 24 + 5 + 3 * 24 + 5
    alone = dataclasses.replace(drawn, concepts=("joint",), concept_accuracy=known([[0.5]] * 3))
    assert not (damage_image(alone, "")[TOP, NAMES:] == DARK_RED).all(-1).any()


def test_metrics_have_a_scale_each_where_there_are_no_class_labels() -> None:
    report = small_knockouts(single_units(3), classes=0, metrics=("loss", "f1"))
    metrics = {"loss": known([1e-9, 40.0, np.inf]), "f1": known([0.1, 1e-9, 1e-9])}
    image = damage_image(dataclasses.replace(report, metrics=metrics), "title")
    drawn = cells(image, (3, 2), NAMES, 24)[:, :, 0, 1].tolist()
    assert [row[1] for row in drawn] == [DARK_RED, WHITE, WHITE]
    assert [row[0] for row in drawn][:2] == [WHITE, DARK_RED]


@pytest.mark.parametrize("sets", [[], None])
def test_a_report_without_anything_to_draw_says_so(sets: list[KnockoutSet] | None) -> None:
    image = damage_image(small_knockouts(sets, classes=0 if sets is None else 4), "title")
    assert image.shape == (40, 350, 3)


@pytest.mark.parametrize(("sets", "classes", "height"), [(64, 30, 7), (256, 40, 7), (300, 10, 7)])
def test_many_sets_have_small_rows_and_the_worst_are_drawn(
    sets: int, classes: int, height: int
) -> None:
    report = small_knockouts(single_units(sets), units=sets, classes=classes, concepts=("joint",))
    damage = np.arange(1, sets + 1) / sets
    image = damage_image(dataclasses.replace(report, accuracy=known(damage)), "title")
    rows = min(sets, 64)
    assert image.shape[1] == 350
    column = image[TOP : TOP + rows * height : height, NAMES].astype(int).sum(-1)
    assert np.all(np.diff(column) <= 0)
    assert (image[TOP + rows * height, NAMES] == 255).all()


def test_sets_of_one_concept_stand_together() -> None:
    report = small_knockouts(single_units(2) + concept_sets(("a", "b"), 5), concepts=("a", "b"))
    report = dataclasses.replace(report, accuracy=known([0.1] * len(report.sets)))
    image = damage_image(report, "title")
    empty = (image[TOP : TOP + 160, NAMES] == 255).all(-1)
    starts = np.flatnonzero(empty[1:] & ~empty[:-1]) + 1
    assert starts.tolist() == [28, 28 + 5 + 56, 28 + 5 + 56 + 5 + 56]


def test_hundreds_of_classes_fit_and_the_accuracy_stays_visible() -> None:
    report = small_knockouts(single_units(5), classes=200, concepts=("joint",))
    image = damage_image(dataclasses.replace(report, accuracy=known([1.0] * 5)), "title")
    assert image.shape[1] == 350
    assert (image[TOP, NAMES : NAMES + 8] == DARK_RED).all()


@pytest.mark.parametrize(("steps", "shown"), [(6, range(6)), (1000, range(0, 1000, 10))])
def test_labels_of_steps_are_columns(steps: int, shown: range) -> None:
    damage = np.linspace(0, 1, 3 * steps).reshape(3, steps)
    report = dataclasses.replace(
        with_damage([0.1, 0.2, 0.3], np.zeros((3, 4))),
        class_accuracy=None,
        step_accuracy=known(damage),
        step_samples=np.full(steps, 9),
    )
    image = damage_image(report, "title")
    assert image.shape[1] == 350
    width = 24 if steps == 6 else 2
    left = NAMES + max(width, 8) + 5
    shades = cells(image, (3, len(shown)), left, width)[:, :, 0, 0].astype(int).sum(-1)
    assert np.all(np.diff(shades.flatten()) <= 0)
    assert (shades[0, 0], shades[-1, -1]) == (sum(WHITE), shades.min())


def test_the_step_map_shows_each_unit_at_each_step() -> None:
    sets = [KnockoutSet("all", "each", {LAYER: (0,)}), *single_units(3, 4), *single_units(3)]
    damage = np.zeros(len(sets))
    damage[1:13] = np.linspace(0, 0.5, 12)
    damage[0] = damage[-1] = 9
    report = dataclasses.replace(small_knockouts(sets), accuracy=known(damage))
    image = step_damage_image(report, LAYER, "accuracy", "title")
    shades = cells(image, (3, 4), LEFT, 24)[:, :, 0, 0].astype(int)
    assert np.all(np.diff(shades.sum(-1).flatten()) < 0)
    assert (shades[0, 0].tolist(), shades[2, 3].tolist()) == (WHITE, DARK_RED)


def test_the_step_map_has_stripes_where_nothing_was_run_and_dots_beyond_0() -> None:
    sets = single_units(3, 4)
    del sets[5:7]
    beyond = np.arange(10) % 3 == 0
    report = dataclasses.replace(small_knockouts(sets), accuracy=known(np.full(10, 0.2), beyond))
    image = step_damage_image(report, LAYER, "accuracy", "title")
    pixels = cells(image, (3, 4), LEFT, 24)
    striped = (pixels == 150).all(-1).any((-1, -2))
    assert np.argwhere(striped).tolist() == [[1, 1], [1, 2]]
    dots = (pixels[:, :, 6, 11] == 255).all(-1).flatten()
    assert dots[~striped.flatten()].tolist() == beyond.tolist()


def test_steps_that_count_from_the_end_come_last_and_other_measures_are_drawn() -> None:
    sets = [KnockoutSet(str(t), "each", {LAYER: (7,)}, (t,)) for t in (-1, 3, 0, -2)]
    metrics = {"loss": known([4.0, 2.0, 1.0, 0.0])}
    report = dataclasses.replace(small_knockouts(sets), metrics=metrics)
    image = step_damage_image(report, LAYER, "loss", "title")
    shades = cells(image, (1, 4), LEFT, 24)[0, :, 0, 0].astype(int).sum(-1)
    assert np.argsort(-shades).tolist() == [2, 0, 1, 3]


def test_large_step_maps_fit() -> None:
    image = step_damage_image(small_knockouts(single_units(64, 50)), LAYER, "bit_0", "title")
    assert image.shape[1] == 350
    assert image.shape[0] < 600


def test_a_map_of_what_was_not_run_is_refused() -> None:
    with pytest.raises(ValueError, match=r"layer: no unit of 'rnn.l0' was knocked out at a"):
        step_damage_image(small_knockouts(), LAYER, "accuracy", "title")
    with pytest.raises(ValueError, match="measure: no 'loss' in the report; it has: 'accuracy',"):
        step_damage_image(small_knockouts(single_units(2, 2)), LAYER, "loss", "title")
