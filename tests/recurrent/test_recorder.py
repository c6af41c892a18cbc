from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_sequence

from lightning_relay import HiddenStateRecorder
from tests.hooks import hook_count

CELLS = {nn.RNN: nn.RNNCell, nn.GRU: nn.GRUCell, nn.LSTM: nn.LSTMCell}


def stepped(module: nn.RNNBase, sequence: Tensor) -> Tensor:
    """Hidden states ``(step, unit)`` of one sequence, from PyTorch's cell called step by step."""
    cell = CELLS[type(module)](module.input_size, module.hidden_size).to(sequence.dtype)
    cell.load_state_dict(
        {name.removesuffix("_l0"): value for name, value in module.state_dict().items()}
    )
    state, steps = None, []
    for inputs in sequence:
        state = cell(inputs.unsqueeze(0), state)
        steps.append(state[0][0] if isinstance(state, tuple) else state[0])
    return torch.stack(steps)


@pytest.mark.parametrize("kind", CELLS)
@pytest.mark.parametrize("batch_first", [True, False])
def test_states_equal_a_cell_called_step_by_step(kind: type[nn.RNNBase], batch_first: bool) -> None:
    module = kind(3, 6, batch_first=batch_first).double()
    inputs = torch.randn(5, 7, 3, dtype=torch.float64)
    with torch.no_grad(), HiddenStateRecorder(module) as recorder:
        module(inputs if batch_first else inputs.transpose(0, 1))
        states = recorder.states["l0"]
        assert states.values.shape == (5, 7, 6)
        assert bool(states.valid.all())
        for sequence, expected in zip(states.values, inputs, strict=True):
            torch.testing.assert_close(sequence, stepped(module, expected), atol=1e-12, rtol=0)


@pytest.mark.parametrize("kind", CELLS)
def test_packed_sequences_keep_their_order_and_lengths(kind: type[nn.RNNBase]) -> None:
    module = kind(2, 4).double()
    sequences = [torch.randn(length, 2, dtype=torch.float64) for length in (3, 6, 1)]
    with torch.no_grad(), HiddenStateRecorder(module) as recorder:
        module(pack_sequence(sequences, enforce_sorted=False))
        states = recorder.states["l0"]
        assert states.lengths.tolist() == [3, 6, 1]
        for values, valid, sequence in zip(states.values, states.valid, sequences, strict=True):
            torch.testing.assert_close(values[valid], stepped(module, sequence), atol=1e-12, rtol=0)


def test_what_the_model_returns_and_learns_is_untouched() -> None:
    model = nn.GRU(2, 3)
    inputs = torch.randn(4, 5, 2)
    expected, _ = model(inputs)
    with HiddenStateRecorder(model) as recorder:
        output, _ = model(inputs)
        output.sum().backward()
        assert torch.equal(output, expected)
        assert not recorder.states["l0"].values.requires_grad
        with torch.no_grad():
            output.zero_()
        assert torch.equal(recorder.states["l0"].values, expected.transpose(0, 1))
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_calls_stand_one_after_the_other_until_cleared() -> None:
    model = nn.ModuleDict({"a": nn.RNN(2, 3, batch_first=True), "b": nn.GRU(2, 3)})
    with HiddenStateRecorder(model) as recorder:
        model["a"](torch.zeros(2, 4, 2))
        model["a"](torch.zeros(1, 6, 2))
        assert recorder.calls == {"a.l0": 2, "b.l0": 0}
        assert list(recorder.states) == ["a.l0"]
        assert recorder.states["a.l0"].lengths.tolist() == [4, 4, 6]
        recorder.clear()
        assert recorder.states == {}
        model["b"](torch.zeros(4, 2, 2))
    assert list(recorder.states) == ["b.l0"]


def test_states_recorded_in_inference_mode_can_enter_autograd() -> None:
    model = nn.RNN(2, 3)
    with torch.inference_mode(), HiddenStateRecorder(model) as recorder:
        model(torch.zeros(4, 1, 2))
    weights = torch.ones(3, requires_grad=True)
    (recorder.states["l0"].values @ weights).sum().backward()
    assert weights.grad is not None


def test_packed_states_can_enter_autograd_and_say_who_sorted_them() -> None:
    model = nn.ModuleDict({"a": nn.RNN(2, 3), "b": nn.RNN(2, 3), "c": nn.RNN(2, 3)})
    sequences = [torch.zeros(length, 2) for length in (3, 2)]
    with HiddenStateRecorder(model) as recorder:
        model["a"](pack_sequence(sequences))
        model["b"](pack_sequence(sequences, enforce_sorted=False))
        model["c"](pack_sequence(sequences[:1]))
        assert recorder.packed == {"a.l0": True, "b.l0": False, "c.l0": False}
        assert not recorder.states["a.l0"].values.requires_grad
        recorder.clear()
        assert recorder.packed == {}


def test_only_its_own_hooks_are_removed_also_after_an_exception() -> None:
    model = nn.Sequential(nn.RNN(2, 3))
    foreign = model[0].register_forward_hook(lambda *_: None)
    before = hook_count(model)
    recorder = HiddenStateRecorder(model)
    with recorder, HiddenStateRecorder(model):
        assert hook_count(model) == before + 2
    assert hook_count(model) == before
    with pytest.raises(RuntimeError, match=r"input\.size"), recorder:
        model(torch.zeros(4, 1, 5))
    assert hook_count(model) == before
    foreign.remove()


def test_a_recorder_is_entered_once_at_a_time() -> None:
    recorder = HiddenStateRecorder(nn.RNN(2, 3))
    with recorder, pytest.raises(RuntimeError, match="recording already"):
        recorder.__enter__()
    with recorder:
        pass


def test_a_model_can_be_copied_and_pickled_while_it_is_recorded() -> None:
    model = nn.Sequential(nn.GRU(2, 3))
    with HiddenStateRecorder(model) as recorder:
        for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            twin(torch.zeros(4, 1, 2))
        assert recorder.calls == {"0.l0": 0}


def test_unbatched_sequences_are_refused() -> None:
    model = nn.Sequential(nn.RNN(2, 3))
    with (
        HiddenStateRecorder(model),
        pytest.raises(ValueError, match=r"modules: '0' was called on an unbatched sequence"),
    ):
        model(torch.zeros(4, 2))
