"""Knock-outs of one model on the same inputs that run one after the other and share their work.

Whatever a knock-out does not change is computed once: recurrent modules before it, layers below it
and steps before it. The rest is computed for several knock-outs at once, as lanes of one larger
batch, if that is faster than PyTorch's kernel for each.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import nn

from lightning_relay.knockout.calls import ModuleCall, Result
from lightning_relay.knockout.cells import hold_cell
from lightning_relay.knockout.clamps import Clamp, positions, step_mask
from lightning_relay.knockout.context import hold
from lightning_relay.knockout.fused import Clamps, FusedForward, held_in_lanes
from lightning_relay.knockout.holding import check_can_be_held
from lightning_relay.knockout.running import run_clamped
from lightning_relay.knockout.side_by_side import lanes_at_once, run_lanes
from lightning_relay.recurrent.forwards import may_pass_on, runs_pytorch_forward
from lightning_relay.recurrent.layers import all_modules

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from torch import Tensor

    from lightning_relay.recurrent.forwards import OwnCall

_STATES = 2**22
"""Approximate maximum number of states of lanes that are run together."""


class KnockoutLanes:
    """Context manager for runs of a model on the same inputs, each with other units knocked out.

    Each run is one lane: ``with lanes.lane(number): model(x)``. Calls of the model must depend on
    their inputs alone. ``drawn`` is the number of draws before; another number draws other values.
    Without ``share``, every lane is computed as by ``knocked_out``.
    """

    def __init__(
        self,
        model: nn.Module,
        sets: Sequence[Sequence[Clamp]],
        drawn: int = 0,
        *,
        share: bool = True,
    ) -> None:
        self._model = model
        self._drawn = drawn
        self._forwards: list[_SharedForward] = []
        self._others: list[list[Clamp]] = [[] for _ in sets]
        self._longest: dict[str, int] = {}
        self._counted: dict[str, nn.RNNCellBase] = {}
        held = [clamp.key.module for clamps in sets for clamp in clamps]
        for name, module in all_modules(model, held).items():
            own = [[clamp for clamp in clamps if clamp.key.module == name] for clamps in sets]
            if any(own):
                check_can_be_held(model, name, module)
            shares = runs_pytorch_forward(module) or (any(own) and may_pass_on(module))
            if isinstance(module, nn.RNNBase) and shares:
                self._forwards.append(_SharedForward(name, module, own, drawn, share=share))
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

    def together(self, first: int) -> range:
        """The lanes, from one on, that a single run can take together; one lane if it cannot.

        The run without knock-out comes before.
        """
        size = sum(forward.plain_size for forward in self._forwards)
        last = first + 1
        if size and not self._others[first]:
            end = min(len(self._others), first + max(1, _STATES // size))
            while last < end and not self._others[last]:
                last += 1
        return range(first, last)

    def states(self, lanes: Sequence[int]) -> list[dict[int, tuple[Tensor, ...]]]:
        """Output and final states of each module in several lanes, by the number of the call.

        Each tensor has the lanes as its first dimension. Modules without knock-out are left out.
        """
        return [forward.in_lanes(lanes) for forward in self._forwards]

    @contextmanager
    def given(
        self, states: Sequence[Mapping[int, tuple[Tensor, ...]]], place: int | None = None
    ) -> Iterator[None]:
        """A run in which the modules give what ``states`` gave, for one of the lanes by its place.

        None for states that are mapped by ``vmap``. A RuntimeError says that the calls are not
        those of the run without knock-out.
        """
        for forward, own in zip(self._forwards, states, strict=True):
            if place is not None:  # the model may change what it reads in place
                own = {
                    number: tuple(part[place].clone() for part in one)
                    for number, one in own.items()
                }
            given = {number: Result(one[0], one[1:]) for number, one in own.items()}
            forward.begin(None, given, mapped=place is None)
        yield

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
            self._check_passed_on()
            self._longest |= {cell.name: cell.longest for cell in cells}
            return
        if not self._others[number]:
            yield
            self._check_passed_on()
            return
        clamps = [self._from_start(clamp) for clamp in self._others[number]]
        with hold(self._model, clamps, self._drawn) as entered:
            yield
        self._check_passed_on()
        for held in entered:
            self._longest[held.name] = max(held.longest, self._longest.get(held.name, 0))

    def _check_passed_on(self) -> None:
        for forward in self._forwards:
            forward.check_passed_on()

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
        self,
        name: str,
        module: nn.RNNBase,
        sets: Sequence[Sequence[Clamp]],
        drawn: int,
        *,
        share: bool,
    ) -> None:
        super().__init__(name, module)
        self._share = share
        self.shared: dict[int, _SharedCall] = {}
        self._sets = [Clamps([_begun(clamp, -drawn) for clamp in clamps]) for clamps in sets]
        self._lane: int | None = None
        self._given: Mapping[int, Result] | None = None
        self._mapped = False
        self._number = 0

    def begin(
        self,
        lane: int | None,
        given: Mapping[int, Result] | None = None,
        *,
        mapped: bool = False,
    ) -> None:
        """The next calls are those of a lane, or without knock-out for None.

        Calls for which results are ``given`` give these; they are ``mapped`` by ``vmap``.
        """
        self._given = given
        self._mapped = mapped
        self.clamps = Clamps(()) if lane is None else self._sets[lane]
        self._lane = lane if self.clamps.all else None
        self._number = 0
        self.continuation.remember(None)

    def _run_own(self, call: OwnCall, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        # A mapped run has no values to compare. Its calls are those that were compared before.
        return None if self._mapped else super()._run_own(call, args, kwargs)

    def _run(self, call: ModuleCall, offset: int) -> Result:
        number, self._number = self._number, self._number + 1
        if self._given is not None:
            if (
                call.needs_gradients
                or offset
                or number not in self.shared
                or not _same(self.shared[number].call, call)
            ):
                raise RuntimeError(f"{self.name!r} is not called as without knock-out")
            if number in self._given:
                return self._given[number]
        # A result that is used again would lead into the graph of its run.
        if call.needs_gradients or not self._share:
            return run_clamped(call, self.clamps.in_call(call, number, offset))
        if number not in self.shared:
            self.shared[number] = _SharedCall(call.copied())
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
        count = lanes_at_once(call, first)
        lanes = [lane]
        for other in range(lane + 1, len(self._sets)):
            if len(lanes) == count:
                break
            if self._sets[other].all and self._first_step(call, other) == first:
                lanes.append(other)
        before, found = self._computed(shared, number, lanes, first)
        if before is not None:
            found = [before.followed_by(result) for result in found]
        shared.results |= zip(lanes, found, strict=True)

    def _computed(
        self, shared: _SharedCall, number: int, lanes: Sequence[int], first: int
    ) -> tuple[Result | None, list[Result]]:
        """What the first steps give in all lanes, None for no steps, and the others in each."""
        call = shared.call
        own = [self._sets[lane] for lane in lanes]
        if all(clamps.constant for clamps in own):
            return None, run_lanes(call, [clamps.always for clamps in own])
        held = held_in_lanes(own, call, number, first)
        if first == 0:
            return None, run_lanes(call, held)
        before = self._prefix(shared, first)
        return before, run_lanes(call.part(first, call.steps, before.final), held)

    @property
    def plain_size(self) -> int:
        """Number of states that the calls gave without knock-out."""
        return sum(shared.plain.output.numel() for shared in self.shared.values() if shared.plain)

    def in_lanes(self, lanes: Sequence[int]) -> dict[int, tuple[Tensor, ...]]:
        """Output and final states of each call in several lanes; none if nothing is held."""
        if not any(self._sets[lane].all for lane in lanes):
            return {}
        found = [self._stacked(shared, number, lanes) for number, shared in self.shared.items()]
        return {number: (one.output, *one.final) for number, one in enumerate(found)}

    def _stacked(self, shared: _SharedCall, number: int, lanes: Sequence[int]) -> Result:
        parts: list[Result] = []
        for first, alike in groupby(lanes, lambda lane: self._begins(shared.call, lane)):
            own = list(alike)
            if first is None:
                assert shared.plain is not None
                parts.append(_joined(None, [shared.plain] * len(own)))
                continue
            count = lanes_at_once(shared.call, first)
            for block in range(0, len(own), count):
                parts.append(
                    _joined(*self._computed(shared, number, own[block : block + count], first))
                )
        if len(parts) == 1:
            return parts[0]
        finals = zip(*(part.final for part in parts), strict=True)
        return Result(
            torch.cat([part.output for part in parts]), tuple(torch.cat(own) for own in finals)
        )

    def _begins(self, call: ModuleCall, lane: int) -> int | None:
        return self._first_step(call, lane) if self._sets[lane].all else None

    def _first_step(self, call: ModuleCall, lane: int) -> int:
        """Number of first steps that a lane has in common with the run without knock-out."""
        if call.module.bidirectional or call.batch_sizes is not None:
            return 0
        first = call.steps
        for clamp in self._sets[lane].all:
            if clamp.steps is None:
                return 0
            first = min([first, *positions(clamp.steps, call.steps)])
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


def _joined(before: Result | None, lanes: Sequence[Result]) -> Result:
    """Results of several lanes as one, which have what the first steps give in common."""
    output = torch.stack([lane.output for lane in lanes])
    if before is not None:
        output = torch.cat([before.output.expand(len(lanes), -1, -1, -1), output], 2)
    finals = zip(*(lane.final for lane in lanes), strict=True)
    return Result(output, tuple(torch.stack(own) for own in finals))


def _begun(clamp: Clamp, begun: int) -> Clamp:
    return clamp if clamp.donors is None else replace(clamp, begun=begun)


def _same(first: ModuleCall, second: ModuleCall) -> bool:
    """Whether two calls of a module have the same inputs and initial states.

    These are compared by their contents: the model may change tensors in place.
    """
    if (first.batch_sizes is None) != (second.batch_sizes is None):
        return False
    pairs = [(first.inputs, second.inputs), *zip(first.initial, second.initial, strict=True)]
    for own, other in ((first.batch_sizes, second.batch_sizes), (first.order, second.order)):
        if own is not None and other is not None:
            pairs.append((own, other))
    return all(own.dtype == other.dtype and torch.equal(own, other) for own, other in pairs)
