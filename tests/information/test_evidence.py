from collections import Counter
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_relay.information.ordering import Grown, grow
from lightning_relay.information.rows import Rows, Samples
from tests.support.brute_force import rows_of
from tests.support.strategies import Data, discrete_data


def alone(*variables: list[object]) -> int:
    """Number of samples whose joint state no other has."""
    return sum(count == 1 for count in Counter(zip(*variables, strict=True)).values())


def evidence_along(rows: Rows, chain: Sequence[int]) -> Grown:
    return grow(rows, "shrink", "plugin", chosen=chain)


@given(discrete_data(), st.data())
def test_evidence_is_what_counting_every_condition_gives(data: Data, more: st.DataObject) -> None:
    units = data.hidden.shape[1]
    chain = more.draw(st.permutations(range(units)))
    found = evidence_along(Samples.of(*data).rows(0), chain)
    samples, x_in, x_out = len(data.x_in), data.x_in.tolist(), data.x_out.tolist()
    for size in range(units + 1):
        state = rows_of(data.hidden.tolist(), chain[:size])
        missed = max(alone(x_in, state), alone(x_out, state)) / samples
        assert float(found.coverage[size]) == pytest.approx(1 - missed, abs=1e-12)
        assert float(found.alone[size]) == pytest.approx(alone(state) / samples, abs=1e-12)
        assert int(found.distinct_states[size]) == len(set(state))


@given(discrete_data(max_units=4), st.lists(st.integers(0, 3), min_size=60, max_size=60))
def test_weights_count_as_samples_and_indices_apart(data: Data, numbers: list[int]) -> None:
    weights = torch.tensor(numbers[: len(data.x_in)]).index_fill(0, torch.tensor([0]), 2)
    chain = range(data.hidden.shape[1])
    repeated = [part.repeat_interleave(weights, dim=0) for part in data]
    expected = evidence_along(Samples.of(*repeated).rows(0), chain)
    both = torch.stack([torch.ones_like(weights), weights])
    found = evidence_along(Samples.of(*data, weights=both).rows(1), chain)
    assert found.coverage.tolist() == pytest.approx(expected.coverage.tolist(), abs=1e-12)
    assert found.alone.tolist() == pytest.approx(expected.alone.tolist(), abs=1e-12)
    assert found.distinct_states.tolist() == expected.distinct_states.tolist()


def test_more_units_than_bits_in_a_word() -> None:
    """Rows that differ in the last of 130 units only, or in the first, or in none."""
    hidden = torch.zeros(4, 130, dtype=torch.long)
    hidden[1, 129] = hidden[2:, 0] = 1
    label = torch.tensor([0, 0, 0, 1])
    found = evidence_along(Samples.of(label, label, hidden).rows(0), range(130))
    assert found.distinct_states.tolist() == [1] + [2] * 129 + [3]
    assert found.coverage.tolist() == [0.75] + [0.5] * 129 + [0.0]
    assert found.alone.tolist() == [0.0] * 130 + [0.5]
