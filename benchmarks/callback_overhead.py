"""What the relay callback adds to training: the same run with and without it, in turn.

    python benchmarks/callback_overhead.py [--pairs 5] [--orders 16] [--splits 4]
        [--permutations 0] [--device cuda]

Both runs have a TensorBoardLogger; the callback writes its scalars, pictures, tables and reports.
Prints, for each case, the median time of three epochs of training and validation without the
callback, the median of the ratios (with / without) of the pairs, and that of the time spent inside
the callback, relative to the time without it: this varies less, but leaves out what the recorder's
hooks add to a forward pass. Loops are compiled before.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.loggers import TensorBoardLogger

from lightning_relay import RelayInformationCallback, RelayMeasure
from lightning_relay.tasks import MemoryTask, RecurrentClassifier


@dataclass(frozen=True)
class Case:
    """A GRU on the memory task; training has four times the sequences of validation."""

    units: int
    delay: int
    sequences: int


CASES = (Case(20, 10, 1024), Case(64, 10, 1024), Case(20, 47, 1024), Case(64, 47, 2048))


def seconds(case: Case, callbacks: list[Callback], device: str) -> float:
    """Time of three epochs."""
    seed_everything(0, verbose=False)
    task = MemoryTask(3, case.delay, train_size=4 * case.sequences, val_size=case.sequences)
    model = RecurrentClassifier("gru", 1, task.num_classes, hidden_size=case.units)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            max_epochs=3,
            accelerator="gpu" if device == "cuda" else "cpu",
            devices=1,
            callbacks=callbacks,
            logger=TensorBoardLogger(folder),
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            gradient_clip_val=1.0,
        )
        start = time.perf_counter()
        trainer.fit(model, task)
        return time.perf_counter() - start


class Timed(RelayInformationCallback):
    """The callback, with the time spent in it."""

    def __init__(self, measure: RelayMeasure) -> None:
        super().__init__(measure=measure)
        self.seconds = 0.0
        for name in dir(self):
            if name.startswith("on_validation"):
                setattr(self, name, self._timed(getattr(self, name)))

    def _timed(self, hook: Callable[..., None]) -> Callable[..., None]:
        def timed(*arguments: Any) -> None:
            start = time.perf_counter()
            hook(*arguments)
            self.seconds += time.perf_counter() - start

        return timed


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--orders", type=int, default=16, help="of relay shares; 0 for none")
    parser.add_argument("--splits", type=int, default=4, help="of relay transfer; 0 for none")
    parser.add_argument("--permutations", type=int, default=0, help="for chance levels")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--cases", type=int, default=len(CASES), help="number of cases to measure")
    arguments = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", ".*(does not have many workers|LeafSpec).*")

    measure = RelayMeasure(
        n_orders=arguments.orders,
        n_splits=arguments.splits,
        n_permutations=arguments.permutations,
    )
    seconds(Case(20, 2, 64), [Timed(measure)], arguments.device)
    print(f"on {torch.cuda.get_device_name() if arguments.device == 'cuda' else 'the CPU'}")
    print("units  steps  sequences  without, s  with / without (lowest to highest)  inside")
    for case in CASES[: arguments.cases]:
        without, ratios, inside = [], [], []
        for _ in range(arguments.pairs):
            callback = Timed(measure)
            without.append(seconds(case, [], arguments.device))
            ratios.append(seconds(case, [callback], arguments.device) / without[-1])
            inside.append(callback.seconds / without[-1])
        print(
            f"{case.units:5}{case.delay + 3:7}{case.sequences:11}"
            f"{statistics.median(without):12.2f}{statistics.median(ratios):10.2f}"
            f" ({min(ratios):.2f} to {max(ratios):.2f}){statistics.median(inside):12.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
