import dataclasses

import numpy as np
import pytest

from lightning_relay.relay.report import ConceptRelay
from lightning_relay.relay.table import order_in_words, relay_table
from tests.support.changed import changed
from tests.support.reports import EVIDENCE, small_report

ORDER = "order, most important first"


def read(table: str) -> tuple[str, list[dict[str, str]]]:
    """The note above a table, and its rows by column."""
    note, *lines = [line for line in table.splitlines() if line]
    header, rule, *rows = [
        [cell.strip() for cell in line.removeprefix("|").removesuffix("|").split("|")]
        for line in lines
    ]
    words = ("largest shares, bits", ORDER, "evidence")
    assert rule == [":---" if name in words else "---:" for name in header]
    return note, [dict(zip(header, row, strict=True)) for row in rows]


def largest_shares(relay: ConceptRelay, step: int) -> str:
    assert relay.share is not None
    assert relay.share_error is not None
    rows = sorted(
        zip(-relay.share[step], range(len(relay.share[step])), relay.share_error[step], strict=True)
    )
    return ", ".join(f"{unit}: {-less:.3f} ± {error:.3f}" for less, unit, error in rows[:5])


def test_a_table_of_many_steps_has_some_of_them_and_says_so() -> None:
    report = small_report(steps=100, n_splits=0)
    note, rows = read(relay_table(report, "rnn.l0", "joint"))
    assert "32 of 100 steps; the saved report has all." in note
    steps = [int(row["step"].removesuffix(" *")) for row in rows]
    assert (len(steps), steps[0], steps[-1]) == (32, 0, 99)
    assert set(np.diff(steps)) == {3, 4}
    relay = report["rnn.l0"]["joint"]
    for row, step in zip(rows, steps, strict=True):
        assert row["I_R of I(in; out), bits"].startswith(f"{relay.information[step, 0]:.3f} of ")
        assert row["largest shares, bits"] == largest_shares(relay, step)


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
    assert "the mean over 16 random orders, or over all" in note
    assert (
        "Units in brackets are not ranked, because there are too few sequences for their places: "
        "the coverage of the joint states is below 0.9, or corrected and plug-in information are "
        "more than 0.1 bits apart."
    ) in note
    assert "hance" not in note
    assert "resamples" not in note
    assert rows == [
        {
            "step": f"{step}{'' if step else ' *'}",
            "I_R of I(in; out), bits": (
                f"{relay.information[step, 0]:.3f} of {relay.mutual_information[step]:.3f}"
            ),
            "unattributed, bits": f"{relay.unattributed[step]:.3f}",
            "largest shares, bits": largest_shares(relay, step),
            "units that tell 90 %": " ".join(map(str, relay.smallest_set(step=step))),
            "evidence": (
                f"80 sequences in {layer.distinct_states[step]} states, coverage "
                f"{relay.coverage[step, full]:.3f}; I_R corrected {relay.corrected[step, 0]:.3f} "
                f"bits; order: {relay.ambiguous[step].sum()} of 12 units tied, "
                f"{relay.resolved[step].sum()} resolved"
            ),
            ORDER: order_in_words(relay, step, 10),
        }
        for step in range(3)
    ]
    assert all("(" in row[ORDER] for row in rows)
    note, _ = read(relay_table(small_report(min_coverage=0.5, max_gap=0.25), "rnn.l0", "joint"))
    assert "states is below 0.5, or corrected and plug-in information are more than 0.25" in note


def test_the_table_says_where_other_sets_do_as_well_and_where_sequences_are_too_few() -> None:
    plain = small_report(steps=2, inputs_end=None)
    relay = plain["rnn.l0"]["joint"]
    units = relay.smallest_set()
    tied, resolved = np.zeros((2, 5), dtype=bool), np.ones((2, 5), dtype=bool)
    tied[:, units[0]], resolved[1, units[1]] = True, False
    marked = changed(
        plain, telling_tied=tied, telling_resolved=resolved, telling=relay.telling[[1, 1]]
    )
    told = np.array([0 * relay.told[1], relay.told[1]])
    sure, unsure = f"≈{units[0]} {units[1]}", f"≈{units[0]} {units[1]} (?)"
    for report, words in ((marked, [sure, unsure]), (changed(marked, told=told), ["none", unsure])):
        _, rows = read(relay_table(report, "rnn.l0", "joint"))
        assert [row["units that tell 90 %"] for row in rows] == words


def test_the_table_shows_shares_where_they_were_asked_for() -> None:
    report = changed(
        small_report(steps=1, units=3, inputs_end=None, n_orders=0.25),
        share=np.array([[0.25, 1.23456, -0.0001]]),
        share_error=np.array([[0.0, 0.0126, 1.0]]),
        unattributed=np.array([-1e-9]),
    )
    note, (row,) = read(relay_table(report, "rnn.l0", "joint"))
    assert row["largest shares, bits"] == "1: 1.235 ± 0.013, 0: 0.250 ± 0.000, 2: 0.000 ± 1.000"
    assert row["unattributed, bits"] == "0.000"
    assert "the 3 units with the largest relay share." in note
    assert "random orders, added until the standard error is at most 0.25 bits, or over" in note
    note, (row,) = read(
        relay_table(small_report(steps=1, inputs_end=None, n_orders=0), "rnn.l0", "joint")
    )
    assert not {"unattributed, bits", "largest shares, bits"} & set(row)
    assert "share" not in note


def test_the_table_shows_intervals_and_chance_levels_where_they_were_asked_for() -> None:
    report = changed(
        small_report(steps=2, units=3, inputs_end=None, **EVIDENCE),
        information=np.full((2, 4), 2.951),
        mutual_information=np.array([3.0, 2.5]),
        lower=np.full((2, 4), 2.9),
        upper=np.full((2, 4), 2.987),
        chance_level=np.array([[0.1234, 9, 9, 9], [0.25, 9, 9, 9]]),
        chance_p_values=np.array([[0.005, 0.05, 0.01, 0.3], [0.04, 1, 1, 1]]),
        unexplained_p_values=np.array([1.0, 0.05]),
        movable=np.array([[1.0, 0.5, 0.1, 1.0], [1.0, 0, 0.5, 0]]),
    )
    note, rows = read(relay_table(report, "rnn.l0", "joint"))
    assert [row["I_R of I(in; out), bits"] for row in rows] == [
        "2.95 [2.90, 2.99] of 3.000",
        "2.95 [2.90, 2.99] of 2.500",
    ]
    assert [row["chance level, bits"] for row in rows] == ["0.123", "0.250"]
    assert [row["p"] for row in rows] == ["0.005", "0.04"]
    assert [row["units beyond chance"] for row in rows] == ["2 of 3 tested", "cannot tell"]
    assert "with the probability 0.05 when X_out is permuted, 19 times; p:" in note
    assert "2 of 6 times a unit could not be tested, because among sequences alike in all" in note
    assert "After I_R: its 95 % interval from 40 resamples." in note
    assert "tested at all" not in note


def test_the_table_says_where_nothing_can_be_tested() -> None:
    movable = np.zeros((2, 6))
    movable[0, 0] = 1.0
    report = changed(
        small_report(steps=2, inputs_end=None, n_permutations=19),
        movable=movable,
        chance_p_values=np.where(movable, 0.05, 1.0),
    )
    note, rows = read(relay_table(report, "rnn.l0", "joint"))
    assert [row["units beyond chance"] for row in rows] == ["none tested"] * 2
    assert [row["p"] for row in rows] == ["0.05", "not tested"]
    assert rows[1]["chance level, bits"] == "not tested"
    assert "10 of 10 times a unit could not be tested" in note
    assert "Nothing could be tested at all" not in note
    movable[:] = 0
    note, _ = read(relay_table(report, "rnn.l0", "joint"))
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
    assert (
        "Thresholds were fitted to the first 30 sequences. Thresholds fitted to a fair sample of "
        "all would give 88.7% of its codes too, at the step and of the unit where they agree "
        "least; expected are 91.2%. 4 sequences have steps without thresholds; these steps are "
    ) in note


def with_order(
    units: list[int], ambiguous: list[int] | None = None, unresolved: list[int] | None = None
) -> ConceptRelay:
    """Two steps with one order, least important first; the ambiguous units are one tie group."""
    relay = small_report(steps=2, inputs_end=None).layers["rnn.l0"].concepts["joint"]
    groups, resolved = np.arange(len(units)), np.ones(len(units), dtype=bool)
    if ambiguous:
        groups[ambiguous] = min(ambiguous)
    resolved[unresolved or []] = False
    return dataclasses.replace(
        relay,
        units=np.array([units] * 2),
        groups=np.array([groups] * 2),
        resolved=np.array([resolved] * 2),
    )


def test_the_most_important_units_are_named_with_their_ambiguity() -> None:
    relay = with_order([4, 3, 2, 1, 0], ambiguous=[0, 1, 4])
    assert order_in_words(relay, 0, 3) == "≈0 ≈1 2"
    assert order_in_words(relay, -1, 9) == "≈0 ≈1 2 3 ≈4"
    assert order_in_words(relay, 0, 0) == ""


@pytest.mark.parametrize(
    ("unresolved", "count", "words"),
    [
        ([5, 0, 3], 2, "(0 3 5)"),
        ([5, 0, 3], 3, "(0 3 5)"),
        ([5, 0, 3], 4, "(0 3 5) 1"),
        ([5, 0, 3], 9, "(0 3 5) 1 ≈2 4"),
        ([5], 2, "(5) 0"),
        ([1, 2, 4], 2, "5 0"),
        ([1, 2, 4], 3, "5 0 ≈3"),
        ([1, 2, 4], 4, "5 0 ≈3 (1 2 4)"),
        ([0, 1, 2, 3, 4, 5], 3, "(0 1 2 3 4 5)"),
        ([0, 1, 2, 3, 4, 5], 0, ""),
    ],
)
def test_units_that_are_not_ranked_stand_in_brackets_all_or_none(
    unresolved: list[int], count: int, words: str
) -> None:
    relay = with_order([4, 2, 1, 3, 0, 5], ambiguous=[2, 3], unresolved=unresolved)
    assert order_in_words(relay, 0, count) == words


def test_many_units_that_are_not_ranked_are_counted() -> None:
    order = list(range(100))
    assert order_in_words(with_order(order, unresolved=order), 0, 10) == "(100 units not ranked)"
    relay = with_order(order, unresolved=order[:98])
    assert order_in_words(relay, 0, 10) == "99 98 (98 units not ranked)"
    assert order_in_words(relay, 0, 2) == "99 98"
    relay = with_order(order, unresolved=order[-13:])
    assert order_in_words(relay, 0, 13) == "(13 units not ranked)"
    assert order_in_words(relay, 0, 15) == "(13 units not ranked) 86 85"
    assert order_in_words(with_order(order, unresolved=order[-12:]), 0, 10) == (
        "(88 89 90 91 92 93 94 95 96 97 98 99)"
    )
