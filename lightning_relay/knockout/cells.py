"""Cells that are called once for every step, with states held."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lightning_relay.knockout.clamps import Clamp
from lightning_relay.knockout.held import Held
from lightning_relay.knockout.holding import HoldingModule, check_evaluated
from lightning_relay.recurrent.continuation import Continuation, given_state
from lightning_relay.recurrent.hooks import TransientHook, is_compiled

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence


class HoldingCell(HoldingModule):
    """A cell that is called once for every step, and holds states."""

    module: nn.RNNCellBase

    def __init__(self, name: str, module: nn.RNNCellBase) -> None:
        super().__init__(name, module)
        self.clamps: list[Clamp] = []
        self.passes = 0
        self.continuation = Continuation()
        self._position = -1
        self._drawn: dict[int, Clamp] = {}
        self._held: dict[bool, Held] = {}

    def set_clamps(self, clamps: Sequence[Clamp]) -> None:
        """Hold what these say from now on."""
        if any(clamp.counts_from_end for clamp in clamps):
            raise ValueError(
                f"steps: got negative ones for {self.name!r}, which is called once for every "
                "step, so that the end of a sequence is not known; it takes steps from 0, or None"
            )
        self.clamps = list(clamps)
        self._held = {}

    def begin(self, *_: Any) -> None:
        """A forward pass of the model begins: the next step belongs to other sequences."""
        self.continuation.begin()

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
            zeros = rows.new_zeros(*inputs.shape[:-1], self.module.hidden_size)
            given = (zeros, zeros) if isinstance(module, nn.LSTMCell) else zeros
        parts = list(given) if isinstance(given, tuple) else [given]
        for cell, held in before.items():
            parts[cell] = _replaced(parts[cell], held, 0 if starts else 1)
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
            held_cell = _replaced(parts[1], self._held[True], 1)
            if held_cell is not parts[1]:
                parts = [self._shown(args, kwargs).to(held_cell) * held_cell.tanh(), held_cell]
        if False in self._held:
            parts[0] = _replaced(parts[0], self._held[False], 1)
        self.calls += 1
        self.longest = max(self.longest, self._position + 1)
        self.continuation.remember(tuple(parts))
        return tuple(parts) if isinstance(output, tuple) else parts[0]

    def _count(self, starts: bool, rows: Tensor) -> dict[bool, Held]:
        """What is held before this step; finds its position and what is held at it."""
        self._position = 0 if starts else self._position + 1
        before = self._held
        if starts:
            self._drawn = {}
            self.passes += 1
        if starts or not before or not all(clamp.constant for clamp in self.clamps):
            self._held = self._held_now(rows)
        return self._held if starts else before

    def _held_now(self, rows: Tensor) -> dict[bool, Held]:
        held = {}
        for cell in (False, True):
            own = [clamp for clamp in self.clamps if clamp.key.cell == cell]
            if own:
                held[cell] = Held.of(
                    [self._with_values(clamp, len(rows)) for clamp in own],
                    0,
                    units=self.module.hidden_size,
                    lengths=torch.full((len(rows),), 1),
                    offset=self._position,
                    like=rows.detach().to(self.module.weight_hh.dtype),
                )
        return held

    def _with_values(self, clamp: Clamp, rows: int) -> Clamp:
        """A clamp with its values; they are drawn once a pass, among the longest sequences."""
        if clamp.donors is None:
            return clamp
        if id(clamp) not in self._drawn:
            longest = int(clamp.donors.max())
            values = clamp.at(torch.full((rows,), longest), longest, self.passes - 1)
            self._drawn[id(clamp)] = Clamp(clamp.key, clamp.units, values, clamp.steps)
        return self._drawn[id(clamp)]

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
    model: nn.Module, name: str, module: nn.RNNCellBase, clamps: Sequence[Clamp], drawn: int = 0
) -> Iterator[HoldingCell]:
    """Hold what the clamps say inside the block; ``drawn`` is the number of draws before it."""
    hooks = [hook for hook in module._forward_pre_hooks.values() if isinstance(hook, _Hook)]
    held = hooks[0].held if hooks else HoldingCell(name, module)
    own = [replace(clamp, begun=held.passes - drawn) for clamp in clamps]
    held.set_clamps([*held.clamps, *own])
    compiled = is_compiled(model)
    with ExitStack() as undo:
        undo.callback(lambda: held.set_clamps([one for one in held.clamps if one not in own]))
        if not hooks:
            before, after = (_Hook(held, hold, compiled) for hold in (held.before, held.after))
            handle = module.register_forward_pre_hook(before, with_kwargs=True)
            undo.callback(handle.remove)
            handle = module.register_forward_hook(after, with_kwargs=True, prepend=True)
            undo.callback(handle.remove)
        if getattr(model, "_orig_mod", model) is not module:
            handle = model.register_forward_pre_hook(_Hook(held, held.begin))
            undo.callback(handle.remove)
        yield held


class _Hook(TransientHook):
    """Hook that holds states; inside a compiled model it runs uncompiled."""

    def __init__(self, held: HoldingCell, hold: Callable[..., Any], compiled: bool = False) -> None:
        self.held = held
        self._hold = torch.compiler.disable(hold) if compiled else hold

    def __call__(self, *args: Any) -> Any:
        return self._hold(*args)


def _replaced(states: Tensor, held: Held, entry: int) -> Tensor:
    """States ``(batch, unit)`` or ``(unit,)`` held as an entry of ``Held``; the same if none is."""
    rows = states if states.dim() == 2 else states.unsqueeze(0)
    replaced = held.hold_one(rows, entry)
    return states if replaced.data_ptr() == states.data_ptr() else replaced.view_as(states)
