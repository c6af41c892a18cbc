"""Which analysed step is meant."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def place_of(step: int, time_steps: NDArray[np.int64], *, backward: bool) -> int:
    """Index of a step; -1 is the step that the layer computes last."""
    if step == -1 and backward:
        return int(np.lexsort((time_steps, time_steps < 0))[0])
    if step == -1:
        return int(np.argmax(np.where(time_steps == -1, np.inf, time_steps)))
    found = np.flatnonzero(time_steps == step)
    if not len(found):
        raise ValueError(
            f"step: got {step!r}, which was not analysed; it takes -1 for the last, or one of "
            f"{', '.join(map(str, time_steps))}"
        )
    return int(found[0])
