"""What the relay callback's logging takes in an epoch: milliseconds and bytes.

    python benchmarks/logging_cost.py [--steps 100] [--units 128] [--classes 8] [--epochs 20]

A report of one layer and one concept, measured at default settings, goes to a TensorBoardLogger as
the callback sends it: scalars, pictures and tables. The saved report is counted apart. Prints the
median time of an epoch, the bytes by which TensorBoard's file grows, and those of tables and of
figures as W&B gets them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import torch
from lightning.pytorch.loggers import TensorBoardLogger

from lightning_relay import HiddenStates, RelayReport, relay_report
from lightning_relay.callbacks.loggers import shower_of
from lightning_relay.relay.faces import relay_faces
from lightning_relay.relay.scalars import relay_scalars
from lightning_relay.reports.figure import shown, to_json


def measured(steps: int, units: int, classes: int) -> RelayReport:
    """States of which some units hold the label and hand it on, as an RNN does."""
    generator = torch.Generator().manual_seed(0)
    label = torch.randint(classes, (1024,), generator=generator)
    values = 0.5 * torch.randn(1024, steps, units, generator=generator)
    bits = (label[:, None] >> torch.arange(3)) & 1
    for step in range(steps):
        holders = (torch.arange(12) + step // 4) % units
        values[:, step, holders] += bits.repeat(1, 4).float()
    states = {"rnn.l0": HiddenStates(values, torch.ones(1024, steps, dtype=torch.bool))}
    return relay_report(states, label, label, inputs_end=2)


def file_of(logger: TensorBoardLogger) -> Path:
    """TensorBoard's file."""
    (path,) = Path(logger.log_dir).glob("events.*")
    return path


def main() -> None:
    """Log a report in every epoch and print what that takes."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--units", type=int, default=128)
    parser.add_argument("--classes", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=20)
    arguments = parser.parse_args()
    report = measured(arguments.steps, arguments.units, arguments.classes)
    times: dict[str, list[float]] = {"scalars": [], "pictures and tables": [], "saved report": []}
    with tempfile.TemporaryDirectory() as folder:
        logger = TensorBoardLogger(folder, default_hp_metric=False)
        show = shower_of(logger)
        assert show is not None
        logger.experiment.flush()
        before = file_of(logger).stat().st_size
        for epoch in range(arguments.epochs):
            start = time.perf_counter()
            scalars = {f"relay/{name}": value for name, value in relay_scalars(report).items()}
            logger.log_metrics(scalars, epoch)
            logged = time.perf_counter()
            show({f"relay/{tag}": face for tag, face in relay_faces(report).items()}, epoch)
            logger.experiment.flush()
            sent = time.perf_counter()
            report.save(Path(folder, "report.npz"))
            saved = time.perf_counter()
            for name, took in zip(
                times, (logged - start, sent - logged, saved - sent), strict=True
            ):
                times[name].append(took)
        grown = (file_of(logger).stat().st_size - before) / arguments.epochs
        size = Path(folder, "report.npz").stat().st_size
    print(f"{arguments.steps} steps x {arguments.units} units, an epoch:")
    for name, own in times.items():
        print(f"{name:<22}{1e3 * statistics.median(own):8.1f} ms")
    print(f"{'TensorBoard file':<22}{grown / 1000:8.1f} kB")
    print(f"{'saved report':<22}{size / 1000:8.1f} kB")
    for tag, face in relay_faces(report).items():
        kind, text = "picture; interactive", face
        if isinstance(face, str):
            kind = "table"
        else:
            text = shown(json.loads(to_json(face))).to_json()
        print(f"  {tag}: {kind} {len(text) / 1000:.1f} kB")


if __name__ == "__main__":
    main()
