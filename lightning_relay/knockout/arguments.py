"""What is knocked out, at which value and when: arguments, checked."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Set
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor

from lightning_relay.knockout.clamps import Clamp, Steps
from lightning_relay.recurrent.layers import StateKey, recurrent_layers

if TYPE_CHECKING:
    from torch import nn

    from lightning_relay.recurrent.states import HiddenStates


Value = Literal["zero", "mean", "mean_per_step", "resample"]
"""Values that have a name; those but ``"zero"`` are made of recorded states."""

KnockoutValue = str | float | Tensor
"""``"zero"``, ``"mean"``, ``"mean_per_step"``, ``"resample"``, a number or a tensor."""


def make_clamps(
    model: nn.Module,
    units: Mapping[str, Sequence[int] | int],
    *,
    value: KnockoutValue | Mapping[str, KnockoutValue] = "zero",
    steps: slice | Sequence[int] | Set[int] | int | None = None,
    states: Mapping[str, HiddenStates] | None = None,
    seed: int = 0,
) -> list[Clamp]:
    """What ``knocked_out`` holds, checked; one clamp for each layer.

    Raises:
        TypeError: As ``knocked_out``.
        ValueError: As ``knocked_out``.
    """
    layers = recurrent_layers(model)
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
    for layer, (key, own) in checked.items():
        layer_value = value[layer] if isinstance(value, Mapping) else value
        values, donors = checked_values(key, own, layer_value, states, count=layers[layer])
        clamps.append(Clamp(key, own, values, where, donors, seed))
    return clamps


def _checked_units(
    model: nn.Module, layers: Mapping[str, int], units: Mapping[str, Sequence[int] | int]
) -> dict[str, tuple[StateKey, tuple[int, ...]]]:
    if not isinstance(units, Mapping):
        raise TypeError(
            f"units: got {units!r}; it takes unit indices by layer key, such as "
            f"{{{next(iter(layers))!r}: [0]}}"
        )
    if not units:
        raise ValueError(f"units: got {units!r}; it takes unit indices by layer key")
    checked = {}
    for layer, indices in units.items():
        if layer not in layers:
            raise ValueError(
                f"units: no layer {layer!r} in {type(model).__name__}; it has: {_listed(layers)}"
            )
        checked[layer] = (StateKey.parse(layer), _checked_indices(layer, indices, layers[layer]))
    return checked


def _checked_indices(layer: str, indices: Sequence[int] | int, count: int) -> tuple[int, ...]:
    takes = f"it takes unit indices from 0 to {count - 1}"
    listed: Any = indices
    if hasattr(indices, "tolist"):
        listed = indices.tolist()
    if _is_int(listed):
        listed = [listed]
    if isinstance(listed, str) or not isinstance(listed, Sequence | Set | range):
        raise TypeError(f"units: got {indices!r} for {layer!r}; {takes}")
    own = list(listed)
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


def _listed(names: Mapping[str, Any]) -> str:
    return ", ".join(map(repr, names))


def checked_steps(steps: Any) -> Steps:
    """Steps as a slice, a sorted tuple or None.

    Raises:
        TypeError: If they are none of these.
        ValueError: If none is named.
    """
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
    if _is_int(steps):
        return (int(steps),)
    if hasattr(steps, "tolist"):
        steps = steps.tolist()
    if isinstance(steps, str) or not isinstance(steps, Sequence | Set | range):
        raise TypeError(f"steps: got {steps!r}; {takes}")
    if not all(_is_int(step) for step in steps):
        raise TypeError(f"steps: got {steps!r}; {takes}")
    if not steps:
        raise ValueError(f"steps: got {steps!r}, which names no step; {takes}")
    return tuple(sorted({int(step) for step in steps}))


def checked_values(
    key: StateKey,
    units: Sequence[int],
    value: Any,
    states: Mapping[str, HiddenStates] | None,
    *,
    count: int,
) -> tuple[Tensor, Tensor | None]:
    """Values ``(1 or batch, 1 or step, unit)`` of a clamp, and the lengths of donors, if any.

    ``count`` is the number of units of the layer.

    Raises:
        TypeError: If the value is none of those known.
        ValueError: If a tensor is of a wrong shape, or recorded states are needed and not there.
    """
    if isinstance(value, str):
        return _named_values(key, units, value, states, count)
    if isinstance(value, Tensor):
        if value.is_complex() or not bool(value.isfinite().all()):
            raise ValueError(
                f"value: got a tensor with complex, infinite or NaN values for {str(key)!r}; it "
                "takes finite real ones"
            )
        wrong = value.dim() > 0 and (value.shape[-1] != len(units) or value.numel() == 0)
        if value.dim() > 3 or wrong:
            raise ValueError(
                f"value: got shape {tuple(value.shape)} for {len(units)} units of {str(key)!r}; it "
                f"takes a tensor (), ({len(units)},), (step, {len(units)}) or "
                f"(batch, step, {len(units)})"
            )
        leading = (1,) * (3 - max(value.dim(), 1))
        return value.expand(*leading, *value.shape[:-1], len(units)), None
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(
            f"value: got {value!r}; it takes a number, a tensor, or one of "
            f"{', '.join(map(repr, get_args(Value)))}"
        )
    if not math.isfinite(value):
        raise ValueError(f"value: got {value}; it takes a finite number")
    return torch.full((1, 1, len(units)), float(value), dtype=torch.float64), None


def _named_values(
    key: StateKey,
    units: Sequence[int],
    value: str,
    states: Mapping[str, HiddenStates] | None,
    count: int,
) -> tuple[Tensor, Tensor | None]:
    if value not in get_args(Value):
        raise ValueError(
            f"value: got {value!r}; it takes a number, a tensor, or one of "
            f"{', '.join(map(repr, get_args(Value)))}"
        )
    if value == "zero":
        return torch.zeros(1, 1, len(units), dtype=torch.float64), None
    if states is None or str(key) not in states:
        raise ValueError(
            f"states: {value!r} takes recorded states of {str(key)!r}, and there are "
            f"{'none' if not states else 'only ' + ', '.join(map(repr, states))}; record them with "
            "HiddenStateRecorder (layers='all', states=('hidden', 'cell') for all there are) and "
            "give states=recorder.states"
        )
    recorded = states[str(key)]
    recorded.check_finite(str(key))
    if not recorded.values.is_floating_point():
        raise ValueError(
            f"states: those of {str(key)!r} are {recorded.values.dtype}, codes of states; "
            f"{value!r} takes the states themselves"
        )
    if recorded.values.shape[-1] != count:
        raise ValueError(
            f"states: those of {str(key)!r} have {recorded.values.shape[-1]} units, and the layer "
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


def _is_int(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)
