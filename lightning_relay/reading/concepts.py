"""Concepts: what is asked about a class label, the same of input and output."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Mapping
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

Concepts = str | Mapping[str, Callable[[int], Hashable]]
"""``"joint"``, ``"per_class"``, or functions of the class label by concept name."""

JOINT = "joint"
PER_CLASS = "per_class"
_OF_CLASS = "class_{}"


def check_concepts(concepts: Concepts) -> None:
    """Raise unless ``concepts`` is ``"joint"``, ``"per_class"`` or a mapping of named functions."""
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
        return
    raise ValueError(
        f"concepts: got {concepts!r}; it takes 'joint', 'per_class', or a mapping from names to "
        "functions of the class label"
    )


def is_concept(name: str, concepts: Concepts) -> bool:
    """Whether a name is one that ``concept_codes`` gives to a concept."""
    if isinstance(concepts, Mapping):
        return name in concepts
    if concepts == JOINT:
        return name == JOINT
    return re.fullmatch(_OF_CLASS.format(r"\d+"), name) is not None


def concept_codes(
    concepts: Concepts, x_in: Tensor, x_out: Tensor, *, num_classes: int | None = None
) -> dict[str, tuple[Tensor, Tensor]]:
    """What each concept makes of the class labels that went in and came out.

    Args:
        concepts: ``"joint"`` takes the label itself; ``"per_class"`` asks of every class whether
            the label is that class (concepts ``class_0``, ``class_1``, …); a mapping gives each
            concept a function that is called once for every label that occurs, with an int, and
            returns anything hashable.
        x_in: Class label of each input, int64 ``(samples,)``.
        x_out: Class label that the model gave, int64 ``(samples,)``.
        num_classes: Number of classes, for ``"per_class"``; default: the labels that occur.

    Returns:
        For each concept the codes of input and output, int64 ``(samples,)`` each; equal codes
        stand for equal values.

    Raises:
        TypeError: If a concept's function returns what is not hashable.

    Example:
        >>> import torch
        >>> x = torch.tensor([0, 1, 2])
        >>> concept_codes({"even": lambda label: label % 2 == 0}, x, x)["even"][0]
        tensor([0, 1, 0])
    """
    check_concepts(concepts)
    labels = torch.cat([x_in, x_out]).unique().tolist()
    if concepts == JOINT:
        return {JOINT: (x_in, x_out)}
    if concepts == PER_CLASS:
        classes = labels if num_classes is None else range(num_classes)
        return {
            _OF_CLASS.format(label): ((x_in == label).long(), (x_out == label).long())
            for label in classes
        }
    assert isinstance(concepts, Mapping)
    return {
        name: _coded(name, function, labels, x_in, x_out) for name, function in concepts.items()
    }


def _coded(
    name: str,
    function: Callable[[int], Hashable],
    labels: list[int],
    x_in: Tensor,
    x_out: Tensor,
) -> tuple[Tensor, Tensor]:
    codes: dict[Hashable, int] = {}
    table = []
    for label in labels:
        value = function(label)
        try:
            table.append(codes.setdefault(value, len(codes)))
        except TypeError:
            raise TypeError(
                f"concepts: {name!r} returned {value!r} for label {label}; it takes a function "
                "that returns something hashable, such as an int, a bool or a string"
            ) from None
    positions = torch.tensor(labels, device=x_in.device)
    lookup = torch.tensor(table, device=x_in.device)
    return (
        lookup[torch.searchsorted(positions, x_in)],
        lookup[torch.searchsorted(positions, x_out)],
    )
