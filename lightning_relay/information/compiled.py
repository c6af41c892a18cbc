"""Compiled loops: made by numba, kept on disk, announced once, and run in threads."""

from __future__ import annotations

import hashlib
import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, cast

import torch
from numba import njit
from numba.core import event

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import numpy as np

Integer: TypeAlias = "int | np.integer[Any]"
"""What is a whole number to a compiled loop."""

Function = TypeVar("Function", bound="Callable[..., Any]")
Item = TypeVar("Item")
Result = TypeVar("Result")

_SOURCES = hashlib.sha256(
    b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py")))
).hexdigest()[:16]
"""Compiled loops contain those of other modules, of whose changes numba does not know."""

_log = logging.getLogger("lightning_relay")


def compiled(function: Function) -> Function:
    """The function as a compiled loop that runs without Python's global lock.

    It is compiled when it is first called and kept on disk: beside the source, or where that cannot
    be written to, in numba's cache of the user; anew when any loop has changed.
    """
    function.__qualname__ += f"_{_SOURCES}"  # names the file that it is kept in
    return cast("Function", njit(nogil=True, cache=True)(function))


def in_threads(function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """Results of independent items, in as many threads as torch uses.

    The threads end with the call, so that a process may fork at any other time.
    """
    work = list(items)
    threads = min(torch.get_num_threads(), len(work))
    if threads < 2:
        return [function(item) for item in work]
    with ThreadPoolExecutor(threads, "lightning_relay") as pool:
        return list(pool.map(function, work))


class _Announcement(event.Listener):  # type: ignore[misc]
    """Says that something is compiled, when it is so for the first time."""

    said = False

    def on_start(self, event: Any) -> None:
        dispatcher = event.data["dispatcher"]
        if self.said or not dispatcher.py_func.__module__.startswith("lightning_relay."):
            return
        self.said = True
        if not _log.hasHandlers():
            _log.addHandler(logging.StreamHandler())
        if _log.level == logging.NOTSET:
            _log.setLevel(logging.INFO)
        _log.info("lightning_relay: compiling its counting loops, once on this machine (~20 s)")

    def on_end(self, event: Any) -> None:
        pass


event.register("numba:compile", _Announcement())
