"""Relay information of every set of units."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import log
from typing import TYPE_CHECKING, NoReturn

import torch
from tqdm import tqdm

from lightning_relay.information.condition import LARGEST_EXACT
from lightning_relay.information.estimators import check_estimator, is_additive, psi_table
from lightning_relay.information.rows import Samples
from lightning_relay.information.strata import Bags, Strata

if TYPE_CHECKING:
    from torch import Tensor

    from lightning_relay.information.estimators import Estimator
    from lightning_relay.information.rows import Rows

MOST_UNITS = 24
"""More units have more subsets than anyone waits for."""

_CELLS = 128
"""The last units are looked at together as long as all their combinations are no more than this."""

_MEMBERS_AT_ONCE = 2**17
"""Conditions are split together as long as they have no more members."""


def relay_information_of_all_subsets(
    x_in: Tensor,
    x_out: Tensor,
    hidden: Tensor,
    *,
    valid: Tensor | None = None,
    weights: Tensor | None = None,
    estimator: Estimator = "plugin",
    progress: bool = True,
) -> Tensor:
    r"""Relay information I_R of every set R of units, in bits.

    Args:
        x_in: Integer labels of the input, ``(samples,)`` or broadcastable to ``(…, samples)``; any
            values.
        x_out: Integer labels of the output, of a shape like that of ``x_in``.
        hidden: Integer codes of the units' states, ``(…, samples, units)``, at most 24 units.
        valid: Boolean mask broadcastable to ``(…, samples)``; a sample with False is not counted.
        weights: How many times each sample counts, integers broadcastable to ``(…, samples)``;
            default: once.
        estimator: How entropies are estimated from counts; all but ``"chao_shen"``.
        progress: Whether to show a progress bar.

    Returns:
        float64 tensor of shape ``(…, 2**units)``, in bits: entry k is I_R of the set that holds
        unit u exactly when bit u of k is set. So entry 0 (no unit) is 0, the last one is that of
        all units.

    Raises:
        TypeError: If labels, codes or weights are not integers.
        ValueError: If shapes do not fit, a weight is negative, there are more than 24 units, the
            estimator is unknown or has no fast sum, or there is no sample to count.

    Example:
        Two copies of a fair bit relay it only together:

        >>> import torch
        >>> bit = torch.tensor([0, 1, 0, 1])
        >>> hidden = torch.stack([bit, bit], dim=-1)
        >>> relay_information_of_all_subsets(bit, bit, hidden, progress=False).tolist()
        [0.0, 0.0, 0.0, 1.0]

    Source:
        Hintze and Adami, Entropy 25(3):401 (2023).
    """
    check_estimator(estimator)
    if not is_additive(estimator):
        raise ValueError(
            f"estimator: got {estimator!r}, which depends on all counts at once; for all subsets "
            "it takes 'plugin', 'miller_madow', 'grassberger'"
        )
    samples = Samples.of(x_in, x_out, hidden, valid, weights)
    units = hidden.shape[-1]
    if units > MOST_UNITS:
        memory = samples.indices * 2.0 ** (units - 27)
        raise ValueError(
            f"hidden: got {units} units, so 2**{units} subsets, whose results alone would take "
            f"{memory:.3g} GiB; it takes at most {MOST_UNITS} units: select the units that "
            "relay_order finds important, or give relay_order a beam_width"
        )
    bar = tqdm(
        total=samples.indices * 2**units, unit=" sets", unit_scale=True, disable=not progress
    )
    with bar, torch.inference_mode():
        parts = [_of_all_subsets(rows, estimator, bar) for rows in samples.blocks(1)]
    return torch.stack(parts).reshape(*samples.leading, 2**units)


_ELEMENTS_AT_ONCE = 2**20
"""Bags times combinations of the last units are looked up in blocks of this size."""


@dataclass(frozen=True)
class _Node:
    """Conditions made of the first units, as leading indices of the same strata.

    Attributes:
        strata: The rows by the state of each condition; the leading index of a stratum has bit u
            set exactly if unit u is in the condition.
        units: Number of units decided on.
        conditions: Number of conditions, those without strata among them.
    """

    strata: Strata
    units: int
    conditions: int


def _of_all_subsets(rows: Rows, estimator: Estimator, bar: tqdm[NoReturn]) -> Tensor:
    """I_R of every set of units at the only leading index, ``(2**units,)``."""
    tails = _Tails(rows, estimator)
    first = rows.units - tails.units
    codes = rows.codes.T.contiguous()
    strata = Strata.of(rows, additive=True)
    strata = replace(strata, layout=replace(strata.layout, index=rows.units))
    conditioned = torch.zeros(2**tails.units, 2**first, dtype=torch.float64, device=codes.device)
    waiting = [_Node(strata, 0, 1)]
    while waiting:
        node = waiting.pop()
        strata = node.strata.select(Bags.of(node.strata).members_that_vary())
        if not strata.row.numel():
            bar.update(node.conditions * 2 ** (rows.units - node.units))
        elif node.units == first:
            tails.add_to(conditioned, strata)
            bar.update(node.conditions * 2**tails.units)
        else:
            code = codes[node.units].index_select(0, strata.row)
            branches = strata.branched(code, rows.levels, node.units)
            if 2 * strata.row.numel() <= _MEMBERS_AT_ONCE:
                both = branches[0].joined(branches[1])
                waiting.append(_Node(both, node.units + 1, 2 * node.conditions))
            else:
                waiting += [_Node(each, node.units + 1, node.conditions) for each in branches]
    information = conditioned.flatten() / rows.samples
    return information.flip(0) - information[-1]


class _Tails:
    """All conditions that the last units make with a given condition, at once.

    For each bag, how many samples have each combination of codes of these units makes a cube with a
    side for each unit; with the sum over a side as one place more of it, it holds the bags of every
    condition.
    """

    def __init__(self, rows: Rows, estimator: Estimator) -> None:
        self.units = min(rows.units, int(log(_CELLS) / log(rows.levels + 1)))
        self._levels = rows.levels
        self._psi = psi_table(estimator, rows.largest, rows.codes.device)
        exact = torch.float32 if rows.largest < LARGEST_EXACT else torch.float64
        number = torch.zeros_like(rows.index)
        for unit in range(rows.units - self.units, rows.units):
            number = number * rows.levels + rows.codes[:, unit]
        self._summands = rows.codes.new_zeros(
            number.numel(), rows.levels**self.units + 1, dtype=exact
        )
        self._summands[:, -1] = 1
        self._summands.scatter_(1, number.unsqueeze(1), rows.weight.to(exact).unsqueeze(1))

    def add_to(self, conditioned: Tensor, strata: Strata) -> None:
        """Add N I(X_in; X_out | S) of all conditions that the strata and the last units make.

        Args:
            conditioned: Float64 ``(conditions of the last units, conditions of the others)``.
            strata: Strata of conditions of the other units, which are their leading indices.
        """
        bags = Bags.of(strata)
        counts = bags.sums(self._summands, strata.row)
        conditions, place = torch.unique(bags.index, return_inverse=True)
        alone = (counts[:, -1] == 1).nonzero().squeeze(1)
        size = counts[alone, :-1].sum(1).long()
        constant = self._psi.new_zeros(conditions.numel(), 1)
        constant[:, 0].index_add_(0, place[alone], self._psi[size] * bags.signs[alone])
        sums = self._psi.new_zeros(conditions.numel(), (self._levels + 1) ** self.units)
        several = (counts[:, -1] > 1).nonzero().squeeze(1)
        for block in several.split(max(1, _ELEMENTS_AT_ONCE // sums.shape[1])):
            cube = counts[block, :-1].reshape(block.numel(), *[self._levels] * self.units)
            for side in range(1, self.units + 1):
                cube = torch.cat([cube, cube.sum(side, keepdim=True)], dim=side)
            places = cube.reshape(block.numel(), sums.shape[1]).long()
            values = self._psi[places] * bags.signs[block].unsqueeze(1)
            sums.index_add_(0, place[block], values)
        cube = sums.reshape(conditions.numel(), *[self._levels + 1] * self.units)
        for side in range(1, self.units + 1):
            left_out = cube.narrow(side, self._levels, 1)
            taken = cube.narrow(side, 0, self._levels).sum(side, keepdim=True)
            cube = torch.cat([left_out, taken], dim=side)
        last_unit_highest = cube.permute(0, *range(self.units, 0, -1)).reshape(len(sums), -1)
        conditioned[:, conditions] += (last_unit_highest + constant).T
