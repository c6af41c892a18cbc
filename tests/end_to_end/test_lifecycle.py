"""Everything that a Trainer does around a validation, with hooks counted before and after."""

from __future__ import annotations

import copy
import pickle
from typing import TYPE_CHECKING, Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import (
    EMAWeightAveraging,
    ModelCheckpoint,
    StochasticWeightAveraging,
)

from lightning_relay import (
    AlongOrder,
    EveryUnit,
    HiddenStateRecorder,
    KnockoutCallback,
    RelayInformationCallback,
    RelayMeasure,
    knocked_out,
    relay_report,
)
from lightning_relay.knockout.lanes import KnockoutLanes
from tests.support.hooks import hook_count
from tests.support.models import Classifier, Stacked, Stepped, loader
from tests.support.reports import assert_equal
from tests.support.tally import Tally
from tests.support.training import INPUTS, LABELS, quiet_trainer

if TYPE_CHECKING:
    from pathlib import Path

ALL: dict[str, Any] = {"layers": "all", "states": ("hidden", "cell")}


class HookCounter(Callback):
    """Counts hooks at every training batch and after every validation."""

    def __init__(self) -> None:
        self.counts: set[int] = set()

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self.counts.add(hook_count(pl_module))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.counts.add(hook_count(pl_module))


def fitted(
    *callbacks: Callback, model: Classifier | None = None, **options: Any
) -> tuple[Classifier, RelayInformationCallback]:
    """A model with one hook of its own, trained; fails if other hooks are ever left on it."""
    seed_everything(3, verbose=False)
    model = Stacked() if model is None else model
    foreign = model.head.register_forward_hook(lambda *_: None)
    relay, counter = RelayInformationCallback(**ALL), HookCounter()
    quiet_trainer(relay, *callbacks, counter, **options).fit(model, loader(shuffle=True), loader())
    assert counter.counts == {1}
    assert hook_count(model) == 1
    foreign.remove()
    return model, relay


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({"max_epochs": 2}, [3, 6]),
        ({"max_epochs": 2, "val_check_interval": 1}, [1, 2, 3, 4, 5, 6]),
        ({"max_epochs": 2, "limit_val_batches": 1}, [3, 6]),
        ({"max_epochs": 2, "accumulate_grad_batches": 2}, [2, 4]),
        ({"max_steps": 4, "val_check_interval": 2, "check_val_every_n_epoch": None}, [2, 4]),
        ({"fast_dev_run": True}, [1]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else None,
)
def test_validation_wherever_it_comes(options: dict[str, Any], steps: list[int]) -> None:
    _, relay = fitted(**options)
    assert [report.global_step for report in relay.reports] == steps
    expected = 16 if {"limit_val_batches", "fast_dev_run"} & set(options) else 48
    assert {report.samples for report in relay.reports} == {expected}


def test_weight_averaging_is_reported_of_the_weights_that_were_validated() -> None:
    model, relay = fitted(EMAWeightAveraging(decay=0.5), max_epochs=3)
    # After training the model has the averaged weights, which the last validation was run on.
    with torch.no_grad(), HiddenStateRecorder(model, **ALL) as recorder:
        predicted = model.eval()(INPUTS).argmax(1)
    expected = relay_report(recorder.states, LABELS, predicted)
    assert_equal(relay.reports[-1].layers, expected.layers)


def test_stochastic_weight_averaging_copies_no_hook() -> None:
    averaging = StochasticWeightAveraging(swa_lrs=1e-2, swa_epoch_start=1)
    _, relay = fitted(averaging, max_epochs=4)
    assert averaging._average_model is not None
    assert hook_count(averaging._average_model) == 1  # the user's own
    assert len(relay.reports) == 4


def test_checkpoints_in_the_middle_hold_nothing_but_the_newest_report(tmp_path: Path) -> None:
    checkpoints = ModelCheckpoint(tmp_path, every_n_train_steps=1, save_top_k=-1)
    _, _relay = fitted(checkpoints, max_epochs=2, enable_checkpointing=True)
    saved = []
    for step in range(1, 7):
        (path,) = tmp_path.glob(f"*step={step}.ckpt")
        callbacks = torch.load(path, weights_only=True)["callbacks"]
        states = [
            state for key, state in callbacks.items() if key.startswith("RelayInformationCallback")
        ]
        saved.append([list(state) for state in states])
    assert saved == [[["tried"]]] * 3 + [[["newest_report", "reports"]]] * 3


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* is not empty")
def test_a_run_resumed_from_a_checkpoint_has_the_newest_report_and_goes_on(tmp_path: Path) -> None:
    checkpoints = ModelCheckpoint(tmp_path, save_last=True)
    model, first = fitted(checkpoints, max_epochs=2, enable_checkpointing=True)
    resumed = RelayInformationCallback(**ALL)
    quiet_trainer(resumed, checkpoints, max_epochs=4, enable_checkpointing=True).fit(
        model, loader(shuffle=True), loader(), ckpt_path=tmp_path / "last.ckpt", weights_only=True
    )
    assert [report.epoch for report in resumed.reports] == [1, 2, 3]
    assert_equal(resumed.reports[0], first.reports[-1])
    assert hook_count(model) == 0
    quiet_trainer(resumed, checkpoints, enable_checkpointing=True).test(
        model, loader(), ckpt_path=tmp_path / "last.ckpt", weights_only=True, verbose=False
    )
    assert [report.stage for report in resumed.reports] == ["validate"] * 3 + ["test"]


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* is not empty")
def test_callbacks_that_measure_other_things_keep_states_apart(tmp_path: Path) -> None:
    checkpoints = ModelCheckpoint(tmp_path, save_last=True)
    growing = RelayInformationCallback(prefix="grow", **ALL, measure=RelayMeasure(direction="grow"))
    model, shrinking = fitted(checkpoints, growing, max_epochs=1, enable_checkpointing=True)
    again = [
        RelayInformationCallback(prefix="grow", **ALL, measure=RelayMeasure(direction="grow")),
        RelayInformationCallback(**ALL),
    ]
    quiet_trainer(*again, checkpoints, max_epochs=1, enable_checkpointing=True).fit(
        model, loader(), loader(), ckpt_path=tmp_path / "last.ckpt"
    )
    for callback, before in zip(again, (growing, shrinking), strict=True):
        assert_equal(callback.reports[0], before.reports[0])


def test_a_module_copied_or_pickled_in_the_middle_of_validation_has_no_live_hooks() -> None:
    twins: list[LightningModule] = []

    class Copying(Callback):
        def on_validation_batch_start(
            self,
            trainer: Trainer,
            pl_module: LightningModule,
            batch: Any,
            batch_idx: int,
            dataloader_idx: int = 0,
        ) -> None:
            if twins:
                return
            assert hook_count(pl_module) > 1
            rnn = pickle.loads(pickle.dumps(pl_module.rnn))
            twin = copy.deepcopy(pl_module)
            twins.append(twin)
            with torch.no_grad():
                twin.eval()(batch[0])
                rnn.eval()(batch[0])

    _, relay = fitted(Copying(), max_epochs=1)
    assert [report.samples for report in relay.reports] == [48]
    with HiddenStateRecorder(twins[0]) as recorder:
        twins[0](INPUTS)
    assert set(recorder.batches.values()) == {1}


def test_validate_and_test_with_several_dataloaders() -> None:
    model, relay = Stacked(), RelayInformationCallback(**ALL)
    trainer = quiet_trainer(relay)
    trainer.validate(model, [loader(48), loader(32)], verbose=False)
    assert hook_count(model) == 0
    trainer.test(model, loader(32), verbose=False)
    assert hook_count(model) == 0
    assert [(r.stage, r.dataloader, r.samples) for r in relay.reports] == [
        ("validate", 0, 48),
        ("validate", 1, 32),
        ("test", 0, 32),
    ]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize(
    "place",
    [
        "on_validation_batch_start",
        "on_validation_batch_end",
        "on_validation_epoch_end",
        "on_validation_end",
        "on_train_batch_start",
    ],
)
@pytest.mark.parametrize("first", [True, False])
def test_no_hook_survives_an_exception_anywhere(
    error: type[BaseException], place: str, first: bool
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error(place)

    model = Stacked()
    failing, relay = Callback(), RelayInformationCallback(**ALL)
    setattr(failing, place, fail)
    callbacks = [failing, relay] if first else [relay, failing]
    trainer = quiet_trainer(*callbacks, num_sanity_val_steps=0)
    with pytest.raises((error, SystemExit)):
        trainer.fit(model, loader(), loader())
    assert hook_count(model) == 0


def test_the_callback_can_be_sent_to_another_process_before_and_after_a_run() -> None:
    _, relay = fitted(max_epochs=1)
    for callback in (RelayInformationCallback(**ALL), relay):
        twin = pickle.loads(pickle.dumps(callback))
        assert (twin.layers, twin.states) == ("all", ("hidden", "cell"))
        model = Stacked()
        quiet_trainer(twin).validate(model, loader(), verbose=False)
        assert twin.reports[-1].layers.keys() == relay.reports[0].layers.keys()
        assert hook_count(model) == 0


# The same with knock-outs


def with_knockouts(
    *callbacks: Callback, model: Classifier | None = None, **options: Any
) -> tuple[Classifier, KnockoutCallback]:
    """The same with a knock-out callback beside the relay callback."""
    callback = KnockoutCallback(EveryUnit(**ALL))
    return fitted(callback, *callbacks, model=model, **options)[0], callback


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({"max_epochs": 2, "val_check_interval": 1}, [1, 2, 3, 4, 5, 6]),
        ({"max_epochs": 2, "limit_val_batches": 1}, [3, 6]),
        ({"max_epochs": 2, "accumulate_grad_batches": 2}, [2, 4]),
        ({"max_steps": 4, "val_check_interval": 2, "check_val_every_n_epoch": None}, [2, 4]),
        ({"fast_dev_run": True}, [1]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else None,
)
def test_knock_outs_wherever_validation_comes(options: dict[str, Any], steps: list[int]) -> None:
    _, knockouts = with_knockouts(**options)
    assert [report.global_step for report in knockouts.reports] == steps
    expected = 16 if {"limit_val_batches", "fast_dev_run"} & set(options) else 48
    assert {report.samples for report in knockouts.reports} == {expected}


def test_knock_outs_are_those_of_averaged_weights() -> None:
    model, knockouts = with_knockouts(
        EMAWeightAveraging(decay=0.5), model=Classifier(), max_epochs=3
    )
    model.eval()
    expected = []
    for unit in range(6):
        with torch.no_grad(), knocked_out(model, {"rnn.l0": unit}):
            expected.append(float((model(INPUTS).argmax(1) == LABELS).double().mean()))
    assert knockouts.reports[-1].accuracy is not None
    assert knockouts.reports[-1].accuracy.knocked_out.tolist() == pytest.approx(expected)


def test_stochastic_weight_averaging_with_knock_outs() -> None:
    averaging = StochasticWeightAveraging(swa_lrs=1e-2, swa_epoch_start=1)
    _, knockouts = with_knockouts(averaging, max_epochs=4)
    assert averaging._average_model is not None
    assert all("forward" not in vars(module) for module in averaging._average_model.modules())
    assert len(knockouts.reports) == 4


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* is not empty")
def test_knock_outs_go_on_from_a_checkpoint(tmp_path: Path) -> None:
    checkpoints = ModelCheckpoint(tmp_path, save_last=True)
    model, first = with_knockouts(checkpoints, max_epochs=2, enable_checkpointing=True)
    state = torch.load(tmp_path / "last.ckpt", weights_only=True)["callbacks"][first.state_key]
    assert list(state) == ["newest_report", "reports"]
    relay, resumed = RelayInformationCallback(**ALL), KnockoutCallback(EveryUnit(**ALL))
    following = KnockoutCallback(AlongOrder(n_random=1, **ALL), prefix="greedy")
    trainer = quiet_trainer(
        resumed, following, relay, checkpoints, max_epochs=3, enable_checkpointing=True
    )
    trainer.fit(
        model, loader(shuffle=True), loader(), ckpt_path=tmp_path / "last.ckpt", weights_only=True
    )
    assert [report.epoch for report in resumed.reports] == [1, 2]
    assert_equal(resumed.reports[0], first.reports[-1])
    # The relay report of the checkpoint is followed at once.
    assert [(report.epoch, report.relay_epoch) for report in following.reports] == [(2, 1)]


def assert_untouched(model: LightningModule) -> None:
    assert hook_count(model) == 0
    assert all("forward" not in vars(module) for module in model.modules())


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize(
    "place",
    [
        "on_validation_batch_start",
        "on_validation_batch_end",
        "on_validation_epoch_end",
        "on_validation_end",
        "on_train_batch_start",
    ],
)
@pytest.mark.parametrize("first", [True, False])
def test_nothing_of_a_knock_out_survives_an_exception_anywhere(
    error: type[BaseException], place: str, first: bool
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error(place)

    model = Stacked()
    failing, knockouts = Callback(), KnockoutCallback(EveryUnit(max_sets=3, **ALL))
    setattr(failing, place, fail)
    callbacks = [failing, knockouts] if first else [knockouts, failing]
    trainer = quiet_trainer(*callbacks, num_sanity_val_steps=0)
    with pytest.raises((error, SystemExit)):
        trainer.fit(model, loader(), loader())
    assert_untouched(model)
    assert knockouts._pass is knockouts._progress is None
    trainer = quiet_trainer(knockouts, max_epochs=1)
    trainer.fit(model.train(), loader(), loader())  # the same callback and model again
    assert knockouts.reports[-1].samples == 48


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("place", ["run", "lane", "check"])
@pytest.mark.parametrize("kind", [Stacked, Stepped])
def test_an_exception_inside_a_run_leaves_the_model_as_it_was(
    kind: type[Classifier], place: str, error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise error(place)

    class Failing(kind):  # type: ignore[misc, valid-type]
        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
            if hasattr(self, "again") and place == "run":
                fail()
            self.again = True
            return super().validation_step(batch, batch_idx, dataloader_idx)

    if place == "lane":
        monkeypatch.setattr(KnockoutLanes, "lane", fail)
    elif place == "check":
        monkeypatch.setattr("lightning_relay.ablation.runs.check_repeatable", fail)
    model, knockouts = Failing(), KnockoutCallback(EveryUnit(**ALL))
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises((error, SystemExit)):
        quiet_trainer(knockouts).validate(model, loader(), verbose=False)
    assert_untouched(model)
    torch.testing.assert_close(model.state_dict(), weights, rtol=0, atol=0)
    assert knockouts._pass is knockouts._progress is None


def test_an_interrupted_run_leaves_the_streams() -> None:
    class Interrupted(Classifier):
        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
            if hasattr(self, "again"):
                torch.rand(7)
                raise KeyboardInterrupt
            self.again = True
            return super().validation_step(batch, batch_idx, dataloader_idx)

    class Streams(Callback):
        def on_validation_batch_end(self, *_: Any) -> None:
            states.append(torch.get_rng_state())

        def on_exception(self, *_: Any) -> None:
            states.append(torch.get_rng_state())

    states: list[Any] = []
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        quiet_trainer(Streams(), KnockoutCallback()).validate(
            Interrupted(), loader(), verbose=False
        )
    assert len(states) == 2
    assert torch.equal(*states)


def test_a_module_copied_while_knocked_out_is_a_model_of_its_own() -> None:
    tally: Tally[Any] = Tally()

    class Copying(Classifier):
        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
            if vars(self.rnn).get("forward") is not None:
                tally.add(pickle.loads(pickle.dumps(self.rnn)))
            return super().validation_step(batch, batch_idx, dataloader_idx)

    model = Copying()
    knockouts = KnockoutCallback(EveryUnit(max_sets=2))
    quiet_trainer(knockouts).validate(model, loader(), verbose=False)
    twins = tally.taken()
    assert twins
    for twin in twins:
        with torch.no_grad():
            assert torch.equal(twin(INPUTS)[0], model.rnn(INPUTS)[0])
            with knocked_out(twin, {"l0": 0}):
                assert twin(INPUTS)[0][..., 0].eq(0).all()


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda own: pickle.loads(pickle.dumps(own))])
def test_the_knock_out_callback_can_be_copied_before_and_after_a_run(copied: Any) -> None:
    _, knockouts = with_knockouts(max_epochs=1)
    for callback in (KnockoutCallback(EveryUnit(**ALL)), knockouts):
        twin = copied(callback)
        before = len(twin.reports)
        model = Stacked()
        quiet_trainer(twin).validate(model, loader(), verbose=False)
        assert len(twin.reports) == before + 1
        assert twin.reports[-1].layers == knockouts.reports[0].layers
        assert_untouched(model)
    assert len(knockouts.reports) == 1


def test_callbacks_do_not_see_each_others_runs() -> None:
    seen = []
    for order in ("relay", "knockouts"):
        model = Stacked()
        model.load_state_dict(seen[0][2] if seen else model.state_dict())
        relay, knockouts = RelayInformationCallback(**ALL), KnockoutCallback(EveryUnit(**ALL))
        callbacks = [relay, knockouts] if order == "relay" else [knockouts, relay]
        quiet_trainer(*callbacks).validate(model, loader(), verbose=False)
        seen.append((relay.reports[0], knockouts.reports[0], model.state_dict()))
    assert_equal(seen[0][0], seen[1][0])
    for name in ("predictions_changed", "confusion"):
        assert_equal(getattr(seen[0][1], name), getattr(seen[1][1], name))
