import dataclasses

import numpy as np
import pytest

from lightning_relay.relay.scalars import relay_scalars
from tests.support.changed import changed
from tests.support.reports import EVIDENCE, small_report


def test_scalars_are_few_and_leave_out_steps_with_input_to_come() -> None:
    report = small_report(inputs_end=2)
    relay = report.layers["rnn.l0"].concepts["joint"]
    scalars = relay_scalars(report)
    assert relay.unattributed is not None
    assert relay.share is not None
    assert scalars == {
        "joint/mutual_information": report.mutual_information["joint"],
        "rnn.l0/joint/information": pytest.approx(float(relay.information[2:, 0].mean())),
        "rnn.l0/joint/information_last": float(relay.information[-1, 0]),
        "rnn.l0/joint/largest_share_last": float(relay.share[-1].max()),
        "rnn.l0/joint/migration": relay.migration,
        "rnn.l0/joint/units_needed_last": len(relay.smallest_set()),
        "rnn.l0/joint/coverage": pytest.approx(float(relay.coverage[2:, -1].mean())),
        "rnn.l0/joint/unattributed": pytest.approx(float(relay.unattributed[2:].mean())),
    }
    assert all(type(value) is float for value in scalars.values())
    assert all(np.isfinite(value) for value in scalars.values())


def test_steps_count_by_their_sequences_and_the_last_is_that_of_each() -> None:
    report = changed(
        small_report(steps=3, inputs_end=None),
        lag_profile=np.array([0.25, 0.5]),
        information=np.array([[3.0, 0], [1.0, 0], [2.0, 0]]),
        share=np.array([[0.5, 2.0], [1.0, 0.0], [3.0, 4.0]]),
        told=np.array([[0, 3.0, 3.0], [0, 0.5, 1.0], [0, 1.0, 2.0]]),
        coverage=np.array([[1.0, 0.5], [1.0, 0.25], [1.0, 0.0]]),
        telling=np.array([[1, 0], [0, 1], [0, 1]]),
        unattributed=np.array([0.25, 1.0, 9.0]),
        time_steps=np.array([3, 5, -4]),
        samples=np.array([60, 30, 10]),
        inputs_ended=np.array([True, True, False]),
    )
    scalars = relay_scalars(report)
    assert scalars["rnn.l0/joint/information"] == pytest.approx((60 * 3 + 30 * 1) / 90)
    assert scalars["rnn.l0/joint/information_last"] == 1.0
    assert scalars["rnn.l0/joint/largest_share_last"] == 1.0
    assert scalars["rnn.l0/joint/units_needed_last"] == 2.0
    assert scalars["rnn.l0/joint/migration"] == 0.75
    assert scalars["rnn.l0/joint/coverage"] == pytest.approx((60 * 0.5 + 30 * 0.25) / 90)
    assert scalars["rnn.l0/joint/unattributed"] == pytest.approx((60 * 0.25 + 30 * 1.0) / 90)
    growing = dataclasses.replace(small_report(direction="grow"), layers=report.layers)
    assert relay_scalars(growing)["rnn.l0/joint/coverage"] == 1.0
    ended = relay_scalars(changed(report, time_steps=np.array([-1, 5, -4])))
    assert ended["rnn.l0/joint/information_last"] == 3.0
    assert ended["rnn.l0/joint/largest_share_last"] == 2.0
    assert ended["rnn.l0/joint/units_needed_last"] == 1.0
    assert ended["rnn.l0/joint/information"] == 1.0  # step -1 is a step of each sequence already
    only = relay_scalars(changed(report, time_steps=np.array([-1, -2, -4])))
    assert only["rnn.l0/joint/information"] == scalars["rnn.l0/joint/information"]
    unknown = changed(report, lag_profile=np.array([np.nan, 0.5]))
    assert "rnn.l0/joint/migration" not in relay_scalars(unknown)


def test_chance_levels_and_stability_are_means_where_they_were_asked_for() -> None:
    report = small_report(inputs_end=2, **EVIDENCE)
    assert set(relay_scalars(report)) - set(relay_scalars(small_report(inputs_end=2))) == {
        "rnn.l0/joint/chance_level",
        "rnn.l0/joint/units_above_chance",
        "rnn.l0/joint/rank_stability",
    }
    p_values = np.ones((6, 6))
    p_values[:, 0] = 0.001
    p_values[2, 1:3] = p_values[5, 4] = p_values[0, 1:] = 0.05
    report = changed(
        report,
        chance_level=np.arange(36.0).reshape(6, 6),
        chance_p_values=p_values,
        unexplained_p_values=np.ones(6),
        rank_stability=np.array([9.0, 9.0, 0.5, 0.25, 1.0, 0.25]),
        samples=np.array([9, 9, 40, 20, 20, 20]),
    )
    scalars = relay_scalars(report)
    assert scalars["rnn.l0/joint/chance_level"] == (40 * 12 + 20 * 18 + 20 * 24 + 20 * 30) / 100
    assert scalars["rnn.l0/joint/units_above_chance"] == (40 * 2 + 20 * 1) / 100
    assert scalars["rnn.l0/joint/rank_stability"] == pytest.approx((20 + 5 + 20 + 5) / 100)


def test_shares_are_logged_where_they_were_measured() -> None:
    scalars = relay_scalars(small_report(n_orders=0))
    assert set(relay_scalars(small_report())) - set(scalars) == {
        "rnn.l0/joint/largest_share_last",
        "rnn.l0/joint/unattributed",
    }


def test_an_end_of_inputs_after_every_step_is_refused() -> None:
    report = small_report(inputs_end=2)
    report.layers["rnn.l0"].inputs_ended[:] = False
    with pytest.raises(
        ValueError, match=r"inputs_end: got 2, which comes after every analysed step of 'rnn.l0'; a"
    ):
        relay_scalars(report)


def test_a_backward_layer_ends_at_step_0() -> None:
    report = small_report(inputs_end=None)
    layer = dataclasses.replace(
        report["rnn.l0"], time_steps=np.array([4, 0, 1, 2, 3, -1]), backward=True
    )
    report = dataclasses.replace(
        report,
        layers={"rnn.l0_reverse": layer},
        threshold_agreement={"rnn.l0_reverse": 0.75},
    )
    scalars = relay_scalars(report)
    information = layer.concepts["joint"].information
    assert scalars["rnn.l0_reverse/joint/information_last"] == information[1, 0]
    assert scalars["rnn.l0_reverse/threshold_agreement"] == 0.75
    layer.inputs_ended[:] = False
    with pytest.raises(
        ValueError, match=r"time_steps: 'rnn.l0_reverse' reads from the end .*; add 0, or leave"
    ):
        relay_scalars(report)
