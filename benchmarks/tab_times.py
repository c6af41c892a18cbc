"""How long the Relays tab takes: in headless Chromium, of a large layer over many epochs.

    python benchmarks/tab_times.py [--steps 100] [--units 1024] [--epochs 48]

It takes the extra dev, chromium and chromedriver, as the tests of the tab do. Prints the time from
opening the tab to the first figures, from choosing an epoch to its figures (beside the one that is
shown, and far away; medians), to the whole history; and the time in which 20 runs of 1,000 epochs
are listed.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from werkzeug.test import Client

from lightning_relay import HiddenStates, RelayReport, relay_report
from lightning_relay.tensorboard_plugin.plugin import RelaysPlugin
from tests.support.browser import Tab, opened_browser, tensorboard, until

CHOOSE = """
const [place, done] = arguments, slider = document.getElementById("epoch");
const start = performance.now();
slider.value = place;
slider.dispatchEvent(new Event("input"));
const wait = () => document.body.dataset.state === "ready"
  ? requestAnimationFrame(() => done(performance.now() - start))
  : setTimeout(wait, 2);
wait();
"""


class Context:
    """What TensorBoard tells a plugin."""

    def __init__(self, logdir: Path) -> None:
        self.logdir = str(logdir)


def measured(steps: int, units: int) -> RelayReport:
    """A report of noisy states of which some units hold three bits."""
    generator = torch.Generator().manual_seed(0)
    label = torch.randint(8, (256,), generator=generator)
    values = 0.5 * torch.randn(256, steps, units, generator=generator)
    values[:, :, :3] += ((label[:, None] >> torch.arange(3)) & 1)[:, None].float()
    states = {"rnn.l0": HiddenStates(values, torch.ones(256, steps, dtype=torch.bool))}
    return relay_report(states, label, label, inputs_end=2)


def saved(report: RelayReport, directory: Path, epochs: int) -> None:
    """The report with other shares in each epoch, as a callback saves it."""
    directory.mkdir(parents=True)
    layer = report["rnn.l0"]
    relay = layer["joint"]
    assert relay.share is not None
    random = np.random.default_rng(0)
    for epoch in range(epochs):
        share = relay.share * random.uniform(0.5, 1.5, relay.share.shape)
        own = dataclasses.replace(relay, share=share)
        changed = dataclasses.replace(layer, concepts={"joint": own})
        dataclasses.replace(
            report, layers={"rnn.l0": changed}, stage="validate", epoch=epoch, global_step=epoch
        ).save(directory / f"relay-validate-epoch={epoch}-step={epoch}.npz")


def in_browser(logdir: Path, epochs: int) -> dict[str, float]:
    """Milliseconds in the tab."""
    with (
        tensorboard(logdir, logdir / "log.txt") as address,
        opened_browser() as found,
    ):
        tab: Tab = found
        start = time.perf_counter()
        tab.open(address, whole=True)
        times = {"first figures": 1e3 * (time.perf_counter() - start)}
        tab.run("return new Promise((done) => setTimeout(done, 3000))")

        def choose(place: int) -> float:
            taken = tab.browser.execute_async_script(CHOOSE, place)
            tab.run("return new Promise((done) => setTimeout(done, 1000))")
            return float(taken)

        # The tab reads 8 epochs on each side of the one that is shown.
        beside = [choose(place) for place in range(epochs - 2, epochs - 8, -1)]
        times["an epoch beside"] = statistics.median(beside)
        far = [choose(place) for place in range(epochs - 18, -1, -10)]
        times["an epoch far away"] = statistics.median(far)
        start = time.perf_counter()
        tab.run("document.querySelector('[data-figure=history]').scrollIntoView()")
        note = "return document.querySelector('[data-figure=history] .note')"
        drawn = "return !!document.querySelector('[data-figure=history] .figure')._fullData"
        until(lambda: tab.run(drawn) and tab.run(f"{note}.hidden"), "no history")
        times["the whole history"] = 1e3 * (time.perf_counter() - start)
    return times


def listed(logdir: Path) -> tuple[float, float]:
    """Milliseconds in which many reports are listed, at first and again."""
    plugin = RelaysPlugin(Context(logdir))
    client = Client(plugin.get_plugin_apps()["/runs"])
    start = time.perf_counter()
    found = json.loads(client.get("/runs").data)
    while not found["complete"]:
        found = json.loads(client.get("/runs").data)
    listed = time.perf_counter()
    client.get("/runs", query_string={"known": found["number"]})
    return 1e3 * (listed - start), 1e3 * (time.perf_counter() - listed)


def main() -> None:
    """Save reports, look at them and print how long that took."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--units", type=int, default=1024)
    parser.add_argument("--epochs", type=int, default=48)
    arguments = parser.parse_args()
    report = measured(arguments.steps, arguments.units)
    with tempfile.TemporaryDirectory() as folder:
        logdir = Path(folder)
        saved(report, logdir / "run" / "relay_reports", arguments.epochs)
        (path, *_) = (logdir / "run" / "relay_reports").iterdir()
        size = path.stat().st_size / 1e6
        print(
            f"{arguments.steps} steps x {arguments.units} units, {arguments.epochs} epochs of "
            f"{size:.1f} MB"
        )
        for name, taken in in_browser(logdir, arguments.epochs).items():
            print(f"{name:<22}{taken:8.0f} ms")
    with tempfile.TemporaryDirectory() as folder:
        for run in range(20):
            directory = Path(folder, f"run_{run}", "relay_reports")
            directory.mkdir(parents=True)
            for epoch in range(1000):
                (directory / f"relay-validate-epoch={epoch}-step={epoch}.npz").touch()
            os.utime(directory, (1e9, 1e9))
        first, again = listed(Path(folder))
    print(f"20 runs of 1,000 epochs are listed in {first:.0f} ms, and checked in {again:.0f} ms")


if __name__ == "__main__":
    main()
