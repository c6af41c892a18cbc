"""Which units can an RNN, a GRU and an LSTM not do without, to hold each of three bits?

Trains the three cells on the memory task with the relay callback. Then, on the test sequences,
units are taken away: the three that relay most of each bit and three at random, each unit alone,
and one after the other. Prints what that costs each bit. Everything else is in TensorBoard. One
run of each cell shows no rule; benchmarks/memory_task_knockouts.py asks what holds over many.

    python examples/knockouts.py [--epochs 15] [--seed 1] [--log-dir runs]
"""

from __future__ import annotations

import argparse
import logging
import warnings
from collections.abc import Iterable
from dataclasses import dataclass

from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.loggers import TensorBoardLogger

from lightning_relay import (
    AlongOrder,
    KnockoutCallback,
    KnockoutReport,
    RelayInformationCallback,
    TopUnits,
)
from lightning_relay.tasks import Cell, MemoryTask, RecurrentClassifier

CELLS: tuple[Cell, ...] = ("rnn", "gru", "lstm")
RANDOM_SETS = 20


@dataclass(frozen=True)
class Knockouts:
    """What one cell relays, and what it loses without units.

    Attributes:
        concept: Without the units that relay most of each bit, and without random ones.
        each: Without each unit.
        greedy: Without more and more units.
    """

    concept: KnockoutReport
    each: KnockoutReport
    greedy: KnockoutReport


def train(cell: Cell, task: MemoryTask, epochs: int, seed: int, log_dir: str) -> Knockouts:
    """Train a cell, then knock out its units on the test sequences."""
    seed_everything(seed, verbose=False)
    model = RecurrentClassifier(cell, task.input_size, task.num_classes, hidden_size=20)
    # In a redundant layer the shrinking order ends in ties, so that its top units mean little.
    relays = RelayInformationCallback(
        concepts=task.concepts,
        inputs_end=task.inputs_end,
        stages=["validate"],
    )
    # Only in testing: by then the newest relay report is that of the trained model, and the
    # sequences that show the damage are not those that the order was found on.
    concept = KnockoutCallback(
        TopUnits(n_random=RANDOM_SETS), stages=["test"], prefix="knockout_concept"
    )
    each = KnockoutCallback(stages=["test"], prefix="knockout_each")
    greedy = KnockoutCallback(
        AlongOrder(concepts=list(task.concepts)), stages=["test"], prefix="knockout_greedy"
    )
    trainer = Trainer(
        max_epochs=epochs,
        gradient_clip_val=1.0,
        callbacks=[relays, concept, each, greedy],
        logger=TensorBoardLogger(log_dir, name=f"knockouts/{cell}", default_hp_metric=False),
        enable_model_summary=False,
    )
    trainer.fit(model, task)
    trainer.test(model, task, verbose=False)
    return Knockouts(
        concept.reports[-1],
        each.reports[-1],
        greedy.reports[-1],
    )


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
    print("\nAccuracy of each bit, nothing knocked out")
    print("cell  " + columns(task.concepts))
    for cell, found in results.items():
        whole = [float(found.concept.damage_of(bit).baseline) for bit in task.concepts]
        print(f"{cell:<6}" + columns(f"{accuracy:.3f}" for accuracy in whole))
    print("\nDamage to the accuracy of each bit by three units held at 0, with 95 % interval; of")
    print(
        f"{RANDOM_SETS * task.bits} random sets mean (lowest to highest). ≈ another may be as good"
    )
    print(f"cell  {'units':<30}" + columns(task.concepts))
    for cell, found in results.items():
        print_sets(cell, found)
    print("\nDo relay shares predict the damage by one unit? Rank correlation, with 95 % interval")
    print("cell  " + columns(task.concepts))
    for cell, found in results.items():
        agreement = (
            f"{own.correlation:.2f} [{own.lower:.2f}, {own.upper:.2f}]"
            for own in found.each.agreement
        )
        print(f"{cell:<6}" + columns(agreement))
    print("\nMean accuracy of each bit while units go one after the other, along its relay shares:")
    print("largest share first / in random orders / smallest share first")
    print("cell  " + columns(task.concepts))
    for cell, found in results.items():
        print(f"{cell:<6}" + columns(areas(found.greedy, bit) for bit in task.concepts))
    print("\nThe tab Relays has all of it, and Images some: knockout_concept_test (damage by set),")
    print(
        "knockout_each_test (damage beside shares), knockout_greedy_test (accuracy while units go)"
    )
    print(f"Look further: tensorboard --logdir {arguments.log_dir}/knockouts")


def print_sets(cell: Cell, found: Knockouts) -> None:
    """What the units of each bit, and random ones, do to every bit."""
    report = found.concept
    damages = [report.damage_of(bit) for bit in report.concepts]
    for bit, place in zip(report.concepts, report.places("concept"), strict=True):
        cells = (
            f"{own.damage[place]:.3f} [{own.lower[place]:.3f}, {own.upper[place]:.3f}]"
            for own in damages
        )
        chosen = report.sets[place]
        listed = (
            f"{'≈' if unit in chosen.ambiguous else ''}{unit}" for unit in chosen.units["rnn.l0"]
        )
        units = f"top 3 of {bit}: {' '.join(listed)}"
        print(f"{cell:<6}{units:<30}{columns(cells)}")
    random = [own.damage[report.places("concept_random")] for own in damages]
    cells = (f"{some.mean():.3f} ({some.min():.3f} to {some.max():.3f})" for some in random)
    print(f"{cell:<6}{'3 at random':<30}{columns(cells)}")


def areas(report: KnockoutReport, bit: str) -> str:
    """Mean accuracies of a bit along its curves."""
    area = {own.direction: own.area.mean() for own in report.curves if own.concept == bit}
    return " / ".join(f"{area[name]:.3f}" for name in ("most_first", "random_first", "least_first"))


def columns(cells: Iterable[str]) -> str:
    """Cells of a row."""
    return "".join(f"{cell:<26}" for cell in cells).rstrip()


if __name__ == "__main__":
    main()
