"""Which sequences of a stream are kept: a fair sample of those seen so far, at any time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from lightning_relay.sampling.storage import Numbers

if TYPE_CHECKING:
    from torch import Tensor


class Reservoir:
    """Keeps, of a stream of items, those with the smallest random draws: each as likely as any.

    What is kept depends on the draws and on the order of the items, not on how they were divided
    into batches. Kept items have slots ``0, 1, …``; an item that goes leaves its slot to another.

    Args:
        size: Number of items kept at most.

    Attributes:
        seen: Number of items so far.
    """

    def __init__(self, size: int) -> None:
        self.seen = 0
        self._size = size
        self._held = 0
        self._draws = Numbers(torch.float64)
        self._arrivals = Numbers(torch.int64)

    def __len__(self) -> int:
        return self._held

    def place(self, draws: Tensor) -> tuple[Tensor, Tensor]:
        """Take in a batch.

        Args:
            draws: Random draws of its items, float64 ``(items,)``.

        Returns:
            Indices of the items that are kept, in ascending order, and their slots.
        """
        items = torch.arange(len(draws))
        free = items[:0]
        if self._held + len(draws) > self._size:
            every = torch.cat([self._draws.read(torch.arange(self._held)), draws])
            kept = every <= every.kthvalue(self._size).values
            items = items[kept[self._held :]]
            free = (~kept[: self._held]).nonzero().squeeze(1)
        appended = len(items) - len(free)
        slots = torch.cat([free, torch.arange(self._held, self._held + appended)])
        self._draws.write(slots, draws[items])
        self._arrivals.write(slots, self.seen + items)
        self._held += appended
        self.seen += len(draws)
        return items, slots

    def slots(self) -> Tensor:
        """Slots of the kept items, in the order in which they came."""
        return self._arrivals.read(torch.arange(self._held)).argsort()
