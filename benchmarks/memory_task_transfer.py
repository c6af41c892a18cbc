"""Does the information move between units, in RNNs, GRUs and LSTMs on the memory task?

    python benchmarks/memory_task_transfer.py [--seeds 5]

Trains each cell with several seeds on three bits held through ten steps without input, and prints
for each network, as means over the bits: validation accuracy, number of units in a set, relay
transfer between steps 1, 2, … steps apart after the last input, the fraction of the pairs of steps
that can be measured, and half-life and period of each bit.
"""

from __future__ import annotations

import argparse
import logging
import warnings

import numpy as np
from lightning.pytorch import Trainer, seed_everything
from numpy.typing import NDArray

from lightning_relay import ConceptRelay, RelayInformationCallback, RelayMeasure
from lightning_relay.tasks import Cell, MemoryTask, RecurrentClassifier

CELLS: tuple[Cell, ...] = ("rnn", "gru", "lstm")
EPOCHS = 15


def by_lag(profiles: list[NDArray[np.float64]]) -> str:
    """Means over bits by lag."""
    means = np.nanmean(profiles, axis=0)
    return " ".join("  nan" if np.isnan(mean) else f"{mean:5.2f}" for mean in means)


def row(relays: list[ConceptRelay], ended: NDArray[np.bool]) -> str:
    """Means over bits, and half-lives and periods."""
    transfers = [relay.transfer for relay in relays if relay.transfer is not None]
    sizes = [relay.set_size[ended] for relay in relays if relay.set_size is not None]
    profiles = [relay.lag_profile for relay in relays if relay.lag_profile is not None]
    measured = np.isfinite([transfer[np.ix_(ended, ended)] for transfer in transfers]).mean()
    return (
        f"{np.mean(sizes):6.1f} | {by_lag(profiles)} |{measured:9.2f}  "
        f"{', '.join(f'{relay.half_life:g}' for relay in relays):10} "
        f"{', '.join(str(relay.period) for relay in relays)}"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", ".*(does not have many workers|LeafSpec|empty slice).*")

    lags = " ".join(f"{lag:5}" for lag in range(1, 11))
    print(f"cell seed accuracy   size | {lags} | measured  half-lives periods")
    for cell in CELLS:
        found = []
        for seed in range(arguments.seeds):
            seed_everything(seed, verbose=False)
            task = MemoryTask(bits=3, delay=10)
            relays = RelayInformationCallback(
                concepts=task.concepts,
                inputs_end=task.inputs_end,
                every_n_epochs=EPOCHS,
                measure=RelayMeasure(n_splits=10),
            )
            trainer = Trainer(
                max_epochs=EPOCHS,
                gradient_clip_val=1.0,
                callbacks=[relays],
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
            )
            trainer.fit(RecurrentClassifier(cell, task.input_size, task.num_classes), task)
            layer = relays.reports[-1]["rnn.l0"]
            concepts = [layer[bit] for bit in task.concepts]
            found += [relay.lag_profile for relay in concepts if relay.lag_profile is not None]
            accuracy = float(trainer.callback_metrics["val_accuracy"])
            row_of_seed = row(concepts, layer.inputs_ended)
            print(f"{cell:4}{seed:5}{accuracy:9.3f} {row_of_seed}", flush=True)
        print(f"{cell:4} mean                 | {by_lag(found)} |\n", flush=True)


if __name__ == "__main__":
    main()
