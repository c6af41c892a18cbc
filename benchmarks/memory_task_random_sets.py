"""Does relay information predict what breaks, when sets of units are held at one step, or always?

    python benchmarks/memory_task_random_sets.py [--seeds 5] [--sets 200]

Trains each cell with several seeds on three bits held through ten steps without input. Random sets
of units are held at zero: at the last step, at step 8 of 13, and at all steps. The information is
that at the step, and for "always" that at the last step. Prints, as means over bits and seeds with
the lowest and highest mean of a seed: R² of the damage to a bit explained by the size of the set,
by size and information, and the rank correlation of information and damage among sets of one size;
– where nothing is damaged.
"""

from __future__ import annotations

import argparse
import logging
import time
import warnings

import numpy as np
from lightning.pytorch import Trainer, seed_everything
from numpy.typing import NDArray

from lightning_relay import KnockoutCallback, KnockoutReport, NamedSets, RandomSets
from lightning_relay.ablation.prediction import statistics
from lightning_relay.tasks import Cell, MemoryTask, RecurrentClassifier

EPOCHS = 15
CASES: dict[Cell, list[tuple[str, ...]]] = {
    "rnn": [("hidden",)],
    "gru": [("hidden",)],
    "lstm": [("hidden",), ("hidden", "cell")],
}


def trainer(*callbacks: KnockoutCallback, epochs: int = EPOCHS) -> Trainer:
    """A Trainer that says nothing."""
    return Trainer(
        max_epochs=epochs,
        gradient_clip_val=1.0,
        callbacks=list(callbacks),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def evaluated(
    model: RecurrentClassifier, task: MemoryTask, which: RandomSets | NamedSets
) -> tuple[KnockoutReport, float]:
    """Report of a validation, and its time."""
    callback = KnockoutCallback(which, concepts=task.concepts)
    start = time.perf_counter()
    trainer(callback).validate(model, task, verbose=False)
    return callback.reports[-1], time.perf_counter() - start


def rows_of(report: KnockoutReport) -> dict[int, NDArray[np.float64]]:
    """R² of size, R² with information, within-size correlation: means over bits, by step."""
    steps = dict.fromkeys(found.step for found in report.predictions)
    return {
        step: np.mean(
            [
                (found.r2_size, found.r2, found.within_size)
                for found in report.predictions
                if found.step == step
            ],
            axis=0,
        )
        for step in steps
    }


def always(
    model: RecurrentClassifier, task: MemoryTask, report: KnockoutReport
) -> NDArray[np.float64]:
    """The same for the sets of the last step, held at all steps."""
    last = [found for found in report.predictions if found.step == -1]
    units = {report.sets[place].name: report.sets[place].units for place in last[0].places}
    held, _ = evaluated(model, task, NamedSets(units))
    values = statistics(
        last[0].sizes,
        np.array([found.information for found in last]),
        np.array([held.damage_of(found.concept).damage for found in last]),
    )
    means: NDArray[np.float64] = np.nanmean(values[:, [0, 1, 3]], axis=0)
    return means


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--sets", type=int, default=200)
    arguments = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", ".*(does not have many workers|LeafSpec|empty slice).*")

    found: dict[tuple[str, str], list[NDArray[np.float64]]] = {}
    passes = []
    for cell, cases in CASES.items():
        for seed in range(arguments.seeds):
            seed_everything(seed, verbose=False)
            task = MemoryTask(bits=3, delay=10)
            model = RecurrentClassifier(cell, task.input_size, task.num_classes)
            trainer().fit(model, task)
            start = time.perf_counter()
            trainer().validate(model, task, verbose=False)
            plain = time.perf_counter() - start
            for states in cases:
                which = RandomSets(n=arguments.sets, step=[-1, 8], states=states)  # type: ignore[arg-type]
                report, seconds = evaluated(model, task, which)
                passes.append(seconds / plain / 2)
                name = f"{cell}, {' and '.join(states)}"
                for step, row in rows_of(report).items():
                    where = "at the last step" if step == -1 else f"at step {step} of 13"
                    found.setdefault((name, where), []).append(row)
                found.setdefault((name, "always"), []).append(always(model, task, report))
    print("| cell, states | held | R² of size | R² with information | within one size |")
    print("| --- | --- | ---: | ---: | ---: |")
    for (name, where), rows in found.items():
        cells = [
            f"{np.mean(part):.2f} ({np.min(part):.2f} to {np.max(part):.2f})"
            if np.isfinite(part).all()
            else "–"
            for part in zip(*rows, strict=True)
        ]
        print(f"| {name} | {where} | {' | '.join(cells)} |")
    print(f"\n{arguments.sets} sets at a step: {np.median(passes):.0f} plain validation passes")


if __name__ == "__main__":
    main()
