"""What it costs to check that runs of a step see what it saw and leave what they found.

    python benchmarks/step_checks.py [--pairs 5] [--device cpu]

Validates networks of 20 units on 4,096 sequences of the memory task with a ``KnockoutCallback``,
and adds up the time inside what keeps and compares batches, parameters, global variables, calls and
results. Printed are medians and ranges of that time, and of the run that repeats each batch to
compare it, as fractions of the time that the callback adds to a validation.
"""

from __future__ import annotations

import argparse
import functools
import logging
import statistics
import time
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from lightning.pytorch import Callback, Trainer, seed_everything

from lightning_relay import EveryUnit, KnockoutCallback, RandomSets
from lightning_relay.ablation import runs
from lightning_relay.knockout import lanes
from lightning_relay.rerun import KeptBatch, Surroundings, step, traces
from lightning_relay.tasks import Cell, MemoryTask, RecurrentClassifier

CELLS: tuple[Cell, ...] = ("rnn", "gru", "lstm")


class Clock:
    """Seconds spent in what it times; what is called inside of that is not counted twice."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._inside = False

    def timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, with its time added up."""

        @functools.wraps(function)
        def inside(*args: Any, **kwargs: Any) -> Any:
            if self._inside:
                return function(*args, **kwargs)
            self._inside, start = True, time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds += time.perf_counter() - start
                self._inside = False

        return inside

    def around(self, manager: Callable[..., AbstractContextManager[Any]]) -> Callable[..., Any]:
        """The context manager, with the time of its entry and its exit added up."""

        @contextmanager
        def inside(*args: Any, **kwargs: Any) -> Any:
            entered = manager(*args, **kwargs)
            self.timed(entered.__enter__)()
            try:
                yield
            finally:
                self.timed(entered.__exit__)(None, None, None)

        return inside


def clocks() -> tuple[Clock, Clock]:
    """Clocks of the checks, and of the runs that repeat a batch, from now on."""
    checks, repeats = Clock(), Clock()
    for owner, names in (
        (KeptBatch, ["__init__", "given", "put_back"]),
        (Surroundings, ["__init__"]),
        (lanes, ["_same"]),
        (runs, ["check_repeatable", "check_same_as_own"]),
    ):
        for name in names:
            setattr(owner, name, checks.timed(getattr(owner, name)))
    Surroundings.unchanged = checks.around(Surroundings.unchanged)  # type: ignore[method-assign]
    step.untouched = checks.around(traces.untouched)  # type: ignore[attr-defined]
    run = runs.EvaluationBatch.run

    def run_or_repeat(batch: runs.EvaluationBatch, *, whole: bool) -> Any:
        alone = not any("forward" in vars(own) for own in batch.rerun.twin.modules())
        return (repeats.timed(run) if alone else run)(batch, whole=whole)

    runs.EvaluationBatch.run = run_or_repeat  # type: ignore[method-assign, assignment]
    return checks, repeats


def seconds(model: RecurrentClassifier, task: MemoryTask, device: str, *own: Callback) -> float:
    """Time of a validation."""
    trainer = Trainer(
        accelerator=device,
        callbacks=list(own),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    start = time.perf_counter()
    trainer.validate(model, task, verbose=False)
    return time.perf_counter() - start


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    arguments = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    seed_everything(0, verbose=False)
    checks, repeats = clocks()

    print("| sets | batch | cell | checks | repeated runs |")
    print("| --- | ---: | --- | ---: | ---: |")
    for which in (EveryUnit(), RandomSets(n=200)):
        for batch_size in (64, 256):
            task = MemoryTask(bits=3, delay=10, val_size=4096, batch_size=batch_size)
            for cell in CELLS:
                model = RecurrentClassifier(cell, task.input_size, task.num_classes)
                seconds(model, task, arguments.device, KnockoutCallback(which))
                found: list[tuple[float, float]] = []
                for _ in range(arguments.pairs):
                    plain = seconds(model, task, arguments.device)
                    checks.seconds = repeats.seconds = 0.0
                    added = seconds(model, task, arguments.device, KnockoutCallback(which)) - plain
                    found.append((checks.seconds / added, repeats.seconds / added))
                words = " | ".join(
                    f"{statistics.median(part):.1%} ({min(part):.1%} to {max(part):.1%})"
                    for part in zip(*found, strict=True)
                )
                print(f"| {type(which).__name__} | {batch_size} | {cell} | {words} |", flush=True)


if __name__ == "__main__":
    main()
