import dataclasses

import numpy as np
import pytest

from lightning_relay.reporting.scalars import relay_scalars
from tests.reports import small_report


def test_scalars_are_few_and_leave_out_steps_with_input_to_come() -> None:
    report = small_report(inputs_end=2)
    relay = report.layers["rnn.l0"].concepts["joint"]
    scalars = relay_scalars(report)
    assert scalars == {
        "joint/mutual_information": report.mutual_information["joint"],
        "rnn.l0/joint/information": pytest.approx(float(relay.information[2:, 0].mean())),
        "rnn.l0/joint/information_last": float(relay.information[-1, 0]),
        "rnn.l0/joint/tied": pytest.approx(float(relay.tied[2:].mean())),
        "rnn.l0/distinct_states": float(report.layers["rnn.l0"].distinct_states.max()),
        "samples": 80.0,
        "samples_seen": 80.0,
    }
    assert all(type(value) is float for value in scalars.values())
    assert all(np.isfinite(value) for value in scalars.values())


def test_steps_count_by_their_sequences_and_the_last_is_that_of_each() -> None:
    layer = small_report(steps=3, inputs_end=None).layers["rnn.l0"]
    relay = dataclasses.replace(
        layer.concepts["joint"],
        information=np.array([[3.0, 0], [1.0, 0], [2.0, 0]]),
        tied=np.array([[True], [False], [True]]),
    )
    layer = dataclasses.replace(
        layer,
        time_steps=np.array([-1, 5, -4]),
        samples=np.array([60, 30, 10]),
        inputs_ended=np.array([True, True, False]),
        concepts={"joint": relay},
    )
    scalars = relay_scalars(dataclasses.replace(small_report(), layers={"rnn.l0": layer}))
    assert scalars["rnn.l0/joint/information"] == pytest.approx((60 * 3 + 30 * 1) / 90)
    assert scalars["rnn.l0/joint/tied"] == pytest.approx(60 / 90)
    assert scalars["rnn.l0/joint/information_last"] == 3.0
    without = dataclasses.replace(layer, time_steps=np.array([2, 5, -4]))
    scalars = relay_scalars(dataclasses.replace(small_report(), layers={"rnn.l0": without}))
    assert scalars["rnn.l0/joint/information_last"] == 1.0


def test_an_end_of_inputs_after_every_step_is_refused() -> None:
    report = small_report(inputs_end=2)
    report.layers["rnn.l0"].inputs_ended[:] = False
    with pytest.raises(
        ValueError, match=r"inputs_end: got 2, which comes after every analysed step of 'rnn.l0'; a"
    ):
        relay_scalars(report)


def test_a_backward_layer_ends_at_step_0() -> None:
    report = small_report(inputs_end=None)
    layer = dataclasses.replace(report.layers["rnn.l0"], time_steps=np.array([4, 0, 1, 2, 3, -1]))
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
        ValueError, match=r"time_steps: 'rnn.l0_reverse' reads from the end and has"
    ):
        relay_scalars(report)
