"""Training with the callback is, bit for bit, training without it, whatever the model."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch._dynamo

from lightning_relay import (
    AlongOrder,
    EveryUnit,
    KnockoutCallback,
    LatentMeasure,
    Logged,
    Mean,
    MeanPerStep,
    RandomSets,
    RelayInformationCallback,
    RelayMeasure,
    Resample,
    SequenceSample,
    TopUnits,
)
from tests.support.diary import MODELS, trained, trained_alone
from tests.support.models import (
    Classifier,
    CompiledInPlace,
    CompiledLoop,
    CompiledRNN,
    Decoder,
    Siamese,
    SiameseCell,
    Stacked,
    Stepped,
    TwoModules,
    WithoutForward,
)
from tests.support.reports import assert_equal


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
        latent=LatentMeasure(inputs="mean", n_starts=32, n_steps=64),
    )
    with_callback = trained(kind, options, callback)
    without = trained_alone(kind, **options)
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
    without = trained_alone(kind, **options)
    assert len(callback.reports) == 3
    assert callback.reports[-1].samples == 32
    torch.testing.assert_close(with_callback, without, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("calls", ["first", -1, "joined"])
@pytest.mark.parametrize("kind", [Siamese, SiameseCell, Decoder])
def test_chosen_calls_leave_training_bit_identical(kind: type[Classifier], calls: Any) -> None:
    relay = RelayInformationCallback(
        calls=calls,
        states=("hidden", "cell"),
        latent=LatentMeasure(inputs="mean", n_starts=32, n_steps=64),
    )
    with_callbacks = trained(kind, {}, relay, KnockoutCallback(EveryUnit(max_sets=4)))
    without = trained_alone(kind)
    assert len(relay.reports) == 3
    torch.testing.assert_close(with_callbacks, without, rtol=0, atol=0, equal_nan=True)


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
        KnockoutCallback(RandomSets(n=8, sizes=[1, 2], n_bootstraps=4), prefix="knockout_random"),
    ]
    callbacks = [relay, *knockouts] if first else [*knockouts, relay]
    with_callbacks = trained(kind, {}, *callbacks)
    without = trained_alone(kind)
    assert [len(callback.reports) for callback in knockouts] == [2, 2, 3, 3]
    torch.testing.assert_close(with_callbacks, without, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("steps", [None, slice(0, 1)], ids=str)
@pytest.mark.parametrize("value", [MeanPerStep(), Resample()], ids=["mean_per_step", "resample"])
@pytest.mark.parametrize("kind", [WithoutForward, TwoModules])
def test_values_made_of_states_leave_training_bit_identical(
    kind: type[Classifier], value: MeanPerStep | Resample, steps: slice | None
) -> None:
    callback = KnockoutCallback(EveryUnit(steps=steps), value=value)
    with_callback = trained(kind, {}, callback)
    without = trained_alone(kind)
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
    without = trained_alone(Classifier)
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
