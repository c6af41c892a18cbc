"""Samples as weighted rows: equal samples are one row, and codes are bits of machine words."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from lightning_relay.information.arguments import (
    broadcast_leading,
    check_codes,
    check_labels,
    check_valid,
    check_weights,
)
from lightning_relay.information.compiled import compiled, in_threads

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from lightning_relay.information.compiled import Bools, Integer, Ints, Numbers, Result, Words

MOST_COUNTED = 8
"""Largest number of levels of a unit at which each level has a bit of its own."""

_FEW = 2**12
"""Labels from 0 to below this are used as they are. Others are numbered."""


@dataclass(frozen=True)
class Rows:
    """The different rows (X_in, X_out, Y) of one leading index, with the number of samples of each.

    The codes of a row are bits. A unit of two levels has one bit. A unit of up to 8 levels has a
    bit for each level, set for the level that it has. A unit of more levels has the binary digits
    of its code. A *plane* is one bit of every unit, side by side; each plane begins with a byte.

    A line of ``table`` holds the bits of a row's codes; X_in in the upper and X_out in the lower
    half of a word, both numbered from 0; and the row's number of samples. Lines are in rising order
    of X_in, then of X_out.
    """

    table: Words  # (rows, words + 2)
    units: int
    levels: int  # A number above every code, at least 2.
    planes: int
    outs: int  # A number above every X_out.
    samples: int

    @property
    def counted(self) -> bool:
        """Whether every bit of a unit stands for one of its levels."""
        return self.levels <= MOST_COUNTED

    @property
    def bytes(self) -> int:
        """Number of bytes of a plane."""
        return -(-self.units // 8)

    @property
    def weight(self) -> Words:
        """Number of samples of each row."""
        return self.table[:, -1]

    @cached_property
    def by_out(self) -> Numbers:
        """The rows in rising order of X_out, then of X_in."""
        x_out = (self.table[:, -2] & np.uint64(2**32 - 1)).astype(np.uint32)
        return sorted_by(x_out, self.outs, np.arange(len(x_out), dtype=np.uint32))

    def masks(self, members: Bools) -> Words:
        """Words ``(sets, words)`` with all bits of the members ``(sets, units)`` of each set."""
        plane = np.packbits(members, axis=1, bitorder="little")
        masks = np.zeros((len(members), 8 * (self.table.shape[1] - 2)), dtype=np.uint8)
        masks[:, : self.planes * self.bytes] = np.tile(plane, self.planes)
        return masks.view(np.uint64)

    def reweighted(self, weight: Words) -> Rows:
        """The same rows with other weights, without rows of weight 0."""
        kept = np.flatnonzero(weight)
        table = self.table[kept]
        table[:, -1] = weight[kept]
        return replace(self, table=table, samples=int(weight.sum()))


@dataclass(frozen=True)
class _Part:
    """One argument: its own leading entries, and which of them each leading index uses."""

    values: NDArray[Any]
    place: Ints

    def __getitem__(self, index: int) -> NDArray[Any]:
        found: NDArray[Any] = self.values[self.place[index]]
        return found


@dataclass(frozen=True)
class Samples:
    """Checked arguments on the host, whose leading dimensions broadcast to ``leading``.

    Flattened, there are ``indices`` leading indices. Results return to the ``device`` of the codes.
    """

    leading: torch.Size
    device: torch.device
    hidden: _Part  # (samples, units) of each index: codes from 0, uint8 or int32.
    x_in: _Part  # (samples,) of each index: labels of the input from 0, uint32.
    x_out: _Part  # (samples,) of each index: labels of the output from 0, uint32.
    weight: _Part  # (samples,) of each index: how many times each sample counts.
    levels: int  # A number above every code, at least 2.
    ins: int  # A number above every label of the input.
    outs: int  # A number above every label of the output.

    @classmethod
    def of(
        cls,
        x_in: Tensor,
        x_out: Tensor,
        hidden: Tensor,
        valid: Tensor | None = None,
        weights: Tensor | None = None,
    ) -> Samples:
        """Check the arguments of a measure and bring them to the host; raises what it documents."""
        check_codes(hidden)
        check_labels("x_in", x_in, hidden)
        check_labels("x_out", x_out, hidden)
        check_valid(valid, hidden)
        check_weights(weights, hidden)
        leading = broadcast_leading(
            hidden=hidden[..., 0], x_in=x_in, x_out=x_out, valid=valid, weights=weights
        )
        weight = np.ones(hidden.shape[-2], dtype=np.int32)
        if weights is not None:
            weight = _on_host(weights).astype(np.int32)
        if valid is not None:
            weight = weight * _on_host(valid)
        if weights is not None or valid is not None:
            _check_some_counted(weight, leading)
        codes, levels = _codes_from_zero(_on_host(hidden))
        labels_in, ins = _labels_from_zero(_on_host(x_in))
        labels_out, outs = _labels_from_zero(_on_host(x_out))

        def part(values: NDArray[Any], own: int) -> _Part:
            shape = values.shape[: values.ndim - own]
            place = np.broadcast_to(np.arange(prod(shape)).reshape(shape), leading).ravel()
            flat = np.ascontiguousarray(values.reshape(-1, *values.shape[values.ndim - own :]))
            return _Part(flat, place)

        parts = part(codes, 2), part(labels_in, 1), part(labels_out, 1), part(weight, 1)
        return cls(leading, hidden.device, *parts, levels, ins, outs)

    @property
    def units(self) -> int:
        """Number of units."""
        return int(self.hidden.values.shape[-1])

    @property
    def indices(self) -> int:
        """Number of flattened leading indices."""
        return self.leading.numel()

    def rows(self, index: int) -> Rows:
        """The rows of one flattened leading index."""
        return self.merged(index)[0]

    def merged(self, index: int) -> tuple[Rows, NDArray[np.int32]]:
        """The rows of one flattened leading index, and the row of each sample (-1: not counted)."""
        words, planes = _packed(self.hidden[index], self.levels)
        labels = self.x_in[index], self.ins, self.x_out[index], self.outs
        used = planes * -(-self.units // 8)
        table, row = _merged(words, *labels, self.weight[index], used)
        samples = int(table[:, -1].sum())
        rows = Rows(table, self.units, self.levels, planes, self.outs, samples)
        return rows, row

    def each(self, function: Callable[[Rows], Result]) -> list[Result]:
        """Results for the rows of every flattened leading index, in threads."""
        return in_threads(lambda index: function(self.rows(index)), range(self.indices))

    def shaped(self, values: Sequence[Any] | NDArray[Any]) -> Tensor:
        """One tensor of the arrays or numbers of every flattened leading index."""
        together = torch.from_numpy(np.stack(list(values)))
        return together.reshape((*self.leading, *together.shape[1:])).to(self.device)


def _on_host(tensor: Tensor) -> NDArray[Any]:
    array: NDArray[Any] = tensor.detach().cpu().numpy()
    return array.view(np.uint8) if array.dtype == np.bool_ else array


def _check_some_counted(weight: NDArray[np.int32], leading: torch.Size) -> None:
    counted = np.broadcast_to((weight > 0).any(-1), leading)
    if counted.all():
        return
    where = f" at leading index {tuple(np.argwhere(~counted)[0].tolist())}" if leading else ""
    raise ValueError(f"valid, weights: no sample is counted{where}; leave that index out")


def _codes_from_zero(codes: NDArray[Any]) -> tuple[NDArray[Any], int]:
    """The codes as numbers from 0, uint8 or int32, and a number above all of them."""
    highest = int(codes.max())
    if codes.dtype == np.uint8 and highest < 2:
        return codes, 2
    lowest = int(codes.min())
    if highest - lowest < 2:
        return (codes - codes.dtype.type(lowest) if lowest else codes).astype(np.uint8), 2
    if highest - lowest < 2**8:
        shifted = (codes.astype(np.int64) - lowest).astype(np.uint8)
        present = np.bincount(shifted.ravel(), minlength=2**8) > 0
        number = (present.cumsum() - 1).astype(np.uint8)
        return number[shifted], max(2, int(present.sum()))
    columns = [np.unique(column, return_inverse=True) for column in np.moveaxis(codes, -1, 0)]
    levels = max(len(values) for values, _ in columns)
    return np.stack([numbers for _, numbers in columns], axis=-1).astype(np.int32), max(2, levels)


def _labels_from_zero(labels: NDArray[Any]) -> tuple[Numbers, int]:
    """The labels as numbers from 0, and a number above all of them."""
    lowest, highest = int(labels.min()), int(labels.max())
    if lowest < 0 or highest >= _FEW:
        values, labels = np.unique(labels, return_inverse=True)
        highest = len(values) - 1
    return labels.astype(np.uint32), highest + 1


def _packed(codes: NDArray[Any], levels: int) -> tuple[Words, int]:
    """Codes ``(samples, units)`` as the words of ``Rows``, and the number of planes."""
    if levels == 2:
        planes = [codes]
    elif levels <= MOST_COUNTED:
        planes = [(codes == level).view(np.uint8) for level in range(levels)]
    else:
        digits = range((levels - 1).bit_length())
        planes = [(codes >> digit & 1).astype(np.uint8) for digit in digits]
    each = -(-codes.shape[1] // 8)
    words = np.zeros((len(codes), -(-len(planes) * each // 8)), dtype=np.uint64)
    for place, plane in enumerate(planes):
        _pack(plane, place * each, words)
    return words, len(planes)


@compiled
def _pack(bits: NDArray[np.uint8], first: int, words: Words) -> None:
    """Put the bits ``(samples, units)`` of a plane into words, from their byte ``first`` on."""
    samples, units = bits.shape
    for sample in range(samples):
        for byte in range((units + 7) // 8):
            eight = np.uint64(0)  # Eight bits, each in a byte. A loop of fixed length loads a word.
            if 8 * byte + 8 <= units:
                for place in range(8):
                    eight |= np.uint64(bits[sample, 8 * byte + place]) << np.uint64(8 * place)
            else:
                for place in range(units - 8 * byte):
                    eight |= np.uint64(bits[sample, 8 * byte + place]) << np.uint64(8 * place)
            packed = (eight * np.uint64(0x0102040810204080)) >> np.uint64(56)
            at = first + byte
            words[sample, at >> 3] |= packed << np.uint64(8 * (at & 7))


@compiled
def _merged(
    words: Words,
    x_in: Numbers,
    ins: int,
    x_out: Numbers,
    outs: int,
    weight: NDArray[np.int32],
    used: int,
) -> tuple[Words, NDArray[np.int32]]:
    """Merge equal samples with a hash table, and sort the rows by their labels.

    Only the first ``used`` bytes of the words hold codes. Returns the table of ``Rows`` and the row
    of each sample, -1 if its weight is 0.
    """
    samples, width = words.shape
    slots = 4
    while slots < 2 * samples:
        slots *= 2
    last = np.uint64(slots - 1)
    # A row that fits into one word is its own key. Otherwise, rows with equal keys are compared.
    free = 64 - 8 * used
    is_exact = free >= 0 and ins * outs < 2.0**free
    table = np.full(slots, -1, np.int32)
    keys = np.empty(samples, np.uint64)
    first = np.empty(samples, np.int32)
    total = np.empty(samples, np.int32)
    row = np.full(samples, -1, np.int32)
    found = 0
    for sample in range(samples):
        if weight[sample] == 0:
            continue
        key = np.uint64(x_in[sample]) * np.uint64(outs) + np.uint64(x_out[sample])
        if is_exact:
            key = words[sample, 0] | key << np.uint64(8 * used & 63)
        else:
            for word in range(width):
                key = mixed(key) ^ words[sample, word]
        slot = mixed(key) & last
        while True:
            other = table[slot]
            if other < 0:
                other = found
                table[slot], keys[other], first[other], total[other] = other, key, sample, 0
                found += 1
                break
            equal = keys[other] == key
            if equal and not is_exact:
                twin = first[other]
                equal = x_in[twin] == x_in[sample] and x_out[twin] == x_out[sample]
                for word in range(width):
                    equal = equal and words[twin, word] == words[sample, word]
            if equal:
                break
            slot = (slot + np.uint64(1)) & last
        total[other] += weight[sample]
        row[sample] = other
    row_in, row_out = np.empty(found, np.uint32), np.empty(found, np.uint32)
    order = np.empty(found, np.uint32)
    for line in range(found):
        order[line], row_in[line], row_out[line] = line, x_in[first[line]], x_out[first[line]]
    order = sorted_by(row_in, ins, sorted_by(row_out, outs, order))
    label = words.shape[1]
    rows = np.empty((found, label + 2), np.uint64)
    place = np.empty(found, np.int32)
    for line in range(found):
        twin = first[order[line]]
        for word in range(label):
            rows[line, word] = words[twin, word]
        rows[line, label] = np.uint64(x_in[twin]) << np.uint64(32) | np.uint64(x_out[twin])
        rows[line, label + 1] = np.uint64(total[order[line]])
        place[order[line]] = line
    for sample in range(samples):
        if row[sample] >= 0:
            row[sample] = place[row[sample]]
    return rows, row


@compiled
def mixed(word: np.uint64) -> np.uint64:
    """Hash of a word."""
    product = word * np.uint64(0x9E3779B97F4A7C15)
    return product ^ (product >> np.uint64(32))


@compiled
def sorted_by(label: Numbers, labels: Integer, rows: Numbers) -> Numbers:
    """Rows in rising order of their labels, all below ``labels``; equal ones keep their order."""
    place = np.zeros(labels + 1, np.int64)
    for row in rows:
        place[label[row] + 1] += 1
    for number in range(labels):
        place[number + 1] += place[number]
    ordered = np.empty(len(rows), np.uint32)
    for row in rows:
        ordered[place[label[row]]] = row
        place[label[row]] += 1
    return ordered
