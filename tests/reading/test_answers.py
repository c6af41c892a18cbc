"""How labels and outputs are read together, and what is left to the user."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_relay.reading.answers import (
    Answer,
    NonFiniteScoresError,
    Output,
    Reading,
    decide,
    predicted,
    read,
)
from lightning_relay.reading.labels import read_labels

X = torch.zeros(4, 5, 2)
CLASSES = torch.tensor([2, 0, 1, 2])
YES = torch.tensor([1, 0, 0, 1])
LENGTHS = torch.tensor([5, 4, 2, 1])
HOT = torch.eye(3)[CLASSES]
SEVERAL = torch.tensor([[1, 1, 0], [0, 0, 0], [1, 0, 0], [1, 1, 1]])
SCORES = torch.tensor([[0.0, 1.0, 5.0], [2.0, 1.0, 0.0], [3.0, 4.0, 2.0], [9.0, 0.0, 0.0]])
LOGITS = torch.tensor([-3.0, 0.5, 2.0, 0.0])
PROBABILITIES = torch.tensor([0.1, 0.4, 0.9, 0.6])
REAL = torch.tensor([0.5, 2.0, -1.0, 0.0])


def answer(batch: Any, values: Tensor, target: Any = None, **options: Any) -> Answer:
    labels = read_labels(batch, target)
    output = Output(values, "'head'", **options)
    reading = decide(labels, [output])
    return read(reading, labels[reading.label], output)


@pytest.mark.parametrize(
    ("batch", "target"),
    [
        ((X, CLASSES), None),
        ((X, CLASSES.int()[:, None]), None),
        ((X, HOT), None),
        ((X, HOT.bool()), None),
        ((X, CLASSES, YES.bool()), None),
        ((X, CLASSES, LENGTHS), 1),
        ((X, CLASSES.float()), 1),
        ((X, CLASSES.double()[:, None]), 1),
    ],
    ids=["numbers", "column", "one-hot", "bool one-hot", "mask", "named", "floats", "float column"],
)
def test_class_labels_and_class_scores(batch: Any, target: Any) -> None:
    found = answer(batch, SCORES, target)
    assert found.labels.dtype == torch.int64
    assert torch.equal(found.labels, CLASSES)
    assert found.classes.tolist() == [2, 0, 1, 0]
    assert found.num_classes == 3
    assert found.x_out == "argmax of 'head', 3 classes"


@pytest.mark.parametrize("labels", [YES, YES.bool(), YES.float(), YES[:, None], YES[:, None] > 0])
@pytest.mark.parametrize("values", [LOGITS, LOGITS[:, None]], ids=["numbers", "column"])
def test_yes_or_no_and_one_logit(labels: Tensor, values: Tensor) -> None:
    found = answer((X, labels), values)
    assert torch.equal(found.labels, YES)
    assert found.classes.tolist() == [0, 1, 1, 0]
    assert (found.num_classes, found.x_out) == (2, "sign of 'head'")
    assert found.scores is not None
    assert torch.equal(found.scores, LOGITS.sigmoid())


def test_numbers_between_0_and_1_are_what_the_model_says() -> None:
    found = answer((X, YES), PROBABILITIES, logit=False)
    assert found.classes.tolist() == [0, 0, 1, 1]
    assert found.x_out == "'head' above 0.5"
    assert answer((X, YES), PROBABILITIES, logit=True).x_out == "sign of 'head'"
    assert answer((X, YES), LOGITS, logit=False).x_out == "sign of 'head'"


def test_numbers_between_0_and_1_are_not_guessed_about() -> None:
    with pytest.raises(
        ValueError,
        match=r"^prediction: 'head' \(4,\) lies between 0 and 1, so it could be a probability or a "
        r"logit\. Give prediction=\('head', lambda p: p > 0\.5\) or prediction=\('head', lambda z:",
    ):
        answer((X, YES), PROBABILITIES)


def test_classes_that_a_function_gives() -> None:
    found = answer((X, CLASSES - 7), torch.tensor([4, -7, 0, 2]))
    assert found.labels.tolist() == [-5, -7, -6, -5]
    assert found.classes.tolist() == [4, -7, 0, 2]
    assert (found.scores, found.num_classes) == (None, None)
    assert answer((X, YES), LOGITS > 0).classes.tolist() == [0, 1, 1, 0]


def test_one_of_two_outputs_fits() -> None:
    labels = read_labels((X, CLASSES))
    both = [Output(LOGITS, "'head'", 0), Output(SCORES, "'head'", 1)]
    assert decide(labels, both) == Reading("batch[1]", 1, "scores")
    two = [Output(LOGITS, "'head'", 0), Output(SCORES[:, :2], "'head'", 1)]
    assert decide(read_labels((X, YES)), two).kind == "scores"  # integers are trained as classes
    with pytest.raises(ValueError, match=r"^prediction: several outputs could be the class scores"):
        decide(read_labels((X, YES.float()), 1), two)


@pytest.mark.parametrize(
    ("batch", "values", "target", "words"),
    [
        (
            (X, HOT, LENGTHS),
            SCORES,
            None,
            r"batch\[1\] .* fits .* batch\[2\] int64 \(4,\) could also",
        ),
        (
            (X, HOT, LENGTHS % 3),
            SCORES,
            None,
            r"several tensors \(batch\[1\] .*, batch\[2\] .* could",
        ),
        (
            (X, CLASSES, LENGTHS),
            SCORES,
            None,
            r"batch\[1\] .* fits .* but batch\[2\] .* could also be",
        ),
        (
            (X, CLASSES, REAL),
            SCORES,
            None,
            r"batch\[1\] .* fits .* but batch\[2\] float32 .* could al",
        ),
        (
            (X, YES, torch.rand(4, 3)),
            SCORES,
            None,
            r"batch\[1\] .* but batch\[2\] float32 \(4, 3\) cou",
        ),
        (
            (X, YES, REAL),
            LOGITS,
            None,
            r"batch\[1\] int64 .* fits .* but batch\[2\] float32 .* could",
        ),
        (
            (X, YES, LENGTHS),
            LOGITS,
            None,
            r"batch\[1\] int64 .* fits .* but batch\[2\] int64 .* could",
        ),
        (
            (X, REAL),
            LOGITS,
            None,
            r"batch\[1\] float32 \(4,\) holds real numbers for 'head' .* functions",
        ),
        (
            (X, CLASSES),
            LOGITS,
            None,
            r"labels from 0 to 2, but 'head' \(4,\) is one number for each sa",
        ),
        (
            (X, CLASSES.float()),
            SCORES,
            None,
            r"batch\[1\] .* could be class numbers .* name the entry",
        ),
        (
            (X, CLASSES + 1),
            SCORES,
            None,
            r"labels from 1 to 3, but 'head' gives 3 class scores, for lab",
        ),
        (
            (X, CLASSES + 1),
            SCORES,
            1,
            r"labels from 1 to 3, but 'head' gives 3 class scores, for labels",
        ),
        (
            (X, SEVERAL),
            SCORES,
            None,
            r"batch\[1\] .* several labels .* target=lambda batch: batch\[1\]\[",
        ),
        (
            (X, SEVERAL),
            SCORES,
            lambda batch: batch[1][:, 1],
            r"batch\[1\] .* holds several labels of",
        ),
        (
            (X, X[0]),
            SCORES,
            None,
            r"nothing in the batch could be the class labels for 'head' \(4, 3\)",
        ),
    ],
)
def test_what_is_not_clear_is_left_to_the_user(
    batch: Any, values: Tensor, target: Any, words: str
) -> None:
    with pytest.raises(ValueError, match=rf"^target: {words}"):
        answer(batch, values, target)


def test_later_batches_are_read_alike() -> None:
    labels, output = read_labels((X, YES)), Output(PROBABILITIES, "'head'")
    reading = Reading("batch[1]", 0, "logit")
    assert read(reading, labels["batch[1]"], output).classes.tolist() == [1] * 4
    for wrong in (CLASSES, REAL, SEVERAL):
        with pytest.raises(ValueError, match=r"^target: "):
            read(reading, read_labels((X, wrong), 1)["target=1"], output)


def test_scores_that_are_not_finite_are_refused() -> None:
    masked = SCORES.clone()
    masked[0, 1] = -torch.inf
    assert predicted("scores", Output(masked, "'head'"))[0].tolist() == [2, 0, 1, 0]
    sure = torch.tensor([-torch.inf, torch.inf])
    assert predicted("logit", Output(sure, "'head'"))[0].tolist() == [0, 1]
    for kind, values in (("scores", SCORES), ("logit", LOGITS), ("probability", LOGITS)):
        for bad in (torch.nan, torch.inf)[: 2 if kind == "scores" else 1]:
            wrong = values.clone()
            wrong[0] = bad
            with pytest.raises(NonFiniteScoresError, match="class scores of 'head' are NaN"):
                predicted(kind, Output(wrong, "'head'"))  # type: ignore[arg-type]
