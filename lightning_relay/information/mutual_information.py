"""Mutual information of input and output, given the states of units."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from lightning_relay.information.arguments import check_label_tensor
from lightning_relay.information.condition import Condition
from lightning_relay.information.decoding import decoded_information
from lightning_relay.information.estimators import Estimator, SetEstimator, check_estimator
from lightning_relay.information.rows import Samples

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from torch import Tensor

    from lightning_relay.information.rows import Rows

ELEMENTS_AT_ONCE = 2**22
"""Leading indices are looked at together as long as samples times units stay below this."""


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
        return decoded(x_in, x_out, states, [units], valid, weights)[0]
    check_estimator(estimator)
    hidden = torch.zeros_like(x_in, dtype=torch.uint8).unsqueeze(-1) if given is None else given
    samples = Samples.of(x_in, x_out, hidden, valid, weights)
    with torch.inference_mode():
        values = [
            information_given(rows, estimator, range(rows.units))[-1]
            for rows in samples.blocks(ELEMENTS_AT_ONCE)
        ]
    return torch.cat(values).reshape(samples.leading)


def information_given(rows: Rows, estimator: Estimator, units: Iterable[int]) -> list[Tensor]:
    """I(X_in; X_out | S) in bits for the empty S and after each unit, each ``(indices,)``."""
    condition = Condition.empty(rows, estimator, candidates=False)
    values = [condition.information()]
    for unit in units:
        condition = condition.with_units(torch.full_like(rows.samples, unit))
        values.append(condition.information())
    return values


def decoded(
    x_in: Tensor,
    x_out: Tensor,
    states: Tensor,
    sets: Sequence[Sequence[int]],
    valid: Tensor | None,
    weights: Tensor | None,
) -> list[Tensor]:
    """I(X_in; X_out | Y_S) in bits by decoders for several sets S, each ``(…)``."""
    if weights is not None:
        raise ValueError(
            "weights: got some, which estimator='decoder' does not take; repeat the samples with "
            "repeat_interleave, but then samples held out are also among those learned from"
        )
    samples = Samples.of(x_in, x_out, states, valid, real=True)
    values = []
    for index in range(samples.indices):
        part = samples.at(index)
        counted = slice(None) if part.valid is None else part.valid
        arguments = part.x_in[counted], part.x_out[counted], part.hidden[counted]
        values.append([decoded_information(*arguments, units) for units in sets])
    found = torch.tensor(values, dtype=torch.float64, device=states.device)
    return [column.reshape(samples.leading) for column in found.unbind(1)]
