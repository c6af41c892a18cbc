"""Runs that share their work give what runs alone give, whatever comes after the recurrence."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lightning_relay import KnockoutCallback, Logged, Mean
from lightning_relay.ablation.runs import KnockoutRuns
from lightning_relay.knockout.lanes import _SharedForward
from tests.support.ablation import as_loader, assert_report, batches, lively, validated
from tests.support.models import STEPS, Classifier, TwoModules
from tests.support.tally import Tally

if TYPE_CHECKING:
    from collections.abc import Callable

    from lightning_relay.rerun import StepResult


def mixed(scores: Tensor) -> Tensor:
    """Scores of a sequence depend on the others of the batch."""
    return scores - scores.mean(0)


def selected(states: Tensor) -> Tensor:
    """One step for each row; the number of rows is that of the batch."""
    rows = torch.arange(len(states))
    return states[rows, rows % STEPS]


def changed_in_place(states: Tensor) -> Tensor:
    states.mul_(1.5)[:, 0] = 0.0
    return states.sum(1)


FORWARDS: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "relative to the batch": lambda m, x: mixed(m.head(m.rnn(x)[0][:, -1])),
    "relative to its first": lambda m, x: (own := m.head(m.rnn(x)[0][:, -1])) - 0.5 * own[:1],
    "rows selected": lambda m, x: m.head(selected(m.rnn(x)[0])),
    "inputs added": lambda m, x: m.head(m.rnn(x)[0][:, -1]) + x[:, 0],
    "inputs beside": lambda m, x: m.head(torch.cat([m.rnn(x)[0][:, -1], x[:, 0]], 1)),
    "all steps": lambda m, x: m.head(m.rnn(x)[0].flatten(1)),
    "called twice": lambda m, x: m.head(m.rnn(m.rnn(x)[0][..., :1])[0][:, -1]),
    "changed in place": lambda m, x: m.head(changed_in_place(m.rnn(x)[0])),
}
FEATURES = {"inputs beside": 7, "all steps": 6 * STEPS}


@pytest.mark.parametrize("sizes", [(16, 16, 16), (1, 16, 5)], ids=str)
@pytest.mark.parametrize("name", [*FORWARDS, "two modules"])
def test_whatever_is_made_of_the_states(name: str, sizes: tuple[int, ...]) -> None:
    class Made(Classifier):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(FEATURES.get(name, 6), 4)

        def forward(self, x: Tensor) -> Tensor:
            return FORWARDS[name](self, x)

    model = lively(Made if name in FORWARDS else TwoModules)
    data = batches(*sizes)
    callback = KnockoutCallback()
    validated(model, callback, data=as_loader(data))
    assert_report(callback.reports[0], model, data)


@pytest.mark.parametrize("score", [None, Logged("val_loss")], ids=["classes", "logged"])
@pytest.mark.parametrize("value", [0.0, Mean()])
def test_where_shared_work_rounds_to_other_scores_sets_are_run_alone(
    score: Any, value: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    plain = _SharedForward._run
    shared: Tally[int] = Tally()

    def rounded(self: Any, call: Any, offset: int) -> Any:
        result = plain(self, call, offset)
        if not self._share:
            return result
        shared.add(len(result.output))
        return replace(result, output=result.output * 1.00001)

    class Logging(Classifier):
        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
            x, y = batch
            self.log("val_loss", self.loss(self(x), y))

    reports = []
    for run in (plain, rounded):
        monkeypatch.setattr(_SharedForward, "_run", run)
        callback = KnockoutCallback(score=score, value=value, target=1)
        validated(lively(Logging), callback)
        reports += callback.reports
    assert caplog.text.count("the network makes much of rounding") == 1
    assert 0 < len(shared.taken()) < 3 * (1 + 6)  # one batch at most; three batches, six units
    right, found = (
        [
            *report.predictions_changed,
            *(own for part in report.metrics.values() for own in part.damage),
        ]
        for report in reports
    )
    np.testing.assert_allclose(found, right, rtol=1e-5)


def test_runs_of_logged_numbers_are_one_for_each_set_and_two_without_knock_out() -> None:
    runs: Tally[int] = Tally()

    class Counting(Classifier):
        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
            runs.add(len(batch[0]))
            return super().validation_step(batch, batch_idx, dataloader_idx)

    validated(lively(Counting), KnockoutCallback(score=Logged("val_loss"), target=1))
    assert runs.taken() == [16] * (3 * (1 + 6 + 2))  # Lightning's own, and those of six units


def test_a_logged_number_is_that_of_every_run() -> None:
    class Logging(Classifier):
        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
            x, y = batch
            self.log("val_loss", self.loss(self(x), y))

    callback = KnockoutCallback(score=Logged("val_loss"), target=1)
    validated(lively(Logging), callback)
    assert_report(callback.reports[0], lively(Logging), batches())


def test_results_of_every_run_have_their_own_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[list[StepResult]] = []

    def keep(self: Any, batch: Any, results: Any) -> None:
        kept.append(list(results))
        plain(self, batch, results)

    plain = KnockoutRuns._keep
    monkeypatch.setattr(KnockoutRuns, "_keep", keep)
    validated(lively(Classifier), KnockoutCallback())
    for results, (x, _) in zip(kept, batches(), strict=True):
        assert len(results) == 7
        for result in results:
            assert result.scores is not None
            assert result.classes is not None
            assert result.scores.shape == (len(x), 4)
            assert torch.equal(result.classes, result.scores.argmax(1))
