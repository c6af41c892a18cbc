"""What the recorder sees of a model with units knocked out."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import pytest
import torch
import torch._dynamo

from lightning_relay import HiddenStateRecorder, HiddenStates
from lightning_relay.knockout.context import knocked_out
from tests.support.matrix import (
    CELLS,
    FUSED,
    VARIATIONS,
    Bench,
    assert_agree,
)

if TYPE_CHECKING:
    from collections.abc import Sequence


@torch.no_grad()
@pytest.mark.parametrize("kind", [*FUSED, *CELLS])
@pytest.mark.parametrize("entered", ["before", "inside"])
def test_the_recorder_sees_the_held_states_of_the_last_layer(kind: str, entered: str) -> None:
    variation = VARIATIONS["one layer" if kind in CELLS else "packed, unsorted"]
    bench = Bench(kind, variation)
    units: dict[str, Sequence[int]] = {"l0": [1], "l1_reverse": [0], "l2_reverse": [1, 0]}
    steps: Any = slice(-3, -1)
    if kind in CELLS:
        units, steps = {"cell.l0": [1, 0]}, {0, 2, 4}
    recorder = HiddenStateRecorder(bench.model, layers="last")
    if entered == "before":
        with recorder, knocked_out(bench.model, units, value=0.5, steps=steps):
            found = bench.call()
    else:
        with knocked_out(bench.model, units, value=0.5, steps=steps), recorder:
            found = bench.call()
    expected = bench.expected(units, 0.5, steps)
    assert_agree(found, expected)
    for key, states in recorder.states.items():
        assert states.lengths.tolist() == list(bench.lengths)
        for values, valid, run in zip(states.values, states.valid, expected, strict=True):
            reference = run.states[key.removeprefix(bench.prefix)]
            assert float((values[valid] - reference).abs().max()) <= 1e-12


@torch.no_grad()
def test_the_recorder_sees_the_held_cell_states_of_a_cell() -> None:
    bench = Bench("nn.LSTMCell")
    units = {"cell.l0.cell": [1], "cell.l0": [0]}
    with (
        knocked_out(bench.model, units, value=0.5),
        HiddenStateRecorder(bench.model, states=("hidden", "cell")) as recorder,
    ):
        bench.call()
    for index, run in enumerate(bench.expected(units, 0.5)):
        for key, states in recorder.states.items():
            reference = run.states[key.removeprefix("cell.")]
            assert float((states.values[index] - reference).abs().max()) <= 1e-12


@torch.no_grad()
def test_the_recorder_never_replays_what_was_not_computed() -> None:
    bench = Bench("nn.LSTM", VARIATIONS["packed, unsorted"])
    recorder = HiddenStateRecorder(bench.model, layers="all", states=("hidden", "cell"))
    with recorder:
        bench.call()
    with knocked_out(bench.model, {"l0": 1}):
        bench.call()
        twin = copy.deepcopy(bench.model)
        plain = recorder.states
    with HiddenStateRecorder(twin, layers="all", states=("hidden", "cell")) as of_twin:
        bench.call(twin)
    for index, run in enumerate(bench.expected({})):
        for states in (plain, of_twin.states):
            for key, reference in run.states.items():
                values = states[key].values[index][states[key].valid[index]]
                assert float((values - reference).abs().max()) <= 1e-12

    def states_of_a_knocked_out_call() -> dict[str, HiddenStates]:
        with recorder, knocked_out(bench.model, {"l0": 1}):
            bench.call()
        return recorder.states

    with pytest.raises(ValueError, match=r"\(LSTM\).*replayed"):
        states_of_a_knocked_out_call()
