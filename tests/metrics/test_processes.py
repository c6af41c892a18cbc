"""Metrics in two processes have, bit for bit, the values of one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from tests.support.metric_processes import (
    DEALS,
    LABELS,
    SAMPLES,
    STEPS,
    VALID,
    dealt,
    measured,
    run,
)

if TYPE_CHECKING:
    from pathlib import Path


def test_two_processes_are_one(tmp_path: Path) -> None:
    alone = measured(0, 1)
    together = run(2, tmp_path)
    for how in DEALS:
        for rank, found in enumerate(together):
            for name in ("all", "two", "share", "called"):
                assert torch.equal(found[how][name], alone[how][name]), (how, name)
                assert torch.equal(found[how][name], alone[DEALS[0]][name])
            mine = dealt(how, rank, 2)
            counted = VALID[mine] & (LABELS[mine] != -100).unsqueeze(1)
            assert found[how]["rows of this process"] == counted.sum()
    assert alone[DEALS[0]]["share"].shape == (STEPS, 5)
    assert alone[DEALS[0]]["all"].min() > 0.1
    assert 0 < alone[DEALS[0]]["rows of this process"] < SAMPLES * STEPS
    for found in together:
        assert torch.equal(found["synchronised batch"], alone["synchronised batch"])
