"""What stands in for the Trainer and its loggers where nothing must be heard."""

from __future__ import annotations

import types
import weakref
from functools import lru_cache
from numbers import Number
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch import LightningModule
from lightning.pytorch.loggers.logger import DummyLogger
from torch import Tensor
from torchmetrics import Metric

if TYPE_CHECKING:
    from collections.abc import Callable, MutableMapping

    from lightning.pytorch import Trainer
    from lightning.pytorch.loggers import Logger


class QuietLogger(DummyLogger):
    """Logger that says where another one logs to, and logs nothing.

    Args:
        logger: The logger it stands in for.
    """

    def __init__(self, logger: Logger) -> None:
        super().__init__()
        self._logger = logger

    @property
    def name(self) -> Any:
        """Name that the logger goes by."""
        return self._logger.name

    @property
    def version(self) -> Any:
        """Version that the logger goes by."""
        return self._logger.version

    @property
    def save_dir(self) -> Any:
        """Where the logger saves."""
        return self._logger.save_dir

    @property
    def root_dir(self) -> Any:
        """Directory of all versions of the logger."""
        return self._logger.root_dir

    @property
    def log_dir(self) -> Any:
        """Directory of this version of the logger."""
        return self._logger.log_dir

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("_"):
            value = getattr(self._logger, name, None)
            if isinstance(value, str | Path):
                return value
        return super().__getattr__(name)


class QuietTrainer:
    """Trainer as a module sees it, for a twin of the module that must not be heard.

    It tells what the Trainer tells. Its loggers are quiet, its metrics are copies, and what is set
    on it stays with it; it saves no checkpoint.

    Args:
        trainer: The Trainer it stands in for.

    Attributes:
        logger: First of the loggers; None where there is none.
        loggers: Quiet loggers, one for each of the Trainer's.
    """

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self.loggers: list[QuietLogger] = [QuietLogger(logger) for logger in trainer.loggers]
        self.logger = self.loggers[0] if self.loggers else None
        # Not held: the twin holds this, and in a circle both would outlive their batch.
        self._twin: Callable[[], LightningModule | None] = lambda: None

    def stand_for(self, twin: LightningModule) -> None:
        """Be the Trainer of a twin."""
        self._twin = weakref.ref(twin)

    @property
    def lightning_module(self) -> LightningModule | None:
        """The twin."""
        return self._twin()

    @property
    def model(self) -> LightningModule | None:
        """The twin."""
        return self._twin()

    @property
    def callback_metrics(self) -> dict[str, Any]:
        """A copy of the Trainer's."""
        return dict(self._trainer.callback_metrics)

    @property
    def logged_metrics(self) -> dict[str, Any]:
        """A copy of the Trainer's."""
        return dict(self._trainer.logged_metrics)

    @property
    def progress_bar_metrics(self) -> dict[str, Any]:
        """A copy of the Trainer's."""
        return dict(self._trainer.progress_bar_metrics)

    def save_checkpoint(self, *_: Any, **__: Any) -> None:
        """Save nothing."""

    def __getattr__(self, name: str) -> Any:
        if name == "_trainer":  # not set yet
            raise AttributeError(name)
        return getattr(self._trainer, name)


def silence(module: LightningModule, heard: MutableMapping[str, Any]) -> None:
    """Have a twin log into a mapping, and print nothing.

    The twin's class becomes one derived from its own, so that a ``log`` of the user's is called as
    ever, and what it hands on to Lightning's arrives here.

    Args:
        module: A twin; its nested LightningModules are left as they are.
        heard: Gets the tensors and numbers that are logged, and metrics, by name.
    """
    module.__class__ = _silenced(type(module))  # type: ignore[arg-type]
    vars(module)["_heard_in_rerun"] = heard


class _Unannounced:
    """Keeps a class derived from a user's from the ``__init_subclass__`` of the user's."""

    def __init_subclass__(cls, **_: Any) -> None:
        """Tell nobody."""


class _Silenced(LightningModule):
    """Comes in the order of base classes just before LightningModule."""

    def log(self, name: str, value: Any, *_: Any, **__: Any) -> None:
        """Remember a tensor, number or metric by name."""
        if isinstance(value, Tensor) and value.numel() == 1:
            vars(self)["_heard_in_rerun"][name] = value.detach().clone()
        elif isinstance(value, Number | Metric):
            vars(self)["_heard_in_rerun"][name] = value

    def print(self, *_: Any, **__: Any) -> None:
        """Print nothing."""


@lru_cache(maxsize=64)
def _silenced(kind: type[LightningModule]) -> type[LightningModule]:
    names = {"__module__": kind.__module__, "__qualname__": kind.__qualname__}
    return types.new_class(
        kind.__name__, (_Unannounced, kind, _Silenced), exec_body=lambda body: body.update(names)
    )
