"""Small models in the ways in which people write them, with the arguments that their user needs.

None is changed for the callbacks. Each notes what its own validation step was asked and answered.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch.utils.data import DataLoader
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score

SAMPLES, STEPS, FEATURES, CLASSES, WORDS = 48, 7, 3, 4, 11

_GENERATOR = torch.Generator().manual_seed(1)
SERIES = torch.randn(SAMPLES, STEPS, FEATURES, generator=_GENERATOR)
TOKENS = torch.randint(1, WORDS, (SAMPLES, STEPS), generator=_GENERATOR)
LABELS = (SERIES[:, :2, 0] > 0).long() @ torch.tensor([2, 1])
YES = LABELS >= 2
LENGTHS = torch.randint(3, STEPS + 1, (SAMPLES,), generator=_GENERATOR)
TAGS = torch.randint(CLASSES, (SAMPLES, STEPS), generator=_GENERATOR)
IDS = torch.randint(CLASSES, (SAMPLES,), generator=_GENERATOR)
BITS = torch.tensor([1.0, 2.0, 4.0])
NEXT = SERIES[:, -1, :1] + torch.randn(SAMPLES, 2, generator=_GENERATOR)
QUARTERS = NEXT[:, 0].double().quantile(torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64))


def in_quarters(values: Tensor) -> Tensor:
    """Which quarter of the numbers to predict each number is in."""
    return torch.bucketize(values.double(), QUARTERS)


class Model(LightningModule):
    """Trains and validates with ``loss_and_answer``, which gives labels and classes too."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[tuple[Tensor, Tensor]] = []

    def loss_and_answer(self, batch: Any) -> tuple[Tensor, Tensor, Tensor]:
        raise NotImplementedError

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.loss_and_answer(batch)[0]

    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        loss, labels, classes = self.loss_and_answer(batch)
        self.log("val_loss", loss)
        self.said.append((labels.flatten().long(), classes.flatten().long()))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=1e-2)


class LastState(Model):
    """The usual classifier of series."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(FEATURES, 6, batch_first=True)
        self.fc = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Any:
        return self.fc(self.lstm(x)[0][:, -1])

    def loss_and_answer(self, batch: Any) -> tuple[Tensor, Tensor, Tensor]:
        x, y = batch
        logits = self(x)
        return functional.cross_entropy(logits, y), y, logits.argmax(1)


class TimeFirst(LastState):
    """Time is the first dimension inside the model."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(FEATURES, 6)

    def forward(self, x: Tensor) -> Any:
        _, (hidden, _) = self.lstm(x.transpose(0, 1))
        return self.fc(hidden[-1])


class WithMetrics(LastState):
    """A collection of metrics, probabilities instead of logits, and hyperparameters."""

    def __init__(self, hidden: int = 6, rate: float = 0.01) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.softmax = nn.Softmax(dim=-1)
        self.metrics = MetricCollection([MulticlassAccuracy(CLASSES), MulticlassF1Score(CLASSES)])

    def forward(self, x: Tensor) -> Any:
        return self.softmax(super().forward(x))

    def loss_and_answer(self, batch: Any) -> tuple[Tensor, Tensor, Tensor]:
        x, y = batch
        probabilities = self(x)
        self.log_dict(self.metrics(probabilities, y))
        return functional.nll_loss(probabilities.log(), y), y, probabilities.argmax(1)


class Parts(Model):
    """The step calls the parts, and returns the loss."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.GRU(FEATURES, 6, num_layers=2, dropout=0.1, batch_first=True)
        self.classifier = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, CLASSES))
        self.criterion = nn.CrossEntropyLoss()

    def loss_and_answer(self, batch: Any) -> tuple[Tensor, Tensor, Tensor]:
        x, y = batch
        _, hidden = self.encoder(x)
        logits = self.classifier(hidden[-1])
        return self.criterion(logits, y), y, logits.argmax(1)

    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        super().validation_step(batch, batch_idx)
        return {"loss": torch.zeros(())}


class Sentiment(Model):
    """Tokens, a bidirectional LSTM, and one logit for real labels."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(WORDS, 5)
        self.lstm = nn.LSTM(5, 4, bidirectional=True, batch_first=True)
        self.out = nn.Linear(8, 1)
        self.loss = nn.BCEWithLogitsLoss()

    def forward(self, tokens: Tensor) -> Any:
        states, _ = self.lstm(self.embedding(tokens))
        return self.out(states.mean(1)).squeeze(-1)

    def loss_and_answer(self, batch: Any) -> tuple[Tensor, Tensor, Tensor]:
        tokens, y = batch
        logit = self(tokens)
        return self.loss(logit, y), y, logit > 0


class Anomaly(Model):
    """A sigmoid at the end, a column of labels."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.RNN(FEATURES, 6, batch_first=True)
        self.score = nn.Sequential(nn.Linear(6, 1), nn.Sigmoid())

    def loss_and_answer(self, batch: Any) -> tuple[Tensor, Tensor, Tensor]:
        probability = self.score(self.rnn(batch["signal"])[1][-1])
        loss = functional.binary_cross_entropy(probability, batch["anomalous"])
        return loss, batch["anomalous"], probability > 0.5


class Packed(Model):
    """Packs tokens by their lengths, which stand in the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(WORDS, 5, padding_idx=0)
        self.gru = nn.GRU(5, 6, batch_first=True)
        self.fc = nn.Linear(6, CLASSES)

    def forward(self, tokens: Tensor, lengths: Tensor) -> Any:
        packed = pack_padded_sequence(
            self.embedding(tokens), lengths.cpu(), batch_first=True, enforce_sorted=False
        )
        return self.fc(self.gru(packed)[1][-1])

    def loss_and_answer(self, batch: Any) -> tuple[Tensor, Tensor, Tensor]:
        tokens, lengths, y = batch
        logits = self(tokens, lengths)
        return functional.cross_entropy(logits, y), y, logits.argmax(1)


class Unpacked(Packed):
    """Pads again, and takes the mean of the states."""

    def forward(self, tokens: Tensor, lengths: Tensor) -> Any:
        packed = pack_padded_sequence(
            self.embedding(tokens), lengths.cpu(), batch_first=True, enforce_sorted=False
        )
        states, lengths = pad_packed_sequence(self.gru(packed)[0], batch_first=True)
        return self.fc(states.sum(1) / lengths.unsqueeze(1))


class Masked(Model):
    """A mapping as tokenizers give it, with a mask of the tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(WORDS, 5)
        self.lstm = nn.LSTM(5, 6, batch_first=True)
        self.head = nn.Linear(6, CLASSES)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Any:
        states, _ = self.lstm(self.embedding(input_ids))
        last = attention_mask.sum(1) - 1
        return {"logits": self.head(states[torch.arange(len(states)), last]), "states": states}

    def loss_and_answer(self, batch: Any) -> tuple[Tensor, Tensor, Tensor]:
        logits = self(batch["input_ids"], batch["attention_mask"])["logits"]
        return functional.cross_entropy(logits, batch["labels"]), batch["labels"], logits.argmax(1)


class Attention(LastState):
    """Gives class scores, and the weights of all steps beside them."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.Linear(6, 1)

    def forward(self, x: Tensor) -> Any:
        states, _ = self.lstm(x)
        weights = self.attention(states).squeeze(-1).softmax(1)
        return self.fc((weights.unsqueeze(-1) * states).sum(1)), weights

    def loss_and_answer(self, batch: Any) -> tuple[Tensor, Tensor, Tensor]:
        x, y = batch
        logits, _ = self(x)
        return functional.cross_entropy(logits, y), y, logits.argmax(1)


class OneHot(LastState):
    """One-hot rows, with the lengths of the series beside them."""

    def loss_and_answer(self, batch: Any) -> tuple[Tensor, Tensor, Tensor]:
        logits = self(batch["x"])
        y = batch["y"].argmax(1)
        return functional.cross_entropy(logits, batch["y"]), y, logits.argmax(1)


class Convolutional(Model):
    """Convolutions before the recurrence."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv1d(FEATURES, 5, 3, padding=1), nn.ReLU())
        self.gru = nn.GRU(5, 6, batch_first=True)
        self.norm = nn.BatchNorm1d(6)
        self.head = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Any:
        features = self.features(x.transpose(1, 2)).transpose(1, 2)
        return self.head(self.norm(self.gru(features)[0][:, -1]))

    loss_and_answer = LastState.loss_and_answer


class Cells(Model):
    """Two cells in a loop over the steps."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.GRUCell(FEATURES, 5)
        self.second = nn.LSTMCell(5, 6)
        self.head = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Any:
        below, above = None, None
        for inputs in x.unbind(1):
            below = self.first(inputs, below)
            above = self.second(below, above)
        assert above is not None
        return self.head(above[0])

    loss_and_answer = LastState.loss_and_answer


class Forecast(Model):
    """Predicts the next two values."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(FEATURES, 6, batch_first=True)
        self.linear = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Any:
        return self.linear(self.lstm(x)[0][:, -1])

    def loss_and_answer(self, batch: Any) -> tuple[Tensor, Tensor, Tensor]:
        x, y = batch
        forecast = self(x)
        now = x[:, -1, 0]
        return functional.mse_loss(forecast, y), y[:, 0] > now, forecast[:, 0] > now


class Regression(Model):
    """Predicts one number of each series."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(FEATURES, 6, batch_first=True)
        self.out = nn.Linear(6, 1)

    def loss_and_answer(self, batch: Any) -> tuple[Tensor, Tensor, Tensor]:
        x, y = batch
        found = self.out(self.gru(x)[0][:, -1]).squeeze(-1)
        return functional.mse_loss(found, y), in_quarters(y), in_quarters(found)


class NextStep(Model):
    """Predicts the next value at each step."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.RNN(1, 6, batch_first=True)
        self.readout = nn.Linear(6, 1)

    def forward(self, x: Tensor) -> Any:
        return self.readout(self.rnn(x)[0])

    def loss_and_answer(self, batch: Any) -> tuple[Tensor, Tensor, Tensor]:
        found = self(batch["past"])
        loss = functional.mse_loss(found, batch["next"])
        return loss, batch["next"] > batch["past"], found > batch["past"]


class TwoTasks(LastState):
    """A class and a number at once."""

    def __init__(self) -> None:
        super().__init__()
        self.value = nn.Linear(6, 1)

    def forward(self, x: Tensor) -> Any:
        state = self.lstm(x)[0][:, -1]
        return {"class": self.fc(state), "value": self.value(state)}

    def loss_and_answer(self, batch: Any) -> tuple[Tensor, Tensor, Tensor]:
        x, y, value = batch
        found = self(x)
        loss = functional.cross_entropy(found["class"], y)
        loss = loss + functional.mse_loss(found["value"].squeeze(1), value)
        return loss, y, found["class"].argmax(1)


class Subjects(LastState):
    """Numbers of subjects stand beside the labels."""

    def loss_and_answer(self, batch: Any) -> tuple[Tensor, Tensor, Tensor]:
        x, _, y = batch
        return super().loss_and_answer((x, y))


class Diagnoses(Model):
    """Several labels of each sample."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(FEATURES, 6, batch_first=True)
        self.head = nn.Linear(6, 3)
        self.loss = nn.BCEWithLogitsLoss()

    def loss_and_answer(self, batch: Any) -> tuple[Tensor, Tensor, Tensor]:
        x, y = batch
        logits = self.head(self.gru(x)[0][:, -1])
        return self.loss(logits, y), y @ BITS, (logits > 0).float() @ BITS


@dataclass
class Record:
    series: Tensor
    label: Tensor


@dataclass
class Outcome:
    logits: Tensor
    hidden: Tensor


class Records(LastState):
    """Dataclasses as batches and as outputs."""

    def forward(self, x: Tensor) -> Any:
        states, _ = self.lstm(x)
        return Outcome(self.fc(states[:, -1]), states)

    def loss_and_answer(self, batch: Any) -> tuple[Tensor, Tensor, Tensor]:
        logits = self(batch.series).logits
        return functional.cross_entropy(logits, batch.label), batch.label, logits.argmax(1)


class Wrapped(Model):
    """A network of its own file inside the LightningModule, which logs the loss alone."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.ModuleDict(
            {"body": nn.RNN(FEATURES, 6, batch_first=True), "top": nn.Linear(6, CLASSES)}
        )

    def loss_and_answer(self, batch: Any) -> tuple[Tensor, Tensor, Tensor]:
        logits = self.net["top"](self.net["body"](batch.x)[0][:, -1])
        return functional.cross_entropy(logits, batch.y), batch.y, logits.argmax(1)


class Returned(LastState):
    """Scores by a function of torch; the step returns them."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Embedding(CLASSES, 6)

    def forward(self, x: Tensor) -> Any:
        states, _ = self.lstm(x)
        return functional.linear(states[:, -1], self.fc.weight)

    def loss_and_answer(self, batch: Any) -> tuple[Tensor, Tensor, Tensor]:
        x, y = batch
        states, _ = self.lstm(x)
        logits = functional.linear(states[:, -1], self.fc.weight)
        return functional.cross_entropy(logits, y), y, logits.argmax(1)

    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        loss, labels, classes = self.loss_and_answer(batch)
        self.log("val_loss", loss)
        self.said.append((labels, classes))
        return {"loss": loss, "predictions": classes}


class Tags(Model):
    """A tag for each token, padded with -100."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(WORDS, 5)
        self.gru = nn.GRU(5, 6, batch_first=True)
        self.head = nn.Linear(6, CLASSES)

    def forward(self, tokens: Tensor) -> Any:
        return self.head(self.gru(self.embedding(tokens))[0])

    def loss_and_answer(self, batch: Any) -> tuple[Tensor, Tensor, Tensor]:
        scores, tags = self(batch["tokens"]), batch["tags"]
        return (
            functional.cross_entropy(scores.flatten(0, 1), tags.flatten()),
            tags,
            scores.argmax(2),
        )


class Memory(Model):
    """A decision at each step, as in tasks of neuroscience; the loss takes the classes second."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.RNN(FEATURES, 6, batch_first=True)
        self.readout = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Any:
        return self.readout(self.rnn(x)[0]).transpose(1, 2)

    def loss_and_answer(self, batch: Any) -> tuple[Tensor, Tensor, Tensor]:
        x, y = batch
        scores = self(x)
        return functional.cross_entropy(scores, y), y, scores.argmax(1)


class Siamese(Model):
    """One encoder, called on two series: do they have the same label?"""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.GRU(FEATURES, 6, batch_first=True)
        self.head = nn.Linear(6, 1)
        self.loss = nn.BCEWithLogitsLoss()

    def forward(self, one: Tensor, other: Tensor) -> Any:
        states = [self.encoder(x)[1][-1] for x in (one, other)]
        return self.head((states[0] - states[1]).abs())

    def loss_and_answer(self, batch: Any) -> tuple[Tensor, Tensor, Tensor]:
        logit = self(batch["one"], batch["other"])
        return self.loss(logit, batch["same"]), batch["same"], logit > 0


class Decoder(Model):
    """A decoder that is called for one step after the other, with a state changed in between."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(FEATURES, 6)
        self.decoder = nn.GRU(6, 6, batch_first=True)
        self.head = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Any:
        inputs = self.encoder(x)
        context = inputs.mean(1).unsqueeze(0)
        state = context
        for step in range(STEPS):
            output, state = self.decoder(inputs[:, step : step + 1], state + context)
        return self.head(output[:, -1])

    loss_and_answer = LastState.loss_and_answer


class OwnLSTM(nn.LSTM):
    """Makes its initial state, and passes on to PyTorch's forward."""

    def forward(self, x: Tensor, hx: Any = None) -> Any:  # type: ignore[override]
        zeros = x.new_zeros(1, len(x), self.hidden_size)
        return super().forward(x, (zeros, zeros) if hx is None else hx)


class PassingOn(LastState):
    """A subclass of nn.LSTM with a forward of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = OwnLSTM(FEATURES, 6, batch_first=True)


class Sample(NamedTuple):
    x: Tensor
    y: Tensor


def batches(*parts: Tensor, of: Any = None) -> DataLoader[Any]:
    """Batches of 16, as tuples or what a function makes of their parts."""
    made = [part.split(16) for part in parts]
    found = [tuple(tensors) for tensors in zip(*made, strict=True)]
    return DataLoader([one if of is None else of(*one) for one in found], batch_size=None)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Entry:
    """A model, its batches, the arguments that its user gives, and what is announced."""

    model: type[Model]
    data: DataLoader[Any]
    x_in: str
    x_out: str
    arguments: dict[str, Any] = field(default_factory=dict)


OWN = "the model's own forward"
ARGMAX = f"argmax of {OWN}, 4 classes"


def now(batch: Any) -> Tensor:
    return batch[0][:, -1, 0]  # type: ignore[no-any-return]


def predictions(outputs: Any) -> Tensor:
    return outputs["predictions"]  # type: ignore[no-any-return]


SORTED = LENGTHS.sort(descending=True).values

COLLECTION = [
    Entry(LastState, batches(SERIES, LABELS), "batch[1]", ARGMAX),
    Entry(TimeFirst, batches(SERIES, LABELS), "batch[1]", ARGMAX),
    Entry(WithMetrics, batches(SERIES, LABELS), "batch[1]", ARGMAX),
    Entry(Parts, batches(SERIES, LABELS), "batch[1]", "argmax of 'classifier', 4 classes"),
    Entry(Sentiment, batches(TOKENS, YES.float()), "batch[1]", f"sign of {OWN}"),
    Entry(
        Anomaly,
        batches(SERIES, YES[:, None].float(), of=lambda x, y: {"signal": x, "anomalous": y}),
        "batch['anomalous']",
        "'score' above 0.5",
    ),
    Entry(Packed, batches(TOKENS, LENGTHS, LABELS), "target=2", ARGMAX, {"target": 2}),
    Entry(Unpacked, batches(TOKENS, LENGTHS, LABELS), "target=2", ARGMAX, {"target": 2}),
    Entry(
        Masked,
        batches(
            *(TOKENS, (torch.arange(STEPS) < LENGTHS[:, None]).long(), LABELS),
            of=lambda ids, mask, y: {"input_ids": ids, "attention_mask": mask, "labels": y},
        ),
        "batch['labels']",
        ARGMAX,
    ),
    Entry(
        *(Attention, batches(SERIES, LABELS), "batch[1]", "argmax of 'fc', 4 classes"),
        {"prediction": "fc"},
    ),
    Entry(
        OneHot,
        batches(
            *(SERIES, torch.eye(CLASSES)[LABELS], LENGTHS),
            of=lambda x, y, n: {"x": x, "y": y, "n": n},
        ),
        *("target='y'", ARGMAX),
        {"target": "y"},
    ),
    Entry(Convolutional, batches(SERIES, LABELS), "batch[1]", ARGMAX),
    Entry(Cells, batches(SERIES, LABELS), "batch[1]", ARGMAX),
    Entry(
        *(Forecast, batches(SERIES, NEXT)),
        "batch[1] at step 0, up or down from now",
        f"{OWN} at step 0, up or down from now",
        {"bins": ("up/down", now), "label_step": 0},
    ),
    Entry(
        *(
            Regression,
            batches(SERIES, NEXT[:, 0]),
            "batch[1], in up to 4 bins",
            "'out', in up to 4 bins",
        ),
        {"bins": 4},
    ),
    Entry(
        NextStep,
        batches(SERIES[:, :, :1], SERIES[:, :, 1:2], of=lambda x, y: {"past": x, "next": y}),
        "batch['next'], up or down from 'past'",
        f"{OWN} at each step, up or down from 'past'",
        {"bins": ("up/down", "past")},
    ),
    Entry(TwoTasks, batches(SERIES, LABELS, NEXT[:, 0]), "target=1", ARGMAX, {"target": 1}),
    Entry(Subjects, batches(SERIES, IDS, LABELS), "target=2", ARGMAX, {"target": 2}),
    Entry(
        Diagnoses,
        batches(SERIES, torch.stack([LABELS % 2 > 0, YES, LABELS > 0], 1).float()),
        *("batch[1]", "sign of 'head' for each of 3 labels"),
    ),
    Entry(
        Tags,
        batches(
            *(TOKENS, TAGS.masked_fill(torch.arange(STEPS) >= LENGTHS[:, None], -100)),
            of=lambda tokens, tags: {"tokens": tokens, "tags": tags},
        ),
        *("batch['tags']", f"{ARGMAX} at each step"),
    ),
    Entry(
        *(Memory, batches(SERIES, TAGS % 3), "batch[1]"),
        f"argmax of {OWN}, 3 classes at each step",
    ),
    Entry(
        Siamese,
        batches(
            *(SERIES, SERIES.flip(0), (YES.flip(0) == YES)[:, None].float()),
            of=lambda one, other, same: {"one": one, "other": other, "same": same},
        ),
        *("batch['same']", f"sign of {OWN}"),
        {"calls": "first"},
    ),
    Entry(Decoder, batches(SERIES, LABELS), "batch[1]", ARGMAX, {"calls": "joined"}),
    Entry(PassingOn, batches(SERIES, LABELS), "batch[1]", ARGMAX),
    Entry(Records, batches(SERIES, LABELS, of=Record), "batch.label", ARGMAX),
    Entry(
        Wrapped, batches(SERIES, LABELS, of=Sample), "batch[1]", "argmax of 'net.top', 4 classes"
    ),
    Entry(
        *(Returned, batches(SERIES, LABELS), "batch[1]", "prediction=predictions"),
        {"prediction": predictions},
    ),
]
