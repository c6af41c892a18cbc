"""Small reports to save, draw and log."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch

from lightning_relay import HiddenStates, RelayMeasure, RelayReport, relay_report

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
    return relay_report(
        states,
        label,
        label,
        inputs_end=inputs_end,
        concepts=concepts,
        measure=RelayMeasure(**options),
    )


def at_each_step(values: list[float]) -> np.ndarray[Any, np.dtype[Any]]:
    """The same of every unit, or number of units, at each of the six steps of a small report."""
    return np.array([values] * 6)


PLAIN: dict[str, Any] = {
    "information": at_each_step([1.234, 0, 0, 0, 0, 0]),
    "mutual_information": np.full(6, 1.5),
    "told": at_each_step([0, 1, 1.2, 1.234, 1.234, 1.234]),
    "telling": at_each_step([3, 1, 0, -1, -1]).astype(int),
    "share": at_each_step([0.25, 0.5, -0.1, 0.004, 0.0]),
    "unattributed": np.full(6, 0.58),
    "groups": at_each_step([0, 1, 2, 3, 4]).astype(int),
    "resolved": np.ones((6, 5), dtype=bool),
}
"""Results of a concept of a small report in round numbers, for sentences."""


def assert_equal(first: object, second: object, atol: float = 0.0) -> None:
    """Equality of reports, which hold arrays."""
    if dataclasses.is_dataclass(first):
        assert type(first) is type(second)
        for field in dataclasses.fields(first):
            assert_equal(getattr(first, field.name), getattr(second, field.name), atol)
    elif isinstance(first, dict):
        assert isinstance(second, dict)
        assert list(first) == list(second)
        for key in first:
            assert_equal(first[key], second[key], atol)
    elif isinstance(first, tuple):
        assert isinstance(second, tuple)
        assert len(first) == len(second)
        for part, other in zip(first, second, strict=True):
            assert_equal(part, other, atol)
    elif isinstance(first, float):
        assert isinstance(second, float)
        np.testing.assert_allclose(first, second, atol=atol, rtol=0)
    elif isinstance(first, np.ndarray):
        assert isinstance(second, np.ndarray)
        assert first.dtype == second.dtype
        np.testing.assert_allclose(first, second, atol=atol, rtol=0)
    else:
        assert first == second
