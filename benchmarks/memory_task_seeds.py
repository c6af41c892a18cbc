"""How much of three bits do codes of two and of four levels account for, seed by seed?

    python benchmarks/memory_task_seeds.py [--seeds 5]

Trains an RNN, a GRU and an LSTM on the memory task and prints validation accuracy and the lowest
I_R of all units over the delay, with its corrected value, the coverage and the number of distinct
states at that step; once from two-means codes, once from four quantile levels of the same states.
Where nearly every sequence has a state of its own, I_R reaches I(X_in; X_out) whatever the units
hold, and the comparison says nothing: the coverage is low there.
"""

from __future__ import annotations

import argparse
import logging
import warnings

from lightning.pytorch import Trainer, seed_everything

from lightning_relay import RelayInformationCallback, RelayMeasure
from lightning_relay.tasks import Cell, MemoryTask, RecurrentClassifier

CELLS: tuple[Cell, ...] = ("rnn", "gru", "lstm")
EPOCHS = 15


def lowest_information(callback: RelayInformationCallback, task: MemoryTask) -> str:
    """Lowest I_R of all units at a step of the delay in bits, corrected, coverage, states."""
    report = callback.reports[-1]
    layer = report.layers["rnn.l0"]
    relay = layer.concepts["joint"]
    information = relay.information[:, 0]
    step = task.inputs_end + 1 + int(information[task.inputs_end + 1 :].argmin())
    return (
        f"{information[step]:9.3f}{relay.corrected[step, 0]:7.3f}"
        f"{relay.coverage[step, report.full_condition]:6.2f}{layer.distinct_states[step]:5}"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", ".*(does not have many workers|LeafSpec).*")

    print("                      two levels                  four levels")
    print("cell  seed  accuracy" + 2 * "      I_R  corr.  cov.  st." + "   (of 1024 sequences)")
    for cell in CELLS:
        for seed in range(arguments.seeds):
            seed_everything(seed, verbose=False)
            task = MemoryTask(bits=3, delay=10)
            two = RelayInformationCallback(every_n_epochs=EPOCHS)
            four = RelayInformationCallback(
                every_n_epochs=EPOCHS,
                prefix="relay_four",
                measure=RelayMeasure(discretization="quantile", levels=4),
            )
            trainer = Trainer(
                max_epochs=EPOCHS,
                gradient_clip_val=1.0,
                callbacks=[two, four],
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
            )
            trainer.fit(RecurrentClassifier(cell, task.input_size, task.num_classes), task)
            print(
                f"{cell:<6}{seed:4}{float(trainer.callback_metrics['val_accuracy']):10.4f}"
                f"{lowest_information(two, task)}{lowest_information(four, task)}",
                flush=True,
            )


if __name__ == "__main__":
    main()
