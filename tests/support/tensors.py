"""Tensors of what a recurrent module returns."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn.utils.rnn import PackedSequence


def tensors_of(result: Any) -> list[Tensor]:
    """Copies of all tensors in nested tuples; of a packed sequence only its data."""
    if isinstance(result, Tensor):
        return [result.clone()]
    if isinstance(result, PackedSequence):
        return [result.data.clone()]
    return [tensor for part in result for tensor in tensors_of(part)]
