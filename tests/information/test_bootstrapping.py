import torch
from torch import Tensor

from lightning_relay.information import bootstrap, relay_information, relay_order
from tests.support.refusals import refusals_of


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
    refused = refusals_of(bootstrap, x_in=bit, x_out=bit, hidden=bit[:, None])
    refused(ValueError, "confidence: got 1; it takes a fraction between 0 and 1", confidence=1)
    refused(ValueError, "for a confidence of 0.95 it takes at least 40, so that", n_bootstraps=10)
    refused(TypeError, "n_bootstraps: got 100.0; it takes a number of resamp", n_bootstraps=100.0)
    refused(ValueError, "direction: got 'up'; it takes 'shrink' or 'grow'", direction="up")
    refused(ValueError, "estimator: got 'bayes'; it takes 'plugin', ", estimator="bayes")


def test_steps_that_no_resample_has_are_refused_instead_of_drawn_for_ever() -> None:
    hidden = torch.zeros(40, 60, 1, dtype=torch.long)
    refused = refusals_of(bootstrap, x_in=hidden[0, :, 0], x_out=hidden[0, :, 0], hidden=hidden)
    match = "valid: got .* with so few samples that only 0 of 800 resamples have .*; leave out"
    refused(ValueError, match, valid=torch.eye(40, 60, dtype=torch.bool), n_bootstraps=40)
