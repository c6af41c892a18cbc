"""States of modules that take whole sequences and call cells of their own for them."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from lightning_relay.recurrent.calls import Call, read_call

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from torch import Tensor, nn

    from lightning_relay.recurrent.keys import StateKey


class StackSteps:
    """The steps of the cells of one module, from the begin of its call to the end."""

    def __init__(
        self, name: str, module: nn.Module, cells: Sequence[nn.Module], keys: Sequence[StateKey]
    ) -> None:
        self._name = name
        self._kind = type(module).__name__
        self._cells = cells
        self._keys = {
            layer: [key for key in keys if key.layer == layer]
            for layer in sorted({key.layer for key in keys})
        }
        self._steps: dict[int, list[Call]] = {}

    def hooks(self) -> Iterator[tuple[nn.Module, Callable[..., None]]]:
        """The cells whose states are wanted, each with the function to call after its steps."""
        for layer in self._keys:
            yield self._cells[layer], partial(self._add, layer)

    def begin(self) -> None:
        """A call of the module begins."""
        self._steps = {layer: [] for layer in self._keys}

    def end(self) -> Call:
        """The whole call; a ValueError says why the states of its steps are not known."""
        steps, self._steps = self._steps, {}
        counts = [len(calls) for calls in steps.values()]
        sizes = {call.sequences for calls in steps.values() for call in calls}
        if not sizes or len(set(counts)) > 1:
            told = ", ".join(f"layer {layer}: {len(calls)}" for layer, calls in steps.items())
            raise ValueError(
                f"modules: {self._name!r} ({self._kind}) called its cells so often: {told}; the "
                "adapter takes cells that are called once for every step, as modules: "
                "cell(x, state), not cell.forward(x, state)"
            )
        if len(sizes) > 1:
            raise ValueError(
                f"modules: {self._name!r} ({self._kind}) called its cells on {min(sizes)} and on "
                f"{max(sizes)} sequences; the adapter takes one number of sequences for all steps"
            )
        states: dict[StateKey, Tensor] = {}
        for layer, keys in self._keys.items():
            calls = [call.states() for call in steps[layer]]
            states |= {key: torch.cat([own[key] for own in calls], dim=1) for key in keys}
        sequences, length, _ = next(iter(states.values())).shape
        return Call(states, sequences, length)

    def _add(
        self,
        layer: int,
        cell: nn.Module,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        output: Any,
    ) -> None:
        if layer not in self._steps:
            return  # called by itself, outside the module
        call = read_call(self._name, cell, self._keys[layer], args, kwargs, output)
        if not call.one_step:
            raise ValueError(
                f"modules: the cell of layer {layer} in {self._name!r} ({self._kind}) gave states "
                "of whole sequences; the adapter takes cells that are called once for every step"
            )
        self._steps[layer].append(call)
