"""Rows, against counting tuples."""

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_relay.information.rows import Rows, Samples
from tests.support.strategies import Data, discrete_data


def read(rows: Rows) -> Counter[tuple[int, ...]]:
    """X_in, X_out and the codes of each row, and how often it is there."""
    found: Counter[tuple[int, ...]] = Counter()
    for line in rows.table:
        bits = np.unpackbits(line[:-2].view(np.uint8), bitorder="little")
        stride = 8 * rows.bytes
        planes = bits[: rows.planes * stride].reshape(rows.planes, stride)[:, : rows.units]
        if rows.counted and rows.planes > 1:
            assert (planes.sum(0) == 1).all()
            codes = planes.argmax(0)
        else:
            codes = (planes * (1 << np.arange(rows.planes))[:, np.newaxis]).sum(0)
        label = int(line[-2])
        found[label >> 32, label & (2**32 - 1), *codes.tolist()] += int(line[-1])
    return found


@given(discrete_data(), st.integers(2, 12))
def test_rows_are_the_different_samples_and_how_often_each_is(data: Data, levels: int) -> None:
    hidden = data.hidden * data.x_in.unsqueeze(1) % levels
    hidden[0] = levels - 1
    codes = torch.unique(hidden, return_inverse=True)[1]
    rows = Samples.of(data.x_in, data.x_out, hidden).rows(0)
    columns = torch.cat([data.x_in.unsqueeze(1), data.x_out.unsqueeze(1), codes], dim=1)
    assert read(rows) == Counter(tuple(line) for line in columns.tolist())
    assert len(rows.table) == len(read(rows))
    assert rows.samples == len(columns)
    labels = rows.table[:, -2].tolist()
    assert labels == sorted(labels)
    by_out = [(labels[row] & (2**32 - 1), labels[row]) for row in rows.by_out.tolist()]
    assert by_out == sorted(by_out)


@given(discrete_data(), st.data())
def test_a_weight_is_as_many_samples(data: Data, more: st.DataObject) -> None:
    counts = st.lists(st.integers(0, 3), min_size=len(data.x_in), max_size=len(data.x_in))
    weights = torch.tensor(more.draw(counts.filter(any)))
    weighted = Samples.of(*data, weights=weights).rows(0)
    repeated = Samples.of(*(part.repeat_interleave(weights, dim=0) for part in data)).rows(0)
    assert read(weighted) == read(repeated)
    assert weighted.samples == repeated.samples
    rows, row = Samples.of(*data).merged(0)
    counted = np.bincount(row, weights.numpy(), len(rows.table))
    assert read(rows.reweighted(counted.astype(np.uint64))) == read(repeated)


def test_samples_that_do_not_count_have_no_row() -> None:
    bit = torch.tensor([0, 1, 0, 1])
    valid = torch.tensor([True, False, True, True])
    rows, row = Samples.of(bit, bit, bit[:, None], valid).merged(0)
    assert row.tolist() == [0, -1, 0, 1]
    assert rows.weight.tolist() == [2, 1]


@pytest.mark.parametrize("levels", [2, 3, 8, 9, 300])
def test_masks_hold_all_bits_of_their_units(levels: int) -> None:
    generator = torch.Generator().manual_seed(levels)
    hidden = torch.randint(levels, (40, 70), generator=generator)
    hidden[0], hidden[1] = 0, levels - 1
    label = torch.zeros(40, dtype=torch.long)
    rows = Samples.of(label, label, hidden).rows(0)
    everything = np.bitwise_or.reduce(rows.table[:, :-2], axis=0)
    members = np.zeros((2, 70), dtype=np.bool_)
    members[0, 64:], members[1] = True, True
    some, every = rows.masks(members)
    assert ((everything & every) == everything).all()
    states = {tuple(line & some) for line in rows.table[:, :-2]}
    assert len(states) == len(hidden[:, 64:].unique(dim=0))
