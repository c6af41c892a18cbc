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
from lightning_relay.ablation.design_effect import design_effect
from lightning_relay.ablation.labelled import Labelled
from lightning_relay.ablation.prediction import Answers, predictions
from lightning_relay.ablation.report import DeletionCurve, KnockoutReport, ScoreAgreement
from lightning_relay.ablation.selection import RandomOrders, RandomSets
from lightning_relay.information.options import RelayMeasure
from lightning_relay.reading.answers import has_label
from lightning_relay.recurrent.keys import StateKey

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torchmetrics import Metric

    from lightning_relay.ablation.asked import Ablation, Logged
    from lightning_relay.ablation.report import DamagePrediction
    from lightning_relay.ablation.runs import Outcomes, Ran
    from lightning_relay.ablation.sets import Deletion
    from lightning_relay.reading.concepts import Concepts
    from lightning_relay.relay.report import RelayReport

_DECIMALS = 9
"""Shares and scores are rounded to this many decimals, so that rounding errors are ties."""

_TAILS = (0.025, 0.975)
"""Quantiles of the resamples that are the ends of a 95 % interval."""


def knockout_report(
    ran: Ran,
    asked: Ablation,
    *,
    concepts: Concepts | None = None,
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
    edges = None if relay is None else relay.edges
    labelled = Labelled.of(outcomes, asked.bins, edges) if outcomes.labels else None
    if labelled is not None and asked.computed is not None:
        answers = _ForMetrics.of(outcomes)
        for name, metric in asked.computed.metrics().items():
            found[name] = _of_metric(name, metric, answers, asked.computed.n_bootstraps, generator)
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
        curves=tuple(_curve(labelled, concepts, deletion) for deletion in sets.deletions),
        agreement=() if relay is None else tuple(_agreement(report, relay, labelled, concepts)),
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
    ran: Ran,
    labelled: Labelled,
    asked: Ablation,
    concepts: Concepts | None,
    measure: RelayMeasure,
) -> list[DamagePrediction]:
    """What the relay information of random sets predicts."""
    if not isinstance(asked.which, RandomSets | RandomOrders):
        return []
    return predictions(
        ran.sets.sets,
        ran.at_steps,
        asked.which.measured_at,
        lambda layer, step: _answers(labelled, concepts, step, ran.lengths[layer]),
        measure,
        asked.which.n_bootstraps,
        asked.seed,
        in_orders=ran.sets.in_orders,
    )


def _answers(labelled: Labelled, concepts: Concepts | None, step: int, lengths: Tensor) -> Answers:
    """What every sequence was and was answered at a step, where it has a label."""
    own = labelled.at_step(step, lengths)
    counted = torch.zeros(own.shape[0], dtype=torch.bool).index_fill(0, own.sequences, True)
    tables = own.concept_codes(concepts)

    def of_all(values: Tensor) -> Tensor:
        full = torch.zeros((*values.shape[:-1], len(counted)), dtype=values.dtype)
        return full.index_copy(-1, own.sequences, values)

    return Answers(
        {name: of_all(codes[own.labels]) for name, codes in tables.items()},
        {name: of_all(codes[own.classes[0]]) for name, codes in tables.items()},
        {name: of_all(own.right(codes)) for name, codes in tables.items()},
        counted,
    )


def _with_accuracies(
    report: KnockoutReport, labelled: Labelled, concepts: Concepts | None
) -> KnockoutReport:
    right = labelled.right()
    by_concept = {
        name: _damage(labelled, labelled.right(codes))
        for name, codes in labelled.concept_codes(concepts).items()
    }
    by_field = zip(*map(_arrays, by_concept.values()), strict=True)
    accuracy = _arrays(_damage(labelled, right))
    report = replace(
        report,
        accuracy=Damage(*(np.asarray(part[..., 0]) for part in accuracy)),
        concept_accuracy=Damage(*(np.concatenate(parts, -1) for parts in by_field)),
        concepts=tuple(by_concept),
        predictions_changed=np.array(
            [float((own != labelled.classes[0]).double().mean()) for own in labelled.classes[1:]]
        ),
        ignored=labelled.ignored,
        edges=labelled.edges,
    )
    if labelled.steps is not None:
        steps = int(labelled.steps.max()) + 1
        report = replace(
            report,
            step_accuracy=_damage(labelled, right, labelled.steps, steps),
            step_samples=labelled.steps.bincount(minlength=steps).numpy(),
        )
    if labelled.num_labels is not None:
        return report
    labels, number = labelled.labels, len(labelled.values)
    confusion = np.empty((len(labelled.classes), number, number), np.int64)
    for row, own in zip(confusion, labelled.classes, strict=True):
        pairs = (labels * number + own).bincount(minlength=number**2)
        row[:] = pairs.view(number, number).numpy()
    return replace(
        report,
        class_accuracy=_damage(labelled, right, labels, number),
        classes=labelled.values.numpy(),
        class_samples=labels.bincount(minlength=number).numpy(),
        confusion=confusion,
    )


def _damage(
    labelled: Labelled, right: Tensor, parts: Tensor | None = None, number: int = 1
) -> Damage:
    """Damage to the accuracy of each part of the samples, ``(set, part)``.

    ``right``, bool ``(set + 1, sample)``; ``parts``, int64 ``(sample,)``, from 0 to ``number - 1``;
    default: all are one part.
    """
    parts = torch.zeros_like(labelled.labels) if parts is None else parts

    def counts(chosen: Tensor) -> NDArray[np.int64]:
        rows = [parts[row].bincount(minlength=number) for row in chosen]
        return torch.stack(rows).numpy() if rows else np.empty((0, number), np.int64)

    before, after = right[:1], right[1:]
    return paired_accuracy(
        counts(before)[0],
        counts(before & ~after),
        counts(after & ~before),
        parts.bincount(minlength=number).numpy(),
        design_effect=_effect(labelled, before.char() - after.char(), parts, number),
    )


def _effect(labelled: Labelled, values: Tensor, parts: Tensor, number: int) -> NDArray[np.float64]:
    """Design effect of mean values ``(run, sample)`` of each part, ``(run, part)``."""
    if labelled.steps is None:
        return np.ones((len(values), number))
    return design_effect(values.numpy(), labelled.sequences.numpy(), parts.numpy(), number)


def _arrays(damage: Damage) -> tuple[NDArray[np.float64], ...]:
    return damage.baseline, damage.knocked_out, damage.damage, damage.lower, damage.upper


def _curve(labelled: Labelled, concepts: Concepts | None, deletion: Deletion) -> DeletionCurve:
    """Accuracies along orders; of a concept that is not measured, those of the class labels."""
    right = labelled.right(labelled.concept_codes(concepts).get(deletion.concept))
    samples, runs = len(labelled.labels), deletion.places + 1
    counts = right.sum(1).numpy()[runs]
    effect = _effect(labelled, right, torch.zeros_like(labelled.labels), 1)[runs, 0]
    lower, upper = wilson_interval(counts / effect, samples / effect)
    accuracy = counts / samples
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


def _agreement(
    report: KnockoutReport, relay: RelayReport, labelled: Labelled, concepts: Concepts | None
) -> list[ScoreAgreement]:
    """Compare what units relay with their damage: at the step, or mean after the inputs' end.

    Units held at one step, where each step has a label, are compared by the labels of this step;
    not if it counts back from ends that are not known.
    """
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
        own_step = labelled
        if held is not None and len(held) == 1 and held[0] in (-1, *steps.time_steps):
            weights = np.eye(len(steps.time_steps))[steps.place(held[0])]
            own_step = labelled.at_same_step(held[0])
        if not len(own_step.labels):
            continue
        tables = labelled.concept_codes(concepts)
        for concept in report.concepts:
            if concept not in steps.concepts or not weights.any():
                continue
            own = steps[concept]
            values, kind = own.share, "relay share, bits"
            if values is None:
                values, kind = own.scores, "unit score"
            scores = np.average(values, axis=0, weights=weights)[list(places)].round(_DECIMALS)
            damage = report.damage_of(concept).damage
            if own_step is not labelled:
                damage = _damage(own_step, own_step.right(tables[concept])).damage[:, 0]
            damage = damage[list(places.values())]
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


@dataclass(frozen=True, eq=False)
class _ForMetrics:
    """What metrics are given: counted labels ``(sample, …)`` and scores ``(set + 1, sample, …)``.

    ``sequences``: number of samples of each sequence, which follow each other; it may be 0.
    """

    predicted: Tensor
    labels: Tensor
    sequences: NDArray[np.int64]

    @classmethod
    def of(cls, outcomes: Outcomes) -> _ForMetrics:
        """Without the samples whose labels do not count."""
        counted = [has_label(labels) for labels in outcomes.labels]
        predicted, number = outcomes.scores or outcomes.classes, outcomes.num_labels
        answers = torch.cat([part[:, own] for part, own in zip(predicted, counted, strict=True)], 1)
        labels = torch.cat([part[own] for part, own in zip(outcomes.labels, counted, strict=True)])
        return cls(
            answers if outcomes.scores else _in_bits(answers, number),
            _in_bits(labels, number),
            torch.cat([own.reshape(len(own), -1).sum(1) for own in counted]).numpy(),
        )

    def drawn(self, generator: np.random.Generator) -> Tensor:
        """Places of the samples of as many sequences as there are, drawn with replacement."""
        sizes = self.sequences[self.sequences > 0]
        some = generator.integers(len(sizes), size=len(sizes))
        starts, own = (sizes.cumsum() - sizes)[some], sizes[some]
        within = np.arange(own.sum()) - np.repeat(own.cumsum() - own, own)
        return torch.from_numpy(np.repeat(starts, own) + within)


def _in_bits(labels: Tensor, num_labels: int | None) -> Tensor:
    """Several labels as 0 and 1, ``(…, label)``."""
    return labels if num_labels is None else labels.unsqueeze(-1) >> torch.arange(num_labels) & 1


def _of_metric(
    name: str,
    metric: Metric,
    answers: _ForMetrics,
    n_bootstraps: int,
    generator: np.random.Generator,
) -> Damage:
    """Damage to a metric of class scores, or of predicted classes where there are no scores."""
    predicted, labels = answers.predicted, answers.labels
    whole = np.array([_computed(name, metric, part, labels) for part in predicted])
    drawn = [answers.drawn(generator) for _ in range(n_bootstraps)]
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
