from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import nn

from lightning_relay import HiddenStateRecorder
from tests.recurrent.captured import PAGE, table, with_table
from tests.recurrent.matrix import CELLS, FUSED, VARIATIONS, Variation, differences

pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")


@pytest.fixture(autouse=True)
def _nothing_compiled() -> None:
    torch.compiler.reset()


@pytest.mark.parametrize(
    ("kind", "variation"),
    [
        pytest.param(kind, variation, id=f"{kind}: {name}")
        for kind in (*FUSED, *CELLS)
        for name, variation in VARIATIONS.items()
        if variation.exists(kind)
    ],
)
def test_all_states_of_all_layers_equal_the_reference(kind: str, variation: Variation) -> None:
    assert max(differences(kind, variation).values()) <= variation.tolerance


@pytest.mark.parametrize("kind", CELLS)
def test_what_compiled_code_leaves_out_is_an_error(kind: str) -> None:
    (variation,) = (variation for variation in VARIATIONS.values() if variation.silent(kind))
    with pytest.raises(RuntimeError, match=r"recorder: nothing was recorded of 'cell'"):
        differences(kind, variation)


def test_the_table_of_the_documentation_is_what_is_measured() -> None:
    page = PAGE.read_text()
    assert with_table(page, table()) == page


@pytest.mark.parametrize("kind", FUSED)
@pytest.mark.parametrize("packed", [None, "sorted", "unsorted"])
def test_every_combination_of_options_equals_the_reference(kind: str, packed: str | None) -> None:
    projections = (0, 2) if kind == "nn.LSTM" else (0,)
    combinations = product(
        (1, 2, 3), (False, True), (False, True), (False, True), projections, (False, True)
    )
    for num_layers, bidirectional, batch_first, bias, proj_size, initial in combinations:
        options = {
            "num_layers": num_layers,
            "bidirectional": bidirectional,
            "batch_first": batch_first,
            "bias": bias,
        } | ({"proj_size": proj_size} if proj_size else {})
        lengths = {None: (4, 4), "sorted": (4, 1), "unsorted": (2, 4)}[packed]
        variation = Variation(options, lengths, packed=packed, initial=initial)
        assert max(differences(kind, variation).values()) <= variation.tolerance, options


def test_gates_in_blocks_of_steps_give_the_same_states(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning_relay.recurrent.replay._GATES_AT_ONCE", 1)
    for name in ("packed, unsorted", "initial states given"):
        assert max(differences("nn.LSTM", VARIATIONS[name]).values()) <= 1e-12


def deep_lstm(**options: float) -> nn.LSTM:
    return nn.LSTM(2, 3, num_layers=3, **options)


def test_states_are_replayed_when_they_are_read_and_only_then() -> None:
    model = deep_lstm()
    with torch.no_grad(), HiddenStateRecorder(model, layers="all") as recorder:
        model(torch.ones(4, 1, 2))
    first = recorder.states["l0"].values
    with torch.no_grad():
        model.weight_ih_l0.add_(1.0)
    assert torch.equal(recorder.states["l0"].values, first)

    with torch.no_grad(), HiddenStateRecorder(model, layers="all") as recorder:
        model(torch.ones(4, 1, 2))
        model.weight_ih_l0.sub_(1.0)
    with pytest.raises(
        ValueError, match=r"layers, states: the replay of '' \(LSTM\) ends up to .* away from the"
    ):
        recorder.states  # noqa: B018


def test_a_forward_that_does_more_than_that_of_pytorch_is_refused() -> None:
    class Scaled(nn.LSTM):
        def forward(self, *args: torch.Tensor) -> object:
            return super().forward(2 * args[0])

    model = nn.Sequential(Scaled(2, 3))
    states = ("hidden", "cell")
    with torch.no_grad(), HiddenStateRecorder(model, states=states) as recorder:
        model(torch.ones(4, 1, 2))
    with pytest.raises(
        ValueError, match=r"its forward does more than PyTorch's: record only layers"
    ):
        recorder.states  # noqa: B018


def test_inner_states_behind_random_dropout_are_refused_at_once() -> None:
    model = deep_lstm(dropout=0.5).train()
    message = r"layers, states: '' is in training mode with dropout=0.5 between its layers"
    for options in ({"layers": "all"}, {"states": ("cell",)}):
        with HiddenStateRecorder(model, **options), pytest.raises(ValueError, match=message):
            model(torch.ones(4, 1, 2))
    two = nn.GRU(2, 3, num_layers=2, dropout=0.5).train()
    with HiddenStateRecorder(two, layers="all") as recorder:
        output, final = two(torch.ones(4, 1, 2))
    states = recorder.states
    torch.testing.assert_close(states["l0"].values[:, -1], final[0])
    torch.testing.assert_close(states["l1"].values, output.transpose(0, 1))


def test_the_user_may_change_inputs_and_outputs_afterwards() -> None:
    model = deep_lstm().eval()
    inputs, hx = torch.ones(4, 1, 2), (torch.ones(3, 1, 3), torch.ones(3, 1, 3))
    with (
        torch.no_grad(),
        HiddenStateRecorder(model, layers="all", states=("hidden", "cell")) as recorder,
    ):
        model(inputs, hx)
        expected = recorder.states
        recorder.clear()
        for tensor in (*model(inputs, hx)[1], inputs, *hx):
            tensor.zero_()
        for key, states in recorder.states.items():
            assert torch.equal(states.values, expected[key].values)
