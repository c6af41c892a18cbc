"""How far the samples bear out a chain of conditions, each with one unit more than the one before.

If rows are sorted by the units in the order in which they join, the states of every condition of
the chain are runs of neighbours: a run of one condition is cut into the runs of the next. So one
sort, and the place at which each row first differs from the one before, say how often each state of
each condition was seen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from lightning_relay.information.rows import SortedRows

if TYPE_CHECKING:
    from torch import Tensor

    from lightning_relay.information.rows import Rows


@dataclass(frozen=True)
class ChainEvidence:
    """Evidence for each condition of a chain, from none of the units to all of them.

    Attributes:
        coverage: Good–Turing coverage of the joint states, the lower one of (X_in, S) and
            (X_out, S), float64 ``(indices, units + 1)``.
        alone: Fraction of the samples that are alone in their state of S, likewise.
        distinct_states: Number of different states of S, int64, likewise.
    """

    coverage: Tensor
    alone: Tensor
    distinct_states: Tensor

    @classmethod
    def of(cls, rows: Rows, units: Tensor) -> ChainEvidence:
        """Evidence for a chain.

        Args:
            rows: The counted samples.
            units: The units in the order in which they join, int64 ``(indices, units)``.
        """
        if rows.indices == 1:
            codes = rows.codes.index_select(1, units[0])
        else:
            codes = rows.codes.gather(1, units.index_select(0, rows.index))
        labels = [rows.index]
        for part in (rows.x_in, rows.x_out)[: 1 if rows.bijective else 2]:
            labels.append(rows.index * (int(part.max()) + 1) + part)
        joint = SortedRows(codes, rows.levels, max(int(label.max()) for label in labels) + 1)
        alone: list[Tensor] = []
        for label in labels:
            order, differs = joint.first_differences(label)
            index = rows.index.index_select(0, order)
            if not alone:
                everything = torch.ones_like(index, dtype=torch.bool)
                states = _from_there_on(rows, index, differs, everything)
            follows = torch.cat([differs[1:], differs.new_zeros(1)])
            single = rows.weight.index_select(0, order) == 1
            alone.append(_from_there_on(rows, index, torch.maximum(differs, follows), single))
        samples = rows.samples.unsqueeze(1).double()
        missed = torch.stack(alone[1:]).amax(0)
        return cls(1 - missed / samples, alone[0] / samples, states)


def _from_there_on(rows: Rows, index: Tensor, first: Tensor, counted: Tensor) -> Tensor:
    """Number of rows that are counted at each condition of a chain, int64 ``(indices, units + 1)``.

    Args:
        rows: All rows.
        index: Leading index of each.
        first: Condition from which on each is counted.
        counted: Whether it is counted at all, bool.
    """
    conditions = rows.units + 1
    kept = (counted & (first < conditions)).nonzero().squeeze(1)
    place = index.index_select(0, kept) * conditions + first.index_select(0, kept)
    totals = torch.bincount(place, minlength=rows.indices * conditions)
    return totals.reshape(rows.indices, conditions).cumsum(1)
