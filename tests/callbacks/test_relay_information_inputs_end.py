"""The end of the inputs is found where they are constant, and asked for where it matters."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from lightning_relay import RelayInformationCallback, RelayReport, SequenceSample
from lightning_relay.tasks import BlockTask, MemoryTask, RecurrentClassifier
from tests.support.models import CLASSES, Classifier, loader
from tests.support.reports import assert_equal
from tests.support.training import batch_of, quiet_trainer

LABELS = torch.arange(64) % CLASSES


def pulses(end: int = 4) -> Tensor:
    """Sequences that say their label at one step and are 0 before and after."""
    inputs = torch.zeros(64, 7, 1)
    inputs[:, end, 0] = 2.0 * LABELS - 3
    return inputs


class Telling(Classifier):
    """Gives every label right."""

    def __init__(self) -> None:
        torch.manual_seed(3)
        super().__init__()

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        self.rnn(batch[0])
        return batch[-1]

    test_step = validation_step


def analysed(
    *data: Any, model: Classifier | None = None, fit: bool = False, **options: Any
) -> list[RelayReport]:
    callback = RelayInformationCallback(
        prediction=lambda labels: labels, **({"target": 1, "on_error": "raise"} | options)
    )
    trainer = quiet_trainer(callback)
    loaders = list(data) if len(data) > 1 else data[0]
    if fit:
        trainer.fit(model or Telling(), loader(), loaders)
    else:
        trainer.validate(model or Telling(), loaders, verbose=False)
    return callback.reports


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    found = [text for text in caplog.messages if text.startswith("Relay information")]
    return [text for text in found if "of memory" not in text]


def test_an_end_that_is_found_is_that_which_is_given(caplog: pytest.LogCaptureFixture) -> None:
    data = batch_of(pulses(), LABELS)
    with caplog.at_level("INFO"):
        found = analysed(data, inputs_end="auto", latent=True, fit=True)
    (line,) = said(caplog)  # once in sanity check and epochs
    given = analysed(data, inputs_end={"rnn": 4}, latent=True, fit=True)
    for one, other in zip(found, given, strict=True):
        assert one.inputs_end == other.inputs_end == {"rnn": 4}
        assert one["rnn.l0"].inputs_ended.tolist() == [False] * 4 + [True] * 3
        assert_equal(one.layers, other.layers)
    assert line.endswith(". The end of the inputs (inputs_end='auto'): 'rnn' at step 4.")
    assert line.startswith("Relay information: X_in is target=1, X_out is ")


def test_a_report_with_an_end_that_was_found_is_saved(tmp_path: Any) -> None:
    (report,) = analysed(batch_of(pulses(), LABELS), inputs_end="auto")
    report.save(tmp_path / "report.npz")
    loaded = RelayReport.load(tmp_path / "report.npz")
    assert loaded.inputs_end == loaded.found_inputs_end == {"rnn": 4}


@pytest.mark.parametrize(
    "inputs",
    [
        torch.zeros(64, 7, 1),
        LABELS[:, None, None].float().expand(64, 7, 1),
        pulses(5),
        pulses() + 0.1 * torch.randn(64, 7, 1, generator=torch.Generator().manual_seed(0)),
        torch.cat([pulses()[:40], pulses(6)[40:]]),
    ],
)
def test_without_an_end_no_step_is_marked(inputs: Tensor, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        (report,) = analysed(batch_of(inputs, LABELS), inputs_end="auto")
    assert report.inputs_end == report.found_inputs_end == {}
    assert report["rnn.l0"].inputs_ended.all()
    assert said(caplog)[0].endswith("The end of the inputs (inputs_end='auto'): 'rnn' not found.")


@pytest.mark.parametrize(
    "task",
    [MemoryTask(bits=2, delay=3, noise=0, val_size=100), BlockTask(shown=4, delay=2, val_size=90)],
)
def test_tasks_with_known_ends(task: Any) -> None:
    model = RecurrentClassifier("lstm", task.input_size, task.num_classes)
    callback = RelayInformationCallback(inputs_end="auto", sample=SequenceSample(max_samples=50))
    quiet_trainer(callback).validate(model, task, verbose=False)
    assert callback.reports[0].inputs_end == {"rnn": task.inputs_end}
    assert callback.reports[0].samples == 50


def test_the_latest_end_of_all_batches_counts_in_each_dataloader(
    caplog: pytest.LogCaptureFixture,
) -> None:
    early, mixed = pulses(1), pulses(1)
    mixed[60, 3] = 1.0
    data = [early, mixed, torch.randn(64, 7, 1), pulses()]
    with caplog.at_level("INFO"):
        reports = analysed(*(batch_of(inputs, LABELS) for inputs in data), inputs_end="auto")
    assert [report.inputs_end for report in reports] == [{"rnn": 1}, {"rnn": 3}, {}, {"rnn": 4}]
    assert [line.partition("inputs of ")[2] for line in said(caplog)] == [
        "dataloader 0 (inputs_end='auto'): 'rnn' at step 1.",
        "dataloader 1 (inputs_end='auto'): 'rnn' at step 3.",
        "dataloader 2 (inputs_end='auto'): 'rnn' not found.",
        "dataloader 3 (inputs_end='auto'): 'rnn' at step 4.",
    ]


class Ragged(Telling):
    packs = True

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        x, lengths, labels = batch
        if self.packs:
            x = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        self.rnn(x)
        return labels


class Padded(Ragged):
    packs = False


@pytest.mark.parametrize("kind", [Ragged, Padded])
def test_padding_is_no_input(kind: type[Ragged]) -> None:
    inputs = pulses(2)
    lengths = 5 + torch.arange(64) % 3
    inputs[torch.arange(7) >= lengths[:, None]] = 9.0
    lengthy = {"target": 2, "lengths": 1, "inputs_end": "auto"}
    (report,) = analysed(batch_of(inputs, lengths, LABELS), model=kind(), **lengthy)
    assert report.inputs_end == {"rnn": 2}
    # The zeros that pad a sequence are no constant inputs.
    inputs[torch.arange(7) >= lengths[:, None]] = 0.0
    short = torch.full((64,), 3)
    (report,) = analysed(batch_of(inputs, short, LABELS), model=kind(), **lengthy)
    assert report.inputs_end == {}


def test_every_module_has_an_end_of_its_own() -> None:
    class Two(Telling):
        def __init__(self) -> None:
            super().__init__()
            self.loop, self.other = nn.GRUCell(1, 3), nn.LSTM(1, 3, batch_first=True)

        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
            state = None
            for step in batch[0].unbind(1):
                state = self.loop(step, state)
            self.other(torch.randn(len(batch[0]), 5, 1))
            self.rnn(batch[0][:, 2:])
            return batch[-1]

    (report,) = analysed(batch_of(pulses(), LABELS), model=Two(), inputs_end="auto")
    assert report.inputs_end == {"loop": 4, "rnn": 2}
    assert report["other.l0"].inputs_ended.all()
    assert report["loop.l0"].inputs_ended.tolist() == [False] * 4 + [True] * 3


def test_the_mean_beside_the_last_step_is_noted_without_an_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    data = batch_of(pulses(), LABELS)
    with caplog.at_level("INFO"):
        reports = analysed(data, fit=True)
    for report in reports:
        relay = report["rnn.l0"]["joint"]
        mean, last = relay.information[:, 0].mean(), relay.information[-1, 0]
        assert mean < last / 2
        assert report.inputs_end is None
        assert str(report).endswith(
            f"{mean:.2f} bits as the mean over the steps, {last:.2f} bits at the last; if early "
            "steps have inputs still to come, name the last input with inputs_end=, or "
            "inputs_end='auto', which finds step 4"
        )
        assert "at the last; if early" in report._repr_html_()
    source, note = said(caplog)  # both once
    assert "The end of the inputs" not in source
    assert note.startswith(f"Relay information: 'rnn.l0', joint: {mean:.2f} bits as the mean ov")
    assert note.endswith("with inputs_end=, or inputs_end='auto', which finds step 4.")


@pytest.mark.parametrize("inputs_end", [4, -1, "auto", {"rnn": 4}, {}])
def test_no_note_where_the_end_is_given(inputs_end: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        (report,) = analysed(batch_of(pulses(), LABELS), inputs_end=inputs_end)
    assert "name the last input" not in str(report)
    assert len(said(caplog)) == 1


def test_no_end_is_offered_where_none_is_found(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        (report,) = analysed(batch_of(pulses(5), LABELS))
    assert str(report).endswith("name the last input with inputs_end=")
    assert said(caplog)[1].endswith("name the last input with inputs_end=.")


def test_no_note_where_mean_and_last_step_agree(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        (report,) = analysed(batch_of(pulses(0), LABELS))
    information = report["rnn.l0"]["joint"].information[:, 0]
    assert np.ptp(information) < information.max() / 2
    assert "name the last input" not in str(report)
    assert len(said(caplog)) == 1
