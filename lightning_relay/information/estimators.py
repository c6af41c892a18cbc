"""Estimators of entropy from counts: what a state that was seen so often adds."""

from __future__ import annotations

from functools import lru_cache
from math import log
from typing import TYPE_CHECKING, Literal, get_args

import torch

if TYPE_CHECKING:
    from torch import Tensor

Estimator = Literal["plugin", "miller_madow", "grassberger", "chao_shen"]
"""How an entropy is estimated from counts.

``"plugin"`` takes the observed frequencies; the others correct its bias to too small entropies:
``"miller_madow"`` (Miller 1955) adds (states - 1) / (2 samples) nats, ``"grassberger"``
(Grassberger 2003, arXiv physics/0307138, eq. 28) replaces the logarithm of each count,
``"chao_shen"`` (Chao and Shen 2003, Environ. Ecol. Stat. 10:429) weighs each state by its chance of
having been seen and scales the frequencies by the coverage.
"""

SetEstimator = Estimator | Literal["decoder"]
"""How the information of a given set of units is estimated: from counts, or by decoders.

``"decoder"`` takes states as they are, without codes: see ``decoded_information``.
"""

_EULER_GAMMA = 0.5772156649015329


def check_estimator(name: str) -> None:
    """Raise a ValueError unless there is an estimator called ``name``; lists those there are."""
    if name not in get_args(Estimator):
        legal = ", ".join(repr(legal) for legal in get_args(Estimator))
        if name == "decoder":
            raise ValueError(
                "estimator: got 'decoder', which mutual_information and relay_information take for "
                f"given sets of units; here it takes {legal}. To order wide layers, order with one "
                "of these and ask relay_information(…, estimator='decoder') about the sets that "
                "matter"
            )
        raise ValueError(f"estimator: got {name!r}; it takes {legal}")


def is_additive(name: Estimator) -> bool:
    """Whether the estimate is a constant minus a sum over states of a function of their counts."""
    return name != "chao_shen"


def psi_table(name: Estimator, largest: int, device: torch.device) -> Tensor:
    r"""What a state seen ``c`` times adds, for every count up to ``largest``.

    An additive estimate of an entropy from counts :math:`c_i` with the sum N is
    :math:`\log_2 N - \frac{1}{N} \sum_i \psi(c_i)`, up to a constant that is the same for all
    entropies of the same samples (and so falls out of an information).

    Args:
        name: An additive estimator.
        largest: The largest count.
        device: Where the table shall lie.

    Returns:
        float64 tensor in bits with at least ``largest + 1`` entries; 0 for a count of 0. It is
        kept for later calls and must not be changed.
    """
    return _psi_table(name, max(8, largest.bit_length()), device)


@lru_cache(maxsize=16)
def _psi_table(name: Estimator, bits: int, device: torch.device) -> Tensor:
    largest = 2**bits - 1
    counts = torch.arange(largest + 1, dtype=torch.float64, device=device)
    if name == "grassberger":
        return counts * _grassberger_logarithm(largest, device) / log(2)
    table: Tensor = torch.special.xlogy(counts, counts) / log(2)
    if name == "miller_madow":
        table[1:] -= 0.5 / log(2)
    return table


def _grassberger_logarithm(largest: int, device: torch.device) -> Tensor:
    """G(n) of Grassberger (2003), eq. 28, by its recursion, in nats; float64 ``(largest + 1,)``.

    G(1) = -γ - ln 2, G(2) = 2 - γ - ln 2, G(2n+1) = G(2n), G(2n+2) = G(2n) + 2/(2n+1).
    """
    pairs = torch.arange(largest // 2 + 1, dtype=torch.float64, device=device)
    steps = torch.where(pairs > 0, 2 / (2 * pairs - 1), 0.0)
    even = steps.cumsum(0) - _EULER_GAMMA - log(2)
    return even.repeat_interleave(2)[: largest + 1]


def entropy_from_psi(name: Estimator, psi: Tensor, samples: Tensor) -> Tensor:
    """An additive estimate of an entropy, in bits.

    Args:
        name: An additive estimator.
        psi: Sum of psi over the states.
        samples: Number of samples.

    Returns:
        float64 tensor of the shape of the arguments.
    """
    constant = -0.5 / log(2) if name == "miller_madow" else 0.0
    return samples.double().log2() + (constant - psi) / samples


def chao_shen_terms(counts: Tensor, singletons: Tensor, samples: Tensor) -> Tensor:
    """What each state adds to the entropy estimate of Chao and Shen, in bits.

    Where every sample is alone in its state the coverage would be 0 and the estimate undefined;
    one sample less is then taken as alone, as is usual.

    Args:
        counts: Number of samples in each state.
        singletons: Number of samples alone in their state, where the state belongs.
        samples: Number of samples, where the state belongs.

    Returns:
        float64 tensor of the shape that the arguments broadcast to; 0 for a count of 0.
    """
    samples = samples.double()
    alone = torch.where(singletons >= samples, samples - 1, singletons.double())
    frequency = (1 - alone / samples) * counts / samples
    seen = -torch.expm1(samples * torch.log1p(-frequency))
    terms = -torch.special.xlogy(frequency, frequency) / (log(2) * seen)
    return torch.where(frequency > 0, terms, 0.0)
