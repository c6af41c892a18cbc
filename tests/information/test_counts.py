import pytest
import torch
from hypothesis import given

from lightning_relay.information.counts import Groups, count_rows
from tests.information.strategies import Data, discrete_data


def partition(groups: Groups) -> list[list[int]]:
    """Rows of each group."""
    return [
        (groups.of_row == group).nonzero().flatten().tolist() for group in range(len(groups.index))
    ]


@given(discrete_data())
def test_rows_are_the_different_samples_and_how_often_each_is(data: Data) -> None:
    columns = torch.stack([data.x_in, data.x_out, *data.hidden.unbind(1)], dim=1)
    rows = count_rows(columns.unbind(1))
    different, counts = torch.unique(columns - columns.amin(0), dim=0, return_counts=True)
    order = sorted(range(len(rows.codes)), key=lambda row: rows.codes[row].tolist())
    assert rows.codes[order].tolist() == different.tolist()
    assert rows.multiplicity[order].tolist() == counts.tolist()
    assert rows.samples.tolist() == [len(columns)]


def test_a_split_separates_what_differs_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Groups(torch.tensor([0, 0, 0, 1, 1]), torch.tensor([5, 7]))
    codes = torch.tensor([1, 0, 1, 1, 1])
    split = whole.split(codes, 2)
    assert partition(split) == [[1], [0, 2], [3, 4]]
    assert split.index.tolist() == [5, 5, 7]
    assert split.sums(torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])).tolist() == [2.0, 4.0, 9.0]
    monkeypatch.setattr("lightning_relay.information.counts._TABLE_FACTOR", -(10**9))
    by_sorting = whole.split(codes, 2)
    assert torch.equal(by_sorting.of_row, split.of_row)
    assert torch.equal(by_sorting.index, split.index)


def test_selected_rows_keep_their_groups_numbered_without_gaps() -> None:
    groups = Groups(torch.tensor([0, 1, 2, 1]), torch.tensor([3, 4, 4]))
    some = groups.select(torch.tensor([False, True, True, True]))
    assert some.of_row.tolist() == [0, 1, 0]
    assert some.index.tolist() == [4, 4]
    none = groups.select(torch.zeros(4, dtype=torch.bool))
    assert none.index.tolist() == none.of_row.tolist() == []


def test_repeated_groups_have_leading_indices_of_their_own() -> None:
    groups = Groups(torch.tensor([0, 1, 0]), torch.tensor([0, 1]))
    twice = groups.repeat(2, indices=2)
    assert twice.of_row.tolist() == [0, 1, 0, 2, 3, 2]
    assert twice.index.tolist() == [0, 1, 2, 3]
