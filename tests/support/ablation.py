"""Knock-outs of a model by hand, one block after the other, and reports compared with them."""

from __future__ import annotations

import random
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import pack_padded_sequence
from torch.utils.data import DataLoader, IterableDataset

from lightning_relay import (
    HiddenStateRecorder,
    HiddenStates,
    KnockoutCallback,
    KnockoutReport,
    RelayInformationCallback,
    RelayReport,
    knocked_out,
)
from lightning_relay.ablation.damage import paired_accuracy
from tests.support.hooks import hook_count
from tests.support.models import CLASSES, STEPS, Classifier, Stacked, loader
from tests.support.training import INPUTS, LABELS, quiet_trainer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from lightning.pytorch import Callback, LightningModule, Trainer

    from lightning_relay.ablation.damage import Damage

UNITS = 6


def lively(kind: type[Classifier], seed: int = 1) -> Classifier:
    """A model in which every unit matters to the classes of some sequences."""
    torch.manual_seed(seed)
    model = kind()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=1.2)
        model.head.bias -= model.eval()(INPUTS).mean(0)  # or one class would be given to all
    return model.train()


class Ragged(Stacked):
    """Packed sequences of all lengths."""

    def forward(self, x: Tensor) -> Tensor:
        lengths = 1 + torch.arange(len(x) + 3).flip(0)[: len(x)] % STEPS
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        _, (final, _) = self.rnn(packed)
        scores: Tensor = self.head(torch.cat([final[-2], final[-1]], dim=1))
        return scores


def batches(*sizes: int) -> list[tuple[Tensor, Tensor]]:
    """The sequences in batches of 16, or of these sizes."""
    parts = list(sizes) or [16, 16, 16]
    used = sum(parts)
    return list(zip(INPUTS[:used].split(parts), LABELS[:used].split(parts), strict=True))


def as_loader(data: Any) -> DataLoader[Any]:
    return DataLoader(data, batch_size=None)


def validated(
    model: LightningModule, *callbacks: Callback, data: Any = None, **options: Any
) -> Trainer:
    trainer = quiet_trainer(*callbacks, **options)
    trainer.validate(model, as_loader(batches()) if data is None else data, verbose=False)
    return trainer


def relay_of(model: LightningModule, **options: Any) -> RelayReport:
    callback = RelayInformationCallback(**options)
    validated(model, callback)
    return callback.reports[0]


def by_hand(
    model: Classifier, data: Any, units: Mapping[str, Sequence[int]] | None, **options: Any
) -> Tensor:
    """Class scores ``(sample, class)``."""
    model.eval()
    scores = []
    block: Any = nullcontext() if units is None else knocked_out(model, units, **options)
    with torch.no_grad(), block:
        for x, _ in data:
            scores.append(model(x))
    return torch.cat(scores)


def recorded(model: Classifier, data: Any) -> dict[str, HiddenStates]:
    """States of some batches."""
    parts = []
    for x, _ in data:
        with HiddenStateRecorder(model, layers="all", states=("hidden", "cell")) as recorder:
            by_hand(model, [(x, None)], None)
        parts.append(recorder.states)
    return {key: HiddenStates.concatenate([part[key] for part in parts]) for key in parts[0]}


def assert_damage(found: Damage, right: np.ndarray) -> None:
    """Damage to the share of right samples, given as bool ``(set + 1, sample)``."""
    before = right[0]
    expected = paired_accuracy(
        int(before.sum()),
        [int((before & ~own).sum()) for own in right[1:]],
        [int((own & ~before).sum()) for own in right[1:]],
        right.shape[1],
    )
    assert float(found.baseline) == pytest.approx(before.mean(), abs=1e-12)
    np.testing.assert_allclose(found.knocked_out, right[1:].mean(1), atol=1e-12)
    np.testing.assert_allclose(found.damage, before.mean() - right[1:].mean(1), atol=1e-12)
    np.testing.assert_allclose(found.lower, expected.lower, atol=1e-12)
    np.testing.assert_allclose(found.upper, expected.upper, atol=1e-12)


def assert_report(
    report: KnockoutReport,
    model: Classifier,
    data: Any,
    concepts: Mapping[str, Callable[[int], Any]] | None = None,
    **options: Any,
) -> np.ndarray:
    """All counts of a report against runs by hand; gives the predicted classes."""
    labels = np.concatenate([y.numpy() for _, y in data])
    classes = np.stack(
        [
            by_hand(model, data, units, **(options if units is not None else {})).argmax(1).numpy()
            for units in (
                None,
                *({k: list(v) for k, v in some.units.items()} for some in report.sets),
            )
        ]
    )
    changed = [(own != classes[0]).mean() for own in classes[1:]]
    np.testing.assert_allclose(report.predictions_changed, changed, atol=1e-12)
    assert max(changed) > 0
    assert report.accuracy is not None
    assert report.class_accuracy is not None
    assert report.concept_accuracy is not None
    assert_damage(report.accuracy, classes == labels)
    for label in range(CLASSES):
        own = labels == label
        assert report.class_samples[label] == own.sum()
        parts = {
            name: getattr(report.class_accuracy, name)[..., label]
            for name in ("baseline", "knocked_out", "damage", "lower", "upper")
        }
        if own.any():
            assert_damage(type(report.class_accuracy)(**parts), (classes == labels)[:, own])
        else:
            assert np.isnan(parts["damage"]).all()
        for other in range(CLASSES):
            counted = [int((row[own] == other).sum()) for row in classes]
            assert report.confusion[:, label, other].tolist() == counted
    concepts = concepts or {"joint": lambda label: label}
    assert report.concepts == tuple(concepts)
    for name, function in concepts.items():
        of_label = np.array([function(label) for label in labels.tolist()])
        of_class = np.array([[function(label) for label in row] for row in classes.tolist()])
        assert_damage(report.damage_of(name), of_label == of_class)
    return classes


class Stream(IterableDataset[Any]):
    """Batches whose number is not known, or said to be another."""

    def __init__(self, data: Sequence[Any]) -> None:
        self.data = data

    def __iter__(self) -> Any:
        return iter(self.data)


class Untrained(Classifier):
    """Must not come to training."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        raise AssertionError("training began")


def refused_before_training(
    callback: KnockoutCallback,
    message: str,
    *others: Callback,
    kind: type[Classifier] = Untrained,
    error: type[Exception] = ValueError,
    data: Any = None,
    **options: Any,
) -> None:
    model = kind()
    before = hook_count(model)
    streams = (random.getstate(), torch.get_rng_state())
    with pytest.raises(error, match=message):
        quiet_trainer(callback, *others, **options).fit(
            model, loader(), as_loader(batches()) if data is None else data
        )
    assert hook_count(model) == before
    assert all("forward" not in vars(module) for module in model.modules())
    assert random.getstate() == streams[0]
    assert callback.reports == []
    assert callback._pass is None
    assert callback._progress is None
