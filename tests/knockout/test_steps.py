"""Which steps are held: sequences in pieces, loops, and steps that no sequence has."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
import torch
import torch._dynamo
from torch import Tensor, nn

from lightning_relay.knockout.context import knocked_out
from lightning_relay.recurrent.errors import StepError
from tests.support.matrix import (
    CELLS,
    FUSED,
    UNITS,
    VARIATIONS,
    Bench,
    Variation,
    assert_agree,
    random_values,
)

if TYPE_CHECKING:
    from collections.abc import Sequence


class Pieces(nn.Module):
    """Calls a fused module on a few steps at a time, with the state that it returned before."""

    def __init__(self, rnn: nn.RNNBase, sizes: Sequence[int]) -> None:
        super().__init__()
        self.rnn = rnn
        self.sizes = list(sizes)

    def forward(self, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        output = []
        for part in x.split(self.sizes):
            found, state = self.rnn(part, state)
            output.append(found)
        return torch.cat(output), state


@torch.no_grad()
@pytest.mark.parametrize("kind", FUSED)
@pytest.mark.parametrize("given", [False, True], ids=["from zeros", "initial states given"])
@pytest.mark.parametrize("steps", [None, slice(1, 4), slice(3, None), slice(0, 2), 0, {0, 1}])
def test_pieces_that_hand_over_the_state_are_one_sequence(
    kind: str, given: bool, steps: Any
) -> None:
    bench = Bench(kind, Variation({"num_layers": 2}, initial=given))
    model = Pieces(bench.model, (2, 1, 2)).eval()
    units = {"l0": [1, 3], "l1": [0, 2]}
    own = {f"rnn.{key}": named for key, named in units.items()}
    for value in ("zero", 0.5, random_values(3, 1, 2), random_values(5, 2), random_values(3, 5, 2)):
        expected = bench.expected(units, value, steps)
        with knocked_out(model, own, value=value, steps=steps):
            assert_agree(bench.call(model), expected)
            assert_agree(bench.call(model), expected)


@torch.no_grad()
@pytest.mark.parametrize("kind", CELLS)
def test_a_loop_begins_with_a_call_of_the_model_or_without_a_state(kind: str) -> None:
    bench = Bench(kind, VARIATIONS["initial states given"])
    with knocked_out(bench.model, {"cell.l0": 2}, value=0.5, steps=2):
        for _ in range(3):
            assert_agree(bench.call(), bench.expected({"cell.l0": 2}, 0.5, 2))

    bench = Bench(kind)
    cell = bench.model.cell
    [inputs] = bench.arguments()
    zeros = torch.zeros(3, UNITS, dtype=torch.float64)
    with knocked_out(cell, {"l0": 2}, value=0.5, steps=slice(1, 3)):
        for start in (None, (zeros, zeros) if kind == "nn.LSTMCell" else zeros, None):
            state, output = start, []
            for x in inputs:
                state = cell(x, hx=state)
                output.append(state[0] if isinstance(state, tuple) else state)
            found = bench.split(torch.stack(output), state)
            assert_agree(found, bench.expected({"cell.l0": 2}, 0.5, slice(1, 3)))


@torch.no_grad()
@pytest.mark.parametrize("kind", CELLS)
def test_units_that_are_all_zero_do_not_start_a_loop_anew(kind: str) -> None:
    bench = Bench(kind)
    units = {"cell.l0": range(UNITS)}
    if kind == "nn.LSTMCell":
        units["cell.l0.cell"] = range(UNITS)
    for steps in (0, {1, 3}):
        with knocked_out(bench.model, units, steps=steps):
            assert_agree(bench.call(), bench.expected(units, "zero", steps))


@pytest.mark.parametrize(
    ("shape", "count", "takes"),
    [
        ((2, 5, 1), "2 sequences", "on 3; it takes (batch, step, unit) with batch 1 or 3"),
        ((4, 1, 1), "4 sequences", "on 3; it takes (batch, step, unit) with batch 1 or 3"),
        ((4, 1), "4 steps", "on 5; it takes values for every step, or (1, 1) for the same at all"),
        (
            (3, 2, 1),
            "2 steps",
            "on {}; it takes values for every step, or (1, 1) for the same at all",
        ),
    ],
)
@pytest.mark.parametrize(("kind", "noticed_at"), [("nn.GRU", 5), ("nn.GRUCell", 3)])
def test_values_that_do_not_fit_the_batch_are_refused_at_the_call(
    kind: str, noticed_at: int, shape: tuple[int, ...], count: str, takes: str
) -> None:
    bench = Bench(kind)
    key = f"{bench.prefix}l0"
    message = f"value: got values for {count} of {key!r}, which was called {takes}"
    with (
        pytest.raises(ValueError, match=f"^{re.escape(message.format(noticed_at))}$"),
        knocked_out(bench.model, {key: 1}, value=torch.zeros(shape)),
    ):
        bench.call()


@torch.no_grad()
def test_steps_outside_the_longest_sequence_are_refused() -> None:
    bench = Bench("nn.GRU", Variation({}, (2, 6, 3), packed="unsorted"))
    for steps in (6, -7, {0, 6}, [-7, 1]):
        with (
            pytest.raises(
                StepError,
                match=r"^steps: got .*(6|-7).*, but the longest sequence has 6 steps; it takes "
                r"positions from 0 to 5, or -1 to -6 from the end of each sequence$",
            ),
            knocked_out(bench.model, {"l0": 1}, steps=steps),
        ):
            bench.call()
    for steps in (5, -6):
        with knocked_out(bench.model, {"l0": 1}, steps=steps):
            assert_agree(bench.call(), bench.expected({"l0": 1}, "zero", steps))
