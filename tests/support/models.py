"""Unmodified user models of several styles, and data for them."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics.classification import MulticlassAccuracy

CLASSES, STEPS = 4, 6


def loader(samples: int = 48, batch_size: int = 16, *, shuffle: bool = False) -> DataLoader[Any]:
    """Sequences ``(batch, step, 1)`` whose first two inputs tell the class."""
    generator = torch.Generator().manual_seed(samples)
    labels = torch.randint(CLASSES, (samples,), generator=generator)
    inputs = 0.1 * torch.randn(samples, STEPS, 1, generator=generator)
    inputs[:, 0, 0] += 2.0 * (labels & 1) - 1
    inputs[:, 1, 0] += 2.0 * (labels >> 1) - 1
    return DataLoader(TensorDataset(inputs, labels), batch_size, shuffle=shuffle)


class Classifier(LightningModule):
    """The usual way: ``forward`` gives class scores, ``validation_step`` returns nothing."""

    cell: type[nn.RNNBase] = nn.GRU

    def __init__(self) -> None:
        super().__init__()
        self.rnn = self.cell(1, 6, batch_first=True)
        self.dropout = nn.Dropout(0.2)
        self.head = nn.Linear(6, CLASSES)
        self.loss = nn.CrossEntropyLoss()
        self.accuracy = MulticlassAccuracy(CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        output, _ = self.rnn(x)
        scores: Tensor = self.head(self.dropout(output[:, -1]))
        return scores

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        loss: Tensor = self.loss(self(x), y)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        x, y = batch
        scores = self(x)
        self.accuracy(scores, y)
        self.log("val_loss", self.loss(scores, y))
        self.log("val_accuracy", self.accuracy)

    def test_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        self.log("test_loss", self.loss(self(x), y))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=1e-2)


class PlainRNN(Classifier):
    cell = nn.RNN


class WithoutForward(Classifier):
    """LSTM; parts are called in the step, which returns the loss."""

    cell = nn.LSTM

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        x, y = batch
        output, _ = self.rnn(x)
        loss = self.loss(self.head(output[:, -1]), y)
        self.log("val_loss", loss)
        return loss


class Stacked(Classifier):
    """Two bidirectional LSTM layers with dropout between them, on packed sequences."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(1, 3, num_layers=2, dropout=0.3, bidirectional=True, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        lengths = 1 + (10 * x[:, -1, 0].abs()).long().clamp(max=STEPS - 1)
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        _, (final, _) = self.rnn(packed)
        scores: Tensor = self.head(self.dropout(torch.cat([final[-2], final[-1]], dim=1)))
        return scores


class PassingLSTM(nn.LSTM):
    """Makes the initial state that PyTorch's would make."""

    def forward(self, x: Tensor, state: Any = None) -> Any:
        if state is None:
            zeros = x.new_zeros(self.num_layers, len(x), self.hidden_size)
            state = (zeros, zeros)
        return super().forward(x, state)


class PassingOn(Classifier):
    """A subclass of nn.LSTM whose forward only passes on."""

    cell = PassingLSTM

    def __init__(self) -> None:
        super().__init__()
        self.rnn = self.cell(1, 6, num_layers=2, batch_first=True)


class PassedTo(PassingOn):
    """The same without a forward of its own."""

    cell = nn.LSTM


class Projected(Classifier):
    """An LSTM with projections, time first."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(1, 8, proj_size=6)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.head(self.rnn(x.transpose(0, 1))[0][-1])
        return scores


class CellLoop(nn.Module):
    """A cell called once for every step."""

    def __init__(self, cell: nn.RNNCellBase) -> None:
        super().__init__()
        self.cell = cell

    def forward(self, x: Tensor) -> Tensor:
        state = None
        for inputs in x.unbind(1):
            state = self.cell(inputs, state)
        return state[0] if isinstance(state, tuple) else state


class Stepped(Classifier):
    """An LSTM cell in a loop."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = CellLoop(nn.LSTMCell(1, 6))

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.head(self.dropout(self.rnn(x)))
        return scores


class CompiledLoop(Stepped):
    """The same, compiled."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = torch.compile(self.rnn, backend="eager")


class CompiledRNN(Classifier):
    """A compiled fused module."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = torch.compile(self.rnn, backend="eager")


class CompiledInPlace(Classifier):
    """The whole module compiled in place."""

    def __init__(self) -> None:
        super().__init__()
        self.compile(backend="eager")


class InPieces(Classifier):
    """A fused module that is given a sequence in pieces, with the state handed over."""

    def forward(self, x: Tensor) -> Tensor:
        state = None
        for piece in x.split(2, dim=1):
            output, state = self.rnn(piece, state)
        scores: Tensor = self.head(output[:, -1])
        return scores


class Siamese(Classifier):
    """One encoder for the sequence and for the sequence from its end."""

    def forward(self, x: Tensor) -> Tensor:
        (one, _), (other, _) = self.rnn(x), self.rnn(x.flip(1))
        scores: Tensor = self.head(self.dropout(one[:, -1] + other[:, -1]))
        return scores


class Decoder(Classifier):
    """An LSTM called once for every step, whose state the model changes in between."""

    cell = nn.LSTM

    def forward(self, x: Tensor) -> Tensor:
        state = None
        for inputs in x.split(1, dim=1):
            output, (h, c) = self.rnn(inputs, state)
            state = h + 0.1 * inputs.mean(), c
        scores: Tensor = self.head(output[:, -1])
        return scores


class SiameseCell(Classifier):
    """A cell that goes through the sequence, and through its first half again."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = CellLoop(nn.GRUCell(1, 6))

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.head(self.rnn(x) + self.rnn(x[:, : STEPS // 2]))
        return scores


class TwoModules(Classifier):
    """Two recurrent modules, one of them under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.RNN(1, 6, batch_first=True)
        self.rnn = nn.GRU(6, 6, batch_first=True)
        self.alias = self.rnn

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.head(self.alias(self.encoder(x)[0])[0][:, -1])
        return scores


class Frozen(Classifier):
    """Nothing is learnt."""

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)
