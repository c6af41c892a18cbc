"""Pictures of a report as arrays of pixels, legible at the width of a TensorBoard card."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from lightning_relay.report import ConceptRelay, LayerRelay

_LEFT, _RIGHT, _TOP = 40, 10, 36
_PANEL_WIDTH = 300
_CURVE_HEIGHT = 70
_UNITS_HEIGHT = 300
_GAP = 24
_LINE = 16
_HALF = 176
"""Where the second column of the legend begins."""

_INK = (40, 40, 40)
_GRID = (205, 205, 205)
_BAR = (96, 150, 208)
_EARLY = (176, 176, 176)
_LIMIT = (200, 80, 20)
_MARK = (0, 0, 0)
_RAMP = np.array([(250, 250, 245), (158, 202, 225), (49, 130, 189), (8, 48, 107)], dtype=np.float64)
_NEGATIVE = np.array([(250, 250, 245), (230, 120, 40)], dtype=np.float64)
_UNRESOLVED = np.array((150, 150, 150), dtype=np.float64)

_MARKED_CELL = 4
"""Cells of this many pixels or more carry a mark where the unit is ambiguous or unresolved."""

_STRIPES = 5
"""One of this many diagonals is drawn over unresolved cells."""


def relay_image(layer: LayerRelay, concept: str, title: str) -> NDArray[np.uint8]:
    """Picture of what a layer relays of a concept: I_R of all units, and every unit's score.

    Above, a bar for each step is I_R of all units in bits, under a line at I(X_in; X_out); grey
    bars are steps at which the states had not seen all input. A black tick is the corrected value,
    a vertical line the bootstrap interval, a dashed line the chance level of I(X_in; X_out).
    Below, a cell for each step and unit is the unit's score, from white (0) to dark blue (1), and
    to orange (-1 or less) below 0. Grey stripes lie over units whose places the data cannot
    resolve, a dot on those whose places are ambiguous, because another was as good; cells under 4
    pixels are blended towards grey instead, and have no dots. The legend counts both. Up to 300
    steps the picture is 350 pixels wide, which TensorBoard shows unscaled.

    Args:
        layer: Results of one layer.
        concept: Name of the concept.
        title: First line of the picture.

    Returns:
        Array of shape ``(height, width, 3)``, RGB.

    Raises:
        KeyError: If there is no such concept.
    """
    relay = layer.concepts[concept]
    steps, units = relay.scores.shape
    cell_width = max(1, min(24, _PANEL_WIDTH // steps))
    cell_height = max(1, min(14, _UNITS_HEIGHT // units))
    scores_top = _TOP + _CURVE_HEIGHT + _GAP
    width = _LEFT + max(steps * cell_width, _PANEL_WIDTH) + _RIGHT
    bottom = scores_top + units * cell_height

    ambiguous, resolved = (_by_unit(relay, part) for part in (relay.ambiguous, relay.resolved))
    marked = min(cell_width, cell_height) >= _MARKED_CELL
    legend = _legend(layer, relay)
    height = bottom + _GAP + (1 + -(-len(legend) // 2)) * _LINE + 6
    image = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(11)
    draw.text((4, 3), title, _INK, font)
    draw.text((4, 18), "information relayed by all units, bits", _INK, font)
    _draw_information(draw, font, layer, relay, cell_width)

    cells = _cells(relay.scores, ~resolved, cell_width, cell_height, striped=marked)
    image.paste(Image.fromarray(cells), (_LEFT, scores_top))
    draw.text((4, scores_top - 15), "unit scores", _INK, font)
    if marked:
        for step, unit in np.argwhere(ambiguous):
            x = _LEFT + step * cell_width + cell_width // 2
            y = scores_top + unit * cell_height + cell_height // 2
            dark = relay.scores[step, unit] > 0.5
            draw.rectangle((x - 1, y - 1, x, y), (255, 255, 255) if dark else (90, 90, 90))
    for unit in _ticks(units, units * cell_height, 12):
        y = scores_top + unit * cell_height + cell_height // 2
        draw.text((_LEFT - 5, y), str(unit), _INK, font, anchor="rm")
    for step in _ticks(steps, steps * cell_width, 26):
        x = _LEFT + step * cell_width + cell_width // 2
        draw.text((x, bottom + 8), str(layer.time_steps[step]), _INK, font, anchor="mm")
    draw.text((4, bottom + 2), "step", _INK, font)

    top = bottom + _GAP
    draw.text((4, top), "score 0", _INK, font)
    ramp = _colours(np.linspace(0, 1, 60))[None].repeat(10, 0)
    image.paste(Image.fromarray(ramp), (48, top + 2))
    draw.text((112, top), "1", _INK, font)
    for place, (symbol, text) in enumerate(legend):
        x, y = (4, _HALF)[place % 2], top + (1 + place // 2) * _LINE
        _draw_symbol(image, draw, symbol, x, y, striped=marked)
        draw.text((x + 20, y), text, _INK, font)
    return np.asarray(image)


def _by_unit(relay: ConceptRelay, by_place: NDArray[np.bool]) -> NDArray[np.bool]:
    values = np.zeros_like(by_place)
    np.put_along_axis(values, relay.units, by_place, axis=1)
    return values


def _draw_information(
    draw: ImageDraw.ImageDraw,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    layer: LayerRelay,
    relay: ConceptRelay,
    cell_width: int,
) -> None:
    drawn = [relay.information, relay.corrected, relay.lower, relay.upper, relay.chance_level]
    values = [part[:, 0] for part in drawn if part is not None] + [relay.mutual_information]
    highest = max(1e-3, *(float(part.max()) for part in values))
    lowest = min(0.0, *(float(part.min()) for part in values))
    bottom = _TOP + _CURVE_HEIGHT

    def y_of(bits: float) -> int:
        return round(bottom - (bits - lowest) / (highest - lowest) * (_CURVE_HEIGHT - 6))

    right = _LEFT + len(relay.information) * cell_width
    _draw_axis(draw, font, sorted({highest, 0.0, lowest}, reverse=True), y_of, right)
    gap = 1 if cell_width > 2 else 0
    for step, ended in enumerate(layer.inputs_ended):
        x = _LEFT + step * cell_width
        last = x + cell_width - 1 - gap
        middle = (x + last) // 2
        ends = sorted((y_of(0.0), y_of(float(relay.information[step, 0]))))
        draw.rectangle((x, ends[0], last, ends[1]), _BAR if ended else _EARLY)
        if relay.chance_level is not None:
            y = y_of(float(relay.chance_level[step, 0]))
            draw.point([(at, y) for at in range(x, x + cell_width) if at % 5 < 3], _LIMIT)
        y = y_of(float(relay.mutual_information[step]))
        draw.line((x, y, x + cell_width - 1, y), _LIMIT)
        if relay.lower is not None and relay.upper is not None:
            ends = [y_of(float(end[step, 0])) for end in (relay.upper, relay.lower)]
            draw.line((middle, ends[0], middle, ends[1]), _MARK)
        y = y_of(float(relay.corrected[step, 0]))
        short = cell_width // 4
        draw.line((x + short, y, last - short, y), _MARK)


def _draw_axis(
    draw: ImageDraw.ImageDraw,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    values: list[float],
    y_of: Callable[[float], int],
    right: int,
) -> None:
    """Lines at the values, highest first, with numbers where there is room below the last."""
    above = -_LINE
    for bits in values:
        y = y_of(bits)
        draw.line((_LEFT, y, right - 1, y), _GRID)
        if y - above >= 10:
            draw.text((_LEFT - 5, y), f"{bits:.2f}", _INK, font, anchor="rm")
            above = y


def _cells(
    scores: NDArray[np.float64],
    unresolved: NDArray[np.bool],
    cell_width: int,
    cell_height: int,
    *,
    striped: bool,
) -> NDArray[np.uint8]:
    """Pixels of the cells, ``(unit * cell_height, step * cell_width, 3)``."""

    def in_pixels(by_cell: NDArray[np.generic]) -> NDArray[np.generic]:
        return by_cell.swapaxes(0, 1).repeat(cell_height, 0).repeat(cell_width, 1)

    pixels = in_pixels(_colours(scores)).astype(np.float64)
    hidden = in_pixels(unresolved).astype(bool)
    if striped:
        rows, columns = np.indices(hidden.shape)
        dark = in_pixels(scores > 0.5).astype(bool)
        hidden &= (rows + columns) % _STRIPES == 0
        pixels[hidden & dark] = _UNRESOLVED + 50
        pixels[hidden & ~dark] = _UNRESOLVED
    else:
        pixels[hidden] = 0.4 * pixels[hidden] + 0.6 * _UNRESOLVED
    return pixels.round().astype(np.uint8)


def _legend(layer: LayerRelay, relay: ConceptRelay) -> list[tuple[str, str]]:
    """Symbols and what they mean, in two columns, row by row."""
    places = relay.resolved.size
    legend = [
        ("unresolved", f"unresolved: {(~relay.resolved).sum()} of {places}"),
        ("ambiguous", f"ambiguous: {relay.ambiguous.sum()} of {places}"),
        ("limit", "I(in; out)"),
        ("corrected", "corrected"),
    ]
    if relay.chance_level is not None:
        legend.append(("chance", "chance level of I(in; out)"))
    if relay.lower is not None:
        legend.append(("interval", "95 % interval"))
    if not bool(layer.inputs_ended.all()):
        legend.append(("early", "not all input seen"))
    return legend


def _draw_symbol(
    image: Image.Image, draw: ImageDraw.ImageDraw, symbol: str, x: int, y: int, *, striped: bool
) -> None:
    """One symbol of the legend, 14 pixels wide, beside a text at ``y``."""
    if symbol == "unresolved":
        cell = _cells(np.zeros((1, 1)), np.ones((1, 1), dtype=bool), 14, 10, striped=striped)
        image.paste(Image.fromarray(cell), (x, y + 2))
    elif symbol == "ambiguous":
        if striped:  # in smaller cells there are no dots
            draw.rectangle((x + 6, y + 6, x + 7, y + 7), (90, 90, 90))
    elif symbol == "early":
        draw.rectangle((x + 2, y + 2, x + 12, y + 11), _EARLY)
    elif symbol == "interval":
        draw.line((x + 7, y + 2, x + 7, y + 11), _MARK)
    elif symbol == "chance":
        draw.point([(at, y + 6) for at in range(x, x + 14) if at % 5 < 3], _LIMIT)
    else:
        draw.line((x, y + 6, x + 14, y + 6), _LIMIT if symbol == "limit" else _MARK)


def _colours(scores: NDArray[np.float64]) -> NDArray[np.uint8]:
    colours = _ramp(_RAMP, scores)
    colours[scores < 0] = _ramp(_NEGATIVE, -scores[scores < 0])
    return colours.round().astype(np.uint8)


def _ramp(anchors: NDArray[np.float64], position: NDArray[np.float64]) -> NDArray[np.float64]:
    places = np.linspace(0, 1, len(anchors))
    return np.stack([np.interp(position, places, anchors[:, c]) for c in range(3)], axis=-1)


def _ticks(count: int, length: int, apart: int) -> range:
    return range(0, count, max(1, -(-apart * count // max(length, 1))))
