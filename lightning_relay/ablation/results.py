"""The report of a knock-out analysis, computed from the outcomes of its runs."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from lightning_relay.ablation.damage import (
    Damage,
    area_under_curve,
    paired_accuracy,
    rank_correlation,
    wilson_interval,
)
from lightning_relay.ablation.prediction import Answers, predictions
from lightning_relay.ablation.report import DeletionCurve, KnockoutReport, ScoreAgreement
from lightning_relay.ablation.selection import RandomOrders, RandomSets
from lightning_relay.information.options import RelayMeasure
from lightning_relay.reading.concepts import JOINT, Concepts, concept_codes
from lightning_relay.recurrent.layers import StateKey

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torchmetrics import Metric

    from lightning_relay.ablation.asked import Ablation, Logged
    from lightning_relay.ablation.report import DamagePrediction
    from lightning_relay.ablation.runs import Outcomes, Ran
    from lightning_relay.ablation.sets import Deletion
    from lightning_relay.relay.report import RelayReport

_DECIMALS = 9
"""Shares and scores are rounded to this many decimals, so that rounding errors are ties."""

_MOST_PAIRS = 2**31
"""Maximum number of counts in the confusions of a report, 16 GiB."""

_TAILS = (0.025, 0.975)
"""Quantiles of the resamples that are the ends of a 95 % interval."""


@dataclass(frozen=True, eq=False)
class _Labelled:
    """Labels ``(sample,)`` and predicted classes ``(set + 1, sample)``; entry 0: no knock-out."""

    labels: Tensor
    classes: Tensor
    num_classes: int


def knockout_report(
    ran: Ran,
    asked: Ablation,
    *,
    concepts: Concepts = JOINT,
    relay: RelayReport | None = None,
    measure: RelayMeasure | None = None,
) -> KnockoutReport:
    """Damage by every set, curves along orders, and how well ``relay`` predicts the damage.

    ``measure`` says how information is measured where there is no ``relay``.
    """
    sets, outcomes = ran.sets, ran.outcomes
    samples = sum(outcomes.sizes)
    found: dict[str, Damage] = {}
    generator = np.random.default_rng(asked.seed)
    if asked.logged is not None:
        found[asked.logged.tag] = _of_batches(outcomes, asked.logged, generator)
    labelled = _labelled(outcomes) if outcomes.labels else None
    if labelled is not None and asked.computed is not None:
        for name, metric in asked.computed.metrics().items():
            found[name] = _of_metric(name, metric, outcomes, asked.computed.n_bootstraps, generator)
    report = KnockoutReport(
        sets=sets.sets,
        accuracy=None,
        class_accuracy=None,
        concept_accuracy=None,
        classes=np.empty(0, np.int64),
        class_samples=np.empty(0, np.int64),
        concepts=(),
        confusion=np.empty((len(sets.sets) + 1, 0, 0), np.int64),
        predictions_changed=np.full(len(sets.sets), np.nan),
        metrics=found,
        value=asked.value_in_words(ran.reference),
        samples=samples,
        samples_seen=samples if ran.samples_seen is None else ran.samples_seen,
        batches=len(outcomes.sizes),
        batches_seen=len(outcomes.sizes) if ran.batches_seen is None else ran.batches_seen,
        sets_left_out=sets.left_out,
        x_in=outcomes.x_in,
        x_out=outcomes.x_out,
        relay_epoch=None if relay is None else relay.epoch,
        relay_step=None if relay is None else relay.global_step,
    )
    if labelled is None:
        return report
    report = _with_accuracies(report, labelled, concepts)
    return replace(
        report,
        curves=tuple(_curve(report, labelled, concepts, deletion) for deletion in sets.deletions),
        agreement=() if relay is None else tuple(_agreement(report, relay)),
        predictions=tuple(
            _predictions(
                ran,
                labelled,
                asked,
                concepts,
                (measure or RelayMeasure()) if relay is None else relay.measure,
            )
        ),
    )


def _predictions(
    ran: Ran, labelled: _Labelled, asked: Ablation, concepts: Concepts, measure: RelayMeasure
) -> list[DamagePrediction]:
    """What the relay information of random sets predicts."""
    if not isinstance(asked.which, RandomSets | RandomOrders):
        return []
    tables = _codes(labelled, concepts)
    answers = Answers(
        {name: codes[labelled.labels] for name, codes in tables.items()},
        {name: codes[labelled.classes[0]] for name, codes in tables.items()},
        {name: _concept_right(labelled, codes) for name, codes in tables.items()},
    )
    return predictions(
        ran.sets.sets,
        ran.at_steps,
        asked.which.measured_at,
        answers,
        measure,
        asked.which.n_bootstraps,
        asked.seed,
        in_orders=ran.sets.in_orders,
    )


def _labelled(outcomes: Outcomes) -> _Labelled:
    labels, classes = torch.cat(outcomes.labels), torch.cat(outcomes.classes, 1)
    number = outcomes.num_classes
    if number is None:
        lowest = int(min(labels.min(), classes.min()))
        if lowest < 0:
            raise ValueError(
                f"target: got labels or predicted classes from {lowest}; without class scores they "
                "take numbers from 0. Give target= and prediction=, functions that give these"
            )
        number = int(max(labels.max(), classes.max())) + 1
    if number**2 * len(classes) > _MOST_PAIRS:
        raise ValueError(
            f"target: got {number} classes; a report counts all {number} × {number} pairs of label "
            f"and prediction for {len(classes)} runs, and takes at most {_MOST_PAIRS} counts. "
            "Number the classes that occur from 0, with target= and prediction=, or take fewer sets"
        )
    return _Labelled(labels, classes, number)


def _with_accuracies(
    report: KnockoutReport, labelled: _Labelled, concepts: Concepts
) -> KnockoutReport:
    labels, classes, number = labelled.labels, labelled.classes, labelled.num_classes
    everything = torch.zeros_like(labels)
    pairs = labels * number + classes
    confusion = torch.stack([row.bincount(minlength=number**2) for row in pairs])
    right = classes == labels
    by_concept = {
        name: _damage(_concept_right(labelled, codes), everything, 1)
        for name, codes in _codes(labelled, concepts).items()
    }
    by_field = zip(*map(_arrays, by_concept.values()), strict=True)
    accuracy = _arrays(_damage(right, everything, 1))
    return replace(
        report,
        accuracy=Damage(*(np.asarray(part[..., 0]) for part in accuracy)),
        class_accuracy=_damage(right, labels, number),
        concept_accuracy=Damage(*(np.concatenate(parts, -1) for parts in by_field)),
        classes=np.arange(number),
        class_samples=labels.bincount(minlength=number).numpy(),
        concepts=tuple(by_concept),
        confusion=confusion.view(-1, number, number).numpy(),
        predictions_changed=(classes[1:] != classes[0]).double().mean(1).numpy(),
    )


def _codes(labelled: _Labelled, concepts: Concepts) -> dict[str, Tensor]:
    """Code of every class label by concept, ``(class,)``; -1 for labels that do not occur."""
    occurring = torch.cat([labelled.labels, labelled.classes.flatten()]).unique()
    found = concept_codes(concepts, occurring, occurring, num_classes=labelled.num_classes)
    tables = {}
    for name, (codes, _) in found.items():
        tables[name] = torch.full((labelled.num_classes,), -1).index_copy(0, occurring, codes)
    return tables


def _concept_right(labelled: _Labelled, codes: Tensor) -> Tensor:
    return codes[labelled.classes] == codes[labelled.labels]


def _damage(right: Tensor, parts: Tensor, number: int) -> Damage:
    """Damage to the accuracy of each part of the samples, ``(set, part)``.

    ``right``, bool ``(set + 1, sample)``; ``parts``, int64 ``(sample,)``, from 0 to ``number - 1``.
    """

    def counts(chosen: Tensor) -> NDArray[np.int64]:
        rows = [parts[row].bincount(minlength=number) for row in chosen]
        return torch.stack(rows).numpy() if rows else np.empty((0, number), np.int64)

    before, after = right[:1], right[1:]
    return paired_accuracy(
        counts(before)[0],
        counts(before & ~after),
        counts(after & ~before),
        parts.bincount(minlength=number).numpy(),
    )


def _arrays(damage: Damage) -> tuple[NDArray[np.float64], ...]:
    return damage.baseline, damage.knocked_out, damage.damage, damage.lower, damage.upper


def _curve(
    report: KnockoutReport, labelled: _Labelled, concepts: Concepts, deletion: Deletion
) -> DeletionCurve:
    """Accuracies along orders; of a concept that is not measured, those of the class labels."""
    codes = _codes(labelled, concepts)
    if deletion.concept in codes:
        right = _concept_right(labelled, codes[deletion.concept])
    else:
        right = labelled.classes == labelled.labels
    counts = right.sum(1).numpy()[deletion.places + 1]
    lower, upper = wilson_interval(counts, report.samples)
    accuracy = counts / report.samples
    return DeletionCurve(
        layer=deletion.layer,
        concept=deletion.concept,
        direction=deletion.direction,
        units=deletion.units,
        sizes=deletion.sizes,
        accuracy=accuracy,
        lower=lower,
        upper=upper,
        area=area_under_curve(deletion.sizes, accuracy),
    )


def _agreement(report: KnockoutReport, relay: RelayReport) -> list[ScoreAgreement]:
    """Compare what units relay with their damage: at the step, or mean after the inputs' end."""
    found = []
    for layer in report.layers:
        places = report.single_units(layer)
        if not places or layer not in relay.layers:
            continue
        steps = relay.layers[layer]
        weights = steps.samples * steps.inputs_ended
        held = report.sets[next(iter(places.values()))].steps
        if held is not None and StateKey.parse(layer).module in relay.calls:
            continue  # they are held at these steps of every call
        if held is not None and len(held) == 1 and held[0] in (-1, *steps.time_steps):
            weights = np.eye(len(steps.time_steps))[steps.place(held[0])]
        for concept in report.concepts:
            if concept not in steps.concepts or not weights.any():
                continue
            own = steps[concept]
            values, kind = own.share, "relay share, bits"
            if values is None:
                values, kind = own.scores, "unit score"
            scores = np.average(values, axis=0, weights=weights)[list(places)].round(_DECIMALS)
            damage = report.damage_of(concept).damage[list(places.values())]
            correlation = rank_correlation(scores, damage)
            found.append(ScoreAgreement(layer, concept, scores, damage, *correlation, kind=kind))
    return found


def _of_batches(outcomes: Outcomes, logged: Logged, generator: np.random.Generator) -> Damage:
    """Damage to a number logged for every batch, whose mean is weighted by batch sizes."""
    values = torch.stack(outcomes.values, -1).numpy()
    sizes = np.asarray(outcomes.sizes, np.float64)
    batches, resamples = len(sizes), logged.n_bootstraps
    drawn = generator.multinomial(batches, np.full(batches, 1 / batches), size=resamples)
    resampled = (values @ (sizes * drawn).T) / (drawn @ sizes)
    return _with_interval(
        values @ sizes / sizes.sum(),
        resampled if batches > 1 and resamples else None,
        logged.mode == "max",
    )


def _of_metric(
    name: str,
    metric: Metric,
    outcomes: Outcomes,
    n_bootstraps: int,
    generator: np.random.Generator,
) -> Damage:
    """Damage to a metric of class scores, or of predicted classes where there are no scores."""
    predicted = torch.cat(outcomes.scores or outcomes.classes, 1)
    labels = torch.cat(outcomes.labels)
    whole = np.array([_computed(name, metric, part, labels) for part in predicted])
    drawn = torch.from_numpy(generator.integers(len(labels), size=(n_bootstraps, len(labels))))
    resampled = np.array(
        [[_computed(name, metric, part[own], labels[own]) for own in drawn] for part in predicted]
    )
    return _with_interval(whole, resampled if n_bootstraps else None, bool(metric.higher_is_better))


def _computed(name: str, metric: Metric, predicted: Tensor, labels: Tensor) -> float:
    metric.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a resample may lack classes
        try:
            metric.update(predicted, labels)
            value: Any = metric.compute()
        except Exception as error:
            kind = "class scores" if predicted.is_floating_point() else "predicted classes"
            raise ValueError(
                f"score: {name!r} cannot be computed from {kind} {tuple(predicted.shape)} and "
                f"labels {tuple(labels.shape)}; give a metric that takes these: {error}"
            ) from error
    metric.reset()
    if not isinstance(value, Tensor) or value.numel() != 1:
        shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(
            f"score: {name!r} returned {shape}; it takes a metric that returns one number, such as "
            "one with average='macro'"
        )
    return float(value)


def _with_interval(
    values: NDArray[np.float64], resampled: NDArray[np.float64] | None, higher_is_better: bool
) -> Damage:
    """Damage from values ``(set + 1,)``, intervals from resamples ``(set + 1, resample)``."""
    sign = 1 if higher_is_better else -1
    damage = sign * (values[0] - values[1:])
    lower = upper = np.full_like(damage, np.nan)
    if resampled is not None:
        lower, upper = np.quantile(sign * (resampled[0] - resampled[1:]), _TAILS, axis=1)
    return Damage(np.asarray(values[0]), values[1:], damage, lower, upper)
