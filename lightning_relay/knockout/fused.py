"""The forward of nn.RNN, nn.GRU and nn.LSTM with states held."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from lightning_relay.knockout.calls import ModuleCall, Result, as_call, in_layout, is_ordinary
from lightning_relay.knockout.held import Held, HeldAlways, held_states
from lightning_relay.knockout.holding import HoldingModule, check_evaluated
from lightning_relay.knockout.running import run_clamped
from lightning_relay.recurrent.continuation import Continuation
from lightning_relay.recurrent.hooks import TransientForward

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor, nn
    from torch.nn.utils.rnn import PackedSequence

    from lightning_relay.knockout.clamps import Clamp, Place


class Clamps:
    """All that is asked of a module.

    Args:
        clamps: The clamps; a later one wins.

    Attributes:
        all: The same.
        constant: Whether all hold always, at one value for each unit.
    """

    def __init__(self, clamps: Sequence[Clamp]) -> None:
        self.all = clamps
        self.constant = all(clamp.constant for clamp in clamps)
        self._by_place: dict[Place, list[Clamp]] = {}
        for clamp in clamps:
            self._by_place.setdefault(clamp.place, []).append(clamp)
        self._always: dict[Place, HeldAlways] | None = None

    def in_call(
        self, call: ModuleCall, number: int, offset: int = 0
    ) -> dict[Place, Held] | dict[Place, HeldAlways]:
        """What is held in each layer and direction during a call."""
        return self.always() if self.constant else self.step_by_step(call, number, offset)

    def always(self) -> dict[Place, HeldAlways]:
        """What is held always, where all clamps are constant."""
        if self._always is None:
            self._always = {place: HeldAlways.of(own) for place, own in self._by_place.items()}
        return self._always

    def step_by_step(self, call: ModuleCall, number: int, offset: int = 0) -> dict[Place, Held]:
        """What is held at each step of a call.

        Args:
            call: The call.
            number: Number of calls of the module before it.
            offset: Position of its first step in the sequence.
        """
        lengths = call.lengths
        held = {}
        for place, own in self._by_place.items():
            states = call.initial[place[2]]
            part = held_states(
                own,
                number,
                units=states.shape[-1],
                lengths=lengths,
                offset=offset,
                like=states,
            )
            held[place] = part if call.order is None else part.reordered(call.order)
        return held


class FusedForward(HoldingModule, TransientForward):
    """The forward of nn.RNN, nn.GRU or nn.LSTM with states held; stands on the instance."""

    module: nn.RNNBase

    def __init__(self, name: str, module: nn.RNNBase) -> None:
        super().__init__(name, module)
        self.clamps = Clamps(())
        self.continuation = Continuation()
        self._position = 0

    def __call__(
        self,
        input: Tensor | PackedSequence,
        hx: Tensor | tuple[Tensor, Tensor] | None = None,
    ) -> Any:
        """Output and final state, as the module's own forward gives them."""
        module = self.module
        if not is_ordinary(module, input, hx):
            return type(module).forward(module, input, hx)
        check_evaluated(self.name, module)
        call = as_call(module, input, hx)
        goes_on = self.continuation.goes_on(hx)
        offset = self._position if goes_on else 0
        self._check_goes_on(goes_on)
        output, final = in_layout(self._run(call, offset), module, input)
        self.calls += 1
        self._position = offset + call.steps
        self.longest = max(self.longest, self._position)
        single = not module.bidirectional and call.batch_sizes is None
        self.continuation.remember(final if single else None)
        return output, final

    def _run(self, call: ModuleCall, offset: int) -> Result:
        return run_clamped(call, self.clamps.in_call(call, self.calls, offset))

    def _check_goes_on(self, goes_on: bool) -> None:
        if not goes_on:
            return
        for clamp in self.clamps.all:
            if clamp.donors is not None or clamp.counts_from_end:
                what = "value: 'resample'" if clamp.donors is not None else "steps: negative ones"
                raise ValueError(
                    f"{what} cannot be had of {self.name!r}, which is called on sequences in "
                    "pieces, so that their ends are not known"
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
