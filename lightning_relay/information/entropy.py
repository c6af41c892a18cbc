"""Entropies of joint states, estimated from their counts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

import torch

from lightning_relay.information.arguments import check_codes, check_valid
from lightning_relay.information.counts import count_rows

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

Estimator = Literal["plugin"]
"""How an entropy is estimated from counts: ``"plugin"`` takes the observed frequencies."""


def entropy(
    hidden: Tensor, *, valid: Tensor | None = None, estimator: Estimator = "plugin"
) -> Tensor:
    r"""Joint entropy of the units' states, in bits.

    .. math:: H(Y) = -\sum_y p(y) \log_2 p(y)

    Args:
        hidden: Integer codes of shape ``(…, samples, units)``; any values, any number of levels.
        valid: Boolean mask broadcastable to ``(…, samples)``; a sample with False is not counted.
        estimator: How entropies are estimated from counts.

    Returns:
        float64 tensor of shape ``(…)``, in bits.

    Raises:
        TypeError: If ``hidden`` does not hold integers.
        ValueError: If a shape does not fit, or there is no sample to count.

    Example:
        >>> import torch
        >>> entropy(torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]]))
        tensor(2., dtype=torch.float64)
    """
    estimate = entropy_estimator(estimator)
    check_codes(hidden)
    check_valid(valid, hidden)
    rows = count_rows(hidden.unbind(-1), valid)
    return estimate(rows.multiplicity, rows.index, rows.samples).reshape(rows.leading)


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
    check_codes(hidden)
    check_valid(valid, hidden)
    rows = count_rows(hidden.unbind(-1), valid)
    return torch.bincount(rows.index, minlength=rows.samples.numel()).reshape(rows.leading)


def entropy_estimator(name: str) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """The estimator called ``name``.

    An estimator takes the positive counts of the states ``(states,)``, the index that each state
    belongs to ``(states,)`` and the number of samples of each index ``(indices,)``; it returns the
    entropy of each index in bits, float64 ``(indices,)``.

    Raises:
        ValueError: If there is no estimator of that name; lists those there are.
    """
    if name not in _ESTIMATORS:
        legal = ", ".join(repr(legal) for legal in get_args(Estimator))
        raise ValueError(f"estimator: got {name!r}; it takes {legal}")
    return _ESTIMATORS[name]


def _plugin(counts: Tensor, index: Tensor, samples: Tensor) -> Tensor:
    weighted = torch.zeros_like(samples).index_add_(0, index, counts * counts.log2())
    return samples.log2() - weighted / samples


_ESTIMATORS = {"plugin": _plugin}
