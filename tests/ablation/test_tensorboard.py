from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

from lightning_relay.ablation.curves import agreement_image, deletion_image
from lightning_relay.ablation.maps import damage_image, step_damage_image
from lightning_relay.ablation.report import KnockoutReport, KnockoutSet
from lightning_relay.ablation.table import knockout_table
from lightning_relay.ablation.tensorboard import write_knockout_report
from tests.support.images import decoded
from tests.support.knockouts import LAYER, single_units, small_knockouts


def written(path: Path, report: KnockoutReport) -> EventAccumulator:
    with SummaryWriter(str(path)) as writer:
        write_knockout_report(writer, report, "knockout", 7, suffix="/dataloader_1")
    return EventAccumulator(str(path)).Reload()


def test_sets_along_orders_have_no_map(tmp_path: Path) -> None:
    sets = [
        KnockoutSet(f"{LAYER}: {size} most first", "most_first", {LAYER: tuple(range(size))})
        for size in range(1, 4)
    ]
    with SummaryWriter(str(tmp_path)) as writer:
        write_knockout_report(writer, small_knockouts(sets, agreement=()), "knockout", 7)
    images = EventAccumulator(str(tmp_path)).Reload().Tags()["images"]
    assert "knockout/damage" not in images
    assert f"knockout/{LAYER}/joint/deletion" in images


def test_random_sets_and_all_units_beside_them_have_no_map(tmp_path: Path) -> None:
    sets = [
        KnockoutSet("0", "random", {LAYER: (0, 2)}, (-1,)),
        KnockoutSet("1", "all", {LAYER: (0, 1, 2)}, (-1,)),
    ]
    images = written(tmp_path, small_knockouts(sets, agreement=(), curves=False)).Tags()["images"]
    assert not any("damage" in name for name in images)


def test_images_and_the_table_are_written_as_drawn(tmp_path: Path) -> None:
    report = small_knockouts(epoch=3)
    events = written(tmp_path, report)
    title = f"{LAYER}: joint, epoch 3"
    expected = {
        "damage": damage_image(report, "knock-outs, epoch 3"),
        f"{LAYER}/joint/deletion": deletion_image(report, LAYER, "joint", title),
        f"{LAYER}/joint/agreement": agreement_image(report, LAYER, "joint", title),
    }
    tags = {f"knockout/{name}/dataloader_1": image for name, image in expected.items()}
    assert events.Tags()["images"] == list(tags)
    for tag, picture in tags.items():
        (image,) = events.Images(tag)
        assert image.step == 7
        np.testing.assert_array_equal(decoded(image.encoded_image_string), picture)
    (tag,) = events.Tags()["tensors"]
    assert tag == "knockout/knockout_table/dataloader_1/text_summary"
    (text,) = events.Tensors(tag)
    assert text.tensor_proto.string_val[0].decode() == knockout_table(report)


@pytest.mark.parametrize(
    ("options", "measures"),
    [
        ({"concepts": ("joint",)}, ["accuracy"]),
        ({"concepts": ("a", "b"), "metrics": ("loss",)}, ["accuracy", "a", "b", "loss"]),
        ({"classes": 0, "metrics": ("loss",)}, ["loss"]),
    ],
)
def test_single_steps_are_drawn_for_every_measure(
    tmp_path: Path, options: dict[str, object], measures: list[str]
) -> None:
    report = small_knockouts(single_units(3, 4), curves=False, **options)
    events = written(tmp_path, report)
    tags = [f"knockout/{LAYER}/{measure}/step_damage/dataloader_1" for measure in measures]
    assert events.Tags()["images"] == ["knockout/damage/dataloader_1", *tags]
    (image,) = events.Images(tags[-1])
    expected = step_damage_image(report, LAYER, measures[-1], LAYER)
    np.testing.assert_array_equal(decoded(image.encoded_image_string), expected)
