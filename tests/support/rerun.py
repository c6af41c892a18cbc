"""Steps run again five times, and a model that shows what only its own step may do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_relay.reading.predictions import Question
from lightning_relay.rerun import StepRerun, StepResult
from tests.support.models import Classifier, loader
from tests.support.training import quiet_trainer

if TYPE_CHECKING:
    from collections.abc import Callable


class Rerun(Callback):
    """Runs every step again five times; the last run is whole."""

    def __init__(self, prediction: Any = None, *, with_target: bool = True) -> None:
        self.question = Question(1, prediction)
        self.with_target = with_target
        self.results: list[list[StepResult]] = []
        self.twin: Any = None
        self.around: Callable[[LightningModule, int], Any] = lambda twin, run: None

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, *_: Any
    ) -> None:
        self.rerun = StepRerun(pl_module, trainer, "validate", self.question)
        self.labels = self.question.labels(batch) if self.with_target else None

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self.twin = self.rerun.twin
        results = []
        for run in range(5):
            self.around(self.twin, run)
            results.append(
                self.rerun.run(batch, batch_idx, dataloader_idx, labels=self.labels, whole=run == 4)
            )
        self.results.append(results)

    on_test_batch_end = on_validation_batch_end

    def on_test_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, *_: Any
    ) -> None:
        self.rerun = StepRerun(pl_module, trainer, "test", self.question)
        self.labels = self.question.labels(batch)


def validated(
    model: LightningModule, callback: Callback, *loaders: Any, **options: Any
) -> LightningModule:
    trainer = quiet_trainer(callback, **options)
    trainer.validate(model, list(loaders) or loader(), verbose=False)
    return model


class Seen(Classifier):
    """Shows what only the module's own step may do."""

    def __init__(self) -> None:
        super().__init__()
        self.finished = [0]
        self.steps = 0

    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        self.steps += 1
        x, y = batch
        scores = self(x)
        self.finished[0] += 1
        loss = self.loss(scores, y)
        self.log("val_loss", loss)
        return {"loss": loss, "scores": scores}
