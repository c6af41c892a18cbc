"""Estimated time and progress bar of the runs with knock-outs."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

from lightning.pytorch import Trainer
from tqdm import tqdm

from lightning_relay.rerun.packages import classes

_LONG = 10.0
"""Seconds of runs from which an evaluation is announced and has a bar."""

_MEASURED = 1.0
"""Least number of seconds that the estimate rests on."""

_TOGETHER = 1e-3
"""Runs that end within so many seconds of each other were run together."""


class Progress:
    """Counts the runs of an evaluation; if they take long, announces it and shows a bar.

    The bar is of the kind of the Trainer's own bar; a Trainer without a bar has none here either.
    """

    def __init__(self, trainer: Trainer, say: Callable[[str], None]) -> None:
        self._trainer = trainer
        self._say = say
        self._begun = self._latest = 0.0
        self._warm: tuple[float, int] | None = None
        self._runs = 0
        self._estimated = False
        self._advance: Callable[[], Any] | None = None
        self._remove: Callable[[], Any] | None = None

    def advance(self, sets: int, batches: float) -> None:
        """Count a run; each of the batches (infinite if unknown) is run ``sets + 1`` times.

        The first batch takes longer than the others: there it is found out whether sets can be run
        together. So the estimate rests on later batches, or on later runs of a long first one.
        """
        if self._advance is not None:
            self._advance()
        now, before = time.monotonic(), self._runs
        self._runs += 1
        if before == 0:
            self._begun = now
        elif now - self._latest > _TOGETHER and not self._estimated:
            self._estimate(before, sets, batches)
        self._latest = now

    def _estimate(self, runs: int, sets: int, batches: float) -> None:
        """Estimate from the runs so far, if there are enough after the slow ones at the start."""
        if self._warm is None:
            if runs > sets or self._latest - self._begun >= _LONG:
                self._warm = self._latest, runs
        elif (seconds := self._latest - self._warm[0]) >= _MEASURED:
            self._estimated = True
            self._announce(seconds / (runs - self._warm[1]), sets, batches)

    def close(self) -> None:
        """Remove the bar."""
        if self._remove is not None:
            self._remove()
        self._advance = self._remove = None

    def _announce(self, of_run: float, sets: int, batches: float) -> None:
        known = math.isfinite(batches)
        runs = int((sets + 1) * batches) if known else None
        seconds = of_run * (sets + 1 if runs is None else runs)
        if seconds < _LONG:
            return
        where = f"{batches:g} batches" if known else "every batch"
        self._say(
            f"Knock-outs: {sets} sets on {where} take about {seconds:.0f} s in an evaluation; "
            "max_batches=, every_n_epochs= and max_sets= of the selection reduce that."
        )
        self._show(runs)

    def _show(self, runs: int | None) -> None:
        bar: Any = self._trainer.progress_bar_callback
        if isinstance(bar, classes("callbacks.TQDMProgressBar")) and bar.is_enabled:
            below = 2 * bar.process_position + 2  # the bars for training and validation
            own: tqdm[Any] = tqdm(
                total=runs,
                initial=self._runs,
                desc="Knock-outs",
                unit="run",
                leave=False,
                position=below,
            )
            self._advance, self._remove = own.update, own.close
        elif isinstance(bar, classes("callbacks.RichProgressBar")) and bar.is_enabled:
            if (shown := bar.progress) is None:
                return
            task = shown.add_task("Knock-outs", total=runs, completed=self._runs)
            self._advance = lambda: shown.advance(task)
            # Lightning finds its own bars by their index, so none may be removed.
            self._remove = lambda: shown.update(task, visible=False)
