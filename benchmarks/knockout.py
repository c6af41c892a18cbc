"""What knock-outs cost: one forward pass, and all single-unit knock-outs of a layer.

1. A forward pass with a unit knocked out, relative to a plain one of the same fused module.
2. All single-unit knock-outs of a layer by KnockoutCallback, relative to as many plain validation
   passes (data loading, model, loss and metrics), and relative to the naive way: one validation
   pass for each unit, with a cell called in a loop and the unit set to zero after every step. The
   naive way is timed for a few units and multiplied.

Everything is measured in turn, in one process; printed are medians and ranges of the ratios.

    python benchmarks/knockout.py [--repeats 5] [--units 64] [--samples 2048] [--device cpu]
"""

from __future__ import annotations

import argparse
import logging
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_relay import EveryUnit, KnockoutCallback, knocked_out
from lightning_relay.tasks import Cell, RecurrentClassifier

CELLS: tuple[Cell, ...] = ("rnn", "gru", "lstm")
CHANNELS, CLASSES = 8, 8
NAIVE_UNITS = 2


class NaiveLoop(nn.Module):
    """A cell called once for every step, with one unit set to zero after each."""

    def __init__(self, rnn: nn.RNNBase, unit: int) -> None:
        super().__init__()
        kinds = {"RNN_TANH": nn.RNNCell, "GRU": nn.GRUCell, "LSTM": nn.LSTMCell}
        self.cell = kinds[rnn.mode](rnn.input_size, rnn.hidden_size)
        names = [name for name, _ in self.cell.named_parameters()]
        self.cell.load_state_dict({name: rnn.get_parameter(f"{name}_l0") for name in names})
        self.mask: Tensor
        self.register_buffer("mask", (torch.arange(rnn.hidden_size) != unit).float())

    def forward(self, x: Tensor) -> tuple[Tensor, Any]:
        """Output and final state, as of nn.RNN with ``batch_first=True``."""
        state: Any = None
        outputs = []
        for inputs in x.unbind(1):
            state = self.cell(inputs, state)
            if isinstance(state, tuple):
                state = (state[0] * self.mask, state[1])
            else:
                state = state * self.mask
            outputs.append(state[0] if isinstance(state, tuple) else state)
        final = state[0] if isinstance(state, tuple) else state
        return torch.stack(outputs, 1), final.unsqueeze(0)


class Clock(Callback):
    """Time between the start of the first batch and the end of the evaluation, all included."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start."""
        _wait(pl_module.device)
        self._start = time.perf_counter()

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop."""
        _wait(pl_module.device)
        self.seconds = time.perf_counter() - self._start


def validation_seconds(
    model: LightningModule, loader: DataLoader[Any], accelerator: str, *callbacks: Callback
) -> float:
    """Time of the validation loop."""
    clock = Clock()
    trainer = Trainer(
        accelerator=accelerator,
        devices=1,
        callbacks=[*callbacks, clock],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        inference_mode=True,
    )
    trainer.validate(model, loader, verbose=False)
    return clock.seconds


def seconds(run: Callable[[], Any], device: torch.device, calls: int = 5) -> float:
    """Time of one call, the least of several."""
    times = []
    for _ in range(calls):
        _wait(device)
        start = time.perf_counter()
        run()
        _wait(device)
        times.append(time.perf_counter() - start)
    return min(times)


def forward_ratios(cell: Cell, batch: int, arguments: argparse.Namespace) -> dict[str, list[float]]:
    """Knocked-out forward passes over plain ones, by what is held."""
    device = torch.device(arguments.device)
    module = {"rnn": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}[cell](
        CHANNELS, arguments.units, batch_first=True
    )
    module.to(device).eval()
    x = torch.randn(batch, arguments.steps, CHANNELS, device=device)
    half = slice(arguments.steps // 2, None)
    cases: dict[str, dict[str, Any]] = {"always": {}, "second half": {"steps": half}}
    ratios: dict[str, list[float]] = {name: [] for name in cases}
    with torch.inference_mode():
        module(x)
        for _ in range(arguments.repeats):
            for name, options in cases.items():
                plain = seconds(lambda: module(x), device)
                with knocked_out(module, {"l0": [3]}, **options):
                    ratios[name].append(seconds(lambda: module(x), device) / plain)
    return ratios


def pass_ratios(cell: Cell, batch: int, arguments: argparse.Namespace) -> dict[str, list[float]]:
    """All single-unit knock-outs over as many plain validation passes and naive ones."""
    units, device = arguments.units, torch.device(arguments.device)
    accelerator = "gpu" if device.type == "cuda" else "cpu"
    torch.manual_seed(0)
    model = RecurrentClassifier(cell, CHANNELS, CLASSES, hidden_size=units)
    samples = max(arguments.samples, 2 * batch)
    data = TensorDataset(
        torch.randn(samples, arguments.steps, CHANNELS), torch.randint(CLASSES, (samples,))
    )
    loader: DataLoader[Any] = DataLoader(data, batch)
    ratios: dict[str, list[float]] = {"plain": [], "naive": []}
    validation_seconds(model, loader, accelerator)
    for _ in range(arguments.repeats):
        plain = validation_seconds(model, loader, accelerator)
        callback = KnockoutCallback(EveryUnit(max_sets=None))
        ours = validation_seconds(model, loader, accelerator, callback) - plain
        assert len(callback.reports[0].sets) == units
        naive = []
        for unit in range(NAIVE_UNITS):
            masked = RecurrentClassifier(cell, CHANNELS, CLASSES, hidden_size=units)
            masked.load_state_dict(model.state_dict())
            masked.rnn = NaiveLoop(model.rnn.cpu(), unit)  # type: ignore[assignment]
            naive.append(validation_seconds(masked, loader, accelerator))
        ratios["plain"].append(ours / (units * plain))
        ratios["naive"].append(units * statistics.mean(naive) / ours)
    return ratios


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _words(ratios: list[float]) -> str:
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--units", type=int, default=64)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--samples", type=int, default=2048)
    parser.add_argument("--batches", type=int, nargs="+", default=[16, 64, 256, 1024])
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", ".*(does not have many workers|LeafSpec).*")

    size = f"{arguments.steps} steps, {CHANNELS} channels, {arguments.units} units"
    name = torch.cuda.get_device_name() if arguments.device != "cpu" else "CPU"
    print(f"{name}; {size}; median and range of {arguments.repeats}\n")
    print("One forward pass with a unit knocked out / plain")
    print("| cell | sequences | always | second half of the steps |")
    print("| :--- | ---: | ---: | ---: |")
    for cell in CELLS:
        for batch in arguments.batches:
            found = forward_ratios(cell, batch, arguments)
            words = " | ".join(_words(ratios) for ratios in found.values())
            print(f"| {cell} | {batch} | {words} |", flush=True)
    print(f"\nAll {arguments.units} single-unit knock-outs")
    print(f"| cell | batch | / {arguments.units} plain validation passes | naive way / ours |")
    print("| :--- | ---: | ---: | ---: |")
    for cell in CELLS:
        for batch in arguments.batches:
            found = pass_ratios(cell, batch, arguments)
            words = " | ".join(_words(ratios) for ratios in found.values())
            print(f"| {cell} | {batch} | {words} |", flush=True)


if __name__ == "__main__":
    main()
