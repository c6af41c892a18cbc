"""States held for some steps: PyTorch's kernels in segments that hand the state over."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from lightning_relay.knockout.calls import run_kernel
from lightning_relay.knockout.held import Held, HeldAlways
from lightning_relay.knockout.weights import holding_units, keeping_cells

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from lightning_relay.recurrent.weights import LayerWeights


@dataclass(frozen=True)
class Segment:
    """Steps that one call of the kernel computes, the last one excluded.

    ``inside`` says whether hidden states are held in it, at all its steps as before its first.
    """

    first: int
    last: int
    inside: bool


def segments(hidden: Held | None, cell: Held | None, steps: int) -> list[Segment]:
    """The steps in segments, each as long as one call of the kernel can compute.

    Within a segment either all hidden states are held alike, or only that of its last step is held:
    it is replaced when it is handed over. Cell states are held alike at all its steps, because the
    hidden state of the same step reads them.
    """
    alike, free = _compared(hidden, steps)
    cells_alike, _ = _compared(cell, steps)
    found = []
    first, inside = 0, alike[0] and not free[0]
    for step in range(1, steps):
        if not (cells_alike[step] and (alike[step] if inside else free[step - 1])):
            found.append(Segment(first, step, inside))
            first, inside = step, alike[step] and not free[step]
    return [*found, Segment(first, steps, inside)]


def _compared(held: Held | None, steps: int) -> tuple[list[bool], list[bool]]:
    """Whether each step is held as the one before, and whether nothing is held at it."""
    if held is None:
        return [True] * steps, [True] * steps
    mask, values = held.mask[0], held.values[0]
    same = (values[1:] == values[:-1]).cpu() | ~mask[1:]
    alike = (mask[1:] == mask[:-1]) & same
    return alike.all(1).tolist(), (~mask[1:].any(1)).tolist()


def run_segments(
    weights: LayerWeights,
    inputs: Tensor,
    initial: tuple[Tensor, ...],
    hidden: Held | None,
    cell: Held | None,
    parts: Sequence[Segment],
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Output and final states of the kernel on one segment after the other."""
    state = [
        part if held is None else held.hold_one(part, 0)
        for part, held in zip(initial, (hidden, cell), strict=False)
    ]
    outputs = []
    for segment in parts:
        own = weights
        if segment.inside and hidden is not None:
            own = holding_units(own, _at_step(hidden, segment.first))
        if cell is not None and bool(cell.mask[0, segment.first + 1].any()):
            own = keeping_cells(own, _at_step(cell, segment.first))
            state[1] = cell.hold_one(state[1], segment.first + 1)
        part = inputs[:, segment.first : segment.last]
        result = run_kernel([own], part, None, tuple(one.unsqueeze(0) for one in state))
        output, state = result.output, [one[0] for one in result.final]
        if hidden is not None:
            output = hidden.hold(output, segment.first + 1)
            state[0] = hidden.hold_one(state[0], segment.last)
        outputs.append(output)
    return (outputs[0] if len(outputs) == 1 else torch.cat(outputs, 1)), tuple(state)


def _at_step(held: Held, step: int) -> HeldAlways:
    """What is held at one step, as if always."""
    units = held.mask[0, step + 1].nonzero()[:, 0]
    return HeldAlways(units, held.values[0, step + 1][units.to(held.values.device)])
