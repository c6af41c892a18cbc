"""Batches and arguments of a step that is run again, and steps that are not repeatable."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from lightning.pytorch.utilities import CombinedLoader
from torch import Tensor
from torch.nn.utils.rnn import pack_sequence
from torch.utils.data import DataLoader

from lightning_relay.rerun import StepRerun, StepResult, check_repeatable
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
        or setattr(callback, "target", None)
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
