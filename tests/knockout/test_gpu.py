"""Knock-outs on a GPU are those on a CPU."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch.nn.utils.rnn import pack_sequence

from lightning_relay import (
    EveryUnit,
    HiddenStateRecorder,
    HiddenStates,
    KnockoutCallback,
    knocked_out,
)
from lightning_relay.knockout.arguments import make_clamps
from lightning_relay.knockout.lanes import KnockoutLanes
from tests.support.matrix import CHANNELS, FUSED, UNITS
from tests.support.models import Stacked, loader
from tests.support.tensors import tensors_of
from tests.support.training import quiet_trainer

if TYPE_CHECKING:
    from torch import nn

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")


@torch.no_grad()
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", FUSED)
def test_a_gpu_gives_the_same(kind: str, packed: bool) -> None:
    torch.manual_seed(0)
    model = FUSED[kind](CHANNELS, UNITS, num_layers=2, bidirectional=True).double().eval()
    parts = [
        torch.randn(length, CHANNELS).double() for length in ((12, 10, 11) if packed else [12] * 3)
    ]
    inputs: Any = pack_sequence(parts, enforce_sorted=False) if packed else torch.stack(parts, 1)
    with HiddenStateRecorder(model, layers="all") as recorder:
        model(inputs)
    for value, steps in product(
        [0.3, "mean_per_step", "resample"], [None, slice(2, 9), (0, 5), -1]
    ):
        results = []
        for device in ("cpu", "cuda"):
            states = {
                key: HiddenStates(part.values.to(device), part.valid.to(device))
                for key, part in recorder.states.items()
            }
            options = {"value": value, "steps": steps, "states": states}
            results.append(outputs(model.to(device), inputs.to(device), options))
        torch.testing.assert_close(*results, rtol=0, atol=1e-9)


def outputs(model: nn.Module, inputs: Any, options: dict[str, Any]) -> list[torch.Tensor]:
    """What a model gives under some knock-outs, one by one and as lanes."""
    sets = [{"l0": unit, "l1_reverse": [0, unit]} for unit in range(1, UNITS)]
    found = []
    for units in sets:
        with knocked_out(model, units, **options):
            found += tensors_of(model(inputs))
    with KnockoutLanes(model, [make_clamps(model, units, **options) for units in sets]) as lanes:
        for number in range(len(sets)):
            with lanes.lane(number):
                found += tensors_of(model(inputs))
    return [tensor.cpu() for tensor in found]


def test_the_callback_on_a_gpu() -> None:
    torch.manual_seed(0)
    model = Stacked()
    reports = []
    for accelerator in ("cpu", "gpu"):
        callback = KnockoutCallback(EveryUnit(layers="all", states=("hidden", "cell")))
        trainer = quiet_trainer(callback, accelerator=accelerator)
        trainer.validate(model, loader(), verbose=False)
        reports.append(callback.reports[0])
    assert (reports[0].confusion != reports[1].confusion).sum() <= 2  # but for rounding
