"""On a GPU, the recorder's hooks only queue work: the host waits for nothing in a forward pass."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_sequence

from lightning_relay import HiddenStateRecorder, HiddenStates
from lightning_relay.recurrent.constant_inputs import ConstantInputs
from lightning_relay.recurrent.transfer import on_cpu
from tests.support.own_forwards import PassesOn
from tests.support.pretended_gpu import PretendedGpu, moved, on_gpu

if TYPE_CHECKING:
    from collections.abc import Callable

CHANNELS, UNITS = 3, 4
ALL: dict[str, Any] = {"layers": "all", "states": ("hidden", "cell")}


class Passing(PassesOn, nn.GRU):
    """A forward of its own, which gives what PyTorch's gives."""


class Loop(nn.Module):
    """A cell called step by step; dropout of its state makes each a new tensor."""

    def __init__(self, cell: nn.Module, p: float = 0.0) -> None:
        super().__init__()
        self.cell = cell
        self.p = p

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        state = None
        for now in x:
            state = self.cell(now, state)
            if self.p:
                state = state * (1 - self.p)
        return state[0]


def sequences() -> torch.Tensor:
    return torch.randn(7, 5, CHANNELS, generator=torch.Generator().manual_seed(0))


def packed(*lengths: int) -> Any:
    parts = [sequences()[:length, place] for place, length in enumerate(lengths)]
    return pack_sequence(parts, enforce_sorted=False)


CASES: dict[str, tuple[Callable[[], nn.Module], Callable[[], Any], dict[str, Any]]] = {
    "rnn": (lambda: nn.RNN(CHANNELS, UNITS), sequences, {}),
    "inputs": (lambda: nn.GRU(CHANNELS, UNITS), sequences, {"inputs": True}),
    "all layers": (lambda: nn.GRU(CHANNELS, UNITS, 2, bidirectional=True), sequences, ALL),
    "cell states": (lambda: nn.LSTM(CHANNELS, UNITS, 2), sequences, ALL),
    "packed": (
        lambda: nn.LSTM(CHANNELS, UNITS, 2),
        lambda: packed(7, 4, 6),
        ALL | {"inputs": True},
    ),
    "own forward": (lambda: Passing(CHANNELS, UNITS, 2), sequences, ALL),
    "cells": (lambda: Loop(nn.GRUCell(CHANNELS, UNITS)), sequences, {}),
    "cells with two states": (lambda: Loop(nn.LSTMCell(CHANNELS, UNITS)), sequences, ALL),
    "changed states": (lambda: Loop(nn.RNNCell(CHANNELS, UNITS), 0.3), sequences, {}),
}


@pytest.mark.parametrize("case", CASES)
def test_hooks_wait_for_nothing(case: str) -> None:
    new, inputs, options = CASES[case]
    torch.manual_seed(0)
    model = new().eval()
    with torch.inference_mode(), HiddenStateRecorder(model, **options) as recorder:
        model(inputs())
    expected = recorder.states

    recorder = HiddenStateRecorder(moved(model), **options)
    given = on_gpu(inputs())
    with recorder, PretendedGpu() as passing:
        model(given)
        model(given)
    assert not passing.waits
    with PretendedGpu() as reading:
        found = recorder.states
    assert reading.waits.total() <= 2  # one for each call whose states take a replay
    assert found.keys() == expected.keys()
    for key, states in found.items():
        assert len(states) == 2 * len(expected[key])
        for part in (slice(0, len(states) // 2), slice(len(states) // 2, None)):
            assert torch.equal(states.values[part].cpu(), expected[key].values)
            assert torch.equal(states.valid[part].cpu(), expected[key].valid)


def test_ends_of_inputs_are_told_other_processes_in_cpu_memory() -> None:
    constant = ConstantInputs()
    with PretendedGpu():
        inputs = on_gpu(torch.ones(2, 4, CHANNELS))
        constant.add(HiddenStates.of_lengths(inputs, torch.tensor([4, 3])))
    told = pickle.loads(pickle.dumps(constant))
    assert type(told._tail) is torch.Tensor
    told.merge(constant)
    assert told.possible


def test_an_error_that_takes_a_wait_comes_when_states_are_read() -> None:
    torch.manual_seed(0)
    cell = nn.GRUCell(CHANNELS, UNITS)
    moved(cell)
    recorder = HiddenStateRecorder(cell)
    with recorder, PretendedGpu():
        state = cell(on_gpu(torch.ones(5, CHANNELS)))
        cell(on_gpu(torch.ones(2, CHANNELS)), state[:2])
    with PretendedGpu(), pytest.raises(ValueError, match="was called on 5 sequences and then"):
        _ = recorder.states


@pytest.mark.parametrize("sizes", [(3,), (3, 2), (2, 0), (0, 2, 0)])
def test_one_wait_for_several_copies(sizes: tuple[int, ...]) -> None:
    tensors = [on_gpu(torch.ones(size)) for size in sizes]
    with PretendedGpu() as gpu:
        copies = on_cpu(*tensors, torch.zeros(1))
    assert gpu.waits.total() == 1
    assert [copy.tolist() for copy in copies] == [*([1.0] * size for size in sizes), [0.0]]


@pytest.mark.parametrize(
    "waiting",
    [
        lambda tensor: bool(tensor.any()),
        lambda tensor: float(tensor[0]),
        lambda tensor: tensor.cpu(),
        lambda tensor: tensor.tolist(),
        lambda tensor: torch.equal(tensor, tensor),
        lambda tensor: torch.allclose(tensor, tensor),
        lambda tensor: tensor[tensor > 0],
        lambda tensor: tensor[torch.tensor([0])],
        lambda tensor: tensor.nonzero(),
        lambda tensor: tensor.unique(),
        lambda tensor: torch.ones(3).to(tensor.device),
    ],
)
def test_what_waits_is_counted(waiting: Callable[[torch.Tensor], object]) -> None:
    tensor = on_gpu(torch.ones(3))
    with PretendedGpu() as gpu:
        waiting(tensor)
    assert gpu.waits.total() == 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize("case", CASES)
def test_hooks_wait_for_nothing_on_a_gpu(case: str) -> None:
    new, inputs, options = CASES[case]
    torch.manual_seed(0)
    model = new().eval().double()
    given = inputs().double()
    with torch.inference_mode(), HiddenStateRecorder(model, **options) as recorder:
        model(given)
    expected = recorder.states

    recorder = HiddenStateRecorder(model.cuda(), **options)
    given = given.cuda()
    with torch.inference_mode():
        model(given)  # what waits once: cuDNN and cuBLAS begin
        torch.cuda.synchronize()
        with recorder:
            torch.cuda.set_sync_debug_mode("error")
            try:
                model(given)
            finally:
                torch.cuda.set_sync_debug_mode("default")
        found = recorder.states
    for key, states in found.items():
        torch.testing.assert_close(states.values.cpu(), expected[key].values, rtol=0, atol=1e-9)
        assert torch.equal(states.valid.cpu(), expected[key].valid)
