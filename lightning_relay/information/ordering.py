"""Greedy orders of the units by what they relay."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import torch

from lightning_relay.information.mutual_information import Condition, labelled_rows

if TYPE_CHECKING:
    from torch import Tensor

    from lightning_relay.information.entropy import Estimator

Direction = Literal["shrink", "grow"]
"""Which way a greedy order is found: by taking units out of R, or by putting them in."""

TIE = 1e-9
"""Candidates whose information differs by no more than this many bits are tied."""


@dataclass(frozen=True, eq=False)
class RelayOrder:
    """A greedy order of the units, for every leading index apart.

    It reads the same whichever way it was found: the least important unit comes first, and entry
    k of ``information`` is the value with the first k units outside R.

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
            of the largest; 0 for all units where no unit's sum is positive.
    """

    units: Tensor
    information: Tensor
    tied: Tensor
    ambiguous: Tensor
    scores: Tensor


def relay_order(
    x_in: Tensor,
    x_out: Tensor,
    hidden: Tensor,
    *,
    direction: Direction = "shrink",
    valid: Tensor | None = None,
    estimator: Estimator = "plugin",
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
        valid: Boolean mask broadcastable to ``(…, samples)``; a sample with False is not counted.
        estimator: How entropies are estimated from counts.

    Returns:
        Order, information in bits, ties, ambiguity and scores, with the leading dimensions of the
        arguments.

    Raises:
        TypeError: If labels or codes are not integers.
        ValueError: If shapes do not fit, an option is unknown, or there is no sample to count.

    Example:
        Unit 1 copies a fair bit, unit 0 is always off:

        >>> import torch
        >>> bit = torch.tensor([0, 1, 0, 1])
        >>> order = relay_order(bit, bit, torch.stack([torch.zeros_like(bit), bit], dim=-1))
        >>> order.units.tolist(), order.information.tolist(), order.scores.tolist()
        ([0, 1], [1.0, 1.0, 0.0], [0.0, 1.0])

    Source:
        Hintze and Adami, Entropy 25(3):401 (2023), Algorithm 1 (as in its authors' program). The
        growing order is this project's own.
    """
    check_direction(direction)
    rows = labelled_rows(x_in, x_out, hidden, valid)
    start = Condition.empty(rows, estimator)
    unconditioned = start.information().unsqueeze(1)
    moved, tied, ambiguous, conditioned = _grow_condition(start, largest=direction == "shrink")

    if direction == "shrink":
        units = moved
        information = torch.cat([unconditioned, conditioned], dim=1) - conditioned[:, -1:]
    else:
        units, tied, ambiguous = moved.flip(1), tied.flip(1), ambiguous.flip(1)
        information = unconditioned - torch.cat([unconditioned, conditioned], dim=1).flip(1)

    def shaped(tensor: Tensor) -> Tensor:
        return tensor.reshape(*rows.leading, tensor.shape[1])

    return RelayOrder(
        units=shaped(units),
        information=shaped(information),
        tied=shaped(tied),
        ambiguous=shaped(ambiguous),
        scores=shaped(_scores(units, information)),
    )


def check_direction(direction: str) -> None:
    """Raise a ValueError unless ``direction`` is ``"shrink"`` or ``"grow"``."""
    if direction not in get_args(Direction):
        raise ValueError(f"direction: got {direction!r}; it takes 'shrink' or 'grow'")


def _grow_condition(
    condition: Condition, *, largest: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Put the units into the condition, each time the one that leaves the most or least.

    Returns:
        Units in the order in which they went, whether each was tied when it went, whether it was
        ever as good as another, and I(X_in; X_out | S) after it; all ``(indices, units)``.
    """
    indices, units = condition.rows.samples.numel(), condition.rows.codes.shape[1] - 2
    left = torch.arange(units, device=condition.rows.codes.device).expand(indices, units)
    open_places = torch.zeros_like(left, dtype=torch.bool)
    moved, tied, conditioned = [], [], []
    for _ in range(units):
        rows = condition.rows
        codes = rows.codes.gather(1, 2 + left[rows.index])
        values = condition.information_with(codes)
        best = values.amax(1, keepdim=True) if largest else values.amin(1, keepdim=True)
        as_good = (values - best).abs() <= TIE
        pick = as_good.byte().argmax(1, keepdim=True)
        moved.append(left.gather(1, pick))
        tied.append(as_good.sum(1, keepdim=True) > 1)
        open_places |= torch.zeros_like(open_places).scatter_(1, left, as_good & tied[-1])
        conditioned.append(values.gather(1, pick))
        condition = condition.extended(codes.gather(1, pick[rows.index]).squeeze(1))
        others = torch.arange(left.shape[1] - 1, device=left.device)
        left = left.gather(1, others + (others >= pick))
    order = torch.cat(moved, dim=1)
    ambiguous = open_places.gather(1, order)
    return order, torch.cat(tied, dim=1), ambiguous, torch.cat(conditioned, dim=1)


def _scores(units: Tensor, information: Tensor) -> Tensor:
    lost = information[:, :1] - information[:, 1:]
    sums = torch.zeros_like(lost).scatter_(1, units, lost.cumsum(1))
    largest = sums.amax(1, keepdim=True)
    return torch.where(largest > TIE * units.shape[1], sums / largest, 0.0)
