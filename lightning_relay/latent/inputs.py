"""Mean inputs of recurrent modules."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from lightning_relay.recurrent.forwards import given_arguments
from lightning_relay.recurrent.hooks import FunctionHook, HookErrors, is_compiled
from lightning_relay.recurrent.states import prefix_mask
from lightning_relay.recurrent.transfer import queued

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch.utils.hooks import RemovableHandle


class MeanInputs:
    """Context manager that sums the inputs of modules over calls, sequences and steps.

    Call ``begin`` before each batch. Errors of its hooks are kept in ``errors``.
    """

    def __init__(
        self, modules: Mapping[str, nn.Module], model: nn.Module, errors: HookErrors
    ) -> None:
        self._lengths: Tensor | None = None
        self._dataloader = 0
        self._steps: dict[str, int] = {}  # of the batch so far
        self._modules = modules
        self._compiled = is_compiled(model)
        self._errors = errors
        self._sums: dict[tuple[int, str], Tensor] = {}
        self._counts: dict[tuple[int, str], int | Tensor] = {}
        self._handles: list[RemovableHandle] = []

    def __enter__(self) -> Self:
        for name, module in self._modules.items():
            hook = FunctionHook(partial(self._add, name), self._compiled, self._errors)
            self._handles.append(module.register_forward_pre_hook(hook, with_kwargs=True))
        return self

    def __exit__(self, *_: object) -> None:
        while self._handles:
            self._handles.pop().remove()

    def begin(self, lengths: Tensor | None, dataloader: int) -> None:
        """Begin a batch.

        Args:
            lengths: Lengths of its padded sequences, int64 ``(batch,)``; None if nothing is padded.
            dataloader: Its dataloader; each has means of its own.
        """
        self._lengths, self._dataloader = lengths, dataloader
        self._steps.clear()

    def means(self, dataloader: int) -> dict[str, Tensor]:
        """Mean input ``(channel,)`` of each module that was called, float64 on the CPU."""
        return {
            name: total.cpu() / float(self._counts[own, name])
            for (own, name), total in self._sums.items()
            if own == dataloader
        }

    @torch.no_grad()
    def _add(
        self, name: str, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> None:
        inputs: Tensor | PackedSequence = given_arguments(module, args, kwargs)[0]
        number = None
        if isinstance(inputs, PackedSequence):
            rows = inputs.data
        else:
            by_sequence = _by_sequence(module, inputs)
            sequences, steps, _ = by_sequence.shape
            rows, before = by_sequence.flatten(0, 1), self._steps.get(name, 0)
            if self._lengths is not None and len(self._lengths) == sequences:
                left = queued(self._lengths, inputs.device) - before
                counted = prefix_mask(left, steps).flatten()
                rows, number = rows.masked_fill(~counted.unsqueeze(1), 0), counted.sum()
            self._steps[name] = before + steps
        total = rows.sum(0, dtype=torch.float64)
        place = self._dataloader, name
        self._sums[place] = self._sums[place] + total if place in self._sums else total
        self._counts[place] = self._counts.get(place, 0) + (len(rows) if number is None else number)


def _by_sequence(module: nn.Module, inputs: Tensor) -> Tensor:
    """Inputs ``(batch, step, channel)`` of a module or, with one step, of a cell."""
    if not isinstance(module, nn.RNNBase):
        return inputs.reshape(-1, 1, inputs.shape[-1])
    if inputs.dim() == 2:
        return inputs.unsqueeze(0)
    return inputs if module.batch_first else inputs.transpose(0, 1)
