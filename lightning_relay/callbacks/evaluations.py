"""What the callbacks need to know of a Trainer and its evaluations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import IO, NoReturn, Protocol, Self, get_args

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn

from lightning_relay.recurrent.states import StepError
from lightning_relay.reports.stage import Stage


class Report(Protocol):
    """A report of one evaluation."""

    @property
    def stage(self) -> str | None:
        """Stage of the evaluation."""

    @property
    def epoch(self) -> int | None:
        """The Trainer's epoch."""

    @property
    def global_step(self) -> int | None:
        """The Trainer's number of optimizer steps."""

    def save(self, path: str | Path | IO[bytes]) -> None:
        """Write it to a file."""

    @classmethod
    def load(cls, path: str | Path | IO[bytes]) -> Self:
        """Read what ``save`` wrote."""


def check_schedule(every_n_epochs: int, stages: Sequence[str], prefix: str) -> None:
    """Raise a ValueError unless these say when to analyse and where to log."""
    whole = isinstance(every_n_epochs, int) and not isinstance(every_n_epochs, bool)
    if not whole or every_n_epochs < 1:
        raise ValueError(f"every_n_epochs: got {every_n_epochs}; it takes at least 1")
    legal = get_args(Stage)
    if isinstance(stages, str) or not stages or not set(stages) <= set(legal):
        raise ValueError(f"stages: got {stages!r}; it takes a list of {legal[0]!r}, {legal[1]!r}")
    if not isinstance(prefix, str) or not prefix:
        raise ValueError(f"prefix: got {prefix!r}; it takes the first part of the tags")


def check_trainer(trainer: Trainer, pl_module: object, analysis: str) -> None:
    """Raise unless a module is one of lightning.pytorch and there is one process.

    Raises:
        TypeError: If the module is another.
        ValueError: If there are several processes.
    """
    if not isinstance(pl_module, LightningModule):
        name = type(pl_module).__name__
        packages = {base.__module__.partition(".")[0] for base in type(pl_module).__mro__}
        if "pytorch_lightning" in packages:
            raise TypeError(
                f"pl_module: {name} is built on the separate package pytorch_lightning, and the "
                f"{analysis} callback on lightning.pytorch; import LightningModule and Trainer "
                "from lightning.pytorch"
            )
        raise TypeError(f"pl_module: got {name}; it takes a lightning.pytorch.LightningModule")
    if trainer.world_size > 1:
        raise ValueError(
            f"trainer: got {trainer.world_size} processes; the {analysis} analysis takes one "
            "process (devices=1, num_nodes=1), because each would see a part of the samples"
        )


def check_validation_set(trainer: Trainer, analysis: str) -> None:
    """Raise a ValueError where a fit has nothing to validate; warn where that is asked for."""
    if trainer.limit_val_batches == 0:
        rank_zero_warn(f"limit_val_batches=0: there will be no {analysis} analysis while fitting")
    elif not trainer.enable_validation:
        raise ValueError(
            "dataloader: there is no validation set or no validation_step, so nothing can be "
            "analysed while fitting; give both, or analyse another stage with stages="
        )
    elif trainer.num_val_batches and sum(trainer.num_val_batches) == 0:
        raise_empty("validate")


def is_due(trainer: Trainer, stage: Stage, stages: Sequence[str], every_n_epochs: int) -> bool:
    """Whether an evaluation is to be analysed; the sanity check of one that is, too."""
    fitting = trainer.state.fn == TrainerFn.FITTING
    skipped = fitting and (trainer.current_epoch + 1) % every_n_epochs != 0
    return stage in stages and (trainer.sanity_checking or not skipped)


def numbers_of_batches(trainer: Trainer, stage: str) -> Sequence[int | float]:
    """Number of batches of each dataloader; in the sanity check, of the validation to come."""
    return trainer.num_val_batches if stage == "validate" else trainer.num_test_batches


def suffix_of(trainer: Trainer, stage: str, dataloader: int) -> str:
    """Last part of the tags of a dataloader; empty where there is one."""
    return f"/dataloader_{dataloader}" if len(numbers_of_batches(trainer, stage)) > 1 else ""


def prefix_of(prefix: str, stage: str | None) -> str:
    """First part of the tags of a stage."""
    return prefix if stage == "validate" else f"{prefix}_{stage}"


def report_directory(trainer: Trainer, dirpath: str | Path | None, name: str) -> Path | None:
    """Where reports are saved; None where they are not."""
    if trainer.fast_dev_run:  # type: ignore[attr-defined]
        return None
    if dirpath is not None:
        return Path(dirpath)
    if not trainer.loggers or trainer.log_dir is None:
        return None
    if "://" in trainer.log_dir:
        rank_zero_warn(
            f"reports are not saved to {trainer.log_dir!r}; give a local directory: dirpath="
        )
        return None
    return Path(trainer.log_dir) / name


def unused_path(directory: Path, prefix: str, report: Report, suffix: str) -> Path:
    """A path for a report that no file has."""
    run = f"{report.stage}-epoch={report.epoch}-step={report.global_step}"
    stem = f"{prefix}-{run}{suffix}".replace("/", "-")
    names = (f"{stem}.npz" if number == 0 else f"{stem}-v{number}.npz" for number in count())
    return next(directory / name for name in names if not (directory / name).exists())


def check_was_evaluated(
    trainer: Trainer, stage: str, stages: Sequence[str], evaluated: bool
) -> None:
    """Raise a ValueError if an evaluation was asked for and had no batch."""
    if stage not in stages or evaluated:
        return
    limit = trainer.limit_val_batches if stage == "validate" else trainer.limit_test_batches
    batches = numbers_of_batches(trainer, stage)
    if limit != 0 and batches and sum(batches) == 0:
        raise_empty(stage)


@contextmanager
def naming_the_sanity_check(trainer: Trainer) -> Iterator[None]:
    """Add to a StepError that later sequences may be longer than those of the sanity check."""
    try:
        yield
    except StepError as error:
        if not trainer.sanity_checking:
            raise
        raise StepError(
            f"{error}. These are the sequences of the sanity check; if later ones are longer, "
            "check them all with the Trainer's num_sanity_val_steps=-1"
        ) from error


def raise_empty(stage: str) -> NoReturn:
    """Raise the ValueError that there is nothing to analyse."""
    what = "validation" if stage == "validate" else "test"
    raise ValueError(
        f"dataloader: the {what} set is empty, so nothing can be analysed; check its dataloader"
    )
