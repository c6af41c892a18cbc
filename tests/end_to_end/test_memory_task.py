"""The memory task is solved, and relayed in full through the whole delay, by all three cells.

Codes of four levels tell so. In some runs, those of two levels do not account for all three bits,
though the accuracy is as high (benchmarks/memory_task_seeds.py, docs/reading.md).
"""

from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import seed_everything

from lightning_relay import (
    HiddenStateRecorder,
    RelayInformationCallback,
    RelayMeasure,
    discretize,
    mutual_information,
)
from lightning_relay.tasks import Cell, MemoryTask, RecurrentClassifier
from tests.support.training import quiet_trainer


@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
def test_three_bits_are_relayed_at_every_step_of_the_delay(cell: Cell) -> None:
    seed_everything(1, verbose=False)
    task = MemoryTask(bits=3, delay=10)
    model = RecurrentClassifier(cell, task.input_size, task.num_classes, hidden_size=20)
    callback = RelayInformationCallback(inputs_end=task.inputs_end)
    finer = RelayInformationCallback(
        inputs_end=task.inputs_end,
        measure=RelayMeasure(discretization="quantile", levels=4, n_orders=0, n_splits=0),
        prefix="finer",
    )
    trainer = quiet_trainer(
        callback, finer, max_epochs=15, check_val_every_n_epoch=15, gradient_clip_val=1.0
    )
    trainer.fit(model, task)
    (metrics,) = trainer.validate(model, task, verbose=False)
    assert metrics["val_accuracy"] >= 0.99

    delay = slice(task.inputs_end + 1, None)
    told = finer.reports[-1]["rnn.l0"]["joint"].information[delay, 0]
    assert len(told) == 10
    np.testing.assert_allclose(told, 3.0, atol=0.05)
    layer = callback.reports[-1].layers["rnn.l0"]
    information = layer.concepts["joint"].information[:, 0]
    assert layer.inputs_ended.tolist() == [False] * 2 + [True] * 11
    np.testing.assert_allclose(information, by_the_book(model, task), atol=1e-9)


def by_the_book(model: RecurrentClassifier, task: MemoryTask) -> Any:
    """I(X_in; X_out) - I(X_in; X_out | Y) of every step, on the validation set."""
    inputs, labels = (torch.cat(parts) for parts in zip(*task.val_dataloader(), strict=True))
    with torch.no_grad(), HiddenStateRecorder(model) as recorder:
        predicted = model.eval()(inputs).argmax(1)
    hidden = discretize(recorder.states["rnn.l0"].values.transpose(0, 1))
    return mutual_information(labels, predicted) - mutual_information(labels, predicted, hidden)
