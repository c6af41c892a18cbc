"""Makes the pictures of the README and the documentation: relays and knock-outs on the memory task.

python docs/pictures.py
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lightning.pytorch import Trainer, seed_everything
from PIL import Image

from lightning_relay import AlongOrder, KnockoutCallback, RelayInformationCallback
from lightning_relay.ablation.curves import deletion_image
from lightning_relay.ablation.maps import damage_image
from lightning_relay.relay.picture import (
    order_image,
    share_image,
    structure_image,
    transfer_image,
    units_image,
)
from lightning_relay.tasks import Cell, MemoryTask, RecurrentClassifier

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

CELLS: tuple[Cell, ...] = ("rnn", "gru")
IMAGES = Path(__file__).parent / "images"


def main() -> None:
    """Train both cells, draw who relays the pattern, and what a GRU loses without its units."""
    task = MemoryTask(bits=3, delay=10)
    for cell in CELLS:
        seed_everything(0)
        relays = RelayInformationCallback(
            concepts={"pattern": int, **task.concepts},
            inputs_end=task.inputs_end,
            latent=True,
            stages=["validate"],
        )
        each = KnockoutCallback(stages=["test"], prefix="each")
        greedy = KnockoutCallback(AlongOrder(), stages=["test"], prefix="greedy")
        trainer = Trainer(
            max_epochs=15,
            gradient_clip_val=1.0,
            callbacks=[relays, each, greedy],
            logger=False,
            enable_checkpointing=False,
        )
        model = RecurrentClassifier(cell, task.input_size, task.num_classes)
        trainer.fit(model, task)
        title = f"{cell.upper()}, memory of {task.bits} bits"
        report = relays.reports[-1]
        save(share_image(report, "rnn.l0", "pattern"), f"memory_task_{cell}")
        save(share_image(report, "rnn.l0", "bit_0"), f"memory_task_{cell}_bit")
        save(transfer_image(report, "rnn.l0", "bit_0"), f"memory_task_{cell}_transfer")
        save(order_image(report, "rnn.l0", "pattern"), f"memory_task_{cell}_order")
        save(units_image(report, "rnn.l0", "pattern"), f"memory_task_{cell}_units")
        save(structure_image(report, "rnn.l0", ""), f"memory_task_{cell}_latent")
        if cell == "gru":
            trainer.test(model, task, verbose=False)
            save(damage_image(each.reports[-1], title), "knockouts_each")
            curves = deletion_image(greedy.reports[-1], "rnn.l0", "pattern", title)
            save(curves, "knockouts_greedy")


def save(picture: NDArray[np.uint8], name: str) -> None:
    """Write a picture."""
    Image.fromarray(picture).save(IMAGES / f"{name}.png")


if __name__ == "__main__":
    main()
