"""Modules, weights and arguments of every form."""

from __future__ import annotations

import copy
import re
from typing import Any

import numpy as np
import pytest
import torch
import torch._dynamo
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from lightning_relay.knockout.context import knocked_out
from tests.support import held_recurrence
from tests.support.held_recurrence import holding, trajectory
from tests.support.matrix import CELLS, FUSED, UNITS, VARIATIONS, Bench, Variation, assert_agree
from tests.support.tensors import tensors_of


@torch.no_grad()
def test_a_module_with_two_names_is_knocked_out_wherever_it_is_called() -> None:
    shared = nn.GRU(UNITS, UNITS).double().eval()

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = shared
            self.b = shared

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.a(x)[0])[0]

    inputs = torch.randn(5, 1, UNITS, dtype=torch.float64)
    between = inputs[:, 0]
    for _ in range(2):
        held = holding(shared, {"l0": [1]}, {"l0": trajectory(0.4, 1, 5, 0)}, None, 5)
        between = held_recurrence.run(shared, between, None, held).output
    model = Twice().eval()
    with knocked_out(model, {"a.l0": [1]}, value=0.4):
        assert float((model(inputs)[:, 0] - between).abs().max()) <= 1e-12


@torch.no_grad()
@pytest.mark.parametrize("kind", [*FUSED, *CELLS])
def test_parametrized_and_exchanged_weights_are_the_ones_used(kind: str) -> None:
    bench = Bench(kind)
    units = {f"{bench.prefix}l0": [1, 3]}
    module = bench.model.cell if bench.prefix else bench.model
    suffix = "" if bench.prefix else "_l0"
    doubled = copy.deepcopy(bench.fused)
    doubled.weight_hh_l0.mul_(2)
    plain = bench.fused
    name = f"{bench.prefix}weight_hh{suffix}"
    exchanged = dict(bench.model.named_parameters()) | {name: doubled.weight_hh_l0}
    for steps in (None, slice(1, 3)):
        with knocked_out(bench.model, units, value=0.3, steps=steps):
            found = bench.split(
                *torch.func.functional_call(bench.model, exchanged, bench.arguments())
            )
            bench.fused = doubled
            assert_agree(found, bench.expected(units, 0.3, steps))
            bench.fused = plain
            assert_agree(bench.call(), bench.expected(units, 0.3, steps))
    bench.fused = doubled
    weight_norm(module, f"weight_hh{suffix}")
    for steps in (None, slice(1, 3)):
        with knocked_out(bench.model, units, value=0.3, steps=steps):
            module.parametrizations[f"weight_hh{suffix}"].original0.mul_(2)
            assert_agree(bench.call(), bench.expected(units, 0.3, steps))
            module.parametrizations[f"weight_hh{suffix}"].original0.div_(2)
            bench.fused = plain
            assert_agree(bench.call(), bench.expected(units, 0.3, steps))
            bench.fused = doubled


@torch.no_grad()
@pytest.mark.parametrize("kind", [*FUSED, *CELLS])
def test_arguments_may_be_given_by_name(kind: str) -> None:
    bench = Bench(kind, VARIATIONS["initial states given"])
    units = {f"{bench.prefix}l0": [1, 3]}
    [inputs, state] = bench.arguments()
    module = bench.model.cell if bench.prefix else bench.model
    if bench.prefix:
        inputs = inputs[0]
    with knocked_out(module, {"l0": [1, 3]}, value=0.3):
        found = [module(input=inputs, hx=state), module(inputs, hx=state), module(inputs, state)]
    parts = [tensors_of(result) for result in found]
    for other in parts[1:]:
        assert all(torch.equal(a, b) for a, b in zip(parts[0], other, strict=True))
    expected = bench.expected(units, 0.3)[0].output[0]
    first = parts[0][0][0] if bench.prefix else parts[0][0][0, 0]
    assert float((first - expected).abs().max()) <= 1e-12


@torch.no_grad()
@pytest.mark.parametrize("kind", ["nn.GRU", "nn.LSTM"])
@pytest.mark.parametrize("steps", [None, 0], ids=["all steps", "first step"])
def test_what_pytorch_refuses_is_refused_in_its_words(kind: str, steps: int | None) -> None:
    bench = Bench(kind)
    [inputs] = bench.arguments()
    zeros = [torch.zeros(shape).double() for shape in ((1, 2, UNITS), (2, 3, UNITS), (1, 3, 9))]
    states = [(state, state) if kind == "nn.LSTM" else state for state in zeros]
    wrong = [(inputs[..., :2],), (inputs[0, 0],), (inputs.float(),)]
    wrong += [(inputs, state) for state in states]
    wrong += [(inputs, zeros[0][0]), (inputs, (zeros[0][0],) * 2)]
    for arguments in wrong:
        with pytest.raises((RuntimeError, ValueError, AttributeError)) as plain:
            bench.model(*arguments)
        with (
            pytest.raises(type(plain.value), match=re.escape(str(plain.value))),
            knocked_out(bench.model, {"l0": 1}, steps=steps),
        ):
            bench.model(*arguments)


def test_subclasses_with_pytorch_forward_are_knocked_out() -> None:
    class Renamed(nn.GRU):
        pass

    inputs = torch.randn(4, 1, 2)
    plain = nn.GRU(2, 3).eval()
    renamed = Renamed(2, 3).eval()
    renamed.load_state_dict(plain.state_dict())
    with torch.no_grad(), knocked_out(plain, {"l0": 1}), knocked_out(renamed, {"l0": 1}):
        assert torch.equal(renamed(inputs)[0], plain(inputs)[0])


@torch.no_grad()
def test_numbers_of_numpy_and_torch_are_numbers() -> None:
    bench = Bench("nn.GRU")
    expected = bench.expected({"l0": [1, 3]}, 0.5, [0, 2])
    for units in (np.array([1, 3]), [np.int64(1), np.int64(3)], torch.tensor([1, 3])):
        for steps in (np.array([0, 2]), torch.tensor([0, 2]), [np.int64(0), 2]):
            with knocked_out(bench.model, {"l0": units}, value=np.float32(0.5), steps=steps):
                assert_agree(bench.call(), expected)
    for unit, step in ((np.int64(1), np.int64(2)), (torch.tensor(1), torch.tensor(2))):
        with knocked_out(bench.model, {"l0": unit}, steps=step):
            assert_agree(bench.call(), bench.expected({"l0": 1}, "zero", 2))


@torch.no_grad()
@pytest.mark.parametrize("kind", [*FUSED, *CELLS])
@pytest.mark.parametrize("steps", [None, {0, 2}], ids=["all steps", "some steps"])
def test_one_sequence_without_a_state(kind: str, steps: Any) -> None:
    bench = Bench(kind, Variation(batched=False, lengths=(5,)))
    units = {f"{bench.prefix}l0": [1, 3]}
    with knocked_out(bench.model, units, value=0.3, steps=steps):
        assert_agree(bench.call(), bench.expected(units, 0.3, steps))
