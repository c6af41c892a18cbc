"""Stand-ins for the Trainer and its loggers that nobody hears, and a module that logs nowhere."""

from __future__ import annotations

import weakref
from abc import ABCMeta
from copy import copy
from dataclasses import dataclass
from inspect import signature
from numbers import Number
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch.loggers.logger import DummyLogger
from lightning.pytorch.trainer.states import RunningStage
from torch import Tensor
from torchmetrics import Metric

from lightning_relay.rerun.packages import MODULES, module_class

if TYPE_CHECKING:
    from collections.abc import Callable, MutableMapping

    from lightning.pytorch import LightningModule, Trainer
    from lightning.pytorch.loggers import Logger

_METRICS = ("callback_metrics", "logged_metrics", "progress_bar_metrics")


@dataclass(frozen=True, eq=False)
class Heard:
    """A number or metric that a step logged.

    Attributes:
        value: Tensor with one number, number, or metric.
        on_step: Whether it is logged for every batch.
        on_epoch: Whether it is reduced over the epoch.
        of_dataloader: Whether Lightning adds the dataloader to its name.
    """

    value: Any
    on_step: bool
    on_epoch: bool
    of_dataloader: bool

    def names(self, name: str, dataloader: int | None) -> list[str]:
        """Names under which it may be known; ``dataloader`` is None if there is only one."""
        found = [name]
        if self.on_step and self.on_epoch:
            found += [f"{name}_step", f"{name}_epoch"]
        if self.of_dataloader and dataloader is not None:
            found += [f"{own}/dataloader_idx_{dataloader}" for own in found]
        return found


class QuietLogger(DummyLogger):
    """Logger that tells where another logger logs to, and logs nothing."""

    def __init__(self, logger: Logger) -> None:
        super().__init__()
        self._logger = logger

    name: Any = property(attrgetter("_logger.name"))
    version: Any = property(attrgetter("_logger.version"))
    save_dir: Any = property(attrgetter("_logger.save_dir"))
    root_dir: Any = property(attrgetter("_logger.root_dir"))
    log_dir: Any = property(attrgetter("_logger.log_dir"))

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("_"):
            value = getattr(self._logger, name, None)
            if isinstance(value, str | Path):
                return value
        return super().__getattr__(name)


class QuietTrainer:
    """Trainer as a module sees it, for a twin of the module that must not be heard.

    It tells what the Trainer tells. Its loggers are quiet and its metrics are copies. What is set
    on it stays with it, and it saves no checkpoint. After ``be_validating`` it tells that the
    sanity check is over.
    """

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self.loggers: list[QuietLogger] = [QuietLogger(logger) for logger in trainer.loggers]
        self.logger = self.loggers[0] if self.loggers else None
        # A weak reference: the twin holds this, and in a circle both would outlive their batch.
        self._twin: Callable[[], LightningModule | None] = lambda: None

    def stand_for(self, twin: LightningModule) -> None:
        """Be the Trainer of a twin."""
        self._twin = weakref.ref(twin)

    @property
    def lightning_module(self) -> LightningModule | None:
        """The twin."""
        return self._twin()

    model = lightning_module

    def be_validating(self) -> None:
        """Tell of a validation where the Trainer is in its sanity check."""
        self.state = copy(self._trainer.state)
        self.state.stage = RunningStage.VALIDATING
        self.sanity_checking, self.validating = False, True

    def save_checkpoint(self, *_: Any, **__: Any) -> None:
        """Save nothing."""

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        """What ``isinstance`` goes by."""
        return type(self._trainer)

    def __getattr__(self, name: str) -> Any:
        if name == "_trainer":  # not set yet
            raise AttributeError(name)
        value = getattr(self._trainer, name)
        return dict(value) if name in _METRICS else value


def silence(module: LightningModule, heard: MutableMapping[str, Heard]) -> None:
    """Have a twin print nothing and log tensors, numbers and metrics into a mapping, by name.

    The twin's class becomes one derived from its own. So a ``log`` of the user's is still called,
    and what it passes on to Lightning's arrives here. Nested LightningModules are left as they are.
    """
    object.__setattr__(module, "__class__", silenced(type(module)))
    vars(module)["_heard_in_rerun"] = heard


class _Unannounced:
    """Keeps a class derived from a user's from the ``__init_subclass__`` of the user's."""

    def __init_subclass__(cls, **_: Any) -> None:
        """Tell nobody."""


def _log(self: Any, name: str, value: Any, *args: Any, **kwargs: Any) -> None:
    """Remember a tensor, number or metric by name."""
    if isinstance(value, Tensor) and value.numel() == 1:
        value = value.detach().clone()
    elif not isinstance(value, Number | Metric):
        return
    given = signature(module_class(type(self)).log).bind(self, name, value, *args, **kwargs)
    vars(self)["_heard_in_rerun"][name] = Heard(
        value,
        on_step=bool(given.arguments.get("on_step")),
        on_epoch=given.arguments.get("on_epoch") is not False,
        of_dataloader=bool(given.arguments.get("add_dataloader_idx", True)),
    )


def _print(self: Any, *_: Any, **__: Any) -> None:
    """Print nothing."""


_SILENCED = {base: type("_Silenced", (base,), {"log": _log, "print": _print}) for base in MODULES}
"""What comes in the order of base classes just before LightningModule."""

INSTEAD: dict[Any, Any] = {
    function: silent
    for base in MODULES
    for function, silent in ((base.log, _log), (base.print, _print))
}
"""Functions of which a twin has another version, also where methods were kept before."""

_DERIVED: weakref.WeakValueDictionary[type, type] = weakref.WeakValueDictionary()


def silenced(kind: type[LightningModule]) -> type[LightningModule]:
    """The class of a twin, derived from the module's own without a call of its metaclass."""
    derived = _DERIVED.get(kind)
    if derived is None:
        meta = type(kind)
        new: Any = ABCMeta.__new__ if issubclass(meta, ABCMeta) else type.__new__
        names = {"__module__": kind.__module__, "__qualname__": kind.__qualname__}
        derived = new(
            meta, kind.__name__, (_Unannounced, kind, _SILENCED[module_class(kind)]), names
        )
        _DERIVED[kind] = derived
    return derived
