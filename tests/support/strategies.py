"""Random discrete data for the laws that hold for all inputs."""

from __future__ import annotations

from typing import NamedTuple

import torch
from hypothesis import strategies as st


class Data(NamedTuple):
    x_in: torch.Tensor
    x_out: torch.Tensor
    hidden: torch.Tensor


@st.composite
def discrete_data(draw: st.DrawFn, max_units: int = 5) -> Data:
    """Labels ``(samples,)`` and codes ``(samples, units)``, related by a random amount."""
    samples = draw(st.integers(1, 60))
    units = draw(st.integers(1, max_units))
    classes = draw(st.integers(1, 4))
    levels = draw(st.integers(1, 3))
    noise = draw(st.sampled_from([0.0, 0.1, 1.0]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32 - 1)))

    def noisy(exact: torch.Tensor, high: int) -> torch.Tensor:
        random = torch.randint(high, exact.shape, generator=generator)
        return torch.where(torch.rand(exact.shape, generator=generator) < noise, random, exact)

    x_in = torch.randint(classes, (samples,), generator=generator)
    codebook = torch.randint(levels, (classes, units), generator=generator)
    return Data(x_in, noisy(x_in, classes), noisy(codebook[x_in], levels))
