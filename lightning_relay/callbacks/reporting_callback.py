"""Base class of the callbacks: they follow an evaluation and make a report."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, ClassVar, Generic

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_warn

from lightning_relay.callbacks.evaluations import (
    ReportT,
    check_schedule,
    check_trainer,
    check_validation_set,
    check_was_evaluated,
    report_directory,
    unused_path,
)
from lightning_relay.callbacks.saving import check_can_save, could_not_save
from lightning_relay.reports.files import ReportFileError
from lightning_relay.reports.stage import Stage


class ReportingCallback(Callback, ABC, Generic[ReportT]):
    """Callback that follows evaluations and keeps, logs and saves a report of each."""

    analysis: ClassVar[str]
    """Name of the analysis in messages."""

    directory: ClassVar[str]
    """Name of the directory of reports, beside the logs of the Trainer's first logger."""

    reports: list[ReportT]
    _report: type[ReportT]

    def __init__(
        self,
        every_n_epochs: int,
        stages: Sequence[Stage],
        prefix: str,
        dirpath: str | Path | None,
    ) -> None:
        check_schedule(every_n_epochs, stages, prefix)
        self.every_n_epochs = every_n_epochs
        self.stages = tuple(stages)
        self.prefix = prefix
        self.dirpath = dirpath
        self.reports = []
        self._evaluated = False
        self._said: set[str] = set()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check the Trainer, its module, the prefixes of its callbacks and where reports go."""
        self._stop()
        check_trainer(trainer, pl_module, self.analysis)
        for other in trainer.callbacks:  # type: ignore[attr-defined]
            ours = isinstance(other, ReportingCallback) and other is not self
            if ours and other.prefix == self.prefix:
                raise ValueError(
                    f"prefix: two callbacks log under {self.prefix!r}; give one of them another "
                    "prefix"
                )
        if trainer.is_global_zero and {"fit": "validate"}.get(stage, stage) in self.stages:
            directory = report_directory(trainer, self.dirpath, self.directory)
            if directory is not None:
                check_can_save(directory, self.prefix)
        self._evaluated = False
        self._said.clear()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check before the first epoch that there is something to analyse."""
        if "validate" in self.stages:
            check_validation_set(trainer, self.analysis)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to follow an evaluation."""
        self._begin(trainer, pl_module, "validate")

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to follow an evaluation."""
        self._begin(trainer, pl_module, "test")

    def on_validation_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Read the batch before the step can change it."""
        self._before_step(batch, dataloader_idx)

    on_test_batch_start = on_validation_batch_start

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Read the outputs of the step."""
        self._after_step(outputs, batch_idx, dataloader_idx)

    on_test_batch_end = on_validation_batch_end

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make the report and log it."""
        self._finish(trainer, pl_module, "validate")

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make the report and log it."""
        self._finish(trainer, pl_module, "test")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop following the evaluation."""
        self._stop()

    on_test_end = on_validation_end

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Stop following the evaluation."""
        self._stop()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Stop following; refuse an evaluation that was to be analysed but had no batch."""
        self._stop()
        check_was_evaluated(trainer, stage, self.stages, self._evaluated)

    def state_dict(self) -> dict[str, Any]:
        """The newest report, for a checkpoint."""
        if not self.reports:
            return {}
        file = BytesIO()
        self.reports[-1].save(file)
        return {"newest_report": torch.frombuffer(bytearray(file.getvalue()), dtype=torch.uint8)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the newest report of a checkpoint, unless there are reports already.

        A report that another version wrote, or a damaged one, is left out with a warning.
        """
        if "newest_report" not in state_dict or self.reports:
            return
        saved = state_dict["newest_report"]
        data = saved.cpu().numpy().tobytes() if isinstance(saved, torch.Tensor) else b""
        try:
            self.reports[:] = [self._report.load(BytesIO(data))]
        except ReportFileError as error:
            rank_zero_warn(
                f"The newest {self.analysis} report in the checkpoint is lost, and what ranks "
                "units by it begins after the next report; all else is resumed. "
                f"{error}"
            )

    def _begin(self, trainer: Trainer, pl_module: LightningModule, stage: Stage) -> None:
        self._stop()
        self._evaluated = True
        self._start(trainer, pl_module, stage)

    @abstractmethod
    def _start(self, trainer: Trainer, pl_module: LightningModule, stage: Stage) -> None:
        """Begin to follow an evaluation if it is due."""

    @abstractmethod
    def _before_step(self, batch: Any, dataloader: int) -> None:
        """Read a batch before the module's own step."""

    @abstractmethod
    def _after_step(self, outputs: Any, batch_idx: int, dataloader: int) -> None:
        """Read the outputs of the step."""

    @abstractmethod
    def _finish(self, trainer: Trainer, pl_module: LightningModule, stage: Stage) -> None:
        """Make the report, log it and stop."""

    @abstractmethod
    def _stop(self) -> None:
        """Leave the model as it was. Idempotent."""

    def _log(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        report: ReportT,
        scalars: Mapping[str, float],
        write: Callable[..., None],
        suffix: str,
    ) -> None:
        """Log, save and keep a report; ``write`` writes its images and tables to TensorBoard."""
        prefix = self.prefix if report.stage == "validate" else f"{self.prefix}_{report.stage}"
        for name, value in scalars.items():
            # A method of the user's may pass on other names or values.
            LightningModule.log(pl_module, f"{prefix}/{name}{suffix}", value)
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                write(logger.experiment, report, prefix, trainer.global_step, suffix=suffix)
        self.reports.append(report)
        directory = report_directory(trainer, self.dirpath, self.directory)
        if directory is not None:
            try:
                directory.mkdir(parents=True, exist_ok=True)
                report.save(unused_path(directory, self.prefix, report, suffix))
            except OSError as error:
                self._say(could_not_save(error), rank_zero_warn)

    def _say(self, message: str, how: Callable[[str], None], *, about: str | None = None) -> None:
        """Say a message once in a run of the Trainer, or once for each ``about``."""
        if (about or message) not in self._said:
            self._said.add(about or message)
            how(message)
