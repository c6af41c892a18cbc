import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_relay.information import (
    Estimator,
    relay_information,
    relay_information_of_all_subsets,
    relay_order,
)
from tests.support import brute_force as reference
from tests.support.refusals import refusals_of
from tests.support.strategies import Data, discrete_data


def members(subset: int, units: int) -> list[int]:
    return [unit for unit in range(units) if subset >> unit & 1]


@given(discrete_data(max_units=6))
def test_every_subset_equals_the_reference(data: Data) -> None:
    found = relay_information_of_all_subsets(*data, progress=False)
    units = data.hidden.shape[1]
    assert found.shape == (2**units,)
    labels = data.x_in.tolist(), data.x_out.tolist()
    for subset in range(2**units):
        expected = reference.relay_information(
            *labels, data.hidden.tolist(), members(subset, units)
        )
        assert float(found[subset]) == pytest.approx(expected, abs=1e-12)


@given(
    discrete_data(max_units=4),
    st.sampled_from(["miller_madow", "grassberger"]),
    st.lists(st.integers(0, 3), min_size=60, max_size=60),
)
def test_estimators_and_weights(data: Data, estimator: Estimator, numbers: list[int]) -> None:
    weights = torch.tensor(numbers[: len(data.x_in)]).index_fill(0, torch.tensor([0]), 2)
    units = data.hidden.shape[1]
    found = relay_information_of_all_subsets(
        *data, weights=weights, estimator=estimator, progress=False
    )
    for subset in range(2**units):
        expected = relay_information(
            *data, members(subset, units), weights=weights, estimator=estimator
        )
        assert float(found[subset]) == pytest.approx(float(expected), abs=1e-10)


@pytest.mark.parametrize("levels", [2, 3, 40, 200])
def test_leading_indices_masks_and_levels(levels: int) -> None:
    generator = torch.Generator().manual_seed(levels)
    labels = torch.randint(4, (60,), generator=generator)
    hidden = torch.randint(levels, (2, 60, 7), generator=generator)
    hidden[:, :, 3] = labels % levels
    valid = torch.rand(2, 60, generator=generator) < 0.8
    found = relay_information_of_all_subsets(labels, labels, hidden, valid=valid, progress=False)
    assert found.shape == (2, 128)
    for subset in range(0, 128, 7):
        expected = relay_information(labels, labels, hidden, members(subset, 7), valid=valid)
        torch.testing.assert_close(found[:, subset], expected, atol=1e-12, rtol=0)


def test_the_progress_bar_reaches_its_end(capsys: pytest.CaptureFixture[str]) -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(2, (40,), generator=generator)
    hidden = torch.randint(2, (40, 9), generator=generator)
    relay_information_of_all_subsets(labels, labels, hidden)
    assert "100%" in capsys.readouterr().err


@given(discrete_data(max_units=5), st.integers(1, 4))
def test_no_order_is_better_than_the_best_sets(data: Data, beam_width: int) -> None:
    everything = relay_information_of_all_subsets(*data, progress=False)
    order = relay_order(*data, beam_width=beam_width)
    units = data.hidden.shape[1]
    shortfall = order.shortfall(everything)
    for gone in range(units + 1):
        size = units - gone
        best = max(float(everything[k]) for k in range(2**units) if len(members(k, units)) == size)
        expected = best - float(order.information[gone])
        assert float(shortfall[gone]) == pytest.approx(expected, abs=1e-12)
        assert float(shortfall[gone]) >= -1e-12


def test_a_beam_finds_what_greedy_misses() -> None:
    generator = torch.Generator().manual_seed(3)
    found = []
    for _ in range(60):
        labels = torch.randint(4, (40,), generator=generator)
        hidden = torch.randint(2, (40, 6), generator=generator)
        hidden[:, 0], hidden[:, 1] = labels & 1, labels >> 1
        sums = [
            float(relay_order(labels, labels, hidden, beam_width=width).information.sum())
            for width in (1, 8)
        ]
        found.append(sums[1] - sums[0])
    assert min(found) >= -1e-9
    assert max(found) > 0.01


def test_too_much_is_refused_with_what_it_would_take() -> None:
    label = torch.tensor([0, 1])
    hidden = label[:, None]
    subsets = relay_information_of_all_subsets
    refused = refusals_of(subsets, x_in=label, x_out=label, hidden=hidden)
    match = r"hidden: got 30 units, so 2\*\*30 .* 8 GiB; it takes at most 24 units: select"
    refused(ValueError, match, hidden=hidden.repeat(1, 30))
    refused(ValueError, r"estimator: got 'chao_shen', which depends on all", estimator="chao_shen")
    refused = refusals_of(relay_order(label, label, hidden).shortfall)
    match = r"of_all_subsets: got shape \(4,\); it takes \(2,\): give relay_information_of_all"
    refused(ValueError, match, of_all_subsets=torch.zeros(4))
