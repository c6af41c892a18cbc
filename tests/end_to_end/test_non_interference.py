"""Training with the callback is, bit for bit, training without it."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything

from lightning_relay import RelayInformationCallback
from tests.callbacks.test_relay_information import quiet_trainer
from tests.models import Classifier, PlainRNN, WithoutForward, loader


class Diary(Callback):
    """All that a user could see of the training, after every epoch."""

    def __init__(self) -> None:
        self.pages: list[dict[str, Any]] = []
        self.accuracy: dict[str, Any] = {}

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.accuracy = {
            name: value.clone() for name, value in pl_module.accuracy.metric_state.items()
        }

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.pages.append(
            {
                "weights": {k: v.clone() for k, v in pl_module.state_dict().items()},
                "optimizer": trainer.optimizers[0].state_dict(),
                "metrics": {
                    name: value.clone()
                    for name, value in trainer.callback_metrics.items()
                    if not name.startswith("relay")
                },
                "accuracy": self.accuracy,
                "training": [module.training for module in pl_module.modules()],
                "python": random.getstate(),
                "numpy": np.random.get_state(legacy=False)["state"],  # noqa: NPY002 - the stream users have
                "torch": torch.get_rng_state(),
            }
        )


def trained(kind: type[Classifier], *callbacks: Callback) -> list[dict[str, Any]]:
    seed_everything(7, verbose=False)
    diary = Diary()
    trainer = quiet_trainer(*callbacks, diary, max_epochs=3)
    trainer.fit(kind(), loader(shuffle=True), loader(32))
    return diary.pages


@pytest.mark.parametrize("kind", [Classifier, PlainRNN, WithoutForward])
def test_weights_metrics_and_random_streams_are_bit_identical(kind: type[Classifier]) -> None:
    callback = RelayInformationCallback(max_samples=20, concepts="per_class")
    with_callback = trained(kind, callback)
    without = trained(kind)
    assert len(callback.reports) == 3
    assert "val_loss" in without[0]["metrics"]
    torch.testing.assert_close(with_callback, without, rtol=0, atol=0, equal_nan=True)
