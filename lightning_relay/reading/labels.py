"""X_in: what could be the class labels of the inputs, read off a batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeGuard

import torch
from torch import Tensor

from lightning_relay.information.options import IGNORED
from lightning_relay.reading.containers import tensors_in
from lightning_relay.reading.functions import Function

BatchEntry = Function | int | str
"""Place in a batch: an index, a key, the name of an attribute, or a function of the batch."""


class NoReadingError(ValueError):
    """It is not clear which labels and outputs of a step belong together."""


class TooFewLabelsError(ValueError):
    """The labels so far do not suffice; in the sanity check, more may come."""


@dataclass(frozen=True, eq=False)
class Entry:
    """A tensor of a batch that could be its labels, ``(batch,)`` or ``(batch, …)``.

    ``copied``: whether the values are a copy; if not, the step may have changed them.
    ``original``: identity of the tensor in the batch, while the batch lives.
    """

    values: Tensor
    source: str
    copied: bool = True
    original: int = 0

    @property
    def column(self) -> Tensor:
        """The values without a last dimension of size 1."""
        return without_last(self.values)

    @property
    def multi_hot(self) -> bool:
        """Whether a sample, or each of its steps, has several labels, each yes or no."""
        return self.copied and is_multi_hot(self.values)

    def __str__(self) -> str:
        return described(self.source, self.values)


@dataclass(frozen=True, eq=False)
class Labels:
    """What could be the labels of a batch, copied before a step can change it.

    ``named``: whether the user said which it is, and ``computed``, by a function. ``others``:
    everything in the batch, also of three dimensions. ``batch``: what the batch has, in words.
    ``since``: what real labels and answers are compared with, ``(batch,)`` or of their own shape.
    ``lengths``: numbers of steps that labels of steps can have, int64 ``(batch,)``.
    """

    entries: tuple[Entry, ...]
    named: bool
    computed: bool
    others: tuple[Entry, ...]
    batch: str
    since: Tensor | None = None
    lengths: Tensor | None = None

    def __getitem__(self, source: str) -> Entry:
        """The entry from a source."""
        (entry,) = [entry for entry in self.entries if entry.source == source]
        return entry

    @property
    def may_be_of_steps(self) -> bool:
        """Whether an entry could hold a label for each step."""
        return any(entry.copied and entry.column.dim() > 1 for entry in self.entries)

    @property
    def steps(self) -> set[int]:
        """Numbers that could be those of the steps of the sequences."""
        return {
            one.values.shape[1]
            for one in self.others
            if one.values.dim() == 3
            or (one.values.dim() == 2 and not (one.multi_hot or are_yes_or_no(one.values)))
        }

    @property
    def multi_hot(self) -> tuple[Entry, ...]:
        """Tensors of the batch with several labels of each sample."""
        return tuple(one for one in self.others if one.multi_hot)

    @property
    def sizes(self) -> set[int]:
        """Sizes that the batch could have."""
        return {len(entry.values) for entry in self.entries}


def read_labels(
    batch: Any,
    target: BatchEntry | None = None,
    known: str | None = None,
    *,
    real: bool = False,
    since: BatchEntry | None = None,
    lengths: BatchEntry | None = None,
) -> Labels:
    """What could be the labels of a batch: the target, or all tensors of one or two dimensions.

    ``known`` is the source of the labels in an earlier batch. ``real``: whether labels are real
    numbers, which are compared with the entry ``since`` if there is one; this entry is no label.
    ``lengths``: entry with the lengths of the sequences. Raises a TypeError or ValueError if an
    entry is not there or no tensor of numbers.
    """
    words = _described(batch)
    found, others = [], []
    compared = None if since is None else read_entry(batch, since, "bins")
    for path, tensor in tensors_in(batch, "batch"):
        if tensor is compared:
            continue
        could_be = _could_be(tensor, real=real)
        entry = Entry(tensor, path, copied=False, original=id(tensor))
        if could_be and known in (None, path):
            # What was taken for the labels before is not looked at again.
            copied = real or known is not None or _is_short(tensor)
            entry = _copy(tensor, path) if copied else entry
            found.append(entry)
        if could_be or (tensor.layout == torch.strided and tensor.dim() == 3):
            others.append(entry)
    about = Labels(
        tuple(found),
        named=target is not None,
        computed=callable(target),
        others=tuple(others),
        batch=words,
        since=None if since is None else _to_compare(compared, since),
        lengths=None if lengths is None else read_lengths(batch, lengths),
    )
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
        return replace(about, entries=(_copy(values, f"target={name}"),))
    if not found:
        wanted = "numbers to predict" if real else "class labels"
        what = f"no {known}" if known else f"no tensor (batch,){' or (batch, step)' * real}"
        why = f"{what} could be the {wanted} in the batch; it has: {words}."
        if not real and any(one.column.dim() == 2 for one in others):
            why = f"bins: {why} For numbers to predict at each step, give bins=."
        else:
            why = f"target: {why}"
        raise NoReadingError(f"{why} {NAME_IT}")
    return about


NAME_IT = (
    "The analysis needs the label of each input: give target= an index or key of the batch, or a "
    "function of it"
)


def is_entry(entry: object) -> TypeGuard[BatchEntry]:
    """Whether it may be a place in a batch."""
    return callable(entry) or (isinstance(entry, int | str) and not isinstance(entry, bool))


def check_entry(argument: str, entry: object) -> None:
    """Refuse what is neither None nor a place in a batch, with a TypeError."""
    if entry is not None and not is_entry(entry):
        raise TypeError(
            f"{argument}: got {entry!r}; it takes an index, a key or the name of an attribute of "
            "the batch, or a function of it"
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
        dotted = isinstance(entry, str) and "." in entry
        raise ValueError(
            f"{argument}: the batch has no {entry!r}"
            + (", and a configuration can import no function of that name" if dotted else "")
            + f"; it has: {_described(batch)}"
        ) from None


def read_lengths(batch: Any, lengths: BatchEntry) -> Tensor:
    """Lengths of the sequences of a batch, a copy; a TypeError says what is none."""
    found = read_entry(batch, lengths, "lengths")
    if not isinstance(found, Tensor):
        raise TypeError(
            f"lengths: {lengths!r} gave {type(found).__name__}; it takes an integer tensor (batch,)"
        )
    return found.detach().clone()


def without_last(values: Tensor) -> Tensor:
    """The values without a last dimension of size 1, if there are more.

    Values ``(batch, 1, 1)`` are one for each sample, too.
    """
    if values.shape[1:] == (1, 1):
        return values[:, 0, 0]
    return values.squeeze(-1) if values.dim() > 1 and values.shape[-1] == 1 else values


def is_multi_hot(values: Tensor) -> bool:
    """Whether values 0 and 1, ``(batch, label)``, are not one class in each row.

    Or ``(batch, step, label)``. Rows with an ``IGNORED`` do not count.
    """
    if values.dim() not in (2, 3) or values.shape[-1] == 1:
        return False
    rows = values[(values != IGNORED).all(-1)]
    return are_yes_or_no(rows) and bool((rows.sum(-1) != 1).any())


def are_yes_or_no(values: Tensor) -> bool:
    """Whether all values are 0 or 1."""
    return bool(((values == 0) | (values == 1)).all())


def described(source: str, values: Tensor) -> str:
    """Source, type and shape of a tensor in words."""
    return f"{source} {str(values.dtype).removeprefix('torch.')} {tuple(values.shape)}".strip()


def _could_be(values: Tensor, *, real: bool) -> bool:
    dense = values.layout == torch.strided and not values.is_complex()
    dimensions = without_last(values).dim() if real else values.dim()
    return dense and dimensions in (1, 2) and len(values) > 0


def _is_short(values: Tensor) -> bool:
    """Whether the values could be class labels, and not only numbers to be predicted."""
    if without_last(values).dim() == 1 or not values.is_floating_point():
        return True
    return are_yes_or_no(values)


def _copy(values: Tensor, source: str) -> Entry:
    return Entry(values.detach().clone(), source, original=id(values))


def _to_compare(values: Any, since: BatchEntry) -> Tensor:
    if not isinstance(values, Tensor) or values.is_complex():
        raise TypeError(
            f"bins: {since!r} gave {type(values).__name__}; it takes a tensor of the values to "
            "compare with, (batch,) or of the shape of the labels"
        )
    return without_last(values.detach()).to("cpu", torch.float64, copy=True)


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
