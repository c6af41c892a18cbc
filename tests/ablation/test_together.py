"""Sets run together give what they give one after the other, and so do steps that cannot be."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn

from lightning_relay import EveryUnit, KnockoutCallback, RandomSets
from lightning_relay.ablation.runs import KnockoutRuns
from lightning_relay.knockout import lanes
from tests.support.ablation import Ragged, as_loader, batches, lively, validated
from tests.support.models import STEPS, Classifier, PlainRNN, Projected, TwoModules, WithoutForward
from tests.support.tally import Tally

if TYPE_CHECKING:
    from lightning_relay import KnockoutReport


class Counting(Classifier):
    """Counts the runs of the step, of all copies."""

    runs: Tally[int]

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        self.runs.add(batch_idx)
        return super().validation_step(batch, batch_idx, dataloader_idx)


class LSTM(Classifier):
    cell = nn.LSTM


class Deep(Classifier):
    """Two layers with dropout between them."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(1, 6, num_layers=2, dropout=0.4, batch_first=True)


class Normed(Classifier):
    """A norm over the batch and another layer after the recurrence."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(6)

    def forward(self, x: Tensor) -> Tensor:
        states, final = self.rnn(x)
        scores: Tensor = self.head(self.norm(states[:, -1]).relu() + final[0])
        return scores


class Drawing(Classifier):
    def forward(self, x: Tensor) -> Tensor:
        hidden = self.rnn(x)[0][:, -1]
        noise = 0.1 * torch.rand_like(hidden) + 0.1 * torch.rand(6)
        scores: Tensor = self.head(nn.functional.dropout(hidden, 0.5) + noise)
        return scores


class InPlace(Classifier):
    def forward(self, x: Tensor) -> Tensor:
        states = self.rnn(x)[0]
        states.mul_(1.5)[:, 0] = 0.0
        states[:, :, 1] += 0.1
        scores: Tensor = self.head(states.sum(1))
        return scores


class Storing(Classifier):
    """Keeps what it computed, in attributes, buffers and lists, and reads some of it."""

    def __init__(self) -> None:
        super().__init__()
        self.last: Any = None
        self.seen: list[Tensor] = []
        self.kept: dict[str, Tensor] = {}
        self.register_buffer("state", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.rnn(x)[0][:, -1]
        self.last, self.state = hidden, hidden.mean(0)
        self.seen.append(hidden)
        self.kept["hidden"] = hidden
        torch.cat(self.seen).sum().item()
        scores: Tensor = self.head(self.kept["hidden"])
        return scores


class Branching(Classifier):
    def forward(self, x: Tensor) -> Tensor:
        hidden = self.rnn(x)[0][:, -1]
        if hidden.mean().item() > 0:
            hidden = hidden * 2
        scores: Tensor = self.head(hidden)
        return scores


class Deceived(Classifier):
    """Takes another way where an error is raised."""

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.rnn(x)[0][:, -1]
        try:
            factor = float(hidden[0, 0])
        except RuntimeError:
            factor = 3.0
        scores: Tensor = self.head(hidden * factor)
        return scores


class DeceivedLater(Classifier):
    """Takes another way in few lanes, where no error is raised."""

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.rnn(x)[0][:, -1]
        try:
            rare = bool((hidden[:, 2] == 0).all())
        except Exception:
            rare = False
        scores: Tensor = self.head(hidden * 3 if rare else hidden)
        return scores


class Helper:
    """An object of the user's."""

    last: Any = None


class StoringDeep(Classifier):
    """Keeps what it computed below containers, in an object and in a closure, and reads it."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: dict[str, Any] = {"first": {}, "all": ([],)}
        self.helper = Helper()
        own: list[Tensor] = []
        self.remember = lambda hidden: own.append(hidden)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.rnn(x)[0][:, -1]
        for old in (self.kept["first"].get("hidden"), self.helper.last, *self.kept["all"][0]):
            if old is not None:
                float(old.sum())
        self.kept["first"]["hidden"] = self.helper.last = hidden
        self.kept["all"][0].append(hidden)
        self.remember(hidden)
        scores: Tensor = self.head(hidden)
        return scores


class Slow(Classifier):
    """An operation that vmap runs for one lane after the other, about which it warns."""

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.rnn(x)[0][:, -1]
        scores: Tensor = self.head(hidden + 0.01 * torch.histc(hidden, bins=6))
        return scores


class InPieces(Classifier):
    def forward(self, x: Tensor) -> Tensor:
        _, state = self.rnn(x[:, :3])
        scores: Tensor = self.head(self.rnn(x[:, 3:], state)[0][:, -1])
        return scores


class Twice(Classifier):
    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.head(self.rnn(self.rnn(x)[0][..., :1])[0][:, -1])
        return scores


class CellAfter(Classifier):
    """A cell in a loop reads the states of a module."""

    def __init__(self) -> None:
        super().__init__()
        self.own = nn.GRUCell(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        state = torch.zeros(len(x), 6)
        for hidden in self.rnn(x)[0].unbind(1):
            state = self.own(hidden, state)
        scores: Tensor = self.head(state)
        return scores


TOGETHER = [
    *(PlainRNN, Classifier, LSTM, Deep, WithoutForward, Projected, Ragged),
    *(Normed, Drawing, InPlace, Slow),
]
ALONE = [
    *(Storing, StoringDeep, Branching, Deceived, DeceivedLater, InPieces, Twice),
    *(TwoModules, CellAfter),
]
LAST = RandomSets(n=30, step=-1)
BOTH = RandomSets(n=12, step=[-1, 2], states=("hidden", "cell"))


def counting(kind: type[Classifier]) -> type[Classifier]:
    return type(kind.__name__, (Counting, kind), {"runs": Tally()})


def scores_of(
    kind: type[Classifier], which: Any, patch: pytest.MonkeyPatch, **options: Any
) -> tuple[list[Tensor], KnockoutReport, int]:
    """Class scores ``(set + 1, batch, class)`` of each batch, and the number of runs of steps."""
    kept = []
    plain = KnockoutRuns._keep

    def keep(self: Any, batch: Any, results: Any) -> None:
        kept.append(torch.stack([result.scores for result in results]))
        plain(self, batch, results)

    counted = counting(kind)
    callback = KnockoutCallback(which)
    with patch.context() as own:
        own.setattr(KnockoutRuns, "_keep", keep)
        validated(lively(counted), callback, data=as_loader(batches(16, 16, 7)), **options)
    return kept, callback.reports[0], len(counted.runs.taken())  # type: ignore[attr-defined]


def compare(
    kind: type[Classifier], which: Any, patch: pytest.MonkeyPatch, **options: Any
) -> tuple[int, int, int]:
    """Number of sets, and of runs together and one by one; the class scores must be the same."""
    found, report, runs = scores_of(kind, which, patch, **options)
    with patch.context() as own:
        own.setattr(lanes, "_STATES", 0)
        expected, _, alone = scores_of(kind, which, patch, **options)
    for together, one_by_one in zip(found, expected, strict=True):
        largest = float(one_by_one.abs().max())
        torch.testing.assert_close(together, one_by_one, rtol=0, atol=1e-6 * largest)
        assert float((one_by_one[1:] - one_by_one[0]).abs().max()) > 1e-3 * largest
    return len(report.sets), runs, alone


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@pytest.mark.parametrize("which", [EveryUnit(), LAST, BOTH], ids=["units", "last", "both"])
@pytest.mark.parametrize("kind", TOGETHER)
def test_sets_run_together(kind: type[Classifier], which: Any, monkeypatch: Any) -> None:
    if which is BOTH and kind not in (LSTM, Deep, WithoutForward, Ragged):
        pytest.skip("no cell states, or of another width")
    sets, runs, alone = compare(kind, which, monkeypatch)
    recorded = 3 * isinstance(which, RandomSets)
    assert alone == 3 * (1 + sets + 2) + recorded  # Lightning's own, and two without knock-out
    assert runs == 3 * (1 + 1 + 2) + 4 + recorded  # one for all sets; two and later one to compare


@pytest.mark.parametrize("which", [EveryUnit(), LAST], ids=["units", "last"])
@pytest.mark.parametrize("kind", ALONE)
def test_steps_that_cannot_be_run_together(
    kind: type[Classifier], which: Any, monkeypatch: Any
) -> None:
    if kind in (InPieces, Twice) and which is LAST:
        pytest.skip("the end of a sequence, or its last state, is not known")
    compare(kind, which, monkeypatch)


def test_what_failed_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    sets, runs, alone = compare(Branching, LAST, monkeypatch)
    assert (sets, runs - alone) == (sets, 3)  # two to compare with and one together


@pytest.mark.parametrize("states", [1, 16 * STEPS * 6 * 4, 2**22])
def test_blocks_of_any_size(states: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "_STATES", states)
    compare(LSTM, BOTH, monkeypatch)


@pytest.mark.parametrize("options", [{"inference_mode": False}, {"precision": "bf16-mixed"}])
def test_whatever_the_trainer_sets(options: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    compare(Classifier, LAST, monkeypatch, **options)


def test_nothing_is_told_of_slow_operations_and_filters_stay(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = list(warnings.filters)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        compare(Slow, LAST, monkeypatch)
    assert not [one for one in told if "performance drop" in str(one.message)]
    assert list(warnings.filters) == before


def test_the_module_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    model = lively(Storing)
    validated(model, KnockoutCallback(LAST))
    assert len(model.seen) == 1 + 3  # type: ignore[arg-type]
    assert torch.isfinite(torch.cat(list(model.seen))).all()  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt])
def test_an_exception_of_the_step_is_that_of_the_user(kind: type[BaseException]) -> None:
    calls: list[None] = []

    class Failing(Classifier):
        def forward(self, x: Tensor) -> Tensor:
            hidden = self.rnn(x)[0][:, -1]
            calls.append(None)
            if len(calls) > 4:  # the run together, and all later ones
                raise kind("mine")
            scores: Tensor = self.head(hidden)
            return scores

    model = lively(Failing)
    calls.clear()
    with pytest.raises((kind, SystemExit)):
        validated(model, KnockoutCallback(LAST))
    assert "forward" not in vars(model.rnn)
    assert not model.head._forward_hooks
