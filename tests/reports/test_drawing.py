import dataclasses

import numpy as np

from lightning_relay.ablation.curves import agreement_image, deletion_image
from lightning_relay.ablation.maps import damage_image, step_damage_image
from lightning_relay.relay.picture import PICTURES
from lightning_relay.reports.drawing import FONT, shortened, ticks
from tests.support.knockouts import LAYER, single_units, small_knockouts
from tests.support.reports import small_report


def test_wide_texts_lose_their_middle() -> None:
    name = "encoder.lstm.l1_reverse: 31 @5"
    for width in range(20, 200):
        short = shortened(name, width)
        assert FONT.getlength(short) <= width
        if short != name:
            head, tail = short.split("…")
            assert name.startswith(head)
            assert name.endswith(tail)
            assert len(tail) >= len(head)
    assert shortened(name, 300) == name
    assert shortened(name, 95).endswith(": 31 @5")
    assert shortened(name, 1) == "…"


def test_labels_are_at_least_so_far_apart() -> None:
    assert list(ticks(5, 70, 12)) == [0, 1, 2, 3, 4]
    assert list(ticks(64, 448, 12)) == list(range(0, 64, 2))


def test_long_names_do_not_run_out_of_pictures() -> None:
    long = "encoder.block_of_many_recurrent_modules.lstm_with_a_long_name.l0_reverse"
    report = small_report()
    relay = dataclasses.replace(report, layers={long: report["rnn.l0"]})
    knockouts = small_knockouts(concepts=(long, "bit_0"))
    steps = small_knockouts(single_units(3, 4), concepts=(long, "bit_0"))
    images = [draw(relay, long, "joint") for name, draw in PICTURES.items() if name != "latent"]
    images += [
        deletion_image(knockouts, LAYER, long, long),
        agreement_image(knockouts, LAYER, long, long),
        damage_image(small_knockouts(single_units(3, layer=long)), long),
        damage_image(small_knockouts([], curves=False), long),
        step_damage_image(steps, LAYER, long, long),
    ]
    for image in images:
        assert image.shape[1] == 350
        margin = np.concatenate([image[:34], image[-34:]])[:, 346:]
        assert (margin == 255).all()
