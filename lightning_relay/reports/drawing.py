"""Sizes, colours, axes and cells of pictures; TensorBoard scales those wider than 350 pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import numpy as np
from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

LEFT, RIGHT = 40, 10
PANEL_WIDTH = 300
LINE = 16
HALF = 176
"""Left edge of the second column of a legend."""

INK = (40, 40, 40)
GRID = (205, 205, 205)
GREY = (150, 150, 150)
MARK = (0, 0, 0)

STRIPES = 5
"""One of this many diagonals is drawn over unresolved cells."""

Kind = TypeVar("Kind", bound=np.generic)

FONT = ImageFont.load_default(11)


def draw_axis(
    draw: ImageDraw.ImageDraw, values: list[float], y_of: Callable[[float], int], right: int
) -> None:
    """Draw a line at each value, highest first, with its number if it does not touch the last."""
    above = -LINE
    for value in values:
        y = y_of(value)
        draw.line((LEFT, y, right - 1, y), GRID)
        if y - above >= 10:
            draw.text((LEFT - 5, y), f"{value:.2f}", INK, FONT, anchor="rm")
            above = y


def in_pixels(cells: NDArray[Kind], width: int, height: int) -> NDArray[Kind]:
    """Cells ``(row, column, …)`` as pixels, ``(row * height, column * width, …)``."""
    return cells.repeat(height, 0).repeat(width, 1)


def striped(hidden: NDArray[np.bool]) -> NDArray[np.bool]:
    """Pixels ``(row, column)`` of hidden cells that are on a stripe."""
    rows, columns = np.ogrid[: hidden.shape[0], : hidden.shape[1]]
    lines: NDArray[np.bool] = (rows + columns) % STRIPES == 0
    return hidden & lines


def ramp(anchors: NDArray[np.float64], position: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Colours between anchors ``(anchor, 3)``, at positions from 0 to 1, ``(…, 3)``."""
    places = np.linspace(0, 1, len(anchors))
    colours = [np.interp(position, places, anchors[:, c]) for c in range(3)]
    return np.stack(colours, axis=-1).round().astype(np.uint8)


def ticks(count: int, length: int, apart: int) -> range:
    """Cells to label, of ``count`` over ``length`` pixels, at least ``apart`` pixels apart."""
    return range(0, count, max(1, -(-apart * count // max(length, 1))))


def shortened(text: str, width: int) -> str:
    """The text, with an ellipsis in its middle if it is wider than ``width`` pixels."""
    if FONT.getlength(text) <= width:
        return text
    for length in range(len(text) - 1, 0, -1):
        head = length // 3
        short = f"{text[:head]}…{text[len(text) - (length - head) :]}"
        if FONT.getlength(short) <= width:
            return short
    return "…"


def draw_line(draw: ImageDraw.ImageDraw, x: int, y: int, text: str) -> None:
    """Draw a line of text, shortened if it does not fit into a picture of 350 pixels."""
    draw.text((x, y), shortened(text, LEFT + PANEL_WIDTH + RIGHT - x - 4), INK, FONT)


def wrapped(text: str, width: int) -> list[str]:
    """A text in lines of at most ``width`` pixels."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        lines = [*lines[:-1], longer] if FONT.getlength(longer) <= width else [*lines, word]
    return lines


def lines_of_text(title: str, text: str) -> NDArray[np.uint8]:
    """A picture ``(height, 350, 3)`` of a title and a text, if there is nothing to draw."""
    width = LEFT + PANEL_WIDTH
    lines = wrapped(text, width)
    image = Image.new("RGB", (width + RIGHT, 24 + len(lines) * LINE), "white")
    draw = ImageDraw.Draw(image)
    draw_line(draw, 4, 3, title)
    for place, line in enumerate(lines):
        draw_line(draw, 4, 20 + place * LINE, line)
    return np.asarray(image)
