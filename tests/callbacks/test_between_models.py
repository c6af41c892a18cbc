"""Callbacks that are used again, copied, sent elsewhere, or told names and sizes too late."""

from __future__ import annotations

import copy
import pickle
from typing import TYPE_CHECKING, Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger

from lightning_relay import (
    AlongOrder,
    EveryUnit,
    KnockoutCallback,
    NamedSets,
    RelayInformationCallback,
    TopUnits,
    knocked_out,
)
from tests.support.hooks import hook_count
from tests.support.models import Classifier, TwoModules, loader
from tests.support.reports import assert_equal
from tests.support.training import INPUTS, quiet_trainer

if TYPE_CHECKING:
    from pathlib import Path


def following() -> tuple[RelayInformationCallback, KnockoutCallback]:
    return RelayInformationCallback(), KnockoutCallback(AlongOrder(n_random=1))


def fit(model: LightningModule, *callbacks: Callback, **options: Any) -> None:
    quiet_trainer(*callbacks, **options).fit(model, loader(), loader())


def test_a_report_of_another_model_is_not_followed() -> None:
    relay, knockouts = following()
    fit(Classifier(), relay, knockouts)
    assert [(one.epoch, one.relay_epoch) for one in knockouts.reports] == [(1, 0)]
    second = Classifier()
    fit(second, relay, knockouts)
    assert [(one.epoch, one.relay_epoch) for one in knockouts.reports] == [(1, 0), (1, 0)]
    assert len(relay.reports) == 4
    assert len(relay.own_reports) == 2
    fit(second.train(), relay, knockouts)  # the same model goes on from its newest report
    assert [(one.epoch, one.relay_epoch) for one in knockouts.reports[2:]] == [(0, 1), (1, 0)]


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* is not empty")
def test_a_used_callback_takes_the_report_of_the_checkpoint_it_resumes(tmp_path: Path) -> None:
    checkpoints = ModelCheckpoint(tmp_path, save_last=True)
    first_relay, first = following()
    fit(Classifier(), first_relay, first, checkpoints, enable_checkpointing=True)
    relay, knockouts = following()
    fit(Classifier(), relay, knockouts)
    trainer = quiet_trainer(relay, knockouts, checkpoints, max_epochs=3, enable_checkpointing=True)
    path = tmp_path / "last.ckpt"
    trainer.fit(Classifier(), loader(), loader(), ckpt_path=path, weights_only=True)
    assert [one.epoch for one in relay.own_reports] == [1, 2]
    assert_equal(relay.own_reports[0], first_relay.reports[-1])
    assert knockouts.reports[-1].relay_epoch == 1


def test_a_report_of_another_object_is_followed_with_a_warning_in_a_test(tmp_path: Path) -> None:
    relay, knockouts = following()
    model = Classifier()
    trainer = quiet_trainer(relay, knockouts)
    trainer.fit(model, loader(), loader())
    again = Classifier()
    again.load_state_dict(model.state_dict())
    with pytest.warns(UserWarning, match="AlongOrder follows a relay report of another module obj"):
        trainer.test(again, loader(), verbose=False)
    assert knockouts.reports[-1].stage == "test"
    trainer.test(again, loader(), verbose=False)  # now it has a report


@pytest.mark.parametrize("first", ["relay", "knockouts"])
def test_max_sets_that_no_concept_fits_in_is_refused_in_the_sanity_check(first: str) -> None:
    trained = []

    class Watching(Callback):
        def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            trained.append(trainer.current_epoch)

    relay = RelayInformationCallback(concepts="per_class")
    knockouts = KnockoutCallback(TopUnits(max_sets=2))
    callbacks = [relay, knockouts] if first == "relay" else [knockouts, relay]
    model = Classifier()
    with pytest.raises(ValueError, match="max_sets: got 2; 4 concepts and layers with one random"):
        fit(model, *callbacks, Watching())
    assert hook_count(model) == 0
    with pytest.raises(ValueError, match="concepts: no concept 'bit' in the relay report"):
        fit(Classifier(), relay, KnockoutCallback(TopUnits(concepts=["bit"])), Watching())
    assert trained == []
    fit(Classifier(), relay, KnockoutCallback(TopUnits(top=1, n_random=1, max_sets=8)))
    assert relay.tried == []


@pytest.mark.parametrize(
    "callback",
    [
        lambda: RelayInformationCallback(["alias"]),
        lambda: KnockoutCallback(EveryUnit(modules=["alias"])),
        lambda: KnockoutCallback(EveryUnit(modules=["alias"], steps=-1)),
        lambda: KnockoutCallback(NamedSets({"two": {"alias.l0": [1, 3]}})),
    ],
)
def test_a_module_goes_by_any_of_its_names(callback: Any) -> None:
    own = callback()
    fit(TwoModules(), own, max_epochs=1)
    assert list(own.reports[0].layers) == ["alias.l0"]


def test_a_knock_out_is_the_same_under_any_name() -> None:
    model = TwoModules().eval()
    with torch.no_grad():
        with knocked_out(model, {"alias.l0": [2]}):
            by_alias = model(INPUTS)
        with knocked_out(model, {"rnn.l0": [2]}):
            by_name = model(INPUTS)
    assert torch.equal(by_alias, by_name)
    twice = knocked_out(model, {"rnn.l0": [2], "alias.l0": [3]})
    with pytest.raises(ValueError, match="'rnn' and 'alias' are one module; name each"), twice:
        pass


def test_under_another_name_knock_outs_do_the_same_damage() -> None:
    seen = []
    for name in ("rnn", "alias"):
        seed_everything(2, verbose=False)
        own = KnockoutCallback(EveryUnit(modules=[name]))
        fit(TwoModules(), own, max_epochs=1)
        seen.append(own.reports[0])
    assert_equal(seen[0].accuracy, seen[1].accuracy)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda own: pickle.loads(pickle.dumps(own))])
@pytest.mark.parametrize("kind", [RelayInformationCallback, KnockoutCallback])
def test_a_callback_copied_in_the_middle_of_validation_is_idle(copied: Any, kind: Any) -> None:
    twins: list[Any] = []
    own = kind(latent=True) if kind is RelayInformationCallback else kind(EveryUnit(max_sets=2))

    class Copying(Callback):
        def on_validation_batch_start(self, trainer: Trainer, *_: Any) -> None:
            twins.append(copied(own))
            copied(trainer.callbacks[0])

        on_validation_batch_end = on_validation_batch_start

    fit(Classifier(), own, Copying())
    assert [report.epoch for report in own.reports] == [0, 1]
    twin = twins[-1]
    assert [report.epoch for report in twin.reports] == [0]
    model = Classifier()
    fit(model, twin, max_epochs=1)
    assert len(twin.own_reports) == 1
    assert hook_count(model) == 0


@pytest.mark.parametrize("saved", [True, False])
def test_a_strategy_that_trains_in_another_process_says_where_reports_are(
    saved: bool, tmp_path: Path
) -> None:
    callback = RelayInformationCallback()
    trainer = quiet_trainer(
        callback, strategy="ddp_fork", logger=CSVLogger(tmp_path) if saved else False
    )
    where = r"load_reports\(" if saved else "save them with dirpath="
    with pytest.warns(UserWarning, match=f"reports stay empty in this one; {where}"):
        callback.setup(trainer, Classifier(), "fit")


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda own: pickle.loads(pickle.dumps(own))])
def test_a_copy_says_where_its_reports_are(
    copied: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    own = RelayInformationCallback()
    twin = copied(own)
    with caplog.at_level("INFO"):
        for stage, logger in (("predict", False), ("fit", False), ("fit", CSVLogger(tmp_path))):
            for callback in (own, twin):
                trainer = quiet_trainer(callback, logger=logger)
                callback.setup(trainer, Classifier(), stage)
    said = "The relay callback in use is a copy, so the original gets no reports; for those of"
    saved = str(tmp_path / "lightning_logs" / "version_0" / "relay_reports")
    assert [message for message in caplog.messages if "is a copy" in message] == [
        f"{said} the copy: save them with dirpath=",
        f"{said} the copy: load_reports({saved!r})",
    ]
    assert twin.reports is not own.reports


def test_reports_of_a_process_that_a_strategy_started_are_saved(tmp_path: Path) -> None:
    callback = RelayInformationCallback(prediction="head", dirpath=tmp_path)
    fit(Classifier(), callback, strategy="ddp_spawn", devices=1)
    assert callback.reports == []
    assert len(list(tmp_path.glob("*.npz"))) == 2
