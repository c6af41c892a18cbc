"""The interactive figure of a latent structure has its states, step by step."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pytest
import torch

from lightning_relay import HiddenStates, latent_structure, relay_report
from lightning_relay.latent.figure import latent_figure
from lightning_relay.latent.structure import Attractors

STEPS, CLASSES, UNITS = 5, 3, 4


def structure(classes: int = CLASSES, units: int = UNITS, inputs_end: int = 2) -> Any:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(120) % classes
    values = 0.1 * torch.randn(120, STEPS, units, generator=generator)
    values[..., 0] += labels[:, None] * torch.arange(STEPS)
    states = {"l0": HiddenStates(values, torch.ones(120, STEPS, dtype=torch.bool))}
    return latent_structure(states, labels, inputs_end=inputs_end)["l0"], states, labels


LATENT, STATES, LABELS = structure()


def attractors(period: list[int], continuous: list[bool]) -> Attractors:
    """Attractors at random states, one for each phase; continuous ones have three."""
    points = [3 if many else own for own, many in zip(period, continuous, strict=True)]
    owner = np.repeat(np.arange(len(period)), points)
    number = len(period)
    return Attractors(
        period=np.array(period),
        continuous=np.array(continuous),
        radius=np.zeros(number),
        eigenvalues=np.full((number, 2), 0.5 + 0j),
        states=np.random.default_rng(0).random((len(owner), UNITS)),
        attractor=owner,
        classes=np.arange(CLASSES),
        basins=np.ones((number, CLASSES), dtype=np.int64),
        unsettled=np.zeros(CLASSES, dtype=np.int64),
        diverged=np.zeros(CLASSES, dtype=np.int64),
        label_bits=0.5,
        input_bits=1.5,
        n_steps=10,
        inputs="zero",
    )


def drawn(latent: Any, step: int = -1) -> dict[str, Any]:
    return {
        (own["name"], own.get("hovertemplate", "").startswith("mean of")): own
        for own in latent_figure(latent, "title", step)["data"]
    }


def test_ways_are_the_means_of_the_classes_and_dots_single_sequences() -> None:
    found = drawn(LATENT)
    for row in range(CLASSES):
        way = LATENT.trajectories[row, :, :2]
        thin = found[f"class {row}: not all input seen", False]
        np.testing.assert_array_equal(np.stack([thin["x"], thin["y"]], 1), way)
        thick = found[f"class {row}", False]
        # All input is seen from step 2 on; the line to step 2 is thick.
        np.testing.assert_array_equal(np.isfinite(thick["y"]), np.arange(STEPS) >= 1)
        np.testing.assert_array_equal(thick["y"][1:], way[1:, 1])
        assert (
            thick["text"][0]
            == f"class {row} at step 0<br>mean of 40 sequences<br>not all input seen"
        )
        dots = found[f"class {row}: sequences at the last step", False]
        own = LATENT.points[LATENT.point_classes == row]
        np.testing.assert_array_equal(np.stack([dots["x"], dots["y"]], 1), own[:, :2])


@pytest.mark.parametrize(("step", "place"), [(-1, 4), (1, 1)])
def test_the_slider_moves_the_discs_and_begins_at_the_step(step: int, place: int) -> None:
    figure = latent_figure(LATENT, "title", step)
    (slider,) = figure["layout"]["sliders"]
    assert slider["active"] == place
    assert [own["label"] for own in slider["steps"]] == ["0", "1", "2", "3", "4"]
    for moment, own in enumerate(slider["steps"]):
        moved, numbers = own["args"]
        for row, number in enumerate(numbers):
            disc = figure["data"][number]
            assert disc["hovertemplate"].startswith(f"mean of class {row}")
            mean = LATENT.trajectories[row, moment, :2]
            assert [moved["x"][row], moved["y"][row]] == [[mean[0]], [mean[1]]]
            if moment == place:
                assert [disc["x"], disc["y"]] == [[mean[0]], [mean[1]]]
    (low, high), (bottom, top) = (figure["layout"][f"{own}axis"]["range"] for own in "xy")
    means = LATENT.trajectories[..., :2].reshape(-1, 2)
    assert ((means > [low, bottom]) & (means < [high, top])).all()


def test_attractors_are_marked_by_their_kind() -> None:
    found = attractors([1, 2, 1], [False, False, True])
    marks = drawn(dataclasses.replace(LATENT, attractors=found))
    states = LATENT.projected(found.states)[:, :2]
    fixed = marks["fixed point", False]
    np.testing.assert_array_equal([fixed["x"][0], fixed["y"][0]], states[0])
    assert fixed["text"][0].endswith("3 of 9 states lead to it<br>largest eigenvalue 0.500")
    cycle = marks["cycle", False]
    np.testing.assert_array_equal(cycle["x"][:3], states[[1, 2, 1], 0])
    assert cycle["text"][0].startswith("cycle of period 2<br>")
    np.testing.assert_array_equal(marks["continuous attractor", False]["y"][:3], states[3:, 1])
    words = latent_figure(dataclasses.replace(LATENT, attractors=found), "", -1)["layout"]["title"]
    assert found.in_words() in words["subtitle"]["text"]


def test_less_frequent_classes_are_counted() -> None:
    latent, _, _ = structure(classes=12)
    words = latent_figure(latent, "", -1)["layout"]["title"]["subtitle"]["text"]
    assert "<br>lines: class means, dotted: not all input seen; small dots: single" in words
    assert words.endswith("<br>2 less frequent classes are not drawn")


def test_a_layer_of_one_unit_is_drawn_on_a_line() -> None:
    latent, _, _ = structure(units=1)
    way = drawn(latent)["class 0: not all input seen", False]
    assert (way["y"] == 0).all()


def test_steps_that_count_from_the_end_come_last_and_backward_layers_end_at_the_first() -> None:
    steps = np.array([0, 1, 2, 3, -1])
    (slider,) = latent_figure(dataclasses.replace(LATENT, time_steps=steps), "", -1)["layout"][
        "sliders"
    ]
    assert [own["label"] for own in slider["steps"]] == ["0", "1", "2", "3", "-1"]
    assert slider["active"] == 4
    (slider,) = latent_figure(dataclasses.replace(LATENT, backward=True), "", -1)["layout"][
        "sliders"
    ]
    assert [own["label"] for own in slider["steps"]] == ["4", "3", "2", "1", "0"]
    assert slider["active"] == 4


def test_a_report_draws_it() -> None:
    report = relay_report(STATES, LABELS, LABELS, inputs_end=2, latent={"l0": LATENT})
    figure = report.figure("latent", step=3)
    assert figure.layout.title.text == "l0: states"
    assert figure.layout.sliders[0].active == 3
    assert len(json.loads(figure.to_json())["data"]) == 4 * CLASSES
    with pytest.raises(ValueError, match="concept: got 'joint', but 'latent' shows classes"):
        report.figure("latent", concept="joint")
    with pytest.raises(ValueError, match="step: got 9, which was not analysed"):
        report.figure("latent", step=9)
