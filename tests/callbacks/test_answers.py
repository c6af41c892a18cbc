"""Both callbacks on labels and answers of every kind; classes are compared with the model's own."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torchmetrics.classification import BinaryAccuracy, BinaryAUROC, MulticlassAccuracy

from lightning_relay import (
    EveryUnit,
    KnockoutCallback,
    RandomSets,
    RelayInformationCallback,
    knocked_out,
)
from tests.support.ablation import lively
from tests.support.models import CLASSES, Classifier
from tests.support.training import INPUTS, LABELS, batch_of, quiet_trainer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torchmetrics import Metric

YES = LABELS > 1


class OneLogit(Classifier):
    """Binary cross entropy of one logit ``(batch,)``, with labels that are real numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.head: Any = nn.Linear(6, 1)
        self.loss: Any = nn.BCEWithLogitsLoss()
        self.accuracy: Any = BinaryAccuracy()

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).squeeze(1)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss: Tensor = self.loss(self(batch[0]), batch[1])
        return loss

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        scores = self(batch[0])
        self.log("val_loss", self.loss(scores, batch[1]))
        return {"scores": scores}


class Column(OneLogit):
    """A logit ``(batch, 1)``."""

    def forward(self, x: Tensor) -> Tensor:
        return Classifier.forward(self, x)


class Probability(OneLogit):
    """A sigmoid, which no module of its own makes."""

    def __init__(self) -> None:
        super().__init__()
        self.loss = nn.BCELoss()

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).sigmoid()


class OneHot(Classifier):
    """Cross entropy of one-hot rows."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return functional.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        scores = self(batch[0])
        self.log("val_loss", functional.cross_entropy(scores, batch[1].float()))
        return {"scores": scores}


class Several(OneLogit):
    """Three logits for three labels of each sample."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return Classifier.forward(self, x)


class Forecast(OneLogit):
    """A forecast of the mean of a series."""

    def __init__(self) -> None:
        super().__init__()
        self.loss = nn.MSELoss()


class Case(NamedTuple):
    kind: type[Classifier]
    labels: Tensor
    classes: Tensor
    answered: Any  # classes by the outputs of the model for all inputs
    x_out: str
    options: Mapping[str, Any] = MappingProxyType({})
    score: Metric | None = None


OWN = "the model's own forward"
SEVERAL = torch.stack([YES, LABELS % 2 > 0, LABELS > 0], 1).float()
MEANS = INPUTS[:, :, 0].mean(1)
CASES = {
    "one logit": Case(
        *(OneLogit, YES.float(), YES, lambda z: z > 0, f"sign of {OWN}"), score=BinaryAUROC()
    ),
    "a column": Case(
        *(Column, YES[:, None].float(), YES, lambda z: z[:, 0] > 0, f"sign of {OWN}"),
        score=BinaryAccuracy(),
    ),
    "a probability": Case(Probability, YES.float(), YES, lambda p: p > 0.5, f"{OWN} above 0.5"),
    "one-hot": Case(
        *(OneHot, torch.eye(CLASSES)[LABELS], LABELS, lambda scores: scores.argmax(1)),
        f"argmax of {OWN}, {CLASSES} classes",
        score=MulticlassAccuracy(CLASSES),
    ),
    "one of several": Case(
        *(Several, SEVERAL, SEVERAL[:, 1], lambda scores: scores[:, 1] > 0, "<lambda> of 'head'"),
        {
            "target": lambda batch: batch[1][:, 1],
            "prediction": ("head", lambda scores: scores[:, 1] > 0),
        },
    ),
    "up or down": Case(
        *(Forecast, MEANS, INPUTS[:, 2, 0] < MEANS, lambda z: z > INPUTS[:, 2, 0]),
        "prediction=<lambda>",
        {
            "target": lambda batch: batch[1] > batch[0][:, 2, 0],
            "prediction": lambda outputs, batch: outputs["scores"] > batch[0][:, 2, 0],
        },
    ),
}


def answers(model: Any, case: Case, **units: Any) -> Tensor:
    model.eval()
    with torch.no_grad():
        if not units:
            return case.answered(model(INPUTS)).long()
        with knocked_out(model, **units):
            return case.answered(model(INPUTS)).long()


@pytest.mark.parametrize("which", [EveryUnit(), RandomSets(n=8)], ids=["units", "sets"])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_classes_are_those_of_the_model_itself(case: Case, which: Any) -> None:
    model = lively(case.kind)
    relay = RelayInformationCallback(**case.options)
    knockouts = KnockoutCallback(which, score=case.score)
    quiet_trainer(relay, knockouts).validate(model, batch_of(INPUTS, case.labels), verbose=False)
    (report,), (found,) = relay.reports, knockouts.reports
    assert report.x_out.split(".")[-1].endswith(case.x_out.split(".")[-1])
    assert found.x_out == report.x_out
    for place, some in ((0, None), (1, found.sets[0]), (-1, found.sets[-1])):
        units = {} if some is None else {"units": some.units, "steps": some.steps}
        expected = np.zeros_like(found.confusion[0])
        np.add.at(expected, (case.classes.long(), answers(model, case, **units)), 1)
        np.testing.assert_array_equal(found.confusion[place], expected)
    whole = answers(model, case)
    information = report["rnn.l0"]["joint"].mutual_information
    assert information == pytest.approx(mutual_information(case.classes.long(), whole))
    if case.score is not None:
        scores = model(INPUTS)
        (name,) = found.metrics
        if case.kind is not OneHot:
            scores = scores.flatten().sigmoid()
        expected = case.score.clone()(scores, case.classes.long())
        assert float(found.metrics[name].baseline) == pytest.approx(float(expected))


def mutual_information(x: Tensor, y: Tensor) -> float:
    counts = torch.zeros(CLASSES, CLASSES, dtype=torch.float64)
    counts.index_put_((x, y), torch.ones((), dtype=torch.float64), accumulate=True)
    p = counts / counts.sum()
    outer = p.sum(1, keepdim=True) * p.sum(0, keepdim=True)
    return float((p * (p / outer).log2()).nansum())


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_training_is_bit_for_bit_the_same(case: Case) -> None:
    states = []
    for callbacks in (
        [],
        [
            RelayInformationCallback(**case.options, on_error="raise"),
            KnockoutCallback(score=case.score, on_error="raise"),
        ],
    ):
        torch.manual_seed(3)
        model = case.kind()
        data = batch_of(INPUTS, case.labels)
        quiet_trainer(*callbacks).fit(model, data, data)
        states.append(model.state_dict())
    torch.testing.assert_close(states[0], states[1], rtol=0, atol=0)
