"""A GPU that is none: tensors that say that they are on one, and what the host would wait for.

The numbers are in CPU memory and are computed with there. As on a GPU, operations refuse tensors of
both memories together, and operations are counted that the host waits for: numbers and flags that
Python reads, copies between the memories unless they are non-blocking, and results whose shape
depends on the numbers. Non-blocking copies arrive at once, so reading them too early is not found.
What an operation does inside, such as a kernel of a whole recurrent layer, is not seen.
"""

from __future__ import annotations

import traceback
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from lightning_relay.reading.containers import rebuilt

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import AbstractContextManager

GPU = torch.device("cuda", 0)

_PACKAGE = Path(__file__).parents[2] / "lightning_relay"

_aten = torch.ops.aten
_WAITING = {
    *(_aten._local_scalar_dense, _aten.equal, _aten.is_nonzero, _aten.allclose, _aten.nonzero),
    *(_aten.masked_select, _aten._unique2, _aten.unique_dim, _aten.unique_consecutive),
    *(_aten.item, _aten.argwhere, _aten.nonzero_numpy, _aten.bincount, _aten.repeat_interleave),
}
_COPYING = {_aten._to_copy, _aten.to, _aten.copy_}
_INDEXING = {_aten.index, _aten.index_put, _aten.index_put_}
_TAKES_PACKED = {
    *(_aten._pad_packed_sequence, _aten._pack_padded_sequence),
    *(_aten.rnn_tanh, _aten.rnn_relu, _aten.gru, _aten.lstm),
}


class PretendedGpu(TorchDispatchMode):
    """Context manager in which there is a GPU; it is in inference mode, as evaluations are.

    Attributes:
        waits: How often the host waited for it, by operation and line of the package.
    """

    _running: ClassVar[PretendedGpu | None] = None

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[str] = Counter()

    def __enter__(self) -> Self:
        with ExitStack() as entered:
            entered.enter_context(patch.object(torch.cuda, "_lazy_init", lambda: None))
            entered.enter_context(without_cudnn())
            entered.enter_context(torch.inference_mode())
            entered.callback(setattr, PretendedGpu, "_running", PretendedGpu._running)
            PretendedGpu._running = self
            super().__enter__()
            self._entered = entered.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._entered.close()

    @classmethod
    def count(cls, operation: object) -> None:
        """Count a wait."""
        if cls._running is not None:
            cls._running.waits[f"{operation} in {_place()}"] += 1

    def __torch_dispatch__(
        self, func: Any, _types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        return _computed(func, args, dict(kwargs or {}))


class GpuTensor(Tensor):
    """A tensor on the pretended GPU."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> Self:
        made: Self = Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=held.device,
            requires_grad=held.requires_grad,
        )
        made.held = held
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return GPU

    @property
    def is_cuda(self) -> bool:  # type: ignore[override]
        return True

    def __repr__(self) -> str:  # type: ignore[override]
        return f"GpuTensor({self.held})"

    def to(self, *args: Any, non_blocking: bool = False, copy: bool = False, **kwargs: Any) -> Any:
        device, dtype = kwargs.get("device"), kwargs.get("dtype")
        for given in args:
            if isinstance(given, torch.dtype):
                dtype = given
            elif isinstance(given, Tensor):
                device, dtype = given.device, given.dtype
            elif isinstance(given, str | torch.device):
                device = given
        if device is None or torch.device(device).type == "cuda":
            return super().to(dtype=dtype or self.dtype, copy=copy)
        if not non_blocking and self.numel():
            self.count("copy to the CPU")
        return self.held.to(dtype or self.dtype, copy=True)

    def cpu(self, *_: Any, **__: Any) -> Tensor:
        return self.to("cpu")

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def numpy(self, *_: Any, **__: Any) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy")

    count = PretendedGpu.count

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, _types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        return _computed(func, args, dict(kwargs or {}))


def _computed(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What an operation gives, on the pretended GPU if a tensor or the result is there."""
    tensors = [part for part in tree_leaves((args, kwargs)) if isinstance(part, Tensor)]
    there = any(isinstance(part, GpuTensor) for part in tensors)
    operation = func.overloadpacket
    if operation in _COPYING:
        waits = _is_blocking_copy(args, kwargs)
    elif operation in _INDEXING:
        waits = there and any(_is_slow_index(index) for index in args[1] if index is not None)
    else:
        waits = there and operation in _WAITING
        mixed = any(part.dim() > 0 and not isinstance(part, GpuTensor) for part in tensors)
        if there and mixed and operation not in _TAKES_PACKED:
            raise RuntimeError(f"{func}: expected all tensors to be on the same device")
    if waits:
        PretendedGpu.count(func)
    if device := _device(args, kwargs):
        there = device.type == "cuda"
    held, named = tree_map(_held, (args, kwargs))
    result = func(*held, **named)
    if func._schema.is_mutable:
        return kwargs.get("out", args[0])
    if operation is _aten._pad_packed_sequence:  # lengths stay in CPU memory
        return (_there(result[0]) if there else result[0]), result[1]
    of_inference = torch.is_inference_mode_enabled()
    if func.is_view and not args[0].is_inference():
        of_inference = False  # a view is as its base
    with torch.inference_mode(of_inference):
        return tree_map(_there, result) if there else result


def _device(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> torch.device | None:
    """The device that is asked for."""
    given = [part for part in (*args, *kwargs.values()) if isinstance(part, torch.device)]
    return given[0] if given else None


def _held(part: Any) -> Any:
    if isinstance(part, torch.device):
        return torch.device("cpu")
    return part.held if isinstance(part, GpuTensor) else part


def _there(part: Any) -> Any:
    return GpuTensor(part) if isinstance(part, Tensor) else part


def _is_blocking_copy(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Whether a copy goes from one memory to the other, and is waited for."""
    if kwargs.get("non_blocking") or True in args[2:]:
        return False
    if len(args) > 1 and isinstance(args[1], Tensor):
        return isinstance(args[0], GpuTensor) != isinstance(args[1], GpuTensor)
    device = _device(args, kwargs)
    return device is not None and device.type != args[0].device.type


def _is_slow_index(index: Tensor) -> bool:
    """Whether an index is a mask, or must come from CPU memory first."""
    return index.dtype in (torch.bool, torch.uint8) or not isinstance(index, GpuTensor)


def _place() -> str:
    """The innermost line of the package that runs."""
    frames = [
        f"{Path(frame.filename).relative_to(_PACKAGE)}, {frame.name}"
        for frame in traceback.extract_stack()
        if _PACKAGE in Path(frame.filename).parents
    ]
    return frames[-1] if frames else "no line of the package"


def on_gpu(value: Any) -> Any:
    """The same tensors, also in containers and packed sequences, on the pretended GPU."""
    return rebuilt(value, _on_gpu)


def _on_gpu(leaf: Any) -> Any:
    if isinstance(leaf, PackedSequence):
        orders = [None if one is None else on_gpu(one) for one in leaf[2:]]
        return PackedSequence(on_gpu(leaf.data), leaf.batch_sizes, *orders)
    copied = isinstance(leaf, Tensor) and not isinstance(leaf, GpuTensor)
    return GpuTensor(leaf.detach().clone()) if copied else leaf


def without_cudnn() -> AbstractContextManager[object]:
    """The build of torch has no cuDNN, and warns where a tensor asks for it."""
    return patch.object(torch.backends.cudnn, "is_acceptable", lambda _: False)


def moved(model: nn.Module) -> nn.Module:
    """A model, its parameters and buffers now on the pretended GPU."""
    with without_cudnn():
        for module in model.modules():
            for name, parameter in list(module.named_parameters(recurse=False)):
                setattr(module, name, nn.Parameter(on_gpu(parameter)))
            for name, buffer in list(module.named_buffers(recurse=False)):
                setattr(module, name, on_gpu(buffer))
    return model
