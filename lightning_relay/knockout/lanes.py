"""Many knock-outs of one model on the same inputs, run one after the other, that share their work.

What a knock-out does not touch is computed once: recurrent modules before it, layers below it and
steps before it. What it does touch is computed for several knock-outs at once, as lanes of one
larger batch, where that is faster than PyTorch's kernel for each.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor, nn

from lightning_relay.knockout.calls import ModuleCall, Result, packed, unpacked
from lightning_relay.knockout.clamps import Clamp, Held, step_mask
from lightning_relay.knockout.context import check_can_be_held, clamped
from lightning_relay.knockout.fused import FusedForward, held_in_call
from lightning_relay.knockout.held import Draws
from lightning_relay.knockout.running import Place, run_clamped
from lightning_relay.knockout.stepping import run_steps
from lightning_relay.knockout.weights import LayerWeights
from lightning_relay.recurrent.layers import recurrent_modules
from lightning_relay.recurrent.replay import runs_pytorch_forward

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from types import TracebackType

_ROWS = {"cpu": 1024, "cuda": 2**16}
"""Lanes times sequences that are computed at once, by type of device."""

_LEAST_LANES = {"RNN_TANH": 8, "RNN_RELU": 8, "GRU": 8, "LSTM": 64}
"""With fewer lanes at once than this, PyTorch's kernel for each is faster on a CPU."""

_BYTES = 2**28
"""States of all lanes at once take about this much at most."""


class KnockoutLanes:
    """Context manager for runs of a model on the same inputs, each with other units knocked out.

    Args:
        model: A model in evaluation mode, whose calls depend on their inputs alone.
        sets: What is held in each lane.

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

    def __init__(self, model: nn.Module, sets: Sequence[Sequence[Clamp]]) -> None:
        self._model = model
        self._shared: list[_SharedForward] = []
        self._others: list[list[Clamp]] = [[] for _ in sets]
        for name, module in recurrent_modules(model).items():
            own = [[clamp for clamp in clamps if clamp.key.module == name] for clamps in sets]
            if any(own):
                check_can_be_held(model, name, module)
            if isinstance(module, nn.RNNBase) and runs_pytorch_forward(module):
                self._shared.append(_SharedForward(name, module, own))
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
        return {forward.name: forward.longest for forward in self._shared}

    @contextmanager
    def lane(self, number: int | None) -> Iterator[None]:
        """A run with one of the sets knocked out; None for a run without."""
        for forward in self._shared:
            forward.begin(number)
        with ExitStack() as stack:
            if number is not None and self._others[number]:
                stack.enter_context(clamped(self._model, self._others[number]))
            yield


@dataclass(eq=False)
class _SharedCall:
    """A call that several lanes make with the same inputs.

    Attributes:
        call: The call.
        plain: Its result without knock-out, once it is known.
        results: Results of lanes that have been computed and not yet asked for.
        prefix: A number of steps and what these give without knock-out.
    """

    call: ModuleCall
    plain: Result | None = None
    results: dict[int, Result] = field(default_factory=dict)
    prefix: tuple[int, Result] | None = None


class _SharedForward(FusedForward):
    """The forward of nn.RNN, nn.GRU or nn.LSTM in all lanes."""

    def __init__(self, name: str, module: nn.RNNBase, sets: Sequence[Sequence[Clamp]]) -> None:
        super().__init__(name, module)
        self._sets = [[Draws(clamp) for clamp in clamps] for clamps in sets]
        self._lane: int | None = None
        self._number = 0
        self._calls: list[_SharedCall] = []

    def begin(self, lane: int | None) -> None:
        """The next calls are those of a lane."""
        self._lane = lane
        self.draws = [] if lane is None else self._sets[lane]
        self._number = 0
        self._final = ()

    def clear(self) -> None:
        """Forget what was computed."""
        self._calls.clear()

    def _run(self, call: ModuleCall, offset: int) -> Result:
        number, self._number = self._number, self._number + 1
        if number == len(self._calls):
            self._calls.append(_SharedCall(call))
        shared = self._calls[number]
        if offset or not _same(shared.call, call):
            return super()._run(call, offset)
        if self._lane is None or not self.draws:
            if shared.plain is None:
                shared.plain = super()._run(shared.call, 0)
            plain = shared.plain  # what reads it may change it
            return Result(plain.output.clone(), tuple(state.clone() for state in plain.final))
        if self._lane not in shared.results:
            self._compute(shared, self._lane)
        return shared.results.pop(self._lane)

    def _compute(self, shared: _SharedCall, lane: int) -> None:
        """Results of a lane and, where that is faster, of those after it that are like it."""
        call = shared.call
        first = self._first_step(call, lane)
        count = _lanes_at_once(call)
        lanes = [lane]
        for other in range(lane + 1, len(self._sets)):
            if len(lanes) == count:
                break
            if self._sets[other] and self._first_step(call, other) == first:
                lanes.append(other)
        held = [held_in_call(call, self._sets[lane]) for lane in lanes]
        if first == 0:
            shared.results |= zip(lanes, run_lanes(call, held), strict=True)
            return
        before = self._prefix(shared, first)
        rest = ModuleCall(call.module, call.inputs[:, first:], None, before.final)
        later = [{place: part.after(first) for place, part in own.items()} for own in held]
        for own, result in zip(lanes, run_lanes(rest, later), strict=True):
            output = torch.cat([before.output, result.output], 1)
            shared.results[own] = Result(output, result.final)

    def _first_step(self, call: ModuleCall, lane: int) -> int:
        """Number of steps that are in a lane as they are without."""
        if call.module.bidirectional or call.batch_sizes is not None:
            return 0
        first = call.inputs.shape[1]
        for draw in self._sets[lane]:
            if draw.clamp.steps is None:
                return 0
            held = step_mask(draw.clamp.steps, call.lengths[:1])[0].nonzero()
            first = min(first, int(held[0])) if len(held) else first
        return first if first < call.inputs.shape[1] else 0

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


def run_lanes(call: ModuleCall, held: Sequence[Mapping[Place, Held]]) -> list[Result]:
    """The results of a call in several lanes, in each of which other states are held."""
    least = _least_lanes(call)
    if len(held) < least or torch.is_autocast_enabled(call.inputs.device.type):
        return [run_clamped(call, own) for own in held]
    module = call.module
    weights = call.weights
    directions = 1 + module.bidirectional
    sizes = (
        [len(call.inputs)] * call.inputs.shape[1]
        if call.batch_sizes is None
        else call.batch_sizes.tolist()
    )
    by_step = (
        call.inputs.transpose(0, 1) if call.batch_sizes is None else unpacked(call.inputs, sizes)
    )
    inputs = by_step.unsqueeze(0)
    finals: list[tuple[Tensor, ...]] = []
    for layer in range(module.num_layers):
        outputs = []
        for reverse in (False, True)[:directions]:
            own = [lane.get((layer, reverse, False)) for lane in held]
            cells = [lane.get((layer, reverse, True)) for lane in held]
            if len(inputs) == 1 and not any(own) and not any(cells):
                own, cells = own[:1], cells[:1]
            initial = [state[layer * directions + reverse].unsqueeze(0) for state in call.initial]
            output, *final = run_steps(
                LayerWeights.of(module, weights, layer, reverse),
                inputs,
                initial[0],
                initial[1] if len(initial) > 1 else None,
                own,
                cells,
                batch_sizes=sizes,
                reverse=reverse,
            )
            outputs.append(output)
            finals.append(
                tuple(state.expand(len(held), -1, -1) for state in final if state is not None)
            )
        lanes = max(map(len, outputs))
        inputs = torch.cat([output.expand(lanes, -1, -1, -1) for output in outputs], -1)
    final_states = [torch.stack(states, 1) for states in zip(*finals, strict=True)]
    return [
        Result(
            output.transpose(0, 1) if call.batch_sizes is None else packed(output, sizes),
            tuple(states[lane] for states in final_states),
        )
        for lane, output in enumerate(inputs.expand(len(held), -1, -1, -1))
    ]


def _lanes_at_once(call: ModuleCall) -> int:
    """How many lanes are computed at once."""
    sequences = call.initial[0].shape[1]
    rows = _ROWS.get(call.inputs.device.type, _ROWS["cuda"]) // sequences
    steps = call.inputs.shape[1] if call.batch_sizes is None else len(call.batch_sizes)
    width = call.module.hidden_size + call.inputs.shape[-1]
    of_lane = steps * sequences * width * call.inputs.element_size()
    count = min(rows, _BYTES // max(1, of_lane))
    return count if count >= _least_lanes(call) else 1


def _least_lanes(call: ModuleCall) -> int:
    return 2 if call.inputs.device.type != "cpu" else _LEAST_LANES[call.module.mode]


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
