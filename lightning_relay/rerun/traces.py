"""What a run of a step puts back: random streams, parameters, gradients, how torch compiles."""

from __future__ import annotations

import random
import sys
import threading
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self, cast

import numpy as np
import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from contextlib import AbstractContextManager


PROCESS = threading.RLock()
"""Held while a run uses what the process has once: random streams, how torch compiles, warnings."""


@dataclass(frozen=True, eq=False)
class RandomStreams:
    """States of the global random streams: those of torch, NumPy and ``random``."""

    device: torch.device
    torch_cpu: Tensor
    torch_device: Tensor | None
    numpy: Any
    python: Any

    @classmethod
    def now(cls, device: torch.device) -> Self:
        """The states as they are now, on the CPU and a device."""
        torch_device = None
        if device.type == "cuda":
            torch_device = torch.cuda.get_rng_state(device)
        elif device.type == "mps":
            torch_device = torch.mps.get_rng_state()
        numpy = np.random.get_state()  # noqa: NPY002 - the stream that users have
        return cls(device, torch.get_rng_state(), torch_device, numpy, random.getstate())

    def restore(self) -> None:
        """Put the streams back to these states."""
        torch.set_rng_state(self.torch_cpu)
        if self.torch_device is not None and self.device.type == "cuda":
            torch.cuda.set_rng_state(self.torch_device, self.device)
        elif self.torch_device is not None:
            torch.mps.set_rng_state(self.torch_device)
        np.random.set_state(self.numpy)  # noqa: NPY002 - the stream that users have
        random.setstate(self.python)

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Have the streams begin at these states in the block, and put them back after it."""
        outside = RandomStreams.now(self.device)
        try:
            self.restore()
            yield
        finally:
            outside.restore()


@contextmanager
def untouched(parameters: Mapping[str, nn.Parameter], step: str) -> Iterator[None]:
    """Put gradients and ``requires_grad`` back; a ValueError if a parameter changed in place."""
    before = [
        (name, parameter, parameter.grad, parameter.requires_grad, _versions(parameter))
        for name, parameter in parameters.items()
    ]
    try:
        yield
    finally:
        for _, parameter, grad, requires_grad, _ in before:
            if parameter.grad is not grad:
                parameter.grad = grad
            if parameter.requires_grad != requires_grad:
                parameter.requires_grad_(requires_grad)
    for name, parameter, _, _, versions in before:
        if _versions(parameter) != versions:
            raise ValueError(
                f"pl_module: the {step} changes the parameter {name!r} or its gradient in place, "
                "so it cannot be run again without a trace; move that out of the step"
            )


class KeptParameters:
    """Copies of a module's parameters and gradients, to notice and undo what runs of a step change.

    Contents are compared, because torch does not count changes through ``.data``.
    """

    def __init__(self, module: nn.Module) -> None:
        self._parameters = dict(module.named_parameters())
        self._copies: dict[str, Tensor] = {}

    @contextmanager
    def unchanged(self) -> Iterator[None]:
        """Put back what the block changes; a ValueError names a parameter that was changed."""
        tensors = self._tensors()
        for name, tensor in tensors.items():
            kept = self._copies.get(name)
            if kept is None or not _equal(tensor, kept):
                self._copies[name] = tensor.detach().clone()
        changed: list[str] = []
        error: Exception | None = None
        try:
            yield
        except Exception as raised:  # it may come of the change
            error = raised
            raise
        finally:
            for name, tensor in tensors.items():
                if not _equal(tensor, self._copies[name]):
                    changed.append(name)
                    tensor.data.copy_(self._copies[name])
            if changed:
                raise ValueError(
                    f"pl_module: the step changes {changed[0]} in place when it is run again, so "
                    "it cannot be run again without a trace; move that out of the step"
                ) from error

    def _tensors(self) -> dict[str, Tensor]:
        """Parameters and gradients, by their names in words."""
        found: dict[str, Tensor] = {}
        for name, parameter in self._parameters.items():
            found[f"the parameter {name!r}"] = parameter
            if parameter.grad is not None:
                found[f"the gradient of {name!r}"] = parameter.grad
        return found


def _equal(tensor: Tensor, kept: Tensor) -> bool:
    """Whether two tensors have the same contents, bit for bit."""
    if tensor.shape != kept.shape or tensor.dtype != kept.dtype or tensor.device != kept.device:
        return False
    return torch.equal(tensor, kept) or torch.equal(_bits(tensor), _bits(kept))


def _bits(tensor: Tensor) -> Tensor:
    return tensor.detach().reshape(-1).view(torch.uint8)


def _versions(parameter: nn.Parameter) -> list[int]:
    """How often a parameter and its gradient were changed in place, where torch counts it."""
    return [
        tensor._version
        for tensor in (parameter, parameter.grad)
        if tensor is not None and not tensor.is_inference()
    ]


def eager() -> AbstractContextManager[Any]:
    """Have methods that a class declares as compiled run eagerly, if torch can."""
    if "torch._dynamo" in sys.modules and hasattr(torch.compiler, "set_stance"):
        return cast("AbstractContextManager[Any]", torch.compiler.set_stance("force_eager"))
    return nullcontext()
