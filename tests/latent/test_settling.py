"""Maps whose fixed points, cycles and continua are known."""

from __future__ import annotations

from math import cos, pi, sin
from typing import TYPE_CHECKING

import pytest
import torch

from lightning_relay.latent.settling import settle

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from lightning_relay.latent.settling import Settled

    Map = Callable[[Tensor], Tensor]


def starts(dimensions: int, number: int = 200) -> Tensor:
    generator = torch.Generator().manual_seed(dimensions)
    return torch.randn(number, dimensions, dtype=torch.float64, generator=generator)


def settled(step: Map, some: Tensor, n_steps: int = 2000) -> Settled:
    spread = float(some.var(0, correction=0).sum().sqrt())
    return settle(step, some, spread, n_steps, max_period=8)


def periods(found: Settled) -> list[int]:
    """Period of each attractor, of several joined orbits as a negative number."""
    of_group: dict[int, list[int]] = {}
    for group, orbit in zip(found.group.tolist(), found.orbits, strict=True):
        of_group.setdefault(group, []).append(len(orbit))
    return sorted(own[0] if len(own) == 1 else -own[0] for own in of_group.values())


def turned(angle: float) -> Map:
    turn = torch.tensor([[cos(angle), -sin(angle)], [sin(angle), cos(angle)]], dtype=torch.float64)
    return lambda x: x @ turn.T


def onto_ring(x: Tensor) -> Tensor:
    radius = x.norm(dim=-1, keepdim=True)
    return x / radius * (0.5 * radius + 0.5)


@pytest.mark.parametrize(
    ("step", "dimensions", "expected"),
    [
        pytest.param(lambda x: torch.tanh(2 * x), 1, [1, 1], id="bistable unit"),
        pytest.param(lambda x: torch.tanh(2 * x), 2, [1, 1, 1, 1], id="two bistable units"),
        pytest.param(lambda x: torch.tanh(-2 * x), 1, [2], id="unit that flips"),
        pytest.param(
            lambda x: torch.tanh(2 * x[..., [2, 0, 1]]), 3, [1, 1, 3, 3], id="three units in a ring"
        ),
        pytest.param(lambda x: 0.5 * x, 2, [1], id="contraction"),
        pytest.param(lambda x: -0.9 * x, 2, [1], id="contraction that flips"),
        pytest.param(lambda x: -0.99 * x, 1, [1], id="slow contraction that flips"),
        pytest.param(lambda x: 0.99 * turned(2 * pi / 7)(x), 2, [1], id="spiral"),
        pytest.param(lambda x: 3.5 * x * (1 - x), 0, [4], id="logistic map, period 4"),
        pytest.param(lambda x: 3.9 * x * (1 - x), 0, [], id="logistic map, chaos"),
        pytest.param(lambda x: x * torch.tensor([1, 0.5]).double(), 2, [-1], id="line attractor"),
        pytest.param(lambda x: x, 2, [-1], id="plane of fixed points"),
        pytest.param(onto_ring, 2, [-1], id="ring attractor"),
        pytest.param(lambda x: onto_ring(turned(pi * 2 / 3)(x)), 2, [-3], id="ring of cycles"),
        pytest.param(lambda x: -x, 1, [-2, 1], id="line of cycles round a fixed point"),
        pytest.param(turned(1.0), 2, [], id="rotation that never returns"),
        pytest.param(
            lambda x: x - 0.1 * torch.sin(2 * pi * x), 1, [1] * 8, id="fixed points in a row"
        ),
        pytest.param(lambda x: 0.9999 * x, 2, [], id="too slow for the steps"),
    ],
)
def test_known_maps_settle_where_they_should(
    step: Map, dimensions: int, expected: list[int]
) -> None:
    some = starts(dimensions) if dimensions else torch.linspace(0.1, 0.9, 50).double()[:, None]
    found = settled(step, some)
    assert periods(found) == expected
    assert not found.diverged.any()
    assert bool((found.orbit >= 0).all()) == (expected != [])


def test_a_fixed_point_between_two_that_nobody_visited_does_not_join_them() -> None:
    ends = torch.cat([starts(1, 20) * 0.02 - 2, starts(1, 20) * 0.02 + 2])
    found = settled(lambda x: x - 0.1 * torch.sin(2 * pi * x), ends)
    assert periods(found) == [1, 1]
    points = sorted(float(orbit) for orbit in found.orbits)
    torch.testing.assert_close(torch.tensor(points), torch.tensor([-2.0, 2.0]), atol=1e-5, rtol=0)


def test_an_unstable_fixed_point_half_way_does_not_join_two() -> None:
    found = settled(lambda x: torch.tanh(2 * x), torch.tensor([[-1.0], [1.0]]).double())
    assert periods(found) == [1, 1]


def test_each_start_leads_to_the_orbit_on_its_side() -> None:
    some = starts(1)
    found = settled(lambda x: torch.tanh(2 * x), some)
    ends = torch.stack([found.orbits[row][0] for row in found.orbit.tolist()])
    assert torch.equal(ends.sign(), some.sign())
    torch.testing.assert_close(ends, torch.tanh(2 * ends), atol=1e-6, rtol=0)


def test_phases_of_a_cycle_follow_each_other() -> None:
    (orbit,) = settled(lambda x: 3.5 * x * (1 - x), torch.full((1, 1), 0.3).double() + 0.1).orbits
    following = 3.5 * orbit * (1 - orbit)
    torch.testing.assert_close(following, orbit.roll(-1, 0), atol=1e-5, rtol=0)
    assert len(orbit.unique()) == 4


def test_what_leaves_all_bounds_has_diverged() -> None:
    some = torch.tensor([[0.5], [2.0], [-3.0]]).double()
    found = settled(lambda x: x**2, some)
    assert found.diverged.tolist() == [False, True, True]
    assert found.orbit.tolist() == [0, -1, -1]
    (orbit,) = found.orbits
    assert float(orbit) == pytest.approx(0, abs=1e-6)


def test_slow_states_settle_if_there_are_enough_steps() -> None:
    some = starts(2)
    assert (settled(lambda x: 0.999 * x, some, 500).orbit == -1).all()
    assert periods(settled(lambda x: 0.999 * x, some, 20_000)) == [1]
