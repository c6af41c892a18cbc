"""Knock-outs of one model on the same inputs that run one after the other and share their work.

Whatever a knock-out does not change is computed once: recurrent modules before it, layers below it
and steps before it. The rest is computed for several knock-outs at once, as lanes of one larger
batch, if that is faster than PyTorch's kernel for each.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Self

import torch
from torch import nn

from lightning_relay.knockout.calls import ModuleCall, Result
from lightning_relay.knockout.cells import hold_cell
from lightning_relay.knockout.clamps import Clamp, step_mask
from lightning_relay.knockout.context import hold
from lightning_relay.knockout.fused import Clamps, FusedForward
from lightning_relay.knockout.holding import check_can_be_held
from lightning_relay.knockout.running import run_clamped
from lightning_relay.knockout.side_by_side import lanes_at_once, run_lanes
from lightning_relay.recurrent.layers import recurrent_modules
from lightning_relay.recurrent.replay import runs_pytorch_forward

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


class KnockoutLanes:
    """Context manager for runs of a model on the same inputs, each with other units knocked out.

    Each run is one lane: ``with lanes.lane(number): model(x)``. Calls of the model must depend on
    their inputs alone. ``drawn`` is the number of draws before; another number draws other values.
    """

    def __init__(self, model: nn.Module, sets: Sequence[Sequence[Clamp]], drawn: int = 0) -> None:
        self._model = model
        self._drawn = drawn
        self._forwards: list[_SharedForward] = []
        self._others: list[list[Clamp]] = [[] for _ in sets]
        self._longest: dict[str, int] = {}
        self._counted: dict[str, nn.RNNCellBase] = {}
        for name, module in recurrent_modules(model).items():
            own = [[clamp for clamp in clamps if clamp.key.module == name] for clamps in sets]
            if any(own):
                check_can_be_held(model, name, module)
            if isinstance(module, nn.RNNBase) and runs_pytorch_forward(module):
                self._forwards.append(_SharedForward(name, module, own, drawn))
            else:
                for others, clamps in zip(self._others, own, strict=True):
                    others += clamps
                    from_end = any(clamp.counts_from_end for clamp in clamps)
                    if from_end and isinstance(module, nn.RNNCellBase):
                        self._counted[name] = module

    def __enter__(self) -> Self:
        for forward in self._forwards:
            forward.module.forward = forward
        return self

    def __exit__(self, *_: object) -> None:
        for forward in self._forwards:
            vars(forward.module).pop("forward", None)
            forward.shared.clear()

    @property
    def longest(self) -> dict[str, int]:
        """Number of steps of the longest sequence so far, by module name."""
        return self._longest | {forward.name: forward.longest for forward in self._forwards}

    @contextmanager
    def lane(self, number: int | None) -> Iterator[None]:
        """A run with one of the sets knocked out; None for a run without, which comes first.

        A cell that is called once for every step has as many steps as in the run without.
        """
        for forward in self._forwards:
            forward.begin(number)
        if number is None:
            with ExitStack() as counting:
                cells = [
                    counting.enter_context(hold_cell(self._model, name, module, []))
                    for name, module in self._counted.items()
                ]
                yield
            self._longest |= {cell.name: cell.longest for cell in cells}
            return
        if not self._others[number]:
            yield
            return
        clamps = [self._from_start(clamp) for clamp in self._others[number]]
        with hold(self._model, clamps, self._drawn) as entered:
            yield
        for held in entered:
            self._longest[held.name] = max(held.longest, self._longest.get(held.name, 0))

    def _from_start(self, clamp: Clamp) -> Clamp:
        """The clamp with its steps counted from the start, for cells called once for every step."""
        if clamp.key.module not in self._counted or not clamp.counts_from_end:
            return clamp
        steps = step_mask(clamp.steps, torch.tensor([self._longest[clamp.key.module]]))[0]
        return replace(clamp, steps=tuple(steps.nonzero()[:, 0].tolist()))


@dataclass(eq=False)
class _SharedCall:
    """A call that several lanes make with the same inputs.

    Attributes:
        call: The call.
        plain: Its result without knock-out, once it is known.
        results: Results of lanes that are computed and not yet used.
        prefix: What some first steps give without knock-out, once it is known.
    """

    call: ModuleCall
    plain: Result | None = None
    results: dict[int, Result] = field(default_factory=dict)
    prefix: Result | None = None


class _SharedForward(FusedForward):
    """The forward of nn.RNN, nn.GRU or nn.LSTM in all lanes; ``shared`` are the calls of a run."""

    def __init__(
        self, name: str, module: nn.RNNBase, sets: Sequence[Sequence[Clamp]], drawn: int
    ) -> None:
        super().__init__(name, module)
        self.shared: list[_SharedCall] = []
        self._sets = [Clamps([replace(clamp, begun=-drawn) for clamp in clamps]) for clamps in sets]
        self._lane: int | None = None
        self._number = 0

    def begin(self, lane: int | None) -> None:
        """The next calls are those of a lane, or without knock-out for None."""
        self.clamps = Clamps(()) if lane is None else self._sets[lane]
        self._lane = lane if self.clamps.all else None
        self._number = 0
        self.continuation.remember(None)

    def _run(self, call: ModuleCall, offset: int) -> Result:
        number, self._number = self._number, self._number + 1
        if number == len(self.shared):
            self.shared.append(_SharedCall(call))
        shared = self.shared[number]
        if offset or not _same(shared.call, call):
            return run_clamped(call, self.clamps.in_call(call, number, offset))
        if self._lane is not None:
            if self._lane not in shared.results:
                self._compute(shared, number, self._lane)
            return shared.results.pop(self._lane)
        if shared.plain is None:
            shared.plain = run_clamped(shared.call, {})
        plain = shared.plain  # the model may change what it reads in place
        return Result(plain.output.clone(), tuple(state.clone() for state in plain.final))

    def _compute(self, shared: _SharedCall, number: int, lane: int) -> None:
        """Results of a lane and, where that is faster, of later lanes that begin like it."""
        call = shared.call
        first = self._first_step(call, lane)
        count = lanes_at_once(call)
        lanes = [lane]
        for other in range(lane + 1, len(self._sets)):
            if len(lanes) == count:
                break
            if self._sets[other].all and self._first_step(call, other) == first:
                lanes.append(other)
        own = [self._sets[lane] for lane in lanes]
        if all(clamps.constant for clamps in own):
            found = run_lanes(call, [clamps.always for clamps in own])
        elif first == 0:
            found = run_lanes(call, [clamps.step_by_step(call, number) for clamps in own])
        else:
            before = self._prefix(shared, first)
            rest = call.part(first, call.steps, before.final)
            held = [clamps.step_by_step(call, number) for clamps in own]
            later = [{place: part.after(first) for place, part in parts.items()} for parts in held]
            found = [before.followed_by(result) for result in run_lanes(rest, later)]
        shared.results |= zip(lanes, found, strict=True)

    def _first_step(self, call: ModuleCall, lane: int) -> int:
        """Number of first steps that a lane has in common with the run without knock-out."""
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
        """What the first steps give without knock-out, continued from the steps that are known."""
        call, before = shared.call, shared.prefix
        known = 0 if before is None else before.output.shape[1]
        if before is None or known > steps:
            before = run_clamped(call.part(0, steps, call.initial), {})
        elif known < steps:
            before = before.followed_by(run_clamped(call.part(known, steps, before.final), {}))
        shared.prefix = before
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
