"""Notes of what steps do, in every run of theirs."""

from queue import SimpleQueue
from typing import Generic, TypeVar

Note = TypeVar("Note")


class Tally(Generic[Note]):
    """Notes that are still there after runs of a step, which put back lists and attributes."""

    def __init__(self) -> None:
        self._notes: SimpleQueue[Note] = SimpleQueue()
        self.add = self._notes.put

    def taken(self) -> list[Note]:
        """The notes since the last call, in their order."""
        return [self._notes.get() for _ in range(self._notes.qsize())]
