"""The step from which on the inputs of a recurrent module are constant."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from lightning_relay.recurrent.adapters import adapter_of
from lightning_relay.recurrent.transfer import on_cpu, padded

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lightning_relay.recurrent.states import HiddenStates

_CONSTANT = 2
"""Minimum number of constant inputs at the end of every sequence."""


class ConstantInputs:
    """Finds the end of the inputs of one module, over any number of batches.

    At the end of every sequence there must be at least two equal inputs. Then the inputs end at the
    last step whose input differs from those at the end of its sequence. If sequences end with
    different inputs, such as a cue that stays on, these tell something, too: then the inputs end
    one step later, where the last sequence has them first.

    Attributes:
        possible: Whether the inputs of all sequences so far are constant at their end.
    """

    def __init__(self) -> None:
        self.possible = True
        self._begin = 0
        self._tail: Tensor | None = None
        self._same = True

    def add(self, inputs: HiddenStates | None) -> None:
        """Add the inputs ``(batch, step, channel)`` of a batch; None if they cannot be read."""
        looked = self.look(inputs)
        if looked is not None:
            self.take(*on_cpu(looked))

    def look(self, inputs: HiddenStates | None) -> Tensor | None:
        """What ``take`` is to add of a batch, int64 ``(3,)``, for a look at several at once.

        None if there is nothing to add. Lengths may be wrong here.
        """
        if inputs is None or not self.possible:
            self.possible = False
            return None
        values, valid, lengths = inputs.values, inputs.valid, inputs.lengths
        ends = (lengths - 1).clamp(0, values.shape[1] - 1)
        last = values[torch.arange(len(values), device=values.device), ends]
        differ = (values != last.unsqueeze(1)).any(-1) & valid
        after = torch.arange(1, values.shape[1] + 1, device=values.device)
        begins = (differ * after).amax(1)
        short = (lengths - begins < _CONSTANT).any()
        tail = self._tail = last[0] if self._tail is None else self._tail
        alike = tail.shape == last[0].shape
        same = (last == tail).all() if alike else torch.zeros_like(short)
        return torch.stack([short.long(), begins.max(), same.long()])

    def take(self, looked: Tensor) -> None:
        """Add what was looked at."""
        short, begin, same = looked.tolist()
        if short:
            self.possible = False
            return
        self._begin = max(self._begin, begin)
        self._same &= bool(same)

    def __getstate__(self) -> dict[str, Any]:
        """What other processes are told, who have GPUs of their own."""
        return vars(self) | {"_tail": None if self._tail is None else self._tail.cpu()}

    def merge(self, other: ConstantInputs) -> None:
        """Take in what was found of other batches."""
        self.possible &= other.possible
        self._begin = max(self._begin, other._begin)
        self._same &= other._same
        if self._tail is not None and other._tail is not None:
            self._same &= torch.equal(self._tail.cpu(), other._tail.cpu())
        elif self._tail is None:
            self._tail = other._tail

    @property
    def end(self) -> int | None:
        """The step; None if inputs are not constant at the end, or are so from the start on."""
        if not self.possible or not self._begin:
            return None
        return self._begin - self._same


def inputs_of(
    module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], shape: tuple[int, int]
) -> Tensor | None:
    """A copy of the inputs ``(batch, step, channel)`` of a call whose states have a shape.

    ``shape`` is ``(batch, step)``. None if the call has no such inputs.
    """
    inputs = args[0] if args else kwargs.get("input")
    if isinstance(inputs, PackedSequence):
        inputs = padded(inputs)
    elif not isinstance(inputs, Tensor) or inputs.is_nested or inputs.layout != torch.strided:
        return None
    elif adapter_of(module) is not None:
        inputs = _adapted(inputs, shape)
    elif isinstance(module, nn.RNNBase):
        if inputs.dim() == 3 and not module.batch_first:
            inputs = inputs.transpose(0, 1)
        inputs = inputs.unsqueeze(0) if inputs.dim() == 2 else inputs
    else:
        inputs = inputs.unsqueeze(0) if inputs.dim() == 1 else inputs
        inputs = inputs.unsqueeze(1)
    if inputs is None or inputs.shape[:2] != shape:
        return None
    return inputs.detach().flatten(2).clone() if inputs.dim() > 2 else None


def _adapted(inputs: Tensor, shape: tuple[int, int]) -> Tensor | None:
    """Inputs of a module that is not PyTorch's, by what dimensions fit its states alone."""
    batch, steps = shape
    if inputs.shape[:2] == shape and not (batch == steps and batch > 1):
        return inputs.unsqueeze(-1) if inputs.dim() == 2 else inputs
    if inputs.shape[:2] == (steps, batch) and batch != steps and inputs.dim() > 2:
        return inputs.transpose(0, 1)
    if steps == 1 and inputs.shape[:1] == (batch,):
        return inputs.flatten(1).unsqueeze(1) if inputs.dim() > 1 else None
    return None
