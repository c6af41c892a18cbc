"""Kinds of recurrent modules and ways to call them, each compared with the reference."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
import torch._dynamo
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_sequence

from lightning_relay import HiddenStateRecorder, HiddenStates
from tests.support.recurrence import states_of

if TYPE_CHECKING:
    from collections.abc import Callable

CHANNELS, UNITS = 3, 4

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
    """Calls a cell once for every step."""

    def __init__(self, cell: nn.RNNCellBase) -> None:
        super().__init__()
        self.cell = cell

    def forward(self, x: Tensor, state: Any = None) -> Any:
        for inputs in x:
            state = self.cell(inputs, state)
        return state


def differences(kind: str, variation: Variation) -> dict[str, float]:
    """Largest difference between recorded states and the reference, by layer key.

    Raises an AssertionError if the recorder has not just the keys of the reference.
    """
    found: dict[str, float] = {}
    for recorded, expected in _recorded_and_expected(kind, variation):
        assert recorded.keys() == expected.keys()
        for key, states in expected.items():
            assert recorded[key].shape == states.shape
            difference = float((recorded[key].double() - states).abs().max())
            found[key] = max(difference, found.get(key, 0.0))
    return found


def _recorded_and_expected(
    kind: str, variation: Variation
) -> list[tuple[dict[str, Tensor], dict[str, Tensor]]]:
    """For each sequence, the valid recorded states and those of the reference, by layer key."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    options = {
        name: value for name, value in variation.options.items() if kind in FUSED or name == "bias"
    }
    batch = len(variation.lengths)
    sequences = [
        torch.randn(length, CHANNELS, generator=generator).to(variation.dtype)
        for length in variation.lengths
    ]
    if kind in CELLS:
        make_cell, make_fused = CELLS[kind]
        cell = make_cell(CHANNELS, UNITS, **options).to(variation.dtype)
        model: nn.Module = Loop(cell)
        fused = make_fused(CHANNELS, UNITS, **options)
        fused.load_state_dict({f"{name}_l0": value for name, value in cell.state_dict().items()})
        prefix = "cell."
    else:
        fused = FUSED[kind](CHANNELS, UNITS, **options)
        model = fused.to(variation.dtype)
        prefix = ""
    model.eval()
    rows = fused.num_layers * (1 + fused.bidirectional)
    sizes = [fused.proj_size or UNITS] + [UNITS] * (fused.mode == "LSTM")
    initial = tuple(
        torch.randn(rows, batch, size, generator=generator).to(variation.dtype) for size in sizes
    )
    recorded = _recorded(kind, model, variation, sequences, initial)

    fused = fused.double()
    pairs = []
    for index, sequence in enumerate(sequences):
        given = tuple(state[:, index].double() for state in initial)
        expected = states_of(fused, sequence.double(), given if variation.initial else None)
        pairs.append(
            (
                {
                    key: states.values[index][states.valid[index]]
                    for key, states in recorded.items()
                },
                {prefix + key: states for key, states in expected.items()},
            )
        )
    return pairs


def _recorded(
    kind: str,
    model: nn.Module,
    variation: Variation,
    sequences: list[Tensor],
    initial: tuple[Tensor, ...],
) -> dict[str, HiddenStates]:
    """What the recorder gives for one call."""
    inputs: Any
    if variation.packed is not None:
        inputs = pack_sequence(sequences, enforce_sorted=variation.packed == "sorted")
    elif not variation.batched:
        inputs = sequences[0]
        initial = tuple(state[:, 0] for state in initial)
    else:
        inputs = torch.stack(sequences, 0 if variation.options.get("batch_first") else 1)
    given: Any = initial
    if kind in CELLS:
        given = tuple(state[0] for state in initial)
    if len(given) == 1:
        given = given[0]
    with torch._dynamo.config.patch(skip_nnmodule_hook_guards=False):
        return _called(model, variation, inputs, given if variation.initial else None)


def _called(
    model: nn.Module, variation: Variation, inputs: Any, state: Any
) -> dict[str, HiddenStates]:
    called: Any = model
    if variation.compiled in ("before", "called before"):
        called = torch.compile(model, backend="eager")
    with torch.no_grad():
        if variation.compiled == "called before":
            called(inputs, state)
        recorder = HiddenStateRecorder(called, layers="all", states=("hidden", "cell"))
        with (
            recorder,
            torch.autocast("cpu", variation.autocast, enabled=variation.autocast is not None),
        ):
            if variation.compiled == "inside":
                called = torch.compile(model, backend="eager")
            called(inputs, state)
    return recorder.states
