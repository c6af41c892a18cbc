"""Pictures, tables, words, scalars and files of latent structures."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import nn

from lightning_relay import (
    HiddenStateRecorder,
    LatentMeasure,
    RelayReport,
    latent_structure,
    relay_report,
)
from lightning_relay.latent.table import attractor_table
from lightning_relay.relay.scalars import relay_scalars
from tests.support.reports import assert_equal

if TYPE_CHECKING:
    from pathlib import Path

    from lightning_relay.latent.structure import LatentStructure

BLUE, ORANGE = [31, 119, 180], [255, 127, 14]


def flip_flop(classes: int = 2, steps: int = 5, units: int = 1) -> tuple[nn.RNN, Any, Any]:
    """Bistable units, inputs, and labels, which are the signs of the first inputs."""
    module = nn.RNN(units, units, bias=False, batch_first=True)
    with torch.no_grad():
        module.weight_ih_l0.copy_(torch.eye(units))
        module.weight_hh_l0.copy_(2 * torch.eye(units))
    generator = torch.Generator().manual_seed(0)
    inputs = torch.zeros(120, steps, units)
    inputs[:, 0] = torch.randn(120, units, generator=generator)
    labels = (inputs[:, 0, 0] > 0).long() + 2 * (torch.arange(120) % (classes // 2))
    return module, inputs, labels


def measured(
    classes: int = 2, units: int = 1, measure: LatentMeasure | None = None
) -> tuple[RelayReport, LatentStructure]:
    module, inputs, labels = flip_flop(classes, units=units)
    with torch.no_grad(), HiddenStateRecorder(module) as recorder:
        module(inputs)
    latent = latent_structure(recorder.states, labels, model=module, inputs_end=0, measure=measure)
    report = relay_report(recorder.states, labels, labels, inputs_end=0, latent=latent)
    return report, latent["l0"]


def pixels_of(image: Any, colour: list[int]) -> Any:
    """Columns and rows of pixels of a colour, without the legend and the numbers at the axes."""
    rows, columns = np.nonzero((image[170:-110, 100:] == colour).all(-1))
    return columns, rows


@pytest.mark.parametrize("units", [1, 2])
def test_every_class_ends_in_a_disc_of_its_colour_beside_its_fixed_point(units: int) -> None:
    report, latent = measured(units=units)
    image = np.asarray(report.picture("latent"))
    assert latent.attractors is not None
    x = [pixels_of(image, colour)[0].mean() for colour in (BLUE, ORANGE)]
    means = latent.trajectories[:, -1, 0]
    assert (x[0] < x[1]) == (means[0] < means[1])
    crosses, _ = pixels_of(image, [0, 0, 0])
    assert np.ptp(crosses) > 300


def test_a_layer_of_one_unit_lies_on_a_line() -> None:
    _, rows = pixels_of(np.asarray(measured()[0].picture("latent")), BLUE)
    assert np.ptp(rows) < 30


def test_classes_without_a_colour_are_counted() -> None:
    report, latent = measured(24)
    assert len(latent.classes) == 24
    words = report.figure("latent").layout.title.subtitle.text
    assert words.endswith("14 less frequent classes are not drawn")


def test_pictures_without_attractors_or_spread_are_drawn() -> None:
    report, latent = measured()
    without = dataclasses.replace(latent, attractors=None, no_attractors="of a reason")
    alike = dataclasses.replace(
        without,
        trajectories=np.zeros_like(latent.trajectories),
        points=np.zeros_like(latent.points),
        variance=0.0,
    )
    layer = dataclasses.replace(report["l0"], latent=alike)
    report = dataclasses.replace(report, layers={"l0": layer})
    assert len(pixels_of(np.asarray(report.picture("latent")), ORANGE)[0])


def test_the_table_lists_attractors_and_steps() -> None:
    report, latent = measured()
    lines = attractor_table(latent).splitlines()
    found = latent.attractors
    assert found is not None
    first, second = [line for line in lines if line.startswith("| fixed point")]
    assert f"{found.basins[0].sum() / 5.12:.1f} %" in first
    assert f"| {found.classes[found.basins[1].argmax()]} ({found.basins[1].max()}) |" in second
    assert sum(line.startswith("| 0 ") or line.startswith("| 4 ") for line in lines) == 2
    assert "100 % of 512 states settle: 2 fixed points; the attractor tells" in lines[0]
    assert "settle: 2 fixed points" in str(report)
    without = dataclasses.replace(latent, attractors=None, no_attractors="no model was given")
    assert "was not found out: no model was given." in attractor_table(without)


def test_the_table_explains_its_mark_only_where_it_marks_a_step() -> None:
    _, latent = measured()
    assert "*" not in attractor_table(latent)
    late = dataclasses.replace(latent, inputs_ended=np.arange(5) > 0)
    assert "| 0 * |" in attractor_table(late)
    assert "At a step marked *" in attractor_table(late)


def test_the_table_has_no_negative_zero() -> None:
    _, latent = measured()
    table = attractor_table(dataclasses.replace(latent, between=np.full(5, -1e-5)))
    assert "-0.000" not in table


def test_more_attractors_than_lines_are_counted() -> None:
    _, latent = measured()
    found = latent.attractors
    assert found is not None
    many = dataclasses.replace(
        found,
        period=np.array([1, 2] * 10),
        continuous=np.array([False, False, True, True] * 5),
        classes=np.array([0, 1]),
        radius=np.zeros(20),
        eigenvalues=np.full((20, 1), np.nan + 0j),
        basins=np.arange(40)[::-1].reshape(20, 2),
    )
    table = attractor_table(dataclasses.replace(latent, attractors=many))
    starts = 780 + latent.attractors.unsettled.sum()
    assert f"| 4 others | {100 * 28 / starts:.1f} % | – | – | 0 (16), 1 (12) |" in table
    assert "| cycle of 2 |" in table
    assert "| continuous attractor of cycles of 2 |" in table
    assert "5 fixed points, 5 cycles (period 2), 10 continuous attractors" in many.in_words()


def test_scalars_are_those_of_the_structure() -> None:
    report, latent = measured()
    assert latent.attractors is not None
    scalars = relay_scalars(report)
    assert {name: scalars[f"l0/{name}"] for name in ("settled", "attractors", "dimension")} == {
        "settled": 1.0,
        "attractors": 2.0,
        "dimension": pytest.approx(1.0),
    }
    assert scalars["l0/attractor_bits"] == latent.attractors.label_bits
    assert scalars["l0/between_classes_last"] == latent.separation[-1]
    assert scalars["l0/speed_last"] == latent.speed[-1]


@pytest.mark.parametrize("n_starts", [0, 512])
def test_a_saved_structure_is_the_same_when_loaded(tmp_path: Path, n_starts: int) -> None:
    report, latent = measured(measure=LatentMeasure(n_starts=n_starts))
    report.save(tmp_path / "report.npz")
    loaded = RelayReport.load(tmp_path / "report.npz")["l0"].latent
    assert (latent.attractors is None) == (n_starts == 0)
    assert_equal(loaded, latent)


def test_attractors_of_other_lengths_are_refused(tmp_path: Path) -> None:
    report, latent = measured()
    found = latent.attractors
    assert found is not None
    for name in ("attractor", "states", "unsettled"):
        short = dataclasses.replace(found, **{name: getattr(found, name)[:1]})
        changed = dataclasses.replace(latent, attractors=short)
        layer = dataclasses.replace(report["l0"], latent=changed)
        with pytest.raises(ValueError, match=r"l0/latent/attractors\.\w+: got shape"):
            dataclasses.replace(report, layers={"l0": layer}).save(tmp_path / "report.npz")


def test_to_xarray_has_the_structure_below_its_layer() -> None:
    pytest.importorskip("xarray", reason="an extra of the package")
    report, latent = measured()
    tree = report.to_xarray()["l0/latent"]
    assert tree["trajectories"].dims == ("class", "latent_step", "component")
    np.testing.assert_array_equal(tree["trajectories"], latent.trajectories)
    assert tree["attractors"]["basins"].dims == ("attractor", "start_class")
    assert tree["attractors"].attrs["inputs"] == "zero"
