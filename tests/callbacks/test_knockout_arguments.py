"""Arguments that KnockoutCallback refuses, alone or with the model it is given."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchmetrics.classification import MulticlassConfusionMatrix, MulticlassF1Score

from lightning_relay import (
    AlongOrder,
    Computed,
    EveryUnit,
    KnockoutCallback,
    Logged,
    Mean,
    NamedSets,
    RandomOrders,
    RandomSets,
    Resample,
    TopUnits,
    register_recurrent,
)
from tests.support.ablation import Untrained, refused_before_training, relay_of, validated
from tests.support.models import Classifier
from tests.support.own_forwards import ChangesInput, PassesOn, subclass
from tests.support.training import quiet_trainer


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


def test_modules_that_cannot_be_knocked_out() -> None:
    class Own(Untrained):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = subclass(PassesOn, nn.GRUCell)(1, 6)

    refused_before_training(
        KnockoutCallback(),
        r"units: 'rnn' \(PassesOn\) has a forward of its own, and what happens in it is not known.*"
        r" Select others, such as with EveryUnit\(modules=…\)$",
        kind=Own,
        num_sanity_val_steps=0,
    )

    class Changed(Untrained):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = subclass(ChangesInput, nn.GRU)(1, 6, batch_first=True)

    refused_before_training(
        KnockoutCallback(),
        r"units: 'rnn' \(ChangesInput\) has a forward of its own, whose output is up to .* away .*"
        "subclasses whose forward gives the same",
        kind=Changed,
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


@pytest.mark.parametrize(
    ("first", "message"),
    [
        (
            10**6,
            "target: got 1000004 classes; a report counts all 1000004 × 1000004 pairs of label",
        ),
        (-5, "target: got labels or predicted classes from -5; without class scores they take num"),
    ],
)
def test_classes_that_are_not_numbered_from_zero_are_refused(first: int, message: str) -> None:
    refused_before_training(
        KnockoutCallback(
            target=lambda batch: batch[1] + first,
            prediction=("head", lambda scores: scores.argmax(1)),
        ),
        message,
    )


def test_steps_outside_of_the_sequences() -> None:
    refused_before_training(
        KnockoutCallback(EveryUnit(steps=6)),
        r"steps: got 6, but the longest sequence has 6 steps; it takes positions from 0 to 5, or -1"
        r".*sanity check sees the first batches; if later .* check all of them with .*val_steps=-1",
    )
    with pytest.raises(ValueError, match="steps: got 6, but the longest sequence has 6") as raised:
        validated(Classifier(), KnockoutCallback(EveryUnit(steps=6)))
    assert "sanity" not in str(raised.value)


@pytest.mark.parametrize("which", [RandomSets(), RandomOrders()])
def test_random_sets_of_modules_without_one_sequence_for_each_label_are_refused(which: Any) -> None:
    class Twice(Untrained):
        def forward(self, x: Tensor) -> Tensor:
            scores: Tensor = super().forward(x) + super().forward(x.flip(1))
            return scores

    class Doubled(Untrained):
        def forward(self, x: Tensor) -> Tensor:
            first, second = super().forward(torch.cat([x, x.flip(1)])).chunk(2)
            return first + second

    name = type(which).__name__
    refused_before_training(
        KnockoutCallback(which),
        rf"modules: 'rnn.l0' was given 2 batches of sequences in one step; {name} takes one, to",
        kind=Twice,
    )
    refused_before_training(
        KnockoutCallback(which),
        rf"target: got 16 labels for 32 sequences of 'rnn.l0'; {name} takes one class label for",
        kind=Doubled,
    )


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


def test_other_modules_and_processes_are_refused() -> None:
    with pytest.raises(TypeError, match=r"pl_module: got Linear; it takes a LightningModule"):
        KnockoutCallback().setup(quiet_trainer(), nn.Linear(1, 1), "fit")

    class FakeTrainer:
        world_size = 2
        strategy = None

    with pytest.raises(ValueError, match=r"trainer: got 2 processes with NoneType, which may give"):
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
        ({"every_n_epochs": 0}, ValueError, "every_n_epochs: got 0; it takes an integer from 1"),
        (
            {"stages": "test"},
            ValueError,
            "stages: got 'test'; it takes a list of 'validate', 'test'",
        ),
        ({"stages": 3}, ValueError, "stages: got 3; it takes a list of 'validate', 'test'"),
        ({"stages": [["test"]]}, ValueError, r"stages: got \[\['test'\]\]; it takes a list of"),
        ({"prefix": ""}, ValueError, "prefix: got ''"),
        ({"prediction": 3}, TypeError, "prediction: got 3; it takes the name of a submodule, a"),
        ({"relay": 3}, TypeError, "relay: got 3; it takes a RelayReport, the path of a saved"),
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


def test_cell_states_of_modules_without_are_refused() -> None:
    refused_before_training(
        KnockoutCallback(EveryUnit(states=["cell"])),
        r"states: got \['cell'\], and none of 'rnn\.l0' has such states; it takes 'hidden', or",
    )
