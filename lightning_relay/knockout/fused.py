"""The forward of nn.RNN, nn.GRU and nn.LSTM with states held."""

from __future__ import annotations

import weakref
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from lightning_relay.hooks import TransientForward
from lightning_relay.knockout.calls import ModuleCall, Result, as_call, in_layout, is_ordinary
from lightning_relay.knockout.clamps import Held, held_states
from lightning_relay.knockout.held import Draws, HeldModule, check_evaluated, counts_from_end
from lightning_relay.knockout.running import Place, run_clamped

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch.nn.utils.rnn import PackedSequence


class FusedForward(HeldModule, TransientForward):
    """The forward of nn.RNN, nn.GRU or nn.LSTM with states held; stands on the instance."""

    module: nn.RNNBase

    def __init__(self, name: str, module: nn.RNNBase) -> None:
        super().__init__(name, module)
        self._final: tuple[weakref.ref[Tensor], ...] = ()
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
        goes_on = hx is not None and self._returned(hx)
        offset = self._position if goes_on else 0
        self._check_goes_on(goes_on)
        result = self._run(call, offset)
        output, final = in_layout(result, module, input)
        self.calls += 1
        self._position = offset + int(call.lengths.max())
        self.longest = max(self.longest, self._position)
        single = not module.bidirectional and call.batch_sizes is None
        parts = (final,) if isinstance(final, Tensor) else final
        self._final = tuple(weakref.ref(part) for part in parts) if single else ()
        return output, final

    def _run(self, call: ModuleCall, offset: int) -> Result:
        return run_clamped(call, held_in_call(call, self.draws, offset))

    def _returned(self, state: Tensor | tuple[Tensor, Tensor]) -> bool:
        parts = (state,) if isinstance(state, Tensor) else state
        return len(parts) == len(self._final) and all(
            part is own() for part, own in zip(parts, self._final, strict=True)
        )

    def _check_goes_on(self, goes_on: bool) -> None:
        if not goes_on:
            return
        for draws in self.draws:
            clamp = draws.clamp
            if clamp.donors is not None or counts_from_end(clamp):
                what = "value: 'resample'" if clamp.donors is not None else "steps: negative ones"
                raise ValueError(
                    f"{what} cannot be had of {self.name!r}, which is called on sequences in "
                    "pieces, so that their ends are not known"
                )


def held_in_call(call: ModuleCall, draws: Sequence[Draws], offset: int = 0) -> dict[Place, Held]:
    """What is held in each layer and direction during a call."""
    lengths = call.lengths
    places: dict[Place, list[Draws]] = {}
    for draw in draws:
        key = draw.clamp.key
        places.setdefault((key.layer, key.reverse, key.cell), []).append(draw)
    held = {}
    for place, own in places.items():
        states = call.initial[place[2]]
        part = held_states(
            [draw.clamp for draw in own],
            [draw.generator for draw in own],
            units=states.shape[-1],
            lengths=lengths,
            offset=offset,
            like=states,
        )
        held[place] = part if call.order is None else part.reordered(call.order)
    return held


@contextmanager
def hold_fused(name: str, module: nn.RNNBase, draws: Sequence[Draws]) -> Iterator[FusedForward]:
    """Hold what the draws say inside the block."""
    before = vars(module).get("forward")
    held = before if isinstance(before, FusedForward) else FusedForward(name, module)
    held.draws.extend(draws)
    module.forward = held
    try:
        yield held
    finally:
        for draw in draws:
            held.draws.remove(draw)
        if not held.draws and before in (None, held):
            vars(module).pop("forward", None)
        elif not held.draws:
            module.forward = before
