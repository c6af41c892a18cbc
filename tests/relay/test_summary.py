import dataclasses

import numpy as np
import pytest

from lightning_relay.relay.summary import MOST_LINES
from tests.support.changed import changed
from tests.support.reports import PLAIN, at_each_step, small_report

REPORT = small_report()


ROUND = PLAIN | {
    "telling_tied": at_each_step([0, 0, 1, 0, 0]).astype(bool),
    "telling_resolved": at_each_step([1, 1, 0, 1, 1]).astype(bool),
    "transfer": None,
    "lag_profile": None,
}


def test_a_report_is_printed_as_what_its_units_relay_at_the_last_step() -> None:
    report = dataclasses.replace(changed(REPORT, **ROUND), stage="test", epoch=3, samples_seen=90)
    assert str(report).splitlines() == [
        "Relay report: test, epoch 3; 80 of 90 sequences",
        "rnn.l0, 5 units, at step 5 (80 sequences):",
        "  joint: 1.23 of 1.50 bits that input and output share (input: 1.97 bits); 2 units tell "
        "90 % of it: 3, 1",
        "    largest shares, bits: 1 (0.50), 0 (0.25); in no unit's share: 0.58 bits",
    ]
    assert repr(report) == str(report)


def test_ties_and_too_few_sequences_are_said_in_words() -> None:
    unsure = {
        "telling_tied": at_each_step([0, 1, 0, 0, 0]).astype(bool),
        "telling_resolved": at_each_step([1, 0, 1, 1, 1]).astype(bool),
        "groups": at_each_step([0, 1, 0, 3, 0]).astype(int),
        "resolved": at_each_step([0, 0, 1, 1, 1]).astype(bool),
        "share": at_each_step([0, 0, 0, 0, 0]),
    }
    lines = str(changed(REPORT, **(ROUND | unsure))).splitlines()
    assert lines[2].endswith("90 % of it: 3, 1, or others as good (too few sequences to be sure)")
    assert lines[3:] == [
        "    no unit has a share; in no unit's share: 0.58 bits",
        "    the order leaves 3 of 5 units tied; too few sequences for the places of 2 of 5 units",
    ]


@pytest.mark.parametrize(
    ("profile", "words"),
    [
        ([-0.2, 0.9, 0.1], "moves between units: transfer -0.20 after 1 step, back after 2 steps"),
        ([0.3, 0.2], "moves between units: transfer 0.30 after 1 step"),
        ([0.9, 0.4], "drifts between units: transfer 0.90 after 1 step, below 0.5 after 2 steps"),
        ([0.9, 0.8], "stays in its units: transfer 0.90 after 1 step, below 0.5 at no lag"),
        ([np.nan, np.nan], "whether it moves between units cannot be measured"),
        ([], "whether it moves between units cannot be measured"),
    ],
)
def test_whether_information_moves_is_said_in_words(profile: list[float], words: str) -> None:
    measured = {"transfer": np.zeros((6, 6)), "lag_profile": np.array(profile)}
    lines = str(changed(REPORT, **(ROUND | measured))).splitlines()
    assert lines[4:] == [f"    {words}"]


def test_without_shares_nothing_is_said_of_them() -> None:
    lines = str(changed(REPORT, **(ROUND | {"share": None, "unattributed": None}))).splitlines()
    assert len(lines) == 3
    none = str(changed(REPORT, **(ROUND | {"told": np.zeros((6, 6))}))).splitlines()
    assert none[2].endswith("(input: 1.97 bits)")


def test_where_steps_end_early_or_with_each_sequence_it_is_said() -> None:
    early = np.zeros(6, dtype=bool)
    report = changed(REPORT, time_steps=np.array([0, 1, 2, 3, 4, -1]), inputs_ended=early)
    assert str(report).splitlines()[1] == (
        "rnn.l0, 5 units, at each sequence's last step (80 sequences), before the last input:"
    )


@pytest.mark.parametrize("concepts", ["joint", "per_class"])
@pytest.mark.parametrize("layers", [1, 2, 3, 30])
def test_a_summary_fits_a_screen_and_names_what_it_leaves_out(layers: int, concepts: str) -> None:
    report = small_report(concepts=concepts)
    many = {f"rnn.l{layer}": report["rnn.l0"] for layer in range(layers)}
    lines = str(dataclasses.replace(report, layers=many)).splitlines()
    assert len(lines) <= MOST_LINES == 15
    said = sum(": " in line and "bits that input" in line for line in lines)
    left = layers * len(report["rnn.l0"].concepts) - said
    assert ("more; report[layer][concept] has all of" in lines[-1]) == (left > 0)
    if left:
        assert lines[-1].startswith(f"… and {left} more; ")
        assert all(name in lines[-1] for name in many)


def test_a_notebook_shows_a_table_with_names_escaped() -> None:
    report = small_report(concepts="per_class")
    html = report._repr_html_()
    assert html.count("<tr>") == 5
    for concept in report["rnn.l0"].concepts:
        assert f"<td>{concept}</td>" in html
    layer = report["rnn.l0"]
    odd = dataclasses.replace(layer, concepts={"<b>": layer["class_0"]})
    entropy = {"<b>": 1.0}
    html = dataclasses.replace(report, layers={"rnn.l0": odd}, input_entropy=entropy)._repr_html_()
    assert "<b>" not in html
    assert "&lt;b&gt;" in html
