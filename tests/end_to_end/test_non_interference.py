"""Training with the callback is, bit for bit, training without it, whatever the model."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
import torch._dynamo
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from torchmetrics import Metric

from lightning_relay import (
    AlongOrder,
    EveryUnit,
    KnockoutCallback,
    Logged,
    Mean,
    MeanPerStep,
    RelayInformationCallback,
    RelayMeasure,
    Resample,
    SequenceSample,
    TopUnits,
)
from tests.support.models import (
    Classifier,
    CompiledInPlace,
    CompiledLoop,
    CompiledRNN,
    InPieces,
    PlainRNN,
    Projected,
    Stacked,
    Stepped,
    TwoModules,
    WithoutForward,
    loader,
)
from tests.support.reports import assert_equal
from tests.support.training import quiet_trainer

MODELS: list[tuple[type[Classifier], dict[str, Any]]] = [
    (Classifier, {}),
    (PlainRNN, {}),
    (WithoutForward, {}),
    (Stacked, {}),
    (Projected, {}),
    (Stepped, {}),
    (InPieces, {}),
    (TwoModules, {}),
    (CompiledLoop, {}),
    (CompiledRNN, {}),
    (CompiledInPlace, {}),
    (Stacked, {"precision": "bf16-mixed"}),
    (Stepped, {"precision": "bf16-true"}),
    (Stacked, {"precision": "64-true"}),
]


class Diary(Callback):
    """All that a user could see of the training, after every epoch."""

    def __init__(self) -> None:
        self.pages: list[dict[str, Any]] = []
        self.validated: dict[str, Any] = {}

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.validated = metrics_of(pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.pages.append(
            {
                "weights": {k: v.clone() for k, v in pl_module.state_dict().items()},
                "optimizer": trainer.optimizers[0].state_dict(),
                "metrics": {
                    name: value.clone()
                    for name, value in trainer.callback_metrics.items()
                    if not name.startswith(("relay", "knockout"))
                },
                "validated": self.validated,
                "torchmetrics": metrics_of(pl_module),
                "training": [module.training for module in pl_module.modules()],
                "python": random.getstate(),
                "numpy": np.random.get_state(legacy=False)["state"],  # noqa: NPY002 - the stream users have
                "torch": torch.get_rng_state(),
            }
        )


def metrics_of(model: LightningModule) -> dict[str, Any]:
    """States of all metrics of a model."""
    return {
        f"{name}.{state}": value.clone()
        for name, module in model.named_modules()
        if isinstance(module, Metric)
        for state, value in module.metric_state.items()
    }


def trained(
    kind: type[Classifier], options: dict[str, Any], *callbacks: Callback
) -> list[dict[str, Any]]:
    torch.compiler.reset()
    seed_everything(7, verbose=False)
    diary = Diary()
    trainer = quiet_trainer(*callbacks, diary, max_epochs=3, **options)
    with torch._dynamo.config.patch(skip_nnmodule_hook_guards=False):
        trainer.fit(kind(), loader(shuffle=True), loader(32))
    return diary.pages


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@pytest.mark.parametrize(
    ("kind", "options"),
    [pytest.param(*case, id=" ".join([case[0].__name__, *case[1].values()])) for case in MODELS],
)
def test_training_is_bit_identical(kind: type[Classifier], options: dict[str, Any]) -> None:
    callback = RelayInformationCallback(
        layers="all",
        states=("hidden", "cell"),
        concepts="per_class",
        sample=SequenceSample(max_samples=20),
    )
    with_callback = trained(kind, options, callback)
    without = trained(kind, options)
    assert len(callback.reports) == 3
    assert "val_loss" in without[0]["metrics"]
    torch.testing.assert_close(with_callback, without, rtol=0, atol=0, equal_nan=True)


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@pytest.mark.parametrize(
    ("kind", "options"),
    [pytest.param(*case, id=" ".join([case[0].__name__, *case[1].values()])) for case in MODELS],
)
def test_training_with_knock_outs_is_bit_identical(
    kind: type[Classifier], options: dict[str, Any]
) -> None:
    callback = KnockoutCallback(EveryUnit(layers="all", states=("hidden", "cell"), max_sets=8))
    with_callback = trained(kind, options, callback)
    without = trained(kind, options)
    assert len(callback.reports) == 3
    assert callback.reports[-1].samples == 32
    torch.testing.assert_close(with_callback, without, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("kind", [Classifier, Stacked, Stepped, CompiledLoop])
def test_several_callbacks_of_both_kinds_leave_training_bit_identical(
    kind: type[Classifier], first: bool
) -> None:
    relay = RelayInformationCallback(concepts="per_class")
    knockouts = [
        KnockoutCallback(AlongOrder(n_random=2, max_sets=20), value=0.3, prefix="knockout_greedy"),
        KnockoutCallback(TopUnits(2, n_random=1), value=Mean(), prefix="knockout_concept"),
        KnockoutCallback(
            EveryUnit(steps=[0]), score=Logged("val_loss"), prefix="knockout_each", target=1
        ),
    ]
    callbacks = [relay, *knockouts] if first else [*knockouts, relay]
    with_callbacks = trained(kind, {}, *callbacks)
    without = trained(kind, {})
    assert [len(callback.reports) for callback in knockouts] == [2, 2, 3]
    torch.testing.assert_close(with_callbacks, without, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("steps", [None, slice(0, 1)], ids=str)
@pytest.mark.parametrize("value", [MeanPerStep(), Resample()], ids=["mean_per_step", "resample"])
@pytest.mark.parametrize("kind", [WithoutForward, TwoModules])
def test_values_made_of_states_leave_training_bit_identical(
    kind: type[Classifier], value: MeanPerStep | Resample, steps: slice | None
) -> None:
    callback = KnockoutCallback(EveryUnit(steps=steps), value=value)
    with_callback = trained(kind, {}, callback)
    without = trained(kind, {})
    assert len(callback.reports) == 3
    torch.testing.assert_close(with_callback, without, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize(
    ("compiled", "eager"),
    [(CompiledLoop, Stepped), (CompiledRNN, Classifier), (CompiledInPlace, Classifier)],
)
def test_knock_outs_of_a_compiled_model_are_those_in_eager_mode(
    compiled: type[Classifier], eager: type[Classifier]
) -> None:
    callbacks = [KnockoutCallback(), KnockoutCallback()]
    for kind, callback in zip((compiled, eager), callbacks, strict=True):
        trained(kind, {}, callback)
    for found, expected in zip(*(callback.reports for callback in callbacks), strict=True):
        assert_equal(found, expected)


def test_permutations_and_resamples_leave_training_bit_identical() -> None:
    callback = RelayInformationCallback(
        concepts="per_class",
        measure=RelayMeasure(n_permutations=19, n_bootstraps=40, estimator="grassberger"),
    )
    with_callback = trained(Classifier, {}, callback)
    without = trained(Classifier, {})
    for report in callback.reports:
        relay = report.layers["rnn.l0"].concepts["class_0"]
        assert relay.chance_level is not None
        assert relay.rank_stability is not None
    assert len(callback.reports) == 3
    torch.testing.assert_close(with_callback, without, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize(
    ("compiled", "eager"),
    [(CompiledLoop, Stepped), (CompiledRNN, Classifier), (CompiledInPlace, Classifier)],
)
def test_a_compiled_model_is_reported_as_in_eager_mode(
    compiled: type[Classifier], eager: type[Classifier]
) -> None:
    callbacks = [RelayInformationCallback(), RelayInformationCallback()]
    for kind, callback in zip((compiled, eager), callbacks, strict=True):
        trained(kind, {}, callback)
    for found, expected in zip(*(callback.reports for callback in callbacks), strict=True):
        assert found.layers.keys() == expected.layers.keys()
        assert_equal(found.layers, expected.layers)
