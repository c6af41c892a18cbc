"""Which units of an RNN, a GRU and an LSTM hold how wide a block was, and where it drifted?

A block of two or four sensors drifts left or right for eight steps; then come six steps without
input. Trains the three cells and prints accuracy, which units relay width and direction, whether
the information moves between units, and what breaks when random sets of units are held.

    python examples/block_task.py [--epochs 25] [--seed 1] [--log-dir runs]
"""

from __future__ import annotations

import argparse
import logging
import warnings

from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.loggers import TensorBoardLogger

from lightning_relay import (
    KnockoutCallback,
    KnockoutReport,
    RandomSets,
    RelayInformationCallback,
    RelayReport,
)
from lightning_relay.tasks import BlockTask, Cell, RecurrentClassifier

CELLS: tuple[Cell, ...] = ("rnn", "gru", "lstm")


def train(
    cell: Cell, task: BlockTask, epochs: int, seed: int, log_dir: str
) -> tuple[float, RelayReport, KnockoutReport]:
    """Test accuracy of a trained cell, what its layer relays, and what breaks."""
    seed_everything(seed, verbose=False)
    model = RecurrentClassifier(cell, task.input_size, task.num_classes, hidden_size=20)
    relays = RelayInformationCallback(concepts=task.concepts, inputs_end=task.inputs_end)
    knockouts = KnockoutCallback(RandomSets(n=100), stages=["test"])
    trainer = Trainer(
        max_epochs=epochs,
        gradient_clip_val=1.0,
        callbacks=[relays, knockouts],
        logger=TensorBoardLogger(log_dir, name=f"block_task/{cell}", default_hp_metric=False),
        enable_model_summary=False,
    )
    trainer.fit(model, task)
    trainer.test(model, task, verbose=False)
    accuracy = float(trainer.callback_metrics["test_accuracy"])
    return accuracy, relays.reports[-1], knockouts.reports[-1]


def main() -> None:
    """Train all cells and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--epochs", type=int, default=25)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--log-dir", default="runs")
    arguments = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", ".*(does not have many workers|LeafSpec).*")

    task = BlockTask()
    results = {
        cell: train(cell, task, arguments.epochs, arguments.seed, arguments.log_dir)
        for cell in CELLS
    }

    print(
        f"\nBlock task: a block of {' or '.join(map(str, task.widths))} of {task.input_size} "
        f"sensors drifts for {task.shown} steps, then {task.delay} steps of delay; 20 units"
    )
    for cell, (accuracy, relay, _) in results.items():
        print(f"\n{cell.upper()}, test accuracy {accuracy:.3f}: {relay}")
    print("\nRandom sets of units held at the last step: how much of the damage is explained, R2")
    print("cell  concept     by their size  by size and relay information")
    for cell, (_, _, knockouts) in results.items():
        for found in knockouts.predictions:
            print(f"{cell:<6}{found.concept:<12}{found.r2_size:13.2f}{found.r2:31.2f}")
    print(f"\nLook further: tensorboard --logdir {arguments.log_dir}/block_task")


if __name__ == "__main__":
    main()
