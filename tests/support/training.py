"""Trainers that say nothing, and the sequences of the models here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lightning.pytorch import Trainer
from torch.utils.data import DataLoader, TensorDataset

from tests.support.models import loader

if TYPE_CHECKING:
    import torch

INPUTS, LABELS = loader().dataset.tensors


def quiet_trainer(*callbacks: Any, **options: Any) -> Trainer:
    defaults: dict[str, Any] = {
        "max_epochs": 2,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "accelerator": "cpu",
    }
    return Trainer(callbacks=list(callbacks), **(defaults | options))


def batch_of(*tensors: torch.Tensor) -> DataLoader[Any]:
    return DataLoader(TensorDataset(*tensors), 16)
