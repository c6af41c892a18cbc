"""Knock-outs are exact: compared with a reference that goes step by step."""

from __future__ import annotations

import itertools
import random
from dataclasses import astuple, dataclass, replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
import torch._dynamo
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lightning_relay.knockout.context import knocked_out
from tests.support.held_recurrence import Run, positions
from tests.support.machine import skip_without_bfloat16_lstm
from tests.support.matrix import (
    CELLS,
    FUSED,
    UNITS,
    VARIATIONS,
    Bench,
    Variation,
    assert_agree,
    difference,
    layer_units,
    random_values,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


EXACT = {
    name: variation
    for name, variation in VARIATIONS.items()
    if variation.dtype == torch.float64 and variation.compiled is None
} | {
    # Short windows may be computed in another way in long sequences than in short ones.
    "many steps": Variation(
        {"num_layers": 2, "bidirectional": True}, (24, 24), initial=True, cells=True
    ),
}

VALUES: dict[str, Callable[[Bench, int], Any]] = {
    "zero": lambda bench, count: "zero",
    "number": lambda bench, count: 0.7,
    "tensor ()": lambda bench, count: torch.tensor(-0.4),
    "tensor (unit,)": lambda bench, count: random_values(count),
    "tensor (step, unit)": lambda bench, count: random_values(max(bench.lengths), count),
    "tensor (batch, step, unit)": lambda bench, count: random_values(
        len(bench.lengths), max(bench.lengths), count
    ),
    "tensor (1, step, unit)": lambda bench, count: random_values(1, max(bench.lengths), count),
    "tensor (batch, 1, unit)": lambda bench, count: random_values(len(bench.lengths), 1, count),
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
        """Whether the module and its units exist, and the knock-out has a meaning."""
        variation = EXACT[self.variation]
        if not variation.exists(self.kind):
            return False
        if self.kind in CELLS:
            # The end of a loop is not known while it runs.
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
    """Cases in which every pair of choices that can be combined occurs at least once.

    The full product has more than twenty thousand cases. Errors of knock-outs come from an
    interaction of two choices, such as a window and a direction. So all pairs are covered,
    greedily: first by the cases that add most pairs, then by those that the rest needs.
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
def test_the_reference_without_knock_outs_is_what_pytorch_computes() -> None:
    for kind, variation in itertools.product(FUSED | CELLS, EXACT.values()):
        if variation.exists(kind):
            bench = Bench(kind, variation)
            assert_agree(bench.call(), bench.expected({}))


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
            assert bench.donors_of(index, run, units, steps)
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


OTHER_NUMBERS = {
    name: variation
    for name, variation in VARIATIONS.items()
    if variation.dtype != torch.float64 or variation.autocast is not None
} | {
    f"autocast, packed, {lengths}": replace(
        VARIATIONS["autocast to bfloat16"], lengths=lengths, packed="unsorted", cells=False
    )
    for lengths in ((3, 6, 4), (5, 5))
}


@torch.no_grad()
@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (kind, name)
        for kind, name in itertools.product(FUSED | CELLS, OTHER_NUMBERS)
        if OTHER_NUMBERS[name].exists(kind)
    ],
)
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


@dataclass(frozen=True)
class Anything:
    """A module of any kind and any knock-out of its units."""

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
        # Packed sequences are padded to ``(batch, step, unit)``, whatever batch_first says.
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
        torch.testing.assert_close(run.output[:2], before.output[:2], rtol=0, atol=1e-12)
        assert float(run.output[2, 1]) == 5
        assert torch.allclose(run.output[2, [0, 2, 3]], before.output[2, [0, 2, 3]])
        assert float((run.output[3] - before.output[3]).abs().max()) > 1e-3


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
