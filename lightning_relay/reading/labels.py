"""X_in: the class labels of the inputs, found in a batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lightning_relay.reading.containers import tensors_in

BatchEntry = int | str | Callable[[Any], Tensor]
"""Where something stands in a batch: an index, a key or attribute, or a function of the batch."""


@dataclass(frozen=True, eq=False)
class Target:
    """The class labels of a batch.

    Attributes:
        labels: A copy of the labels, int64 ``(batch,)``.
        source: Where they came from, in words.
    """

    labels: Tensor
    source: str


def read_target(batch: Any, target: BatchEntry | None = None) -> Target:
    """Class labels of the inputs of a batch.

    Args:
        batch: What a dataloader yields.
        target: Index, key or attribute of the batch, or a function of it; default: the only
            integer tensor of shape ``(batch,)`` there is, unless a float one stands beside it.

    Returns:
        The labels and where they were found.

    Raises:
        TypeError: If the labels are not integers.
        ValueError: If they cannot be found; says what the batch has and which argument decides.

    Example:
        >>> import torch
        >>> read_target((torch.zeros(2, 5, 3), torch.tensor([4, 1])))
        Target(labels=tensor([4, 1]), source='batch[1]')
    """
    if target is None:
        source, labels = _only_integers(batch)
    else:
        source, labels = f"target={_in_words(target)}", read_entry(batch, target, "target")
        _check_labels(labels, target)
    return Target(labels.detach().long().clone(), source)


def read_entry(batch: Any, entry: BatchEntry, argument: str) -> Any:
    """What stands at an index, key or attribute of a batch, or what a function makes of it.

    Raises:
        ValueError: If the batch has no such entry; says what it has.
    """
    if callable(entry):
        return entry(batch)
    try:
        if isinstance(entry, str) and not isinstance(batch, Mapping):
            return getattr(batch, entry)
        return batch[entry]
    except (KeyError, IndexError, TypeError, AttributeError):
        raise ValueError(
            f"{argument}: the batch has no {entry!r}; it has: {_described(batch)}"
        ) from None


def _only_integers(batch: Any) -> tuple[str, Tensor]:
    columns = [(path, tensor) for path, tensor in tensors_in(batch, "batch") if tensor.dim() == 1]
    found = [
        (path, tensor)
        for path, tensor in columns
        if _is_labels(tensor) and tensor.dtype != torch.bool
    ]
    rivals = [path for path, tensor in columns if tensor.is_floating_point()]
    if len(found) == 1 and not rivals:
        return found[0]
    if len(found) > 1:
        problem = f"several integer tensors ({', '.join(path for path, _ in found)}) could be"
    elif found:
        problem = f"{found[0][0]} holds integers, but {', '.join(rivals)} could also be"
    else:
        problem = "no integer tensor of shape (batch,) could be"
    raise ValueError(
        f"target: {problem} the class labels in the batch; it has: {_described(batch)}. Relay "
        "information needs the class of each input: give target= an index or key of the batch, "
        "or a function of it"
    )


def _is_labels(tensor: Tensor) -> bool:
    return tensor.dim() == 1 and not tensor.is_floating_point() and not tensor.is_complex()


def _check_labels(labels: Any, target: BatchEntry) -> None:
    if not isinstance(labels, Tensor):
        raise TypeError(f"target: {target!r} gave {type(labels).__name__}; it takes a tensor")
    if not _is_labels(labels):
        raise TypeError(
            f"target: {target!r} gave {labels.dtype} of shape {tuple(labels.shape)}; it takes "
            "integer class labels of shape (batch,): for others, give a function that makes such "
            "labels of the batch"
        )


def _described(batch: Any) -> str:
    leaves = [
        f"{path} {str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"
        for path, tensor in tensors_in(batch, "batch")
    ]
    return ", ".join(leaves) if leaves else f"a {type(batch).__name__} without tensors"


def _in_words(entry: BatchEntry) -> str:
    return getattr(entry, "__qualname__", repr(entry))
