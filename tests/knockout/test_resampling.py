"""Sequences drawn among the recorded ones."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch._dynamo

from lightning_relay.knockout.context import knocked_out
from lightning_relay.recurrent.errors import TooShortError
from tests.support.matrix import (
    CELLS,
    Bench,
    Variation,
)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["nn.GRU", "nn.LSTMCell"])
def test_the_same_seed_draws_the_same_sequences(kind: str) -> None:
    bench = Bench(kind, Variation(lengths=(4,) * 8))
    key = f"{bench.prefix}l0"

    def drawn(seed: int) -> list[int]:
        with knocked_out(
            bench.model, {key: [1, 0]}, value="resample", states=bench.states, seed=seed
        ):
            found = bench.call()
        donors = []
        for index, run in enumerate(found):
            explained = bench.donors_of(index, run, {key: [1, 0]}, None)
            assert explained is not None
            donors.append(explained[key])
        return donors

    assert drawn(0) == drawn(0)
    assert drawn(5) == drawn(5)
    everything = [drawn(seed) for seed in range(8)]
    assert len(set(map(tuple, everything))) > 1
    # The recorded sequence of 2 steps is too short for 4. The length of a loop is not known when
    # it begins, so a loop draws among the longest sequences.
    assert set(itertools.chain(*everything)) == ({0, 2} if kind in CELLS else {0, 2, 3})


@torch.no_grad()
def test_a_sequence_is_drawn_among_those_at_least_as_long() -> None:
    bench = Bench("nn.GRU", Variation({"bidirectional": True}, (8, 1, 3), packed="unsorted"))
    units = {"l0": [1], "l0_reverse": [0, 2]}
    drawn: list[set[int]] = [set(), set(), set()]
    for seed in range(12):
        with knocked_out(bench.model, units, value="resample", states=bench.states, seed=seed):
            for index, run in enumerate(bench.call()):
                explained = bench.donors_of(index, run, units, None)
                assert explained is not None
                drawn[index] |= set(explained.values())
    assert drawn[0] == {0, 2}
    assert drawn[1] == {0, 1, 2, 3}
    assert drawn[2] == {0, 2, 3}


@torch.no_grad()
def test_no_recorded_sequence_is_long_enough() -> None:
    bench = Bench("nn.GRU", Variation(lengths=(26, 26)))
    with (
        pytest.raises(
            TooShortError,
            match=r"^states: the longest recorded sequence of 'l0' has 25 steps, and a sequence of "
            r"the call has 26; 'resample' takes recorded sequences at least as long$",
        ),
        knocked_out(bench.model, {"l0": 1}, value="resample", states=bench.states),
    ):
        bench.call()
