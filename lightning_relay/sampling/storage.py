"""Memory for numbers that are written and read by slot, and codes packed to bits."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn.functional import pad

from lightning_relay.information.options import IGNORED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

_BLOCK_BYTES = 2**28
"""Maximum size of a block with the expected columns."""


class Numbers:
    """One number for each slot; the room doubles when it is full."""

    def __init__(self, dtype: torch.dtype) -> None:
        with torch.inference_mode(False):  # an inference tensor could not be written to later
            self._room = torch.zeros(256, dtype=dtype)

    def write(self, slots: Tensor, values: Tensor) -> None:
        """Write values ``(slot,)``."""
        while len(slots) and int(slots.max()) >= len(self._room):
            self._room = torch.cat([self._room, torch.zeros_like(self._room)])
        self._room[slots] = values.to("cpu", self._room.dtype)

    def read(self, slots: Tensor) -> Tensor:
        """Values ``(slot,)``."""
        return self._room[slots]


class LabelRows:
    """Labels for each slot: one, or one for each of its steps; int64, or float64 if real."""

    def __init__(self) -> None:
        self._rows: Blocks | None = None
        self._written = Numbers(torch.int64)
        self._steps: int | None = None

    def write(self, slots: Tensor, labels: Tensor, expected: int) -> None:
        """Write labels ``(slot,)``, or ``(slot, step)`` with any number of steps.

        ``expected`` is the number of slots to come.
        """
        rows = labels.unsqueeze(1) if labels.dim() == 1 else labels
        if self._rows is None:
            dtype = torch.float64 if labels.is_floating_point() else torch.int64
            self._rows = Blocks(expected, rows.shape[1], 1, dtype)
        if labels.dim() == 2:
            self._steps = max(self._steps or 0, rows.shape[1])
        self._written.write(slots, torch.full_like(slots, rows.shape[1]))
        self._rows.write(slots, rows.unsqueeze(2))

    def read(self, slots: Tensor) -> Tensor:
        """Labels ``(slot,)`` or ``(slot, step)``.

        Steps that a slot does not have are ``IGNORED``, or NaN if labels are real.
        """
        if self._rows is None:
            return torch.zeros(len(slots), dtype=torch.int64)
        columns = range(1 if self._steps is None else self._steps)
        rows = torch.cat([self._rows.column(column, slots) for column in columns], 1)
        if self._steps is None:
            return rows.squeeze(1)
        beyond = torch.arange(self._steps) >= self._written.read(slots).unsqueeze(1)
        return rows.masked_fill(beyond, torch.nan if rows.is_floating_point() else IGNORED)


def together(labels: Sequence[Tensor]) -> Tensor:
    """Labels ``(slot,)`` or ``(slot, step)`` of several parts, with as many steps as the longest.

    Steps that a part lacks are ``IGNORED``, or NaN if labels are real.
    """
    if labels[0].dim() == 2:
        steps = max(part.shape[1] for part in labels)
        missing = torch.nan if labels[0].is_floating_point() else IGNORED
        labels = [pad(part, (0, steps - part.shape[1]), value=missing) for part in labels]
    return torch.cat(list(labels))


class Blocks:
    """A row of numbers ``(column, width)`` for each slot, in blocks that never move.

    A block has room for the expected slots and columns, up to ``_BLOCK_BYTES``, but takes memory
    only where it is written to. Small blocks would lie among short-lived tensors, and the memory
    between them could not be freed. Unexpected slots and columns get new blocks.
    """

    def __init__(self, slots: int, columns: int, width: int, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.width = width
        self._slots = max(1, min(slots, _BLOCK_BYTES // (columns * width * dtype.itemsize)))
        self._columns = columns
        self._groups: list[_ColumnGroup] = []

    def write(self, slots: Tensor, rows: Tensor, first_column: int = 0) -> None:
        """Write rows ``(slot, column, width)``, beginning at ``first_column``."""
        rows = rows.to("cpu", self.dtype)
        last_column = first_column + rows.shape[1]
        end = self._groups[-1].columns.stop if self._groups else 0
        if end < last_column:
            self._groups.append(_ColumnGroup(range(end, max(last_column, self._columns)), []))
        for group in self._groups:
            start = max(first_column, group.columns.start)
            stop = min(last_column, group.columns.stop)
            if start < stop:
                self._write(
                    group, slots, rows[:, start - first_column : stop - first_column], start
                )

    def _write(self, group: _ColumnGroup, slots: Tensor, rows: Tensor, start: int) -> None:
        inside = slice(start - group.columns.start, start - group.columns.start + rows.shape[1])
        numbers = slots // self._slots
        for number in numbers.unique().tolist():
            while len(group.blocks) <= number:
                shape = (self._slots, len(group.columns), self.width)
                # numpy's zeros take memory only where they are written to; bytes hold any dtype.
                zeros = np.zeros(math.prod(shape) * self.dtype.itemsize, dtype=np.uint8)
                group.blocks.append(torch.from_numpy(zeros).view(self.dtype).reshape(shape))
            here = numbers == number
            some, given = slots[here] % self._slots, rows[here]
            first, last = int(some[0]), int(some[-1]) + 1
            if torch.equal(some, torch.arange(first, last)):
                group.blocks[number][first:last, inside] = given
            else:
                group.blocks[number][some, inside] = given

    def column(self, column: int, slots: Tensor) -> Tensor:
        """One column of some slots, ``(slot, width)``; zeros where nothing was written."""
        found = torch.zeros(len(slots), self.width, dtype=self.dtype)
        for group in self._groups:
            if column in group.columns:
                if len(slots) and int(slots.max()) < self._slots and group.blocks:
                    return group.blocks[0][slots, column - group.columns.start]
                for number, block in enumerate(group.blocks):
                    here = slots // self._slots == number
                    found[here] = block[slots[here] % self._slots, column - group.columns.start]
        return found

    @property
    def columns(self) -> int:
        """Number of columns so far."""
        return self._groups[-1].columns.stop if self._groups else 0

    @property
    def nbytes(self) -> int:
        """Number of bytes that the blocks take when all their slots are written to."""
        return sum(block.nbytes for group in self._groups for block in group.blocks)


@dataclass(frozen=True)
class _ColumnGroup:
    """Some columns of all slots, in blocks ``(slot, column, width)``."""

    columns: range
    blocks: list[Tensor]


def code_dtype(levels: int) -> torch.dtype:
    """Dtype that holds codes below ``levels``."""
    return torch.uint8 if levels <= 2**8 else torch.int32


def packed_width(units: int, levels: int) -> int:
    """Number of elements that the packed codes of ``units`` units take."""
    return -(-units // 8) if levels == 2 else units


def pack_codes(codes: Tensor, levels: int) -> Tensor:
    """Codes ``(…, units)``; with two levels, those of 8 units are packed to a byte."""
    if levels > 2:
        return codes
    return torch.from_numpy(np.packbits(codes.numpy(), axis=-1, bitorder="little"))


def unpack_codes(packed: Tensor, units: int, levels: int) -> Tensor:
    """Codes ``(…, units)`` that ``pack_codes`` packed."""
    if levels > 2:
        return packed
    bits = np.unpackbits(packed.numpy(), axis=-1, count=units, bitorder="little")
    return torch.from_numpy(bits)
