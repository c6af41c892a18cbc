"""Entropies of joint states, estimated from their counts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from lightning_relay.information.arguments import check_codes
from lightning_relay.information.estimators import (
    Estimator,
    chao_shen_terms,
    check_estimator,
    entropy_from_psi,
    is_additive,
    psi_table,
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
    rows = samples.rows()

    def by_index(values: Tensor) -> Tensor:
        return torch.zeros_like(rows.samples, dtype=torch.float64).index_add_(0, rows.index, values)

    if is_additive(estimator):
        psi = psi_table(estimator, rows.largest, rows.index.device)
        values = entropy_from_psi(estimator, by_index(psi[rows.weight]), rows.samples)
    else:
        alone = by_index((rows.weight == 1).double())[rows.index]
        values = by_index(chao_shen_terms(rows.weight, alone, rows.samples[rows.index]))
    return values.reshape(samples.leading)


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
    rows = samples.rows()
    return torch.bincount(rows.index, minlength=rows.indices).reshape(samples.leading)


def _unlabelled(hidden: Tensor, valid: Tensor | None, weights: Tensor | None) -> Samples:
    check_codes(hidden)
    label = hidden.new_zeros(hidden.shape[-2], dtype=torch.uint8)
    return Samples.of(label, label, hidden, valid, weights)
