"""What a step that is run again gives is what the step itself gave."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_relay.rerun import StepRerun, check_repeatable
from tests.support.models import CLASSES, Classifier, loader
from tests.support.rerun import Rerun, Seen, validated
from tests.support.training import quiet_trainer


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


def test_the_step_stops_as_soon_as_the_scores_are_known() -> None:
    callback = Rerun()
    model = Seen()
    validated(model, callback)
    assert model.finished == [3]
    assert callback.twin.steps == 2 + 5
    assert callback.twin.finished == [2 + 2]  # the first and the last run are whole
    first, second, *_ = callback.results[0]
    assert (
        first.answer.x_out == second.answer.x_out == "argmax of the model's own forward, 4 classes"
    )
    assert torch.equal(first.classes, first.scores.argmax(1))
    assert torch.equal(first.scores, second.scores)
    assert first.answer.num_classes == second.answer.num_classes == CLASSES
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
        assert callback.results[0][1].answer.x_out == "argmax of 'head.0', 4 classes"


def test_predicted_classes_without_scores() -> None:
    callbacks = [Rerun(lambda outputs: outputs["scores"].argmax(1)), Rerun()]
    for callback in callbacks:
        torch.manual_seed(0)
        validated(Seen(), callback)
    first, with_scores = (callback.results[0][0] for callback in callbacks)
    assert torch.equal(first.classes, with_scores.scores.argmax(1))
    assert (first.scores, first.answer.num_classes) == (None, None)


def test_without_labels_runs_are_whole_and_no_scores_are_looked_for() -> None:
    callback = Rerun(with_target=False)
    validated(Seen(), callback)
    for result in callback.results[0]:
        assert result.whole
        assert (result.answer, result.classes, result.scores) == (None, None, None)
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


def test_the_test_step() -> None:
    callback = Rerun()
    model = Classifier()
    (metrics,) = quiet_trainer(callback).test(model, loader(), verbose=False)
    losses = [results[-1].logged["test_loss"] for results in callback.results]
    assert metrics["test_loss"] == pytest.approx(sum(losses) / 3)
    assert callback.results[0][0].step == "test_step"


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
