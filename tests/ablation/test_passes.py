"""Which batches are run again, and of which the states are recorded."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lightning_relay import EveryUnit, KnockoutCallback, Mean, MeanPerStep, Resample
from lightning_relay.ablation import passes
from tests.support.ablation import (
    Ragged,
    Stream,
    as_loader,
    assert_report,
    batches,
    lively,
    recorded,
    validated,
)
from tests.support.models import Classifier, loader
from tests.support.training import INPUTS


@pytest.mark.parametrize(
    ("reference_samples", "recorded_batches"), [(2, 1), (16, 1), (17, 2), (33, 3), (1000, 3)]
)
def test_states_are_those_of_the_first_whole_batches(
    reference_samples: int, recorded_batches: int
) -> None:
    model = lively(Classifier)
    callback = KnockoutCallback(value=Mean(reference_samples=reference_samples))
    validated(model, callback)
    states = recorded(model, batches()[:recorded_batches])
    assert_report(callback.reports[0], model, batches(), value="mean", states=states)


def test_only_batches_that_are_run_again_are_recorded() -> None:
    model = lively(Classifier)
    callback = KnockoutCallback(value=Mean(), max_batches=2)
    validated(model, callback)
    states = recorded(model, batches()[:2])
    assert_report(callback.reports[0], model, batches()[:2], value="mean", states=states)


@pytest.mark.parametrize("kind", [MeanPerStep, Resample])
def test_sequences_longer_than_those_recorded_are_refused_with_a_remedy(
    kind: type[MeanPerStep | Resample],
) -> None:
    (x, y), *_ = batches()
    data = as_loader([(x[:, :3], y), (x, y)])
    callback = KnockoutCallback(value=kind(reference_samples=4))
    with pytest.raises(ValueError, match=r"reference_samples: got 4") as raised:
        validated(lively(Classifier), callback, data=data)
    assert "3 steps" in str(raised.value)
    enough = KnockoutCallback(value=kind(reference_samples=20))
    validated(lively(Classifier), enough, data=data)
    assert enough.reports[0].samples == 32


def test_batches_wait_no_longer_than_they_must(monkeypatch: pytest.MonkeyPatch) -> None:
    waiting: list[int] = []
    plain = passes.KnockoutPass.after_step

    def watched(self: Any, outputs: Any, batch_idx: int, dataloader: int) -> None:
        plain(self, outputs, batch_idx, dataloader)
        waiting.append(len(self._dataloaders[dataloader].waiting))

    monkeypatch.setattr(passes.KnockoutPass, "after_step", watched)
    some: Any
    for some, data, expected in (
        (0.0, loader(), [0, 0, 0]),
        (Mean(reference_samples=20), loader(), [1, 0, 0]),
        (Mean(reference_samples=1000), loader(), [1, 2, 0]),
        (Mean(reference_samples=1000), as_loader(Stream(batches())), [0, 0, 0]),
    ):
        waiting.clear()
        callback = KnockoutCallback(value=some)
        validated(Classifier(), callback, data=data)
        assert waiting == expected
        assert callback.reports[0].batches == 3


def test_the_twins_of_waiting_batches_see_what_their_step_saw() -> None:
    """A buffer that every step changes is, in a run again, what it was before that step."""

    class Shifting(Classifier):
        shift: torch.Tensor

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("shift", torch.zeros(()))

        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
            x, y = batch
            self.log("val_loss", self.loss(self(x + self.shift), y))

        def on_validation_batch_end(self, *_: Any) -> None:
            self.shift += 0.5

    model = lively(Shifting)
    callback = KnockoutCallback(EveryUnit(max_sets=1), value=Mean())
    validated(model, callback)
    model.eval()
    own = torch.cat([model(INPUTS[16 * k : 16 * k + 16] + 0.5 * k).argmax(1) for k in range(3)])
    confusion = callback.reports[0].confusion[0]
    assert confusion.sum(0).tolist() == own.bincount(minlength=4).tolist()


def test_packed_sequences_at_single_steps() -> None:
    model = lively(Ragged)
    callback = KnockoutCallback(EveryUnit(steps="each", modules=["rnn"], max_sets=None))
    validated(model, callback)
    (report,) = callback.reports
    assert len(report.sets) == 2 * 3 * 6
    assert {some.steps for some in report.sets} == {(step,) for step in range(6)}
