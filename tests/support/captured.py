"""Writes the table of docs/recurrent.md: what is captured of which recurrent module.

Every cell is measured: the states that the recorder gives are compared with a computation step by
step. Prints the largest difference of each row.

    python -m tests.support.captured
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from tests.support.matrix import CELLS, FUSED, VARIATIONS, Variation, differences
from tests.support.pages import with_table

if TYPE_CHECKING:
    from collections.abc import Mapping

PAGE = Path(__file__).parents[2] / "docs" / "recurrent.md"
SCRIPT = "tests/support/captured.py"


def captured(kind: str, variation: Variation) -> tuple[str, float]:
    """What is captured, in words, and its largest difference from the reference."""
    if not variation.exists(kind):
        return "–", 0.0
    torch.compiler.reset()
    found = differences(kind, variation)
    largest = max(found.values())
    if largest > variation.tolerance:
        raise ValueError(f"{kind}, {variation}: {largest} away from the reference")
    return "hidden, cell" if any(key.endswith(".cell") for key in found) else "hidden", largest


def table(variations: Mapping[str, Variation] = VARIATIONS) -> str:
    """The table, in Markdown, of these rows."""
    kinds = (*FUSED, *CELLS)
    lines = [
        f"| | {' | '.join(kinds)} | to within |",
        f"| :--- |{' :--- |' * len(kinds)} ---: |",
    ]
    for name, variation in variations.items():
        cells = [captured(kind, variation) for kind in kinds]
        print(f"{name:42}{max(largest for _, largest in cells):.1e}")
        lines.append(
            f"| {name} | {' | '.join(text for text, _ in cells)} | {variation.tolerance:g} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text(), SCRIPT, table()))
