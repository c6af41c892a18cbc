"""Numbers kept by slot: one each, or rows of columns in blocks that never move; codes as bits."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from torch import Tensor

_BLOCK_BYTES = 2**26
"""Size of a block: large enough to be mapped by the operating system for itself.

Smaller ones would lie among short-lived tensors, and the gaps between them could not be given back.
"""


class Numbers:
    """One number for each slot; room is doubled when it runs out, so that growing is cheap.

    Args:
        dtype: What the numbers are kept as.
    """

    def __init__(self, dtype: torch.dtype) -> None:
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
    """Rows of numbers ``(column, width)`` by slot.

    Args:
        columns: Number of columns to begin with; more are added as they are written.
        width: Numbers in a column.
        dtype: What the numbers are kept as.
    """

    def __init__(self, columns: int, width: int, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.width = width
        self._columns = columns
        self._slots = max(1, _BLOCK_BYTES // (columns * width * dtype.itemsize))
        self._blocks: list[Tensor] = []
        self._written = 0

    def write(self, slots: Tensor, rows: Tensor, first_column: int = 0) -> None:
        """Write rows ``(row, column, width)`` to slots, from a column on."""
        columns = first_column + rows.shape[1]
        rows = rows.to("cpu", self.dtype)
        numbers = slots // self._slots
        for number in numbers.unique().tolist():
            self._make_room(number, columns)
            here = numbers == number
            at = slots[here] % self._slots
            self._blocks[number][at, first_column:columns] = rows[here]
        self._written = max(self._written, int(slots.max()) + 1)

    def _make_room(self, number: int, columns: int) -> None:
        columns = self._columns = max(columns, self._columns)
        while len(self._blocks) <= number:
            self._blocks.append(_zeros((self._slots, columns, self.width), self.dtype))
        block = self._blocks[number]
        if block.shape[1] < columns:
            used = min(self._slots, self._written - number * self._slots)
            self._blocks[number] = _zeros((self._slots, columns, self.width), self.dtype)
            self._blocks[number][:used, : block.shape[1]] = block[:used]

    def column(self, column: int, slots: Tensor) -> Tensor:
        """One column of some slots, ``(row, width)``; zeros where nothing was written."""
        found = torch.zeros(len(slots), self.width, dtype=self.dtype)
        for number, block in enumerate(self._blocks):
            here = (slots // self._slots == number).nonzero().squeeze(1)
            if column < block.shape[1]:
                found[here] = block[slots[here] % self._slots, column]
        return found


def _zeros(shape: tuple[int, int, int], dtype: torch.dtype) -> Tensor:
    """Zeros that take memory only where they are written to."""
    count = math.prod(shape) * dtype.itemsize
    return torch.from_numpy(np.zeros(count, dtype=np.uint8)).view(dtype).reshape(shape)


def code_dtype(levels: int) -> torch.dtype:
    """Smallest dtype for codes below ``levels``."""
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
