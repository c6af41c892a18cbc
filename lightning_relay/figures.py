"""Pictures of a report as arrays of pixels, legible at the width of a TensorBoard card."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lightning_relay.report import LayerRelay

_LEFT, _RIGHT, _TOP = 40, 10, 36
_PANEL_WIDTH = 300
_CURVE_HEIGHT = 70
_UNITS_HEIGHT = 300
_GAP = 24

_INK = (40, 40, 40)
_GRID = (205, 205, 205)
_BAR = (31, 84, 148)
_EARLY = (168, 168, 168)
_LIMIT = (200, 80, 20)
_RAMP = np.array([(250, 250, 245), (158, 202, 225), (49, 130, 189), (8, 48, 107)], dtype=np.float64)
_NEGATIVE = np.array([(250, 250, 245), (230, 120, 40)], dtype=np.float64)

_MARKED_CELL = 4
"""Cells of this many pixels or more carry a mark where the unit is ambiguous."""


def relay_image(layer: LayerRelay, concept: str, title: str) -> NDArray[np.uint8]:
    """Picture of what a layer relays of a concept: I_R of all units, and every unit's score.

    Above, a bar for each step is I_R of all units in bits, under a line at I(X_in; X_out); grey
    bars are steps at which the states had not seen all input. Below, a cell for each step and unit
    is the unit's score, from white (0) to dark blue (1), and to orange (-1 or less) below 0. A dot
    marks a unit whose place in the order is ambiguous, because another was as good; the legend
    counts them. Up to 300 steps the picture is 350 pixels wide, which TensorBoard shows unscaled.

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
    height = scores_top + units * cell_height + 3 * _GAP

    image = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(11)
    draw.text((4, 3), title, _INK, font)
    draw.text((4, 18), "information relayed by all units, bits", _INK, font)
    _draw_information(draw, font, layer, concept, cell_width)

    ambiguous = np.zeros((steps, units), dtype=bool)
    np.put_along_axis(ambiguous, relay.units, relay.ambiguous, axis=1)
    cells = _colours(relay.scores).transpose(1, 0, 2).repeat(cell_height, 0).repeat(cell_width, 1)
    image.paste(Image.fromarray(cells), (_LEFT, scores_top))
    draw.text((4, scores_top - 15), "unit scores", _INK, font)
    if min(cell_width, cell_height) >= _MARKED_CELL:
        for step, unit in np.argwhere(ambiguous):
            x = _LEFT + step * cell_width + cell_width // 2
            y = scores_top + unit * cell_height + cell_height // 2
            dark = relay.scores[step, unit] > 0.5
            draw.rectangle((x - 1, y - 1, x, y), (255, 255, 255) if dark else (120, 120, 120))
    for unit in _ticks(units, units * cell_height, 12):
        y = scores_top + unit * cell_height + cell_height // 2
        draw.text((_LEFT - 5, y), str(unit), _INK, font, anchor="rm")
    bottom = scores_top + units * cell_height
    for step in _ticks(steps, steps * cell_width, 26):
        x = _LEFT + step * cell_width + cell_width // 2
        draw.text((x, bottom + 8), str(layer.time_steps[step]), _INK, font, anchor="mm")
    draw.text((4, bottom + 2), "step", _INK, font)
    _draw_legend(draw, font, bottom + _GAP, int(ambiguous.sum()), ambiguous.size, layer)
    return np.asarray(image)


def _draw_information(
    draw: ImageDraw.ImageDraw,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    layer: LayerRelay,
    concept: str,
    cell_width: int,
) -> None:
    relay = layer.concepts[concept]
    information, limit = relay.information[:, 0], relay.mutual_information
    highest = max(float(information.max()), float(limit.max()), 1e-3)
    lowest = min(float(information.min()), 0.0)
    bottom = _TOP + _CURVE_HEIGHT

    def y_of(bits: float) -> int:
        return round(bottom - (bits - lowest) / (highest - lowest) * (_CURVE_HEIGHT - 6))

    right = _LEFT + len(information) * cell_width
    for bits in sorted({lowest, 0.0, highest}):
        draw.line((_LEFT, y_of(bits), right - 1, y_of(bits)), _GRID)
        draw.text((_LEFT - 5, y_of(bits)), f"{bits:.2f}", _INK, font, anchor="rm")
    gap = 1 if cell_width > 2 else 0
    for step, (bits, most, ended) in enumerate(
        zip(information, limit, layer.inputs_ended, strict=True)
    ):
        x = _LEFT + step * cell_width
        ends = sorted((y_of(0.0), y_of(float(bits))))
        draw.rectangle((x, ends[0], x + cell_width - 1 - gap, ends[1]), _BAR if ended else _EARLY)
        draw.line((x, y_of(float(most)), x + cell_width - 1, y_of(float(most))), _LIMIT)


def _draw_legend(
    draw: ImageDraw.ImageDraw,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    top: int,
    ambiguous: int,
    places: int,
    layer: LayerRelay,
) -> None:
    draw.text((4, top), "score 0", _INK, font)
    for offset, colour in enumerate(_colours(np.linspace(0, 1, 60))):
        draw.line((48 + offset, top + 2, 48 + offset, top + 11), tuple(colour.tolist()))
    draw.text((112, top), f"1    · ambiguous: {ambiguous} of {places}", _INK, font)
    line = top + 16
    draw.line((4, line + 6, 18, line + 6), _LIMIT)
    draw.text((22, line), "I(in; out)", _INK, font)
    if not bool(layer.inputs_ended.all()):
        draw.rectangle((84, line + 2, 94, line + 11), _EARLY)
        draw.text((98, line), "not all input seen", _INK, font)


def _colours(scores: NDArray[np.float64]) -> NDArray[np.uint8]:
    colours = _ramp(_RAMP, scores)
    colours[scores < 0] = _ramp(_NEGATIVE, -scores[scores < 0])
    return colours.round().astype(np.uint8)


def _ramp(anchors: NDArray[np.float64], position: NDArray[np.float64]) -> NDArray[np.float64]:
    places = np.linspace(0, 1, len(anchors))
    return np.stack([np.interp(position, places, anchors[:, c]) for c in range(3)], axis=-1)


def _ticks(count: int, length: int, apart: int) -> range:
    return range(0, count, max(1, -(-apart * count // max(length, 1))))
