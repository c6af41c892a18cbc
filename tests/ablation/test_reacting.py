"""Answers that do not depend on what the runs compute are refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import pack_padded_sequence

from lightning_relay import EveryUnit, KnockoutCallback, RandomSets
from tests.support.ablation import as_loader, batches, lively, validated
from tests.support.models import Classifier


class Returning(Classifier):
    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        scores = self(batch[0])
        return {"scores": scores, "classes": scores.argmax(1)}


class Packing(Returning):
    def forward(self, x: Tensor) -> Tensor:
        packed = pack_padded_sequence(x, [x.shape[1]] * len(x), batch_first=True)
        scores: Tensor = self.head(self.rnn(packed)[1][-1])
        return scores


def kept_by_a_hook(model: Any) -> Any:
    kept: dict[str, Tensor] = {}
    model.head.register_forward_hook(lambda module, args, scores: kept.update(scores=scores))
    return lambda outputs: kept["scores"]


def kept_by_the_model(model: Any) -> Any:
    model.register_forward_hook(lambda own, args, scores: setattr(own, "scores", scores))
    return lambda outputs: model.scores.argmax(1)


def of_the_first_batch(model: Any) -> Any:
    first: list[Tensor] = []

    def answer(outputs: Any) -> Tensor:
        first.append(outputs["scores"])
        return first[0]

    return answer


ELSEWHERE = [kept_by_a_hook, kept_by_the_model, of_the_first_batch]


@pytest.mark.parametrize("which", [EveryUnit(max_sets=2), RandomSets(n=8)], ids=["units", "sets"])
@pytest.mark.parametrize("elsewhere", ELSEWHERE)
def test_an_answer_that_is_read_elsewhere_is_refused(elsewhere: Any, which: Any) -> None:
    model = lively(Returning)
    callback = KnockoutCallback(which, prediction=elsewhere(model))
    with pytest.raises(
        ValueError, match=r"prediction: the function gives the same answer whatever"
    ):
        validated(model, callback)


@pytest.mark.parametrize("kind", [Returning, Packing])
@pytest.mark.parametrize(
    "prediction",
    [
        lambda outputs: outputs["scores"],
        lambda outputs: outputs["classes"],
        ("head", lambda scores: scores.argmax(1)),
        ("head", lambda scores, batch: scores.softmax(1) + 0 * batch[0].mean()),
    ],
    ids=["scores", "classes", "of a module", "with the batch"],
)
def test_answers_of_the_runs_are_taken(kind: type[Classifier], prediction: Any) -> None:
    callback = KnockoutCallback(prediction=prediction)
    validated(lively(kind), callback)
    plain = KnockoutCallback()
    validated(lively(kind), plain)
    assert (callback.reports[0].confusion == plain.reports[0].confusion).all()


def test_scores_that_nothing_moves_yet_are_no_reason_to_refuse() -> None:
    model = lively(Returning)
    torch.nn.init.zeros_(model.head.weight)
    callback = KnockoutCallback(prediction=lambda outputs: outputs["scores"])
    validated(model, callback)
    assert callback.reports[0].accuracy is not None
    assert not callback.reports[0].accuracy.damage.any()


@pytest.mark.parametrize("seed", range(20))
def test_a_batch_whose_few_classes_large_noise_leaves_by_chance_is_not_refused(seed: int) -> None:
    data = as_loader(batches(1, 15))
    model = lively(Returning, seed)
    callback = KnockoutCallback(prediction=lambda outputs: outputs["classes"] // 2)
    validated(model, callback, data=data)
    assert len(callback.reports) == 1


def test_a_step_that_fails_on_noise_is_not_refused() -> None:
    class Bounded(Returning):
        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
            outputs = super().validation_step(batch, batch_idx)
            assert outputs["scores"].abs().max() < 50
            return outputs

    callback = KnockoutCallback(prediction=lambda outputs: outputs["scores"])
    validated(lively(Bounded), callback)
    assert len(callback.reports) == 1
