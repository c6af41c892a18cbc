import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lightning_relay.information import (
    bootstrap,
    chance_level,
    entropy,
    mutual_information,
    relay_information,
    relay_order,
    relay_share,
)
from tests.support import brute_force as reference
from tests.support.brute_force import all_states
from tests.support.refusals import refusals_of
from tests.support.strategies import Data, discrete_data


def relayed(x_in: Tensor, x_out: Tensor, hidden: Tensor, *units: int) -> float:
    return float(relay_information(x_in, x_out, hidden, units))


@given(discrete_data(max_units=4), st.data())
def test_equals_the_eight_entropies(data: Data, more: st.DataObject) -> None:
    units = data.hidden.shape[1]
    relays = more.draw(st.lists(st.integers(0, units - 1), unique=True))
    expected = reference.relay_information(
        data.x_in.tolist(), data.x_out.tolist(), data.hidden.tolist(), relays
    )
    assert relayed(*data, *relays) == pytest.approx(expected, abs=1e-12)


@given(discrete_data())
def test_no_units_relay_nothing_and_all_relay_the_difference(data: Data) -> None:
    assert float(relay_information(*data, [])) == 0.0
    everything = mutual_information(data.x_in, data.x_out) - mutual_information(*data)
    assert float(relay_information(*data)) == pytest.approx(float(everything), abs=1e-12)


@given(discrete_data(), st.data())
def test_is_bounded_where_the_output_is_a_function_of_the_states(
    data: Data, more: st.DataObject
) -> None:
    hidden = torch.cat([data.hidden, data.x_out.unsqueeze(1)], dim=1)
    units = hidden.shape[1]
    relays = more.draw(st.lists(st.integers(0, units - 1), unique=True))
    bits = relayed(data.x_in, data.x_out, hidden, *relays)
    smaller = min(float(entropy(x.unsqueeze(1))) for x in (data.x_in, data.x_out))
    assert -1e-12 <= bits <= smaller + 1e-12


@given(discrete_data(), st.randoms(use_true_random=False), st.data())
def test_names_and_order_of_things_do_not_matter(
    data: Data, random: object, more: st.DataObject
) -> None:
    units = data.hidden.shape[1]
    relays = more.draw(st.lists(st.integers(0, units - 1), unique=True))
    expected = relayed(*data, *relays)
    samples = torch.tensor(more.draw(st.permutations(range(len(data.x_in)))))
    renamed = data.hidden * 7919 - 10**13
    moved = torch.tensor(more.draw(st.permutations(range(units))))
    assert relayed(
        -5 - data.x_in[samples],
        data.x_out[samples] * 10**9,
        renamed[samples][:, moved],
        *[moved.tolist().index(unit) for unit in relays],
    ) == pytest.approx(expected, abs=1e-12)


def test_one_copy_relays_the_whole_bit() -> None:
    states = all_states(3)
    bit = states[:, 0]
    assert relayed(bit, bit, states, 0) == 1.0
    assert relayed(bit, bit, states, 1) == 0.0
    assert relayed(bit, bit, states, 1, 2) == 0.0
    assert relayed(bit, bit, states, 0, 1, 2) == 1.0


def test_two_copies_relay_only_together() -> None:
    bit = torch.tensor([0, 1, 0, 1])
    copies = torch.stack([bit, 1 - bit], dim=1)
    assert relayed(bit, bit, copies, 0) == 0.0
    assert relayed(bit, bit, copies, 1) == 0.0
    assert relayed(bit, bit, copies, 0, 1) == 1.0


@pytest.mark.parametrize("bits", [2, 3, 5])
def test_any_unit_of_a_parity_relays_all_of_it(bits: int) -> None:
    states = all_states(bits)
    parity = states.sum(1) % 2
    for unit in range(bits):
        assert relayed(parity, parity, states, unit) == pytest.approx(1.0, abs=1e-12)


def test_a_giant_bit_is_relayed_only_by_all_its_copies() -> None:
    bit = torch.tensor([0, 1]).repeat(8)
    giant = bit.unsqueeze(1).repeat(1, 6)
    assert relayed(bit, bit, giant, *range(5)) == 0.0
    assert relayed(bit, bit, giant, *range(6)) == 1.0


def test_independent_noise_relays_nothing() -> None:
    states = all_states(4)
    bit = states[:, 0]
    assert relayed(bit, bit, states[:, 1:], 0, 1, 2) == 0.0


def test_synergy_is_negative_and_not_clipped() -> None:
    states = all_states(2)
    x_in = states.sum(1) % 2
    x_out = states[:, 0]
    assert relayed(x_in, x_out, states[:, 1:], 0) == -1.0


def test_time_steps_are_computed_apart_and_masks_respected() -> None:
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randint(2, (3, 40, 4), generator=generator)
    labels = torch.randint(4, (2, 40), generator=generator)
    valid = torch.rand(3, 40, generator=generator) < 0.7
    together = relay_information(labels[0], labels[1], hidden, [1, 3], valid=valid)
    assert together.shape == (3,)
    assert together.dtype == torch.float64
    for step in range(3):
        counted = valid[step]
        alone = relay_information(
            labels[0][counted], labels[1][counted], hidden[step][counted], [1, 3]
        )
        assert float(together[step]) == pytest.approx(float(alone), abs=1e-12)


def test_units_that_are_not_there_are_refused() -> None:
    bit = torch.tensor([0, 1])
    refused = refusals_of(relay_information, x_in=bit, x_out=bit, hidden=bit.unsqueeze(1))
    refused(ValueError, "relay_units: got 1; hidden has 1 units, so it takes 0", relay_units=[1])
    refused(ValueError, "relay_units: got -1; hidden has 1 units, so", relay_units=[-1])
    refused(ValueError, "unit 0 is named twice; name each unit once", relay_units=[0, 0])
    refused(TypeError, "relay_units: got 0; it takes unit indices, a list of them", relay_units=0)
    for mask in ([True], [0.0], torch.tensor([True])):
        refused(TypeError, "relay_units: got .*; .* indices, not a mask", relay_units=mask)
    assert float(relay_information(bit, bit, bit.unsqueeze(1), torch.tensor([0]))) == 1.0


def test_decoders_find_exact_relays_beside_more_noise_than_samples_can_count() -> None:
    """The case of the method with 45 noise units, where the plug-in gives 0."""
    generator = torch.Generator().manual_seed(0)
    label = torch.randint(8, (1000,), generator=generator)
    hidden = torch.randint(2, (1000, 48), generator=generator)
    hidden[:, :3] = label.unsqueeze(1) >> torch.arange(3) & 1
    assert relayed(label, label, hidden, 0, 1, 2) == pytest.approx(0.0, abs=1e-12)
    decoded = relay_information(label, label, hidden, [0, 1, 2], estimator="decoder")
    assert float(decoded) == pytest.approx(3.0, abs=0.1)


def test_decoders_take_real_states_of_every_step_apart() -> None:
    generator = torch.Generator().manual_seed(1)
    bit = torch.randint(2, (200,), generator=generator)
    states = torch.randn(2, 200, 2, generator=generator)
    states[1, :, 0] += 20 * bit
    valid = torch.ones(2, 200, dtype=torch.bool)
    valid[0, 100:] = False
    found = relay_information(bit, bit, states, [0], valid=valid, estimator="decoder")
    assert found.shape == (2,)
    assert found[0].abs() < 0.1
    assert found[1] > 0.9
    nothing = mutual_information(bit, bit, estimator="decoder")
    assert float(nothing) == pytest.approx(1.0, abs=0.02)
    refused = refusals_of(relay_information, x_in=bit, x_out=bit, hidden=states)
    match = r"weights: got some, which estimator='decoder' does not take; leave them out, or repeat"
    refused(ValueError, match, weights=bit, estimator="decoder")
    refused(TypeError, r"hidden: got torch.float32; it takes integers")
    match = r"got 'decoder', which only mutual_information and relay_information take; here it"
    refusals_of(entropy, hidden=states.long())(ValueError, match, estimator="decoder")


def test_labels_that_do_not_fit_each_other_are_refused_by_every_function() -> None:
    hidden = torch.zeros(4, 1).long()
    x_in, x_out = torch.zeros(2, 4).long(), torch.zeros(3, 4).long()
    for function in (relay_information, relay_order, relay_share, chance_level, bootstrap):
        match = r"hidden, x_in, x_out: got shapes whose leading dim.* x_in \(2, 4\), x_out \(3, 4\)"
        refusals_of(function, x_in=x_in, x_out=x_out, hidden=hidden)(ValueError, match)
    refused = refusals_of(relay_information, x_in=x_in[0], x_out=x_in[0], hidden=hidden)
    refused(ValueError, r"got leading dimensions \(0,\) without an entry", x_in=x_in[:0])
    refused(TypeError, r"valid: got list; it takes a mask, a bool tensor", valid=[True])
    refused(TypeError, r"hidden: got ndarray; it takes a tensor of int", hidden=hidden.numpy())
    refused(TypeError, r"takes a tensor of real", hidden=hidden * 1j, estimator="decoder")
    many = torch.full((4,), 2**44)
    refused(ValueError, r"weights: got a sum of 7.04e\+13; it takes at most 67108864", weights=many)


def test_many_labels_and_many_codes_are_not_cut() -> None:
    label = torch.arange(2**17)
    half = label // 2
    hidden = torch.stack([half, (half + label % 2 * 2**15) % 2**16], dim=1)
    assert float(entropy(hidden)) == pytest.approx(17, abs=1e-9)
    assert float(mutual_information(label, label)) == pytest.approx(17, abs=1e-9)
    assert float(mutual_information(label, label, hidden)) == pytest.approx(0, abs=1e-9)


def test_many_sets_are_marked_in_a_mask() -> None:
    label, hidden = torch.tensor([0, 1]), torch.zeros(2, 3, dtype=torch.int64)
    refused = refusals_of(relay_information, x_in=label, x_out=label, hidden=hidden)
    match = r"relay_units: got a tensor .*; many sets at once take torch.bool \(sets, 3\)"
    for sets in (torch.ones(2, 3), torch.ones(2, 4).bool(), torch.ones(0, 3).bool()):
        refused(ValueError, match, relay_units=sets)
