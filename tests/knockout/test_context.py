"""Knock-outs compared with the reference, and what they must leave alone."""

from __future__ import annotations

import copy
import itertools
import pickle
import random
import re
from dataclasses import astuple, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
import torch._dynamo
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm
from torch.nn.utils.rnn import PackedSequence, pack_sequence, pad_packed_sequence

from lightning_relay import HiddenStateRecorder, HiddenStates
from lightning_relay.knockout.context import knocked_out
from lightning_relay.recurrent.states import StepError, TooShortError
from tests.support import held_recurrence as knockout_reference
from tests.support.held_recurrence import Run, holding, positions, trajectory
from tests.support.hooks import hook_count
from tests.support.machine import skip_without_bfloat16_lstm
from tests.support.matrix import CELLS, CHANNELS, FUSED, UNITS, VARIATIONS, Variation

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

RECORDED = (25, 2, 25, 4)
"""Lengths of the recorded sequences; two are at least as long as the longest of every variation."""


class Loop(nn.Module):
    """Calls a cell once for every step; returns output and final state as fused modules do."""

    def __init__(self, cell: nn.RNNCellBase) -> None:
        super().__init__()
        self.cell = cell

    def forward(self, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        output = []
        for inputs in x:
            state = self.cell(inputs, state)
            output.append(state[0] if isinstance(state, tuple) else state)
        return torch.stack(output), state


class Bench:
    """One module with inputs, and how it is called.

    Attributes:
        model: The module, or a loop that calls it.
        fused: Fused module with the same weights in float64, for the reference.
        prefix: Name of the module in the model, with a dot.
        sequences: Inputs ``(step, channel)`` of each sequence, in the order of the batch.
        initial: h_0 and, for an LSTM, c_0, ``(layer and direction, batch, unit)``.
        states: Recorded states by layer key; of sequences that are no part of the batch.
    """

    def __init__(self, kind: str, variation: Variation | None = None, seed: int = 0) -> None:
        self.variation = variation or Variation()
        self.kind = kind
        dtype = self.variation.dtype
        generator = torch.Generator().manual_seed(seed)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self._make_modules(kind)
        rows = self.fused.num_layers * (1 + self.fused.bidirectional)
        sizes = [self.fused.proj_size or UNITS] + [UNITS] * (self.fused.mode == "LSTM")
        lengths = self.variation.lengths
        self.sequences = [
            torch.randn(length, CHANNELS, generator=generator).to(dtype) for length in lengths
        ]
        self.initial = tuple(
            torch.randn(rows, len(lengths), size, generator=generator).to(dtype) for size in sizes
        )
        self.states = {
            self.prefix + key: HiddenStates.of_lengths(
                torch.randn(len(RECORDED), max(RECORDED), size, generator=generator).to(dtype),
                torch.tensor(RECORDED),
            )
            for key, size in layer_units(self.fused).items()
        }

    def _make_modules(self, kind: str) -> None:
        options = dict(self.variation.options)
        if kind in CELLS:
            make_cell, make_fused = CELLS[kind]
            options = {name: value for name, value in options.items() if name == "bias"}
            cell = make_cell(CHANNELS, UNITS, **options).to(self.variation.dtype)
            self.model: Any = Loop(cell).eval()
            self.fused = make_fused(CHANNELS, UNITS, **options).eval().double()
            weights = {f"{name}_l0": value.double() for name, value in cell.state_dict().items()}
            self.fused.load_state_dict(weights)
            self.prefix = "cell."
        else:
            self.model = FUSED[kind](CHANNELS, UNITS, **options).to(self.variation.dtype).eval()
            self.fused = copy.deepcopy(self.model).double()
            self.prefix = ""

    @property
    def lengths(self) -> tuple[int, ...]:
        """Steps of each sequence."""
        return self.variation.lengths

    def arguments(self) -> tuple[Any, ...]:
        """What the model is called with."""
        inputs: Any
        initial = self.initial
        if self.variation.packed is not None:
            inputs = pack_sequence(self.sequences, enforce_sorted=self.variation.packed == "sorted")
        elif not self.variation.batched:
            inputs = self.sequences[0]
            initial = tuple(state[:, 0] for state in initial)
        else:
            inputs = torch.stack(
                self.sequences, 0 if self.variation.options.get("batch_first") else 1
            )
        if not self.variation.initial:
            return (inputs,)
        if self.prefix:
            initial = tuple(state[0] for state in initial)
        return inputs, initial if len(initial) > 1 else initial[0]

    def call(self, model: Any = None) -> list[Run]:
        """Output and final states of each sequence of one call."""
        with torch.autocast(
            "cpu", self.variation.autocast, enabled=self.variation.autocast is not None
        ):
            output, final = (self.model if model is None else model)(*self.arguments())
        return self.split(output, final)

    def split(self, output: Any, final: Any) -> list[Run]:
        """Output and final states of each sequence."""
        if isinstance(output, PackedSequence):
            output, _ = pad_packed_sequence(output, batch_first=True)
        elif not self.variation.batched:
            output = output.unsqueeze(0)
        elif not self.variation.options.get("batch_first"):
            output = output.transpose(0, 1)
        parts = final if isinstance(final, tuple) else (final,)
        batched_dimensions = 2 if self.prefix else 3
        parts = tuple(
            part if self.variation.batched else part.unsqueeze(batched_dimensions - 2)
            for part in parts
        )
        if self.prefix:
            parts = tuple(part.unsqueeze(0) for part in parts)
        return [
            Run(
                output[index, :length],
                parts[0][:, index],
                parts[1][:, index] if len(parts) > 1 else None,
                {},
            )
            for index, length in enumerate(self.lengths)
        ]

    def expected(
        self,
        units: Mapping[str, Sequence[int] | int],
        value: Any = "zero",
        steps: Any = None,
        donors: Mapping[str, int] | None = None,
    ) -> list[Run]:
        """The reference for each sequence, given the arguments of ``knocked_out``."""
        return [
            self.expected_of(index, units, value, steps, donors)
            for index in range(len(self.sequences))
        ]

    def expected_of(
        self,
        index: int,
        units: Mapping[str, Sequence[int] | int],
        value: Any = "zero",
        steps: Any = None,
        donors: Mapping[str, int] | None = None,
    ) -> Run:
        """The reference for one sequence; ``donors`` by layer key."""
        length = self.lengths[index]
        values = {}
        for key, named in units.items():
            indices = [named] if isinstance(named, int) else list(named)
            values[key.removeprefix(self.prefix)] = trajectory(
                value[key] if isinstance(value, dict) else value,
                len(indices),
                length,
                index,
                (self.states[key], indices),
                None if donors is None else donors[key],
            )
        own = {key.removeprefix(self.prefix): named for key, named in units.items()}
        held = holding(self.fused, own, values, steps, length)
        return self.run(index, held)

    def run(self, index: int, held: Mapping[Any, Any] | None = None) -> Run:
        """The reference for one sequence, given what is held in it."""
        initial = tuple(state[:, index].double() for state in self.initial)
        return knockout_reference.run(
            self.fused,
            self.sequences[index].double(),
            initial if self.variation.initial else None,
            held,
        )


def layer_units(module: nn.RNNBase) -> dict[str, int]:
    """Number of units by layer key."""
    found = {}
    for layer in range(module.num_layers):
        for direction in ("", "_reverse")[: 1 + module.bidirectional]:
            found[f"l{layer}{direction}"] = module.proj_size or module.hidden_size
            if module.mode == "LSTM":
                found[f"l{layer}{direction}.cell"] = module.hidden_size
    return found


def difference(found: Run, expected: Run) -> float:
    """Largest difference of outputs and final states; NaN where one is NaN."""
    pairs = [(found.output, expected.output), (found.h_n, expected.h_n)]
    assert (found.c_n is None) == (expected.c_n is None)
    if found.c_n is not None and expected.c_n is not None:
        pairs.append((found.c_n, expected.c_n))
    assert all(a.shape == b.shape for a, b in pairs)
    return float(torch.stack([(a.double() - b.double()).abs().max() for a, b in pairs]).max())


def assert_agree(found: list[Run], expected: list[Run], tolerance: float = 1e-12) -> None:
    """Output and final states of all sequences, to an absolute tolerance."""
    assert len(found) == len(expected)
    differences = [difference(a, b) for a, b in zip(found, expected, strict=True)]
    assert all(largest <= tolerance for largest in differences), differences


@torch.no_grad()
def test_the_reference_without_knock_outs_is_what_pytorch_computes() -> None:
    for kind, variation in itertools.product(FUSED | CELLS, EXACT.values()):
        if variation.exists(kind):
            bench = Bench(kind, variation)
            assert_agree(bench.call(), bench.expected({}))


# ---- The matrix -----------------------------------------------------------------------------

EXACT = {
    name: variation
    for name, variation in VARIATIONS.items()
    if variation.dtype == torch.float64 and variation.compiled is None
} | {
    # Short windows may well be computed otherwise in long sequences than in short ones.
    "many steps": Variation(
        {"num_layers": 2, "bidirectional": True}, (24, 24), initial=True, cells=True
    ),
}

VALUES: dict[str, Callable[[Bench, int], Any]] = {
    "zero": lambda bench, count: "zero",
    "number": lambda bench, count: 0.7,
    "tensor ()": lambda bench, count: torch.tensor(-0.4),
    "tensor (unit,)": lambda bench, count: _random(count),
    "tensor (step, unit)": lambda bench, count: _random(max(bench.lengths), count),
    "tensor (batch, step, unit)": lambda bench, count: _random(
        len(bench.lengths), max(bench.lengths), count
    ),
    "tensor (1, step, unit)": lambda bench, count: _random(1, max(bench.lengths), count),
    "tensor (batch, 1, unit)": lambda bench, count: _random(len(bench.lengths), 1, count),
    "mean": lambda bench, count: "mean",
    "mean_per_step": lambda bench, count: "mean_per_step",
    "resample": lambda bench, count: "resample",
}
MIXED = "another value for each layer"

WINDOWS: dict[str, Any] = {
    "all steps": None,
    "first step": 0,
    "one step": 2,
    "last step": -1,
    "middle slice": slice(1, 3),
    "open slice": slice(2, None),
    "negative slice": slice(-3, -1),
    "scattered steps": {0, 2, 4},
    "steps from both ends": [1, -1],
}
COUNTED_FROM_THE_END = ("last step", "negative slice", "steps from both ends")

WHERE: dict[str, Callable[[int, str], dict[str, Sequence[int] | int]]] = {
    "first layer": lambda last, direction: {"l0": [1, 0]},
    "last layer": lambda last, direction: {f"l{last}": 1},
    "reverse, first layer": lambda last, direction: {"l0_reverse": [0, 1]},
    "reverse, last layer": lambda last, direction: {f"l{last}_reverse": [1]},
    "several layers": lambda last, direction: {
        "l0": [1],
        f"l{last}{direction}": [1, 0],
        f"l{last - 1}{direction}": 0,
    },
    "cell units": lambda last, direction: {f"l{last}{direction}.cell": [3, 1]},
    "cell units, first layer": lambda last, direction: {"l0.cell": [0, 2, 3]},
    "hidden and cell units": lambda last, direction: {"l0": [0], f"l{last}.cell": [0, 3]},
}


def _random(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def units_of(bench: Bench, where: str) -> dict[str, Sequence[int] | int]:
    """Units to knock out by layer key."""
    direction = "_reverse" * bench.fused.bidirectional
    found = WHERE[where](bench.fused.num_layers - 1, direction)
    return {bench.prefix + key: units for key, units in found.items()}


def value_of(bench: Bench, value: str, units: Mapping[str, Sequence[int] | int]) -> Any:
    """The argument ``value``; a mapping where layers need values of different shapes."""
    counts = {key: 1 if isinstance(named, int) else len(named) for key, named in units.items()}
    if value == MIXED:
        names = itertools.cycle(("mean", "number", "tensor (step, unit)", "zero"))
        return {key: VALUES[next(names)](bench, count) for key, count in counts.items()}
    found = {key: VALUES[value](bench, count) for key, count in counts.items()}
    return found if len(set(counts.values())) > 1 else next(iter(found.values()))


@dataclass(frozen=True)
class Case:
    """One cell of the matrix, by the names in it."""

    kind: str
    variation: str
    value: str
    window: str
    where: str

    def exists(self) -> bool:
        """Whether there are such a module and such units, and the contract gives it a meaning."""
        variation = EXACT[self.variation]
        if not variation.exists(self.kind):
            return False
        if self.kind in CELLS:
            # Where a loop will end is not known while it runs.
            if self.window in COUNTED_FROM_THE_END:
                return False
            layers, bidirectional = 1, False
        else:
            layers = variation.options.get("num_layers", 1)
            bidirectional = variation.options.get("bidirectional", False)
        if "cell" in self.where:
            return "LSTM" in self.kind
        if self.where == "several layers":
            return layers > 1
        return bidirectional or "reverse" not in self.where

    def pairs(self) -> set[tuple[tuple[int, str], ...]]:
        """All pairs of choices that occur in it."""
        return set(itertools.combinations(enumerate(astuple(self)), 2))


def _selection() -> list[Case]:
    """Cases in which every two choices that can be combined are so at least once.

    The full product has more than twenty thousand cases. What goes wrong in a knock-out is an
    interaction of two things, such as a window and a direction; so all pairs of choices are
    covered, greedily: first the cases that add most pairs, then those needed for the rest.
    """
    every = [
        case
        for case in itertools.starmap(
            Case, itertools.product(FUSED | CELLS, EXACT, [*VALUES, MIXED], WINDOWS, WHERE)
        )
        if case.exists()
    ]
    random.Random(0).shuffle(every)
    pairs = [case.pairs() for case in every]
    missing = set().union(*pairs)
    chosen = []
    for least in (9, 7, 5, 3, 2, 1):
        for case, own in zip(every, pairs, strict=True):
            if len(own & missing) >= least:
                chosen.append(case)
                missing -= own
    assert not missing
    return chosen


@torch.no_grad()
@pytest.mark.parametrize("case", _selection(), ids=lambda case: " | ".join(astuple(case)))
def test_the_matrix_is_exact(case: Case) -> None:
    bench = Bench(case.kind, EXACT[case.variation])
    units = units_of(bench, case.where)
    value = value_of(bench, case.value, units)
    steps = WINDOWS[case.window]
    plain = bench.call()
    with knocked_out(bench.model, units, value=value, steps=steps, states=bench.states):
        found = bench.call()
    if case.value == "resample":
        for index, run in enumerate(found):
            assert donors_of(bench, index, run, units, steps)
    else:
        assert_agree(found, bench.expected(units, value, steps))
    after = bench.call()
    assert all(difference(a, b) == 0 for a, b in zip(after, plain, strict=True))


@torch.no_grad()
@pytest.mark.parametrize("kind", FUSED)
@pytest.mark.parametrize("window", WINDOWS)
def test_windows_in_many_steps_are_exact(kind: str, window: str) -> None:
    bench = Bench(kind, EXACT["many steps"])
    for where in WHERE:
        if Case(kind, "many steps", "number", window, where).exists():
            units = units_of(bench, where)
            for value in (0.7, value_of(bench, "tensor (unit,)", units)):
                with knocked_out(bench.model, units, value=value, steps=WINDOWS[window]):
                    found = bench.call()
                assert_agree(found, bench.expected(units, value, WINDOWS[window]))


def donors_of(
    bench: Bench, index: int, run: Run, units: Mapping[str, Any], steps: Any
) -> dict[str, int] | None:
    """Which recorded sequences explain a resampled run, by layer key; None if none do."""
    long_enough = [donor for donor, length in enumerate(RECORDED) if length >= bench.lengths[index]]
    draws = sorted(
        itertools.product(long_enough, repeat=len(units)), key=lambda draw: len(set(draw))
    )
    for draw in draws:
        donors = dict(zip(units, draw, strict=True))
        if difference(run, bench.expected_of(index, units, "resample", steps, donors)) <= 1e-12:
            return donors
    return None


OTHER_NUMBERS = {
    name: variation
    for name, variation in VARIATIONS.items()
    if variation.dtype != torch.float64 or variation.autocast is not None
}


@torch.no_grad()
@pytest.mark.parametrize("kind", [*FUSED, *CELLS])
@pytest.mark.parametrize("name", OTHER_NUMBERS)
def test_other_kinds_of_numbers_are_as_exact_as_they_can_be(kind: str, name: str) -> None:
    if kind == "nn.LSTM" and OTHER_NUMBERS[name].autocast is not None:
        skip_without_bfloat16_lstm()
    bench = Bench(kind, OTHER_NUMBERS[name])
    units = units_of(bench, "first layer" if kind in CELLS else "several layers")
    for value, window in (("mean", "all steps"), ("tensor (step, unit)", "middle slice")):
        given_value = value_of(bench, value, units)
        steps = WINDOWS[window]
        plain = bench.call()
        with knocked_out(bench.model, units, value=given_value, steps=steps, states=bench.states):
            found = bench.call()
        expected = bench.expected(units, given_value, steps)
        assert_agree(found, expected, OTHER_NUMBERS[name].tolerance)
        assert found[0].output.dtype == plain[0].output.dtype
        assert found[0].h_n.dtype == plain[0].h_n.dtype


@torch.no_grad()
@pytest.mark.parametrize("kind", [*FUSED, *CELLS])
@pytest.mark.parametrize("when", ["before", "called before", "inside"])
def test_compiled_models_are_knocked_out(kind: str, when: str) -> None:
    bench = Bench(kind, Variation({} if kind in CELLS else {"num_layers": 2}))
    units = {f"{bench.prefix}l0": [2, 0]}
    plain = bench.expected({})
    with torch._dynamo.config.patch(skip_nnmodule_hook_guards=False):
        called: Any = bench.model
        if when != "inside":
            called = torch.compile(bench.model, backend="eager")
        if when == "called before":
            assert_agree(bench.call(called), plain)
        for steps in (None, slice(1, 3)):
            with knocked_out(called, units, value=0.3, steps=steps):
                if when == "inside":
                    called = torch.compile(bench.model, backend="eager")
                assert_agree(bench.call(called), bench.expected(units, 0.3, steps))
                assert_agree(bench.call(called), bench.expected(units, 0.3, steps))
            assert_agree(bench.call(called), plain)


# ---- Any module, any window -------------------------------------------------------------------


@dataclass(frozen=True)
class Anything:
    kind: str
    variation: Variation
    units: dict[str, list[int]]
    value: str
    steps: Any
    seed: int


@st.composite
def anything(draw: st.DrawFn) -> Anything:
    kind = draw(st.sampled_from([*FUSED, *CELLS]))
    lengths = tuple(draw(st.lists(st.integers(1, 16), min_size=1, max_size=4)))
    options: dict[str, Any] = {"bias": draw(st.booleans())}
    packed = None
    if kind in FUSED:
        options |= {
            "num_layers": draw(st.integers(1, 3)),
            "bidirectional": draw(st.booleans()),
            "batch_first": draw(st.booleans()),
        }
        if kind == "nn.LSTM" and draw(st.booleans()):
            options["proj_size"] = draw(st.integers(1, UNITS - 1))
        packed = draw(st.sampled_from([None, "unsorted"]))
    if packed is None:
        lengths = (lengths[0],) * len(lengths)
    else:
        # What comes out of pad_packed_sequence is not what batch_first says.
        options["batch_first"] = False
    variation = Variation(options, lengths, packed, initial=draw(st.booleans()))
    sizes = layer_units(Bench(kind, variation).fused)
    keys = draw(st.lists(st.sampled_from(sorted(sizes)), min_size=1, max_size=4, unique=True))
    prefix = "cell." if kind in CELLS else ""
    units = {
        prefix + key: draw(
            st.lists(st.integers(0, sizes[key] - 1), min_size=1, max_size=sizes[key], unique=True)
        )
        for key in keys
    }
    value = draw(st.sampled_from([value for value in [*VALUES, MIXED] if value != "resample"]))
    longest = max(lengths)
    ends = st.none() | st.integers(0 if kind in CELLS else -longest, longest)
    a_step = st.integers(0 if kind in CELLS else -longest, longest - 1)
    steps = draw(
        st.none()
        | a_step
        | st.sets(a_step, min_size=1, max_size=4)
        | st.builds(slice, ends, ends, st.none() | st.integers(1, 2)).filter(
            lambda window: any(positions(window, length) for length in lengths)
        )
    )
    return Anything(kind, variation, units, value, steps, draw(st.integers(0, 99)))


@torch.no_grad()
@given(anything())
def test_any_module_is_knocked_out_exactly(drawn: Anything) -> None:
    bench = Bench(drawn.kind, drawn.variation, drawn.seed)
    value = value_of(bench, drawn.value, drawn.units)
    with knocked_out(bench.model, drawn.units, value=value, steps=drawn.steps, states=bench.states):
        found = bench.call()
    assert_agree(found, bench.expected(drawn.units, value, drawn.steps))


# ---- What a mask of the output would get wrong -------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("kind", FUSED)
def test_masking_the_output_is_something_else(kind: str) -> None:
    bench = Bench(kind)
    masked = torch.stack([run.output for run in bench.call()])
    unit = int(masked.abs().sum((0, 1)).argmax())
    masked[..., unit] = 0
    expected = bench.expected({"l0": unit})
    assert float((masked - torch.stack([run.output for run in expected])).abs().max()) > 1e-3
    with knocked_out(bench.model, {"l0": unit}):
        found = bench.call()
    assert_agree(found, expected)
    assert not found[0].output[:, unit].any()
    assert not found[0].h_n[:, unit].any()


@torch.no_grad()
@pytest.mark.parametrize("kind", FUSED)
def test_what_the_step_after_a_window_reads_is_the_held_state(kind: str) -> None:
    bench = Bench(kind)
    plain = bench.call()
    with knocked_out(bench.model, {"l0": [1]}, value=5.0, steps=2):
        found = bench.call()
    for run, before in zip(found, plain, strict=True):
        assert (
            difference(
                replace(run, output=run.output[:2], h_n=run.output[:2, :], c_n=None),
                replace(before, output=before.output[:2], h_n=before.output[:2, :], c_n=None),
            )
            <= 1e-12
        )
        assert float(run.output[2, 1]) == 5
        assert torch.allclose(run.output[2, [0, 2, 3]], before.output[2, [0, 2, 3]])
        assert float((run.output[3] - before.output[3]).abs().max()) > 1e-3


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


# ---- Blocks within blocks ----------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("kind", ["nn.GRU", "nn.LSTM", "nn.LSTMCell"])
def test_blocks_within_blocks_add_up(kind: str) -> None:
    bench = Bench(kind, Variation({} if kind in CELLS else {"num_layers": 2}))
    key = f"{bench.prefix}l0"
    other = f"{bench.prefix}l0.cell" if "LSTM" in kind else f"{bench.prefix}l1"
    both = bench.expected({key: [0, 2], other: [1]}, {key: torch.tensor([0.0, 0.5]), other: -0.3})
    with knocked_out(bench.model, {key: 0}):
        with (
            knocked_out(bench.model, {other: [1]}, value=-0.3),
            knocked_out(bench.model, {key: [2]}, value=0.5),
        ):
            assert_agree(bench.call(), both)
        assert_agree(bench.call(), bench.expected({key: 0}))
    assert_agree(bench.call(), bench.expected({}))


@torch.no_grad()
@pytest.mark.parametrize("kind", ["nn.RNN, tanh", "nn.LSTM", "nn.GRUCell"])
def test_the_inner_of_two_blocks_wins(kind: str) -> None:
    bench = Bench(kind)
    key = f"{bench.prefix}l0"
    with knocked_out(bench.model, {key: [0, 1]}, value=0.5):
        with knocked_out(bench.model, {key: [1, 3]}, value=torch.tensor([-0.2, 0.1])):
            expected = bench.expected({key: [0, 1, 3]}, torch.tensor([0.5, -0.2, 0.1]))
            assert_agree(bench.call(), expected)
        assert_agree(bench.call(), bench.expected({key: [0, 1]}, 0.5))
        with pytest.raises(ZeroDivisionError), knocked_out(bench.model, {key: [1]}, value=2.0):
            raise ZeroDivisionError
        assert_agree(bench.call(), bench.expected({key: [0, 1]}, 0.5))
        # Of a unit that both hold, the inner block has its own steps, and the outer the others.
        with knocked_out(bench.model, {key: [1]}, value=2.0, steps={1, 3}):
            per_step = torch.tensor([[0.5, step] for step in (0.5, 2.0, 0.5, 2.0, 0.5)])
            assert_agree(bench.call(), bench.expected({key: [0, 1]}, per_step))
    assert_agree(bench.call(), bench.expected({}))


@torch.no_grad()
def test_blocks_with_windows_add_up() -> None:
    bench = Bench("nn.GRU", VARIATIONS["packed, unsorted"])
    values = torch.zeros(3, 6, 1)
    for index, length in enumerate(bench.lengths):
        values[index, :3] = 0.5
        values[index, length - 1] = -0.5
    with (
        knocked_out(bench.model, {"l0_reverse": 2}, value=0.5, steps=slice(0, 3)),
        knocked_out(bench.model, {"l0_reverse": 2}, value=-0.5, steps=-1),
    ):
        found = bench.call()
    for index, run in enumerate(found):
        steps = {0, 1, 2, -1}
        assert difference(run, bench.expected_of(index, {"l0_reverse": 2}, values, steps)) <= 1e-12


# ---- Nothing else changes ----------------------------------------------------------------------


class Classifier(nn.Module):
    """Two recurrent modules and a head; breaks when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.LSTM(CHANNELS, UNITS, num_layers=2, bidirectional=True)
        self.decoder = Loop(nn.GRUCell(2 * UNITS, UNITS))
        self.norm = nn.BatchNorm1d(UNITS)
        self.head = nn.Linear(UNITS, 2)
        self.register_buffer("scale", torch.tensor(2.0))
        self.breaks = False

    def forward(self, x: Tensor) -> Tensor:
        output, _ = self.encoder(x)
        output, last = self.decoder(output)
        if self.breaks:
            raise ZeroDivisionError
        scores: Tensor = self.head(self.norm(last)) * self.scale
        return scores


CLASSIFIER_UNITS = {"encoder.l0": [1], "encoder.l1_reverse.cell": [0, 2], "decoder.cell.l0": [3]}


def a_classifier() -> tuple[Classifier, Tensor]:
    torch.manual_seed(0)
    model = Classifier().double().eval()
    model.encoder.register_forward_hook(lambda *_: None)
    model.decoder.cell.register_forward_pre_hook(lambda *_: None)
    return model, torch.randn(5, 3, CHANNELS, dtype=torch.float64)


class Snapshot:
    """All attributes of all modules, and what is in those that hold others."""

    def __init__(self, model: nn.Module) -> None:
        self.modules = list(model.modules())
        self.kinds = [type(module) for module in self.modules]
        self.attributes = [self._attributes(module) for module in self.modules]
        self.values = {name: value.clone() for name, value in model.state_dict().items()}
        self.versions = [parameter._version for parameter in model.parameters()]
        self.hooks = hook_count(model)
        self.model = model

    @staticmethod
    def _attributes(module: nn.Module) -> dict[str, tuple[Any, Any]]:
        return {name: (value, _contents(value)) for name, value in vars(module).items()}

    def assert_unchanged(self) -> None:
        """The same objects, with the same contents, bit for bit."""
        assert hook_count(self.model) == self.hooks
        assert len(list(self.model.modules())) == len(self.modules)
        for module, own, kind, before in zip(
            self.model.modules(), self.modules, self.kinds, self.attributes, strict=True
        ):
            assert module is own
            assert type(module) is kind
            after = self._attributes(module)
            assert list(after) == list(before)
            for name, (value, contents) in before.items():
                assert after[name][0] is value, name
                now = after[name][1]
                assert len(now) == len(contents), name
                assert all(a is b for a, b in zip(now, contents, strict=True)), name
        self.assert_weights_untouched()

    def assert_weights_untouched(self) -> None:
        """Nothing was written to a parameter, not even what had been in it before."""
        assert [parameter._version for parameter in self.model.parameters()] == self.versions
        state = self.model.state_dict()
        assert list(state) == list(self.values)
        assert all(torch.equal(state[name], value) for name, value in self.values.items())


def _contents(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [*value, *value.values()]
    return list(value) if isinstance(value, list | tuple | set) else []


@torch.no_grad()
def test_a_block_leaves_the_model_as_it_was() -> None:
    model, inputs = a_classifier()
    expected = model(inputs)
    snapshot = Snapshot(model)
    with knocked_out(model, CLASSIFIER_UNITS, value=0.5):
        snapshot.assert_weights_untouched()
        assert float((model(inputs) - expected).abs().max()) > 1e-3
        snapshot.assert_weights_untouched()
        with knocked_out(model, {"encoder.l0": 2}, steps=1):
            model(inputs)
            snapshot.assert_weights_untouched()
    snapshot.assert_unchanged()
    assert torch.equal(model(inputs), expected)


def _raise(*_: Any) -> None:
    raise ZeroDivisionError


@torch.no_grad()
def test_a_block_left_by_an_exception_leaves_the_model_as_it_was() -> None:
    model, inputs = a_classifier()
    expected = model(inputs)
    snapshot = Snapshot(model)

    with pytest.raises(ZeroDivisionError), knocked_out(model, CLASSIFIER_UNITS):
        raise ZeroDivisionError
    snapshot.assert_unchanged()

    model.breaks = True
    with pytest.raises(ZeroDivisionError), knocked_out(model, CLASSIFIER_UNITS):
        model(inputs)
    model.breaks = False
    snapshot.assert_unchanged()

    for module in (model.encoder, model.decoder.cell, model):
        for register in (module.register_forward_hook, module.register_forward_pre_hook):
            handle = register(_raise)
            with pytest.raises(ZeroDivisionError), knocked_out(model, CLASSIFIER_UNITS):
                model(inputs)
            handle.remove()
            snapshot.assert_unchanged()

    handle = model.head.register_forward_hook(_raise)
    with knocked_out(model, CLASSIFIER_UNITS):
        with pytest.raises(ZeroDivisionError):
            model(inputs)
        handle.remove()
        # The next call in the same block begins at the first step again.
        with knocked_out(model, {"decoder.cell.l0": 1}, value=3.0, steps=2):
            first = model(inputs)
            assert torch.equal(model(inputs), first)
    snapshot.assert_unchanged()

    with pytest.raises(RuntimeError), knocked_out(model, CLASSIFIER_UNITS):
        model(inputs[..., :2])
    snapshot.assert_unchanged()
    assert torch.equal(model(inputs), expected)


@torch.no_grad()
def test_an_invalid_argument_leaves_the_model_as_it_was() -> None:
    model, inputs = a_classifier()
    snapshot = Snapshot(model)
    wrong: dict[str, dict[str, Any]] = {
        "units: got 99 for 'decoder.cell.l0'": {"units": {"encoder.l0": 1, "decoder.cell.l0": 99}},
        "value: got 'one'; it takes": {"units": CLASSIFIER_UNITS, "value": "one"},
        "states: 'mean' takes recorded": {"units": CLASSIFIER_UNITS, "value": "mean"},
        r"value: got shape \(7,\)": {"units": CLASSIFIER_UNITS, "value": torch.zeros(7)},
    }
    for message, arguments in wrong.items():
        with pytest.raises(ValueError, match=message), knocked_out(model, **arguments):
            pytest.fail("entered")
        snapshot.assert_unchanged()
    with (
        pytest.raises(StepError, match="steps: got 5, but the longest sequence has"),
        knocked_out(model, CLASSIFIER_UNITS, steps=5),
    ):
        model(inputs)
    snapshot.assert_unchanged()
    with (
        pytest.raises(
            ValueError, match=r"value: got values for 2 sequences of 'encoder.l0', which"
        ),
        knocked_out(model, {"encoder.l0": 1}, value=torch.zeros(2, 5, 1)),
    ):
        model(inputs)
    snapshot.assert_unchanged()


def test_random_streams_are_left_alone() -> None:
    bench = Bench("nn.GRU")
    torch_state, python_state = torch.get_rng_state(), random.getstate()
    with knocked_out(bench.model, {"l0": [1]}, value="resample", states=bench.states, seed=3):
        bench.call()
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert random.getstate() == python_state


@torch.no_grad()
@pytest.mark.parametrize("kind", ["nn.LSTM", "nn.GRUCell"])
def test_a_copy_of_a_knocked_out_model_is_not_knocked_out(kind: str) -> None:
    bench = Bench(kind)
    units = {f"{bench.prefix}l0": 1}
    plain = bench.call()
    with knocked_out(bench.model, units, value=0.5):
        twins = [copy.deepcopy(bench.model), pickle.loads(pickle.dumps(bench.model))]
        for twin in twins:
            assert_agree(bench.call(twin), plain, 0.0)
            snapshot = Snapshot(twin)
            with knocked_out(twin, {f"{bench.prefix}l0": 2}, value=-0.5):
                expected = bench.expected({f"{bench.prefix}l0": 2}, -0.5)
                assert_agree(bench.call(twin), expected)
            snapshot.assert_unchanged()
            assert twin.state_dict().keys() == bench.model.state_dict().keys()
        assert_agree(bench.call(), bench.expected(units, 0.5))
    for twin in twins:
        assert_agree(bench.call(twin), plain, 0.0)


# ---- Gradients ---------------------------------------------------------------------------------

GRADIENTS = [
    ("nn.RNN, tanh", "bidirectional, two layers", "number", "all steps", "several layers"),
    ("nn.RNN, relu", "three layers", "tensor (batch, step, unit)", "middle slice", "first layer"),
    ("nn.GRU", "bidirectional, two layers", "number", "middle slice", "reverse, first layer"),
    ("nn.GRU", "packed, unsorted", "tensor (batch, step, unit)", "all steps", "several layers"),
    ("nn.LSTM", "projections", "tensor (unit,)", "all steps", "hidden and cell units"),
    ("nn.LSTM", "packed, unsorted", "number", "last step", "cell units"),
    ("nn.LSTM", "without biases", "tensor (step, unit)", "one step", "first layer"),
    ("nn.RNN, tanh", "many steps", "tensor (unit,)", "open slice", "several layers"),
    ("nn.GRU", "many steps", "number", "middle slice", "reverse, first layer"),
    ("nn.LSTM", "many steps", "number", "middle slice", "cell units"),
    ("nn.RNNCell", "one layer", "number", "scattered steps", "first layer"),
    ("nn.GRUCell", "one layer", "tensor (batch, step, unit)", "middle slice", "first layer"),
    ("nn.LSTMCell", "initial states given", "zero", "all steps", "hidden and cell units"),
]


@pytest.mark.parametrize("names", GRADIENTS, ids=" | ".join)
def test_gradients_are_those_of_the_reference(names: tuple[str, ...]) -> None:
    case = Case(*names)
    assert case.exists()
    bench = Bench(case.kind, EXACT[case.variation])
    units = units_of(bench, case.where)
    value = value_of(bench, case.value, units)
    steps = WINDOWS[case.window]
    wanted = [*bench.sequences, *(bench.initial if bench.variation.initial else ())]
    for tensor in wanted:
        tensor.requires_grad_()
    with knocked_out(bench.model, units, value=value, steps=steps):
        loss = a_loss(bench.call())
        found = torch.autograd.grad(loss, [*wanted, *bench.model.parameters()], allow_unused=True)
    expected = torch.autograd.grad(
        a_loss(bench.expected(units, value, steps)),
        [*wanted, *bench.fused.parameters()],
        allow_unused=True,
    )
    assert any(gradient is not None and gradient.any() for gradient in found)
    for own, other in zip(found, expected, strict=True):
        own = torch.zeros(()) if own is None else own
        other = torch.zeros(()) if other is None else other
        assert float((own - other).abs().max()) <= 1e-11


def a_loss(runs: list[Run]) -> Tensor:
    """A number that depends on every output and final state in its own way."""
    total = torch.zeros((), dtype=torch.float64)
    for part in (part for run in runs for part in (run.output, run.h_n, run.c_n)):
        if part is not None:
            weights = torch.linspace(-1, 2, part.numel(), dtype=torch.float64).view(part.shape)
            total = total + (weights * part * part).sum() + torch.sin(part).sum()
    return total


def test_gradients_are_taken_in_the_block_or_after_it() -> None:
    bench = Bench("nn.GRU")
    with knocked_out(bench.model, {"l0": 1}, value=0.5):
        a_loss(bench.call()).backward()
    inside = [parameter.grad for parameter in bench.model.parameters()]
    bench.model.zero_grad(set_to_none=True)
    with knocked_out(bench.model, {"l0": 1}, value=0.5):
        loss = a_loss(bench.call())
    loss.backward()
    for parameter, gradient in zip(bench.model.parameters(), inside, strict=True):
        assert parameter.grad is not None
        assert gradient is not None
        assert torch.equal(parameter.grad, gradient)


# ---- Together with the recorder ----------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("kind", [*FUSED, *CELLS])
@pytest.mark.parametrize("entered", ["before", "inside"])
def test_the_recorder_sees_the_held_states_of_the_last_layer(kind: str, entered: str) -> None:
    variation = VARIATIONS["one layer" if kind in CELLS else "packed, unsorted"]
    bench = Bench(kind, variation)
    where = "first layer" if kind in CELLS else "several layers"
    units = units_of(bench, where)
    steps = WINDOWS["scattered steps" if kind in CELLS else "negative slice"]
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


# ---- Sequences in pieces, several modules ------------------------------------------------------


class Pieces(nn.Module):
    """Gives a fused module a few steps at a time, and the state that it returned before."""

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
    for value in ("zero", 0.5, _random(3, 1, 2), _random(5, 2), _random(3, 5, 2)):
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
def test_units_of_two_modules_in_one_model() -> None:
    model, inputs = a_classifier()
    lower = {"l0": [1], "l1_reverse.cell": [0, 2]}
    value: dict[str, Any] = {
        "encoder.l0": 0.3,
        "encoder.l1_reverse.cell": "zero",
        "decoder.cell.l0": 0.9,
    }
    decoder = nn.GRU(2 * UNITS, UNITS).double()
    decoder.load_state_dict(
        {f"{name}_l0": weight for name, weight in model.decoder.cell.state_dict().items()}
    )
    scores = []
    for sequence in inputs.unbind(1):
        values = {
            key: trajectory(value[f"encoder.{key}"], len(named), 5, 0)
            for key, named in lower.items()
        }
        between = knockout_reference.run(
            model.encoder, sequence, None, holding(model.encoder, lower, values, None, 5)
        )
        held = holding(decoder, {"l0": [3]}, {"l0": trajectory(0.9, 1, 5, 0)}, None, 5)
        last = knockout_reference.run(decoder, between.output, None, held).h_n
        scores.append(model.head(model.norm(last)) * model.scale)
    with knocked_out(model, CLASSIFIER_UNITS, value=value):
        assert float((model(inputs) - torch.cat(scores)).abs().max()) <= 1e-12


@torch.no_grad()
def test_a_module_with_two_names_is_knocked_out_wherever_it_is_called() -> None:
    shared = nn.GRU(UNITS, UNITS).double().eval()

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = shared
            self.b = shared

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.a(x)[0])[0]

    inputs = torch.randn(5, 1, UNITS, dtype=torch.float64)
    between = inputs[:, 0]
    for _ in range(2):
        held = holding(shared, {"l0": [1]}, {"l0": trajectory(0.4, 1, 5, 0)}, None, 5)
        between = knockout_reference.run(shared, between, None, held).output
    model = Twice().eval()
    with knocked_out(model, {"a.l0": [1]}, value=0.4):
        assert float((model(inputs)[:, 0] - between).abs().max()) <= 1e-12


@torch.no_grad()
@pytest.mark.parametrize("kind", [*FUSED, *CELLS])
def test_parametrized_and_exchanged_weights_are_the_ones_used(kind: str) -> None:
    bench = Bench(kind)
    units = {f"{bench.prefix}l0": [1, 3]}
    module = bench.model.cell if bench.prefix else bench.model
    suffix = "" if bench.prefix else "_l0"
    doubled = copy.deepcopy(bench.fused)
    doubled.weight_hh_l0.mul_(2)
    plain = bench.fused
    name = f"{bench.prefix}weight_hh{suffix}"
    exchanged = dict(bench.model.named_parameters()) | {name: doubled.weight_hh_l0}
    for steps in (None, slice(1, 3)):
        with knocked_out(bench.model, units, value=0.3, steps=steps):
            found = bench.split(
                *torch.func.functional_call(bench.model, exchanged, bench.arguments())
            )
            bench.fused = doubled
            assert_agree(found, bench.expected(units, 0.3, steps))
            bench.fused = plain
            assert_agree(bench.call(), bench.expected(units, 0.3, steps))
    bench.fused = doubled
    weight_norm(module, f"weight_hh{suffix}")
    for steps in (None, slice(1, 3)):
        with knocked_out(bench.model, units, value=0.3, steps=steps):
            module.parametrizations[f"weight_hh{suffix}"].original0.mul_(2)
            assert_agree(bench.call(), bench.expected(units, 0.3, steps))
            module.parametrizations[f"weight_hh{suffix}"].original0.div_(2)
            bench.fused = plain
            assert_agree(bench.call(), bench.expected(units, 0.3, steps))
            bench.fused = doubled


@torch.no_grad()
@pytest.mark.parametrize("kind", [*FUSED, *CELLS])
def test_arguments_may_be_given_by_name(kind: str) -> None:
    bench = Bench(kind, VARIATIONS["initial states given"])
    units = {f"{bench.prefix}l0": [1, 3]}
    [inputs, state] = bench.arguments()
    module = bench.model.cell if bench.prefix else bench.model
    if bench.prefix:
        inputs = inputs[0]
    with knocked_out(module, {"l0": [1, 3]}, value=0.3):
        found = [module(input=inputs, hx=state), module(inputs, hx=state), module(inputs, state)]
    parts = [list(_tensors(result)) for result in found]
    for other in parts[1:]:
        assert all(torch.equal(a, b) for a, b in zip(parts[0], other, strict=True))
    expected = bench.expected(units, 0.3)[0].output[0]
    first = parts[0][0][0] if bench.prefix else parts[0][0][0, 0]
    assert float((first - expected).abs().max()) <= 1e-12


def _tensors(result: Any) -> list[Tensor]:
    if isinstance(result, Tensor):
        return [result]
    return [tensor for part in result for tensor in _tensors(part)]


@torch.no_grad()
@pytest.mark.parametrize("kind", ["nn.GRU", "nn.LSTM"])
@pytest.mark.parametrize("steps", [None, 0], ids=["all steps", "first step"])
def test_what_pytorch_refuses_is_refused_in_its_words(kind: str, steps: int | None) -> None:
    bench = Bench(kind)
    [inputs] = bench.arguments()
    zeros = [torch.zeros(shape).double() for shape in ((1, 2, UNITS), (2, 3, UNITS), (1, 3, 9))]
    states = [(state, state) if kind == "nn.LSTM" else state for state in zeros]
    wrong = [(inputs[..., :2],), (inputs[0, 0],), (inputs.float(),)]
    wrong += [(inputs, state) for state in states]
    for arguments in wrong:
        with pytest.raises((RuntimeError, ValueError)) as plain:
            bench.model(*arguments)
        with (
            pytest.raises(type(plain.value), match=re.escape(str(plain.value))),
            knocked_out(bench.model, {"l0": 1}, steps=steps),
        ):
            bench.model(*arguments)


# ---- Resampling --------------------------------------------------------------------------------


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
            explained = donors_of(bench, index, run, {key: [1, 0]}, None)
            assert explained is not None
            donors.append(explained[key])
        return donors

    assert drawn(0) == drawn(0)
    assert drawn(5) == drawn(5)
    everything = [drawn(seed) for seed in range(8)]
    assert len(set(map(tuple, everything))) > 1
    # The recorded sequence of 2 steps cannot be drawn for 4. How long a loop will be is not known
    # when it begins, so only the longest are long enough for any.
    assert set(itertools.chain(*everything)) == ({0, 2} if kind in CELLS else {0, 2, 3})


@torch.no_grad()
def test_a_sequence_is_drawn_among_those_at_least_as_long() -> None:
    bench = Bench("nn.GRU", Variation({"bidirectional": True}, (8, 1, 3), packed="unsorted"))
    units = {"l0": [1], "l0_reverse": [0, 2]}
    drawn: list[set[int]] = [set(), set(), set()]
    for seed in range(12):
        with knocked_out(bench.model, units, value="resample", states=bench.states, seed=seed):
            for index, run in enumerate(bench.call()):
                explained = donors_of(bench, index, run, units, None)
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
            match=r"states: the longest recorded sequence of .* has 25 steps, and a sequence of "
            r"the call has 26; 'resample' takes recorded sequences at least as long",
        ),
        knocked_out(bench.model, {"l0": 1}, value="resample", states=bench.states),
    ):
        bench.call()


# ---- What is refused at the call; more in test_refusals.py -----------------------------------


@pytest.mark.parametrize("kind", ["nn.GRU", "nn.GRUCell"])
def test_values_that_do_not_fit_the_batch_are_refused_at_the_call(kind: str) -> None:
    bench = Bench(kind)
    key = f"{bench.prefix}l0"
    for shape, words in (
        (
            (2, 5, 1),
            r"2 sequences of '.*l0', which was called on 3; it takes \(batch, step, u",
        ),
        (
            (4, 1, 1),
            r"4 sequences of '.*l0', which was called on 3; it takes \(batch, step, u",
        ),
        ((4, 1), r"4 steps of '.*l0', which was called on 5; it takes values for every step, or"),
        (
            (3, 2, 1),
            r"2 steps of '.*l0', which was called on [35]; it takes values for every step",
        ),
    ):
        with (
            pytest.raises(ValueError, match=rf"value: got values for {words}"),
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
                match=r"steps: got .*(6|-7).*, but the longest sequence has 6 steps; it takes po",
            ),
            knocked_out(bench.model, {"l0": 1}, steps=steps),
        ):
            bench.call()
    for steps in (5, -6):
        with knocked_out(bench.model, {"l0": 1}, steps=steps):
            assert_agree(bench.call(), bench.expected({"l0": 1}, "zero", steps))


def test_training_mode_is_refused_when_the_block_is_entered_or_at_the_call() -> None:
    model = nn.Sequential(nn.GRU(2, 3, num_layers=2, dropout=0.5))
    words = r"model: '0' \(GRU\) is in training mode; knock-outs take a model in evaluation mode"
    with (
        pytest.raises(RuntimeError, match=words),
        knocked_out(model, {"0.l0": 1}),
    ):
        pytest.fail("entered")
    model.eval()
    snapshot = Snapshot(model)
    with knocked_out(model, {"0.l0": 1}):
        model.train()
        with pytest.raises(RuntimeError, match=words):
            model(torch.zeros(4, 1, 2))
        model.eval()
        model(torch.zeros(4, 1, 2))
    snapshot.assert_weights_untouched()
    assert hook_count(model) == snapshot.hooks


def test_subclasses_with_pytorch_forward_are_knocked_out() -> None:
    class Renamed(nn.GRU):
        pass

    inputs = torch.randn(4, 1, 2)
    plain = nn.GRU(2, 3).eval()
    renamed = Renamed(2, 3).eval()
    renamed.load_state_dict(plain.state_dict())
    with torch.no_grad(), knocked_out(plain, {"l0": 1}), knocked_out(renamed, {"l0": 1}):
        assert torch.equal(renamed(inputs)[0], plain(inputs)[0])


@torch.no_grad()
def test_numbers_of_numpy_are_numbers() -> None:
    bench = Bench("nn.GRU")
    expected = bench.expected({"l0": [1, 3]}, 0.5, [0, 2])
    for units in (np.array([1, 3]), [np.int64(1), np.int64(3)], torch.tensor([1, 3])):
        for steps in (np.array([0, 2]), torch.tensor([0, 2]), [np.int64(0), 2]):
            with knocked_out(bench.model, {"l0": units}, value=np.float32(0.5), steps=steps):
                assert_agree(bench.call(), expected)
    with knocked_out(bench.model, {"l0": np.int64(1)}, steps=np.int64(2)):
        assert_agree(bench.call(), bench.expected({"l0": 1}, "zero", 2))
