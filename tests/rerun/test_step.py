"""A step that is run again leaves no trace, and gives what the step itself gave."""

from __future__ import annotations

import random
import threading
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pytest
import torch
import torch._dynamo
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import CombinedLoader
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.nn.utils.rnn import pack_sequence
from torch.utils.data import DataLoader, TensorDataset

from lightning_relay.recurrent.hooks import is_compiled
from lightning_relay.rerun import StepRerun, StepResult, check_repeatable
from tests.support.diary import MODELS, trained
from tests.support.hooks import hook_count
from tests.support.models import (
    CLASSES,
    Classifier,
    CompiledInPlace,
    CompiledLoop,
    CompiledRNN,
    loader,
)
from tests.support.training import quiet_trainer

if TYPE_CHECKING:
    from collections.abc import Callable


class Rerun(Callback):
    """Runs every step again five times; the last run is whole."""

    def __init__(self, prediction: Any = None, *, with_target: bool = True) -> None:
        self.prediction = prediction
        self.with_target = with_target
        self.results: list[list[StepResult]] = []
        self.twin: Any = None
        self.around: Callable[[LightningModule, int], Any] = lambda twin, run: None

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, *_: Any
    ) -> None:
        self.rerun = StepRerun(pl_module, trainer, "validate", self.prediction)
        self.target = batch[1].clone() if self.with_target else None

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self.twin = self.rerun.twin
        results = []
        for run in range(5):
            self.around(self.twin, run)
            results.append(
                self.rerun.run(batch, batch_idx, dataloader_idx, target=self.target, whole=run == 4)
            )
        self.results.append(results)

    on_test_batch_end = on_validation_batch_end

    def on_test_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, *_: Any
    ) -> None:
        self.rerun = StepRerun(pl_module, trainer, "test", self.prediction)
        self.target = batch[1].clone()


def validated(
    model: LightningModule, callback: Callback, *loaders: Any, **options: Any
) -> LightningModule:
    trainer = quiet_trainer(callback, **options)
    trainer.validate(model, list(loaders) or loader(), verbose=False)
    return model


class Seen(Classifier):
    """Shows what only the module's own step may do."""

    def __init__(self) -> None:
        super().__init__()
        self.finished = [0]
        self.steps = 0

    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        self.steps += 1
        x, y = batch
        scores = self(x)
        self.finished[0] += 1
        loss = self.loss(scores, y)
        self.log("val_loss", loss)
        return {"loss": loss, "scores": scores}


# What is left as it is


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@pytest.mark.parametrize(
    ("kind", "options"),
    [pytest.param(*case, id=" ".join([case[0].__name__, *case[1].values()])) for case in MODELS],
)
def test_training_is_bit_identical(kind: type[Classifier], options: dict[str, Any]) -> None:
    callback = Rerun()
    with_reruns = trained(kind, options, callback)
    without = trained(kind, options)
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


@pytest.mark.parametrize("own_hooks", ["closure", "method", "partial"])
def test_hooks_of_the_user_act_on_the_twin_and_record_there(own_hooks: str) -> None:
    model = Seen()
    recorded: list[Tensor] = []
    model.recorded = recorded

    def hook(_module: nn.Module, _args: Any, output: Tensor) -> Tensor:
        recorded.append(output)
        return output + 1

    def record(records: list[Tensor], _module: nn.Module, _args: Any, output: Tensor) -> Tensor:
        records.append(output)
        return output + 1

    class Recorder:
        def __init__(self) -> None:
            self.recorded = recorded

        def hook(self, _module: nn.Module, _args: Any, output: Tensor) -> Tensor:
            self.recorded.append(output)
            return output + 1

    hooks = {"closure": hook, "method": Recorder().hook, "partial": partial(record, recorded)}
    model.head.register_forward_hook(hooks[own_hooks])
    callback = Rerun()
    validated(model, callback)
    assert len(recorded) == 3
    assert len(callback.twin.recorded) == 2 + 5
    for results, output in zip(callback.results, recorded, strict=True):
        assert results[1].scores is not None
        assert torch.equal(results[1].scores, output + 1)


class Patched(Seen):
    """Has functions as attributes: of its own, and compiled."""

    def __init__(self) -> None:
        super().__init__()
        self.scorer = lambda x: self.head(x)
        self.quick = torch.compile(self.slow, backend="eager")

    def slow(self, x: Tensor) -> Tensor:
        return self.scorer(self.rnn(x)[0][:, -1])

    @torch.compile(backend="eager")
    def forward(self, x: Tensor) -> Tensor:
        return self.quick(x)


def zeroed(twin: LightningModule, run: int) -> None:
    """From the third run on, no unit says anything."""
    if run == 2:
        twin.rnn.forward = lambda x: (torch.zeros(len(x), x.shape[1], 6), None)


@pytest.mark.parametrize(
    ("kind", "whole"),
    [
        (Seen, False),
        (Patched, False),
        (CompiledRNN, False),
        (CompiledInPlace, False),
        (CompiledLoop, False),
        (Seen, True),
        (CompiledRNN, True),
    ],
)
def test_a_patched_twin_changes_the_runs_and_not_the_model(
    kind: type[Classifier], whole: bool
) -> None:
    torch.compiler.reset()
    model = kind()
    callback = Rerun()
    callback.around = (
        zeroed
        if kind is not CompiledLoop
        else lambda twin, run: vars(twin.rnn).update(forward=lambda x: torch.zeros(len(x), 6))
    )
    with torch._dynamo.config.patch(skip_nnmodule_hook_guards=False):
        given = torch.compile(model, backend="eager") if whole else model
        quiet_trainer(callback).validate(given, loader(), verbose=False)
    for results in callback.results:
        for result in results[2:]:
            assert result.scores is not None
            assert torch.equal(result.scores, model.head.bias.expand(16, -1))
    assert not is_compiled(callback.twin)
    assert not hasattr(vars(callback.twin).get("quick"), "_torchdynamo_orig_callable")
    if kind is not CompiledLoop:
        assert not torch.equal(callback.results[0][0].scores, callback.results[0][2].scores)
    assert "forward" not in vars(getattr(model.rnn, "_orig_mod", model.rnn))


@pytest.mark.skipif(not hasattr(torch.compiler, "set_stance"), reason="torch before 2.6")
def test_methods_that_a_class_compiles_are_not_compiled_for_twins() -> None:
    compiled: list[Any] = []

    def counting(graph: Any, _inputs: Any) -> Any:
        compiled.append(graph)
        return graph.forward

    class Compiled(Seen):
        @torch.compile(backend=counting)
        def forward(self, x: Tensor) -> Tensor:
            scores: Tensor = self.head(x.flatten(1))
            return scores

        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(6, CLASSES)

    torch.compiler.reset()
    quiet_trainer().validate(Compiled(), loader(), verbose=False)
    alone = len(compiled)
    torch.compiler.reset()
    validated(Compiled(), Rerun())
    assert len(compiled) == 2 * alone > 0


@pytest.mark.parametrize("precision", ["bf16-mixed", "64-true", "bf16-true"])
def test_runs_have_the_precision_of_the_step(precision: Any) -> None:
    model = Seen()
    outputs: list[Any] = []

    class Outputs(Rerun):
        def on_validation_batch_end(self, trainer: Any, module: Any, *args: Any) -> None:
            outputs.append(args[0]["scores"])
            super().on_validation_batch_end(trainer, module, *args)

    callback = Outputs()
    validated(model, callback, precision=precision)
    for results, scores in zip(callback.results, outputs, strict=True):
        for result in results:
            assert result.scores is not None
            assert result.scores.dtype == scores.dtype != torch.float32
            assert torch.equal(result.scores, scores)


def test_tensors_of_graphs_and_of_other_steps_can_be_attributes() -> None:
    class Keeping(Seen):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            loss = super().training_step(batch, batch_idx)
            self.losses = [loss]
            self.view = (2 * self.head.weight)[0]
            return loss

        def validation_step(self, batch: Any, batch_idx: int) -> Any:
            self.kept = {"last": batch[0]}
            return super().validation_step(batch, batch_idx)

    callback = Rerun()
    model = Keeping()
    quiet_trainer(callback, max_epochs=2).fit(model, loader(), loader())
    assert model.losses[0].grad_fn is not None
    assert callback.twin.losses[0].grad_fn is None
    assert torch.equal(callback.twin.view, model.view)


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated")
@pytest.mark.parametrize(
    "reparametrized",
    [torch.nn.utils.weight_norm, parametrizations.weight_norm, parametrizations.spectral_norm],
)
def test_reparametrized_modules(reparametrized: Any) -> None:
    model = Seen()
    reparametrized(model.head)
    callback = Rerun()
    quiet_trainer(callback, max_epochs=1).fit(model, loader(), loader())
    for first, *others in callback.results:
        for other in others:
            check_repeatable(first, other)


# What the runs give


def test_the_step_stops_as_soon_as_the_scores_are_known() -> None:
    callback = Rerun()
    model = Seen()
    validated(model, callback)
    assert model.finished == [3]
    assert callback.twin.steps == 2 + 5
    assert callback.twin.finished == [2 + 2]  # the first and the last run are whole
    first, second, *_ = callback.results[0]
    assert first.source == second.source == "argmax of the model's own forward, 4 classes"
    assert torch.equal(first.classes, first.scores.argmax(1))
    assert torch.equal(first.scores, second.scores)
    assert first.num_classes == second.num_classes == CLASSES
    assert first.loss == first.logged["val_loss"] is not None
    assert (second.loss, second.logged, second.whole) == (None, {}, False)


@pytest.mark.parametrize("prediction", ["head", lambda outputs: outputs["scores"]])
def test_where_the_scores_are_can_be_said(prediction: Any) -> None:
    found, named = Rerun(), Rerun(prediction)
    model = Seen()
    validated(model, found)
    validated(model, named)
    for results, others in zip(found.results, named.results, strict=True):
        for result, other in zip(results, others, strict=True):
            assert torch.equal(result.scores, other.scores)
            assert torch.equal(result.classes, other.classes)
    assert named.twin.finished[0] - model.finished[0] == (1 if prediction == "head" else 4)


def test_a_module_inside_a_compiled_one_can_be_named_either_way() -> None:
    model = Seen()
    model.head = torch.compile(nn.Sequential(model.head), backend="eager")
    for name in ("head._orig_mod.0", "head.0"):
        callback = Rerun(name)
        validated(model, callback)
        assert callback.results[0][1].source == "argmax of 'head.0', 4 classes"


def test_predicted_classes_without_scores() -> None:
    callbacks = [Rerun(lambda outputs: outputs["scores"].argmax(1)), Rerun()]
    for callback in callbacks:
        torch.manual_seed(0)
        validated(Seen(), callback)
    first, with_scores = (callback.results[0][0] for callback in callbacks)
    assert torch.equal(first.classes, with_scores.scores.argmax(1))
    assert (first.scores, first.num_classes) == (None, None)


def test_without_labels_runs_are_whole_and_no_scores_are_looked_for() -> None:
    callback = Rerun(with_target=False)
    validated(Seen(), callback)
    for result in callback.results[0]:
        assert result.whole
        assert (result.classes, result.scores, result.source) == (None, None, None)
        assert result.loss == callback.results[0][0].loss


def test_a_step_that_catches_everything_is_run_to_its_end() -> None:
    class Catching(Seen):
        def validation_step(self, batch: Any, batch_idx: int) -> Any:
            try:
                self(batch[0])
            except:  # noqa: E722
                self.caught = True
            return torch.zeros(())

    callback = Rerun()
    model = validated(Catching(), callback)
    assert callback.twin.caught
    assert not hasattr(model, "caught")
    for first, *others in callback.results:
        for other in others:
            check_repeatable(first, other)
            assert torch.equal(first.scores, other.scores)
        assert others[0].loss is None


def test_a_module_that_is_also_called_inside_another_does_not_stop_the_step() -> None:
    class Twice(Seen):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Sequential(self.head, nn.Flatten(0))

        def validation_step(self, batch: Any, batch_idx: int) -> Any:
            self.steps += 1
            hidden = self.rnn(batch[0])[0][:, -1]
            self.first(hidden)
            scores = self.head(hidden + 1)
            self.finished[0] += 1
            self.given = scores
            return {"scores": scores}

    callback = Rerun()
    validated(Twice(), callback)
    assert callback.twin.steps == callback.twin.finished[0]
    for result in callback.results[-1]:
        assert torch.equal(result.scores, callback.twin.given)


@pytest.mark.parametrize("loaders", [1, 2])
def test_arguments_are_those_that_lightning_gives(loaders: int) -> None:
    class Told(Seen):
        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = -1) -> Any:
            self.told = [*vars(self).get("told", []), (batch_idx, dataloader_idx)]
            return super().validation_step(batch, batch_idx)

    class Starred(Seen):
        def validation_step(self, *args: Any) -> Any:
            self.told = [*vars(self).get("told", []), args[1:]]
            return super().validation_step(*args[:2])

    for kind in (Told, Starred):
        callback = Rerun()
        model = validated(kind(), callback, *[loader()] * loaders)
        assert set(callback.twin.told) == set(model.told)
        assert callback.twin.told[-5:] == [model.told[-1]] * 5


def test_a_step_of_the_batch_alone() -> None:
    class Alone(Seen):
        def validation_step(self, batch: Any) -> Any:
            return super().validation_step(batch, 0)

    callback = Rerun()
    validated(Alone(), callback)
    assert len(callback.results) == 3


def test_batches_of_combined_loaders() -> None:
    class Combined(Seen):
        def validation_step(self, batch: Any, batch_idx: int) -> Any:
            return super().validation_step(batch["a"], batch_idx)

    callback = Rerun(with_target=False)
    callback.on_validation_batch_start = lambda trainer, module, *_: (
        setattr(callback, "rerun", StepRerun(module, trainer, "validate"))
        or setattr(callback, "target", None)
    )
    loaders = CombinedLoader({"a": loader(), "b": loader()}, "min_size")
    quiet_trainer(callback).validate(Combined(), loaders, verbose=False)
    assert len(callback.results) == 3


def test_the_test_step() -> None:
    callback = Rerun()
    model = Classifier()
    (metrics,) = quiet_trainer(callback).test(model, loader(), verbose=False)
    losses = [results[-1].logged["test_loss"] for results in callback.results]
    assert metrics["test_loss"] == pytest.approx(sum(losses) / 3)
    assert callback.results[0][0].step == "test_step"


# The batch


@dataclass
class Record:
    inputs: list[Any]
    more: dict[str, Any]


def test_containers_of_the_batch_are_new_in_every_run() -> None:
    class Emptying(Seen):
        def validation_step(self, batch: Any, batch_idx: int) -> Any:
            batch, record = batch[:2], batch[2]
            assert len(record.inputs) == 1
            record.inputs.clear()
            assert record.more.pop("packed") is not None
            return super().validation_step(batch, batch_idx)

    packed = pack_sequence([torch.zeros(2), torch.zeros(1)])
    inputs, labels = loader().dataset.tensors
    record = Record([1], {"packed": packed})
    loaded = DataLoader([[inputs, labels, record]], batch_size=None, collate_fn=lambda batch: batch)
    records: list[Record] = []

    class Fresh(Rerun):
        def on_validation_batch_start(self, trainer: Any, module: Any, *args: Any) -> None:
            super().on_validation_batch_start(trainer, module, *args)
            records.append(args[0][2])

        def on_validation_batch_end(self, trainer: Any, module: Any, *args: Any) -> None:
            records[-1].inputs, records[-1].more = [1], {"packed": packed}
            super().on_validation_batch_end(trainer, module, *args)

    callback = Fresh()
    validated(Emptying(), callback, loaded)
    assert len(callback.results[0]) == 5
    assert records[0].inputs == [1]


def test_a_batch_changed_in_place_is_noticed() -> None:
    class Changing(Seen):
        def validation_step(self, batch: Any, batch_idx: int) -> Any:
            batch[0].add_(1)
            return super().validation_step(batch, batch_idx)

    callback = Rerun()
    validated(Changing(), callback)
    with pytest.raises(ValueError, match=r"validation_step gave other .* changes the batch"):
        check_repeatable(*callback.results[0][:2])


def test_a_state_kept_from_call_to_call_is_noticed() -> None:
    class Stateful(Seen):
        state = None

        def forward(self, x: Tensor) -> Tensor:
            output, self.state = self.rnn(x, self.state)
            scores: Tensor = self.head(output[:, -1])
            return scores

    callback = Rerun()
    validated(Stateful(), callback)
    with pytest.raises(ValueError, match="keeps a state from call to call"):
        check_repeatable(*callback.results[0][:2])


def test_what_counts_as_repeatable() -> None:
    scores = torch.tensor([[1.0, -100.0], [-torch.inf, 3e-7]])
    first = StepResult(
        "test_step", scores.argmax(1), scores, 2, "head", True, {"a": 2.0}, frozenset(), 0.5
    )
    check_repeatable(first, replace(first, scores=scores + 5e-5))
    check_repeatable(first, replace(first, logged={"a": 2.0 + 1e-7, "b": 0.0}))
    with pytest.raises(ValueError, match="gave other numbers to log as 'a' when it was run again"):
        check_repeatable(first, replace(first, logged={"a": 2.001}))
    check_repeatable(first, replace(first, scores=None, classes=None, loss=None))
    with pytest.raises(ValueError, match="test_step gave other class scores"):
        check_repeatable(first, replace(first, scores=scores + 2e-4))
    with pytest.raises(ValueError, match="other class scores"):
        check_repeatable(first, replace(first, scores=scores[:1]))
    with pytest.raises(ValueError, match="other predicted classes"):
        check_repeatable(first, replace(first, classes=1 - first.classes))
    with pytest.raises(ValueError, match="other losses"):
        check_repeatable(first, replace(first, loss=0.50001))


# Errors


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


@pytest.mark.parametrize(
    ("change", "path"),
    [
        (lambda model: setattr(model, "lock", threading.Lock()), r"Seen\.lock \(lock\)"),
        (
            lambda model: setattr(model.rnn, "file", {"a": [threading.Lock()]}),
            r"Seen\.rnn\.file \(dict\)",
        ),
        (
            lambda model: model.head.register_forward_hook(
                partial(lambda lock, *_: None, threading.Lock())
            ),
            r"Seen\.head\._forward_hooks \(partial\)",
        ),
        (lambda model: setattr(model, "items", (i for i in [1])), r"Seen\.items \(generator\)"),
    ],
)
def test_what_cannot_be_copied_is_named(change: Any, path: str) -> None:
    model = Seen()
    model.itself = [model]
    change(model)
    with pytest.raises(TypeError, match=rf"^pl_module: {path} cannot be copied: cannot pickle"):
        validated(model, Rerun())


def test_a_class_can_say_how_it_is_copied() -> None:
    class Handle:
        def __init__(self) -> None:
            self.lock = threading.Lock()

        def __deepcopy__(self, memo: Any) -> Any:
            return self

    model = Seen()
    model.handle = Handle()
    callback = Rerun()
    validated(model, callback)
    assert callback.twin.handle is model.handle

    class Itself(Seen):
        def __deepcopy__(self, memo: Any) -> Any:
            return self

    with pytest.raises(TypeError, match=r"deepcopy of Itself gave no copy of it"):
        validated(Itself(), Rerun())


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


def test_arguments_are_checked() -> None:
    class Iterating(Seen):
        def validation_step(self, dataloader_iter: Any) -> Any:
            return super().validation_step(next(dataloader_iter)[0], 0)

    with pytest.raises(ValueError, match=r"stage: got 'fit'; it takes 'validate' or 'test'"):
        StepRerun(Seen(), quiet_trainer(), "fit")
    with pytest.raises(ValueError, match=r"takes dataloader_iter, .*; have it take a batch"):
        StepRerun(Iterating(), quiet_trainer(), "validate")
    with pytest.raises(ValueError, match=r"no submodule 'tail' in Seen; it has: 'rnn'"):
        validated(Seen(), Rerun("tail"))


def test_scores_that_a_run_does_not_give_are_an_error() -> None:
    callback = Rerun()
    callback.around = lambda twin, run: vars(twin).update(
        validation_step=(lambda batch, batch_idx: None) if run == 2 else twin.validation_step
    )
    with pytest.raises(ValueError, match="prediction: the step does not end with class scores"):
        validated(Seen(), callback)


def test_labels_without_a_score_are_an_error() -> None:
    class WithoutLoss(Seen):
        def validation_step(self, batch: Any, batch_idx: int) -> Any:
            self(batch[0])

    loaded = DataLoader(TensorDataset(torch.zeros(4, 6, 1), torch.full((4,), CLASSES)), 4)
    with pytest.raises(ValueError, match=r"target: labels from 4 to 4"):
        validated(WithoutLoss(), Rerun(), loaded)
