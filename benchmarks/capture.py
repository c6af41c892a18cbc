"""What capture costs: memory for a long stream of sequences, and time added to a forward pass.

    python benchmarks/capture.py [--device cuda] [--pairs 15]

Memory: a synthetic stream of 100,000 sequences × 100 steps × 256 units is given to a
``SequenceBuffer`` that keeps all of them as codes; printed are the estimate that the buffer makes
beforehand and the growth of the process's largest resident memory. Time: the forward pass of nn.GRU
with and without a recorder, in turn, and the time that replays of inner layers and cell states take
when they are read, as ratios to the plain forward pass of the same module.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time
from collections.abc import Callable, Sequence

import torch
from torch import nn

from lightning_relay import HiddenStateRecorder, HiddenStates, SequenceSample
from lightning_relay.recurrent.layers import Layers, State
from lightning_relay.sampling import SequenceBuffer

SEQUENCES, STEPS, UNITS, BATCH = 100_000, 100, 256, 256


def stream_memory(sequences: int) -> None:
    """Print the memory that a buffer takes for a stream of sequences."""
    batch = torch.ones(BATCH, STEPS, UNITS)
    streamed(2 * BATCH, batch[:, :5, :8].clone())  # what the process needs once is loaded
    before = peak_bytes()
    buffer, share = streamed(sequences, batch)
    grown = peak_bytes() - before
    kept = buffer.states["rnn.l0"]
    print(
        f"{len(kept):,} sequences × {STEPS} steps × {UNITS} units: estimated "
        f"{buffer.bytes_needed / 1e6:.0f} MB, process grew by {grown / 1e6:.0f} MB; as float32 it "
        f"would be {sequences * STEPS * UNITS * 4 / 1e6:,.0f} MB; agreement of thresholds "
        f"{kept.agreement():.2f}, expected {kept.expected_agreement:.2f}; {share:.0%} of the time "
        "in the buffer, the rest in making noise"
    )


def streamed(sequences: int, values: torch.Tensor) -> tuple[SequenceBuffer, float]:
    """A buffer that was given a stream of noise, made in ``values``, and its share of the time."""
    buffer = SequenceBuffer(SequenceSample(max_samples=sequences, fit_samples=BATCH))
    generator = torch.Generator().manual_seed(0)
    valid = torch.ones(values.shape[:2], dtype=torch.bool)
    labels = torch.zeros(BATCH, dtype=torch.int64)
    start = time.perf_counter()
    added = 0.0
    for first in range(0, sequences, BATCH):
        size = min(BATCH, sequences - first)
        values.normal_(generator=generator)
        begin = time.perf_counter()
        states = HiddenStates(values[:size], valid[:size])
        buffer.add({"rnn.l0": states}, labels[:size], labels[:size], expected=sequences)
        added += time.perf_counter() - begin
    return buffer, added / (time.perf_counter() - start)


def peak_bytes() -> int:
    """Largest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def forward_times(
    module: nn.Module,
    inputs: torch.Tensor,
    pairs: int,
    layers: Layers = "last",
    states: Sequence[State] = ("hidden",),
) -> tuple[list[float], list[float]]:
    """Ratios to the plain forward pass: with a recorder, and reading the states afterwards."""
    recorder = HiddenStateRecorder(module, layers=layers, states=states)
    recording, reading = [], []
    for _ in range(pairs + 1):
        plain = seconds(lambda: module(inputs), inputs.device)
        with recorder:
            recorded = seconds(lambda: module(inputs), inputs.device)
        read = seconds(lambda: recorder.states, inputs.device)
        recorder.clear()
        recording.append(recorded / plain)
        reading.append(read / plain)
    return recording[1:], reading[1:]  # the first pair warms up


def seconds(action: Callable[[], object], device: torch.device) -> float:
    """Time of an action, finished on its device."""
    start = time.perf_counter()
    action()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def main() -> None:
    """Print both."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--sequences", type=int, default=SEQUENCES)
    arguments = parser.parse_args()

    stream_memory(arguments.sequences)

    device = torch.device(arguments.device)
    name = torch.cuda.get_device_name() if device.type == "cuda" else "the CPU"
    inputs = torch.randn(BATCH, STEPS, UNITS, device=device)
    cases: list[tuple[str, nn.Module, Layers, Sequence[State]]] = [
        ("GRU, last layer", nn.GRU(UNITS, UNITS, batch_first=True), "last", ("hidden",)),
        ("GRU of 2, all layers", nn.GRU(UNITS, UNITS, 2, batch_first=True), "all", ("hidden",)),
        ("LSTM, cell states", nn.LSTM(UNITS, UNITS, batch_first=True), "last", ("hidden", "cell")),
    ]
    print(f"\n{BATCH} sequences × {STEPS} steps, {UNITS} channels and units, on {name}")
    print("                        recorded / plain            reading the states / plain")
    for name, module, layers, states in cases:
        with torch.no_grad():
            ratios = forward_times(
                module.to(device).eval(), inputs, arguments.pairs, layers, states
            )
        print(f"{name:22}" + "".join(f"  {summary(ratio):>26}" for ratio in ratios))


def summary(ratios: Sequence[float]) -> str:
    """Median and range."""
    return f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"


if __name__ == "__main__":
    main()
