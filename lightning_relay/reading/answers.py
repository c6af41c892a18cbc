"""What labels and outputs mean together: class numbers and class scores, yes or no and a logit."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from lightning_relay.information.options import IGNORED
from lightning_relay.reading.labels import (
    NAME_IT,
    Entry,
    Labels,
    NoReadingError,
    are_several,
    are_yes_or_no,
    without_last,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

Kind = Literal["scores", "logit", "probability", "classes"]
"""What an output of a model is: class scores ``(batch, classes)``, the logit or the probability of
yes, ``(batch,)`` or ``(batch, 1)``, or predicted classes. Where each step has a label, it is
``(batch, step, classes)`` or ``(batch, classes, step)``, or classes ``(batch, step)``."""


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

    ``axis``: dimension of the classes in outputs of each step; 0 for classes of each step; None if
    a sequence has one label.
    """

    label: str
    place: int
    kind: Kind
    axis: int | None = None


@dataclass(frozen=True, eq=False)
class Answer:
    """Labels of a batch, and what a model answered.

    Attributes:
        labels: Class labels, int64 ``(batch,)``, or ``(batch, step)`` if each step has one.
        classes: Predicted classes, int64, of the same shape.
        scores: Class scores ``(…, classes)``, or the probability of class 1 ``(…)``; detached and
            not copied. None if only classes are known.
        num_classes: Number of classes; None if only classes are known.
        x_in: Source of the labels in words.
        x_out: Source of the predicted classes in words.
        module: Module that gave the scores, if it was called once in the step; else None.
    """

    labels: Tensor
    classes: Tensor
    scores: Tensor | None
    num_classes: int | None
    x_in: str
    x_out: str
    module: str | None = None


def decide(labels: Labels, outputs: Sequence[Output]) -> Reading:
    """The only way in which labels and outputs fit; a NoReadingError lists the ways or what misses.

    Everything else in the batch that could be the label is a rival, unless the user named it.
    """
    found = [
        (entry, output, *way)
        for output in outputs
        for entry in labels.entries
        for way in _ways(entry, output, named=labels.named)
    ]
    with_scores = {id(entry) for entry, _, kind, _ in found if kind == "scores"}
    found = [  # one logit is trained with labels that are no integers
        one
        for one in found
        if one[2] == "scores" or id(one[0]) not in with_scores or _is_real(one[0].values)
    ]
    if len(found) != 1:
        raise NoReadingError(_several_fit(found) if found else _none_fits(labels, outputs))
    ((entry, output, kind, axis),) = found
    several = [other for other in labels.several if other.values.shape == output.values.shape]
    if kind == "scores" and several:
        raise NoReadingError(_of_several(several[0], output))
    rivals = [] if labels.named else [one for one in labels.entries if _is_rival(one, *found[0])]
    if rivals:
        raise NoReadingError(
            f"target: {entry} fits {output}, but {', '.join(map(str, rivals))} could also be the "
            f"class labels. {NAME_IT}"
        )
    return Reading(entry.source, output.place, kind, axis)


def read(reading: Reading, entry: Entry, output: Output, module: str | None = None) -> Answer:
    """Labels and predicted classes of a batch, read as in the batches before."""
    of_steps = reading.axis is not None
    classes, scores = answered(reading, output)
    number = number_of_classes(reading, output.values)
    labels = (_step_numbers if of_steps else _class_numbers)(entry.values, number)
    if labels is None or labels.shape != classes.shape:
        raise ValueError(_does_not_fit(entry, output, number))
    words = _WORDS[reading.kind].format(output.source, number)
    words += " at each step" if of_steps else ""
    return Answer(labels, classes, scores, number, entry.source, words, module)


def answered(reading: Reading, output: Output) -> tuple[Tensor, Tensor | None]:
    """Predicted classes ``(batch,)`` or ``(batch, step)`` and class scores, by a reading."""
    values = output.values
    if reading.axis:
        values = values.movedim(reading.axis, -1)
        values = values.squeeze(-1) if values.shape[-1] == 1 else values
    return predicted(reading.kind, replace(output, values=values))


def at_step(answer: Answer, step: int) -> Answer:
    """Labels and answers of one step, where each step has one.

    A negative step counts back from the last label of each sequence that is not ``IGNORED``. A
    sequence that has no label there gets ``IGNORED``.
    """
    labels = answer.labels
    if labels.dim() == 1:
        raise ValueError(
            f"label_step: got {step}, but {answer.x_in} holds one label for each sequence; leave "
            "label_step out"
        )
    steps = labels.shape[1]
    if not -steps <= step < steps:
        raise ValueError(f"label_step: got {step}, but {answer.x_in} holds labels of {steps} steps")
    rows, places, there = label_places(labels, step)
    return replace(
        answer,
        labels=labels[rows, places].masked_fill(~there, IGNORED),
        classes=answer.classes[rows, places],
        scores=None if answer.scores is None else answer.scores[rows, places],
        x_in=f"{answer.x_in} at step {step}",
        x_out=answer.x_out.replace("at each step", f"at step {step}"),
    )


def label_places(labels: Tensor, step: int) -> tuple[Tensor, Tensor, Tensor]:
    """Rows and columns of a step in labels ``(batch, step)``, and which rows have it."""
    rows = torch.arange(len(labels), device=labels.device)
    places = torch.full_like(rows, step)
    if step < 0:
        counted = (labels != IGNORED).long()
        ends = (counted * torch.arange(1, labels.shape[1] + 1, device=labels.device)).amax(1)
        places = ends + step
    return rows, places.clamp(min=0), places >= 0


def number_of_classes(reading: Reading, values: Tensor) -> int | None:
    """Number of classes that an output tells apart; None if it gives classes without scores."""
    if reading.kind == "scores":
        return values.shape[reading.axis or -1]
    return None if reading.kind == "classes" else 2


def predicted(kind: Kind, output: Output) -> tuple[Tensor, Tensor | None]:
    """Predicted classes, int64 ``(batch,)``, and class scores.

    Raises a NonFiniteScoresError if a score is NaN, or infinitely large among several.
    """
    values = output.values.detach()
    if kind == "classes":
        return without_last(values).long().clone(), None
    if bool((values.isnan() | (values.isposinf() & (kind == "scores"))).any()):
        raise NonFiniteScoresError(
            f"prediction: class scores of {output.source} are NaN or infinite; look for diverging "
            "weights or non-finite inputs"
        )
    if kind == "scores":
        return values.argmax(-1), values
    values = without_last(values)
    if kind == "probability":
        return (values > 0.5).long(), values
    return (values > 0).long(), values.sigmoid()  # the sigmoid of a small number may be 0.5


_WORDS: dict[Kind, str] = {
    "scores": "argmax of {}, {} classes",
    "classes": "{}",
    "logit": "sign of {}",
    "probability": "{} above 0.5",
}


def _ways(entry: Entry, output: Output, *, named: bool) -> list[tuple[Kind, int | None]]:
    """What an output can be if an entry holds the labels, with the axis of classes of each step."""
    values = output.values
    if not entry.copied or len(entry.values) != len(values):
        return []
    # By default, bool is taken for a mask, and real numbers are taken for something to predict.
    doubtful = entry.values.dtype == torch.bool or _is_real(entry.values)
    if entry.values.dim() == 2 and (
        found := _of_steps(entry, output, numbers=named or not doubtful)
    ):
        return found
    column = without_last(values)
    if values.dim() == 2 and values.shape[1] > 1 and values.is_floating_point():
        taken = named or entry.column.dim() == 2 or not doubtful
        fits = _class_numbers(entry.values, values.shape[1]) is not None
        return [("scores", None)] if fits and taken else []
    if column.dim() != 1:
        return []
    if not values.is_floating_point():
        return [("classes", None)] if _class_numbers(entry.values, None) is not None else []
    if _class_numbers(entry.values, 2) is None or entry.column.dim() != 1:
        return []
    return [(kind, None) for kind in _yes_or_no(output)]


def _of_steps(entry: Entry, output: Output, *, numbers: bool) -> list[tuple[Kind, int | None]]:
    """What an output can be if an entry ``(batch, step)`` holds a label for each step.

    ``numbers``: whether the entry may hold class numbers, and not only yes or no.
    """
    values, shape = output.values, entry.values.shape
    if not values.is_floating_point():
        fits = values.shape == shape and _step_numbers(entry.values, None) is not None
        return [("classes", 0)] if fits and numbers else []
    found: list[tuple[Kind, int | None]] = []
    for axis in (2, 1) if values.dim() == 3 else ():
        classes = values.shape[axis]
        if values.select(axis, 0).shape != shape or (classes > 1 and not numbers):
            continue
        if _step_numbers(entry.values, max(classes, 2)) is not None:
            kinds: list[Kind] = ["scores"] if classes > 1 else _yes_or_no(output)
            found += [(kind, axis) for kind in kinds]
    return found


def _yes_or_no(output: Output) -> list[Kind]:
    inside = bool(((output.values >= 0) & (output.values <= 1)).all())
    if inside and output.logit is None:
        return ["logit", "probability"]
    return ["probability"] if inside and not output.logit else ["logit"]


def _step_numbers(values: Tensor, classes: int | None) -> Tensor | None:
    """Class numbers int64 ``(batch, step)``, some of them ``IGNORED``; None if they are none."""
    whole = values.dim() == 2 and not (_is_real(values) and bool((values != values.trunc()).any()))
    if not whole:
        return None
    numbers = values.long().clone()
    counted = numbers[numbers != IGNORED]
    legal = classes is None or bool(((counted >= 0) & (counted < classes)).all())
    return numbers if legal and len(counted) else None


def _class_numbers(values: Tensor, classes: int | None) -> Tensor | None:
    """Class numbers int64 ``(batch,)`` of labels: numbers, or one column for each class.

    None if that is not what they are; ``classes``: number of classes, if it is known.
    """
    values = without_last(values)
    if values.dim() == 2:
        rows = values.shape[1] == classes and not are_several(values)
        return values.long().argmax(1) if rows and are_yes_or_no(values) else None
    if values.dim() != 1 or (values.is_floating_point() and bool((values != values.trunc()).any())):
        return None
    numbers = values.long().clone()
    legal = classes is None or bool(((numbers >= 0) & (numbers < classes)).all())
    return numbers if legal else None


def _is_rival(other: Entry, entry: Entry, output: Output, kind: Kind, axis: int | None) -> bool:
    """Whether another entry could be the label instead."""
    if other is entry or len(other.values) != len(output.values):
        return False
    if other.column.dim() == 1:
        return kind != "scores" or other.values.dtype != torch.bool
    if axis is not None:
        return _is_real(other.values) and other.values.shape == entry.values.shape
    return other.values.shape == output.values.shape


def _several_fit(found: Sequence[tuple[Entry, Output, Kind, int | None]]) -> str:
    entries = {entry.source: entry for entry, *_ in found}
    outputs = {str(output): output for _, output, *_ in found}
    if len(entries) > 1:
        return (
            f"target: several tensors ({', '.join(map(str, entries.values()))}) could be the class "
            f"labels for {', '.join(outputs)}. {NAME_IT}"
        )
    if len(outputs) > 1:
        several = ", ".join(outputs)
        return f"prediction: several outputs could be the class scores: {several}. {NAME_ANSWER}"
    ((name, output),) = outputs.items()
    if {axis for *_, axis in found} == {1, 2}:
        return (
            f"prediction: {name} could have the classes in its second or in its third dimension. "
            f"Give prediction={_pair(output, 'lambda scores: scores.argmax(2)')}, or argmax(1)"
        )
    module = output.source if output.source.startswith("'") else "..."
    return (
        f"prediction: {name} lies between 0 and 1, so it could be a probability or a logit. Give "
        f"prediction=({module}, lambda p: p > 0.5) or prediction=({module}, lambda z: z > 0)"
    )


def _none_fits(labels: Labels, outputs: Sequence[Output]) -> str:
    tried = [entry for entry in labels.entries if entry.copied]
    if len(outputs) == 1:
        (output,) = outputs
        several = [one for one in labels.several if one.values.shape == output.values.shape]
        if several:
            return _of_several(several[0], output)
        numbers = [one for one in tried if one.column.dim() == 1]
        if len(numbers) == 1:
            shape = output.values.shape
            return _does_not_fit(numbers[0], output, shape[1] if len(shape) > 1 else 1)
    return (
        f"target: nothing in the batch could be the class labels for "
        f"{', '.join(map(str, outputs))}; it has: {labels.batch}. {NAME_IT}"
    )


def _does_not_fit(entry: Entry, output: Output, classes: int | None) -> str:
    values = entry.column
    if values.dim() != 1:
        what = f"target: {entry} holds no class numbers for {output}"
    elif values.is_floating_point() and _class_numbers(values, classes) is not None:
        return (
            f"target: {entry} could be class numbers for {output}, or numbers to predict. If they "
            "are class numbers, name the entry with target="
        )
    elif values.is_floating_point():
        what = f"target: {entry} holds real numbers for {output}"
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
        f"prediction={_pair(output, 'lambda values: values > 0')}"
    )


def _of_several(entry: Entry, output: Output) -> str:
    return (
        f"target: {entry} holds several labels of each sample, and {output} answers all. Take one, "
        f"such as the first: target=lambda batch: {entry.source}[:, 0] and "
        f"prediction={_pair(output, 'lambda scores: scores[:, 0] > 0')}"
    )


NAME_ANSWER = (
    "Give prediction= the name of the submodule whose output is the class scores, or a function of "
    "what the step returns that gives class scores or predicted classes"
)


def _pair(output: Output, function: str) -> str:
    named = output.source.startswith("'")
    return f"({output.source}, {function})" if named else function


def _is_real(values: Tensor) -> bool:
    return values.is_floating_point()
