"""A batch with the contents that it had before a step, for any number of runs of the step."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lightning_relay.reading.containers import leaves_in, rebuilt

if TYPE_CHECKING:
    from collections.abc import Iterable

_NEVER_CHANGE = (str, bytes, int, float, complex, type(None), torch.dtype, torch.device)


class KeptBatch:
    """A batch and a copy of what is in it now.

    A run is given the batch's own tensors as long as they have the contents of the copy, and else
    other copies. If a run changes the batch's own tensors, they are put back before the next run
    and by ``put_back``. Objects that are no tensors, numbers, strings or containers are copied for
    every run, if the batch can be copied.

    Attributes:
        batch: The batch in containers of its own; its tensors are those of the step.
    """

    def __init__(self, batch: Any) -> None:
        self.batch = rebuilt(batch)
        leaves = list(leaves_in(batch))
        tensors = {id(leaf): leaf for leaf in leaves if isinstance(leaf, Tensor)}
        copies = copies_of(tensors.values())
        self._pairs = [(tensor, copies[name]) for name, tensor in tensors.items()]
        self._others = any(not isinstance(leaf, (Tensor, *_NEVER_CHANGE)) for leaf in leaves)
        self._kept: Any = None
        self._lent = False
        self._error: Exception | None = None
        try:
            self._kept = copy.deepcopy(self.batch, copies)
        except Exception as error:  # of any type, by any class in the batch
            self._error = error

    @classmethod
    def of(cls, batch: Any) -> KeptBatch:
        """The batch as it was kept, or as it is now if it was not kept before."""
        return batch if isinstance(batch, cls) else cls(batch)

    @property
    def contents(self) -> Any:
        """The batch to read from, with the contents that it had; its own if it has no copy."""
        return self.batch if self._error is not None else self._kept

    def given(self) -> Any:
        """The batch for a run.

        A TypeError says that the step has changed the batch in place and that it has no copy.
        """
        if self._others and self._error is None:
            return self._another()
        if self._lent:
            self.put_back()
        if self._is_as_kept():
            self._lent = True
            return rebuilt(self.batch)
        if self._error is None:
            return self._another()
        raise TypeError(
            f"batch: the step changes it in place, and it cannot be copied: {self._error}. "
            "Have the step change a copy, such as x = x - 5 instead of x.sub_(5)"
        ) from self._error

    def put_back(self) -> None:
        """Put back the batch's own tensors if runs that were given them have changed them."""
        if self._lent:
            for tensor, kept in self._pairs:
                if not equal(tensor, kept):
                    put(tensor, kept)
        self._lent = False

    def _another(self) -> Any:
        return copy.deepcopy(self._kept, copies_of(own for _, own in self._pairs))

    def _is_as_kept(self) -> bool:
        return all(equal(tensor, kept) for tensor, kept in self._pairs)


def put(tensor: Tensor, contents: Tensor) -> None:
    """Put contents into a tensor in place, whether it needs gradients or not."""
    with torch.inference_mode(tensor.is_inference()), torch.no_grad():
        if tensor.shape != contents.shape:
            tensor.resize_(contents.shape)
        if tensor.layout == torch.strided:  # of what was expanded, one part is written
            for dim in range(tensor.dim()):
                if tensor.stride(dim) == 0 and len(tensor):
                    tensor, contents = tensor.narrow(dim, 0, 1), contents.narrow(dim, 0, 1)
        tensor.copy_(contents)


def equal(tensor: Tensor, kept: Tensor) -> bool:
    """Whether the contents are equal; no if one of them is NaN."""
    return (
        tensor.shape == kept.shape
        and tensor.dtype == kept.dtype
        and tensor.device == kept.device
        and tensor.layout == kept.layout
        and tensor.requires_grad == kept.requires_grad
        and all(map(torch.equal, _parts_of(tensor), _parts_of(kept)))
    )


def _parts_of(tensor: Tensor) -> list[Tensor]:
    """Dense tensors that hold the contents of a tensor; none on the device "meta"."""
    if tensor.is_meta:
        return []
    if tensor.layout == torch.sparse_coo:
        return [tensor._indices(), tensor._values()]
    if tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        return [tensor.crow_indices(), tensor.col_indices(), tensor.values()]
    if tensor.layout in (torch.sparse_csc, torch.sparse_bsc):
        return [tensor.ccol_indices(), tensor.row_indices(), tensor.values()]
    return [tensor]


def copies_of(tensors: Iterable[Tensor]) -> dict[int, Any]:
    """Copies by the identity of the original, laid out and overlapping in memory alike."""
    found: dict[int, Any] = {}
    in_storage: dict[Any, list[Tensor]] = {}
    for tensor in tensors:
        if _has_storage(tensor):
            place = (tensor.untyped_storage().data_ptr(), tensor.dtype, tensor.is_inference())
            in_storage.setdefault(place, []).append(tensor)
        else:
            with torch.inference_mode(tensor.is_inference()):
                found[id(tensor)] = _like(tensor, tensor.detach().clone())
    for overlapping in in_storage.values():
        found |= _copies_of_part(overlapping)
    return found


def _has_storage(tensor: Tensor) -> bool:
    return (
        type(tensor) in (Tensor, torch.nn.Parameter)
        and tensor.layout == torch.strided
        and not (tensor.is_conj() or tensor.is_neg() or tensor.is_quantized)
        and tensor.numel() > 0
        and tensor.device.type in ("cpu", "cuda", "mps")
    )


def _copies_of_part(tensors: list[Tensor]) -> dict[int, Tensor]:
    """Copies of tensors in one storage, of which no more is copied than they span."""
    first = min(tensor.storage_offset() for tensor in tensors)
    last = max(
        tensor.storage_offset()
        + sum(
            (size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True)
        )
        for tensor in tensors
    )
    with torch.inference_mode(tensors[0].is_inference()), torch.no_grad():
        part = tensors[0].detach().as_strided((last - first + 1,), (1,), first).clone()
        return {
            id(tensor): _like(
                tensor,
                part.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset() - first),
            )
            for tensor in tensors
        }


def _like(tensor: Tensor, own: Tensor) -> Tensor:
    return own.requires_grad_(tensor.requires_grad)
