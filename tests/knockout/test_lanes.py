"""Lanes give what ``knocked_out`` gives for one set after the other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_sequence

from lightning_relay import HiddenStateRecorder, HiddenStates, knocked_out
from lightning_relay.knockout import side_by_side
from lightning_relay.knockout.arguments import make_clamps
from lightning_relay.knockout.lanes import KnockoutLanes
from tests.support.hooks import hook_count
from tests.support.matrix import CHANNELS, FUSED, UNITS, Loop
from tests.support.tensors import tensors_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

STEPS, BATCH = 6, 5
WINDOWS: tuple[Any, ...] = (None, 2, slice(3, 5), (0, 4), -1)


@pytest.fixture(params=[1, 10**9], ids=["together", "by the kernel"])
def least(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lanes are computed together, or each by PyTorch's kernel."""
    counts = dict.fromkeys(side_by_side._LEAST_LANES, request.param)
    monkeypatch.setattr(side_by_side, "_LEAST_LANES", counts)
    monkeypatch.setattr(side_by_side, "_ROWS", {"cpu": 4 * BATCH, "cuda": 4 * BATCH})


def lively(model: nn.Module) -> Any:
    """In float64, with weights so large that every unit matters."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.7)
    return model.double().eval()


def compare(
    model: nn.Module,
    args: tuple[Any, ...],
    sets: Sequence[Mapping[str, Any]],
    *,
    states: Mapping[str, HiddenStates] | None = None,
    order: Sequence[int] | None = None,
    **options: Any,
) -> None:
    """Lanes against ``knocked_out``, to 1e-12; every set must change something."""
    clamps = [make_clamps(model, units, states=states, **options) for units in sets]
    with torch.no_grad():
        plain = tensors_of(model(*args))
        expected = []
        for units in sets:
            with knocked_out(model, units, states=states, **options):
                expected.append(tensors_of(model(*args)))
        with KnockoutLanes(model, clamps) as lanes:
            with lanes.lane(None):
                found = tensors_of(model(*args))
            torch.testing.assert_close(found, plain, rtol=0, atol=1e-12)
            for lane in range(len(sets)) if order is None else order:
                with lanes.lane(lane):
                    found = tensors_of(model(*args))
                torch.testing.assert_close(found, expected[lane], rtol=0, atol=1e-12)
                pairs = zip(found, plain, strict=True)
                assert max(float((a - b).abs().max()) for a, b in pairs) > 1e-3
            with lanes.lane(None):
                again = tensors_of(model(*args))
            torch.testing.assert_close(again, plain, rtol=0, atol=1e-12)


def recorded(model: nn.Module, *args: Any) -> dict[str, HiddenStates]:
    with (
        torch.no_grad(),
        HiddenStateRecorder(model, layers="all", states=("hidden", "cell")) as recorder,
    ):
        model(*args)
    return recorder.states


@pytest.mark.usefixtures("least")
@pytest.mark.parametrize("steps", WINDOWS, ids=str)
@pytest.mark.parametrize("kind", FUSED)
def test_single_units_of_all_layers(kind: str, steps: Any) -> None:
    model = lively(FUSED[kind](CHANNELS, UNITS, num_layers=2, batch_first=True))
    x = torch.randn(BATCH, STEPS, CHANNELS, dtype=torch.float64)
    keys = list(recorded(model, x))
    sets = [{key: unit} for unit in range(UNITS) for key in keys]
    compare(model, (x,), sets, steps=steps, value=0.37)


@pytest.mark.usefixtures("least")
@pytest.mark.parametrize("value", ["mean", "mean_per_step", "resample"])
@pytest.mark.parametrize("kind", ["nn.GRU", "nn.LSTM"])
@pytest.mark.parametrize("packing", [False, True])
def test_values_made_of_states(kind: str, value: str, packing: bool) -> None:
    model = lively(FUSED[kind](CHANNELS, UNITS, num_layers=2, bidirectional=True))
    sequences = [
        torch.randn(length, CHANNELS, dtype=torch.float64) for length in (3, STEPS, 1, 5, STEPS)
    ]
    x: Any = torch.randn(STEPS, BATCH, CHANNELS, dtype=torch.float64)
    if packing:
        x = pack_sequence(sequences, enforce_sorted=False)
    states = recorded(model, x)
    sets = [{key: [unit, 0]} for key in states for unit in (1, 3)]
    compare(model, (x,), sets, value=value, states=states, seed=4)
    compare(model, (x,), sets, value=value, states=states, seed=4, steps=slice(-2, None))


@pytest.mark.usefixtures("least")
@pytest.mark.parametrize("kind", ["nn.RNN, relu", "nn.GRU", "nn.LSTM"])
def test_other_layouts(kind: str) -> None:
    options: dict[str, Any] = {"proj_size": 3} if kind == "nn.LSTM" else {"bias": False}
    model = lively(FUSED[kind](CHANNELS, UNITS, num_layers=2, **options))
    units = model.proj_size or UNITS
    sets = [{"l0": unit, "l1": [0, unit]} for unit in range(1, units)]
    one = torch.randn(STEPS, CHANNELS, dtype=torch.float64)
    compare(model, (one,), sets, steps=(1, 3))
    given = [torch.randn(2, BATCH, size, dtype=torch.float64) for size in (units, UNITS)]
    h_0 = tuple(given) if kind == "nn.LSTM" else given[0]
    compare(model, (one.unsqueeze(1).repeat(1, BATCH, 1), h_0), sets, value=-0.5)


@pytest.mark.usefixtures("least")
def test_sets_that_hold_different_things_in_any_order() -> None:
    model = lively(nn.LSTM(CHANNELS, UNITS, num_layers=2))
    x = torch.randn(STEPS, BATCH, CHANNELS, dtype=torch.float64)
    sets: list[dict[str, Any]] = [
        {"l0": 1},
        {"l1": [0, 2], "l0.cell": 1},
        {"l1.cell": [3]},
        {"l0": [0, 1, 2, 3]},
        {"l1": 1},
    ]
    compare(model, (x,), sets, order=[3, 0, 4, 4, 1, 2], value=0.2)


class Translator(nn.Module):
    """An encoder and a decoder that reads its output; may change what they give in place."""

    def __init__(self, in_place: bool = False, pieces: int = 0) -> None:
        super().__init__()
        self.encoder = nn.GRU(CHANNELS, UNITS, batch_first=True)
        self.decoder = nn.LSTM(UNITS, UNITS, batch_first=True)
        self.in_place = in_place
        self.pieces = pieces

    def forward(self, x: Tensor) -> Any:
        output, h_n = self.encoder(x)
        if self.in_place:
            output.mul_(0.5).add_(0.1)
            h_n.zero_()
        if not self.pieces:
            decoded, final = self.decoder(output)
        else:
            parts, final = [], None
            for piece in output.split(self.pieces, dim=1):
                part, final = self.decoder(piece, final)
                parts.append(part)
            decoded = torch.cat(parts, 1)
        if self.in_place:
            decoded.add_(1.0)
        return output, decoded, final


@pytest.mark.usefixtures("least")
@pytest.mark.parametrize("steps", [None, 2, slice(1, 4)], ids=str)
@pytest.mark.parametrize("options", [{}, {"in_place": True}, {"pieces": 2}], ids=str)
def test_a_module_that_reads_another(options: dict[str, Any], steps: Any) -> None:
    model = lively(Translator(**options))
    x = torch.randn(BATCH, STEPS, CHANNELS, dtype=torch.float64)
    sets: list[dict[str, Any]] = [
        {"encoder.l0": 0},
        {"decoder.l0": 1},
        {"decoder.l0.cell": 2},
        {"encoder.l0": 3, "decoder.l0": 0},
        {"encoder.l0": 1},
        {"decoder.l0": 2},
    ]
    compare(model, (x,), sets, steps=steps, value=0.9)


class Twice(nn.Module):
    """A module called twice in a step, the second time on what it gave the first time."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.RNN(UNITS, UNITS, batch_first=True)

    def forward(self, x: Tensor) -> Any:
        output, _ = self.rnn(x)
        return self.rnn(output.flip(1))


@pytest.mark.usefixtures("least")
@pytest.mark.parametrize("steps", [None, 4], ids=str)
def test_a_module_called_twice(steps: Any) -> None:
    x = torch.randn(BATCH, STEPS, UNITS, dtype=torch.float64)
    compare(lively(Twice()), (x,), [{"rnn.l0": unit} for unit in range(UNITS)], steps=steps)


@pytest.mark.usefixtures("least")
def test_every_call_of_a_module_draws_anew() -> None:
    model = lively(Twice())
    x = torch.randn(BATCH, STEPS, UNITS, dtype=torch.float64)
    once = recorded(model.rnn, x)
    sets = [{"rnn.l0": [unit, 0]} for unit in range(1, UNITS)]
    compare(model, (x,), sets, value="resample", states={"rnn.l0": once["l0"]}, seed=2)
    order = [2, 0, 1, 0, 2, 2]  # again and again, as in a block that is entered
    compare(model, (x,), sets, value="resample", states={"rnn.l0": once["l0"]}, order=order)


class Mixed(nn.Module):
    """A cell in a loop beside a fused module."""

    def __init__(self) -> None:
        super().__init__()
        self.fused = nn.GRU(CHANNELS, CHANNELS)
        self.loop = Loop(nn.LSTMCell(CHANNELS, UNITS))

    def forward(self, x: Tensor) -> Any:
        return self.loop(self.fused(x)[0])


@pytest.mark.usefixtures("least")
@pytest.mark.parametrize("steps", [None, (1, 2)], ids=str)
def test_a_cell_beside_a_fused_module(steps: Any) -> None:
    x = torch.randn(STEPS, BATCH, CHANNELS, dtype=torch.float64)
    sets: list[dict[str, Any]] = [
        {"fused.l0": 0},
        {"loop.cell.l0": 1},
        {"loop.cell.l0.cell": 3},
        {"fused.l0": 2, "loop.cell.l0": [0, 2]},
        {"fused.l0": [0, 1]},
    ]
    compare(lively(Mixed()), (x,), sets, steps=steps, value=0.8)


@pytest.mark.usefixtures("least")
@pytest.mark.parametrize("kind", FUSED)
def test_windows_in_any_order_share_the_steps_before_them(kind: str) -> None:
    model = lively(FUSED[kind](CHANNELS, UNITS))
    x = torch.randn(STEPS, BATCH, CHANNELS, dtype=torch.float64)
    windows = [(unit, step) for step in (2, 4, 1, 5, 3) for unit in (0, 3)]
    clamps = [make_clamps(model, {"l0": unit}, value=0.6, steps=step) for unit, step in windows]
    with torch.no_grad():
        expected = []
        for unit, step in windows:
            with knocked_out(model, {"l0": unit}, value=0.6, steps=step):
                expected.append(tensors_of(model(x)))
        with KnockoutLanes(model, clamps) as lanes:
            for lane, tensors in enumerate(expected):
                with lanes.lane(lane):
                    found = tensors_of(model(x))
                torch.testing.assert_close(found, tensors, rtol=0, atol=1e-12)


@pytest.mark.usefixtures("least")
def test_inputs_of_another_batch_are_not_taken_for_those_before() -> None:
    model = lively(nn.GRU(CHANNELS, UNITS))
    first, second = torch.randn(2, STEPS, BATCH, CHANNELS, dtype=torch.float64)
    clamps = [make_clamps(model, {"l0": unit}) for unit in range(UNITS)]
    with torch.no_grad(), KnockoutLanes(model, clamps) as lanes:
        sequences = first.unbind(1)
        packed = [pack_sequence(part) for part in (sequences, sequences[:2])]
        for x in (first, second, first[:3], first[:, :2], *packed):
            for unit in (None, *range(UNITS)):
                with lanes.lane(unit):
                    found = tensors_of(model(x))
                if unit is None:
                    expected = tensors_of(type(model).forward(model, x))
                else:
                    with knocked_out(reference := lively(nn.GRU(CHANNELS, UNITS)), {"l0": unit}):
                        expected = tensors_of(reference(x))
                torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_an_exception_in_a_lane_leaves_the_model_as_it_was() -> None:
    model = lively(Mixed())
    before = [(vars(module).copy(), hook_count(module)) for module in model.modules()]
    clamps = [make_clamps(model, {"fused.l0": 0, "loop.cell.l0": 1})]
    x = torch.randn(STEPS, BATCH, CHANNELS, dtype=torch.float64)

    def interrupted() -> None:
        with KnockoutLanes(model, clamps) as lanes, lanes.lane(0):
            assert "forward" in vars(model.fused)
            model(x)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    after = [(vars(module), hook_count(module)) for module in model.modules()]
    for (own, hooks), (later, later_hooks) in zip(before, after, strict=True):
        assert own.keys() == later.keys()
        assert all(own[name] is later[name] for name in own)
        assert hooks == later_hooks


def test_modules_in_training_mode_are_refused() -> None:
    model = nn.GRU(CHANNELS, UNITS)
    with pytest.raises(RuntimeError, match=r"^model: '' \(GRU\) is in training mode; knock-outs"):
        KnockoutLanes(model, [make_clamps(model, {"l0": 0})])


def test_the_longest_sequence_is_known() -> None:
    model = lively(Translator())
    with torch.no_grad(), KnockoutLanes(model, [make_clamps(model, {"encoder.l0": 0})]) as lanes:
        for steps in (3, 5, 4):
            with lanes.lane(None):
                model(torch.randn(2, steps, CHANNELS, dtype=torch.float64))
        assert lanes.longest == {"encoder": 5, "decoder": 5}


def test_the_random_streams_are_left_alone() -> None:
    model = lively(nn.GRU(CHANNELS, UNITS))
    x = torch.randn(STEPS, BATCH, CHANNELS, dtype=torch.float64)
    states = recorded(model, x)
    stream = torch.get_rng_state()
    clamps = [make_clamps(model, {"l0": 0}, value="resample", states=states)]
    with torch.no_grad(), KnockoutLanes(model, clamps) as lanes, lanes.lane(0):
        model(x)
    assert torch.equal(torch.get_rng_state(), stream)
