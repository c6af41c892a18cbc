import numpy as np
import pytest

from lightning_relay.ablation.curves import agreement_image, deletion_image
from lightning_relay.ablation.faces import knockout_faces
from lightning_relay.ablation.maps import damage_image, step_damage_image
from lightning_relay.ablation.report import KnockoutSet
from lightning_relay.ablation.table import knockout_table
from tests.support.knockouts import LAYER, single_units, small_knockouts


def test_sets_along_orders_have_no_map() -> None:
    sets = [
        KnockoutSet(f"{LAYER}: {size} most first", "most_first", {LAYER: tuple(range(size))})
        for size in range(1, 4)
    ]
    faces = knockout_faces(small_knockouts(sets, agreement=()))
    assert "damage" not in faces
    assert f"{LAYER}/joint/deletion" in faces


def test_random_sets_and_all_units_beside_them_have_no_map() -> None:
    sets = [
        KnockoutSet("0", "random", {LAYER: (0, 2)}, (-1,)),
        KnockoutSet("1", "all", {LAYER: (0, 1, 2)}, (-1,)),
    ]
    faces = knockout_faces(small_knockouts(sets, agreement=(), curves=False))
    assert not any("damage" in tag for tag in faces)


def test_a_report_has_its_pictures_and_then_its_table() -> None:
    report = small_knockouts(epoch=3)
    faces = knockout_faces(report)
    title = f"{LAYER}: joint, epoch 3"
    expected = {
        "damage": damage_image(report, "knock-outs, epoch 3"),
        f"{LAYER}/joint/deletion": deletion_image(report, LAYER, "joint", title),
        f"{LAYER}/joint/agreement": agreement_image(report, LAYER, "joint", title),
    }
    assert list(faces) == [*expected, "knockout_table"]
    assert faces.pop("knockout_table") == knockout_table(report)
    for tag, picture in expected.items():
        np.testing.assert_array_equal(faces[tag], picture)


@pytest.mark.parametrize(
    ("options", "measures"),
    [
        ({"concepts": ("joint",)}, ["accuracy"]),
        ({"concepts": ("a", "b"), "metrics": ("loss",)}, ["accuracy", "a", "b", "loss"]),
        ({"classes": 0, "metrics": ("loss",)}, ["loss"]),
    ],
)
def test_single_steps_are_drawn_for_every_measure(
    options: dict[str, object], measures: list[str]
) -> None:
    report = small_knockouts(single_units(3, 4), curves=False, **options)
    faces = knockout_faces(report)
    tags = [f"{LAYER}/{measure}/step_damage" for measure in measures]
    assert list(faces) == ["damage", *tags, "knockout_table"]
    expected = step_damage_image(report, LAYER, measures[-1], LAYER)
    np.testing.assert_array_equal(faces[tags[-1]], expected)
