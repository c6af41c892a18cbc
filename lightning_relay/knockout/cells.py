"""Cells that are called once for every step, with states held."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lightning_relay.knockout.clamps import Clamp
from lightning_relay.knockout.held import Held, held_states
from lightning_relay.knockout.holding import HoldingModule, check_evaluated
from lightning_relay.recurrent.continuation import Continuation, given_state
from lightning_relay.recurrent.hooks import TransientHook, is_compiled

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence


class HoldingCell(HoldingModule):
    """A cell that is called once for every step, and holds states."""

    module: nn.RNNCellBase

    def __init__(self, name: str, module: nn.RNNCellBase) -> None:
        super().__init__(name, module)
        self.clamps: list[Clamp] = []
        self.passes = 0
        self._position = -1
        self.continuation = Continuation()
        self._fixed: dict[int, Clamp] = {}
        self._held: dict[bool, Held] = {}

    def add(self, clamps: Sequence[Clamp]) -> None:
        """Hold more."""
        for clamp in clamps:
            if clamp.counts_from_end:
                raise ValueError(
                    f"steps: got negative ones for {self.name!r}, which is called once for every "
                    "step, so that the end of a sequence is not known; it takes steps from 0"
                )
        self.clamps += clamps
        self._held = {}

    def remove(self, clamps: Sequence[Clamp]) -> None:
        """Hold these no longer."""
        self.clamps = [one for one in self.clamps if one not in clamps]
        self._held = {}

    def before(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Hold the state that a step starts from."""
        check_evaluated(self.name, module)
        given = given_state(args, kwargs)
        is_held = self.continuation.goes_on(given)
        inputs = args[0] if args else kwargs["input"]
        rows = inputs.unsqueeze(0) if inputs.dim() == 1 else inputs
        starts = self._position < 0 or not (is_held or self.continuation.step_goes_on(given))
        before = self._count(starts, rows)
        if is_held:
            return args, dict(kwargs)
        if given is None:
            zeros = rows.new_zeros(len(rows), self.module.hidden_size)
            given = (zeros, zeros) if isinstance(module, nn.LSTMCell) else zeros
            given = _like_input(given, inputs)
        parts = list(given) if isinstance(given, tuple) else [given]
        for cell, held in before.items():
            if self._position:
                parts[cell] = _replaced(parts[cell], held)
            else:
                initial = parts[cell].view(len(rows), -1)
                parts[cell] = held.hold_initial(initial).view_as(parts[cell])
        state = tuple(parts) if isinstance(given, tuple) else parts[0]
        if "input" in kwargs or len(args) < 2:
            return args[:1], {**kwargs, "hx": state}
        return (args[0], state, *args[2:]), dict(kwargs)

    def after(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any
    ) -> Any:
        """Hold the state that a step gives."""
        parts = list(output) if isinstance(output, tuple) else [output]
        if True in self._held:
            held_cell = _replaced(parts[1], self._held[True])
            if held_cell is not parts[1]:
                parts = [self._shown(args, kwargs).to(held_cell) * held_cell.tanh(), held_cell]
        if False in self._held:
            parts[0] = _replaced(parts[0], self._held[False])
        self.calls += 1
        self.longest = max(self.longest, self._position + 1)
        self.continuation.remember(tuple(parts))
        return tuple(parts) if isinstance(output, tuple) else parts[0]

    def _count(self, starts: bool, rows: Tensor) -> dict[bool, Held]:
        """Find the position of this step and what is held at it; gives what is held before it."""
        self._position = 0 if starts else self._position + 1
        before = self._held
        if starts:
            self._fixed = {}
            self.passes += 1
        if starts or not before or not all(clamp.constant for clamp in self.clamps):
            self._held = self._held_now(rows)
        return self._held if starts else before

    def _held_now(self, rows: Tensor) -> dict[bool, Held]:
        lengths = torch.full((len(rows),), 1)
        held = {}
        for cell in (False, True):
            own = [clamp for clamp in self.clamps if clamp.key.cell == cell]
            if own:
                held[cell] = held_states(
                    [self._drawn(clamp, len(rows)) for clamp in own],
                    0,
                    units=self.module.hidden_size,
                    lengths=lengths,
                    offset=self._position,
                    like=rows.detach().to(self.module.weight_hh.dtype),
                )
        return held

    def _drawn(self, clamp: Clamp, rows: int) -> Clamp:
        """A clamp whose values are drawn, once for each pass, from the longest sequences."""
        if clamp.donors is None:
            return clamp
        if id(clamp) not in self._fixed:
            longest = int(clamp.donors.max())
            values = clamp.at(torch.full((rows,), longest), longest, self.passes - 1)
            self._fixed[id(clamp)] = Clamp(clamp.key, clamp.units, values, clamp.steps)
        return self._fixed[id(clamp)]

    def _shown(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
        """The output gate of an LSTM's step."""
        module, units = self.module, self.module.hidden_size
        inputs = args[0] if args else kwargs["input"]
        hidden = given_state(args, kwargs)[0]
        rows = slice(3 * units, 4 * units)
        biases = (module.bias_ih[rows], module.bias_hh[rows]) if module.bias else (None, None)
        linear = nn.functional.linear
        gate = linear(inputs, module.weight_ih[rows], biases[0])
        return torch.sigmoid(gate + linear(hidden, module.weight_hh[rows], biases[1]))


@contextmanager
def hold_cell(
    model: nn.Module,
    name: str,
    module: nn.RNNCellBase,
    clamps: Sequence[Clamp],
    drawn: int = 0,
) -> Iterator[HoldingCell]:
    """Hold what the clamps say inside the block, with so many draws before."""
    set_before = [
        hook.held for hook in module._forward_pre_hooks.values() if isinstance(hook, _Before)
    ]
    held = set_before[0] if set_before else HoldingCell(name, module)
    own = [replace(clamp, begun=held.passes - drawn) for clamp in clamps]
    held.add(own)
    compiled = is_compiled(model)
    with ExitStack() as undo:
        undo.callback(held.remove, own)
        if not set_before:
            handles = [
                module.register_forward_pre_hook(_Before(held, compiled), with_kwargs=True),
                module.register_forward_hook(
                    _After(held, compiled), with_kwargs=True, prepend=True
                ),
            ]
            for handle in handles:
                undo.callback(handle.remove)
        if getattr(model, "_orig_mod", model) is not module:
            undo.callback(model.register_forward_pre_hook(_NewPass(held)).remove)
        yield held


class _Before(TransientHook):
    """Forward pre-hook of a cell; it is never compiled itself."""

    def __init__(self, held: HoldingCell, compiled: bool) -> None:
        self.held = held
        self._hold = torch.compiler.disable(held.before) if compiled else held.before

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return self._hold(module, args, kwargs)


class _After(TransientHook):
    """Forward hook of a cell, before all others; it is never compiled itself."""

    def __init__(self, held: HoldingCell, compiled: bool) -> None:
        self._hold = torch.compiler.disable(held.after) if compiled else held.after

    def __call__(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> Any:
        return self._hold(module, args, kwargs, output)


class _NewPass(TransientHook):
    """Forward pre-hook of the model: what comes now belongs to other sequences."""

    def __init__(self, held: HoldingCell) -> None:
        self._held = held

    def __call__(self, _module: nn.Module, _args: Any) -> None:
        self._held.continuation.begin()


def _replaced(states: Tensor, held: Held) -> Tensor:
    rows = states if states.dim() == 2 else states.unsqueeze(0)
    replaced = held.hold(rows.unsqueeze(1), 0, 1).squeeze(1)
    return states if replaced.data_ptr() == states.data_ptr() else replaced.view_as(states)


def _like_input(state: Any, inputs: Tensor) -> Any:
    """A state ``(1, unit)`` without its first dimension, where the input has none."""
    if inputs.dim() == 2:
        return state
    return tuple(part[0] for part in state) if isinstance(state, tuple) else state[0]
