"""What knock-outs refuse before anything is run, in the very words."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_relay import HiddenStates, knocked_out, register_recurrent
from lightning_relay.recurrent import adapters
from lightning_relay.recurrent.errors import StepError

CODES = HiddenStates(torch.zeros(2, 3, 3, dtype=torch.int64), torch.ones(2, 3, dtype=torch.bool))
STATES = HiddenStates(torch.zeros(2, 3, 3), torch.ones(2, 3, dtype=torch.bool))
OF_STATES = (
    "record them with HiddenStateRecorder (layers='all', states=('hidden', 'cell') for all there "
    "are) and give states=recorder.states"
)
NO_STATES = f"{{}} takes recorded states of '0.l0', and there are none; {OF_STATES}"
KEYS = "it takes unit indices by layer key, such as {'0.l0': [0]}"
UNITS = "for '0.l1'; it takes unit indices from 0 to 2"
STEPS = "it takes a slice, a set or list of time steps, one time step, or None for all"
VALUES = "it takes a number, a tensor, or one of 'zero', 'mean', 'mean_per_step', 'resample'"
FINITE = (
    "value: got a tensor with complex, infinite or NaN values for '0.l0'; it takes finite real ones"
)


def refused(
    error: type[Exception], message: str, units: Any, model: nn.Module | None = None, **options: Any
) -> None:
    """The block is not entered, and the error says just this."""
    if model is None:
        model = nn.Sequential(nn.LSTM(2, 4, num_layers=2, proj_size=3)).eval()
    with (
        pytest.raises(error, match=f"^{re.escape(message)}$"),
        knocked_out(model, units, **options),
    ):
        pytest.fail("entered")


@pytest.mark.parametrize(
    ("units", "error", "message"),
    [
        (
            {"0.l7": 1},
            ValueError,
            "no layer '0.l7' in Sequential; it has: '0.l0', '0.l0.cell', '0.l1', '0.l1.cell'",
        ),
        (["0.l0"], TypeError, f"got ['0.l0']; {KEYS}"),
        ({}, ValueError, f"got {{}}; {KEYS}"),
        ({"0.l1": []}, ValueError, f"got none {UNITS}"),
        ({"0.l1": "0"}, TypeError, f"got '0' {UNITS}"),
        ({"0.l1": 0.5}, TypeError, f"got 0.5 {UNITS}"),
        ({"0.l1": [0.5]}, TypeError, f"got 0.5 {UNITS}"),
        ({"0.l1": [True]}, TypeError, f"got True {UNITS}"),
        ({"0.l1": [0, 3]}, ValueError, f"got 3 {UNITS}"),
        ({"0.l1": -1}, ValueError, f"got -1 {UNITS}"),
        (
            {"0.l0.cell": 4},
            ValueError,
            "got 4 for '0.l0.cell'; it takes unit indices from 0 to 3",
        ),
        ({"0.l1": [1, 2, 1]}, ValueError, "got [1, 2, 1] for '0.l1'; name each unit once"),
    ],
)
def test_units(units: Any, error: type[Exception], message: str) -> None:
    refused(error, f"units: {message}", units)


@pytest.mark.parametrize(
    ("argument", "given", "error", "message"),
    [
        ("value", "one", ValueError, f"value: got 'one'; {VALUES}"),
        ("value", None, TypeError, f"value: got None; {VALUES}"),
        ("value", True, TypeError, f"value: got True; {VALUES}"),
        ("value", float("inf"), ValueError, "value: got inf; it takes a finite number"),
        ("value", torch.tensor([float("nan")]), ValueError, FINITE),
        ("value", torch.zeros(1, dtype=torch.complex64), ValueError, FINITE),
        *(
            (
                "value",
                torch.zeros(shape),
                ValueError,
                f"value: got shape {shape} for 1 units of '0.l0'; it takes a tensor (), (1,), "
                "(step, 1) or (batch, step, 1)",
            )
            for shape in ((3,), (5, 3), (1, 1, 5, 1), (0,))
        ),
        (
            "value",
            {"0.l1": 0.5},
            ValueError,
            "value: got values for '0.l1', and units for '0.l0'; it takes one value for each "
            "layer, or one for all",
        ),
        ("steps", "all", TypeError, f"steps: got 'all'; {STEPS}"),
        ("steps", 0.5, TypeError, f"steps: got 0.5; {STEPS}"),
        ("steps", [0.5], TypeError, f"steps: got [0.5]; {STEPS}"),
        ("steps", slice("a", None), TypeError, f"steps: got slice('a', None, None); {STEPS}"),
        ("steps", [], ValueError, f"steps: got [], which names no step; {STEPS}"),
        (
            "steps",
            slice(0, 4, -1),
            ValueError,
            "steps: got slice(0, 4, -1); it takes a slice that goes forward",
        ),
        (
            "steps",
            slice(4, 2),
            ValueError,
            f"steps: got slice(4, 2, None), which names no step; {STEPS}",
        ),
        ("seed", 0.5, TypeError, "seed: got 0.5; it takes an integer"),
    ],
    ids=str,
)
def test_other_arguments(argument: str, given: Any, error: type[Exception], message: str) -> None:
    refused(error, message, {"0.l0": 1}, **{argument: given})


@pytest.mark.parametrize("value", ["mean", "mean_per_step", "resample"])
@pytest.mark.parametrize(
    ("layer", "states", "error", "message"),
    [
        ("0.l0", None, ValueError, NO_STATES),
        ("0.l0", {}, ValueError, NO_STATES),
        (
            "0.l1",
            {"0.l0": STATES},
            ValueError,
            f"{{}} takes recorded states of '0.l1', and there are only '0.l0'; {OF_STATES}",
        ),
        (
            "0.l0",
            STATES,
            TypeError,
            "got HiddenStates; it takes recorded states by layer key: states=recorder.states",
        ),
        (
            "0.l0",
            {"0.l0": CODES},
            ValueError,
            "those of '0.l0' are torch.int64, codes that stand for states; {} takes the recorded "
            "states themselves",
        ),
        (
            "0.l0.cell",
            {"0.l0.cell": STATES},
            ValueError,
            "those of '0.l0.cell' have 3 units, and the layer has 4; record them with the same "
            "model",
        ),
    ],
)
def test_states(value: str, layer: str, states: Any, error: type[Exception], message: str) -> None:
    message = message.format(repr(value))
    refused(error, f"states: {message}", {layer: 1}, value=value, states=states)


def test_steps_from_the_end_of_a_cell() -> None:
    refused(
        ValueError,
        "steps: got negative ones for '0', which is called once for every step, so that the end of "
        "a sequence is not known; it takes steps from 0, or None",
        {"0.l0": 1},
        nn.Sequential(nn.GRUCell(2, 3)).eval(),
        steps=-1,
    )


@pytest.mark.parametrize(
    ("options", "got", "other"),
    [
        ({"steps": -1}, "steps: got negative ones", "steps from 0"),
        ({"value": "resample"}, "value: got 'resample'", "another value"),
    ],
)
def test_what_needs_the_end_of_sequences_that_come_in_pieces(
    options: dict[str, Any], got: str, other: str
) -> None:
    model = nn.GRU(2, 3, batch_first=True).eval()
    message = (
        f"{got} for '', which is called on pieces of sequences, so that their ends are not known; "
        f"call it on whole sequences, or give {other}"
    )
    states = {"l0": HiddenStates(torch.zeros(2, 9, 3), torch.ones(2, 9, dtype=torch.bool))}
    x = torch.zeros(2, 4, 2)
    with torch.no_grad(), knocked_out(model, {"l0": 1}, states=states, **options):
        _, state = model(x)
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            model(x, state)


def test_modules_of_other_makers() -> None:
    class OutputOnly(nn.GRU):
        def forward(self, *args: Tensor) -> Tensor:
            return super().forward(*args)[0]

    class OwnCell(nn.GRUCell):
        def forward(self, *args: Tensor) -> Tensor:
            return super().forward(*args)

    model = nn.Sequential(OutputOnly(2, 3)).eval()
    refused(
        ValueError,
        "units: '0' (OwnCell) has a forward of its own, and what happens in it is not known; "
        "knock-outs take nn.RNN, nn.GRU, nn.LSTM and their cells with PyTorch's forward, and "
        "subclasses of nn.RNN, nn.GRU and nn.LSTM that give the same",
        {"0.l0": 1},
        nn.Sequential(OwnCell(2, 3)).eval(),
    )
    register_recurrent(
        OutputOnly, units=lambda module: 3, hidden=lambda module, inputs, output: output
    )
    try:
        refused(
            ValueError,
            "units: '0' (OutputOnly) has an adapter, which tells how its states are read but not "
            "how they are replaced; knock-outs take nn.RNN, nn.GRU, nn.LSTM and their cells",
            {"0.l0": 1},
            model,
        )
    finally:
        del adapters._ADAPTERS[OutputOnly]


def test_a_model_without_recurrent_modules() -> None:
    refused(
        ValueError,
        "model: Linear has no recurrent module; it takes a model with an nn.RNN, nn.GRU, nn.LSTM "
        "or one of their cells in it, or a module of a kind registered with register_recurrent",
        {"l0": 1},
        nn.Linear(2, 3),
    )


def test_a_module_that_is_not_called() -> None:
    message = (
        "units: '0' (GRU) was not called inside the block, so nothing was knocked out; call the "
        "model there. If it was called, compiled code left out the knock-out: set "
        "torch._dynamo.config.skip_nnmodule_hook_guards = False and call torch.compiler.reset()"
    )
    model = nn.Sequential(nn.GRU(2, 3)).eval()
    words = f"^{re.escape(message)}$"
    with pytest.raises(RuntimeError, match=words), knocked_out(model, {"0.l0": 1}):
        pass


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        (
            slice(2, 9),
            "steps: got slice(2, 9), but the longest sequence has 4 steps; it takes positions from "
            "0 to 3, or -1 to -4 from the end of each sequence",
        ),
        (
            slice(-1, 1),
            "steps: got slice(-1, 1), which names none of the 4 steps of the longest sequence; it "
            "takes at least one of them",
        ),
    ],
    ids=str,
)
def test_steps_that_no_sequence_has(steps: slice, message: str) -> None:
    model = nn.GRU(2, 3, batch_first=True).eval()
    with (
        torch.no_grad(),
        pytest.raises(StepError, match=f"^{re.escape(message)}$"),
        knocked_out(model, {"l0": 1}, steps=steps),
    ):
        model(torch.zeros(1, 4, 2))


@pytest.mark.parametrize("kind", [nn.RNNCell, nn.GRUCell, nn.LSTMCell])
def test_compiled_cells_that_would_not_hear_of_it(kind: type[nn.RNNCellBase]) -> None:
    refused(
        RuntimeError,
        f"units: '0' ({kind.__name__}) may be compiled, and compiled code leaves out hooks that "
        "are set after it was first called. Set torch._dynamo.config.skip_nnmodule_hook_guards = "
        "False before the first compiled call; or, where that has been made, also call "
        "torch.compiler.reset()",
        {"0.l0": 1},
        torch.compile(nn.Sequential(kind(2, 3)).eval(), backend="eager"),
    )
