"""Where do trained networks settle: dimensions, attractors, and what these tell of the pattern.

    python benchmarks/memory_task_latent.py [--seeds 5] [--delay 10]

Trains each cell with several seeds on three bits held through a delay without input, and measures
the latent structure of all steps after the last bit. Prints for each network the accuracy, and the
accuracy when the answer is read 5,040 steps later; the number of dimensions, the fraction of the
visited states that settle without input, the attractors, the bits of the pattern that these tell,
and the largest eigenvalue of the slowest of them; and the time that the measurement takes.
"""

from __future__ import annotations

import argparse
import logging
import time
import warnings

import numpy as np
import torch
from lightning.pytorch import Trainer, seed_everything
from numpy.typing import NDArray

from lightning_relay import HiddenStateRecorder, latent_structure
from lightning_relay.tasks import Cell, MemoryTask, RecurrentClassifier

EPOCHS = 15
LATER = 5040
"""Steps without input after which the answer is read again: a multiple of 1 to 10 and of 12."""
CELLS: tuple[Cell, ...] = ("rnn", "gru", "lstm")


def trained(cell: Cell, task: MemoryTask, seed: int) -> RecurrentClassifier:
    """A network of 20 units."""
    seed_everything(seed, verbose=False)
    model = RecurrentClassifier(cell, 1, 2**3)
    trainer = Trainer(
        max_epochs=EPOCHS,
        gradient_clip_val=1.0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, task)
    return model.eval()


def kinds(period: NDArray[np.int64], continuous: NDArray[np.bool]) -> str:
    """Attractors in words, most visited first."""
    words = []
    for length, several in zip(period.tolist(), continuous.tolist(), strict=True):
        kind = "fixed point" if length == 1 else f"cycle of {length}"
        words.append("continuous" if several else kind)
    return ", ".join(f"{words.count(word)} × {word}" for word in dict.fromkeys(words)) or "none"


def main() -> None:
    """Train, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--delay", type=int, default=10)
    arguments = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", ".*(does not have many workers|LeafSpec).*")

    print(
        "| cell, seed | accuracy | later | dimensions | settled "
        "| attractors | bits | eigenvalue | s |"
    )
    print("| --- | ---: | ---: | ---: | ---: | --- | ---: | ---: | ---: |")
    for cell in CELLS:
        for seed in range(arguments.seeds):
            task = MemoryTask(bits=3, delay=arguments.delay)
            model = trained(cell, task, seed)
            inputs, labels = (
                torch.cat(parts) for parts in zip(*task.val_dataloader(), strict=True)
            )
            states = ("hidden", "cell") if cell == "lstm" else ("hidden",)
            with torch.no_grad(), HiddenStateRecorder(model, states=states) as recorder:  # type: ignore[arg-type]
                predicted = model(inputs).argmax(1)
            with torch.no_grad():
                later = model(torch.nn.functional.pad(inputs, (0, 0, 0, LATER))).argmax(1)
            start = time.perf_counter()
            structure = latent_structure(recorder.states, labels, model=model, inputs_end=2)
            seconds = time.perf_counter() - start
            found = structure["rnn.l0"]
            ends = found.attractors
            assert ends is not None
            slowest = f"{ends.largest.max():.3f}" if len(ends) else "–"
            right, still = (float((some == labels).double().mean()) for some in (predicted, later))
            print(
                f"| {cell}, {seed} | {right:.3f} | {still:.3f} | "
                f"{found.dimension:.1f} | {100 * ends.settled:.0f} % | "
                f"{kinds(ends.period, ends.continuous)} | {ends.label_bits:.2f} | {slowest} | "
                f"{seconds:.1f} |"
            )


if __name__ == "__main__":
    main()
