"""Intervals for relay information and the stability of orders, by resampling sequences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from lightning_relay.information.compiled import in_threads
from lightning_relay.information.given import information_along
from lightning_relay.information.options import (
    Direction,
    Estimator,
    check_direction,
    check_estimator,
    check_resamples,
)
from lightning_relay.information.ordering import RelayOrder, grow, information_of_sets, relay_order
from lightning_relay.information.rows import Samples

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from lightning_relay.information.rows import Rows

_MOST_DRAWS = 20
"""Resamples are drawn anew at most so often for each that is wanted."""


@dataclass(frozen=True, eq=False)
class BootstrapIntervals:
    """How much an order and its information change with the sample.

    Intervals are worth something only where the order is resolved: where the samples are alone in
    their states, resampling cannot show how far the estimate is from the truth.

    Attributes:
        order: The order of all samples.
        lower: Lower ends of intervals of ``order.information``, bits, float64 ``(…, units + 1)``.
        upper: Upper ends, bits, float64 ``(…, units + 1)``.
        rank_lower: Lower ends of intervals of the place of each unit in the order, by unit index,
            float64 ``(…, units)``; place 0 leaves first and is the least important.
        rank_upper: Upper ends, float64 ``(…, units)``.
        rank_stability: Mean rank correlation (Spearman) of the orders of the resamples with
            ``order``, float64 ``(…)``; 1 for a single unit.
        confidence: Fraction of samples for which an interval should hold the true value.
        n_bootstraps: Number of resamples.
        seed: Seed of the resampling.
    """

    order: RelayOrder
    lower: Tensor
    upper: Tensor
    rank_lower: Tensor
    rank_upper: Tensor
    rank_stability: Tensor
    confidence: float
    n_bootstraps: int
    seed: int


def bootstrap(
    x_in: Tensor,
    x_out: Tensor,
    hidden: Tensor,
    *,
    direction: Direction = "shrink",
    n_bootstraps: int = 200,
    confidence: float = 0.95,
    valid: Tensor | None = None,
    estimator: Estimator = "plugin",
    seed: int = 0,
) -> BootstrapIntervals:
    r"""Bootstrap intervals of relay information and of the places of the units in an order.

    The same samples (sequences) are drawn at all leading indices (time steps), as often as there
    are, with replacement. The information of the sets of the order of all samples is computed from
    each resample, and a new order found. Intervals of the information are basic bootstrap
    intervals, :math:`2 \hat I - q_{1 - \alpha/2} \dots 2 \hat I - q_{\alpha/2}` with quantiles q of
    the resamples: they also undo the bias of the estimator as far as resampling shows it. Those of
    the places are quantiles; ties are broken at random in each resample, so that units that the
    data do not order have wide ones.

    Args:
        x_in: Integer labels of the input, ``(samples,)`` or broadcastable to ``(…, samples)``; any
            values.
        x_out: Integer labels of the output, of a shape like that of ``x_in``.
        hidden: Integer codes of the units' states, ``(…, samples, units)``.
        direction: Direction of the order, as for ``relay_order``.
        n_bootstraps: Number of resamples.
        confidence: Confidence of the intervals, fraction of 1.
        valid: Boolean mask broadcastable to ``(…, samples)``; a sample with False is not counted.
            Resamples in which a leading index has no sample are drawn anew.
        estimator: How entropies are estimated from counts.
        seed: Seed of the resampling; no other random state is touched.

    Returns:
        Intervals and stability, with the leading dimensions of the arguments.

    Raises:
        TypeError: If labels or codes are not integers.
        ValueError: If shapes do not fit, an option is unknown or out of range, there is no sample
            to count, or too few resamples for the confidence.

    Example:
        >>> import torch
        >>> bit = torch.tensor([0, 1]).repeat(50)
        >>> found = bootstrap(bit, bit, torch.stack([torch.zeros_like(bit), bit], dim=-1))
        >>> bool(found.lower[0] > 0.9), found.rank_lower.tolist(), found.rank_upper.tolist()
        (True, [0.0, 1.0], [0.0, 1.0])

    Source:
        Davison and Hinkley, Bootstrap Methods and their Application (1997), section 5.2.
    """
    check_direction(direction)
    check_estimator(estimator)
    check_resamples(n_bootstraps, confidence)
    samples = Samples.of(x_in, x_out, hidden, valid)
    order = relay_order(x_in, x_out, hidden, direction=direction, valid=valid, estimator=estimator)
    generator = torch.Generator().manual_seed(seed)
    drawn = _drawn(n_bootstraps, hidden.shape[-2], valid, generator).numpy()
    shuffled = [
        torch.randperm(samples.units, generator=generator, device="cpu").numpy()
        for _ in range(n_bootstraps)
    ]
    found = []
    for index, units in enumerate(order.units.reshape(samples.indices, -1).cpu().numpy()):
        rows, row = samples.merged(index)
        chain = units[:: 1 if direction == "shrink" else -1]

        def resampled(
            number: int,
            rows: Rows = rows,
            row: NDArray[np.int32] = row,
            chain: NDArray[np.int64] = chain,
        ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
            counts = np.bincount(row[row >= 0], drawn[number][row >= 0], len(rows.table))
            again = rows.reweighted(counts.astype(np.uint64))
            joined = grow(again, direction, estimator, priority=shuffled[number]).units
            places = np.empty(len(joined))
            places[joined] = np.arange(len(joined))
            if direction == "grow":
                places = len(joined) - 1 - places
            given = information_along(again, estimator, chain)
            return information_of_sets(given, direction), places

        found.append(
            [
                np.stack(part)
                for part in zip(*in_threads(resampled, range(n_bootstraps)), strict=True)
            ]
        )
    information, places = (samples.shaped(part) for part in zip(*found, strict=True))
    tail = (1 - confidence) / 2
    ends = torch.tensor([tail, 1 - tail], dtype=torch.float64, device=hidden.device)
    low, high = torch.quantile(information, ends, dim=-2)
    rank_lower, rank_upper = torch.quantile(places, ends, dim=-2)
    return BootstrapIntervals(
        order=order,
        lower=2 * order.information - high,
        upper=2 * order.information - low,
        rank_lower=rank_lower,
        rank_upper=rank_upper,
        rank_stability=_spearman(places, order.units.argsort(-1).double().unsqueeze(-2)).mean(-1),
        confidence=confidence,
        n_bootstraps=n_bootstraps,
        seed=seed,
    )


def _drawn(
    n_bootstraps: int, samples: int, valid: Tensor | None, generator: torch.Generator
) -> Tensor:
    """How often each sample is in each resample, int64 ``(resamples, samples)``."""
    drawn: list[Tensor] = []
    for _ in range(_MOST_DRAWS * n_bootstraps):
        places = torch.randint(samples, (samples,), generator=generator, device="cpu")
        weights = torch.bincount(places, minlength=samples)
        if valid is None or bool((valid.cpu() & (weights > 0)).any(-1).all()):
            drawn.append(weights)
        if len(drawn) == n_bootstraps:
            return torch.stack(drawn)
    raise ValueError(
        f"valid: got leading indices with so few samples that hardly any resample has one of each; "
        f"of {_MOST_DRAWS * n_bootstraps} resamples {len(drawn)} had: leave out the indices with "
        "the fewest samples"
    )


def _spearman(first: Tensor, second: Tensor) -> Tensor:
    """Rank correlation of two orders without ties, over the last dimension."""
    units = first.shape[-1]
    distance = (first - second).square().sum(-1)
    return 1 - 6 * distance / max(1, units * (units**2 - 1))
