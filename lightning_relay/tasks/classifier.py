"""A recurrent classifier for the tasks."""

from __future__ import annotations

from typing import Literal

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy

Cell = Literal["rnn", "gru", "lstm"]

Batch = tuple[Tensor | PackedSequence, Tensor]

_CELLS: dict[str, type[nn.RNN] | type[nn.GRU] | type[nn.LSTM]] = {
    "rnn": nn.RNN,
    "gru": nn.GRU,
    "lstm": nn.LSTM,
}


class RecurrentClassifier(LightningModule):
    """One recurrent layer with a linear read-out of its final state.

    Batches are pairs of sequences and class labels. The sequences are a tensor ``(batch, step,
    channel)`` or a packed sequence. The model logs ``train_loss``, and for each of the stages
    ``val`` and ``test`` ``{stage}_loss``, ``{stage}_accuracy`` and, for every class,
    ``{stage}_accuracy/class_{label}``.

    Args:
        cell: Kind of recurrent layer: ``"rnn"`` (with tanh), ``"gru"`` or ``"lstm"``.
        input_size: Number of channels of the input.
        num_classes: Number of classes.
        hidden_size: Number of hidden units.
        learning_rate: Learning rate of the Adam optimizer.

    Raises:
        ValueError: If ``cell`` is unknown.

    Example:
        >>> import torch
        >>> model = RecurrentClassifier("gru", input_size=1, num_classes=8)
        >>> model(torch.zeros(5, 13, 1)).shape
        torch.Size([5, 8])
    """

    def __init__(
        self,
        cell: Cell,
        input_size: int,
        num_classes: int,
        *,
        hidden_size: int = 20,
        learning_rate: float = 3e-3,
    ) -> None:
        super().__init__()
        if cell not in _CELLS:
            legal = ", ".join(map(repr, _CELLS))
            raise ValueError(f"cell: got {cell!r}; it takes {legal}")
        self.save_hyperparameters()
        self.learning_rate = learning_rate
        self.rnn = _CELLS[cell](input_size, hidden_size, batch_first=True)
        nn.init.orthogonal_(self.rnn.get_parameter("weight_hh_l0"))
        self.readout = nn.Linear(hidden_size, num_classes)
        self.loss = nn.CrossEntropyLoss()
        self.val_accuracy = MulticlassAccuracy(num_classes, average="micro")
        self.val_class_accuracy = MulticlassAccuracy(num_classes, average=None)
        self.test_accuracy = self.val_accuracy.clone()
        self.test_class_accuracy = self.val_class_accuracy.clone()

    def forward(self, sequences: Tensor | PackedSequence) -> Tensor:
        """Class scores ``(batch, class)`` of ``(batch, step, channel)`` or packed sequences."""
        _, final = self.rnn(sequences)
        hidden = final[0] if isinstance(final, tuple) else final
        scores: Tensor = self.readout(hidden.squeeze(0))
        return scores

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Cross-entropy of a batch."""
        sequences, labels = batch
        loss: Tensor = self.loss(self(sequences), labels)
        self.log("train_loss", loss, on_step=False, on_epoch=True, batch_size=len(labels))
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Log the loss and the accuracy."""
        self._evaluate(batch, "val", self.val_accuracy, self.val_class_accuracy)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Log the loss and the accuracy."""
        self._evaluate(batch, "test", self.test_accuracy, self.test_class_accuracy)

    def on_validation_epoch_end(self) -> None:
        """Log the accuracy of every class."""
        self._log_classes("val", self.val_class_accuracy)

    def on_test_epoch_end(self) -> None:
        """Log the accuracy of every class."""
        self._log_classes("test", self.test_class_accuracy)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The Adam optimizer."""
        return torch.optim.Adam(self.parameters(), lr=self.learning_rate)

    def _evaluate(self, batch: Batch, stage: str, accuracy: Metric, class_accuracy: Metric) -> None:
        sequences, labels = batch
        scores = self(sequences)
        accuracy.update(scores, labels)
        class_accuracy.update(scores, labels)
        self.log(f"{stage}_loss", self.loss(scores, labels), batch_size=len(labels))
        self.log(f"{stage}_accuracy", accuracy, batch_size=len(labels))

    def _log_classes(self, stage: str, class_accuracy: Metric) -> None:
        for label, value in enumerate(class_accuracy.compute()):
            self.log(f"{stage}_accuracy/class_{label}", value)
        class_accuracy.reset()
