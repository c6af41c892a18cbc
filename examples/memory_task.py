"""Which units of an RNN, a GRU and an LSTM hold three bits through a delay of ten steps?

Trains the three cells on the memory task with the relay callback and prints accuracy, relay
information over the steps and a summary of which units relay it and where the states would settle.
Everything else is in TensorBoard.

    python examples/memory_task.py [--epochs 15] [--seed 1] [--log-dir runs]
"""

from __future__ import annotations

import argparse
import logging
import warnings
from collections.abc import Callable

from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.loggers import TensorBoardLogger

from lightning_relay import RelayInformationCallback, RelayReport
from lightning_relay.tasks import Cell, MemoryTask, RecurrentClassifier

CELLS: tuple[Cell, ...] = ("rnn", "gru", "lstm")


def train(
    cell: Cell, task: MemoryTask, epochs: int, seed: int, log_dir: str
) -> tuple[float, RelayReport]:
    """Validation accuracy of a trained cell, and what its layer relays."""
    seed_everything(seed, verbose=False)
    model = RecurrentClassifier(cell, task.input_size, task.num_classes, hidden_size=20)
    concepts: dict[str, Callable[[int], int]] = {"pattern": int, **task.concepts}
    relays = RelayInformationCallback(concepts=concepts, inputs_end=task.inputs_end, latent=True)
    trainer = Trainer(
        max_epochs=epochs,
        gradient_clip_val=1.0,
        callbacks=[relays],
        logger=TensorBoardLogger(log_dir, name=f"memory_task/{cell}", default_hp_metric=False),
        enable_model_summary=False,
    )
    trainer.fit(model, task)
    return float(trainer.callback_metrics["val_accuracy"]), relays.reports[-1]


def main() -> None:
    """Train all cells and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--log-dir", default="runs")
    arguments = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", ".*(does not have many workers|LeafSpec).*")

    task = MemoryTask(bits=3, delay=10)
    results = {
        cell: train(cell, task, arguments.epochs, arguments.seed, arguments.log_dir)
        for cell in CELLS
    }

    print(f"\nMemory task: {task.bits} bits, then {task.delay} steps of delay; 20 units")
    print("\nRelay information of all units, bits, at every step (* input still to come)")
    layer = results["rnn"][1]["rnn.l0"]
    steps = "".join(
        f"{step}{'' if ended else '*'}".rjust(6)
        for step, ended in zip(layer.time_steps, layer.inputs_ended, strict=True)
    )
    print(f"cell  accuracy{steps}")
    for cell, (accuracy, report) in results.items():
        information = report["rnn.l0"]["pattern"].information[:, 0]
        print(f"{cell:<6}{accuracy:8.3f}" + "".join(f"{bits:6.2f}" for bits in information))
    for cell, (_, report) in results.items():
        print(f"\n{cell.upper()}: {report}")
    print(f"\nLook further: tensorboard --logdir {arguments.log_dir}/memory_task")


if __name__ == "__main__":
    main()
