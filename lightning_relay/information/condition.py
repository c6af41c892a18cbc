r"""I(X_in; X_out | S), and the same with each of all other units in S, while S grows unit by unit.

Everything the project measures asks one question again and again: what is
:math:`I(X_{in}; X_{out} | S \cup \{j\})` for every unit j? With a function psi of counts (see
``estimators``) it is a sum over bags of samples that are alike (see ``strata``):

.. math:: I(X_{in}; X_{out} | S) = \frac{1}{N} \Big( \sum_{in, out, s} \psi(c) + \sum_s \psi(c)
    - \sum_{in, s} \psi(c) - \sum_{out, s} \psi(c) \Big)

What makes this fast: all units are counted at once, by adding rows of a table, and larger bags are
sums of smaller ones; a stratum in which X_in or X_out is constant adds 0 for ever and is dropped; a
bag of a single row adds the same whatever joins S; where X_in and X_out determine each other, two
of the four sums cancel; units that are in S are left out of the table now and then.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

import torch

from lightning_relay.information.estimators import chao_shen_terms, is_additive, psi_table
from lightning_relay.information.strata import Bags, Strata

if TYPE_CHECKING:
    from torch import Tensor

    from lightning_relay.information.estimators import Estimator
    from lightning_relay.information.rows import Rows

_ELEMENTS_AT_ONCE = 2**18
"""Bags times units are looked up in blocks of this size."""

LARGEST_EXACT = 2**24
"""float32 counts exactly up to here."""

_FEW_ELEMENTS = 2**14
"""So few bags times units are all looked up, those of a single row among them."""

_PRUNE = 0.9
"""Strata are dropped when no more than this fraction of them matters."""

_SMALL_BAG = 255
"""For bags up to this size psi of both parts is looked up at once."""

CORRECTED: Estimator = "grassberger"
"""The estimator that the plug-in is compared with."""

_MANY_LEVELS = 32
"""Units with more codes are not counted all at once: each is tried by splitting the strata."""

_COMPACT = 0.75
"""Columns are left out when no more than this fraction of them is needed."""


@dataclass(frozen=True)
class Columns:
    """The codes of candidate units, laid out for counting.

    Attributes:
        candidates: Units that may join S, in rising order, int64 ``(indices, candidates)``.
        counted: Number of candidates that are counted: all or none.
        summands: What each row adds to the counts, ``(rows, (levels - 1) * counted + 2)``: for
            each level but the first whether a candidate has it, times the weight of the row; the
            weight of the row; 1.
    """

    candidates: Tensor
    counted: int
    summands: Tensor

    @classmethod
    def of(cls, rows: Rows, *, with_candidates: bool) -> Columns:
        """All units as candidates, or none."""
        units = rows.units if with_candidates and rows.levels <= _MANY_LEVELS else 0
        summands = rows.codes.new_ones(
            rows.codes.shape[0],
            (rows.levels - 1) * units + 2,
            dtype=torch.float32 if rows.largest < LARGEST_EXACT else torch.float64,
        )
        for level in range(1, rows.levels if units else 1):
            block = summands[:, (level - 1) * units : level * units]
            block.copy_(rows.codes if rows.levels == 2 else rows.codes == level)
        if rows.repeated:
            summands[:, :-1] *= rows.weight.unsqueeze(1)
        candidates = torch.arange(rows.units if with_candidates else 0, device=rows.codes.device)
        return cls(candidates.expand(rows.indices, -1), units, summands)

    def select(self, kept: Tensor, levels: int) -> Columns:
        """Some of the candidates of a single leading index, int64 ``(kept,)``."""
        blocks = torch.arange(levels - 1, device=kept.device).unsqueeze(1)
        before = self.counted
        ends = torch.arange((levels - 1) * before, self.summands.shape[1], device=kept.device)
        wanted = torch.cat([(blocks * before + kept).flatten(), ends])
        return replace(
            self,
            candidates=self.candidates.index_select(1, kept),
            counted=kept.numel(),
            summands=self.summands.index_select(1, wanted),
        )


@dataclass(frozen=True)
class Condition:
    """A set S of units, one for each leading index, that I(X_in; X_out | S) is conditioned on.

    Attributes:
        rows: The counted samples.
        estimator: How entropies are estimated from counts.
        columns: The units that are candidates.
        left: Number of units that are not in S.
        open: Whether a candidate is not in S, bool ``(indices, candidates)``.
        strata: The rows by the state of S; those that cannot matter any more are left out.
        strata_left: Number of these strata.
        compared: I(X_in; X_out | S) by the estimator that this one is compared with: the corrected
            one if this is the plug-in, otherwise the plug-in; bits, float64 ``(indices,)``.
        values: I(X_in; X_out | S ∪ {j}) for each counted candidate j, and at the end
            I(X_in; X_out | S), in bits, float64 ``(indices, counted + 1)``.
    """

    rows: Rows
    estimator: Estimator
    columns: Columns
    left: int
    open: Tensor
    strata: Strata
    strata_left: int
    compared: Tensor
    values: Tensor

    @classmethod
    def empty(cls, rows: Rows, estimator: Estimator, *, candidates: bool = True) -> Condition:
        """No unit in the condition.

        Args:
            rows: The counted samples.
            estimator: How entropies are estimated from counts.
            candidates: Whether to look at what each unit would do; if not, only
                I(X_in; X_out | S) is followed.
        """
        columns = Columns.of(rows, with_candidates=candidates)
        strata = Strata.of(rows, additive=is_additive(estimator))
        nothing = rows.samples.new_zeros((), dtype=torch.float64)
        opened = torch.ones_like(columns.candidates, dtype=torch.bool)
        start = cls(rows, estimator, columns, rows.units, opened, strata, 0, nothing, nothing)
        return start._with(strata)

    def information(self) -> Tensor:
        """I(X_in; X_out | S) in bits, float64 ``(indices,)``."""
        return self.values[:, -1]

    def with_candidates(self) -> Tensor:
        """I(X_in; X_out | S ∪ {j}) in bits by candidate, float64 ``(indices, candidates)``."""
        if self.columns.counted:
            return self.values[:, :-1]
        each = self.columns.candidates.unbind(1)
        return torch.stack([self.with_units(unit).information() for unit in each], dim=1)

    def with_units(self, units: Tensor) -> Condition:
        """The condition with one more unit for each leading index, int64 ``(indices,)``."""
        closed = self._without(units)
        strata, rows = closed.strata, closed.rows
        if not strata.row.numel():
            return closed
        if rows.indices == 1:
            code = rows.codes[:, int(units)].index_select(0, strata.row)
        else:
            unit = units.index_select(0, strata.index)
            code = rows.codes.view(-1).index_select(0, strata.row * rows.units + unit)
        return closed._with(strata.split(code, rows.levels))

    def _without(self, units: Tensor) -> Condition:
        opened = self.open & (self.columns.candidates != units.unsqueeze(1))
        candidates = self.columns.counted
        left = self.left - 1
        if self.rows.indices == 1 and candidates and left <= _COMPACT * candidates:
            kept = opened[0].nonzero().squeeze(1)
            ends = torch.cat([kept, kept.new_tensor([candidates])])
            return replace(
                self,
                left=left,
                open=opened.index_select(1, kept),
                columns=self.columns.select(kept, self.rows.levels),
                values=self.values.index_select(1, ends),
            )
        return replace(self, left=left, open=opened)

    def _with(self, strata: Strata) -> Condition:
        """The same units with strata that are at least as fine."""
        if not strata.row.numel():
            return replace(self, strata=strata)
        bags = Bags.of(strata)
        if bags.varying.numel() == self.strata_left:
            return replace(self, strata=strata)
        counts = bags.sums(self.columns.summands, strata.row)
        size = counts[:, -2].long()
        compared = self._sum_by_index(bags, self._psi(size, self.compared_with) * bags.signs)
        if not is_additive(self.estimator):
            return replace(
                self,
                strata=strata,
                strata_left=bags.varying.numel(),
                compared=compared / self.rows.samples,
                values=self._chao_shen(bags, counts),
            )
        sums = self._sums(bags, counts, size)
        left = int(bags.varying.sum())
        if left <= _PRUNE * bags.varying.numel():
            strata = strata.select(bags.members_that_vary())
        else:
            left = bags.varying.numel()
        return replace(
            self,
            strata=strata,
            strata_left=left,
            compared=compared / self.rows.samples,
            values=sums / self.rows.samples.unsqueeze(1),
        )

    @property
    def compared_with(self) -> Estimator:
        """The corrected estimator if this one is the plug-in, otherwise the plug-in."""
        return CORRECTED if self.estimator == "plugin" else "plugin"

    def _psi(self, size: Tensor, estimator: Estimator) -> Tensor:
        return psi_table(estimator, self.rows.largest, size.device).index_select(0, size)

    def _sum_by_index(self, bags: Bags, values: Tensor) -> Tensor:
        """Sum over the bags of each leading index, float64 ``(indices,)``."""
        if self.rows.indices == 1:
            return values.sum(0, keepdim=True)
        return values.new_zeros(self.rows.indices).index_add_(0, bags.index, values)

    def _sums(self, bags: Bags, counts: Tensor, size: Tensor) -> Tensor:
        """Sum over bags of signed psi, float64 ``(indices, counted + 1)``."""
        rows = self.rows
        sums = bags.signs.new_zeros(rows.indices, self.columns.counted + 1)
        if counts.numel() <= _FEW_ELEMENTS:
            values = self._psi_of_parts(counts[:, :-1])
            if rows.indices == 1:
                return (bags.signs @ values).unsqueeze(0)
            return sums.index_add_(0, bags.index, values * bags.signs.unsqueeze(1))
        several = ((counts[:, -1] > 1) & (bags.signs != 0)).nonzero().squeeze(1)
        if rows.repeated or self.estimator != "plugin":
            alone = bags.signs * (counts[:, -1] == 1)
            constant = self._sum_by_index(bags, self._psi(size, self.estimator) * alone)
            sums += constant.unsqueeze(1)
        for block in several.split(max(1, _ELEMENTS_AT_ONCE // counts.shape[1])):
            if not block.numel():
                break
            values = self._psi_of_parts(counts.index_select(0, block)[:, :-1])
            sign = bags.signs.index_select(0, block)
            if rows.indices == 1:
                sums[0] += sign @ values
            else:
                index = bags.index.index_select(0, block)
                sums.index_add_(0, index, values * sign.unsqueeze(1))
        return sums

    def _psi_of_parts(self, counts: Tensor) -> Tensor:
        """Sum of psi over the parts that each candidate makes of each bag, and psi of the bag."""
        size = counts[:, -1:]
        psi = psi_table(self.estimator, self.rows.largest, counts.device)
        if self.rows.levels == 2:
            if int(size.amax()) <= _SMALL_BAG:
                table = _psi_of_two(self.estimator, counts.device)
                place = torch.add(counts, size, alpha=_SMALL_BAG + 1)
                return table.index_select(0, place.long().view(-1)).view(counts.shape)
            values = psi.index_select(0, counts.long().view(-1))
            values += psi.index_select(0, (size - counts).long().view(-1))
            return values.view(counts.shape)
        parts = counts[:, :-1].unflatten(1, (self.rows.levels - 1, self.columns.counted)).long()
        rest = size.long() - parts.sum(1)
        return torch.cat([psi[parts].sum(1) + psi[rest], psi[size.long()]], dim=1)

    def _chao_shen(self, bags: Bags, counts: Tensor) -> Tensor:
        """I(X_in; X_out | S) with each candidate and without, ``(indices, counted + 1)``."""
        rows = self.rows
        samples = rows.samples.unsqueeze(1)
        information = torch.zeros_like(samples, dtype=torch.float64)
        for sign, kind in zip(_KIND_SIGNS, bags.kinds(), strict=True):
            parts = self._parts(counts[kind, :-1])
            index = bags.index[kind]

            def by_index(values: Tensor, index: Tensor = index) -> Tensor:
                zeros = values.new_zeros(rows.indices, values.shape[1], dtype=torch.float64)
                return zeros.index_add_(0, index, values.double())

            alone = by_index((parts == 1).sum(1))
            terms = chao_shen_terms(
                parts, alone[index].unsqueeze(1), samples[index].unsqueeze(1)
            ).sum(1)
            information = information - sign * by_index(terms)
        return information

    def _parts(self, counts: Tensor) -> Tensor:
        """Numbers of samples of all parts, float64 ``(bags, levels, candidates + 1)``."""
        size = counts[:, -1:].double()
        parts = counts[:, :-1].double().unflatten(1, (self.rows.levels - 1, self.columns.counted))
        whole = parts.new_zeros(*parts.shape[:2], 1)
        parts = torch.cat([parts, whole], dim=2)
        return torch.cat([size.unsqueeze(1) - parts.sum(1, keepdim=True), parts], dim=1)


_KIND_SIGNS = (1.0, 1.0, -1.0, -1.0)
"""With what sign cells, strata, and the bags alike in X_in and X_out enter the information."""


@lru_cache(maxsize=16)
def _psi_of_two(estimator: Estimator, device: torch.device) -> Tensor:
    """psi(c) + psi(size - c) at place size * (_SMALL_BAG + 1) + c, float64."""
    psi = psi_table(estimator, _SMALL_BAG, device)[: _SMALL_BAG + 1]
    counts = torch.arange(_SMALL_BAG + 1, device=device)
    return (psi + psi[(counts.unsqueeze(1) - counts).clamp(min=0)]).flatten()
