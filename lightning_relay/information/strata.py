"""Samples grouped by the state of a condition S that grows, and within it by input and output.

Four kinds of bags of samples make up I(X_in; X_out | S): alike in S, X_in and X_out (*cells*), in S
and X_in, in S and X_out, and in S alone (*strata*). Samples stand in the order of one number that
holds, from its highest bits to its lowest, the state of S, the leading index, X_in and X_out: so
cells, bags alike in X_in, and strata are runs of equal neighbours once the lower bits are left out.
For the bags alike in X_out the cells are ordered once more.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import torch

from lightning_relay.information.rows import KEY_BITS, check_fits

if TYPE_CHECKING:
    from torch import Tensor

    from lightning_relay.information.rows import Rows

_LARGE = 2**14
"""From so many members on, parting them by a bit is faster than sorting them; from so many cells
on, looking for those that cancel is faster than counting them."""


@dataclass(frozen=True)
class Layout:
    """Number of bits of each part of a key, from the lowest."""

    x_out: int
    x_in: int
    index: int
    state: int = 0

    @property
    def labels(self) -> int:
        """Number of bits below those of the stratum."""
        return self.x_out + self.x_in

    @property
    def total(self) -> int:
        """Number of all bits."""
        return self.labels + self.index + self.state

    def index_of(self, key: Tensor) -> Tensor:
        """Leading index of each key."""
        return (key >> self.labels) & ((1 << self.index) - 1)


@dataclass(frozen=True)
class Strata:
    """Rows in the order of state, leading index, X_in and X_out.

    Attributes:
        row: Row of each member, int64 ``(members,)``.
        key: State, leading index, X_in and X_out of each, rising, int64 ``(members,)``.
        layout: Which bits of the key say what.
        additive: Whether bags that cancel may be left out.
        bijective: Whether X_in and X_out determine each other in all samples.
    """

    row: Tensor
    key: Tensor
    layout: Layout
    additive: bool
    bijective: bool

    @classmethod
    def of(cls, rows: Rows, *, additive: bool) -> Strata:
        """One stratum for each leading index."""
        layout = Layout(*(_bits(part) for part in (rows.x_out, rows.x_in, rows.index)))
        row = torch.arange(rows.index.numel(), device=rows.index.device)
        label = (rows.x_in << layout.x_out) | rows.x_out
        return cls(row, (rows.index << layout.labels) | label, layout, additive, rows.bijective)

    @property
    def index(self) -> Tensor:
        """Leading index of each member, int64 ``(members,)``."""
        return self.layout.index_of(self.key)

    def split(self, code: Tensor, levels: int) -> Strata:
        """Strata within which a further variable is constant too.

        Args:
            code: Its code for each member, below ``levels``, ``(members,)``.
            levels: A number that the codes stay below.
        """
        bits = (levels - 1).bit_length()
        room = self if self.layout.total + bits <= KEY_BITS else self._renumbered()
        check_fits(room.layout.total + bits)
        layout = replace(room.layout, state=room.layout.state + bits)
        if levels == 2 and code.numel() >= _LARGE:
            # The code takes the highest bit: all zeros come first, then all ones, as they were.
            zeros, ones = (code == 0).nonzero().squeeze(1), code.nonzero().squeeze(1)
            order = torch.cat([zeros, ones])
            key = room.key.index_select(0, order)
            key[zeros.numel() :] += 1 << room.layout.total
        else:
            key, order = torch.add(room.key, code, alpha=1 << room.layout.total).sort()
        return replace(room, row=room.row.index_select(0, order), key=key, layout=layout)

    def branched(self, code: Tensor, levels: int, bit: int) -> tuple[Strata, Strata]:
        """The same strata, and finer ones with another leading index.

        Args:
            code: Code of the further variable for each member, below ``levels``, ``(members,)``.
            levels: A number that the codes stay below.
            bit: Bit of the leading index that says which of the two a stratum belongs to.

        Returns:
            Strata that leave the variable out, whose bit is not set, and strata within which it is
            constant, whose bit is.
        """
        marked = replace(self, key=self.key | (1 << (self.layout.labels + bit)))
        finer = marked.split(code, levels)
        if finer.layout.state < self.layout.state:
            coarser = self._renumbered()
            return replace(coarser, layout=finer.layout), finer
        return replace(self, layout=finer.layout), finer

    def joined(self, other: Strata) -> Strata:
        """These and others of the same layout, with other leading indices."""
        key, order = torch.cat([self.key, other.key]).sort()
        return replace(self, row=torch.cat([self.row, other.row])[order], key=key)

    def select(self, members: Tensor) -> Strata:
        """Some of the members, bool ``(members,)``."""
        places = members.nonzero().squeeze(1)
        return replace(
            self, row=self.row.index_select(0, places), key=self.key.index_select(0, places)
        )

    def _renumbered(self) -> Strata:
        """The same, with states numbered without gaps."""
        layout = self.layout
        below = layout.labels + layout.index
        state = torch.unique_consecutive(self.key >> below, return_inverse=True)[1]
        key = (state << below) | (self.key & ((1 << below) - 1))
        return replace(self, key=key, layout=replace(layout, state=_bits(state)))


@dataclass(frozen=True)
class Bags:
    """The bags of some strata: first the cells, then larger ones that consist of cells.

    Attributes:
        keys: Keys whose leading indices are those of the bags, in several parts.
        layout: Layout of the keys.
        members: Number of members of each cell, int64 ``(cells,)``.
        larger: Number of cells of each larger bag, int64 ``(larger bags,)``.
        cells: The cells of the larger bags, one after the other.
        signs: With what sign each bag enters the information, float64 ``(all bags,)``.
        stratum: Stratum of each cell, int64 ``(cells,)``.
        varying: Whether X_in and X_out both vary in a stratum, bool ``(strata,)``.
        alike_in: Number of the bags alike in X_in.
    """

    keys: tuple[Tensor, ...]
    layout: Layout
    members: Tensor
    larger: Tensor
    cells: Tensor
    signs: Tensor
    stratum: Tensor
    varying: Tensor
    alike_in: int

    @classmethod
    def of(cls, strata: Strata) -> Bags:
        """All bags of the strata.

        Where X_in and X_out determine each other, cells and the bags alike in one of them are the
        same, and the first cancel with one of the second.
        """
        layout = strata.layout
        key, members = torch.unique_consecutive(strata.key, return_counts=True)
        state, stratum, cells = torch.unique_consecutive(
            key >> layout.labels, return_inverse=True, return_counts=True
        )
        order = torch.arange(key.numel(), device=key.device)
        signs = torch.ones(key.numel() + cells.numel(), dtype=torch.float64, device=key.device)
        if strata.additive and strata.bijective:
            signs[: key.numel()] = -1.0
            keys: tuple[Tensor, ...] = (key, state << layout.labels)
            return cls(keys, layout, members, cells, order, signs, stratum, cells > 1, 0)
        in_key, in_of, alike_in = torch.unique_consecutive(
            key >> layout.x_out, return_inverse=True, return_counts=True
        )
        no_x_in = ~(((1 << layout.x_in) - 1) << layout.x_out)
        out_key, by_out = (key & no_x_in).sort()
        out_key, out_of, alike_out = torch.unique_consecutive(
            out_key, return_inverse=True, return_counts=True
        )
        _, ins = torch.unique_consecutive(in_key >> layout.x_in, return_counts=True)
        _, outs = torch.unique_consecutive(out_key >> layout.labels, return_counts=True)
        varying = torch.minimum(ins, outs) > 1
        in_order = order
        if strata.additive and key.numel() >= _LARGE:
            # A bag of a single cell cancels with it.
            several_in, several_out = alike_in > 1, alike_out > 1
            with_in, with_out = (
                several_in.index_select(0, in_of),
                several_out.index_select(0, out_of),
            )
            signs[: key.numel()] -= (~with_in).double()
            signs[by_out] -= (~with_out).double()
            in_order = with_in.nonzero().squeeze(1)
            by_out = by_out.index_select(0, with_out.nonzero().squeeze(1))
            kept_in, kept_out = several_in.nonzero().squeeze(1), several_out.nonzero().squeeze(1)
            in_key, alike_in = in_key.index_select(0, kept_in), alike_in.index_select(0, kept_in)
            out_key, alike_out = (
                out_key.index_select(0, kept_out),
                alike_out.index_select(0, kept_out),
            )
        larger = torch.cat([cells, alike_in, alike_out])
        signs = torch.cat([signs, signs.new_full((larger.numel() - cells.numel(),), -1.0)])
        order = torch.cat([order, in_order, by_out])
        keys = (key, state << layout.labels, in_key << layout.x_out, out_key)
        return cls(keys, layout, members, larger, order, signs, stratum, varying, in_key.numel())

    @cached_property
    def index(self) -> Tensor:
        """Leading index of each bag, int64 ``(all bags,)``."""
        return self.layout.index_of(torch.cat(self.keys))

    def sums(self, table: Tensor, row: Tensor) -> Tensor:
        """Sum of the table's rows over each bag, ``(all bags, columns)``.

        Args:
            table: Numbers whose sums floating point holds exactly, ``(rows, columns)``.
            row: Row of each member, int64 ``(members,)``.
        """
        cells = _sums_of_runs(table, row, self.members)
        return torch.cat([cells, _sums_of_runs(cells, self.cells, self.larger)])

    def members_that_vary(self) -> Tensor:
        """Whether a member is in a stratum in which X_in and X_out vary, bool ``(members,)``."""
        kept = self.varying.index_select(0, self.stratum)
        return kept.repeat_interleave(self.members)

    def kinds(self) -> tuple[slice, slice, slice, slice]:
        """Where the cells, the strata, and the bags alike in X_in and in X_out are.

        Of strata that are not additive, so that all of them are there.
        """
        ends = self.members.numel(), self.varying.numel(), self.alike_in
        cells, strata, alike_in = (sum(ends[: end + 1]) for end in range(3))
        return slice(cells), slice(cells, strata), slice(strata, alike_in), slice(alike_in, None)


def _sums_of_runs(table: Tensor, places: Tensor, lengths: Tensor) -> Tensor:
    """Sums of as many rows of the table, one after the other, as ``lengths`` says."""
    offsets = lengths.cumsum(0) - lengths
    return torch.embedding_bag(table, places, offsets, mode=0)[0]


def _bits(codes: Tensor) -> int:
    return max(1, int(codes.max()).bit_length())
