"""Hooks that stay with the module they were set on."""

from __future__ import annotations

from typing import Any


class TransientHook:
    """Hook that does nothing on a copy of its module, whether deep-copied or pickled.

    What it records belongs to whoever set it; a copy of the model must not write there, nor drag
    the recordings along.
    """

    def __reduce__(self) -> tuple[type[_Nothing], tuple[()]]:
        return _Nothing, ()


class _Nothing:
    """Hook that does nothing."""

    def __call__(self, *_: Any) -> None:
        return None
