"""Memory and time of a run of 300 epochs with both callbacks.

    python benchmarks/long_runs.py [--epochs 300] [--unsaved]

A GRU learns the memory task, with a CSVLogger or, with ``--unsaved``, without a logger. Prints the
resident memory, the number of reports in the callbacks and the mean processor time of an epoch, six
times in the run. The saved run is resumed at the end for one more epoch, and ``load_reports`` reads
all of it.
"""

from __future__ import annotations

import argparse
import gc
import logging
import os
import tempfile
import time
import warnings
from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.loggers import CSVLogger

from lightning_relay import AlongOrder, KnockoutCallback, RelayInformationCallback, load_reports
from lightning_relay.tasks import MemoryTask, RecurrentClassifier


class Watching(Callback):
    """Prints a line of the table six times in a run."""

    def __init__(self, epochs: int, *watched: RelayInformationCallback | KnockoutCallback) -> None:
        self.every = max(1, epochs // 6)
        self.watched = watched
        self.start = time.process_time()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the line."""
        done = trainer.current_epoch + 1
        if done % self.every == 0:
            gc.collect()
            took = (time.process_time() - self.start) / self.every
            held = sum(len(callback.reports) for callback in self.watched)
            print(f"{done:6}{resident():14.1f}{held:10}{1000 * took:15.0f}", flush=True)
            self.start = time.process_time()


def resident() -> float:
    """Resident memory of this process, in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def run(root: str | None, epochs: int, checkpoint: Path | None = None) -> Trainer:
    """Train, or go on from a checkpoint for one epoch more."""
    seed_everything(0, verbose=False)
    task = MemoryTask(3, 10, train_size=256, val_size=256)
    model = RecurrentClassifier("gru", 1, task.num_classes, hidden_size=20)
    relay, knockouts = RelayInformationCallback(), KnockoutCallback(AlongOrder(n_random=1))
    trainer = Trainer(
        max_epochs=epochs,
        callbacks=[relay, knockouts, Watching(epochs, relay, knockouts)],
        logger=CSVLogger(root) if root else False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
    )
    trainer.fit(model, task, ckpt_path=checkpoint, weights_only=True)
    return trainer


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--epochs", type=int, default=300)
    parser.add_argument("--unsaved", action="store_true", help="no logger: all reports are kept")
    arguments = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", ".*(does not have many workers|LeafSpec|number of train).*")

    with tempfile.TemporaryDirectory() as root:
        print(" epoch  resident, MB   reports  CPU ms/epoch")
        trainer = run(None if arguments.unsaved else root, arguments.epochs)
        if arguments.unsaved:
            return
        checkpoint = Path(root, "last.ckpt")
        trainer.save_checkpoint(checkpoint)
        again = run(root, arguments.epochs + 1, checkpoint)
        start = time.perf_counter()
        found = load_reports(str(again.log_dir))
        print(f"resumed: {found} in {time.perf_counter() - start:.1f} s")


if __name__ == "__main__":
    main()
