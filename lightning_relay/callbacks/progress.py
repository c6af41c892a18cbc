"""Estimated time and progress bar of the runs with knock-outs."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import RichProgressBar, TQDMProgressBar
from tqdm import tqdm

_LONG = 10.0
"""Seconds of runs from which an evaluation is announced and has a bar."""

_MEASURED = 1.0
"""Seconds of runs that the estimate rests on."""


class Progress:
    """Counts the runs of an evaluation; if they take long, announces it and shows a bar.

    The bar is of the kind of the Trainer's own bar; a Trainer without a bar has none here either.
    """

    def __init__(self, trainer: Trainer, say: Callable[[str], None]) -> None:
        self._trainer = trainer
        self._say = say
        self._begun = 0.0
        self._runs = 0
        self._estimated = False
        self._advance: Callable[[], Any] | None = None
        self._remove: Callable[[], Any] | None = None

    def advance(self, sets: int, batches: float) -> None:
        """Count a run; each of the batches (infinite if unknown) is run ``sets + 1`` times."""
        if self._advance is not None:
            self._advance()
        if self._runs == 0:
            self._begun = time.monotonic()
        self._runs += 1
        seconds = time.monotonic() - self._begun
        if not self._estimated and self._runs > 1 and seconds >= _MEASURED:
            self._estimated = True
            self._announce(seconds / (self._runs - 1), sets, batches)  # the first started the clock

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
        bar = self._trainer.progress_bar_callback
        if isinstance(bar, TQDMProgressBar) and bar.is_enabled:
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
        elif isinstance(bar, RichProgressBar) and bar.is_enabled and bar.progress is not None:
            shown = bar.progress
            task = shown.add_task("Knock-outs", total=runs, completed=self._runs)
            self._advance = lambda: shown.advance(task)
            # Lightning finds its own bars by their index, so none may be removed.
            self._remove = lambda: shown.update(task, visible=False)
