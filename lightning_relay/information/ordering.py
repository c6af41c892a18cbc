"""Greedy orders of the units by what they relay."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from lightning_relay.information.compiled import compiled
from lightning_relay.information.counting import (
    begin_with,
    count,
    evidence_of,
    find_changed,
    list_bags,
    room_for_bags,
    room_for_counters,
    room_for_strata,
    split,
)
from lightning_relay.information.estimators import Psi, psi_of
from lightning_relay.information.given import information_given, information_of
from lightning_relay.information.options import (
    TIE,
    Direction,
    check_direction,
    check_estimator,
    check_evidence_rule,
)
from lightning_relay.information.rows import Samples

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from lightning_relay.information.compiled import Bools, Floats, Ints, Numbers, Words
    from lightning_relay.information.options import Estimator
    from lightning_relay.information.rows import Rows


@dataclass(frozen=True, eq=False)
class RelayOrder:
    """A greedy order of the units, for every leading index apart, and the evidence for it.

    The least important unit comes first, in both directions. Entry k of ``information`` is the
    information of the set R after the first k units have left it. The *condition* of entry k is the
    set of units whose states are known: the first k units of a shrinking order, the other units of
    a growing one. Values of units stand at the unit's index.

    A *tie group* is the unit chosen at a step and all candidates as good as it, without units that
    are in a group already. The data do not order a tie group, so its units share one place and one
    score, whatever happens to them later. Groups stand in the order in which they were formed. A
    group can hold units that do nothing beside units that matter later, if any of them could go
    first at no cost; ``relay_share`` tells these apart.

    Attributes:
        units: Unit indices in the order in which they leave R, least important first, int64
            ``(…, units)``.
        information: Information of the sets left in R, bits, float64 ``(…, units + 1)``. Entry 0 is
            that of all units, entry k that of the set without the first k units.
        places: Place of each unit, 0 for the least important, as the mean over its tie group,
            float64 ``(…, units)``.
        scores: Aggregated relay information of each unit, as the mean over its tie group and a
            fraction of the largest such mean, float64 ``(…, units)``. It is 0 for all units if no
            unit's sum is positive. Synergy makes some scores negative, without bound.
        groups: Tie group of each unit, named by the lowest unit in it, int64 ``(…, units)``.
        tied: Whether another candidate was as good when the unit was chosen, bool ``(…, units)``.
        coverage: Good–Turing coverage of the joint states of X_in and condition or of X_out and
            condition, whichever is lower, fraction of 1, float64 ``(…, units + 1)``.
        distinct_states: Number of different states of the condition, int64 ``(…, units + 1)``.
        alone: Fraction of the samples that are alone in their state of the condition, float64
            ``(…, units + 1)``.
        corrected: ``information`` by an estimator that corrects for the bias of small samples,
            bits, float64 ``(…, units + 1)``: Grassberger's for an order by plug-in, otherwise the
            estimator of the order.
        gap: Corrected minus plug-in estimate of I(X_in; X_out | condition), bits, float64
            ``(…, units + 1)``.
        resolved: Whether there are enough samples for the place of each unit, bool ``(…, units)``.
            All conditions, from the empty one to the one with which the unit was chosen, must have
            ``coverage >= min_coverage`` and ``|gap| <= max_gap``. A tied unit can be resolved (see
            ``ambiguous``). Conditions with units that were not chosen are not checked: a unit with
            many more states than the others may have lost for lack of samples.
    """

    units: Tensor
    information: Tensor
    places: Tensor
    scores: Tensor
    groups: Tensor
    tied: Tensor
    coverage: Tensor
    distinct_states: Tensor
    alone: Tensor
    corrected: Tensor
    gap: Tensor
    resolved: Tensor

    @property
    def ambiguous(self) -> Tensor:
        """Whether each unit's tie group has several units, bool ``(…, units)``."""
        sizes = torch.zeros_like(self.groups)
        sizes = sizes.scatter_add(-1, self.groups, torch.ones_like(self.groups))
        return sizes.gather(-1, self.groups) > 1

    def shortfall(self, of_all_subsets: Tensor) -> Tensor:
        """How much less the sets of this order relay than the best sets of the same size.

        Args:
            of_all_subsets: Result of ``relay_information_of_all_subsets`` for the same data, bits,
                ``(…, 2**units)``.

        Returns:
            Bits, float64 ``(…, units + 1)``. Entry k is that of the set without the first k units;
            it is 0 if no set of its size relays more.

        Raises:
            ValueError: If the shape does not fit.
        """
        units = self.units.shape[-1]
        wanted = (*self.units.shape[:-1], 2**units)
        if tuple(of_all_subsets.shape) != wanted:
            raise ValueError(
                f"of_all_subsets: got shape {tuple(of_all_subsets.shape)}; it takes {wanted}: "
                "give relay_information_of_all_subsets of the data of this order"
            )
        subsets = torch.arange(2**units, device=of_all_subsets.device)
        size = sum((subsets >> unit) & 1 for unit in range(units))
        best = torch.stack(
            [of_all_subsets[..., size == left].amax(-1) for left in range(units, -1, -1)], dim=-1
        )
        gone = torch.cat([torch.zeros_like(self.units[..., :1]), (1 << self.units).cumsum(-1)], -1)
        return best - of_all_subsets.gather(-1, 2**units - 1 - gone)


def relay_order(
    x_in: Tensor,
    x_out: Tensor,
    hidden: Tensor,
    *,
    direction: Direction = "shrink",
    beam_width: int = 1,
    valid: Tensor | None = None,
    weights: Tensor | None = None,
    estimator: Estimator = "plugin",
    min_coverage: float = 0.9,
    max_gap: float = 0.1,
) -> RelayOrder:
    r"""Greedy order of the units by their contribution to the relay information.

    ``"shrink"`` starts with all units in R. At each step it removes the unit whose removal leaves
    the largest :math:`I_R = I(X_{in}; X_{out} | Y_0) - I(X_{in}; X_{out} | Y)`.

    ``"grow"`` starts with an empty R. At each step it adds the unit that lowers
    :math:`I(X_{in}; X_{out} | Y_R)` most. It ignores the units outside R instead of conditioning on
    them, so ``information`` holds :math:`I(X_{in}; X_{out}) - I(X_{in}; X_{out} | Y_R)`. It ranks
    the most important units even if there are too few samples for all.

    Candidates within 1e-9 bits of the best are tied, and the lowest unit index is taken. For the
    score of a unit, (information of all units - information after the removal) is summed over all
    removals up to and including its own. The mean of these sums over the unit's tie group is
    divided by the largest such mean.

    Args:
        x_in: Integer labels of the input, ``(samples,)`` or broadcastable to ``(…, samples)``.
        x_out: Integer labels of the output, ``(samples,)`` or broadcastable to ``(…, samples)``.
        hidden: Integer codes of the units' states, ``(…, samples, units)``, of any values.
        direction: ``"shrink"`` (as in the source) or ``"grow"``.
        beam_width: Number of orders that are followed at the same time; 1 is greedy. The orders
            with the largest sum of ``information`` so far are kept, and the best is returned. For
            ``"grow"`` the sum runs over the values after each addition.
        valid: Boolean mask broadcastable to ``(…, samples)``; a sample with False is not counted.
        weights: Times each sample counts (default 1), integers broadcastable to ``(…, samples)``.
        estimator: Estimator of entropies from counts.
        min_coverage: Lowest coverage at which a condition counts as resolved, fraction of 1.
        max_gap: Largest difference between corrected and plug-in information at which a condition
            counts as resolved, bits.

    Returns:
        The order and its evidence, with the leading dimensions of the arguments.

    Raises:
        TypeError: If labels, codes or weights are not integers, or ``min_coverage`` or ``max_gap``
            is not a number.
        ValueError: If shapes do not fit, an option is unknown or out of range, a weight is
            negative, or there is no sample to count.

    Example:
        Unit 1 copies a fair bit, unit 0 is always off:

        >>> import torch
        >>> bit = torch.tensor([0, 1]).repeat(20)
        >>> order = relay_order(bit, bit, torch.stack([torch.zeros_like(bit), bit], dim=-1))
        >>> order.units.tolist(), order.information.tolist(), order.scores.tolist()
        ([0, 1], [1.0, 1.0, 0.0], [0.0, 1.0])
        >>> order.resolved.tolist(), order.distinct_states.tolist()
        ([True, True], [1, 1, 2])

    Source:
        Hintze and Adami, Entropy 25(3):401 (2023), Algorithm 1 (as in its authors' program). The
        growing order, beams and the rule for ``resolved`` are this project's own.
    """
    check_direction(direction)
    check_estimator(estimator)
    check_evidence_rule(min_coverage, max_gap)
    if isinstance(beam_width, bool) or not isinstance(beam_width, int) or beam_width < 1:
        raise ValueError(f"beam_width: got {beam_width!r}; it takes a number of orders from 1")
    samples = Samples.of(x_in, x_out, hidden, valid, weights)

    def ordered(rows: Rows) -> Grown:
        chosen = [] if beam_width == 1 else _best_chain(rows, direction, beam_width, estimator)
        return grow(rows, direction, estimator, chosen=chosen)

    grown = Grown(*map(np.stack, zip(*samples.each(ordered), strict=True)))
    plugin, corrected = grown.conditioned, grown.compared
    if estimator != "plugin":
        plugin, corrected = corrected, plugin
    gap = corrected - plugin
    good = (grown.coverage >= min_coverage) & (np.abs(gap) <= max_gap)
    resolved = np.empty_like(grown.tied)
    np.put_along_axis(resolved, grown.units, np.logical_and.accumulate(good, 1)[:, 1:], 1)
    information = information_of_sets(grown.conditioned, direction)
    backwards = slice(None, None, 1 if direction == "shrink" else -1)
    units = grown.units[:, backwards]
    places, sums, groups = _in_groups(units, grown.groups, information)
    largest = sums.max(1, keepdims=True)
    fields = {
        "units": units,
        "information": information,
        "places": places if direction == "shrink" else samples.units - 1 - places,
        "scores": np.where(largest > TIE * samples.units, sums, 0) / np.where(largest, largest, 1),
        "groups": groups,
        "tied": grown.tied,
        "coverage": grown.coverage[:, backwards],
        "distinct_states": grown.distinct_states[:, backwards],
        "alone": grown.alone[:, backwards],
        "corrected": information_of_sets(corrected, direction),
        "gap": gap[:, backwards],
        "resolved": resolved,
    }
    return RelayOrder(**{name: samples.shaped(values) for name, values in fields.items()})


def _in_groups(units: Ints, formed: Ints, information: Floats) -> tuple[Floats, Floats, Ints]:
    """Place, mean sum of lost information and lowest unit of each unit's tie group, by unit.

    ``units`` are in the order in which they leave, ``formed`` numbers the step at which the tie
    group of each unit was formed, and ``information`` is that of the sets that are left.
    """
    index = np.arange(len(units))[:, np.newaxis]
    group = index * units.shape[1] + formed
    sizes = np.bincount(group.ravel(), minlength=units.size).reshape(units.shape)
    places = sizes.cumsum(1) - (sizes + 1) / 2
    lost = np.empty_like(places)
    lost[index, units] = (information[:, :1] - information[:, 1:]).cumsum(1)
    sums = np.bincount(group.ravel(), lost.ravel(), units.size).reshape(units.shape)
    lowest = np.full_like(units, units.shape[1])
    np.minimum.at(lowest, (index, formed), np.arange(units.shape[1]))
    return (
        places[index, formed],
        (sums / np.maximum(sizes, 1))[index, formed],
        lowest[index, formed],
    )


def information_of_sets(conditioned: Floats, direction: Direction) -> Floats:
    """Information of the sets of an order, all units first.

    ``conditioned`` is I(X_in; X_out | S) in bits before the first unit joins S and after each,
    ``(…, units + 1)``.
    """
    if direction == "shrink":
        return conditioned - conditioned[..., -1:]
    return conditioned[..., :1] - conditioned[..., ::-1]


class Grown(NamedTuple):
    """How a condition S grew: by unit, or before the first unit joined and after each."""

    units: Ints  # (units,) in the order in which they joined.
    groups: Ints  # (units,) Tie group of each unit, named by the step at which it was formed.
    tied: Bools  # (units,) Whether each unit was tied when it joined.
    conditioned: Floats  # (units + 1,) I(X_in; X_out | S), bits.
    compared: Floats  # (units + 1,) The same by the estimator that it is compared with.
    coverage: Floats  # (units + 1,) Coverage of (X_in, S) or (X_out, S), whichever is lower.
    alone: Floats  # (units + 1,) Fraction of the samples that are alone in their state of S.
    distinct_states: Ints  # (units + 1,) Number of different states of S.


def grow(
    rows: Rows,
    direction: Direction,
    estimator: Estimator,
    *,
    chosen: Sequence[int] = (),
    priority: Ints | None = None,
    until: float = -np.inf,
) -> Grown:
    """Let the units join the condition: in the chosen order, or the best of the rest each time.

    The best leaves the largest information for ``"shrink"`` and the smallest for ``"grow"``. Of
    tied units, the first in ``priority`` joins; by default the lowest. Ends once I(X_in; X_out | S)
    is at most ``until`` bits; ``units`` and ``groups`` of the units that have not joined are -1.
    """
    psi = psi_of(estimator, rows.samples)
    by_sets = not (rows.counted and psi.additive)
    candidates = np.arange(rows.units) if priority is None else priority
    grown: Grown = let_join(
        rows.table,
        rows.by_out if by_sets else np.empty(0, dtype=np.uint32),
        rows.masks(np.eye(rows.units if by_sets else 0, rows.units, dtype=np.bool_)),
        (rows.outs, rows.samples, rows.planes, 8 * rows.bytes),
        psi,
        by_sets,
        direction == "shrink",
        np.array(chosen, dtype=np.int64),
        candidates.astype(np.uint32),
        until,
    )
    return grown


@compiled
def let_join(
    table: Words,
    by_out: Numbers,
    masks: Words,
    sizes: tuple[int, int, int, int],
    psi: Psi,
    by_sets: bool,
    largest: bool,
    chosen: Ints,
    candidates: Numbers,
    until: float,
) -> Grown:
    """``grow`` for the rows of a table.

    All candidates are counted at once or, with ``by_sets``, each in a set of its own. ``sizes`` are
    the number of X_out, of samples, of planes, and of bits from plane to plane.
    """
    outs, samples, planes, stride = sizes
    units = len(candidates)
    order = np.full(units, -1)
    group = np.full(units, -1)
    tied = np.zeros(units, np.bool_)
    conditioned = np.zeros(units + 1, np.float64)
    compared = np.zeros(units + 1, np.float64)
    coverage = np.zeros(units + 1, np.float64)
    alone = np.zeros(units + 1, np.float64)
    distinct_states = np.zeros(units + 1, np.int64)
    sums = np.empty(0 if by_sets else units, np.float64)
    values = np.empty(units, np.float64)
    strata = room_for_strata(table)
    begin_with(table, strata)
    label, bag = room_for_bags(len(table), outs)
    most = list_bags(table, np.uint64(0), np.uint64(len(table)), label, bag)[1]
    counters = room_for_counters(0 if by_sets else most, units, planes)
    parts = np.zeros((0 if by_sets else strata.adds.shape[1], units), np.float64)
    condition = np.zeros(table.shape[1] - 2, np.uint64)
    for step in range(units + 1):
        left = candidates[: units - step]
        value = values[: units - step]
        total, compare = count(
            strata, left[: 0 if by_sets else units], planes, psi, label, bag, counters, parts, sums
        )
        total, compare = total / samples, compare / samples
        coverage[step], alone[step], distinct_states[step] = evidence_of(strata, samples)
        for place in range(len(left)):
            if by_sets:
                mask = condition | masks[left[place]]
                value[place] = information_of(table, by_out, samples, mask, psi)
            else:
                value[place] = sums[left[place]] / samples
        if by_sets:
            total = information_of(table, by_out, samples, condition, psi)
            compare = information_of(
                table, by_out, samples, condition, Psi(psi.other, psi.value, psi.pairs, True)
            )
        conditioned[step], compared[step] = total, compare
        if step == units or total <= until:
            break
        taken = 0
        for place in range(len(left)):
            if len(chosen):
                if left[place] == chosen[step]:
                    taken = place
            elif value[place] > value[taken] if largest else value[place] < value[taken]:
                taken = place
        if not len(chosen):
            best = value[taken]
            taken = 0
            while abs(value[taken] - best) > TIE:
                taken += 1
        unit = np.int64(left[taken])
        order[step] = unit
        begins_group = group[unit] < 0
        for place in range(len(left)):
            if abs(value[place] - value[taken]) <= TIE:
                tied[unit] |= place != taken
                if begins_group and group[left[place]] < 0:
                    group[left[place]] = step
        for place in range(taken, len(left) - 1):
            left[place] = left[place + 1]
        if by_sets:
            condition |= masks[unit]
        find_changed(strata, unit, planes, stride)
        split(strata, unit, planes, stride)
    return Grown(order, group, tied, conditioned, compared, coverage, alone, distinct_states)


def _best_chain(
    rows: Rows, direction: Direction, beam_width: int, estimator: Estimator
) -> list[int]:
    """The order in a beam with the largest (growing: smallest) sum of I(X_in; X_out | S)."""
    sign = 1.0 if direction == "shrink" else -1.0
    beams: list[tuple[float, tuple[int, ...]]] = [(0.0, ())]
    for _ in range(rows.units):
        best: dict[frozenset[int], tuple[float, tuple[int, ...]]] = {}
        for total, order in beams:
            left = [unit for unit in range(rows.units) if unit not in order]
            members = np.eye(rows.units, dtype=np.bool_)[left]
            members[:, order] = True
            values = information_given(rows, estimator, members)
            for unit, value in zip(left, values.tolist(), strict=True):
                found = total + sign * value, (*order, unit)
                key = frozenset(found[1])
                if key not in best or _rank(found) < _rank(best[key]):
                    best[key] = found
        beams = sorted(best.values(), key=_rank)[:beam_width]
    return list(beams[0][1])


def _rank(found: tuple[float, tuple[int, ...]]) -> tuple[int, tuple[int, ...]]:
    """Key that sorts the best first, and tied sums by their units."""
    total, order = found
    return -round(total / TIE), order
