"""Batches and arguments of a step that is run again, and steps that are not repeatable."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from lightning.pytorch.utilities import CombinedLoader
from torch import Tensor
from torch.nn.utils.rnn import pack_sequence
from torch.utils.data import DataLoader

from lightning_relay.reading.answers import Answer
from lightning_relay.reading.containers import leaves_in
from lightning_relay.rerun import KeptBatch, StepRerun, StepResult, check_repeatable
from tests.support.models import loader
from tests.support.rerun import Rerun, Seen, validated
from tests.support.training import quiet_trainer


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
        or setattr(callback, "labels", None)
    )
    loaders = CombinedLoader({"a": loader(), "b": loader()}, "min_size")
    quiet_trainer(callback).validate(Combined(), loaders, verbose=False)
    assert len(callback.results) == 3


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


def test_every_run_gets_the_batch_as_it_was_before_the_run() -> None:
    class Changing(Seen):
        def validation_step(self, batch: Any, batch_idx: int) -> Any:
            batch[0].add_(1)
            return super().validation_step(batch, batch_idx)

    callback = Rerun()
    validated(Changing(), callback)
    for first, *others in callback.results:
        for other in others:
            check_repeatable(first, other)


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
    answer = Answer(torch.zeros(2), scores.argmax(1), scores, 2, "labels", "head")

    def with_scores(scores: Tensor) -> StepResult:
        return replace(first, answer=replace(answer, scores=scores))

    first = StepResult(
        "test_step", answer, True, {"a": 2.0}, frozenset(), {"loss": 0.5, "time": 1}, {}
    )
    check_repeatable(first, with_scores(scores + 5e-5))
    check_repeatable(first, replace(first, logged={"a": 2.0 + 1e-7, "b": 0.0}))
    with pytest.raises(ValueError, match="gave other numbers to log as 'a' when it was run again"):
        check_repeatable(first, replace(first, logged={"a": 2.001}))
    check_repeatable(first, replace(first, answer=None, returned={}))
    other = replace(first, returned={"loss": 0.5, "time": 2})
    check_repeatable(first, other)
    with pytest.raises(ValueError, match="gave other returned numbers 'time' when it was run agai"):
        check_repeatable(first, other, returned="time")
    with pytest.raises(ValueError, match="test_step gave other class scores"):
        check_repeatable(first, with_scores(scores + 2e-4))
    with pytest.raises(ValueError, match="other class scores"):
        check_repeatable(first, with_scores(scores[:1]))
    with pytest.raises(ValueError, match="other predicted classes"):
        check_repeatable(first, replace(first, answer=replace(answer, classes=1 - answer.classes)))
    with pytest.raises(ValueError, match="other losses"):
        check_repeatable(first, replace(first, returned={"loss": 0.50001}))


class Wrapped:
    """An object that holds a tensor, and is no container."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


PLACES: dict[str, tuple[Any, Any]] = {
    "a list": (lambda x: [x], lambda batch: batch[0]),
    "a mapping": (lambda x: {"x": x}, lambda batch: batch["x"]),
    "a packed sequence": (lambda x: pack_sequence([x]), lambda batch: batch.data),
    "a view": (lambda x: [x, x[1:]], lambda batch: batch[1]),
    "the same twice": (lambda x: [x, x], lambda batch: batch[1]),
    "overlapping": (lambda x: x.unfold(0, 3, 1).unbind(), lambda batch: batch[1]),
    "an array": (lambda x: [x.numpy()], lambda batch: torch.from_numpy(batch[0])),
    "an object": (lambda x: Wrapped(x), lambda batch: batch.tensor),
    "an empty one": (lambda x: [x[:0], x], lambda batch: batch[1]),
    "a record": (lambda x: Record([x], {}), lambda batch: batch.inputs[0]),
}


@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize(("packed", "unpacked"), PLACES.values(), ids=PLACES)
def test_a_kept_batch_has_its_contents_whatever_is_changed(
    packed: Any, unpacked: Any, inference: bool
) -> None:
    with torch.inference_mode(inference):
        batch = packed(torch.arange(6.0))
    kept = KeptBatch(batch)
    wanted = unpacked(batch).clone()
    with torch.inference_mode(inference):
        for change in (
            lambda part: None,
            lambda part: part.add_(1),
            lambda part: part.data.mul_(3),
        ):
            given = kept.given()
            assert torch.equal(unpacked(given), wanted)
            assert unpacked(given).stride() == unpacked(batch).stride()
            for leaf in leaves_in(given):
                if isinstance(leaf, Tensor) and leaf.numel():
                    change(leaf)
            kept.put_back()
            change(unpacked(batch))
    assert torch.equal(unpacked(kept.given()), wanted)


def test_a_run_that_alone_changes_the_batch_does_not_change_that_of_the_step() -> None:
    x = torch.arange(3.0)
    kept = KeptBatch([x])
    for _ in range(2):
        assert kept.given()[0] is x
        x.add_(1)
    kept.put_back()
    assert torch.equal(x, torch.arange(3.0))


def test_views_stay_views() -> None:
    x = torch.arange(6.0)
    kept = KeptBatch([x, x.view(2, 3).t()])
    x.add_(1)
    own, view = kept.given()
    own[1] = 9
    assert view[1, 0] == 9
    assert x[1] == 2


def test_a_batch_that_cannot_be_copied_is_refused_only_if_it_is_changed() -> None:
    x = torch.arange(3.0)
    kept = KeptBatch([x, threading.Lock()])
    assert kept.given()[0] is x
    kept.put_back()
    x.add_(1)
    with pytest.raises(TypeError, match=r"^batch: the step changes it in place.*cannot pickle"):
        kept.given()
