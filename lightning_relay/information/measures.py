"""Entropy, mutual information and relay information of given units, at every leading index."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from lightning_relay.information.arguments import (
    broadcast_leading,
    check_codes,
    check_label_tensor,
    check_labels,
    check_states,
    check_valid,
    checked_units,
)
from lightning_relay.information.compiled import in_threads
from lightning_relay.information.decoding import decoded_information
from lightning_relay.information.estimators import constant_of, entropy_of_counts, psi_of
from lightning_relay.information.given import information_given
from lightning_relay.information.options import Estimator, SetEstimator, check_estimator
from lightning_relay.information.rows import Rows, Samples

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from lightning_relay.information.compiled import Bools, Floats


_SETS_AT_ONCE = 64
"""Number of sets that a thread takes at a time."""


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
        hidden: Integer codes of the units' states, ``(…, samples, units)``, of any values.
        valid: Boolean mask broadcastable to ``(…, samples)``; a sample with False is not counted.
        weights: Times each sample counts (default 1), integers broadcastable to ``(…, samples)``.
        estimator: Estimator of entropies from counts.

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

    def measured(rows: Rows) -> float:
        sizes, psi = rows.weight.astype(np.uint32), psi_of(estimator, rows.samples)
        return entropy_of_counts(sizes, rows.samples, psi) + constant_of(estimator, rows.samples)

    return samples.shaped(samples.each(measured))


def distinct_states(hidden: Tensor, *, valid: Tensor | None = None) -> Tensor:
    """Number of different joint states of the units that occur among the samples.

    Args:
        hidden: Integer codes of the units' states, ``(…, samples, units)``, of any values.
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


def mutual_information(
    x_in: Tensor,
    x_out: Tensor,
    given: Tensor | None = None,
    *,
    valid: Tensor | None = None,
    weights: Tensor | None = None,
    estimator: SetEstimator = "plugin",
) -> Tensor:
    r"""Mutual information of input and output, given the states of some units or of none, in bits.

    .. math:: I(X_{in}; X_{out} | Y)
        = H(X_{in}, Y) + H(X_{out}, Y) - H(X_{in}, X_{out}, Y) - H(Y)

    Args:
        x_in: Integer labels of the input, ``(samples,)`` or broadcastable to ``(…, samples)``.
        x_out: Integer labels of the output, ``(samples,)`` or broadcastable to ``(…, samples)``.
        given: Integer codes of the units conditioned on, ``(…, samples, units)``; default: no
            units. With ``estimator="decoder"``, real states are allowed.
        valid: Boolean mask broadcastable to ``(…, samples)``; a sample with False is not counted.
        weights: Times each sample counts (default 1), integers broadcastable to ``(…, samples)``.
        estimator: Estimator of entropies from counts, or ``"decoder"`` for decoders of the raw
            states. ``decoded_information`` says what the value of decoders bounds.

    Returns:
        float64 tensor of shape ``(…)``, in bits.

    Raises:
        TypeError: If labels, codes or weights are not integers.
        ValueError: If shapes do not fit, a weight is negative, weights are given for
            ``"decoder"``, the estimator is unknown, or there is no sample to count.

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
        return _decoded(x_in, x_out, states, [units], valid, weights)[..., 0]
    check_estimator(estimator)
    hidden = torch.zeros_like(x_in, dtype=torch.uint8).unsqueeze(-1) if given is None else given
    samples = Samples.of(x_in, x_out, hidden, valid, weights)
    everything = np.ones((1, samples.units), dtype=np.bool_)
    return samples.shaped(
        samples.each(lambda rows: information_given(rows, estimator, everything)[0])
    )


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

    Relay information is the part of the information shared by input and output that the units in R
    carry and the units outside R (Y_0) do not. The three-way term is co-information, positive for
    redundancy. It can be negative (synergy), is not monotone in R, and is never clipped.

    Args:
        x_in: Integer labels of the input, ``(samples,)`` or broadcastable to ``(…, samples)``.
        x_out: Integer labels of the output, ``(samples,)`` or broadcastable to ``(…, samples)``.
        hidden: Integer codes of the units' states, ``(…, samples, units)``, of any values. With
            ``estimator="decoder"``, real states are allowed.
        relay_units: Indices of the units in R; default: all units. For many sets at once, a bool
            tensor ``(sets, units)`` whose lines mark the units of each set.
        valid: Boolean mask broadcastable to ``(…, samples)``; a sample with False is not counted.
        weights: Times each sample counts (default 1), integers broadcastable to ``(…, samples)``.
        estimator: Estimator of entropies from counts, or ``"decoder"`` for decoders of the raw
            states. ``decoded_information`` says what the value of decoders bounds.

    Returns:
        float64 tensor of shape ``(…)``, in bits; ``(…, sets)`` for many sets.

    Raises:
        TypeError: If labels, codes, weights or unit indices are not integers.
        ValueError: If shapes do not fit, a weight is negative, weights are given for
            ``"decoder"``, a unit is out of range or named twice, the estimator is unknown, or there
            is no sample to count.

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
        given = _decoded(x_in, x_out, hidden, sets, valid, weights)
    else:
        check_estimator(estimator)
        samples = Samples.of(x_in, x_out, hidden, valid, weights)
        given = samples.shaped(_given_sets(samples, estimator, known))
    information = given[..., :-1] - given[..., -1:]
    return information if several else information[..., 0]


def _unlabelled(hidden: Tensor, valid: Tensor | None, weights: Tensor | None) -> Samples:
    check_codes(hidden)
    label = hidden.new_zeros(hidden.shape[-2], dtype=hidden.dtype)
    return Samples.of(label, label, hidden, valid, weights)


def _decoded(
    x_in: Tensor,
    x_out: Tensor,
    states: Tensor,
    sets: Sequence[Sequence[int]],
    valid: Tensor | None,
    weights: Tensor | None,
) -> Tensor:
    """I(X_in; X_out | Y_S) in bits by decoders for several sets S, ``(…, sets)``."""
    if weights is not None:
        raise ValueError(
            "weights: got some, which estimator='decoder' does not take; leave them out, or repeat "
            "samples with repeat_interleave, but then decoders are tested on samples they learned"
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


def _given_sets(samples: Samples, estimator: Estimator, known: Bools) -> list[Floats]:
    """I(X_in; X_out | S) of every set of known units, at every index; threads share either."""
    if samples.indices > 1:
        return samples.each(lambda rows: information_given(rows, estimator, known))
    rows = samples.rows(0)
    parts = np.array_split(known, -(-len(known) // _SETS_AT_ONCE))
    found = in_threads(lambda part: information_given(rows, estimator, part), parts)
    return [np.concatenate(found)]


def _checked_sets(relay_units: Sequence[int] | Tensor | None, units: int) -> Bools:
    """The members ``(sets, units)`` of each set R; raises if ``relay_units`` are not clear."""
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
