"""What the module's own step predicts, to be compared with runs of it."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from lightning_relay.reading.predictions import Prediction, PredictionReader, Predictions
from lightning_relay.recurrent.hooks import HookErrors, is_compiled

if TYPE_CHECKING:
    from torch import Tensor, nn


class OwnStep:
    """Reads the predictions of the module's own steps; there are hooks from ``begin`` to ``end``.

    Nothing is read of a model that is compiled: a hook would have it compiled again.
    """

    def __init__(self, model: nn.Module, prediction: Prediction | None) -> None:
        self._model = model
        self._prediction = prediction
        self._modules: dict[int, str] = {}
        self._dataloader = 0
        self._reader: PredictionReader | None = None
        self._errors = HookErrors()
        self._hooks = ExitStack()

    def begin(self, dataloader: int) -> None:
        """Follow the next step."""
        self.close()
        if is_compiled(self._model):
            return
        known = self._modules.get(dataloader, self._prediction)
        self._dataloader, self._reader = dataloader, PredictionReader(self._model, known)
        self._errors.clear()
        self._reader.keep_errors(self._errors)
        self._hooks.enter_context(self._reader)

    def end(self, outputs: Any, target: Tensor) -> Predictions | None:
        """What the step predicted that returned ``outputs``; None if that cannot be read."""
        reader = self._reader
        if reader is None:
            return None
        try:
            self._errors.check()
            found = reader.read(outputs, target)
        except Exception:  # the runs of the step meet it too, and tell it
            return None
        finally:
            self.close()
        if found.module is not None:
            self._modules[self._dataloader] = found.module
        return replace(found, scores=None if found.scores is None else found.scores.clone())

    def close(self) -> None:
        """Take the hooks off. Idempotent."""
        self._hooks.close()
        self._reader = None
