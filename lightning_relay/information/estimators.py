"""Estimators of entropy from counts: what a state that was seen so often adds."""

from __future__ import annotations

from functools import lru_cache
from math import log
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from lightning_relay.information.compiled import compiled
from lightning_relay.information.options import Estimator, is_additive

if TYPE_CHECKING:
    from numpy.typing import NDArray


CORRECTED: Estimator = "grassberger"
"""The estimator that the plug-in is compared with."""

_EULER_GAMMA = 0.5772156649015329


class Psi(NamedTuple):
    r"""What a bag of samples adds to a sum, by the number of samples in it.

    An additive estimate of an entropy from counts :math:`c_i` with the sum N is
    :math:`\log_2 N - \frac{1}{N} \sum_i \psi(c_i)`, up to a constant that is the same for all
    entropies of the same samples (and so falls out of an information).

    Attributes:
        value: psi in bits, float64 ``(samples + 1,)``; 0 for a count of 0.
        other: psi of the estimator that this one is compared with: of the corrected one if this is
            the plug-in, otherwise of the plug-in.
        pairs: psi(c) + psi(n - c) at place n (n + 1) / 2 + c, for n up to 255.
        additive: Whether the estimator is a sum of psi; if not, psi is that of the plug-in.
    """

    value: NDArray[np.float64]
    other: NDArray[np.float64]
    pairs: NDArray[np.float64]
    additive: bool


def psi_of(name: Estimator, largest: int) -> Psi:
    """Psi of an estimator for every count up to ``largest``; must not be changed."""
    bits = max(9, largest.bit_length())
    additive = name if is_additive(name) else "plugin"
    other: Estimator = CORRECTED if name == "plugin" else "plugin"
    return Psi(_psi(additive, bits), _psi(other, bits), _pairs(additive), is_additive(name))


@lru_cache(maxsize=16)
def _psi(name: Estimator, bits: int) -> NDArray[np.float64]:
    counts = np.arange(2**bits, dtype=np.float64)
    if name == "grassberger":
        grassberger: NDArray[np.float64] = counts * _grassberger_logarithm(len(counts)) / log(2)
        return grassberger
    table: NDArray[np.float64] = counts * np.log2(np.maximum(counts, 1))
    if name == "miller_madow":
        table[1:] -= 0.5 / log(2)
    return table


@lru_cache(maxsize=4)
def _pairs(name: Estimator) -> NDArray[np.float64]:
    psi = _psi(name, 9)
    counts = [np.arange(size + 1) for size in range(2**8)]
    return np.concatenate([psi[count] + psi[count[::-1]] for count in counts])


def _grassberger_logarithm(counts: int) -> NDArray[np.float64]:
    """G(n) of Grassberger (2003), eq. 28, by its recursion, in nats; float64 ``(counts,)``.

    G(1) = -γ - ln 2, G(2) = 2 - γ - ln 2, G(2n+1) = G(2n), G(2n+2) = G(2n) + 2/(2n+1).
    """
    pairs = np.arange(1, counts // 2 + 1, dtype=np.float64)
    even = np.concatenate([[0.0], (2 / (2 * pairs - 1)).cumsum()]) - _EULER_GAMMA - log(2)
    return even.repeat(2)[:counts]


@compiled
def entropy_of_counts(sizes: NDArray[np.uint32], samples: int, psi: Psi) -> float:
    """Entropy in bits of states seen so often, up to the constant that ``Psi`` speaks of.

    Chao and Shen's is exact. Where every sample is alone in its state its coverage would be 0 and
    the estimate undefined; one sample less is then taken as alone, as is usual.
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
    """What the entropies of ``entropy_of_counts`` lack, in bits."""
    return -0.5 / log(2) / samples if name == "miller_madow" else 0.0
