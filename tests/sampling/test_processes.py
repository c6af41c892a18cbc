"""Which samples a process has, and work that processes share."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from lightning_relay.sampling.processes import OtherProcessError, Positions, Processes

DATA = TensorDataset(torch.arange(11))


def loader_of(rank: int, size: int, **options: Any) -> DataLoader[Any]:
    sampler: Any = DistributedSampler(DATA, num_replicas=size, rank=rank, **options)
    return DataLoader(DATA, 2, sampler=sampler)


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("drop_last", [False, True])
def test_positions_are_those_of_a_single_process(size: int, drop_last: bool) -> None:
    seen = []
    for rank in range(size):
        loader = loader_of(rank, size, shuffle=False, drop_last=drop_last)
        positions = Positions(loader, Processes(rank, size))
        assert positions.known
        for (samples,) in loader:
            places, counted = positions.of_batch(len(samples))
            assert places[counted].tolist() == samples[counted].tolist()
            seen += places[counted].tolist()
    expected = 11 // size * size if drop_last else 11
    assert sorted(seen) == list(range(expected))


def test_each_sample_of_a_shuffled_set_counts_once() -> None:
    seen = []
    for rank in range(3):
        loader = loader_of(rank, 3, shuffle=True, seed=4)
        positions = Positions(loader, Processes(rank, 3))
        for (samples,) in loader:
            seen += samples[positions.of_batch(len(samples))[1]].tolist()
    assert sorted(seen) == list(range(11))


def test_without_a_sampler_that_deals_out_all_count() -> None:
    alone = Positions(DataLoader(DATA, 4), Processes())
    assert alone.known
    assert [alone.of_batch(4)[0].tolist() for _ in range(2)] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    one_of_two = Positions(object(), Processes(1, 2))
    assert not one_of_two.known
    places, counted = one_of_two.of_batch(3)
    assert (places.tolist(), counted.all()) == ([1, 3, 5], True)


def test_a_single_process_shares_with_nobody() -> None:
    processes = Processes.running()
    assert (processes.rank, processes.size, processes.gather(5)) == (0, 1, [5])
    assert processes.share([lambda: 1, lambda: 2]) == [1, 2]
    with pytest.raises(KeyError, match="own"):
        processes.share([lambda: {}["own"]])
    processes.check(None)


def test_what_failed_elsewhere_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Processes, "gather", lambda _, own: [own, "ValueError: too few", None])
    with pytest.raises(OtherProcessError, match=r"^process 1: ValueError: too few$"):
        Processes(0, 3).check(None)
    with pytest.raises(TypeError, match="mine"):
        Processes(0, 3).check(TypeError("mine"))
