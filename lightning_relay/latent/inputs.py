"""Mean inputs of recurrent modules."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Self, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from lightning_relay.recurrent.forwards import given_arguments
from lightning_relay.recurrent.hooks import FunctionHook, HookErrors, is_compiled
from lightning_relay.recurrent.states import prefix_mask
from lightning_relay.recurrent.transfer import padded, queued

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch.utils.hooks import RemovableHandle

    from lightning_relay.sampling.processes import Processes

Place = TypeVar("Place")


class MeanInputs:
    """Context manager that sums the inputs of modules over calls, sequences and steps.

    Call ``begin`` before each batch and ``end`` after it. Errors of its hooks are kept in
    ``errors``. Sums are float64: over the steps of a sequence, then over the sequences of a batch,
    then over batches, then over processes. In another order the mean differs by rounding.
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
        # After its channels, each sum has the number of steps that it is of: (…, channel + 1).
        self._of_batch: dict[tuple[str, int], Tensor] = {}  # of each sequence, by their number
        self._sums: dict[tuple[int, str], Tensor] = {}
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
        self._of_batch.clear()

    @torch.no_grad()
    def end(self, counted: Tensor) -> None:
        """End a batch, of which the sequences ``counted`` count, bool ``(batch,)``.

        Calls on another number of sequences do not count.
        """
        for (name, sequences), sums in self._of_batch.items():
            if sequences == len(counted):
                left_out = ~queued(counted, sums.device).unsqueeze(1)
                total = sums.masked_fill(left_out, 0).sum(0)
                _add_to(self._sums, (self._dataloader, name), total)

    def pool(self, processes: Processes) -> None:
        """Add up the sums of all processes, by rank; all must call this."""
        parts = processes.gather({place: own.cpu() for place, own in self._sums.items()})
        self._sums = {}
        for part in parts:
            for place, own in part.items():
                _add_to(self._sums, place, own)

    def means(self, dataloader: int) -> dict[str, Tensor]:
        """Mean input ``(channel,)`` of each module that was called, float64 on the CPU."""
        return {
            name: (total[:-1] / total[-1]).cpu()
            for (own, name), total in self._sums.items()
            if own == dataloader
        }

    @torch.no_grad()
    def _add(
        self, name: str, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> None:
        inputs: Tensor | PackedSequence = given_arguments(module, args, kwargs)[0]
        if isinstance(inputs, PackedSequence):
            rows = padded(inputs._replace(data=_and_one(inputs.data)))
        else:
            rows = _and_one(_by_sequence(module, inputs))
            sequences, steps, _ = rows.shape
            before = self._steps.get(name, 0)
            self._steps[name] = before + steps
            if self._lengths is not None and len(self._lengths) == sequences:
                inside = prefix_mask(queued(self._lengths, rows.device) - before, steps)
                rows = rows.masked_fill(~inside.unsqueeze(-1), 0)
        _add_to(self._of_batch, (name, len(rows)), rows.sum(1, dtype=torch.float64))


def _add_to(sums: dict[Place, Tensor], place: Place, more: Tensor) -> None:
    """Add to the sum in a place, which may be new."""
    sums[place] = sums[place] + more if place in sums else more


def _and_one(inputs: Tensor) -> Tensor:
    """Inputs ``(…, channel)``, and a one after their channels."""
    return torch.cat([inputs, torch.ones_like(inputs[..., :1])], -1)


def _by_sequence(module: nn.Module, inputs: Tensor) -> Tensor:
    """Inputs ``(batch, step, channel)`` of a module or, with one step, of a cell."""
    if not isinstance(module, nn.RNNBase):
        return inputs.reshape(-1, 1, inputs.shape[-1])
    if inputs.dim() == 2:
        return inputs.unsqueeze(0)
    return inputs if module.batch_first else inputs.transpose(0, 1)
