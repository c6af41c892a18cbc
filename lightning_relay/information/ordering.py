"""Greedy orders of the units by what they relay."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Literal, get_args

import torch

from lightning_relay.information.chain import ChainEvidence
from lightning_relay.information.condition import Condition
from lightning_relay.information.estimators import check_estimator
from lightning_relay.information.rows import Samples

if TYPE_CHECKING:
    from torch import Tensor

    from lightning_relay.information.estimators import Estimator
    from lightning_relay.information.rows import Rows

Direction = Literal["shrink", "grow"]
"""Which way a greedy order is found: by taking units out of R, or by putting them in."""

TIE = 1e-9
"""Candidates whose information differs by no more than this many bits are tied."""

_ELEMENTS_AT_ONCE = 2**20
"""Leading indices are ordered together as long as samples times units stay below this."""


@dataclass(frozen=True, eq=False)
class RelayOrder:
    """A greedy order of the units, for every leading index apart, and the evidence for it.

    It reads the same whichever way it was found: the least important unit comes first, and entry
    k of ``information`` is the value with the first k units outside R. The *condition* of entry k
    is what its value was conditioned on: the first k units of a shrinking order, the others of a
    growing one.

    Attributes:
        units: Unit indices in the order in which they leave R, least important first, int64
            ``(…, units)``.
        information: Bits, float64 ``(…, units + 1)``: entry 0 is that of all units, entry k that
            of the set that is left when k units have gone.
        tied: Whether another candidate was as good when the unit at this place was chosen, bool
            ``(…, units)``.
        ambiguous: Whether the data leave the place of the unit at this place open, bool
            ``(…, units)``: at some step it was as good as another, chosen or not.
        scores: Aggregated relay information by unit index, float64 ``(…, units)``, as a fraction
            of the largest; 0 for all units where no unit's sum is positive. Synergy makes some
            negative, without bound.
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
        resolved: Whether there are samples enough for the place of the unit at this place, bool
            ``(…, units)``: the conditions from the empty one to that with which the unit was
            chosen all have ``coverage >= min_coverage`` and ``|gap| <= max_gap``. Ties are
            another matter (``ambiguous``), and the conditions with units that were not chosen are
            not looked at: beside units of many more states than others, these may have lost for
            lack of samples.
    """

    units: Tensor
    information: Tensor
    tied: Tensor
    ambiguous: Tensor
    scores: Tensor
    coverage: Tensor
    distinct_states: Tensor
    alone: Tensor
    corrected: Tensor
    gap: Tensor
    resolved: Tensor

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
    removals up to and including its own, divided by the largest such sum.

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
    with torch.inference_mode():
        parts = [
            _ordered(rows, direction, beam_width, estimator, min_coverage, max_gap)
            for rows in samples.blocks(_ELEMENTS_AT_ONCE if beam_width == 1 else 1)
        ]
    return RelayOrder(
        **{
            field.name: torch.cat([getattr(part, field.name) for part in parts]).reshape(
                *samples.leading, -1
            )
            for field in fields(RelayOrder)
        }
    )


def check_direction(direction: str) -> None:
    """Raise a ValueError unless ``direction`` is ``"shrink"`` or ``"grow"``."""
    if direction not in get_args(Direction):
        raise ValueError(f"direction: got {direction!r}; it takes 'shrink' or 'grow'")


def check_evidence_rule(min_coverage: float, max_gap: float) -> None:
    """Raise unless ``min_coverage`` is a fraction and ``max_gap`` not negative."""
    for name, value in (("min_coverage", min_coverage), ("max_gap", max_gap)):
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise TypeError(f"{name}: got {value!r}; it takes a number")
    if not 0 <= min_coverage <= 1:
        raise ValueError(f"min_coverage: got {min_coverage!r}; it takes a fraction from 0 to 1")
    if not max_gap >= 0:
        raise ValueError(f"max_gap: got {max_gap!r}; it takes bits from 0")


def _check_beam_width(beam_width: int) -> None:
    if isinstance(beam_width, bool) or not isinstance(beam_width, int) or beam_width < 1:
        raise ValueError(f"beam_width: got {beam_width!r}; it takes a number of orders from 1")


def _ordered(
    rows: Rows,
    direction: Direction,
    beam_width: int,
    estimator: Estimator,
    min_coverage: float,
    max_gap: float,
) -> RelayOrder:
    """The order of every leading index of the rows, ``(indices, …)``."""
    largest = direction == "shrink"
    empty = Condition.empty(rows, estimator)
    chosen = None if beam_width == 1 else _best_chain(empty, beam_width, largest=largest)
    grown = grow(empty, chosen, largest=largest)
    evidence = ChainEvidence.of(rows, grown.units)
    plugin, corrected = grown.conditioned, grown.compared
    if estimator != "plugin":
        plugin, corrected = corrected, plugin
    gap = corrected - plugin
    good = (evidence.coverage >= min_coverage) & (gap.abs() <= max_gap)
    resolved = good.cummin(1).values[:, 1:]

    def by_place(values: Tensor) -> Tensor:
        return values if largest else values.flip(1)

    information = information_along(grown.conditioned, direction)
    units = by_place(grown.units)
    return RelayOrder(
        units=units,
        information=information,
        tied=by_place(grown.tied),
        ambiguous=by_place(grown.ambiguous),
        scores=_scores(units, information),
        coverage=by_place(evidence.coverage),
        distinct_states=by_place(evidence.distinct_states),
        alone=by_place(evidence.alone),
        corrected=information_along(corrected, direction),
        gap=by_place(gap),
        resolved=by_place(resolved),
    )


def information_along(conditioned: Tensor, direction: Direction) -> Tensor:
    """Information of the sets of an order, all units first, from that of its conditions.

    Args:
        conditioned: I(X_in; X_out | S) before the first unit joins S and after each, float64
            ``(indices, units + 1)``.
        direction: Direction of the order.
    """
    if direction == "shrink":
        return conditioned - conditioned[:, -1:]
    return conditioned[:, :1] - conditioned.flip(1)


@dataclass(frozen=True)
class Grown:
    """How a condition grew.

    Attributes:
        units: Units in the order in which they joined, int64 ``(indices, units)``.
        tied: Whether each was tied when it joined, bool ``(indices, units)``.
        ambiguous: Whether it was ever as good as another, bool ``(indices, units)``.
        conditioned: I(X_in; X_out | S) before the first joined and after each, bits, float64
            ``(indices, units + 1)``.
        compared: The same by the corrected estimator, or by the plug-in if that is corrected.
    """

    units: Tensor
    tied: Tensor
    ambiguous: Tensor
    conditioned: Tensor
    compared: Tensor


def grow(condition: Condition, chosen: Tensor | None = None, *, largest: bool) -> Grown:
    """Put the units into the condition: the chosen ones, or those that leave most or least.

    Args:
        condition: The empty condition.
        chosen: Units in the order in which they join, int64 ``(indices, units)``; None: each time
            the best.
        largest: Whether the best leaves the largest information, or the smallest.
    """
    units = condition.rows.units
    open_places = torch.zeros_like(condition.columns.candidates, dtype=torch.bool)
    worst = -torch.inf if largest else torch.inf
    moved, tied, conditioned = [], [], [condition.information().unsqueeze(1)]
    compared = [condition.compared]
    for step in range(units):
        candidates = condition.columns.candidates
        values = condition.with_candidates().masked_fill(~condition.open, worst)
        if chosen is None:
            best = values.amax(1, keepdim=True) if largest else values.amin(1, keepdim=True)
            as_good = (values - best).abs_() <= TIE
            place = as_good.byte().argmax(1, keepdim=True)
        else:
            place = (candidates == chosen[:, step, None]).byte().argmax(1, keepdim=True)
            as_good = (values - values.gather(1, place)).abs_() <= TIE
        unit = candidates.gather(1, place)
        several = as_good.sum(1, keepdim=True) > 1
        if bool(several.any()):
            rivals = torch.zeros_like(open_places).scatter_(1, candidates, as_good & several)
            open_places |= rivals
        moved.append(unit)
        tied.append(several)
        conditioned.append(values.gather(1, place))
        condition = condition.with_units(unit.squeeze(1))
        compared.append(condition.compared)
    order = torch.cat(moved, dim=1)
    return Grown(
        order,
        torch.cat(tied, dim=1),
        open_places.gather(1, order),
        torch.cat(conditioned, dim=1),
        torch.stack(compared, dim=1),
    )


def _best_chain(empty: Condition, beam_width: int, *, largest: bool) -> Tensor:
    """The order with the largest (smallest) sum of information in a beam, ``(1, units)``."""
    sign = 1.0 if largest else -1.0
    beams: list[tuple[float, tuple[int, ...], Condition]] = [(0.0, (), empty)]
    for _ in range(empty.rows.units):
        best: dict[frozenset[int], tuple[float, tuple[int, ...], Condition]] = {}
        for total, order, condition in beams:
            values = (sign * condition.with_candidates()[0]).tolist()
            candidates = condition.columns.candidates[0].tolist()
            for value, unit, is_open in zip(
                values, candidates, condition.open[0].tolist(), strict=True
            ):
                found = (total + value, (*order, unit), condition)
                key = frozenset(found[1])
                if is_open and (key not in best or _rank(found) < _rank(best[key])):
                    best[key] = found
        beams = [
            (
                total,
                order,
                condition.with_units(torch.tensor([order[-1]], device=empty.open.device)),
            )
            for total, order, condition in sorted(best.values(), key=_rank)[:beam_width]
        ]
    return torch.tensor([beams[0][1]], device=empty.open.device)


def _rank(found: tuple[float, tuple[int, ...], Condition]) -> tuple[int, tuple[int, ...]]:
    """Best first; sums that are tied in the order of their units."""
    total, order, _ = found
    return -round(total / TIE), order


def _scores(units: Tensor, information: Tensor) -> Tensor:
    lost = information[:, :1] - information[:, 1:]
    sums = torch.zeros_like(lost).scatter_(1, units, lost.cumsum(1))
    largest = sums.amax(1, keepdim=True)
    return torch.where(largest > TIE * units.shape[1], sums / largest, 0.0)
