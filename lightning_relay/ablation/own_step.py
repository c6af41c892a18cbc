"""What the module's own step predicts, to be compared with runs of it."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from lightning_relay.reading.predictions import PredictionReader
from lightning_relay.recurrent.hooks import HookErrors, is_compiled

if TYPE_CHECKING:
    from torch import nn

    from lightning_relay.reading.answers import Answer
    from lightning_relay.reading.labels import Labels
    from lightning_relay.reading.predictions import Question


class OwnStep:
    """Reads the predictions of the module's own steps; there are hooks from ``begin`` to ``end``.

    Nothing is read of a model that is compiled: a hook would have it compiled again.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._modules: dict[int, str] = {}
        self._dataloader = 0
        self._batch: Any = None
        self._reader: PredictionReader | None = None
        self._errors = HookErrors()
        self._hooks = ExitStack()

    def begin(self, question: Question, batch: Any, dataloader: int) -> None:
        """Follow the next step."""
        self.close()
        if is_compiled(self._model):
            return
        self._dataloader, self._batch = dataloader, batch
        self._reader = PredictionReader(self._model, question, self._modules.get(dataloader))
        self._errors.clear()
        self._reader.keep_errors(self._errors)
        self._hooks.enter_context(self._reader)

    def end(self, outputs: Any, labels: Labels) -> Answer | None:
        """What the step answered that returned ``outputs``; None if that cannot be read."""
        reader = self._reader
        if reader is None:
            return None
        try:
            self._errors.check()
            found = reader.read(outputs, labels, self._batch)
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
        self._reader = self._batch = None
