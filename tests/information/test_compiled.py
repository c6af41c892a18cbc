"""Compiled loops: in threads, in forked and spawned processes, and kept on disk."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from lightning_relay.information import relay_order
from lightning_relay.information.compiled import in_threads


def order_of(seed: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(4, (200,), generator=generator)
    hidden = torch.randint(2, (3, 200, 6), generator=generator)
    return relay_order(label, label, hidden).units.tolist()


def test_items_keep_their_order_and_errors_come_through() -> None:
    assert in_threads(lambda item: item * item, range(20)) == [item * item for item in range(20)]
    assert in_threads(str, []) == []
    with pytest.raises(ZeroDivisionError):
        in_threads(lambda item: 1 // item, [1, 0, 2])


def test_several_threads_use_the_loops_at_once() -> None:
    expected = [order_of(seed) for seed in range(8)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(order_of, range(8))) == expected


def check_other_processes(start: str) -> None:
    """Use the loops here and then in processes that this one starts."""
    expected = [order_of(seed) for seed in range(3)]
    with multiprocessing.get_context(start).Pool(2) as pool:
        assert pool.map_async(order_of, range(3)).get(timeout=100) == expected


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_other_processes_use_the_loops_after_a_first_use(start: str) -> None:
    """In a process of its own: whatever threads other tests have left must not be forked."""
    if start not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this system does not {start} processes")
    code = f"from {__name__} import check_other_processes; check_other_processes({start!r})"
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", code], cwd=root, check=True, timeout=200)


def test_compilation_is_announced_once_and_kept_where_the_user_says(tmp_path: Path) -> None:
    """Also where the package's own folder cannot be written to."""
    code = (
        "import torch; from lightning_relay.information import entropy\n"
        "for _ in range(2): entropy(torch.tensor([[0], [1]]))"
    )
    said = [
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env={"NUMBA_CACHE_DIR": str(tmp_path), "PATH": ""},
        ).stderr.count("compiling its counting loops, once on this machine")
        for _ in range(2)
    ]
    assert said == [1, 0]


def test_loops_stay_within_their_arrays(tmp_path: Path) -> None:
    """Compiled loops do not look whether an index is in an array, unless numba is told to."""
    code = """
import torch
from lightning_relay.information import *
from lightning_relay.information.each import given_each_unit
generator = torch.Generator().manual_seed(0)
for samples, units, levels in ((1, 1, 2), (40, 9, 2), (40, 4, 3), (30, 3, 12), (400, 5, 2)):
    label = torch.randint(4, (samples,), generator=generator)
    answer = torch.randint(3, (samples,), generator=generator)
    hidden = torch.randint(levels, (2, samples, units), generator=generator)
    weights = torch.randint(1, 300, (samples,), generator=generator)
    for direction in ("shrink", "grow"):
        relay_order(label, answer, hidden, direction=direction, weights=weights)
    relay_order(label, answer, hidden, estimator="chao_shen")
    given_each_unit(label, answer, hidden)
    relay_share(label, answer, hidden, n_orders=8, weights=weights)
    relay_transfer(label, label, hidden, n_splits=4)
    relay_information_of_all_subsets(label, answer, hidden, weights=weights, progress=False)
    if samples > 1:
        chance_level(label, answer, hidden, n_permutations=20)
print("done")
"""
    found = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={
            "NUMBA_CACHE_DIR": str(tmp_path),
            "NUMBA_BOUNDSCHECK": "1",
            "NUMBA_OPT": "0",
            "PATH": "",
        },
    )
    assert found.stdout == "done\n", found.stderr
