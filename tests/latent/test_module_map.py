"""A module's map against the module itself, and against derivatives by differences."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_relay.latent.module_map import ModuleMap
from lightning_relay.recurrent.keys import StateKey

MODULES: list[nn.RNNBase] = [
    kind(2, 3, num_layers=layers, bias=bias)
    for kind, layers, bias in product((nn.RNN, nn.GRU, nn.LSTM), (1, 2), (True, False))
]
MODULES += [nn.RNN(2, 3, nonlinearity="relu"), nn.LSTM(2, 3, 2, proj_size=2)]
CELLS: list[nn.RNNCellBase] = [
    nn.RNNCell(2, 3),
    nn.RNNCell(2, 3, nonlinearity="relu", bias=False),
    nn.GRUCell(2, 3),
    nn.LSTMCell(2, 3),
]


def map_of(module: nn.Module) -> ModuleMap:
    found = ModuleMap.of("rnn", module.double())
    assert isinstance(found, ModuleMap)
    return found


def states_of(step: ModuleMap, batch: int = 4) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    width = sum(step.units.values())
    return torch.randn(batch, width, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("inputs", [torch.zeros(2), torch.tensor([0.7, -1.2])], ids=["zero", "own"])
@pytest.mark.parametrize("module", MODULES, ids=str)
def test_a_step_is_that_of_the_module(module: nn.RNNBase, inputs: Tensor) -> None:
    step = map_of(module).with_inputs(inputs, "given")
    states = states_of(step)
    parts = {key: states[:, part] for key, part in step.parts.items()}
    hidden = torch.stack([part for key, part in parts.items() if not key.cell])
    cells = [part for key, part in parts.items() if key.cell]
    state: Any = (hidden, torch.stack(cells)) if cells else hidden
    with torch.no_grad():
        _, new = module(inputs.double().expand(1, len(states), -1), state)
    new_hidden, new_cells = new if cells else (new, None)
    after = step(states)
    for key, part in step.parts.items():
        expected = (new_cells if key.cell else new_hidden)[key.layer]
        torch.testing.assert_close(after[:, part], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_a_step_is_that_of_the_cell(cell: nn.RNNCellBase) -> None:
    step = map_of(cell)
    states = states_of(step)
    with torch.no_grad():
        state: Any = states.split(3, 1) if isinstance(cell, nn.LSTMCell) else states
        new = cell(torch.zeros(len(states), 2).double(), state)
    expected = torch.cat(new, 1) if isinstance(cell, nn.LSTMCell) else new
    torch.testing.assert_close(step(states), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("module", [*MODULES[:6], *MODULES[-1:], *CELLS], ids=str)
def test_the_jacobian_is_the_limit_of_differences(module: nn.Module) -> None:
    step = map_of(module)
    states = states_of(step, 2)
    small = 1e-6
    shifts = small * torch.eye(states.shape[1], dtype=torch.float64)
    ahead, back = step(states[:, None] + shifts), step(states[:, None] - shifts)
    expected = ((ahead - back) / (2 * small)).transpose(1, 2)
    torch.testing.assert_close(step.jacobian(states), expected, rtol=0, atol=1e-7)


def test_later_training_does_not_change_a_map() -> None:
    module = nn.GRU(2, 3)
    with torch.inference_mode():
        step = map_of(module)
    states = states_of(step)
    before = step(states)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.zero_()
    assert torch.equal(step(states), before)
    assert not before.requires_grad


def test_what_is_no_map_says_why() -> None:
    class Own(nn.GRU):
        def forward(self, *args: Any) -> Any:
            return super().forward(*args)

    assert ModuleMap.of("rnn", nn.GRU(1, 2, bidirectional=True)) == (
        "GRU is bidirectional: one direction begins where the other ends"
    )
    assert ModuleMap.of("rnn", Own(1, 2)) == "Own computes its states in a way of its own"


def test_inputs_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match=r"inputs: got shape \(3,\); it takes \(2,\)"):
        map_of(nn.GRU(2, 3)).with_inputs(torch.zeros(3), "given")


def test_the_order_of_the_states() -> None:
    step = map_of(nn.LSTM(2, 3, 2))
    keys = [StateKey("rnn", layer, cell=cell) for layer in (0, 1) for cell in (False, True)]
    assert list(step.units) == keys
