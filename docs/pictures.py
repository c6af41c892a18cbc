"""Makes the pictures of the README and the documentation: relays of an RNN and of a GRU.

python docs/pictures.py
"""

from __future__ import annotations

from pathlib import Path

from lightning.pytorch import Trainer, seed_everything
from PIL import Image

from lightning_relay import RelayInformationCallback
from lightning_relay.figures import relay_image
from lightning_relay.tasks import Cell, MemoryTask, RecurrentClassifier

CELLS: tuple[Cell, ...] = ("rnn", "gru")


def main() -> None:
    """Train both cells on the memory task and draw who relays the pattern."""
    task = MemoryTask(bits=3, delay=10)
    for cell in CELLS:
        seed_everything(0)
        relays = RelayInformationCallback(
            concepts={"pattern": int}, inputs_end=task.inputs_end, direction="grow"
        )
        trainer = Trainer(
            max_epochs=15,
            gradient_clip_val=1.0,
            callbacks=[relays],
            logger=False,
            enable_checkpointing=False,
        )
        trainer.fit(RecurrentClassifier(cell, task.input_size, task.num_classes), task)
        layer = relays.reports[-1].layers["rnn.l0"]
        picture = relay_image(layer, "pattern", f"{cell.upper()}, memory of {task.bits} bits")
        Image.fromarray(picture).save(Path(__file__).parent / "images" / f"memory_task_{cell}.png")


if __name__ == "__main__":
    main()
