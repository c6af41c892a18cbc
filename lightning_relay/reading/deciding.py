"""The only way in which labels and outputs of a step fit, or what is left to the user."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from lightning_relay.information.options import IGNORED
from lightning_relay.reading.answers import (
    MOST_LABELS,
    Answer,
    Kind,
    Output,
    Reading,
    are_whole,
    class_numbers,
    does_not_fit,
    of_real_numbers,
    pair,
    step_numbers,
)
from lightning_relay.reading.labels import (
    NAME_IT,
    Entry,
    Labels,
    NoReadingError,
    are_yes_or_no,
    without_last,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from torch import Tensor

NAME_ANSWER = (
    "Give prediction= the name of the submodule whose output is the answer, a function of what the "
    "step returns, or a pair: the name of a submodule ('' for the model's own forward) and a "
    "function of its output"
)


@dataclass(frozen=True, eq=False)
class _Way:
    """An entry of the batch that fits an output; ``axis`` and ``several`` as in ``Reading``."""

    entry: Entry
    output: Output
    kind: Kind
    axis: int | None = None
    several: int | None = None


def decide(
    labels: Labels,
    outputs: Sequence[Output],
    *,
    real: bool = False,
    of_one_step: bool = False,
    given: frozenset[int] = frozenset(),
    concepts_named: bool = False,
) -> Reading:
    """The only way in which labels and outputs fit; a NoReadingError lists the ways or what misses.

    Everything else in the batch that could be the label is a rival, unless the user named it.
    ``real``: whether labels and answers are real numbers. ``of_one_step``: whether the labels of
    one step are asked for. ``given``: identities of tensors that modules of the model were called
    with. ``concepts_named``: whether the user says what is asked of the labels; then a sample may
    have as many labels as steps.
    """
    ways = _real_ways if real else _ways
    found = [
        way
        for output in outputs
        for entry in labels.entries
        for way in ways(entry, output, named=labels.named)
    ]
    with_scores = {id(way.entry) for way in found if way.kind == "scores"}
    found = [  # one logit is trained with labels that are no integers
        way
        for way in found
        if way.kind in ("scores", "values")
        or way.several
        or id(way.entry) not in with_scores
        or _is_real(way.entry)
    ]
    if of_one_step:  # several labels of a sample are those of its steps
        found = [
            replace(way, axis=0, several=None) if way.several and way.axis is None else way
            for way in found
        ]
    elif labels.steps:  # nor the other way round
        found = [
            way
            for way in found
            if not (way.axis == 0 and way.kind == "classes" and way.entry.multi_hot)
            or way.entry.values.shape[1] in labels.steps
        ]
    if len(found) != 1:
        why = _several_fit(found) if found else _none_fits(labels, outputs, real=real)
        raise NoReadingError(why)
    (way,) = found
    entry, output = way.entry, way.output
    several = [other for other in labels.multi_hot if _answers_several(other, output)]
    if way.kind == "scores" and several and (labels.computed or not labels.named):
        raise NoReadingError(_of_several(several[0], output))
    if way.several and way.several > MOST_LABELS:
        raise NoReadingError(_too_many(entry, output))
    if way.kind == "values" and way.axis == 0 and not of_one_step:
        raise NoReadingError(_of_steps_or_not(entry, output))
    if way.axis is not None and not labels.named and entry.original in given:
        raise NoReadingError(
            f"target: {entry} fits {output}, but the model was called with it, so it may be an "
            f"input. {NAME_IT}"
        )
    others = [] if labels.named else labels.others
    rivals = [one for one in others if _is_rival(one, way, given=one.original in given)]
    if rivals:
        raise NoReadingError(
            f"target: {entry} fits {output}, but {', '.join(map(str, rivals))} could also be the "
            f"class labels. {NAME_IT}"
        )
    if way.several in labels.steps and way.axis is None and not concepts_named:
        function = pair(output, "lambda logits: logits.unsqueeze(2)")
        raise NoReadingError(_of_steps_or_labels(str(entry), way.several, function))
    return Reading(entry.source, output.place, way.kind, way.axis, way.several)


def check_not_of_steps(answer: Answer, steps: Collection[int | None]) -> None:
    """Refuse several labels of a sample that could be one label of each step.

    ``steps`` are the numbers of steps of the recurrent layers.
    """
    number = answer.num_labels
    if number is not None and number in steps and answer.labels.dim() == 1:
        function = f"({answer.module or '...'!r}, lambda logits: logits.unsqueeze(2))"
        raise NoReadingError(_of_steps_or_labels(answer.x_in, number, function))


def _ways(entry: Entry, output: Output, *, named: bool) -> list[_Way]:
    """What an output can be if an entry holds the labels, with the axis of classes of each step."""
    values = output.values
    if not entry.copied or len(entry.values) != len(values):
        return []
    # By default, bool is taken for a mask, and real numbers are taken for something to predict.
    doubtful = entry.values.dtype == torch.bool or _is_real(entry)
    if entry.column.dim() == 2 and (
        found := _of_steps(entry, output, numbers=named or not doubtful)
    ):
        return found
    if _answers_several(entry, output) and values.is_floating_point():
        if entry.values.dtype == torch.bool and not named:
            return []
        axis, number = 2 if values.dim() == 3 else None, values.shape[-1]
        return [_Way(entry, output, kind, axis, number) for kind in _yes_or_no(output)]
    column = without_last(values)
    if values.dim() == 2 and values.shape[1] > 1 and values.is_floating_point():
        taken = named or entry.column.dim() == 2 or not doubtful
        fits = _may_be(class_numbers(entry.values, values.shape[1]))
        return [_Way(entry, output, "scores")] if fits and taken else []
    if column.dim() != 1:
        return []
    if not values.is_floating_point():
        fits = _may_be(class_numbers(entry.values, None))
        return [_Way(entry, output, "classes")] if fits else []
    if not _may_be(class_numbers(entry.values, 2)) or entry.column.dim() != 1:
        return []
    return [_Way(entry, output, kind) for kind in _yes_or_no(output)]


def _of_steps(entry: Entry, output: Output, *, numbers: bool) -> list[_Way]:
    """What an output can be if an entry ``(batch, step)`` holds a label for each step.

    ``numbers``: whether the entry may hold class numbers, and not only yes or no.
    """
    values, shape = output.values, entry.column.shape
    if not values.is_floating_point():
        fits = values.shape == shape and _may_be(step_numbers(entry.values, None))
        return [_Way(entry, output, "classes", 0)] if fits and numbers else []
    found: list[_Way] = []
    for axis in (2, 1) if values.dim() == 3 else ():
        classes = values.shape[axis]
        if values.select(axis, 0).shape != shape or (classes > 1 and not numbers):
            continue
        if _may_be(step_numbers(entry.values, max(classes, 2))):
            kinds: list[Kind] = ["scores"] if classes > 1 else _yes_or_no(output)
            found += [_Way(entry, output, kind, axis) for kind in kinds]
    return found


def _may_be(numbers: Tensor | None) -> bool:
    """Whether there are class numbers, some of which count."""
    return numbers is not None and bool((numbers != IGNORED).any())


def _real_ways(entry: Entry, output: Output, *, named: bool) -> list[_Way]:
    """The same for real labels: a number for each sample, or for each step."""
    values, shape = output.values, entry.column.shape
    legal = values.is_floating_point() and (_is_real(entry) or named)
    if not legal or without_last(values).shape != shape:
        return []
    if len(shape) == 1:
        return [_Way(entry, output, "values")]
    return [_Way(entry, output, "values", 0 if values.dim() == 2 else 2)]


def _answers_several(entry: Entry, output: Output) -> bool:
    """Whether an entry has a yes or no for each number of an output.

    Rows with one yes may be a class; a binary loss says that they are not.
    """
    if not entry.copied or entry.values.shape != output.values.shape:
        return False
    one_hot = output.logit is None or not output.values.is_floating_point()
    several = entry.values.dim() > 1 and entry.values.shape[-1] > 1
    return entry.multi_hot or (not one_hot and several and are_yes_or_no(entry.values))


def _yes_or_no(output: Output) -> list[Kind]:
    inside = bool(((output.values >= 0) & (output.values <= 1)).all())
    if inside and output.logit is None:
        return ["logit", "probability"]
    return ["probability"] if inside and not output.logit else ["logit"]


def _is_rival(other: Entry, way: _Way, *, given: bool) -> bool:
    """Whether another entry could be the label instead; ``given``: the model was called with it."""
    entry, output = way.entry, way.output
    if other.source == entry.source or len(other.values) != len(output.values):
        return False
    alike = other.values.shape == output.values.shape
    as_many = other.values.numel() == entry.values.numel()
    if other.values.dim() == 3:
        regression = way.kind in ("logit", "probability") and output.logit is None
        return (alike or as_many) and not given and (regression or are_whole(other.values))
    if way.kind == "values":
        return as_many and other.values.dtype != torch.bool
    if way.several:
        return alike
    if other.column.dim() == 1:
        return way.kind != "scores" or other.values.dtype != torch.bool
    if way.axis is not None:
        return _is_real(other) and as_many
    return alike


def _several_fit(found: Sequence[_Way]) -> str:
    entries = {way.entry.source: way.entry for way in found}
    outputs = {str(way.output): way.output for way in found}
    if len(entries) > 1:
        return (
            f"target: several tensors ({', '.join(map(str, entries.values()))}) could be the class "
            f"labels for {', '.join(outputs)}. {NAME_IT}"
        )
    if len(outputs) > 1:
        several = ", ".join(outputs)
        return f"prediction: several outputs could be the answer: {several}. {NAME_ANSWER}"
    ((name, output),) = outputs.items()
    if {way.axis for way in found} == {1, 2}:
        return (
            f"prediction: {name} could have the classes in its second or in its third dimension. "
            f"Give prediction={pair(output, 'lambda scores: scores.argmax(2)')}, or argmax(1)"
        )
    doubt = f"prediction: {name} lies between 0 and 1, so it could be a probability or a logit"
    if any(way.several for way in found):
        return (
            f"{doubt}. For probabilities, give prediction={pair(output, 'lambda p: p.logit()')}; "
            "logits are known by a BCEWithLogitsLoss in the model"
        )
    return (
        f"{doubt}. Give prediction={pair(output, 'lambda p: p > 0.5')} or "
        f"prediction={pair(output, 'lambda z: z > 0')}"
    )


def _none_fits(labels: Labels, outputs: Sequence[Output], *, real: bool) -> str:
    seen = ", ".join(map(str, outputs))
    own = ", ".join(map(str, labels.entries)) if labels.named else None
    if real:
        what = f"{own} holds no" if own else "no tensor in the batch holds"
        return (
            f"target: {what} real numbers of the shape of {seen}; the batch has: "
            f"{labels.batch}. With bins=, name with target= and prediction= numbers of one shape, "
            "(batch,) or (batch, step), such as target=lambda batch: batch[1][:, 0]"
        )
    tried = [entry for entry in labels.entries if entry.copied]
    if len(outputs) == 1:
        (output,) = outputs
        shape = output.values.shape
        several = [one for one in labels.multi_hot if _answers_several(one, output)]
        if several and output.values.is_floating_point():
            return (
                f"target: {several[0]} could be several labels of each sample, or a mask; if it "
                "holds labels, name it with target="
            )
        if several:
            return (
                f"prediction: {several[0]} holds several labels of each sample; give logits or "
                f"probabilities of them instead of {output}"
            )
        as_logits = [
            one
            for one in tried
            if one.values.shape == shape
            and len(shape) == 2
            and step_numbers(one.values, 2) is not None
        ]
        if as_logits:
            function = pair(output, "lambda logits: logits.unsqueeze(2)")
            return _of_steps_or_labels(str(as_logits[0]), shape[1], function)
        numbers = [one for one in tried if one.column.dim() == 1]
        if len(numbers) == 1:
            return does_not_fit(numbers[0], output, shape[1] if len(shape) > 1 else 1)
        own_shape = without_last(output.values).shape
        alike = [one for one in labels.entries if _is_real(one) and one.column.shape == own_shape]
        if alike:
            return of_real_numbers(alike[0], output)
    what = f"{own} cannot" if own else "nothing in the batch could"
    return (
        f"target: {what} be the class labels for {seen}; the batch has: {labels.batch}. {NAME_IT}"
    )


def _of_several(entry: Entry, output: Output) -> str:
    return (
        f"target: {entry} holds several labels of each sample, and {output} answers all. Name it "
        "to have each asked for, or take one, such as the first: "
        f"target=lambda batch: {entry.source}[:, 0] and "
        f"prediction={pair(output, 'lambda scores: scores[:, 0] > 0')}"
    )


def _of_steps_or_labels(entry: str, number: int, function: str) -> str:
    return (
        f"concepts: {entry} has {number} numbers for each sample, and the sequences have {number} "
        "steps. If each sample has several labels, give concepts='per_class'. If each step has one "
        "label, give prediction= the name of the submodule whose output is (batch, step, 1), or "
        f"prediction={function}"
    )


def _too_many(entry: Entry, output: Output) -> str:
    return (
        f"target: {entry} holds {entry.values.shape[-1]} labels of each sample, and at most "
        f"{MOST_LABELS} are read together. Take some, such as target=lambda batch: "
        f"{entry.source}[..., :8] and prediction={pair(output, 'lambda logits: logits[..., :8]')}"
    )


def _of_steps_or_not(entry: Entry, output: Output) -> str:
    return (
        f"label_step: {entry} holds {entry.column.shape[1]} numbers for each sample. For one of "
        "them, such as the first of a forecast, give its place: label_step=0. If each step of the "
        "states has one, say so by a third dimension: "
        f"prediction={pair(output, 'lambda values: values.unsqueeze(2)')}"
    )


def _is_real(entry: Entry) -> bool:
    return entry.values.is_floating_point()
