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
    Direction,
    check_direction,
    check_estimator,
    check_evidence_rule,
)
from lightning_relay.information.rows import Samples

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from lightning_relay.information.options import Estimator
    from lightning_relay.information.rows import Rows


TIE = 1e-9
"""Candidates whose information differs by no more than this many bits are tied."""


@dataclass(frozen=True, eq=False)
class RelayOrder:
    """A greedy order of the units, for every leading index apart, and the evidence for it.

    It reads the same whichever way it was found: the least important unit comes first, and entry
    k of ``information`` is the value with the first k units outside R. The *condition* of entry k
    is what its value was conditioned on: the first k units of a shrinking order, the others of a
    growing one. What is said of a unit stands at its index.

    Units that are as good as the one that is chosen at a step, and are in no group yet, are a *tie
    group* with it. The data do not order them, so they share one place and one score, whatever
    happens to them later. Groups stand in the order in which they were formed. Where several units
    could go first at no cost, a group can hold units that do nothing beside units that matter
    later: ``relay_share`` tells them apart.

    Attributes:
        units: Unit indices in the order in which they leave R, least important first, int64
            ``(…, units)``.
        information: Bits, float64 ``(…, units + 1)``: entry 0 is that of all units, entry k that
            of the set that is left when k units have gone.
        places: Place of each unit, 0 for the least important, the mean over its tie group, float64
            ``(…, units)``.
        scores: Aggregated relay information of each unit, the mean over its tie group, as a
            fraction of the largest, float64 ``(…, units)``; 0 for all units where no unit's sum is
            positive. Synergy makes some negative, without bound.
        groups: Tie group of each unit, named by its lowest unit, int64 ``(…, units)``.
        tied: Whether another candidate was as good when the unit was chosen, bool ``(…, units)``.
        coverage: Good–Turing coverage of the joint states of X_in and condition or of X_out and
            condition, whichever is lower, as a fraction of 1, float64 ``(…, units + 1)``.
        distinct_states: Number of different states of the condition, int64 ``(…, units + 1)``.
        alone: Fraction of the samples that are alone in their state of the condition, float64
            ``(…, units + 1)``.
        corrected: What ``information`` is by an estimator that corrects for the bias of small
            samples, bits, float64 ``(…, units + 1)``: Grassberger's for an order by plug-in,
            otherwise that of the order.
        gap: Corrected minus plug-in estimate of I(X_in; X_out | condition), bits, float64
            ``(…, units + 1)``.
        resolved: Whether there are samples enough for the place of each unit, bool
            ``(…, units)``: the conditions from the empty one to that with which the unit was
            chosen all have ``coverage >= min_coverage`` and ``|gap| <= max_gap``. Ties are another
            matter (``ambiguous``). The conditions with units that were not chosen are not looked
            at: beside units of many more states than others, these may have lost for lack of
            samples.
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
        """Whether the data leave the place of each unit open, bool ``(…, units)``."""
        sizes = torch.zeros_like(self.groups)
        sizes = sizes.scatter_add(-1, self.groups, torch.ones_like(self.groups))
        return sizes.gather(-1, self.groups) > 1

    def shortfall(self, of_all_subsets: Tensor) -> Tensor:
        """How much less the sets of this order relay than the best sets of the same size.

        Args:
            of_all_subsets: Bits of all subsets of the same data, ``(…, 2**units)``, from
                ``relay_information_of_all_subsets``.

        Returns:
            Bits, float64 ``(…, units + 1)``, entry k for the set that is left when k units have
            gone; 0 where the order is the best.

        Raises:
            ValueError: If the shape does not fit.
        """
        units = self.units.shape[-1]
        wanted = (*self.units.shape[:-1], 2**units)
        if tuple(of_all_subsets.shape) != wanted:
            raise ValueError(
                f"of_all_subsets: got shape {tuple(of_all_subsets.shape)}; it takes {wanted}, from "
                "relay_information_of_all_subsets of the data that the order is of"
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

    ``"shrink"`` starts with all units in R and takes out, one after the other, the unit whose
    removal leaves the largest :math:`I_R = I(X_{in}; X_{out} | Y_0) - I(X_{in}; X_{out} | Y)`.

    ``"grow"`` starts with an empty R and adds, one after the other, the unit that lowers
    :math:`I(X_{in}; X_{out} | Y_R)` most. The units outside R are ignored instead of conditioned
    on, so ``information`` holds :math:`I(X_{in}; X_{out}) - I(X_{in}; X_{out} | Y_R)`. It
    ranks the most important units where few samples are left to tell.

    Candidates within 1e-9 bits of the best are tied; the lowest unit index is taken. The score of
    a unit is the sum of (information of all units - information after the removal) over all
    removals up to and including its own, its mean over the units that are tied with it, divided by
    the largest such mean.

    Args:
        x_in: Integer labels of the input, ``(samples,)`` or broadcastable to ``(…, samples)``; any
            values.
        x_out: Integer labels of the output, of a shape like that of ``x_in``.
        hidden: Integer codes of the units' states, ``(…, samples, units)``; any values, any number
            of levels and of units.
        direction: ``"shrink"`` (of the source) or ``"grow"``.
        beam_width: Number of orders that are followed at the same time; those with the largest
            sum of ``information`` so far (for ``"grow"``: after, not before, each addition) are
            kept, and the best is returned. 1 is greedy.
        valid: Boolean mask broadcastable to ``(…, samples)``; a sample with False is not counted.
        weights: How many times each sample counts, integers broadcastable to ``(…, samples)``;
            default: once.
        estimator: How entropies are estimated from counts.
        min_coverage: A condition with a lower coverage resolves nothing, fraction of 1.
        max_gap: Nor does one whose corrected and plug-in information differ by more, bits.

    Returns:
        The order and its evidence, with the leading dimensions of the arguments.

    Raises:
        TypeError: If labels, codes or weights are not integers.
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
    _check_beam_width(beam_width)
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


def _check_beam_width(beam_width: int) -> None:
    if isinstance(beam_width, bool) or not isinstance(beam_width, int) or beam_width < 1:
        raise ValueError(f"beam_width: got {beam_width!r}; it takes a number of orders from 1")


def _in_groups(
    units: NDArray[np.int64], formed: NDArray[np.int64], information: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """What the units of a tie group share, by unit, each ``(indices, units)``.

    Args:
        units: Units in the order in which they leave, int64 ``(indices, units)``.
        formed: When the tie group of each unit was formed, from 0, likewise.
        information: Information of the sets that are left, float64 ``(indices, units + 1)``.

    Returns:
        Their place, in the order in which groups were formed; the mean of their sums of lost
        information; and the lowest of them.
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


def information_of_sets(
    conditioned: NDArray[np.float64], direction: Direction
) -> NDArray[np.float64]:
    """Information of the sets of an order, all units first, from that of its conditions.

    Args:
        conditioned: I(X_in; X_out | S) before the first unit joins S and after each, bits, float64
            ``(…, units + 1)``.
        direction: Direction of the order.
    """
    if direction == "shrink":
        return conditioned - conditioned[..., -1:]
    return conditioned[..., :1] - conditioned[..., ::-1]


class Grown(NamedTuple):
    """How a condition grew.

    Attributes:
        units: Units in the order in which they joined, int64 ``(units,)``.
        groups: Tie group of each unit: the step at which it was as good as the one that joined, for
            the first time, int64 ``(units,)``.
        tied: Whether each unit was tied when it joined, by unit, bool ``(units,)``.
        conditioned: I(X_in; X_out | S) before the first joined and after each, bits, float64
            ``(units + 1,)``.
        compared: The same by the corrected estimator, or by the plug-in if that is corrected.
        coverage: Good–Turing coverage of (X_in, S) or (X_out, S), whichever is lower, likewise.
        alone: Fraction of the samples that are alone in their state of S, likewise.
        distinct_states: Number of different states of S, int64, likewise.
    """

    units: NDArray[np.int64]
    groups: NDArray[np.int64]
    tied: NDArray[np.bool_]
    conditioned: NDArray[np.float64]
    compared: NDArray[np.float64]
    coverage: NDArray[np.float64]
    alone: NDArray[np.float64]
    distinct_states: NDArray[np.int64]


def grow(
    rows: Rows,
    direction: Direction,
    estimator: Estimator,
    *,
    chosen: Sequence[int] = (),
    priority: NDArray[np.int64] | None = None,
) -> Grown:
    """Put the units into the condition: the chosen ones, or each time the best.

    Args:
        rows: The counted samples.
        direction: Whether the best leaves the largest information (``"shrink"``) or the smallest.
        estimator: How entropies are estimated from counts.
        chosen: Units in the order in which they join; default: the best.
        priority: All units; of tied ones the first here joins. Default: by index.
    """
    psi = psi_of(estimator, rows.samples)
    by_sets = not (rows.counted and psi.additive)
    candidates = np.arange(rows.units) if priority is None else priority
    return Grown(
        *_grown(
            rows.table,
            rows.by_out if by_sets else np.empty(0, dtype=np.uint32),
            rows.masks(np.eye(rows.units if by_sets else 0, rows.units, dtype=np.bool_)),
            (rows.outs, rows.samples, rows.planes, 8 * rows.bytes),
            psi,
            by_sets,
            direction == "shrink",
            np.array(chosen, dtype=np.int64),
            candidates.astype(np.uint32),
        )
    )


@compiled
def _grown(
    table: NDArray[np.uint64],
    by_out: NDArray[np.uint32],
    masks: NDArray[np.uint64],
    sizes: tuple[int, int, int, int],
    psi: Psi,
    by_sets: bool,
    largest: bool,
    chosen: NDArray[np.int64],
    candidates: NDArray[np.uint32],
) -> tuple[
    NDArray[np.int64],
    NDArray[np.int64],
    NDArray[np.bool_],
    NDArray[np.float64],
    NDArray[np.float64],
    NDArray[np.float64],
    NDArray[np.float64],
    NDArray[np.int64],
]:
    """Fields of ``Grown``: all candidates are counted at once, or each in a set of its own."""
    outs, samples, planes, stride = sizes
    units = len(candidates)
    order = np.empty(units, np.int64)
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
    label, bag = np.empty(len(table) + 2, np.uint64), room_for_bags(len(table), outs)
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
        if step == units:
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
    return order, group, tied, conditioned, compared, coverage, alone, distinct_states


def _best_chain(
    rows: Rows, direction: Direction, beam_width: int, estimator: Estimator
) -> list[int]:
    """The units in the order with the largest (growing: smallest) sum of information in a beam."""
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
    """Best first; sums that are tied in the order of their units."""
    total, order = found
    return -round(total / TIE), order
