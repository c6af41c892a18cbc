"""Runs that share their work give what runs alone give, whatever comes after the recurrence."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn

from lightning_relay import KnockoutCallback, KnockoutReport
from lightning_relay.ablation.runs import KnockoutEvaluation
from lightning_relay.knockout import lanes as module_of_lanes
from lightning_relay.knockout.lanes import KnockoutLanes
from tests.callbacks.test_knockout import as_loader, assert_report, batches, lively, validated
from tests.relay.test_report import assert_equal
from tests.support.models import STEPS, Classifier, Stacked, Stepped, TwoModules

if TYPE_CHECKING:
    from lightning_relay.rerun import StepResult


@pytest.fixture(autouse=True)
def few_are_stacked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The models here have few units."""
    monkeypatch.setattr(module_of_lanes, "_LEAST_STACKED", 2)


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
    callback = KnockoutCallback("each")
    validated(model, callback, data=as_loader(data))
    assert_report(callback.reports[0], model, data)


class Noisy(Classifier):
    """Drops out in validation too."""

    def forward(self, x: Tensor) -> Tensor:
        hidden = nn.functional.dropout(self.rnn(x)[0][:, -1], 0.4, training=True)
        scores: Tensor = self.head(hidden)
        return scores


@pytest.mark.parametrize("kind", [Classifier, Noisy, Stacked, Stepped])
def test_stacks_of_lanes_give_what_lanes_alone_give(
    kind: type[Classifier], monkeypatch: pytest.MonkeyPatch
) -> None:
    reports: list[KnockoutReport] = []
    stacked: list[int] = []
    plain = KnockoutLanes.stacks

    def counted(lanes: KnockoutLanes) -> list[list[int]]:
        found = plain(lanes)
        stacked.extend(map(len, found))
        return found

    for stacks in (counted, lambda lanes: []):
        monkeypatch.setattr(KnockoutLanes, "stacks", stacks)
        model = lively(kind)
        torch.manual_seed(0)
        callback = KnockoutCallback("each", value=0.3, layers="all")
        validated(model, callback)
        reports += callback.reports
    assert_equal(*reports)
    assert (max(stacked, default=0) > 1) == (kind is not Stepped)
    assert reports[0].predictions_changed.max() > 0


def test_runs_that_share_nothing_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = []

    class Counting(Classifier):
        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
            runs.append(len(batch[0]))
            return super().validation_step(batch, batch_idx, dataloader_idx)

    callback = KnockoutCallback("each")
    validated(lively(Counting), callback)
    # On each batch Lightning's own, two without knock-out, one of all six units at once and one of
    # a single unit that is compared; on the first, one more of these.
    assert len(runs) == 3 * 5 + 1


class LaterCoupled(Classifier):
    """Mixes the sequences of a batch, but not of the first."""

    first = float(batches()[0][0].sum())

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.rnn(x)[0][:, -1]
        if float(x.sum()) != self.first:
            hidden = hidden - hidden.mean(0)
        scores: Tensor = self.head(hidden)
        return scores


def test_mixing_that_shows_late_gives_no_report_and_then_a_right_one() -> None:
    model, callback = lively(LaterCoupled), KnockoutCallback("each")
    with pytest.warns(
        UserWarning, match=r"together: .*depends on others\. There is no knock-out re"
    ):
        validated(model, callback)
    assert callback.reports == []
    validated(model, callback)
    assert_report(callback.reports[0], model, batches())
    asked = KnockoutCallback("each", together=False)
    validated(model, asked)
    assert_equal(asked.reports[0], callback.reports[0])


@pytest.mark.parametrize("metric", ["val_loss", None])
def test_what_is_logged_is_that_of_each_run_alone(metric: str | None) -> None:
    sizes: list[int] = []

    class Logging(Classifier):
        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
            x, y = batch
            scores = self(x)
            sizes.append(len(scores))
            self.log("val_loss", self.loss(scores[: len(y)], y))

    callback = KnockoutCallback("each", metric=metric, target=1)
    validated(lively(Logging), callback)
    if metric is not None:
        assert set(sizes) == {16}
    assert_report(callback.reports[0], lively(Logging), batches())


def test_results_of_the_stack_have_their_own_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[list[StepResult]] = []

    def keep(self: Any, batch: Any, results: Any) -> None:
        kept.append(list(results))
        plain(self, batch, results)

    plain = KnockoutEvaluation._keep
    monkeypatch.setattr(KnockoutEvaluation, "_keep", keep)
    validated(lively(Classifier), KnockoutCallback("each"))
    for results, (x, _) in zip(kept, batches(), strict=True):
        assert len(results) == 7
        for result in results:
            assert result.scores is not None
            assert result.classes is not None
            assert result.scores.shape == (len(x), 4)
            assert torch.equal(result.classes, result.scores.argmax(1))
