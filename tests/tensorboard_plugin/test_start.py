"""TensorBoard itself starts with the plugin, lists its tab and passes requests on to it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from urllib.request import urlopen

from tests.support.browser import tensorboard, until, with_either_loader
from tests.support.reports import small_report

if TYPE_CHECKING:
    from pathlib import Path


@with_either_loader
def test_tensorboard_starts_with_the_tab(load_fast: str, tmp_path: Path) -> None:
    logdir = tmp_path / "logs"
    directory = logdir / "run" / "relay_reports"
    directory.mkdir(parents=True)
    small_report().save(directory / "relay-validate-epoch=0-step=1.npz")
    log = tmp_path / "log.txt"

    def get(route: str) -> Any:
        with urlopen(f"{address}/data/{route}") as answer:
            return json.load(answer)

    with tensorboard(logdir, log, load_fast=load_fast) as address:
        (run,) = until(lambda: get("plugin/lightning_relay/runs")["runs"], "no run")
        listed = get("plugins_listing")["lightning_relay"]
    assert (listed["tab_name"], listed["enabled"]) == ("Relays", True)
    assert run["run"] == "run"
    assert "Traceback" not in log.read_text()
