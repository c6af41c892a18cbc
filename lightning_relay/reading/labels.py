"""X_in: what could be the class labels of the inputs, read off a batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lightning_relay.reading.containers import tensors_in

BatchEntry = int | str | Callable[[Any], Tensor]
"""Place in a batch: an index, a key, the name of an attribute, or a function of the batch."""


class NoReadingError(ValueError):
    """It is not clear which labels and outputs of a step belong together."""


@dataclass(frozen=True, eq=False)
class Entry:
    """A tensor of a batch that could be its labels, ``(batch,)`` or ``(batch, …)``.

    ``copied``: whether the values are a copy; if not, the step may have changed them.
    """

    values: Tensor
    source: str
    copied: bool = True

    @property
    def column(self) -> Tensor:
        """The values without a last dimension of size 1."""
        return without_last(self.values)

    def __str__(self) -> str:
        return described(self.source, self.values)


@dataclass(frozen=True, eq=False)
class Labels:
    """What could be the labels of a batch, copied before a step can change it.

    ``named``: whether the user said which it is. ``several``: tensors ``(batch, label)`` of yes and
    no, with several labels of a sample. ``batch``: what the batch has, in words.
    """

    entries: tuple[Entry, ...]
    named: bool
    several: tuple[Entry, ...]
    batch: str

    def __getitem__(self, source: str) -> Entry:
        """The entry from a source."""
        (entry,) = [entry for entry in self.entries if entry.source == source]
        return entry

    @property
    def may_be_of_steps(self) -> bool:
        """Whether an entry could hold a label for each step."""
        return any(entry.copied and entry.column.dim() == 2 for entry in self.entries)

    @property
    def sizes(self) -> set[int]:
        """Sizes that the batch could have."""
        return {len(entry.values) for entry in self.entries}


def read_labels(batch: Any, target: BatchEntry | None = None, known: str | None = None) -> Labels:
    """What could be the labels of a batch: the target, or all tensors of one or two dimensions.

    ``known`` is the source of the labels in an earlier batch. Raises a TypeError or ValueError if
    the target is not there or no tensor of numbers.
    """
    words = _described(batch)
    found = [
        _copy(tensor, path) if _is_short(tensor) else Entry(tensor, path, copied=False)
        for path, tensor in tensors_in(batch, "batch")
        if _could_be(tensor) and known in (None, path)
    ]
    several = tuple(one for one in found if one.copied and are_several(one.values))
    if target is not None:
        name = getattr(target, "__qualname__", repr(target))
        values = read_entry(batch, target, "target")
        if not isinstance(values, Tensor):
            hint = _of_strings(target) if _are_strings(values) else "it takes a tensor"
            raise TypeError(f"target: {target!r} gave {type(values).__name__}; {hint}")
        if values.dim() == 0 or values.is_complex():
            raise TypeError(
                f"target: {target!r} gave {described('', values)}; it takes class labels of shape "
                "(batch,)"
            )
        return Labels((_copy(values, f"target={name}"),), True, several, words)
    if not found:
        what = f"no {known}" if known else "no tensor (batch,)"
        raise NoReadingError(
            f"target: {what} could be the class labels in the batch; it has: {words}. {NAME_IT}"
        )
    return Labels(tuple(found), False, several, words)


NAME_IT = (
    "The analysis needs the class of each input: give target= an index or key of the batch, or a "
    "function of it"
)


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


def without_last(values: Tensor) -> Tensor:
    """The values without a last dimension of size 1, if there are two dimensions."""
    return values.squeeze(1) if values.dim() == 2 and values.shape[1] == 1 else values


def are_several(values: Tensor) -> bool:
    """Whether values 0 and 1, ``(batch, label)``, are not one class in each row."""
    if values.dim() != 2 or values.shape[1] == 1:
        return False
    return are_yes_or_no(values) and bool((values.sum(1) != 1).any())


def are_yes_or_no(values: Tensor) -> bool:
    """Whether all values are 0 or 1."""
    return bool(((values == 0) | (values == 1)).all())


def described(source: str, values: Tensor) -> str:
    """Source, type and shape of a tensor in words."""
    return f"{source} {str(values.dtype).removeprefix('torch.')} {tuple(values.shape)}".strip()


def _could_be(values: Tensor) -> bool:
    dense = values.layout == torch.strided and not values.is_complex()
    return dense and values.dim() in (1, 2) and len(values) > 0


def _is_short(values: Tensor) -> bool:
    """Whether the values could be class labels, and not only numbers to be predicted."""
    if without_last(values).dim() == 1 or not values.is_floating_point():
        return True
    return are_yes_or_no(values)


def _copy(values: Tensor, source: str) -> Entry:
    return Entry(values.detach().clone(), source)


def _are_strings(values: Any) -> bool:
    return isinstance(values, list | tuple) and all(isinstance(value, str) for value in values)


def _of_strings(target: BatchEntry) -> str:
    place = f"batch[{target!r}]" if isinstance(target, int | str) else "names"
    return (
        "it takes a tensor. Give target= a function that numbers the names, such as lambda batch: "
        f"torch.tensor([NAMES.index(name) for name in {place}])"
    )


def _described(batch: Any) -> str:
    leaves = [described(path, tensor) for path, tensor in tensors_in(batch, "batch")]
    return ", ".join(leaves) if leaves else f"a {type(batch).__name__} without tensors"
