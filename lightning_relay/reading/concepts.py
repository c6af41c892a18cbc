"""Concepts: questions about a class label, asked alike of inputs and predictions."""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping
from typing import TYPE_CHECKING

import torch

from lightning_relay.reading.functions import Function

if TYPE_CHECKING:
    from torch import Tensor

Concepts = Mapping[str, Function] | str
"""``"joint"`` (the label itself), ``"per_class"`` (is it class k?) or functions of it by name."""

JOINT = "joint"
PER_CLASS = "per_class"
_OF_CLASS = "class_{}"
_OF_LABEL = "label_{}"


_Label = int | tuple[int, ...]


class ConceptError(ValueError):
    """A function of the user failed for a label."""


def check_concepts(concepts: Concepts | None) -> None:
    """Raise an error unless ``concepts`` is a legal choice or a mapping of named functions."""
    if concepts is None:
        return
    if isinstance(concepts, str):
        if concepts in (JOINT, PER_CLASS):
            return
    elif isinstance(concepts, Mapping) and concepts:
        for name, function in concepts.items():
            if not isinstance(name, str) or not name or not callable(function):
                raise TypeError(
                    f"concepts: got {name!r}: {function!r}; it takes a name and a function of the "
                    "class label, such as 'even': lambda label: label % 2 == 0"
                )
            check_text("concepts", name)
        return
    raise ValueError(
        f"concepts: got {concepts!r}; it takes 'joint', 'per_class', or a mapping from names to "
        "functions of the class label"
    )


def check_text(argument: str, name: str) -> None:
    """Refuse a name that no logger can write, with a ValueError that names the argument."""
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{argument}: got {name!r}; it takes text that can be written in UTF-8 ({error.reason})"
        ) from None


def is_concept(name: str, concepts: Concepts | None) -> bool:
    """Whether ``concept_codes`` can give a concept of this name."""
    if isinstance(concepts, Mapping):
        return name in concepts
    of_part = any(re.fullmatch(part.format(r"\d+"), name) for part in (_OF_LABEL, _OF_CLASS))
    return (name == JOINT and concepts != PER_CLASS) or (of_part and concepts != JOINT)


def concept_codes(
    concepts: Concepts | None,
    x_in: Tensor,
    x_out: Tensor,
    *,
    num_classes: int | None = None,
    num_labels: int | None = None,
) -> dict[str, tuple[Tensor, Tensor]]:
    """Codes of input and output for each concept, from class labels, all int64 ``(samples,)``.

    A function is called with an int, once for each label that occurs, and equal codes stand for
    equal values. ``"per_class"`` takes ``num_classes`` classes; default: the labels that occur.

    If a sample has ``num_labels`` labels, bit k of its number says whether it has label k. Then a
    function is called with a tuple of 0 and 1, and ``"per_class"`` asks for each label. None is
    ``"per_class"`` then, and else ``"joint"``.
    """
    check_concepts(concepts)
    if concepts is None:
        concepts = PER_CLASS if num_labels else JOINT
    if concepts == JOINT:
        return {JOINT: (x_in, x_out)}
    if concepts == PER_CLASS and num_labels:
        return {
            _OF_LABEL.format(label): (x_in >> label & 1, x_out >> label & 1)
            for label in range(num_labels)
        }
    unique = torch.cat([x_in, x_out]).unique()
    if concepts == PER_CLASS:
        classes = unique.tolist() if num_classes is None else range(num_classes)
        return {
            _OF_CLASS.format(label): ((x_in == label).long(), (x_out == label).long())
            for label in classes
        }
    assert isinstance(concepts, Mapping)
    positions = [torch.searchsorted(unique, own) for own in (x_in, x_out)]
    found = {}
    labels = [_parts(label, num_labels) for label in unique.tolist()]
    for name, function in concepts.items():
        codes = torch.tensor(_codes(name, function, labels), device=x_in.device)
        found[name] = (codes[positions[0]], codes[positions[1]])
    return found


def _parts(label: int, num_labels: int | None) -> _Label:
    """What functions of the user are called with."""
    return label if num_labels is None else tuple(label >> one & 1 for one in range(num_labels))


def _codes(name: str, function: Function, labels: list[_Label]) -> list[int]:
    codes: dict[Hashable, int] = {}
    found = []
    for label in labels:
        try:
            value = function(label)
        except Exception as error:
            raise ConceptError(
                f"concepts: {name!r} failed for label {label}: {type(error).__name__}: {error}"
            ) from error
        # Tensors have a hash, which tells apart two with equal values.
        if isinstance(value, torch.Tensor) or not isinstance(value, Hashable):
            raise _not_hashable(name, value, label)
        if value != value:
            raise ValueError(
                f"concepts: {name!r} returned {value!r} for label {label}, which equals nothing; "
                "it takes a function whose values are equal or not"
            )
        try:
            found.append(codes.setdefault(value, len(codes)))
        except TypeError:
            raise _not_hashable(name, value, label) from None
    return found


def _not_hashable(name: str, value: object, label: _Label) -> TypeError:
    return TypeError(
        f"concepts: {name!r} returned {value!r} for label {label}; it takes a function that "
        "returns something hashable, such as an int, a bool or a string"
    )
