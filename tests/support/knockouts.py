"""Knock-out reports to test with, from counts drawn at random."""

from __future__ import annotations

from typing import Any

import numpy as np

from lightning_relay.ablation.damage import (
    Damage,
    area_under_curve,
    paired_accuracy,
    rank_correlation,
    wilson_interval,
)
from lightning_relay.ablation.report import (
    DamagePrediction,
    DeletionCurve,
    KnockoutReport,
    KnockoutSet,
    ScoreAgreement,
)

LAYER = "rnn.l0"
SAMPLES = 600


def single_units(units: int, steps: int = 0, layer: str = LAYER) -> list[KnockoutSet]:
    """Every unit alone; at every step alone where there are steps."""
    if not steps:
        return [KnockoutSet(f"{layer}: {j}", "each", {layer: (j,)}) for j in range(units)]
    return [
        KnockoutSet(f"{layer}: {j} @{t}", "each", {layer: (j,)}, (t,))
        for j in range(units)
        for t in range(steps)
    ]


def concept_sets(concepts: tuple[str, ...], units: int, draws: int = 3) -> list[KnockoutSet]:
    """The top relays of each concept, and as many units at random."""
    random = np.random.default_rng(1)
    size = min(2, units)
    sets = []
    for place, name in enumerate(concepts):
        top = (place % units, (place + 1) % units)[:size]
        sets.append(KnockoutSet(f"{name}: top {size}", "concept", {LAYER: top}, concept=name))
        for draw in range(draws):
            some = tuple(random.permutation(units)[:size].tolist())
            label = f"{name}: random {draw}"
            sets.append(KnockoutSet(label, "concept_random", {LAYER: some}, concept=name))
    return sets


def damage_by_chance(random: np.random.Generator, sets: int, *axes: int) -> Damage:
    """Damage of counts drawn at random; none in the first set, much in the second."""
    samples = np.full(axes, max(20, SAMPLES // max(axes, default=1)))
    right = random.binomial(samples, 0.85)
    share = random.beta(0.4, 2.0, (sets, *axes))
    share[:1], share[1:2] = 0.0, 0.8
    broken = random.binomial(right, share)
    mended = random.binomial(samples - right, 0.1 * (share > 0))
    return paired_accuracy(right, broken, mended, samples)


def curve(direction: str, concept: str, units: int, orders: int = 1) -> DeletionCurve:
    """A curve that falls early, late or in between."""
    random = np.random.default_rng(len(direction))
    sizes = np.unique(np.linspace(0, units, min(units, 12) + 1).round().astype(np.int64))
    bend = {"most_first": 3.0, "least_first": 0.3, "random_first": 1.0}[direction]
    share = 0.25 + 0.7 * (1 - sizes / units) ** bend
    shares = np.clip(share + random.normal(0, 0.02, (orders, 1)) * (sizes % units > 0), 0, 1)
    right = (shares * SAMPLES).round().astype(np.int64)
    accuracy = right / SAMPLES
    lower, upper = wilson_interval(right, np.array(SAMPLES))
    rows = np.stack([random.permutation(units) for _ in range(orders)])
    area = area_under_curve(sizes, accuracy)
    return DeletionCurve(LAYER, concept, direction, rows, sizes, accuracy, lower, upper, area)


def agreement(concept: str, scores: np.ndarray, damage: np.ndarray) -> ScoreAgreement:
    """How well these scores predict this damage."""
    found = rank_correlation(scores, damage)
    return ScoreAgreement(LAYER, concept, scores, damage, *found)


def prediction(
    sets: int = 30, units: int = 5, concept: str = "joint", step: int = -1
) -> DamagePrediction:
    """Sets of one to four units, whose damage follows what they relay."""
    random = np.random.default_rng(0)
    sizes = 1 + np.arange(sets) % (units - 1)
    bits = random.random(sets)
    return DamagePrediction(
        layer=LAYER,
        step=step,
        concept=concept,
        samples=500,
        places=np.arange(sets),
        sizes=sizes,
        information=bits,
        damage=0.3 * bits + 0.02 * sizes,
        r2_size=0.25,
        r2=0.875,
        partial_r2=0.75,
        within_size=0.9,
        specificity=np.nan,
        lower=np.array([0.125, 0.5, 0.5, 0.8, np.nan]),
        upper=np.array([0.375, 0.95, 0.9, 0.95, np.nan]),
        unit_damage=np.array([0.2, 0.1, 0.0, -0.01, 0.05]),
        unit_lower=np.array([0.1, 0.05, -0.1, -0.03, np.nan]),
        unit_upper=np.array([0.3, 0.15, 0.1, -0.005, np.nan]),
        unit_share=np.array([1.0, 0.5, 0.1, 0.0, 0.2]),
        share_correlation=0.9,
    )


def random_sets(sets: int = 30, units: int = 5) -> list[KnockoutSet]:
    """Sets that ``prediction`` is about."""
    chosen = [tuple(range(1 + place % (units - 1))) for place in range(sets)]
    return [
        KnockoutSet(f"{LAYER}: random {place}", "random", {LAYER: own}, (-1,))
        for place, own in enumerate(chosen)
    ]


def small_knockouts(
    sets: list[KnockoutSet] | None = None,
    *,
    units: int = 5,
    classes: int = 4,
    concepts: tuple[str, ...] = ("joint", "bit_0", "bit_1"),
    metrics: tuple[str, ...] = (),
    curves: bool = True,
    **fields: Any,
) -> KnockoutReport:
    """A report of these sets; by default every unit alone, then sets of concepts."""
    random = np.random.default_rng(0)
    if sets is None:
        sets = single_units(units) + concept_sets(concepts, units)
    number = len(sets)
    labels = {
        "accuracy": damage_by_chance(random, number),
        "class_accuracy": damage_by_chance(random, number, max(classes, 1)),
        "concept_accuracy": damage_by_chance(random, number, len(concepts)),
    }
    if not classes:
        labels = dict.fromkeys(labels, None)
        concepts = ()
    given = {
        "sets": tuple(sets),
        "classes": np.arange(classes),
        "class_samples": np.full(classes, SAMPLES // max(classes, 1)),
        "concepts": concepts,
        "confusion": random.integers(0, 40, (number + 1, classes, classes)),
        "predictions_changed": random.random(number),
        "metrics": {name: damage_by_chance(random, number) for name in metrics},
        "value": "zero",
        "samples": SAMPLES,
        "samples_seen": 2 * SAMPLES,
        "batches": 3,
        "batches_seen": 6,
    }
    if curves and classes:
        given["curves"] = (
            curve("most_first", concepts[0], units),
            curve("least_first", concepts[0], units),
            curve("random_first", concepts[0], units, 8),
        )
        scores = random.random(units)
        given["agreement"] = (agreement(concepts[0], scores, scores**2 + random.random(units) / 5),)
    return KnockoutReport(**labels | given | fields)
