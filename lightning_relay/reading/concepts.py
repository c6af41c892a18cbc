"""Concepts: questions about a class label, asked alike of inputs and predictions."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Mapping
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

Concepts = str | Mapping[str, Callable[[int], Hashable]]
"""``"joint"`` (the label itself), ``"per_class"`` (is it class k?) or functions of it by name."""

JOINT = "joint"
PER_CLASS = "per_class"
_OF_CLASS = "class_{}"


class ConceptError(ValueError):
    """A function of the user failed for a label."""


def check_concepts(concepts: Concepts) -> None:
    """Raise an error unless ``concepts`` is a legal choice or a mapping of named functions."""
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


def is_concept(name: str, concepts: Concepts) -> bool:
    """Whether ``concept_codes`` can give a concept of this name."""
    if isinstance(concepts, Mapping):
        return name in concepts
    if concepts == JOINT:
        return name == JOINT
    return re.fullmatch(_OF_CLASS.format(r"\d+"), name) is not None


def concept_codes(
    concepts: Concepts, x_in: Tensor, x_out: Tensor, *, num_classes: int | None = None
) -> dict[str, tuple[Tensor, Tensor]]:
    """Codes of input and output for each concept, from class labels, all int64 ``(samples,)``.

    A function is called with an int, once for each label that occurs, and equal codes stand for
    equal values. ``"per_class"`` takes ``num_classes`` classes; default: the labels that occur.
    """
    check_concepts(concepts)
    if concepts == JOINT:
        return {JOINT: (x_in, x_out)}
    unique = torch.cat([x_in, x_out]).unique()
    if concepts == PER_CLASS:
        classes = unique.tolist() if num_classes is None else range(num_classes)
        return {
            _OF_CLASS.format(label): ((x_in == label).long(), (x_out == label).long())
            for label in classes
        }
    assert isinstance(concepts, Mapping)
    positions = [torch.searchsorted(unique, labels) for labels in (x_in, x_out)]
    found = {}
    for name, function in concepts.items():
        codes = torch.tensor(_codes(name, function, unique.tolist()), device=x_in.device)
        found[name] = (codes[positions[0]], codes[positions[1]])
    return found


def _codes(name: str, function: Callable[[int], Hashable], labels: list[int]) -> list[int]:
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


def _not_hashable(name: str, value: object, label: int) -> TypeError:
    return TypeError(
        f"concepts: {name!r} returned {value!r} for label {label}; it takes a function that "
        "returns something hashable, such as an int, a bool or a string"
    )
