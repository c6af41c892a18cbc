"""States held for some steps: PyTorch's kernels in segments that hand the state over."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from lightning_relay.knockout.calls import run_kernel
from lightning_relay.knockout.held import Held, HeldAlways
from lightning_relay.knockout.weights import LayerWeights, holding_units, keeping_cells

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


@dataclass(frozen=True)
class Segment:
    """Steps that one call of the kernel computes.

    Attributes:
        first: Its first step.
        last: The step after its last.
        inside: Whether the hidden states are held within it as at its first step.
    """

    first: int
    last: int
    inside: bool


def segments(hidden: Held | None, cell: Held | None, steps: int) -> list[Segment]:
    """The steps in segments, each as long as one call of the kernel can compute.

    Within a segment all hidden states are held alike, or none is but at its last step, whose state
    is replaced when it is handed over. Cell states are held alike at all its steps: what reads them
    first is the hidden state of their own step.
    """
    of_hidden, of_cell = _alike(hidden, steps), _alike(cell, steps)
    free = _is_free(hidden, steps)
    held_before = hidden is not None and bool(hidden.initial_mask.any())
    starts_held = held_before and hidden is not None and _initial_is_first(hidden)
    found: list[Segment] = []
    first = 0
    inside = starts_held and not free[0]
    for step in range(1, steps + 1):
        goes_on = step < steps and of_cell[step] and (of_hidden[step] if inside else free[step - 1])
        if goes_on:
            continue
        found.append(Segment(first, step, inside))
        if step < steps:
            first = step
            inside = of_hidden[step] and not free[step]
    return found


def run_segments(
    weights: LayerWeights,
    inputs: Tensor,
    initial: tuple[Tensor, ...],
    hidden: Held | None,
    cell: Held | None,
    parts: Sequence[Segment],
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The kernel on one segment of steps after the other."""
    state = [initial[0] if hidden is None else hidden.hold_initial(initial[0]), *initial[1:]]
    if cell is not None:
        state[1] = cell.hold_initial(state[1])
    outputs = []
    for segment in parts:
        own = weights
        if segment.inside and hidden is not None:
            own = holding_units(own, _at_step(hidden, segment.first))
        if cell is not None and bool(cell.mask[0, segment.first].any()):
            own = keeping_cells(own, _at_step(cell, segment.first))
            state[1] = _hold(cell, state[1], segment.first)
        part = inputs[:, segment.first : segment.last]
        given = tuple(one.unsqueeze(0) for one in state)
        result = run_kernel(own.mode, part, None, given, [own])
        output, state = result.output, [one[0] for one in result.final]
        if hidden is not None:
            output = hidden.hold(output, segment.first, segment.last)
            state[0] = _hold(hidden, state[0], segment.last - 1)
        outputs.append(output)
    return (outputs[0] if len(outputs) == 1 else torch.cat(outputs, 1)), tuple(state)


def _hold(held: Held, states: Tensor, step: int) -> Tensor:
    """States ``(batch, unit)`` of one step with those held at their values."""
    return held.hold(states.unsqueeze(1), step, step + 1).squeeze(1)


def _at_step(held: Held, step: int) -> HeldAlways:
    """What is held at one step, as if always."""
    units = held.mask[0, step].nonzero()[:, 0]
    return HeldAlways(units, held.values[0, step][units.to(held.values.device)])


def _alike(held: Held | None, steps: int) -> list[bool]:
    """Whether each step is held as the one before."""
    if held is None:
        return [True] * steps
    mask = (held.mask[0, 1:] == held.mask[0, :-1]).all(1)
    both = held.mask[0, 1:] & held.mask[0, :-1]
    values = (held.values[0, 1:] == held.values[0, :-1]).cpu() | ~both
    return [True, *(mask & values.all(1)).tolist()]


def _is_free(held: Held | None, steps: int) -> list[bool]:
    """Whether nothing is held at each step."""
    if held is None:
        return [True] * steps
    return (~held.mask[0].any(1)).tolist()


def _initial_is_first(held: Held) -> bool:
    """Whether the initial state is held as the first step."""
    mask = held.mask[0, 0]
    if not torch.equal(mask, held.initial_mask):
        return False
    return bool(((held.initial[0] == held.values[0, 0]).cpu() | ~mask).all())
