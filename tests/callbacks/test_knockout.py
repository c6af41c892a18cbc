from __future__ import annotations

import dataclasses
import pickle
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from scipy.stats import spearmanr
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchmetrics import MetricCollection
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassConfusionMatrix,
    MulticlassF1Score,
)

from lightning_relay import (
    AlongOrder,
    Computed,
    EveryUnit,
    HiddenStates,
    KnockoutCallback,
    KnockoutReport,
    Logged,
    Mean,
    MeanPerStep,
    NamedSets,
    RelayInformationCallback,
    RelayMeasure,
    RelayReport,
    Resample,
    TopUnits,
    knocked_out,
    register_recurrent,
)
from lightning_relay.ablation.damage import area_under_curve, wilson_interval
from tests.support.ablation import (
    UNITS,
    Ragged,
    Stream,
    Untrained,
    as_loader,
    assert_report,
    batches,
    by_hand,
    lively,
    recorded,
    refused_before_training,
    validated,
)
from tests.support.models import (
    CLASSES,
    STEPS,
    Classifier,
    InPieces,
    PlainRNN,
    Stepped,
    TwoModules,
    WithoutForward,
    loader,
)
from tests.support.reports import assert_equal
from tests.support.training import INPUTS, LABELS, batch_of, quiet_trainer

# By hand: the model itself, in one ``knocked_out`` block after the other


@pytest.mark.parametrize("kind", [Classifier, PlainRNN, Ragged, Stepped, InPieces, TwoModules])
def test_every_unit_alone(kind: type[Classifier]) -> None:
    model = lively(kind)
    callback = KnockoutCallback(EveryUnit(layers="all", states=("hidden", "cell")))
    validated(model, callback)
    (report,) = callback.reports
    units: dict[str, int] = {}
    for some in report.sets:
        ((layer, (unit,)),) = some.units.items()
        assert unit == units.get(layer, 0)
        units[layer] = unit + 1
        assert (some.name, some.group) == (f"{layer}: {unit}", "each")
        assert (some.steps, some.concept) == (None, None)
    expected = {
        Classifier: {"rnn.l0": 6},
        PlainRNN: {"rnn.l0": 6},
        Ragged: {
            f"rnn.l{layer}{way}{cell}": 3
            for layer in range(2)
            for way in ("", "_reverse")
            for cell in ("", ".cell")
        },
        Stepped: {"rnn.cell.l0": 6, "rnn.cell.l0.cell": 6},
        InPieces: {"rnn.l0": 6},
        TwoModules: {"rnn.l0": 6, "encoder.l0": 6},
    }[kind]
    assert units == expected
    assert_report(report, model, batches())
    assert (report.samples, report.samples_seen, report.batches, report.batches_seen) == (
        48,
        48,
        3,
        3,
    )
    assert (report.stage, report.epoch, report.global_step) == ("validate", 0, 0)
    assert (report.sets_left_out, report.curves, report.agreement) == (0, (), ())
    assert (report.value, report.x_in) == ("0", "batch[1]")
    assert report.x_out == "argmax of the model's own forward, 4 classes"


@pytest.mark.parametrize("steps", [2, [1, 4], slice(2, None), slice(-3, -1)], ids=str)
@pytest.mark.parametrize("kind", [Classifier, Ragged])
def test_windows(kind: type[Classifier], steps: Any) -> None:
    model = lively(kind)
    callback = KnockoutCallback(EveryUnit(steps=steps), concepts="per_class")
    validated(model, callback)
    (report,) = callback.reports
    positions = {2: (2,), str([1, 4]): (1, 4), str(slice(2, None)): (2, 3, 4, 5)}
    named = positions.get(steps if isinstance(steps, int) else str(steps), (-3, -2))
    assert {some.steps for some in report.sets} == {named}
    concepts = {f"class_{n}": lambda label, n=n: label == n for n in range(CLASSES)}
    assert_report(report, model, batches(), concepts, steps=steps)


def test_every_unit_at_every_step() -> None:
    model = lively(Classifier)
    callback = KnockoutCallback(EveryUnit(steps="each"))
    validated(model, callback)
    (report,) = callback.reports
    cells = report.single_steps("rnn.l0")
    assert sorted(cells) == [(unit, step) for unit in range(UNITS) for step in range(STEPS)]
    labels = LABELS.numpy()
    plain = by_hand(model, batches(), None).argmax(1).numpy()
    assert report.accuracy is not None
    for (unit, step), place in cells.items():
        own = by_hand(model, batches(), {"rnn.l0": [unit]}, steps=step).argmax(1).numpy()
        expected = (plain == labels).mean() - (own == labels).mean()
        assert report.accuracy.damage[place] == pytest.approx(expected, abs=1e-12)
    assert np.ptp(report.accuracy.damage) > 0


def test_steps_that_only_later_batches_have_are_counted() -> None:
    x, y = batches()[0]
    data = as_loader([(x[:, :4], y), (x, y), (x[:, :3], y)])
    callback = KnockoutCallback(EveryUnit(steps="each"))
    validated(lively(Classifier), callback, data=data)
    (report,) = callback.reports
    assert len(report.sets) == UNITS * 4
    assert report.sets_left_out == UNITS * 2


OF_STATES: dict[str, Any] = {"mean": Mean, "mean_per_step": MeanPerStep, "resample": Resample}


@pytest.mark.parametrize("value", [0.7, *OF_STATES])
@pytest.mark.parametrize("kind", [Classifier, Ragged])
def test_values(kind: type[Classifier], value: Any) -> None:
    model = lively(kind)
    states = ["cell" if kind is Ragged else "hidden"]
    held = value if value == 0.7 else OF_STATES[value](reference_samples=30)
    callback = KnockoutCallback(EveryUnit(states=states), value=held, seed=3)
    validated(model, callback)
    (report,) = callback.reports
    reference = None if value == 0.7 else recorded(model, batches()[:2])
    assert_report(report, model, batches(), value=value, states=reference, seed=3)
    expected = "0.7" if value == 0.7 else f"{value} of the states of the first 32 sequences"
    assert report.value == expected
    assert report.samples == 48


def test_the_states_of_lengths_that_are_named_are_valid() -> None:
    class Padded(Classifier):
        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
            x, lengths, _ = batch
            self.head(self.rnn(x)[0][torch.arange(len(x)), lengths - 1])

    model = lively(Padded)
    lengths = torch.arange(48) % STEPS + 1
    callback = KnockoutCallback(value=Mean(lengths=1), target=2)
    validated(model, callback, data=batch_of(INPUTS, lengths, LABELS))
    states = recorded(model, [(INPUTS, None)])
    of_lengths = {
        key: HiddenStates.of_lengths(part.values, lengths) for key, part in states.items()
    }
    (report,) = callback.reports
    found = []
    for units in (None, *({"rnn.l0": [unit]} for unit in range(UNITS))):
        block: Any = (
            nullcontext()
            if units is None
            else knocked_out(model, units, value="mean", states=of_lengths)
        )
        with torch.no_grad(), block:
            output = model.rnn(INPUTS)[0]
        found.append(model.head(output[torch.arange(48), lengths - 1]).argmax(1))
    expected = [float((own != found[0]).double().mean()) for own in found[1:]]
    np.testing.assert_allclose(report.predictions_changed, expected, atol=1e-12)


def test_sets_by_name() -> None:
    sets: dict[str, dict[str, Any]] = {
        "pair": {"rnn.l0": [3, 5]},
        "across": {"encoder.l0": [0, 1, 2], "rnn.l0": range(2)},
        "one": {"encoder.l0": 4},
    }
    model = lively(TwoModules)
    callback = KnockoutCallback(
        NamedSets(sets), concepts={"low": lambda label: label & 1}, value=-1
    )
    validated(model, callback)
    (report,) = callback.reports
    assert [(some.name, some.group, dict(some.units)) for some in report.sets] == [
        ("pair", "given", {"rnn.l0": (3, 5)}),
        ("across", "given", {"encoder.l0": (0, 1, 2), "rnn.l0": (0, 1)}),
        ("one", "given", {"encoder.l0": (4,)}),
    ]
    assert_report(report, model, batches(), {"low": lambda label: label & 1}, value=-1)


# Along relay orders


def relay_of(model: LightningModule, **options: Any) -> RelayReport:
    callback = RelayInformationCallback(**options)
    validated(model, callback)
    return callback.reports[0]


CONCEPTS: dict[str, Any] = {"low": lambda label: label & 1, "high": lambda label: label >> 1}


def test_units_one_after_the_other_along_the_order() -> None:
    model = lively(Classifier)
    relay = relay_of(model, concepts=CONCEPTS)
    callback = KnockoutCallback(
        AlongOrder(concepts=["high", "low"], n_random=3), relay=relay, concepts=CONCEPTS, seed=2
    )
    validated(model, callback)
    (report,) = callback.reports
    classes = assert_report(report, model, batches(), CONCEPTS)
    assert len({frozenset(some.units["rnn.l0"]) for some in report.sets}) == len(report.sets)
    assert [(c.layer, c.concept, c.direction) for c in report.curves] == [
        ("rnn.l0", concept, direction)
        for concept in ("high", "low")
        for direction in ("most_first", "least_first", "random_first")
    ]
    labels = LABELS.numpy()
    known = {
        frozenset(some.units["rnn.l0"]): row
        for some, row in zip(report.sets, classes[1:], strict=True)
    } | {frozenset(): classes[0]}
    for curve in report.curves:
        order = relay.layers["rnn.l0"].concepts[curve.concept].units[-1]
        if curve.direction == "random_first":
            assert curve.units.shape == (3, UNITS)
            assert all(sorted(row) == list(range(UNITS)) for row in curve.units.tolist())
        else:
            ends = {"most_first": order[::-1], "least_first": order}
            assert curve.units.tolist() == [ends[curve.direction].tolist()]
        assert curve.sizes.tolist() == list(range(UNITS + 1))
        function = CONCEPTS[curve.concept]
        for row, accuracy in zip(curve.units, curve.accuracy, strict=True):
            for size, value in zip(curve.sizes, accuracy, strict=True):
                own = known[frozenset(row[:size].tolist())]
                right = [function(a) == function(b) for a, b in zip(own, labels, strict=True)]
                assert value == pytest.approx(np.mean(right), abs=1e-12)
        lower, upper = wilson_interval((curve.accuracy * 48).round(), 48)
        np.testing.assert_allclose(curve.lower, lower, atol=1e-12)
        np.testing.assert_allclose(curve.upper, upper, atol=1e-12)
        expected = [area_under_curve(curve.sizes, row) for row in curve.accuracy]
        np.testing.assert_allclose(curve.area, expected, atol=1e-12)
    assert report.sets[0].concept == "high"


def test_the_units_that_relay_most_of_each_concept() -> None:
    model = lively(Classifier)
    relay = relay_of(model, concepts=CONCEPTS)
    callback = KnockoutCallback(TopUnits(2, n_random=4), relay=relay, concepts=CONCEPTS, seed=1)
    trainer = validated(model, callback)
    (report,) = callback.reports
    classes = assert_report(report, model, batches(), CONCEPTS)
    for concept in CONCEPTS:
        own = [some for some in report.sets if some.concept == concept]
        assert [some.group for some in own] == ["concept", *["concept_random"] * 4]
        order = relay.layers["rnn.l0"].concepts[concept].units[-1]
        assert own[0].units == {"rnn.l0": tuple(order[::-1][:2].tolist())}
        assert {len(some.units["rnn.l0"]) for some in own} == {2}
        right = np.array(
            [
                [
                    CONCEPTS[concept](a) == CONCEPTS[concept](b)
                    for a, b in zip(row, LABELS.tolist(), strict=True)
                ]
                for row in classes.tolist()
            ]
        )
        damage = right[0].mean() - right[1:].mean(1)
        place = report.sets.index(own[0])
        logged = trainer.callback_metrics
        assert logged[f"knockout/rnn.l0/{concept}/top_damage"] == pytest.approx(
            damage[place], abs=1e-6
        )
        mean = damage[place + 1 : place + 5].mean()
        assert logged[f"knockout/rnn.l0/{concept}/random_damage"] == pytest.approx(mean, abs=1e-6)


@pytest.mark.parametrize("first", [True, False])
def test_orders_are_those_of_the_newest_relay_report_before_the_evaluation(first: bool) -> None:
    relay = RelayInformationCallback()
    greedy = KnockoutCallback(AlongOrder(n_random=1), prefix="greedy")
    each = KnockoutCallback(prefix="each")
    callbacks = [relay, greedy, each] if first else [greedy, each, relay]
    quiet_trainer(*callbacks, max_epochs=3).fit(Classifier(), loader(), loader())
    assert [(r.epoch, r.relay_epoch, r.relay_step) for r in greedy.reports] == [
        (1, 0, 3),
        (2, 1, 6),
    ]
    for report in greedy.reports:
        assert report.relay_epoch is not None
        order = relay.reports[report.relay_epoch].layers["rnn.l0"].concepts["joint"].units[-1]
        assert report.curves[1].units.tolist() == [order.tolist()]
    # Unit scores and damage are compared in the same evaluation where that is possible.
    expected = [0, 1, 2] if first else [None, 0, 1]
    assert [report.relay_epoch for report in each.reports] == expected


def test_scores_and_damage_agree_as_far_as_scipy_finds() -> None:
    model = lively(Classifier)
    relay = RelayInformationCallback(concepts=CONCEPTS, inputs_end=3)
    callback = KnockoutCallback()
    validated(model, relay, callback)
    (report,) = callback.reports
    steps = relay.reports[0].layers["rnn.l0"]
    last = steps.inputs_ended
    assert report.concepts == ("low", "high")  # those of the relay callback
    assert [found.concept for found in report.agreement] == ["low", "high"]
    for found in report.agreement:
        scores = steps.concepts[found.concept].scores[last].mean(0)  # as many samples at each step
        np.testing.assert_allclose(found.scores, scores, atol=1e-12)
        damage = report.damage_of(found.concept).damage
        np.testing.assert_allclose(found.damage, damage, atol=1e-12)
        if np.ptp(scores) == 0:
            assert np.isnan([found.correlation, found.lower, found.upper]).all()
            continue
        expected = spearmanr(scores, damage).statistic
        assert abs(expected) > 0.1
        assert found.correlation == pytest.approx(expected, abs=1e-12)
        assert found.lower <= found.correlation <= found.upper
    assert np.isfinite([found.correlation for found in report.agreement]).tolist() == [True, False]


def test_damage_in_a_window_is_not_compared_with_scores() -> None:
    relay, callback = RelayInformationCallback(), KnockoutCallback(EveryUnit(steps=[1]))
    validated(lively(Classifier), relay, callback)
    assert callback.reports[0].agreement == ()


# What is measured


class Measuring(Classifier):
    """Logs what can be measured, and returns the loss."""

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        x, y = batch
        scores = self(x)
        loss = self.loss(scores, y)
        self.log_dict({"val_loss": loss, "share": (scores.argmax(1) == y).float().mean()})
        return {"loss": loss, "scores": scores}


@pytest.mark.parametrize("name", ["val_loss", "loss"])
def test_a_number_that_the_step_gives(name: str) -> None:
    model = lively(Measuring)
    data = batches(16, 16, 10)
    callback = KnockoutCallback(score=Logged(name, n_bootstraps=200))
    trainer = validated(model, callback, data=as_loader(data))
    (report,) = callback.reports
    sets = [None, *({"rnn.l0": [unit]} for unit in range(UNITS))]
    labels = torch.cat([y for _, y in data])
    expected = np.array(
        [float(nn.functional.cross_entropy(by_hand(model, data, some), labels)) for some in sets]
    )
    found = report.metrics[name]
    assert float(found.baseline) == pytest.approx(expected[0], rel=1e-5)
    np.testing.assert_allclose(found.knocked_out, expected[1:], rtol=1e-5)
    np.testing.assert_allclose(found.damage, expected[1:] - expected[0], rtol=1e-4)
    assert (found.lower <= found.damage).all()
    assert (found.damage <= found.upper).all()
    assert (found.lower < found.upper).any()
    assert float(trainer.callback_metrics["val_loss"]) == pytest.approx(expected[0], rel=1e-5)
    assert trainer.callback_metrics[f"knockout/{name}"] == pytest.approx(expected[0], rel=1e-5)
    # Without target= no labels are needed, and none are read.
    assert report.accuracy is report.class_accuracy is report.concept_accuracy is None
    assert report.confusion.shape == (UNITS + 1, 0, 0)
    assert np.isnan(report.predictions_changed).all()


def test_a_number_beside_accuracies_where_the_target_is_named() -> None:
    model = lively(Measuring)
    callback = KnockoutCallback(score=Logged("val_loss"), target=1)
    validated(model, callback)
    assert_report(callback.reports[0], model, batches())
    assert set(callback.reports[0].metrics) == {"val_loss"}


def test_a_model_without_classes() -> None:
    class Regressor(Classifier):
        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
            x, y = batch
            self.log("val_loss", (self(x)[:, 0] - y).square().mean())

    model = lively(Regressor)
    data = [(x, y.float()) for x, y in batches()]
    callback = KnockoutCallback(
        EveryUnit(steps=slice(1, 4)), value=Mean(), score=Logged("val_loss")
    )
    validated(model, callback, data=as_loader(data))
    states = recorded(model, data)
    expected = []
    for some in (None, *({"rnn.l0": [unit]} for unit in range(UNITS))):
        options = {} if some is None else {"value": "mean", "states": states, "steps": slice(1, 4)}
        expected.append(
            float((by_hand(model, data, some, **options)[:, 0] - LABELS).square().mean())
        )
    found = callback.reports[0].metrics["val_loss"]
    np.testing.assert_allclose(found.knocked_out, expected[1:], rtol=1e-5)
    np.testing.assert_allclose(found.damage, np.array(expected[1:]) - expected[0], rtol=1e-3)
    with pytest.raises(ValueError, match="target: no integer tensor of shape"):
        validated(model, KnockoutCallback(), data=as_loader(data))


def test_metrics_of_torchmetrics() -> None:
    model = lively(Classifier)
    metric = MetricCollection(
        {"f1": MulticlassF1Score(CLASSES), "micro": MulticlassAccuracy(CLASSES, average="micro")}
    )
    callback = KnockoutCallback(score=Computed(metric, n_bootstraps=60))
    validated(model, callback)
    (report,) = callback.reports
    assert_report(report, model, batches())
    assert list(report.metrics) == ["f1", "micro"]
    for name, part in metric.items():
        values = []
        for some in (None, *({"rnn.l0": [unit]} for unit in range(UNITS))):
            part.reset()
            part.update(by_hand(model, batches(), some), LABELS)
            values.append(float(part.compute()))
        part.reset()
        found = report.metrics[name]
        assert float(found.baseline) == pytest.approx(values[0], abs=1e-6)
        np.testing.assert_allclose(found.damage, values[0] - np.array(values[1:]), atol=1e-6)
        assert (found.lower <= found.damage + 1e-9).all()
        assert (found.damage <= found.upper + 1e-9).all()
    single = KnockoutCallback(score=Computed(MulticlassF1Score(CLASSES), n_bootstraps=0))
    validated(model, single)
    assert_equal(single.reports[0].metrics["MulticlassF1Score"].damage, report.metrics["f1"].damage)
    assert np.isnan(single.reports[0].metrics["MulticlassF1Score"].lower).all()


# What is run, and what is left out


def test_batches_and_sets_left_out_are_counted() -> None:
    model = lively(Classifier)
    callback = KnockoutCallback(EveryUnit(max_sets=4), max_batches=2, seed=5)
    trainer = validated(model, callback)
    (report,) = callback.reports
    assert (report.samples, report.samples_seen) == (32, 48)
    assert (report.batches, report.batches_seen) == (2, 3)
    assert (len(report.sets), report.sets_left_out) == (4, 2)
    assert_report(report, model, batches()[:2])
    assert trainer.callback_metrics["knockout/sets"] == 4
    assert trainer.callback_metrics["knockout/samples"] == 32
    chosen = []
    for seed in (5, 6):
        again = KnockoutCallback(EveryUnit(max_sets=4), max_batches=1, seed=seed)
        validated(model, again)
        chosen.append([some.name for some in again.reports[0].sets])
    assert chosen[0] == [some.name for some in report.sets] != chosen[1]


def test_samples_that_are_not_run_again_are_counted_where_time_comes_first() -> None:
    class TimeFirst(Classifier):
        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
            self.head(self.rnn(batch[0].transpose(0, 1))[0][:, -1])

    data = [(x.transpose(0, 1), y) for x, y in batches()]
    callback = KnockoutCallback(max_batches=1)
    validated(TimeFirst(), callback, data=as_loader(data))
    assert (callback.reports[0].samples, callback.reports[0].samples_seen) == (16, 48)


class Promising(Stream):
    """Says that there are more."""

    def __len__(self) -> int:
        return len(self.data) + 2


@pytest.mark.filterwarnings("ignore:Your `IterableDataset` has `__len__` defined")
def test_sets_of_unknown_or_wrong_length() -> None:
    model = lively(Classifier)
    unknown = KnockoutCallback(value=Mean())
    validated(model, unknown, data=as_loader(Stream(batches())))
    # The first batch must do for the states, as there may be no other.
    assert_report(
        unknown.reports[0], model, batches(), value="mean", states=recorded(model, batches()[:1])
    )
    fewer = KnockoutCallback(value=Mean())
    validated(model, fewer, data=as_loader(Promising(batches())))
    assert_report(
        fewer.reports[0], model, batches(), value="mean", states=recorded(model, batches())
    )


def test_dataloaders_are_apart(tmp_path: Path) -> None:
    model = lively(Classifier)
    parts = [batches(), batches(16, 4)]
    callback = KnockoutCallback(value=Mean())
    trainer = validated(
        model,
        callback,
        data=[as_loader(part) for part in parts],
        logger=TensorBoardLogger(tmp_path),
    )
    assert [(r.dataloader, r.samples) for r in callback.reports] == [(0, 48), (1, 20)]
    for report, part in zip(callback.reports, parts, strict=True):
        assert_report(report, model, part, value="mean", states=recorded(model, part))
    assert trainer.callback_metrics["knockout/samples/dataloader_0"] == 48
    assert trainer.callback_metrics["knockout/samples/dataloader_1"] == 20
    assert len(list(Path(str(trainer.log_dir), "knockout_reports").iterdir())) == 2


def test_the_test_stage_and_chosen_epochs() -> None:
    model = lively(Classifier)
    callback = KnockoutCallback(every_n_epochs=2)
    testing = KnockoutCallback(stages=["test"], prefix="only")
    trainer = quiet_trainer(callback, testing, max_epochs=4)
    trainer.fit(model, loader(), loader())
    trainer.test(model, as_loader(batches()), verbose=False)
    assert [(r.stage, r.epoch) for r in callback.reports] == [
        ("validate", 1),
        ("validate", 3),
        ("test", 4),
    ]
    assert [r.stage for r in testing.reports] == ["test"]
    assert_report(callback.reports[-1], model, batches())
    assert {"knockout_test/accuracy", "only_test/accuracy"} <= set(trainer.callback_metrics)


@pytest.mark.parametrize("source", ["head", lambda outputs: outputs["scores"].argmax(1)])
def test_where_the_scores_come_from_can_be_named(source: Any) -> None:
    class Naming(Measuring):
        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
            outputs = super().validation_step((batch["x"], batch["label"]), batch_idx)
            self.head(torch.zeros(len(batch["x"]), UNITS)) if not isinstance(source, str) else None
            return outputs

    model = lively(Naming)
    data = [{"x": x, "label": y, "other": y + 1} for x, y in batches()]
    callback = KnockoutCallback(target="label", prediction=source)
    validated(model, callback, data=as_loader(data))
    assert_report(callback.reports[0], model, batches())
    assert callback.reports[0].x_in == "target='label'"


def test_a_step_that_takes_its_batch_apart_is_run_again() -> None:
    class Popping(Classifier):
        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
            y = batch.pop("y")
            self.log("val_loss", self.loss(self(batch.pop("x")), y), batch_size=len(y))

    model = lively(Popping)
    callback = KnockoutCallback()
    data = [{"x": x, "y": y} for x, y in zip(INPUTS, LABELS, strict=True)]
    validated(model, callback, data=DataLoader(data, 16))
    assert_report(callback.reports[0], model, batches())


# What is logged and kept


def test_scalars_pictures_table_and_report_of_each_epoch(tmp_path: Path) -> None:
    relay = RelayInformationCallback(stages=["validate"])
    callback = KnockoutCallback()
    trainer = quiet_trainer(relay, callback, logger=TensorBoardLogger(tmp_path), max_epochs=2)
    trainer.fit(Classifier(), loader(), loader())
    events = EventAccumulator(str(trainer.log_dir), size_guidance={"images": 0, "tensors": 0})
    events.Reload()
    tags = events.Tags()
    assert {
        "knockout/accuracy",
        "knockout/samples",
        "knockout/sets",
        "knockout/rnn.l0/largest_damage",
        "knockout/rnn.l0/mean_damage",
    } <= set(tags["scalars"])
    assert [event.value for event in events.Scalars("knockout/sets")] == [UNITS] * 2
    assert [event.step for event in events.Images("knockout/damage")] == [3, 6]
    assert "knockout/sets/text_summary" in tags["tensors"]
    damage = [report.accuracy.damage for report in callback.reports if report.accuracy is not None]
    largest = [event.value for event in events.Scalars("knockout/rnn.l0/largest_damage")]
    np.testing.assert_allclose(largest, [own.max() for own in damage], atol=1e-6)
    mean = [event.value for event in events.Scalars("knockout/rnn.l0/mean_damage")]
    np.testing.assert_allclose(mean, [own.mean() for own in damage], atol=1e-6)
    saved = sorted(Path(str(trainer.log_dir), "knockout_reports").iterdir())
    assert [path.name for path in saved] == [
        "knockout-validate-epoch=0-step=3.npz",
        "knockout-validate-epoch=1-step=6.npz",
    ]
    for path, report in zip(saved, callback.reports, strict=True):
        assert_equal(KnockoutReport.load(path), report)


def test_scalars_can_be_monitored(tmp_path: Path) -> None:
    stopping = EarlyStopping("knockout/accuracy", mode="min", patience=1)
    callback = KnockoutCallback()
    trainer = quiet_trainer(
        callback, stopping, max_epochs=20, logger=CSVLogger(tmp_path), log_every_n_steps=1
    )
    trainer.fit(Classifier(), loader(), loader())
    assert 2 <= len(callback.reports) < 20


def test_without_a_logger_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    validated(Classifier(), KnockoutCallback())
    options = {"fast_dev_run": True}
    quiet_trainer(KnockoutCallback(dirpath="here"), **options).fit(Classifier(), loader(), loader())
    assert list(tmp_path.iterdir()) == []
    validated(Classifier(), KnockoutCallback(dirpath="here"))
    validated(Classifier(), KnockoutCallback(dirpath="here"))
    assert sorted(path.name for path in Path("here").iterdir()) == [
        "knockout-validate-epoch=0-step=0-v1.npz",
        "knockout-validate-epoch=0-step=0.npz",
    ]


def test_the_newest_report_is_the_state() -> None:
    callback = KnockoutCallback()
    assert callback.state_dict() == {}
    quiet_trainer(callback).fit(Classifier(), loader(), loader())
    again = KnockoutCallback()
    again.load_state_dict(callback.state_dict())
    assert len(again.reports) == 1
    assert_equal(again.reports[0], callback.reports[-1])
    again.load_state_dict(callback.state_dict())  # those there are stay
    assert len(again.reports) == 1
    assert KnockoutCallback(AlongOrder()).state_key != callback.state_key
    assert KnockoutCallback(value=0.5).state_key != callback.state_key
    assert KnockoutCallback().state_key == callback.state_key
    of_states = [KnockoutCallback(value=Mean(lengths=lambda batch: batch[1])) for _ in range(2)]
    assert of_states[0].state_key == of_states[1].state_key  # in another process, too
    twin = pickle.loads(pickle.dumps(callback))
    assert_equal(twin.reports[-1], callback.reports[-1])


def test_a_report_can_be_given_as_a_file(tmp_path: Path) -> None:
    model = lively(Classifier)
    relay = relay_of(model)
    relay.save(tmp_path / "relay.npz")
    reports = []
    for given in (relay, tmp_path / "relay.npz", str(tmp_path / "relay.npz")):
        callback = KnockoutCallback(AlongOrder(n_random=1), relay=given)
        validated(model, callback)
        reports.append(callback.reports[0])
    assert_equal(reports[0], reports[1])
    assert_equal(reports[0], reports[2])
    with pytest.raises(ValueError, match=r"relay: there is no file '.*nothing\.npz'; it takes a s"):
        KnockoutCallback(AlongOrder(), relay=tmp_path / "nothing.npz")
    callback.reports[0].save(tmp_path / "knockout.npz")
    with pytest.raises(
        ValueError, match=r"but a knock-out report; load it with KnockoutReport\.lo"
    ):
        KnockoutCallback(AlongOrder(), relay=tmp_path / "knockout.npz")


# The sanity check


def test_the_sanity_check_leaves_no_trace() -> None:
    class Alone(Callback):
        def on_sanity_check_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            assert callback.reports == []
            assert not any(name.startswith("knockout") for name in trainer.callback_metrics)
            runs.append(Counting.runs)

    class Counting(Classifier):
        runs = 0

        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
            Counting.runs += 1
            return super().validation_step(batch, batch_idx, dataloader_idx)

    runs: list[int] = []
    callback = KnockoutCallback()
    quiet_trainer(callback, Alone(), max_epochs=1).fit(Counting(), loader(), loader())
    # Two batches by Lightning; one of them again without, twice, and with two sets at most.
    assert runs[0] <= 2 + 2 + 2 * 2
    assert len(callback.reports) == 1


def test_layers_and_units_that_do_not_exist() -> None:
    refused_before_training(
        KnockoutCallback(NamedSets({"a": {"rnn.l0": [0]}, "b": {"rnn.l1": [0]}})),
        r"units: no layer 'rnn.l1' in Untrained; it has: 'rnn.l0'",
    )
    refused_before_training(
        KnockoutCallback(NamedSets({"a": {"rnn.l0": [0, 6]}})),
        r"units: got 6 for 'rnn.l0'; it takes unit indices from 0 to 5",
    )
    refused_before_training(
        KnockoutCallback(NamedSets({"a": {"rnn.l0": [1, 1]}})),
        r"units: got \[1, 1\] .*name each unit once",
    )
    refused_before_training(
        KnockoutCallback(EveryUnit(modules=["lstm"])),
        r"modules: no recurrent module 'lstm' in Untrained; it has: 'rnn'",
    )
    refused_before_training(
        KnockoutCallback(prediction="tail"), r"prediction: no submodule 'tail' in Untrained"
    )
    refused_before_training(KnockoutCallback(target=5), r"target: the batch has no 5; it ha")


def test_named_sets_are_checked_where_there_is_no_sanity_check() -> None:
    refused_before_training(
        KnockoutCallback(NamedSets({"a": {"rnn.l0": [9]}})),
        "units: got 9 for",
        num_sanity_val_steps=0,
    )
    refused_before_training(
        KnockoutCallback(AlongOrder(concepts=["bit"]), relay=relay_of(Classifier())),
        r"concepts: no concept 'bit' in the relay report; it has: 'joint'",
        num_sanity_val_steps=0,
    )


class OwnForward(nn.GRU):
    """Does something of its own."""

    def forward(self, *args: Any) -> Any:
        return super().forward(*args)


def test_modules_that_cannot_be_knocked_out() -> None:
    class Own(Untrained):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = OwnForward(1, 6, batch_first=True)

    refused_before_training(
        KnockoutCallback(),
        r"units: 'rnn' \(OwnForward\) has a forward of its own",
        kind=Own,
        num_sanity_val_steps=0,
    )

    class Leaky(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mix = nn.Linear(1, 6)

        def forward(self, x: Tensor) -> Any:
            return self.mix(x).cumsum(1), None

    register_recurrent(Leaky, hidden=lambda module, args, output: output[0], units=lambda _: 6)

    class Adapted(Untrained):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = Leaky()

    refused_before_training(
        KnockoutCallback(),
        r"units: 'rnn' \(Leaky\) has an adapter, which tells how its states are read but not",
        kind=Adapted,
        num_sanity_val_steps=0,
    )


def test_steps_outside_of_the_sequences() -> None:
    refused_before_training(
        KnockoutCallback(EveryUnit(steps=6)),
        r"steps: got 6, but the longest sequence has 6 steps; it takes positions from 0 to 5, or -1"
        r".*sanity check; if later ones are longer, check them all with .*num_sanity_val_steps=-1",
    )
    with pytest.raises(ValueError, match="steps: got 6, but the longest sequence has 6") as raised:
        validated(Classifier(), KnockoutCallback(EveryUnit(steps=6)))
    assert "sanity" not in str(raised.value)


@pytest.mark.parametrize("kind", [Classifier, Stepped])
def test_steps_that_only_some_batches_have(kind: type[Classifier]) -> None:
    x, y = batches()[0]
    model = lively(kind)
    data = [(x[:, :3], y), (x, y)]
    callback = KnockoutCallback(EveryUnit(steps=4))
    validated(model, callback, data=as_loader(data))
    plain, own = (
        torch.cat([by_hand(model, data[:1], None), by_hand(model, data[1:], some, **options)])
        for some, options in (
            (None, {}),
            ({callback.reports[0].layers[0]: [0]}, {"steps": 4}),
        )
    )
    changed = (plain.argmax(1) != own.argmax(1)).double().mean()
    assert callback.reports[0].predictions_changed[0] == pytest.approx(float(changed), abs=1e-12)


def test_steps_of_modules_that_are_not_knocked_out_do_not_matter() -> None:
    class Decoded(Classifier):
        def __init__(self) -> None:
            super().__init__()
            self.decoder = nn.GRU(6, 6, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            output, _ = self.rnn(x)
            scores: Tensor = self.head(self.decoder(output[:, -2:])[0][:, -1])
            return scores

    model = lively(Decoded)
    callback = KnockoutCallback(EveryUnit(modules=["rnn"], steps=4))
    validated(model, callback)
    assert_report(callback.reports[0], model, batches(), steps=4)
    with pytest.raises(ValueError, match="steps: got 4, but the longest sequence has 2 steps"):
        validated(model, KnockoutCallback(EveryUnit(steps=4)))


def test_a_module_that_the_step_does_not_call_is_refused() -> None:
    class Spare(Untrained):
        def __init__(self) -> None:
            super().__init__()
            self.spare = nn.GRU(1, 4)

    refused_before_training(
        KnockoutCallback(),
        r"modules: 'spare' was not called in the step, so nothing was knocked out; select th",
        kind=Spare,
    )
    callback = KnockoutCallback(EveryUnit(modules=["rnn"]))
    validated(Spare(), callback)
    assert callback.reports[0].layers == ("rnn.l0",)


def test_orders_without_a_relay_report() -> None:
    for which in (AlongOrder(), TopUnits()):
        with pytest.raises(
            ValueError,
            match=f"which: {type(which).__name__} follows the orders of a relay report, and there "
            "is none; add a RelayInformationCallback to the Trainer, or name a report with relay=",
        ):
            validated(Classifier(), KnockoutCallback(which))
    relay, callback = RelayInformationCallback(), KnockoutCallback(TopUnits())
    trainer = quiet_trainer(relay, callback)
    model = Classifier()
    with pytest.raises(
        ValueError, match=r"there is none yet: .* Run trainer.validate twice, or na"
    ):
        trainer.validate(model, loader(), verbose=False)
    relay.reports.append(relay_of(model))
    trainer.validate(model, loader(), verbose=False)
    assert len(callback.reports) == 1


def test_a_fit_waits_for_the_first_relay_report(caplog: pytest.LogCaptureFixture) -> None:
    relay = RelayInformationCallback(every_n_epochs=2)
    callback = KnockoutCallback(AlongOrder(n_random=1))
    with caplog.at_level("INFO"):
        quiet_trainer(relay, callback, max_epochs=4).fit(Classifier(), loader(), loader())
    assert [report.epoch for report in callback.reports] == [2, 3]
    said = [text for text in caplog.messages if text.startswith("Knock-outs")]
    assert said == [
        "Knock-outs: AlongOrder follows relay orders, and there is no relay report yet; they begin "
        "with the first evaluation after one."
    ]


def test_a_relay_report_that_does_not_fit() -> None:
    relay = relay_of(Classifier())
    several = relay_of(Classifier(), concepts=CONCEPTS)

    class Wide(Untrained):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = nn.GRU(1, 7, batch_first=True)
            self.head = nn.Linear(7, CLASSES)

    for which in (EveryUnit(), AlongOrder(), TopUnits()):
        refused_before_training(
            KnockoutCallback(which, relay=relay),
            r"report: 'rnn.l0' has 6 units in the relay report, and 7 in the model; it takes",
            kind=Wide,
        )
    refused_before_training(
        KnockoutCallback(AlongOrder(states=["cell"], layers="all"), relay=relay),
        r"report: the relay report has 'rnn.l0', and none of the layers to knock out, 'rnn.l0.cel",
        kind=type("Cells", (WithoutForward, Untrained), {}),
    )
    refused_before_training(
        KnockoutCallback(TopUnits(7), relay=relay),
        r"top: got 7, but 'rnn.l0' has 6 units",
    )
    refused_before_training(
        KnockoutCallback(AlongOrder(), relay=several),
        r"concepts: got 'joint', and the relay report has the order of 'low'; give the callb",
    )
    refused_before_training(
        KnockoutCallback(TopUnits(), relay=several, concepts={"low": CONCEPTS["low"]}),
        r"concepts: got \['low'\], and the relay report has the order of 'high'",
    )


def test_too_few_sets() -> None:
    relay = relay_of(Classifier())
    refused_before_training(
        KnockoutCallback(TopUnits(max_sets=1), relay=relay),
        r"max_sets: got 1, fewer than the 2 sets of 1 concepts and layers with one random set each",
    )


def test_training_mode_in_validation() -> None:
    class Careless(Untrained):
        def on_validation_model_eval(self) -> None:
            super().on_validation_model_eval()
            self.rnn.train()

    refused_before_training(
        KnockoutCallback(),
        r"model: 'rnn' \(GRU\) is in training mode; knock-outs take a model in evaluation mode",
        kind=Careless,
        error=RuntimeError,
    )


def test_steps_that_are_not_repeatable() -> None:
    class Stateful(Untrained):
        def __init__(self) -> None:
            super().__init__()
            self.seen = 0

        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
            self.seen += 1
            self(batch[0] + self.seen)

    refused_before_training(
        KnockoutCallback(),
        r"pl_module: the validation_step gave other (predicted classes|class scores) when it was",
        kind=Stateful,
    )


class Carrying(Classifier):
    """Goes on from the state of the batch before, but for the first."""

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        if batch_idx == 0:
            self.state = None
        output, state = self.rnn(batch[0], self.state)
        self.state = state.detach()
        self.log("val_loss", self.loss(self.head(output[:, -1]), batch[1]))


@pytest.mark.parametrize("score", [None, Logged("val_loss")])
def test_a_state_that_later_batches_start_from_is_noticed(score: Logged | None) -> None:
    words = "numbers to log as 'val_loss'" if score else "(predicted classes|class scores)"
    callback = KnockoutCallback(score=score, prediction=None if score else "head")
    with pytest.raises(ValueError, match=f"pl_module: the validation_step gave other {words}"):
        validated(lively(Carrying), callback)


def test_numbers_that_are_not_there() -> None:
    refused_before_training(
        KnockoutCallback(score=Logged("val_los")),
        r"score: validation_step logs no number 'val_los'; it logs 'val_loss'",
    )
    refused_before_training(
        KnockoutCallback(score=Logged("loss")),
        r"score: validation_step returns no loss; it logs 'val_loss': name one of these",
    )
    refused_before_training(
        KnockoutCallback(score=MulticlassF1Score(CLASSES, average="none")),
        r"score: 'MulticlassF1Score' gave \(4,\); it takes a metric that gives one number",
    )


class LogsMetrics(Classifier):
    """Logs a Metric, as most do."""

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        super().validation_step(batch, batch_idx, dataloader_idx)
        self.log("f1", self.accuracy)


def test_errors_about_metrics_say_what_to_do() -> None:
    refused_before_training(
        KnockoutCallback(score=Logged("f1")),
        r"score: validation_step logs a Metric as 'f1', .*; give a Metric of its kind itself",
        kind=LogsMetrics,
    )
    refused_before_training(
        KnockoutCallback(score=Logged("val_loss_epoch")),
        r"logs no number 'val_loss_epoch'; it logs 'val_loss'; its own name for it is 'val_loss'",
    )
    refused_before_training(
        KnockoutCallback(score=MulticlassAccuracy(CLASSES + 3)),
        r"score: 'MulticlassAccuracy' cannot be computed of class scores \(\d+, 4\) and labels",
    )


def test_models_without_classes_are_told_of_numbers_that_are_logged() -> None:
    class Forecast(Classifier):
        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
            self.log("val_loss", self(batch[0]).square().mean())

    data = as_loader([(x, x[:, -1]) for x, _ in batches()])
    with pytest.raises(ValueError, match=r"target: no integer .* without classes give score= the"):
        validated(lively(Forecast), KnockoutCallback(), data=data)


def test_nothing_to_evaluate() -> None:
    empty = batch_of(INPUTS[:0], LABELS[:0])
    with pytest.warns(UserWarning, match="is zero"):
        refused_before_training(
            KnockoutCallback(), "dataloader: the validation set is empty", data=empty
        )
    with pytest.raises(ValueError, match="dataloader: the test set is empty"):
        quiet_trainer(KnockoutCallback()).test(Classifier(), as_loader(Stream([])), verbose=False)
    with pytest.raises(ValueError, match=r"dataloader: there is no validation set or .* stages="):
        quiet_trainer(KnockoutCallback()).fit(Classifier(), loader())


def test_two_callbacks_take_prefixes_of_their_own() -> None:
    message = "prefix: two callbacks log under 'same'; give one of them another prefix"
    for other in (
        KnockoutCallback(value=1, prefix="same"),
        RelayInformationCallback(prefix="same"),
    ):
        refused_before_training(KnockoutCallback(prefix="same"), message, other)
    model = lively(Classifier)
    callbacks = [KnockoutCallback(), KnockoutCallback(value=0.5, prefix="half")]
    trainer = validated(model, *callbacks)
    for callback, value in zip(callbacks, (0, 0.5), strict=True):
        assert_report(callback.reports[0], model, batches(), value=value)
    assert {"knockout/accuracy", "half/accuracy"} <= set(trainer.callback_metrics)


def test_other_modules_and_processes_are_refused() -> None:
    with pytest.raises(TypeError, match=r"pl_module: got Linear; it takes a lightning.pytorch.Li"):
        KnockoutCallback().setup(quiet_trainer(), nn.Linear(1, 1), "fit")

    class FakeTrainer:
        world_size = 2

    with pytest.raises(
        ValueError, match=r"trainer: got 2 processes; the knock-out analysis takes o"
    ):
        KnockoutCallback().setup(FakeTrainer(), Classifier(), "fit")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"which": "each"}, TypeError, r"which: got 'each'; it takes EveryUnit\(\), AlongOrder"),
        ({"value": "mean"}, ValueError, r"value: got 'mean'; it takes a finite number, Mean\(\)"),
        ({"value": True}, ValueError, "value: got True"),
        ({"value": float("nan")}, ValueError, "value: got nan"),
        ({"value": None}, ValueError, "value: got None"),
        ({"score": "val_loss"}, TypeError, "score: got 'val_loss'; it takes a torchmetrics.Metr"),
        (
            {"score": MulticlassConfusionMatrix(3)},
            ValueError,
            "score: MulticlassConfusionMatrix does not say whether higher is better",
        ),
        ({"concepts": "bits"}, ValueError, "concepts: got 'bits'; it takes 'joint', 'per_class'"),
        ({"concepts": {"a": 1}}, TypeError, "concepts: got 'a': 1"),
        ({"max_batches": 0}, ValueError, "max_batches: got 0; it takes at least 1"),
        ({"seed": 0.5}, TypeError, "seed: got 0.5; it takes an integer"),
        ({"every_n_epochs": 0}, ValueError, "every_n_epochs: got 0; it takes at least 1"),
        (
            {"stages": "test"},
            ValueError,
            "stages: got 'test'; it takes a list of 'validate', 'test'",
        ),
        ({"prefix": ""}, ValueError, "prefix: got ''"),
    ],
)
def test_arguments_are_checked_in_the_constructor(
    arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        KnockoutCallback(**arguments)


@pytest.mark.parametrize(
    ("kind", "arguments", "error", "message"),
    [
        (NamedSets, {"units": {}}, TypeError, r"units: got {}; it takes sets by name"),
        (NamedSets, {"units": {"rnn.l0": [1, 2]}}, TypeError, r"units: got 'rnn.l0': \[1, 2\]; it"),
        (NamedSets, {"units": [1]}, TypeError, r"units: got \[1\]"),
        (EveryUnit, {"modules": "rnn"}, TypeError, r"modules: got the string 'rnn'; it takes a li"),
        (EveryUnit, {"layers": "first"}, ValueError, "layers: got 'first'; it takes 'last'"),
        (EveryUnit, {"states": "cell"}, TypeError, "states: got the string 'cell'"),
        (EveryUnit, {"steps": "all"}, TypeError, "steps: got 'all'; it takes a slice"),
        (EveryUnit, {"steps": []}, ValueError, r"steps: got \[\], which names no step"),
        (EveryUnit, {"max_sets": 2.5}, ValueError, "max_sets: got 2.5; it takes at least 1"),
        (AlongOrder, {"steps": "each"}, TypeError, "steps: got 'each'; it takes a slice"),
        (
            AlongOrder,
            {"concepts": "bit"},
            TypeError,
            "concepts: got the string 'bit'; it takes a l",
        ),
        (AlongOrder, {"n_random": 0}, ValueError, "n_random: got 0; it takes at least 1"),
        (TopUnits, {"top": 0}, ValueError, "top: got 0; it takes at least 1"),
        (TopUnits, {"concepts": "bit"}, TypeError, "concepts: got the string 'bit'; it takes a li"),
        (Mean, {"reference_samples": 1}, ValueError, "reference_samples: got 1; it takes at least"),
        (Resample, {"reference_samples": None}, ValueError, "reference_samples: got None"),
        (Logged, {"name": "a", "mode": "best"}, ValueError, "mode: got 'best'; it takes 'min' or"),
        (
            Logged,
            {"name": "a", "n_bootstraps": -1},
            ValueError,
            "n_bootstraps: got -1; it takes at",
        ),
        (Computed, {"metric": 3}, TypeError, "score: got int; it takes a torchmetrics.Metric or M"),
        (
            Computed,
            {"metric": MulticlassF1Score(3), "n_bootstraps": 0.5},
            ValueError,
            "n_bootstraps: got 0.5; it takes at least 0",
        ),
    ],
)
def test_options_are_checked_where_they_are_made(
    kind: Any, arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        kind(**arguments)


@pytest.mark.parametrize(("mode", "sign"), [("min", -1), ("max", 1)])
def test_a_logged_number_is_best_at_its_least_or_its_most(mode: Any, sign: int) -> None:
    callback = KnockoutCallback(score=Logged("val_loss", mode))
    validated(lively(Classifier), callback)
    found = callback.reports[0].metrics["val_loss"]
    np.testing.assert_allclose(found.damage, sign * (found.baseline - found.knocked_out))
    assert (found.damage != 0).any()


def test_the_relay_callback_to_follow_is_named_by_its_prefix() -> None:
    relays = [
        RelayInformationCallback(),
        RelayInformationCallback(prefix="grow", measure=RelayMeasure(direction="grow")),
    ]
    knockouts = [
        KnockoutCallback(TopUnits(2), relay=relay, prefix=f"knockout_{relay}")
        for relay in (None, "grow")
    ]
    trainer = quiet_trainer(*relays, *knockouts, max_epochs=2)
    trainer.fit(lively(Classifier), loader(), loader())
    tops = []
    for relay, knockout in zip(relays, knockouts, strict=True):
        order = relay.reports[-2].layers["rnn.l0"].concepts["joint"].units[-1]
        (report,) = knockout.reports
        tops.append(report.sets[0].units["rnn.l0"])
        assert tops[-1] == tuple(order[:-3:-1].tolist())
    assert tops[0] != tops[1]
    with pytest.raises(
        ValueError,
        match="relay: no RelayInformationCallback with the prefix 'gro' in the Trainer; it has: "
        "'relay', 'grow'",
    ):
        validated(lively(Classifier), *relays, KnockoutCallback(relay="gro"))


def in_reverse(report: RelayReport) -> RelayReport:
    """A report with every order turned round."""
    layer = report.layers["rnn.l0"]
    joint = layer.concepts["joint"]
    turned = dataclasses.replace(joint, units=joint.units[:, ::-1])
    layer = dataclasses.replace(layer, concepts={"joint": turned})
    return dataclasses.replace(report, layers={"rnn.l0": layer})


def test_every_dataloader_follows_the_orders_of_its_own() -> None:
    relay, knockout = RelayInformationCallback(), KnockoutCallback(TopUnits(5))
    model = lively(Classifier)
    data = [as_loader(batches()[:1]), as_loader(batches()[1:])]
    validated(model, relay, data=data)
    relay.reports[0] = in_reverse(relay.reports[0])
    validated(model, relay, knockout, data=data)
    for dataloader, report in enumerate(knockout.reports):
        own = relay.reports[dataloader]
        assert (own.dataloader, report.dataloader) == (dataloader, dataloader)
        order = own.layers["rnn.l0"].concepts["joint"].units[-1]
        assert report.sets[0].units["rnn.l0"] == tuple(order[:-6:-1].tolist())
    first, second = (report.sets[0].units["rnn.l0"] for report in knockout.reports)
    assert first != second


def test_cell_states_of_modules_without_are_refused() -> None:
    refused_before_training(
        KnockoutCallback(EveryUnit(states=["cell"])),
        r"states: got \['cell'\], and none of 'rnn\.l0' is of such states; it takes 'hidden', or",
    )


def test_metrics_of_classes_are_said_where_there_are_no_scores(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Answering(Classifier):
        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
            answers: Tensor = self(batch[0]).argmax(1)
            return answers

    callback = KnockoutCallback(
        score=MulticlassAccuracy(CLASSES, average="micro"), prediction=lambda answers: answers
    )
    with caplog.at_level("INFO"):
        validated(lively(Answering), callback)
    said = [text for text in caplog.messages if text.startswith("Knock-outs")]
    assert said == [
        "Knock-outs: MulticlassAccuracy of predicted classes, as prediction= gives no class scores."
    ]
    (report,) = callback.reports
    assert report.accuracy is not None
    np.testing.assert_allclose(
        report.metrics["MulticlassAccuracy"].damage, report.accuracy.damage, atol=1e-6
    )
