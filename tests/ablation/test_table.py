import dataclasses

import numpy as np

from lightning_relay.ablation.damage import Damage
from lightning_relay.ablation.report import KnockoutReport, KnockoutSet
from lightning_relay.ablation.table import knockout_table
from tests.support.knockouts import LAYER, agreement, single_units, small_knockouts


def of(damage: object, half: float = np.nan) -> Damage:
    values = np.array(damage, np.float64)
    baseline = np.full(values.shape[1:], 0.9)
    return Damage(baseline, baseline - values, values, values - half, values + half)


def read(text: str) -> tuple[list[str], list[list[dict[str, str]]]]:
    """The paragraphs, and the rows of each table by column."""
    words, tables = [], []
    for block in text.split("\n\n"):
        if not block.startswith("|"):
            words.append(block)
            continue
        header, rule, *rows = [
            [cell.strip() for cell in line.strip("|").replace(r"\|", "¦").split("|")]
            for line in block.splitlines()
        ]
        assert rule == [":---"] * len(header)
        tables.append([dict(zip(header, row, strict=True)) for row in rows])
    return words, tables


def by_hand() -> KnockoutReport:
    sets = [
        KnockoutSet("mild|one", "given", {LAYER: (3,)}, (0, 4)),
        KnockoutSet("wide", "given", {LAYER: tuple(range(13)), "rnn.l1": (2,)}, tuple(range(20))),
        KnockoutSet("a: top 2", "concept", {LAYER: (1, 2)}, concept="a", ambiguous=(2,)),
        KnockoutSet("a: random 0", "concept_random", {LAYER: (0, 4)}, concept="a"),
        KnockoutSet("a: random 1", "concept_random", {LAYER: (2, 3)}, concept="a"),
        KnockoutSet("a: one", "concept_random", {LAYER: (2,)}, concept="a"),
        KnockoutSet("b: random 0", "concept_random", {LAYER: (2, 3)}, concept="b"),
    ]
    nan = np.nan
    classes = [[0.0, 0.1, nan], [0.2, 0.5, nan], [-0.1, 0.0, nan], *[[0.0] * 3] * 4]
    concepts = [[0.1, 0.2], [0.3, 0.2], [0.4, 0.05], [0.1, 0], [0.3, 0], [9, 0], [9, 0]]
    report = small_knockouts(sets, classes=3, concepts=("a", "b"), curves=False)
    return dataclasses.replace(
        report,
        accuracy=of([0.01, 0.6, 0.3, 0.0, -0.2, nan, 0.005], 0.1),
        class_accuracy=of(classes, 0.1),
        concept_accuracy=of(concepts, 0.02),
        predictions_changed=np.array([0.015, 0.7, 0.33, 0, 0, 0, 0]),
        metrics={"loss": of([1.5, 0.0, nan, 0, 0, 0, 0])},
        agreement=(
            agreement("a", np.arange(5.0), np.array([0.0, 2, 1, 3, 4])),
            agreement("b", np.ones(5), np.ones(5)),
        ),
    )


def test_the_worst_sets_come_first_with_their_damage() -> None:
    _, (_, rows, _) = read(knockout_table(by_hand()))
    names = "wide, a: top 2, mild¦one, b: random 0, a: random 0, a: random 1, a: one"
    assert ", ".join(row["set"] for row in rows) == names
    assert rows[0] == {
        "set": "wide",
        "units": f"{LAYER}: 13 units; rnn.l1: 2",
        "steps": "20 from 0 to 19",
        "accuracy": "0.300",
        "damage [95 %]": "0.600 [0.500, 0.700]",
        "loss": "0.900",
        "damage to loss": "0.000",
        "predictions changed": "70.0%",
        "worst class": "1: 0.500 [0.400, 0.600]",
        "worst concept": "a: 0.300 [0.280, 0.320]",
    }
    assert (rows[1]["steps"], rows[2]["steps"]) == ("all", "0 4")
    assert (rows[1]["units"], rows[2]["units"]) == (f"{LAYER}: 1 ≈2", f"{LAYER}: 3")
    assert (rows[1]["worst class"], rows[1]["damage to loss"]) == ("none", "–")
    assert rows[2]["worst concept"] == "b: 0.200 [0.180, 0.220]"
    assert rows[5]["damage [95 %]"] == "-0.200 [-0.300, -0.100]"
    assert rows[6]["damage [95 %]"] == "–"


def test_a_concept_s_units_stand_beside_random_ones_of_as_many() -> None:
    words, (rows, _, _) = read(knockout_table(by_hand()))
    assert words[1].startswith("Top units of each concept: damage to this concept, to the others,")
    assert rows == [
        {
            "concept": "a",
            "units": f"{LAYER}: 1 ≈2",
            "damage to it [95 %]": "0.400 [0.380, 0.420]",
            "to the others, mean": "0.050",
            "to it by random sets, mean (number)": "0.200 (2)",
        }
    ]


def test_the_agreement_of_scores_and_damage_is_a_row_each() -> None:
    report = by_hand()
    words, (_, _, rows) = read(knockout_table(report))
    assert words[2].startswith("Do the units that relay most do most damage? Rank correlation")
    found = report.agreement[0]
    assert rows == [
        {
            "layer": LAYER,
            "concept": "a",
            "units": "5",
            "rank correlation [95 %]": f"0.90 [{found.lower:.2f}, {found.upper:.2f}]",
        },
        {"layer": LAYER, "concept": "b", "units": "5", "rank correlation [95 %]": "–"},
    ]


def test_the_note_says_what_was_run() -> None:
    report = dataclasses.replace(
        by_hand(),
        sets_left_out=3,
        x_in="batch[1]",
        x_out="head: argmax",
        relay_epoch=2,
        relay_step=40,
        value="mean of the recorded states",
    )
    note = read(knockout_table(report))[0][0]
    assert note == (
        "600 of 1200 samples (3 of 6 batches) were run with 7 sets of units held at: mean of the "
        "recorded states. 3 more sets were not run. Accuracy without knock-out: 0.900. loss "
        "without knock-out: 0.900. X_in: batch[1]. X_out: head: argmax. Orders and shares are from "
        "the relay report of epoch 2 (step 40). Damage is how much worse the model is than without "
        "knock-out; negative is better. Brackets are 95 % intervals for one set, not corrected for "
        "the number of sets."
    )
    note = read(knockout_table(dataclasses.replace(report, relay_step=None)))[0][0]
    assert "of epoch 2. Damage" in note
    plain = read(knockout_table(by_hand()))[0][0]
    for words in ("more sets", "X_in", "X_out", "relay report"):
        assert words not in plain


def test_the_twenty_worst_of_many_are_shown() -> None:
    report = small_knockouts(single_units(50), curves=False)
    report = dataclasses.replace(report, accuracy=of(np.arange(50) / 100))
    (note,), (rows,) = read(knockout_table(report))
    assert "The table shows the 20 worst." in note
    assert [row["set"] for row in rows] == [f"{LAYER}: {unit}" for unit in range(49, 29, -1)]


def test_without_class_labels_the_first_metric_or_the_predictions_decide() -> None:
    report = small_knockouts(single_units(3), classes=0, metrics=("loss", "f1"))
    metrics = {"loss": of([0.1, 0.3, 0.2]), "f1": of([0.9, 0.0, 0.0])}
    changed = np.full(3, np.nan)
    report = dataclasses.replace(report, metrics=metrics, predictions_changed=changed)
    _, (rows,) = read(knockout_table(report))
    assert [row["units"] for row in rows] == [f"{LAYER}: {unit}" for unit in (1, 2, 0)]
    assert ", ".join(rows[0]) == "set, units, steps, loss, damage to loss, f1, damage to f1"
    changed = np.array([0.2, 0.1, 0.5])
    bare = small_knockouts(classes=0, sets=single_units(3), predictions_changed=changed)
    _, (rows,) = read(knockout_table(bare))
    assert [row["predictions changed"] for row in rows] == ["50.0%", "20.0%", "10.0%"]


def test_a_report_without_sets_is_a_note() -> None:
    words, tables = read(knockout_table(small_knockouts([], curves=False)))
    assert (len(words), tables) == (1, [])
