from __future__ import annotations

import functools
import re
from itertools import product

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrize import register_parametrization
from torch.nn.utils.rnn import pack_padded_sequence

from lightning_relay import HiddenStateRecorder
from tests.support.captured import PAGE, SCRIPT, table
from tests.support.machine import has_bfloat16_lstm, skip_without_bfloat16_lstm
from tests.support.matrix import CELLS, FUSED, VARIATIONS, Variation, differences
from tests.support.pages import with_table

pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")


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
    if kind == "nn.LSTM" and variation.autocast is not None:
        skip_without_bfloat16_lstm()
    assert max(differences(kind, variation).values()) <= variation.tolerance


def test_the_table_of_the_documentation_is_what_is_measured() -> None:
    page = PAGE.read_text()
    if not has_bfloat16_lstm():  # the row cannot be measured here; the others are compared
        page, rows = re.subn(r"^\| autocast to bfloat16 \|.*\n", "", page, flags=re.MULTILINE)
        assert rows == 1
    measured = {
        name: variation
        for name, variation in VARIATIONS.items()
        if variation.autocast is None or has_bfloat16_lstm()
    }
    assert with_table(page, SCRIPT, table(measured)) == page


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
        model.weight_ih_l0.mul_(1 + 1e-6)
    with pytest.raises(
        ValueError, match=r"layers, states: the weights of '' \(LSTM\) have changed since it was"
    ):
        recorder.states  # noqa: B018


def test_weights_that_were_replaced_since_do_not_matter() -> None:
    model = deep_lstm()
    with torch.no_grad(), HiddenStateRecorder(model, layers="all") as recorder:
        model(torch.ones(4, 1, 2))
        expected = recorder.states["l0"].values
        recorder.clear()
        model(torch.ones(4, 1, 2))
        model.double()
        assert torch.equal(recorder.states["l0"].values, expected)


def test_a_replay_that_ends_elsewhere_is_refused() -> None:
    model = deep_lstm()
    with torch.no_grad(), HiddenStateRecorder(model, layers="all") as recorder:
        model(torch.ones(4, 1, 2))
        model.weight_ih_l0.data.add_(1.0)  # a change that no counter of torch's tells
    with pytest.raises(
        ValueError, match=r"layers, states: the replay of '' \(LSTM\) ends up to .* away from the"
    ):
        recorder.states  # noqa: B018


class Noise(nn.Module):
    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight + torch.randn_like(weight)


def test_parametrized_weights_are_those_of_the_call_and_not_computed_again() -> None:
    model = nn.GRU(2, 3, num_layers=2)
    register_parametrization(model, "weight_hh_l0", Noise())
    with torch.no_grad(), HiddenStateRecorder(model, layers="all") as recorder:
        _, final = model(torch.ones(4, 1, 2))
    before = torch.get_rng_state()
    assert torch.equal(recorder.states["l0"].values[:, -1], final[0])
    assert torch.equal(torch.get_rng_state(), before)


def test_a_replay_runs_in_the_precision_of_the_call() -> None:
    skip_without_bfloat16_lstm()
    model = nn.LSTM(8, 32, num_layers=2)
    recorder = HiddenStateRecorder(model, layers="all", states=("hidden", "cell"))
    with torch.no_grad(), recorder:
        with torch.autocast("cpu", torch.bfloat16):
            _, (final, _) = model(torch.randn(20, 4, 8))
        assert recorder.states["l0"].values.dtype == torch.bfloat16
        assert torch.equal(recorder.states["l0"].values[:, -1], final[0])


@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU, nn.LSTM])
def test_packed_calls_under_autocast_are_replayed_though_they_return_float32(
    kind: type[nn.RNNBase],
) -> None:
    """The gap is that of bfloat16, and grows with the weights."""
    skip_without_bfloat16_lstm()
    torch.manual_seed(0)
    model = kind(8, 12, num_layers=2, batch_first=True)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= 4
    packed = pack_padded_sequence(torch.randn(6, 9, 8), [9, 8, 8, 5, 3, 2], batch_first=True)
    recorder = HiddenStateRecorder(model, layers="all", states=("hidden", "cell"))
    exact = HiddenStateRecorder(model, layers="all", states=("hidden", "cell"))
    with torch.no_grad():
        with recorder, torch.autocast("cpu", torch.bfloat16):
            model(packed)
        with exact:
            model(packed)
    for key, states in recorder.states.items():
        torch.testing.assert_close(
            states.values.float(), exact.states[key].values, rtol=0.1, atol=0.2
        )


def test_a_replay_does_not_run_in_the_precision_in_which_it_is_read() -> None:
    model = nn.LSTM(8, 32, num_layers=2)
    recorder = HiddenStateRecorder(model, layers="all", states=("hidden", "cell"))
    with torch.no_grad(), recorder:
        _, (_, cell) = model(torch.randn(20, 4, 8))
        with torch.autocast("cpu", torch.bfloat16):
            states = recorder.states
        assert states["l0.cell"].values.dtype == torch.float32
        for layer in range(2):
            last = states[f"l{layer}.cell"].values[:, -1]
            torch.testing.assert_close(last, cell[layer], rtol=1e-5, atol=1e-6)


def test_a_forward_of_its_own_is_refused_at_once() -> None:
    class LearnedStart(nn.GRU):
        def forward(self, *args: torch.Tensor) -> object:
            return super().forward(args[0], torch.ones(2, 1, 3))

    model = nn.Sequential(LearnedStart(2, 3, num_layers=2))
    with HiddenStateRecorder(model) as recorder:
        output, _ = model(torch.ones(4, 1, 2))
        assert torch.equal(recorder.states["0.l1"].values, output.transpose(0, 1))
    patched = nn.LSTM(2, 3)
    patched.forward = functools.partial(nn.LSTM.forward, patched)
    far = r"\(LearnedStart\) has a forward of its own, whose output is up to .* away from that of"
    for module, options, words in (
        (model, {"layers": "all"}, far),
        (patched, {"states": ("cell",)}, "own, which was set on the module itself .* cannot be re"),
    ):
        with HiddenStateRecorder(module, **options), pytest.raises(ValueError, match=words):
            module(torch.ones(4, 1, 2))


def test_inner_states_behind_random_dropout_are_refused_at_once() -> None:
    model = deep_lstm(dropout=0.5).train()
    message = r"layers, states: '' is in training mode with dropout=0.5 between its la"
    for module, options in (
        (model, {"layers": "all"}),
        (model, {"states": ("cell",)}),
        (nn.LSTM(2, 3, num_layers=2, dropout=0.5), {"states": ("cell",)}),
    ):
        with HiddenStateRecorder(module, **options), pytest.raises(ValueError, match=message):
            module(torch.ones(4, 1, 2))
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
        output, final = model(input=inputs, hx=hx)
        for tensor in (output, *final, inputs, *hx):
            tensor.zero_()
        for key, states in recorder.states.items():
            assert torch.equal(states.values, expected[key].values)
