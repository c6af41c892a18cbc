from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lightning_relay.information import discretization
from lightning_relay.information.discretization import Thresholds, discretize, fit_thresholds
from lightning_relay.information.options import Method
from tests.support.refusals import refusals_of

FEW_VALUES = st.lists(st.integers(-4, 4).map(float), min_size=1, max_size=12)
METHODS: list[Method] = ["kmeans", "median", "quantile"]


def codes(values: list[float], method: Method = "kmeans", levels: int = 2) -> list[int]:
    column = torch.tensor(values, dtype=torch.float64).unsqueeze(1)
    return discretize(column, method, levels=levels).squeeze(1).tolist()


def within_clusters(values: list[float], labels: list[int]) -> float:
    parts = [[v for v, c in zip(values, labels, strict=True) if c == code] for code in set(labels)]
    return sum(float(np.var(part)) * len(part) for part in parts)


@given(FEW_VALUES)
def test_kmeans_is_the_best_of_all_splits(values: list[float]) -> None:
    found = codes(values)
    if len(set(values)) == 1:
        assert found == [0] * len(values)
        return
    ordered = sorted(set(values))
    splits = [[int(v > cut) for v in values] for cut in ordered[:-1]]
    best = min(within_clusters(values, split) for split in splits)
    assert found in splits
    assert within_clusters(values, found) == pytest.approx(best, abs=1e-9)


@given(FEW_VALUES)
def test_the_median_splits_as_evenly_as_ties_allow(values: list[float]) -> None:
    found = codes(values, "median")
    if len(set(values)) == 1:
        assert found == [0] * len(values)
        return
    sizes = [sum(v <= cut for v in values) for cut in sorted(set(values))[:-1]]
    nearest = min(abs(size - len(values) / 2) for size in sizes)
    assert abs(found.count(0) - len(values) / 2) == nearest


@given(FEW_VALUES, st.integers(2, 5))
def test_quantiles_keep_the_order_and_never_split_equal_values(
    values: list[float], levels: int
) -> None:
    found = codes(values, "quantile", levels)
    pairs = sorted(zip(values, found, strict=True))
    for (value, code), (next_value, next_code) in pairwise(pairs):
        assert code <= next_code
        assert value != next_value or code == next_code
    assert len(set(found)) <= levels
    assert set(found) == set(range(len(set(found))))
    assert len(set(found)) >= min(2, len(set(values)))


def test_quantiles_of_different_values_have_equal_sizes() -> None:
    shuffled = torch.randperm(120, generator=torch.Generator().manual_seed(0)).tolist()
    found = codes([float(value) for value in shuffled], "quantile", 5)
    assert [found.count(code) for code in range(5)] == [24] * 5


def test_sign_is_whether_a_state_is_above_zero() -> None:
    assert codes([-1.0, -0.0, 0.0, 1e-30, 2.0], "sign") == [0, 0, 0, 1, 1]


@pytest.mark.parametrize("method", METHODS)
def test_skewed_ties_do_not_make_a_varying_unit_constant(method: Method) -> None:
    assert codes([1.0, 1.0, 1.0, 0.0], method) == [1, 1, 1, 0]
    assert codes([0.0, 0.0, 0.0, 1.0], method) == [0, 0, 0, 1]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("value", [0.0, 1.0, -1e-20, 3e7])
def test_rounding_around_a_constant_is_no_level(method: Method, value: float) -> None:
    noise = 1 + torch.finfo(torch.float32).eps * torch.tensor([0.0, 1.0, 2.0, -1.0])
    column = (torch.full((4,), value) * noise).unsqueeze(1)
    assert discretize(column, method).flatten().tolist() == [0, 0, 0, 0]


def test_neighbouring_floats_that_vary_more_than_rounding_are_split() -> None:
    column = torch.tensor([1.0, 1.0 + 1e-4], dtype=torch.float32).unsqueeze(1)
    assert discretize(column).flatten().tolist() == [0, 1]


def random_states() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(4, 30, 5, generator=generator).tanh()
    return states, torch.rand(4, 30, generator=generator) < 0.6


@pytest.mark.parametrize("method", [*METHODS, "sign"])
def test_units_and_steps_are_fitted_apart_and_padding_not_at_all(
    method: Method, monkeypatch: pytest.MonkeyPatch
) -> None:
    states, valid = random_states()
    levels = 3 if method == "quantile" else 2
    spoilt = torch.where(valid.unsqueeze(-1), states, torch.nan)
    together = discretize(spoilt, method, levels=levels, valid=valid)
    assert together.shape == states.shape
    for step in range(4):
        for unit in range(5):
            alone = discretize(states[step, valid[step], unit].unsqueeze(1), method, levels=levels)
            assert torch.equal(together[step, valid[step], unit], alone.squeeze(1))
    expected = fit_thresholds(spoilt, method, levels=levels, valid=valid).cuts
    for elements in (1, 60, 200):
        monkeypatch.setattr(discretization, "_ELEMENTS_AT_ONCE", elements)
        found = fit_thresholds(spoilt, method, levels=levels, valid=valid).cuts
        assert torch.equal(found, expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_every_floating_dtype_is_taken(dtype: torch.dtype) -> None:
    states = torch.tensor([[-0.5], [0.5], [0.75]], dtype=dtype)
    assert discretize(states).flatten().tolist() == [0, 1, 1]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_saturated_unit_in_half_precision_keeps_its_levels(dtype: torch.dtype) -> None:
    states = torch.tensor([[0.994], [1.0], [0.994], [1.0]]).to(dtype)
    assert discretize(states).flatten().tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_codes_are_those_of_a_comparison_in_float64(dtype: torch.dtype) -> None:
    info = torch.finfo(dtype)
    special = [0.0, -0.0, info.tiny, info.smallest_normal, info.max, -info.max, 1.0, 1 + info.eps]
    states = torch.tensor([*special, 1 - info.eps / 2, 0.1, -0.1, 3.7], dtype=dtype)
    exact = states.double()
    between = (exact[:, None] + exact) / 2
    nudged = torch.nextafter(exact, torch.tensor(torch.inf, dtype=torch.float64))
    for cut in [*exact.tolist(), *between.flatten().tolist(), *nudged.tolist(), torch.inf]:
        codes = Thresholds(torch.tensor([[cut]], dtype=torch.float64)).codes(states.unsqueeze(1))
        assert torch.equal(codes[:, 0], (exact > cut).long()), cut


@pytest.mark.parametrize("dtype", [torch.int64, torch.int16, torch.uint8, torch.float32])
@pytest.mark.parametrize("levels", [2, 5])
def test_codes_come_in_the_dtype_asked_for(dtype: torch.dtype, levels: int) -> None:
    states, valid = random_states()
    fitted = fit_thresholds(states, "quantile", levels=levels, valid=valid)
    above = states.double().unsqueeze(-3) > fitted.cuts.unsqueeze(-2)
    found = fitted.codes(states, dtype=dtype)
    assert found.dtype == dtype
    assert torch.equal(found, above.sum(-3).to(dtype))
    assert fitted.codes(states).dtype == discretize(states).dtype == torch.int64


def test_more_levels_than_a_byte_holds() -> None:
    states = torch.arange(600.0).unsqueeze(1)
    assert torch.equal(discretize(states, "quantile", levels=600), torch.arange(600).unsqueeze(1))


@pytest.mark.parametrize("method", [*METHODS, "sign"])
def test_states_of_any_layout_and_origin_give_the_same(method: Method) -> None:
    states, valid = random_states()
    expected = fit_thresholds(states, method, valid=valid)
    with torch.inference_mode():
        inferred = states.transpose(0, 2).contiguous().transpose(0, 2) + 0
    for same in (states.mT.contiguous().mT, states.clone().requires_grad_(), inferred):
        before = same.detach().clone()
        fitted = fit_thresholds(same, method, valid=valid)
        assert torch.equal(fitted.cuts, expected.cuts)
        assert not fitted.cuts.requires_grad
        found = fitted.codes(same, dtype=torch.uint8)
        assert torch.equal(found, expected.codes(states, dtype=torch.uint8))
        assert found.is_contiguous()
        assert torch.equal(same, before)


def test_splits_that_are_as_good_up_to_rounding_go_to_the_lowest() -> None:
    assert codes([1.0, 4, 1, -2, 2, 2, 2, 1, 0, 3]) == [1, 1, 1, 0, 1, 1, 1, 1, 0, 1]


@pytest.mark.parametrize("method", METHODS)
def test_threads_fit_the_same_as_one(method: Method, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discretization, "_ELEMENTS_AT_ONCE", 100)
    states = torch.randn(7, 30, 20, generator=torch.Generator().manual_seed(0))
    found = []
    for threads in (1, 4):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        found.append(fit_thresholds(states, method).cuts)
    assert torch.equal(*found)


def cut_of_the_best_split(values: list[float]) -> float:
    """By definition: every split is tried, and sums are exact."""
    ordered = sorted(map(Fraction, values))
    splits = [size for size in range(1, len(ordered)) if ordered[size - 1] < ordered[size]]
    if not splits:
        return np.inf

    def squares(part: list[Fraction]) -> Fraction:
        mean = sum(part) / Fraction(len(part))
        return sum(((value - mean) ** 2 for value in part), Fraction(0))

    total = squares(ordered)
    between = [total - squares(ordered[:size]) - squares(ordered[size:]) for size in splits]
    good = max(between) * (1 - Fraction(1, 10**12))
    size = next(size for size, worth in zip(splits, between, strict=True) if worth >= good)
    lower, upper = float(ordered[size - 1]), float(ordered[size])
    return lower + (upper - lower) / 2


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_kmeans_cuts_are_those_of_a_search_of_all_splits(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    spread = torch.tensor([0.1, 1, 3, 30]).repeat_interleave(3).reshape(4, 1, 3)
    normal = torch.randn(4, 25, 3, generator=generator, dtype=torch.float64) * spread
    tied = torch.randint(-2, 3, (4, 25, 3), generator=generator)
    valid = torch.rand(4, 25, generator=generator) < 0.7
    for states in (normal, normal.tanh(), normal.round(), normal.relu(), normal + 1000, tied):
        states = states.to(dtype)
        found = fit_thresholds(states, valid=valid).cuts
        for step in range(4):
            columns = states[step, valid[step]].double().T.tolist()
            expected = [cut_of_the_best_split(column) for column in columns]
            assert found[step, 0].tolist() == expected


def test_states_that_are_not_finite_are_located() -> None:
    states = torch.zeros(6, 4, 3)
    states[5, 2, 1] = torch.nan
    with pytest.raises(
        ValueError,
        match=r"states of 'rnn.l0': nan at step 5, unit 1 \(sample 2; 1 of 72 states are not fin",
    ):
        discretize(states, layer="rnn.l0")
    with pytest.raises(ValueError, match=r"states: -inf at unit 0 \(sample 1;"):
        discretize(torch.tensor([[0.0], [-torch.inf]]))
    valid = torch.tensor([True, True, False])
    for method in (*METHODS, "sign"):
        for value in (torch.nan, torch.inf, -torch.inf):
            padded = torch.tensor([[0.0], [1.0], [value]])
            assert discretize(padded, method, valid=valid)[:2].flatten().tolist() == [0, 1]
            with pytest.raises(ValueError, match=r"at unit 0 \(sample 2; 1 of 2 states are not"):
                discretize(padded, method, valid=valid.roll(1))


def test_bad_arguments_say_what_is_taken() -> None:
    states, mask = torch.zeros(3, 1), torch.zeros(3).bool()
    refused = refusals_of(discretize, states=states)
    refused(ValueError, r"discretization: got 'mean'; it takes 'kmeans', 'medi", method="mean")
    refused(ValueError, r"levels: got 4 with 'kmeans', which makes two; use 'qua", levels=4)
    refused(ValueError, r"levels: got 1; it takes at least 2", levels=1)
    refused(TypeError, r"states: got torch.int64; it takes real states", states=states.long())
    refused(ValueError, r"states: got shape \(3, 0\); it takes .* one unit", states=states[:, :0])
    refused(ValueError, r"states: got shape \(3,\); it takes \(…, samples", states=states[:, 0])
    refused(TypeError, r"valid: got torch.int64; it takes a mask of torch.bool", valid=mask.long())
    refused(ValueError, r"valid: got shape \(2,\) for states \(3, 1\); it takes", valid=mask[:2])
    refused(ValueError, r"valid: no sample is valid at a leading index; leave that", valid=mask)
