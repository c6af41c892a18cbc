"""On a GPU, the host waits twice for a batch after its step: for answers and for states."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence

from lightning_relay import RelayMeasure, SequenceSample
from lightning_relay.relay.capture import EvaluationCapture
from lightning_relay.sampling import SequenceBuffer
from tests.support.pretended_gpu import PretendedGpu, moved, on_gpu

CLASSES, STEPS, LENGTHS = 3, 7, torch.tensor([7, 7, 5, 3, 7])


class Model(nn.Module):
    """Answers after the last step, or at each; ``rnn`` may be a cell."""

    def __init__(
        self, rnn: nn.RNNBase | nn.RNNCellBase, *, of_steps: bool = False, outputs: int = CLASSES
    ) -> None:
        super().__init__()
        self.rnn = rnn
        self.head = nn.Linear(rnn.hidden_size, outputs)
        self.of_steps = of_steps

    def forward(self, x: Any) -> Tensor:
        if isinstance(self.rnn, nn.RNNCellBase):
            state = None
            for now in x.unbind(1):
                state = self.rnn(now, state)
            scores: Tensor = self.head(state)
            return scores
        output, final = self.rnn(x)
        if isinstance(x, PackedSequence):
            return self.head(final[-1])
        return self.head(output if self.of_steps else output[:, -1])


def batch(number: int) -> tuple[Any, ...]:
    """Inputs that end, a label, lengths, labels of steps, packed inputs, and a number."""
    generator = torch.Generator().manual_seed(number)
    inputs = torch.randn(len(LENGTHS), STEPS, 2, generator=generator)
    inputs[:, 2:] = 1.0
    labels = torch.randint(CLASSES, (len(LENGTHS), STEPS), generator=generator)
    of_steps = labels.masked_fill(torch.arange(STEPS) >= LENGTHS.unsqueeze(1), -100)
    parts = [own[:length] for own, length in zip(inputs, LENGTHS.tolist(), strict=True)]
    packed = pack_sequence(parts, enforce_sorted=False)
    return inputs, labels[:, 0], LENGTHS, of_steps, packed, inputs[:, 0, 0]


def gru(**options: Any) -> Model:
    return Model(nn.GRU(2, 4, batch_first=True), **options)


CASES: dict[str, tuple[Any, dict[str, Any], dict[str, Any], int]] = {
    "states": (gru, {}, {}, 2),
    "end of inputs": (gru, {"find_inputs_end": True}, {}, 2),
    "lengths": (gru, {"lengths": 2}, {}, 2),
    "lengths and end": (gru, {"lengths": 2, "find_inputs_end": True}, {}, 2),
    "some steps": (gru, {}, {"time_steps": [0, -1]}, 2),
    "codes": (gru, {}, {"fit_samples": 8}, 2),
    "fewer sequences": (gru, {}, {"max_samples": 8}, 2),
    "half": (gru, {}, {"storage": "half"}, 3),  # the largest state
    "labels of steps": (partial(gru, of_steps=True), {"target": 3, "lengths": 2}, {}, 2),
    "one step": (partial(gru, of_steps=True), {"target": 3, "label_step": -1}, {}, 2),
    "packed": (gru, {"lengths": 2}, {}, 2),
    "real numbers": (partial(gru, outputs=1), {"target": 5, "bins": 2}, {}, 3),
    "replay": (
        lambda: Model(nn.LSTM(2, 4, 2, batch_first=True)),
        {"layers": "all", "states": ("hidden", "cell")},
        {},
        3,  # whether the replay ends in the final states
    ),
    "cell": (lambda: Model(nn.GRUCell(2, 4)), {}, {}, 3),  # whether its calls are one sequence
}


@pytest.mark.parametrize("case", CASES)
def test_the_host_waits_twice_for_a_batch(case: str) -> None:
    new, options, sample, most = CASES[case]
    torch.manual_seed(0)
    model = new().eval()
    here, _ = captured(model, options, sample, case, gpu=False)
    there, waits = captured(moved(model), options, sample, case, gpu=True)
    # The first batch also decides what is read, and thresholds are fitted in the second.
    assert all(one <= most for one in waits[2:])
    own, other = here.buffers[0], there.buffers[0]
    assert torch.equal(own.x_in, other.x_in)
    assert torch.equal(own.x_out, other.x_out)
    assert here.inputs_end(0) == there.inputs_end(0)
    assert here.inputs_end(0) == ({"rnn": 1} if case == "end of inputs" else {})
    for key, states in own.states.items():
        assert torch.equal(states.lengths, other.states[key].lengths)
        for step in sample.get("time_steps", range(STEPS)):
            found, expected = other.states[key].at(step), states.at(step)
            assert torch.equal(found.values, expected.values)
            assert torch.equal(found.valid, expected.valid)


def captured(
    model: nn.Module, options: dict[str, Any], sample: dict[str, Any], case: str, *, gpu: bool
) -> tuple[EvaluationCapture, list[int]]:
    """What was captured of four batches, and how often the host waited after each step."""
    waits = []
    defaults: dict[str, Any] = {"target": 1, "prediction": None, "lengths": None}
    buffer = partial(SequenceBuffer, SequenceSample(**sample), RelayMeasure())
    capture = EvaluationCapture(model, modules=None, new_buffer=buffer, **(defaults | options))
    with capture, torch.inference_mode():
        for number in range(4):
            given = on_gpu(batch(number)) if gpu else batch(number)
            with PretendedGpu() as passing:
                capture.before_step(given)
                scores = model(given[4 if case == "packed" else 0])
            assert number == 0 or not passing.waits
            with PretendedGpu() as reading:
                capture.after_step(scores)
            waits.append(reading.waits.total())
    return capture, waits


def test_states_that_are_not_finite_are_told_before_scores() -> None:
    torch.manual_seed(0)
    model = moved(gru().eval())
    capture = EvaluationCapture(
        model, modules=None, target=1, prediction=None, lengths=None, new_buffer=SequenceBuffer
    )
    inputs, *others = batch(0)
    inputs[1, 4] = torch.nan
    with capture, PretendedGpu():
        given = on_gpu((inputs, *others))
        capture.before_step(given)
        scores = model(given[0])
        with pytest.raises(ValueError, match=r"states of 'rnn\.l0': nan at step 4, unit 0"):
            capture.after_step(scores)
