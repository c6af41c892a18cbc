import dataclasses
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

from lightning_relay.relay.picture import relay_image
from lightning_relay.relay.report import ConceptRelay
from lightning_relay.relay.tensorboard import relay_table, write_relay_report
from tests.support.images import decoded
from tests.support.reports import EVIDENCE, small_report


def test_images_and_tables_are_written_as_drawn(tmp_path: Path) -> None:
    report = small_report(concepts="per_class")
    with SummaryWriter(str(tmp_path)) as writer:
        write_relay_report(writer, report, "relay", 7, suffix="/dataloader_1")
    events = EventAccumulator(str(tmp_path)).Reload()
    tags = [f"relay/rnn.l0/class_{label}" for label in range(4)]
    assert events.Tags()["images"] == [f"{tag}/scores/dataloader_1" for tag in tags]
    assert events.Tags()["tensors"] == [f"{tag}/order/dataloader_1/text_summary" for tag in tags]
    (image,) = events.Images(f"{tags[3]}/scores/dataloader_1")
    assert image.step == 7
    expected = relay_image(report.layers["rnn.l0"], "class_3", "rnn.l0: class_3")
    np.testing.assert_array_equal(decoded(image.encoded_image_string), expected)


def read(table: str) -> tuple[str, list[dict[str, str]]]:
    """The note above a table, and its rows by column."""
    note, *lines = [line for line in table.splitlines() if line]
    header, rule, *rows = [
        [cell.strip() for cell in line.removeprefix("|").removesuffix("|").split("|")]
        for line in lines
    ]
    words = ("largest shares, bits", "units")
    assert rule == [":---" if name in words else "---:" for name in header]
    return note, [dict(zip(header, row, strict=True)) for row in rows]


def largest_shares(relay: ConceptRelay, step: int) -> str:
    assert relay.share is not None
    assert relay.share_error is not None
    rows = sorted(
        zip(-relay.share[step], range(len(relay.share[step])), relay.share_error[step], strict=True)
    )
    return ", ".join(f"{unit}: {-less:.3f} ± {error:.3f}" for less, unit, error in rows[:5])


@pytest.mark.parametrize("direction", ["shrink", "grow"])
def test_the_table_shows_evidence_order_ties_and_shares(direction: str) -> None:
    report = small_report(steps=3, units=12, inputs_end=1, direction=direction)
    layer = report.layers["rnn.l0"]
    relay = layer.concepts["joint"]
    assert relay.unattributed is not None
    full = {"shrink": -1, "grow": 0}[direction]
    note, rows = read(relay_table(report, "rnn.l0", "joint"))
    assert note.startswith(
        f"80 of 80 sequences analysed; kmeans, {direction} order, plugin estimate."
    )
    assert "the 10 most important of 12" in note
    assert "the 5 units with the largest relay share." in note
    assert "the mean over 16 random orders, or all" in note
    assert (
        "Units in brackets are not ranked: their places rest on joint states with a coverage below "
        "0.9, or with corrected and plug-in information more than 0.1 bits apart."
    ) in note
    assert "hance" not in note
    assert "resamples" not in note
    assert rows == [
        {
            "step": f"{step}{'' if step else ' *'}",
            "sequences": "80",
            "states": str(layer.distinct_states[step]),
            "coverage": f"{relay.coverage[step, full]:.3f}",
            "I(in; out), bits": f"{relay.mutual_information[step]:.3f}",
            "I_R, bits": f"{relay.information[step, 0]:.3f}",
            "I_R corrected, bits": f"{relay.corrected[step, 0]:.3f}",
            "tied": f"{relay.tied[step].sum()} of 12",
            "resolved": f"{relay.resolved[step].sum()} of 12",
            "unattributed, bits": f"{relay.unattributed[step]:.3f}",
            "largest shares, bits": largest_shares(relay, step),
            "units": relay.most_important(step, 10),
        }
        for step in range(3)
    ]
    assert all("(" in row["units"] for row in rows)
    note, _ = read(relay_table(small_report(min_coverage=0.5, max_gap=0.25), "rnn.l0", "joint"))
    assert "a coverage below 0.5, or with corrected and plug-in information more than 0.25" in note


def test_the_table_shows_shares_where_they_were_asked_for() -> None:
    report = small_report(steps=1, units=3, inputs_end=None, n_orders=0.25)
    layer = report.layers["rnn.l0"]
    relay = dataclasses.replace(
        layer.concepts["joint"],
        share=np.array([[0.25, 1.23456, -0.0001]]),
        share_error=np.array([[0.0, 0.0126, 1.0]]),
        unattributed=np.array([-1e-9]),
    )
    layer = dataclasses.replace(layer, concepts={"joint": relay})
    changed = dataclasses.replace(report, layers={"rnn.l0": layer})
    note, (row,) = read(relay_table(changed, "rnn.l0", "joint"))
    assert row["largest shares, bits"] == "1: 1.235 ± 0.013, 0: 0.250 ± 0.000, 2: 0.000 ± 1.000"
    assert row["unattributed, bits"] == "0.000"
    assert "the 3 units with the largest relay share." in note
    assert "as many random orders as a standard error of 0.25 bits takes, or all" in note
    note, (row,) = read(
        relay_table(small_report(steps=1, inputs_end=None, n_orders=0), "rnn.l0", "joint")
    )
    assert not {"unattributed, bits", "largest shares, bits"} & set(row)
    assert "share" not in note


def test_the_table_shows_intervals_and_chance_levels_where_they_were_asked_for() -> None:
    report = small_report(steps=2, units=3, inputs_end=None, **EVIDENCE)
    layer = report.layers["rnn.l0"]
    relay = dataclasses.replace(
        layer.concepts["joint"],
        information=np.full((2, 4), 2.951),
        lower=np.full((2, 4), 2.9),
        upper=np.full((2, 4), 2.987),
        chance_level=np.array([[0.1234, 9, 9, 9], [0.25, 9, 9, 9]]),
        chance_p_values=np.array([[0.005, 0.05, 0.01, 0.3], [0.04, 1, 1, 1]]),
        unexplained_p_values=np.array([1.0, 0.05]),
        movable=np.array([[1.0, 0.5, 0.1, 1.0], [1.0, 0, 0.5, 0]]),
    )
    layer = dataclasses.replace(layer, concepts={"joint": relay})
    changed = dataclasses.replace(report, layers={"rnn.l0": layer})
    note, rows = read(relay_table(changed, "rnn.l0", "joint"))
    assert [row["I_R, bits"] for row in rows] == ["2.95 [2.90, 2.99]"] * 2
    assert [row["chance level, bits"] for row in rows] == ["0.123", "0.250"]
    assert [row["p"] for row in rows] == ["0.005", "0.04"]
    assert [row["units beyond chance"] for row in rows] == ["2 of 3 tested", "cannot tell"]
    assert "with the probability 0.05 when X_out is permuted, 19 times; p:" in note
    assert "2 of 6 times a unit could not be tested, because among sequences alike in all" in note
    assert "its 95 % interval by 40 resamples of the sequences." in note
    assert "at all" not in note


def test_the_table_says_where_nothing_can_be_tested() -> None:
    report = small_report(steps=2, inputs_end=None, n_permutations=19)
    layer = report.layers["rnn.l0"]
    movable = np.zeros((2, 6))
    movable[0, 0] = 1.0
    relay = dataclasses.replace(
        layer.concepts["joint"], movable=movable, chance_p_values=np.where(movable, 0.05, 1.0)
    )
    layer = dataclasses.replace(layer, concepts={"joint": relay})
    changed = dataclasses.replace(report, layers={"rnn.l0": layer})
    note, rows = read(relay_table(changed, "rnn.l0", "joint"))
    assert [row["units beyond chance"] for row in rows] == ["none tested"] * 2
    assert [row["p"] for row in rows] == ["0.05", "not tested"]
    assert rows[1]["chance level, bits"] == "not tested"
    assert "10 of 10 times a unit could not be tested" in note
    assert "Nothing could be tested at all" not in note
    movable[:] = 0
    note, _ = read(relay_table(changed, "rnn.l0", "joint"))
    assert "Nothing could be tested at all: X_in or X_out is the same in all sequences." in note


def test_the_table_says_what_thresholds_were_fitted_to() -> None:
    report = dataclasses.replace(
        small_report(),
        samples_fitted=30,
        threshold_agreement={"rnn.l0": 0.887},
        expected_agreement={"rnn.l0": 0.912},
        beyond_thresholds={"rnn.l0": 4},
    )
    note = relay_table(report, "rnn.l0", "joint").splitlines()[0]
    assert "fitted to the first 30 sequences; of a fair sample of all, thresholds fitted to" in note
    assert (
        "give 88.7% of the codes, at the step and of the unit where they agree least; exp" in note
    )
    assert "expected were 91.2%. 4 sequences have steps without thresholds, which are left" in note
