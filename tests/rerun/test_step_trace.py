"""A step that is run again leaves no trace in training, random streams, logs and hooks."""

from __future__ import annotations

import random
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from lightning_relay.rerun import check_repeatable
from tests.support.diary import MODELS, trained, trained_alone
from tests.support.hooks import hook_count
from tests.support.models import CLASSES, Classifier, loader
from tests.support.rerun import Rerun, Seen, validated
from tests.support.training import quiet_trainer


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@pytest.mark.parametrize(
    ("kind", "options"),
    [pytest.param(*case, id=" ".join([case[0].__name__, *case[1].values()])) for case in MODELS],
)
def test_training_is_bit_identical(kind: type[Classifier], options: dict[str, Any]) -> None:
    callback = Rerun()
    with_reruns = trained(kind, options, callback)
    without = trained_alone(kind, **options)
    assert "val_loss" in without[0]["metrics"]
    torch.testing.assert_close(with_reruns, without, rtol=0, atol=0, equal_nan=True)
    assert len(callback.results) == 3 * 2 + 2  # with those of the sanity check
    for results in callback.results:
        assert [result.whole for result in results] == [True, False, False, False, True]
        for result in results[1:]:
            check_repeatable(results[0], result)


class Drawing(Classifier):
    """Draws from every global stream, and leaves something wherever it can."""

    def __init__(self) -> None:
        super().__init__()
        self.outputs: list[Any] = []
        self.drawn: list[list[float]] = []
        self.register_buffer("seen", torch.zeros(()))
        self.norm = nn.BatchNorm1d(6)

    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        self.norm.train()
        self.drawn.append([float(torch.rand(())), float(np.random.rand()), random.random()])  # noqa: NPY002
        scores = self.head(self.norm(self.rnn(x + torch.rand_like(x))[0][:, -1]))
        self.outputs.append(scores)
        self.seen += 1
        self.accuracy(scores, y)
        self.log("val_loss", self.loss(scores, y))
        self.log("val_accuracy", self.accuracy)


def test_state_random_streams_and_attributes_are_those_of_one_run() -> None:
    callback = Rerun()
    models = [Drawing(), Drawing()]
    models[1].load_state_dict(models[0].state_dict())
    streams = []
    for model, callbacks in zip(models, ([callback], []), strict=True):
        torch.manual_seed(1)
        np.random.seed(2)  # noqa: NPY002
        random.seed(3)
        quiet_trainer(*callbacks).validate(model, loader(), verbose=False)
        streams.append([float(torch.rand(())), float(np.random.rand()), random.random()])  # noqa: NPY002
    assert streams[0] == streams[1]
    assert models[0].drawn == models[1].drawn
    assert len(models[0].outputs) == 3
    torch.testing.assert_close(models[0].state_dict(), models[1].state_dict(), rtol=0, atol=0)
    (drawn,) = {tuple(numbers) for numbers in callback.twin.drawn[2:]}
    assert list(drawn) == models[0].drawn[2]
    for (first, *_), scores in zip(callback.results, models[0].outputs, strict=True):
        assert first.scores is not None
        assert torch.equal(first.scores, scores)


def test_the_twin_shares_parameters_and_nothing_else() -> None:
    model = Drawing()
    model.data = TensorDataset(torch.zeros(3))
    model.arrays = np
    callback = Rerun()
    validated(model, callback)
    twin = callback.twin
    named = dict(twin.named_parameters())
    assert named.keys() == dict(model.named_parameters()).keys()
    assert all(named[name] is parameter for name, parameter in model.named_parameters())
    assert twin.rnn._flat_weights[0] is model.rnn.weight_ih_l0
    assert twin.data is model.data
    for name, buffer in model.named_buffers():
        assert twin.get_buffer(name).data_ptr() != buffer.data_ptr()
    assert isinstance(twin, Drawing)
    assert type(twin).__name__ == "Drawing"
    assert hook_count(model) == hook_count(twin) == 0
    assert not twin.rnn.training


class Pictures(Seen):
    """Writes to the logger itself, and to everything that logs."""

    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        outputs = super().validation_step(batch, batch_idx)
        self.accuracy.update(outputs["scores"], batch[1])
        self.log_dict({"a": 1.5, "b": self.accuracy, "c": torch.tensor([2.0])})
        self.print("step", self.current_epoch, self.trainer.global_step)
        self.logger.experiment.add_image("picture", torch.zeros(3, 2, 2), self.steps)
        self.logger.log_metrics({"direct": 1.0}, self.steps)
        self.trainer.callback_metrics["forged"] = torch.ones(())
        self.trainer.should_stop = True
        self.trainer.save_checkpoint("nowhere.ckpt", weights_only=True)
        self.paths = [self.logger.log_dir, self.trainer.log_dir, self.logger.name]
        assert self.trainer.lightning_module is self
        return outputs


def test_loggers_and_the_terminal_hear_one_run(
    tmp_path: Any, capsys: Any, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    callback = Rerun()
    logger = TensorBoardLogger(tmp_path)
    model = Pictures()
    trainer = quiet_trainer(callback, logger=logger)
    (metrics,) = trainer.validate(model, loader(), verbose=False)
    assert metrics.keys() == {"val_loss", "a", "b", "c"}
    assert capsys.readouterr().out.count("step 0 0") == 3
    events = EventAccumulator(logger.log_dir, {"images": 0}).Reload()
    assert [event.step for event in events.Images("picture")] == [1, 2, 3]
    assert len(events.Scalars("direct")) == 3
    whole = callback.results[0][-1]
    assert whole.logged == {"val_loss": whole.loss, "a": 1.5, "c": 2.0}
    assert callback.twin.paths == model.paths == [logger.log_dir, logger.log_dir, logger.name]
    assert callback.twin.trainer is not trainer


class Holding(Seen):
    """Keeps what Lightning made for it."""

    def configure_optimizers(self) -> Any:
        self.optimizer = torch.optim.Adam(self.parameters())
        self.scheduler = torch.optim.lr_scheduler.ExponentialLR(self.optimizer, 0.9)
        return [self.optimizer], [self.scheduler]

    def on_validation_start(self) -> None:
        self.held = {"trainer": self.trainer, "logger": self.logger}
        self.writer = self.logger.experiment

    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        outputs = super().validation_step(batch, batch_idx)
        self.writer.add_scalar("written", self.steps)
        self.held["logger"].log_metrics({"direct": 1.0}, self.steps)
        self.held["trainer"].callback_metrics["forged"] = torch.ones(())
        return outputs


def test_what_lightning_made_can_be_held(tmp_path: Any) -> None:
    callback = Rerun()
    logger = TensorBoardLogger(tmp_path)
    model = Holding()
    trainer = quiet_trainer(callback, logger=logger, max_epochs=1, num_sanity_val_steps=0)
    trainer.fit(model, loader(), loader())
    twin = callback.twin
    assert twin.optimizer is model.optimizer
    assert twin.scheduler is model.scheduler
    assert twin.held["trainer"] is twin.trainer
    assert twin.held["logger"] is twin.logger
    events = EventAccumulator(logger.log_dir).Reload()
    assert len(events.Scalars("written")) == len(events.Scalars("direct")) == 3


class Named(Seen):
    """Logs by a method of its own."""

    heirs: ClassVar[list[type]] = []

    def __init_subclass__(cls, **_: Any) -> None:
        cls.heirs.append(cls)

    def log(self, name: str, value: Any, **options: Any) -> None:
        super().log(f"own/{name}", value, **options)


def test_a_log_method_of_the_users_is_called() -> None:
    callback = Rerun()
    validated(Named(), callback)
    assert callback.results[0][0].logged.keys() == {"own/val_loss"}
    assert Named.heirs == []


class Inner(LightningModule):
    """Tells of every call."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        self.print("called in epoch", self.trainer.current_epoch)
        self.trainer.forged = True
        scores: Tensor = self.head(x)
        return scores


class Outer(Seen):
    def __init__(self) -> None:
        super().__init__()
        self.head = Inner()
        self.heads = nn.ModuleList([self.head, Inner()])


def test_nested_lightning_modules_are_silent_too(capsys: Any) -> None:
    callback = Rerun()
    validated(Outer(), callback)
    twin = callback.twin
    assert capsys.readouterr().out.count("called in epoch 0") == 3
    assert twin.head is twin.heads[0]
    assert twin.head.trainer is twin.trainer
    twin.head.log("inner", 1.0)
    with pytest.raises(RuntimeError, match="not attached to a `Trainer`"):
        twin.heads[1].trainer  # noqa: B018 - Lightning attaches no modules in containers


def test_an_error_in_the_step_leaves_random_streams_and_hooks() -> None:
    class Failing(Drawing):
        fails = False

        def validation_step(self, batch: Any, batch_idx: int) -> Any:
            if self.fails:
                self.head(torch.rand(3, 6))
                raise RuntimeError("in the step")
            return super().validation_step(batch, batch_idx)

    class Caught(Rerun):
        def on_validation_batch_end(self, trainer: Any, module: Any, *args: Any) -> None:
            self.rerun.twin.fails = True
            before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1]  # noqa: NPY002
            with pytest.raises(RuntimeError, match="in the step"):
                super().on_validation_batch_end(trainer, module, *args)
            after = torch.get_rng_state(), random.getstate(), np.random.get_state()[1]  # noqa: NPY002
            torch.testing.assert_close(before, after, rtol=0, atol=0)
            assert hook_count(self.rerun.twin) == 0

    validated(Failing(), Caught("head"))


def test_parameters_changed_in_place_are_noticed() -> None:
    class Clipping(Seen):
        def validation_step(self, batch: Any, batch_idx: int) -> Any:
            self.head.weight.clamp_(-1, 1)
            return super().validation_step(batch, batch_idx)

    with pytest.raises(ValueError, match=r"changes the parameter 'head.weight' or its gradient"):
        validated(Clipping(), Rerun())


def test_gradients_of_a_step_stay_with_the_run() -> None:
    class Saliency(Seen):
        def validation_step(self, batch: Any, batch_idx: int) -> Any:
            with torch.enable_grad():
                outputs = super().validation_step(batch, batch_idx)
                for parameter in self.parameters():
                    parameter.grad = None
                outputs["loss"].backward()
            self.head.bias.requires_grad_(not self.head.bias.requires_grad)
            return outputs

    models = [Saliency(), Saliency()]
    models[1].load_state_dict(models[0].state_dict())
    validated(models[0], Rerun(), inference_mode=False)
    quiet_trainer(inference_mode=False).validate(models[1], loader(), verbose=False)
    for one, other in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(one.grad, other.grad)
        assert one.requires_grad == other.requires_grad
