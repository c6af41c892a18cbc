"""X_in: the class labels of the inputs, read off a batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lightning_relay.reading.containers import tensors_in

BatchEntry = int | str | Callable[[Any], Tensor]
"""Place in a batch: an index, a key, the name of an attribute, or a function of the batch."""


@dataclass(frozen=True, eq=False)
class Target:
    """A copy of the class labels of a batch, int64 ``(batch,)``, and their place in words."""

    labels: Tensor
    source: str


def read_target(batch: Any, target: BatchEntry | None = None) -> Target:
    """Class labels of the inputs of a batch.

    By default they are the only integer tensor ``(batch,)``, unless there is a float tensor
    ``(batch,)`` too. A TypeError says that they are not integers, a ValueError what the batch has.
    """
    if target is None:
        source, labels = _only_integers(batch)
    else:
        source = f"target={getattr(target, '__qualname__', repr(target))}"
        labels = read_entry(batch, target, "target")
        if not isinstance(labels, Tensor):
            raise TypeError(f"target: {target!r} gave {type(labels).__name__}; it takes a tensor")
        if not _is_labels(labels):
            raise TypeError(
                f"target: {target!r} gave {labels.dtype} of shape {tuple(labels.shape)}; it takes "
                "integer class labels of shape (batch,). For other labels, give target= a function "
                "of the batch that turns them into class labels"
            )
    return Target(labels.detach().long().clone(), source)


def read_entry(batch: Any, entry: BatchEntry, argument: str) -> Any:
    """Entry of a batch; if there is none, a ValueError names ``argument`` and lists the entries."""
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
    entries = [(path, tensor) for path, tensor in tensors_in(batch, "batch") if tensor.dim() == 1]
    found = [one for one in entries if _is_labels(one[1]) and one[1].dtype != torch.bool]
    rivals = [path for path, tensor in entries if tensor.is_floating_point()]
    if len(found) == 1 and not rivals:
        return found[0]
    if len(found) > 1:
        problem = f"several integer tensors ({', '.join(path for path, _ in found)}) could be"
    elif found:
        problem = f"{found[0][0]} holds integers, but {', '.join(rivals)} could also be"
    else:
        problem = "no integer tensor of shape (batch,) could be"
    raise ValueError(
        f"target: {problem} the class labels in the batch; it has: {_described(batch)}. The "
        "analysis needs the class of each input: give target= an index or key of the batch, or a "
        "function of it"
    )


def _is_labels(tensor: Tensor) -> bool:
    return tensor.dim() == 1 and not tensor.is_floating_point() and not tensor.is_complex()


def _described(batch: Any) -> str:
    leaves = [
        f"{path} {str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"
        for path, tensor in tensors_in(batch, "batch")
    ]
    return ", ".join(leaves) if leaves else f"a {type(batch).__name__} without tensors"
