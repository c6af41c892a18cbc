"""Bins of real labels and answers: the same edges for both."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, TypeGuard, cast

import numpy as np
import torch

from lightning_relay.information.options import IGNORED
from lightning_relay.reading.labels import BatchEntry, TooFewLabelsError, is_entry

if TYPE_CHECKING:
    from torch import Tensor

Bins = int | Sequence[float] | tuple[str, BatchEntry]
"""Bins of real numbers: how many, with edges at quantiles; their inner edges; or ``"up/down"`` with
the entry of the batch that they are compared with."""

UP_DOWN = "up/down"

_EXAMPLE = f"bins=({UP_DOWN!r}, lambda batch: batch[0][:, -1, 0])"


def check_bins(bins: object) -> None:
    """Refuse what gives no bins, with a TypeError or ValueError."""
    if bins is None or is_up_down(bins):
        return
    if isinstance(bins, str) and bins == UP_DOWN:
        raise ValueError(
            f"bins: got {bins!r} alone; say what a value is compared with, such as the last value "
            f"of the series: {_EXAMPLE}"
        )
    if isinstance(bins, int) and not isinstance(bins, bool):
        if bins < 2:
            raise ValueError(f"bins: got {bins}; it takes at least 2 bins")
        return
    edges = list(bins) if isinstance(bins, Sequence | np.ndarray) else []
    if not edges or isinstance(bins, str) or not all(map(_is_number, edges)):
        raise TypeError(
            f"bins: got {bins!r}; it takes a number of bins, a list of inner edges, or "
            f"({UP_DOWN!r}, entry of the batch to compare with)"
        )
    finite = bool(np.isfinite(edges).all())
    if not finite or any(one >= other for one, other in pairwise(edges)):
        raise ValueError(f"bins: got the edges {edges}; it takes finite numbers that increase")


def is_up_down(bins: object) -> TypeGuard[tuple[str, BatchEntry]]:
    """Whether real numbers are compared with an entry of the batch."""
    if not isinstance(bins, tuple) or len(bins) != 2:
        return False
    return bins[0] == UP_DOWN and is_entry(bins[1])


def bins_in_words(bins: Bins) -> str:
    """The bins, as reports name them beside the source of the numbers."""
    if is_up_down(bins):
        entry = bins[1]
        return f"up or down from {getattr(entry, '__qualname__', repr(entry))}"
    return f"in up to {bins} bins" if isinstance(bins, int) else f"in {len(bins) + 1} bins"


def bin_edges(bins: Bins, values: Tensor) -> tuple[float, ...]:
    """Inner edges of the bins of real numbers, of which those that are NaN do not count.

    Equal quantiles, where many numbers are equal, are one edge. A TooFewLabelsError says so if no
    two bins are left.
    """
    if is_up_down(bins):
        return (0.0,)
    if not isinstance(bins, int):
        return tuple(map(float, cast("Sequence[float]", bins)))
    counted = values[~values.isnan()].double().cpu().numpy()
    if not len(counted):
        raise TooFewLabelsError("target: all labels are NaN, which do not count")
    edges = np.unique(np.quantile(counted, np.arange(1, bins) / bins))
    edges = edges[edges < counted.max()]
    if not len(edges):
        raise TooFewLabelsError(
            f"bins: got {bins}, but the quantiles of the {len(counted)} labels leave one bin, "
            f"because most of them are {counted.max():g}; give the inner edges of bins as a list"
        )
    return tuple(edges.tolist())


def binned(values: Tensor, edges: Sequence[float] | None) -> Tensor:
    """Number of the bin of each real number, int64; ``IGNORED`` for NaN.

    Bin k holds the numbers above edge k - 1, up to and including edge k, all in double precision: a
    single-precision .1 is above .1. Class labels, which have
    no edges, stay as they are.
    """
    if edges is None:
        return values
    inner = torch.tensor(edges, dtype=torch.float64, device=values.device)
    return torch.bucketize(values.double(), inner).masked_fill(values.isnan(), IGNORED)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
