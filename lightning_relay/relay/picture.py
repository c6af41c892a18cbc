"""Pictures of a relay report: shares, order, number of units needed, transfer, all layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from PIL import Image, ImageDraw

from lightning_relay.latent.picture import latent_image
from lightning_relay.relay.shown import (
    epoch_of,
    latent_of,
    most_bits,
    share_of,
    title_of,
    transfer_of,
)
from lightning_relay.relay.summary import lags_in_words
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
    draw_axis,
    draw_line,
    in_pixels,
    ramp,
    striped,
    ticks,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from lightning_relay.relay.report import ConceptRelay, LayerRelay, RelayReport

_TOP = 36
_BARS_HEIGHT = 70
_SEQUENCES_HEIGHT = 30
_GRID_HEIGHT = 300
_CURVES_HEIGHT = 180
_SCALE_HEIGHT = 50
_GAP = 24

_BAR, _UNATTRIBUTED = (66, 128, 194), (188, 214, 238)
_EARLY, _EARLY_UNATTRIBUTED = (150, 150, 150), (214, 214, 214)
_LIMIT = (200, 80, 20)
_RAMP = np.array([(250, 250, 245), (158, 202, 225), (49, 130, 189), (8, 48, 107)], dtype=np.float64)
_NEGATIVE = np.array([(250, 250, 245), (230, 120, 40)], dtype=np.float64)

_LEFT_UNITS = np.array([(250, 250, 245), (253, 174, 97), (166, 54, 3)], dtype=np.float64)
_MISSING = (205, 205, 205)

_STRIPED_CELL = 4
"""Unresolved cells of at least this many pixels are striped; smaller ones are all grey."""

Colour = tuple[int, int, int]


def share_image(report: RelayReport, layer: str, concept: str) -> NDArray[np.uint8]:
    """Relay shares of a layer in bits by step and unit, RGB ``(height, width, 3)``.

    Bars are what all units relay at each step, hollow where there are too few sequences; cells
    below are the shares. Both end at H(X_in), so pictures of different epochs can be compared. Up
    to 300 steps it is 350 pixels wide.
    """
    results = report[layer]
    relay = results[concept]
    share = share_of(relay)
    most = most_bits(report, [relay], concept)
    differ = bool((results.samples != results.samples[0]).any())
    top = _TOP + _BARS_HEIGHT + _GAP + differ * (_SEQUENCES_HEIGHT + _GAP)
    steps, units = share.shape
    grid = _Grid.of(steps, units, top)
    legend = [("bar", "in units' shares"), ("unattributed", "in no unit's share")]
    legend += _marks(results, relay)
    covered = report.covered(layer, concept)
    if not covered.all():
        legend.append(("hollow", "too few sequences"))
    canvas = _Canvas.of(
        title_of(report, layer, concept), grid.right, grid.bottom + _SCALE_HEIGHT, legend
    )
    canvas.draw.text((4, 18), "relayed by all units, bits", INK, FONT)
    _draw_bars(canvas.draw, results, relay, most, grid.cell_width, covered)
    if differ:
        _draw_sequences(canvas.draw, results, grid, _TOP + _BARS_HEIGHT + _GAP)
    _draw_grid(canvas, grid, _of_shares(share, most), results.time_steps)
    canvas.draw.text((4, top - 15), "unit: relay share, bits", INK, FONT)
    _draw_scale(canvas, grid, most)
    return canvas.pixels()


def order_image(report: RelayReport, layer: str, concept: str) -> NDArray[np.uint8]:
    """Place of each unit in the greedy order by step and unit, RGB ``(height, width, 3)``.

    Grey stripes lie over places for which there are too few sequences.
    """
    results = report[layer]
    relay = results[concept]
    steps, units = relay.places.shape
    grid = _Grid.of(steps, units, _TOP + 4)
    places = relay.places.size
    legend = [
        ("unresolved", f"too few sequences: {(~relay.resolved).sum()} of {places}"),
        ("tied", f"tied, one shade: {relay.ambiguous.sum()} of {places}"),
    ]
    canvas = _Canvas.of(
        title_of(report, layer, concept), grid.right, grid.bottom + _SCALE_HEIGHT, legend, columns=1
    )
    canvas.draw.text((4, 18), f"unit: place in the {report.measure.direction} order", INK, FONT)
    colours = ramp(_RAMP, relay.places / max(1, units - 1))
    _draw_grid(canvas, grid, colours, results.time_steps, hidden=~relay.resolved)
    y = grid.bottom + LINE + 8
    canvas.draw.text((LEFT, y), "least important", INK, FONT)
    canvas.paste(ramp(_RAMP, np.linspace(0, 1, 60))[None].repeat(10, 0), (LEFT + 88, y + 2))
    canvas.draw.text((LEFT + 154, y), "most important", INK, FONT)
    return canvas.pixels()


def units_image(report: RelayReport, layer: str, concept: str) -> NDArray[np.uint8]:
    """Bits at the last step against the number of units, RGB ``(height, 350, 3)``.

    One line is what a growing set tells; in a shrinking order another is what the set R relays.
    """
    results = report[layer]
    relay = results[concept]
    place = relay.place()
    told, left = relay.told[place], relay.information[place, ::-1]
    units = len(told) - 1
    shrinks = report.measure.direction == "shrink"
    legend = [("told", "told by a growing set, most telling first")]
    legend += [("left", "relayed by the units that leave last")] * shrinks
    needed = len(relay.smallest_set())
    legend.append(("enough", f"90 % of what all units tell: {needed} unit{'s' * (needed != 1)}"))
    bottom = _TOP + _CURVES_HEIGHT
    canvas = _Canvas.of(
        title_of(report, layer, concept),
        LEFT + PANEL_WIDTH,
        bottom + 2 * LINE + 4,
        legend,
        columns=1,
    )
    step = results.time_steps[place]
    canvas.draw.text((4, 18), f"bits, {'last step' if step == -1 else f'step {step}'}", INK, FONT)
    ends = [float(end(bits)) for bits in (told, left)[: 1 + shrinks] for end in (np.max, np.min)]
    y_of = _axis(
        canvas.draw,
        [most_bits(report, [relay], concept), *ends],
        (_TOP, _CURVES_HEIGHT),
        LEFT + PANEL_WIDTH,
    )

    def x_of(number: int) -> int:
        return LEFT + number * (PANEL_WIDTH - 1) // units

    enough = y_of(0.9 * float(told[-1]))
    for x in range(LEFT, LEFT + PANEL_WIDTH, 5):
        canvas.draw.point([(x, enough), (x + 1, enough)], MARK)
    # Resolved are the first units of the whole growing order, which goes on where telling is -1.
    sure = int(relay.telling_resolved[place].sum())
    lines = [(told, [k < sure for k in range(units)], "told")]
    if shrinks:
        last_first = relay.units[place, ::-1]
        lines.append((left, list(relay.resolved[place, last_first]), "left"))
    for values, resolved, name in reversed(lines):
        for k in range(units):
            span = (x_of(k), y_of(float(values[k])), x_of(k + 1), y_of(float(values[k + 1])))
            canvas.draw.line(span, _COLOURS[name] if resolved[k] else _PALE[name], 2)
    for k in ticks(units + 1, PANEL_WIDTH, 26):
        canvas.draw.text((x_of(k), bottom + 8), str(k), INK, FONT, anchor="mm")
    canvas.draw.text((LEFT, bottom + LINE), "number of units", INK, FONT)
    return canvas.pixels()


def transfer_image(report: RelayReport, layer: str, concept: str) -> NDArray[np.uint8]:
    """Relay transfer by the step whose units are read and the step of reading, RGB.

    The first step is at the lower left. Up to 300 steps the picture is 350 pixels wide.
    """
    results = report[layer]
    relay = results[concept]
    transfer = transfer_of(report, relay)
    steps = len(transfer)
    size = max(1, min(24, PANEL_WIDTH // steps))
    grid = _Grid(steps, steps, _TOP + 4, size, size)
    missing = np.isnan(transfer)
    legend = [("", lags_in_words(relay))]
    if missing.any():
        legend.append(("missing", f"cannot be measured: {missing.sum()} of {missing.size}"))
    if not results.inputs_ended.all():
        legend.append(("ended", f"{_where_early(results.inputs_ended)}: not all input seen"))
    title = title_of(report, layer, concept)
    canvas = _Canvas.of(title, grid.right, grid.bottom + _SCALE_HEIGHT, legend, columns=1)
    canvas.draw.text((4, 18), "transfer from the units of a step (up) to a step (right)", INK, FONT)
    colours = _of_transfer(np.nan_to_num(transfer))
    colours[missing] = _MISSING
    times = results.time_steps
    _draw_grid(canvas, grid, colours[::-1].swapaxes(0, 1), times, rows=times[::-1])
    for place in np.flatnonzero(np.diff(results.inputs_ended)) + 1:
        x, y = LEFT + int(place) * size, grid.bottom - int(place) * size
        canvas.draw.line((x, grid.top, x, grid.bottom), _LIMIT)
        canvas.draw.line((LEFT, y, LEFT + steps * size, y), _LIMIT)
    y, width = grid.bottom + LINE + 8, 120
    canvas.draw.text((4, y), "-1 or less", INK, FONT)
    canvas.paste(_of_transfer(np.linspace(-1, 1, width))[None].repeat(10, 0), (LEFT + 24, y + 2))
    canvas.draw.text((LEFT + 30 + width, y), "1 or more: as those that tell it", INK, FONT)
    middle = LEFT + 24 + width // 2
    canvas.draw.text((middle, y + 19), "0: as random units", INK, FONT, anchor="mm")
    return canvas.pixels()


def _where_early(ended: NDArray[np.bool]) -> str:
    """Where the steps without all input are, seen from the lines between them and the others."""
    if not ended.any():
        return "everywhere"
    names = {(False, True): "left and below", (True, False): "right and above"}
    ends = bool(ended[0]), bool(ended[-1])
    return names.get(ends, "between the lines" if all(ends) else "outside the lines")


def layers_image(report: RelayReport, _: str, concept: str) -> NDArray[np.uint8]:
    """Bits that all units of each layer relay, by layer and step, RGB ``(height, width, 3)``.

    A layer is grey at steps that it does not have.
    """
    steps = sorted({int(step) for layer in report.layers.values() for step in layer.time_steps})
    steps = [step for step in steps if step >= 0] + [step for step in steps if step < 0]
    bits = np.full((len(steps), len(report.layers)), np.nan)
    for row, layer in enumerate(report.layers.values()):
        columns = [steps.index(int(step)) for step in layer.time_steps]
        bits[columns, row] = layer[concept].information[:, 0]
    relays = [layer[concept] for layer in report.layers.values()]
    most = most_bits(report, relays, concept)
    grid = _Grid.of(len(steps), len(report.layers), _TOP + 4, tall=20)
    names = list(report.layers)
    title = f"{concept}{epoch_of(report)}"
    canvas = _Canvas.of(title, grid.right, grid.bottom + _SCALE_HEIGHT + len(names) * LINE, [])
    canvas.draw.text((4, 18), "layer: relayed by all its units, bits", INK, FONT)
    colours = _of_shares(np.nan_to_num(bits), most)
    colours[np.isnan(bits)] = 225
    _draw_grid(canvas, grid, colours, np.array(steps))
    _draw_scale(canvas, grid, most)
    for row, name in enumerate(names):
        y = grid.bottom + _SCALE_HEIGHT + row * LINE
        draw_line(canvas.draw, LEFT, y, f"{row}: {name}")
    return canvas.pixels()


def structure_image(report: RelayReport, layer: str, _: str) -> NDArray[np.uint8]:
    """RGB picture ``(height, 350, 3)`` of the latent structure; see ``latent_image``."""
    return latent_image(latent_of(report, layer), f"{layer}: states{epoch_of(report)}")


Picture = Literal[
    "relay_share", "greedy_order", "units_needed", "relay_transfer", "latent", "layers"
]
"""Name of a picture, the last part of its tag."""

PICTURES: Mapping[str, Callable[[RelayReport, str, str], NDArray[np.uint8]]] = {
    "relay_share": share_image,
    "greedy_order": order_image,
    "units_needed": units_image,
    "relay_transfer": transfer_image,
    "latent": structure_image,
    "layers": layers_image,
}


@dataclass(frozen=True)
class _Grid:
    """Place and size of the cells of steps and units, in pixels."""

    steps: int
    units: int
    top: int
    cell_width: int
    cell_height: int

    @classmethod
    def of(cls, steps: int, units: int, top: int, tall: int = 14) -> _Grid:
        width = max(1, min(24, PANEL_WIDTH // steps))
        return cls(steps, units, top, width, max(1, min(tall, _GRID_HEIGHT // units)))

    @property
    def right(self) -> int:
        return LEFT + max(self.steps * self.cell_width, PANEL_WIDTH)

    @property
    def bottom(self) -> int:
        return self.top + self.units * self.cell_height


@dataclass(frozen=True)
class _Canvas:
    """An image with a title and a legend."""

    image: Image.Image
    draw: ImageDraw.ImageDraw

    @classmethod
    def of(
        cls, title: str, right: int, bottom: int, legend: list[tuple[str, str]], columns: int = 2
    ) -> _Canvas:
        height = bottom + -(-len(legend) // columns) * LINE + 6
        image = Image.new("RGB", (right + RIGHT, height), "white")
        canvas = cls(image, ImageDraw.Draw(image))
        draw_line(canvas.draw, 4, 3, title)
        for place, (symbol, text) in enumerate(legend):
            x, y = (4, HALF)[place % columns], bottom + place // columns * LINE
            _draw_symbol(canvas, symbol, x, y)
            canvas.draw.text((x + 20 if symbol else x, y), text, INK, FONT)
        return canvas

    def paste(self, pixels: NDArray[np.uint8], corner: tuple[int, int]) -> None:
        self.image.paste(Image.fromarray(pixels), corner)

    def pixels(self) -> NDArray[np.uint8]:
        return np.asarray(self.image)


def _marks(layer: LayerRelay, relay: ConceptRelay) -> list[tuple[str, str]]:
    """Symbols of the bars and their texts in the legend."""
    marks = [("limit", "I(in; out)"), ("corrected", "corrected")]
    if relay.chance_level is not None:
        marks.append(("chance", "chance level of I(in; out)"))
    if relay.lower is not None:
        marks.append(("interval", "95 % interval"))
    if not bool(layer.inputs_ended.all()):
        marks.append(("early", "not all input seen"))
    return marks


def _axis(
    draw: ImageDraw.ImageDraw, values: list[float], panel: tuple[int, int], right: int
) -> Callable[[float], int]:
    """Draw a vertical axis that holds the values; gives the function from bits to pixels."""
    top, height = panel
    highest, lowest = max(1e-3, *values), min(0.0, *values)

    def y_of(bits: float) -> int:
        return round(top + height - (bits - lowest) / (highest - lowest) * (height - 6))

    draw_axis(draw, sorted({highest, 0.0, lowest}, reverse=True), y_of, right)
    return y_of


def _draw_bars(
    draw: ImageDraw.ImageDraw,
    layer: LayerRelay,
    relay: ConceptRelay,
    most: float,
    width: int,
    covered: NDArray[np.bool],
) -> None:
    """Bars of what all units relay, hollow where they are not covered."""
    drawn = [relay.information, relay.corrected, relay.lower, relay.upper, relay.chance_level]
    parts = [part[:, 0] for part in drawn if part is not None] + [relay.mutual_information]
    ends = [float(end(part)) for part in parts for end in (np.max, np.min)]
    right = LEFT + len(relay.information) * width
    y_of = _axis(draw, [most, *ends], (_TOP, _BARS_HEIGHT), right)
    gap = 1 if width > 2 else 0
    for step, ended in enumerate(layer.inputs_ended):
        x = LEFT + step * width
        last = x + width - 1 - gap
        middle = (x + last) // 2
        whole = float(relay.information[step, 0])
        shares = whole if relay.share is None else min(float(relay.share[step].sum()), whole)
        for bits, colour in (
            (whole, _UNATTRIBUTED if ended else _EARLY_UNATTRIBUTED),
            (shares, _BAR if ended else _EARLY),
        ):
            span = sorted((y_of(0.0), y_of(bits)))
            draw.rectangle((x, span[0], last, span[1]), colour)
        if not covered[step] and width > 4 and span[1] > span[0] + 1:
            draw.rectangle((x + 1, span[0] + 1, last - 1, span[1]), "white")
        if relay.chance_level is not None:
            y = y_of(float(relay.chance_level[step, 0]))
            draw.point([(at, y) for at in range(x, x + width) if at % 5 < 3], _LIMIT)
        y = y_of(float(relay.mutual_information[step]))
        draw.line((x, y, x + width - 1, y), _LIMIT)
        if relay.lower is not None and relay.upper is not None:
            span = [y_of(float(end[step, 0])) for end in (relay.upper, relay.lower)]
            draw.line((middle, span[0], middle, span[1]), MARK)
        y = y_of(float(relay.corrected[step, 0]))
        draw.line((x + width // 4, y, last - width // 4, y), MARK)


def _draw_sequences(draw: ImageDraw.ImageDraw, layer: LayerRelay, grid: _Grid, top: int) -> None:
    """Bars for the number of sequences at each step."""
    most = int(layer.samples.max())
    draw.text((4, top - 17), f"sequences, up to {most}", INK, FONT)
    bottom = top + _SEQUENCES_HEIGHT
    for step, number in enumerate(layer.samples):
        x = LEFT + step * grid.cell_width
        y = bottom - round(int(number) / most * _SEQUENCES_HEIGHT)
        draw.rectangle((x, min(y, bottom - 1), x + max(0, grid.cell_width - 2), bottom), GREY)


def _draw_grid(
    canvas: _Canvas,
    grid: _Grid,
    colours: NDArray[np.uint8],
    time_steps: NDArray[np.int64],
    *,
    hidden: NDArray[np.bool] | None = None,
    rows: NDArray[np.int64] | None = None,
) -> None:
    """Cells of colours ``(step, unit, 3)``, labelled with steps, and with units or ``rows``."""
    pixels = in_pixels(colours.swapaxes(0, 1), grid.cell_width, grid.cell_height)
    if hidden is not None:
        pixels = _hidden(pixels, in_pixels(hidden.T, grid.cell_width, grid.cell_height), grid)
    canvas.paste(pixels, (LEFT, grid.top))
    for unit in ticks(grid.units, grid.units * grid.cell_height, 12):
        y = grid.top + unit * grid.cell_height + grid.cell_height // 2
        name = unit if rows is None else rows[unit]
        canvas.draw.text((LEFT - 5, y), str(name), INK, FONT, anchor="rm")
    for step in _labelled(time_steps, ticks(grid.steps, grid.steps * grid.cell_width, 26)):
        x = LEFT + step * grid.cell_width + grid.cell_width // 2
        canvas.draw.text((x, grid.bottom + 8), str(time_steps[step]), INK, FONT, anchor="mm")
    canvas.draw.text((4, grid.bottom + 2), "step", INK, FONT)


def _labelled(time_steps: NDArray[np.int64], wanted: range) -> list[int]:
    """Columns to label: surely the last one if it counts from the end, unlike the one before."""
    last = len(time_steps) - 1
    if last < 1 or time_steps[last] >= 0 or time_steps[last - 1] < 0:
        return list(wanted)
    return [step for step in wanted if step <= last - wanted.step] + [last]


def _hidden(pixels: NDArray[np.uint8], hidden: NDArray[np.bool], grid: _Grid) -> NDArray[np.uint8]:
    """Pixels with grey stripes over hidden cells, or small hidden cells all grey."""
    large = min(grid.cell_width, grid.cell_height) >= _STRIPED_CELL
    pixels = pixels.copy()
    pixels[striped(hidden) if large else hidden] = GREY
    return pixels


def _draw_scale(canvas: _Canvas, grid: _Grid, most: float) -> None:
    """A colour bar with labels below the steps."""
    y = grid.bottom + LINE + 8
    width = 120
    canvas.draw.text((LEFT - 4, y), "bits 0", INK, FONT)
    scale = _of_shares(np.linspace(0, most, width), most)
    canvas.paste(scale[None].repeat(10, 0), (LEFT + 30, y + 2))
    canvas.draw.text((LEFT + 36 + width, y), f"{most:.2f}", INK, FONT)
    for part in (0.1, 0.5):
        x = LEFT + 30 + round(part * width)
        canvas.draw.line((x, y + 9, x, y + 14), MARK)
        canvas.draw.text((x, y + 19), f"{part * most:.2g}", INK, FONT, anchor="mm")


def _draw_symbol(canvas: _Canvas, symbol: str, x: int, y: int) -> None:
    """Symbol of a legend, 14 pixels wide, beside a text at ``y``."""
    draw = canvas.draw
    if symbol == "unresolved":
        cell = np.broadcast_to(_RAMP[0].astype(np.uint8), (10, 14, 3))
        whole = np.ones((10, 14), dtype=bool)
        canvas.paste(_hidden(cell, whole, _Grid(1, 1, 0, 14, 10)), (x, y + 2))
    elif symbol == "ended":
        draw.line((x + 7, y, x + 7, y + 13), _LIMIT)
        draw.line((x, y + 7, x + 14, y + 7), _LIMIT)
    elif symbol == "interval":
        draw.line((x + 7, y + 2, x + 7, y + 11), MARK)
    elif symbol in ("chance", "enough"):
        colour = _COLOURS[symbol]
        draw.point([(at, y + 6) for at in range(x, x + 14) if at % 5 < 3], colour)
    elif symbol == "hollow":
        draw.rectangle((x + 2, y + 2, x + 12, y + 11), "white", _BAR)
    elif symbol in ("limit", "corrected", "told", "left"):
        draw.line((x, y + 6, x + 14, y + 6), _COLOURS[symbol], 1 + (symbol in _PALE))
    elif symbol:
        draw.rectangle((x + 2, y + 2, x + 12, y + 11), _COLOURS[symbol])


_COLOURS: dict[str, Colour] = {
    "bar": _BAR,
    "unattributed": _UNATTRIBUTED,
    "early": _EARLY,
    "limit": _LIMIT,
    "chance": _LIMIT,
    "corrected": MARK,
    "enough": MARK,
    "told": _BAR,
    "left": (224, 120, 40),
    "tied": (158, 202, 225),
    "missing": _MISSING,
}
_PALE: dict[str, Colour] = {"told": _UNATTRIBUTED, "left": (247, 214, 184)}


def _of_transfer(transfer: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Colours of transfer, ``(…, 3)``: blue above 0, orange below, the same beyond -1 and 1."""
    colours = ramp(_RAMP, transfer)
    colours[transfer < 0] = ramp(_LEFT_UNITS, -transfer[transfer < 0])
    return colours


def _of_shares(bits: NDArray[np.float64], most: float) -> NDArray[np.uint8]:
    """Colours of the square root of bits, ``(…, 3)``; orange below 0."""
    position = np.sqrt(np.abs(bits) / most).clip(0, 1)
    colours = ramp(_RAMP, position)
    colours[bits < 0] = ramp(_NEGATIVE, position[bits < 0])
    return colours
