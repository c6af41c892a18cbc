"""Edges of bins, and the bins of real numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from lightning_relay.reading.bins import bin_edges, binned, bins_in_words, check_bins


def test_a_number_of_bins_divides_at_quantiles() -> None:
    values = torch.randn(1000, generator=torch.Generator().manual_seed(0)).double()
    values[::50] = torch.nan
    edges = bin_edges(4, values)
    counted = values[~values.isnan()]
    np.testing.assert_array_equal(edges, np.quantile(counted.numpy(), [0.25, 0.5, 0.75]))
    numbers = binned(values, edges)
    assert torch.equal(numbers == -100, values.isnan())
    assert torch.bincount(numbers[numbers >= 0]).tolist() == [245] * 4


def test_a_bin_reaches_up_to_and_including_its_edge() -> None:
    values = torch.tensor([-2.0, -1.0, -0.5, 0.0, 1.0, 9.0])
    assert bin_edges([-1, 0.0, 1], values) == (-1.0, 0.0, 1.0)
    assert binned(values, (-1.0, 0.0, 1.0)).tolist() == [0, 0, 1, 1, 2, 3]
    assert bin_edges(("up/down", 2), values) == (0.0,)
    assert binned(values, (0.0,)).tolist() == [0, 0, 0, 0, 1, 1]
    assert binned(torch.tensor([3, 1]), None).tolist() == [3, 1]


def test_equal_quantiles_are_one_edge() -> None:
    values = torch.tensor([0.0] * 6 + [1.0, 2.0])
    assert bin_edges(4, values) == (0.0, 0.25)
    assert bin_edges(2, values) == (0.0,)
    with pytest.raises(
        ValueError, match=r"^bins: got 2, but the quantiles of the 8 labels leave one"
    ):
        bin_edges(2, -values)


def test_bins_are_named_in_reports() -> None:
    assert bins_in_words(4) == "in up to 4 bins"
    assert bins_in_words([0.5]) == "in 2 bins"
    assert bins_in_words(("up/down", "now")) == "up or down from 'now'"
    assert bins_in_words(("up/down", np.mean)) == "up or down from mean"


@pytest.mark.parametrize("bins", [None, 2, [0.5], (0, 1), np.array([0.5, 1]), ("up/down", 1)])
def test_legal_bins(bins: Any) -> None:
    check_bins(bins)


@pytest.mark.parametrize(
    ("bins", "error", "words"),
    [
        (1, ValueError, "got 1; it takes at least 2 bins"),
        ("up/down", ValueError, "got 'up/down' alone; say what a value is compared with"),
        (True, TypeError, "got True; it takes a number of bins, a list of inner edges, or"),
        ([], TypeError, r"got \[\]; it takes a number of bins"),
        ("many", TypeError, "got 'many'; it takes a number of bins"),
        (["a"], TypeError, "it takes a number of bins"),
        (("up/down", 1.5), TypeError, "it takes a number of bins"),
        ([1, 0], ValueError, r"got the edges \[1, 0\]; it takes finite numbers that increase"),
        ([0, 0], ValueError, "it takes finite numbers that increase"),
        ([0, float("inf")], ValueError, "it takes finite numbers that increase"),
    ],
)
def test_illegal_bins(bins: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=f"^bins: .*{words}"):
        check_bins(bins)
