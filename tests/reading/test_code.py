from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from lightning_relay.reading.code import loss_takes_logits, names_in
from lightning_relay.reading.labels import read_labels
from lightning_relay.reading.predictions import PredictionReader


class Model(nn.Module):
    def __init__(self, loss: nn.Module | None = None, last: nn.Module | None = None) -> None:
        super().__init__()
        self.head = nn.Sequential(nn.Linear(2, 1), *([last] if last else []))
        self.loss = loss

    def forward(self, x: Tensor) -> Tensor:
        return 0.1 * self.head(x).sigmoid() + 0.2


class Functional(Model):
    def step(self, x: Tensor, y: Tensor) -> Tensor:
        return functional.binary_cross_entropy_with_logits(self(x), y)


class Inside(Model):
    @staticmethod
    def step(values: Tensor, y: Tensor) -> Any:
        def loss() -> Tensor:
            return functional.binary_cross_entropy(values, y)

        return loss()


class Both(Inside, Functional):
    pass


@pytest.mark.parametrize(
    ("model", "logits"),
    [
        (Model(), None),
        (Model(nn.BCEWithLogitsLoss()), True),
        (Model(nn.BCELoss()), False),
        (Functional(), True),
        (Inside(), False),
        (Both(), None),
        (Both(nn.BCELoss()), False),
        (Model(nn.CrossEntropyLoss()), None),
        (nn.ModuleList([Model(nn.BCELoss())]), False),
    ],
)
def test_the_loss_says_whether_one_number_is_a_logit(model: nn.Module, logits: Any) -> None:
    assert loss_takes_logits(model) is logits


def test_names_of_functions_inside_are_names() -> None:
    assert "binary_cross_entropy" in names_in(Inside.step.__code__)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (Model(nn.BCEWithLogitsLoss()), "sign of the model's own forward"),
        (Model(nn.BCELoss()), "the model's own forward above 0.5"),
        (nn.Sequential(nn.Linear(2, 1), nn.Sigmoid()), "the model's own forward above 0.5"),
    ],
)
def test_numbers_between_0_and_1_are_read_as_the_model_says(model: nn.Module, words: str) -> None:
    labels = read_labels((torch.tensor([0, 1, 1, 0]),))
    with PredictionReader(model) as reader:
        for _ in range(2):
            reader.clear()
            model(torch.randn(4, 2))
            assert reader.read(None, labels).x_out == words
