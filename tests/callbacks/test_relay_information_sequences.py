"""Which sequences and steps are analysed, and what is held of them in memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn.utils.rnn import pack_padded_sequence
from torch.utils.data import DataLoader

from lightning_relay import RelayInformationCallback, SequenceSample
from tests.support.models import STEPS, Classifier, loader
from tests.support.training import INPUTS, LABELS, batch_of, quiet_trainer


def test_a_fair_sample_is_taken_and_what_is_left_out_is_counted() -> None:
    callback = RelayInformationCallback(sample=SequenceSample(max_samples=20))
    quiet_trainer(callback).validate(Classifier(), loader(), verbose=False)
    (report,) = callback.reports
    assert (report.samples, report.samples_seen) == (20, 48)
    assert report.layers["rnn.l0"].samples.tolist() == [20] * STEPS


def test_the_sample_depends_on_the_seed_only() -> None:
    information = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        callback = RelayInformationCallback(
            prediction=lambda _: LABELS[:16], sample=SequenceSample(max_samples=20, seed=seed)
        )
        quiet_trainer(callback).validate(Classifier(), loader(), verbose=False)
        information.append(callback.reports[0].mutual_information["joint"])
    assert information[0] == information[1] != information[2]


def test_lengths_can_be_named_for_padded_sequences() -> None:
    class Padded(Classifier):
        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
            x, lengths, _ = batch
            output, _ = self.rnn(x)
            self.head(output[torch.arange(len(x)), lengths - 1])

    lengths = torch.arange(48) % STEPS + 1
    callback = RelayInformationCallback(lengths=1, target=2)
    quiet_trainer(callback).validate(Padded(), batch_of(INPUTS, lengths, LABELS), verbose=False)
    samples = callback.reports[0].layers["rnn.l0"].samples
    assert samples.tolist() == [*(int((lengths > step).sum()) for step in range(STEPS)), 48]


class SortingInside(Classifier):
    """Packs what it has sorted itself, and puts the class scores back in order."""

    def forward(self, x: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        order = lengths.argsort(descending=True)
        _, final = self.rnn(pack_padded_sequence(x[order], lengths[order], batch_first=True))
        scores: torch.Tensor = self.head(final[0][order.argsort()])
        return scores

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        x, lengths, _ = batch
        self(x, lengths)


def test_an_order_that_the_model_changes_is_warned_of_or_refused() -> None:
    lengths = torch.arange(48) % STEPS + 1
    shuffled = batch_of(INPUTS, lengths, LABELS)
    with pytest.warns(UserWarning, match="'rnn.l0' was given packed sequences that had been sort"):
        quiet_trainer(RelayInformationCallback(target=2)).validate(
            SortingInside(), shuffled, verbose=False
        )
    with pytest.raises(
        ValueError, match=r"lengths: the packed sequences given to 'rnn.l0' have oth"
    ):
        quiet_trainer(RelayInformationCallback(target=2, lengths=1)).validate(
            SortingInside(), shuffled, verbose=False
        )
    order = lengths.argsort(descending=True, stable=True)
    collated = batch_of(INPUTS[order], lengths[order], LABELS[order])
    callback = RelayInformationCallback(target=2, lengths=1)
    quiet_trainer(callback).validate(SortingInside(), collated, verbose=False)
    assert callback.reports[0].layers["rnn.l0"].samples.tolist() == [48, 40, 32, 24, 16, 8, 48]


def test_batches_that_may_be_padded_are_warned_of() -> None:
    batches = [(INPUTS[:16, :4], LABELS[:16]), (INPUTS[16:], LABELS[16:])]
    with pytest.warns(
        UserWarning, match="the batches given to 'rnn.l0' have from 4 to 6 steps. If"
    ):
        quiet_trainer(RelayInformationCallback()).validate(
            Classifier(), DataLoader(batches, batch_size=None), verbose=False
        )


def test_short_sequences_in_the_sanity_check_are_no_error() -> None:
    class Packing(Classifier):
        def forward(self, x: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
            packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
            scores: torch.Tensor = self.head(self.rnn(packed)[1][0])
            return scores

        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            loss: torch.Tensor = self.loss(self(batch[0], batch[1]), batch[2])
            return loss

        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
            self(batch[0], batch[1])

    lengths = torch.tensor([3] * 32 + [6] * 16)
    batches = batch_of(INPUTS, lengths, LABELS)
    callback = RelayInformationCallback(
        target=2, inputs_end=4, sample=SequenceSample(time_steps=[0, 5])
    )
    quiet_trainer(callback).fit(Packing(), batches, batches)
    assert callback.reports[0].layers["rnn.l0"].samples.tolist() == [48, 16]


def test_steps_that_no_analysed_sequence_has_are_left_out_with_a_warning() -> None:
    callback = RelayInformationCallback(sample=SequenceSample(time_steps=[0, 3, 99]))
    with pytest.warns(
        UserWarning, match=r"time_steps: no sequence of 'rnn.l0' has the steps \[99\], or n"
    ):
        quiet_trainer(callback).validate(Classifier(), loader(), verbose=False)
    assert callback.reports[0].layers["rnn.l0"].time_steps.tolist() == [0, 3]


def ordered(samples: int) -> DataLoader[Any]:
    """Sequences of which the later ones are not like the first."""
    shift = torch.linspace(0, 3, samples)[:, None, None]
    return batch_of(INPUTS.repeat(samples // 48, 1, 1) + shift, LABELS.repeat(samples // 48))


def test_thresholds_fitted_to_the_first_sequences_are_reported_and_doubted() -> None:
    torch.manual_seed(0)
    callback = RelayInformationCallback(sample=SequenceSample(fit_samples=480))
    with pytest.warns(
        UserWarning, match="'rnn.l0': thresholds were fitted to the first 480 sequences, which are"
    ):
        quiet_trainer(callback).validate(Classifier(), ordered(1920), verbose=False)
    (report,) = callback.reports
    assert (report.samples, report.samples_seen, report.samples_fitted) == (1920, 1920, 480)
    assert report.threshold_agreement["rnn.l0"] < report.expected_agreement["rnn.l0"] - 0.1
    assert report.beyond_thresholds == {"rnn.l0": 0}
    for storage in ("states", "half"):
        callback = RelayInformationCallback(sample=SequenceSample(fit_samples=48, storage=storage))
        quiet_trainer(callback).validate(Classifier(), ordered(480), verbose=False)
        assert callback.reports[0].samples_fitted == 480
        assert callback.reports[0].threshold_agreement == {}


def test_sequences_longer_than_the_first_are_reported_and_warned_of() -> None:
    batches = [(INPUTS[:40, :4], LABELS[:40]), (INPUTS[40:], LABELS[40:])]
    callback = RelayInformationCallback(sample=SequenceSample(fit_samples=20))
    with pytest.warns(UserWarning, match="sequences") as record:
        quiet_trainer(callback).validate(
            Classifier(), DataLoader(batches, batch_size=None), verbose=False
        )
    said = "\n".join(str(warning.message) for warning in record)
    assert "'rnn.l0': thresholds were fitted to the first 20 sequences, and too few of" in said
    assert "the batches given to 'rnn.l0' have from 4 to 6 steps" in said
    assert callback.reports[0].beyond_thresholds == {"rnn.l0": 8}
    assert callback.reports[0].layers["rnn.l0"].time_steps.tolist() == [0, 1, 2, 3, -1]


def test_too_much_memory_is_refused_before_training() -> None:
    with pytest.raises(
        ValueError,
        match=r"max_bytes: got 1000 \(1.0 kB\), but 48 sequences take 8.1 kB. 'rnn.l0': 48 sequenc",
    ):
        quiet_trainer(RelayInformationCallback(sample=SequenceSample(max_bytes=1000))).fit(
            Classifier(), loader(), loader()
        )
