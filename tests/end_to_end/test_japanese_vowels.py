"""Real series of different lengths: learnt, reported, and no padded step counted."""

import pytest
from lightning.pytorch import seed_everything

from lightning_relay import RelayInformationCallback
from lightning_relay.tasks import RecurrentClassifier, TimeSeriesTask
from tests.support.training import quiet_trainer

pytest.importorskip("aeon", reason="the series ship with aeon, an optional dependency")


def test_speakers_are_told_apart_and_padded_steps_do_not_count() -> None:
    seed_everything(0, verbose=False)
    task = TimeSeriesTask("JapaneseVowels")
    model = RecurrentClassifier("gru", task.input_size, task.num_classes, hidden_size=32)
    callback = RelayInformationCallback(concepts="per_class", every_n_epochs=40)
    trainer = quiet_trainer(callback, max_epochs=40)
    trainer.fit(model, task)
    (metrics,) = trainer.test(model, task, verbose=False)
    assert metrics["test_accuracy"] >= 0.90

    tested = callback.reports[-1]
    assert tested.stage == "test"
    layer = tested.layers["rnn.l0"]
    assert list(layer.concepts) == [f"class_{label}" for label in range(9)]
    lengths = [len(series) for series, _ in task.test_dataloader().dataset]
    assert min(lengths) < max(lengths)
    assert layer.time_steps.tolist() == [*range(max(lengths)), -1]
    assert layer.samples.tolist() == [
        *(sum(length > step for length in lengths) for step in range(max(lengths))),
        len(lengths),
    ]
