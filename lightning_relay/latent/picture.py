"""Picture of a latent structure: trajectories of classes, states, and attractors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw

from lightning_relay.latent.shown import (
    KINDS,
    frequent_classes,
    kinds_of,
    plane,
    steps_in_time,
    variance_along,
)
from lightning_relay.reports.drawing import (
    FONT,
    GRID,
    INK,
    LEFT,
    LINE,
    MARK,
    PANEL_WIDTH,
    RIGHT,
    draw_line,
    shortened,
    wrapped,
)
from lightning_relay.reports.figure import SERIES, rgb
from lightning_relay.reports.steps import place_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from lightning_relay.latent.structure import LatentStructure

    At = Callable[[NDArray[np.float64]], list[tuple[float, float]]]

_TOP = 38
_COLOURS = tuple(rgb(colour) for colour in SERIES)
"""Colours of classes; the most frequent classes are drawn, one for each colour."""

_COLUMNS = 5
_SYMBOLS = (
    ("end", "class mean at the last step"),
    ("path", "its way there; thin: not all input seen"),
    ("points", "single sequences at the last step"),
)


def latent_image(latent: LatentStructure, title: str) -> NDArray[np.uint8]:
    """RGB picture ``(height, 350, 3)`` in the first two components."""
    classes = frequent_classes(latent, len(_COLOURS))
    symbols = [*_SYMBOLS, *_of_attractors(latent)]
    width = LEFT + PANEL_WIDTH + RIGHT
    words = wrapped(latent.in_words(), width - 8)
    if latent.attractors is not None:
        words += wrapped(latent.attractors.in_words(), width - 8)
    below = _TOP + PANEL_WIDTH + 22
    rows = -(-len(classes) // _COLUMNS) + (len(classes) < len(latent.classes))
    height = below + (rows + len(symbols) + len(words)) * LINE + 6
    image = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(image)
    draw_line(draw, 4, 3, title)
    first, second = variance_along(latent)
    draw_line(draw, 4, 19, f"component 2 ({second} of the variance)")
    draw.text((width - RIGHT, below - 14), f"component 1 ({first})", INK, FONT, anchor="rm")
    draw.rectangle((LEFT, _TOP, LEFT + PANEL_WIDTH, _TOP + PANEL_WIDTH), outline=GRID)
    _draw_states(draw, latent, classes, _scale(draw, latent))
    y = _draw_classes(draw, latent, classes, below)
    for symbol, text in symbols:
        _draw_symbol(draw, symbol, y)
        draw_line(draw, 24, y, text)
        y += LINE
    for line in words:
        draw.text((4, y), line, INK, FONT)
        y += LINE
    return np.asarray(image)


def _of_attractors(latent: LatentStructure) -> list[tuple[str, str]]:
    """Symbols of the kinds of attractors that there are, with their texts in the legend."""
    found = latent.attractors
    if found is None:
        return []
    symbols = ("fixed", "cycle", "continuous")
    return [(symbols[kind], KINDS[kind]) for kind in np.unique(kinds_of(found))]


def _scale(draw: ImageDraw.ImageDraw, latent: LatentStructure) -> At:
    """The function from states ``(state, component)`` to pixels, the same along both axes.

    Lines mark the mean state.
    """
    parts = [latent.trajectories.reshape(-1, latent.trajectories.shape[-1]), latent.points]
    if latent.attractors is not None:
        parts.append(latent.projected(latent.attractors.states))
    drawn = plane(np.concatenate(parts))
    lowest, highest = np.nanmin(drawn, 0), np.nanmax(drawn, 0)
    middle, half = (lowest + highest) / 2, 0.54 * max(float((highest - lowest).max()), 1e-9)

    def pixels(states: NDArray[np.float64]) -> list[tuple[float, float]]:
        places = (plane(states) - middle) / (2 * half)
        x = LEFT + (0.5 + places[:, 0]) * PANEL_WIDTH
        y = _TOP + (0.5 - places[:, 1]) * PANEL_WIDTH
        return list(zip(x.tolist(), y.tolist(), strict=True))

    x, y = pixels(np.zeros((1, 2)))[0]
    if LEFT <= x <= LEFT + PANEL_WIDTH:
        draw.line((x, _TOP, x, _TOP + PANEL_WIDTH), GRID)
    if _TOP <= y <= _TOP + PANEL_WIDTH:
        draw.line((LEFT, y, LEFT + PANEL_WIDTH, y), GRID)
    return pixels


def _draw_states(
    draw: ImageDraw.ImageDraw, latent: LatentStructure, classes: NDArray[np.int64], at: At
) -> None:
    forward = steps_in_time(latent)
    last = place_of(-1, latent.time_steps, backward=latent.backward)
    for row, colour in zip(classes, _COLOURS, strict=False):
        own = latent.points[latent.point_classes == latent.classes[row]]
        for x, y in at(own):
            draw.rectangle((x - 1, y - 1, x, y), _pale(colour))
    for row, colour in zip(classes, _COLOURS, strict=False):
        steps = forward[latent.samples[row, forward] > 0]
        path = at(latent.trajectories[row, steps])
        for place in range(1, len(path)):
            ended = bool(latent.inputs_ended[steps[place]])
            draw.line(path[place - 1 : place + 1], colour, 2 if ended else 1)
        if latent.samples[row, last]:
            _disc(draw, at(latent.trajectories[row, last : last + 1])[0], 4, colour)
    if latent.attractors is not None:
        _draw_attractors(draw, latent, at)


def _draw_attractors(draw: ImageDraw.ImageDraw, latent: LatentStructure, at: At) -> None:
    found = latent.attractors
    assert found is not None
    for attractor in range(len(found)):
        states = at(latent.projected(found.states[found.attractor == attractor]))
        if found.continuous[attractor]:
            for place in states:
                _disc(draw, place, 2, MARK)
        elif found.period[attractor] == 1:
            _cross(draw, states[0])
        else:
            draw.line([*states, states[0]], MARK)
            for place in states:
                _disc(draw, place, 3, (255, 255, 255))


def _draw_classes(
    draw: ImageDraw.ImageDraw, latent: LatentStructure, classes: NDArray[np.int64], y: int
) -> int:
    """Draw the colours of the classes from a height on; gives the height below them."""
    column = (LEFT + PANEL_WIDTH) // _COLUMNS
    for place, (row, colour) in enumerate(zip(classes, _COLOURS, strict=False)):
        x = 4 + place % _COLUMNS * column
        top = y + place // _COLUMNS * LINE
        draw.rectangle((x, top + 3, x + 8, top + 11), colour)
        text = shortened(f"class {latent.classes[row]}", column - 16)
        draw.text((x + 12, top), text, INK, FONT)
    y += -(-len(classes) // _COLUMNS) * LINE
    if len(classes) < len(latent.classes):
        left = len(latent.classes) - len(classes)
        draw_line(draw, 4, y, f"{left} less frequent classes are not drawn")
        y += LINE
    return y


def _draw_symbol(draw: ImageDraw.ImageDraw, symbol: str, y: int) -> None:
    """Symbol of a legend, beside a text at ``y``."""
    middle = (11, y + 7)
    colour = _COLOURS[7]
    if symbol == "end":
        _disc(draw, middle, 4, colour)
    elif symbol == "path":
        draw.line((4, y + 7, 11, y + 7), colour)
        draw.line((11, y + 7, 18, y + 7), colour, 2)
    elif symbol == "points":
        for x in (6, 11, 15):
            draw.rectangle((x - 1, y + 6, x, y + 7), _pale(colour))
    elif symbol == "fixed":
        _cross(draw, middle)
    elif symbol == "cycle":
        draw.line((4, y + 7, 18, y + 7), MARK)
        _disc(draw, middle, 3, (255, 255, 255))
    else:
        for x in (6, 11, 16):
            _disc(draw, (x, y + 7), 2, MARK)


def _disc(
    draw: ImageDraw.ImageDraw,
    place: tuple[float, float],
    radius: int,
    colour: tuple[int, int, int],
) -> None:
    x, y = place
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), colour, MARK)


def _cross(draw: ImageDraw.ImageDraw, place: tuple[float, float]) -> None:
    x, y = place
    for sign in (-1, 1):
        draw.line((x - 5, y - sign * 5, x + 5, y + sign * 5), MARK, 3)


def _pale(colour: tuple[int, int, int]) -> tuple[int, int, int]:
    red, green, blue = ((part + 2 * 255) // 3 for part in colour)
    return red, green, blue
