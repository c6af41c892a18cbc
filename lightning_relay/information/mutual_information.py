"""Mutual information of input and output, given the states of units."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from lightning_relay.information.arguments import (
    broadcast_leading,
    check_label_tensor,
    check_labels,
    check_states,
    check_valid,
)
from lightning_relay.information.decoding import decoded_information
from lightning_relay.information.estimators import SetEstimator, check_estimator
from lightning_relay.information.given import information_given
from lightning_relay.information.rows import Samples

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


def mutual_information(
    x_in: Tensor,
    x_out: Tensor,
    given: Tensor | None = None,
    *,
    valid: Tensor | None = None,
    weights: Tensor | None = None,
    estimator: SetEstimator = "plugin",
) -> Tensor:
    r"""Mutual information of input and output, conditional on units where they are given, in bits.

    .. math:: I(X_{in}; X_{out} | Y)
        = H(X_{in}, Y) + H(X_{out}, Y) - H(X_{in}, X_{out}, Y) - H(Y)

    Args:
        x_in: Integer labels of the input, ``(samples,)`` or broadcastable to ``(…, samples)``.
        x_out: Integer labels of the output, of a shape like that of ``x_in``.
        given: Integer codes of the units conditioned on, ``(…, samples, units)``; default: none.
            With ``"decoder"`` they may be real states.
        valid: Boolean mask broadcastable to ``(…, samples)``; a sample with False is not counted.
        weights: How many times each sample counts, integers broadcastable to ``(…, samples)``;
            default: once.
        estimator: How entropies are estimated from counts; or ``"decoder"``: by decoders, of the
            states as they are (``decoded_information``, which says what its value bounds).

    Returns:
        float64 tensor of shape ``(…)``, in bits.

    Raises:
        TypeError: If labels, codes or weights are not integers.
        ValueError: If shapes do not fit, a weight is negative, the estimator is unknown, or there
            is no sample to count.

    Example:
        >>> import torch
        >>> bit = torch.tensor([0, 0, 1, 1])
        >>> mutual_information(bit, bit)
        tensor(1., dtype=torch.float64)
        >>> mutual_information(bit, bit, given=bit.unsqueeze(-1))
        tensor(0., dtype=torch.float64)
    """
    check_label_tensor("x_in", x_in)
    if estimator == "decoder":
        states = x_in.new_zeros((*x_in.shape, 1)) if given is None else given
        units = () if given is None else tuple(range(given.shape[-1]))
        return decoded(x_in, x_out, states, [units], valid, weights)[..., 0]
    check_estimator(estimator)
    hidden = torch.zeros_like(x_in, dtype=torch.uint8).unsqueeze(-1) if given is None else given
    samples = Samples.of(x_in, x_out, hidden, valid, weights)
    everything = np.ones((1, samples.units), dtype=np.bool_)
    return samples.shaped(
        samples.each(lambda rows: information_given(rows, estimator, everything)[0])
    )


def decoded(
    x_in: Tensor,
    x_out: Tensor,
    states: Tensor,
    sets: Sequence[Sequence[int]],
    valid: Tensor | None,
    weights: Tensor | None,
) -> Tensor:
    """I(X_in; X_out | Y_S) in bits by decoders for several sets S, float64 ``(…, sets)``."""
    if weights is not None:
        raise ValueError(
            "weights: got some, which estimator='decoder' does not take; repeat the samples with "
            "repeat_interleave, but then samples held out are also among those learned from"
        )
    check_states(states)
    check_labels("x_in", x_in, states)
    check_labels("x_out", x_out, states)
    check_valid(valid, states)
    leading = broadcast_leading(hidden=states[..., 0], x_in=x_in, x_out=x_out, valid=valid)
    samples, units = states.shape[-2:]
    counted = torch.ones(samples, dtype=torch.bool) if valid is None else valid.cpu()
    values = [
        [decoded_information(here_in[kept], here_out[kept], here[kept], units) for units in sets]
        for here_in, here_out, here, kept in zip(
            *(part.expand(*leading, samples).reshape(-1, samples) for part in (x_in, x_out)),
            states.expand(*leading, samples, units).reshape(-1, samples, units),
            counted.expand(*leading, samples).reshape(-1, samples),
            strict=True,
        )
    ]
    found = torch.tensor(values, dtype=torch.float64, device=states.device)
    return found.reshape(*leading, len(sets))
