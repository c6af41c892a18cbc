"""Metrics of batches have the values of the functions on all samples, and of slow references."""

from __future__ import annotations

import copy
import pickle
from itertools import permutations
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection
from torchmetrics.wrappers import BootStrapper, MetricTracker, MinMaxMetric

from lightning_relay import discretize, relay_information, relay_share
from lightning_relay.metrics import RelayInformation, RelayShare
from tests.support import brute_force as reference
from tests.support.brute_force import all_states
from tests.support.metric_processes import HIDDEN, LABELS, SAMPLES, STEPS, UNITS, VALID, X_IN, X_OUT
from tests.support.refusals import refusals_of
from tests.support.strategies import Data, discrete_data

Batch = tuple[Tensor, ...]
METRICS: list[Any] = [RelayInformation, lambda: RelayInformation([0, 3]), lambda: RelayShare(8)]


def batches(*tensors: Tensor, size: int = 16) -> list[Batch]:
    return list(zip(*(tensor.split(size) for tensor in tensors), strict=True))


def updated(metric: Any, *tensors: Tensor, size: int = 16) -> Any:
    for batch in batches(*tensors, size=size):
        metric.update(*batch)
    return metric


def sorted_samples(x_in: Tensor, x_out: Tensor, hidden: Tensor) -> Batch:
    """The same samples in rising order, which is that of the metrics' sums."""
    rows = torch.column_stack([x_in, x_out, hidden])
    for column in reversed(range(rows.shape[1])):
        rows = rows[rows[:, column].argsort(stable=True)]
    return rows[:, 0], rows[:, 1], rows[:, 2:]


@given(data=discrete_data(), size=st.integers(1, 20), seed=st.integers(0, 99))
def test_metrics_of_batches_are_the_functions_of_all_samples(
    data: Data, size: int, seed: int
) -> None:
    units = [0, data.hidden.shape[1] - 1][: data.hidden.shape[1]]
    expected = [
        (
            RelayInformation(units, estimator="grassberger"),
            relay_information(*sorted_samples(*data), units, estimator="grassberger"),
        ),
        (RelayShare(4, seed=3), relay_share(*sorted_samples(*data), n_orders=4, seed=3).share),
    ]
    order = torch.randperm(len(data.x_in), generator=torch.Generator().manual_seed(seed))
    for metric, value in expected:
        assert torch.equal(updated(metric, *data, size=size).compute(), value.squeeze())
        value = metric.compute()
        metric.reset()
        updated(metric, *(part[order] for part in data), size=size)
        assert torch.equal(metric.compute(), value)


@settings(max_examples=20)
@given(data=discrete_data(max_units=4), size=st.integers(1, 20))
def test_metrics_are_the_slow_references(data: Data, size: int) -> None:
    x_in, x_out, hidden = (part.tolist() for part in data)
    units = range(data.hidden.shape[1])
    metric = updated(RelayInformation([0]), *data, size=size)
    expected = reference.relay_information(x_in, x_out, hidden, [0])
    assert float(metric.compute()) == pytest.approx(expected, abs=1e-12)

    def told(order: tuple[int, ...]) -> float:
        return reference.relay_information(x_in, x_out, hidden, order)

    orders = list(permutations(units))
    shares = [
        sum(
            told(order[: order.index(unit) + 1]) - told(order[: order.index(unit)])
            for order in orders
        )
        / len(orders)
        for unit in units
    ]
    found = updated(RelayShare(corrected=False), *data, size=size).compute()
    assert found.flatten().tolist() == pytest.approx(shares, abs=1e-12)


def test_each_step_is_measured_by_itself_without_padding_and_labels_of_100() -> None:
    counted = VALID & (LABELS != -100).unsqueeze(1)
    for metric, function in [
        (RelayInformation([1]), lambda *data: relay_information(*data, [1])),
        (RelayShare(8), lambda *data: relay_share(*data, n_orders=8).share),
    ]:
        found = updated(metric, LABELS, X_OUT, HIDDEN, VALID).compute()
        for step, kept in enumerate(counted.T):
            samples = sorted_samples(X_IN[kept], X_OUT[kept], HIDDEN[kept, step])
            assert torch.equal(found[step], function(*samples))
        assert metric.ignored == (VALID & (LABELS == -100).unsqueeze(1)).sum() > 0


def test_labels_of_steps() -> None:
    x_in = torch.stack([X_IN, X_IN.flip(0), LABELS], dim=1)
    x_out = torch.stack([X_OUT, X_IN, X_OUT], dim=1)
    found = updated(RelayInformation(), x_in, x_out, HIDDEN).compute()
    for step in range(STEPS):
        kept = x_in[:, step] != -100
        alone = updated(RelayInformation(), x_in[kept, step], x_out[kept, step], HIDDEN[kept, step])
        assert torch.equal(found[step], alone.compute())


def test_batches_may_have_different_numbers_of_steps() -> None:
    metric = RelayShare(8)
    metric.update(X_IN[:100], X_OUT[:100], HIDDEN[:100, :1])
    metric.update(
        X_IN[100:], X_OUT[100:], HIDDEN[100:], VALID[100:] & torch.tensor([1, 0, 1]).bool()
    )
    found = metric.compute()
    assert found.shape == (STEPS, UNITS)
    assert found[1].isnan().all()
    assert found[[0, 2]].isfinite().all()


def test_closed_forms() -> None:
    bits = all_states(3)
    first, second, parity = bits[:, 0], bits[:, 1], bits.sum(1) % 2
    assert updated(RelayInformation(), first, first, bits, size=3).compute() == 1
    assert updated(RelayInformation([1, 2]), first, first, bits, size=3).compute() == 0
    assert updated(RelayInformation([1]), parity, parity, bits, size=3).compute() == 1
    shares = updated(RelayShare(corrected=False), parity, parity, bits, size=3).compute()
    assert shares.tolist() == pytest.approx([1 / 3] * 3)
    synergy = (first ^ second).unsqueeze(1)
    assert updated(RelayInformation(), first, second, synergy, size=3).compute() == -1


@pytest.mark.parametrize("make", METRICS)
def test_a_call_gives_the_value_of_the_batch_and_counts_it(make: Any) -> None:
    metric = make()
    for batch in batches(X_IN, X_OUT, HIDDEN, size=100):
        assert torch.equal(metric(*batch), updated(make(), *batch).compute())
    assert torch.equal(metric.compute(), updated(make(), X_IN, X_OUT, HIDDEN).compute())


@pytest.mark.parametrize("called", [False, True])
@pytest.mark.parametrize("compute_on_cpu", [False, True])
def test_memory_grows_with_the_different_rows(called: bool, compute_on_cpu: bool) -> None:
    metric = RelayInformation(compute_on_cpu=compute_on_cpu)
    held = []
    for _ in range(30):
        for batch in batches(X_IN, X_OUT, HIDDEN[:, :, :2], size=100):
            (metric if called else metric.update)(*batch)
            held.append(sum(map(len, metric.rows)))
    different = len(torch.unique(torch.column_stack([X_IN, X_OUT, HIDDEN[:, 0, :2]]), dim=0))
    assert max(held) <= 2 * STEPS * 4 * 4 * 4 + 100 * STEPS
    assert metric.rows[0][0].nbytes == 4 * 2 + 16
    metric.compute()
    assert different <= len(metric.rows[0]) == len(metric.rows[0][:, :-1].unique(dim=0))
    assert metric.rows[0][:, -1].sum() == 30 * SAMPLES * STEPS


@pytest.mark.parametrize("make", METRICS)
def test_copies_pickles_reset_and_merged_states(make: Any) -> None:
    metric = updated(make(), X_IN[:100], X_OUT[:100], HIDDEN[:100])
    rest = X_IN[100:], X_OUT[100:], HIDDEN[100:]
    expected = updated(make(), X_IN, X_OUT, HIDDEN).compute()
    for other in (metric.clone(), copy.deepcopy(metric), pickle.loads(pickle.dumps(metric))):
        assert torch.equal(other.compute(), metric.compute())
        assert torch.equal(updated(other, *rest).compute(), expected)
    other = updated(make(), *rest)
    other.merge_state(metric)
    assert torch.equal(other.compute(), expected)
    metric.reset()
    assert (metric.rows, metric.steps, metric.ignored) == ([], 0, 0)
    assert torch.equal(updated(metric, X_IN, X_OUT, HIDDEN).compute(), expected)


def test_a_state_dict_keeps_what_is_asked_for() -> None:
    metric = updated(RelayInformation(), X_IN[:100], X_OUT[:100], HIDDEN[:100])
    assert not metric.state_dict()
    metric.persistent(True)
    other, third = RelayInformation(), RelayInformation()
    other.load_state_dict(metric.state_dict())
    third.load_state_dict(metric.state_dict())
    updated(other, X_IN[100:], X_OUT[100:], HIDDEN[100:])
    expected = updated(RelayInformation(), X_IN, X_OUT, HIDDEN)
    assert torch.equal(other.compute(), expected.compute())
    assert torch.equal(third.rows[0], metric.rows[0])


def test_a_collection_shares_the_rows() -> None:
    collection = MetricCollection(
        {
            "all": RelayInformation(),
            "two": RelayInformation([0, 3], estimator="chao_shen"),
            "share": RelayShare(8),
        },
        prefix="val_",
    )
    parts = batches(LABELS, X_OUT, HIDDEN, VALID, size=100)
    collection.update(*parts[0])
    assert {frozenset(group) for group in collection.compute_groups.values()} == {
        frozenset({"all", "two", "share"})
    }
    collection(*parts[1])
    x_in, x_out, hidden, valid = parts[2]
    collection.update(valid=valid, hidden=hidden, x_out=x_out, x_in=x_in)
    for _ in range(2):
        found = collection.compute()
        for name, metric in [
            ("all", RelayInformation()),
            ("two", RelayInformation([0, 3], estimator="chao_shen")),
            ("share", RelayShare(8)),
        ]:
            assert torch.equal(
                found[f"val_{name}"], updated(metric, LABELS, X_OUT, HIDDEN, VALID).compute()
            )
        collection.reset()
        updated(collection, LABELS, X_OUT, HIDDEN, VALID)


def test_wrappers() -> None:
    data = X_IN, X_OUT, HIDDEN[:, 0]
    value = updated(RelayInformation(), *data).compute()
    lowest = updated(MinMaxMetric(RelayInformation()), *data).compute()
    assert lowest == {"raw": value, "max": value, "min": value}
    tracker = MetricTracker(RelayInformation(), maximize=True)
    for part in (slice(100), slice(None)):
        tracker.increment()
        tracker.update(*(tensor[part] for tensor in data))
    assert tracker.compute_all()[1] == value
    torch.manual_seed(0)
    bootstrapped = updated(BootStrapper(RelayShare(8), num_bootstraps=4), *data).compute()
    assert bootstrapped["std"].shape == (UNITS,)
    assert (bootstrapped["std"] > 0).all()


def test_nothing_to_count_is_nan() -> None:
    for make, shape in [(RelayInformation, (STEPS,)), (RelayShare, (STEPS, UNITS))]:
        with pytest.warns(UserWarning, match="before the ``update`` method"):
            before = make().compute()
        assert before.isnan()
        assert before.shape == ()
        metric = make()
        for part in (slice(0), slice(5)):
            value = metric(X_IN[part], X_OUT[part], HIDDEN[part], VALID[part] & False)
            assert value.shape == shape
            assert value.isnan().all()
        assert metric(torch.full((5,), -100), X_OUT[:5], HIDDEN[:5]).isnan().all()
        assert metric.ignored == 5 * STEPS
        updated(metric, X_IN, X_OUT, HIDDEN)
        assert torch.equal(metric.compute(), updated(make(), X_IN, X_OUT, HIDDEN).compute())


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int8, torch.int64])
def test_every_kind_of_integer(dtype: torch.dtype) -> None:
    found = updated(RelayInformation(), X_IN.to(torch.int16), X_OUT, HIDDEN.to(dtype))
    assert torch.equal(found.compute(), updated(RelayInformation(), X_IN, X_OUT, HIDDEN).compute())


def test_half_precision_leaves_codes_alone() -> None:
    codes = HIDDEN * 4099 - 7  # no number of half precision
    holder = nn.ModuleDict({"metric": updated(RelayInformation(), X_IN, X_OUT, codes)})
    metric: Any = holder["metric"]
    expected = updated(RelayInformation(), X_IN, X_OUT, HIDDEN).compute()
    for change in (
        holder.half,
        holder.bfloat16,
        holder.double,
        lambda: holder.to(torch.float16),
        metric.half,
        lambda: metric.set_dtype(torch.half),
    ):
        change()
        assert metric.rows[0].dtype == torch.int32
        metric._computed = None
        assert metric.compute().dtype == torch.float64
        assert torch.equal(metric.compute(), expected)


def test_states_of_half_precision_are_cut_at_their_sign() -> None:
    states = (HIDDEN - 0.5).half()
    found = updated(RelayInformation(), X_IN, X_OUT, discretize(states, "sign"))
    assert torch.equal(found.compute(), updated(RelayInformation(), X_IN, X_OUT, HIDDEN).compute())


def test_batches_of_inference_mode_and_others() -> None:
    metric = RelayInformation()
    with torch.inference_mode():
        updated(metric, X_IN[:100], X_OUT[:100], HIDDEN[:100])
        metric.compute()
    updated(metric, X_IN[100:], X_OUT[100:], HIDDEN[100:])
    expected = updated(RelayInformation(), X_IN, X_OUT, HIDDEN).compute()
    assert torch.equal(metric.compute(), expected)
    assert torch.equal(pickle.loads(pickle.dumps(metric)).compute(), expected)


@pytest.mark.parametrize("make", METRICS)
def test_no_random_stream_is_touched(make: Any) -> None:
    before = torch.get_rng_state()
    updated(make(), X_IN, X_OUT, HIDDEN).compute()
    assert torch.equal(torch.get_rng_state(), before)


def test_the_seed_decides_on_the_orders() -> None:
    shares = [
        updated(RelayShare(4, seed=seed), X_IN, X_OUT, HIDDEN).compute() for seed in (0, 0, 1)
    ]
    assert torch.equal(shares[0], shares[1])
    assert not torch.equal(shares[0], shares[2])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize("compute_on_cpu", [False, True])
def test_a_gpu_gives_the_same(compute_on_cpu: bool) -> None:
    data = X_IN, X_OUT, HIDDEN
    for make in (RelayInformation, RelayShare):
        expected = updated(make(), *data).compute()
        metric = make(compute_on_cpu=compute_on_cpu).to("cuda")
        for part in (slice(150), slice(150, None)):
            metric(*(tensor[part].to("cuda") for tensor in data))
        assert metric.compute().device.type == "cuda"
        assert torch.equal(metric.compute().cpu(), expected)
        assert torch.equal(metric.cpu().compute(), expected)


def test_what_torchmetrics_asks_of_a_class() -> None:
    for kind in (RelayInformation, RelayShare):
        assert issubclass(kind, Metric)
        assert kind.is_differentiable is False
        assert kind.higher_is_better is None
        assert kind.full_state_update is False
    assert RelayShare(compute_on_cpu=True).compute_on_cpu
    with pytest.raises(ValueError, match="Unexpected keyword arguments: `units`"):
        RelayInformation(units=[3])


def test_options_are_checked_where_they_are_given() -> None:
    refused = refusals_of(RelayInformation)
    refused(ValueError, "estimator: got 'decoder', which only", estimator="decoder")
    refused(ValueError, "estimator: got 'mle'; it takes 'plugin'", estimator="mle")
    refused(TypeError, "relay_units: got 3; it takes unit indices, a list", relay_units=3)
    refused(TypeError, "relay_units: got True; .* not a mask", relay_units=[True, False])
    refused(ValueError, "relay_units: got -1; it takes unit indices from 0", relay_units=[-1])
    refused(ValueError, "relay_units: unit 2 is named twice", relay_units=[2, 2])
    refused = refusals_of(RelayShare)
    refused(ValueError, "estimator: got 'chao_shen'", estimator="chao_shen")
    refused(ValueError, "n_orders: got 3; it takes at least 4", n_orders=3)
    refused(TypeError, "n_orders: got 'many'", n_orders="many")
    refused(TypeError, "seed: got 0.5; it takes an integer", seed=0.5)


def test_batches_are_checked() -> None:
    batch = {"x_in": X_IN, "x_out": X_OUT, "hidden": HIDDEN}
    refused = refusals_of(lambda **batch: RelayInformation().update(**batch), **batch)
    floats = r"hidden: got torch.float32; it takes integers .* discretize\(states, 'sign'\)"
    refused(TypeError, floats, hidden=HIDDEN.float())
    scores = r"x_out: got torch.float32; .* such as scores.argmax\(-1\)"
    refused(TypeError, scores, x_out=torch.rand(SAMPLES, 4))
    refused(TypeError, "x_in: got list; it takes a tensor of integers", x_in=X_IN.tolist())
    refused(TypeError, "valid: got torch.int64; it takes a mask of torch.bool", valid=VALID.long())
    refused(TypeError, "valid: got list; it takes a mask", valid=VALID.tolist())
    refused(ValueError, r"hidden: got shape \(300,\); it takes \(batch, units\)", hidden=X_IN)
    refused(ValueError, "with at least one unit", hidden=HIDDEN[:, :, :0])
    shapes = (
        r"x_in: got shape \(299,\) for hidden \(300, 3, 5\), .*; it takes \(300,\) or \(300, 3\)"
    )
    refused(ValueError, shapes, x_in=X_IN[1:])
    refused(ValueError, r"it takes \(300,\)$", x_in=VALID.long(), hidden=HIDDEN[:, 0])
    refused(ValueError, r"valid: got shape \(300, 2\) for hidden", valid=VALID[:, :2])
    refused(ValueError, "x_in: got numbers of more than 32 bits", x_in=X_IN + 2**40)


def test_batches_go_together() -> None:
    for first, second, match in [
        (HIDDEN, HIDDEN[:, :, :4], "hidden: got batches of 4 and of 5 units"),
        (HIDDEN, HIDDEN[:, 0], "hidden: got batches with steps and batches without"),
        (HIDDEN[:, 0], HIDDEN, "hidden: got batches with steps and batches without"),
    ]:
        metric = RelayInformation()
        metric.update(X_IN, X_OUT, first)
        with pytest.raises(ValueError, match=match):
            metric.update(X_IN, X_OUT, second)
        metric.reset()
        assert metric(X_IN, X_OUT, second).isfinite().all()
    with pytest.raises(
        ValueError, match="relay_units: got 9; hidden has 5 units, so it takes 0 to 4"
    ):
        RelayInformation([9]).update(X_IN, X_OUT, HIDDEN)


def test_more_samples_than_can_be_counted_are_refused() -> None:
    metric = RelayInformation()
    row = torch.tensor([[-1, 0, 0, 1, 2**26 - 1], [-1, 1, 1, 1, 1]], dtype=torch.int32)
    metric.rows = [row]
    bit = torch.zeros(1, dtype=torch.int64)
    metric.update(bit, bit, bit[:, None])  # is merged later
    with pytest.raises(ValueError, match=r"x_in: got 67108865 samples of a step .* up to 67108864"):
        metric.compute()
