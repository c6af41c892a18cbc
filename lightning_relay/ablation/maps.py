"""Maps of damage: every set by every measure, and every unit by every step."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw

from lightning_relay.reports.drawing import (
    FONT,
    GREY,
    INK,
    LEFT,
    LINE,
    PANEL_WIDTH,
    RIGHT,
    draw_line,
    in_pixels,
    lines_of_text,
    ramp,
    shortened,
    striped,
    ticks,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from lightning_relay.ablation.damage import Damage
    from lightning_relay.ablation.report import KnockoutReport, KnockoutSet

_TOP = 42
_NAMES = 104
"""Width of the names of sets, pixels."""
_HEADS = 58
"""Height of the names of measures, pixels."""
_BETWEEN = 5
"""Pixels between groups of rows or columns."""
_ROWS_HEIGHT = 448
_MOST_ROWS = 64
_MOST_STEPS = 100
_GAP = 8
_LONE_COLUMN = 8
"""Least width of the column of an only measure in its group, pixels."""
_APART = 12
_SCALE_WIDTH = 120
_DOTTED_CELL = 3
"""Least size of cells with dots, pixels."""

_WORSE = np.array([(250, 250, 245), (252, 160, 120), (205, 30, 35), (85, 0, 15)], dtype=np.float64)
_BETTER = np.array([(250, 250, 245), (158, 202, 225), (49, 130, 189), (8, 48, 107)], np.float64)
_PALE = (225, 225, 225)


@dataclass(frozen=True)
class _Columns:
    """A group of columns of the damage map; arrays are ``(set, column)``, infinite damage is NaN.

    ``tested``: whether there are intervals. ``apart``: whether each column has its own scale.
    """

    names: Sequence[str]
    damage: NDArray[np.float64]
    beyond_zero: NDArray[np.bool]
    tested: bool
    apart: bool = False

    def of_sets(self, places: list[int]) -> _Columns:
        return replace(self, damage=self.damage[places], beyond_zero=self.beyond_zero[places])

    def of_columns(self, places: range) -> _Columns:
        return replace(
            self,
            names=[self.names[place] for place in places],
            damage=self.damage[:, list(places)],
            beyond_zero=self.beyond_zero[:, list(places)],
        )


def damage_image(report: KnockoutReport, title: str) -> NDArray[np.uint8]:
    """Picture ``(height, width, 3)``, RGB: damage by each set (row) to each measure (column).

    Columns are the accuracy, that of each concept if there are several, that of each class, and
    that of the labels of each step, or of every n-th if there are more than 100; without labels,
    the metrics, each with its own scale. Cells run from white (0) to dark red (the largest absolute
    damage), or dark blue (better); stripes: no samples; a dot: the 95 % interval excludes 0. Only
    sets that change a measure are drawn, at most the 64 most damaging. If no interval excludes 0, a
    sentence names the largest damage instead. Up to 200 columns the picture is 350 pixels wide,
    which TensorBoard shows unscaled.
    """
    groups = _columns(report)
    if not groups or not report.sets:
        return lines_of_text(title, "no measure, or no set knocked out")
    changing = np.any([(np.nan_to_num(part.damage) != 0).any(1) for part in groups], axis=0)
    telling = any(group.beyond_zero.any() or not group.tested for group in groups)
    if not telling or not changing.any():
        return lines_of_text(title, _nothing(report, groups))
    shown = _worst(groups[0].damage[:, 0], changing)
    sets = [report.sets[place] for place in shown]
    groups = [group.of_sets(shown) for group in groups]
    scales, legend = _scales(groups)
    number = sum(len(group.names) for group in groups)
    space = LEFT + PANEL_WIDTH - _NAMES - _BETWEEN * (len(groups) - 1)
    cell_width = max(1, min(24, (space - _LONE_COLUMN) // number))
    widths = [max(cell_width, _LONE_COLUMN if len(g.names) == 1 else 0) for g in groups]
    lefts = _starts([len(g.names) * w for g, w in zip(groups, widths, strict=True)], _NAMES)
    blocks = _blocks(sets)
    cell_height = max(_DOTTED_CELL, min(14, _ROWS_HEIGHT // len(sets)))
    tops = _starts([(last - first) * cell_height for first, last in blocks], _TOP)

    right = lefts[-1] + len(groups[-1].names) * widths[-1]
    bottom = tops[-1] + (blocks[-1][1] - blocks[-1][0]) * cell_height
    hatched = any(np.isnan(group.damage).any() for group in groups)
    height = bottom + _HEADS + _GAP + (2 + hatched + len(legend)) * LINE + 6
    image = Image.new("RGB", (max(right, LEFT + PANEL_WIDTH) + RIGHT, height), "white")
    draw = ImageDraw.Draw(image)
    draw_line(draw, 4, 3, title)
    some = ""
    if len(sets) < len(report.sets):
        kind = "worst" if len(sets) < changing.sum() else "those that change it"
        some = f"; {len(sets)} of {len(report.sets)} sets, {kind}"
    layer = f"{report.layers[0]}: " if len(report.layers) == 1 else ""
    of = f" of {report.layers[0]}" if layer else ""
    unit = "" if groups[0].apart else ", fraction of 1"
    draw_line(draw, 4, 20, f"damage{of}{unit}{some}")

    labelled = -_APART
    for top, (first, last) in zip(tops, blocks, strict=True):
        for left, width, group, scale in zip(lefts, widths, groups, scales, strict=True):
            share, beyond = group.damage[first:last] / scale, group.beyond_zero[first:last]
            _paste(image, share, beyond, left, top, width, cell_height)
        for row, some_set in enumerate(sets[first:last]):
            y = top + row * cell_height + cell_height // 2
            if y - labelled >= _APART:
                name = shortened(some_set.name.removeprefix(layer), _NAMES - 8)
                draw.text((_NAMES - 4, y), name, INK, FONT, anchor="rm")
                labelled = y
    labelled = -_APART
    for left, width, group in zip(lefts, widths, groups, strict=True):
        for place, name in enumerate(group.names):
            x = left + place * width + width // 2
            if x - labelled >= _APART:
                _draw_upright(image, name, x, bottom + 4)
                labelled = x

    top = bottom + _HEADS + _GAP
    shares = [group.damage / scale for group, scale in zip(groups, scales, strict=True)]
    lowest = min(float(np.nanmin(share, initial=0)) for share in shares)
    largest = 1.0 if legend else float(scales[0][0])
    found = sum(int(group.beyond_zero.sum()) for group in groups)
    _draw_scale(image, draw, top, lowest * largest, largest)
    dotted, missing = max(widths) >= _DOTTED_CELL, "no samples" if hatched else ""
    _draw_key(image, draw, top, dotted, f"{found} of {number * len(sets)}", missing)
    for place, line in enumerate(legend):
        draw_line(draw, 4, top + (2 + hatched + place) * LINE, line)
    return np.asarray(image)


def step_damage_image(
    report: KnockoutReport, layer: str, measure: str, title: str
) -> NDArray[np.uint8]:
    """Picture ``(height, width, 3)``, RGB, of the damage by single units at single steps.

    Rows are units, columns are steps, colours are those of ``damage_image``; stripes: not run. Up
    to 300 steps the picture is 350 pixels wide.
    """
    found = report.damage_of(measure)
    cells = report.single_steps(layer)
    if not cells:
        raise ValueError(
            f"layer: no unit of {layer!r} was knocked out at a single step; "
            f"knocked out were units of: {', '.join(map(repr, report.layers)) or 'none'}"
        )
    units = sorted({unit for unit, _ in cells})
    steps = sorted({step for _, step in cells}, key=lambda step: (step < 0, step))
    damage = np.full((len(units), len(steps)), np.nan)
    beyond = np.zeros(damage.shape, dtype=bool)
    for (unit, step), place in cells.items():
        at = units.index(unit), steps.index(step)
        damage[at], beyond[at] = found.damage[place], found.beyond_zero[place]
    damage = _finite(damage)
    fraction = "" if measure in report.metrics else ", fraction of 1"
    largest = _largest(damage)
    cell_width = max(1, min(24, PANEL_WIDTH // len(steps)))
    cell_height = max(1, min(14, _ROWS_HEIGHT // len(units)))
    bottom = _TOP + len(units) * cell_height
    width = LEFT + max(len(steps) * cell_width, PANEL_WIDTH) + RIGHT
    top = bottom + 20
    image = Image.new("RGB", (width, top + 3 * LINE + 6), "white")
    draw = ImageDraw.Draw(image)
    draw_line(draw, 4, 3, title)
    draw_line(draw, 4, 20, f"unit: damage to {measure}{fraction}")
    _paste(image, damage / largest, beyond, LEFT, _TOP, cell_width, cell_height)
    for place in ticks(len(units), len(units) * cell_height, _APART):
        y = _TOP + place * cell_height + cell_height // 2
        draw.text((LEFT - 5, y), str(units[place]), INK, FONT, anchor="rm")
    for place in ticks(len(steps), len(steps) * cell_width, 26):
        x = LEFT + place * cell_width + cell_width // 2
        draw.text((x, bottom + 8), str(steps[place]), INK, FONT, anchor="mm")
    draw.text((4, bottom + 2), "step", INK, FONT)
    _draw_scale(image, draw, top, float(np.nanmin(damage, initial=0)), largest)
    dotted = min(cell_width, cell_height) >= _DOTTED_CELL
    hatched = "not measured" if np.isnan(damage).any() else ""
    _draw_key(image, draw, top, dotted, f"{beyond.sum()} of {len(cells)}", hatched)
    return np.asarray(image)


def _columns(report: KnockoutReport) -> list[_Columns]:
    groups = []
    if report.accuracy is not None:
        groups.append(_group(["accuracy"], [report.accuracy]))
    if report.concept_accuracy is not None and len(report.concepts) > 1:
        groups.append(_group(report.concepts, [report.concept_accuracy]))
    if report.class_accuracy is not None and len(report.classes):
        names = [f"class {label}" for label in report.classes]
        groups.append(_group(names, [report.class_accuracy]))
    if report.step_accuracy is not None:
        steps = len(report.step_samples)
        shown = range(0, steps, -(-steps // _MOST_STEPS))
        of_steps = _group([f"step {step}" for step in range(steps)], [report.step_accuracy])
        groups.append(of_steps.of_columns(shown))
    if not groups and report.metrics:
        groups.append(_group(list(report.metrics), list(report.metrics.values()), apart=True))
    return groups


def _group(names: Sequence[str], measures: Sequence[Damage], *, apart: bool = False) -> _Columns:
    """Columns of measures ``(set,)``, or of one ``(set, column)``."""
    damage = np.column_stack([found.damage for found in measures])
    beyond = np.column_stack([found.beyond_zero for found in measures])
    tested = all(np.isfinite(found.lower).any() for found in measures)
    return _Columns(names, _finite(damage), beyond, tested, apart)


def _finite(damage: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(np.isfinite(damage), damage, np.nan)


def _worst(damage: NDArray[np.float64], changing: NDArray[np.bool]) -> list[int]:
    """Indices of the changing sets, at most the ``_MOST_ROWS`` most damaging, in their order."""
    order = np.argsort(-np.nan_to_num(damage, nan=-np.inf), kind="stable")
    return sorted(order[changing[order]][:_MOST_ROWS].tolist())


def _nothing(report: KnockoutReport, groups: Sequence[_Columns]) -> str:
    """A sentence that no damage differs from 0, and which is the largest."""
    numbers = np.concatenate([group.damage for group in groups], axis=1)
    names = [name for group in groups for name in group.names]
    place, column = np.unravel_index(np.nanargmax(np.abs(np.nan_to_num(numbers))), numbers.shape)
    return (
        f"None of {len(report.sets)} knock-outs does damage that differs from 0 (95 % intervals). "
        f"The largest: {numbers[place, column]:.3g} to {names[column]} by "
        f"{report.sets[place].name}."
    )


def _blocks(sets: Sequence[KnockoutSet]) -> list[tuple[int, int]]:
    """First and last row, exclusive, of sets drawn together: by group, or concept, and layer."""
    keys = [
        (some.concept, some.layer) if some.group.startswith("concept") else (some.group, some.layer)
        for some in sets
    ]
    starts = [i for i in range(len(keys)) if i == 0 or keys[i] != keys[i - 1]]
    return list(pairwise([*starts, len(keys)]))


def _scales(groups: Sequence[_Columns]) -> tuple[list[NDArray[np.float64]], list[str]]:
    """The damage drawn darkest, ``(column,)`` for each group, and lines for the legend."""
    if groups[0].apart:
        scale = [_largest(column) for column in groups[0].damage.T]
        named = zip(scale, groups[0].names, strict=True)
        return [np.array(scale)], [
            f"1 is a damage of {value:.3g} in {name}" for value, name in named
        ]
    largest = _largest(np.concatenate([group.damage for group in groups], axis=1))
    return [np.full(len(group.names), largest) for group in groups], []


def _largest(damage: NDArray[np.float64]) -> float:
    """Largest absolute damage; 1 if there is none."""
    return float(np.nanmax(np.abs(damage), initial=0)) or 1.0


def _starts(lengths: Sequence[int], first: int) -> list[int]:
    """Pixel at which each group of cells begins."""
    return [first + sum(lengths[:place]) + place * _BETWEEN for place in range(len(lengths))]


def _colours(share: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Colours of damage as a fraction of the largest, from -1 to 1; NaN is pale grey."""
    colours = ramp(_WORSE, np.nan_to_num(share))
    colours[share < 0] = ramp(_BETTER, -share[share < 0])
    colours[np.isnan(share)] = _PALE
    return colours


def _paste(
    image: Image.Image,
    share: NDArray[np.float64],
    beyond_zero: NDArray[np.bool],
    left: int,
    top: int,
    cell_width: int,
    cell_height: int,
) -> None:
    """Draw cells ``(row, column)`` with their stripes and dots."""
    pixels = in_pixels(_colours(share), cell_width, cell_height)
    pixels[striped(in_pixels(np.isnan(share), cell_width, cell_height))] = GREY
    if min(cell_width, cell_height) >= _DOTTED_CELL:
        size = 1 if min(cell_width, cell_height) < 6 else 2
        for row, column in np.argwhere(beyond_zero):
            y = row * cell_height + (cell_height - size) // 2
            x = column * cell_width + (cell_width - size) // 2
            dark = abs(share[row, column]) > 0.5
            pixels[y : y + size, x : x + size] = 255 if dark else 0
    image.paste(Image.fromarray(pixels), (left, top))


def _draw_upright(image: Image.Image, text: str, x: int, top: int) -> None:
    """Draw text that reads upwards and ends below ``top``, centred at ``x``."""
    text = shortened(text, _HEADS - 6)
    strip = Image.new("RGB", (_HEADS - 4, 13), "white")
    ImageDraw.Draw(strip).text((_HEADS - 5, 6), text, INK, FONT, anchor="rm")
    image.paste(strip.rotate(90, expand=True), (x - 6, top))


def _draw_scale(
    image: Image.Image, draw: ImageDraw.ImageDraw, top: int, lowest: float, largest: float
) -> None:
    """Draw the colours from the lowest damage, or 0, to the largest, with numbers."""
    x = 4
    draw.text((x, top), "damage", INK, FONT)
    x += 52
    for first, last in ((lowest, 0.0), (0.0, largest)):
        if first == last:
            continue
        number = f"{first:.2g}"
        draw.text((x, top), number, INK, FONT)
        x += round(FONT.getlength(number)) + 4
        length = max(4, round(_SCALE_WIDTH * (last - first) / (largest - lowest)))
        shares = np.linspace(first, last, length) / largest
        image.paste(Image.fromarray(_colours(shares)[None].repeat(10, 0)), (x, top + 2))
        x += length + 4
    draw.text((x, top), f"{largest:.2g}", INK, FONT)


def _draw_key(
    image: Image.Image,
    draw: ImageDraw.ImageDraw,
    top: int,
    dotted: bool,
    beyond: str,
    hatched: str,
) -> None:
    """Explain dots and stripes below the scale that begins at ``top``; no stripes if empty."""
    if dotted:
        draw.rectangle((10, top + LINE + 6, 11, top + LINE + 7), 0)
    draw.text((24, top + LINE), f"interval excludes 0: {beyond}", INK, FONT)
    if hatched:
        y = top + 2 * LINE
        _paste(image, np.full((1, 1), np.nan), np.zeros((1, 1), dtype=bool), 4, y + 2, 14, 10)
        draw.text((24, y), hatched, INK, FONT)
