"""Sentences about what is chosen."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from lightning_relay.relay.sentences import sentences
from tests.support.changed import changed
from tests.support.reports import PLAIN, at_each_step, small_report

REPORT = small_report()


ROUND = PLAIN | {
    "accuracy": np.array([0.5, 0.5, 0.5, 0.875, 1.0, 1.0]),
    "telling_tied": np.zeros((6, 5), dtype=bool),
    "telling_resolved": np.ones((6, 5), dtype=bool),
    "tells": at_each_step([0.25, 0.75, 0, 0, 0]),
    "share_error": at_each_step([0.01, 0.02, 0, 0, 0]),
    "share_resolved": at_each_step([1, 1, 0.25, 1, 1]),
    "common_code": at_each_step([0.5, 0.5, 0.99, 0.5, 0.5]),
    "transfer": np.eye(6),
    "lag_profile": np.array([0.75, 0.25, 0.0]),
}
SHARES = "Largest shares, bits: 1 (0.50), 0 (0.25); in no unit's share: 0.58 bits."


def said(step: int = -1, unit: int | None = None, **fields: Any) -> list[str]:
    report = changed(REPORT, **(ROUND | fields))
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
    report = changed(REPORT, **ROUND)
    layer = report["rnn.l0"]
    steps = np.array([0, 1, 2, 3, 4, -1])
    relay = dataclasses.replace(layer["joint"], time_steps=steps)
    layer = dataclasses.replace(layer, time_steps=steps, concepts={"joint": relay})
    report = dataclasses.replace(report, layers={"rnn.l0": layer})
    found = sentences(report, "rnn.l0", "joint", -1, None)
    assert found[0].startswith("At each sequence's last step, rnn.l0 relays ")


def test_a_chosen_unit_has_a_sentence() -> None:
    assert said(unit=0)[2] == (
        "Unit 0 has a share of 0.25 ± 0.01 bits there (units with a larger one: 1 of 5); alone, it "
        "tells 0.25 bits."
    )
    assert said(unit=2)[2] == (
        "Unit 2 has a share of -0.10 ± 0.00 bits there (units with a larger one: 4 of 5); alone, "
        "it tells 0.00 bits; enough sequences for it in 25 % of the orders; nearly constant."
    )
    without = {"share": None, "share_error": None, "share_resolved": None, "unattributed": None}
    assert said(unit=1, **without)[2] == "Unit 1: alone, it tells 0.75 bits."


def test_what_cannot_be_measured_is_said() -> None:
    found = said(lag_profile=np.full(3, np.nan))
    assert found[1] == "Whether it moves between units cannot be measured."
