"""All that a user could see of a training, with and without callbacks."""

from __future__ import annotations

import random
from functools import cache
from typing import Any

import numpy as np
import torch
import torch._dynamo
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from torchmetrics import Metric

from tests.support.models import (
    Classifier,
    CompiledInPlace,
    CompiledLoop,
    CompiledRNN,
    InPieces,
    PassingOn,
    PlainRNN,
    Projected,
    Stacked,
    Stepped,
    TwoModules,
    WithoutForward,
    loader,
)
from tests.support.training import quiet_trainer

MODELS: list[tuple[type[Classifier], dict[str, Any]]] = [
    (Classifier, {}),
    (PlainRNN, {}),
    (WithoutForward, {}),
    (Stacked, {}),
    (PassingOn, {}),
    (Projected, {}),
    (Stepped, {}),
    (InPieces, {}),
    (TwoModules, {}),
    (CompiledLoop, {}),
    (CompiledRNN, {}),
    (CompiledInPlace, {}),
    (Stacked, {"precision": "bf16-mixed"}),
    (Stepped, {"precision": "bf16-true"}),
    (Stacked, {"precision": "64-true"}),
]


class Diary(Callback):
    """All that a user could see of the training, after every epoch."""

    def __init__(self) -> None:
        self.pages: list[dict[str, Any]] = []
        self.validated: dict[str, Any] = {}

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.validated = metrics_of(pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.pages.append(
            {
                "weights": {k: v.clone() for k, v in pl_module.state_dict().items()},
                "optimizer": trainer.optimizers[0].state_dict(),
                "metrics": {
                    name: value.clone()
                    for name, value in trainer.callback_metrics.items()
                    if not name.startswith(("relay", "knockout"))
                },
                "validated": self.validated,
                "torchmetrics": metrics_of(pl_module),
                "training": [module.training for module in pl_module.modules()],
                "python": random.getstate(),
                "numpy": np.random.get_state(legacy=False)["state"],  # noqa: NPY002 - the stream users have
                "torch": torch.get_rng_state(),
                "gpus": torch.cuda.get_rng_state_all(),
                "backends": backends(),
            }
        )


def backends() -> dict[str, bool | list[bool]]:
    """How torch computes on a GPU and with half precision."""
    return {
        "cudnn": torch.backends.cudnn.enabled,
        "benchmark": torch.backends.cudnn.benchmark,
        "deterministic": torch.backends.cudnn.deterministic,
        "algorithms": torch.are_deterministic_algorithms_enabled(),
        "highest": torch.get_float32_matmul_precision() == "highest",
        "products": torch.backends.cuda.matmul.fp32_precision == "tf32",
        "recurrence": torch.backends.cudnn.rnn.fp32_precision == "tf32",
        "autocast": [torch.is_autocast_enabled(kind) for kind in ("cpu", "cuda")],
    }


def metrics_of(model: LightningModule) -> dict[str, Any]:
    """States of all metrics of a model."""
    return {
        f"{name}.{state}": value.clone()
        for name, module in model.named_modules()
        if isinstance(module, Metric)
        for state, value in module.metric_state.items()
    }


def trained(
    kind: type[Classifier], options: dict[str, Any], *callbacks: Callback
) -> list[dict[str, Any]]:
    torch.compiler.reset()
    seed_everything(7, verbose=False)
    diary = Diary()
    trainer = quiet_trainer(*callbacks, diary, max_epochs=3, **options)
    with torch._dynamo.config.patch(skip_nnmodule_hook_guards=False):
        trainer.fit(kind(), loader(shuffle=True), loader(32))
    return diary.pages


@cache
def trained_alone(kind: type[Classifier], **options: Any) -> list[dict[str, Any]]:
    """The training without callbacks, done once for all that are compared with it."""
    return trained(kind, options)
