"""Many knock-outs of one model on the same inputs, run one after the other, that share their work.

What a knock-out does not touch is computed once: recurrent modules before it, layers below it and
steps before it. What it does touch is computed for several knock-outs at once, as lanes of one
larger batch, where that is faster than PyTorch's kernel for each.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Self

import torch
from torch import nn

from lightning_relay.knockout.calls import ModuleCall, Result
from lightning_relay.knockout.clamps import Clamp, step_mask
from lightning_relay.knockout.context import check_can_be_held, hold
from lightning_relay.knockout.fused import Clamps, FusedForward
from lightning_relay.knockout.running import run_clamped
from lightning_relay.knockout.side_by_side import (
    lanes_at_once,
    run_lanes,
)
from lightning_relay.recurrent.layers import recurrent_modules
from lightning_relay.recurrent.replay import runs_pytorch_forward

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import TracebackType


class KnockoutLanes:
    """Context manager for runs of a model on the same inputs, each with other units knocked out.

    Args:
        model: A model in evaluation mode, whose calls depend on their inputs alone.
        sets: What is held in each lane.
        drawn: Number of draws before, so that values are drawn anew for every batch.

    Example:
        >>> from lightning_relay.knockout.arguments import make_clamps
        >>> model = nn.GRU(3, 8, batch_first=True).eval()
        >>> sets = [make_clamps(model, {"l0": unit}) for unit in range(8)]
        >>> x = torch.ones(2, 5, 3)
        >>> with torch.no_grad(), KnockoutLanes(model, sets) as lanes:
        ...     for unit in range(8):
        ...         with lanes.lane(unit):
        ...             output, h_n = model(x)
        ...         assert output[..., unit].eq(0).all()
    """

    def __init__(self, model: nn.Module, sets: Sequence[Sequence[Clamp]], drawn: int = 0) -> None:
        self._model = model
        self._drawn = drawn
        self._shared: list[_SharedForward] = []
        self._others: list[list[Clamp]] = [[] for _ in sets]
        self._longest: dict[str, int] = {}
        for name, module in recurrent_modules(model).items():
            own = [[clamp for clamp in clamps if clamp.key.module == name] for clamps in sets]
            if any(own):
                check_can_be_held(model, name, module)
            if isinstance(module, nn.RNNBase) and runs_pytorch_forward(module):
                self._shared.append(_SharedForward(name, module, own, drawn))
            else:
                for others, clamps in zip(self._others, own, strict=True):
                    others += clamps

    def __enter__(self) -> Self:
        for forward in self._shared:
            forward.module.forward = forward
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for forward in self._shared:
            vars(forward.module).pop("forward", None)
            forward.clear()

    @property
    def longest(self) -> dict[str, int]:
        """Number of steps of the longest sequence so far, by module name."""
        return self._longest | {forward.name: forward.longest for forward in self._shared}

    @contextmanager
    def lane(self, number: int | None) -> Iterator[None]:
        """A run with one of the sets knocked out; None for a run without."""
        for forward in self._shared:
            forward.begin(number)
        if number is None or not self._others[number]:
            yield
            return
        with hold(self._model, self._others[number], self._drawn) as entered:
            yield
        for held in entered:
            self._longest[held.name] = max(held.longest, self._longest.get(held.name, 0))


@dataclass(eq=False)
class _SharedCall:
    """A call that several lanes make with the same inputs.

    Attributes:
        call: The call.
        number: Number of calls before it in a run.
        plain: Its result without knock-out, once it is known.
        results: Results of lanes that have been computed and not yet asked for.
        prefix: A number of steps and what these give without knock-out.
    """

    call: ModuleCall
    number: int
    plain: Result | None = None
    results: dict[int, Result] = field(default_factory=dict)
    prefix: tuple[int, Result] | None = None


class _SharedForward(FusedForward):
    """The forward of nn.RNN, nn.GRU or nn.LSTM in all lanes."""

    def __init__(
        self, name: str, module: nn.RNNBase, sets: Sequence[Sequence[Clamp]], drawn: int
    ) -> None:
        super().__init__(name, module)
        self._sets = [Clamps([replace(clamp, begun=-drawn) for clamp in clamps]) for clamps in sets]
        self._lane: int | None = None
        self._number = 0
        self._calls: list[_SharedCall] = []

    def begin(self, lane: int | None) -> None:
        """The next calls are those of a lane; of none for a run without knock-out."""
        self._lane = lane if lane is not None and self.holds(lane) else None
        self.clamps = Clamps(()) if self._lane is None else self._sets[self._lane]
        self._number = 0
        self.continuation.remember(None)

    def holds(self, lane: int) -> bool:
        """Whether units of this module are held in a lane."""
        return bool(self._sets[lane].all)

    def clear(self) -> None:
        """Forget what was computed."""
        self._calls.clear()

    def _run(self, call: ModuleCall, offset: int) -> Result:
        number, self._number = self._number, self._number + 1
        if number == len(self._calls):
            self._calls.append(_SharedCall(call, number))
        shared = self._calls[number]
        if offset or not _same(shared.call, call):
            return run_clamped(call, self.clamps.in_call(call, number, offset))
        if self._lane is not None:
            return self._result(shared, self._lane)
        if shared.plain is None:
            shared.plain = run_clamped(shared.call, {})
        plain = shared.plain  # what reads it may change it
        return Result(plain.output.clone(), tuple(state.clone() for state in plain.final))

    def _result(self, shared: _SharedCall, lane: int) -> Result:
        if lane not in shared.results:
            self._compute(shared, lane)
        return shared.results.pop(lane)

    def _compute(self, shared: _SharedCall, lane: int) -> None:
        """Results of a lane and, where that is faster, of those after it that are like it."""
        call = shared.call
        first = self._first_step(call, lane)
        count = lanes_at_once(call)
        lanes = [lane]
        for other in range(lane + 1, len(self._sets)):
            if len(lanes) == count:
                break
            if self.holds(other) and self._first_step(call, other) == first:
                lanes.append(other)
        own = [self._sets[lane] for lane in lanes]
        if all(asked.constant for asked in own):
            found = run_lanes(call, [asked.always() for asked in own])
            shared.results |= zip(lanes, found, strict=True)
            return
        held = [asked.step_by_step(call, shared.number) for asked in own]
        if first == 0:
            shared.results |= zip(lanes, run_lanes(call, held), strict=True)
            return
        before = self._prefix(shared, first)
        rest = ModuleCall(call.module, call.inputs[:, first:], None, before.final)
        later = [{place: part.after(first) for place, part in parts.items()} for parts in held]
        for number, result in zip(lanes, run_lanes(rest, later), strict=True):
            output = torch.cat([before.output, result.output], 1)
            shared.results[number] = Result(output, result.final)

    def _first_step(self, call: ModuleCall, lane: int) -> int:
        """Number of steps that are in a lane as they are without."""
        if call.module.bidirectional or call.batch_sizes is not None:
            return 0
        first = call.steps
        for clamp in self._sets[lane].all:
            if clamp.steps is None:
                return 0
            held = step_mask(clamp.steps, torch.tensor([call.steps]))[0].nonzero()
            first = min(first, int(held[0])) if len(held) else first
        return first if first < call.steps else 0

    def _prefix(self, shared: _SharedCall, steps: int) -> Result:
        """What the first steps give, continued from those that are known."""
        call = shared.call
        known, before = shared.prefix or (0, None)
        if known > steps:
            known, before = 0, None
        if before is None or known < steps:
            state = call.initial if before is None else before.final
            part = ModuleCall(call.module, call.inputs[:, known:steps], None, state)
            result = run_clamped(part, {})
            if before is not None:
                output = torch.cat([before.output, result.output], 1)
                result = Result(output, result.final)
            shared.prefix = (steps, result)
            return result
        return before


def _same(first: ModuleCall, second: ModuleCall) -> bool:
    """Whether two calls of a module have the same inputs and initial states."""
    if first is second:
        return True
    if (first.batch_sizes is None) != (second.batch_sizes is None):
        return False
    pairs = [(first.inputs, second.inputs), *zip(first.initial, second.initial, strict=True)]
    for own, other in ((first.batch_sizes, second.batch_sizes), (first.order, second.order)):
        if own is not None and other is not None:
            pairs.append((own, other))
    return all(
        own is other or (own.dtype == other.dtype and torch.equal(own, other))
        for own, other in pairs
    )
