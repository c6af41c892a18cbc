"""What a matrix of steps says of lags: mean by lag, half-life and period."""

from __future__ import annotations

from math import inf, nan
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_HALF = 0.5


def lag_profile(
    transfer: NDArray[np.float64], time_steps: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Mean transfer by lag from 1 on, over pairs of these steps; NaN without a pair."""
    lags = np.abs(time_steps[:, np.newaxis] - time_steps)
    profile = np.full(lags.max(initial=0), nan)
    for lag in np.unique(lags[lags > 0]):
        found = transfer[lags == lag]
        if np.isfinite(found).any():
            profile[lag - 1] = np.nanmean(found)
    return profile


def half_life(profile: NDArray[np.float64]) -> float:
    """First lag at which a profile is below one half."""
    below = np.flatnonzero(profile < _HALF)
    if len(below):
        return float(below[0] + 1)
    return inf if np.isfinite(profile).any() else nan


def period(profile: NDArray[np.float64]) -> int:
    """Lag in the first half of a profile at which it first returns; 0 if it does not."""
    lowest = inf
    for place, here in enumerate(profile[: -(-len(profile) // 2)]):
        after = profile[place + 1] if place + 1 < len(profile) else nan
        if here >= max(_HALF, lowest + _HALF) and not after > here:
            return place + 1
        lowest = min(lowest, here) if np.isfinite(here) else lowest
    return 0
