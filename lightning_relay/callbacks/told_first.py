"""A callback that is told of an exception before all others."""

from __future__ import annotations

from collections.abc import Callable

from lightning.pytorch import LightningModule, Trainer

from lightning_relay.rerun.packages import Callback


class ToldFirst(Callback):
    """Stands first in a Trainer's list of callbacks until it is removed, and waits for exceptions.

    Lightning tells callbacks of an exception one after the other. One that raises an error keeps
    it from those after it.
    """

    def __init__(self, trainer: Trainer, stop: Callable[[], None]) -> None:
        self._trainer = trainer
        self._stop = stop
        # A new list: Lightning may be going through the old one.
        trainer.callbacks = [self, *trainer.callbacks]  # type: ignore[attr-defined]

    def __reduce__(self) -> tuple[type[Callback], tuple[()]]:
        """A copy does nothing."""
        return Callback, ()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Stop what is to be stopped."""
        self._stop()

    def remove(self) -> None:
        """Leave the list."""
        others = [other for other in self._trainer.callbacks if other is not self]  # type: ignore[attr-defined]
        self._trainer.callbacks = others  # type: ignore[attr-defined]
