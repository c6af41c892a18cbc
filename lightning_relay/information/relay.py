"""Relay information: how much of what the output knows of the input runs through a set of units."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from lightning_relay.information.arguments import check_codes, check_states, checked_units
from lightning_relay.information.estimators import SetEstimator, check_estimator
from lightning_relay.information.mutual_information import (
    ELEMENTS_AT_ONCE,
    decoded,
    information_given,
)
from lightning_relay.information.rows import Samples

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


def relay_information(
    x_in: Tensor,
    x_out: Tensor,
    hidden: Tensor,
    relay_units: Sequence[int] | None = None,
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
        relay_units: Indices of the units in R; default: all units.
        valid: Boolean mask broadcastable to ``(…, samples)``; a sample with False is not counted.
        weights: How many times each sample counts, integers broadcastable to ``(…, samples)``;
            default: once.
        estimator: How entropies are estimated from counts; or ``"decoder"``: by decoders, of the
            states as they are (``decoded_information``, which says what its value bounds).

    Returns:
        float64 tensor of shape ``(…)``, in bits.

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

    Source:
        Hintze and Adami, Detecting Information Relays in Deep Neural Networks, Entropy 25(3):401
        (2023); Hintze, Najam and Schossau, arXiv 2510.01271 (2025).
    """
    if estimator == "decoder":
        check_states(hidden)
    else:
        check_codes(hidden)
    units = hidden.shape[-1]
    named = range(units) if relay_units is None else relay_units
    relays = checked_units("relay_units", named, units)
    others = sorted(set(range(units)) - set(relays))
    if estimator == "decoder":
        given_others, given_all = decoded(
            x_in, x_out, hidden, [others, range(units)], valid, weights
        )
        return given_others - given_all
    check_estimator(estimator)
    samples = Samples.of(x_in, x_out, hidden, valid, weights)
    with torch.inference_mode():
        parts = [
            information_given(rows, estimator, [*others, *relays])
            for rows in samples.blocks(ELEMENTS_AT_ONCE)
        ]
        values = [part[len(others)] - part[-1] for part in parts]
    return torch.cat(values).reshape(samples.leading)
