"""What loggers show of a knock-out report: its table, and few figures."""

from __future__ import annotations

from lightning_relay.ablation.faces import knockout_faces
from lightning_relay.ablation.figures import FIGURES
from lightning_relay.ablation.report import KnockoutSet
from lightning_relay.ablation.table import knockout_table
from lightning_relay.reports.figure import to_json
from tests.support.knockouts import LAYER, prediction, random_sets, single_units, small_knockouts


def test_sets_along_orders_have_curves_only() -> None:
    sets = [
        KnockoutSet(f"{LAYER}: {size} most first", "most_first", {LAYER: tuple(range(size))})
        for size in range(1, 4)
    ]
    faces = knockout_faces(small_knockouts(sets, agreement=()))
    assert list(faces) == ["knockout_table", f"{LAYER}/joint/deletion"]


def test_random_sets_and_all_units_beside_them_have_what_they_predict_only() -> None:
    sets = [*random_sets(), KnockoutSet("1", "all", {LAYER: (0, 1, 2)}, (-1,))]
    found = tuple(prediction(concept=name) for name in ("joint", "bit_0"))
    faces = knockout_faces(small_knockouts(sets, agreement=(), curves=False, predictions=found))
    assert list(faces) == ["knockout_table", f"{LAYER}/joint/prediction"]


def test_a_report_has_its_table_and_then_its_figures() -> None:
    report = small_knockouts(epoch=3)
    faces = knockout_faces(report)
    expected = {
        "damage": FIGURES["damage"](report),
        f"{LAYER}/joint/deletion": FIGURES["deletion"](report),
        f"{LAYER}/joint/agreement": FIGURES["agreement"](report),
    }
    assert list(faces) == ["knockout_table", *expected]
    assert faces.pop("knockout_table") == knockout_table(report)
    for tag, figure in expected.items():
        found = faces[tag]
        assert not isinstance(found, str)
        assert to_json(found) == to_json(figure)


def test_single_units_at_single_steps_have_a_map_of_their_own() -> None:
    report = small_knockouts(single_units(3, 4), curves=False)
    assert list(knockout_faces(report)) == ["knockout_table", f"{LAYER}/step_damage"]


def test_without_a_measure_there_is_the_table() -> None:
    assert list(knockout_faces(small_knockouts(classes=0))) == ["knockout_table"]
