"""Text, lines and marks on an image, in points of several pixels."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from threading import local
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageColor, ImageDraw, ImageFont

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

SCALE = 2
"""Pixels of a point, so that lines are smooth where the picture is shrunk."""

SMALL, LARGE = 10.5, 12.0
"""Sizes of letters in points."""

INK = "#282828"

Colour = tuple[int, int, int, int]
Point = tuple[float, float]

_MOST_LETTERS = 200
"""No line is longer."""

_DASHES = {"dot": (1.5, 2.5), "dash": (5.0, 3.0)}
"""Lengths of strokes and of the gaps between them, in points."""


_KEPT = local()

_LACKING = str.maketrans({"²": "2", "≈": "~", "–": "-", "−": "-", "×": "x", "√": "sqrt", "ß": "ss"})
"""Letters that the font does not have, in others."""


class Canvas:
    """A white image; all places and lengths are in points, from its upper left corner.

    Each thread has one: a new canvas takes the place of the last.

    Args:
        width: Width in points.
        height: Height in points.
    """

    def __init__(self, width: int, height: int) -> None:
        size = SCALE * width, SCALE * height
        # A new image of this size costs as much as all that is drawn on it.
        if getattr(_KEPT, "image", None) is None or _KEPT.image.size != size:
            _KEPT.image = Image.new("RGB", size)
        self.image = _KEPT.image
        self.image.paste("white", (0, 0, *size))
        self._draw = ImageDraw.Draw(self.image, "RGBA")

    def pixels(self, *, large: bool = False) -> NDArray[np.uint8]:
        """The image, uint8 ``(height, width, 3)``: a pixel for each point, or all of them."""
        return np.array(self.image if large else self.image.reduce(SCALE))

    def text(self, x: float, y: float, words: str, anchor: str, size: float = SMALL) -> None:
        """Draw a line of text; the anchor is Pillow's, such as ``"la"``: left end, top."""
        mask, left, top = _written(words, anchor, size)
        self.image.paste(INK, (round(SCALE * x) + left, round(SCALE * y) + top), mask)

    def upright(self, x: float, y: float, words: str) -> None:
        """Draw a text that runs upwards around a point at its left edge."""
        mask, _, _ = _written(words, "la", SMALL)
        turned = mask.transpose(Image.Transpose.ROTATE_90)
        self.image.paste(INK, (round(SCALE * x), round(SCALE * y) - turned.height // 2), turned)

    def line(
        self, points: Sequence[Point], colour: str, width: float = 1.0, dash: str = "solid"
    ) -> None:
        """Draw lines from point to point."""
        parts = [points] if dash == "solid" else _strokes(points, *_DASHES[dash])
        for part in parts:
            own = [(SCALE * x, SCALE * y) for x, y in part]
            self._draw.line(own, rgba(colour), max(1, round(SCALE * width)), joint="curve")

    def area(
        self, points: Sequence[Point], fill: str, edge: str | None = None, width: float = 1.0
    ) -> None:
        """Fill a polygon, and draw its edge."""
        own = [(SCALE * x, SCALE * y) for x, y in points]
        self._draw.polygon(own, rgba(fill))
        if edge is not None:
            self.line([*points, points[0]], edge, width)

    def box(
        self, start: Point, end: Point, fill: str | None, edge: str | None = None, width: float = 1
    ) -> None:
        """Fill a rectangle, and draw its edge inside of it."""
        (x0, y0), (x1, y1) = start, end
        left, right = sorted((round(SCALE * x0), round(SCALE * x1)))
        top, bottom = sorted((round(SCALE * y0), round(SCALE * y1)))
        self._draw.rectangle(
            (left, top, max(left, right - 1), max(top, bottom - 1)),
            None if fill is None else rgba(fill),
            None if edge is None else rgba(edge),
            max(1, round(SCALE * width)),
        )

    def mark(self, at: Point, size: float, symbol: str, fill: str, edge: str) -> None:
        """Draw a mark around a point."""
        x, y = at
        half = size / 2
        if symbol == "x":
            for sign in (-1, 1):
                self.line([(x - half, y - sign * half), (x + half, y + sign * half)], edge, 2)
        elif symbol == "line-ew-open":
            self.line([(x - half, y), (x + half, y)], edge, 1.5)
        elif symbol == "diamond":
            self.area([(x - half, y), (x, y - half), (x + half, y), (x, y + half)], fill, edge)
        else:
            hollow = symbol == "circle-open"
            ends = tuple(SCALE * own for own in (x - half, y - half, x + half, y + half))
            self._draw.ellipse(ends, None if hollow else rgba(fill), rgba(edge), 1 + hollow)

    def paste(self, pixels: NDArray[np.uint8], left: float, top: float) -> None:
        """Lay pixels, ``(height, width, 4)`` with their opacity, over the image at a point."""
        own = Image.fromarray(pixels)
        self.image.paste(own, (round(SCALE * left), round(SCALE * top)), own)


@lru_cache(maxsize=512)
def _written(words: str, anchor: str, size: float) -> tuple[Image.Image, int, int]:
    """A text in white on black, and its place beside its anchor in pixels."""
    own = drawable(words)
    left, top, right, bottom = map(round, font(size).getbbox(own, anchor=anchor))
    mask = Image.new("L", (max(1, right - left), max(1, bottom - top)))
    ImageDraw.Draw(mask).text((-left, -top), own, 255, font(size), anchor=anchor)
    return mask, left, top


def drawable(words: str) -> str:
    """The text in letters that the font has: without accents, and ? for all others."""
    plain = unicodedata.normalize("NFKD", words.translate(_LACKING))
    kept = (letter for letter in plain if not unicodedata.combining(letter))
    return "".join(letter if _has(letter) else "?" for letter in kept)


@lru_cache(maxsize=1024)
def _has(letter: str) -> bool:
    return bytes(font(SMALL).getmask(letter)) != bytes(font(SMALL).getmask("\uffff"))


@lru_cache
def font(size: float) -> Any:
    """Pillow's own font in points."""
    return ImageFont.load_default(SCALE * size)


@lru_cache(maxsize=4096)
def length(words: str, size: float = SMALL) -> float:
    """Length of a text in points."""
    return float(font(size).getlength(drawable(words))) / SCALE


def wrapped(words: str, width: float) -> list[str]:
    """A text in lines of at most a width in points."""
    lines = [""]
    for word in (shortened(word, width) for word in words.split()):
        longer = f"{lines[-1]} {word}".strip()
        lines = [*lines[:-1], longer] if length(longer) <= width else [*lines, word]
    return [line for line in lines if line]


def shortened(words: str, width: float, size: float = SMALL) -> str:
    """The text, with an ellipsis in its middle if it is longer than a width in points."""
    kept = min(len(words), _MOST_LETTERS)
    short = words
    while kept > 1 and length(short, size) > width:
        kept -= 1
        head = kept // 2
        short = f"{words[:head]}…{words[len(words) - (kept - head) :]}"
    return short


@lru_cache(maxsize=1024)
def rgba(colour: str) -> Colour:
    """Red, green, blue and opacity, 0 to 255, of a colour in words of the web."""
    found = re.fullmatch(r"rgba\((\d+), ?(\d+), ?(\d+), ?([\d.]+)\)", colour)
    if found is not None:
        red, green, blue = (int(part) for part in found.groups()[:3])
        return red, green, blue, round(255 * float(found[4]))
    red, green, blue, opacity = (*ImageColor.getrgb(colour), 255)[:4]
    return red, green, blue, opacity


def _strokes(points: Sequence[Point], stroke: float, gap: float) -> list[list[Point]]:
    """Parts of lines from point to point, with gaps between them."""
    ways = np.asarray(points, dtype=np.float64)
    steps = np.hypot(*np.diff(ways, axis=0).T)
    along = np.concatenate([[0.0], np.cumsum(steps)])
    starts = np.arange(0.0, along[-1], stroke + gap)
    ends = np.minimum(starts + stroke, along[-1])
    ends_of = [
        np.column_stack([np.interp(at, along, part) for part in ways.T]) for at in (starts, ends)
    ]
    return [[tuple(a), tuple(b)] for a, b in zip(*ends_of, strict=True)]
