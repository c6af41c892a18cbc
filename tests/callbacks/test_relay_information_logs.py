"""What the relay analysis logs, saves and keeps in its state."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_relay import RelayInformationCallback, RelayMeasure, RelayReport
from lightning_relay.relay.figures import FIGURES
from lightning_relay.reports.picture import picture_of
from tests.support.images import decoded
from tests.support.models import CLASSES, Classifier, Frozen, loader
from tests.support.reports import assert_equal
from tests.support.training import quiet_trainer


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
        "rnn.l0/joint/coverage",
        "rnn.l0/joint/largest_share_last",
        "rnn.l0/joint/units_needed_last",
        "rnn.l0/joint/unattributed",
    }
    logged = {tag for tag in tags["scalars"] if tag.startswith("relay")}
    assert logged == {f"{prefix}/{name}" for prefix in ("relay", "relay_test") for name in names}
    first, second, tested = callback.reports
    scalars = events.Scalars("relay/rnn.l0/joint/information_last")
    assert [scalar.value for scalar in scalars] == pytest.approx(
        [r.layers["rnn.l0"].concepts["joint"].information[-1, 0] for r in (first, second)]
    )
    images = events.Images("relay/rnn.l0/joint/relay_share")
    assert [image.step for image in images] == [3, 6]
    expected = picture_of(FIGURES["relay_share"](second, "rnn.l0", "joint", -1, None))
    assert (decoded(images[1].encoded_image_string) == expected).all()
    assert "relay/rnn.l0/joint/relay_table/text_summary" in tags["tensors"]
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
    (*_, table) = events.Tensors("relay/rnn.l0/class_3/relay_table/text_summary")
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


def test_two_callbacks_log_under_prefixes_of_their_own() -> None:
    median = RelayInformationCallback(
        prefix="relay_median", measure=RelayMeasure(discretization="median")
    )
    trainer = quiet_trainer(RelayInformationCallback(), median)
    trainer.fit(Classifier(), loader(), loader())
    assert {"relay/joint/mutual_information", "relay_median/joint/mutual_information"} <= set(
        trainer.callback_metrics
    )
    with pytest.raises(ValueError, match=r"prefix: two callbacks log under 'relay'; give"):
        quiet_trainer(
            RelayInformationCallback(),
            RelayInformationCallback(measure=RelayMeasure(direction="grow")),
        ).fit(Classifier(), loader(), loader())
