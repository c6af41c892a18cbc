"""Arguments of a knock-out, checked: which units, at which value and when."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Set
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor

from lightning_relay.knockout.clamps import Clamp, Steps
from lightning_relay.recurrent.keys import StateKey
from lightning_relay.recurrent.layers import recurrent_layers

if TYPE_CHECKING:
    from torch import nn

    from lightning_relay.recurrent.states import HiddenStates


Value = Literal["zero", "mean", "mean_per_step", "resample"]
"""Names of values; all but ``"zero"`` are made of recorded states."""

KnockoutValue = str | float | Tensor
"""``"zero"``, ``"mean"``, ``"mean_per_step"``, ``"resample"``, a number or a tensor."""

_TAKES_VALUES = f"it takes a number, a tensor, or one of {', '.join(map(repr, get_args(Value)))}"


def make_clamps(
    model: nn.Module,
    units: Mapping[str, Sequence[int] | int],
    *,
    value: KnockoutValue | Mapping[str, KnockoutValue] = "zero",
    steps: slice | Sequence[int] | Set[int] | int | None = None,
    states: Mapping[str, HiddenStates] | None = None,
    seed: int = 0,
    layers: Mapping[str, int] | None = None,
) -> list[Clamp]:
    """The clamps for the arguments of ``knocked_out``, one for each layer; refuses as it does.

    ``layers`` are those of ``recurrent_layers``, where they are known.
    """
    layers = recurrent_layers(model) if layers is None else layers
    layers = _with_other_names(model, layers, units)
    checked = _checked_units(model, layers, units)
    where = checked_steps(steps)
    if isinstance(value, Mapping) and set(value) != set(units):
        raise ValueError(
            f"value: got values for {_listed(value)}, and units for {_listed(units)}; it takes one "
            "value for each layer, or one for all"
        )
    if states is not None and not isinstance(states, Mapping):
        raise TypeError(
            f"states: got {type(states).__name__}; it takes recorded states by layer key: "
            "states=recorder.states"
        )
    if not _is_int(seed):
        raise TypeError(f"seed: got {seed!r}; it takes an integer")
    clamps = []
    for layer, own in checked.items():
        layer_value = value[layer] if isinstance(value, Mapping) else value
        values, donors = _checked_values(layer, own, layer_value, states, layers[layer])
        clamps.append(Clamp(StateKey.parse(layer), own, values, where, donors, seed))
    return clamps


def _with_other_names(
    model: nn.Module, layers: Mapping[str, int], units: Mapping[str, Any]
) -> Mapping[str, int]:
    """The layers, also under other names of their modules that ``units`` gives."""
    known = dict(layers)
    for layer in units if isinstance(units, Mapping) else ():
        if layer not in known:
            try:
                known |= recurrent_layers(model, [StateKey.parse(layer).module])
            except (TypeError, ValueError):
                continue  # it is refused later, with its own message
    return known


def _checked_units(
    model: nn.Module, layers: Mapping[str, int], units: Mapping[str, Sequence[int] | int]
) -> dict[str, tuple[int, ...]]:
    takes = f"it takes unit indices by layer key, such as {{{next(iter(layers))!r}: [0]}}"
    if not isinstance(units, Mapping):
        raise TypeError(f"units: got {units!r}; {takes}")
    if not units:
        raise ValueError(f"units: got {units!r}; {takes}")
    for layer in units:
        if layer not in layers:
            raise ValueError(
                f"units: no layer {layer!r} in {type(model).__name__}; it has: {_listed(layers)}"
            )
    return {layer: _checked_indices(layer, own, layers[layer]) for layer, own in units.items()}


def _checked_indices(layer: str, indices: Sequence[int] | int, count: int) -> tuple[int, ...]:
    takes = f"it takes unit indices from 0 to {count - 1}"
    own = as_list(indices)
    if own is None:
        raise TypeError(f"units: got {indices!r} for {layer!r}; {takes}")
    if not own:
        raise ValueError(f"units: got none for {layer!r}; {takes}")
    for unit in own:
        if not _is_int(unit):
            raise TypeError(f"units: got {unit!r} for {layer!r}; {takes}")
        if not 0 <= unit < count:
            raise ValueError(f"units: got {unit} for {layer!r}; {takes}")
    if len(set(own)) < len(own):
        raise ValueError(f"units: got {own} for {layer!r}; name each unit once")
    return tuple(int(unit) for unit in own)


def checked_steps(steps: Any) -> Steps:
    """Steps as a slice, a sorted tuple or None; a TypeError or ValueError if they are no steps."""
    takes = "it takes a slice, a set or list of time steps, one time step, or None for all"
    if steps is None:
        return None
    if isinstance(steps, slice):
        parts = (steps.start, steps.stop, steps.step)
        if any(part is not None and not _is_int(part) for part in parts):
            raise TypeError(f"steps: got {steps!r}; {takes}")
        if steps.step is not None and steps.step < 1:
            raise ValueError(f"steps: got {steps!r}; it takes a slice that goes forward")
        first, last = steps.start or 0, steps.stop
        if last is not None and (first < 0) == (last < 0) and first >= last:
            raise ValueError(f"steps: got {steps!r}, which names no step; {takes}")
        return steps
    found = as_list(steps)
    if found is None or not all(map(_is_int, found)):
        raise TypeError(f"steps: got {steps!r}; {takes}")
    if not found:
        raise ValueError(f"steps: got {steps!r}, which names no step; {takes}")
    return tuple(sorted({int(step) for step in found}))


def _checked_values(
    layer: str,
    units: Sequence[int],
    value: Any,
    states: Mapping[str, HiddenStates] | None,
    count: int,
) -> tuple[Tensor, Tensor | None]:
    """Values and donors of a ``Clamp``, for a layer with ``count`` units."""
    if isinstance(value, str):
        return _named_values(layer, units, value, states, count)
    if isinstance(value, Tensor):
        if value.is_complex() or not bool(value.isfinite().all()):
            raise ValueError(
                f"value: got a tensor with complex, infinite or NaN values for {layer!r}; it "
                "takes finite real ones"
            )
        wrong = value.dim() > 0 and (value.shape[-1] != len(units) or value.numel() == 0)
        if value.dim() > 3 or wrong:
            raise ValueError(
                f"value: got shape {tuple(value.shape)} for {len(units)} units of {layer!r}; it "
                f"takes a tensor (), ({len(units)},), (step, {len(units)}) or "
                f"(batch, step, {len(units)})"
            )
        leading = (1,) * (3 - max(value.dim(), 1))
        return value.expand(*leading, *value.shape[:-1], len(units)), None
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"value: got {value!r}; {_TAKES_VALUES}")
    if not math.isfinite(value):
        raise ValueError(f"value: got {value}; it takes a finite number")
    return torch.full((1, 1, len(units)), float(value), dtype=torch.float64), None


def _named_values(
    layer: str,
    units: Sequence[int],
    value: str,
    states: Mapping[str, HiddenStates] | None,
    count: int,
) -> tuple[Tensor, Tensor | None]:
    if value not in get_args(Value):
        raise ValueError(f"value: got {value!r}; {_TAKES_VALUES}")
    if value == "zero":
        return torch.zeros(1, 1, len(units), dtype=torch.float64), None
    if states is None or layer not in states:
        raise ValueError(
            f"states: {value!r} takes recorded states of {layer!r}, and there are "
            f"{f'only {_listed(states)}' if states else 'none'}; record them with "
            "HiddenStateRecorder (layers='all', states=('hidden', 'cell') for all there are) and "
            "give states=recorder.states"
        )
    recorded = states[layer]
    recorded.check_finite(layer)
    if not recorded.values.is_floating_point():
        raise ValueError(
            f"states: those of {layer!r} are {recorded.values.dtype}, codes that stand for "
            f"states; {value!r} takes the recorded states themselves"
        )
    if recorded.values.shape[-1] != count:
        raise ValueError(
            f"states: those of {layer!r} have {recorded.values.shape[-1]} units, and the layer "
            f"has {count}; record them with the same model"
        )
    chosen, valid = recorded.values[..., list(units)].detach(), recorded.valid
    if value == "resample":
        return chosen, recorded.lengths.cpu()
    chosen = torch.where(valid.unsqueeze(-1), chosen, 0)
    dims = (0, 1) if value == "mean" else (0,)
    total = chosen.sum(dims, keepdim=True, dtype=torch.float64)
    number = valid.sum(dims, keepdim=True).unsqueeze(-1)
    return total / number.clamp(min=1), None


def as_list(given: Any) -> list[Any] | None:
    """A number, list, set, range, array or tensor as a list; None for anything else."""
    if hasattr(given, "tolist"):
        given = given.tolist()
    if _is_int(given):
        return [given]
    if isinstance(given, str) or not isinstance(given, Sequence | Set):
        return None
    return list(given)


def _is_int(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _listed(names: Mapping[str, Any]) -> str:
    return ", ".join(map(repr, names))
