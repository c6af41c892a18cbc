"""Time of the relay analysis by number of processes, and bytes that they tell each other.

Run ``python benchmarks/distributed.py``. Every number of processes analyses the same sequences,
each process beginning with its part. Times are those of the slowest process, in seconds.
"""

from __future__ import annotations

import argparse
import os
import pickle
import socket
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import distributed, multiprocessing

from lightning_relay import HiddenStates, RelayMeasure, SequenceSample
from lightning_relay.relay.analysis import shared_report
from lightning_relay.sampling import SequenceBuffer
from lightning_relay.sampling.processes import Processes

STEPS = 20


@dataclass(frozen=True)
class Counting(Processes):
    """Processes that count the bytes of what they tell."""

    def gather(self, value: Any) -> list[Any]:
        """The values of all processes."""
        COUNTED.append(len(pickle.dumps(value)))
        return super().gather(value)


COUNTED: list[int] = []


MEASURES = {
    "default": RelayMeasure(),
    "with intervals and chance levels": RelayMeasure(n_bootstraps=40, n_permutations=99),
}


def timed(
    rank: int, size: int, samples: int, units: int, measure: RelayMeasure, results: Any
) -> None:
    """Analyse in one of the processes; the second of two runs is timed."""
    torch.set_num_threads(1)
    if size > 1:
        distributed.init_process_group("gloo", rank=rank, world_size=size)
    running = Processes.running()
    processes = Counting(running.rank, running.size, running.group)
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(8, (samples,), generator=generator)
    states = torch.randn(samples, STEPS, units, generator=generator)
    states[:, :, :3] += 2 * ((labels[:, None] >> torch.arange(3)) & 1).unsqueeze(1)
    own = torch.arange(rank, samples, size)
    seconds = 0.0
    for _ in range(2):
        COUNTED.clear()
        buffer = SequenceBuffer(SequenceSample(max_samples=samples, fit_samples=samples))
        valid = torch.ones(len(own), STEPS, dtype=torch.bool)
        part = {"rnn.l0": HiddenStates(states[own], valid)}
        buffer.add(part, labels[own], labels[own], positions=own)
        processes.gather(None)
        begun = time.perf_counter()
        pool = buffer.pooled(processes)
        shared_report(
            processes,
            pool.states,
            pool.x_in,
            pool.x_out,
            concepts=None,
            num_classes=8,
            num_labels=None,
            measure=measure,
            inputs_end=None,
            samples_seen=None,
            latent=None,
        )
        seconds = time.perf_counter() - begun
    results.put((size, seconds, sum(COUNTED)))
    if size > 1:
        distributed.destroy_process_group()


def free_port() -> str:
    """A port that nobody listens on."""
    with socket.socket() as own:
        own.bind(("127.0.0.1", 0))
        return str(own.getsockname()[1])


def main() -> None:
    """Print a row for each number of processes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--samples", type=int, default=4096)
    parser.add_argument("--units", type=int, default=64)
    options = parser.parse_args()
    print("| measured | processes | seconds | times as fast | MB told by a process |")
    print("| --- | ---: | ---: | ---: | ---: |")
    spawn: Any = multiprocessing.spawn  # type: ignore[attr-defined]
    for name, measure in MEASURES.items():
        first = None
        for size in options.processes:
            os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
            results: Any = multiprocessing.get_context("spawn").Queue()
            spawn(timed, (size, options.samples, options.units, measure, results), nprocs=size)
            found = [results.get() for _ in range(size)]
            seconds, told = max(own[1] for own in found), max(own[2] for own in found)
            first = first or seconds
            times = first / seconds
            print(f"| {name} | {size} | {seconds:.2f} | {times:.2f} | {told / 1e6:.1f} |")


if __name__ == "__main__":
    main()
