"""Relay information: how much of what the output knows of the input runs through a set of units."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from lightning_relay.information.arguments import check_codes, check_states, checked_units
from lightning_relay.information.compiled import in_threads
from lightning_relay.information.estimators import Estimator, SetEstimator, check_estimator
from lightning_relay.information.given import information_given
from lightning_relay.information.mutual_information import decoded
from lightning_relay.information.rows import Samples

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

_SETS_AT_ONCE = 64
"""A thread takes so many sets at a time."""


def relay_information(
    x_in: Tensor,
    x_out: Tensor,
    hidden: Tensor,
    relay_units: Sequence[int] | Tensor | None = None,
    *,
    valid: Tensor | None = None,
    weights: Tensor | None = None,
    estimator: SetEstimator = "plugin",
) -> Tensor:
    r"""Relay information I_R of a set R of units, in bits.

    .. math:: I_R = H(X_{in}; X_{out}; Y_R | Y_0)
        = I(X_{in}; X_{out} | Y_0) - I(X_{in}; X_{out} | Y)

    The three-way term is co-information, positive for redundancy: what input, output and R share
    and the units outside R (Y_0) do not have. It can be negative (synergy) and is not monotone
    in R; it is never clipped.

    Args:
        x_in: Integer labels of the input, ``(samples,)`` or broadcastable to ``(…, samples)``; any
            values.
        x_out: Integer labels of the output, of a shape like that of ``x_in``.
        hidden: Integer codes of the units' states, ``(…, samples, units)``; any values, any number
            of levels and of units. With ``"decoder"`` they may be real states.
        relay_units: Indices of the units in R; default: all units. Or many sets at once: a bool
            tensor ``(sets, units)`` in which each line marks the units of one set.
        valid: Boolean mask broadcastable to ``(…, samples)``; a sample with False is not counted.
        weights: How many times each sample counts, integers broadcastable to ``(…, samples)``;
            default: once.
        estimator: How entropies are estimated from counts; or ``"decoder"``: by decoders, of the
            states as they are (``decoded_information``, which says what its value bounds).

    Returns:
        float64 tensor of shape ``(…)``, in bits; ``(…, sets)`` for many sets.

    Raises:
        TypeError: If labels, codes, weights or unit indices are not integers.
        ValueError: If shapes do not fit, a weight is negative, a unit is out of range or named
            twice, the estimator is unknown, or there is no sample to count.

    Example:
        A fair bit and a unit that copies it, beside a unit that is always off:

        >>> import torch
        >>> bit = torch.tensor([0, 1, 0, 1])
        >>> hidden = torch.stack([bit, torch.zeros_like(bit)], dim=-1)
        >>> relay_information(bit, bit, hidden, [0])
        tensor(1., dtype=torch.float64)
        >>> relay_information(bit, bit, hidden, [1])
        tensor(0., dtype=torch.float64)
        >>> sets = torch.tensor([[True, False], [False, True], [True, True]])
        >>> relay_information(bit, bit, hidden, sets).tolist()
        [1.0, 0.0, 1.0]

    Source:
        Hintze and Adami, Detecting Information Relays in Deep Neural Networks, Entropy 25(3):401
        (2023); Hintze, Najam and Schossau, arXiv 2510.01271 (2025).
    """
    if estimator == "decoder":
        check_states(hidden)
    else:
        check_codes(hidden)
    relays = _checked_sets(relay_units, hidden.shape[-1])
    several = isinstance(relay_units, torch.Tensor) and relay_units.dim() == 2
    known = np.concatenate([~relays, np.ones((1, relays.shape[1]), dtype=np.bool_)])
    if estimator == "decoder":
        sets = [np.flatnonzero(members).tolist() for members in known]
        given = decoded(x_in, x_out, hidden, sets, valid, weights)
    else:
        check_estimator(estimator)
        samples = Samples.of(x_in, x_out, hidden, valid, weights)
        given = samples.shaped(_given_sets(samples, estimator, known))
    information = given[..., :-1] - given[..., -1:]
    return information if several else information[..., 0]


def _given_sets(
    samples: Samples, estimator: Estimator, known: NDArray[np.bool_]
) -> list[NDArray[np.float64]]:
    """I(X_in; X_out | S) of every set of known units, at every index: in threads over either."""
    if samples.indices > 1:
        return samples.each(lambda rows: information_given(rows, estimator, known))
    rows = samples.rows(0)
    parts = np.array_split(known, -(-len(known) // _SETS_AT_ONCE))
    found = in_threads(lambda part: information_given(rows, estimator, part), parts)
    return [np.concatenate(found)]


def _checked_sets(relay_units: Sequence[int] | Tensor | None, units: int) -> NDArray[np.bool_]:
    """Which units are in each set R, bool ``(sets, units)``; raises if this is not clear."""
    if isinstance(relay_units, torch.Tensor) and relay_units.dim() == 2:
        if relay_units.dtype != torch.bool or relay_units.shape[1] != units or not len(relay_units):
            raise ValueError(
                f"relay_units: got a tensor {tuple(relay_units.shape)} of {relay_units.dtype}; "
                f"many sets at once take torch.bool (sets, {units}), True for the units of a set"
            )
        return relay_units.cpu().numpy()
    named = range(units) if relay_units is None else relay_units
    relay = np.zeros((1, units), dtype=np.bool_)
    relay[0, checked_units("relay_units", named, units)] = True
    return relay
