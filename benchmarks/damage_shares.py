"""How far are estimates of Shapley values of the damage from the exact ones?

    python benchmarks/damage_shares.py [--repeats 200]

Games of 8 units in which the damage by every subset is known: damages that add up; two copies each,
which do damage only if both are held; parity of two and a threshold of three; saturation; and a
random read-out of two classes. The exact values come from all subsets. Prints the root mean square
error of a unit's value: by 112 random sets with the regression of ``RandomSets``, with KernelSHAP,
and with the mean over sizes of the difference between sets with and without the unit; and by 16
random orders, which are 112 sets too, as ``RandomOrders`` takes them. And the part of the exact
values that lies within 95 % bootstrap intervals of sets, and of pairs of orders.
"""

from __future__ import annotations

import argparse
from math import comb

import numpy as np
from numpy.typing import NDArray

from lightning_relay.ablation.shapley import set_weights, shapley_of_orders, shapley_of_sets

UNITS, SETS, ORDERS, RESAMPLES = 8, 112, 16, 100
Floats = NDArray[np.float64]
Bools = NDArray[np.bool]
SUBSETS: Bools = (np.arange(2**UNITS)[:, np.newaxis] >> np.arange(UNITS) & 1).astype(bool)


def games(generator: np.random.Generator) -> dict[str, Floats]:
    """Damage by each of ``SUBSETS``, by name."""
    held = SUBSETS.astype(np.float64)
    cost = generator.random(UNITS) * 0.1
    parity, three = SUBSETS[:, 0] ^ SUBSETS[:, 1], SUBSETS[:, 2:5].all(1)
    read = generator.normal(size=(200, UNITS)), generator.normal(size=200) / 2
    answers = (1 - held) @ read[0].T + read[1] > 0
    return {
        "additive": held @ cost,
        "copies": (SUBSETS[:, ::2] & SUBSETS[:, 1::2]) @ np.linspace(0.1, 0.4, UNITS // 2),
        "parity": 0.3 * parity + 0.2 * three + 0.5 * held @ cost,
        "saturation": 0.5 * np.minimum(1, held @ np.linspace(0.05, 0.6, UNITS)),
        "read-out": (answers != answers[0]).mean(1),
    }


def place(members: Bools) -> NDArray[np.int64]:
    """Index of sets in ``SUBSETS``."""
    return members @ (1 << np.arange(UNITS))


def exact(damage: Floats) -> Floats:
    """Shapley values from all subsets."""
    values = []
    for unit in range(UNITS):
        without = SUBSETS[~SUBSETS[:, unit]]
        weights = [1 / (UNITS * comb(UNITS - 1, size)) for size in without.sum(1).tolist()]
        before = place(without)
        values.append(np.dot(weights, damage[before + 2**unit] - damage[before]))
    return np.array(values)


def kernel_shap(members: Bools, damage: Floats, whole: float) -> Floats:
    """KernelSHAP, with every set weighted by the Shapley kernel over its chance to be drawn."""
    sizes = members.sum(1)
    root = 1 / np.sqrt(sizes * (UNITS - sizes))
    held = members.astype(np.float64)
    regressors = (held[:, :-1] - held[:, -1:]) * root[:, np.newaxis]
    found = np.linalg.lstsq(regressors, (damage - held[:, -1] * whole) * root, rcond=None)[0]
    return np.append(found, whole - found.sum())


def by_size(members: Bools, damage: Floats, whole: float) -> Floats:
    """Difference with and without the unit at each size, mean over the sizes that have both."""
    own = np.vstack([members, np.zeros((1, UNITS), bool), np.ones((1, UNITS), bool)])
    lost, sizes = np.append(damage, [0, whole]), own.sum(1)
    values = []
    for unit in range(UNITS):
        grown = []
        for size in range(UNITS):
            before = lost[(sizes == size) & ~own[:, unit]]
            after = lost[(sizes == size + 1) & own[:, unit]]
            if len(before) and len(after):
                grown.append(after.mean() - before.mean())
        values.append(np.mean(grown))
    return np.array(values)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=200)
    repeats = parser.parse_args().repeats
    generator = np.random.default_rng(0)
    print("| game | regression | KernelSHAP | by size | orders | within: sets | orders |")
    print(f"| --- |{' ---: |' * 6}")
    for name, damage in games(generator).items():
        values, whole = exact(damage), damage[-1:]
        errors, within = [], []
        for _ in range(repeats):
            sizes = np.resize(np.arange(1, UNITS), SETS)
            members = generator.random((SETS, UNITS)).argsort(1).argsort(1) < sizes[:, np.newaxis]
            lost, weights = damage[place(members)], set_weights(sizes, UNITS)
            half = generator.random((ORDERS // 2, UNITS)).argsort(1)
            turns = np.stack([half, UNITS - 1 - half], 1)[:, :, np.newaxis]
            along = turns < np.arange(1, UNITS)[:, np.newaxis]
            pairs = along.reshape(ORDERS // 2, -1, UNITS)

            def of_orders(pairs: Bools, damage: Floats = damage, whole: Floats = whole) -> Floats:
                own = pairs.reshape(-1, UNITS)
                values: Floats = shapley_of_orders(own, damage[place(own)][np.newaxis], whole)[0]
                return values

            found = [
                shapley_of_sets(members, lost[np.newaxis], whole, weights)[0],
                kernel_shap(members, lost, whole[0]),
                by_size(members, lost, whole[0]),
                of_orders(pairs),
            ]
            errors.append([((some - values) ** 2).mean() for some in found])
            drawn = generator.integers(SETS, size=(RESAMPLES, SETS))
            resampled = [
                [
                    shapley_of_sets(members[own], lost[np.newaxis, own], whole, weights[own])[0]
                    for own in drawn
                ],
                [
                    of_orders(pairs[own])
                    for own in generator.integers(len(pairs), size=(RESAMPLES, len(pairs) - 1))
                ],
            ]
            ends = np.quantile(resampled, (0.025, 0.975), axis=1)
            inside = (ends[0] - 1e-9 <= values) & (values <= ends[1] + 1e-9)
            within.append(inside.mean(1))
        cells = [f"{error:.4f}" for error in np.sqrt(np.mean(errors, 0))]
        cells += [f"{part:.2f}" for part in np.mean(within, 0)]
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
