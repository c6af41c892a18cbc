"""Entropies of joint states, estimated from their counts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lightning_relay.information.arguments import check_codes
from lightning_relay.information.estimators import (
    Estimator,
    check_estimator,
    constant_of,
    entropy_of_counts,
    psi_of,
)
from lightning_relay.information.rows import Samples

if TYPE_CHECKING:
    from torch import Tensor


def entropy(
    hidden: Tensor,
    *,
    valid: Tensor | None = None,
    weights: Tensor | None = None,
    estimator: Estimator = "plugin",
) -> Tensor:
    r"""Joint entropy of the units' states, in bits.

    .. math:: H(Y) = -\sum_y p(y) \log_2 p(y)

    Args:
        hidden: Integer codes of shape ``(…, samples, units)``; any values, any number of levels.
        valid: Boolean mask broadcastable to ``(…, samples)``; a sample with False is not counted.
        weights: How many times each sample counts, integers broadcastable to ``(…, samples)``;
            default: once.
        estimator: How the entropy is estimated from counts.

    Returns:
        float64 tensor of shape ``(…)``, in bits.

    Raises:
        TypeError: If ``hidden`` or ``weights`` do not hold integers.
        ValueError: If a shape does not fit, a weight is negative, the estimator is unknown, or
            there is no sample to count.

    Example:
        >>> import torch
        >>> entropy(torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]]))
        tensor(2., dtype=torch.float64)
        >>> entropy(torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]]), estimator="miller_madow")
        tensor(2.5410, dtype=torch.float64)
    """
    check_estimator(estimator)
    samples = _unlabelled(hidden, valid, weights)
    return samples.shaped(
        samples.each(
            lambda rows: (
                entropy_of_counts(
                    rows.weight.astype(np.uint32), rows.samples, psi_of(estimator, rows.samples)
                )
                + constant_of(estimator, rows.samples)
            )
        )
    )


def distinct_states(hidden: Tensor, *, valid: Tensor | None = None) -> Tensor:
    """Number of different joint states of the units that occur among the samples.

    Args:
        hidden: Integer codes of shape ``(…, samples, units)``.
        valid: Boolean mask broadcastable to ``(…, samples)``; a sample with False is not counted.

    Returns:
        int64 tensor of shape ``(…)``.

    Raises:
        TypeError: If ``hidden`` does not hold integers.
        ValueError: If a shape does not fit, or there is no sample to count.

    Example:
        >>> import torch
        >>> distinct_states(torch.tensor([[0, 0], [0, 1], [0, 1]]))
        tensor(2)
    """
    samples = _unlabelled(hidden, valid, None)
    return samples.shaped(samples.each(lambda rows: len(rows.table)))


def _unlabelled(hidden: Tensor, valid: Tensor | None, weights: Tensor | None) -> Samples:
    check_codes(hidden)
    label = hidden.new_zeros(hidden.shape[-2], dtype=hidden.dtype)
    return Samples.of(label, label, hidden, valid, weights)
