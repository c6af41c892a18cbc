"""Intervals of relay information and stability of orders, from resampled sequences."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
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

    from lightning_relay.information.compiled import Floats, Ints
    from lightning_relay.information.rows import Rows

_MOST_DRAWS = 20
"""Largest number of draws for each resample that is wanted."""


@dataclass(frozen=True, eq=False)
class BootstrapIntervals:
    """How much an order and its information change with the sample.

    Read the intervals only where the order is resolved. Where most samples are alone in their
    states, resampling does not show how far the estimate is from the truth.

    Attributes:
        order: The order of all samples.
        lower: Lower ends of the intervals of ``order.information``, bits, float64
            ``(…, units + 1)``.
        upper: Upper ends of the intervals of ``order.information``, bits, float64
            ``(…, units + 1)``.
        rank_lower: Lower ends of the intervals of each unit's place in the order, by unit index,
            float64 ``(…, units)``. The unit at place 0 leaves first and is the least important.
        rank_upper: Upper ends of the intervals of each unit's place in the order, by unit index,
            float64 ``(…, units)``.
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

    A resample of N samples (sequences) draws N of them with replacement, the same at all leading
    indices (time steps). Each resample gives the information of the sets in the order of
    all samples, and a new order. Intervals of the information are basic bootstrap intervals,
    :math:`2 \hat I - q_{1 - \alpha/2} \dots 2 \hat I - q_{\alpha/2}` with quantiles q of the
    resamples. They also undo the part of the estimator's bias that resampling shows. Intervals of
    the places are quantiles. Each resample breaks ties at random, so units that the data do not
    order have wide intervals.

    Args:
        x_in: Integer labels of the input, ``(samples,)`` or broadcastable to ``(…, samples)``.
        x_out: Integer labels of the output, ``(samples,)`` or broadcastable to ``(…, samples)``.
        hidden: Integer codes of the units' states, ``(…, samples, units)``.
        direction: Direction of the order, as for ``relay_order``.
        n_bootstraps: Number of resamples.
        confidence: Confidence of the intervals, fraction of 1.
        valid: Boolean mask broadcastable to ``(…, samples)``; a sample with False is not counted.
            A resample that leaves a leading index without a sample is drawn anew.
        estimator: Estimator of entropies from counts.
        seed: Seed of the resampling. No other random state is touched.

    Returns:
        Intervals and stability, with the leading dimensions of the arguments.

    Raises:
        TypeError: If labels or codes are not integers, or ``n_bootstraps`` is not an int.
        ValueError: If shapes do not fit, an option is unknown or out of range, there is no sample
            to count, there are too few resamples for the confidence, or hardly any resample has a
            sample at every leading index.

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
    drawn = _drawn(n_bootstraps, hidden.shape[-2], valid, generator)
    shuffled = [
        torch.randperm(samples.units, generator=generator, device="cpu").numpy()
        for _ in range(n_bootstraps)
    ]
    found = []
    for index, units in enumerate(order.units.reshape(samples.indices, -1).cpu().numpy()):
        chain = units[:: 1 if direction == "shrink" else -1]
        resampled = partial(_resampled, *samples.merged(index), chain, direction, estimator)
        results = in_threads(resampled, zip(drawn, shuffled, strict=True))
        found.append([np.stack(part) for part in zip(*results, strict=True)])
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
) -> list[Ints]:
    """How often each resample has each sample, int64 ``(samples,)``."""
    drawn: list[Ints] = []
    for _ in range(_MOST_DRAWS * n_bootstraps):
        places = torch.randint(samples, (samples,), generator=generator, device="cpu")
        weights = torch.bincount(places, minlength=samples)
        if valid is None or bool((valid.cpu() & (weights > 0)).any(-1).all()):
            drawn.append(weights.numpy())
        if len(drawn) == n_bootstraps:
            return drawn
    raise ValueError(
        f"valid: got leading indices with so few samples that only {len(drawn)} of "
        f"{_MOST_DRAWS * n_bootstraps} resamples have a sample at each; leave out the indices with "
        "the fewest samples"
    )


def _resampled(
    rows: Rows,
    row: NDArray[np.int32],
    chain: Ints,
    direction: Direction,
    estimator: Estimator,
    draw: tuple[Ints, Ints],
) -> tuple[Floats, Floats]:
    """Information of the sets of an order, and places by a new one, from one resample."""
    weights, priority = draw
    counts = np.bincount(row[row >= 0], weights[row >= 0], len(rows.table))
    again = rows.reweighted(counts.astype(np.uint64))
    joined = grow(again, direction, estimator, priority=priority).units
    places = np.empty(len(joined))
    places[joined] = np.arange(len(joined))
    if direction == "grow":
        places = len(joined) - 1 - places
    return information_of_sets(information_along(again, estimator, chain), direction), places


def _spearman(first: Tensor, second: Tensor) -> Tensor:
    """Rank correlation of two orders without ties, over the last dimension."""
    units = first.shape[-1]
    distance = (first - second).square().sum(-1)
    return 1 - 6 * distance / max(1, units * (units**2 - 1))
