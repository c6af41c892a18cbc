"""Makes the pictures of the README and the documentation: relays and knock-outs on the memory task.

python docs/pictures.py
"""

from __future__ import annotations

from pathlib import Path

from lightning.pytorch import Trainer, seed_everything

from lightning_relay import AlongOrder, KnockoutCallback, RelayInformationCallback
from lightning_relay.tasks import Cell, MemoryTask, RecurrentClassifier

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
        report = relays.reports[-1]
        pictures = {
            cell: report.picture("relay_share"),
            f"{cell}_bit": report.picture("relay_share", concept="bit_0"),
            f"{cell}_transfer": report.picture("relay_transfer", concept="bit_0"),
            f"{cell}_order": report.picture("greedy_order"),
            f"{cell}_units": report.picture("units_needed"),
            f"{cell}_latent": report.picture("latent"),
        }
        for name, picture in pictures.items():
            picture.save(IMAGES / f"memory_task_{name}.png")
        if cell == "gru":
            trainer.test(model, task, verbose=False)
            each.reports[-1].picture("damage_map").save(IMAGES / "knockouts_each.png")
            greedy.reports[-1].picture("deletion").save(IMAGES / "knockouts_greedy.png")


if __name__ == "__main__":
    main()
