"""X_in: the class labels of the inputs, found in a batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

BatchEntry = int | str | Callable[[Any], Tensor]
"""Where something stands in a batch: an index, a key or attribute, or a function of the batch."""


def read_target(batch: Any, target: BatchEntry | None = None) -> Tensor:
    """Class labels of the inputs of a batch.

    Args:
        batch: What a dataloader yields.
        target: Index, key or attribute of the batch, or a function of it; default: the only
            integer tensor of shape ``(batch,)`` there is.

    Returns:
        A copy of the labels, int64 ``(batch,)``.

    Raises:
        TypeError: If the labels are not integers.
        ValueError: If they cannot be found; says what the batch has and which argument decides.

    Example:
        >>> import torch
        >>> read_target((torch.zeros(2, 5, 3), torch.tensor([4, 1])))
        tensor([4, 1])
    """
    if target is None:
        labels = _only_integers(batch)
    else:
        labels = read_entry(batch, target, "target")
        _check_labels(labels, target)
    return labels.detach().long().clone()


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


def _only_integers(batch: Any) -> Tensor:
    found = [(path, tensor) for path, tensor in _leaves(batch) if _is_labels(tensor)]
    if len(found) == 1:
        return found[0][1]
    problem = (
        f"several integer tensors could be the class labels ({', '.join(p for p, _ in found)})"
        if found
        else "no integer class labels of shape (batch,)"
    )
    raise ValueError(
        f"target: {problem} in the batch; it has: {_described(batch)}. Relay information needs "
        "the class of each input: give target= an index or key of the batch, or a function of it"
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


def _leaves(batch: Any, path: str = "batch") -> Iterator[tuple[str, Tensor]]:
    if isinstance(batch, Tensor):
        yield path, batch
    elif isinstance(batch, Mapping):
        for key, value in batch.items():
            yield from _leaves(value, f"{path}[{key!r}]")
    elif isinstance(batch, list | tuple) and not isinstance(batch, PackedSequence):
        for index, value in enumerate(batch):
            yield from _leaves(value, f"{path}[{index}]")
    elif is_dataclass(batch):
        for field in fields(batch):
            yield from _leaves(getattr(batch, field.name), f"{path}.{field.name}")


def _described(batch: Any) -> str:
    leaves = [
        f"{path} {str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"
        for path, tensor in _leaves(batch)
    ]
    return ", ".join(leaves) if leaves else f"a {type(batch).__name__} without tensors"
