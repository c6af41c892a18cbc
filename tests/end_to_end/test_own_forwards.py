"""Subclasses whose forward only passes on, and others, under both callbacks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_relay import (
    EveryUnit,
    KnockoutCallback,
    LatentMeasure,
    Logged,
    MeanPerStep,
    RelayInformationCallback,
)
from tests.support.ablation import as_loader, batches, validated
from tests.support.hooks import hook_count
from tests.support.models import Classifier, PassedTo, PassingOn
from tests.support.own_forwards import ChangesInput, PassesOn, subclass
from tests.support.reports import assert_equal


def both() -> list[PassingOn]:
    """A model with a forward that passes on, and one without, with the same weights."""
    models = [PassingOn(), PassedTo()]
    models[1].load_state_dict(models[0].state_dict())
    return models


def test_relay_reports_are_those_of_the_plain_class() -> None:
    reports = []
    for model in both():
        callback = RelayInformationCallback(
            layers="all",
            states=("hidden", "cell"),
            latent=LatentMeasure(inputs="mean", n_starts=16, n_steps=32),
        )
        validated(model, callback)
        assert hook_count(model) == 0
        reports.append(callback.reports[-1])
    own, plain = reports
    assert own.layers.keys() == plain.layers.keys()
    assert list(own.layers) == ["rnn.l0", "rnn.l0.cell", "rnn.l1", "rnn.l1.cell"]
    assert_equal(own.layers, plain.layers)
    assert not own.layers["rnn.l0"].latent.no_attractors


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"value": 0.4, "score": Logged("val_loss")},
        {"value": MeanPerStep()},
    ],
    ids=str,
)
def test_knock_out_reports_are_those_of_the_plain_class(options: dict[str, Any]) -> None:
    reports = []
    for model in both():
        callback = KnockoutCallback(
            EveryUnit(layers="all", states=("hidden", "cell"), max_sets=12), **options
        )
        validated(model, callback)
        assert all("forward" not in vars(module) for module in model.modules())
        reports.append(callback.reports[-1])
    assert_equal(*reports)
    assert len(reports[0].sets) == 12


class FromTheSecondCall(nn.GRU):
    calls = 0

    def forward(self, x: Tensor) -> Any:
        self.calls += 1
        return super().forward(x if self.calls == 1 else -x)


def with_rnn(rnn: Any) -> Classifier:
    model = Classifier()
    model.rnn = rnn
    return model


@pytest.mark.parametrize("kind", [subclass(ChangesInput, nn.GRU), FromTheSecondCall])
def test_what_gives_something_else_is_told(kind: Any) -> None:
    model = with_rnn(kind(1, 6, batch_first=True))
    callback = KnockoutCallback()
    with pytest.raises(ValueError, match=r"^units: 'rnn' .* own, whose output is up to"):
        validated(model, callback)
    assert not callback.reports

    model = with_rnn(kind(1, 6, batch_first=True))
    relay = RelayInformationCallback(latent=LatentMeasure(n_starts=16, n_steps=32))
    validated(model, relay)
    latent = relay.reports[-1].layers["rnn.l0"].latent
    assert latent is not None
    assert latent.no_attractors.startswith(
        f"{kind.__name__} has a forward of its own, whose output is up to "
    )


def test_a_step_that_draws_after_the_module_keeps_its_draws() -> None:
    """What the own forward draws without use, it draws in every run."""

    class Drawing(nn.GRU):
        def forward(self, *args: Any) -> Any:
            torch.rand(3)
            return super().forward(*args)

    class Sampled(Classifier):
        def forward(self, x: Tensor) -> Tensor:
            output, _ = self.rnn(x)
            scores: Tensor = self.head(output[:, -1])
            return scores + torch.rand_like(scores)

    reports = []
    for kind in (Drawing, subclass(PassesOn, nn.GRU)):
        torch.manual_seed(0)
        model = Sampled()
        model.rnn = kind(1, 6, batch_first=True)
        with torch.no_grad():
            for parameter in model.rnn.parameters():
                parameter.zero_()
        callback = KnockoutCallback(EveryUnit())
        validated(model, callback, data=as_loader(batches(16)))
        reports.append(callback.reports[-1])
        # All states are 0 without knock-out, too.
        assert not reports[-1].predictions_changed.any()
