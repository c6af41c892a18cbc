"""What goes on from what: the same answer of recorder and knock-outs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn

from lightning_relay import HiddenStateRecorder, knocked_out
from lightning_relay.recurrent.continuation import Continuation

if TYPE_CHECKING:
    from collections.abc import Callable

X = torch.randn(2, 8, 1, generator=torch.Generator().manual_seed(0))


class Silent(nn.RNN):
    """Without bias and input, all its states are 0; an input at step 6 ends that."""

    def __init__(self) -> None:
        super().__init__(1, 4, batch_first=True, bias=False)


def with_late_input() -> Tensor:
    x = torch.zeros(2, 8, 1)
    x[:, 6:] = 1.0
    return x


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


@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU, nn.LSTM])
def test_the_state_that_was_returned_goes_on(kind: type[nn.RNNBase]) -> None:
    rnn = kind(1, 4, batch_first=True).eval()
    with HiddenStateRecorder(rnn) as recorder:
        in_pieces(rnn, X, lambda state: state)
    assert recorder.states["l0"].values.shape == (2, 8, 4)
    with knocked_out(rnn, {"l0": [1]}, value=0.5, steps={5}):
        output = torch.cat(in_pieces(rnn, X, lambda state: state), 1)
    assert (output[..., 1] == 0.5).nonzero().tolist() == [[0, 5], [1, 5]]


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


def test_a_returned_state_of_zeros_goes_on() -> None:
    rnn, x = Silent().eval(), with_late_input()
    with HiddenStateRecorder(rnn) as recorder:
        in_pieces(rnn, x, lambda state: state)
    assert recorder.states["l0"].values.shape == (2, 8, 4)
    assert recorder.states["l0"].values[:, :6].eq(0).all()
    with knocked_out(rnn, {"l0": [1]}, value=0.5, steps={1}):
        output = torch.cat(in_pieces(rnn, x, lambda state: state), 1)
    assert (output[..., 1] == 0.5).nonzero().tolist() == [[0, 1], [1, 1]]


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


def test_nothing_goes_on_from_a_state_that_is_gone() -> None:
    continuation = Continuation()
    assert not continuation.goes_on(None)
    continuation.remember(torch.ones(2))
    assert not continuation.goes_on(None)
    continuation.remember(None)
    assert not continuation.goes_on(None)
