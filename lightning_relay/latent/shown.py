"""What pictures and figures of a latent structure have in common: classes, ways, attractors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lightning_relay.latent.structure import Attractors, LatentStructure

KINDS = ("fixed point", "cycle", "continuous attractor")


def frequent_classes(latent: LatentStructure, number: int) -> NDArray[np.int64]:
    """Rows of the most frequent classes, in their order, int64 ``(class,)``."""
    return np.sort(np.argsort(-latent.samples.sum(1), kind="stable")[:number])


def steps_in_time(latent: LatentStructure) -> NDArray[np.int64]:
    """Indices of the steps that count from the start, in the order in which they come."""
    forward = np.flatnonzero(latent.time_steps >= 0)
    return forward[::-1] if latent.backward else forward


def plane(states: NDArray[np.float64]) -> NDArray[np.float64]:
    """The first two components ``(…, 2)``; 0 for the second of a layer of one unit."""
    if states.shape[-1] >= 2:
        return states[..., :2]
    return np.concatenate([states, np.zeros_like(states)], -1)


def variance_along(latent: LatentStructure) -> tuple[str, str]:
    """Percentages of the variance along the first two components, in words."""
    first, second = (*latent.explained, 0.0)[:2]
    return f"{100 * first:.0f} %", f"{100 * second:.0f} %"


def kinds_of(found: Attractors) -> NDArray[np.int64]:
    """Index of the kind of each attractor among ``KINDS``, int64 ``(attractor,)``."""
    return np.where(found.continuous, 2, np.where(found.period > 1, 1, 0))
