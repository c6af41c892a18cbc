import dataclasses

import numpy as np
import pytest

from lightning_relay.ablation.damage import Damage
from lightning_relay.ablation.report import KnockoutReport, KnockoutSet
from lightning_relay.ablation.scalars import knockout_scalars
from tests.support.knockouts import LAYER, agreement, curve, single_units, small_knockouts

OTHER = "rnn.l1"


def of(damage: list[float] | list[list[float]], baseline: float = 0.9) -> Damage:
    values = np.array(damage, np.float64)
    return Damage(np.full(values.shape[1:], baseline), baseline - values, values, values, values)


def by_hand() -> KnockoutReport:
    sets = [
        *single_units(2),
        *single_units(2, layer=OTHER),
        KnockoutSet("all", "given", {LAYER: (0, 1), OTHER: (0, 1)}),
        KnockoutSet("a: top", "concept", {LAYER: (0,)}, concept="a"),
        KnockoutSet("a: random 0", "concept_random", {LAYER: (0,)}, concept="a"),
        KnockoutSet("a: random 1", "concept_random", {LAYER: (1,)}, concept="a"),
    ]
    report = small_knockouts(sets, concepts=("a", "b"), curves=False)
    rank = agreement("a", np.arange(6.0), np.array([0.0, 2, 1, 3, 5, 4]))
    return dataclasses.replace(
        report,
        accuracy=of([0.1, 0.2, -0.1, -0.3, 0.8, 0.5, 0.5, 0.5]),
        concept_accuracy=of([[0.0, 0.7]] * 5 + [[0.4, 0.0], [0.1, 0.9], [0.3, 0.9]]),
        metrics={"loss": of([0.0, 1.0, 0.5, 0.2, 3.0, 0.0, 0.0, 0.0], 0.25)},
        curves=(curve("most_first", "a", 5), curve("random_first", "a", 5, 3)),
        agreement=(rank,),
    )


def test_every_scalar_is_what_its_name_says() -> None:
    report = by_hand()
    areas = [curve.area.mean() for curve in report.curves]
    assert knockout_scalars(report) == pytest.approx(
        {
            "accuracy": 0.9,
            f"{LAYER}/largest_damage": 0.2,
            f"{LAYER}/mean_damage": 0.15,
            f"{OTHER}/largest_damage": -0.1,
            f"{OTHER}/mean_damage": -0.2,
            f"{LAYER}/a/top_damage": 0.4,
            f"{LAYER}/a/random_damage": 0.2,
            f"{LAYER}/a/area_most_first": areas[0],
            f"{LAYER}/a/area_random": areas[1],
            f"{LAYER}/a/score_correlation": report.agreement[0].correlation,
            "loss": 0.25,
            "loss/largest_damage": 3.0,
        }
    )


def test_what_is_undefined_is_left_out() -> None:
    report = by_hand()
    undefined = agreement("a", np.ones(5), np.ones(5))
    nan = of([np.nan] * 8, np.nan)
    scalars = knockout_scalars(
        dataclasses.replace(
            report, accuracy=nan, metrics={"f1": nan}, agreement=(undefined,), curves=()
        )
    )
    assert list(scalars) == [f"{LAYER}/a/top_damage", f"{LAYER}/a/random_damage"]
    bare = knockout_scalars(small_knockouts(classes=0))
    assert bare == {}


def test_a_metric_does_not_hide_the_accuracy() -> None:
    report = dataclasses.replace(by_hand(), metrics={"accuracy": of([0.0] * 8, 7.0)})
    assert knockout_scalars(report)["accuracy"] == 0.9
