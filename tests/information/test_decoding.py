from __future__ import annotations

import math
import random
import sys

import numpy as np
import pytest
import torch
from torch import Tensor

from lightning_relay.information.decoding import decoded_information
from tests.support.refusals import refusals_of

RELAYS = [0, 1, 2]
NOISE = list(range(3, 48))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def coins(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(2, shape, generator=generator(seed))


def eight_classes() -> tuple[Tensor, Tensor]:
    """Labels and states: 3 exact relays of a class's bits, 45 coin flips."""
    label = torch.randint(8, (1000,), generator=generator())
    bits = label.unsqueeze(1) >> torch.arange(3) & 1
    return label, torch.cat([bits, coins(1000, 45, seed=1)], dim=1)


def noisy_unit(bit: Tensor, noise: float, seed: int = 1) -> Tensor:
    """A state 1 or -1 plus Gaussian noise, ``(samples, 1)``."""
    return (2.0 * bit - 1 + noise * torch.randn(len(bit), generator=generator(seed))).unsqueeze(1)


def entropy_given_noisy_unit(noise: float, odds: float = 1.0) -> float:
    """H(bit | unit) in bits by numerical integration, for a bit that is 1 at these odds."""
    y = torch.linspace(-1 - 12 * noise, 1 + 12 * noise, 20001, dtype=torch.float64)
    chance = odds / (1 + odds)
    one = chance * torch.exp(-((y - 1) ** 2) / (2 * noise**2))
    none = (1 - chance) * torch.exp(-((y + 1) ** 2) / (2 * noise**2))
    density = (one + none) / (noise * math.sqrt(2 * math.pi))
    p = one / (one + none)
    bits = -(torch.xlogy(p, p) + torch.xlogy(1 - p, 1 - p)) / math.log(2)
    return float(torch.trapezoid(density * bits, y))


def test_noise_units_leave_three_bits_and_the_relays_take_them() -> None:
    label, states = eight_classes()
    given_noise = decoded_information(label, label, states, NOISE)
    given_all = decoded_information(label, label, states, [*RELAYS, *NOISE])
    assert given_noise == pytest.approx(3, abs=0.02)
    assert given_all == pytest.approx(0, abs=0.02)
    assert given_noise - given_all == pytest.approx(3, abs=0.1)


@pytest.mark.parametrize("width", [4, 8, 16, 24])
def test_fewer_noise_units_leave_three_bits_too(width: int) -> None:
    label, states = eight_classes()
    value = decoded_information(label, label, states, NOISE[:width])
    assert value == pytest.approx(3, abs=0.02)


def test_noise_units_do_not_hide_what_a_single_relay_says() -> None:
    label, states = eight_classes()
    assert decoded_information(label, label, states, [0, *NOISE]) == pytest.approx(2, abs=0.1)
    assert decoded_information(label, label, states, [0, 1, *NOISE]) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("noise", [0.5, 1.0])
def test_a_gaussian_unit_leaves_what_the_integral_says(noise: float) -> None:
    bit = coins(2000)
    value = decoded_information(bit, bit, noisy_unit(bit, noise), [0])
    assert value == pytest.approx(entropy_given_noisy_unit(noise), abs=0.04)


def test_a_noisy_output_beside_a_gaussian_unit() -> None:
    bit = coins(4000)
    flipped = torch.rand(4000, generator=generator(2)) < 0.1
    value = decoded_information(bit, bit ^ flipped.long(), noisy_unit(bit, 1.0), [0])
    # X_out moves the odds of the bit to 9 or 1/9; both leave the same entropy.
    expected = entropy_given_noisy_unit(1.0) - entropy_given_noisy_unit(1.0, odds=9.0)
    assert value == pytest.approx(expected, abs=0.04)


def test_nothing_given_a_noisy_output_says_what_its_channel_lets_through() -> None:
    label, states = eight_classes()
    other = torch.randint(8, (1000,), generator=generator(3))
    said = torch.where(torch.rand(1000, generator=generator(2)) < 0.5, label, other)
    right, wrong = 9 / 16, 1 / 16
    expected = 3 + right * math.log2(right) + 7 * wrong * math.log2(wrong)
    unconditional = decoded_information(label, said, states, [])
    assert unconditional == pytest.approx(expected, abs=0.15)
    assert decoded_information(label, said, states, NOISE) == pytest.approx(unconditional, abs=0.02)


def test_an_output_that_was_read_off_the_units_adds_nothing() -> None:
    bit = coins(2000)
    unit = noisy_unit(bit, 1.0)
    said = (unit[:, 0] > 0).long()
    assert decoded_information(bit, said, unit, []) > 0.3
    assert decoded_information(bit, said, unit, [0]) == pytest.approx(0, abs=0.01)


def test_an_output_of_chance_says_nothing() -> None:
    label, states = eight_classes()
    said = torch.randint(8, (1000,), generator=generator(4))
    for units in ([], RELAYS, NOISE):
        assert decoded_information(label, said, states, units) == pytest.approx(0, abs=0.02)


def test_a_small_difference_of_two_units_that_share_much_noise_is_found() -> None:
    bit = coins(1000)
    shared = 20 * torch.randn(1000, 1, generator=generator(1))
    states = torch.cat([shared + bit.unsqueeze(1), shared, coins(1000, 10, seed=2)], dim=1)
    assert decoded_information(bit, bit, states, list(range(12))) < 0.05


def test_xor_of_two_units_is_not_seen_and_the_value_is_an_upper_bound() -> None:
    states = coins(1000, 2)
    label = states[:, 0] ^ states[:, 1]
    assert decoded_information(label, label, states, [0, 1]) == pytest.approx(1, abs=0.03)


def test_xor_of_output_and_unit_is_not_seen_and_the_value_is_a_lower_bound() -> None:
    states = coins(1000, 2)
    label = states[:, 0] ^ states[:, 1]
    assert decoded_information(label, states[:, 0], states, [1]) == pytest.approx(0, abs=0.03)


def test_more_units_than_samples() -> None:
    label, _ = eight_classes()
    states = torch.randn(120, 200, generator=generator())
    label = label[:120]
    value = decoded_information(label, label, states, range(200))
    assert value == pytest.approx(decoded_information(label, label, states, []), abs=0.1)


def test_is_finite_for_rare_classes_constant_units_and_extreme_states() -> None:
    label = torch.tensor([0] * 30 + [1] * 30 + [2, 3, 3])
    said = torch.tensor([0] * 29 + [5] + [1] * 31 + [2, 0])
    states = torch.stack(
        [
            torch.full((63,), 0.1),
            label * 1e-30,
            label * 1e30,
            torch.arange(63) == 7,
            (torch.arange(63) == 40) * 1e6 + torch.arange(63) * 1e-6,
        ],
        dim=1,
    ).double()
    for units in ([], [0], [1, 2], [3, 4], [0, 1, 2, 3, 4]):
        value = decoded_information(label, said, states, units, folds=5)
        assert -0.5 < value < 1.5
    empty = decoded_information(label, said, states, [])
    assert decoded_information(label, said, states, [0]) == empty


@pytest.mark.parametrize(
    "label",
    [torch.arange(4) // 2, torch.arange(20) // 19, torch.arange(20) // 3, torch.arange(15)],
    ids=["tiny", "one of a class", "fewer of a class than folds", "all distinct"],
)
def test_classes_too_rare_for_the_folds_are_taken(label: Tensor) -> None:
    states = torch.randn(len(label), 2, generator=generator())
    value = decoded_information(label, label, states, [0, 1], folds=3)
    assert abs(value) <= 2 * math.log2(2 * len(label))


def test_squares_of_extreme_states_do_not_overflow() -> None:
    label = torch.arange(60) % 2
    states = (2 * label - 1).unsqueeze(1) * torch.tensor([1e308, 1e-308], dtype=torch.float64)
    for unit in (0, 1):
        assert decoded_information(label, label, states, [unit]) == pytest.approx(0, abs=0.01)


def test_units_of_any_scale_and_order_give_the_same() -> None:
    label, states = eight_classes()
    value = decoded_information(label, label, states, [0, 1, 5, 6])
    assert decoded_information(label, label, states, (6, 1, 0, 5)) == value
    moved = decoded_information(label, label, states.double() * 1e-3 + 5, [0, 1, 5, 6])
    assert moved == pytest.approx(value, abs=1e-3)
    # Names in another order would draw other folds.
    renamed = decoded_information(7 * label - 30, -label, states.to(torch.int8), [0, 1, 5, 6])
    assert renamed == pytest.approx(value, abs=1e-6)


@pytest.mark.parametrize("constant", ["x_in", "x_out"])
def test_a_constant_label_gives_zero(constant: str) -> None:
    labels = {"x_in": coins(50), "x_out": coins(50)} | {constant: torch.ones(50).long()}
    assert decoded_information(**labels, states=coins(50, 2), units=[0, 1]) == 0


def test_is_deterministic_and_leaves_all_generators_alone() -> None:
    bit = coins(300)
    unit = noisy_unit(bit, 1.0)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002
    value = decoded_information(bit, bit, unit, [0], seed=3)
    after = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]
    torch.rand(5)
    assert decoded_information(bit, bit, unit, [0], seed=3) == value
    assert decoded_information(bit, bit, unit, [0], seed=4) != value


def test_takes_states_that_require_gradients() -> None:
    bit = coins(100)
    unit = noisy_unit(bit, 1.0).requires_grad_()
    assert math.isfinite(decoded_information(bit, bit, unit, [0]))
    assert unit.grad is None


def test_without_scikit_learn_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.exceptions", None)
    with pytest.raises(
        ModuleNotFoundError,
        match=r"estimator='decoder' needs scikit-learn; pip install 'lightning_relay\[decoders\]'",
    ):
        decoded_information(coins(20), coins(20), coins(20, 2), [0])


def test_what_it_cannot_take_is_refused() -> None:
    bit, states = coins(20), coins(20, 2).double()
    refused = refusals_of(decoded_information, x_in=bit, x_out=bit, states=states, units=[0])
    refused(TypeError, r"x_in: got torch.float32; it takes integers", x_in=bit.float())
    refused(ValueError, r"x_out: got shape \(19,\) for states \(20, 2\); it takes", x_out=bit[1:])
    refused(TypeError, r"states: got list; it takes a tensor of numbers", states=[[0.0]])
    refused(TypeError, r"states: got torch.complex128; it takes real numbers", states=states * 1j)
    refused(
        ValueError, r"states: got shape \(20,\); it takes \(samples, units\)", states=states[:, 0]
    )
    refused(ValueError, r"units: got 2; hidden has 2 units, so it takes 0 to 1", units=[2])
    refused(ValueError, r"units: unit 0 is named twice; name each unit once", units=[0, 0])
    refused(TypeError, r"units: got 0.0; it takes unit indices, not a mask", units=[0.0])
    refused(ValueError, r"folds: got 2; it takes at least 3", folds=2)
    refused(ValueError, r"folds: got 21 for 20 samples; it takes at most 20", folds=21)
    refused(TypeError, r"folds: got 3.0; it takes an integer", folds=3.0)
    refused(TypeError, r"seed: got 0.5; it takes an integer", seed=0.5)
    states[3, 1] = math.nan
    assert math.isfinite(decoded_information(bit, bit, states, [0]))
    refused(ValueError, r"states: got a state .* not finite; .* leave out those", units=[0, 1])
