"""Small reports to save, draw and log."""

from __future__ import annotations

from typing import Any

import torch

from lightning_relay import HiddenStates, RelayReport, relay_report

EVIDENCE = {"n_permutations": 19, "n_bootstraps": 40}
"""Options that ask for everything, as little of it as can be."""


def small_report(
    steps: int = 6,
    units: int = 5,
    *,
    inputs_end: int | None = 2,
    concepts: str = "joint",
    **options: Any,
) -> RelayReport:
    generator = torch.Generator().manual_seed(0)
    label = torch.randint(4, (80,), generator=generator)
    values = 0.1 * torch.randn(80, steps, units, generator=generator)
    values[..., 0] += (label & 1)[:, None]
    values[..., 1 % units] += (label >> 1)[:, None]
    states = {"rnn.l0": HiddenStates(values, torch.ones(80, steps, dtype=torch.bool))}
    return relay_report(states, label, label, inputs_end=inputs_end, concepts=concepts, **options)
