"""Knock-outs of subclasses with a forward of their own: those of the plain class, or refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_relay import HiddenStateRecorder, HiddenStates, knocked_out
from lightning_relay.knockout.arguments import make_clamps
from lightning_relay.knockout.lanes import KnockoutLanes
from tests.support.own_forwards import (
    PASSING_ON,
    REFUSED,
    ChangesOutput,
    PassesOn,
    TakesLengths,
    subclass,
)


@pytest.fixture
def inputs() -> Tensor:
    """Five steps of four sequences."""
    return torch.randn(4, 5, 2, dtype=torch.float64)


def pair(forward: type, base: type[nn.RNNBase] = nn.LSTM, **options: Any) -> tuple[Any, Any]:
    """A module with such a forward, and one of the plain class with the same weights."""
    options = {"num_layers": 2, "batch_first": True, "dtype": torch.float64} | options
    own, plain = (kind(2, 3, **options).eval() for kind in (subclass(forward, base), base))
    plain.load_state_dict(own.state_dict())
    return own, plain


def clamps(model: nn.Module, *units: dict[str, Any], **options: Any) -> list[Any]:
    return [make_clamps(model, some, **options) for some in units]


@pytest.mark.parametrize(
    "options",
    [
        {"value": 0.3},
        {"value": "mean"},
        {"value": "resample"},
        {"value": 0.3, "steps": [1, 3]},
        {"value": 0.3, "steps": -1},
    ],
    ids=str,
)
@pytest.mark.parametrize("base", [nn.RNN, nn.GRU, nn.LSTM])
@pytest.mark.parametrize("forward", PASSING_ON)
def test_knock_outs_are_those_of_the_plain_class(
    forward: type, base: type[nn.RNNBase], options: dict[str, Any], inputs: Tensor
) -> None:
    own, plain = pair(forward, base)
    states = {"l0": HiddenStates(torch.randn(9, 5, 3), torch.ones(9, 5, dtype=torch.bool))}
    found = []
    for module in (own, plain):
        with torch.no_grad(), knocked_out(module, {"l0": [0, 2]}, states=states, **options):
            found.append(module(inputs))
    torch.testing.assert_close(*found, rtol=0, atol=0)
    assert "forward" not in vars(own)
    torch.testing.assert_close(own(inputs), plain(inputs), rtol=0, atol=0)


@pytest.mark.parametrize("steps", [None, [2]], ids=str)
def test_lanes_are_those_of_the_plain_class(steps: Any, inputs: Tensor) -> None:
    found = []
    for module in pair(PassesOn, nn.GRU):
        sets = clamps(module, {"l0": 0}, {"l1": [0, 1]}, {"l0": 2, "l1": 2}, steps=steps)
        with torch.no_grad(), KnockoutLanes(module, sets) as lanes:
            results = []
            for lane in (None, 0, 1, 2):
                with lanes.lane(lane):
                    results.append(module(inputs))
            found.append(results)
            assert lanes.longest == {"": 5}
    torch.testing.assert_close(*found, rtol=0, atol=0)


def test_states_and_gradients(inputs: Tensor) -> None:
    gradients = []
    for module in pair(PassesOn):
        own, state = inputs.clone().requires_grad_(), torch.randn(2, 4, 3, dtype=torch.float64)
        state = (state.fill_(0.1).requires_grad_(), torch.zeros_like(state))
        with knocked_out(module, {"l0": 1}, value=0.2):
            output, final = module(own, hx=state)
            output, _ = module(own, final)
        output.sum().backward()
        gradients.append([own.grad, state[0].grad, module.weight_hh_l0.grad])
    torch.testing.assert_close(*gradients, rtol=0, atol=0)


def test_calls_that_continue(inputs: Tensor) -> None:
    own, plain = pair(TakesLengths, nn.GRU)
    found = []
    for module in (own, plain):
        with torch.no_grad(), knocked_out(module, {"l0": 1}, value=0.2, steps=[6]):
            first, state = module(inputs)
            found.append((first, *module(inputs, state)))
    torch.testing.assert_close(*found, rtol=0, atol=0)


def test_lengths(inputs: Tensor) -> None:
    own, plain = pair(TakesLengths, nn.GRU)
    with torch.no_grad():
        with knocked_out(own, {"l0": 1}):
            found = own(inputs, lengths=torch.full((4,), 5))
        with knocked_out(plain, {"l0": 1}):
            torch.testing.assert_close(found, plain(inputs), rtol=0, atol=1e-12)
        for lengths in ([5, 5, 0, 5], [5, 2, 5, 5]):
            with (
                pytest.raises(ValueError, match="its own, whose output is up to"),
                knocked_out(own, {"l0": 1}),
            ):
                own(inputs, lengths=torch.tensor(lengths))


@pytest.mark.parametrize(("forward", "words"), REFUSED.items())
@pytest.mark.parametrize("base", [nn.GRU, nn.LSTM])
def test_what_gives_something_else_is_refused(
    forward: type, words: str, base: type[nn.RNNBase], inputs: Tensor
) -> None:
    module, _ = pair(forward, base)
    message = (
        rf"^units: '' \({forward.__name__}\) has a forward of its own, {words}.*\. So what happens "
        "in it is not known; knock-outs take nn.RNN, nn.GRU and nn.LSTM, and subclasses whose "
        "forward gives the same. Leave its units out$"
    )
    with (
        torch.no_grad(),
        pytest.raises(ValueError, match=message),
        knocked_out(module, {"l0": 1}),
    ):
        module(inputs)
    assert "forward" not in vars(module)
    with (
        torch.no_grad(),
        pytest.raises(ValueError, match=message),
        KnockoutLanes(module, clamps(module, {"l0": 1})) as lanes,
        lanes.lane(None),
    ):
        module(inputs)
    assert "forward" not in vars(module)


def test_a_refusal_that_the_model_catches_comes_when_the_block_ends(inputs: Tensor) -> None:
    class Careful(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.other = pair(ChangesOutput, nn.GRU)

        def forward(self, x: Tensor) -> Any:
            try:
                return self.rnn(x)
            except ValueError:
                return self.other(x)

    model = Careful().eval()
    for lane in (None, 0):
        with (
            torch.no_grad(),
            pytest.raises(ValueError, match="own, whose output is up to"),
            KnockoutLanes(model, clamps(model, {"rnn.l0": 1})) as lanes,
            lanes.lane(lane),
        ):
            model(inputs)
    with (
        torch.no_grad(),
        pytest.raises(ValueError, match="own, whose output is up to"),
        knocked_out(model, {"rnn.l0": 1}),
    ):
        model(inputs)


def test_the_own_forward_runs_once_in_each_call(inputs: Tensor) -> None:
    class Counting(nn.GRU):
        calls = 0

        def forward(self, *args: Any) -> Any:
            self.calls += 1
            torch.rand(1)
            return super().forward(*args)

    module = Counting(2, 3, batch_first=True, dtype=torch.float64).eval()
    torch.manual_seed(3)
    torch.rand(1)
    expected = torch.get_rng_state()
    with torch.no_grad():
        for held in (knocked_out(module, {"l0": 1}), knocked_out(module, {"l0": 1}, steps=[2])):
            torch.manual_seed(3)
            module.calls = 0
            with held:
                module(inputs)
            assert module.calls == 1
            assert torch.equal(torch.get_rng_state(), expected)


def test_modules_that_are_not_knocked_out_keep_their_forward(inputs: Tensor) -> None:
    other, _ = pair(ChangesOutput, nn.GRU, batch_first=False)
    model = nn.ModuleDict({"rnn": pair(PassesOn, nn.GRU)[0], "other": other})
    with torch.no_grad(), KnockoutLanes(model, clamps(model, {"rnn.l0": 1})) as lanes:
        for lane in (None, 0):
            with lanes.lane(lane):
                model["rnn"](inputs)
                assert "forward" not in vars(other)
                model["other"](inputs)


def test_recorded_states_serve_as_values(inputs: Tensor) -> None:
    found = []
    for module in pair(PassesOn):
        with torch.no_grad(), HiddenStateRecorder(module, layers="all") as recorder:
            module(inputs)
        with (
            torch.no_grad(),
            knocked_out(module, {"l0": 1}, value="mean_per_step", states=recorder.states),
        ):
            found.append(module(inputs))
    torch.testing.assert_close(*found, rtol=0, atol=0)


def test_training_mode_is_refused(inputs: Tensor) -> None:
    module, _ = pair(PassesOn)
    with knocked_out(module, {"l0": 1}):
        module(inputs)
        module.train()
        with pytest.raises(RuntimeError, match="is in training mode; knock-outs take a model in"):
            module(inputs)
