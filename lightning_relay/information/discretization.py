"""Real states into integer codes: thresholds fitted for each unit and time step.

Every method but ``"sign"`` cuts the sorted samples of a unit between two different values. So a
unit that varies gets at least two levels, however its values are tied, and a constant unit gets
one.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch

from lightning_relay.information.options import Method, check_method

if TYPE_CHECKING:
    from torch import Tensor

    Array: TypeAlias = np.ndarray[Any, Any]

_ELEMENTS_AT_ONCE = 2**17
"""Approximate number of values in a block of leading indices and units that is sorted at once."""

_UNITS_AT_ONCE = 8
"""Smallest number of units in a block: single columns are slow to gather."""

_TIE = 1e-12
"""Relative difference of sums of squares up to which two splits are equally good."""

_ROUNDING = {torch.float32: 8, torch.float64: 8}
"""Range of a unit, in roundings of its largest value, up to which it counts as constant.

In half precision every difference counts, because two neighbouring values are far apart.
"""


@dataclass(frozen=True, eq=False)
class Thresholds:
    """Thresholds fitted to states, for these or later states.

    ``cuts`` lie halfway between two neighbouring samples, float64 ``(…, cut, units)``. A cut that
    could not be made is infinite.
    """

    cuts: Tensor

    def codes(self, states: Tensor, dtype: torch.dtype = torch.int64) -> Tensor:
        """Integer codes of states ``(…, samples, units)``: the number of cuts below each."""
        states = _at_least_float32(states)
        lowest, *others = _rounded_down(self.cuts, states.dtype).unsqueeze(-2).unbind(-3)
        above = torch.empty(states.shape, dtype=torch.bool, device=states.device)
        torch.gt(states, lowest.expand_as(states), out=above)
        codes = above.view(torch.uint8) if len(others) < 255 else above.to(dtype)
        for cut in others:
            codes += (states > cut).view(torch.uint8)
        return codes.to(dtype)


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

    Of equally good splits, the lowest is taken. Equal values are never split. A constant unit gets
    the one code 0 (from ``"sign"`` the one code of its sign). In float32 and float64, a unit that
    varies only by rounding counts as constant.

    Args:
        states: Real states of shape ``(…, samples, units)``, any floating dtype.
        method: Method that finds the thresholds.
        levels: Number of codes; only ``"quantile"`` takes more than 2. There are fewer codes if
            equal values make several cuts the same.
        valid: Boolean mask broadcastable to ``(…, samples)``. Samples with False take no part in
            the fit, and their codes mean nothing.
        layer: Name of the layer, for error messages.

    Returns:
        int64 codes of the shape of ``states``, from 0; larger states have larger codes.

    Raises:
        TypeError: If ``states`` is not real, ``levels`` no integer or ``valid`` no mask.
        ValueError: If a shape does not fit, an option is unknown, no sample is valid, or a valid
            state is NaN or infinite. The message says which layer, step and unit.

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
    """The thresholds of ``discretize``, whose arguments it takes, on the device of the states.

    The host fits, also states on a GPU, with the number of threads that torch uses. Only with
    ``"sign"`` the states stay on the GPU.
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
    *leading, samples, units = states.shape
    if method == "sign":
        _check_finite(states, mask, layer)
        zeros = torch.zeros(*leading, 1, units, dtype=torch.float64, device=states.device)
        return Thresholds(zeros)
    flat = _at_least_float32(states.cpu()).numpy(force=True).reshape(-1, samples, units)
    flat_mask = mask.numpy(force=True).reshape(-1, samples)
    rounding = _ROUNDING.get(states.dtype, 0) * torch.finfo(states.dtype).eps
    cuts = np.empty((len(flat), levels - 1, units))
    units_at_once = min(units, max(_UNITS_AT_ONCE, _ELEMENTS_AT_ONCE // samples))
    at_once = max(1, _ELEMENTS_AT_ONCE // (samples * units_at_once))

    def fit(block: tuple[int, int]) -> None:
        index, unit = block
        at = slice(index, index + at_once), slice(None), slice(unit, unit + units_at_once)
        cuts[at] = _cuts(flat[at], flat_mask[at[0]], method, levels, rounding)

    blocks = list(product(range(0, len(flat), at_once), range(0, units, units_at_once)))
    worthwhile = min(len(blocks), flat.size // (2 * _ELEMENTS_AT_ONCE))
    threads = min(torch.get_num_threads(), worthwhile)
    if threads < 2:
        list(map(fit, blocks))
    else:  # The threads end with the call, so that the process may fork at any other time.
        with ThreadPoolExecutor(threads, "lightning_relay") as pool:
            list(pool.map(fit, blocks))
    if np.isnan(cuts).any():
        _check_finite(states, mask, layer)
    fitted = torch.from_numpy(cuts).reshape(*leading, levels - 1, units)
    return Thresholds(fitted.to(states.device))


def _check_finite(states: Tensor, mask: Tensor, layer: str | None) -> None:
    if bool(torch.stack(states.detach().aminmax()).isfinite().all()):
        return
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


def _at_least_float32(states: Tensor) -> Tensor:
    """The same values in at least float32: NumPy may lack smaller floating dtypes."""
    return states.detach().to(torch.promote_types(states.dtype, torch.float32))


@np.errstate(all="ignore")
def _cuts(states: Array, mask: Array, method: Method, levels: int, rounding: float) -> Array:
    """Cuts ``(index, cut, unit)`` of the states ``(index, sample, unit)`` in ``mask``.

    All cuts are NaN if a state in ``mask`` is not finite.
    """
    together = np.ascontiguousarray(states)  # Parts of long rows are slow to transpose.
    ordered = np.array(together.swapaxes(1, 2), order="C")
    count = mask.sum(1)[:, np.newaxis, np.newaxis]
    if count.min() == mask.shape[1]:
        count = count[:1]
    else:
        np.copyto(ordered, np.nan, where=~mask[:, np.newaxis])
    ordered.sort(-1)

    lowest = ordered[..., :1].astype(np.float64)
    highest = _at(ordered, count - 1).astype(np.float64)
    if not (np.isfinite(lowest).all() and np.isfinite(highest).all()):
        return np.full((1, 1, 1), np.nan)
    constant = highest - lowest <= rounding * np.maximum(abs(highest), abs(lowest))
    if constant.all():
        return np.full((1, 1, 1), np.inf)
    possible = np.empty(ordered.shape, dtype=np.bool)
    np.less(ordered.ravel()[:-1], ordered.ravel()[1:], out=possible.ravel()[:-1])
    possible[..., -1] = False

    size = np.arange(1.0, ordered.shape[-1] + 1)
    if method == "kmeans":
        worths = [_between_clusters(ordered, size, count)]
    else:
        parts = 2 if method == "median" else levels
        ideal = [(count * part).astype(np.float32) / np.float32(parts) for part in range(1, parts)]
        worths = [-abs(size.astype(np.float32) - share) for share in ideal]
    splits = np.concatenate([_lowest_best(worth, possible) for worth in worths], axis=-1)
    usable = _at(possible, splits) & ~constant
    usable[..., 1:] &= splits[..., 1:] != splits[..., :-1]
    lower, upper = (_at(ordered, splits + side).astype(np.float64) for side in (0, 1))
    halfway = lower + (upper - lower) / 2
    cuts = np.where(halfway < upper, halfway, lower)
    return np.where(usable, cuts, np.inf).swapaxes(1, 2)


def _at(values: Array, places: Array) -> Array:
    return np.take_along_axis(values, places, -1)


def _between_clusters(ordered: Array, size: Array, count: Array) -> Array:
    """Sum of squares between the clusters of the ``size`` lowest samples and of all others."""
    values = ordered.astype(np.float64)
    padding = size > count
    if padding.any():
        np.copyto(values, 0.0, where=padding)
    values -= values.sum(-1, keepdims=True) / count
    if padding.any():
        np.copyto(values, 0.0, where=padding)
    # Torch sums several times faster than NumPy, but starts threads of its own for many rows.
    for rows in torch.from_numpy(values).flatten(0, 1).split(max(1, 2**14 // len(size))):
        rows.cumsum_(-1)
    np.square(values, out=values)
    values *= count / (size * np.maximum(count - size, 1))
    return values


def _lowest_best(worth: Array, possible: Array) -> Array:
    """The lowest of the best possible splits, ``(index, unit, 1)``."""
    best = np.broadcast_to(worth.argmax(-1, keepdims=True), (*possible.shape[:2], 1))
    if not _at(possible, best).all():
        worth = np.where(possible, worth, -np.inf)
        best = worth.argmax(-1, keepdims=True)
    most = _at(worth, best)
    lowest: Array = ((worth >= most - _TIE * abs(most)) & possible).argmax(-1, keepdims=True)
    return lowest


def _rounded_down(cuts: Tensor, dtype: torch.dtype) -> Tensor:
    """Float32 cuts that the same float32 states exceed: states need no copy in float64."""
    if dtype != torch.float32:
        return cuts
    rounded = cuts.float()
    return torch.where(
        rounded.double() > cuts, rounded.nextafter(torch.full_like(rounded, -torch.inf)), rounded
    )
