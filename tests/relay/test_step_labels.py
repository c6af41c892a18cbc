"""Labels of each step: every step is what an analysis of this step alone gives."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lightning_relay import HiddenStates, RelayMeasure, RelayReport, relay_report

SAMPLES, STEPS, UNITS = 90, 5, 4
GENERATOR = torch.Generator().manual_seed(3)
LENGTHS = torch.randint(2, STEPS + 1, (SAMPLES,), generator=GENERATOR)
X_IN = torch.randint(3, (SAMPLES, STEPS), generator=GENERATOR)
X_OUT = torch.where(torch.rand(SAMPLES, STEPS, generator=GENERATOR) < 0.2, 0, X_IN)
VALUES = torch.randn(SAMPLES, STEPS, UNITS, generator=GENERATOR)
VALUES[:, :, 0] = X_IN.double() + 0.1 * VALUES[:, :, 0]
VALUES[:, 2:, 1] = (X_OUT[:, 2:] > 1).float() + 0.1 * VALUES[:, 2:, 1]
MEASURE = RelayMeasure(n_orders=8, n_bootstraps=40, n_permutations=19, n_splits=0)


def report_of(x_in: Tensor, x_out: Tensor, **options: Any) -> RelayReport:
    states = {"rnn.l0": HiddenStates.of_lengths(VALUES, LENGTHS)}
    return relay_report(states, x_in, x_out, **({"measure": MEASURE} | options))


@pytest.mark.parametrize("concepts", ["joint", "per_class", {"odd": lambda label: label % 2}])
def test_every_step_is_that_of_its_own_labels(concepts: Any) -> None:
    layer = report_of(X_IN, X_OUT, concepts=concepts)["rnn.l0"]
    assert layer.time_steps.tolist() == [0, 1, 2, 3, 4, -1]
    for place, step in enumerate([*range(STEPS), -1]):
        at = torch.full((SAMPLES,), step) if step >= 0 else LENGTHS - 1
        own_in, own_out = (x[torch.arange(SAMPLES), at] for x in (X_IN, X_OUT))
        alone = report_of(own_in, own_out, concepts=concepts, time_steps=[step])["rnn.l0"]
        assert layer.samples[place] == alone.samples[0]
        assert layer.distinct_states[place] == alone.distinct_states[0]
        for name, expected in alone.concepts.items():
            for part in fields(expected):
                value = getattr(layer[name], part.name)
                if part.name in ("time_steps", "backward", "lag_profile") or value is None:
                    continue
                if "rank" in part.name or part.name in ("lower", "upper"):
                    continue  # resamples are drawn for all sequences that have the step
                if "p_values" in part.name:
                    continue  # they hold for all steps of an analysis together
                np.testing.assert_array_equal(value[place], getattr(expected, part.name)[0])


def test_labels_that_are_ignored_are_left_out_and_counted() -> None:
    ignored = torch.rand(SAMPLES, STEPS, generator=torch.Generator().manual_seed(1)) < 0.3
    ignored[:, 1] = True
    x_in = X_IN.masked_fill(ignored, -100)
    report = report_of(x_in, X_OUT, time_steps=[0, 1, 2, 3])
    assert report.ignored == int(ignored.sum())
    assert f"{int(ignored.sum())} not counted" in str(report)
    layer = report["rnn.l0"]
    assert layer.time_steps.tolist() == [0, 2, 3]
    for place, step in enumerate([0, 2, 3]):
        kept = ~ignored[:, step]
        states = {"rnn.l0": HiddenStates.of_lengths(VALUES[kept], LENGTHS[kept])}
        alone = relay_report(
            states, X_IN[kept, step], X_OUT[kept, step], time_steps=[step], measure=MEASURE
        )["rnn.l0"]
        assert layer.samples[place] == alone.samples[0]
        for part in ("information", "tells", "told", "corrected", "mutual_information", "accuracy"):
            np.testing.assert_allclose(
                getattr(layer["joint"], part)[place], getattr(alone["joint"], part)[0], atol=1e-12
            )


def test_there_is_no_transfer_of_labels_that_change() -> None:
    report = report_of(X_IN, X_OUT, measure=RelayMeasure())
    assert report["rnn.l0"]["joint"].transfer is None
    assert report.measure.n_splits == 0
    assert report.ignored == 0
    assert "90 sequences with labels of each step" in str(report)


def test_totals_are_those_of_all_counted_labels() -> None:
    report = report_of(X_IN, X_OUT)
    pooled = relay_report(
        {"rnn.l0": HiddenStates.of_lengths(VALUES.reshape(-1, 1, UNITS), torch.ones(450).long())},
        *(X_IN.flatten(), X_OUT.flatten()),
        measure=MEASURE,
    )
    assert report.mutual_information == pytest.approx(pooled.mutual_information)
    assert report.input_entropy == pytest.approx(pooled.input_entropy)


@pytest.mark.parametrize(
    ("x_in", "x_out", "words"),
    [
        (X_IN, X_OUT[:, :2], r"got shapes \(90, 5\) and \(90, 2\); they take labels of the same"),
        (X_IN * 0 - 100, X_OUT, "all labels are -100, which is not counted"),
        (torch.where(torch.arange(STEPS) > 0, -100, X_IN), X_OUT, "no label of a step of 'rnn"),
    ],
)
def test_labels_without_a_use_are_refused(x_in: Tensor, x_out: Tensor, words: str) -> None:
    with pytest.raises(ValueError, match=rf"^x_in, x_out: {words}"):
        report_of(x_in, x_out, time_steps=[1, 2])
