"""Kinds of recurrent modules and ways to call them, each compared with the reference."""

from __future__ import annotations

import copy
import itertools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
import torch._dynamo
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence, pad_packed_sequence

from lightning_relay import HiddenStateRecorder, HiddenStates
from tests.support import held_recurrence
from tests.support.held_recurrence import Run, holding, trajectory
from tests.support.recurrence import states_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

CHANNELS, UNITS = 3, 4
RECORDED = (25, 2, 25, 4)
"""Lengths of the recorded sequences; two are at least as long as the longest of every variation."""

FUSED: dict[str, Callable[..., nn.RNNBase]] = {
    "nn.RNN, tanh": nn.RNN,
    "nn.RNN, relu": lambda *sizes, **options: nn.RNN(*sizes, nonlinearity="relu", **options),
    "nn.GRU": nn.GRU,
    "nn.LSTM": nn.LSTM,
}
CELLS: dict[str, tuple[Callable[..., nn.RNNCellBase], Callable[..., nn.RNNBase]]] = {
    "nn.RNNCell": (nn.RNNCell, nn.RNN),
    "nn.GRUCell": (nn.GRUCell, nn.GRU),
    "nn.LSTMCell": (nn.LSTMCell, nn.LSTM),
}


@dataclass(frozen=True)
class Variation:
    """How a module is made and called."""

    options: dict[str, Any] = field(default_factory=dict)
    lengths: tuple[int, ...] = (5, 5, 5)
    packed: str | None = None
    batched: bool = True
    initial: bool = False
    dtype: torch.dtype = torch.float64
    autocast: torch.dtype | None = None
    compiled: str | None = None
    tolerance: float = 1e-12
    cells: bool = False

    def exists(self, kind: str) -> bool:
        """Whether there is such a module in PyTorch."""
        if kind in CELLS:
            return self.cells
        return "proj_size" not in self.options or kind == "nn.LSTM"


DEEP = {"num_layers": 3, "bidirectional": True}
VARIATIONS = {
    "one layer": Variation(cells=True),
    "three layers": Variation({"num_layers": 3}),
    "bidirectional, two layers": Variation({"num_layers": 2, "bidirectional": True}),
    "projections": Variation({"proj_size": 2, "num_layers": 2}),
    "without biases": Variation({"bias": False}, cells=True),
    "batch_first": Variation({"batch_first": True, "num_layers": 2}),
    "dropout between layers, in evaluation": Variation({"num_layers": 3, "dropout": 0.5}),
    "initial states given": Variation(initial=True, cells=True),
    "one sequence, unbatched": Variation(batched=False, lengths=(5,), initial=True, cells=True),
    "packed, sorted": Variation(DEEP, (6, 4, 1), packed="sorted", initial=True),
    "packed, unsorted": Variation(DEEP, (2, 6, 3), packed="unsorted", initial=True),
    "float32": Variation(DEEP, dtype=torch.float32, tolerance=1e-5, cells=True),
    "bfloat16": Variation(DEEP, dtype=torch.bfloat16, tolerance=0.05, cells=True),
    "float16": Variation(DEEP, dtype=torch.float16, tolerance=0.005, cells=True),
    "autocast to bfloat16": Variation(
        DEEP, dtype=torch.float32, autocast=torch.bfloat16, tolerance=0.05, cells=True
    ),
    "compiled before the recorder": Variation(compiled="before", cells=True),
    "compiled and called before the recorder": Variation(compiled="called before", cells=True),
    "compiled inside the recorder": Variation(compiled="inside", cells=True),
}


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
        return held_recurrence.run(
            self.fused,
            self.sequences[index].double(),
            initial if self.variation.initial else None,
            held,
        )

    def donors_of(
        self, index: int, run: Run, units: Mapping[str, Any], steps: Any
    ) -> dict[str, int] | None:
        """Which recorded sequences explain a resampled run, by layer key; None if none do."""
        long_enough = [
            donor for donor, length in enumerate(RECORDED) if length >= self.lengths[index]
        ]
        draws = sorted(
            itertools.product(long_enough, repeat=len(units)), key=lambda draw: len(set(draw))
        )
        for draw in draws:
            donors = dict(zip(units, draw, strict=True))
            if difference(run, self.expected_of(index, units, "resample", steps, donors)) <= 1e-12:
                return donors
        return None


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


def differences(kind: str, variation: Variation) -> dict[str, float]:
    """Largest difference between recorded states and the reference, by layer key.

    Raises an AssertionError if the recorder has not just the keys of the reference.
    """
    found: dict[str, float] = {}
    for recorded, expected in _recorded_and_expected(kind, variation):
        assert recorded.keys() == expected.keys()
        for key, states in expected.items():
            assert recorded[key].shape == states.shape
            largest = float((recorded[key].double() - states).abs().max())
            found[key] = max(largest, found.get(key, 0.0))
    return found


def _recorded_and_expected(
    kind: str, variation: Variation
) -> list[tuple[dict[str, Tensor], dict[str, Tensor]]]:
    """For each sequence, the valid recorded states and those of the reference, by layer key."""
    bench = Bench(kind, variation)
    with torch._dynamo.config.patch(skip_nnmodule_hook_guards=False):
        recorded = _recorded(bench)
    pairs = []
    for index, sequence in enumerate(bench.sequences):
        given = tuple(state[:, index].double() for state in bench.initial)
        expected = states_of(bench.fused, sequence.double(), given if variation.initial else None)
        own = {key: found.values[index][found.valid[index]] for key, found in recorded.items()}
        pairs.append((own, {bench.prefix + key: states for key, states in expected.items()}))
    return pairs


def _recorded(bench: Bench) -> dict[str, HiddenStates]:
    """What the recorder gives for one call."""
    compiled = bench.variation.compiled
    called: Any = bench.model
    if compiled in ("before", "called before"):
        called = torch.compile(bench.model, backend="eager")
    with torch.no_grad():
        if compiled == "called before":
            bench.call(called)
        with HiddenStateRecorder(called, layers="all", states=("hidden", "cell")) as recorder:
            if compiled == "inside":
                called = torch.compile(bench.model, backend="eager")
            bench.call(called)
    return recorder.states


def random_values(*shape: int) -> Tensor:
    """Values that are the same for the same shape, in float64."""
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(shape, generator=generator, dtype=torch.float64)
