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


def test_an_end_of_inputs_after_every_step_is_refused() -> None:
    report = small_report(inputs_end=2)
    report.layers["rnn.l0"].inputs_ended[:] = False
    with pytest.raises(
        ValueError, match=r"inputs_end: got 2, which comes after every analysed step of 'rnn.l0'; a"
    ):
        relay_scalars(report)
