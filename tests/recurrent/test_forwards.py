"""Subclasses with a forward of their own are recorded like PyTorch's, where they give the same."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization
from torch.nn.utils.rnn import pack_padded_sequence

from lightning_relay import HiddenStateRecorder, knocked_out
from lightning_relay.recurrent.forwards import given_arguments
from tests.support.own_forwards import (
    PASSING_ON,
    REFUSED,
    ChangesInputInPlace,
    DropsOutInTraining,
    OutputOnly,
    PassesOn,
    ScalesInputAfterwards,
    TakesLengths,
    subclass,
)
from tests.support.recurrence import states_of

ALL: dict[str, Any] = {"layers": "all", "states": ("hidden", "cell")}


@pytest.fixture
def inputs() -> Tensor:
    """Five steps of four sequences."""
    return torch.randn(4, 5, 2, dtype=torch.float64)


def module_of(forward: type, base: type[nn.RNNBase] = nn.LSTM, **options: Any) -> Any:
    options = {"num_layers": 2, "batch_first": True, "dtype": torch.float64} | options
    return subclass(forward, base)(2, 3, **options).eval()


def recorded(module: nn.Module, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
    with torch.no_grad(), HiddenStateRecorder(module, **ALL) as recorder:
        module(*args, **kwargs)
    return {key: states.values for key, states in recorder.states.items()}


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("base", [nn.RNN, nn.GRU, nn.LSTM])
@pytest.mark.parametrize("forward", PASSING_ON)
def test_all_states_are_those_of_the_definition(
    forward: type, base: type[nn.RNNBase], bidirectional: bool, inputs: Tensor
) -> None:
    module = module_of(forward, base, bidirectional=bidirectional)
    found = recorded(module, inputs)
    for index, sequence in enumerate(inputs):
        expected = states_of(module, sequence)
        assert found.keys() == expected.keys()
        for key, states in expected.items():
            torch.testing.assert_close(found[key][index], states, rtol=0, atol=1e-12)


@pytest.mark.parametrize("batch_first", [False, True])
def test_states_given_by_any_name(batch_first: bool, inputs: Tensor) -> None:
    class Named(nn.LSTM):
        def forward(self, sequence: Tensor, lengths: Any = None, state: Any = None) -> Any:
            return super().forward(sequence, state)

    class Second(nn.LSTM):
        def forward(self, sequence: Tensor, state: Any = None, lengths: Any = None) -> Any:
            return super().forward(sequence, state)

    plain = nn.LSTM(2, 3, 2, batch_first=batch_first, dtype=torch.float64).eval()
    state = (torch.randn(2, inputs.shape[not batch_first], 3, dtype=torch.float64),) * 2
    expected = recorded(plain, inputs, state)
    second = Second(2, 3, 2, batch_first=batch_first, dtype=torch.float64).eval()
    second.load_state_dict(plain.state_dict())
    for found in (
        recorded(second, inputs, state, torch.ones(4)),
        recorded(second, inputs, state=state),
        recorded(second, sequence=inputs, state=state),
    ):
        torch.testing.assert_close(found, expected, rtol=0, atol=0)
    # A state that stands elsewhere is not known to be one: what differs is then the outcome.
    named = Named(2, 3, 2, batch_first=batch_first, dtype=torch.float64).eval()
    assert given_arguments(named, (inputs, torch.ones(4, dtype=torch.int64), state), {}) == (
        inputs,
        None,
    )
    with pytest.raises(ValueError, match="whose output is up to"):
        recorded(named, inputs, None, state)


def test_packed_and_single_sequences(inputs: Tensor) -> None:
    module = module_of(PassesOn)
    plain = nn.LSTM(2, 3, 2, batch_first=True, dtype=torch.float64).eval()
    plain.load_state_dict(module.state_dict())
    packed = pack_padded_sequence(inputs, torch.tensor([3, 5, 1, 2]), True, enforce_sorted=False)
    for given in (packed, inputs[0]):
        torch.testing.assert_close(recorded(module, given), recorded(plain, given), rtol=0, atol=0)


def test_lengths(inputs: Tensor) -> None:
    module = module_of(TakesLengths)
    full = recorded(module, inputs, lengths=torch.full((4,), 5))
    torch.testing.assert_close(full, recorded(module, inputs), rtol=0, atol=1e-12)
    for lengths, words in (
        (torch.tensor([5, 5, 0, 5]), "whose output is up to"),
        (torch.tensor([3, 3, 3, 3]), r"which returned torch.float64 \(4, 3, 3\) as its output wh"),
    ):
        with pytest.raises(ValueError, match=words):
            recorded(module, inputs, lengths=lengths)


@pytest.mark.parametrize(
    ("forward", "words"),
    [
        (forward, words)
        for forward, words in REFUSED.items()
        if forward not in (ChangesInputInPlace, ScalesInputAfterwards, OutputOnly)
    ],
)
@pytest.mark.parametrize("base", [nn.GRU, nn.LSTM])
def test_what_gives_something_else_is_refused(
    forward: type, words: str, base: type[nn.RNNBase], inputs: Tensor
) -> None:
    module = nn.Sequential(module_of(forward, base))
    with pytest.raises(
        ValueError,
        match=rf"^layers, states: '0' \({forward.__name__}\) has a forward of its own, {words}.*"
        r"\. So states that it does not return cannot be replayed; record only layers='last' and ",
    ):
        recorded(module, inputs)


def test_inputs_changed_in_place_are_those_that_the_states_have_read(inputs: Tensor) -> None:
    module = module_of(ChangesInputInPlace)
    expected = states_of(module, 2 * inputs[1])
    for key, states in recorded(module, inputs).items():
        torch.testing.assert_close(states[1], expected[key], rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match="whose output is up to"):
        recorded(module_of(ScalesInputAfterwards), inputs)


def test_every_call_is_compared(inputs: Tensor) -> None:
    class FromTheSecondCall(nn.GRU):
        calls = 0

        def forward(self, x: Tensor) -> Any:
            self.calls += 1
            return super().forward(x if self.calls == 1 else -x)

    module = FromTheSecondCall(2, 3, 2, batch_first=True, dtype=torch.float64).eval()
    with torch.no_grad(), HiddenStateRecorder(module, layers="all"):
        module(inputs)
        with pytest.raises(ValueError, match="whose output is up to"):
            module(inputs)
    assert module.calls == 2


def test_what_the_module_returns_is_recorded_without_comparison(inputs: Tensor) -> None:
    module = module_of(DropsOutInTraining, nn.GRU).train()
    with torch.no_grad(), HiddenStateRecorder(module) as recorder:
        output, _ = module(inputs)
    assert torch.equal(recorder.states["l1"].values, output)


def test_random_dropout_is_refused(inputs: Tensor) -> None:
    module = module_of(DropsOutInTraining, nn.GRU).train()
    with pytest.raises(ValueError, match="whose output is up to"):
        recorded(module, inputs)
    between = module_of(PassesOn, nn.GRU, dropout=0.5).train()
    with pytest.raises(
        ValueError,
        match=r"and cannot be compared with PyTorch's in training mode, where dropout=0\.5 between",
    ):
        recorded(between, inputs)


def test_no_user_code_runs_and_no_random_number_is_drawn(inputs: Tensor) -> None:
    calls = []

    class Noisy(nn.Module):
        def forward(self, weight: Tensor) -> Tensor:
            calls.append("weight")
            return weight + 0.1 * torch.randn_like(weight)

    class Watched(nn.LSTM):
        def forward(self, *args: Any) -> Any:
            calls.append("forward")
            return super().forward(*args)

        def check_forward_args(self, *args: Any) -> None:
            calls.append("check")
            super().check_forward_args(*args)

    module = Watched(2, 3, 2, batch_first=True, dtype=torch.float64).eval()
    register_parametrization(module, "weight_hh_l0", Noisy(), unsafe=True)
    torch.manual_seed(1)
    calls.clear()
    with torch.no_grad():
        module(inputs)
    plain, state = list(calls), torch.get_rng_state()
    torch.manual_seed(1)
    calls.clear()
    recorded(module, inputs)
    assert calls == plain
    assert torch.equal(torch.get_rng_state(), state)


def test_a_module_with_knocked_out_units_is_not_compared(inputs: Tensor) -> None:
    module = module_of(PassesOn)
    with (
        pytest.raises(ValueError, match="which was set on the module itself"),
        knocked_out(module, {"l0": 1}),
    ):
        recorded(module, inputs)
