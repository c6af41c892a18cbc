"""The forward of nn.RNN, nn.GRU and nn.LSTM with states held."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from lightning_relay.knockout.calls import ModuleCall, Result, as_call, in_layout
from lightning_relay.knockout.held import Held, HeldAlways
from lightning_relay.knockout.holding import HoldingModule, check_evaluated, check_passed_on
from lightning_relay.knockout.running import Holds, run_clamped
from lightning_relay.recurrent.continuation import Continuation
from lightning_relay.recurrent.forwards import OwnCall, may_pass_on
from lightning_relay.recurrent.hooks import TransientForward

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor, nn
    from torch.nn.utils.rnn import PackedSequence

    from lightning_relay.knockout.clamps import Clamp, Place


class Clamps:
    """All clamps of a module; a later one wins.

    Attributes:
        all: The clamps.
        constant: Whether each holds its units always, at one value for each unit.
        by_place: The clamps of each layer and direction, of its hidden or cell states.
    """

    def __init__(self, clamps: Sequence[Clamp]) -> None:
        self.all = clamps
        self.constant = all(clamp.constant for clamp in clamps)
        self.by_place: dict[Place, list[Clamp]] = {}
        for clamp in clamps:
            self.by_place.setdefault(clamp.place, []).append(clamp)

    def in_call(self, call: ModuleCall, number: int, offset: int = 0) -> Holds:
        """What is held in a call, given the number of calls before it and its first position."""
        return self.always if self.constant else self.step_by_step(call, number, offset)

    @cached_property
    def always(self) -> dict[Place, HeldAlways]:
        """What is held always, if all clamps are constant."""
        return {place: HeldAlways.of(own) for place, own in self.by_place.items()}

    def step_by_step(self, call: ModuleCall, number: int, offset: int = 0) -> dict[Place, Held]:
        """What is held at each step of a call."""
        lengths = call.lengths
        found = {}
        for place, own in self.by_place.items():
            like = call.initial[place[2]]
            held = Held.of(
                own, number, units=like.shape[-1], lengths=lengths, offset=offset, like=like
            )
            found[place] = held if call.order is None else held.reordered(call.order)
        return found


def held_in_lanes(
    lanes: Sequence[Clamps], call: ModuleCall, number: int, first: int
) -> list[dict[Place, Held]]:
    """What is held from a step of a call on, in each lane; for several lanes at once if simple."""
    if call.batch_sizes is not None or not _alike(lanes):
        return [
            {place: held.after(first) for place, held in own.step_by_step(call, number).items()}
            for own in lanes
        ]
    found: list[dict[Place, Held]] = [{} for _ in lanes]
    for place in dict.fromkeys(place for own in lanes for place in own.by_place):
        having = [lane for lane, own in enumerate(lanes) if place in own.by_place]
        like = call.initial[place[2]]
        held = Held.in_lanes(
            [lanes[lane].by_place[place][0] for lane in having],
            units=like.shape[-1],
            steps=call.steps,
            first=first,
            like=like,
        )
        for lane, part in zip(having, held, strict=True):
            found[lane][place] = part
    return found


def _alike(lanes: Sequence[Clamps]) -> bool:
    """Whether each lane has one simple clamp at a place, and all have the same steps."""
    steps = lanes[0].all[0].steps
    return all(
        len(own.by_place) == len(own.all)
        and all(clamp.simple and clamp.steps == steps for clamp in own.all)
        for own in lanes
    )


class FusedForward(HoldingModule, TransientForward):
    """Stands on an nn.RNN, nn.GRU or nn.LSTM in place of its forward, and holds states.

    A subclass with a forward of its own still runs it, once in each call as without knock-outs.
    What it returns is compared with what PyTorch's forward gives, and replaced by held states.
    """

    module: nn.RNNBase

    def __init__(self, name: str, module: nn.RNNBase) -> None:
        super().__init__(name, module)
        self.clamps = Clamps(())
        self.continuation = Continuation()
        self._position = 0
        self._may_pass_on = may_pass_on(module)
        self._error: ValueError | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Output and final state, as the module's own forward returns them."""
        if not self._may_pass_on:
            return self._held(*args, **kwargs)
        check_evaluated(self.name, self.module)
        call = OwnCall(self.module, args, kwargs)
        result = self._run_own(call, args, kwargs)
        if as_call(self.module, call.inputs, call.state) is None:
            return result
        return self._held(call.inputs, call.state)

    def check_passed_on(self) -> None:
        """Raise the ValueError that a call has raised before, where the model kept it."""
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _run_own(self, call: OwnCall, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run the module's own forward, and compare what it gives with PyTorch's."""
        result = type(self.module).forward(self.module, *args, **kwargs)
        try:
            check_passed_on(self.name, call, result)
        except ValueError as error:
            self._error = error
            raise
        return result

    def _held(
        self,
        input: Tensor | PackedSequence,
        hx: Tensor | tuple[Tensor, Tensor] | None = None,
    ) -> Any:
        module = self.module
        call = as_call(module, input, hx)
        if call is None:
            return type(module).forward(module, input, hx)
        check_evaluated(self.name, module)
        goes_on = self.continuation.goes_on(hx)
        if goes_on:
            self._check_needs_no_ends()
        offset = self._position if goes_on else 0
        output, final = in_layout(self._run(call, offset), module, input)
        self.calls += 1
        self._position = offset + call.steps
        self.longest = max(self.longest, self._position)
        single = not module.bidirectional and call.batch_sizes is None
        self.continuation.remember(final if single else None)
        return output, final

    def _run(self, call: ModuleCall, offset: int) -> Result:
        return run_clamped(call, self.clamps.in_call(call, self.calls, offset))

    def _check_needs_no_ends(self) -> None:
        for clamp in self.clamps.all:
            if clamp.donors is not None or clamp.counts_from_end:
                got, other = "steps: got negative ones", "steps from 0"
                if clamp.donors is not None:
                    got, other = "value: got 'resample'", "another value"
                raise ValueError(
                    f"{got} for {self.name!r}, which is called on pieces of sequences, so that "
                    f"their ends are not known; call it on whole sequences, or give {other}"
                )


@contextmanager
def hold_fused(name: str, module: nn.RNNBase, clamps: Sequence[Clamp]) -> Iterator[FusedForward]:
    """Hold what the clamps say inside the block."""
    before = vars(module).get("forward")
    held = before if isinstance(before, FusedForward) else FusedForward(name, module)
    own = [replace(clamp, begun=held.calls) for clamp in clamps]
    held.clamps = Clamps([*held.clamps.all, *own])
    module.forward = held
    try:
        yield held
    finally:
        held.clamps = Clamps([one for one in held.clamps.all if one not in own])
        if not held.clamps.all and before is not None and before is not held:
            module.forward = before
        elif not held.clamps.all:
            vars(module).pop("forward", None)
