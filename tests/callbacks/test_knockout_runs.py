"""Which batches, stages and epochs are run with knock-outs, and which steps cannot be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from torch.utils.data import DataLoader

from lightning_relay import EveryUnit, KnockoutCallback, Logged, Mean
from tests.support.ablation import (
    Stream,
    Untrained,
    as_loader,
    assert_report,
    batches,
    lively,
    recorded,
    refused_before_training,
    validated,
)
from tests.support.models import Classifier, loader
from tests.support.training import INPUTS, LABELS, batch_of, quiet_trainer


def test_batches_and_sets_left_out_are_counted() -> None:
    model = lively(Classifier)
    callback = KnockoutCallback(EveryUnit(max_sets=4), max_batches=2, seed=5)
    validated(model, callback)
    (report,) = callback.reports
    assert (report.samples, report.samples_seen) == (32, 48)
    assert (report.batches, report.batches_seen) == (2, 3)
    assert (len(report.sets), report.sets_left_out) == (4, 2)
    assert_report(report, model, batches()[:2])
    chosen = []
    for seed in (5, 6):
        again = KnockoutCallback(EveryUnit(max_sets=4), max_batches=1, seed=seed)
        validated(model, again)
        chosen.append([some.name for some in again.reports[0].sets])
    assert chosen[0] == [some.name for some in report.sets] != chosen[1]


def test_samples_that_are_not_run_again_are_counted_where_time_comes_first() -> None:
    class TimeFirst(Classifier):
        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
            self.head(self.rnn(batch[0].transpose(0, 1))[0][:, -1])

    data = [(x.transpose(0, 1), y) for x, y in batches()]
    callback = KnockoutCallback(max_batches=1)
    validated(TimeFirst(), callback, data=as_loader(data))
    assert (callback.reports[0].samples, callback.reports[0].samples_seen) == (16, 48)


class Promising(Stream):
    """Says that there are more."""

    def __len__(self) -> int:
        return len(self.data) + 2


@pytest.mark.filterwarnings("ignore:Your `IterableDataset` has `__len__` defined")
def test_sets_of_unknown_or_wrong_length() -> None:
    model = lively(Classifier)
    unknown = KnockoutCallback(value=Mean())
    validated(model, unknown, data=as_loader(Stream(batches())))
    # The first batch must do for the states, as there may be no other.
    assert_report(
        unknown.reports[0], model, batches(), value="mean", states=recorded(model, batches()[:1])
    )
    fewer = KnockoutCallback(value=Mean())
    validated(model, fewer, data=as_loader(Promising(batches())))
    assert_report(
        fewer.reports[0], model, batches(), value="mean", states=recorded(model, batches())
    )


def test_dataloaders_are_apart(tmp_path: Path) -> None:
    model = lively(Classifier)
    parts = [batches(), batches(16, 4)]
    callback = KnockoutCallback(value=Mean())
    trainer = validated(
        model,
        callback,
        data=[as_loader(part) for part in parts],
        logger=TensorBoardLogger(tmp_path),
    )
    assert [(r.dataloader, r.samples) for r in callback.reports] == [(0, 48), (1, 20)]
    for report, part in zip(callback.reports, parts, strict=True):
        assert_report(report, model, part, value="mean", states=recorded(model, part))
    for index, report in enumerate(callback.reports):
        logged = trainer.callback_metrics[f"knockout/accuracy/dataloader_{index}"]
        assert report.accuracy is not None
        assert float(logged) == pytest.approx(float(report.accuracy.baseline))
    assert len(list(Path(str(trainer.log_dir), "knockout_reports").iterdir())) == 2


def test_the_test_stage_and_chosen_epochs() -> None:
    model = lively(Classifier)
    callback = KnockoutCallback(every_n_epochs=2)
    testing = KnockoutCallback(stages=["test"], prefix="only")
    trainer = quiet_trainer(callback, testing, max_epochs=4)
    trainer.fit(model, loader(), loader())
    trainer.test(model, as_loader(batches()), verbose=False)
    assert [(r.stage, r.epoch) for r in callback.reports] == [
        ("validate", 1),
        ("validate", 3),
        ("test", 4),
    ]
    assert [r.stage for r in testing.reports] == ["test"]
    assert_report(callback.reports[-1], model, batches())
    assert {"knockout_test/accuracy", "only_test/accuracy"} <= set(trainer.callback_metrics)


def test_a_step_that_takes_its_batch_apart_is_run_again() -> None:
    class Popping(Classifier):
        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
            y = batch.pop("y")
            self.log("val_loss", self.loss(self(batch.pop("x")), y), batch_size=len(y))

    model = lively(Popping)
    callback = KnockoutCallback()
    data = [{"x": x, "y": y} for x, y in zip(INPUTS, LABELS, strict=True)]
    validated(model, callback, data=DataLoader(data, 16))
    assert_report(callback.reports[0], model, batches())


def test_the_sanity_check_leaves_no_trace() -> None:
    class Alone(Callback):
        def on_sanity_check_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            assert callback.reports == []
            assert not any(name.startswith("knockout") for name in trainer.callback_metrics)
            runs.append(Counting.runs)

    class Counting(Classifier):
        runs = 0

        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
            Counting.runs += 1
            return super().validation_step(batch, batch_idx, dataloader_idx)

    runs: list[int] = []
    callback = KnockoutCallback()
    quiet_trainer(callback, Alone(), max_epochs=1).fit(Counting(), loader(), loader())
    # Two batches by Lightning; one of them again without, twice, and with two sets at most.
    assert runs[0] <= 2 + 2 + 2 * 2
    assert len(callback.reports) == 1


def test_training_mode_in_validation() -> None:
    class Careless(Untrained):
        def on_validation_model_eval(self) -> None:
            super().on_validation_model_eval()
            self.rnn.train()

    refused_before_training(
        KnockoutCallback(),
        r"model: 'rnn' \(GRU\) is in training mode; knock-outs take a model in evaluation mode",
        kind=Careless,
        error=RuntimeError,
    )


def test_steps_that_are_not_repeatable() -> None:
    class Stateful(Untrained):
        def __init__(self) -> None:
            super().__init__()
            self.seen = 0

        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
            self.seen += 1
            self(batch[0] + self.seen)

    refused_before_training(
        KnockoutCallback(),
        r"pl_module: the validation_step gave other (predicted classes|class scores) when it was",
        kind=Stateful,
    )


class Carrying(Classifier):
    """Goes on from the state of the batch before, but for the first."""

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        if batch_idx == 0:
            self.state = None
        output, state = self.rnn(batch[0], self.state)
        self.state = state.detach()
        self.log("val_loss", self.loss(self.head(output[:, -1]), batch[1]))


@pytest.mark.parametrize("score", [None, Logged("val_loss")])
def test_a_state_that_later_batches_start_from_is_noticed(score: Logged | None) -> None:
    words = "numbers to log as 'val_loss'" if score else "(predicted classes|class scores)"
    callback = KnockoutCallback(score=score, prediction=None if score else "head")
    with pytest.raises(ValueError, match=f"pl_module: the validation_step gave other {words}"):
        validated(lively(Carrying), callback)


def test_nothing_to_evaluate() -> None:
    empty = batch_of(INPUTS[:0], LABELS[:0])
    with pytest.warns(UserWarning, match="is zero"):
        refused_before_training(
            KnockoutCallback(), "dataloader: the validation set is empty", data=empty
        )
    with pytest.raises(ValueError, match="dataloader: the test set is empty"):
        quiet_trainer(KnockoutCallback()).test(Classifier(), as_loader(Stream([])), verbose=False)
    with pytest.raises(ValueError, match=r"dataloader: there is no validation set or .* stages="):
        quiet_trainer(KnockoutCallback()).fit(Classifier(), loader())
