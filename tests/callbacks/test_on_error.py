"""Errors of the analyses: where they end a run, and where training goes on."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor

from lightning_relay import EveryUnit, KnockoutCallback, NamedSets, RelayInformationCallback
from lightning_relay.recurrent import recorder
from tests.support.hooks import hook_count
from tests.support.models import Classifier, Stepped, loader
from tests.support.training import quiet_trainer

if TYPE_CHECKING:
    from pathlib import Path

KINDS: list[Any] = [RelayInformationCallback, KnockoutCallback]
GOES_ON = "; training goes on. "
WHERE = {
    "_start": "at the start of an evaluation",
    "_before_step": "before a step",
    "_after_step": "after a step",
    "_finish": "at the end of an evaluation",
}


def failing_after_the_sanity_check(kind: Any, place: str, error: BaseException) -> type[Any]:
    """The callback, with one of its parts failing in the first epoch after the sanity check."""

    class Failing(kind):  # type: ignore[misc]
        failures = 0

        def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            self.fails = trainer.current_epoch < 2

    def fail(self: Any, *arguments: Any) -> None:
        if getattr(self, "fails", False):
            self.failures += 1
            raise error
        getattr(kind, place)(self, *arguments)

    setattr(Failing, place, fail)
    return Failing


def reported(caught: pytest.WarningsRecorder) -> list[str]:
    messages = [str(warning.message) for warning in caught]
    return [message for message in messages if GOES_ON in message]


@pytest.mark.parametrize("place", list(WHERE))
@pytest.mark.parametrize("kind", KINDS)
def test_training_goes_on_after_an_error_that_is_reported_once(kind: Any, place: str) -> None:
    callback = failing_after_the_sanity_check(kind, place, KeyError("gone", 3))()
    seen = []

    class Watching(Callback):
        def on_validation_batch_end(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
            if getattr(callback, "fails", False) and place == "_before_step":
                seen.append(hook_count(pl_module))

    seed_everything(1, verbose=False)
    model = Classifier()
    with pytest.warns(UserWarning, match=GOES_ON) as caught:
        quiet_trainer(callback, Watching(), max_epochs=4).fit(model, loader(), loader())
    (message,) = reported(caught)
    assert re.search(
        rf"analysis '\w+' failed {WHERE[place]}, so this evaluation has no report; training goes "
        r"on\. KeyError: \('gone', 3\) \(test_on_error\.py, line \d+\)",
        message,
    )
    assert callback.failures == 2
    assert [report.epoch for report in callback.reports] == [2, 3]
    assert set(seen) <= {0}
    assert hook_count(model) == 0
    seed_everything(1, verbose=False)
    without = Classifier()
    quiet_trainer(max_epochs=4).fit(without, loader(), loader())
    torch.testing.assert_close(model.state_dict(), without.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_the_fit_ends_if_that_is_asked_for(kind: Any) -> None:
    callback = failing_after_the_sanity_check(kind, "_after_step", RuntimeError("ours"))
    model = Classifier()
    with pytest.raises(RuntimeError, match="ours"):
        quiet_trainer(callback(on_error="raise")).fit(model, loader(), loader())
    assert hook_count(model) == 0
    with pytest.raises(ValueError, match="on_error: got 'ignore'; it takes 'warn', 'raise'"):
        kind(on_error="ignore")


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3), GeneratorExit()])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_error_passes(kind: Any, error: BaseException) -> None:
    callback = failing_after_the_sanity_check(kind, "_after_step", error)()
    model = Classifier()
    with pytest.raises((type(error), SystemExit)):
        quiet_trainer(callback).fit(model, loader(), loader())
    assert hook_count(model) == 0


@pytest.mark.parametrize("run", ["fit", "fast_dev_run", "validate", "test"])
@pytest.mark.parametrize("kind", KINDS)
def test_errors_end_what_is_no_training(kind: Any, run: str) -> None:
    class Failing(kind):  # type: ignore[misc]
        def _after_step(self, *_: Any) -> None:
            raise ValueError("told wrongly")

    model, trainer = Classifier(), quiet_trainer(Failing(), fast_dev_run=run == "fast_dev_run")
    run = "fit" if run == "fast_dev_run" else run
    data = [loader()] * (2 if run == "fit" else 1)
    with pytest.raises(ValueError, match="told wrongly"):
        getattr(trainer, run)(model, *data)
    assert hook_count(model) == 0


def test_an_error_of_a_hook_does_not_end_the_step_it_runs_in(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    steps = []

    class Counting(Stepped):
        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
            super().validation_step(batch, batch_idx, dataloader_idx)
            steps.append(self.trainer.sanity_checking)

    def fail(*_: Any) -> Any:
        raise torch.OutOfMemoryError("no room for states")

    class BreakingLater(Callback):
        def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            monkeypatch.setattr(recorder, "read_call", fail)

    model, relay = Counting(), RelayInformationCallback()
    with pytest.warns(UserWarning, match=r"after a step, .*OutOfMemoryError: no room for states"):
        quiet_trainer(relay, BreakingLater(), max_epochs=1).fit(model, loader(), loader())
    assert steps == [True] * 2 + [False] * 3
    assert relay.reports == []


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("what", ["scalars", "images", "file"])
def test_a_report_that_cannot_be_shown_or_saved_is_kept(
    kind: Any, what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError("no space left")

    own_log = LightningModule.log

    def log(module: LightningModule, name: str, *arguments: Any, **options: Any) -> None:
        if name.startswith(("relay", "knockout")):
            fail()
        own_log(module, name, *arguments, **options)

    callback = kind()
    if what == "scalars":
        monkeypatch.setattr(LightningModule, "log", log)
    if what == "images":
        for module in ("relay_information.relay_faces", "knockout.knockout_faces"):
            monkeypatch.setattr(f"lightning_relay.callbacks.{module}", fail)
    elif what == "file":
        monkeypatch.setattr(kind._report, "save", fail)
    with pytest.warns(UserWarning, match=GOES_ON) as caught:
        quiet_trainer(callback, logger=TensorBoardLogger(tmp_path), log_every_n_steps=1).fit(
            Classifier(), loader(), loader()
        )
    (message,) = reported(caught)
    kept = "It is kept in the" if what == "file" else "its report is in the"
    assert f"{kept} callback's reports" in message
    assert [report.epoch for report in callback.reports] == [0, 1]
    saved = list(tmp_path.rglob("*.npz"))
    assert len(saved) == (0 if what == "file" else 2)


def test_a_monitored_metric_that_is_missing_is_named() -> None:
    kind = failing_after_the_sanity_check(RelayInformationCallback, "_finish", OSError("ours"))
    stopping = EarlyStopping("relay/joint/mutual_information", strict=False)
    with pytest.warns(UserWarning, match=GOES_ON) as caught:
        quiet_trainer(kind(), stopping).fit(Classifier(), loader(), loader())
    (message,) = reported(caught)
    assert "Monitored and not logged in this evaluation: 'relay/joint/mutual_inf" in message


def test_a_report_that_cannot_be_put_in_a_checkpoint_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise OSError("no space left")

    relay = RelayInformationCallback()
    monkeypatch.setattr(relay._report, "save", fail)
    trainer = quiet_trainer(relay)
    trainer.fit(Classifier(), loader(), loader())
    with pytest.warns(UserWarning, match="is not in the checkpoint: OSError: no space left"):
        trainer.save_checkpoint(tmp_path / "a.ckpt")
    relay.on_error = "raise"
    with pytest.raises(OSError, match="no space left"):
        trainer.save_checkpoint(tmp_path / "b.ckpt")


class Dividing(Classifier):
    """Divides by the states, of which a knock-out may leave none."""

    def forward(self, x: Tensor) -> Tensor:
        final = self.rnn(x)[0][:, -1]
        if not self.trainer.sanity_checking:
            final = final / final[:, 2:].abs().sum(1, keepdim=True)
        scores: Tensor = self.head(final)
        return scores


def test_a_knock_out_that_divides_by_zero_is_named_and_training_goes_on() -> None:
    knockouts = KnockoutCallback(
        NamedSets({"first": {"rnn.l0": [0]}, "all others": {"rnn.l0": [2, 3, 4, 5]}})
    )
    relay = RelayInformationCallback()
    with pytest.warns(UserWarning, match=GOES_ON) as caught:
        quiet_trainer(knockouts, relay).fit(Dividing(), loader(), loader())
    (message,) = reported(caught)
    assert "while the set 'all others' is knocked out, and finite without it" in message
    assert "diverging" not in message
    assert knockouts.reports == []
    assert [report.epoch for report in relay.reports] == [0, 1]


def test_an_error_of_another_callback_is_not_swallowed() -> None:
    class Other(Callback):
        def on_validation_batch_end(self, *_: Any) -> None:
            raise ValueError("the user's own")

    for kind in KINDS:
        for callbacks in ([Other(), kind()], [kind(), Other()]):
            model = Classifier()
            with pytest.raises(ValueError, match="the user's own"):
                quiet_trainer(*callbacks, num_sanity_val_steps=0).fit(model, loader(), loader())
            assert hook_count(model) == 0


def test_hooks_come_off_when_another_callback_fails_before_ours_is_told() -> None:
    class Failing(Callback):
        def on_validation_batch_end(self, *_: Any) -> None:
            raise ValueError("first")

        def on_exception(self, *_: Any) -> None:
            raise RuntimeError("before ours was told")

    model, relay = Classifier(), RelayInformationCallback(latent=True)
    knockouts = KnockoutCallback(EveryUnit(max_sets=2))
    callbacks = [Failing(), relay, knockouts]
    trainer = quiet_trainer(*callbacks, num_sanity_val_steps=0)
    with pytest.raises(RuntimeError, match="before ours was told"):
        trainer.fit(model, loader(), loader())
    assert hook_count(model) == 0
    assert relay._capture is relay._latent is knockouts._pass is None
    assert set(trainer.callbacks) == set(callbacks)


def test_the_list_of_callbacks_is_as_it_was_after_every_evaluation() -> None:
    lists = []

    class Listing(Callback):
        def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
            lists.append(list(trainer.callbacks))

    callbacks = [RelayInformationCallback(), Listing(), KnockoutCallback(EveryUnit(max_sets=2))]
    trainer = quiet_trainer(*callbacks)
    trainer.fit(Classifier(), loader(), loader())
    assert lists
    assert all(seen == callbacks for seen in [*lists, trainer.callbacks])


class Twice(Classifier):
    """A step that fails when it is run again on the same batch, after the sanity check."""

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        place = (self.trainer.current_epoch, batch_idx)
        if not self.trainer.sanity_checking:
            if place in RUN:
                raise ERROR[0]
            RUN.add(place)
        return super().validation_step(batch, batch_idx, dataloader_idx)


RUN: set[tuple[int, int]] = set()
ERROR: list[BaseException] = []


class UnsayableError(Exception):
    def __str__(self) -> str:
        raise self


@pytest.mark.parametrize(
    "error", [ValueError("again"), MemoryError(), KeyError(("odd", 1), None), UnsayableError()]
)
def test_a_step_that_fails_when_it_is_run_again_does_not_end_the_fit(error: Exception) -> None:
    weights = []
    ERROR[:] = [error]
    for callbacks in ([], [KnockoutCallback()]):
        RUN.clear()
        seed_everything(4, verbose=False)
        model = Twice()
        if not callbacks:
            quiet_trainer().fit(model, loader(shuffle=True), loader())
        else:
            with pytest.warns(UserWarning, match=GOES_ON) as caught:
                quiet_trainer(*callbacks).fit(model, loader(shuffle=True), loader())
            (message,) = reported(caught)
            assert type(error).__name__ in message
        weights.append(model.state_dict() | {"stream": torch.get_rng_state()})
    torch.testing.assert_close(weights[0], weights[1], rtol=0, atol=0)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3), GeneratorExit()])
def test_an_interrupt_while_the_step_is_run_again_arrives(error: BaseException) -> None:
    RUN.clear()
    ERROR[:] = [error]
    model = Twice()
    with pytest.raises((type(error), SystemExit)):
        quiet_trainer(KnockoutCallback()).fit(model, loader(), loader())
    assert hook_count(model) == 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("place", list(WHERE))
def test_the_first_analysis_of_a_fit_is_the_trial_where_there_is_no_sanity_check(
    kind: Any, place: str
) -> None:
    callback = failing_after_the_sanity_check(kind, place, KeyError("gone"))
    model = Classifier()
    with pytest.raises(KeyError, match="gone"):
        quiet_trainer(callback(), num_sanity_val_steps=0).fit(model, loader(), loader())
    assert hook_count(model) == 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", [{"target": 7}, {"concepts": {"odd": lambda label: [label]}}])
def test_wrong_arguments_are_refused_without_a_sanity_check(
    kind: Any, options: dict[str, Any]
) -> None:
    with pytest.raises((ValueError, TypeError), match=f"^{next(iter(options))}: "):
        quiet_trainer(kind(**options), num_sanity_val_steps=0).fit(Classifier(), loader(), loader())


class FailingLater(RelayInformationCallback):
    """Fails in the epochs of its list, also in a run that begins there."""

    failing: tuple[int, ...] = ()

    def _after_step(self, outputs: Any, batch_idx: int, dataloader: int) -> None:
        assert self._model is not None
        model: Any = self._model()
        if model.trainer.current_epoch in self.failing and not model.trainer.sanity_checking:
            raise OSError("ours")
        super()._after_step(outputs, batch_idx, dataloader)


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`, callbacks")
@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before")
@pytest.mark.parametrize(("sanity", "failing", "epochs"), [(0, (1,), [0, 2]), (2, (0, 1), [2])])
def test_what_was_tried_is_not_tried_again_when_a_run_is_resumed(
    sanity: int,
    failing: tuple[int, ...],
    epochs: list[int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(FailingLater, "failing", failing)
    within_an_epoch = ModelCheckpoint(tmp_path, "kept", every_n_train_steps=5)

    def fit(*callbacks: Callback, **options: Any) -> None:
        trainer = quiet_trainer(*callbacks, **options)
        path = tmp_path / "kept.ckpt"
        trainer.fit(Classifier(), loader(), loader(), ckpt_path=path if path.exists() else None)

    with pytest.warns(UserWarning, match=GOES_ON):
        fit(
            FailingLater(),
            within_an_epoch,
            num_sanity_val_steps=sanity,
            enable_checkpointing=True,
        )
    resumed = FailingLater()
    with pytest.warns(UserWarning, match=GOES_ON):
        fit(resumed, max_epochs=3, num_sanity_val_steps=sanity)
    assert [report.epoch for report in resumed.reports] == epochs
    with pytest.raises(OSError, match="ours"):
        fit(FailingLater(prefix="new"), max_epochs=3)


def test_an_error_at_the_start_of_an_evaluation_is_not_kept_for_its_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Several processes wait for each other at the end of what they follow, and only then."""
    callback = RelayInformationCallback()
    trainer = quiet_trainer(callback)
    trainer.validate(Classifier(), loader(), verbose=False)
    callback._waited_for = True  # as after an evaluation of several processes

    def fails(*_: object) -> None:
        raise KeyError("start")

    monkeypatch.setattr(callback, "_start", fails)
    with pytest.raises(KeyError, match="start"):
        trainer.validate(Classifier(), loader(), verbose=False)
