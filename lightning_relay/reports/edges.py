"""The edges of bins in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def edges_in_words(edges: Sequence[float]) -> str:
    """Inner edges of bins, rounded."""
    return f"bins with the edges {', '.join(f'{edge:.3g}' for edge in edges)}"
