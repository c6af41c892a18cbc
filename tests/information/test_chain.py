from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_relay.information.chain import ChainEvidence
from lightning_relay.information.rows import Samples
from tests.information.reference import rows_of
from tests.information.strategies import Data, discrete_data


def alone(*variables: list[object]) -> int:
    """Number of samples whose joint state no other has."""
    return sum(count == 1 for count in Counter(zip(*variables, strict=True)).values())


@given(discrete_data(), st.data())
def test_evidence_is_what_counting_every_condition_gives(data: Data, more: st.DataObject) -> None:
    units = data.hidden.shape[1]
    chain = more.draw(st.permutations(range(units)))
    found = ChainEvidence.of(Samples.of(*data).rows(), torch.tensor([chain]))
    samples, x_in, x_out = len(data.x_in), data.x_in.tolist(), data.x_out.tolist()
    for size in range(units + 1):
        state = rows_of(data.hidden.tolist(), chain[:size])
        missed = max(alone(x_in, state), alone(x_out, state)) / samples
        assert float(found.coverage[0, size]) == pytest.approx(1 - missed, abs=1e-12)
        assert float(found.alone[0, size]) == pytest.approx(alone(state) / samples, abs=1e-12)
        assert int(found.distinct_states[0, size]) == len(set(state))


@given(discrete_data(max_units=4), st.lists(st.integers(0, 3), min_size=60, max_size=60))
def test_weights_count_as_samples_and_indices_apart(data: Data, numbers: list[int]) -> None:
    weights = torch.tensor(numbers[: len(data.x_in)]).index_fill(0, torch.tensor([0]), 2)
    chain = torch.arange(data.hidden.shape[1]).unsqueeze(0)
    repeated = [part.repeat_interleave(weights, dim=0) for part in data]
    expected = ChainEvidence.of(Samples.of(*repeated).rows(), chain)
    both = torch.stack([torch.ones_like(weights), weights])
    rows = Samples.of(*data, weights=both).rows()
    found = ChainEvidence.of(rows, chain.expand(2, -1))
    assert found.coverage[1].tolist() == pytest.approx(expected.coverage[0].tolist(), abs=1e-12)
    assert found.alone[1].tolist() == pytest.approx(expected.alone[0].tolist(), abs=1e-12)
    assert found.distinct_states[1].tolist() == expected.distinct_states[0].tolist()
