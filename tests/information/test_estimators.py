"""Estimators against their published formulas, and against the table of the method."""

from __future__ import annotations

from math import log, log2

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_relay.information import Estimator, entropy, mutual_information, relay_order
from tests.support.strategies import Data, discrete_data


def digamma(n: float) -> float:
    """From its recurrence and asymptotic series."""
    value = 0.0
    while n < 30:
        value -= 1 / n
        n += 1
    return value + log(n) - 1 / (2 * n) - 1 / (12 * n**2) + 1 / (120 * n**4) - 1 / (252 * n**6)


def published(name: Estimator, counts: list[int]) -> float:
    """Entropy in bits, as printed."""
    n = sum(counts)
    if name == "plugin":
        return -sum(c / n * log2(c / n) for c in counts)
    if name == "miller_madow":
        return published("plugin", counts) + (len(counts) - 1) / (2 * n * log(2))
    if name == "grassberger":

        def g(c: int) -> float:
            return digamma(c) + 0.5 * (-1) ** c * (digamma((c + 1) / 2) - digamma(c / 2))

        return (log(n) - sum(c * g(c) for c in counts) / n) / log(2)
    singles = min(sum(c == 1 for c in counts), n - 1)
    coverage = 1 - singles / n
    return -sum(
        coverage * c / n * log2(coverage * c / n) / (1 - (1 - coverage * c / n) ** n)
        for c in counts
    )


NAMES: list[Estimator] = ["plugin", "miller_madow", "grassberger", "chao_shen"]


@pytest.mark.parametrize("name", NAMES)
@given(counts=st.lists(st.integers(1, 40), min_size=1, max_size=12))
def test_entropy_is_the_published_formula(name: Estimator, counts: list[int]) -> None:
    states = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts)).unsqueeze(1)
    weighted = entropy(
        torch.arange(len(counts)).unsqueeze(1), weights=torch.tensor(counts), estimator=name
    )
    expected = published(name, counts)
    assert float(entropy(states, estimator=name)) == pytest.approx(expected, abs=1e-10)
    assert float(weighted) == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("name", NAMES)
@given(data=discrete_data())
def test_information_is_made_of_four_entropies(name: Estimator, data: Data) -> None:
    x_in, x_out, hidden = data.x_in.unsqueeze(1), data.x_out.unsqueeze(1), data.hidden
    h = [
        float(entropy(torch.cat(parts, dim=1), estimator=name))
        for parts in ((x_in, hidden), (x_out, hidden), (x_in, x_out, hidden), (hidden,))
    ]
    information = mutual_information(*data, estimator=name)
    assert float(information) == pytest.approx(h[0] + h[1] - h[2] - h[3], abs=1e-10)


@pytest.mark.parametrize("name", NAMES)
@given(data=discrete_data())
def test_every_candidate_of_a_growing_condition_is_the_same_as_alone(
    name: Estimator, data: Data
) -> None:
    """No candidate that was left would have been better than the one that was taken."""
    order = relay_order(*data, direction="grow", estimator=name)
    total = float(mutual_information(data.x_in, data.x_out, estimator=name))
    taken = order.units.flip(0).tolist()
    for size in range(len(taken)):
        alone = [
            total
            - float(
                mutual_information(
                    data.x_in, data.x_out, data.hidden[:, [*taken[:size], unit]], estimator=name
                )
            )
            for unit in taken[size:]
        ]
        found = float(order.information[len(taken) - size - 1])
        assert found == pytest.approx(alone[0], abs=1e-10)
        assert max(alone) <= alone[0] + 1e-8


KNOWN = {
    4: (2.92, 3.00, 3.00, 2.94),
    8: (1.72, 2.11, 2.66, 3.08),
    10: (0.70, 0.92, 1.57, 2.89),
    16: (0.01, 0.01, 0.03, 1.82),
    24: (0.00, 0.00, 0.00, 0.00),
}
"""Units in Y_0, and the estimates of 3 bits by the estimators of ``NAMES``."""


@pytest.mark.parametrize("units", KNOWN)
def test_the_known_answer_of_the_method_is_reproduced(units: int) -> None:
    generator = torch.Generator().manual_seed(units)
    found = []
    for _ in range(20):
        label = torch.randint(8, (1000,), generator=generator)
        noise = torch.randint(2, (1000, units), generator=generator)
        found.append(
            [float(mutual_information(label, label, noise, estimator=name)) for name in NAMES]
        )
    mean, spread = torch.tensor(found).mean(0), torch.tensor(found).std(0)
    for value, expected, sd in zip(mean.tolist(), KNOWN[units], spread.tolist(), strict=True):
        assert value == pytest.approx(expected, abs=3 * sd + 0.006)


def test_chao_shen_of_samples_that_are_all_alone_is_finite() -> None:
    states = torch.arange(50).unsqueeze(1)
    assert float(entropy(states, estimator="chao_shen")) == pytest.approx(
        published("chao_shen", [1] * 50), abs=1e-9
    )
    order = relay_order(states[:, 0] % 2, states[:, 0] % 2, states, estimator="chao_shen")
    assert bool(order.information.isfinite().all())
