"""Estimators of entropy from counts."""

from __future__ import annotations

from functools import lru_cache
from math import log
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from lightning_relay.information.compiled import compiled
from lightning_relay.information.options import Estimator, is_additive

if TYPE_CHECKING:
    from lightning_relay.information.compiled import Floats, Numbers

_EULER_GAMMA = 0.5772156649015329


class Psi(NamedTuple):
    r"""The function psi of an estimator as tables: what a bag adds, by its number of samples.

    An additive estimate of an entropy from counts :math:`c_i` with the sum N is
    :math:`\log_2 N - \frac{1}{N} \sum_i \psi(c_i)`, up to a constant that all entropies of the
    same samples share, so that it cancels in an information.
    """

    value: Floats  # psi in bits by count, at least (samples + 1,); 0 for a count of 0.
    other: Floats  # psi of Grassberger's estimator for the plug-in, of the plug-in for the others.
    pairs: Floats  # psi(c) + psi(n - c) at place n (n + 1) / 2 + c, for n up to 255.
    additive: bool  # Whether the estimator is a sum of psi; if not, psi is that of the plug-in.


def psi_of(name: Estimator, largest: int) -> Psi:
    """Psi of an estimator for counts up to ``largest``. It is cached: do not write to it."""
    bits = max(9, largest.bit_length())
    additive = name if is_additive(name) else "plugin"
    other: Estimator = "grassberger" if name == "plugin" else "plugin"
    return Psi(_psi(additive, bits), _psi(other, bits), _pairs(additive), is_additive(name))


@lru_cache(maxsize=16)
def _psi(name: Estimator, bits: int) -> Floats:
    counts = np.arange(2**bits, dtype=np.float64)
    if name == "grassberger":
        grassberger: Floats = counts * _grassberger_logarithm(len(counts)) / log(2)
        return grassberger
    table: Floats = counts * np.log2(np.maximum(counts, 1))
    if name == "miller_madow":
        table[1:] -= 0.5 / log(2)
    return table


@lru_cache(maxsize=4)
def _pairs(name: Estimator) -> Floats:
    psi = _psi(name, 9)
    counts = [np.arange(size + 1) for size in range(2**8)]
    return np.concatenate([psi[count] + psi[count[::-1]] for count in counts])


def _grassberger_logarithm(counts: int) -> Floats:
    """G(n) of Grassberger (2003), eq. 28, by its recursion, in nats; float64 ``(counts,)``.

    G(1) = -γ - ln 2, G(2) = 2 - γ - ln 2, G(2n+1) = G(2n), G(2n+2) = G(2n) + 2/(2n+1).
    """
    pairs = np.arange(1, counts // 2 + 1, dtype=np.float64)
    even = np.concatenate([[0.0], (2 / (2 * pairs - 1)).cumsum()]) - _EULER_GAMMA - log(2)
    return even.repeat(2)[:counts]


@compiled
def entropy_of_counts(sizes: Numbers, samples: int, psi: Psi) -> float:
    """Entropy in bits of states of these sizes, without ``constant_of`` the estimator.

    If every sample is alone in its state, Chao and Shen's coverage would be 0 and the estimate
    undefined. As is usual, one sample fewer then counts as alone.
    """
    if psi.additive:
        total = 0.0
        for size in sizes:
            total += psi.value[size]
        return float(np.log2(samples) - total / samples)
    alone = 0
    for size in sizes:
        alone += size == 1
    coverage = 1 - min(alone, samples - 1) / samples
    total = 0.0
    for size in sizes:
        frequency = coverage * size / samples
        if frequency > 0:
            total -= frequency * np.log2(frequency) / -np.expm1(samples * np.log1p(-frequency))
    return total


def constant_of(name: Estimator, samples: int) -> float:
    """The constant that ``entropy_of_counts`` leaves out, in bits."""
    return -0.5 / log(2) / samples if name == "miller_madow" else 0.0
