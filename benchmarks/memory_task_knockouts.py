"""Do the units that relay a bit matter more to that bit than others, and to it more than to others?

    python benchmarks/memory_task_knockouts.py [--seeds 20] [--epochs 15]

Trains an RNN, a GRU and an LSTM of 20 units on the memory task (3 bits, 10 steps of delay), at
every seed with sequences, initial weights and shuffling of their own. Relay orders of every bit
are found on the validation sequences of the last epoch, at the last step; damage, the loss of
accuracy of a bit, is measured on the test sequences. A top set are the 3 units that relay most of
a bit. Its damage to its own bit is compared with

(a) the mean damage to that bit by 60 random sets of 3 units of the 20, top units included, and
(b) the mean damage by the same top set to the other two bits: is it specific?

The test, stated before the study was run. For each cell and comparison: the difference, averaged
over the bits of a run, is one value for each seed; H0: its median is at most 0; exact one-sided
sign test over the seeds, a difference of 0 counting against; significant where p, with Holm's
correction over the three cells, is at most .05. Of main interest are the growing order and units
held at 0, the usual knock-out. As 0 may be a state that a unit never has in its sequences, the
same is done with units held at the mean of their states; and with the shrinking order, that of the
source, and with relay shares, which were added later. All are reported in the same way, and no
correction is made for looking at several. The size of the effect is the mean difference with a 95 %
interval, from bootstrap resamples of the seeds.

Ties are broken at random; so the numbers of units in the top sets whose places the data leave open
are printed, and everything is done with the first unit of an order alone too
("top 1"), compared with the mean over all 20 units. At last, the rank correlation of the unit
scores with the damage to the bit by each unit alone, mean over the bits that any unit damages.
Every run counts, whatever accuracy it reached.
"""

from __future__ import annotations

import argparse
import logging
import math
import statistics
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from lightning.pytorch import Callback, Trainer, seed_everything
from numpy.typing import NDArray

from lightning_relay import (
    EveryUnit,
    KnockoutCallback,
    KnockoutReport,
    KnockoutSet,
    Mean,
    RelayInformationCallback,
    RelayMeasure,
    TopUnits,
)
from lightning_relay.ablation.damage import rank_correlation
from lightning_relay.ablation.selection import Selection
from lightning_relay.tasks import Cell, MemoryTask, RecurrentClassifier

CELLS: tuple[Cell, ...] = ("rnn", "gru", "lstm")
RANKINGS: dict[str, RelayMeasure] = {
    "grow": RelayMeasure(direction="grow", n_orders=0),
    "shrink": RelayMeasure(n_orders=0),
    "share": RelayMeasure(),
}
VALUES: dict[str, float | Mean] = {"zero": 0.0, "mean": Mean()}
TOP = 3
RANDOM_SETS = 20
"""For each bit; each random set is measured on all bits."""

SETS: dict[str, Selection] = {
    "concept": TopUnits(TOP, n_random=RANDOM_SETS, steps=None),
    "each": EveryUnit(),
}

FIRST_SEED = 100
"""Lower ones were looked at while the study was written."""

ALPHA = 0.05
RESAMPLES = 10_000


@dataclass(frozen=True)
class Contrast:
    """Damage to the accuracy of a bit, fractions of 1, means over the bits.

    Attributes:
        own: By the units that relay most of the bit.
        random: By as many at random.
        others: By the former, to the other bits.
    """

    own: float
    random: float
    others: float


@dataclass(frozen=True)
class Found:
    """What one relay order and one value gave in one run.

    Attributes:
        contrasts: By number of units.
        correlation: Of unit scores and damage by single units, mean over the bits; NaN if no bit
            has one.
    """

    contrasts: dict[int, Contrast]
    correlation: float


@dataclass(frozen=True)
class Run:
    """One trained cell.

    Attributes:
        accuracy: Of the pattern, on the test sequences.
        tied: Number of units of a top set whose place the data leave open, mean over the bits, by
            ranking.
        distinct: Number of different units in the top sets of all bits, by ranking.
        found: By ranking and value.
    """

    accuracy: float
    tied: dict[str, float]
    distinct: dict[str, int]
    found: dict[tuple[str, str], Found]


def trained(cell: Cell, seed: int, epochs: int) -> Run:
    """Train a cell, and knock out its units."""
    seed_everything(seed, verbose=False)
    task = MemoryTask(bits=3, delay=10, seed=seed)
    model = RecurrentClassifier(cell, task.input_size, task.num_classes)
    relays = {
        ranking: RelayInformationCallback(
            concepts=task.concepts,
            inputs_end=task.inputs_end,
            every_n_epochs=epochs,
            prefix=f"relay_{ranking}",
            measure=measure,
        )
        for ranking, measure in RANKINGS.items()
    }
    trainer(list(relays.values()), epochs).fit(model, task)
    cases = list(product(RANKINGS, VALUES))
    knockouts = {
        (ranking, value, units): KnockoutCallback(
            which,
            relay=relays[ranking].reports[-1],
            concepts=task.concepts,
            value=VALUES[value],
            seed=seed,
            prefix=f"{units}_{ranking}_{value}",
        )
        for ranking, value in cases
        for units, which in SETS.items()
    }
    trainer(list(knockouts.values())).test(model, task, verbose=False)
    tops = {ranking: top_sets(knockouts[ranking, "zero", "concept"]) for ranking in RANKINGS}
    whole = knockouts["grow", "zero", "each"].reports[-1].damage_of("accuracy").baseline
    return Run(
        accuracy=float(whole),
        tied={
            ranking: statistics.mean(len(some.ambiguous) for some in own)
            for ranking, own in tops.items()
        },
        distinct={
            ranking: len({unit for some in own for unit in some.units["rnn.l0"]})
            for ranking, own in tops.items()
        },
        found={
            (ranking, value): Found(
                {
                    TOP: of_sets(knockouts[ranking, value, "concept"].reports[-1]),
                    1: of_units(knockouts[ranking, value, "each"].reports[-1], tops[ranking]),
                },
                correlation(knockouts[ranking, value, "each"].reports[-1]),
            )
            for ranking, value in cases
        },
    )


def trainer(callbacks: Sequence[Callback], epochs: int | None = None) -> Trainer:
    """A Trainer that writes nothing."""
    return Trainer(
        max_epochs=epochs,
        gradient_clip_val=1.0,
        callbacks=list(callbacks),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def top_sets(callback: KnockoutCallback) -> list[KnockoutSet]:
    """The units that relay most of each bit at the last step, most first."""
    report = callback.reports[-1]
    return [report.sets[place] for place in report.places("concept")]


def of_sets(report: KnockoutReport) -> Contrast:
    """Top sets beside random sets."""
    damage = damage_to_bits(report)
    places = report.places("concept")
    assert tuple(report.sets[place].concept for place in places) == report.concepts
    return contrast(damage[places], damage[report.places("concept_random")])


def of_units(report: KnockoutReport, tops: Sequence[KnockoutSet]) -> Contrast:
    """The first unit of each top set beside all units."""
    damage = damage_to_bits(report)
    return contrast(damage[[some.units["rnn.l0"][0] for some in tops]], damage)


def correlation(report: KnockoutReport) -> float:
    """Mean rank correlation of unit scores and damage over the bits that have one."""
    found = [
        # Scores that differ by rounding alone are ties.
        rank_correlation(own.scores.round(9), own.damage)[0]
        for own in report.agreement
    ]
    known = [one for one in found if not math.isnan(one)]
    return statistics.mean(known) if known else math.nan


def damage_to_bits(report: KnockoutReport) -> NDArray[np.float64]:
    """Damage by every set to every bit, ``(set, bit)``."""
    return np.stack([report.damage_of(bit).damage for bit in report.concepts], -1)


def contrast(top: NDArray[np.float64], random: NDArray[np.float64]) -> Contrast:
    """Means over the bits, of damages ``(bit of the top set, bit)`` and ``(random set, bit)``."""
    own = np.diag(top)
    others = (top.sum(1) - own) / (len(own) - 1)
    return Contrast(float(own.mean()), float(random.mean()), float(others.mean()))


def sign_test(differences: Sequence[float]) -> float:
    """Probability of as many positive ones if each were so with the probability 1/2 at most."""
    count = len(differences)
    positive = sum(difference > 0 for difference in differences)
    as_many = sum(math.comb(count, more) for more in range(positive, count + 1))
    return float(as_many / 2**count)


def holm(p_values: Sequence[float]) -> list[float]:
    """The same p-values, corrected for their number."""
    corrected = [0.0] * len(p_values)
    largest = 0.0
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    for rank, place in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = largest
    return corrected


def mean_with_interval(differences: Sequence[float]) -> str:
    """The mean, and its 95 % interval from resamples."""
    values = np.asarray(differences)
    drawn = np.random.default_rng(0).integers(len(values), size=(RESAMPLES, len(values)))
    lower, upper = np.quantile(values[drawn].mean(1), (0.025, 0.975))
    return f"{values.mean():+.3f} [{lower:+.3f}, {upper:+.3f}]"


def print_comparison(
    runs: dict[Cell, list[Run]], ranking: str, value: str, units: int, reference: str
) -> None:
    """One comparison, for all cells."""
    found = {
        cell: [run.found[ranking, value].contrasts[units] for run in own]
        for cell, own in runs.items()
    }
    own = {cell: [one.own for one in some] for cell, some in found.items()}
    beside = {cell: [getattr(one, reference) for one in some] for cell, some in found.items()}
    differences = {
        cell: [one - other for one, other in zip(own[cell], beside[cell], strict=True)]
        for cell in runs
    }
    p_values = [sign_test(some) for some in differences.values()]
    for cell, p, corrected in zip(runs, p_values, holm(p_values), strict=True):
        some = differences[cell]
        positive = sum(difference > 0 for difference in some)
        print(
            f"{ranking:<8}{value:<6}{units:>3}  {reference:<8}{cell:<6}"
            f"{statistics.median(own[cell]):8.3f}{statistics.median(beside[cell]):8.3f}"
            f"{statistics.median(some):+9.3f}   {mean_with_interval(some)}"
            f"{f'{positive}/{len(some)}':>8}{p:9.5f}{corrected:9.5f}"
            f"{' *' if corrected <= ALPHA else ''}"
        )


def main() -> None:
    """Train, knock out, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=15)
    arguments = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", ".*(does not have many workers|LeafSpec).*")

    print("Runs: accuracy; growing order, units held at 0, 3 units: damage to own bit, by random")
    print("sets, to other bits; rank correlation of scores and damage")
    print("cell  seed  accuracy     own  random  others  corr.")
    runs: dict[Cell, list[Run]] = {cell: [] for cell in CELLS}
    for seed, cell in product(range(FIRST_SEED, FIRST_SEED + arguments.seeds), CELLS):
        run = trained(cell, seed, arguments.epochs)
        runs[cell].append(run)
        main_case = run.found["grow", "zero"]
        three = main_case.contrasts[TOP]
        print(
            f"{cell:<6}{seed:4}{run.accuracy:10.4f}{three.own:8.3f}{three.random:8.3f}"
            f"{three.others:8.3f}{main_case.correlation:+7.2f}",
            flush=True,
        )

    print_tables(runs)


def print_tables(runs: dict[Cell, list[Run]]) -> None:
    """Comparisons and correlations over all runs."""
    print(f"\nTop sets of {TOP} units of each of 3 bits, means over the runs")
    print("ranking cell  open units of 3  different units of 9")
    for ranking, cell in product(RANKINGS, CELLS):
        tied = statistics.mean(run.tied[ranking] for run in runs[cell])
        distinct = statistics.mean(run.distinct[ranking] for run in runs[cell])
        print(f"{ranking:<8}{cell:<6}{tied:15.2f}{distinct:22.2f}")

    print(
        "\nDamage to the own bit beside that by random units (random), and to other bits (others):"
    )
    count = len(runs[CELLS[0]])
    print(
        f"medians over {count} runs; difference: median, mean [95 %], runs in which it is positive"
    )
    print(
        "ranking value top  beside  cell      own  beside   median   mean difference [95 %]    "
        "   runs        p   Holm p"
    )
    for units, ranking, value, reference in product(
        (TOP, 1), RANKINGS, VALUES, ("random", "others")
    ):
        print_comparison(runs, ranking, value, units, reference)

    print("\nRank correlation of unit scores with the damage by single units, mean over the bits;")
    print("over the runs")
    print("ranking value cell   median   lowest  highest   mean [95 %]              positive")
    for ranking, value, cell in product(RANKINGS, VALUES, CELLS):
        found = [run.found[ranking, value].correlation for run in runs[cell]]
        found = [one for one in found if not math.isnan(one)]
        if not found:
            print(f"{ranking:<8}{value:<6}{cell:<6}   none: no bit was damaged by a single unit")
            continue
        positive = sum(one > 0 for one in found)
        print(
            f"{ranking:<8}{value:<6}{cell:<6}{statistics.median(found):+7.2f}{min(found):+9.2f}"
            f"{max(found):+9.2f}   {mean_with_interval(found)}{positive:6}/{len(found)}"
        )


if __name__ == "__main__":
    main()
