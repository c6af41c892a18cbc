"""The numbers of figures as tables."""

from __future__ import annotations

import csv
from io import StringIO
from typing import Any

import numpy as np

from lightning_relay.ablation.figures import agreement_figure, damage_figure, map_figure
from lightning_relay.relay.figures import share_figure, transfer_figure
from lightning_relay.relay.history_figure import history_figure
from lightning_relay.reports.figure import to_csv
from tests.support.changed import changed
from tests.support.knockouts import single_units, small_knockouts
from tests.support.reports import EVIDENCE, small_report

REPORT = small_report(**EVIDENCE)
RELAY = REPORT["rnn.l0"]["joint"]


def rows_of(figure: Any) -> dict[str, list[dict[str, str]]]:
    """Rows by trace."""
    traces: dict[str, list[dict[str, str]]] = {}
    for row in csv.DictReader(StringIO(to_csv(figure))):
        traces.setdefault(row["trace"], []).append(row)
    return traces


def test_cells_and_points_have_all_digits() -> None:
    rows = rows_of(share_figure(REPORT, "rnn.l0", "joint", -1, None))
    shares = {(int(row["y"]), row["x"]): float(row["value"]) for row in rows["share"]}
    assert len(shares) == 30
    assert all(
        shares[unit, str(step)] == RELAY.share[step, unit] for unit, step in np.ndindex(5, 6)
    )
    found = rows["95 % interval"]
    assert [float(row["y"]) for row in found] == RELAY.information[:, 0].tolist()
    assert RELAY.lower is not None
    np.testing.assert_allclose([float(row["lower"]) for row in found], RELAY.lower[:, 0])


def test_units_and_words_of_points_and_errors_of_cells_are_kept() -> None:
    cells = rows_of(share_figure(REPORT, "rnn.l0", "joint", -1, None))["share"]
    assert RELAY.share_error is not None
    for row in cells:
        assert float(row["error"]) == RELAY.share_error[int(row["x"]), int(row["y"])]
    history = rows_of(history_figure([(0, small_report(units=12)), (1, small_report(units=12))]))
    assert {row["unit"] for row in history["other units"] if row["y"]} == {
        str(unit) for unit in range(12) if f"unit {unit}" not in history
    }
    damage = [row for part in rows_of(agreement_figure(small_knockouts())).values() for row in part]
    assert sorted(int(row["unit"]) for row in damage) == list(range(5))
    assert all(row["words"].startswith(f"unit {row['unit']}: ") for row in damage)
    assert "<br>" not in damage[0]["words"]


def test_names_of_the_user_are_no_tags() -> None:
    report = small_report(concepts={"x<b>y & z": lambda label: label})
    figure = share_figure(report, "rnn.l0", "x<b>y & z", -1, None)
    assert figure["layout"]["title"]["text"] == "rnn.l0: x&lt;b&gt;y &amp; z"
    named = small_knockouts(single_units(2), concepts=("a<b>", "c"))
    rows = rows_of(damage_map := map_figure(named))
    assert "a&lt;b&gt;" in damage_map["data"][0]["x"]
    assert any(row["x"] == "a<b>" for part in rows.values() for row in part)


def test_cells_that_could_not_be_measured_have_no_value() -> None:
    transfer = np.eye(6)
    transfer[1, 2:] = np.nan
    report = changed(REPORT, transfer=transfer)
    rows = rows_of(transfer_figure(report, "rnn.l0", "joint", -1, None))
    missing = {(row["y"], row["x"]) for row in rows["cannot be measured"]}
    assert missing == {("1", str(step)) for step in range(2, 6)}
    assert len(rows["transfer"]) == 32
    assert {row["value"] for row in rows["cannot be measured"]} == {""}


def test_intervals_of_damage_stand_beside_it() -> None:
    report = small_knockouts()
    rows = [row for part in rows_of(damage_figure(report)).values() for row in part]
    assert report.accuracy is not None
    assert sorted(float(row["x"]) for row in rows) == sorted(100 * report.accuracy.damage)
    np.testing.assert_allclose(
        sorted(float(row["upper"]) for row in rows), sorted(100 * report.accuracy.upper)
    )
