"""Relay shares: their laws, and the slow definition of every term."""

from __future__ import annotations

from itertools import permutations, product
from math import comb, factorial
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_relay.information import mutual_information, relay_information, relay_share
from lightning_relay.information.estimators import psi_of
from lightning_relay.information.share import _expected
from tests.support import brute_force as reference
from tests.support.brute_force import all_states
from tests.support.refusals import refusals_of
from tests.support.strategies import Data, discrete_data

if TYPE_CHECKING:
    from collections.abc import Sequence


ESTIMATORS = ["plugin", "miller_madow", "grassberger"]


def given_units(data: Data, units: Sequence[int], **options: Any) -> float:
    known = data.hidden[:, list(units)] if units else None
    return float(mutual_information(data.x_in, data.x_out, known, **options))


def of_all(data: Data, **options: Any) -> float:
    return float(relay_information(*data, **options))


def relays_and_coins(coins: int, samples: int, seed: int, noise: float = 0.0) -> Data:
    """Three exact relays of eight classes beside coin flips."""
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(8, (samples,), generator=generator)
    wrong = torch.rand(samples, generator=generator) < noise
    answer = torch.where(wrong, torch.randint(8, (samples,), generator=generator), label)
    hidden = torch.randint(2, (samples, 3 + coins), generator=generator)
    hidden[:, :3] = label.unsqueeze(1) >> torch.arange(3) & 1
    return Data(label, answer, hidden)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@given(data=discrete_data())
def test_plain_shares_are_the_shapley_values_of_the_relay_information(
    estimator: Any, data: Data
) -> None:
    units = range(data.hidden.shape[1])
    found = relay_share(*data, corrected=False, estimator=estimator)
    for unit in units:
        expected = 0.0
        others = [other for other in units if other != unit]
        for members in product([False, True], repeat=len(others)):
            inside = [other for other, is_in in zip(others, members, strict=True) if is_in]
            gain = [
                float(relay_information(*data, relays, estimator=estimator))
                for relays in (inside, [*inside, unit])
            ]
            weight = factorial(len(inside)) * factorial(len(others) - len(inside))
            expected += weight / factorial(len(units)) * (gain[1] - gain[0])
        assert float(found.share[unit]) == pytest.approx(expected, abs=1e-10)
    assert float(found.share.sum()) == pytest.approx(of_all(data, estimator=estimator), abs=1e-10)
    assert float(found.unattributed) == pytest.approx(0, abs=1e-10)
    assert found.standard_error.tolist() == [0.0] * len(units)
    assert found.n_orders == 0


@given(data=discrete_data(max_units=4))
def test_all_orders_give_what_all_subsets_give(data: Data) -> None:
    """The gains along every order, each a difference of two informations."""
    units = data.hidden.shape[1]
    total = [0.0] * units
    for order in permutations(range(units)):
        before = given_units(data, [])
        for turn, unit in enumerate(order):
            after = given_units(data, order[: turn + 1])
            total[unit] += (before - after) / factorial(units)
            before = after
    found = relay_share(*data, corrected=False)
    assert found.share.tolist() == pytest.approx(total, abs=1e-10)


def permuted_information(data: Data, known: Sequence[int], unit: int, estimator: Any) -> float:
    """Mean information given some units and a copy of one, over all permutations within states."""
    states = reference.rows_of(data.hidden.tolist(), known)
    codes = data.hidden[:, unit].tolist()
    members = [[i for i, s in enumerate(states) if s == state] for state in sorted(set(states))]
    values = []
    for choice in product(*(list(permutations(places)) for places in members)):
        copy = list(codes)
        for places, sources in zip(members, choice, strict=True):
            for place, source in zip(places, sources, strict=True):
                copy[place] = codes[source]
        hidden = torch.cat([data.hidden[:, list(known)], torch.tensor(copy)[:, None]], dim=1)
        values.append(float(mutual_information(data.x_in, data.x_out, hidden, estimator=estimator)))
    return sum(values) / len(values)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("levels", [2, 3, 9])
def test_the_gain_of_a_permuted_copy_is_the_mean_over_all_permutations(
    levels: int, estimator: Any
) -> None:
    generator = torch.Generator().manual_seed(levels)
    data = Data(
        torch.tensor([0, 1, 0, 1, 2]),
        torch.tensor([0, 1, 1, 1, 2]),
        torch.randint(levels, (5, 3), generator=generator),
    )
    data.hidden[0] = levels - 1  # The highest level occurs.
    found = relay_share(*data, n_orders=6, estimator=estimator)
    assert found.n_orders == 6
    expected = [0.0] * 3
    for order in permutations(range(3)):
        for turn, unit in enumerate(order):
            left = permuted_information(data, order[:turn], unit, estimator)
            after = given_units(data, order[: turn + 1], estimator=estimator)
            expected[unit] += (left - after) / 6
    assert found.share.tolist() == pytest.approx(expected, abs=1e-10)
    rest = of_all(data, estimator=estimator) - sum(expected)
    assert float(found.unattributed) == pytest.approx(rest, abs=1e-10)


def test_closed_forms() -> None:
    """A copy has all, two copies half each, the units of an XOR half each, the others nothing."""
    states = all_states(4)
    alone = relay_share(states[:, 1], states[:, 1], states, corrected=False)
    assert alone.share.tolist() == [0.0, 1.0, 0.0, 0.0]
    copies = torch.stack([states[:, 0], states[:, 1], states[:, 0]], dim=1)
    shared = relay_share(states[:, 0], states[:, 0], copies, corrected=False)
    assert shared.share.tolist() == [0.5, 0.0, 0.5]
    label = states[:, 0] ^ states[:, 1]
    parity = relay_share(label, label, states, corrected=False)
    assert parity.share.tolist() == pytest.approx([0.5, 0.5, 0.0, 0.0], abs=1e-12)


def test_corrected_shares_reach_the_closed_forms_where_samples_suffice() -> None:
    states = all_states(4).repeat(400, 1)
    label = states[:, 0] ^ states[:, 1]
    parity = relay_share(label, label, states, n_orders=24)
    assert parity.share.tolist() == pytest.approx([0.5, 0.5, 0.0, 0.0], abs=2e-3)
    assert float(parity.unattributed) == pytest.approx(0, abs=4e-3)
    assert parity.resolved.tolist() == [1.0] * 4


@given(discrete_data(), st.data())
@settings(max_examples=50)
def test_copies_have_equal_shares_and_names_do_not_matter(data: Data, more: st.DataObject) -> None:
    unit = more.draw(st.integers(0, data.hidden.shape[1] - 1))
    hidden = torch.cat([data.hidden, data.hidden[:, [unit]]], dim=1)
    found = relay_share(data.x_in, data.x_out, hidden, corrected=False)
    assert float(found.share[unit]) == pytest.approx(float(found.share[-1]), abs=1e-12)
    everything = relay_share(
        data.x_in, data.x_out, hidden, n_orders=max(4, factorial(hidden.shape[1]))
    )
    assert float(everything.share[unit]) == pytest.approx(float(everything.share[-1]), abs=1e-9)
    renamed = relay_share(7 - data.x_in, data.x_out * 10**9, 3 - hidden, corrected=False)
    torch.testing.assert_close(renamed.share, found.share, atol=1e-11, rtol=0)


@pytest.mark.parametrize("corrected", [False, True])
def test_sampled_shares_agree_with_all_within_their_standard_error(corrected: bool) -> None:
    data = relays_and_coins(4, 300, seed=1, noise=0.1)
    exact = relay_share(*data, corrected=corrected, n_orders=factorial(7))
    assert exact.n_orders == (factorial(7) if corrected else 0)
    wide = torch.cat([data.hidden, torch.zeros(300, 6, dtype=torch.long)], dim=1)
    deviations = []
    for seed in range(20):
        found = relay_share(
            data.x_in, data.x_out, wide, corrected=corrected, n_orders=64, seed=seed
        )
        assert found.n_orders == 64
        assert found.share[7:].abs().max() < 1e-12
        errors = found.standard_error[:3].clamp(min=1e-6)
        deviations.append(((found.share[:3] - exact.share[:3]) / errors).tolist())
    scaled = torch.tensor(deviations)
    # t-distributed with few degrees of freedom: wider than a normal distribution, centred at 0.
    assert float(scaled.abs().median()) < 1.2
    assert float(scaled.mean(0).abs().max()) < 1.5


def test_a_unit_of_noise_has_no_share_however_few_the_samples() -> None:
    for coins in (4, 8, 16):
        for noise in (0.0, 0.1):
            shares = torch.stack(
                [
                    relay_share(*relays_and_coins(coins, 200, seed, noise), n_orders=100).share
                    for seed in range(8)
                ]
            ).mean(0)
            assert float(shares[:3].min()) > 5 * float(shares[3:].abs().max())
            assert float(shares[3:].abs().max()) < 0.02
    plain = relay_share(*relays_and_coins(8, 200, 0), corrected=False, n_orders=100)
    assert float(plain.share[3:].min()) > 0.05


def test_coins_alone_have_no_share() -> None:
    generator = torch.Generator().manual_seed(3)
    label = torch.randint(8, (300,), generator=generator)
    hidden = torch.randint(2, (300, 20), generator=generator)
    found = relay_share(label, label, hidden, n_orders=200)
    assert float(found.share.abs().max()) < 0.03
    assert float(found.unattributed) > 2.5
    assert float(relay_information(label, label, hidden)) == pytest.approx(
        float(mutual_information(label, label)), abs=0.05
    )


def test_turns_are_resolved_as_far_as_the_samples_go() -> None:
    narrow = relay_share(*relays_and_coins(1, 4000, 0))
    assert narrow.resolved.tolist() == [1.0] * 4
    wide = relay_share(*relays_and_coins(40, 500, 0), n_orders=96)
    assert 0.02 < float(wide.resolved.mean()) < 0.5
    lax = relay_share(*relays_and_coins(40, 500, 0), min_coverage=0.0, max_gap=9.0)
    assert lax.resolved.tolist() == [1.0] * 43


def test_every_leading_index_is_what_it_is_alone_and_the_seed_decides() -> None:
    first, second = relays_and_coins(9, 150, 0), relays_and_coins(9, 150, 1, 0.2)
    hidden = torch.stack([first.hidden, second.hidden])
    valid = torch.rand(2, 150, generator=torch.Generator().manual_seed(0)) < 0.8
    state = torch.get_rng_state()
    together = relay_share(first.x_in, first.x_out, hidden, valid=valid, n_orders=24)
    assert torch.equal(torch.get_rng_state(), state)
    for index in range(2):
        alone = relay_share(
            first.x_in[valid[index]],
            first.x_out[valid[index]],
            hidden[index, valid[index]],
            n_orders=24,
        )
        for name in ("share", "standard_error", "unattributed", "resolved"):
            torch.testing.assert_close(
                getattr(together, name)[index], getattr(alone, name), atol=1e-11, rtol=0
            )
    other = relay_share(first.x_in, first.x_out, hidden, valid=valid, n_orders=24, seed=1)
    assert not torch.equal(other.share, together.share)


def test_a_weight_is_as_many_samples() -> None:
    data = relays_and_coins(5, 60, 2, 0.2)
    weights = torch.arange(60) % 4
    weighted = relay_share(*data, weights=weights, n_orders=16)
    repeated = relay_share(*(part.repeat_interleave(weights, dim=0) for part in data), n_orders=16)
    torch.testing.assert_close(weighted.share, repeated.share, atol=1e-11, rtol=0)
    torch.testing.assert_close(weighted.resolved, repeated.resolved)


def test_the_error_aimed_at_is_reached_or_said() -> None:
    data = relays_and_coins(12, 200, 0, 0.1)
    rough, fine = (relay_share(*data, n_orders=aim) for aim in (0.02, 0.005))
    assert float(rough.standard_error.max()) <= 0.02
    assert float(fine.standard_error.max()) <= 0.005
    assert fine.n_orders > rough.n_orders
    few = Data(data.x_in[:20], data.x_out[:20], data.hidden[:20])
    with pytest.warns(
        UserWarning, match=r"n_orders: the standard error is .* bits after \d+ orders"
    ):
        relay_share(*few, n_orders=1e-6)


def test_the_hypergeometric_mean_is_that_of_its_definition() -> None:
    psi = psi_of("grassberger", 200).value
    for samples, holders, drawn in [
        (9, 4, 3),
        (200, 100, 60),
        (150, 1, 149),
        (20, 20, 5),
        (20, 0, 5),
    ]:
        expected = sum(
            comb(holders, count)
            * comb(samples - holders, drawn - count)
            / comb(samples, drawn)
            * (psi[count] + psi[drawn - count])
            for count in range(drawn + 1)
            if count <= holders and drawn - count <= samples - holders
        )
        found = _expected(psi, samples, holders, drawn, True)
        assert found == pytest.approx(expected, rel=1e-12, abs=1e-12)


def test_options_that_make_no_sense_are_refused() -> None:
    bit = torch.tensor([0, 1, 0, 1])
    refused = refusals_of(relay_share, x_in=bit, x_out=bit, hidden=bit[:, None])
    refused(ValueError, r"n_orders: got 3; it takes at least 4, so that errors", n_orders=3)
    refused(ValueError, r"n_orders: got 0.0; an error aimed at is above 0 bits", n_orders=0.0)
    for wrong in ("many", True, None):
        refused(TypeError, r"n_orders: got .*; it takes a number of orders, an int", n_orders=wrong)
    refused(ValueError, r"estimator: got 'chao_shen', which depends on all", estimator="chao_shen")
    refused(ValueError, r"max_gap: got -1; it takes bits from 0", max_gap=-1)
