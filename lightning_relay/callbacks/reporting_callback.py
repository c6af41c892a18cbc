"""Base class of the callbacks: they follow an evaluation and make a report."""

from __future__ import annotations

import re
import traceback
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, get_args

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from lightning_relay.callbacks.evaluations import (
    ReportT,
    check_schedule,
    check_trainer,
    check_validation_set,
    check_was_evaluated,
    monitored,
    paths_of,
    report_directory,
)
from lightning_relay.callbacks.loggers import (
    Paths,
    Store,
    artifact_stores,
    place_of,
    refused,
    shower_of,
    upload,
    where_in_words,
)
from lightning_relay.callbacks.resuming import (
    file_of,
    gone,
    newest_saved,
    other_options,
    up_to_newest,
)
from lightning_relay.callbacks.saving import check_can_save, check_dirpath, could_not_save
from lightning_relay.callbacks.told_first import ToldFirst
from lightning_relay.reports.faces import Faces
from lightning_relay.reports.files import ReportFileError, checksum_of, write_new
from lightning_relay.reports.history import Saved, directory_of_attempt, latest_attempt, real
from lightning_relay.reports.stage import Stage
from lightning_relay.rerun.packages import Callback, classes, module_class
from lightning_relay.rerun.traces import RandomStreams
from lightning_relay.sampling.processes import Positions, Processes

KEPT = 32
"""Number of reports that stay in memory once they are saved."""

_LAUNCHERS = classes("strategies.launchers._MultiProcessingLauncher")

_NUMBER = re.compile(r"\d+(?:\.\d+)?(?:e[+-]?\d+)?")

OnError = Literal["warn", "raise"]
"""What an error of a callback does while a model is trained."""


class ReportingCallback(Callback, ABC, Generic[ReportT]):
    """Callback that follows evaluations and keeps, logs and saves a report of each."""

    analysis: ClassVar[str]
    """Name of the analysis in messages."""

    directory: ClassVar[str]
    """Name of the directory of reports, in that of a run."""

    reports: list[ReportT]
    _report: type[ReportT]

    _running: ClassVar[tuple[str, ...]] = ("_told", "_model", "_made_of")
    """Attributes that are None but in a run of the Trainer; a copy of the callback has none."""

    def __init__(
        self,
        every_n_epochs: int,
        stages: Sequence[Stage],
        prefix: str,
        dirpath: str | Path | None,
        on_error: OnError,
    ) -> None:
        check_schedule(every_n_epochs, stages, prefix)
        check_dirpath(dirpath)
        if on_error not in get_args(OnError):
            raise ValueError(f"on_error: got {on_error!r}; it takes 'warn', 'raise'")
        self.every_n_epochs = every_n_epochs
        self.stages = tuple(stages)
        self.prefix = prefix
        self.dirpath = dirpath
        self.on_error = on_error
        self.reports = []
        self._evaluated = False
        self._tried = False
        self._said: set[str] = set()
        self._logged: set[str] = set()
        self._told: ToldFirst | None = None
        self._model: weakref.ref[LightningModule] | None = None
        self._made_of: weakref.ref[LightningModule] | None = None
        self._of_others = 0
        self._processes = Processes()
        self._failed: Exception | None = None
        self._waited_for = False
        self._resumed = False
        self._saved: Saved | None = None  # the newest of own_reports that is saved
        self._attempts: dict[Path, Path] = {}
        self._is_copy = False

    def __getstate__(self) -> dict[str, Any]:
        """What a copy has: all but what follows an evaluation."""
        own: dict[str, Any] = {"_processes": Processes(), "_is_copy": True}
        return vars(self) | dict.fromkeys(self._running) | own

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check the Trainer, its module, the prefixes of its callbacks and where reports go."""
        self._stop()
        check_trainer(trainer, pl_module, self.analysis)
        self._processes = Processes.running() if trainer.world_size > 1 else Processes()
        for other in trainer.callbacks:  # type: ignore[attr-defined]
            ours = isinstance(other, ReportingCallback) and other is not self
            if ours and other.prefix == self.prefix:
                raise ValueError(
                    f"prefix: two callbacks log under {self.prefix!r}; give one of them another "
                    "prefix"
                )
        self._evaluated = self._tried = False
        self._said.clear()
        if stage == "fit":
            self._resumed = False
            self._attempts.clear()
            if self._made_of is None or self.is_of_another(pl_module):
                self._of_others, self._saved = len(self.reports), None
        self._model = weakref.ref(pl_module)
        if {"fit": "validate"}.get(stage, stage) in self.stages:
            directory = report_directory(trainer, self.dirpath, self.directory)
            if trainer.is_global_zero and directory is not None:
                check_can_save(directory, self.prefix)
            self._say_where_reports_go(trainer, directory)

    @property
    def own_reports(self) -> list[ReportT]:
        """Reports so far since a fit of another model began."""
        return self.reports[self._of_others :]

    def is_of_another(self, pl_module: LightningModule) -> bool:
        """Whether the newest report is known to be of another module object."""
        return self._made_of is not None and self._made_of() is not pl_module

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
        self._follow(trainer, "before a step", self._before_step, batch, dataloader_idx)

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
        self._follow(trainer, "after a step", self._after_step, outputs, batch_idx, dataloader_idx)

    on_test_batch_end = on_validation_batch_end

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make the report and log it."""
        self._end(trainer, pl_module, "validate")

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make the report and log it."""
        self._end(trainer, pl_module, "test")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop following the evaluation."""
        with self._protecting(trainer, "after an evaluation", "traces of it may be left"):
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
        """The newest report, for a checkpoint, and where the others are; or whether it was tried.

        The state grows with the size of a report, not with their number.
        """
        state: dict[str, Any] = {"tried": True} if self._tried else {}
        if not self.own_reports:
            return state
        try:
            data = file_of(self.reports[-1]).getvalue()
        except Exception as error:
            if self.on_error == "raise":
                raise
            self._say(
                f"the newest report is not in the checkpoint: {_words(error)}", rank_zero_warn
            )
            return state
        state = {
            "newest_report": torch.frombuffer(bytearray(data), dtype=torch.uint8),
            "reports": len(self.own_reports),
        }
        if self._saved is not None:
            state |= {"saved_as": self._saved.path, "checksum": self._saved.checksum}
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the newest report of a checkpoint, unless the model has reports already.

        A report that another version wrote, or a damaged one, is left out with a warning.
        """
        self._tried = True
        if not self.own_reports:
            newest = self._newest_of(state_dict)
            if newest is not None:
                self.reports.append(newest)
                self._made_of = self._model

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Go on, where a fit is resumed, from the reports up to the checkpoint, and only those."""
        if trainer.state.fn != TrainerFn.FITTING:
            return
        self._resumed = True
        state: dict[str, Any] = checkpoint["callbacks"].get(self.state_key, {})
        if not state:
            self._say_that_it_begins(checkpoint["callbacks"])
        newest, before = self._newest_of(state), self.own_reports
        history = [] if newest is None else up_to_newest(before, newest)
        if len(before) > len(history):
            self._say(
                f"{len(before) - len(history)} {self.analysis} reports that the run has not had at "
                "the checkpoint are no longer in the callback's reports.",
                rank_zero_info,
            )
        self._saved = Saved.of(state.get("saved_as"), state.get("checksum"))
        if trainer.is_global_zero and newest is not None:
            try:
                history = self._history(history, newest, state.get("reports"), trainer.ckpt_path)
            except Exception as error:  # the other processes wait for this one
                history = [newest]
                self._say(
                    f"{self.analysis} reports from before the checkpoint are not in the callback's "
                    f"reports: {_words(error)}",
                    rank_zero_warn,
                )
        self.reports[self._of_others :] = self._processes.gather(history)[0]
        self._made_of = weakref.ref(pl_module)

    def _history(
        self, known: list[ReportT], newest: ReportT, number: Any, checkpoint: Any
    ) -> list[ReportT]:
        """The reports that are known, or those saved if they are more; the newest is the last."""
        why = "they were not saved"
        if self._saved is not None:
            why = gone(self._saved.path)
            path = self._saved.found(self.prefix, self._saved.beside(checkpoint))
            if path is not None:
                self._saved = Saved(str(path), self._saved.checksum)
                try:
                    saved, why = newest_saved(self._report, path, self.prefix, KEPT)
                except OSError as error:
                    saved, why = [], _words(error)
                known = max(saved, known, key=len)
        if not up_to_newest(known[-1:], newest):
            known = known + [newest]  # noqa: RUF005
        missing = number - len(known) if isinstance(number, int) else 0
        if missing > 0:
            how = rank_zero_info if self._saved is None else rank_zero_warn
            self._say(
                f"{missing} of the {number} newest {self.analysis} reports from before the "
                f"checkpoint are not in the callback's reports: {why}",
                how,
            )
        return known

    def _say_that_it_begins(self, states: Mapping[str, Any]) -> None:
        """Say why the checkpoint has no reports of this callback."""
        begin = f"The {self.analysis} reports {self.prefix!r} begin anew: "
        others = other_options(self.state_key, states)
        if others is None:
            self._say(f"{begin}the checkpoint has no state of this callback.", rank_zero_info)
            return
        names = ", ".join(f"{name}=" for name in others)
        what = f"those before the checkpoint have other options ({names})"
        self._say(begin + what, rank_zero_warn)

    def _newest_of(self, state: Mapping[str, Any]) -> ReportT | None:
        """The newest report in a state, if there is one that can be read."""
        if "newest_report" not in state:
            return None
        saved = state["newest_report"]
        of_bytes = isinstance(saved, torch.Tensor) and saved.dtype == torch.uint8
        data = saved.cpu().numpy().tobytes() if of_bytes else b""
        try:
            return self._report.load(BytesIO(data))
        except ReportFileError as error:
            self._say(
                f"The newest {self.analysis} report in the checkpoint is lost, and what ranks "
                "units by it begins after the next report; all else is resumed. "
                f"{error}",
                rank_zero_warn,
            )
            return None

    def _new_positions(self, dataloaders: Sequence[Any], dataloader: int) -> Positions:
        """Which samples the batches of a dataloader have."""
        own = dataloaders[dataloader] if dataloader < len(dataloaders) else None
        found = Positions(own, self._processes)
        if not found.known:
            self._say(
                f"no DistributedSampler deals out the samples of dataloader {dataloader}, so the "
                f"{self.analysis} analysis counts a sample several times if several processes get "
                "it",
                rank_zero_warn,
            )
        return found

    def _begin(self, trainer: Trainer, pl_module: LightningModule, stage: Stage) -> None:
        self._stop()
        self._evaluated = True
        self._tried |= trainer.sanity_checking
        self._logged.clear()
        self._told = ToldFirst(trainer, self._stop)
        self._failed, self._waited_for = None, False
        start = "at the start of an evaluation"
        self._follow(trainer, start, self._start, trainer, pl_module, stage)
        self._waited_for = self._processes.size > 1 and self._follows

    def _end(self, trainer: Trainer, pl_module: LightningModule, stage: Stage) -> None:
        end, before = "at the end of an evaluation", self.reports[-1:]
        if self._waited_for:
            with self._protecting(trainer, end, trying=not self._tried):
                self._processes.check(self._failed)
        self._follow(trainer, end, self._finish, trainer, pl_module, stage)
        self._tried |= self.reports[-1:] != before

    def _follow(
        self, trainer: Trainer, where: str, part: Callable[..., None], *arguments: Any
    ) -> None:
        """Do a part of the analysis, unless this evaluation is not followed or was given up."""
        if self._told is None:
            return
        with self._protecting(trainer, where, trying=not self._tried):
            try:
                part(*arguments)
            except Exception as error:
                if not self._waited_for or part == self._finish:
                    raise
                self._failed = error  # the other processes hear of it at the end
                self._stop()

    @property
    @abstractmethod
    def _follows(self) -> bool:
        """Whether this evaluation is followed."""

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
    def _leave(self) -> None:
        """Leave the model as it was. Idempotent."""

    def _stop(self) -> None:
        """Stop following the evaluation and leave the model as it was. Idempotent."""
        told, self._told = self._told, None
        try:
            self._leave()
        finally:
            if told is not None:
                told.remove()

    @contextmanager
    def _protecting(
        self,
        trainer: Trainer,
        where: str,
        lost: str = "this evaluation has no report",
        *,
        trying: bool = False,
    ) -> Iterator[None]:
        """Report an error here instead of ending a fit, unless it is asked for or just tried."""
        try:
            yield
        except Exception as error:
            fitting = trainer.state.fn == TrainerFn.FITTING
            trying |= trainer.sanity_checking or trainer.fast_dev_run  # type: ignore[attr-defined]
            if self.on_error == "raise" or trying or not fitting:
                raise
            self._stop()
            self._say_what_failed(trainer, error, where, lost)

    def _say_what_failed(self, trainer: Trainer, error: Exception, where: str, lost: str) -> None:
        """Warn of an error once, with its reason and the metrics that others will miss."""
        what, place = _words(error), traceback.extract_tb(error.__traceback__)[-1]
        message = (
            f"the {self.analysis} analysis {self.prefix!r} failed {where}, so {lost}; training "
            f"goes on. {what} ({Path(place.filename).name}, line {place.lineno}). The same error "
            "is not reported again. on_error='raise' ends the fit instead"
        )
        missing = [
            monitor
            for monitor in monitored(trainer)
            if monitor.startswith(f"{self.prefix}/") and monitor not in self._logged
        ]
        if missing:
            message += (
                f". Monitored and not logged in this evaluation: {', '.join(map(repr, missing))}; "
                "what monitors it sees its last value, or ends the fit if it never had one"
            )
        self._say(message, rank_zero_warn, about=f"{where}: {_NUMBER.sub('', what)}")

    def _log(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        report: ReportT,
        scalars: Mapping[str, float],
        faces_of: Callable[[ReportT], Faces],
        suffix: str,
    ) -> None:
        """Keep a report, log its scalars, pictures and tables, and save it."""
        prefix = self.prefix if report.stage == "validate" else f"{self.prefix}_{report.stage}"
        self._of_others = min(self._of_others, len(self.reports))  # the user may have cleared them
        self.reports.append(report)
        self._made_of = weakref.ref(pl_module)
        kept = "its report is in the callback's reports, but not"
        tags = {f"{prefix}/{name}{suffix}": value for name, value in scalars.items()}
        left_out: list[str] = []
        with self._protecting(trainer, "while logging", f"{kept} all of its scalars are logged"):
            left_out = refused(trainer.loggers, tags)
            for tag in (tag for tag in tags if tag not in left_out):
                # A method of the user's may pass on other names or values.
                log = module_class(type(pl_module)).log
                if self._processes.size > 1:  # all have the same value, which max leaves exact
                    log = partial(log, sync_dist=True, reduce_fx="max")
                log(pl_module, tag, tags[tag])
                self._logged.add(tag)
        with RandomStreams.now(pl_module.device).inside():  # packages of loggers may draw
            self._show_and_save(trainer, report, faces_of, prefix, suffix, kept)
        with self._protecting(trainer, "while logging", f"{kept} all of its scalars are logged"):
            self._check_names(trainer, left_out)

    def _show_and_save(
        self,
        trainer: Trainer,
        report: ReportT,
        faces_of: Callable[[ReportT], Faces],
        prefix: str,
        suffix: str,
        kept: str,
    ) -> None:
        """Give pictures and tables to the loggers, and save the report."""
        stores: list[Store] = []
        with self._protecting(trainer, "while saving", f"{kept} saved"):
            directory = report_directory(trainer, self.dirpath, self.directory)
            stores = artifact_stores(trainer.loggers, self.directory)
            if directory is not None:
                stores.insert(0, partial(self._save_file, trainer, directory))
        if not trainer.is_global_zero:
            if stores:
                self._forget()
            return
        lost = f"{kept} all of its images and tables are logged"
        showers = [shower for shower in map(shower_of, trainer.loggers) if shower is not None]
        faces: Faces = {}
        with self._protecting(trainer, "while drawing", lost):
            if showers:
                faces = {f"{prefix}/{tag}{suffix}": face for tag, face in faces_of(report).items()}
        for show in showers if faces else ():
            with self._protecting(trainer, "while logging images", lost):
                show(faces, trainer.global_step)
        paths = partial(paths_of, prefix=self.prefix, report=report, suffix=suffix)
        saved = 0
        for save in stores:
            with self._protecting(trainer, "while saving", f"{kept} saved"):
                try:
                    save(paths, file_of(report))
                except OSError as error:
                    self._say(could_not_save(error), rank_zero_warn)
                else:
                    saved += 1
        if stores and saved == len(stores):
            self._forget()

    def _check_names(self, trainer: Trainer, names: Iterable[str]) -> None:
        """Refuse names of scalars with which a logger of the Trainer would end the fit."""
        for name in refused(trainer.loggers, names):
            raise ValueError(
                f"concepts: MLFlowLogger takes no scalar named {name!r}; give each concept a name "
                "with a Latin letter or a digit"
            )

    def _save_file(self, trainer: Trainer, directory: Path, paths: Paths, file: BytesIO) -> None:
        """Save in a directory of this attempt, and with a W&B run that it lies in."""
        own = self._directory_of_attempt(trainer, directory)
        path = write_new(paths(own), file.getvalue())
        self._saved = Saved.of(str(real(path)), checksum_of(file))
        upload(trainer.loggers, path)

    def _directory_of_attempt(self, trainer: Trainer, directory: Path) -> Path:
        """Where this attempt saves: in the directory, or in one inside it; it is made."""
        if trainer.state.fn == TrainerFn.FITTING and directory not in self._attempts:
            self._attempts[directory] = directory_of_attempt(
                directory, self.prefix, self._saved, resumed=self._resumed
            )
        own = self._attempts.get(directory) or latest_attempt(directory, self.prefix)[0]
        own.mkdir(parents=True, exist_ok=True)
        return own

    def _forget(self) -> None:
        """Keep the newest reports in memory; those before are saved."""
        more = max(0, len(self.reports) - KEPT)
        del self.reports[:more]
        self._of_others = max(0, self._of_others - more)

    def _say_where_reports_go(self, trainer: Trainer, directory: Path | None) -> None:
        """Say what is not where TensorBoard would have it, and warn of what stays elsewhere."""
        where = f"load_reports({str(directory)!r})" if directory else "save them with dirpath="
        if isinstance(trainer.strategy.launcher, _LAUNCHERS):
            self._say(
                f"this strategy trains in another process, so the {self.analysis} callback's "
                f"reports stay empty in this one; {where}",
                rank_zero_warn,
            )
        elif self._is_copy:
            self._say(
                f"The {self.analysis} callback in use is a copy, so the original gets no reports; "
                f"for those of the copy: {where}",
                rank_zero_info,
            )
        loggers: list[Any] = trainer.loggers
        if trainer.is_global_zero and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            words = where_in_words(loggers, directory, self.directory)
            saved = directory is not None or artifact_stores(loggers, "")
            if words:
                lost = any(map(place_of, loggers)) and not saved
                how = rank_zero_warn if lost else rank_zero_info
                self._say(f"The {self.analysis} callback: {words}.", how)

    def _say(self, message: str, how: Callable[[str], None], *, about: str | None = None) -> None:
        """Say a message once in a run of the Trainer, or once for each ``about``."""
        if (about or message) not in self._said:
            self._said.add(about or message)
            how(message)


def _words(error: Exception) -> str:
    """Type and message of an error, also if it cannot say its message."""
    return "".join(traceback.format_exception_only(error)).strip()
