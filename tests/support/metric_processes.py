"""Metrics in several processes, joined by gloo: ``measured`` says what each of them computes."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, multiprocessing
from torch import distributed as processes
from torchmetrics import Metric, MetricCollection

from lightning_relay.metrics import RelayInformation, RelayShare

if TYPE_CHECKING:
    from pathlib import Path

SAMPLES, STEPS, UNITS, BATCH = 300, 3, 5, 16
GENERATOR = torch.Generator().manual_seed(0)
X_IN = torch.randint(4, (SAMPLES,), generator=GENERATOR)
X_OUT = torch.where(torch.rand(SAMPLES, generator=GENERATOR) < 0.2, 0, X_IN)
HIDDEN = (X_IN.view(-1, 1, 1) >> torch.arange(UNITS) % 2 & 1).expand(-1, STEPS, -1)
HIDDEN = torch.where(torch.rand(SAMPLES, STEPS, UNITS, generator=GENERATOR) < 0.3, 0, HIDDEN)
VALID = torch.rand(SAMPLES, STEPS, generator=GENERATOR) < 0.9
LABELS = X_IN.masked_fill(torch.rand(SAMPLES, generator=GENERATOR) < 0.1, -100)

DEALS = ["in turn", "uneven", "all to the first"]


def dealt(how: str, rank: int, size: int) -> Tensor:
    """Indices of the samples that a process gets."""
    everything = torch.arange(SAMPLES)
    if how == "in turn":
        return everything[rank::size]
    first = SAMPLES if size == 1 or how == "all to the first" else SAMPLES - 7
    return everything[first:] if rank else everything[:first]


def metrics() -> MetricCollection:
    return MetricCollection(
        {"all": RelayInformation(), "two": RelayInformation([0, 3]), "share": RelayShare(8)}
    )


def measured(rank: int, size: int) -> dict[str, Any]:
    """Values of each way to deal the samples out, and of each metric."""
    found: dict[str, Any] = {}
    for how in DEALS:
        collection, called = metrics(), RelayInformation()
        for part in dealt(how, rank, size).split(BATCH):
            if len(part):  # splitting no samples gives one batch of none
                batch = LABELS[part], X_OUT[part], HIDDEN[part], VALID[part]
                collection.update(*batch)
                called(*batch)
        found[how] = {
            **{name: metric.compute() for name, metric in collection.items()},
            "called": called.compute(),
            "rows of this process": sum(int(rows[:, -1:].sum()) for rows in called.rows),
        }
    each: Metric = RelayInformation(dist_sync_on_step=True)
    part = dealt("in turn", rank, size)[: BATCH // size]
    found["synchronised batch"] = each(LABELS[part], X_OUT[part], HIDDEN[part], VALID[part])
    return found


def run(size: int, folder: Path) -> list[dict[str, Any]]:
    """What each of several new processes computes."""
    multiprocessing.spawn(_run_one, (size, folder), nprocs=size)
    return [torch.load(folder / f"{rank}.pt") for rank in range(size)]


def _run_one(rank: int, size: int, folder: Path) -> None:
    torch.set_num_threads(1)
    processes.init_process_group(
        "gloo",
        init_method=f"file://{folder}/together",
        rank=rank,
        world_size=size,
        timeout=timedelta(seconds=120),
    )
    torch.save(measured(rank, size), folder / f"{rank}.pt")
    processes.destroy_process_group()
