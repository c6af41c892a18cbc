"""The picture of what a layer relays of a concept."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw

from lightning_relay.reports.drawing import (
    FONT,
    GREY,
    HALF,
    INK,
    LEFT,
    LINE,
    MARK,
    PANEL_WIDTH,
    RIGHT,
    STRIPES,
    draw_axis,
    in_pixels,
    ramp,
    ticks,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lightning_relay.relay.report import ConceptRelay, LayerRelay

_TOP = 36
_CURVE_HEIGHT = 70
_UNITS_HEIGHT = 300
_GAP = 24

_BAR = (96, 150, 208)
_EARLY = (176, 176, 176)
_LIMIT = (200, 80, 20)
_RAMP = np.array([(250, 250, 245), (158, 202, 225), (49, 130, 189), (8, 48, 107)], dtype=np.float64)
_NEGATIVE = np.array([(250, 250, 245), (230, 120, 40)], dtype=np.float64)
_UNRESOLVED = np.array(GREY, dtype=np.float64)

_MARKED_CELL = 4
"""Cells of this many pixels or more carry a mark where the unit is ambiguous or unresolved."""


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
    cell_width = max(1, min(24, PANEL_WIDTH // steps))
    cell_height = max(1, min(14, _UNITS_HEIGHT // units))
    scores_top = _TOP + _CURVE_HEIGHT + _GAP
    width = LEFT + max(steps * cell_width, PANEL_WIDTH) + RIGHT
    bottom = scores_top + units * cell_height

    marked = min(cell_width, cell_height) >= _MARKED_CELL
    legend = _legend(layer, relay)
    height = bottom + _GAP + (1 + -(-len(legend) // 2)) * LINE + 6
    image = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(image)
    draw.text((4, 3), title, INK, FONT)
    draw.text((4, 18), "information relayed by all units, bits", INK, FONT)
    _draw_information(draw, layer, relay, cell_width)

    cells = _cells(relay.scores, ~relay.resolved, cell_width, cell_height, striped=marked)
    image.paste(Image.fromarray(cells), (LEFT, scores_top))
    draw.text((4, scores_top - 15), "unit scores", INK, FONT)
    if marked:
        for step, unit in np.argwhere(relay.ambiguous):
            x = LEFT + step * cell_width + cell_width // 2
            y = scores_top + unit * cell_height + cell_height // 2
            dark = relay.scores[step, unit] > 0.5
            draw.rectangle((x - 1, y - 1, x, y), (255, 255, 255) if dark else (90, 90, 90))
    for unit in ticks(units, units * cell_height, 12):
        y = scores_top + unit * cell_height + cell_height // 2
        draw.text((LEFT - 5, y), str(unit), INK, FONT, anchor="rm")
    for step in ticks(steps, steps * cell_width, 26):
        x = LEFT + step * cell_width + cell_width // 2
        draw.text((x, bottom + 8), str(layer.time_steps[step]), INK, FONT, anchor="mm")
    draw.text((4, bottom + 2), "step", INK, FONT)

    top = bottom + _GAP
    draw.text((4, top), "score 0", INK, FONT)
    scale = _colours(np.linspace(0, 1, 60))[None].repeat(10, 0)
    image.paste(Image.fromarray(scale), (48, top + 2))
    draw.text((112, top), "1", INK, FONT)
    for place, (symbol, text) in enumerate(legend):
        x, y = (4, HALF)[place % 2], top + (1 + place // 2) * LINE
        _draw_symbol(image, draw, symbol, x, y, striped=marked)
        draw.text((x + 20, y), text, INK, FONT)
    return np.asarray(image)


def _draw_information(
    draw: ImageDraw.ImageDraw,
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

    right = LEFT + len(relay.information) * cell_width
    draw_axis(draw, sorted({highest, 0.0, lowest}, reverse=True), y_of, right)
    gap = 1 if cell_width > 2 else 0
    for step, ended in enumerate(layer.inputs_ended):
        x = LEFT + step * cell_width
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
            draw.line((middle, ends[0], middle, ends[1]), MARK)
        y = y_of(float(relay.corrected[step, 0]))
        short = cell_width // 4
        draw.line((x + short, y, last - short, y), MARK)


def _cells(
    scores: NDArray[np.float64],
    unresolved: NDArray[np.bool],
    cell_width: int,
    cell_height: int,
    *,
    striped: bool,
) -> NDArray[np.uint8]:
    """Pixels of the cells, ``(unit * cell_height, step * cell_width, 3)``."""
    pixels = in_pixels(_colours(scores).swapaxes(0, 1), cell_width, cell_height).astype(np.float64)
    hidden = in_pixels(unresolved.T, cell_width, cell_height).astype(bool)
    if striped:
        rows, columns = np.indices(hidden.shape)
        dark = in_pixels((scores > 0.5).T, cell_width, cell_height).astype(bool)
        hidden &= (rows + columns) % STRIPES == 0
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
        draw.line((x + 7, y + 2, x + 7, y + 11), MARK)
    elif symbol == "chance":
        draw.point([(at, y + 6) for at in range(x, x + 14) if at % 5 < 3], _LIMIT)
    else:
        draw.line((x, y + 6, x + 14, y + 6), _LIMIT if symbol == "limit" else MARK)


def _colours(scores: NDArray[np.float64]) -> NDArray[np.uint8]:
    colours = ramp(_RAMP, scores)
    colours[scores < 0] = ramp(_NEGATIVE, -scores[scores < 0])
    return colours.round().astype(np.uint8)
