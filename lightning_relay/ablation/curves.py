"""Pictures of the accuracy along orders of units, and of damage over what units and sets relay."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw

from lightning_relay.ablation.shown import (
    all_alike,
    all_damage_alike,
    curve_in_words,
    r2_in_words,
)
from lightning_relay.reports.drawing import (
    FONT,
    GREY,
    INK,
    LEFT,
    LINE,
    PANEL_WIDTH,
    RIGHT,
    draw_axis,
    draw_line,
    lines_of_text,
    ticks,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from lightning_relay.ablation.report import (
        DamagePrediction,
        DeletionCurve,
        KnockoutReport,
    )

_TOP = 42
_HEIGHT = 180
_BOTTOM = _TOP + _HEIGHT
_AXIS = 34
_BETWEEN_TICKS = 24
"""Height of the labels of the horizontal axis, pixels."""

_COLOURS = {
    "random_first": (110, 110, 110),
    "least_first": (49, 130, 189),
    "most_first": (205, 30, 35),
}
_FEW, _MANY = np.array([(158, 202, 225), (8, 48, 107)], dtype=np.float64)

_BAND = 45
"""Opacity of bands, from 0 to 255."""

_NAMED_POINTS = 24
"""Above this number of points, unit indices are not drawn."""


def deletion_image(
    report: KnockoutReport, layer: str, concept: str, title: str
) -> NDArray[np.uint8]:
    """Picture ``(height, 350, 3)``, RGB, of accuracy against the number of units knocked out.

    Red: the units that relay most go first; blue: those that relay least; grey: random orders. The
    line is the mean over orders, its dots are the numbers of units that were run. The band is the
    95 % interval of a single order, or the range of several (random or tied) ones.
    """
    curves = {
        curve.direction: curve
        for curve in report.curves
        if (curve.layer, curve.concept) == (layer, concept)
    }
    if not curves:
        there = dict.fromkeys((curve.layer, curve.concept) for curve in report.curves)
        raise ValueError(
            f"layer, concept: no curve of {layer!r} and {concept!r} in the report; it has: "
            f"{', '.join(map(str, there)) or 'none'}"
        )
    shown = [curves[direction] for direction in _COLOURS if direction in curves]
    units = max(int(curve.sizes[-1]) for curve in shown)
    image = _panel(
        title, f"accuracy of {concept}, fraction of 1", "number of units knocked out", len(shown)
    )
    draw = ImageDraw.Draw(image)
    y_of = _y_of(0.0, 1.0)
    draw_axis(draw, [1.0, 0.5, 0.0], y_of, LEFT + PANEL_WIDTH + 1)

    def x_of(size: float) -> int:
        return LEFT + round(size / max(units, 1) * PANEL_WIDTH)

    for size in ticks(units + 1, PANEL_WIDTH, 26):
        draw.text((x_of(size), _BOTTOM + 9), str(size), INK, FONT, anchor="mm")
        draw.line((x_of(size), _BOTTOM, x_of(size), _BOTTOM + 2), INK)
    for curve in shown:
        _draw_band(image, curve, x_of, y_of)
    for curve in shown:
        means = zip(curve.sizes, curve.accuracy.mean(0), strict=True)
        points = [(x_of(size), y_of(value)) for size, value in means]
        colour = _COLOURS[curve.direction]
        draw.line(points, colour, 2)
        for x, y in points:
            draw.rectangle((x - 1, y - 1, x + 1, y + 1), colour)
    for place, curve in enumerate(reversed(shown)):
        y = _BOTTOM + _AXIS + place * LINE
        draw.line((4, y + 7, 18, y + 7), _COLOURS[curve.direction], 2)
        draw.text((24, y), curve_in_words(curve), INK, FONT)
    return np.asarray(image)


def agreement_image(
    report: KnockoutReport, layer: str, concept: str, title: str
) -> NDArray[np.uint8]:
    """Picture ``(height, 350, 3)``, RGB, of the damage of single units over what they relay.

    Each unit is a point; its index is drawn if there are 24 units or fewer. If all damages or all
    shares are equal, a sentence replaces the points.
    """
    results = {(found.layer, found.concept): found for found in report.agreement}
    if (layer, concept) not in results:
        raise ValueError(
            f"layer, concept: no scores of {layer!r} and {concept!r} in the report; it has: "
            f"{', '.join(map(str, results)) or 'none'}"
        )
    found = results[layer, concept]
    same = all_alike(found)
    if same is not None:
        return lines_of_text(title, same)
    image = _panel(title, f"damage to {concept}, fraction of 1", found.kind, 1)
    draw = ImageDraw.Draw(image)
    low, high = _range(found.damage)
    y_of = _y_of(low, high)
    draw_axis(draw, sorted({high, 0.0, low}, reverse=True), y_of, LEFT + PANEL_WIDTH + 1)
    x_of = _x_of(draw, found.scores)
    units = report.single_units(layer)
    for unit, score, damage in zip(units, found.scores, found.damage, strict=True):
        if np.isnan(score) or np.isnan(damage):
            continue
        x, y = x_of(score), y_of(damage)
        draw.rectangle((x - 1, y - 1, x + 1, y + 1), _COLOURS["most_first"])
        if len(found.scores) <= _NAMED_POINTS:
            inside = x < LEFT + PANEL_WIDTH - 16
            anchor, beside = ("lm", 4) if inside else ("rm", -4)
            draw.text((x + beside, y), str(unit), INK, FONT, anchor=anchor)
    words = f"{found.correlation:.2f} [{found.lower:.2f}, {found.upper:.2f}]"
    words = "undefined" if np.isnan(found.correlation) else words
    draw.text((4, _BOTTOM + _AXIS), f"rank correlation: {words}", INK, FONT)
    return np.asarray(image)


def prediction_image(
    found: DamagePrediction, title: str, *, of_step: bool = False
) -> NDArray[np.uint8]:
    """Picture ``(height, 350, 3)``, RGB, of the damage by random sets over their information.

    ``of_step``: whether the damage is that to the labels of the step.

    Each set is a point, the darker the more units it has. If all damages are equal, a sentence
    replaces the points.
    """
    damage, bits = found.damage, found.information
    same = all_damage_alike(found)
    if same is not None:
        return lines_of_text(title, same)
    name = f"relay information at step {found.step}, bits"
    where = f" at step {found.step}" if of_step else ""
    image = _panel(title, f"damage to {found.concept}{where}, fraction of 1", name, 4)
    draw = ImageDraw.Draw(image)
    low, high = _range(damage)
    y_of = _y_of(low, high)
    draw_axis(draw, sorted({high, 0.0, low}, reverse=True), y_of, LEFT + PANEL_WIDTH + 1)
    x_of = _x_of(draw, bits)
    sizes = found.sizes
    dark = (sizes - sizes.min()) / max(1, np.ptp(sizes))
    colours = (_FEW + dark[:, np.newaxis] * (_MANY - _FEW)).round().astype(int)
    for place in np.argsort(sizes, kind="stable"):
        x, y = x_of(float(bits[place])), y_of(float(damage[place]))
        draw.rectangle((x - 1, y - 1, x + 1, y + 1), tuple(colours[place].tolist()))
    y = _BOTTOM + _AXIS
    for x, colour, size in ((4, _FEW, sizes.min()), (66, _MANY, sizes.max())):
        draw.rectangle((x, y + 5, x + 4, y + 9), tuple(colour.astype(int).tolist()))
        draw.text((x + 8, y), f"{size} unit{'s' * int(size != 1)}", INK, FONT)
    draw.text((134, y), f"{len(sizes)} sets, {found.samples} sequences", INK, FONT)
    for line, words in enumerate(r2_in_words(found), start=1):
        draw.text((4, y + line * LINE), words, INK, FONT)
    return np.asarray(image)


def _x_of(draw: ImageDraw.ImageDraw, values: NDArray[np.float64]) -> Callable[[float], int]:
    """Draw a horizontal axis that holds the values and 0; gives the function to pixels."""
    least, most = _range(values.round(9))

    def x_of(value: float) -> int:
        return LEFT + 4 + round((value - least) / (most - least) * (PANEL_WIDTH - 8))

    for value in sorted({least, 0.0, most}):
        x = x_of(value)
        if value == least < 0 and x_of(0.0) - x < _BETWEEN_TICKS:
            continue
        draw.line((x, _BOTTOM, x, _BOTTOM + 2), INK)
        draw.text((x, _BOTTOM + 9), f"{value:.2g}", INK, FONT, anchor="mm")
    return x_of


def _panel(title: str, y_name: str, x_name: str, lines: int) -> Image.Image:
    """An empty panel with its titles, and room for ``lines`` of text below."""
    height = _BOTTOM + _AXIS + lines * LINE + 6
    image = Image.new("RGB", (LEFT + PANEL_WIDTH + RIGHT, height), "white")
    draw = ImageDraw.Draw(image)
    draw_line(draw, 4, 3, title)
    draw_line(draw, 4, 20, y_name)
    draw.text((LEFT + PANEL_WIDTH // 2, _BOTTOM + 23), x_name, INK, FONT, anchor="mm")
    draw.line((LEFT, _TOP, LEFT, _BOTTOM), GREY)
    draw.line((LEFT, _BOTTOM, LEFT + PANEL_WIDTH, _BOTTOM), GREY)
    return image


def _y_of(low: float, high: float) -> Callable[[float], int]:
    def y_of(value: float) -> int:
        return round(_BOTTOM - (value - low) / (high - low) * _HEIGHT)

    return y_of


def _range(values: NDArray[np.float64]) -> tuple[float, float]:
    """Range of the values and 0; from 0 to 1 if all are 0."""
    low = float(np.nanmin(values, initial=0.0))
    high = float(np.nanmax(values, initial=0.0))
    return (low, high) if high > low else (0.0, 1.0)


def _draw_band(
    image: Image.Image,
    curve: DeletionCurve,
    x_of: Callable[[float], int],
    y_of: Callable[[float], int],
) -> None:
    several = len(curve.accuracy) > 1 or curve.direction == "random_first"
    below = curve.accuracy.min(0) if several else curve.lower[0]
    above = curve.accuracy.max(0) if several else curve.upper[0]
    edges = zip(curve.sizes, above, below, strict=True)
    points = [(x_of(size), y_of(high), y_of(low)) for size, high, low in edges]
    outline = [(x, high) for x, high, _ in points] + [(x, low) for x, _, low in points[::-1]]
    mask = Image.new("L", image.size, 0)
    ImageDraw.Draw(mask).polygon(outline, _BAND)
    image.paste(_COLOURS[curve.direction], mask=mask)
