"""Numbers kept by slot: one each, or rows of columns in blocks that never move; codes as bits."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from torch import Tensor


_BLOCK_BYTES = 2**28
"""A block has no more slots than this many bytes hold of the expected columns."""


class Numbers:
    """One number for each slot; room is doubled when it runs out, so that growing is cheap.

    Args:
        dtype: What the numbers are kept as.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        with torch.inference_mode(False):  # or else it could only be written to in inference mode
            self._room = torch.zeros(256, dtype=dtype)

    def write(self, slots: Tensor, values: Tensor) -> None:
        """Write values ``(slot,)`` to slots."""
        while len(slots) and int(slots.max()) >= len(self._room):
            self._room = torch.cat([self._room, torch.zeros_like(self._room)])
        self._room[slots] = values.to("cpu", self._room.dtype)

    def read(self, slots: Tensor) -> Tensor:
        """The values of some slots, ``(slot,)``."""
        return self._room[slots]


class Blocks:
    """Rows of numbers ``(column, width)`` by slot, in blocks that never move.

    Columns and slots beyond those there are get blocks of their own. A block is as large as what
    is expected, up to a bound, and takes memory only where it is written to: small ones would lie
    among short-lived tensors, and the gaps between them could not be given back.

    Args:
        slots: Number of slots expected.
        columns: Number of columns expected.
        width: Numbers in a column.
        dtype: What the numbers are kept as.
    """

    def __init__(self, slots: int, columns: int, width: int, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.width = width
        self._slots = max(1, min(slots, _BLOCK_BYTES // (columns * width * dtype.itemsize)))
        self._columns = columns
        self._groups: list[_ColumnGroup] = []

    def write(self, slots: Tensor, rows: Tensor, first_column: int = 0) -> None:
        """Write rows ``(row, column, width)`` to slots, from a column on."""
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
                group.blocks.append(_zeros(shape, self.dtype))
            here = numbers == number
            some, given = slots[here] % self._slots, rows[here]
            first, last = int(some[0]), int(some[-1]) + 1
            if torch.equal(some, torch.arange(first, last)):
                group.blocks[number][first:last, inside] = given
            else:
                group.blocks[number][some, inside] = given

    def column(self, column: int, slots: Tensor) -> Tensor:
        """One column of some slots, ``(row, width)``; zeros where nothing was written."""
        found = torch.zeros(len(slots), self.width, dtype=self.dtype)
        for group in self._groups:
            if column in group.columns:
                if len(group.blocks) == 1:
                    return group.blocks[0][slots, column - group.columns.start]
                for number, block in enumerate(group.blocks):
                    here = slots // self._slots == number
                    found[here] = block[slots[here] % self._slots, column - group.columns.start]
        return found

    @property
    def nbytes(self) -> int:
        """Memory that the blocks take when all their slots are written to."""
        return sum(block.nbytes for group in self._groups for block in group.blocks)


@dataclass(frozen=True)
class _ColumnGroup:
    """Some columns of all slots.

    Attributes:
        columns: Which.
        blocks: Blocks ``(slot, column, width)``, one for every so many slots.
    """

    columns: range
    blocks: list[Tensor]


def _zeros(shape: tuple[int, int, int], dtype: torch.dtype) -> Tensor:
    """Zeros; many of them take memory only where they are written to."""
    count = math.prod(shape) * dtype.itemsize
    return torch.from_numpy(np.zeros(count, dtype=np.uint8)).view(dtype).reshape(shape)


def code_dtype(levels: int) -> torch.dtype:
    """Dtype that holds codes below ``levels``."""
    return torch.uint8 if levels <= 2**8 else torch.int32


def packed_width(units: int, levels: int) -> int:
    """Number of elements that the codes of ``units`` units take when packed."""
    return -(-units // 8) if levels == 2 else units


def pack_codes(codes: Tensor, levels: int) -> Tensor:
    """Codes ``(…, units)``, of two levels packed to bits, 8 units to a byte."""
    if levels > 2:
        return codes
    return torch.from_numpy(np.packbits(codes.numpy(), axis=-1, bitorder="little"))


def unpack_codes(packed: Tensor, units: int, levels: int) -> Tensor:
    """What ``pack_codes`` packed."""
    if levels > 2:
        return packed
    bits = np.unpackbits(packed.numpy(), axis=-1, count=units, bitorder="little")
    return torch.from_numpy(bits)
