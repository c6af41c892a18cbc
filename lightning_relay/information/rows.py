"""Samples as weighted rows: equal ones are counted once, however many variables there are.

A joint state is never packed into one machine word: a chunk of units is, together with the number
of the state of the units before it, and the states are numbered anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch

from lightning_relay.information.arguments import (
    broadcast_leading,
    check_codes,
    check_labels,
    check_states,
    check_valid,
    check_weights,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

_SMALL_RANGE = 256
"""Codes within a range of this many integers are numbered by a table, others by sorting."""

KEY_BITS = 62
"""Numbers that are sorted have at most so many bits."""

_ELEMENTS_AT_ONCE = 2**17
"""So many codes are packed at a time, which stay in a processor's cache as float64."""

_CHUNK_BITS = 52
"""Units are packed by products of float64, which are exact up to this many bits."""


@dataclass(frozen=True)
class Samples:
    """Checked arguments, whose leading dimensions broadcast.

    Attributes:
        leading: Shape of the leading dimensions; flattened, it has ``indices`` entries.
        x_in: Labels of the input, broadcastable to ``(…, samples)``; likewise
        x_out: labels of the output,
        valid: a mask of the samples that count, or None,
        weights: how many times each counts, or None.
        hidden: Codes of the units, ``(…, samples, units)``.
    """

    leading: torch.Size
    x_in: Tensor
    x_out: Tensor
    hidden: Tensor
    valid: Tensor | None
    weights: Tensor | None

    @classmethod
    def of(
        cls,
        x_in: Tensor,
        x_out: Tensor,
        hidden: Tensor,
        valid: Tensor | None = None,
        weights: Tensor | None = None,
        *,
        real: bool = False,
    ) -> Samples:
        """Check the arguments.

        Args:
            x_in: Labels.
            x_out: Labels.
            hidden: Codes.
            valid: Mask, or None.
            weights: How many times each sample counts, or None.
            real: Whether ``hidden`` may be real states instead of codes.

        Raises:
            TypeError: If labels, codes or weights are not integers, or the mask is not one.
            ValueError: If a shape does not fit or a weight is negative.
        """
        if real:
            check_states(hidden)
        else:
            check_codes(hidden)
        check_labels("x_in", x_in, hidden)
        check_labels("x_out", x_out, hidden)
        check_valid(valid, hidden)
        check_weights(weights, hidden)
        leading = broadcast_leading(
            hidden=hidden[..., 0], x_in=x_in, x_out=x_out, valid=valid, weights=weights
        )
        return cls(leading, x_in, x_out, hidden, valid, weights)

    @property
    def indices(self) -> int:
        """Number of flattened leading indices."""
        return self.leading.numel()

    def at(self, index: int) -> Samples:
        """Those of one flattened leading index, without leading dimensions."""
        return Samples(
            torch.Size(()),
            self._block(self.x_in, 1, index, index + 1)[0],
            self._block(self.x_out, 1, index, index + 1)[0],
            self._block(self.hidden, 2, index, index + 1)[0],
            None if self.valid is None else self._block(self.valid, 1, index, index + 1)[0],
            None if self.weights is None else self._block(self.weights, 1, index, index + 1)[0],
        )

    def resampled(self, weights: Tensor, order: Tensor | None = None) -> Samples:
        """Resamples of a single leading index, as leading indices.

        Args:
            weights: How often each sample is in each resample, ``(resamples, samples)``.
            order: An order of the units for each resample, ``(resamples, units)``; default: as
                they are.
        """
        hidden = self.hidden.expand(len(weights), -1, -1)
        if order is not None:
            hidden = hidden.gather(2, order.unsqueeze(1).expand(hidden.shape))
        return Samples(weights.shape[:1], self.x_in, self.x_out, hidden, self.valid, weights)

    def rows(self) -> Rows:
        """The different rows of all leading indices."""
        return self._rows(0, self.indices)

    def blocks(self, elements: int) -> Iterator[Rows]:
        """The different rows of a few leading indices at a time.

        Args:
            elements: Samples times units that a block takes; one index takes more if it must.
        """
        each = max(1, self.hidden.shape[-2] * self.hidden.shape[-1])
        at_once = max(1, elements // each)
        for start in range(0, self.indices, at_once):
            yield self._rows(start, min(start + at_once, self.indices))

    def _rows(self, start: int, stop: int) -> Rows:
        return _count_rows(
            self._block(self.x_in, 1, start, stop),
            self._block(self.x_out, 1, start, stop),
            self._block(self.hidden, 2, start, stop),
            None if self.valid is None else self._block(self.valid, 1, start, stop),
            None if self.weights is None else self._block(self.weights, 1, start, stop),
            (self.leading, start),
        )

    def _block(self, part: Tensor, own: int, start: int, stop: int) -> Tensor:
        """A part of some leading indices; its last ``own`` dimensions are not leading ones."""
        flat = part.reshape(-1, *part.shape[part.dim() - own :])
        if flat.shape[0] == self.indices:
            return flat[start:stop]
        shape = part.shape[: part.dim() - own]
        place = torch.arange(flat.shape[0], device=part.device).reshape(shape)
        return flat[place.expand(self.leading).reshape(-1)[start:stop]]


@dataclass(frozen=True)
class Rows:
    """The different rows (X_in, X_out, Y) of some leading indices, and how often each is there.

    Attributes:
        codes: Codes of the units from 0, ``(rows, units)``, uint8 or int64.
        levels: A number that every code stays below, at least 2.
        x_in: Labels of the input from 0, int64 ``(rows,)``.
        x_out: Labels of the output from 0, int64 ``(rows,)``.
        index: Leading index of each row, int64 ``(rows,)``; rows are in rising order of index,
            X_in, X_out and codes.
        weight: Number of samples equal to each row, at least 1, int64 ``(rows,)``.
        samples: Number of samples of each index, int64 ``(indices,)``.
    """

    codes: Tensor
    levels: int
    x_in: Tensor
    x_out: Tensor
    index: Tensor
    weight: Tensor
    samples: Tensor

    @property
    def units(self) -> int:
        """Number of units."""
        return self.codes.shape[1]

    @property
    def indices(self) -> int:
        """Number of leading indices."""
        return self.samples.numel()

    @cached_property
    def largest(self) -> int:
        """Largest number of samples of an index."""
        return int(self.samples.max())

    @cached_property
    def bijective(self) -> bool:
        """Whether X_in and X_out determine each other."""
        outs = int(self.x_out.max()) + 1
        pairs = torch.unique(self.x_in * outs + self.x_out)
        ins = torch.unique(pairs.div(outs, rounding_mode="floor")).numel()
        return bool(ins == pairs.numel() == torch.unique(pairs % outs).numel())

    @cached_property
    def repeated(self) -> bool:
        """Whether a row stands for several samples."""
        return int(self.samples.sum()) > self.weight.numel()


def _count_rows(
    x_in: Tensor,
    x_out: Tensor,
    hidden: Tensor,
    valid: Tensor | None,
    weights: Tensor | None,
    place: tuple[torch.Size, int],
) -> Rows:
    indices, _, units = hidden.shape
    codes, levels = _codes_from_zero(hidden.reshape(-1, units))
    labels_in, count_in = _labels_from_zero(x_in)
    labels_out, count_out = _labels_from_zero(x_out)
    index = torch.arange(indices, device=hidden.device).unsqueeze(1)
    label = ((index * count_in + labels_in) * count_out + labels_out).reshape(-1)
    weight = None if weights is None else weights.reshape(-1).long()
    if valid is not None or weight is not None:
        counts = torch.ones_like(label, dtype=torch.bool) if valid is None else valid.reshape(-1)
        counted = (counts if weight is None else counts & (weight > 0)).nonzero().squeeze(1)
        codes, label = codes[counted], label[counted]
        weight = None if weight is None else weight[counted]
        if not label.numel():
            _raise_no_samples(*place, 0)

    order, starts = SortedRows(codes, levels, indices * count_in * count_out).order(label)
    ends = torch.cat([starts[1:], starts.new_tensor([order.numel()])])
    if weight is None:
        weight = ends - starts
    else:
        total = torch.cat([weight.new_zeros(1), weight[order].cumsum(0)])
        weight = total[ends] - total[starts]
    first = order if starts.numel() == order.numel() else order[starts]
    label = label.index_select(0, first)
    pair = label % (count_in * count_out)
    index = label.div(count_in * count_out, rounding_mode="floor")
    totals = torch.zeros(indices, dtype=torch.int64, device=index.device)
    totals.index_add_(0, index, weight)
    if not bool((totals > 0).all()):
        _raise_no_samples(*place, int((totals == 0).nonzero()[0]))
    return Rows(
        codes=codes.index_select(0, first),
        levels=levels,
        x_in=pair.div(count_out, rounding_mode="floor"),
        x_out=pair % count_out,
        index=index,
        weight=weight,
        samples=totals,
    )


def _codes_from_zero(codes: Tensor) -> tuple[Tensor, int]:
    if codes.dtype == torch.bool:
        return codes.view(torch.uint8), 2
    lowest, highest = (int(bound) for bound in torch.aminmax(codes))
    if highest - lowest < 2:
        return (codes - lowest if lowest else codes).to(torch.uint8), 2
    if highest - lowest < _SMALL_RANGE:
        shifted = codes.long() - lowest
        present = torch.bincount(shifted.flatten(), minlength=_SMALL_RANGE) > 0
        number = (present.cumsum(0) - 1).to(torch.uint8)
        return number[shifted], max(2, int(present.sum()))
    columns = [torch.unique(column, return_inverse=True) for column in codes.unbind(-1)]
    levels = max(values.numel() for values, _ in columns)
    return torch.stack([numbers for _, numbers in columns], dim=-1), max(2, levels)


def _labels_from_zero(labels: Tensor) -> tuple[Tensor, int]:
    labels = labels.long()
    lowest, highest = (int(bound) for bound in torch.aminmax(labels))
    if highest - lowest < _SMALL_RANGE:
        return (labels - lowest if lowest else labels), highest - lowest + 1
    values, codes = torch.unique(labels, return_inverse=True)
    return codes, values.numel()


def check_fits(bits: int) -> None:
    """Raise unless numbers of so many bits can be sorted."""
    if bits > KEY_BITS:
        raise ValueError(
            f"x_in, x_out, hidden: got so many different labels and codes among so many samples "
            f"that their numbers take {bits} bits together; it takes {KEY_BITS}: merge labels, "
            "or give fewer samples or leading indices at a time"
        )


def packed(codes: Tensor, levels: int, bits: int) -> Iterator[tuple[Tensor, int, int]]:
    """Codes packed a few units at a time, the first unit in the highest bits.

    Args:
        codes: Codes below ``levels``, ``(rows, units)``.
        levels: A number that every code stays below.
        bits: No chunk takes more bits, unless a single unit does.

    Yields:
        The values of each chunk, int64 ``(rows,)``, its units, and the bits that each takes.
    """
    each = (levels - 1).bit_length()
    for block in codes.split(max(1, bits // each), dim=1):
        units = block.shape[1]
        powers = 2.0 ** (each * torch.arange(units - 1, -1, -1, device=codes.device)).double()
        at_once = max(1, _ELEMENTS_AT_ONCE // units)
        values = [part.double() @ powers for part in block.split(at_once)]
        yield torch.cat(values).long(), units, each


class SortedRows:
    """Rows of codes, to be sorted under one or several labels; what is packed is packed once.

    Args:
        codes: Codes below ``levels``, ``(rows, units)``.
        levels: A number that every code stays below.
        labels: A number that every label stays below.
    """

    def __init__(self, codes: Tensor, levels: int, labels: int) -> None:
        highest = max(labels, codes.shape[0]).bit_length()
        check_fits((levels - 1).bit_length() + highest)
        self._units = codes.shape[1]
        self._packed: list[tuple[Tensor, int, int]] = []
        self._source = packed(codes, levels, min(_CHUNK_BITS, KEY_BITS - highest))

    def order(self, label: Tensor) -> tuple[Tensor, Tensor]:
        """Rows in rising order of label and codes, and where in it the different ones start.

        Args:
            label: Label of each row, int64 ``(rows,)``.
        """
        for order, key, _, _ in self._passes(label):  # noqa: B007
            pass
        return order, _begins(key).nonzero().squeeze(1)

    def first_differences(self, label: Tensor) -> tuple[Tensor, Tensor]:
        """Rows in rising order of label and codes, and where each differs from the one before.

        Args:
            label: Label of each row, int64 ``(rows,)``.

        Returns:
            The order, int64 ``(rows,)``; and for each place of it 0 if the label differs from that
            at the place before (or there is none), j + 1 if unit j is the first to differ, units +
            1 if nothing does, int64 ``(rows,)``.
        """
        never = self._units + 1
        differs = torch.full_like(label, never)
        differs[:1] = 0
        before = 0
        for order, key, units, each in self._passes(label):  # noqa: B007
            width = units * each
            difference = (key[1:] ^ key[:-1]).clamp_(max=1 << width)
            highest = torch.frexp(difference.double()).exponent - 1
            at = (before + units) - highest.div(each, rounding_mode="floor")
            at.masked_fill_(highest == width, 0).masked_fill_(difference == 0, never)
            differs[1:] = torch.where(differs[1:] < never, differs[1:], at)
            before += units
        return order, differs

    def _passes(self, label: Tensor) -> Iterator[tuple[Tensor, Tensor, int, int]]:
        """Order and sorted keys by label and the codes so far, until all rows are apart.

        Yields:
            Order, keys, and the number of units and bits of each in the lowest bits of the keys.
        """
        number = label
        for values, units, each in self._chunks():
            key, order = ((number << (units * each)) | values).sort()
            yield order, key, units, each
            begins = _begins(key)
            if bool(begins.all()):
                return
            number = torch.empty_like(number).index_copy_(0, order, begins.cumsum(0) - 1)

    def _chunks(self) -> Iterator[tuple[Tensor, int, int]]:
        yield from self._packed
        for chunk in self._source:
            self._packed.append(chunk)
            yield chunk


def _begins(key: Tensor) -> Tensor:
    """Whether each key differs from the one before it, bool; True for the first."""
    begins = torch.ones_like(key, dtype=torch.bool)
    torch.ne(key[1:], key[:-1], out=begins[1:])
    return begins


def _raise_no_samples(leading: torch.Size, start: int, index: int) -> None:
    where = ""
    if leading:
        place = torch.unravel_index(torch.tensor(start + index), leading)
        where = f" at leading index {tuple(int(part) for part in place)}"
    raise ValueError(f"valid, weights: no sample is counted{where}; leave that index out")
