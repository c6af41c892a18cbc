from __future__ import annotations

import warnings
from itertools import permutations, product
from typing import TYPE_CHECKING, Any, get_args

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from lightning_relay.information.options import Within
from lightning_relay.information.permutation import ChanceLevel, chance_level
from tests.support import brute_force as reference
from tests.support.refusals import refusals_of
from tests.support.strategies import Data, discrete_data

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

WITHIN = get_args(Within)


def quiet(x_in: Tensor, x_out: Tensor, hidden: Tensor, **options: Any) -> ChanceLevel:
    """The chance level of data that may leave nothing to permute."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="chance_level:")
        return chance_level(x_in, x_out, hidden, **options)


def given_others(x_in: Tensor, x_out: Tensor, hidden: Tensor, relays: Sequence[int]) -> float:
    others = [unit for unit in range(hidden.shape[1]) if unit not in relays]
    return reference.conditional_information(
        x_in.tolist(), x_out.tolist(), reference.rows_of(hidden.tolist(), others)
    )


def random_data(samples: int, units: int, seed: int, labels: int = 2, steps: int = 1) -> Data:
    """Labels and states that know nothing of each other; ``(steps, samples, units)``."""
    generator = torch.Generator().manual_seed(seed)
    return Data(
        torch.randint(labels, (samples,), generator=generator),
        torch.randint(labels, (samples,), generator=generator),
        torch.randint(2, (steps, samples, units), generator=generator),
    )


@pytest.mark.parametrize("within", WITHIN)
@given(data=discrete_data(max_units=4), more=st.data())
@settings(max_examples=50)
def test_the_observed_value_is_that_of_the_reference(
    within: Within, data: Data, more: st.DataObject
) -> None:
    units = st.integers(0, data.hidden.shape[1] - 1)
    family = more.draw(st.lists(st.lists(units, unique=True), min_size=1, max_size=4))
    chance = quiet(*data, relay_units=family, within=within, n_permutations=19)
    expected = [given_others(*data, relays) for relays in family]
    assert chance.information.tolist() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("within", WITHIN)
@given(data=discrete_data(), seed=st.integers(0, 2**31))
@settings(max_examples=50)
def test_p_values_keep_their_laws(within: Within, data: Data, seed: int) -> None:
    chance = quiet(*data, within=within, n_permutations=40, level=0.1, seed=seed)
    assert bool((chance.p_values >= 1 / 41).all())
    assert bool((chance.family_p_values >= chance.p_values).all())
    assert bool((chance.family_p_values <= 1).all())
    assert bool((chance.p_values[chance.empty] == 1).all())
    above = chance.information > chance.threshold + 1e-9
    assert above.tolist() == (chance.p_values <= 0.1).tolist()
    assert bool(((chance.movable >= 0) & (chance.movable <= 1)).all())


@given(data=discrete_data())
@settings(max_examples=50)
def test_movable_samples_are_those_in_states_where_both_labels_vary(data: Data) -> None:
    chance = quiet(*data, relay_units=[[0]], n_permutations=19)
    x_in, x_out, others = data.x_in.tolist(), data.x_out.tolist(), data.hidden[:, 1:].tolist()
    ins: dict[tuple[int, ...], set[int]] = {}
    outs: dict[tuple[int, ...], set[int]] = {}
    for value, answer, row in zip(x_in, x_out, others, strict=True):
        ins.setdefault(tuple(row), set()).add(value)
        outs.setdefault(tuple(row), set()).add(answer)
    moving = sum(len(ins[tuple(row)]) > 1 and len(outs[tuple(row)]) > 1 for row in others)
    assert float(chance.movable) == pytest.approx(moving / len(others))


@given(data=discrete_data(), more=st.data())
@settings(max_examples=50)
def test_names_of_labels_and_states_do_not_matter(data: Data, more: st.DataObject) -> None:
    within = more.draw(st.sampled_from(WITHIN))
    expected = quiet(*data, within=within, n_permutations=19)
    renamed = quiet(
        -5 - data.x_in,
        data.x_out * 10**9,
        data.hidden * 7919 - 10**13,
        within=within,
        n_permutations=19,
    )
    for name in ("information", "mean", "threshold", "p_values", "family_p_values", "movable"):
        torch.testing.assert_close(getattr(renamed, name), getattr(expected, name))


def shuffles(x_out: list[int], strata: list[int], within: Within) -> list[list[int]]:
    """X_out under every permutation there is."""
    if within == "everywhere":
        return [list(shuffled) for shuffled in permutations(x_out)]
    members = [[i for i, s in enumerate(strata) if s == stratum] for stratum in sorted({*strata})]
    everything = []
    for choice in product(*(list(permutations(places)) for places in members)):
        shuffled = list(x_out)
        for places, sources in zip(members, choice, strict=True):
            for place, source in zip(places, sources, strict=True):
                shuffled[place] = x_out[source]
        everything.append(shuffled)
    return everything


@pytest.mark.parametrize("within", WITHIN)
@pytest.mark.parametrize(
    ("x_in", "x_out", "strata"),
    [
        ([0, 0, 1, 1, 1, 2], [0, 0, 1, 1, 2, 2], [0, 0, 0, 0, 0, 0]),
        ([0, 0, 1, 1, 0, 1, 1], [0, 0, 1, 1, 1, 1, 0], [0, 0, 0, 0, 1, 1, 1]),
        ([0, 1, 0, 1, 0, 0, 1], [0, 1, 0, 1, 0, 1, 1], [0, 1, 1, 0, 2, 2, 0]),
        ([0, 1, 1, 0, 1, 0, 1], [0, 1, 1, 0, 2, 2, 0], [0, 1, 0, 1, 0, 2, 2]),
    ],
)
def test_the_distribution_is_that_of_all_permutations(
    x_in: list[int], x_out: list[int], strata: list[int], within: Within
) -> None:
    rows: list[tuple[int, ...]] = [(stratum,) for stratum in strata]
    exact = torch.tensor(
        [
            reference.conditional_information(x_in, shuffled, rows)
            for shuffled in shuffles(x_out, strata, within)
        ],
        dtype=torch.float64,
    )
    hidden = torch.tensor([strata, strata]).T
    n = 4000
    chance = chance_level(
        torch.tensor(x_in), torch.tensor(x_out), hidden, [[0]], within=within, n_permutations=n
    )
    information = reference.conditional_information(x_in, x_out, rows)
    assert float(chance.information) == pytest.approx(information, abs=1e-12)
    error = 4 * float(exact.std()) / n**0.5 + 1e-12
    assert float(chance.mean) == pytest.approx(float(exact.mean()), abs=error)
    p_value = float((exact >= information - 1e-9).double().mean())
    error = 4 * (p_value * (1 - p_value) / n) ** 0.5 + 1 / n
    assert float(chance.p_values) == pytest.approx(p_value, abs=error)
    assert float((exact > float(chance.threshold) + 1e-9).double().mean()) <= 0.05 + 4 * 0.0035
    assert float((exact >= float(chance.threshold) - 1e-9).double().mean()) >= 0.05 - 4 * 0.0035


@pytest.mark.parametrize("within", WITHIN)
def test_a_relay_is_found_and_the_other_units_are_not(within: Within) -> None:
    noise = random_data(samples=400, units=3, seed=3)
    x_in = noise.x_in
    hidden = torch.cat([x_in.unsqueeze(1), noise.hidden[0]], dim=1)
    x_out = torch.where(torch.arange(400) % 10 == 0, noise.x_out, x_in)
    chance = chance_level(x_in, x_out, hidden, within=within)
    assert float(chance.p_values[0]) == float(chance.family_p_values[0]) == 1 / 201
    assert float(chance.information[0]) > 5 * float(chance.threshold[0])
    # All other sets leave the copy of X_in outside R.
    assert chance.empty.tolist() == [False, True, True, True]
    assert chance.family_p_values[1:].tolist() == [1, 1, 1]


@pytest.mark.parametrize("within", WITHIN)
def test_independent_data_are_not_taken_for_a_relay(within: Within) -> None:
    data = random_data(samples=300, units=4, seed=5, labels=3)
    chance = chance_level(data.x_in, data.x_out, data.hidden[0], within=within)
    assert float(chance.family_p_values.min()) > 0.05
    # The plug-in value is well above 0 all the same: that is what the mean is for.
    assert float(chance.information.min()) > 0.05
    torch.testing.assert_close(chance.mean, chance.information, rtol=0.5, atol=0)


def test_states_that_account_for_everything_are_told_from_independence() -> None:
    """X_in and X_out share a bit that two units hold: no single unit relays it."""
    noise = random_data(samples=500, units=1, seed=8)
    bit = torch.arange(500) % 2
    hidden = torch.stack([bit, bit, noise.hidden[0, :, 0]], dim=1)
    x_in, x_out = bit * 2 + noise.x_in, bit * 2 + noise.x_out
    redundant = chance_level(x_in, x_out, hidden, within="states")
    assert float(redundant.family_p_values.min()) > 0.05
    together = chance_level(x_in, x_out, hidden, [[0, 1]], within="states")
    assert float(together.p_values) == 1 / 201
    everywhere = chance_level(x_in, x_out, hidden, within="everywhere")
    assert everywhere.mean.tolist() != pytest.approx(redundant.mean.tolist(), rel=0.05)


def test_the_family_is_all_sets_and_all_leading_indices() -> None:
    data = random_data(samples=40, units=4, seed=11, steps=6)
    together = chance_level(*data)
    assert together.family_p_values.shape == (6, 4)
    one = chance_level(data.x_in, data.x_out, data.hidden[2], [[1]])
    assert float(one.p_values) == float(together.p_values[2, 1])
    assert float(one.family_p_values) == float(one.p_values)
    assert float(one.family_p_values) < float(together.family_p_values[2, 1])


@pytest.mark.parametrize("within", WITHIN)
def test_a_set_of_large_bias_does_not_hide_one_of_small_bias(within: Within) -> None:
    data = random_data(samples=400, units=6, seed=12)
    noisy = torch.rand(400, generator=torch.Generator().manual_seed(2)) < 0.7
    x_out = torch.where(noisy, data.x_out, data.x_in)
    chance = chance_level(data.x_in, x_out, data.hidden[0], [range(6), []], within=within)
    assert float(chance.information[0]) < float(chance.mean[1])
    assert float(chance.family_p_values[0]) == 1 / 201


@pytest.mark.parametrize("within", WITHIN)
def test_leading_indices_are_permuted_like_each_of_them_alone(within: Within) -> None:
    data = random_data(samples=60, units=3, seed=13, labels=3, steps=4)
    valid = torch.rand(4, 60, generator=torch.Generator().manual_seed(1)) < 0.8
    together = chance_level(*data, within=within, valid=valid, n_permutations=50)
    for step in range(4):
        alone = chance_level(
            data.x_in,
            data.x_out,
            data.hidden[step],
            within=within,
            valid=valid[step],
            n_permutations=50,
        )
        for name in ("information", "mean", "threshold", "p_values", "movable"):
            torch.testing.assert_close(
                getattr(together, name)[step], getattr(alone, name), rtol=0, atol=1e-12
            )


@pytest.mark.parametrize("within", WITHIN)
def test_a_family_of_equal_indices_and_sets_is_that_of_one(within: Within) -> None:
    data = random_data(samples=60, units=3, seed=17, labels=3)
    hidden = data.hidden[0]
    one = chance_level(data.x_in, data.x_out, hidden, within=within)
    copies = chance_level(
        data.x_in,
        data.x_out.expand(2, 1, 60),
        hidden.expand(3, 60, 3),
        [[0], [1], [2], [0]],
        within=within,
    )
    assert copies.family_p_values.shape == (2, 3, 4)
    expected = one.family_p_values[[0, 1, 2, 0]].expand(2, 3, 4)
    torch.testing.assert_close(copies.family_p_values, expected, rtol=0, atol=0)


@pytest.mark.parametrize("within", WITHIN)
def test_samples_that_are_not_valid_are_as_good_as_left_out(within: Within) -> None:
    data = random_data(samples=120, units=3, seed=19)
    hidden = data.hidden[0]
    valid = torch.arange(120) % 3 > 0
    options: dict[str, Any] = {"within": within, "n_permutations": 2000}
    masked = chance_level(data.x_in, data.x_out, hidden, valid=valid, **options)
    left_out = chance_level(data.x_in[valid], data.x_out[valid], hidden[valid], **options)
    torch.testing.assert_close(masked.information, left_out.information, rtol=0, atol=1e-12)
    torch.testing.assert_close(masked.movable, left_out.movable, rtol=0, atol=0)
    torch.testing.assert_close(masked.mean, left_out.mean, rtol=0.15, atol=0)
    torch.testing.assert_close(masked.p_values, left_out.p_values, rtol=0, atol=0.08)

    rubbish = torch.where(valid, data.x_in, 99), torch.where(valid, data.x_out, -5)
    again = chance_level(
        *rubbish, torch.where(valid.unsqueeze(1), hidden, 7), valid=valid, **options
    )
    torch.testing.assert_close(again.mean, masked.mean, rtol=0, atol=1e-12)
    assert again.family_p_values.tolist() == masked.family_p_values.tolist()


def test_an_empty_relay_set_conditions_on_all_units() -> None:
    data = random_data(samples=100, units=2, seed=23)
    chance = chance_level(data.x_in, data.x_out, data.hidden[0], [[], [0, 1]])
    expected = [given_others(data.x_in, data.x_out, data.hidden[0], r) for r in ([], [0, 1])]
    assert chance.information.tolist() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("within", WITHIN)
def test_more_units_than_a_machine_word_has_bits(within: Within) -> None:
    """There are seventy units, and the last one tells states apart. A word holds 64."""
    data = random_data(samples=80, units=2, seed=29)
    hidden = torch.zeros(80, 70, dtype=torch.uint8)
    hidden[:, 0], hidden[:, 69] = data.hidden[0, :, 0], data.hidden[0, :, 1]
    hidden[0] = 1 - hidden[0]
    family = [[0], [35], [69]]
    chance = chance_level(data.x_in, data.x_out, hidden, family, within=within)
    expected = [given_others(data.x_in, data.x_out, hidden, relays) for relays in family]
    assert chance.information.tolist() == pytest.approx(expected, abs=1e-12)


def test_the_seed_decides_and_no_other_generator_is_touched() -> None:
    data = random_data(samples=50, units=3, seed=37)
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    first = chance_level(*data, seed=4)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(1)
    second, other = chance_level(*data, seed=4), chance_level(*data, seed=5)
    assert torch.equal(first.mean, second.mean)
    assert torch.equal(first.family_p_values, second.family_p_values)
    assert not torch.equal(first.mean, other.mean)


def test_states_that_occur_once_leave_nothing_to_permute() -> None:
    data = random_data(samples=32, units=1, seed=41)
    states = (torch.arange(32).unsqueeze(1) >> torch.arange(6)) & 1
    with pytest.warns(
        UserWarning, match=r"strata are singletons\), so nothing can be perm"
    ) as caught:
        chance = chance_level(data.x_in, data.x_out, states, [[5]])
    assert caught[0].filename == __file__
    assert "more samples or fewer levels" in str(caught[0].message)
    assert chance.empty.tolist() == [True]
    assert float(chance.movable) == 0.0
    assert float(chance.information) == float(chance.mean) == float(chance.threshold) == 0.0
    assert float(chance.p_values) == float(chance.family_p_values) == 1.0


def test_a_warning_says_when_labels_are_the_reason() -> None:
    data = random_data(samples=32, units=1, seed=43)
    constant = torch.zeros_like(data.x_in)
    with pytest.warns(UserWarning, match=r"x_in or x_out is constant in every state"):
        chance_level(constant, data.x_out, data.hidden[0])
    with pytest.warns(UserWarning, match=r"x_out is constant, or x_in is in every state"):
        chance_level(data.x_in, constant, data.hidden[0], within="everywhere")


def test_no_warning_where_a_set_can_be_tested() -> None:
    bit = torch.arange(32) % 2
    chance = chance_level(bit, bit, torch.stack([bit, 0 * bit], dim=1))
    assert chance.empty.tolist() == [False, True]


def test_permutations_that_change_nothing_give_no_evidence() -> None:
    """Each label occurs once in its state, so every order of X_out gives the same value."""
    state = torch.arange(20) // 2
    label = torch.arange(20) % 2
    chance = chance_level(label, label, torch.stack([state, state], dim=1), [[0]])
    assert float(chance.information) == pytest.approx(1.0)
    assert float(chance.movable) == 1.0
    assert float(chance.p_values) == float(chance.family_p_values) == 1.0


@pytest.mark.parametrize("within", WITHIN)
def test_false_alarms_are_as_rare_as_promised(within: Within) -> None:
    alarms = 0
    for seed in range(200):
        data = random_data(samples=40, units=4, seed=seed)
        # Units that depend on each other, as those of a network do.
        hidden = data.hidden[0] & data.hidden[0].roll(1, dims=1)
        chance = quiet(
            data.x_in, data.x_out, hidden, within=within, n_permutations=99, seed=seed + 1000
        )
        alarms += bool((chance.family_p_values <= 0.05).any())
    # Binomial(200, 0.05) is above 21 with a probability of 0.0003.
    assert alarms <= 21


def test_false_alarms_are_rare_where_other_units_account_for_the_information() -> None:
    alarms = 0
    for seed in range(200):
        data = random_data(samples=60, units=4, seed=seed)
        hidden = data.hidden[0].clone()
        hidden[:, 1] = hidden[:, 0]
        chance = quiet(
            data.x_in & hidden[:, 0],
            data.x_out | hidden[:, 0],
            hidden,
            n_permutations=99,
            seed=seed + 1000,
        )
        alarms += bool((chance.family_p_values <= 0.05).any())
    assert alarms <= 21


@given(data=discrete_data(max_units=3), more=st.data())
@settings(max_examples=30)
def test_the_value_alone_follows_the_samples_when_they_are_reordered(
    data: Data, more: st.DataObject
) -> None:
    assume(len(data.x_in) > 1)
    order = torch.tensor(more.draw(st.permutations(range(len(data.x_in)))))
    reordered = quiet(*(column[order] for column in data), n_permutations=19)
    expected = quiet(*data, n_permutations=19)
    torch.testing.assert_close(reordered.information, expected.information, rtol=0, atol=1e-12)
    torch.testing.assert_close(reordered.movable, expected.movable, rtol=0, atol=0)


BIT = torch.tensor([0, 1, 0, 1])
refused = refusals_of(chance_level, x_in=BIT, x_out=BIT, hidden=torch.stack([BIT, BIT], dim=1))


def test_options_that_make_no_sense_are_refused() -> None:
    refused(ValueError, r"within: got 'state'; it takes 'states' or 'everywhere'", within="state")
    refused(ValueError, r"n_permutations: got 0; it takes at least 1", n_permutations=0)
    for number in (10.0, True):
        refused(TypeError, r"n_permutations: got .*an int", n_permutations=number)
    for level in (0.0, 1.0, -0.1, float("nan")):
        refused(ValueError, r"level: got .*; it takes a probability between 0 and 1", level=level)


@pytest.mark.parametrize(("level", "needed"), [(0.05, 19), (0.01, 99), (0.001, 999), (0.3, 3)])
def test_a_level_out_of_reach_is_refused_with_what_it_takes(level: float, needed: int) -> None:
    refused(
        ValueError,
        rf"level: got {level}, but with n_permutations={needed - 1} no p-value is below "
        rf"1/{needed}; it takes n_permutations of at least {needed}$",
        level=level,
        n_permutations=needed - 1,
    )
    data = random_data(samples=20, units=1, seed=47)
    chance = chance_level(*data, level=level, n_permutations=needed)
    assert (chance.level, chance.n_permutations) == (level, needed)


def test_sets_that_are_not_sets_of_units_are_refused() -> None:
    for family, error, match in (
        ([], ValueError, "relay_units: got no set; .*leave it out"),
        ([0, 1], TypeError, r"relay_units: got 0 for a set; it takes sets .*\[\[0\], \[1, 2\]\]"),
        (["ab"], TypeError, "relay_units: got 'ab' for a set"),
        ([[0], [2]], ValueError, "relay_units: got 2 in set 1; hidden has 2 units, so it"),
        ([[-1]], ValueError, "relay_units: got -1 in set 0"),
        ([[1, 1]], ValueError, "relay_units: unit 1 is named twice in set 0"),
        ([[True, False]], TypeError, "relay_units: got True in set 0; it .* indices, not a mask"),
        ([[0.0]], TypeError, "relay_units: got 0.0 in set 0; it takes unit indices, not a mask"),
        ([torch.tensor([True])], TypeError, "relay_units: got True in set 0; .*, not a mask"),
    ):
        refused(error, match, relay_units=family)


def test_sets_may_be_tensors() -> None:
    data = random_data(samples=30, units=3, seed=53)
    expected = chance_level(*data, [[0], [2]])
    families: list[Any] = [torch.tensor([[0], [2]]), [torch.tensor([0]), range(2, 3)]]
    for family in families:
        assert torch.equal(chance_level(*data, family).mean, expected.mean)


def test_arguments_are_checked_by_name() -> None:
    bit, hidden = torch.tensor([0, 1, 0]), torch.tensor([[0], [1], [0]])
    valid = torch.tensor([[True] * 3, [False] * 3])
    refused = refusals_of(chance_level, x_in=bit, x_out=bit, hidden=hidden)
    refused(TypeError, r"hidden: got torch\.float32; it takes integers", hidden=hidden.float())
    refused(TypeError, r"x_out: got torch\.float32; it takes integers", x_out=bit.float())
    refused(ValueError, r"x_in: got shape \(2,\) for hidden \(3, 1\); it takes", x_in=bit[:2])
    refused(TypeError, r"valid: got torch\.int64; it takes a mask of torch.bool", valid=bit)
    refused(ValueError, r"valid, weights: no sample is counted; leave that", valid=bit > 1)
    refused(ValueError, r"no sample is counted at leading index \(1,\); leave that", valid=valid)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("within", WITHIN)
def test_results_are_the_same_on_every_device(within: Within) -> None:
    data = random_data(samples=200, units=3, seed=59, labels=4, steps=3)
    expected = chance_level(*data, within=within)
    on_device = Data(*(column.cuda() for column in data))
    got = chance_level(*on_device, within=within)
    assert got.mean.device.type == "cuda"
    for name in ("information", "mean", "threshold", "p_values", "family_p_values", "movable"):
        torch.testing.assert_close(getattr(got, name).cpu(), getattr(expected, name))
