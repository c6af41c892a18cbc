"""Joint counts of integer codes: samples grouped by equal states, however many variables there are.

A joint state is never packed into one machine word. Samples carry the number of the group they are
in; a further variable splits the groups, and the groups are numbered anew without gaps. All leading
indices (time steps, say) are counted in one pass: the leading index is the first variable.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

_SMALL_RANGE = 256
"""Codes within a range of this many integers are shifted to 0, others are numbered by sorting."""

_TABLE_FACTOR = 4
"""A table of states may have this many cells for each row before sorting the rows is cheaper."""


@dataclass(frozen=True)
class Groups:
    """Rows grouped by equal states; no group spans two leading indices.

    Attributes:
        of_row: Group of each row, int64 ``(rows,)``, every number below ``groups`` occurs.
        index: Leading index of each group, int64 ``(groups,)``.
    """

    of_row: Tensor
    index: Tensor

    def split(self, codes: Tensor, levels: int) -> Groups:
        """Groups within which ``codes`` (int64 ``(rows,)``, below ``levels``) is constant."""
        key = self.of_row * levels + codes
        cells = self.index.numel() * levels
        if cells > _TABLE_FACTOR * key.numel() + 65536:
            occupied, of_row = torch.unique(key, return_inverse=True)
        else:
            present = torch.zeros(cells, dtype=torch.bool, device=key.device)
            present[key] = True
            occupied = present.nonzero().squeeze(1)
            of_row = (present.cumsum(0) - 1)[key]
        return Groups(of_row, self.index[occupied // levels])

    def select(self, rows: Tensor) -> Groups:
        """The groups of some of the rows, bool ``(rows,)``."""
        present = torch.zeros_like(self.index, dtype=torch.bool)
        present[self.of_row[rows]] = True
        return Groups((present.cumsum(0) - 1)[self.of_row[rows]], self.index[present])

    def sums(self, multiplicity: Tensor) -> Tensor:
        """Number of samples in each group, float64 ``(groups,)``."""
        return multiplicity.new_zeros(self.index.numel()).index_add_(0, self.of_row, multiplicity)

    def repeat(self, times: int, indices: int) -> Groups:
        """The same groups ``times`` over, each copy with leading indices of its own."""
        copy = torch.arange(times, device=self.of_row.device).unsqueeze(1)
        return Groups(
            (copy * self.index.numel() + self.of_row).flatten(),
            (copy * indices + self.index).flatten(),
        )


@dataclass(frozen=True)
class Rows:
    """The different rows of codes among the samples of every leading index, and how often each is.

    Attributes:
        leading: Shape of the leading dimensions.
        index: Flattened leading index of each row, int64 ``(rows,)``.
        codes: Codes from 0 without regard to order, int64 ``(rows, columns)``.
        levels: For each column a number that its codes stay below.
        multiplicity: Number of samples equal to each row, float64 ``(rows,)``.
        samples: Number of samples of each flattened leading index, float64 ``(indices,)``.
    """

    leading: torch.Size
    index: Tensor
    codes: Tensor
    levels: tuple[int, ...]
    multiplicity: Tensor
    samples: Tensor

    def select(self, rows: Tensor) -> Rows:
        """Some of the rows, bool ``(rows,)``; ``samples`` stays the number of all."""
        return replace(
            self,
            index=self.index[rows],
            codes=self.codes[rows],
            multiplicity=self.multiplicity[rows],
        )

    def ungrouped(self) -> Groups:
        """One group for each leading index."""
        return Groups(self.index, torch.arange(self.samples.numel(), device=self.index.device))


def count_rows(columns: Sequence[Tensor], valid: Tensor | None = None) -> Rows:
    """Count the different rows that ``columns`` form, for each leading index apart.

    Args:
        columns: Integer tensors broadcastable to ``(…, samples)``.
        valid: Boolean mask broadcastable to ``(…, samples)``; a sample with False is not counted.

    Returns:
        The rows and their multiplicities.

    Raises:
        ValueError: If a leading index has no sample to count.
    """
    masks = [] if valid is None else [valid]
    shape = torch.broadcast_shapes(*(tensor.shape for tensor in (*columns, *masks)))
    leading, samples = shape[:-1], shape[-1]
    device = columns[0].device
    index = torch.arange(leading.numel(), device=device).repeat_interleave(samples)
    counted = None
    if valid is not None:
        counted = valid.expand(shape).flatten().nonzero().squeeze(1)
        index = index[counted]

    def flat(column: Tensor) -> Tensor:
        everything = column.expand(shape).flatten()
        return everything if counted is None else everything[counted]

    totals = torch.bincount(index, minlength=leading.numel())
    if not bool((totals > 0).all()):
        _raise_no_samples(totals.reshape(leading))

    groups = Groups(index, torch.arange(leading.numel(), device=device))
    for column in columns:
        groups = groups.split(*_codes_from_zero(flat(column)))
    first = torch.empty_like(groups.index)
    first[groups.of_row] = torch.arange(index.numel(), device=device)
    coded = [_codes_from_zero(flat(column)[first]) for column in columns]
    return Rows(
        leading=leading,
        index=groups.index,
        codes=torch.stack([codes for codes, _ in coded], dim=-1),
        levels=tuple(levels for _, levels in coded),
        multiplicity=torch.bincount(groups.of_row).double(),
        samples=totals.double(),
    )


def _codes_from_zero(column: Tensor) -> tuple[Tensor, int]:
    lowest, highest = int(column.min()), int(column.max())
    if highest - lowest < _SMALL_RANGE:
        return column.long() - lowest, highest - lowest + 1
    values, codes = torch.unique(column, return_inverse=True)
    return codes, values.numel()


def _raise_no_samples(totals: Tensor) -> None:
    if totals.dim() == 0:
        where = ""
    else:
        where = f" at leading index {tuple((totals == 0).nonzero()[0].tolist())}"
    raise ValueError(f"valid: no sample is valid{where}; leave that index out")
