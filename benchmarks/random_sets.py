"""What random sets of units, held at the last step, cost: in plain validation passes.

    python benchmarks/random_sets.py [--sets 200] [--pairs 3] [--device cpu]

Validates networks of 20 units on 4,096 sequences of the memory task, in turn without a callback and
with ``KnockoutCallback(RandomSets())``. Prints medians over the pairs: seconds of the plain pass
(loading, model, loss, metrics), and the runs of all sets in plain passes, without and with the
report that follows, whose cost does not depend on the model.
"""

from __future__ import annotations

import argparse
import logging
import time
import warnings

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything

from lightning_relay import KnockoutCallback, RandomSets
from lightning_relay.tasks import Cell, MemoryTask, RecurrentClassifier

CELLS: tuple[Cell, ...] = ("rnn", "gru", "lstm")


class EndOfBatches(Callback):
    """Notes when the last batch is done."""

    time = 0.0

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note the time."""
        self.time = time.perf_counter()


def seconds(
    model: RecurrentClassifier, task: MemoryTask, device: str, *callbacks: Callback
) -> tuple[float, float]:
    """Time of a validation up to its last batch, and to its end."""
    end = EndOfBatches()
    trainer = Trainer(
        accelerator=device,
        callbacks=[end, *callbacks],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    start = time.perf_counter()
    trainer.validate(model, task, verbose=False)
    return end.time - start, time.perf_counter() - start


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sets", type=int, default=200)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    arguments = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    seed_everything(0, verbose=False)

    print("| batch | cell | plain pass, s | all sets | with the report |")
    print("| ---: | --- | ---: | ---: | ---: |")
    for batch_size in (64, 256):
        task = MemoryTask(bits=3, delay=10, val_size=4096, batch_size=batch_size)
        for cell in CELLS:
            model = RecurrentClassifier(cell, task.input_size, task.num_classes)
            seconds(model, task, arguments.device)
            rows = []
            for _ in range(arguments.pairs):
                _, plain = seconds(model, task, arguments.device)
                knockouts = KnockoutCallback(RandomSets(n=arguments.sets), concepts=task.concepts)
                runs, whole = seconds(model, task, arguments.device, knockouts)
                rows.append((plain, runs / plain, whole / plain))
            plain, runs, whole = np.median(rows, axis=0)
            print(f"| {batch_size} | {cell} | {plain:.3f} | {runs:.1f} | {whole:.1f} |", flush=True)


if __name__ == "__main__":
    main()
