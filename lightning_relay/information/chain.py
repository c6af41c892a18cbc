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

from lightning_relay.information.estimators import psi_table
from lightning_relay.information.rows import first_differences

if TYPE_CHECKING:
    from torch import Tensor

    from lightning_relay.information.estimators import Estimator
    from lightning_relay.information.rows import Rows

CORRECTED: Estimator = "grassberger"
"""The estimator that the plug-in is compared with."""


@dataclass(frozen=True)
class ChainEvidence:
    """Evidence for each condition of a chain, from none of the units to all of them.

    Attributes:
        coverage: Good–Turing coverage of the joint states, the lower one of (X_in, S) and
            (X_out, S), float64 ``(indices, units + 1)``.
        alone: Fraction of the samples that are alone in their state of S, likewise.
        distinct_states: Number of different states of S, int64, likewise.
        plugin: I(X_in; X_out | S) in bits by the plug-in, float64, likewise.
        corrected: The same by the estimator of Grassberger, likewise.
    """

    coverage: Tensor
    alone: Tensor
    distinct_states: Tensor
    plugin: Tensor
    corrected: Tensor

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
        ins, outs = int(rows.x_in.max()) + 1, int(rows.x_out.max()) + 1
        state = _Seen.of(rows, rows.index, rows.indices, codes)
        with_in = _Seen.of(rows, rows.index * ins + rows.x_in, rows.indices * ins, codes)
        with_out = _Seen.of(rows, rows.index * outs + rows.x_out, rows.indices * outs, codes)
        pair = (rows.index * ins + rows.x_in) * outs + rows.x_out
        with_both = _Seen.of(rows, pair, rows.indices * ins * outs, codes)
        samples = rows.samples.unsqueeze(1).double()
        plugin, corrected = (
            (with_both.psi + state.psi - with_in.psi - with_out.psi) / samples
        ).unbind(0)
        return cls(
            1 - torch.maximum(with_in.singletons, with_out.singletons) / samples,
            state.singletons / samples,
            state.states,
            plugin,
            corrected,
        )


@dataclass(frozen=True)
class _Seen:
    """How often states were seen, for each condition of a chain.

    Attributes:
        singletons: Number of samples alone in their state, int64 ``(indices, units + 1)``.
        states: Number of states, likewise.
        psi: Sum of psi over the states, of the plug-in and of the corrected estimator, float64
            ``(2, indices, units + 1)``.
    """

    singletons: Tensor
    states: Tensor
    psi: Tensor

    @classmethod
    def of(cls, rows: Rows, label: Tensor, labels: int, codes: Tensor) -> _Seen:
        order, differs = first_differences(label, labels, codes, rows.levels)
        index, weight = rows.index[order], rows.weight[order]
        conditions = codes.shape[1] + 1
        shape = rows.indices, conditions
        tables = torch.stack(
            [psi_table(name, rows.largest, codes.device) for name in ("plugin", CORRECTED)]
        )
        follows = torch.cat([differs[1:], differs.new_zeros(1)])

        alone_from = torch.maximum(differs, follows)
        ever = alone_from < conditions
        place = (index * conditions + alone_from)[ever]
        flat = torch.zeros(rows.indices * conditions, dtype=torch.int64, device=place.device)

        def from_there_on(values: Tensor) -> Tensor:
            start = flat.to(values.dtype).index_add(0, place, values)
            return start.reshape(shape).cumsum(1)

        singletons = from_there_on((weight[ever] == 1).long())
        states = from_there_on(torch.ones_like(place))
        psi = torch.stack([from_there_on(table[weight[ever]]) for table in tables])

        condition = torch.arange(conditions, device=place.device).unsqueeze(1)
        begins, next_begins = differs <= condition, follows <= condition
        which, first = (begins & ~next_begins).nonzero().unbind(1)
        last = (~begins & next_begins).nonzero()[:, 1]
        total = torch.cat([weight.new_zeros(1), weight.cumsum(0)])
        size = total[last + 1] - total[first]
        place = index[first] * conditions + which
        states = states + flat.index_add(0, place, torch.ones_like(place)).reshape(shape)
        psi = psi + torch.stack(
            [flat.double().index_add(0, place, table[size]).reshape(shape) for table in tables]
        )
        return cls(singletons, states, psi)
