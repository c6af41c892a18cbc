"""Checks of the tensors that the functions of this package take."""

from __future__ import annotations

from collections.abc import Iterable
from operator import index
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

MOST_SAMPLES = 2**26
"""Largest number of samples: functions of counts are tables of this length."""

_INTEGERS = {torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64}


def check_codes(hidden: Tensor) -> None:
    """Raise unless ``hidden`` is an integer tensor ``(…, samples, units)`` with a unit."""
    check_integers("hidden", hidden, "discretize the states first")
    _check_units(hidden)


def check_states(hidden: Tensor) -> None:
    """Raise unless ``hidden`` is a real tensor ``(…, samples, units)`` with a unit."""
    if not isinstance(hidden, torch.Tensor) or hidden.is_complex():
        raise TypeError(f"hidden: got {type(hidden).__name__}; it takes a tensor of real numbers")
    _check_units(hidden)


def _check_units(hidden: Tensor) -> None:
    if hidden.dim() < 2 or hidden.numel() == 0:
        raise ValueError(
            f"hidden: got shape {tuple(hidden.shape)}; it takes (…, samples, units) with at least "
            "one sample and one unit"
        )


def check_labels(name: str, labels: Tensor, hidden: Tensor) -> None:
    """Raise unless ``labels`` are integers broadcastable to the ``(…, samples)`` of ``hidden``."""
    check_label_tensor(name, labels)
    _check_samples(name, labels, hidden)


def check_label_tensor(name: str, labels: Tensor) -> None:
    """Raise unless ``labels`` are integers ``(…, samples)``."""
    check_integers(name, labels, "give class labels or the codes of a concept")
    if labels.dim() == 0:
        raise ValueError(f"{name}: got a single label; it takes (…, samples)")


def check_valid(valid: Tensor | None, hidden: Tensor) -> None:
    """Raise unless ``valid`` is None or a mask broadcastable to the samples of ``hidden``."""
    if valid is None:
        return
    if not isinstance(valid, torch.Tensor):
        raise TypeError(f"valid: got {type(valid).__name__}; it takes a mask, a bool tensor")
    if valid.dtype != torch.bool:
        raise TypeError(f"valid: got {valid.dtype}; it takes a mask of torch.bool")
    _check_samples("valid", valid, hidden)


def check_weights(weights: Tensor | None, hidden: Tensor) -> None:
    """Raise unless ``weights`` is None or integers from 0, broadcastable to the samples."""
    if weights is None:
        return
    check_integers("weights", weights, "give how many times each sample counts")
    _check_samples("weights", weights, hidden)
    if not weights.numel():
        return
    if int(weights.min()) < 0:
        raise ValueError(f"weights: got {int(weights.min())}; it takes numbers of samples from 0")
    total = float(weights.double().sum(-1).max())
    if total > MOST_SAMPLES:
        raise ValueError(
            f"weights: got a sum of {total:.3g}; it takes at most {MOST_SAMPLES} samples in all: "
            "divide the weights"
        )


def broadcast_leading(**given: Tensor | None) -> torch.Size:
    """Leading shape of arguments ``(…, samples)`` together; raises if they do not broadcast."""
    shapes = {name: part.shape for name, part in given.items() if part is not None}
    names = ", ".join(shapes)
    try:
        leading: torch.Size = torch.broadcast_shapes(*shapes.values())[:-1]
    except RuntimeError:
        listed = ", ".join(f"{name} {tuple(shape)}" for name, shape in shapes.items())
        raise ValueError(
            f"{names}: got shapes whose leading dimensions do not broadcast with each other, "
            f"(…, samples): {listed}"
        ) from None
    if leading.numel() == 0:
        raise ValueError(f"{names}: got leading dimensions {tuple(leading)} without an entry")
    return leading


def checked_units(name: str, units: Iterable[int], count: int | None, where: str = "") -> list[int]:
    """Unit indices as a list; raises unless they are integers from 0 below ``count``, each once.

    ``count`` is None where the number of units is not known yet.
    ``where`` says in messages which part of the argument ``name`` the units are.
    """
    if not isinstance(units, Iterable) or (isinstance(units, torch.Tensor) and units.dim() != 1):
        raise TypeError(f"{name}: got {units!r}{where}; it takes unit indices, a list of them")
    found: list[int] = []
    for unit in units.tolist() if isinstance(units, torch.Tensor) else units:
        plain = unit.item() if isinstance(unit, torch.Tensor) and unit.dim() == 0 else unit
        if isinstance(plain, bool) or not hasattr(plain, "__index__"):
            raise TypeError(f"{name}: got {unit!r}{where}; it takes unit indices, not a mask")
        place = index(plain)
        if place < 0 or (count is not None and place >= count):
            takes = (
                f"hidden has {count} units, so it takes 0 to {count - 1}"
                if count
                else ("it takes unit indices from 0")
            )
            raise ValueError(f"{name}: got {place}{where}; {takes}")
        if place in found:
            raise ValueError(f"{name}: unit {place} is named twice{where}; name each unit once")
        found.append(place)
    return found


def check_integers(name: str, tensor: Tensor, remedy: str) -> None:
    """Raise unless ``tensor`` holds integers; ``remedy`` says what to do about real numbers."""
    if not isinstance(tensor, torch.Tensor):
        raise TypeError(f"{name}: got {type(tensor).__name__}; it takes a tensor of integers")
    if tensor.dtype not in _INTEGERS:
        raise TypeError(f"{name}: got {tensor.dtype}; it takes integers (or bool): {remedy}")


def _check_samples(name: str, tensor: Tensor, hidden: Tensor) -> None:
    if tensor.dim() == 0 or tensor.shape[-1] != hidden.shape[-2]:
        raise ValueError(
            f"{name}: got shape {tuple(tensor.shape)} for hidden {tuple(hidden.shape)}; it takes "
            f"(…, samples) with {hidden.shape[-2]} samples"
        )
    try:
        torch.broadcast_shapes(tensor.shape, hidden.shape[:-1])
    except RuntimeError:
        raise ValueError(
            f"{name}: got shape {tuple(tensor.shape)}, which does not broadcast with the leading "
            f"dimensions of hidden {tuple(hidden.shape)}"
        ) from None
