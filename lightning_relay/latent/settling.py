"""Where a map settles when it is applied again and again: fixed points, cycles, continua."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable

    Map = Callable[[Tensor], Tensor]

_SETTLED = 1e-6
"""A state has settled if it comes back to within this fraction of the spread."""

_SAME = 1e-2
"""Settled states within this fraction of the spread are one."""

_OUT = 1e6
"""A state has diverged if it is further away than this many times the spread."""

_PARTS = (0.3, 0.45, 0.65)
"""Where states between two others are tried, as fractions of the way; not symmetric on purpose."""

_BETWEEN = 0.8
"""A state between two others is at most this fraction of their distance away from each."""

_LEVELS = 2
"""How often the way between two states is divided, to find attractors that nobody visited."""

_APART = 0.03
"""States in between differ by at least this fraction of the distance."""


@dataclass(frozen=True, eq=False)
class Settled:
    """Where each start ends.

    Attributes:
        orbits: States ``(phase, state)`` of each different orbit that was found.
        group: Attractor of each orbit, int64 ``(orbit,)``; orbits of one continuous set share it.
        orbit: Orbit in which each start ends, int64 ``(start,)``; -1 if it does not settle.
        diverged: Whether the iteration leaves all bounds, bool ``(start,)``.
    """

    orbits: list[Tensor]
    group: Tensor
    orbit: Tensor
    diverged: Tensor


def settle(step: Map, starts: Tensor, spread: float, n_steps: int, max_period: int) -> Settled:
    """Iterate a map from states ``(start, state)``, float64, and find where they settle.

    ``spread`` is the typical distance of visited states from their mean.
    """
    ends, period, diverged = _iterated(step, starts, spread, n_steps, max_period)
    orbits: list[Tensor] = []
    orbit = torch.full((len(starts),), -1)
    for length in period[period > 0].unique().tolist():
        left = (period == length).nonzero()[:, 0]
        while len(left):
            phases = _phases(step, ends[left[0]], length)
            same = torch.cdist(ends[left], phases).amin(1) <= _SAME * spread
            same[0] = True
            orbit[left[same]] = len(orbits)
            orbits.append(phases)
            left = left[~same]
    return Settled(orbits, _joined(step, orbits, spread, n_steps, max_period), orbit, diverged)


def _iterated(
    step: Map, starts: Tensor, spread: float, n_steps: int, max_period: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Last states; their period, 0 if they have not settled; and whether they diverged."""
    state, left = starts.clone(), torch.arange(len(starts))
    period, seen = torch.zeros(2, len(starts), dtype=torch.int64)
    out = torch.zeros(len(starts), dtype=torch.bool)
    bound = _OUT * max(spread, float(starts.norm(dim=1).max()))
    for _ in range(0, n_steps, max_period):
        if not len(left):
            break
        begin = now = state[left]
        found = torch.zeros_like(left)
        farthest = torch.zeros(len(left), dtype=torch.float64)
        for lag in range(1, max_period + 1):
            now = step(now)
            away = (now - begin).norm(dim=1)
            returned = (found == 0) & (away <= _SETTLED * spread)
            # A cycle so small is a fixed point that states approach from two sides, or spirally.
            found[returned] = torch.where(farthest[returned] <= _SAME * spread, 1, lag)
            farthest = torch.maximum(farthest, away)
        gone = ~(now.norm(dim=1) <= bound)
        # Once is not enough: chaos comes close to where it was, too.
        sure = (found > 0) & (found == seen[left])
        state[left], seen[left], out[left] = now, found, gone
        period[left[sure & ~gone]] = found[sure & ~gone]
        left = left[~sure & ~gone]
    return state, period, out


def _phases(step: Map, state: Tensor, period: int) -> Tensor:
    """States of a cycle ``(phase, state)`` in the order in which they follow."""
    phases = [state]
    for _ in range(period - 1):
        phases.append(step(phases[-1]))
    return torch.stack(phases)


def _joined(
    step: Map, orbits: list[Tensor], spread: float, n_steps: int, max_period: int
) -> Tensor:
    """Attractor of each orbit: those are of one whose states in between settle in between."""
    group = torch.arange(len(orbits))
    for period in {len(orbit) for orbit in orbits}:
        own = torch.tensor([row for row, orbit in enumerate(orbits) if len(orbit) == period])
        phases = torch.stack([orbits[row] for row in own])  # (orbit, phase, state)
        apart = torch.cdist(phases[:, 0], phases.flatten(0, 1)).unflatten(1, (len(own), period))
        nearest, phase = apart.min(2)
        edges = _spanning_tree(nearest)
        if not len(edges):
            continue
        first, second = edges.T
        ends = torch.stack([phases[first, 0], phases[second, phase[first, second]]])
        joined = torch.ones(len(edges), dtype=torch.bool)
        path = ends.unsqueeze(1)  # (end, part, edge, state)
        for _ in range(_LEVELS):
            some = torch.stack([torch.lerp(path[0], path[1], part) for part in _PARTS])
            state, found, _ = _iterated(step, some.flatten(0, 2), spread, n_steps, max_period)
            cycles = _phases(step, state, period).unflatten(1, some.shape[:3])
            joined &= (found == period).view(-1, len(edges)).all(0)
            between, inside = _between(cycles, *path)
            joined &= between.all(0)
            points = torch.cat([path[:1], inside, path[1:]])
            path = torch.stack([points[:-1], points[1:]]).flatten(1, 2)
        for one, other in zip(own[first[joined]], own[second[joined]], strict=True):
            group[group == group[other]] = group[one].clone()
    return group


def _spanning_tree(apart: Tensor) -> Tensor:
    """Edges ``(edge, 2)`` of the minimum spanning tree of points with these distances (Prim)."""
    edges = []
    reached = torch.zeros(len(apart), dtype=torch.bool)
    reached[0] = True
    nearest, source = apart[0].clone(), torch.zeros(len(apart), dtype=torch.int64)
    for _ in range(len(apart) - 1):
        new = int(nearest.masked_fill(reached, torch.inf).argmin())
        edges.append([int(source[new]), new])
        reached[new] = True
        closer = apart[new] < nearest
        nearest[closer], source[closer] = apart[new][closer], new
    return torch.tensor(edges).reshape(-1, 2)


def _between(cycles: Tensor, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Whether the cycles tried between two states pass between them, and where.

    ``cycles`` are ``(phase, try, part, pair, state)``, the two states ``(part, pair, state)``. The
    cycles must differ from each other: an attractor between the two draws them together. Gives
    bool ``(part, pair)`` and the phases nearest to both, ``(try, part, pair, state)``.
    """
    distance = (first - second).norm(dim=-1)
    away = torch.stack([(cycles - end).norm(dim=-1) for end in (first, second)]).amax(0)
    nearest, phase = away.min(0)
    inside = cycles.take_along_dim(phase[None, ..., None], 0)[0]
    apart = torch.stack(
        [
            (inside[one] - inside[two]).norm(dim=-1)
            for one, two in combinations(range(len(inside)), 2)
        ]
    )
    passes = (nearest <= _BETWEEN * distance).all(0) & (apart >= _APART * distance).all(0)
    return passes, inside
