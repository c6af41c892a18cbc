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
        seen = [_seen(rows, *joint.first_differences(label)) for label in labels]
        alone, states = seen[0]
        alone_with = torch.stack([counts for counts, _ in seen[1:]]).amax(0)
        samples = rows.samples.unsqueeze(1).double()
        return cls(1 - alone_with / samples, alone / samples, states)


def _seen(rows: Rows, order: Tensor, differs: Tensor) -> tuple[Tensor, Tensor]:
    """Numbers of samples that are alone in their state, and of states.

    Args:
        rows: The counted samples.
        order: An order of the rows in which those alike in a condition are neighbours.
        differs: Condition from which on each row differs from the one before it in that order.

    Returns:
        For each condition of the chain, int64 ``(indices, units + 1)`` each.
    """
    index = rows.index.index_select(0, order)
    conditions = rows.units + 1

    def from_there_on(first: Tensor, counts: Tensor) -> Tensor:
        kept = (counts & (first < conditions)).nonzero().squeeze(1)
        place = index.index_select(0, kept) * conditions + first.index_select(0, kept)
        totals = torch.bincount(place, minlength=rows.indices * conditions)
        return totals.reshape(rows.indices, conditions).cumsum(1)

    follows = torch.cat([differs[1:], differs.new_zeros(1)])
    single = rows.weight.index_select(0, order) == 1
    alone = from_there_on(torch.maximum(differs, follows), single)
    return alone, from_there_on(differs, torch.ones_like(single))
