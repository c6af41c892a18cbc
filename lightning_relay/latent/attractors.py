"""Attractors of a module: which visited states lead to which."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from lightning_relay.information import entropy, mutual_information
from lightning_relay.latent.settling import settle
from lightning_relay.latent.structure import Attractors

if TYPE_CHECKING:
    from torch import Tensor

    from lightning_relay.latent.module_map import ModuleMap
    from lightning_relay.latent.options import LatentMeasure
    from lightning_relay.latent.settling import Settled
    from lightning_relay.recurrent.keys import StateKey

_DESCRIBED = 32
"""Number of attractors whose eigenvalues are computed."""

_POINTS = 32
"""Maximum number of states that are kept of a continuous attractor."""


def attractors_of(
    step: ModuleMap, starts: Tensor, x_in: Tensor, measure: LatentMeasure
) -> dict[StateKey, Attractors]:
    """Attractors that states ``(start, state)`` lead to, with the states of each layer on them."""
    with torch.inference_mode(False), torch.no_grad():
        starts = starts.clone()
        spread = float(starts.var(0, correction=0).sum().sqrt()) or 1.0
        found = settle(step, starts, spread, measure.n_steps, measure.max_period)
        return _described(step, found, x_in, spread, measure)


def _described(
    step: ModuleMap, found: Settled, x_in: Tensor, spread: float, measure: LatentMeasure
) -> dict[StateKey, Attractors]:
    classes, label = x_in.unique(return_inverse=True)
    groups, orbit_group = found.group.unique(return_inverse=True)
    settled = found.orbit >= 0
    ends = torch.full_like(found.orbit, -1)
    ends[settled] = orbit_group[found.orbit[settled]]
    sizes = torch.bincount(ends[settled], minlength=len(groups))
    ranked = sizes.argsort(descending=True, stable=True)
    basins = torch.zeros(len(groups), len(classes), dtype=torch.int64)
    basins.index_put_((ends[settled], label[settled]), torch.tensor(1), accumulate=True)
    orbit_sizes = torch.bincount(found.orbit[settled], minlength=len(found.orbits))

    eigenvalues = torch.full((len(groups), sum(step.units.values())), torch.nan + 0j)
    eigenvalues = eigenvalues.to(torch.complex128)
    period, continuous, radius, points, owner = [], [], [], [], []
    for place, group in enumerate(ranked.tolist()):
        orbits = (orbit_group == group).nonzero()[:, 0]
        largest = found.orbits[int(orbits[orbit_sizes[orbits].argmax()])]
        states = largest
        if len(orbits) > 1:
            firsts = torch.stack([found.orbits[row][0] for row in orbits.tolist()])
            states = firsts[torch.linspace(0, len(firsts) - 1, min(len(firsts), _POINTS)).long()]
        period.append(len(largest))
        continuous.append(len(orbits) > 1)
        radius.append(float((states - states.mean(0)).norm(dim=1).max()) / spread)
        points.append(states)
        owner += [place] * len(states)
        if place < _DESCRIBED:
            own = torch.linalg.eigvals(torch.linalg.multi_dot(_jacobians(step, largest)))
            eigenvalues[place] = own[own.abs().argsort(descending=True)]
    outcome = ends.masked_fill(~settled, len(groups))
    label_bits = mutual_information(label, outcome, estimator="grassberger")
    states = torch.cat(points) if points else torch.zeros(0, sum(step.units.values()))
    return {
        key: Attractors(
            period=np.array(period, dtype=np.int64),
            continuous=np.array(continuous, dtype=np.bool),
            radius=np.array(radius, dtype=np.float64),
            eigenvalues=eigenvalues.numpy(),
            states=states[:, part].double().numpy(),
            attractor=np.array(owner, dtype=np.int64),
            classes=classes.numpy(),
            basins=basins[ranked].numpy(),
            unsettled=_counts(label[~settled & ~found.diverged], len(classes)),
            diverged=_counts(label[found.diverged], len(classes)),
            label_bits=float(label_bits),
            input_bits=float(entropy(label.unsqueeze(-1))),
            n_steps=measure.n_steps,
            inputs=step.kind,
        )
        for key, part in step.parts.items()
    }


def _jacobians(step: ModuleMap, phases: Tensor) -> list[Tensor]:
    """Jacobians of the steps of a cycle, last step first; the identity goes before a single one."""
    found = list(step.jacobian(phases).flip(0))
    return found if len(found) > 1 else [torch.eye(len(found[0]), dtype=phases.dtype), *found]


def _counts(label: Tensor, classes: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    counts: np.ndarray[tuple[int], np.dtype[np.int64]] = torch.bincount(
        label, minlength=classes
    ).numpy()
    return counts
