"""Runs that share their work give what runs alone give, whatever comes after the recurrence."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn

from lightning_relay import KnockoutCallback, Logged
from lightning_relay.ablation.runs import KnockoutRuns
from tests.support.ablation import as_loader, assert_report, batches, lively, validated
from tests.support.models import STEPS, Classifier, TwoModules

if TYPE_CHECKING:
    from lightning_relay.rerun import StepResult


class Coupled(Classifier):
    """Class scores of a sequence depend on the others of the batch."""

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.head(self.rnn(x)[0][:, -1])
        return scores - scores.mean(0)


class ToTheFirst(Classifier):
    """Class scores are relative to those of the first sequence of the batch."""

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.head(self.rnn(x)[0][:, -1])
        return scores - 0.5 * scores[:1]


class Selecting(Classifier):
    """Takes as many rows as the batch has."""

    def forward(self, x: Tensor) -> Tensor:
        lengths = torch.arange(len(x)) % STEPS
        scores: Tensor = self.head(self.rnn(x)[0][torch.arange(len(x)), lengths])
        return scores


class Skipping(Classifier):
    """The inputs are added to what was made of them, which one sequence alone allows."""

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.head(self.rnn(x)[0][:, -1])
        return scores + x[:, 0]


class Beside(Classifier):
    """The inputs are seen beside the recurrence too."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(7, 4)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.head(torch.cat([self.rnn(x)[0][:, -1], x[:, 0]], 1))
        return scores


class Flat(Classifier):
    """All steps of a sequence at once."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(6 * STEPS, 4)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.head(self.rnn(x)[0].flatten(1))
        return scores


class Doubled(Classifier):
    """One module, called twice."""

    def forward(self, x: Tensor) -> Tensor:
        output = self.rnn(x)[0][..., :1]
        scores: Tensor = self.head(self.rnn(output)[0][:, -1])
        return scores


class InPlace(Classifier):
    """What the recurrence gives is changed in place."""

    def forward(self, x: Tensor) -> Tensor:
        output, _ = self.rnn(x)
        output.mul_(1.5)[:, 0] = 0.0
        scores: Tensor = self.head(output.sum(1))
        return scores


@pytest.mark.parametrize("sizes", [(16, 16, 16), (1, 16, 5)], ids=str)
@pytest.mark.parametrize(
    "kind", [Coupled, ToTheFirst, Selecting, Skipping, Beside, Flat, Doubled, InPlace, TwoModules]
)
def test_whatever_is_made_of_the_states(kind: type[Classifier], sizes: tuple[int, ...]) -> None:
    model = lively(kind)
    data = batches(*sizes)
    callback = KnockoutCallback()
    validated(model, callback, data=as_loader(data))
    assert_report(callback.reports[0], model, data)


def test_runs_are_one_for_each_set_and_two_without_knock_out() -> None:
    runs = []

    class Counting(Classifier):
        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
            runs.append(len(batch[0]))
            return super().validation_step(batch, batch_idx, dataloader_idx)

    validated(lively(Counting), KnockoutCallback())
    assert runs == [16] * (3 * (1 + 6 + 2))  # Lightning's own, and those of six units


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
