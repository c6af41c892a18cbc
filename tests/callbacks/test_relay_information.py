from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._dynamo
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence
from torch.utils.data import DataLoader, IterableDataset

from lightning_relay import (
    HiddenStateRecorder,
    RelayInformationCallback,
    RelayMeasure,
    RelayReport,
    SequenceSample,
    recurrent_layers,
    relay_report,
)
from lightning_relay.relay.picture import relay_image
from tests.support.hooks import hook_count
from tests.support.images import decoded
from tests.support.models import (
    CLASSES,
    STEPS,
    Classifier,
    CompiledLoop,
    Frozen,
    Stacked,
    WithoutForward,
    loader,
)
from tests.support.reports import assert_equal
from tests.support.training import INPUTS, LABELS, batch_of, quiet_trainer

# What is measured


@pytest.mark.parametrize("kind", [Classifier, WithoutForward])
def test_the_report_is_that_of_the_validated_model(kind: type[Classifier]) -> None:
    model = kind()
    callback = RelayInformationCallback(inputs_end=1)
    quiet_trainer(callback).validate(model, loader(), verbose=False)
    with torch.no_grad(), HiddenStateRecorder(model) as recorder:
        predicted = model.eval()(INPUTS).argmax(1)
    expected = relay_report(recorder.states, LABELS, predicted, inputs_end=1)
    (report,) = callback.reports
    assert_equal(report.layers, expected.layers)
    assert (report.stage, report.epoch, report.global_step) == ("validate", 0, 0)
    assert (report.samples, report.samples_seen) == (48, 48)


def test_every_validation_and_test_epoch_is_reported() -> None:
    callback = RelayInformationCallback()
    model = Classifier()
    trainer = quiet_trainer(callback, max_epochs=3)
    trainer.fit(model, loader(), loader())
    trainer.validate(model, loader(), verbose=False)
    trainer.test(model, loader(), verbose=False)
    assert [(r.stage, r.epoch, r.global_step) for r in callback.reports] == [
        ("validate", 0, 3),
        ("validate", 1, 6),
        ("validate", 2, 9),
        ("validate", 3, 9),
        ("test", 3, 9),
    ]


def test_epochs_and_stages_can_be_chosen() -> None:
    every_second = RelayInformationCallback(every_n_epochs=2, prefix="second")
    only_test = RelayInformationCallback(stages=["test"], prefix="test")
    model = Classifier()
    trainer = quiet_trainer(every_second, only_test, max_epochs=5)
    trainer.fit(model, loader(), loader())
    trainer.test(model, loader(), verbose=False)
    assert [(r.stage, r.epoch) for r in every_second.reports] == [
        ("validate", 1),
        ("validate", 3),
        ("test", 5),
    ]
    assert [r.stage for r in only_test.reports] == ["test"]


def test_validation_inside_an_epoch_is_reported_each_time() -> None:
    callback = RelayInformationCallback()
    quiet_trainer(callback, max_epochs=1, val_check_interval=1).fit(
        Classifier(), loader(), loader()
    )
    assert [report.global_step for report in callback.reports] == [1, 2, 3]


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


def test_options_reach_the_analysis() -> None:
    options: dict[str, Any] = {"concepts": {"low": lambda label: label & 1}, "inputs_end": 1}
    measure = RelayMeasure(
        discretization="quantile",
        levels=3,
        direction="grow",
        estimator="grassberger",
        min_coverage=0.5,
        max_gap=0.3,
        n_orders=8,
        n_permutations=19,
        n_bootstraps=40,
        seed=3,
    )
    sample = SequenceSample(time_steps=[1, -1])
    callback = RelayInformationCallback(["rnn"], measure=measure, sample=sample, **options)
    model = Classifier()
    quiet_trainer(callback).validate(model, loader(), verbose=False)
    with torch.no_grad(), HiddenStateRecorder(model) as recorder:
        predicted = model.eval()(INPUTS).argmax(1)
    expected = relay_report(
        recorder.states, LABELS, predicted, measure=measure, time_steps=[1, -1], **options
    )
    (report,) = callback.reports
    assert_equal(report.layers, expected.layers)
    assert report.measure is measure


def test_per_class_concepts_know_classes_that_do_not_occur() -> None:
    callback = RelayInformationCallback(concepts="per_class")
    none_of_the_last = LABELS.clamp(max=CLASSES - 2)
    quiet_trainer(callback).validate(
        Classifier(), batch_of(INPUTS, none_of_the_last), verbose=False
    )
    assert list(callback.reports[0].layers["rnn.l0"].concepts) == [
        f"class_{label}" for label in range(CLASSES)
    ]


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


def test_a_target_that_the_step_takes_out_of_the_batch_is_still_found() -> None:
    class Popping(Classifier):
        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
            y = batch.pop("y")
            self.log("val_loss", self.loss(self(batch.pop("x")), y), batch_size=len(y))

    data = [{"x": x, "y": y} for x, y in zip(INPUTS, LABELS, strict=True)]
    callback = RelayInformationCallback()
    quiet_trainer(callback).validate(Popping(), DataLoader(data, 16), verbose=False)
    assert callback.reports[0].samples == 48


def test_dataloaders_are_reported_apart(tmp_path: Path) -> None:
    callback = RelayInformationCallback()
    trainer = quiet_trainer(callback, logger=TensorBoardLogger(tmp_path))
    trainer.validate(Classifier(), [loader(48), loader(32)], verbose=False)
    assert [(r.dataloader, r.samples) for r in callback.reports] == [(0, 48), (1, 32)]
    assert {
        float(trainer.callback_metrics[f"relay/samples/dataloader_{index}"]) for index in range(2)
    } == {48.0, 32.0}
    assert len(list(Path(str(trainer.log_dir), "relay_reports").iterdir())) == 2


def test_a_step_may_do_something_else_for_each_dataloader() -> None:
    class TwoHeads(Classifier):
        def __init__(self) -> None:
            super().__init__()
            self.other = nn.Linear(6, 7)

        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
            hidden = self.rnn(batch[0])[0][:, -1]
            (self.head if dataloader_idx == 0 else self.other)(hidden)

    callback = RelayInformationCallback(concepts="per_class")
    quiet_trainer(callback).validate(TwoHeads(), [loader(), loader()], verbose=False)
    assert [len(report.mutual_information) for report in callback.reports] == [CLASSES, 7]
    assert [report.x_out for report in callback.reports] == [
        "argmax of 'head', 4 classes",
        "argmax of 'other', 7 classes",
    ]


def test_an_empty_dataloader_among_several_leaves_the_names_of_the_others() -> None:
    trainer = quiet_trainer(RelayInformationCallback())
    with pytest.warns(UserWarning, match="is zero"):
        trainer.validate(Classifier(), [batch_of(INPUTS[:0], LABELS[:0]), loader()], verbose=False)
    assert "relay/samples/dataloader_1" in trainer.callback_metrics


def test_what_was_found_is_said_once_and_kept(caplog: pytest.LogCaptureFixture) -> None:
    callback = RelayInformationCallback()
    with caplog.at_level("INFO"):
        quiet_trainer(callback).fit(Classifier(), loader(), loader())
    said = [text for text in caplog.messages if text.startswith("Relay information")]
    source = "argmax of the model's own forward, 4 classes"
    assert said == [
        f"Relay information: X_in is batch[1], X_out is {source}.",
        "Relay information: the states of up to 48 sequences take up to 8.1 kB of memory.",
    ]
    assert {(report.x_in, report.x_out) for report in callback.reports} == {("batch[1]", source)}


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


def test_cells_in_the_methods_of_the_model_itself_need_nothing_named() -> None:
    class Unrolled(Classifier):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTMCell(1, 6)
            del self.rnn

        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
            state = None
            for inputs in batch[0].unbind(1):
                state = self.lstm(inputs, state)
            assert state is not None
            self.loss(self.head(state[0]), batch[1])

    callback = RelayInformationCallback(states=("hidden", "cell"))
    quiet_trainer(callback).validate(Unrolled(), loader(), verbose=False)
    (report,) = callback.reports
    assert report.x_out == "argmax of 'head', 4 classes"
    assert [layer.samples.tolist() for layer in report.layers.values()] == [[48] * STEPS] * 2


# What is held in memory


def ordered(samples: int) -> DataLoader[Any]:
    """Sequences of which the later ones are not like the first."""
    shift = torch.linspace(0, 3, samples)[:, None, None]
    return batch_of(INPUTS.repeat(samples // 48, 1, 1) + shift, LABELS.repeat(samples // 48))


def test_thresholds_fitted_to_the_first_sequences_are_reported_and_doubted() -> None:
    torch.manual_seed(0)
    callback = RelayInformationCallback(sample=SequenceSample(fit_samples=480))
    with pytest.warns(
        UserWarning, match=r"'rnn.l0': the first 480 sequences, to which thresholds were fitted, ar"
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
    assert "'rnn.l0': some sequences have steps that too few of the first 20 sequences, to" in said
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


def test_all_layers_and_states_are_reported_and_logged() -> None:
    callback = RelayInformationCallback(layers="all", states=("hidden", "cell"), inputs_end=1)
    trainer = quiet_trainer(callback)
    model = Stacked()
    trainer.validate(model, loader(), verbose=False)
    assert list(callback.reports[0].layers) == list(recurrent_layers(model))
    for key in recurrent_layers(model):
        assert f"relay/{key}/joint/information" in trainer.callback_metrics


# What is logged


def test_scalars_image_table_and_report_are_logged_each_epoch(tmp_path: Path) -> None:
    callback = RelayInformationCallback(inputs_end=1)
    trainer = quiet_trainer(callback, logger=TensorBoardLogger(tmp_path), log_every_n_steps=1)
    trainer.fit(Classifier(), loader(), loader())
    trainer.test(trainer.lightning_module, loader(), verbose=False)
    events = EventAccumulator(str(trainer.log_dir), size_guidance={"images": 0}).Reload()
    tags = events.Tags()
    names = {
        "joint/mutual_information",
        "rnn.l0/joint/information",
        "rnn.l0/joint/information_last",
        "rnn.l0/joint/corrected",
        "rnn.l0/joint/coverage",
        "rnn.l0/joint/resolved",
        "rnn.l0/joint/tied",
        "rnn.l0/joint/unattributed",
        "rnn.l0/distinct_states",
        "samples",
        "samples_seen",
    }
    logged = {tag for tag in tags["scalars"] if tag.startswith("relay")}
    assert logged == {f"{prefix}/{name}" for prefix in ("relay", "relay_test") for name in names}
    first, second, tested = callback.reports
    scalars = events.Scalars("relay/rnn.l0/joint/information_last")
    assert [scalar.value for scalar in scalars] == pytest.approx(
        [r.layers["rnn.l0"].concepts["joint"].information[-1, 0] for r in (first, second)]
    )
    images = events.Images("relay/rnn.l0/joint/scores")
    assert [image.step for image in images] == [3, 6]
    expected = relay_image(second.layers["rnn.l0"], "joint", "rnn.l0: joint, epoch 1")
    assert (decoded(images[1].encoded_image_string) == expected).all()
    assert "relay/rnn.l0/joint/order/text_summary" in tags["tensors"]
    directory = Path(str(trainer.log_dir)) / "relay_reports"
    saved = {path.name: RelayReport.load(path) for path in directory.iterdir()}
    assert set(saved) == {
        "relay-validate-epoch=0-step=3.npz",
        "relay-validate-epoch=1-step=6.npz",
        "relay-test-epoch=2-step=6.npz",
    }
    assert_equal(saved["relay-test-epoch=2-step=6.npz"], tested)


class OneClass(Classifier):
    """Gives every sequence the same class, as an untrained model may."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) * 0 + torch.arange(float(CLASSES))


def test_concepts_that_cannot_be_tested_are_told_in_the_table_not_by_warnings(
    tmp_path: Path,
) -> None:
    callback = RelayInformationCallback(
        concepts="per_class", measure=RelayMeasure(n_permutations=19)
    )
    trainer = quiet_trainer(
        callback, logger=TensorBoardLogger(tmp_path), num_sanity_val_steps=2, log_every_n_steps=1
    )
    trainer.fit(OneClass(), loader(), loader())  # warnings are errors here
    relay = callback.reports[-1].layers["rnn.l0"].concepts["class_3"]
    assert relay.movable is not None
    assert not relay.movable.any()
    assert trainer.callback_metrics["relay/rnn.l0/class_3/units_above_chance"] == 0.0
    events = EventAccumulator(str(trainer.log_dir)).Reload()
    (*_, table) = events.Tensors("relay/rnn.l0/class_3/order/text_summary")
    assert "Nothing could be tested at all" in table.tensor_proto.string_val[0].decode()


def test_evidence_is_logged_where_it_was_asked_for() -> None:
    plain = RelayInformationCallback()
    full = RelayInformationCallback(
        prefix="full", measure=RelayMeasure(n_permutations=19, n_bootstraps=40)
    )
    trainer = quiet_trainer(plain, full)
    trainer.validate(Classifier(), loader(), verbose=False)
    names = {name.partition("/")[::2] for name in trainer.callback_metrics if "joint" in name}
    logged = {prefix: {name for of, name in names if of == prefix} for prefix in ("relay", "full")}
    assert logged["full"] - logged["relay"] == {
        "rnn.l0/joint/chance_level",
        "rnn.l0/joint/units_above_chance",
        "rnn.l0/joint/rank_stability",
    }
    for name in (*sorted(logged["full"]), "samples"):
        assert (
            f"``{{layer}}/{{concept}}/{name.split('/')[-1]}``"
            in str(RelayInformationCallback.__doc__)
            or name.count("/") < 2
        )


@pytest.mark.parametrize("options", [{}, {"n_permutations": 19, "n_bootstraps": 40}])
def test_the_newest_report_is_in_the_state_with_its_evidence(options: dict[str, int]) -> None:
    callback = RelayInformationCallback(measure=RelayMeasure(**options))
    quiet_trainer(callback).fit(Classifier(), loader(), loader())
    twin = RelayInformationCallback(measure=RelayMeasure(**options))
    twin.load_state_dict(callback.state_dict())
    (report,) = twin.reports
    assert_equal(report, callback.reports[-1])
    relay = report.layers["rnn.l0"].concepts["joint"]
    assert (relay.movable is None) == (relay.rank_stability is None) == (not options)
    twin.load_state_dict({})
    assert len(twin.reports) == 1


def test_scalars_can_be_monitored(tmp_path: Path) -> None:
    monitor = "relay/rnn.l0/joint/information"
    stopping = EarlyStopping(monitor, mode="max", patience=1)
    checkpoint = ModelCheckpoint(tmp_path, monitor=monitor, mode="max")
    callback = RelayInformationCallback()
    trainer = quiet_trainer(callback, stopping, checkpoint, max_epochs=9, enable_checkpointing=True)
    trainer.fit(Frozen(), loader(), loader())
    assert trainer.current_epoch == 2
    information = callback.reports[0].layers["rnn.l0"].concepts["joint"].information[:, 0]
    assert float(checkpoint.best_model_score or 0) == pytest.approx(information.mean(), abs=1e-6)


def test_sanity_checking_leaves_no_trace_and_finds_errors_before_training(tmp_path: Path) -> None:
    callback = RelayInformationCallback()
    trainer = quiet_trainer(
        callback, logger=TensorBoardLogger(tmp_path), num_sanity_val_steps=2, limit_train_batches=0
    )
    trainer.fit(Classifier(), loader(), loader())
    assert callback.reports == []
    events = EventAccumulator(str(trainer.log_dir)).Reload()
    assert [tag for kind in ("scalars", "images", "tensors") for tag in events.Tags()[kind]] == []
    assert not Path(str(trainer.log_dir), "relay_reports").exists()

    trained: list[int] = []

    class FloatTargets(Classifier):
        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            trained.append(batch_idx)

        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
            self(batch[0])

    with pytest.raises(ValueError, match="target: no integer tensor of shape"):
        quiet_trainer(RelayInformationCallback(every_n_epochs=2)).fit(
            FloatTargets(), loader(), batch_of(INPUTS, LABELS.float())
        )
    for options, message in (
        (
            {"inputs_end": 99},
            r"inputs_end: got 99, but the longest sequence has 6 steps .*num_sanity_val_steps=-1",
        ),
        (
            {"inputs_end": 3, "sample": SequenceSample(time_steps=[0, 1])},
            "inputs_end: got 3, which comes after every",
        ),
        ({"concepts": {"odd": [].__getitem__}}, "list index out of range"),
    ):
        with pytest.raises((ValueError, IndexError), match=message):
            quiet_trainer(RelayInformationCallback(**options)).fit(
                FloatTargets(), loader(), loader()
            )
    with pytest.raises(ValueError, match="prediction: no submodule 'tail' in FloatTargets"):
        quiet_trainer(RelayInformationCallback(prediction="tail"), num_sanity_val_steps=0).fit(
            FloatTargets(), loader(), loader()
        )
    assert trained == []


def test_reports_are_saved_where_asked_and_never_overwritten(tmp_path: Path) -> None:
    callback = RelayInformationCallback(dirpath=tmp_path / "here", prefix="a/relay")
    trainer = quiet_trainer(callback)
    for _ in range(2):
        trainer.validate(Classifier(), loader(), verbose=False)
    assert sorted(path.name for path in (tmp_path / "here").iterdir()) == [
        "a-relay-validate-epoch=0-step=0-v1.npz",
        "a-relay-validate-epoch=0-step=0.npz",
    ]


def test_without_a_logger_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    callback = RelayInformationCallback()
    quiet_trainer(callback).fit(Classifier(), loader(), loader())
    quiet_trainer(RelayInformationCallback(), fast_dev_run=True, logger=None).fit(
        Classifier(), loader(), loader()
    )
    assert len(callback.reports) == 2
    assert list(tmp_path.iterdir()) == []


def test_other_loggers_get_the_scalars(tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path)
    quiet_trainer(RelayInformationCallback(), logger=logger, log_every_n_steps=1).fit(
        Classifier(), loader(), loader()
    )
    header = Path(logger.log_dir, "metrics.csv").read_text().splitlines()[0]
    assert "relay/rnn.l0/joint/information_last" in header.split(",")


def test_two_callbacks_log_under_prefixes_of_their_own() -> None:
    median = RelayInformationCallback(
        prefix="relay_median", measure=RelayMeasure(discretization="median")
    )
    trainer = quiet_trainer(RelayInformationCallback(), median)
    trainer.fit(Classifier(), loader(), loader())
    assert {"relay/samples", "relay_median/samples"} <= set(trainer.callback_metrics)
    with pytest.raises(ValueError, match=r"prefix: two callbacks log under 'relay'; give"):
        quiet_trainer(
            RelayInformationCallback(),
            RelayInformationCallback(measure=RelayMeasure(direction="grow")),
        ).fit(Classifier(), loader(), loader())


# Hooks


def test_no_hook_is_on_the_model_outside_evaluation() -> None:
    counts: list[int] = []

    class Counting(Classifier):
        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            counts.append(hook_count(self))

    model = Counting()
    foreign = model.rnn.register_forward_hook(lambda *_: None)
    callback = RelayInformationCallback()
    trainer = quiet_trainer(callback)
    trainer.fit(model, loader(), loader())
    assert counts == [1] * 6
    trainer.validate(model, loader(), verbose=False)
    assert hook_count(model) == 1
    trainer.test(model, loader(), verbose=False)
    assert hook_count(model) == 1
    foreign.remove()


def test_the_callback_can_be_pickled_before_and_after_a_run() -> None:
    callback = RelayInformationCallback(["rnn"], inputs_end=1)
    twin = pickle.loads(pickle.dumps(callback))
    assert (twin.modules, twin.inputs_end) == (["rnn"], 1)
    quiet_trainer(callback).validate(Classifier(), loader(), verbose=False)
    assert_equal(pickle.loads(pickle.dumps(callback)).reports[0], callback.reports[0])


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("stage", ["fit", "validate", "test"])
def test_no_hook_survives_an_exception_in_the_middle(
    error: type[BaseException], stage: str
) -> None:
    class Failing(Classifier):
        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
            self(batch[0])
            assert hook_count(self) > 0
            if batch_idx == 1:
                raise error("in the middle")

        test_step = validation_step

    model = Failing()
    trainer = quiet_trainer(RelayInformationCallback(), num_sanity_val_steps=0)
    run = {
        "fit": lambda: trainer.fit(model, loader(), loader()),
        "validate": lambda: trainer.validate(model, loader(), verbose=False),
        "test": lambda: trainer.test(model, loader(), verbose=False),
    }[stage]
    with pytest.raises((error, SystemExit)):
        run()
    assert hook_count(model) == 0


def test_no_hook_survives_an_error_of_the_callback_itself() -> None:
    model = Classifier()
    with pytest.raises(ValueError, match="time_steps: got 99, but the longest sequence has 6"):
        quiet_trainer(RelayInformationCallback(sample=SequenceSample(time_steps=[99]))).fit(
            model, loader(), loader()
        )
    assert hook_count(model) == 0


# What cannot be analysed


@pytest.mark.parametrize(
    ("kind", "options", "error", "message"),
    [
        (SequenceSample, {"max_samples": 1}, ValueError, "max_samples: got 1; it takes an integer"),
        (SequenceSample, {"max_samples": 2.5}, ValueError, "max_samples: got 2.5; it takes an int"),
        (SequenceSample, {"fit_samples": 1}, ValueError, "fit_samples: got 1; it takes an integer"),
        (SequenceSample, {"max_bytes": 0}, ValueError, "max_bytes: got 0; it takes an integer num"),
        (SequenceSample, {"storage": "disk"}, ValueError, "storage: got 'disk'; it takes 'codes'"),
        (
            SequenceSample,
            {"time_steps": []},
            ValueError,
            r"time_steps: got \[\]; it takes a list o",
        ),
        (SequenceSample, {"time_steps": [1, 1]}, ValueError, r"time_steps: .* name each step once"),
        (SequenceSample, {"time_steps": [0.5]}, ValueError, r"time_steps: got \[0.5\]; it takes"),
        (SequenceSample, {"seed": "a"}, TypeError, "seed: got 'a'; it takes an integer"),
        (RelayMeasure, {"discretization": "mean"}, ValueError, "discretization: got 'mean'; it ta"),
        (RelayMeasure, {"levels": 3}, ValueError, "levels: got 3 with 'kmeans'"),
        (
            RelayMeasure,
            {"direction": "up"},
            ValueError,
            "direction: got 'up'; it takes 'shrink' or",
        ),
        (RelayMeasure, {"estimator": "bayes"}, ValueError, "estimator: got 'bayes'; it takes 'plu"),
        (RelayMeasure, {"min_coverage": 90}, ValueError, "min_coverage: got 90; it takes a fract"),
        (RelayMeasure, {"max_gap": -1}, ValueError, "max_gap: got -1; it takes bits from 0"),
        (
            RelayMeasure,
            {"n_orders": 2},
            ValueError,
            "n_orders: got 2; it takes at least 4, so that",
        ),
        (RelayMeasure, {"n_orders": -0.1}, ValueError, "n_orders: got -0.1; an error aimed at is"),
        (RelayMeasure, {"n_orders": "16"}, TypeError, "n_orders: got '16'; it takes a number of"),
        (
            RelayMeasure,
            {"n_permutations": 5},
            ValueError,
            "n_permutations=5 no p-value is below 1/",
        ),
        (RelayMeasure, {"n_bootstraps": 5}, ValueError, "n_bootstraps: got 5; for a confidence of"),
        (RelayMeasure, {"seed": 0.5}, TypeError, "seed: got 0.5; it takes an integer"),
        (RelayInformationCallback, {"layers": "first"}, ValueError, "layers: got 'first'; it take"),
        (RelayInformationCallback, {"states": ["gate"]}, ValueError, r"states: got \['gate'\]; it"),
        (RelayInformationCallback, {"every_n_epochs": 0}, ValueError, "every_n_epochs: got 0; it"),
        (
            RelayInformationCallback,
            {"stages": []},
            ValueError,
            r"stages: got \[\]; it takes a list",
        ),
        (
            RelayInformationCallback,
            {"stages": "test"},
            ValueError,
            "stages: got 'test'; it takes a",
        ),
        (RelayInformationCallback, {"stages": ["fit"]}, ValueError, r"stages: got \['fit'\]; it"),
        (RelayInformationCallback, {"concepts": "bits"}, ValueError, "concepts: got 'bits'; it ta"),
        (RelayInformationCallback, {"prefix": ""}, ValueError, "prefix: got ''; it takes the firs"),
        (RelayInformationCallback, {"modules": "rnn"}, TypeError, "modules: got the string 'rnn';"),
        (RelayInformationCallback, {"inputs_end": 1.5}, TypeError, "inputs_end: got 1.5; it takes"),
    ],
)
def test_options_are_checked_where_they_are_made(
    kind: Any, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        kind(**options)


class Plain(Classifier):
    """No recurrent module."""

    def __init__(self) -> None:
        super().__init__()
        del self.rnn

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.head(x[..., 0])
        return scores


def test_a_model_without_or_with_unknown_recurrent_modules_is_refused_before_training() -> None:
    with pytest.raises(ValueError, match="model: Plain has no recurrent module; it takes a model"):
        quiet_trainer(RelayInformationCallback()).fit(Plain(), loader(), loader())
    with pytest.raises(
        ValueError, match=r"no recurrent module 'lstm' in Classifier; it has: 'rnn'"
    ):
        quiet_trainer(RelayInformationCallback(["lstm"])).fit(Classifier(), loader(), loader())


def test_class_scores_that_cannot_be_found_are_refused() -> None:
    class Hidden(Classifier):
        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
            nn.functional.linear(self.rnn(batch[0])[0][:, -1], self.head.weight)

    model = Hidden()
    with pytest.raises(
        ValueError, match=r"prediction: the step does not end with class scores of shape"
    ):
        quiet_trainer(RelayInformationCallback()).validate(model, loader(), verbose=False)
    assert hook_count(model) == 0


def test_an_empty_evaluation_set_is_refused() -> None:
    empty = batch_of(INPUTS[:0], LABELS[:0])
    message = "dataloader: the validation set is empty, so nothing can be analysed"
    with pytest.warns(UserWarning, match="is zero"), pytest.raises(ValueError, match=message):
        quiet_trainer(RelayInformationCallback()).fit(Classifier(), loader(), empty)
    with pytest.warns(UserWarning, match="is zero"), pytest.raises(ValueError, match=message):
        quiet_trainer(RelayInformationCallback(), num_sanity_val_steps=0).fit(
            Classifier(), loader(), empty
        )
    with pytest.warns(UserWarning, match="is zero"), pytest.raises(ValueError, match=message):
        quiet_trainer(RelayInformationCallback()).validate(Classifier(), empty)
    with (
        pytest.warns(UserWarning, match="is zero"),
        pytest.raises(ValueError, match="dataloader: the test set is empty"),
    ):
        quiet_trainer(RelayInformationCallback()).test(Classifier(), empty)
    with pytest.raises(ValueError, match=r"dataloader: there is no validation set or .* stages="):
        quiet_trainer(RelayInformationCallback()).fit(Classifier(), loader())


def test_an_iterable_set_without_batches_is_refused() -> None:
    class Nothing(IterableDataset[Any]):
        def __iter__(self) -> Any:
            return iter(())

    with pytest.raises(ValueError, match="dataloader: the test set is empty"):
        quiet_trainer(RelayInformationCallback()).test(Classifier(), DataLoader(Nothing()))


def test_validation_that_was_switched_off_is_only_warned_of() -> None:
    callback = RelayInformationCallback()
    with pytest.warns(UserWarning, match="limit_val_batches=0: there will be no relay analysis"):
        quiet_trainer(callback, limit_val_batches=0).fit(Classifier(), loader(), loader())
    assert callback.reports == []
    quiet_trainer(callback, limit_val_batches=0).validate(Classifier(), loader(), verbose=False)
    assert callback.reports == []


def test_validation_that_comes_late_is_awaited() -> None:
    callback = RelayInformationCallback()
    quiet_trainer(callback, num_sanity_val_steps=0, check_val_every_n_epoch=2).fit(
        Classifier(), loader(), loader()
    )
    assert [report.epoch for report in callback.reports] == [1]


def test_a_fit_that_only_tests_later_needs_no_validation() -> None:
    callback = RelayInformationCallback(stages=["test"])
    model = Classifier()
    trainer = quiet_trainer(callback)
    trainer.fit(model, loader())
    trainer.test(model, loader(), verbose=False)
    assert [report.stage for report in callback.reports] == ["test"]


def test_a_batch_whose_size_differs_between_states_and_targets_is_refused() -> None:
    class Doubled(Classifier):
        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
            self(torch.cat([batch[0], batch[0]]))

    with pytest.raises(
        ValueError,
        match=r"target: got 16 labels for 32 sequences of 'rnn.l0'; it takes one class label for",
    ):
        quiet_trainer(RelayInformationCallback()).validate(Doubled(), loader(), verbose=False)


def test_a_module_called_twice_or_never_in_a_step_is_refused() -> None:
    class Twice(Classifier):
        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
            self(batch[0])
            self(batch[0])

    class Never(Classifier):
        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
            self.head(batch[0][..., 0])

    for kind, message in (
        (Twice, r"layer 'rnn.l0' was given 2 batches of sequences in one step; it takes one:"),
        (Never, r"layer 'rnn.l0' was not called in this step; name the modules that are called i"),
    ):
        with pytest.raises(ValueError, match=message):
            quiet_trainer(RelayInformationCallback()).validate(kind(), loader(), verbose=False)


def test_compiled_modules_that_would_leave_out_hooks_are_refused_before_training() -> None:
    torch.compiler.reset()
    with pytest.raises(RuntimeError, match=r"recorder: 'rnn.cell' may be compiled, and compiled c"):
        quiet_trainer(RelayInformationCallback(), num_sanity_val_steps=0).fit(
            CompiledLoop(), loader(), loader()
        )
    with pytest.raises(
        ValueError, match=r"every_n_epochs: got 2 with compiled modules, .*hook_guards = False bef"
    ):
        quiet_trainer(RelayInformationCallback(every_n_epochs=2)).fit(
            CompiledLoop(), loader(), loader()
        )
    model = CompiledLoop()
    quiet_trainer().validate(model, loader(), verbose=False)
    with torch._dynamo.config.patch(skip_nnmodule_hook_guards=False):
        with pytest.raises(
            ValueError, match=r"'rnn.cell.l0' was not called.* is compiled: set tor"
        ):
            quiet_trainer(RelayInformationCallback()).validate(model, loader(), verbose=False)
        torch.compiler.reset()
        callback = RelayInformationCallback(every_n_epochs=2)
        quiet_trainer(callback, max_epochs=4).fit(model.train(), loader(), loader())
    assert [report.epoch for report in callback.reports] == [1, 3]
    torch.compiler.reset()


def test_states_that_are_not_finite_are_refused() -> None:
    spoilt = INPUTS.clone()
    spoilt[20, 3] = torch.nan
    with pytest.raises(
        ValueError, match=r"states of 'rnn.l0': nan at step 3, unit 0 \(in 1 of 16 sequences"
    ):
        quiet_trainer(RelayInformationCallback()).validate(
            Classifier(), batch_of(spoilt, LABELS), verbose=False
        )


def test_lengths_must_be_a_tensor() -> None:
    with pytest.raises(TypeError, match=r"lengths: .* gave int; it takes an integer tensor"):
        quiet_trainer(RelayInformationCallback(lengths=len)).validate(
            Classifier(), loader(), verbose=False
        )


def test_a_module_of_the_separate_package_is_refused_by_name() -> None:
    separate = pytest.importorskip(
        "pytorch_lightning", reason="only where the separate package is installed beside lightning"
    )

    class Foreign(separate.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = nn.RNN(1, 2)

        def training_step(self, batch: Any, batch_idx: int) -> None:
            return None

        def configure_optimizers(self) -> None:
            return None

    trainer = separate.Trainer(
        callbacks=[RelayInformationCallback()],
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
    )
    with pytest.raises(
        TypeError, match=r"pl_module: Foreign is built on the separate package pytorch_lightning, a"
    ):
        trainer.fit(Foreign(), loader())
    with pytest.raises(TypeError, match=r"pl_module: got Linear; it takes a lightning.pytorch.Li"):
        RelayInformationCallback().setup(quiet_trainer(), nn.Linear(1, 1), "fit")


def test_several_processes_are_refused() -> None:
    class FakeTrainer:
        world_size = 2

    with pytest.raises(ValueError, match=r"trainer: got 2 processes; the relay analysis takes one"):
        RelayInformationCallback().setup(FakeTrainer(), LightningModule(), "fit")
