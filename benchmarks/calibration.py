"""Do estimates, chance levels and intervals hold what they promise, on data with known answers?

    python benchmarks/calibration.py [--datasets 400]

- Estimators: I(X_in; X_out | Y_0) of 8 classes that X_out copies from X_in, with coin flips in Y_0,
  so that the answer is 3 bits; 1000 samples, mean over data sets, and the coverage of Y_0.
- Shares: of three exact relays of 3 bits and of coin flips beside them, with clean labels and with
  a tenth of the answers drawn at random; of coin flips only; and of a wide layer.
- Chance levels: how often the family-wise test at 5 % finds a relay where there is none. The rate
  should lie in the binomial interval around 5 %, which is printed beside it.
- Intervals: how often a 95 % bootstrap interval of the information that all units relay holds the
  true value.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable
from math import sqrt
from typing import Literal

import torch
from torch import Tensor

from lightning_relay.information import (
    Estimator,
    bootstrap,
    chance_level,
    mutual_information,
    relay_order,
    relay_share,
)

Within = Literal["states", "everywhere"]
ESTIMATORS: tuple[Estimator, ...] = ("plugin", "miller_madow", "grassberger", "chao_shen")
Data = tuple[Tensor, Tensor, Tensor]


def known_answers(repeats: int) -> None:
    """Print what each estimator makes of 3 bits."""
    print("| units in Y_0 | " + " | ".join(ESTIMATORS) + " | decoder | coverage of Y_0 |")
    print("| ---: |" + " ---: |" * (len(ESTIMATORS) + 2))
    for units in (4, 8, 10, 16, 24, 45):
        generator = torch.Generator().manual_seed(units)
        found, decoded, covered = [], [], []
        for repeat in range(repeats):
            label = torch.randint(8, (1000,), generator=generator)
            noise = torch.randint(2, (1000, units), generator=generator)
            found.append(
                [
                    float(mutual_information(label, label, noise, estimator=name))
                    for name in ESTIMATORS
                ]
            )
            covered.append(1 - float(relay_order(label, label, noise).alone[-1]))
            if repeat < 3:
                decoded.append(float(mutual_information(label, label, noise, estimator="decoder")))
        mean = torch.tensor(found, dtype=torch.float64).mean(0).tolist()
        mean += [statistics.mean(decoded), statistics.mean(covered)]
        print(f"| {units} | " + " | ".join(f"{value:.2f}" for value in mean) + " |", flush=True)


def relays_and_coins(
    samples: int, relays: int, coins: int, noise: float, generator: torch.Generator
) -> Data:
    """Eight classes in three bits, some of which are units, and coin flips."""
    label = torch.randint(8, (samples,), generator=generator)
    drawn = torch.rand(samples, generator=generator) < noise
    answer = torch.where(drawn, torch.randint(8, (samples,), generator=generator), label)
    bits = label.unsqueeze(1) >> torch.arange(relays) & 1
    return (
        label,
        answer,
        torch.cat([bits, torch.randint(2, (samples, coins), generator=generator)], dim=-1),
    )


def shares(repeats: int) -> None:
    """Print the shares of relays and of coin flips, all in bits, and the time they take."""
    print(
        f"\nShares over {repeats} data sets, 64 orders, bits.\n\n"
        "| relays | coins | samples | noise | a relay | a coin, mean | a coin, largest mean "
        "| a coin, largest of all | unattributed | standard error | time |\n|" + " ---: |" * 11
    )
    cases = [
        (relays, coins, samples, noise)
        for relays, all_coins in ((3, (4, 8, 16, 24, 45)), (0, (24,)), (3, (1021,)))
        for coins in all_coins
        for samples in (1000, 4000)
        for noise in (0.0, 0.1)
    ]
    for relays, coins, samples, noise in cases:
        generator = torch.Generator().manual_seed(coins)
        found, errors, left, seconds = [], [], [], 0.0
        for seed in range(repeats):
            data = relays_and_coins(samples, relays, coins, noise, generator)
            start = time.perf_counter()
            share = relay_share(*data, seed=seed)
            seconds += time.perf_counter() - start
            found.append(share.share)
            errors.append(float(share.standard_error.max()))
            left.append(float(share.unattributed))
        mean = torch.stack(found).mean(0)
        of_relays = f"{float(mean[:relays].mean()):.3f}" if relays else ""
        print(
            f"| {relays} | {coins} | {samples:,} | {noise:.0%} | {of_relays} "
            f"| {float(mean[relays:].mean()):.4f} | {float(mean[relays:].max()):.4f} "
            f"| {float(torch.stack(found)[:, relays:].max()):.4f} "
            f"| {statistics.mean(left):.3f} | {statistics.mean(errors):.4f} "
            f"| {seconds / repeats * 1e3:.0f} ms |",
            flush=True,
        )


def independent(samples: int, generator: torch.Generator) -> Data:
    """Input, output and four units at two steps, all independent."""
    labels = torch.randint(3, (2, samples), generator=generator)
    hidden = torch.randint(2, (2, samples, 4), generator=generator)
    return labels[0], labels[1], hidden


def redundant(samples: int, generator: torch.Generator) -> Data:
    """The output copies the input, which stands in two units at both steps: no unit is needed."""
    label = torch.randint(3, (samples,), generator=generator)
    wrong = torch.rand(samples, generator=generator) < 0.2
    state = torch.where(wrong, torch.randint(3, (samples,), generator=generator), label)
    hidden = torch.randint(2, (2, samples, 4), generator=generator)
    hidden[:, :, 0] = hidden[:, :, 1] = state
    said = torch.rand(samples, generator=generator) < 0.2
    answer = torch.where(said, torch.randint(3, (samples,), generator=generator), state)
    return label, answer, hidden


def false_positives(datasets: int) -> None:
    """Print how often a relay is found where there is none."""
    margin = 1.96 * sqrt(0.05 * 0.95 / datasets)
    print(
        f"\nFamily-wise rate over {datasets} data sets without a relay, 99 permutations; the "
        f"binomial interval around 5 % is {0.05 - margin:.1%} to {0.05 + margin:.1%}.\n\n"
        "| data | samples | permuted within | rate |\n| :--- | ---: | :--- | ---: |"
    )
    cases: list[tuple[str, Callable[[int, torch.Generator], Data], int, Within]] = [
        ("independent", independent, 100, "states"),
        ("independent", independent, 400, "states"),
        ("independent", independent, 400, "everywhere"),
        ("redundant", redundant, 400, "states"),
    ]
    for name, make, samples, within in cases:
        generator = torch.Generator().manual_seed(samples)
        found = 0
        for seed in range(datasets):
            chance = chance_level(
                *make(samples, generator), within=within, n_permutations=99, seed=seed
            )
            found += bool((chance.family_p_values <= 0.05).any())
        print(f"| {name} | {samples} | {within} | {found / datasets:.1%} |", flush=True)


def noisy_copy(samples: int, generator: torch.Generator) -> Data:
    """Two fair bits in units 0 and 1, a noise unit, and a tenth of the answers drawn at random."""
    label = torch.randint(4, (samples,), generator=generator)
    drawn = torch.rand(samples, generator=generator) < 0.1
    answer = torch.where(drawn, torch.randint(4, (samples,), generator=generator), label)
    hidden = torch.randint(2, (samples, 3), generator=generator)
    hidden[:, 0], hidden[:, 1] = label & 1, label >> 1
    return label, answer, hidden


def interval_coverage(datasets: int) -> None:
    """Print how often an interval holds the true value."""
    right, wrong = torch.tensor([0.925, 0.025], dtype=torch.float64)
    truth = float(2 + right * right.log2() + 3 * wrong * wrong.log2())
    print(
        f"\n95 % bootstrap intervals (200 resamples) of {truth:.4f} bits, {datasets} data sets.\n\n"
        "| samples | estimator | mean estimate | mean interval | held the true value |\n"
        "| ---: | :--- | ---: | ---: | ---: |"
    )
    for samples in (100, 400, 1600):
        for estimator in ("plugin", "grassberger"):
            generator = torch.Generator().manual_seed(samples)
            held, ends = 0, []
            for seed in range(datasets):
                data = noisy_copy(samples, generator)
                found = bootstrap(*data, estimator=estimator, seed=seed)
                interval = float(found.lower[0]), float(found.upper[0])
                held += interval[0] <= truth <= interval[1]
                ends.append((float(found.order.information[0]), *interval))
            mean, low, high = torch.tensor(ends, dtype=torch.float64).mean(0).tolist()
            print(
                f"| {samples} | {estimator} | {mean:.3f} | {low:.3f} to {high:.3f} "
                f"| {held / datasets:.1%} |",
                flush=True,
            )


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--datasets", type=int, default=400)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", "chance_level: ")
    known_answers(repeats=20)
    shares(repeats=20)
    false_positives(arguments.datasets)
    interval_coverage(arguments.datasets)


if __name__ == "__main__":
    main()
