"""Relay transfer: its laws, and agreement with entropies of tuples."""

from __future__ import annotations

from math import inf, isnan, nan
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from scipy.stats import hypergeom

from lightning_relay.information import mutual_information, relay_order, relay_transfer
from lightning_relay.information.lags import half_life, lag_profile, period
from tests.support import brute_force

if TYPE_CHECKING:
    from torch import Tensor

    from lightning_relay.information.options import Estimator

BIT = torch.tensor([0, 1]).repeat(400)


def coins(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(2, shape, generator=torch.Generator().manual_seed(seed))


def carried_by(unit_of_step: list[list[int]], units: int) -> Tensor:
    """Codes of coin flips, but for units that copy the bit at their steps."""
    codes = coins(len(unit_of_step), len(BIT), units)
    for step, carriers in enumerate(unit_of_step):
        codes[step, :, carriers] = BIT.unsqueeze(-1)
    return codes


def off_diagonal(matrix: Tensor) -> Tensor:
    return matrix[~torch.eye(len(matrix), dtype=torch.bool)]


def test_information_that_moves_at_every_step_is_not_transferred() -> None:
    found = relay_transfer(BIT, BIT, carried_by([[step] for step in range(6)], 6))
    torch.testing.assert_close(found.transfer.diagonal(), torch.ones(6, dtype=torch.float64))
    expected = torch.full((30,), -0.2, dtype=torch.float64)  # one unit of six in place of one
    torch.testing.assert_close(off_diagonal(found.transfer), expected, rtol=0, atol=0.01)
    assert (found.half_life, found.period) == (1.0, 0)
    assert found.set_size.tolist() == [1] * 6
    assert (found.reached > 0.99).all()  # a permuted copy seems to tell some thousandths of a bit


def test_copies_that_stay_are_transferred_although_greedy_orders_jump() -> None:
    codes = carried_by([[0, 1, 2, 3, 4]] * 6, 20)
    codes = codes ^ (torch.rand(codes.shape, generator=torch.Generator().manual_seed(1)) < 0.03)
    most_important = relay_order(BIT, BIT, codes, direction="grow").units[:, -1]
    assert len(set(most_important.tolist())) > 2
    found = relay_transfer(BIT, BIT, codes)
    assert off_diagonal(found.transfer).min() > 0.97
    assert found.half_life == inf
    exact = relay_transfer(BIT, BIT, carried_by([[0, 1, 2, 3, 4]] * 6, 20))
    assert (exact.transfer == 1).all()
    assert (exact.standard_error == 0).all()


def test_ties_are_broken_at_random_whatever_the_numbers_of_the_units() -> None:
    codes = carried_by([[0, 5], [5]], 8)  # two copies at first, and one of them stays
    found = relay_transfer(BIT, BIT, codes, n_splits=40)
    turned = relay_transfer(BIT, BIT, codes.flip(-1), n_splits=40, seed=1)
    for transfer in (found.transfer, turned.transfer):
        assert transfer[1, 0] == 1
        assert transfer[0, 1] == pytest.approx((1 - 1 / 7) / 2, abs=0.25)  # one in two halves
    assert found.standard_error[0, 1] > 0.3


def test_weak_units_that_stay_are_transferred_at_every_size_of_set() -> None:
    label = coins(1000, seed=3)
    codes = coins(6, 1000, 20, seed=4)
    copied = torch.rand(6, 1000, 6, generator=torch.Generator().manual_seed(5)) < 0.5
    codes[..., :6] = torch.where(copied, label.unsqueeze(-1), codes[..., :6])
    found = relay_transfer(label, label, codes, n_splits=10)
    sizes = found.set_size
    assert sizes.min() < sizes.max()
    alike = sizes.unsqueeze(1) == sizes
    assert (found.transfer[alike] - 1).abs().max() < 0.1
    assert (found.transfer - 1).abs().max() < 0.4
    assert found.lag_profile.tolist() == pytest.approx([1.0] * 5, abs=0.1)


def test_a_rotation_has_its_period() -> None:
    found = relay_transfer(BIT, BIT, carried_by([[step % 3] for step in range(10)], 8))
    assert (found.half_life, found.period) == (1.0, 3)
    assert found.lag_profile[[2, 5, 8]].tolist() == [1.0, 1.0, 1.0]
    assert found.lag_profile[[0, 1, 3, 4]].max() < -0.1


def test_a_code_that_changes_its_sign_has_not_moved() -> None:
    codes = carried_by([[0, 1]] * 5, 10)
    codes[::2] = 1 - codes[::2]
    assert (relay_transfer(BIT, BIT, codes).transfer == 1).all()


def test_information_that_drifts_has_a_half_life() -> None:
    found = relay_transfer(BIT, BIT, carried_by([[step // 2] for step in range(12)], 12))
    assert found.half_life == 2.0  # of pairs one step apart, six of eleven are in one unit
    assert found.lag_profile[0] == pytest.approx(6 / 11, abs=0.06)


@pytest.mark.parametrize("samples", [20, 100, 1000])
@pytest.mark.parametrize("n_splits", [4, 6])
def test_noise_cannot_be_measured(samples: int, n_splits: int) -> None:
    for seed in range(6):
        label = coins(samples, seed=seed)
        codes = coins(8, samples, 10, seed=100 + seed)
        found = relay_transfer(label, label, codes, n_splits=n_splits, seed=seed)
        assert found.transfer.isnan().all()
        assert found.standard_error.isnan().all()
        assert found.lag_profile.isnan().all()
        assert isnan(found.half_life)
        assert found.period == 0
        assert found.reached.tolist() == [0.0] * 8
        assert found.set_size.tolist() == [0] * 8


def test_what_cannot_be_measured_at_some_steps_leaves_the_others() -> None:
    codes = carried_by([[0], [], [0], [0]], 6)
    codes[3] = 1  # all units of a step are constant
    found = relay_transfer(BIT, BIT, codes)
    assert found.transfer[0].isnan().tolist() == [False, True, False, True]
    assert found.transfer[:, 1].isnan().all()
    assert found.transfer[3].isnan().all()
    assert found.set_size[3] == 0
    assert found.reached[3] == 0
    assert found.lag_profile.isnan().tolist() == [True, False, True]
    same = relay_transfer(torch.zeros_like(BIT), torch.zeros_like(BIT), codes)
    assert same.transfer.isnan().all()
    assert same.reached.isnan().all()
    other = coins(len(BIT), seed=9)
    assert relay_transfer(BIT, other, codes).set_size.tolist() == [0] * 4


def test_few_units_are_compared_with_as_many_random_ones() -> None:
    one = relay_transfer(BIT, BIT, BIT.reshape(1, -1, 1).expand(3, -1, 1))
    assert one.transfer.isnan().all()  # the only unit is also the random one
    pair = torch.stack([BIT, 0 * BIT], -1).expand(3, -1, -1)
    assert (relay_transfer(BIT, BIT, pair).transfer == 1).all()


def test_a_single_step_has_no_profile() -> None:
    found = relay_transfer(BIT, BIT, carried_by([[0]], 4))
    assert found.transfer.tolist() == [[1.0]]
    assert found.lag_profile.shape == (0,)
    assert isnan(found.half_life)


def noisy_case(units: int, levels: int, samples: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(units)
    x_in = torch.randint(4, (samples,), generator=generator)
    x_out = torch.where(torch.rand(samples, generator=generator) < 0.8, x_in, 0)
    hidden = torch.randint(levels, (3, samples, units), generator=generator)
    for step, unit in np.ndindex(3, 2):
        copies = torch.rand(samples, generator=generator) < 0.9
        hidden[step, copies, unit + step % 2] = (x_in[copies] >> unit) % levels
    valid = torch.rand(3, samples, generator=generator) < 0.9
    return {"x_in": x_in, "x_out": x_out, "hidden": hidden, "valid": valid}


class Halves:
    """The draws of a transfer, recorded while it runs."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        module = "lightning_relay.information.transfer"
        from lightning_relay.information import transfer

        draw, sets_of, join = transfer._halves, transfer._Sets.of, transfer._Step.joined
        self.halves: list[Any] = []

        def halves(*arguments: Any) -> Any:
            self.halves += list(draw(*arguments))
            return np.stack(self.halves[-2:])

        def of(orders: Any, gains: Any, *others: Any) -> Any:
            self.orders, self.gains = orders, gains
            self.sets = sets_of(orders, gains, *others)
            return self.sets

        def joined(step: Any, fraction: float, priority: Any) -> Any:
            self.priority = priority
            return join(step, fraction, priority)

        monkeypatch.setattr(transfer._Step, "joined", joined)
        monkeypatch.setattr(f"{module}._halves", halves)
        monkeypatch.setattr(transfer._Sets, "of", of)

    def read(self, half: int, step: int) -> Any:
        """Members of the set that a half reads."""
        return self.sets.members[self.sets.chosen[half, step]]


def shared_bits(case: dict[str, Any], estimator: Estimator) -> Any:
    """I(X_in; X_out), bits ``(steps,)``."""
    labels = ([part[own] for part in (case["x_in"], case["x_out"])] for own in case["valid"])
    return np.array([float(mutual_information(*own, estimator=estimator)) for own in labels])


@pytest.mark.parametrize("estimator", ["plugin", "miller_madow", "grassberger"])
@pytest.mark.parametrize(
    ("units", "levels", "samples"), [(3, 2, 120), (6, 3, 200), (4, 300, 150), (70, 2, 150)]
)
def test_agrees_with_measures_of_given_units(
    units: int, levels: int, samples: int, estimator: Estimator, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = noisy_case(units, levels, samples)
    drawn = Halves(monkeypatch)
    found = relay_transfer(**case, n_splits=4, fraction=0.8, estimator=estimator, seed=4)
    valid = case["valid"].numpy()

    def told(half: int, step: int, members: Any) -> float:
        kept = torch.from_numpy(drawn.halves[half] & valid[step])
        labels = case["x_in"][kept], case["x_out"][kept]
        known = case["hidden"][step, kept][:, torch.from_numpy(members)]
        unbiased: Estimator = "grassberger" if estimator == "plugin" else estimator
        shared = mutual_information(*labels, estimator=unbiased)
        given = known if members.any() else None
        return float(shared - mutual_information(*labels, given=given, estimator=unbiased))

    gained, possible = np.zeros((8, 3, 3)), np.zeros((8, 3, 3))
    own = np.zeros((8, 3))
    for half, step in np.ndindex(8, 3):
        own[half, step] = told(half, step, drawn.read(half, step))
    for half, t, other in np.ndindex(8, 3, 3):
        members = drawn.read(half, t)
        sets = [drawn.sets.members[place] for place in drawn.sets.random[half, t]]
        assert [int(random.sum()) for random in sets] == [int(members.sum())] * min(32, units)
        by_chance = np.mean([told(half, other, random) for random in sets])
        gained[half, t, other] = told(half, other, members) - by_chance
        possible[half, t, other] = own[half, other] - by_chance
    whole = possible.mean(0)
    transfer = gained.mean(0) / np.where(whole, whole, np.nan)
    measured = found.transfer.isfinite().numpy()
    assert levels == 300 or measured.any()
    np.testing.assert_allclose(found.transfer.numpy()[measured], transfer[measured], atol=1e-9)
    error = (
        (gained - transfer * possible).std(0, ddof=1)
        * np.sqrt(9 / 8)
        / np.where(whole, whole, np.nan)
    )
    np.testing.assert_allclose(found.standard_error.numpy()[measured], error[measured], atol=1e-9)
    shared = shared_bits(case, estimator)
    np.testing.assert_allclose(found.reached, drawn.sets.known / shared, atol=1e-9)
    spread = possible.std(0, ddof=1) * np.sqrt(9 / 8)
    large = whole > np.maximum(4 * spread, 0.05 * shared)
    own_found = large.diagonal() & (found.set_size.numpy() > 0)
    assert (measured == large & own_found & own_found[:, np.newaxis]).all()


def with_copy(x_in: Any, x_out: Any, hidden: Any, known: list[int], unit: int) -> float:
    """Mean I(X_in; X_out | S and a copy of a unit), permuted among samples alike in S, bits."""
    states = np.array([hash(tuple(row[known])) for row in hidden])
    total = 0.0
    for state in set(states.tolist()):
        here = states == state
        codes, pairs = hidden[here, unit], np.stack([x_in[here], x_out[here]], 1)
        for sign, columns in ((1, [0, 1]), (1, []), (-1, [0]), (-1, [1])):
            bags = np.unique(pairs[:, columns], axis=0, return_counts=True)[1] if columns else None
            for bag in [len(pairs)] if bags is None else bags:
                for holders in np.bincount(codes):
                    c = np.arange(bag + 1)
                    chance = hypergeom(len(codes), holders, bag).pmf(c)
                    total += sign * float((chance * c * np.log2(np.maximum(c, 1))).sum())
    return total / len(hidden)


def test_one_half_says_which_units_join_and_the_other_how_many(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    case = noisy_case(5, 2, 120)
    drawn = Halves(monkeypatch)
    relay_transfer(**case, n_splits=4, fraction=0.8)

    def data(half: int, step: int) -> tuple[Any, Any, Any]:
        kept = torch.from_numpy(drawn.halves[half]) & case["valid"][step]
        return tuple(
            part.numpy()
            for part in (case["x_in"][kept], case["x_out"][kept], case["hidden"][step, kept])
        )

    curves = np.zeros((8, 3, 5))
    of_all = shared_bits(case, "plugin")
    for half, step in np.ndindex(8, 3):
        x_in, x_out, hidden = (part.tolist() for part in data(half ^ 1, step))
        order: list[int] = []
        left = brute_force.conditional_information(x_in, x_out, [()] * len(x_in))
        while left > 0.02 * of_all[step] and len(order) < 5:
            values = {
                unit: brute_force.conditional_information(
                    x_in, x_out, brute_force.rows_of(hidden, [*order, unit])
                )
                for unit in drawn.priority[half].tolist()
                if unit not in order
            }
            left = min(values.values())
            order.append(next(unit for unit, bits in values.items() if bits <= left + 1e-9))
        assert drawn.orders[step, half].tolist() == order + [-1] * (5 - len(order))
        x_in, x_out, hidden = data(half, step)
        for turn in range(len(order)):
            states = [tuple(row[order[: turn + 1]]) for row in hidden]
            left = brute_force.conditional_information(x_in.tolist(), x_out.tolist(), states)
            copy = with_copy(x_in, x_out, hidden, order[:turn], order[turn])
            curves[half, step, turn] = copy - left
    np.testing.assert_allclose(drawn.gains, curves.swapaxes(0, 1), atol=1e-9)
    for step, known in enumerate(curves.mean(0).cumsum(1)):
        size = np.flatnonzero(known >= 0.8 * min(known.max(), of_all[step]) - 1e-9)[0] + 1
        error = curves[:, step].cumsum(1).std(0, ddof=1)[size - 1] * np.sqrt(9 / 8)
        assert known[size - 1] > max(4 * error, 0.05 * of_all[step])
        assert drawn.sets.size[step] == size
        bits = min(known[size - 1], of_all[step])
        assert drawn.sets.known[step] == pytest.approx(bits, abs=1e-9)
        for half in range(8):
            members = drawn.orders[step, half][:size]
            assert np.flatnonzero(drawn.read(half, step)).tolist() == sorted(members[members >= 0])


def test_halves_are_about_alike_and_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = Halves(monkeypatch)
    label = torch.arange(99) % 7
    relay_transfer(label, label, coins(2, 99, 4), n_splits=4)
    assert len(drawn.halves) == 8
    for first, second in zip(drawn.halves[::2], drawn.halves[1::2], strict=True):
        assert (first ^ second).all()
        counts = np.bincount(label[first], minlength=7) - np.bincount(label[second], minlength=7)
        assert np.abs(counts).max() <= 1


def test_steps_that_few_sequences_reach_are_left_out() -> None:
    codes = carried_by([[0]] * 4, 6)
    valid = torch.ones(4, len(BIT), dtype=torch.bool)
    valid[2, 3:] = False
    valid[3, 1:] = False
    found = relay_transfer(BIT, BIT, codes, valid=valid)
    assert (found.transfer[:2, :2] == 1).all()
    assert found.transfer[2:].isnan().all()
    assert found.transfer[:, 2:].isnan().all()
    with pytest.raises(ValueError, match="valid, weights: no sample is counted at leading index"):
        relay_transfer(BIT, BIT, codes, valid=valid & (torch.arange(4) < 3).unsqueeze(-1))


def test_labels_may_differ_by_step() -> None:
    labels = coins(3, 800, seed=5)
    codes = coins(3, 800, 6)
    codes[..., 2] = labels
    found = relay_transfer(labels, labels, codes)
    assert (found.transfer == 1).all()


def test_the_seed_decides_and_no_other_random_state_is_touched() -> None:
    codes = carried_by([[0], [1, 2], [2]], 9)
    codes ^= torch.rand(codes.shape, generator=torch.Generator().manual_seed(2)) < 0.1
    state = torch.get_rng_state(), np.random.get_state()[1].tolist()  # noqa: NPY002
    one, same, other = (relay_transfer(BIT, BIT, codes, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), state[0])
    assert np.random.get_state()[1].tolist() == state[1]  # noqa: NPY002
    assert torch.equal(one.transfer, same.transfer)
    assert relay_transfer(BIT, BIT, codes, seed=-1).transfer.isfinite().any()
    assert not torch.equal(one.transfer, other.transfer)
    assert (one.transfer - other.transfer).abs().max() < 5 * one.standard_error.max()


def test_the_error_says_how_far_other_samples_are() -> None:
    def codes(seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        codes = carried_by([[0], [0, 1], [1]], 8)
        return codes ^ (torch.rand(codes.shape, generator=generator) < 0.15)

    found = [relay_transfer(BIT, BIT, codes(seed), seed=seed) for seed in range(24)]
    between = torch.stack([one.transfer for one in found]).std(0)
    said = torch.stack([one.standard_error for one in found]).mean(0)
    apart = ~torch.eye(3, dtype=torch.bool)
    assert (said[apart] > 0.6 * between[apart]).all()
    assert (said[apart] < 2.5 * between[apart] + 0.02).all()


def test_profiles_have_half_lives_and_periods() -> None:
    def of(*values: float) -> tuple[float, int]:
        profile = np.array(values)
        return half_life(profile), period(profile)

    assert of(-0.34, 0.82, -0.39, 0.73) == (1.0, 2)
    assert of(-0.26, -0.22, -0.16, 0.76, -0.31, 0.1, 0.2) == (1.0, 4)
    assert of(-0.26, -0.22, -0.16, 0.76, -0.31, 0.1) == (1.0, 0)  # a single return
    assert of(0.9, 0.7, 0.48, 0.5, 0.1) == (3.0, 0)  # it has hardly risen
    assert of(-0.2, 0.6, 0.9, 0.1, 0.2) == (1.0, 3)  # the top of the return
    assert of(-0.2, 0.4, -0.1, 0.0) == (1.0, 0)
    assert of(0.9, 0.8) == (inf, 0)
    assert of(0.9, nan, 0.3) == (3.0, 0)
    assert isnan(of(nan, nan)[0])
    assert isnan(of()[0])


def test_a_profile_counts_distances_between_steps() -> None:
    transfer = np.array([[1.0, 0.5, 0.2], [0.7, 1.0, nan], [0.4, 0.1, 1.0]])
    profile = lag_profile(transfer, np.array([0, 1, 3]))
    np.testing.assert_allclose(profile, [0.6, 0.1, 0.3])
    np.testing.assert_allclose(lag_profile(transfer, np.array([0, 5, 3]))[[0, 3]], [nan, nan])


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"fraction": 0.0}, ValueError, "fraction: got 0.0; it takes a number above 0 and up to 1"),
        ({"fraction": "most"}, TypeError, "fraction: got 'most'; it takes a number"),
        ({"n_splits": 3}, ValueError, "n_splits: got 3; it takes at least 4, so that errors are"),
        ({"n_splits": 3.0}, TypeError, "n_splits: got 3.0; it takes a number of splits into halv"),
        ({"seed": True}, TypeError, "seed: got True; it takes an integer"),
        (
            {"estimator": "chao_shen"},
            ValueError,
            "estimator: got 'chao_shen', which depends on all",
        ),
        (
            {"hidden": coins(6, 3)},
            ValueError,
            r"hidden: got shape \(6, 3\); it takes codes \(steps, samples, units\)",
        ),
        (
            {"x_in": coins(4, 2, 6)},
            ValueError,
            r"x_in, x_out, valid: they broadcast to \(4, 2\) before the samples; they take "
            r"\(samples,\) or \(2, samples\)",
        ),
    ],
)
def test_what_is_refused(options: dict[str, Any], error: type[Exception], message: str) -> None:
    arguments = {"x_in": coins(6), "x_out": coins(6), "hidden": coins(2, 6, 3)} | options
    with pytest.raises(error, match=message):
        relay_transfer(**arguments)
