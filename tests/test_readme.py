"""The README's code runs, and the links of the documentation lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import lightning.pytorch
import pytest
import torch
import yaml

import lightning_relay
from lightning_relay import KnockoutReport, RelayReport
from lightning_relay.tasks import MemoryTask, RecurrentClassifier

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_the_code_of_the_readme_runs_in_its_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class ShortTrainer(lightning.pytorch.Trainer):
        def __init__(self, **options: Any) -> None:
            super().__init__(
                max_epochs=5,
                default_root_dir=tmp_path,
                accelerator="cpu",
                enable_progress_bar=False,
                enable_model_summary=False,
                enable_checkpointing=False,
                **options,
            )

    monkeypatch.setattr(lightning.pytorch, "Trainer", ShortTrainer)
    task = MemoryTask(bits=2, delay=2, train_size=64, val_size=64, test_size=64)
    names: dict[str, Any] = {
        "model": RecurrentClassifier("gru", task.input_size, task.num_classes, hidden_size=6),
        "datamodule": task,
        "batch": torch.zeros(4, task.steps, task.input_size),
    }
    blocks = re.findall(r"^```python\n(.*?)^```$", (ROOT / "README.md").read_text(), re.M | re.S)
    assert len(blocks) >= 2
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)
    assert isinstance(names["report"], RelayReport)
    assert names["scores"].shape == (4, task.num_classes)
    saved = [path.parent.name for path in tmp_path.rglob("*.npz")]
    assert saved.count("relay_reports") >= 5
    assert saved.count("knockout_reports") == 1
    assert KnockoutReport.load(next(tmp_path.rglob("knockout_reports/*.npz"))).sets


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_and_headings(page: Path) -> None:
    text = page.read_text()
    links = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'src="([^"]+)"', text)
    for link in links:
        if link.startswith("http"):
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), f"{page.name}: {link}"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", target.read_text(), re.M)
            slugs = {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}
            assert anchor in slugs, f"{page.name}: {link}"


def test_the_citation_is_of_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == lightning_relay.__version__
