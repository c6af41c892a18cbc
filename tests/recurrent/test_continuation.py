"""Which calls continue the sequences of the call before, for the recorder and for knock-outs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn

from lightning_relay import HiddenStateRecorder, knocked_out, register_recurrent
from lightning_relay.recurrent.continuation import Continuation
from tests.support.matrix import Loop

if TYPE_CHECKING:
    from collections.abc import Callable

X = torch.randn(2, 8, 1, generator=torch.Generator().manual_seed(0))


def in_pieces(rnn: nn.RNNBase, x: Tensor, between: Callable[[Any], Any]) -> list[Tensor]:
    """Outputs of pieces of two steps, each given what was made of the state before."""
    state, outputs = None, []
    for piece in x.split(2, dim=1):
        output, state = rnn(piece, state)
        outputs.append(output)
        state = between(state)
    return outputs


def step_by_step(cell: nn.RNNCellBase, x: Tensor, between: Callable[[Any], Any]) -> list[Tensor]:
    state, outputs = None, []
    for step in x.unbind(1):
        state = cell(step, state)
        outputs.append(state[0] if isinstance(state, tuple) else state)
        state = between(state)
    return outputs


def zeroed(state: Any) -> Any:
    for part in state if isinstance(state, tuple) else (state,):
        part.zero_()
    return state


def masked(state: Any) -> Any:
    keep = torch.tensor([True, False]).unsqueeze(1)
    if isinstance(state, tuple):
        return tuple(torch.where(keep, part, 0) for part in state)
    return torch.where(keep, state, 0)


@pytest.fixture(
    params=[torch.no_grad, torch.inference_mode], ids=["no_grad", "inference"], autouse=True
)
def without_gradients(request: pytest.FixtureRequest) -> Any:
    with request.param():
        yield


def check_that_pieces_go_on(rnn: nn.RNNBase, x: Tensor) -> None:
    with HiddenStateRecorder(rnn) as recorder:
        in_pieces(rnn, x, lambda state: state)
    assert recorder.states["l0"].values.shape == (2, 8, 4)
    with knocked_out(rnn, {"l0": [1]}, value=0.5, steps={5}):
        output = torch.cat(in_pieces(rnn, x, lambda state: state), 1)
    assert (output[..., 1] == 0.5).nonzero().tolist() == [[0, 5], [1, 5]]


@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU, nn.LSTM])
def test_the_state_that_was_returned_goes_on(kind: type[nn.RNNBase]) -> None:
    check_that_pieces_go_on(kind(1, 4, batch_first=True).eval(), X)


def test_a_state_that_is_not_a_number_goes_on() -> None:
    x = X.clone()
    x[0, 3] = torch.nan
    check_that_pieces_go_on(nn.GRU(1, 4, batch_first=True).eval(), x)


def test_a_returned_state_of_zeros_goes_on() -> None:
    x = torch.zeros(2, 8, 1)
    x[:, 6:] = 1.0
    silent = nn.RNN(1, 4, batch_first=True, bias=False).eval()
    assert silent(x)[0][:, :6].eq(0).all()
    check_that_pieces_go_on(silent, x)


@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU, nn.LSTM])
def test_states_of_zeros_before_any_input_go_on(kind: type[nn.RNNBase]) -> None:
    rnn = kind(1, 4, batch_first=True, bias=False).eval()
    x = torch.zeros(2, 8, 1)
    check_that_pieces_go_on(rnn, x)
    x[:, 5:] = 1.0
    check_that_pieces_go_on(rnn, x)


@pytest.mark.parametrize(
    "between",
    [lambda state: state, lambda state: _copied(state), lambda state: masked(state)],
    ids=["the very state", "a copy", "what a mask made of it"],
)
@pytest.mark.parametrize("kind", [nn.RNNCell, nn.GRUCell, nn.LSTMCell])
def test_a_cell_that_returns_zeros_goes_on(
    kind: type[nn.RNNCellBase], between: Callable[[Any], Any]
) -> None:
    cell = kind(1, 4, bias=False).eval()
    x = torch.zeros(2, 6, 1)
    for silent in (6, 3):
        x[:, silent:] = 1.0
        with HiddenStateRecorder(cell) as recorder:
            step_by_step(cell, x, between)
        assert recorder.states["l0"].values.shape == (2, 6, 4)
        with knocked_out(cell, {"l0": [1]}, value=0.5, steps={1}):
            outputs = torch.stack(step_by_step(cell, x, between), 1)
        assert (outputs[..., 1] == 0.5).nonzero().tolist() == [[0, 1], [1, 1]]


def test_a_dead_cell_in_a_model_goes_on_within_a_pass_and_begins_anew_with_the_next() -> None:
    model = Loop(nn.RNNCell(1, 4, bias=False, nonlinearity="relu")).eval()
    with torch.no_grad():
        model.cell.weight_ih.fill_(-1.0)
    with HiddenStateRecorder(model) as recorder:
        model(torch.ones(6, 8, 1))  # time first
        model(torch.ones(6, 8, 1))  # time first
    (states,) = recorder.states.values()
    assert states.values.shape == (16, 6, 4)


@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU, nn.LSTM])
@pytest.mark.parametrize(
    "between",
    [zeroed, lambda state: None, lambda state: zeroed(_copied(state))],
    ids=["changed in place", "none", "other zeros"],
)
def test_a_state_that_was_reset_begins_anew(
    kind: type[nn.RNNBase], between: Callable[[Any], Any]
) -> None:
    rnn = kind(1, 4, batch_first=True).eval()
    with HiddenStateRecorder(rnn) as recorder:
        in_pieces(rnn, X, between)
    assert recorder.states["l0"].values.shape == (8, 2, 4)
    with knocked_out(rnn, {"l0": [1]}, value=0.5, steps=0):
        output = torch.cat(in_pieces(rnn, X, between), 1)
    assert sorted({step for _, step in (output[..., 1] == 0.5).nonzero().tolist()}) == [0, 2, 4, 6]


def _copied(state: Any) -> Any:
    return tuple(map(torch.clone, state)) if isinstance(state, tuple) else state.clone()


@pytest.mark.parametrize("kind", [nn.RNNCell, nn.GRUCell, nn.LSTMCell])
def test_a_cell_held_at_zero_goes_on(kind: type[nn.RNNCellBase]) -> None:
    cell = kind(1, 4).eval()
    units = {"l0": range(4)} | ({"l0.cell": range(4)} if kind is nn.LSTMCell else {})
    for first in (True, False):  # whichever of the two looks first
        recorder, block = HiddenStateRecorder(cell), knocked_out(cell, units)
        with recorder if first else block, block if first else recorder:
            outputs = step_by_step(cell, X[:, :5], lambda state: state)
        assert recorder.states["l0"].values.shape == (2, 5, 4)
        assert torch.stack(outputs).eq(0).all()


@pytest.mark.parametrize("kind", [nn.RNNCell, nn.GRUCell, nn.LSTMCell])
def test_a_cell_held_from_its_first_step_begins_anew_for_the_recorder_too(
    kind: type[nn.RNNCellBase],
) -> None:
    cell = kind(1, 4).eval()
    for first in (True, False):
        recorder, block = HiddenStateRecorder(cell), knocked_out(cell, {"l0": [2]}, value=0.5)
        with recorder if first else block, block if first else recorder:
            for part in X.split(4, dim=1):
                step_by_step(cell, part, lambda state: state)
        assert recorder.states["l0"].values.shape == (4, 4, 4)


@pytest.mark.parametrize("kind", [nn.RNNCell, nn.GRUCell, nn.LSTMCell])
def test_a_cell_goes_on_from_what_was_made_of_its_state(kind: type[nn.RNNCellBase]) -> None:
    cell = kind(1, 4).eval()
    with HiddenStateRecorder(cell) as recorder:
        step_by_step(cell, X, masked)
    assert recorder.states["l0"].values.shape == (2, 8, 4)
    with knocked_out(cell, {"l0": [1]}, value=0.5, steps={3}):
        outputs = torch.stack(step_by_step(cell, X, masked), 1)
    assert (outputs[..., 1] == 0.5).nonzero().tolist() == [[0, 3], [1, 3]]


@pytest.mark.parametrize("kind", [nn.RNNCell, nn.GRUCell, nn.LSTMCell])
def test_a_cell_whose_state_was_made_zero_begins_anew(kind: type[nn.RNNCellBase]) -> None:
    def gone(state: Any) -> Any:
        return tuple(part * 0 for part in state) if isinstance(state, tuple) else state * 0

    cell = kind(1, 4).eval()
    for between in (gone, zeroed):
        with HiddenStateRecorder(cell) as recorder:
            step_by_step(cell, X, between)
        assert recorder.states["l0"].values.shape == (16, 1, 4)
        with knocked_out(cell, {"l0": [1]}, value=0.5, steps={0}):
            outputs = torch.stack([part.clone() for part in step_by_step(cell, X, gone)], 1)
        assert outputs[..., 1].eq(0.5).all()


@pytest.mark.parametrize("kind", [nn.RNNCell, nn.GRUCell, nn.LSTMCell])
@pytest.mark.parametrize("handed_over", [True, False], ids=["as it is", "as a copy"])
def test_only_the_very_state_goes_on_in_another_pass_of_the_model(
    kind: type[nn.RNNCellBase], handed_over: bool
) -> None:
    model = Loop(kind(1, 4)).eval()

    def passes() -> Tensor:
        state, outputs = None, []
        for piece in X.transpose(0, 1).split(2):
            output, state = model(piece, state)
            outputs.append(output)
            state = state if handed_over else _copied(state)
        return torch.cat(outputs).transpose(0, 1)

    with HiddenStateRecorder(model) as recorder:
        passes()
    assert recorder.states["cell.l0"].values.shape == ((2, 8, 4) if handed_over else (8, 2, 4))
    step = 5 if handed_over else 1
    with knocked_out(model, {"cell.l0": [1]}, value=0.5, steps={step}):
        output = passes()
    held = sorted({step for _, step in (output[..., 1] == 0.5).nonzero().tolist()})
    assert held == ([5] if handed_over else [1, 3, 5, 7])


class Keeper(nn.Module):
    """A cell of another maker; it keeps its state itself, unless it is given one."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.Linear(1 + 4, 4)
        self.kept = torch.zeros(2, 4)

    def forward(self, x: Tensor, state: Tensor | None = None) -> Tensor:
        self.kept = torch.tanh(self.cell(torch.cat([x, self.kept if state is None else state], 1)))
        return self.kept


class OneStep(nn.GRU):
    """A module of whole sequences that is given one step."""

    def forward(self, x: Tensor, state: Tensor | None = None) -> Tensor:
        return super().forward(x.unsqueeze(1), None if state is None else state.unsqueeze(0))[1][0]


@pytest.mark.parametrize(
    "new", [Keeper, lambda: OneStep(1, 4, batch_first=True)], ids=["cell", "fused"]
)
def test_a_module_with_an_adapter_begins_anew_only_from_zeros(new: Callable[[], nn.Module]) -> None:
    adapted = new().eval()
    register_recurrent(
        type(adapted), units=lambda module: 4, hidden=lambda module, inputs, output: output
    )
    with HiddenStateRecorder(adapted) as recorder:
        for start in range(2):
            for step, x in enumerate(X.unbind(1)):
                adapted(x) if step or not start else adapted(x, torch.zeros(2, 4))
    assert recorder.states["l0"].values.shape == (4, 8, 4)
    recorder.clear()
    with recorder:
        state = torch.zeros(2, 4)
        for x in X.unbind(1):
            state = adapted(x, state)
    assert recorder.states["l0"].values.shape == (2, 8, 4)


def test_nothing_goes_on_from_a_state_that_is_gone() -> None:
    continuation = Continuation()
    assert not continuation.goes_on(None)
    continuation.remember(torch.ones(2))
    assert not continuation.goes_on(None)
    continuation.remember(None)
    assert not continuation.goes_on(None)
