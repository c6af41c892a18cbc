import pytest
import torch
from torch import Tensor

from lightning_relay.information import bootstrap, relay_information, relay_order


def noisy_relay(samples: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Two bits, relayed by units 0 and 1 of five, at two steps; a tenth of the outputs is wrong."""
    generator = torch.Generator().manual_seed(seed)
    x_in = torch.randint(4, (samples,), generator=generator)
    wrong = torch.rand(samples, generator=generator) < 0.1
    x_out = torch.where(wrong, torch.randint(4, (samples,), generator=generator), x_in)
    hidden = torch.randint(2, (2, samples, 5), generator=generator)
    hidden[:, :, 0], hidden[:, :, 1] = x_in & 1, x_in >> 1
    return x_in, x_out, hidden


def test_intervals_hold_the_estimate_of_a_large_sample_and_shrink() -> None:
    widths = []
    for samples in (200, 3200):
        found = bootstrap(*noisy_relay(samples, seed=1), direction="grow", n_bootstraps=100)
        truth = relay_order(*noisy_relay(200_000, seed=2), direction="grow").information
        inside = (found.lower <= truth + 1e-9) & (truth <= found.upper + 1e-9)
        assert bool(inside[:, :4].all())
        widths.append(float((found.upper - found.lower)[:, :4].mean()))
    assert widths[1] < widths[0] / 2.5


def test_resamples_are_orders_and_information_of_the_drawn_samples() -> None:
    """With as many resamples as asked, quantiles at the ends are those of single resamples."""
    x_in, x_out, hidden = noisy_relay(50, seed=3)
    found = bootstrap(x_in, x_out, hidden, n_bootstraps=40, seed=5)
    generator = torch.Generator().manual_seed(5)
    values = []
    for _ in range(40):
        drawn = torch.randint(50, (50,), generator=generator)
        values.append(
            [
                [
                    float(
                        relay_information(
                            x_in[drawn], x_out[drawn], hidden[step, drawn], units[gone:].tolist()
                        )
                    )
                    for gone in range(6)
                ]
                for step, units in enumerate(found.order.units)
            ]
        )
    low, high = torch.quantile(
        torch.tensor(values, dtype=torch.float64),
        torch.tensor([0.025, 0.975], dtype=torch.float64),
        dim=0,
    )
    expected = found.order.information
    torch.testing.assert_close(found.lower, 2 * expected - high, atol=1e-9, rtol=0)
    torch.testing.assert_close(found.upper, 2 * expected - low, atol=1e-9, rtol=0)


def test_relays_are_stable_and_what_is_tied_is_not() -> None:
    bit = torch.tensor([0, 1]).repeat(100)
    hidden = torch.stack([torch.zeros_like(bit), bit, torch.ones_like(bit)], dim=-1)
    found = bootstrap(bit, bit, hidden, n_bootstraps=60)
    assert found.rank_lower.tolist() == [0.0, 2.0, 0.0]
    assert found.rank_upper.tolist() == [1.0, 2.0, 1.0]
    assert 0.5 < float(found.rank_stability) < 1.0
    assert float(bootstrap(bit, bit, bit[:, None]).rank_stability) == 1.0


def test_every_step_is_what_it_is_alone_and_the_seed_decides() -> None:
    x_in, x_out, hidden = noisy_relay(60, seed=4)
    together = bootstrap(x_in, x_out, hidden, n_bootstraps=50, seed=1)
    state = torch.get_rng_state()
    alone = bootstrap(x_in, x_out, hidden[1], n_bootstraps=50, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    torch.testing.assert_close(together.lower[1], alone.lower, atol=1e-12, rtol=0)
    torch.testing.assert_close(together.rank_upper[1], alone.rank_upper, atol=1e-12, rtol=0)
    other = bootstrap(x_in, x_out, hidden[1], n_bootstraps=50, seed=2)
    assert not torch.equal(other.lower, alone.lower)


def test_a_step_that_few_have_is_in_every_resample() -> None:
    x_in, x_out, hidden = noisy_relay(30, seed=5)
    valid = torch.ones(2, 30, dtype=torch.bool)
    valid[1, 2:] = False
    found = bootstrap(x_in, x_out, hidden, n_bootstraps=50, valid=valid)
    assert bool(found.lower.isfinite().all())


def test_bad_options_are_refused() -> None:
    bit = torch.tensor([0, 1])
    arguments = bit, bit, bit[:, None]
    with pytest.raises(ValueError, match=r"confidence: got 1; it takes a fraction between"):
        bootstrap(*arguments, confidence=1)
    with pytest.raises(ValueError, match=r"n_bootstraps: got 10; for a confidence of 0.95 it take"):
        bootstrap(*arguments, n_bootstraps=10)
    with pytest.raises(TypeError, match=r"n_bootstraps: got 100.0; it takes a number"):
        bootstrap(*arguments, n_bootstraps=100.0)


def test_steps_that_no_resample_has_are_refused_instead_of_drawn_for_ever() -> None:
    x_in, x_out, _ = noisy_relay(60, seed=6)
    hidden = torch.zeros(40, 60, 1, dtype=torch.long)
    valid = torch.eye(40, 60, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"valid: got leading indices with so few samples that"):
        bootstrap(x_in, x_out, hidden, n_bootstraps=40, valid=valid)
