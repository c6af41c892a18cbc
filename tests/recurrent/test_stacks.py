"""Modules that call cells of their own; and the adapters of torchrecurrent without the package."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_relay import (
    HiddenStateRecorder,
    knocked_out,
    recurrent_layers,
    register_recurrent,
    register_recurrent_stack,
    register_torchrecurrent,
)
from tests.support.hooks import hook_count

CHANNELS, UNITS, STEPS, SEQUENCES = 3, 4, 6, 5


class Stack(nn.Module):
    """Layers over PyTorch's cells; returns the outputs and the last state."""

    kind: type[nn.RNNCellBase] = nn.LSTMCell

    def __init__(self, layers: int = 2) -> None:
        super().__init__()
        sizes = [CHANNELS] + [UNITS] * (layers - 1)
        self.cells = nn.ModuleList([self.kind(size, UNITS) for size in sizes])

    def forward(self, x: Tensor, state: Any = None) -> Any:  # (step, batch, channel)
        states = list(state or [None] * len(self.cells))
        outputs = []
        for now in x:
            for layer, cell in enumerate(self.cells):
                states[layer] = cell(now, states[layer])
                now = states[layer] if isinstance(states[layer], Tensor) else states[layer][0]
            outputs.append(now)
        return torch.stack(outputs), tuple(states)


class GRUStack(Stack):
    kind = nn.GRUCell


def registered(kind: type[Any] = Stack) -> None:
    register_recurrent_stack(kind, cells=lambda module: module.cells)


@torch.no_grad()
def test_all_layers_and_cell_states_are_those_of_the_fused_module() -> None:
    registered()
    stack, fused = Stack(), nn.LSTM(CHANNELS, UNITS, num_layers=2)
    for layer, cell in enumerate(stack.cells):
        for name, weight in cell.named_parameters():
            getattr(fused, f"{name}_l{layer}").copy_(weight)
    model = nn.ModuleDict({"stack": stack, "fused": fused}).eval()
    inputs = torch.randn(STEPS, SEQUENCES, CHANNELS)
    with HiddenStateRecorder(model, layers="all", states=("hidden", "cell")) as recorder:
        stack(inputs)
        fused(inputs)
    states = recorder.states
    keys = ["l0", "l0.cell", "l1", "l1.cell"]
    assert list(states) == [f"{name}.{key}" for name in ("stack", "fused") for key in keys]
    for key in keys:
        torch.testing.assert_close(states[f"stack.{key}"].values, states[f"fused.{key}"].values)
    assert hook_count(model) == 0
    units = recurrent_layers(model)
    assert {key: units[key] for key in states} == dict.fromkeys(states, UNITS)
    with HiddenStateRecorder(model, ["stack"]) as recorder:
        stack(inputs)
    assert list(recorder.states) == ["stack.l1"]


@torch.no_grad()
def test_calls_follow_each_other_as_those_of_fused_modules() -> None:
    registered()
    stack = Stack()
    inputs = torch.randn(STEPS, SEQUENCES, CHANNELS)
    with HiddenStateRecorder(stack) as recorder:
        _, state = stack(inputs[:2])
        stack(inputs[2:], state)
        stack.cells[1](torch.zeros(SEQUENCES, UNITS))  # by itself, so no step of the stack
    assert recorder.batches == {"l1": 1}
    whole = recorder.states["l1"].values
    with HiddenStateRecorder(stack) as recorder:
        stack(inputs)
        _, state = stack(inputs[:1])
        stack(inputs[:1], tuple((h.clone(), c) for h, c in state))  # not the very state
    assert recorder.batches == {"l1": 3}
    torch.testing.assert_close(recorder.states["l1"].values[:SEQUENCES], whole)


@torch.no_grad()
def test_a_failed_call_leaves_no_steps_behind() -> None:
    registered(GRUStack)
    stack = GRUStack()
    inputs = torch.randn(STEPS, SEQUENCES, CHANNELS)
    with HiddenStateRecorder(stack) as recorder:
        with pytest.raises(RuntimeError):
            stack([*inputs[:2], inputs[2, :, :1]])
        stack(inputs)
    assert recorder.states["l1"].values.shape == (SEQUENCES, STEPS, UNITS)


def test_knock_outs_take_neither_a_stack_nor_its_cells() -> None:
    registered()
    model = nn.ModuleDict({"stack": Stack()}).eval()
    with (
        pytest.raises(
            ValueError, match=r"^units: 'stack' \(Stack\) has an adapter, which tells how"
        ),
        knocked_out(model, {"stack.l1": [0]}),
    ):
        pass
    with (
        pytest.raises(ValueError, match=r"'stack\.cells\.1.*'stack"),
        knocked_out(model, {"stack.cells.1.l0": [0]}),
    ):
        pass


class Skipping(Stack):
    def forward(self, x: Tensor) -> Tensor:
        h = [x.new_zeros(len(x[0]), UNITS)] * 4
        for step, now in enumerate(x):
            h[:2] = self.cells[0](now, tuple(h[:2]))
            if step:
                h[2:] = self.cells[1](h[0], tuple(h[2:]))
        return h[2]


class Bypassing(Stack):
    def forward(self, x: Tensor) -> Tensor:
        h: Tensor = self.cells[0].forward(x[0])[0]
        return h


class Shrinking(Stack):
    def forward(self, x: Tensor) -> Tensor:
        self.cells[0](x[0])
        h: Tensor = self.cells[0](x[1, :2])[0]
        return h


@pytest.mark.parametrize(
    ("kind", "layers", "message"),
    [
        (Skipping, 2, "called its cells so often: layer 0: 6, layer 1: 5; the adapter takes cells"),
        (Bypassing, 1, "called its cells so often: layer 0: 0; the adapter takes cells that are"),
        (Shrinking, 1, "called its cells on 2 and on 5 sequences; the adapter takes one number"),
    ],
)
def test_calls_that_are_no_steps_of_all_layers_are_refused(
    kind: type[Stack], layers: int, message: str
) -> None:
    registered(kind)
    model = nn.Sequential(kind(layers))
    with (
        HiddenStateRecorder(model, layers="all"),
        pytest.raises(ValueError, match=rf"^modules: '0' \({kind.__name__}\) {message}"),
    ):
        model(torch.zeros(STEPS, SEQUENCES, CHANNELS))


@pytest.mark.parametrize(
    ("cells", "given"),
    [
        ([], "no cell"),
        ([nn.GRUCell(1, 2), nn.Linear(2, 2)], "GRUCell, Linear"),
        ([nn.GRU(1, 2)], "GRU"),
        ([nn.GRUCell(2, 2)] * 2, "GRUCell, GRUCell"),
        ([Stack()], "Stack"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_cell_for_each_layer_is_refused(cells: list[nn.Module], given: str) -> None:
    class Other(nn.Module):
        pass

    registered()
    register_recurrent_stack(Other, cells=lambda module: cells)
    with pytest.raises(
        ValueError,
        match=rf"^modules: the adapter of '0' \(Other\) gave {given}; it takes a different cell "
        "for each layer: an nn.RNNCell, nn.GRUCell, nn.LSTMCell or one of a class registered with ",
    ):
        HiddenStateRecorder(nn.Sequential(Other()))


class WholeSequences(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x


def test_cells_that_take_whole_sequences_are_refused() -> None:
    class Around(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell = WholeSequences()

        def forward(self, x: Tensor) -> Any:
            return self.cell(x)

    register_recurrent(
        WholeSequences, units=lambda _: CHANNELS, hidden=lambda module, inputs, output: output
    )
    register_recurrent_stack(Around, cells=lambda module: [module.cell])
    model = nn.Sequential(Around())
    with (
        HiddenStateRecorder(model),
        pytest.raises(
            ValueError,
            match=r"^modules: the cell of layer 0 in '0' \(Around\) gave states of whole seq",
        ),
    ):
        model(torch.zeros(SEQUENCES, STEPS, CHANNELS))


@pytest.mark.parametrize(
    ("kind", "cells", "error", "words"),
    [
        (nn.LSTM, list, ValueError, "kind: got LSTM, a recurrent module of PyTorch; it needs no "),
        (3, list, TypeError, "kind: got 3; it takes a subclass of torch.nn.Module$"),
        (Stack, "cells", TypeError, "cells: got 'cells'; it takes a function of the module$"),
    ],
)
def test_what_is_no_adapter_is_refused(
    kind: Any, cells: Any, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=f"^{words}"):
        register_recurrent_stack(kind, cells=cells)


class Leaky(nn.Module):
    def forward(self, x: Tensor, state: Tensor | None = None) -> Tensor:
        return x if state is None else x + 0.5 * state


@pytest.mark.parametrize(("keeps_state", "batches"), [(True, 1), (False, 2)])
def test_a_call_without_a_state_begins_anew_if_the_module_keeps_none(
    keeps_state: bool, batches: int
) -> None:
    register_recurrent(
        Leaky,
        units=lambda module: UNITS,
        hidden=lambda module, inputs, output: output,
        keeps_state=keeps_state,
    )
    cell = Leaky()
    with HiddenStateRecorder(cell) as recorder:
        h = cell(torch.ones(SEQUENCES, UNITS))
        cell(torch.ones(SEQUENCES, UNITS), state=h)
        cell(torch.ones(SEQUENCES, UNITS))
    # The model is the cell itself, so that no call of a model around it tells of a new batch.
    assert recorder.batches == {"l0": batches}


# A package with the names and the interface of torchrecurrent.


class Single(nn.Module):
    hidden_size = UNITS

    def forward(self, x: Tensor, state: Tensor | None = None) -> Tensor:
        return torch.tanh(x + (0 if state is None else state))


class Double(nn.Module):
    hidden_size = UNITS

    def forward(self, x: Tensor, state: Any = None) -> Any:
        h, c = (torch.zeros_like(x),) * 2 if state is None else state
        return torch.tanh(x + h + c), c + x


class DecoupledSingle(nn.Module):
    hidden_size = UNITS

    def forward(self, x: Tensor, state: Tensor | None = None) -> Any:
        return 2 * x, x * 0 if state is None else state * 0.5 + x


class DecoupledDouble(nn.Module):
    hidden_size = UNITS

    def forward(self, x: Tensor, state: Any = None) -> Any:
        first, second = (torch.zeros_like(x),) * 2 if state is None else state
        return first + second, (first + x, second - x)


class CopiesInput(Double):
    def forward(self, x: Tensor, state: Any = None) -> Any:
        return super().forward(x, state)[0], x


class DecoupledCopiesInput(DecoupledDouble):
    def forward(self, x: Tensor, state: Any = None) -> Any:
        output, (first, _) = super().forward(x, state)
        return output, (first, x)


class Layers(nn.Module):
    def __init__(self, cell: type[nn.Module]) -> None:
        super().__init__()
        self.cells = nn.ModuleList([cell(), cell()])

    def forward(self, x: Tensor, state: Any = None) -> Any:  # (batch, step, unit)
        decoupled = isinstance(self.cells[0], DecoupledSingle | DecoupledDouble)
        states, outputs = [None, None] if state is None else list(state), []
        for now in x.unbind(1):
            for layer, cell in enumerate(self.cells):
                output = cell(now, states[layer])
                states[layer] = output[1] if decoupled else output
                now = output if isinstance(output, Tensor) else output[0]
            outputs.append(now)
        return torch.stack(outputs, 1), tuple(states)


@pytest.fixture
def _package(monkeypatch: pytest.MonkeyPatch) -> None:
    package: Any = ModuleType("torchrecurrent")
    base: Any = ModuleType("torchrecurrent.base")
    package.TGRUCell, package.TLSTMCell = CopiesInput, DecoupledCopiesInput
    base.SingleStateCellBase, base.DoubleStateCellBase = Single, Double
    base.DecoupledSingleStateCellBase = DecoupledSingle
    base.DecoupledDoubleStateCellBase = DecoupledDouble
    base.RecurrentLayerBase = Layers
    monkeypatch.setitem(sys.modules, "torchrecurrent", package)
    monkeypatch.setitem(sys.modules, "torchrecurrent.base", base)
    register_torchrecurrent()


@pytest.mark.usefixtures("_package")
@pytest.mark.parametrize(
    "kind",
    [Single, Double, DecoupledSingle, DecoupledDouble, CopiesInput, DecoupledCopiesInput],
)
def test_the_states_of_its_interface_are_what_goes_on_to_the_next_step(
    kind: type[nn.Module],
) -> None:
    model = nn.Sequential(Layers(kind), kind())
    inputs = torch.randn(SEQUENCES, STEPS, UNITS)
    expected: dict[str, list[Tensor]] = {}
    decoupled = issubclass(kind, DecoupledSingle | DecoupledDouble)
    with HiddenStateRecorder(model, layers="all", states=("hidden", "cell")) as recorder:
        _, states = model[0](inputs[:, :2])
        _, states = model[0](inputs[:, 2:], states)
        state = None
        for now in inputs.unbind(1):
            output = model[1](now, state)
            state = output[1] if decoupled else output
            parts = state if isinstance(state, tuple) else (state,)
            for key, part in zip(("1.l0", "1.l0.cell"), parts, strict=False):
                expected.setdefault(key, []).append(part)
    found = recorder.states
    if "CopiesInput" in kind.__name__:
        del expected["1.l0.cell"]
    assert set(found) == {*expected, *(f"0.l{n}{key[4:]}" for n in (0, 1) for key in expected)}
    for key, own in expected.items():
        assert torch.equal(found[key].values, torch.stack(own, 1))
        # The cells have no weights, so the first cell of the layers does the same.
        assert torch.equal(found[f"0{key[1:]}"].values, found[key].values)
    for layer, state in enumerate(states):
        last = state if isinstance(state, Tensor) else state[0]
        assert torch.equal(found[f"0.l{layer}"].values[:, -1], last)


def test_without_the_package_python_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchrecurrent", None)
    with pytest.raises(ModuleNotFoundError, match="torchrecurrent"):
        register_torchrecurrent()


def test_an_error_tells_how_its_modules_are_registered() -> None:
    kind = type("MGU", (nn.Module,), {"__module__": "torchrecurrent.cells.mgu_cell"})
    with pytest.raises(
        ValueError,
        match=r"registered with register_recurrent\. For '0' \(MGU\) call "
        r"register_torchrecurrent\(\) first$",
    ):
        recurrent_layers(nn.Sequential(kind()))
