"""Relay information: how much of what the output knows of the input runs through a set of units."""

from __future__ import annotations

from operator import index
from typing import TYPE_CHECKING

from lightning_relay.information.mutual_information import Condition, labelled_rows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from lightning_relay.information.entropy import Estimator


def relay_information(
    x_in: Tensor,
    x_out: Tensor,
    hidden: Tensor,
    relay_units: Sequence[int] | None = None,
    *,
    valid: Tensor | None = None,
    estimator: Estimator = "plugin",
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
            of levels and of units.
        relay_units: Indices of the units in R; default: all units.
        valid: Boolean mask broadcastable to ``(…, samples)``; a sample with False is not counted.
        estimator: How entropies are estimated from counts.

    Returns:
        float64 tensor of shape ``(…)``, in bits.

    Raises:
        TypeError: If labels, codes or unit indices are not integers.
        ValueError: If shapes do not fit, a unit is out of range or named twice, or there is no
            sample to count.

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
    rows = labelled_rows(x_in, x_out, hidden, valid)
    units = hidden.shape[-1]
    relays = list(range(units)) if relay_units is None else _checked(relay_units, units)
    condition = Condition.empty(rows, estimator)
    for unit in sorted(set(range(units)) - set(relays)):
        condition = condition.with_unit(unit)
    given_others = condition.information()
    for unit in relays:
        condition = condition.with_unit(unit)
    return (given_others - condition.information()).reshape(rows.leading)


def _checked(relay_units: Sequence[int], units: int) -> list[int]:
    relays = []
    for unit in relay_units.tolist() if hasattr(relay_units, "tolist") else relay_units:
        if isinstance(unit, bool) or not hasattr(unit, "__index__"):
            raise TypeError(f"relay_units: got {unit!r}; it takes unit indices, not a mask")
        relays.append(index(unit))
    outside = [unit for unit in relays if not 0 <= unit < units]
    if outside:
        raise ValueError(
            f"relay_units: got {outside[0]}; hidden has {units} units, so it takes 0 to {units - 1}"
        )
    twice = sorted({unit for unit in relays if relays.count(unit) > 1})
    if twice:
        raise ValueError(f"relay_units: unit {twice[0]} is named twice; name each unit once")
    return relays
