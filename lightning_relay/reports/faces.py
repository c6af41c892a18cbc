"""Faces of a report: the pictures and tables that loggers show, by the end of their tag."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Face: TypeAlias = NDArray[np.uint8] | str
"""An image ``(height, width, 3)``, or a table as Markdown."""

Faces: TypeAlias = dict[str, Face]
"""Faces in the order in which they are logged."""
