"""How long knock-outs take is said once, and shown beside the Trainer's own bars."""

from __future__ import annotations

import importlib.util
import math
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from lightning.pytorch.callbacks import ProgressBar, RichProgressBar, TQDMProgressBar
from tqdm import tqdm

from lightning_relay import KnockoutCallback
from lightning_relay.callbacks import progress
from lightning_relay.callbacks.progress import Progress
from tests.support.models import Classifier, loader
from tests.support.training import quiet_trainer

RUNS = 7 * 3
"""Six units and without, on three batches."""


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def monotonic(self) -> float:
        return self.seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def after_runs(clock: Clock, of_run: float, runs: int, batches: float, sets: int = 9) -> list[str]:
    """What is said of so many runs of some seconds each."""
    said: list[str] = []
    own = Progress(SimpleNamespace(progress_bar_callback=None), said.append)  # type: ignore[arg-type]
    for _ in range(runs):
        clock.seconds += of_run
        own.advance(sets, batches)
    own.close()
    return said


@pytest.mark.parametrize(("of_run", "runs"), [(2.0, 9), (2.0, 30), (0.5, 30), (0.25, 40)])
def test_the_time_is_that_of_a_run_times_their_number(
    clock: Clock, of_run: float, runs: int
) -> None:
    assert after_runs(clock, of_run, runs, batches=8) == [
        f"Knock-outs: 9 sets on 8 batches take about {80 * of_run:.0f} s in an evaluation; "
        "max_batches=, every_n_epochs= and max_sets= of the selection reduce that."
    ]


def test_where_the_number_of_batches_is_not_known_the_time_is_that_of_one(clock: Clock) -> None:
    (said,) = after_runs(clock, 1.5, 12, math.inf)
    assert said.startswith("Knock-outs: 9 sets on every batch take about 15 s in an evaluation;")


@pytest.mark.parametrize(
    ("of_run", "runs", "batches"), [(0.1, 10, 90), (0.09, 100, 11), (0.9, 100, 1), (0.5, 12, 90)]
)
def test_nothing_is_said_of_what_is_short_or_not_known_yet(
    clock: Clock, of_run: float, runs: int, batches: float
) -> None:
    assert after_runs(clock, of_run, runs, batches) == []


def test_a_slow_start_and_runs_that_end_together_do_not_count(clock: Clock) -> None:
    said: list[str] = []
    own = Progress(SimpleNamespace(progress_bar_callback=None), said.append)  # type: ignore[arg-type]
    for batch in range(8):
        own.advance(200, 8)
        clock.seconds += 6.0 if batch == 0 else 2.0
        for _ in range(200):
            own.advance(200, 8)
        clock.seconds += 0.1
    (sentence,) = said
    assert "200 sets on 8 batches take about 17 s" in sentence


@pytest.fixture
def long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every evaluation is a long one."""
    monkeypatch.setattr(progress, "_LONG", 0.0)
    monkeypatch.setattr(progress, "_MEASURED", 0.0)


class Bars(tqdm):
    """Bars of the callback, and how far they came."""

    made: ClassVar[list[Bars]] = []
    at_end: ClassVar[list[tuple[float, float | None]]] = []

    def __init__(self, *args: Any, **options: Any) -> None:
        self.ended = False
        super().__init__(*args, **options)
        Bars.made.append(self)

    def close(self) -> None:
        if not self.ended:
            Bars.at_end.append((self.n, self.total))
        self.ended = True
        super().close()


@pytest.fixture
def bars(monkeypatch: pytest.MonkeyPatch) -> type[Bars]:
    monkeypatch.setattr(progress, "tqdm", Bars)
    monkeypatch.setattr(progress, "_TOGETHER", 0.0)
    tqdm.get_lock()
    Bars.made, Bars.at_end = [], []
    return Bars


def fitted(bar: ProgressBar, **options: Any) -> None:
    quiet_trainer(KnockoutCallback(), bar, enable_progress_bar=True, **options).fit(
        Classifier(), loader(), loader()
    )


@pytest.mark.usefixtures("long")
def test_a_bar_beside_those_of_tqdm(bars: type[Bars], caplog: pytest.LogCaptureFixture) -> None:
    class Ends(TQDMProgressBar):
        """Keeps what Lightning's own bars showed."""

        def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
            if not trainer.sanity_checking:
                shown.append((self.val_progress_bar.n, self.val_progress_bar.total))
            super().on_validation_end(trainer, pl_module)

        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            shown.append((self.train_progress_bar.n, self.train_progress_bar.total))
            super().on_train_epoch_end(trainer, pl_module)

    shown: list[Any] = []
    bar = Ends()
    with caplog.at_level("INFO"):
        fitted(bar)
    assert shown == [(3, 3)] * 4
    sanity, *epochs = bars.at_end
    assert sanity == (3, 3)  # two sets and without, on one batch
    assert epochs == [(RUNS, RUNS)] * 2
    assert {own.pos for own in bars.made} == {-2}  # below those of training and validation
    assert all(not own.leave for own in bars.made)
    assert not [own for own in tqdm._instances if isinstance(own, Bars)]
    said = [text for text in caplog.messages if text.startswith("Knock-outs")]
    assert len(said) == 1


@pytest.mark.usefixtures("long")
def test_a_bar_goes_with_an_exception(bars: type[Bars]) -> None:
    class Failing(Classifier):
        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
            super().validation_step(batch, batch_idx, dataloader_idx)
            if batch_idx == 1:
                raise RuntimeError("failed")

    trainer = quiet_trainer(KnockoutCallback(), TQDMProgressBar(), enable_progress_bar=True)
    with pytest.raises(RuntimeError, match="failed"):
        trainer.validate(Failing(), loader(), verbose=False)
    assert len(bars.made) == len(bars.at_end) == 1
    assert not [own for own in tqdm._instances if isinstance(own, Bars)]


@pytest.mark.usefixtures("long")
@pytest.mark.parametrize("bar", [TQDMProgressBar(refresh_rate=0), None])
def test_there_is_no_bar_where_there_is_none_of_the_trainer(
    bars: type[Bars], bar: ProgressBar | None
) -> None:
    callbacks = [KnockoutCallback()] + ([] if bar is None else [bar])
    quiet_trainer(*callbacks, enable_progress_bar=bar is not None).validate(
        Classifier(), loader(), verbose=False
    )
    assert bars.made == []


def test_there_is_no_bar_for_a_short_evaluation(
    bars: type[Bars], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        fitted(TQDMProgressBar())
    assert bars.made == []
    assert not [text for text in caplog.messages if text.startswith("Knock-outs")]


@pytest.mark.skipif(importlib.util.find_spec("rich") is None, reason="rich is not installed")
@pytest.mark.usefixtures("long")
def test_a_bar_beside_those_of_rich(bars: type[Bars]) -> None:
    class Ends(RichProgressBar):
        """Keeps what Lightning's own bars showed."""

        def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
            if not trainer.sanity_checking:
                task = self.val_progress_bar
                shown.append((task.description, task.completed, task.total))
            super().on_validation_end(trainer, pl_module)

        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            task = self.train_progress_bar
            shown.append((task.description, task.completed, task.total))
            super().on_train_epoch_end(trainer, pl_module)

    shown: list[Any] = []
    bar = Ends()
    torch.manual_seed(0)
    fitted(bar)
    assert [(completed, total) for _, completed, total in shown] == [(3, 3)] * 4
    assert [text.split("]")[-1].split()[0].split("/")[0] for text, *_ in shown] == [
        "Validation",
        "Epoch",
    ] * 2
    assert bar.progress is not None
    own = [task for task in bar.progress.tasks if task.description == "Knock-outs"]
    assert [(task.completed, task.total) for task in own] == [(3, 3), (RUNS, RUNS), (RUNS, RUNS)]
    assert not any(task.visible for task in own)
    assert bars.made == []
