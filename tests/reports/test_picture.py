"""Pictures show what figures have, at the place and in the colour of its value."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from lightning_relay.ablation.figures import FIGURES as OF_KNOCKOUTS
from lightning_relay.relay.figures import FIGURES
from lightning_relay.reports.axes import axes_of
from lightning_relay.reports.canvas import drawable, length, rgba, shortened, wrapped
from lightning_relay.reports.figure import axis, bits_scale, error_bars, figure_of, line, steps_axis
from lightning_relay.reports.picture import HEIGHT, WIDTH, picture_of
from tests.support.knockouts import prediction, random_sets, single_units, small_knockouts
from tests.support.reports import EVIDENCE, small_report

REPORT = small_report(**EVIDENCE)
KNOCKOUTS = small_knockouts(epoch=3)
PREDICTED = small_knockouts(random_sets(), predictions=(prediction(),))
STEPS = small_knockouts(single_units(5, steps=4), curves=False)
DAMAGED = dict.fromkeys(OF_KNOCKOUTS, KNOCKOUTS) | {
    "prediction": PREDICTED,
    "damage_share": PREDICTED,
    "step_damage": STEPS,
}
RED, GREEN = "#ff0000", "#00ff00"


def drawn(*traces: Any, **layout: Any) -> Any:
    """The large picture of traces."""
    axes = {"xaxis": axis("x"), "yaxis": axis("y"), **layout}
    return picture_of(figure_of("title", "words", list(traces), **axes), large=True)


def pixels_of(image: Any, colour: str) -> Any:
    """Columns and rows of all pixels of a colour."""
    rows, columns = np.nonzero((image == rgba(colour)[:3]).all(-1))
    return columns, rows


@pytest.mark.parametrize("name", sorted(set(FIGURES) - {"latent"}))
def test_every_figure_of_relays_is_drawn(name: Any) -> None:
    image = np.asarray(REPORT.picture(name, unit=2))
    assert image.shape == (2 * HEIGHT, 2 * WIDTH, 3)
    small = picture_of(FIGURES[name](REPORT, "rnn.l0", "joint", -1, None))
    assert small.shape == (HEIGHT, WIDTH, 3)
    assert len(np.unique(small.reshape(-1, 3), axis=0)) > 10


@pytest.mark.parametrize("name", OF_KNOCKOUTS)
def test_every_figure_of_knockouts_is_drawn(name: Any) -> None:
    options = {} if name in ("prediction", "deletion") else {"unit": 2}
    image = np.asarray(DAMAGED[name].picture(name, **options))
    assert image.shape == (2 * HEIGHT, 2 * WIDTH, 3)
    assert len(np.unique(image.reshape(-1, 3), axis=0)) > 10


def test_cells_have_the_colours_of_their_values_in_their_places() -> None:
    values = np.array([[0.0, 1.0, 2.0], [0.5, np.nan, 1.5]])
    scale = bits_scale(2.0)
    cells = {"type": "heatmap", "x": ["0", "1", "-1"], "z": values, "showscale": False, **scale}
    image = drawn(
        cells,
        xaxis=steps_axis(np.array([0, 1, -1])),
        yaxis=axis("unit", autorange="reversed", showgrid=False),
    )
    stops = [stop for stop, _ in scale["colorscale"]]
    ends = np.array([rgba(colour)[:3] for _, colour in scale["colorscale"]])
    places: dict[tuple[int, int], Any] = {}
    for at, value in np.ndenumerate(values):
        if np.isnan(value):
            continue
        part = (value - scale["zmin"]) / (scale["zmax"] - scale["zmin"])
        colour = ends[round(float(np.interp(part, stops, range(len(stops)))))]
        assert abs(colour - [np.interp(part, stops, own) for own in ends.T]).max() < 4
        rows, columns = np.nonzero((image == colour).all(-1))
        assert len(rows) > 5000, value  # one block
        assert (np.ptp(rows) + 1) * (np.ptp(columns) + 1) == len(rows)
        places[at] = columns.mean(), rows.mean()
    for (row, column), (x, y) in places.items():
        for (other_row, other_column), (other_x, other_y) in places.items():
            assert (x < other_x - 50) == (column < other_column)
            assert (y < other_y - 50) == (row < other_row)  # unit 0 is on top


def test_narrow_peaks_are_not_lost_among_many_cells() -> None:
    values = np.zeros((3000, 2000))
    values[1234, 777], values[2500, 10] = 2.0, -0.4
    cells = {"type": "heatmap", "x": np.arange(2000), "z": values, **bits_scale(2.0)}
    image = drawn({**cells, "showscale": False})
    dark, orange = "#08306b", (image[..., 0] > 240) & (image[..., 2] < 150)
    columns, rows = pixels_of(image, dark)
    assert len(columns) == 4  # a point
    assert orange.sum() == 4
    other_rows, other_columns = np.nonzero(orange)
    assert other_columns.mean() < columns.mean()
    assert other_rows.mean() < rows.mean()  # row 0 is at the bottom


def test_bars_are_stacked_to_their_values() -> None:
    def bar(values: list[float], fill: str, edge: str = "#000000") -> Any:
        marker = {"color": [fill] * len(values), "line": {"color": edge, "width": 1}}
        return {"type": "bar", "x": ["0", "1"], "y": np.array(values), "marker": marker, "name": ""}

    image = drawn(
        bar([1.0, 3.0], RED),
        bar([2.0, 0.5], GREEN),
        xaxis=steps_axis(np.arange(2)),
        yaxis=axis("bits", range=[0, 4]),
    )
    red, green = pixels_of(image, RED), pixels_of(image, GREEN)
    heights = {}
    for name, (columns, rows) in (("red", red), ("green", green)):
        plot = rows < 2 * HEIGHT - 80  # above the legend
        middle = (columns[plot].min() + columns[plot].max()) / 2
        for place, own in enumerate((columns < middle, columns > middle)):
            heights[name, place] = rows[plot & own].min(), rows[plot & own].max() + 1
    unit = (heights["red", 0][1] - heights["red", 0][0]) / 1.0
    for key, bits in {("red", 1): 3.0, ("green", 0): 2.0, ("green", 1): 0.5}.items():
        assert (heights[key][1] - heights[key][0]) == pytest.approx(bits * unit, abs=2)
    for place in (0, 1):
        assert heights["green", place][1] == pytest.approx(heights["red", place][0], abs=1)


@pytest.mark.parametrize("steps", [20, 60, 100, 300, 1000])
def test_hollow_bars_do_not_look_filled_however_many_there_are(steps: int) -> None:
    filled = steps // 2
    colours = [RED] * filled + ["rgba(0,0,0,0)"] * (steps - filled)
    bars = {
        "type": "bar",
        "x": [str(step) for step in range(steps)],
        "y": np.ones(steps),
        "marker": {"color": colours, "line": {"color": RED, "width": 1}},
        "name": "bits",
    }
    image = drawn(bars, xaxis=steps_axis(np.arange(steps)), yaxis=axis("bits", range=[0, 2]))
    columns, rows = pixels_of(image, RED)
    left, right, top = columns.min(), columns.max(), rows.min()
    red = (image == rgba(RED)[:3]).all(-1)
    inside = red[top + 10 : rows.max() - 10, left : right + 1]
    half = inside.shape[1] // 2
    margin = inside.shape[1] // 20
    assert inside[:, : half - margin].mean() > 0.7
    assert inside[:, half + margin :].mean() < 0.35
    ends = red[top : top + 2, left : right + 1].any(0)
    assert ends[half + margin :].mean() > 0.7  # hollow bars still show their value


def test_lines_have_gaps_and_marks_stand_at_their_values() -> None:
    x = np.arange(5.0)
    y = np.array([0.0, 1.0, np.nan, 1.0, 0.0])
    image = drawn(line(x, y, "line", RED), xaxis=axis("x", range=[0, 4]))
    columns, _ = pixels_of(image, RED)
    gap = np.diff(np.unique(columns)).max()
    width = np.ptp(columns)
    assert gap == pytest.approx(width / 2, rel=0.05)
    marks = {
        "type": "scatter",
        "mode": "markers",
        "x": np.array([1.0, 3.0]),
        "y": np.array([0.25, 0.75]),
        "error_y": error_bars(
            np.array([0.25, 0.75]), np.array([0.0, np.nan]), np.array([0.5, np.nan]), GREEN
        ),
        "marker": {"color": RED, "size": 10, "symbol": "circle"},
        "showlegend": False,
    }
    image = drawn(marks, xaxis=axis("x", range=[0, 4]), yaxis=axis("y", range=[0, 1]))
    columns, rows = pixels_of(image, RED)
    first = columns < columns.mean()
    apart = columns[~first].mean() - columns[first].mean()
    bars, ends = pixels_of(image, GREEN)
    assert bars.mean() == pytest.approx(columns[first].mean(), abs=1.5)  # the other has none
    assert np.ptp(ends) == pytest.approx(rows[first].mean() - rows[~first].mean(), abs=4)
    room = 2 * (WIDTH - 60)  # pixels without numbers, titles and edges
    assert apart == pytest.approx(room / 2, abs=1)


def test_the_words_do_not_touch_the_plot_and_nothing_runs_out_at_the_right() -> None:
    long = "encoder.block_of_many_recurrent_modules.lstm_with_a_long_name.l0_reverse"
    report = dataclasses.replace(REPORT, layers={long: REPORT["rnn.l0"]})
    images = [
        picture_of(draw(report, long, "joint", -1, None))
        for name, draw in FIGURES.items()
        if name != "latent"
    ]
    named = small_knockouts(single_units(3, layer=long), concepts=(long, "bit_0"))
    images += [
        picture_of(OF_KNOCKOUTS["damage"](named)),
        picture_of(OF_KNOCKOUTS["deletion"](named)),
    ]
    images += [picture_of(OF_KNOCKOUTS[name](own)) for name, own in DAMAGED.items()]
    for image in images:
        assert (image[:, WIDTH - 1] == 255).all()
        assert (image[:, 0] == 255).all()


@pytest.mark.parametrize(
    ("steps", "units", "inputs_end"), [(1, 1, None), (1, 5, None), (6, 1, 2), (2, 2, 0)]
)
def test_small_reports_are_drawn(steps: int, units: int, inputs_end: int | None) -> None:
    report = small_report(steps, units, inputs_end=inputs_end)
    for name in set(FIGURES) - {"latent"}:
        assert np.asarray(report.picture(name)).shape == (2 * HEIGHT, 2 * WIDTH, 3)
    limit = pixels_of(np.asarray(report.picture("relay_share")), "#c85014")
    assert (limit[1] < 2 * HEIGHT - 100).any()  # above the legend, also of a single step


def test_letters_that_the_font_lacks_are_written_in_others() -> None:
    assert drawable("R² of Größe – 50 × 2") == "R2 of Grosse - 50 x 2"
    assert drawable("声 1") == "? 1"
    assert wrapped("x" * 90, 100) == [shortened("x" * 90, 100)]
    assert length(shortened("x" * 3000, 100)) <= 100


def test_a_trace_of_an_unknown_type_is_refused() -> None:
    with pytest.raises(ValueError, match="a trace of type 'pie', which is not drawn"):
        drawn({"type": "pie", "x": np.zeros(1), "y": np.zeros(1)})


def test_axes_level_names_and_ticks() -> None:
    figure = figure_of(
        "title",
        "words",
        [line(np.array([0.0, 10.0]), np.array([0.0, 1.0]), "a", RED)],
        xaxis=axis("x", range=[0, 10]),
        yaxis=axis("y", range=[0, 1], scaleanchor="x"),
    )
    found = axes_of(figure, (0.0, 0.0, 200.0, 100.0))
    x, y = found["x"], found["y"]
    assert (x.low, x.high) == (0, 10)
    assert (y.low, y.high) == (-2, 3)  # as long as on the other axis
    assert [label for _, label in x.ticks(20)] == ["0", "2", "4", "6", "8", "10"]
    assert [place for place, _ in x.ticks(20)] == [0, 40, 80, 120, 160, 200]
    assert [label for _, label in x.ticks(90)] == ["0", "5", "10"]
    names = dataclasses.replace(x, names=tuple("abcdef"), low=-0.5, high=5.5)
    assert [label for _, label in names.ticks(60)] == ["a", "c", "e"]
    assert names.at(["b"]).tolist() == [50.0]


def test_texts_are_wrapped_and_shortened() -> None:
    text = "states spread over 2.7 dimensions; at the last step all of it is between classes"
    lines = wrapped(text, 150)
    assert " ".join(lines) == text
    assert all(length(own) <= 150 for own in lines)
    for width in range(20, 200, 7):
        short = shortened("encoder.lstm.l1_reverse: 31 @5", width)
        assert length(short) <= width
        assert short == "encoder.lstm.l1_reverse: 31 @5" or "…" in short


def test_pictures_load_neither_plotly_nor_matplotlib() -> None:
    code = (
        "import sys; from tests.support.reports import small_report; small_report().picture('rela"
        "y_share'); print([name for name in ('plotly', 'matplotlib') if name in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.split() == ["[]"]
