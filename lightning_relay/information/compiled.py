"""Loops that numba compiles, and threads to run them in."""

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
    from numpy.typing import NDArray

    Bools: TypeAlias = NDArray[np.bool_]
    Floats: TypeAlias = NDArray[np.float64]
    Ints: TypeAlias = NDArray[np.int64]
    Numbers: TypeAlias = NDArray[np.uint32]
    Words: TypeAlias = NDArray[np.uint64]

Integer: TypeAlias = "int | np.integer[Any]"
"""A whole number in a compiled loop."""

Function = TypeVar("Function", bound="Callable[..., Any]")
Item = TypeVar("Item")
Result = TypeVar("Result")

_SOURCES = hashlib.sha256(
    b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py")))
).hexdigest()[:16]
"""Hash of this folder: a loop contains loops of other modules, which numba does not watch."""

_log = logging.getLogger("lightning_relay")


def compiled(function: Function) -> Function:
    """The function as a compiled loop that runs without Python's global lock.

    Numba compiles it at its first call, and again when any loop has changed. It is kept on disk:
    beside the source or, where that is read-only, in the user's numba cache.
    """
    function.__qualname__ += f"_{_SOURCES}"  # numba names the cache file after it
    return cast("Function", njit(nogil=True, cache=True)(function))


def in_threads(function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """Results of independent items, with the number of threads that torch uses.

    The threads end with the call, so that a process may fork at any other time.
    """
    work = list(items)
    threads = min(torch.get_num_threads(), len(work))
    if threads < 2:
        return [function(item) for item in work]
    with ThreadPoolExecutor(threads, "lightning_relay") as pool:
        return list(pool.map(function, work))


class _Announcement(event.Listener):  # type: ignore[misc]
    """Announces the first compilation."""

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
