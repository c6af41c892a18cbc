"""Real states into integer codes: thresholds fitted per unit and per time step.

Every method cuts the sorted samples of a unit somewhere between two different values; the methods
differ in where. So a unit that varies always gets at least two levels from the methods that look at
the data, however its values are tied, and a constant unit gets one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import torch

if TYPE_CHECKING:
    from torch import Tensor

Method = Literal["kmeans", "median", "sign", "quantile"]
"""How thresholds are found."""

_ELEMENTS_AT_ONCE = 2**19
"""States are sorted in blocks of leading indices and units of about this many values."""

_TIE = 1e-12
"""Splits whose sums of squares differ by less, relatively, are as good."""

_ROUNDING = {torch.float32: 8, torch.float64: 8}
"""A unit whose range is this many roundings of its largest value, or fewer, counts as constant.

In the half precisions a rounding is so large that two neighbouring values can be told apart.
"""


@dataclass(frozen=True, eq=False)
class Thresholds:
    """Thresholds fitted to states, to code those or later ones.

    Attributes:
        cuts: Values between two neighbouring samples, halfway, float64 ``(…, cut, units)``;
            infinite where a cut could not be made.
    """

    cuts: Tensor

    def codes(self, states: Tensor, dtype: torch.dtype = torch.int64) -> Tensor:
        """Integer codes of states ``(…, samples, units)``: the number of cuts below each."""
        codes = torch.zeros(states.shape, dtype=dtype, device=states.device)
        for cut in _rounded_down(self.cuts, states.dtype).unbind(-2):
            codes += states > cut.unsqueeze(-2)
        return codes


def discretize(
    states: Tensor,
    method: Method = "kmeans",
    *,
    levels: int = 2,
    valid: Tensor | None = None,
    layer: str | None = None,
) -> Tensor:
    """Integer codes of real states.

    Thresholds are fitted for each unit and each leading index (time step) apart:

    - ``"kmeans"``: the split into two clusters with the smallest sum of squares, found exactly.
    - ``"median"``: the split nearest to equal halves.
    - ``"sign"``: above 0, or not; the only method whose thresholds do not depend on the data.
    - ``"quantile"``: the splits nearest to ``levels`` equal parts.

    Of splits that are as good, the lowest is taken; equal values are never split. A constant unit
    gets the one code 0 (from ``"sign"`` the one code of its sign); in float32 and float64 it counts
    as constant up to rounding.

    Args:
        states: Real states of shape ``(…, samples, units)``, any floating dtype.
        method: How thresholds are found.
        levels: Number of codes; only ``"quantile"`` takes more than 2. Fewer are used where equal
            values make several cuts the same.
        valid: Boolean mask broadcastable to ``(…, samples)``; samples with False take no part in
            the fit, and their codes mean nothing.
        layer: Name of the layer, for error messages.

    Returns:
        int64 codes of the shape of ``states``, from 0, larger codes for larger states.

    Raises:
        TypeError: If ``states`` is not real.
        ValueError: If an option is unknown, no sample is valid, or a valid state is NaN or
            infinite: says which layer, step and unit.

    Example:
        >>> import torch
        >>> discretize(torch.tensor([[0.1], [0.9], [0.2], [1.0]])).squeeze(-1)
        tensor([0, 1, 0, 1])

    Source:
        k-means with two clusters: Hintze and Adami, Entropy 25(3):401 (2023), whose text also
        names the median.
    """
    thresholds = fit_thresholds(states, method, levels=levels, valid=valid, layer=layer)
    return thresholds.codes(states)


def fit_thresholds(
    states: Tensor,
    method: Method = "kmeans",
    *,
    levels: int = 2,
    valid: Tensor | None = None,
    layer: str | None = None,
) -> Thresholds:
    """The thresholds with which ``discretize`` codes states, for each unit and leading index.

    Args, errors and source as ``discretize``.

    Returns:
        Thresholds that give the states they were fitted to the codes of ``discretize``.

    Example:
        >>> import torch
        >>> fit_thresholds(torch.tensor([[0.1], [0.9], [0.2], [1.0]])).cuts
        tensor([[0.5500]], dtype=torch.float64)
    """
    check_method(method, levels)
    if not states.is_floating_point():
        raise TypeError(f"states: got {states.dtype}; it takes real states of a floating dtype")
    if states.dim() < 2 or states.numel() == 0:
        raise ValueError(
            f"states: got shape {tuple(states.shape)}; it takes (…, samples, units) with at least "
            "one sample and one unit"
        )
    mask = torch.ones(states.shape[:-1], dtype=torch.bool, device=states.device)
    if valid is not None:
        if valid.dtype != torch.bool:
            raise TypeError(f"valid: got {valid.dtype}; it takes a mask of torch.bool")
        try:
            mask = valid.expand(states.shape[:-1])
        except RuntimeError:
            raise ValueError(
                f"valid: got shape {tuple(valid.shape)} for states {tuple(states.shape)}; it takes "
                "a mask broadcastable to (…, samples)"
            ) from None
    if not bool(mask.any(-1).all()):
        raise ValueError("valid: no sample is valid at a leading index; leave that index out")
    _check_finite(states, mask, layer)
    *leading, _, units = states.shape
    if method == "sign":
        return Thresholds(
            torch.zeros(*leading, 1, units, dtype=torch.float64, device=states.device)
        )

    samples = states.shape[-2]
    flat = states.reshape(-1, samples, units)
    flat_mask = mask.reshape(-1, samples)
    units_at_once = max(1, min(units, _ELEMENTS_AT_ONCE // samples))
    at_once = max(1, _ELEMENTS_AT_ONCE // (samples * units_at_once))
    cuts = [
        torch.cat(
            [_cuts(part, block_mask, method, levels) for part in block.split(units_at_once, dim=2)],
            dim=2,
        )
        for block, block_mask in zip(flat.split(at_once), flat_mask.split(at_once), strict=True)
    ]
    return Thresholds(torch.cat(cuts).reshape(*leading, levels - 1, units))


def check_method(method: str, levels: int) -> None:
    """Raise a ValueError unless ``method`` is known and makes ``levels`` levels."""
    if method not in get_args(Method):
        legal = ", ".join(repr(legal) for legal in get_args(Method))
        raise ValueError(f"discretization: got {method!r}; it takes {legal}")
    if levels < 2:
        raise ValueError(f"levels: got {levels}; it takes at least 2")
    if levels > 2 and method != "quantile":
        raise ValueError(
            f"levels: got {levels} with {method!r}, which makes two; use 'quantile' for more"
        )


def _check_finite(states: Tensor, mask: Tensor, layer: str | None) -> None:
    wrong = ~torch.isfinite(states) & mask.unsqueeze(-1)
    if not bool(wrong.any()):
        return
    *leading, sample, unit = wrong.nonzero()[0].tolist()
    name = "states" if layer is None else f"states of {layer!r}"
    step = f"step {leading[-1]}, " if leading else ""
    raise ValueError(
        f"{name}: {float(states[(*leading, sample, unit)])} at {step}unit {unit} (sample {sample}; "
        f"{int(wrong.sum())} of {int(mask.sum()) * states.shape[-1]} states are not finite); look "
        "for diverging weights or non-finite inputs"
    )


def _cuts(states: Tensor, mask: Tensor, method: Method, levels: int) -> Tensor:
    """Cuts ``(index, cut, unit)`` fitted to the ``(index, sample, unit)`` states in ``mask``."""
    count = mask.sum(1).reshape(-1, 1, 1)
    ordered = states.double().masked_fill(~mask.unsqueeze(-1), torch.inf).sort(dim=1).values
    below, above = ordered[:, :-1], ordered[:, 1:]
    size = torch.arange(1, states.shape[1], device=states.device).reshape(1, -1, 1)
    possible = (below < above) & (size < count) & ~_constant(states, mask)

    if method == "kmeans":
        costs = [-_between_clusters(ordered, mask, size, count)]
    else:
        parts = 2 if method == "median" else levels
        costs = [(size - count * part / parts).abs() for part in range(1, parts)]

    none = torch.full_like(ordered[:, :1], torch.inf)
    cuts = []
    taken = torch.zeros_like(possible)
    for cost in costs:
        if possible.shape[1] == 0:
            cuts.append(none)
            continue
        cost = cost.expand(possible.shape).masked_fill(~possible, torch.inf)
        best = cost.amin(1, keepdim=True)
        cut = (cost <= best + _TIE * best.abs()).to(torch.uint8).argmax(1, keepdim=True)
        usable = possible.gather(1, cut) & ~taken.gather(1, cut)
        taken.scatter_(1, cut, True)
        lower, upper = below.gather(1, cut), above.gather(1, cut)
        halfway = lower + (upper - lower) / 2
        cuts.append(torch.where(halfway < upper, halfway, lower).where(usable, none))
    return torch.cat(cuts, dim=1)


def _rounded_down(cuts: Tensor, dtype: torch.dtype) -> Tensor:
    """Cuts in float32 that the same float32 states lie above, so that none is copied to float64."""
    if dtype != torch.float32:
        return cuts
    rounded = cuts.float()
    return torch.where(
        rounded.double() > cuts, rounded.nextafter(torch.full_like(rounded, -torch.inf)), rounded
    )


def _constant(states: Tensor, mask: Tensor) -> Tensor:
    inside = mask.unsqueeze(-1)
    values = states.double()
    highest = values.masked_fill(~inside, -torch.inf).amax(1, keepdim=True)
    lowest = values.masked_fill(~inside, torch.inf).amin(1, keepdim=True)
    rounding = torch.finfo(states.dtype).eps * torch.maximum(highest.abs(), lowest.abs())
    return highest - lowest <= _ROUNDING.get(states.dtype, 0) * rounding


def _between_clusters(ordered: Tensor, mask: Tensor, size: Tensor, count: Tensor) -> Tensor:
    """Sum of squares between the ``size`` lowest samples and the others, for every size."""
    inside = ordered.masked_fill(~torch.isfinite(ordered), 0.0)
    centred = (inside - inside.sum(1, keepdim=True) / count).masked_fill(ordered.isinf(), 0.0)
    low = centred.cumsum(1)[:, :-1]
    return low.square() * count / (size * (count - size).clamp(min=1))
