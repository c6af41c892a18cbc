"""Sentences about what is chosen."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from lightning_relay.relay.sentences import sentences
from tests.support.changed import changed
from tests.support.reports import small_report

REPORT = small_report()


def last(values: list[float]) -> np.ndarray[Any, np.dtype[Any]]:
    return np.array([values] * 6)


PLAIN: dict[str, Any] = {
    "information": last([1.234, 0, 0, 0, 0, 0]),
    "mutual_information": np.full(6, 1.5),
    "accuracy": np.array([0.5, 0.5, 0.5, 0.875, 1.0, 1.0]),
    "told": last([0, 1, 1.2, 1.234, 1.234, 1.234]),
    "telling": last([3, 1, 0, -1, -1]).astype(int),
    "telling_tied": np.zeros((6, 5), dtype=bool),
    "telling_resolved": np.ones((6, 5), dtype=bool),
    "tells": last([0.25, 0.75, 0, 0, 0]),
    "share": last([0.25, 0.5, -0.1, 0.004, 0.0]),
    "share_error": last([0.01, 0.02, 0, 0, 0]),
    "share_resolved": last([1, 1, 0, 1, 1]),
    "unattributed": np.full(6, 0.58),
    "groups": last([0, 1, 2, 3, 4]).astype(int),
    "resolved": np.ones((6, 5), dtype=bool),
    "common_code": last([0.5, 0.5, 0.99, 0.5, 0.5]),
    "transfer": np.eye(6),
    "lag_profile": np.array([0.75, 0.25, 0.0]),
}
SHARES = "Largest shares, bits: 1 (0.50), 0 (0.25); in no unit's share: 0.58 bits."


def said(step: int = -1, unit: int | None = None, **fields: Any) -> list[str]:
    report = changed(REPORT, **(PLAIN | fields))
    return sentences(report, "rnn.l0", "joint", step, unit)


def test_they_say_what_is_relayed_by_how_many_and_whether_it_moves() -> None:
    assert said() == [
        "At step 5, the last, rnn.l0 relays 1.23 of 1.50 bits of joint that input and output share "
        "(input: 1.97 bits); 2 units tell 90 % of it: 3, 1.",
        "Between steps, it drifts between units: transfer 0.75 after 1 step, below 0.5 after 2 "
        "steps.",
        SHARES,
        "100 % of 80 answers are right about joint.",
        "1 of 5 units nearly constant.",
    ]


def test_they_are_about_the_chosen_step() -> None:
    found = said(1, transfer=None, lag_profile=None)
    assert found[0].startswith("At step 1, before the last input, rnn.l0 relays 1.23 of 1.50 bits")
    assert found[1:3] == [SHARES, "50 % of 80 answers are right about joint."]
    assert "87.5 % of 80 answers are right about joint." in said(3)


def test_a_step_that_counts_back_is_that_of_each_sequence() -> None:
    report = changed(REPORT, **PLAIN)
    layer = report["rnn.l0"]
    steps = np.array([0, 1, 2, 3, 4, -1])
    relay = dataclasses.replace(layer["joint"], time_steps=steps)
    layer = dataclasses.replace(layer, time_steps=steps, concepts={"joint": relay})
    report = dataclasses.replace(report, layers={"rnn.l0": layer})
    found = sentences(report, "rnn.l0", "joint", -1, None)
    assert found[0].startswith("At each sequence's last step, rnn.l0 relays ")


def test_a_chosen_unit_has_a_sentence() -> None:
    assert said(unit=0)[2] == (
        "Unit 0 has a share of 0.25 ± 0.01 bits there (1 of 5 units have a larger one); alone, it "
        "tells 0.25 bits."
    )
    assert said(unit=2)[2] == (
        "Unit 2 has a share of -0.10 ± 0.00 bits there (4 of 5 units have a larger one); alone, it "
        "tells 0.00 bits; too few sequences to be sure; nearly constant."
    )
    without = {"share": None, "share_error": None, "share_resolved": None, "unattributed": None}
    assert said(unit=1, **without)[2] == "Unit 1: alone, it tells 0.75 bits."


def test_what_cannot_be_measured_is_said() -> None:
    found = said(lag_profile=np.full(3, np.nan))
    assert found[1] == "Whether it moves between units cannot be measured."
