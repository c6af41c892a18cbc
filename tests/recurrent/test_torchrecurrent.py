"""Every cell and layer that torchrecurrent exports, against loops by hand over its cells."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_relay import (
    HiddenStateRecorder,
    KnockoutCallback,
    RelayInformationCallback,
    knocked_out,
    recurrent_layers,
    register_torchrecurrent,
)
from tests.support.ablation import Untrained, refused_before_training
from tests.support.hooks import hook_count
from tests.support.models import Classifier, loader
from tests.support.training import quiet_trainer

torchrecurrent = pytest.importorskip(
    "torchrecurrent", reason="its adapters need the package, which is no dependency"
)

KINDS = {
    name: kind
    for name in torchrecurrent.__all__
    if issubclass(kind := getattr(torchrecurrent, name), nn.Module)
}
CELLS = sorted(name for name in KINDS if name.endswith("Cell"))
LAYERS = sorted(KINDS.keys() - CELLS)
COPIES_OF_THE_INPUT = ("TGRU", "TLSTM")  # have one as their second state
UNITS, STEPS, SEQUENCES = 4, 6, 5


@pytest.fixture(autouse=True)
def _registered(_nothing_is_compiled_or_registered: None) -> None:
    register_torchrecurrent()


def made(name: str, **options: Any) -> Any:
    torch.manual_seed(0)
    channels = UNITS if name.startswith("IntersectionRNN") else 3
    module = KINDS[name](channels, UNITS, **options).double()
    for parameter in module.parameters():  # many biases begin at zero
        nn.init.normal_(parameter, std=0.5)
    return module


def stepped(cell: nn.Module, x: Tensor, state: Any, *delayed: Tensor) -> tuple[Tensor, Any]:
    """What a step gives upwards, and what it hands on to the next step."""
    output = cell(x, state, *delayed)
    if "Decoupled" in type(cell).__mro__[1].__name__:
        return output
    return (output[0] if isinstance(output, tuple) else output), output


def by_hand(cells: Any, inputs: Tensor) -> dict[str, Tensor]:
    """States ``(batch, step, unit)`` by key; ``inputs`` are ``(step, batch, channel)``."""
    found: dict[str, Tensor] = {}
    for layer, cell in enumerate(cells):
        state: Any = None
        states, outputs = [], []
        zeros = inputs.new_zeros(inputs.shape[1], UNITS)
        for step, x in enumerate(inputs):
            delayed = ()
            if isinstance(cell, torchrecurrent.tauGRUCell):  # hears the state of two steps ago
                delayed = (states[step - 2] if step > 1 else zeros,)
            output, state = stepped(cell, x, state, *delayed)
            states.append(state)
            outputs.append(output)
        if isinstance(states[0], tuple):
            hidden, second = (torch.stack(parts, 1) for parts in zip(*states, strict=True))
            found[f"l{layer}"] = hidden
            if not type(cell).__name__.startswith(COPIES_OF_THE_INPUT):
                found[f"l{layer}.cell"] = second
        else:
            found[f"l{layer}"] = torch.stack(states, 1)
        inputs = torch.stack(outputs)
    return found


def test_the_package_exports_cells_and_layers() -> None:
    assert len(CELLS) >= 41
    assert [f"{name}Cell" for name in LAYERS] == CELLS


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("name", LAYERS)
@torch.no_grad()
def test_layers_have_the_states_of_a_loop_by_hand(name: str, batch_first: bool) -> None:
    layer = made(name, num_layers=3, batch_first=batch_first)
    inputs = torch.randn(STEPS, SEQUENCES, layer.input_size, dtype=torch.double)
    expected = by_hand(layer.cells, inputs)
    given = inputs.transpose(0, 1) if batch_first else inputs
    with HiddenStateRecorder(layer, layers="all", states=("hidden", "cell")) as recorder:
        output, _ = layer(given)
    states = recorder.states
    assert list(states) == list(recurrent_layers(layer)) == list(expected)
    for key, own in expected.items():
        torch.testing.assert_close(states[key].values, own, rtol=0, atol=1e-12)
        assert bool(states[key].valid.all())
        assert recurrent_layers(layer)[key] == own.shape[-1]
    assert torch.equal(layer(given)[0], output)
    with HiddenStateRecorder(layer) as recorder:
        layer(given)
    assert list(recorder.states) == ["l2"]
    assert hook_count(layer) == 0


@pytest.mark.parametrize("as_keyword", [True, False])
@pytest.mark.parametrize("name", CELLS)
@torch.no_grad()
def test_cells_have_the_states_of_the_loop_they_are_called_in(name: str, as_keyword: bool) -> None:
    cell = made(name)
    batches = torch.randn(2, STEPS, SEQUENCES, cell.input_size, dtype=torch.double)
    expected: list[Any] = []
    with HiddenStateRecorder(nn.ModuleDict({"cell": cell}), states=("hidden", "cell")) as recorder:
        for inputs in batches:
            state = None
            for x in inputs:
                output = cell(x, state=state) if as_keyword else cell(x, state)
                state = output
                if "Decoupled" in KINDS[name].__mro__[1].__name__:
                    state = output[1]
                expected.append(state)
    states = recorder.states
    parts = [one if isinstance(one, tuple) else (one,) for one in expected]
    if name.startswith(COPIES_OF_THE_INPUT):
        parts = [one[:1] for one in parts]
    # The second loop starts without a state, so it is another batch of sequences.
    assert list(states) == ["cell.l0", "cell.l0.cell"][: len(parts[0])]
    for own, found in zip(zip(*parts, strict=True), states.values(), strict=True):
        loops = [torch.stack(own[:STEPS], 1), torch.stack(own[STEPS:], 1)]
        assert torch.equal(found.values, torch.cat(loops))


@pytest.mark.parametrize("name", CELLS)
@torch.no_grad()
def test_a_single_sequence_is_a_batch_of_one(name: str) -> None:
    cell = made(name)
    inputs = torch.randn(STEPS, 1, cell.input_size, dtype=torch.double)
    with HiddenStateRecorder(cell, states=("hidden", "cell")) as recorder:
        found = []
        for sequence in (inputs, inputs[:, 0]):
            recorder.clear()
            state = None
            for x in sequence:
                _, state = stepped(cell, x, state)
            found.append(recorder.states)
    for key, states in found[0].items():
        assert found[1][key].values.shape == (1, STEPS, UNITS)
        torch.testing.assert_close(found[1][key].values, states.values)


@pytest.mark.parametrize("name", ["MGU", "TGRU", "PeepholeLSTM", "MCLSTM", "IntersectionRNN"])
@torch.no_grad()
def test_layers_continue_sequences_from_the_state_that_they_returned(name: str) -> None:
    layer = made(name, num_layers=2)
    inputs = torch.randn(STEPS, SEQUENCES, layer.input_size, dtype=torch.double)
    expected = by_hand(layer.cells, inputs)["l1"]
    with HiddenStateRecorder(layer) as recorder:
        _, state = layer(inputs[:2])
        layer(inputs[2:], state=state)
    torch.testing.assert_close(recorder.states["l1"].values, expected, rtol=0, atol=1e-12)
    with HiddenStateRecorder(layer) as recorder:
        layer(inputs)
        layer(inputs)
    assert recorder.batches == {"l1": 2}
    assert recorder.states["l1"].values.shape == (2 * SEQUENCES, STEPS, UNITS)


class Own(torchrecurrent.base.SingleStateCellBase):
    def forward(self, inp: Tensor, state: Tensor) -> Tensor:
        return torch.tanh(inp + state)


@torch.no_grad()
def test_classes_built_on_its_bases_are_registered_too() -> None:
    cell, h = Own(UNITS, UNITS), torch.zeros(SEQUENCES, UNITS)
    with HiddenStateRecorder(cell) as recorder:
        h = cell(torch.ones(SEQUENCES, UNITS), h)
    assert torch.equal(recorder.states["l0"].values[:, 0], h)


class Janet(Classifier):
    def __init__(self) -> None:
        super().__init__()
        self.rnn = torchrecurrent.JANET(1, 6, num_layers=2, dropout=0.5, batch_first=True)


def test_the_callback_analyses_layers_with_one_line_of_the_user() -> None:
    callback = RelayInformationCallback(layers="all", states=("hidden", "cell"))
    model = Janet()
    quiet_trainer(callback, max_epochs=1).fit(model, loader(), loader())
    (report,) = callback.reports
    assert list(report.layers) == ["rnn.l0", "rnn.l0.cell", "rnn.l1", "rnn.l1.cell"]
    assert report.samples == 48
    assert hook_count(model) == 0


class UntrainedJanet(Janet, Untrained):
    pass


def test_the_knock_out_callback_refuses_before_training() -> None:
    refused_before_training(
        KnockoutCallback(),
        r"units: 'rnn' \(JANET\) has an adapter, .* Select others, such as with EveryUnit",
        kind=UntrainedJanet,
        num_sanity_val_steps=0,
    )


@pytest.mark.parametrize("name", ["JANET", "JANETCell"])
def test_knock_outs_are_refused(name: str) -> None:
    model = nn.Sequential(made(name)).eval()
    with (
        pytest.raises(
            ValueError,
            match=rf"^units: '0' \({name}\) has an adapter, which tells how its states are read "
            "but not how they are replaced; knock-outs take nn.RNN, nn.GRU, nn.LSTM and their ",
        ),
        knocked_out(model, {"0.l0": [1]}),
    ):
        pass
