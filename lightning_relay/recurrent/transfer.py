"""Copies between the memory of a GPU and that of the CPU, with as few waits as possible.

On a GPU, work is only queued, and the host waits for all of it when it reads a number. So numbers
that are read after the same work are copied together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

if TYPE_CHECKING:
    import torch

Flag = bool | Tensor
"""Whether something is so: known, or a bool tensor that takes a wait to read."""


def on_cpu(*tensors: Tensor) -> list[Tensor]:
    """The tensors, or copies of them, in CPU memory; the host waits once for each GPU.

    Copies from one GPU arrive in their order, so it waits for the last; empty ones are not copied.
    """
    last = {tensor.device: place for place, tensor in enumerate(tensors) if tensor.numel()}
    return [
        tensor.to("cpu", non_blocking=tensor.is_cuda and place != last.get(tensor.device))
        for place, tensor in enumerate(tensors)
    ]


def queued(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor, or a copy of it, on a device, without a wait for what the device does."""
    return tensor.to(device, non_blocking=True)


def known(flag: Flag) -> Flag:
    """The flag, known if it is in CPU memory."""
    return bool(flag) if isinstance(flag, Tensor) and flag.device.type == "cpu" else flag


def padded(packed: PackedSequence) -> Tensor:
    """Padded sequences ``(batch, step, …)`` in the order that they had before packing.

    PyTorch also returns their lengths in this order, and waits for the order.
    """
    as_packed = packed._replace(sorted_indices=None, unsorted_indices=None)
    values, _ = pad_packed_sequence(as_packed, batch_first=True)
    order = packed.unsorted_indices
    return values if order is None else values.index_select(0, order)
