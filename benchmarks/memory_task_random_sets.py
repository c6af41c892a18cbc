"""Does relay information predict what breaks, when sets of units are held at one step, or always?

    python benchmarks/memory_task_random_sets.py [--seeds 5] [--sets 200] [--orders 20]
        [--cells rnn gru lstm]

Trains each cell with several seeds on three bits held through ten steps without input. Random sets
of units are held at zero: at the last step, at step 8 of 13, and at all steps. The information is
that at the step, and for "always" that at the last step. Prints, as means over bits and seeds with
the lowest and highest mean of a seed: R² of the damage to a bit explained by the size of the set,
by size and information, and the rank correlation of information and damage among sets of one size;
– where nothing is damaged.

Then, for units held at one step, rank correlations over units: of relay shares with the units'
shares of the damage by all units (Shapley values, estimated from the random sets) and with the
damage by every unit alone; and of the estimates with the Shapley values along random orders. Last,
the largest damage by a unit alone.
"""

from __future__ import annotations

import argparse
import logging
import warnings

import numpy as np
from lightning.pytorch import Trainer, seed_everything
from numpy.typing import NDArray

from lightning_relay import (
    KnockoutCallback,
    KnockoutReport,
    NamedSets,
    RandomOrders,
    RandomSets,
)
from lightning_relay.ablation.damage import rank_correlation
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
    model: RecurrentClassifier,
    task: MemoryTask,
    which: RandomSets | RandomOrders | NamedSets,
) -> KnockoutReport:
    """Report of a validation."""
    callback = KnockoutCallback(which, concepts=task.concepts)
    trainer(callback).validate(model, task, verbose=False)
    return callback.reports[-1]


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
    held = evaluated(model, task, NamedSets(units))
    values = statistics(
        last[0].sizes,
        np.array([found.information for found in last]),
        np.array([held.damage_of(found.concept).damage for found in last]),
    )
    means: NDArray[np.float64] = np.nanmean(values[:, [0, 1, 3]], axis=0)
    return means


def of_units(
    model: RecurrentClassifier, task: MemoryTask, report: KnockoutReport, which: RandomOrders
) -> dict[int, NDArray[np.float64]]:
    """Rank correlations over units, means over bits, by step.

    Relay shares with Shapley values of the damage, with those along orders, and with the damage by
    units alone; the two estimates of Shapley values with each other; and, no correlation, the
    largest damage by a unit alone.
    """
    orders = evaluated(model, task, which)
    steps = which.measured_at
    rows: dict[int, list[tuple[float, ...]]] = {step: [] for step in steps}
    first = report.predictions[0]
    keys = report.sets[first.places[0]].units
    one = {str(unit): {key: [unit] for key in keys} for unit in range(len(first.unit_share))}
    alone = {step: evaluated(model, task, NamedSets(one, steps=step)) for step in steps}
    for found, along in zip(report.predictions, orders.predictions, strict=True):
        damage = alone[found.step].damage_of(found.concept).damage
        share = found.unit_share.round(9)
        rows[found.step].append(
            (
                found.share_correlation,
                along.share_correlation,
                rank_correlation(share, damage.round(9))[0],
                rank_correlation(found.unit_damage.round(9), along.unit_damage.round(9))[0],
                damage.max(),
            )
        )
    return {step: np.nanmean(row, axis=0) for step, row in rows.items()}


def printed(
    name: str, columns: str, found: dict[tuple[str, str], list[NDArray[np.float64]]]
) -> None:
    """Print a table: mean over seeds, with the lowest and the highest; – where one is undefined."""
    names = columns.split(", ")
    print(f"| {name} | held | {' | '.join(names)} |")
    print(f"| --- | --- |{' ---: |' * len(names)}")
    for (case, where), rows in found.items():
        cells = [
            f"{np.mean(part):.2f} ({np.min(part):.2f} to {np.max(part):.2f})"
            if np.isfinite(part).all()
            else "–"
            for part in zip(*rows, strict=True)
        ]
        print(f"| {case} | {where} | {' | '.join(cells)} |")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--sets", type=int, default=200)
    parser.add_argument("--orders", type=int, default=20)
    parser.add_argument("--cells", nargs="+", choices=list(CASES), default=list(CASES))
    arguments = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", ".*(does not have many workers|LeafSpec|empty slice).*")

    found: dict[tuple[str, str], list[NDArray[np.float64]]] = {}
    units: dict[tuple[str, str], list[NDArray[np.float64]]] = {}
    for cell in arguments.cells:
        for seed in range(arguments.seeds):
            seed_everything(seed, verbose=False)
            task = MemoryTask(bits=3, delay=10)
            model = RecurrentClassifier(cell, task.input_size, task.num_classes)
            trainer().fit(model, task)
            for states in CASES[cell]:
                which = RandomSets(n=arguments.sets, step=[-1, 8], states=states)  # type: ignore[arg-type]
                report = evaluated(model, task, which)
                name = f"{cell}, {' and '.join(states)}"
                for step, row in rows_of(report).items():
                    where = "at the last step" if step == -1 else f"at step {step} of 13"
                    found.setdefault((name, where), []).append(row)
                found.setdefault((name, "always"), []).append(always(model, task, report))
                orders = RandomOrders(
                    n=arguments.orders,
                    step=[-1, 8],
                    states=states,  # type: ignore[arg-type]
                    max_sets=None,
                    n_bootstraps=0,
                )
                for step, row in of_units(model, task, report, orders).items():
                    where = "at the last step" if step == -1 else f"at step {step} of 13"
                    units.setdefault((name, where), []).append(row)
    printed("cell, states", "R² of size, R² with information, within one size", found)
    print()
    columns = (
        "share of damage, the same along orders, damage alone, the two estimates, largest alone"
    )
    printed("cell, states", columns, units)


if __name__ == "__main__":
    main()
