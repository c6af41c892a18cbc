"""When a layer has seen all inputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from lightning_relay.recurrent.errors import StepError
from lightning_relay.recurrent.keys import StateKey
from lightning_relay.recurrent.states import has_step

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from lightning_relay.recurrent.states import LayerStates

InputsEnd = int | Mapping[str, int]
"""Step at which the last input was presented, for all modules or by module name."""


def check_inputs_end(inputs_end: InputsEnd | None, states: Mapping[str, LayerStates]) -> None:
    """Raise a ValueError if a module is named that has no states, or none could be found."""
    if isinstance(inputs_end, str):
        raise ValueError(
            f"inputs_end: got {inputs_end!r}, but the inputs of the modules are not known here; "
            "record them with HiddenStateRecorder(model, inputs=True) and give its inputs_end"
        )
    modules = sorted({StateKey.parse(layer).module for layer in states})
    named = sorted(inputs_end) if isinstance(inputs_end, Mapping) else []
    if unknown := ", ".join(repr(name) for name in named if name not in modules):
        raise ValueError(
            f"inputs_end: no recorded module {unknown}; it takes {', '.join(map(repr, modules))}"
        )


def inputs_ended(
    layer: str,
    states: Mapping[str, LayerStates],
    steps: Sequence[int],
    inputs_end: InputsEnd | None,
) -> Tensor:
    """Whether the states of all counted sequences have seen all inputs at each step, ``(step,)``.

    A first backward layer has seen all inputs at step 0 only, layers above a bidirectional one have
    seen them at every step.
    """
    key = StateKey.parse(layer)
    if isinstance(inputs_end, Mapping):
        inputs_end = inputs_end.get(key.module)
    if inputs_end is None:
        return torch.ones(len(steps), dtype=torch.bool)
    lengths = states[layer].lengths
    longest = int(lengths.max())
    if not -longest <= inputs_end < longest:
        raise StepError(
            f"inputs_end: got {inputs_end}, but the longest sequence has {longest} steps in "
            f"{layer!r}; if modules have steps of their own, give a mapping "
            f"{{{key.module!r}: step, …}}"
        )
    others = [StateKey.parse(other) for other in states]
    if key.layer > 0 and any(other.module == key.module and other.reverse for other in others):
        return torch.ones(len(steps), dtype=torch.bool)
    end = inputs_end if inputs_end >= 0 else lengths + inputs_end
    positions = torch.stack(
        [torch.full_like(lengths, step) if step >= 0 else lengths + step for step in steps]
    )
    seen = positions == 0 if key.reverse else positions >= end
    valid = torch.stack([has_step(lengths, step) for step in steps])
    return (seen | ~valid).all(1)
