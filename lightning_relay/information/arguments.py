"""What the functions of this package take: their arguments checked, once, with the same words."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


_INTEGERS = {torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64}


def check_codes(hidden: Tensor) -> None:
    """Raise unless ``hidden`` is an integer tensor ``(…, samples, units)`` with a unit."""
    _check_integers("hidden", hidden, "discretize the states first")
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
    _check_integers(name, labels, "give class labels or the codes of a concept")
    _check_samples(name, labels, hidden)


def check_label_tensor(name: str, labels: Tensor) -> None:
    """Raise unless ``labels`` are integers ``(…, samples)``."""
    _check_integers(name, labels, "give class labels or the codes of a concept")
    if labels.dim() == 0:
        raise ValueError(f"{name}: got a single label; it takes (…, samples)")


def check_valid(valid: Tensor | None, hidden: Tensor) -> None:
    """Raise unless ``valid`` is None or a mask broadcastable to the samples of ``hidden``."""
    if valid is None:
        return
    if valid.dtype != torch.bool:
        raise TypeError(f"valid: got {valid.dtype}; it takes a mask of torch.bool")
    _check_samples("valid", valid, hidden)


def check_weights(weights: Tensor | None, hidden: Tensor) -> None:
    """Raise unless ``weights`` is None or integers from 0, broadcastable to the samples."""
    if weights is None:
        return
    _check_integers("weights", weights, "give how many times each sample counts")
    _check_samples("weights", weights, hidden)
    if weights.numel() and bool((weights < 0).any()):
        raise ValueError(f"weights: got {int(weights.min())}; it takes numbers of samples from 0")


def _check_integers(name: str, tensor: Tensor, mend: str) -> None:
    if not isinstance(tensor, torch.Tensor):
        raise TypeError(f"{name}: got {type(tensor).__name__}; it takes a tensor of integers")
    if tensor.dtype not in _INTEGERS:
        raise TypeError(f"{name}: got {tensor.dtype}; it takes integers (or bool): {mend}")


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
