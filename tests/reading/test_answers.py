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
    read,
    within,
)
from lightning_relay.reading.deciding import check_not_of_steps, decide
from lightning_relay.reading.labels import read_labels
from lightning_relay.reading.predictions import Question

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
    with pytest.raises(ValueError, match=r"^prediction: several outputs could be the answer"):
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
            (X, SEVERAL.bool()),
            SCORES,
            None,
            r"batch\[1\] bool \(4, 3\) could be several labels of each sample, or a mask; if it",
        ),
        (
            (X, SEVERAL, CLASSES),
            SCORES,
            None,
            r"several tensors \(batch\[1\] int64 \(4, 3\), batch\[2\] int64 \(4,\)\) could be",
        ),
        (
            (X, SEVERAL.float(), REAL[:, None].expand(4, 3)),
            SCORES,
            None,
            r"batch\[1\] .* fits .*, but batch\[2\] float32 \(4, 3\) could also be the class label",
        ),
        (
            (X, REAL),
            LOGITS,
            None,
            r"batch\[1\] float32 \(4,\) holds real numbers for 'head'",
        ),
        (
            (X, REAL[:, None].expand(4, 3)),
            SCORES,
            None,
            r"batch\[1\] float32 \(4, 3\) holds real numbers for 'head' .* give bins=, such",
        ),
        (
            (X, torch.ones(4, 63)),
            torch.zeros(4, 63) - 1,
            None,
            r"batch\[1\] .* holds 63 labels of each sample, and at most 62 are r.*\[\.\.\., :8\]",
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
    with pytest.raises(ValueError, match=rf"^(target|bins): {words}"):
        answer(batch, values, target)


def test_later_batches_are_read_alike() -> None:
    labels, output = read_labels((X, YES)), Output(PROBABILITIES, "'head'")
    reading = Reading("batch[1]", 0, "logit")
    assert read(reading, labels["batch[1]"], output).classes.tolist() == [1] * 4
    for wrong in (CLASSES, REAL, SEVERAL):
        with pytest.raises(ValueError, match=r"^(target|bins): "):
            read(reading, read_labels((X, wrong), 1)["target=1"], output)


def test_scores_that_are_not_finite_are_refused() -> None:
    masked = SCORES.clone()
    masked[0, 1] = -torch.inf
    assert answer((X, CLASSES), masked).classes.tolist() == [2, 0, 1, 0]
    sure = torch.tensor([-torch.inf, torch.inf, 0.0, 1.0])
    assert answer((X, YES), sure).classes.tolist() == [0, 1, 0, 1]
    for kind, labels, values in (
        ("scores", CLASSES, SCORES),
        ("logit", YES, LOGITS),
        ("probability", YES, PROBABILITIES),
        ("values", REAL, LOGITS),
    ):
        for bad in (torch.nan, torch.inf)[: 2 if kind in ("scores", "values") else 1]:
            wrong = values.clone()
            wrong[1] = bad
            reading = Reading("batch[1]", 0, kind)  # type: ignore[arg-type]
            entry = read_labels((X, labels))["batch[1]"]
            with pytest.raises(NonFiniteScoresError, match="numbers of 'head' are NaN"):
                read(reading, entry, Output(wrong, "'head'"))
    labels = CLASSES.masked_fill(torch.tensor([0, 1, 0, 0]) > 0, -100)
    wrong = SCORES.masked_fill(torch.tensor([0, 1, 0, 0])[:, None] > 0, torch.nan)
    reading = Reading("batch[1]", 0, "scores")
    found = read(reading, read_labels((X, labels))["batch[1]"], Output(wrong, "'head'"))
    assert found.labels.tolist() == [2, -100, 1, 2]


BITS = torch.tensor([3, 0, 1, 7])  # SEVERAL as numbers
LOGITS_OF_SEVERAL = torch.tensor(
    [[1.0, -1.0, -2.0], [-1.0, 0.0, -3.0], [2.0, 2.0, -1.0], [1.0, 5.0, 0.5]]
)


@pytest.mark.parametrize(
    ("labels", "target"),
    [(SEVERAL, None), (SEVERAL.float(), None), (SEVERAL.int(), None), (SEVERAL.bool(), 1)],
)
def test_several_labels_of_a_sample_and_as_many_logits(labels: Tensor, target: Any) -> None:
    found = answer((X, labels), LOGITS_OF_SEVERAL, target)
    assert found.labels.tolist() == BITS.tolist()
    assert found.classes.tolist() == [1, 0, 3, 7]
    assert (found.num_classes, found.num_labels) == (None, 3)
    assert found.x_out == "sign of 'head' for each of 3 labels"
    assert found.scores is not None
    assert torch.equal(found.scores, LOGITS_OF_SEVERAL.sigmoid())


def test_several_probabilities() -> None:
    inside = LOGITS_OF_SEVERAL.sigmoid()
    found = answer((X, SEVERAL), inside, logit=False)
    assert found.classes.tolist() == [1, 0, 3, 7]
    assert found.x_out == "'head' above 0.5 for each of 3 labels"
    with pytest.raises(
        ValueError, match=r"a logit. For probabilities, .*=\('head', lambda p: p.log"
    ):
        answer((X, SEVERAL), inside)
    assert answer((X, SEVERAL), inside.logit()).classes.tolist() == found.classes.tolist()
    with pytest.raises(ValueError, match=r"^prediction: .* several labels .*; give logits or prob"):
        answer((X, SEVERAL.float()), LOGITS_OF_SEVERAL > 0)


def test_several_labels_of_each_step() -> None:
    labels = torch.stack([SEVERAL, SEVERAL.flip(0)], 1)
    labels[2, 1] = -100
    logits = torch.stack([LOGITS_OF_SEVERAL, -LOGITS_OF_SEVERAL], 1)
    found = answer((X, labels), logits, 1)
    assert found.labels.tolist() == [[3, 7], [0, 1], [1, -100], [7, 3]]
    assert found.classes.tolist() == [[1, 6], [0, 5], [3, 4], [7, 0]]
    assert found.num_labels == 3


def test_rows_with_one_yes_are_several_labels_where_the_loss_is_binary() -> None:
    found = answer((X, HOT), SCORES - 1, logit=True)
    assert (found.num_labels, found.x_out) == (3, "sign of 'head' for each of 3 labels")
    assert answer((X, HOT), SCORES - 1).num_labels is None


def test_rows_that_do_not_count() -> None:
    labels = SEVERAL.clone()
    labels[1, 2] = labels[3] = -100
    found = answer((X, labels), LOGITS_OF_SEVERAL)
    assert found.labels.tolist() == [3, -100, 1, -100]
    assert answer((X, CLASSES.masked_fill(CLASSES == 0, -100)), SCORES).labels.tolist() == [
        *(2, -100, 1, 2)
    ]


def test_the_number_of_labels_does_not_change() -> None:
    reading = Reading("batch[1]", 0, "logit", several=3)
    entry = read_labels((X, SEVERAL[:, :2]))["batch[1]"]
    with pytest.raises(
        ValueError, match=r"^target: batch\[1\] .* holds no 0 and 1 for the 3 labels"
    ):
        read(reading, entry, Output(LOGITS_OF_SEVERAL[:, :2], "'head'"))


@pytest.mark.parametrize(
    ("batch", "values"),
    [
        ((X, YES[:, None].expand(4, 5), CLASSES[:, None, None].expand(4, 5, 1)), SCORES),
        ((X, YES[:, None].expand(4, 5), HOT[:, None].expand(4, 5, 3)), SCORES),
        ((X, YES[:, None].expand(4, 5), HOT[:, None].expand(4, 5, 3).long()), SCORES),
        ((X, YES[:, None].expand(4, 5), REAL[:, None, None].expand(4, 5, 1)), LOGITS[:, None]),
        ((X, YES, YES[:, None, None]), LOGITS),
    ],
    ids=["column", "one-hot", "one-hot integers", "real", "one label"],
)
def test_a_mask_is_no_label_where_the_labels_have_three_dimensions(
    batch: Any, values: Tensor
) -> None:
    output = values if values is LOGITS else values[:, None].expand(4, 5, -1)
    with pytest.raises(ValueError, match=r"^target: batch\[1\] .* but batch\[2\] .* could also be"):
        answer(batch, output)


def test_inputs_of_the_model_are_no_rivals_and_no_labels_of_steps() -> None:
    tokens, tags = CLASSES[:, None].expand(4, 5), YES[:, None].repeat(1, 5)
    series, scores = torch.randn(4, 5, 1), SCORES[:, None].expand(4, 5, 3)
    given = frozenset([id(series), id(tokens)])
    labels = read_labels((series, tags))
    assert decide(labels, [Output(scores, "'head'")], given=given).label == "batch[1]"
    logits = Output(LOGITS[:, None, None].expand(4, 5, 1), "'head'")
    assert decide(labels, [logits], given=given).label == "batch[1]"
    with pytest.raises(
        ValueError, match=r"^target: batch\[0\] .*, but the model was called with it"
    ):
        decide(read_labels((tokens,)), [Output(scores, "'head'")], given=given)


def test_integers_beside_real_labels_are_rivals() -> None:
    with pytest.raises(
        ValueError, match=r"but batch\[1\] int64 \(4,\) could also be the class label"
    ):
        real((X, CLASSES, REAL), LOGITS)


def test_labels_beyond_the_lengths_do_not_count() -> None:
    question = Question(target=1, lengths=2)
    scores = Output(SCORES[:, None].expand(4, 5, 3), "'head'")
    labels = question.labels((X, CLASSES[:, None].expand(4, 5), LENGTHS))
    reading = question.decide(labels, [scores])
    assert labels.lengths is not None
    found = within(read(reading, labels[reading.label], scores), labels.lengths)
    assert ((found.labels == -100) == (torch.arange(5) >= LENGTHS[:, None])).all()


def test_as_many_labels_as_steps_of_the_batch_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^concepts: batch.1. .*=.'head', lambda logits: logits"):
        answer((X[:, :3], SEVERAL), LOGITS_OF_SEVERAL)


def test_labels_of_steps_are_not_taken_for_several_of_a_sample() -> None:
    found = answer((X, SEVERAL), LOGITS_OF_SEVERAL)
    check_not_of_steps(found, {5, 4})
    with pytest.raises(
        ValueError, match=r"^concepts: batch\[1\] has 3 numbers for each sample, and"
    ):
        check_not_of_steps(found, {5, 3})
    of_steps = Question(label_step=1)
    labels = of_steps.labels((X, SEVERAL))
    output = Output(LOGITS_OF_SEVERAL, "'head'")
    reading = of_steps.decide(labels, [output])
    found = of_steps.put(read(reading, labels[reading.label], output))
    assert (found.labels.tolist(), found.classes.tolist()) == ([1, 0, 0, 1], [0, 0, 1, 1])
    assert found.x_out == "sign of 'head' at step 1"


def real(
    batch: Any, values: Tensor, target: Any = None, label_step: int | None = None, bins: Any = 3
) -> Answer:
    question = Question(target, None, label_step, bins)
    labels = question.labels(batch)
    output = Output(values, "'head'")
    reading = question.decide(labels, [output])
    return question.put(read(reading, labels[reading.label], output, since=labels.since))


@pytest.mark.parametrize("labels", [REAL, REAL[:, None], REAL.double()])
@pytest.mark.parametrize("values", [LOGITS, LOGITS[:, None]], ids=["numbers", "column"])
def test_real_labels_and_answers(labels: Tensor, values: Tensor) -> None:
    found = real((X, labels, CLASSES[:, None].expand(4, 3)), values)
    assert (found.labels.tolist(), found.labels.dtype) == (REAL.tolist(), torch.float64)
    assert found.classes.tolist() == LOGITS.tolist()
    assert (found.num_classes, found.num_labels) == (None, None)
    assert (found.x_in, found.x_out) == ("batch[1], in up to 3 bins", "'head', in up to 3 bins")


def test_real_labels_of_steps() -> None:
    values, labels = torch.randn(4, 5, 1), torch.randn(4, 5)
    labels[1, 4] = torch.nan
    for own in (labels, labels[:, :, None]):
        found = real((CLASSES, own), values)
        assert torch.equal(found.labels.isnan(), labels.isnan())
        assert torch.equal(found.labels.nan_to_num(), labels.double().nan_to_num())
        assert torch.equal(found.classes, values[:, :, 0].double())
        assert found.x_out == "'head' at each step, in up to 3 bins"
    with pytest.raises(ValueError, match=r"^target: several tensors .* could be the class labels"):
        real((X[:, :, :1], labels), values)


def test_one_of_several_numbers_to_predict() -> None:
    forecast, labels = torch.randn(4, 3), torch.randn(4, 3)
    with pytest.raises(
        ValueError, match=r"^label_step: batch\[1\] .* 3 numbers .*unsqueeze\(2\)\)"
    ):
        real((X, labels), forecast)
    found = real((X, labels), forecast, label_step=1)
    assert torch.equal(found.labels, labels[:, 1].double())
    assert torch.equal(found.classes, forecast[:, 1].double())
    assert found.x_in == "batch[1] at step 1, in up to 3 bins"
    labels[2, 1] = torch.nan
    assert real((X, labels), forecast, label_step=1).labels.isnan().tolist() == [0, 0, 1, 0]


def test_real_numbers_are_compared_with_an_entry() -> None:
    def last(batch: Any) -> Tensor:
        return batch[0][:, -1, 0]  # type: ignore[no-any-return]

    series = torch.randn(4, 5, 2)
    found = real((series, REAL), LOGITS, bins=("up/down", last))
    now = series[:, -1, 0].double()
    assert torch.equal(found.labels, REAL.double() - now)
    assert torch.equal(found.classes, LOGITS.double() - now)
    assert found.x_in.startswith("batch[1], up or down from ")
    found = real((series, REAL[:, None].expand(4, 3), now), SCORES, 1, 2, bins=("up/down", 2))
    assert torch.equal(found.classes, SCORES[:, 2].double() - now)
    with pytest.raises(ValueError, match=r"^bins: what to compare with has the shape \(4, 5, 2\)"):
        real((series, REAL), LOGITS, bins=("up/down", 0))
    with pytest.raises(ValueError, match=r"^bins: the batch has no 'now'"):
        real((series, REAL), LOGITS, bins=("up/down", "now"))
    with pytest.raises(TypeError, match=r"^bins: .* gave list; it takes a tensor of the values"):
        real((series, REAL), LOGITS, bins=("up/down", lambda _: [1, 2, 3, 4]))


@pytest.mark.parametrize(
    ("batch", "values", "words"),
    [
        (
            (X, CLASSES),
            LOGITS,
            r"target: no tensor in the batch holds real numbers of the shape of",
        ),
        ((X, REAL), SCORES, r"target: no tensor in the batch holds real numbers of the shape of"),
        ((X, (REAL + 5) / 0), LOGITS, r"target: .* holds infinite numbers, or bins= compares"),
        ((X, REAL), LOGITS / 0, r"prediction: numbers of 'head' are NaN or infinite"),
    ],
)
def test_real_numbers_that_cannot_be_read(batch: Any, values: Tensor, words: str) -> None:
    with pytest.raises(ValueError, match=f"^{words}"):
        real(batch, values)


def test_one_number_of_each_sample_has_any_shape() -> None:
    for labels in (REAL, REAL[:, None], REAL[:, None, None]):
        for values in (LOGITS, LOGITS[:, None]):
            found = real((X, labels), values)
            assert found.labels.tolist() == REAL.tolist()
            assert found.classes.tolist() == LOGITS.tolist()


def test_what_labels_are_compared_with_is_no_label() -> None:
    past, future, values = torch.randn(3, 4, 5, 1).unbind()
    found = real((past, future), values, bins=("up/down", 0))
    assert torch.equal(found.labels, (future.double() - past.double())[:, :, 0])
    with pytest.raises(ValueError, match=r"^target: several tensors"):
        real((past, future), values)


def test_a_target_that_does_not_fit_is_named() -> None:
    column = REAL[:, None].expand(4, 3)
    for values, options, words in (
        (torch.randn(4, 3, 1), {"bins": None}, r"bins: target=1 .*\(4, 3\) holds real numbers for"),
        (torch.randn(4, 2), {"bins": None}, r"target: target=1 .*\(4, 3\) cannot be the class lab"),
        (
            torch.randn(4, 2),
            {},
            r"target: target=1 .*\(4, 3\) holds no real numbers of the shape of 'head'",
        ),
    ):
        with pytest.raises(ValueError, match=f"^{words}"):
            real((X, column), values, 1, **options)


def test_a_named_target_may_be_of_integers() -> None:
    assert real((X, CLASSES), LOGITS, 1).labels.tolist() == CLASSES.tolist()
