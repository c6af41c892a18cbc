import pytest
import torch
from torch.nn.utils.rnn import pack_sequence
from torchmetrics.functional.classification import multiclass_accuracy

from lightning_relay.tasks import Cell, MemoryTask, RecurrentClassifier
from tests.support.training import quiet_trainer


@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
def test_scores_are_read_off_the_last_step_of_each_sequence(cell: Cell) -> None:
    model = RecurrentClassifier(cell, input_size=2, num_classes=3, hidden_size=5).eval()
    sequences = [torch.randn(length, 2) for length in (4, 7, 1)]
    packed = model(pack_sequence(sequences, enforce_sorted=False))
    for scores, sequence in zip(packed, sequences, strict=True):
        torch.testing.assert_close(scores, model(sequence.unsqueeze(0))[0])


def test_loss_and_accuracy_of_every_class_are_logged() -> None:
    task = MemoryTask(bits=2, delay=1, val_size=70, batch_size=32)
    model = RecurrentClassifier("rnn", task.input_size, task.num_classes)
    trainer = quiet_trainer()
    (metrics,) = trainer.validate(model, task, verbose=False)
    inputs, labels = task.val_dataloader().dataset.tensors
    with torch.no_grad():
        scores = model.eval()(inputs)
    assert metrics["val_accuracy"] == pytest.approx(
        float((scores.argmax(1) == labels).float().mean())
    )
    per_class = multiclass_accuracy(scores, labels, 4, average=None)
    assert [metrics[f"val_accuracy/class_{label}"] for label in range(4)] == pytest.approx(
        per_class.tolist()
    )
    assert metrics["val_loss"] == pytest.approx(float(model.loss(scores, labels)), rel=1e-5)
    (tested,) = trainer.test(model, task, verbose=False)
    assert {"test_loss", "test_accuracy", "test_accuracy/class_3"} <= set(tested)


def test_an_unknown_cell_is_refused() -> None:
    with pytest.raises(ValueError, match=r"cell: got 'mgu'; it takes 'rnn', 'gru', 'lstm'"):
        RecurrentClassifier("mgu", input_size=1, num_classes=2)
