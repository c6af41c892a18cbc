"""The random streams that a step may draw from."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class RandomStreams:
    """States of the global random streams.

    Attributes:
        device: The device whose stream is among them, beside that of the CPU.
        torch_cpu: State of torch's stream of the CPU.
        torch_device: State of that of the device; None for a CPU.
        numpy: State of NumPy's global stream.
        python: State of the stream of ``random``.
    """

    device: torch.device
    torch_cpu: Tensor
    torch_device: Tensor | None
    numpy: Any
    python: Any

    @classmethod
    def now(cls, device: torch.device) -> Self:
        """The states as they are now.

        Args:
            device: Device of the module that draws.
        """
        return cls(
            device,
            torch.get_rng_state(),
            _device_state(device),
            np.random.get_state(),  # noqa: NPY002 - the stream users have
            random.getstate(),
        )

    def restore(self) -> None:
        """Put the streams back to these states."""
        torch.set_rng_state(self.torch_cpu)
        if self.torch_device is not None and self.device.type == "cuda":
            torch.cuda.set_rng_state(self.torch_device, self.device)
        elif self.torch_device is not None:
            torch.mps.set_rng_state(self.torch_device)
        np.random.set_state(self.numpy)  # noqa: NPY002 - the stream users have
        random.setstate(self.python)


def _device_state(device: torch.device) -> Tensor | None:
    if device.type == "cuda":
        return torch.cuda.get_rng_state(device)
    if device.type == "mps":
        return torch.mps.get_rng_state()
    return None
