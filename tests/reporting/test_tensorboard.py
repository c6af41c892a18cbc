import dataclasses
from pathlib import Path

import numpy as np
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

from lightning_relay.figures import relay_image
from lightning_relay.reporting.tensorboard import relay_table, write_relay_report
from tests.images import decoded
from tests.reports import small_report


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


def test_the_table_shows_evidence_order_and_ties() -> None:
    report = small_report(steps=3, units=12, inputs_end=1)
    layer = report.layers["rnn.l0"]
    relay = layer.concepts["joint"]
    note, *rows = [line for line in relay_table(report, "rnn.l0", "joint").splitlines() if line]
    assert note.startswith("80 of 80 sequences analysed; kmeans, shrink order, plugin estimate.")
    assert "the 10 most important of 12" in note
    assert [row.split("|")[1].strip() for row in rows[2:]] == ["0 *", "1", "2"]
    for index, row in enumerate(rows[2:]):
        cells = [cell.strip() for cell in row.split("|")[1:-1]]
        assert cells[1:5] == [
            "80",
            str(layer.distinct_states[index]),
            f"{relay.mutual_information[index]:.3f}",
            f"{relay.information[index, 0]:.3f}",
        ]
        assert cells[5] == f"{relay.tied[index].sum()} of 12"
        units = cells[6].split()
        assert [int(unit.removeprefix("≈")) for unit in units] == relay.units[index, :1:-1].tolist()
        assert [unit.startswith("≈") for unit in units] == relay.ambiguous[index, :1:-1].tolist()


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
