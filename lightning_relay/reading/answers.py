"""What labels and outputs mean, once it is decided: predicted classes, scores, real numbers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import torch

from lightning_relay.information.options import IGNORED
from lightning_relay.reading.labels import are_yes_or_no, is_multi_hot, without_last
from lightning_relay.recurrent.transfer import on_cpu, queued

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from lightning_relay.reading.labels import Entry

Kind = Literal["scores", "logit", "probability", "classes", "values"]
"""What an output of a model is: class scores ``(batch, classes)``, the logit or the probability of
yes, ``(batch,)`` or ``(batch, 1)``, predicted classes, or real numbers. Where each step has a
label, it is ``(batch, step, classes)`` or ``(batch, classes, step)``, or ``(batch, step)``."""

OWN_FORWARD = "the model's own forward"
"""Source of an output in words, where a submodule has its name in quotes."""

MOST_LABELS = 62
"""Largest number of labels of a sample, each of which is a bit of an int64."""


class NonFiniteScoresError(ValueError):
    """Class scores are NaN or infinite."""


@dataclass(frozen=True, eq=False)
class Output:
    """A tensor that could be a model's answer to a batch, with its source in words.

    ``place``: which of the outputs of its module. ``logit``: whether it is a logit, if it is one
    number for each sample and between 0 and 1; None if that is not known.
    """

    values: Tensor
    source: str
    place: int = 0
    logit: bool | None = None

    def __str__(self) -> str:
        return f"{self.source} {tuple(self.values.shape)}"


@dataclass(frozen=True)
class Reading:
    """How labels and outputs are read: which entry of the batch, which output, and as what.

    ``axis``: dimension of the classes in outputs of each step; 0 for outputs ``(batch, step)``;
    None if a sequence has one label. ``several``: number of labels of a sample in the last
    dimension of labels and outputs, each with a yes or no; None if it has one.
    """

    label: str
    place: int
    kind: Kind
    axis: int | None = None
    several: int | None = None


@dataclass(frozen=True, eq=False)
class Answer:
    """Labels of a batch, and what a model answered. All but the scores are in CPU memory.

    Attributes:
        labels: Class labels, int64 ``(batch,)``, or ``(batch, step)`` if each step has one;
            ``IGNORED`` where they do not count. Where a sample has several labels, bit k says
            whether it has label k. Real labels are float64, and NaN where they do not count.
        classes: Predicted classes or real numbers, of the same shape and kind.
        scores: Class scores ``(…, classes)``, or the probability of class 1 ``(…)``, of each label
            ``(…, label)``, or real numbers ``(…)``; detached and not copied. None if only classes
            are known.
        num_classes: Number of classes; None if only classes are known, samples have several labels,
            or numbers are real.
        x_in: Source of the labels in words.
        x_out: Source of the predicted classes in words.
        module: Module that gave the scores, if it was called once in the step; else None.
        num_labels: Number of labels of a sample, if there are several; else None.
        beside: What was to be read together with the answer.
    """

    labels: Tensor
    classes: Tensor
    scores: Tensor | None
    num_classes: int | None
    x_in: str
    x_out: str
    module: str | None = None
    num_labels: int | None = None
    beside: Sequence[Tensor] = ()


def read(
    reading: Reading,
    entry: Entry,
    output: Output,
    module: str | None = None,
    since: Tensor | None = None,
    beside: Sequence[Tensor] = (),
) -> Answer:
    """Labels and predicted classes of a batch, read as in the batches before.

    Real labels and answers are compared with ``since``, if it is given. The host waits once for
    them and for other tensors ``beside`` to come from a GPU. Raises a
    NonFiniteScoresError if a score is NaN, or infinitely large among several, where a label counts.
    """
    classes, scores, sound = answered(reading, output, since)
    number = number_of_classes(reading, output.values)
    values, classes, sound, *others = on_cpu(entry.values, classes, sound, *beside)
    entry = replace(entry, values=values)
    labels = _labels(reading, entry, number, since)
    if labels is None or labels.shape != classes.shape:
        raise ValueError(_does_not_fit_now(reading, entry, output, number))
    check_sound(output, sound | ~has_label(labels))
    words = _WORDS[reading.kind].format(output.source, number)
    if reading.several:
        words += f" for each of {reading.several} labels"
    words += " at each step" if reading.axis is not None else ""
    return Answer(
        labels, classes, scores, number, entry.source, words, module, reading.several, others
    )


def answered(
    reading: Reading, output: Output, since: Tensor | None = None
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Predicted classes ``(batch,)`` or ``(batch, step)``, class scores, and which are sound.

    A score that is NaN, or infinitely large among several, is not.
    """
    values, kind = output.values.detach(), reading.kind
    if kind == "values":
        values = without_last(values).to("cpu", torch.float64)
        compared = _compared(values, since)
        return compared, compared, values.isfinite()
    if reading.several:
        yes, scores, sound = _predicted(kind, values.flatten())
        own = None if scores is None else scores.view_as(values)
        return _as_bits(yes.view_as(values)), own, sound.view_as(values).all(-1)
    if reading.axis:
        values = values.movedim(reading.axis, -1)
        values = values.squeeze(-1) if values.shape[-1] == 1 else values
    elif kind != "scores" and reading.axis is None:
        values = without_last(values)
    return _predicted(kind, values)


def _predicted(kind: Kind, values: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
    """Classes, int64 ``(…)``, and class scores of an output, and which are sound."""
    if kind == "classes":
        return values.long().clone(), None, torch.ones_like(values, dtype=torch.bool)
    sound = ~(values.isnan() | (values.isposinf() & (kind == "scores")))
    if kind == "scores":
        return values.argmax(-1), values, sound.all(-1)
    if kind == "probability":
        return (values > 0.5).long(), values, sound
    return (values > 0).long(), values.sigmoid(), sound  # that of a small number may be 0.5


def has_label(labels: Tensor) -> Tensor:
    """Which labels count, bool: real ones unless they are NaN, classes unless ``IGNORED``."""
    return ~labels.isnan() if labels.is_floating_point() else labels != IGNORED


def within(answer: Answer, lengths: Tensor) -> Answer:
    """The answer with labels of steps beyond the lengths ``(batch,)`` not counted.

    Lengths are in CPU memory.
    """
    labels = answer.labels
    if labels.dim() == 1:
        return answer
    beyond = torch.arange(labels.shape[1]) >= lengths.unsqueeze(1)
    missing = torch.nan if labels.is_floating_point() else IGNORED
    return replace(answer, labels=labels.masked_fill(beyond, missing))


def at_step(answer: Answer, step: int) -> Answer:
    """Labels and answers of one step, where each step has one.

    A negative step counts back from the last label of each sequence that counts. A sequence that
    has no label there gets ``IGNORED``, or NaN if labels are real.
    """
    labels = answer.labels
    if labels.dim() == 1:
        raise ValueError(
            f"label_step: got {step}, but {answer.x_in} holds one label for each sequence; leave "
            "label_step out"
        )
    rows, places, there = label_places(labels, step)
    missing = torch.nan if labels.is_floating_point() else IGNORED
    scores = answer.scores
    if scores is not None:
        scores = scores[queued(rows, scores.device), queued(places, scores.device)]
    return replace(
        answer,
        labels=labels[rows, places].masked_fill(~there, missing),
        classes=answer.classes[rows, places],
        scores=scores,
        x_in=f"{answer.x_in} at step {step}",
        x_out=answer.x_out.replace("at each step", f"at step {step}"),
    )


def label_places(labels: Tensor, step: int) -> tuple[Tensor, Tensor, Tensor]:
    """Rows and columns of a step in labels ``(batch, step)``, and which rows have it."""
    rows, steps = torch.arange(len(labels), device=labels.device), labels.shape[1]
    places = torch.full_like(rows, step)
    if step < 0:
        counted = has_label(labels).long()
        ends = (counted * torch.arange(1, steps + 1, device=labels.device)).amax(1)
        places = ends + step
    return rows, places.clamp(0, steps - 1), (places >= 0) & (places < steps)


def number_of_classes(reading: Reading, values: Tensor) -> int | None:
    """Number of classes that an output tells apart; None if it gives classes without scores."""
    if reading.several or reading.kind in ("classes", "values"):
        return None
    return values.shape[reading.axis or -1] if reading.kind == "scores" else 2


def step_numbers(values: Tensor, classes: int | None) -> Tensor | None:
    """Class numbers int64 ``(batch, step)``, some of them ``IGNORED``; None if they are none."""
    values = without_last(values) if values.dim() == 3 else values
    return _numbers(values, classes) if values.dim() == 2 else None


def class_numbers(values: Tensor, classes: int | None) -> Tensor | None:
    """Class numbers int64 ``(batch,)`` of labels: numbers, or one column for each class.

    None if that is not what they are; ``classes``: number of classes, if it is known.
    """
    values = without_last(values)
    if values.dim() == 2:
        rows = values.shape[1] == classes and not is_multi_hot(values)
        return values.long().argmax(1) if rows and are_yes_or_no(values) else None
    return _numbers(values, classes) if values.dim() == 1 else None


def _numbers(values: Tensor, classes: int | None) -> Tensor | None:
    if not are_whole(values):
        return None
    numbers = values.long().clone()
    legal = (numbers == IGNORED) | ((numbers >= 0) & (numbers < (classes or torch.inf)))
    return numbers if classes is None or bool(legal.all()) else None


def does_not_fit(entry: Entry, output: Output, classes: int | None) -> str:
    """Why labels and an output cannot be read together, and what to do."""
    values = entry.column
    if values.dim() != 1:
        what = f"target: {entry} holds no class numbers for {output}"
    elif values.is_floating_point() and class_numbers(values, classes) is not None:
        return (
            f"target: {entry} could be class numbers for {output}, or numbers to predict. If they "
            "are class numbers, name the entry with target=; if not, give bins="
        )
    elif values.is_floating_point():
        return of_real_numbers(entry, output)
    elif output.values.is_floating_point() and classes == 1:
        what = (
            f"target: labels from {int(values.min())} to {int(values.max())}, but {output} is one "
            "number for each sample, which can only say yes or no"
        )
    else:
        what = (
            f"target: labels from {int(values.min())} to {int(values.max())}, but {output.source} "
            f"gives {classes} class scores, for labels 0 to {(classes or 1) - 1}"
        )
    return (
        f"{what}; name the class labels with target= or the class scores with prediction=, or give "
        "functions that turn both into classes, such as target=lambda batch: batch[1] > 0 and "
        f"prediction={pair(output, 'lambda values: values > 0')}"
    )


def _does_not_fit_now(reading: Reading, entry: Entry, output: Output, classes: int | None) -> str:
    """Why labels and an output cannot be read as in the batches before."""
    if reading.kind == "values":
        return (
            f"target: {entry} and {output} have other shapes; with bins=, they take numbers of one "
            "shape"
        )
    if reading.several:
        return (
            f"target: {entry} holds no 0 and 1 for the {reading.several} labels of the first batch "
            f"that {output} answers; have every batch hold all labels"
        )
    if is_multi_hot(entry.values):
        return (
            f"target: {entry} holds several labels of a sample, and in the first batch every "
            "sample had one, which was taken for its class. Take one label, such as the first: "
            f"target=lambda batch: {entry.source}[:, 0] and "
            f"prediction={pair(output, 'lambda scores: scores[:, 0] > 0')}"
        )
    return does_not_fit(entry, output, classes)


def of_real_numbers(entry: Entry, output: Output) -> str:
    """What to do where labels are real numbers."""
    since = "lambda batch: batch[0][:, -1, 0]) for whether they are above the last value"
    if entry.column.dim() == 2:
        since = "entry) for whether they are above an entry of the batch of the same shape"
    return (
        f"bins: {entry} holds real numbers for {output}. To ask in which part of their range they "
        f"are, give bins=, such as bins=4, or bins=('up/down', {since}. For classes, name the "
        "class labels with target=, or give functions that turn both into classes with target= and "
        "prediction="
    )


def pair(output: Output, function: str) -> str:
    """The argument that applies a function to an output."""
    if output.source == OWN_FORWARD:
        return f"('', {function})"
    return f"({output.source}, {function})" if output.source.startswith("'") else function


_WORDS: dict[Kind, str] = {
    "scores": "argmax of {}, {} classes",
    "classes": "{}",
    "logit": "sign of {}",
    "probability": "{} above 0.5",
    "values": "{}",
}


def _labels(
    reading: Reading, entry: Entry, classes: int | None, since: Tensor | None
) -> Tensor | None:
    """Labels of a batch; None if they are not what they were in the batches before."""
    values = entry.values
    if reading.kind == "values":
        return _real_labels(entry, since)
    if reading.several:
        counted = (values != IGNORED).all(-1)
        if values.shape[-1] != reading.several or not are_yes_or_no(values[counted]):
            return None
        return _as_bits(values.long()).masked_fill(~counted, IGNORED)
    return (class_numbers if reading.axis is None else step_numbers)(values, classes)


def _real_labels(entry: Entry, since: Tensor | None) -> Tensor:
    labels = _compared(entry.column.to("cpu", torch.float64), since)
    if labels.isinf().any():
        raise ValueError(
            f"target: {entry} holds infinite numbers, or bins= compares with some; it takes finite "
            "ones, and NaN for those that do not count"
        )
    return labels


def _compared(values: Tensor, since: Tensor | None) -> Tensor:
    """How much real numbers ``(batch,)`` or ``(batch, step)`` exceed others."""
    if since is None:
        return values
    if since.shape == values.shape[:1] and values.dim() == 2:
        since = since.unsqueeze(1)
    elif since.shape != values.shape:
        raise ValueError(
            f"bins: what to compare with has the shape {tuple(since.shape)}, and labels and "
            f"answers have {tuple(values.shape)}; it takes (batch,) or the shape of the labels"
        )
    return values - since


def check_sound(output: Output, sound: Tensor) -> None:
    """Raise a NonFiniteScoresError unless all answers are sound."""
    if not bool(sound.all()):
        raise NonFiniteScoresError(
            f"prediction: numbers of {output.source} are NaN or infinite; look for diverging "
            "weights or non-finite inputs"
        )


def _as_bits(yes: Tensor) -> Tensor:
    """A number ``(…)`` whose bit k is number k of ``(…, label)``."""
    return (yes << torch.arange(yes.shape[-1], device=yes.device)).sum(-1)


def are_whole(values: Tensor) -> bool:
    """Whether all numbers are whole."""
    return not values.is_floating_point() or bool((values == values.trunc()).all())
