"""Which evaluations are analysed; hooks, pickles and the sanity check."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_relay import RelayInformationCallback, SequenceSample
from tests.support.hooks import hook_count
from tests.support.models import Classifier, loader
from tests.support.reports import assert_equal
from tests.support.training import INPUTS, LABELS, batch_of, quiet_trainer


def test_every_validation_and_test_epoch_is_reported() -> None:
    callback = RelayInformationCallback()
    model = Classifier()
    trainer = quiet_trainer(callback, max_epochs=3)
    trainer.fit(model, loader(), loader())
    trainer.validate(model, loader(), verbose=False)
    trainer.test(model, loader(), verbose=False)
    assert [(r.stage, r.epoch, r.global_step) for r in callback.reports] == [
        ("validate", 0, 3),
        ("validate", 1, 6),
        ("validate", 2, 9),
        ("validate", 3, 9),
        ("test", 3, 9),
    ]


def test_epochs_and_stages_can_be_chosen() -> None:
    every_second = RelayInformationCallback(every_n_epochs=2, prefix="second")
    only_test = RelayInformationCallback(stages=["test"], prefix="test")
    model = Classifier()
    trainer = quiet_trainer(every_second, only_test, max_epochs=5)
    trainer.fit(model, loader(), loader())
    trainer.test(model, loader(), verbose=False)
    assert [(r.stage, r.epoch) for r in every_second.reports] == [
        ("validate", 1),
        ("validate", 3),
        ("test", 5),
    ]
    assert [r.stage for r in only_test.reports] == ["test"]


def test_validation_inside_an_epoch_is_reported_each_time() -> None:
    callback = RelayInformationCallback()
    quiet_trainer(callback, max_epochs=1, val_check_interval=1).fit(
        Classifier(), loader(), loader()
    )
    assert [report.global_step for report in callback.reports] == [1, 2, 3]


def test_dataloaders_are_reported_apart(tmp_path: Path) -> None:
    callback = RelayInformationCallback()
    trainer = quiet_trainer(callback, logger=TensorBoardLogger(tmp_path))
    trainer.validate(Classifier(), [loader(48), loader(32)], verbose=False)
    assert [(r.dataloader, r.samples) for r in callback.reports] == [(0, 48), (1, 32)]
    for index, report in enumerate(callback.reports):
        logged = trainer.callback_metrics[f"relay/joint/mutual_information/dataloader_{index}"]
        assert float(logged) == pytest.approx(report.mutual_information["joint"])
    assert len(list(Path(str(trainer.log_dir), "relay_reports").iterdir())) == 2


def test_an_empty_dataloader_among_several_leaves_the_names_of_the_others() -> None:
    trainer = quiet_trainer(RelayInformationCallback())
    with pytest.warns(UserWarning, match="is zero"):
        trainer.validate(Classifier(), [batch_of(INPUTS[:0], LABELS[:0]), loader()], verbose=False)
    assert "relay/joint/mutual_information/dataloader_1" in trainer.callback_metrics


def test_sanity_checking_leaves_no_trace_and_finds_errors_before_training(tmp_path: Path) -> None:
    callback = RelayInformationCallback()
    trainer = quiet_trainer(
        callback, logger=TensorBoardLogger(tmp_path), num_sanity_val_steps=2, limit_train_batches=0
    )
    trainer.fit(Classifier(), loader(), loader())
    assert callback.reports == []
    events = EventAccumulator(str(trainer.log_dir)).Reload()
    assert [tag for kind in ("scalars", "images", "tensors") for tag in events.Tags()[kind]] == []
    assert not Path(str(trainer.log_dir), "relay_reports").exists()

    trained: list[int] = []

    class FloatTargets(Classifier):
        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            trained.append(batch_idx)

        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
            self(batch[0])

    with pytest.raises(ValueError, match=r"target: batch\[1\] float32 \(16,\) could be class"):
        quiet_trainer(RelayInformationCallback(every_n_epochs=2)).fit(
            FloatTargets(), loader(), batch_of(INPUTS, LABELS.float())
        )
    for options, message in (
        (
            {"inputs_end": 99},
            r"inputs_end: got 99, but the longest sequence has 6 steps .*num_sanity_val_steps=-1",
        ),
        (
            {"inputs_end": 3, "sample": SequenceSample(time_steps=[0, 1])},
            "inputs_end: got 3, which comes after every",
        ),
        ({"concepts": {"odd": [].__getitem__}}, "list index out of range"),
    ):
        with pytest.raises((ValueError, IndexError), match=message):
            quiet_trainer(RelayInformationCallback(**options)).fit(
                FloatTargets(), loader(), loader()
            )
    with pytest.raises(ValueError, match="prediction: no submodule 'tail' in FloatTargets"):
        quiet_trainer(RelayInformationCallback(prediction="tail"), num_sanity_val_steps=0).fit(
            FloatTargets(), loader(), loader()
        )
    assert trained == []


def test_no_hook_is_on_the_model_outside_evaluation() -> None:
    counts: list[int] = []

    class Counting(Classifier):
        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            counts.append(hook_count(self))

    model = Counting()
    foreign = model.rnn.register_forward_hook(lambda *_: None)
    callback = RelayInformationCallback()
    trainer = quiet_trainer(callback)
    trainer.fit(model, loader(), loader())
    assert counts == [1] * 6
    trainer.validate(model, loader(), verbose=False)
    assert hook_count(model) == 1
    trainer.test(model, loader(), verbose=False)
    assert hook_count(model) == 1
    foreign.remove()


def test_the_callback_can_be_pickled_before_and_after_a_run() -> None:
    callback = RelayInformationCallback(["rnn"], inputs_end=1)
    twin = pickle.loads(pickle.dumps(callback))
    assert (twin.modules, twin.inputs_end) == (["rnn"], 1)
    quiet_trainer(callback).validate(Classifier(), loader(), verbose=False)
    assert_equal(pickle.loads(pickle.dumps(callback)).reports[0], callback.reports[0])


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("stage", ["fit", "validate", "test"])
def test_no_hook_survives_an_exception_in_the_middle(
    error: type[BaseException], stage: str
) -> None:
    class Failing(Classifier):
        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
            self(batch[0])
            assert hook_count(self) > 0
            if batch_idx == 1:
                raise error("in the middle")

        test_step = validation_step

    model = Failing()
    trainer = quiet_trainer(RelayInformationCallback(), num_sanity_val_steps=0)
    run = {
        "fit": lambda: trainer.fit(model, loader(), loader()),
        "validate": lambda: trainer.validate(model, loader(), verbose=False),
        "test": lambda: trainer.test(model, loader(), verbose=False),
    }[stage]
    with pytest.raises((error, SystemExit)):
        run()
    assert hook_count(model) == 0


def test_no_hook_survives_an_error_of_the_callback_itself() -> None:
    model = Classifier()
    with pytest.raises(ValueError, match="time_steps: got 99, but the longest sequence has 6"):
        quiet_trainer(RelayInformationCallback(sample=SequenceSample(time_steps=[99]))).fit(
            model, loader(), loader()
        )
    assert hook_count(model) == 0


def test_validation_that_was_switched_off_is_only_warned_of() -> None:
    callback = RelayInformationCallback()
    with pytest.warns(UserWarning, match="limit_val_batches=0: there will be no relay analysis"):
        quiet_trainer(callback, limit_val_batches=0).fit(Classifier(), loader(), loader())
    assert callback.reports == []
    quiet_trainer(callback, limit_val_batches=0).validate(Classifier(), loader(), verbose=False)
    assert callback.reports == []


def test_validation_that_comes_late_is_awaited() -> None:
    callback = RelayInformationCallback()
    quiet_trainer(callback, num_sanity_val_steps=0, check_val_every_n_epoch=2).fit(
        Classifier(), loader(), loader()
    )
    assert [report.epoch for report in callback.reports] == [1]


def test_a_fit_that_only_tests_later_needs_no_validation() -> None:
    callback = RelayInformationCallback(stages=["test"])
    model = Classifier()
    trainer = quiet_trainer(callback)
    trainer.fit(model, loader())
    trainer.test(model, loader(), verbose=False)
    assert [report.stage for report in callback.reports] == ["test"]
