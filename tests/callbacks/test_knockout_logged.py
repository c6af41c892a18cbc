"""Numbers that a step logs or returns, by every name that a user may see."""

from __future__ import annotations

from collections import namedtuple
from dataclasses import dataclass
from os import urandom
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from torchmetrics import MeanMetric

from lightning_relay import AlongOrder, KnockoutCallback, Logged, RelayInformationCallback
from tests.support.ablation import as_loader, batches, lively, refused_before_training, validated
from tests.support.models import Classifier, loader
from tests.support.training import quiet_trainer

if TYPE_CHECKING:
    from torch import Tensor


class Losing(Classifier):
    """Gives the loss of the batch to a method."""

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        x, y = batch
        return self.give(self.loss(self(x), y), dataloader_idx)

    def give(self, loss: Tensor, dataloader: int) -> Any:
        self.log("val_loss", loss)


def measured(kind: type[Losing], name: str, *, loaders: int = 1) -> list[Any]:
    """Measures by dataloader, found with a sanity check before."""
    callback = KnockoutCallback(score=Logged(name), on_error="raise")
    trainer = quiet_trainer(callback, num_sanity_val_steps=1, max_epochs=1)
    data = [as_loader(batches()) for _ in range(loaders)]
    trainer.fit(lively(kind), loader(), data if loaders > 1 else data[0])
    assert all(report.accuracy is None for report in callback.reports)
    return [(report.dataloader, dict(report.metrics)) for report in callback.reports]


def assert_measured(kind: type[Losing], name: str, *, tag: str | None = None) -> None:
    """Under this name there is what the plainly logged loss gives."""
    expected = measured(Losing, "val_loss")[0][1]["val_loss"]
    (dataloader, metrics), *others = measured(kind, name)
    assert others == []
    assert dataloader == 0
    assert list(metrics) == [name if tag is None else tag]
    found = metrics[next(iter(metrics))]
    np.testing.assert_allclose(found.damage, expected.damage, rtol=1e-5)
    assert (found.damage != 0).any()


class Forked(Losing):
    def give(self, loss: Tensor, dataloader: int) -> None:
        self.log("val_loss", loss, False, None, True, True)  # as keywords and by position
        self.log_dict({"twice": 2 * loss}, on_step=True, on_epoch=True)


@pytest.mark.parametrize("name", ["val_loss", "val_loss_epoch", "val_loss_step"])
def test_names_of_numbers_that_are_logged_for_step_and_epoch(name: str) -> None:
    assert_measured(Forked, name)


def test_names_made_by_log_dict() -> None:
    (first,), (other,) = measured(Forked, "val_loss"), measured(Forked, "twice_epoch")
    np.testing.assert_allclose(
        other[1]["twice_epoch"].damage, 2 * first[1]["val_loss"].damage, rtol=1e-5
    )


def test_a_name_that_two_numbers_have_is_refused() -> None:
    class Both(Losing):
        def give(self, loss: Tensor, dataloader: int) -> None:
            self.log("val_loss", loss, on_step=True, on_epoch=True)
            self.log("val_loss_epoch", 2 * loss)

    refused_before_training(
        KnockoutCallback(score=Logged("val_loss_epoch")),
        r"score: 'val_loss_epoch' may be any of 'val_loss', 'val_loss_epoch', which validation_step"
        r" logs; have the step",
        kind=Both,
    )
    assert_measured(Both, "val_loss_step")


@pytest.mark.parametrize("name", ["val_loss", "val_loss_epoch"])
def test_a_name_without_dataloader_is_that_of_every_dataloader(name: str) -> None:
    found = measured(Forked, name, loaders=2)
    assert [(place, list(metrics)) for place, metrics in found] == [(0, [name]), (1, [name])]


@pytest.mark.parametrize("name", ["val_loss", "val_loss_epoch", "val_loss_step"])
@pytest.mark.parametrize("place", [0, 1])
def test_a_name_with_a_dataloader_is_that_of_this_one(
    name: str, place: int, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        found = measured(Forked, f"{name}/dataloader_idx_{place}", loaders=2)
    assert [(own, list(metrics)) for own, metrics in found] == [(place, [name])]
    (said,) = [text for text in caplog.messages if text.startswith("Knock-outs: no report")]
    assert said.startswith(f"Knock-outs: no report of dataloader {1 - place}: score: validation_st")
    expected = measured(Losing, "val_loss")[0][1]["val_loss"]
    np.testing.assert_allclose(found[0][1][name].damage, expected.damage, rtol=1e-5)


def test_names_that_the_step_itself_makes_of_dataloaders() -> None:
    class Own(Losing):
        def give(self, loss: Tensor, dataloader: int) -> None:
            self.log(f"loss_of_{dataloader}", loss, add_dataloader_idx=False)

    assert [place for place, _ in measured(Own, "loss_of_1", loaders=2)] == [1]
    for name in ("loss_of_2", "loss_of_1/dataloader_idx_1"):
        with pytest.raises(ValueError, match=rf"a number '{name}'; it logs: 'loss_of_0'"):
            measured(Own, name, loaders=2)


def test_a_dataloader_that_there_is_not_is_refused() -> None:
    refused_before_training(
        KnockoutCallback(score=Logged("val_loss/dataloader_idx_0")),
        r"it logs: 'val_loss'; it returns: none. The step itself calls it 'val_loss'",
    )


class OfStage(Losing):
    def give(self, loss: Tensor, dataloader: int) -> None:
        self.log({"sanity_check": "sanity"}.get(stage := self.trainer.state.stage, stage[:3]), loss)


class NotYet(Losing):
    def give(self, loss: Tensor, dataloader: int) -> None:
        if not self.trainer.sanity_checking:
            assert self.trainer.validating
            self.log("val", loss)


class NotReady(Losing):
    """What the step needs is made in training."""

    def give(self, loss: Tensor, dataloader: int) -> None:
        if not self.trainer.sanity_checking:
            self.log("val", loss * self.factor)

    def on_train_start(self) -> None:
        self.factor = 1.0


@pytest.mark.parametrize("kind", [OfStage, NotYet, NotReady])
@pytest.mark.parametrize("loaders", [1, 2])
def test_the_sanity_check_does_not_refuse_what_a_validation_gives(
    kind: type[Losing], loaders: int
) -> None:
    assert [place for place, _ in measured(kind, "val", loaders=loaders)] == [*range(loaders)]


def test_the_sanity_check_refuses_what_no_validation_gives() -> None:
    for kind in (OfStage, NotYet):
        refused_before_training(
            KnockoutCallback(score=Logged("vall")),
            r"neither logs nor returns a number 'vall'; it logs: 'val'; it returns: none",
            kind=kind,
        )


@dataclass
class Output:
    val_loss: Tensor
    scores: Any = None


Named = namedtuple("Named", ["scores", "val_loss"])


@pytest.mark.parametrize(
    ("returned", "name"),
    [
        (lambda loss: {"val_loss": loss, "loss": 0 * loss}, "val_loss"),
        (lambda loss: {"val_loss": loss.unsqueeze(0), "val_loss_2": 3}, "val_loss"),
        (lambda loss: {"losses": {"val_loss": loss.item()}}, "val_loss"),
        (lambda loss: {"losses": {"val_loss": loss}, "x": {"val_loss": 0}}, "losses.val_loss"),
        (lambda loss: {"val_loss": loss, "x": {"val_loss": 0}}, "val_loss"),
        (lambda loss: Output(loss), "val_loss"),
        (lambda loss: {"out": Output(loss.numpy())}, "out.val_loss"),
        (lambda loss: Named(loss.expand(2), loss), "val_loss"),
        (lambda loss: loss, "loss"),
        (lambda loss: loss.item(), "loss"),
        (lambda loss: {"deep": {"loss": loss}}, "loss"),
    ],
)
def test_numbers_that_are_returned_and_not_logged(returned: Any, name: str) -> None:
    class Returning(Losing):
        def give(self, loss: Tensor, dataloader: int) -> Any:
            return returned(loss)

    assert_measured(Returning, name)


def test_what_is_logged_goes_before_what_is_returned() -> None:
    class Different(Losing):
        def give(self, loss: Tensor, dataloader: int) -> Any:
            self.log("val_loss", loss, on_step=True, on_epoch=True)
            return {"val_loss": 0 * loss, "val_loss_step": 0 * loss, "loss": 0 * loss}

    assert_measured(Different, "val_loss")
    assert_measured(Different, "val_loss_step")


def test_what_is_returned_is_listed() -> None:
    class Several(Losing):
        def give(self, loss: Tensor, dataloader: int) -> Any:
            self.log("a", loss)
            self.log("mean", self.accuracy)
            return {"x": {"b": loss}, "y": {"b": loss}, "scores": loss.expand(3), "text": "no"}

    def refused(name: str, message: str) -> None:
        refused_before_training(KnockoutCallback(score=Logged(name)), message, kind=Several)

    refused("b", r"score: 'b' may be any of 'x.b', 'y.b', which validation_step returns; give the")
    refused("c", r"a number 'c'; it logs: 'a'; it returns: 'x.b', 'y.b'$")
    refused("loss", r"returns no loss; .* Of numbers it logs: 'a'; it returns: 'x.b', 'y.b'$")
    refused("mean", r"logs a Metric as 'mean', .* that it logs or returns: 'a', 'x.b', 'y.b'$")


def test_returned_numbers_must_repeat_where_they_are_measured() -> None:
    class Timed(Losing):
        def give(self, loss: Tensor, dataloader: int) -> Any:
            return {"val_loss": loss, "time": urandom(1)[0] + 256 * urandom(1)[0]}

    assert_measured(Timed, "val_loss")
    refused_before_training(
        KnockoutCallback(score=Logged("time")),
        "gave other returned numbers 'time' when it was run again",
        kind=Timed,
    )


def test_a_loss_beside_a_metric_of_its_name() -> None:
    class Averaging(Losing):
        def __init__(self) -> None:
            super().__init__()
            self.mean = MeanMetric()

        def give(self, loss: Tensor, dataloader: int) -> Any:
            self.mean(loss)
            self.log("loss", self.mean)
            return loss

    assert_measured(Averaging, "loss")


def test_a_number_of_one_dataloader_beside_a_relay_report() -> None:
    callback = KnockoutCallback(AlongOrder(), score=Logged("val_loss_step/dataloader_idx_1"))
    data = [as_loader(batches()) for _ in range(2)]
    trainer = quiet_trainer(RelayInformationCallback(), callback, max_epochs=2)
    trainer.fit(lively(Forked), loader(), data)
    assert [report.dataloader for report in callback.reports] == [1]
    assert "knockout/val_loss_step/dataloader_1" in trainer.callback_metrics


def test_two_validations_of_a_model_without_the_number_in_one_loader() -> None:
    callback = KnockoutCallback(score=Logged("val_loss/dataloader_idx_1"))
    data = [as_loader(batches()) for _ in range(2)]
    for _ in range(2):
        validated(lively(Losing), callback, data=data)
    assert [report.dataloader for report in callback.reports] == [1, 1]
