"""Nested blocks, and models that a block leaves unchanged."""

from __future__ import annotations

import copy
import pickle
import random
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch._dynamo
from torch import Tensor, nn

from lightning_relay.knockout.context import knocked_out
from lightning_relay.recurrent.errors import StepError
from tests.support import held_recurrence
from tests.support.held_recurrence import holding, trajectory
from tests.support.hooks import hook_count
from tests.support.matrix import (
    CELLS,
    CHANNELS,
    FUSED,
    UNITS,
    VARIATIONS,
    Bench,
    Loop,
    Variation,
    assert_agree,
    difference,
)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["nn.GRU", "nn.LSTM", "nn.LSTMCell"])
def test_blocks_within_blocks_add_up(kind: str) -> None:
    bench = Bench(kind, Variation({} if kind in CELLS else {"num_layers": 2}))
    key = f"{bench.prefix}l0"
    other = f"{bench.prefix}l0.cell" if "LSTM" in kind else f"{bench.prefix}l1"
    both = bench.expected({key: [0, 2], other: [1]}, {key: torch.tensor([0.0, 0.5]), other: -0.3})
    with knocked_out(bench.model, {key: 0}):
        with (
            knocked_out(bench.model, {other: [1]}, value=-0.3),
            knocked_out(bench.model, {key: [2]}, value=0.5),
        ):
            assert_agree(bench.call(), both)
        assert_agree(bench.call(), bench.expected({key: 0}))
    assert_agree(bench.call(), bench.expected({}))


@torch.no_grad()
@pytest.mark.parametrize("kind", ["nn.RNN, tanh", "nn.LSTM", "nn.GRUCell"])
def test_the_inner_of_two_blocks_wins(kind: str) -> None:
    bench = Bench(kind)
    key = f"{bench.prefix}l0"
    with knocked_out(bench.model, {key: [0, 1]}, value=0.5):
        with knocked_out(bench.model, {key: [1, 3]}, value=torch.tensor([-0.2, 0.1])):
            expected = bench.expected({key: [0, 1, 3]}, torch.tensor([0.5, -0.2, 0.1]))
            assert_agree(bench.call(), expected)
        assert_agree(bench.call(), bench.expected({key: [0, 1]}, 0.5))
        with pytest.raises(ZeroDivisionError), knocked_out(bench.model, {key: [1]}, value=2.0):
            raise ZeroDivisionError
        assert_agree(bench.call(), bench.expected({key: [0, 1]}, 0.5))
        # If both hold a unit, the inner block decides its own steps, and the outer the others.
        with knocked_out(bench.model, {key: [1]}, value=2.0, steps={1, 3}):
            per_step = torch.tensor([[0.5, step] for step in (0.5, 2.0, 0.5, 2.0, 0.5)])
            assert_agree(bench.call(), bench.expected({key: [0, 1]}, per_step))
    assert_agree(bench.call(), bench.expected({}))


@torch.no_grad()
@pytest.mark.parametrize("kind", FUSED)
def test_a_unit_held_always_and_one_for_many_steps_add_up(kind: str) -> None:
    bench = Bench(kind, Variation(lengths=(24, 24), initial=True))
    with (
        knocked_out(bench.model, {"l0": 0}, value=0.5),
        knocked_out(bench.model, {"l0": 1}, value=0.5, steps=slice(0, 12)),
    ):
        found = bench.call()
    values = {"l0": trajectory(0.5, 2, 24, 0)}
    [(place, held)] = holding(bench.fused, {"l0": [0, 1]}, values, None, 24).items()
    always = torch.tensor([True, False, False, False])
    held = replace(held, initial=(always, held.values[0]))
    held.mask[12:, 1] = False
    assert_agree(found, [bench.run(index, {place: held}) for index in range(2)])


@torch.no_grad()
def test_blocks_with_windows_add_up() -> None:
    bench = Bench("nn.GRU", VARIATIONS["packed, unsorted"])
    values = torch.zeros(3, 6, 1)
    for index, length in enumerate(bench.lengths):
        values[index, :3] = 0.5
        values[index, length - 1] = -0.5
    with (
        knocked_out(bench.model, {"l0_reverse": 2}, value=0.5, steps=slice(0, 3)),
        knocked_out(bench.model, {"l0_reverse": 2}, value=-0.5, steps=-1),
    ):
        found = bench.call()
    for index, run in enumerate(found):
        steps = {0, 1, 2, -1}
        assert difference(run, bench.expected_of(index, {"l0_reverse": 2}, values, steps)) <= 1e-12


class Classifier(nn.Module):
    """Two recurrent modules and a head; breaks when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.LSTM(CHANNELS, UNITS, num_layers=2, bidirectional=True)
        self.decoder = Loop(nn.GRUCell(2 * UNITS, UNITS))
        self.norm = nn.BatchNorm1d(UNITS)
        self.head = nn.Linear(UNITS, 2)
        self.register_buffer("scale", torch.tensor(2.0))
        self.breaks = False

    def forward(self, x: Tensor) -> Tensor:
        output, _ = self.encoder(x)
        output, last = self.decoder(output)
        if self.breaks:
            raise ZeroDivisionError
        scores: Tensor = self.head(self.norm(last)) * self.scale
        return scores


CLASSIFIER_UNITS = {"encoder.l0": [1], "encoder.l1_reverse.cell": [0, 2], "decoder.cell.l0": [3]}


def a_classifier() -> tuple[Classifier, Tensor]:
    torch.manual_seed(0)
    model = Classifier().double().eval()
    model.encoder.register_forward_hook(lambda *_: None)
    model.decoder.cell.register_forward_pre_hook(lambda *_: None)
    return model, torch.randn(5, 3, CHANNELS, dtype=torch.float64)


class Snapshot:
    """All attributes of all modules, and what is in those that hold others."""

    def __init__(self, model: nn.Module) -> None:
        self.modules = list(model.modules())
        self.kinds = [type(module) for module in self.modules]
        self.attributes = [self._attributes(module) for module in self.modules]
        self.values = {name: value.clone() for name, value in model.state_dict().items()}
        self.versions = [parameter._version for parameter in model.parameters()]
        self.hooks = hook_count(model)
        self.model = model

    @staticmethod
    def _attributes(module: nn.Module) -> dict[str, tuple[Any, Any]]:
        return {name: (value, _contents(value)) for name, value in vars(module).items()}

    def assert_unchanged(self) -> None:
        """The same objects, with the same contents, bit for bit."""
        assert hook_count(self.model) == self.hooks
        assert len(list(self.model.modules())) == len(self.modules)
        for module, own, kind, before in zip(
            self.model.modules(), self.modules, self.kinds, self.attributes, strict=True
        ):
            assert module is own
            assert type(module) is kind
            after = self._attributes(module)
            assert list(after) == list(before)
            for name, (value, contents) in before.items():
                assert after[name][0] is value, name
                now = after[name][1]
                assert len(now) == len(contents), name
                assert all(a is b for a, b in zip(now, contents, strict=True)), name
        self.assert_weights_untouched()

    def assert_weights_untouched(self) -> None:
        """Nothing was written to a parameter, not even what had been in it before."""
        assert [parameter._version for parameter in self.model.parameters()] == self.versions
        state = self.model.state_dict()
        assert list(state) == list(self.values)
        assert all(torch.equal(state[name], value) for name, value in self.values.items())


def _contents(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [*value, *value.values()]
    return list(value) if isinstance(value, list | tuple | set) else []


@torch.no_grad()
def test_units_of_two_modules_in_one_model() -> None:
    model, inputs = a_classifier()
    lower = {"l0": [1], "l1_reverse.cell": [0, 2]}
    value: dict[str, Any] = {
        "encoder.l0": 0.3,
        "encoder.l1_reverse.cell": "zero",
        "decoder.cell.l0": 0.9,
    }
    decoder = nn.GRU(2 * UNITS, UNITS).double()
    decoder.load_state_dict(
        {f"{name}_l0": weight for name, weight in model.decoder.cell.state_dict().items()}
    )
    scores = []
    for sequence in inputs.unbind(1):
        values = {
            key: trajectory(value[f"encoder.{key}"], len(named), 5, 0)
            for key, named in lower.items()
        }
        between = held_recurrence.run(
            model.encoder, sequence, None, holding(model.encoder, lower, values, None, 5)
        )
        held = holding(decoder, {"l0": [3]}, {"l0": trajectory(0.9, 1, 5, 0)}, None, 5)
        last = held_recurrence.run(decoder, between.output, None, held).h_n
        scores.append(model.head(model.norm(last)) * model.scale)
    with knocked_out(model, CLASSIFIER_UNITS, value=value):
        assert float((model(inputs) - torch.cat(scores)).abs().max()) <= 1e-12


@torch.no_grad()
def test_a_block_leaves_the_model_as_it_was() -> None:
    model, inputs = a_classifier()
    expected = model(inputs)
    snapshot = Snapshot(model)
    with knocked_out(model, CLASSIFIER_UNITS, value=0.5):
        snapshot.assert_weights_untouched()
        assert float((model(inputs) - expected).abs().max()) > 1e-3
        snapshot.assert_weights_untouched()
        with knocked_out(model, {"encoder.l0": 2}, steps=1):
            model(inputs)
            snapshot.assert_weights_untouched()
    snapshot.assert_unchanged()
    assert torch.equal(model(inputs), expected)


def _raise(*_: Any) -> None:
    raise ZeroDivisionError


@torch.no_grad()
def test_a_block_left_by_an_exception_leaves_the_model_as_it_was() -> None:
    model, inputs = a_classifier()
    expected = model(inputs)
    snapshot = Snapshot(model)

    with pytest.raises(ZeroDivisionError), knocked_out(model, CLASSIFIER_UNITS):
        raise ZeroDivisionError
    snapshot.assert_unchanged()

    model.breaks = True
    with pytest.raises(ZeroDivisionError), knocked_out(model, CLASSIFIER_UNITS):
        model(inputs)
    model.breaks = False
    snapshot.assert_unchanged()

    for module in (model.encoder, model.decoder.cell, model):
        for register in (module.register_forward_hook, module.register_forward_pre_hook):
            handle = register(_raise)
            with pytest.raises(ZeroDivisionError), knocked_out(model, CLASSIFIER_UNITS):
                model(inputs)
            handle.remove()
            snapshot.assert_unchanged()

    handle = model.head.register_forward_hook(_raise)
    with knocked_out(model, CLASSIFIER_UNITS):
        with pytest.raises(ZeroDivisionError):
            model(inputs)
        handle.remove()
        # The next call in the same block begins at the first step again.
        with knocked_out(model, {"decoder.cell.l0": 1}, value=3.0, steps=2):
            first = model(inputs)
            assert torch.equal(model(inputs), first)
    snapshot.assert_unchanged()

    with pytest.raises(RuntimeError), knocked_out(model, CLASSIFIER_UNITS):
        model(inputs[..., :2])
    snapshot.assert_unchanged()
    assert torch.equal(model(inputs), expected)


@torch.no_grad()
def test_an_invalid_argument_leaves_the_model_as_it_was() -> None:
    model, inputs = a_classifier()
    snapshot = Snapshot(model)
    wrong: dict[str, dict[str, Any]] = {
        "units: got 99 for 'decoder.cell.l0'": {"units": {"encoder.l0": 1, "decoder.cell.l0": 99}},
        "value: got 'one'; it takes": {"units": CLASSIFIER_UNITS, "value": "one"},
        "states: 'mean' takes recorded": {"units": CLASSIFIER_UNITS, "value": "mean"},
        r"value: got shape \(7,\)": {"units": CLASSIFIER_UNITS, "value": torch.zeros(7)},
    }
    for message, arguments in wrong.items():
        with pytest.raises(ValueError, match=message), knocked_out(model, **arguments):
            pytest.fail("entered")
        snapshot.assert_unchanged()
    with (
        pytest.raises(StepError, match=r"^steps: got 5, but the longest sequence has 5 steps"),
        knocked_out(model, CLASSIFIER_UNITS, steps=5),
    ):
        model(inputs)
    snapshot.assert_unchanged()
    with (
        pytest.raises(ValueError, match=r"^value: got values for 2 sequences of 'encoder.l0'"),
        knocked_out(model, {"encoder.l0": 1}, value=torch.zeros(2, 5, 1)),
    ):
        model(inputs)
    snapshot.assert_unchanged()


def test_random_streams_are_left_alone() -> None:
    bench = Bench("nn.GRU")
    torch_state, python_state = torch.get_rng_state(), random.getstate()
    with knocked_out(bench.model, {"l0": [1]}, value="resample", states=bench.states, seed=3):
        bench.call()
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert random.getstate() == python_state


@torch.no_grad()
@pytest.mark.parametrize("kind", ["nn.LSTM", "nn.GRUCell"])
def test_a_copy_of_a_knocked_out_model_is_not_knocked_out(kind: str) -> None:
    bench = Bench(kind)
    units = {f"{bench.prefix}l0": 1}
    plain = bench.call()
    with knocked_out(bench.model, units, value=0.5):
        twins = [copy.deepcopy(bench.model), pickle.loads(pickle.dumps(bench.model))]
        for twin in twins:
            assert_agree(bench.call(twin), plain, 0.0)
            snapshot = Snapshot(twin)
            with knocked_out(twin, {f"{bench.prefix}l0": 2}, value=-0.5):
                expected = bench.expected({f"{bench.prefix}l0": 2}, -0.5)
                assert_agree(bench.call(twin), expected)
            snapshot.assert_unchanged()
            assert twin.state_dict().keys() == bench.model.state_dict().keys()
        assert_agree(bench.call(), bench.expected(units, 0.5))
    for twin in twins:
        assert_agree(bench.call(twin), plain, 0.0)


def test_training_mode_is_refused_when_the_block_is_entered_or_at_the_call() -> None:
    model = nn.Sequential(nn.GRU(2, 3, num_layers=2, dropout=0.5))
    words = r"model: '0' \(GRU\) is in training mode; knock-outs take a model in evaluation mode"
    with pytest.raises(RuntimeError, match=words), knocked_out(model, {"0.l0": 1}):
        pytest.fail("entered")
    model.eval()
    snapshot = Snapshot(model)
    with knocked_out(model, {"0.l0": 1}):
        model.train()
        with pytest.raises(RuntimeError, match=words):
            model(torch.zeros(4, 1, 2))
        model.eval()
        model(torch.zeros(4, 1, 2))
    snapshot.assert_weights_untouched()
    assert hook_count(model) == snapshot.hooks
