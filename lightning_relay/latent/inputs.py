"""Mean inputs of recurrent modules."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from lightning_relay.recurrent.hooks import FunctionHook, HookErrors, is_compiled
from lightning_relay.recurrent.states import prefix_mask

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch.utils.hooks import RemovableHandle


class MeanInputs:
    """Context manager that sums the inputs of modules over calls, sequences and steps.

    Errors of its hooks are kept in ``errors``.

    Attributes:
        lengths: Lengths of the padded sequences of the batch, int64 ``(batch,)``; None if nothing
            is padded.
        dataloader: Dataloader of the batch; each has means of its own.
    """

    def __init__(
        self, modules: Mapping[str, nn.Module], model: nn.Module, errors: HookErrors
    ) -> None:
        self.lengths: Tensor | None = None
        self.dataloader = 0
        self._modules = modules
        self._compiled = is_compiled(model)
        self._errors = errors
        self._sums: dict[tuple[int, str], Tensor] = {}
        self._counts: dict[tuple[int, str], int] = {}
        self._handles: list[RemovableHandle] = []

    def __enter__(self) -> Self:
        for name, module in self._modules.items():
            hook = FunctionHook(partial(self._add, name), self._compiled, self._errors)
            self._handles.append(module.register_forward_pre_hook(hook, with_kwargs=True))
        return self

    def __exit__(self, *_: object) -> None:
        while self._handles:
            self._handles.pop().remove()

    def means(self, dataloader: int) -> dict[str, Tensor]:
        """Mean input ``(channel,)`` of each module that was called, float64 on the CPU."""
        return {
            name: total.cpu() / self._counts[own, name]
            for (own, name), total in self._sums.items()
            if own == dataloader
        }

    @torch.no_grad()
    def _add(
        self, name: str, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> None:
        inputs: Tensor | PackedSequence = args[0] if args else kwargs["input"]
        if isinstance(inputs, PackedSequence):
            rows = inputs.data
        elif isinstance(module, nn.RNNBase) and inputs.dim() == 3 and self.lengths is not None:
            by_sequence = inputs if module.batch_first else inputs.transpose(0, 1)
            lengths = self.lengths.to(inputs.device)
            rows = by_sequence[prefix_mask(lengths, by_sequence.shape[1])]
        else:
            rows = inputs.reshape(-1, inputs.shape[-1])
        total = rows.sum(0, dtype=torch.float64)
        place = self.dataloader, name
        self._sums[place] = self._sums[place] + total if place in self._sums else total
        self._counts[place] = self._counts.get(place, 0) + len(rows)
