from unittest.mock import patch

import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_relay.information.rows import Samples, SortedRows
from tests.information.strategies import Data, discrete_data


@given(discrete_data())
def test_rows_are_the_different_samples_and_how_often_each_is(data: Data) -> None:
    numbered = [torch.unique(part, return_inverse=True)[1] for part in (data.x_in, data.x_out)]
    codes = torch.unique(data.hidden, return_inverse=True)[1]
    columns = torch.cat([torch.stack(numbered, dim=1), codes], dim=1)
    different, counts = torch.unique(columns, dim=0, return_counts=True)
    rows = Samples.of(*data).rows()
    labels = [torch.unique(part, return_inverse=True)[1] for part in (rows.x_in, rows.x_out)]
    found = torch.cat([torch.stack(labels, dim=1), rows.codes.long()], dim=1)
    assert found.tolist() == different.tolist()
    assert rows.weight.tolist() == counts.tolist()
    assert rows.samples.tolist() == [len(columns)]


@given(discrete_data(), st.data())
def test_a_weight_is_as_many_samples(data: Data, more: st.DataObject) -> None:
    counts = st.lists(st.integers(0, 3), min_size=len(data.x_in), max_size=len(data.x_in))
    weights = torch.tensor(more.draw(counts.filter(any)))
    weighted = Samples.of(*data, weights=weights).rows()
    repeated = Samples.of(*(part.repeat_interleave(weights, dim=0) for part in data)).rows()
    assert weighted.weight.tolist() == repeated.weight.tolist()
    assert weighted.samples.tolist() == repeated.samples.tolist()


@given(discrete_data(), st.integers(1, 12))
def test_the_first_difference_is_found_however_the_codes_are_packed(data: Data, bits: int) -> None:
    codes = data.hidden.to(torch.uint8)
    with patch("lightning_relay.information.rows._CHUNK_BITS", bits):
        joint = SortedRows(codes, 3, int(data.x_in.max()) + 1)
        order, differs = joint.first_differences(data.x_in)
    rows = torch.cat([data.x_in.unsqueeze(1), codes.long()], dim=1)[order].tolist()
    assert rows == sorted(rows)
    assert differs[0] == 0
    for before, row, place in zip(rows, rows[1:], differs[1:].tolist(), strict=False):
        pairs = enumerate(zip(before, row, strict=True))
        assert place == next((at for at, (a, b) in pairs if a != b), codes.shape[1] + 1)
