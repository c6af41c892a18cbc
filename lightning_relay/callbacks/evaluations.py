"""Checks of a Trainer, and which of its evaluations are analysed and where reports go."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any, NoReturn, TypeVar, get_args

from lightning.pytorch import Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn
from torch.utils._pytree import tree_flatten

from lightning_relay.ablation.report import KnockoutReport
from lightning_relay.callbacks.loggers import place_of
from lightning_relay.reading.concepts import check_text
from lightning_relay.recurrent.errors import StepError
from lightning_relay.relay.report import RelayReport
from lightning_relay.reports.stage import Stage
from lightning_relay.rerun.packages import classes, is_module
from lightning_relay.sampling.processes import OtherProcessError

ReportT = TypeVar("ReportT", RelayReport, KnockoutReport)


def check_schedule(every_n_epochs: int, stages: Sequence[str], prefix: str) -> None:
    """Refuse a bad schedule, stage or prefix with a ValueError."""
    whole = isinstance(every_n_epochs, int) and not isinstance(every_n_epochs, bool)
    if not whole or every_n_epochs < 1:
        raise ValueError(f"every_n_epochs: got {every_n_epochs!r}; it takes an integer from 1")
    legal = get_args(Stage)
    several = isinstance(stages, Iterable) and not isinstance(stages, str) and bool(stages)
    if not several or not all(stage in legal for stage in stages):
        raise ValueError(f"stages: got {stages!r}; it takes a list of {legal[0]!r}, {legal[1]!r}")
    if not isinstance(prefix, str) or not prefix:
        raise ValueError(f"prefix: got {prefix!r}; it takes a string, the first part of tags")
    check_text("prefix", prefix)


def check_trainer(trainer: Trainer, pl_module: object, analysis: str) -> None:
    """Refuse what is no LightningModule (TypeError) and parts of a model (ValueError)."""
    if not is_module(pl_module):
        raise TypeError(f"pl_module: got {type(pl_module).__name__}; it takes a LightningModule")
    several = trainer.world_size > 1
    if several and not isinstance(trainer.strategy, classes("strategies.DDPStrategy")):
        raise ValueError(
            f"trainer: got {trainer.world_size} processes with {type(trainer.strategy).__name__}, "
            f"which may give each a part of the model; with several, the {analysis} analysis takes "
            "a DDPStrategy, such as strategy='ddp'"
        )


def dataloaders_of(trainer: Trainer, stage: str) -> list[Any]:
    """The dataloaders of an evaluation, by index."""
    loaders = trainer.val_dataloaders if stage == "validate" else trainer.test_dataloaders
    return tree_flatten(loaders)[0]


def check_validation_set(trainer: Trainer, analysis: str) -> None:
    """Refuse a fit without validation data; warn where ``limit_val_batches`` asks for none."""
    if trainer.limit_val_batches == 0:
        rank_zero_warn(f"limit_val_batches=0: there will be no {analysis} analysis while fitting")
    elif not trainer.enable_validation:
        raise ValueError(
            "dataloader: there is no validation set or no validation_step, so nothing can be "
            "analysed while fitting; add both, or choose another stage with stages="
        )
    elif trainer.num_val_batches and sum(trainer.num_val_batches) == 0:
        raise_empty("validate")


def is_due(trainer: Trainer, stage: Stage, stages: Sequence[str], every_n_epochs: int) -> bool:
    """Whether this evaluation is analysed; the sanity check always is, if its stage is."""
    fitting = trainer.state.fn == TrainerFn.FITTING
    skipped = fitting and (trainer.current_epoch + 1) % every_n_epochs != 0
    return stage in stages and (trainer.sanity_checking or not skipped)


def numbers_of_batches(trainer: Trainer, stage: str) -> Sequence[int | float]:
    """Number of batches of each dataloader in a whole evaluation, during the sanity check too."""
    return trainer.num_val_batches if stage == "validate" else trainer.num_test_batches


def suffix_of(trainer: Trainer, stage: str, dataloader: int) -> str:
    """Last part of the tags of a dataloader; empty if there is only one."""
    return f"/dataloader_{dataloader}" if len(numbers_of_batches(trainer, stage)) > 1 else ""


def report_directory(trainer: Trainer, dirpath: str | Path | None, name: str) -> Path | None:
    """Local directory to save reports in, on every process that of the first; None without one.

    An error of a logger is raised on every process.
    """
    if trainer.fast_dev_run:  # type: ignore[attr-defined]
        return None
    if dirpath is not None:
        return Path(dirpath)
    directory: Path | None = None
    error: Exception | None = None
    if trainer.is_global_zero:  # only there do loggers have a run
        loggers: list[Any] = trainer.loggers
        try:
            places = [place for place in map(place_of, loggers) if place and "://" not in place]
            directory = Path(places[0]) / name if places else None
        except Exception as failed:  # the other processes wait for this one
            error = failed
    words = None if error is None else f"process 0: {type(error).__name__}: {error}"
    directory, words = trainer.strategy.broadcast((directory, words))
    if words is not None:
        raise error or OtherProcessError(words)
    return directory


def stamped(report: ReportT, trainer: Trainer, stage: Stage, dataloader: int) -> ReportT:
    """The report with the evaluation that it is of."""
    return dataclasses.replace(
        report,
        stage=stage,
        epoch=trainer.current_epoch,
        global_step=trainer.global_step,
        dataloader=dataloader,
    )


def paths_of(
    directory: Path, prefix: str, report: RelayReport | KnockoutReport, suffix: str
) -> Iterator[Path]:
    """Paths for a new report; those after the first are for names that are taken."""
    run = f"{report.stage}-epoch={report.epoch}-step={report.global_step}"
    stem = f"{prefix}-{run}{suffix}".replace("/", "-")
    yield directory / f"{stem}.npz"
    for number in count(1):
        yield directory / f"{stem}-v{number}.npz"


def check_was_evaluated(
    trainer: Trainer, stage: str, stages: Sequence[str], evaluated: bool
) -> None:
    """Refuse an evaluation that was to be analysed but had no batch."""
    if stage not in stages or evaluated:
        return
    limit = trainer.limit_val_batches if stage == "validate" else trainer.limit_test_batches
    batches = numbers_of_batches(trainer, stage)
    if limit != 0 and batches and sum(batches) == 0:
        raise_empty(stage)


def monitored(trainer: Trainer) -> list[str]:
    """Names of the metrics that callbacks and learning-rate schedulers of a Trainer monitor."""
    watching = [*trainer.callbacks, *trainer.lr_scheduler_configs]  # type: ignore[attr-defined]
    names = [getattr(own, "monitor", None) for own in watching]
    return list(dict.fromkeys(name for name in names if isinstance(name, str)))


@contextmanager
def naming_the_sanity_check(trainer: Trainer) -> Iterator[None]:
    """Tell the reader of a StepError in the sanity check that later sequences may be longer."""
    try:
        yield
    except StepError as error:
        if not trainer.sanity_checking:
            raise
        raise StepError(
            f"{error}. The sanity check sees the first batches; if later sequences are longer, "
            "check all of them with the Trainer's num_sanity_val_steps=-1"
        ) from error


def raise_empty(stage: str) -> NoReturn:
    """Raise a ValueError: the set of this stage is empty."""
    what = "validation" if stage == "validate" else "test"
    raise ValueError(
        f"dataloader: the {what} set is empty, so nothing can be analysed; check its dataloader"
    )
