"""Where the inputs of recurrent modules end, found in the inputs themselves."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from lightning_relay import HiddenStateRecorder, HiddenStates, register_recurrent, relay_report
from lightning_relay.recurrent.constant_inputs import ConstantInputs
from lightning_relay.tasks import BlockTask, MemoryTask

PULSE = torch.tensor([[1.0, -1, 1, 0, 0, 0], [-1, 1, -1, 0, 0, 0], [1, 1, 0, 0, 0, 0]]).unsqueeze(2)


def end_of(*batches: Tensor, lengths: list[int] | None = None) -> int | None:
    found = ConstantInputs()
    for values in batches:
        own = torch.tensor(lengths or [values.shape[1]] * len(values))
        found.add(HiddenStates.of_lengths(values, own))
    return found.end


@pytest.mark.parametrize(
    ("sequences", "end"),
    [
        ([[1, 2, 0, 0]], 1),
        ([[1, 2, 0, 0], [3, 0, 0, 0]], 1),
        ([[1, 2, 0, 0], [0, 0, 0, 0]], 1),
        ([[1, 0, 0, 0], [0, 1, 0, 0]], 1),
        ([[1, 2, 3, 0]], None),  # one constant step is none
        ([[1, 2, 0, 0], [1, 2, 3, 0]], None),
        ([[0, 0, 0, 0], [0, 0, 0, 0]], None),  # constant from the start
        ([[1, 1, 1, 1], [2, 2, 2, 2]], None),
        ([[1, 5, 5, 5], [1, 7, 7, 7]], 1),  # what stays on differs, and is an input
        ([[1, 5, 5, 5], [7, 7, 7, 7]], 1),
        ([[float("nan")] * 4], None),
    ],
)
def test_the_end_is_the_last_step_with_another_input_than_the_end(
    sequences: list[list[float]], end: int | None
) -> None:
    values = torch.tensor(sequences, dtype=torch.float32).unsqueeze(2)
    assert end_of(values) == end
    assert end_of(values.expand(-1, -1, 3)) == end
    assert end_of(*values.split(1)) == end
    assert end_of(values.long()) == end or values.isnan().any()


def test_the_latest_end_of_all_batches_counts() -> None:
    early, late = torch.zeros(2, 6, 1), torch.zeros(2, 9, 1)
    early[:, 0], late[1, 4] = 1, 1
    assert (end_of(early), end_of(late)) == (0, 4)
    assert end_of(early, late) == end_of(late, early) == 4
    assert end_of(early, late, torch.rand(2, 4, 1), early) is None
    assert end_of(early, late, torch.zeros(2, 4, 1)) == 4
    assert end_of(early, late + 1) == 5


def test_padding_is_no_input() -> None:
    values = torch.tensor([[1.0, 2, 0, 0, 9, 9], [3, 0, 0, 9, 9, 9], [1, 2, 3, 0, 0, 0]])
    assert end_of(values.unsqueeze(2), lengths=[4, 3, 5]) == 2
    assert end_of(values.unsqueeze(2)) == 4
    assert end_of(values.unsqueeze(2), lengths=[4, 3, 4]) is None
    # Zeros after the lengths are no constant inputs.
    padded = torch.tensor([[1.0, 2, 0, 0, 0], [1, 2, 3, 4, 5]])
    assert end_of(padded[:1].unsqueeze(2), lengths=[2]) is None
    assert end_of(padded[:1].unsqueeze(2), lengths=[1]) is None


@pytest.mark.parametrize("task", [MemoryTask(bits=3, delay=4, noise=0), BlockTask(shown=5)])
@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU, nn.LSTM])
@pytest.mark.parametrize("options", [{}, {"batch_first": True}, {"bidirectional": True}])
def test_tasks_with_known_ends(task: Any, kind: type[nn.RNNBase], options: Any) -> None:
    task.setup("validate")
    model = kind(task.input_size, 4, **options)
    with torch.no_grad(), HiddenStateRecorder(model, inputs=True) as recorder:
        for inputs, _ in task.val_dataloader():
            model(inputs if "batch_first" in options else inputs.transpose(0, 1))
    assert recorder.inputs_end == {"": task.inputs_end}
    recorder.clear()
    assert recorder.inputs_end == {}


def test_noise_at_every_step_has_no_end() -> None:
    task = MemoryTask(bits=3, delay=4)
    task.setup("validate")
    model = nn.GRU(1, 4, batch_first=True)
    with torch.no_grad(), HiddenStateRecorder(model, inputs=True) as recorder:
        for inputs, _ in task.val_dataloader():
            model(inputs)
    assert recorder.inputs_end == {}


def called(model: nn.Module, run: Any, **options: Any) -> dict[str, int]:
    with torch.no_grad(), HiddenStateRecorder(model, inputs=True, **options) as recorder:
        run(model)
    return recorder.inputs_end


def test_every_way_to_call_a_module() -> None:
    """Chunks, steps of a cell, one sequence, packed sequences, a keyword, changed inputs."""
    gru = nn.GRU(1, 4, batch_first=True)

    def in_chunks(model: nn.Module) -> None:
        _, state = model(PULSE[:, :2])
        model(PULSE[:, 2:], state)

    def changed(model: nn.Module) -> None:
        inputs = PULSE.clone()
        model(inputs)
        inputs.normal_()

    lengths = torch.tensor([6, 5, 4])
    padded = PULSE.clone()
    padded[1, 5:], padded[2, 4:] = 7, 7
    packed = pack_padded_sequence(padded, lengths, batch_first=True, enforce_sorted=False)
    assert called(gru, in_chunks) == {"": 2}
    assert called(gru, changed) == {"": 2}
    assert called(gru, lambda model: model(packed)) == {"": 2}
    assert called(gru, lambda model: model(padded)) == {}
    assert called(gru, lambda model: model(input=PULSE)) == {"": 2}
    assert called(gru, lambda model: model(PULSE[2])) == {"": 1}
    assert called(gru, lambda model: [model(PULSE[:2]), model(PULSE[2:])]) == {"": 2}
    deep = nn.LSTM(1, 4, num_layers=2)
    every = {"layers": "all", "states": ("cell",)}
    assert called(deep, lambda model: model(PULSE.transpose(0, 1)), **every) == {"": 2}


class Loop(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTMCell(1, 4)
        self.above = nn.GRUCell(4, 4)

    def forward(self, inputs: Tensor) -> None:
        state: Any = None
        other: Any = None
        for step in inputs.unbind(-2):
            state = self.cell(step, state)
            other = self.above(state[0], other)


def test_cells_in_a_loop() -> None:
    assert called(Loop(), lambda model: model(PULSE)) == {"cell": 2}
    assert called(Loop(), lambda model: model(PULSE[0])) == {"cell": 2}


class Own(nn.Module):
    """A recurrent module whose inputs have the batch where they are told to."""

    def __init__(self, order: str) -> None:
        super().__init__()
        self.order = order

    def forward(self, inputs: Any, other: Any = None) -> Tensor:
        if self.order == "packed":
            return torch.zeros(3, 6, 2)
        if self.order == "steps first":
            return torch.zeros(inputs.shape[1], inputs.shape[0], 2)
        return torch.zeros(*inputs.shape[:2], 2)


def test_modules_that_are_registered() -> None:
    register_recurrent(Own, units=lambda _: 2, hidden=lambda module, inputs, output: output)
    packed = pack_padded_sequence(PULSE, [6, 6, 6], batch_first=True)
    for order, inputs, end in (
        ("batch first", PULSE, 2),
        ("batch first", PULSE[..., 0], 2),
        ("steps first", PULSE.transpose(0, 1), 2),
        ("packed", packed, 2),
        ("packed", PULSE[0, 0], None),
        ("packed", "none", None),
        ("packed", torch.nested.nested_tensor([*PULSE], layout=torch.jagged), None),
        ("packed", PULSE.to_sparse(), None),
        ("batch first", PULSE[:, :3].repeat(1, 1, 2), None),  # which is the batch?
    ):
        found = called(Own(order), lambda model, inputs=inputs: model(inputs))
        assert found == ({} if end is None else {"": end}), order


def test_inputs_are_recorded_where_they_are_asked_for() -> None:
    model = nn.GRU(1, 4, batch_first=True)
    with torch.no_grad(), HiddenStateRecorder(model) as recorder:
        model(PULSE)
    with pytest.raises(RuntimeError, match="inputs are not recorded; set inputs=True"):
        _ = recorder.inputs_end


def test_a_report_without_lightning() -> None:
    model, labels = nn.GRU(1, 4, batch_first=True), torch.arange(3)
    with torch.no_grad(), HiddenStateRecorder(model, inputs=True) as recorder:
        model(PULSE)
    report = relay_report(recorder.states, labels, labels, inputs_end=recorder.inputs_end)
    assert report["l0"].inputs_ended.tolist() == [False, False, True, True, True, True]
    with pytest.raises(ValueError, match=r"inputs_end: got 'auto', but the inputs .* are not know"):
        relay_report(recorder.states, labels, labels, inputs_end="auto")  # type: ignore[arg-type]
