"""Processes that see a part of the samples each, and share the analysis."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import distributed
from torch.utils.data import DistributedSampler

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

T = TypeVar("T")


class OtherProcessError(RuntimeError):
    """The analysis failed in another process, or in several."""


@dataclass(frozen=True)
class Processes:
    """The processes of a run.

    Attributes:
        rank: Number of this process.
        size: Number of processes.
        group: Group of ``torch.distributed`` that takes tensors in CPU memory; None for a single
            process.
    """

    rank: int = 0
    size: int = 1
    group: Any = None

    @classmethod
    def running(cls) -> Processes:
        """Those of ``torch.distributed``; all of them must call this."""
        if not distributed.is_available() or not distributed.is_initialized():
            return cls()
        return cls(
            distributed.get_rank(),
            distributed.get_world_size(),
            distributed.new_group(backend="gloo"),
        )

    def gather(self, value: T) -> list[T]:
        """The values of all processes, by rank; all must call this. Values are pickled."""
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        distributed.all_gather_object(found, value, group=self.group)
        return found

    def check(self, error: Exception | None) -> None:
        """Raise an error of this process or an OtherProcessError, if any process has one."""
        words = self.gather(None if error is None else f"{type(error).__name__}: {error}")
        if error is not None:
            raise error
        failed = [f"process {rank}: {own}" for rank, own in enumerate(words) if own is not None]
        if failed:
            raise OtherProcessError("; ".join(failed))

    def share(self, parts: Sequence[Callable[[], T]]) -> list[T]:
        """The results of calls, which are divided among the processes. All must call this."""
        own: dict[int, T] = {}
        error = None
        try:
            for place in range(self.rank, len(parts), self.size):
                own[place] = parts[place]()
        except Exception as failed:  # the others wait for this process
            error = failed
        self.check(error)
        merged: dict[int, T] = {}
        for found in self.gather(own):
            merged |= found
        return [merged[place] for place in range(len(parts))]


class Positions:
    """Numbers of the samples of a dataloader in the order of a run with a single process.

    A DistributedSampler deals them out one after the other, and repeats the first ones until all
    processes have equally many.

    Attributes:
        known: Whether a DistributedSampler deals the samples out. If not, none is taken for a
            repetition.
    """

    def __init__(self, dataloader: object, processes: Processes) -> None:
        sampler = getattr(getattr(dataloader, "batch_sampler", None), "sampler", None)
        if not isinstance(sampler, DistributedSampler):
            sampler = getattr(dataloader, "sampler", None)
        self.known = isinstance(sampler, DistributedSampler) or processes.size == 1
        self._first, self._step = processes.rank, processes.size
        self._total: float = torch.inf
        if isinstance(sampler, DistributedSampler):
            self._first, self._step = sampler.rank, sampler.num_replicas
            self._total = len(sampler.dataset)  # type: ignore[arg-type]
        self._seen = 0

    def of_batch(self, number: int) -> tuple[Tensor, Tensor]:
        """Positions of the samples of the next batch, int64, and which are no repetitions."""
        own = torch.arange(self._seen, self._seen + number)
        self._seen += number
        positions = self._first + own * self._step
        return positions, positions < self._total
