"""Without Lightning: what hidden and cell states of both layers of an LSTM relay, step by step.

Trains a two-layer LSTM in a loop of its own to hold three bits through ten steps without input,
records all its layers and cell states in one forward pass, and prints what they relay. The report
and a picture of each layer are saved.

    python examples/plain_pytorch.py [--epochs 30] [--seed 0] [--directory runs/plain_pytorch]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor, nn

from lightning_relay import (
    HiddenStateRecorder,
    RelayReport,
    recurrent_layers,
    relay_report,
)

BITS, DELAY, UNITS = 3, 10, 16


class Memory(nn.Module):
    """Two LSTM layers and a read-out of the last step."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(1, UNITS, num_layers=2, batch_first=True)
        self.readout = nn.Linear(UNITS, 2**BITS)

    def forward(self, inputs: Tensor) -> Tensor:
        """Class scores ``(batch, classes)``."""
        output, _ = self.lstm(inputs)
        scores: Tensor = self.readout(output[:, -1])
        return scores


def patterns(size: int) -> tuple[Tensor, Tensor]:
    """Sequences ``(batch, step, 1)`` that begin with three bits, and the bits as labels."""
    labels = torch.randint(2**BITS, (size,))
    bits = (labels[:, None] >> torch.arange(BITS)) & 1
    inputs = torch.zeros(size, BITS + DELAY, 1)
    inputs[:, :BITS, 0] = 2.0 * bits - 1.0
    return inputs + 0.1 * torch.randn_like(inputs), labels


def train(model: nn.Module, epochs: int) -> None:
    """A plain training loop."""
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(epochs):
        for _ in range(32):
            inputs, labels = patterns(128)
            loss = nn.functional.cross_entropy(model(inputs), labels)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()


def analysed(model: nn.Module) -> RelayReport:
    """Relay report of all layers and states, from one forward pass on new sequences."""
    inputs, labels = patterns(1024)
    model.eval()
    with (
        torch.no_grad(),
        HiddenStateRecorder(model, layers="all", states=("hidden", "cell")) as recorder,
    ):
        predicted = model(inputs).argmax(1)
    print(f"accuracy {float((predicted == labels).float().mean()):.3f}")
    return relay_report(
        recorder.states,
        labels,
        predicted,
        inputs_end=BITS - 1,
    )


def main() -> None:
    """Train, analyse, print, save."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--directory", type=Path, default=Path("runs/plain_pytorch"))
    arguments = parser.parse_args()

    torch.manual_seed(arguments.seed)
    model = Memory()
    units = recurrent_layers(model)
    train(model, arguments.epochs)
    report = analysed(model)

    print(f"\n{report}")
    steps = next(iter(report.layers.values())).time_steps
    print("\nRelay information of all units, bits, at every step (* input still to come)")
    print("The upper layer is read out; the lower need not hold everything to the end.")
    marked = "".join(f"{step}{'*' if step < BITS - 1 else ''}".rjust(6) for step in steps)
    print(f"layer         units{marked}  largest shares at the last step")
    for key, layer in report.layers.items():
        relay = layer["joint"]
        values = "".join(f"{bits:6.2f}" for bits in relay.information[:, 0])
        print(f"{key:<14}{units[key]:5}{values}  {relay.top_units(4)}")

    arguments.directory.mkdir(parents=True, exist_ok=True)
    report.save(arguments.directory / "report.npz")
    for key in report.layers:
        report.picture("relay_share", key).save(arguments.directory / f"{key}.png")
    print(f"\nReport and pictures: {arguments.directory}")


if __name__ == "__main__":
    main()
