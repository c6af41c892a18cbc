from dataclasses import fields
from itertools import permutations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_relay.information import (
    Direction,
    Estimator,
    RelayOrder,
    mutual_information,
    relay_information,
    relay_order,
)
from tests.support import brute_force as reference
from tests.support.brute_force import all_states
from tests.support.refusals import refusals_of
from tests.support.strategies import Data, discrete_data

REFERENCES = {"shrink": reference.shrinking_order, "grow": reference.growing_order}


@given(discrete_data(), st.sampled_from(["shrink", "grow"]))
def test_equals_the_reference(data: Data, direction: Direction) -> None:
    order = relay_order(*data, direction=direction)
    expected = REFERENCES[direction](data.x_in.tolist(), data.x_out.tolist(), data.hidden.tolist())
    assert order.units.tolist() == expected.units
    assert order.information.tolist() == pytest.approx(expected.information, abs=1e-12)
    assert order.tied.tolist() == expected.tied
    assert order.groups.tolist() == expected.groups
    assert order.places.tolist() == pytest.approx(expected.places, abs=1e-12)
    assert order.scores.tolist() == pytest.approx(expected.scores, abs=1e-6)
    sizes = [expected.groups.count(group) for group in expected.groups]
    assert order.ambiguous.tolist() == [size > 1 for size in sizes]


def information_of(data: Data, left: list[int], direction: Direction) -> float:
    """Information of the units left in R; a growing order ignores the units outside."""
    if direction == "shrink":
        return float(relay_information(*data, left))
    known = data.hidden[:, left] if left else None
    total = mutual_information(data.x_in, data.x_out)
    return float(total - mutual_information(data.x_in, data.x_out, known))


@given(discrete_data(), st.sampled_from(["shrink", "grow"]))
def test_information_is_that_of_every_set_left(data: Data, direction: Direction) -> None:
    order = relay_order(*data, direction=direction)
    for gone in range(data.hidden.shape[1] + 1):
        expected = information_of(data, order.units[gone:].tolist(), direction)
        assert float(order.information[gone]) == pytest.approx(expected, abs=1e-12)


@given(discrete_data(), st.sampled_from(["shrink", "grow"]), st.data())
def test_order_of_samples_and_names_of_states_do_not_matter(
    data: Data, direction: Direction, more: st.DataObject
) -> None:
    samples = torch.tensor(more.draw(st.permutations(range(len(data.x_in)))))
    order = relay_order(*data, direction=direction)
    renamed = relay_order(
        3 - data.x_in[samples],
        data.x_out[samples] * 10**10,
        5 - 10**6 * data.hidden[samples],
        direction=direction,
    )
    assert torch.equal(order.units, renamed.units)
    assert torch.equal(order.groups, renamed.groups)
    assert torch.equal(order.tied, renamed.tied)
    torch.testing.assert_close(order.information, renamed.information, atol=1e-12, rtol=0)


@given(discrete_data(), st.data())
def test_order_of_units_does_not_matter_up_to_ties(data: Data, more: st.DataObject) -> None:
    moved = torch.tensor(more.draw(st.permutations(range(data.hidden.shape[1]))))
    order = relay_order(*data)
    again = relay_order(data.x_in, data.x_out, data.hidden[:, moved])
    certain = (order.tied[order.units].long().cumsum(0) == 0).sum()
    assert torch.equal(moved[again.units][:certain], order.units[:certain])


def test_the_copy_leaves_last_and_the_others_are_tied() -> None:
    states = all_states(3)
    order = relay_order(states[:, 1], states[:, 1], states)
    assert order.units.tolist() == [0, 2, 1]
    assert order.information.tolist() == [1.0, 1.0, 1.0, 0.0]
    assert order.tied.tolist() == [True, False, False]
    assert order.ambiguous.tolist() == [True, False, True]
    assert order.groups.tolist() == [0, 1, 0]
    assert order.places.tolist() == [0.5, 2.0, 0.5]
    assert order.scores.tolist() == [0.0, 1.0, 0.0]


def test_of_two_copies_the_lower_leaves_first_and_is_tied() -> None:
    bit = torch.tensor([0, 1, 0, 1])
    order = relay_order(bit, bit, torch.stack([bit, bit], dim=1))
    assert order.units.tolist() == [0, 1]
    assert order.information.tolist() == [1.0, 0.0, 0.0]
    assert order.tied.tolist() == [True, False]
    assert order.ambiguous.tolist() == [True, True]
    assert order.places.tolist() == [0.5, 0.5]
    assert order.scores.tolist() == [1.0, 1.0]


@pytest.mark.parametrize("columns", list(permutations("ccb")) + list(permutations("cbn")))
def test_a_unit_that_does_nothing_is_not_tied_with_copies_wherever_it_stands(
    columns: tuple[str, ...],
) -> None:
    bit = torch.tensor([0, 1, 0, 1])
    states = {"c": bit, "b": torch.zeros_like(bit), "n": 1 - bit}
    order = relay_order(
        bit, bit, torch.stack([states[name] for name in columns], dim=1), direction="grow"
    )
    assert order.scores.tolist() == [0.0 if name == "b" else 1.0 for name in columns]
    assert order.places.tolist() == [0.0 if name == "b" else 1.5 for name in columns]


def test_a_rival_of_a_tied_unit_is_ambiguous_though_its_own_removal_is_not_tied() -> None:
    rare, fair = (torch.arange(200) % 10 == 0).long(), (torch.arange(200) // 10) % 2
    label = rare + 2 * fair
    order = relay_order(label, label, torch.stack([rare, rare, fair], dim=1))
    assert order.units.tolist() == [0, 1, 2]
    assert order.tied.tolist() == [True, False, False]
    assert order.ambiguous.tolist() == [True, True, False]


def test_bits_of_different_weight_leave_by_their_weight() -> None:
    """X holds two bits; unit 2 carries one of them, unit 0 both, unit 1 nothing."""
    states = all_states(3)
    label = states[:, 0] + 2 * states[:, 1]
    hidden = torch.stack([label, states[:, 2], states[:, 0]], dim=1)
    order = relay_order(label, label, hidden)
    assert order.units.tolist() == [1, 2, 0]
    assert order.information.tolist() == [2.0, 2.0, 1.0, 0.0]
    grown = relay_order(label, label, hidden, direction="grow")
    assert grown.units.tolist()[-1] == 0


def test_scores_are_zero_where_nothing_is_relayed() -> None:
    states = all_states(3)
    order = relay_order(states[:, 0], states[:, 0], states[:, 1:])
    assert order.information.tolist() == [0.0, 0.0, 0.0]
    assert order.scores.tolist() == [0.0, 0.0]


def test_synergy_gives_scores_below_zero_unclipped() -> None:
    """Unit 1 relays three bits; knowing unit 0 alone makes input and output share a fourth."""
    states = all_states(5)
    hidden = torch.stack([states[:, 1], states[:, 2:] @ torch.tensor([1, 2, 4])], dim=1)
    x_in = (states[:, 0] ^ states[:, 1]) + 2 * hidden[:, 1]
    x_out = states[:, 0] + 2 * hidden[:, 1]
    order = relay_order(x_in, x_out, hidden)
    assert order.units.tolist() == [0, 1]
    assert order.information.tolist() == [2.0, 3.0, 0.0]
    assert order.scores.tolist() == [-1.0, 1.0]


def test_every_leading_index_has_its_own_order() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(4, (80,), generator=generator)
    hidden = torch.randint(2, (2, 3, 80, 5), generator=generator)
    hidden[..., 0] = labels & 1
    hidden[1, ..., 3] = labels >> 1
    valid = torch.rand(2, 3, 80, generator=generator) < 0.8
    together = relay_order(labels, labels, hidden, valid=valid)
    assert together.units.shape == (2, 3, 5)
    assert together.information.shape == (2, 3, 6)
    for a in range(2):
        for b in range(3):
            counted = valid[a, b]
            alone = relay_order(labels[counted], labels[counted], hidden[a, b][counted])
            assert torch.equal(together.units[a, b], alone.units)
            assert torch.equal(together.tied[a, b], alone.tied)
            assert torch.equal(together.groups[a, b], alone.groups)
            torch.testing.assert_close(
                together.information[a, b], alone.information, atol=1e-12, rtol=0
            )
            torch.testing.assert_close(together.scores[a, b], alone.scores, atol=1e-9, rtol=0)


def test_more_units_than_bits_in_a_word() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(2, (30,), generator=generator)
    hidden = torch.zeros(30, 130, dtype=torch.long)
    hidden[:, 77] = labels
    order = relay_order(labels, labels, hidden)
    assert order.units[-1] == 77
    assert order.scores[77] == 1.0
    assert float(order.scores.sum()) == 1.0


def test_the_result_is_frozen() -> None:
    bit = torch.tensor([0, 1])
    order = relay_order(bit, bit, bit.unsqueeze(1))
    assert isinstance(order, RelayOrder)
    with pytest.raises(AttributeError):
        order.units = bit


@given(discrete_data(), st.sampled_from(["shrink", "grow"]), st.integers(1, 3))
def test_a_weight_is_as_many_samples(data: Data, direction: Direction, beam_width: int) -> None:
    weights = torch.arange(len(data.x_in)) % 3 + 1
    weighted = relay_order(*data, weights=weights, direction=direction, beam_width=beam_width)
    repeated = relay_order(
        *(part.repeat_interleave(weights, dim=0) for part in data),
        direction=direction,
        beam_width=beam_width,
    )
    for field in fields(RelayOrder):
        first, second = (getattr(order, field.name) for order in (weighted, repeated))
        torch.testing.assert_close(first, second, atol=1e-9, rtol=0)


@given(discrete_data(max_units=4), st.sampled_from(["shrink", "grow"]))
def test_a_beam_that_drops_nothing_finds_the_best_chain(data: Data, direction: Direction) -> None:
    found = relay_order(*data, direction=direction, beam_width=100)
    sums = [
        sum(information_of(data, list(chain[gone:]), direction) for gone in range(len(chain)))
        for chain in permutations(range(data.hidden.shape[1]))
    ]
    assert float(found.information.sum()) == pytest.approx(max(sums), abs=1e-8)


@pytest.mark.parametrize("direction", ["shrink", "grow"])
def test_units_are_resolved_while_the_conditions_are_covered(direction: Direction) -> None:
    """Three exact relays of 8 classes beside 20 coin flips: what METHOD's table is about."""
    generator = torch.Generator().manual_seed(0)
    label = torch.randint(8, (1000,), generator=generator)
    hidden = torch.randint(2, (1000, 23), generator=generator)
    hidden[:, 20:] = label.unsqueeze(1) >> torch.arange(3) & 1
    order = relay_order(label, label, hidden, direction=direction)
    good = (order.coverage >= 0.9) & (order.gap.abs() <= 0.1)
    if direction == "shrink":
        expected = good.long().cumprod(0)[1:].bool()
        assert expected[0]
        assert not expected[10:].any()
    else:
        expected = good.flip(0).long().cumprod(0).flip(0)[:-1].bool()
        assert expected[-3:].all()
        assert sorted(order.units[-3:].tolist()) == [20, 21, 22]
    assert torch.equal(order.resolved[order.units], expected)
    strict = relay_order(label, label, hidden, direction=direction, min_coverage=1.0, max_gap=0.0)
    assert int(strict.resolved.sum()) < int(order.resolved.sum())
    lax = relay_order(label, label, hidden, direction=direction, min_coverage=0.0, max_gap=9.0)
    assert bool(lax.resolved.all())


@given(
    discrete_data(),
    st.sampled_from(["shrink", "grow"]),
    st.sampled_from(["plugin", "miller_madow", "grassberger", "chao_shen"]),
)
def test_the_gap_is_between_the_plugin_and_the_corrected_estimate(
    data: Data, direction: Direction, estimator: Estimator
) -> None:
    order = relay_order(*data, direction=direction, estimator=estimator)
    units = data.hidden.shape[1]
    other: Estimator = "grassberger" if estimator == "plugin" else estimator
    found = []
    for gone in range(units + 1):
        known = order.units[:gone] if direction == "shrink" else order.units[gone:]
        given_known = data.hidden[:, known] if len(known) else None
        plugin, corrected = (
            float(mutual_information(data.x_in, data.x_out, given_known, estimator=name))
            for name in ("plugin", other)
        )
        assert float(order.gap[gone]) == pytest.approx(corrected - plugin, abs=1e-9)
        found.append(corrected)
    for gone in range(units + 1):
        expected = found[gone] - found[-1] if direction == "shrink" else found[-1] - found[gone]
        assert float(order.corrected[gone]) == pytest.approx(expected, abs=1e-9)


def test_units_of_many_levels_are_tried_one_by_one() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(5, (200,), generator=generator)
    hidden = torch.randint(100, (2, 200, 4), generator=generator)
    hidden[0, :, 2] = labels * 10**9
    order = relay_order(labels, labels, hidden)
    for step in range(2):
        data = labels.tolist(), labels.tolist(), hidden[step].tolist()
        expected = reference.shrinking_order(*data)
        assert order.units[step].tolist() == expected.units
        assert order.information[step].tolist() == pytest.approx(expected.information, abs=1e-12)


def test_counts_beyond_the_precision_of_float32_are_exact() -> None:
    bit = torch.tensor([0, 1, 0, 1, 1])
    hidden = torch.stack([bit, torch.tensor([0, 0, 1, 1, 0])], dim=1)
    weights = torch.tensor([2**24 + 1, 2**24 + 3, 1, 5, 7])
    order = relay_order(bit, bit, hidden, weights=weights)
    counts = weights.double() / weights.sum()
    label = torch.stack([counts[bit == value].sum() for value in (0, 1)])
    entropy_of_label = -(label * label.log2()).sum()
    assert float(order.information[0]) == pytest.approx(float(entropy_of_label), abs=1e-12)


def test_options_are_checked() -> None:
    bit = torch.tensor([0, 1])
    refused = refusals_of(relay_order, x_in=bit, x_out=bit, hidden=bit.unsqueeze(1))
    refused(ValueError, "direction: got 'up'; it takes 'shrink' or 'grow'", direction="up")
    for width in (0, True, 1.5):
        refused(ValueError, "beam_width: got .*; it takes a number of orders", beam_width=width)
    refused(ValueError, "min_coverage: got 2; it takes a fraction from 0 to 1", min_coverage=2)
    refused(TypeError, "min_coverage: got '1'; it takes a number", min_coverage="1")
    refused(ValueError, "max_gap: got -1; it takes bits from 0", max_gap=-1)
    refused(TypeError, "max_gap: got True; it takes a number", max_gap=True)
    refused(ValueError, "weights: got -3; it takes numbers of samples from 0", weights=bit - 3)
    refused(TypeError, "weights: got torch.float32; .*: give how many times", weights=bit.float())
    refused(ValueError, "valid, weights: no sample is counted; leave that index", weights=0 * bit)


def test_tensors_need_not_be_contiguous() -> None:
    generator = torch.Generator().manual_seed(2)
    labels = torch.randint(4, (2, 30), generator=generator).T[:, 0]
    hidden = torch.randint(2, (5, 3, 30), generator=generator).permute(1, 2, 0)
    found = relay_order(labels, labels, hidden)
    expected = relay_order(labels.contiguous(), labels.contiguous(), hidden.contiguous())
    assert torch.equal(found.units, expected.units)


@given(
    st.integers(0, 2**32 - 1), st.sampled_from([2, 3, 8, 9]), st.sampled_from(["shrink", "grow"])
)
@settings(max_examples=30)
def test_counts_of_all_sizes_are_those_of_the_reference(
    seed: int, levels: int, direction: Direction
) -> None:
    """Bags of more samples than a byte counts beside small ones, and rows that stand for many."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(3, (120,), generator=generator)
    answers = torch.where(torch.rand(120, generator=generator) < 0.2, labels.flip(0), labels)
    hidden = torch.randint(levels, (120, 3), generator=generator)
    hidden[:, 0] = labels % levels
    weights = torch.randint(1, 400, (120,), generator=generator) ** torch.randint(
        2, (120,), generator=generator
    )
    found = relay_order(labels, answers, hidden, weights=weights, direction=direction)
    repeated = [
        part.repeat_interleave(weights, dim=0).tolist() for part in (labels, answers, hidden)
    ]
    expected = REFERENCES[direction](*repeated)
    assert found.units.tolist() == expected.units
    assert found.information.tolist() == pytest.approx(expected.information, abs=1e-11)
    assert found.groups.tolist() == expected.groups


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize("estimator", ["plugin", "grassberger", "chao_shen"])
def test_a_gpu_gives_the_same(estimator: Estimator) -> None:
    generator = torch.Generator().manual_seed(4)
    labels = torch.randint(5, (2000,), generator=generator)
    answers = torch.where(torch.rand(2000, generator=generator) < 0.2, labels.flip(0), labels)
    hidden = torch.randint(2, (4, 2000, 12), generator=generator)
    on_cpu = relay_order(labels, answers, hidden, estimator=estimator)
    on_gpu = relay_order(labels.cuda(), answers.cuda(), hidden.cuda(), estimator=estimator)
    assert torch.equal(on_gpu.units.cpu(), on_cpu.units)
    torch.testing.assert_close(on_gpu.information.cpu(), on_cpu.information, atol=1e-12, rtol=0)
    assert torch.equal(on_gpu.resolved.cpu(), on_cpu.resolved)


def test_the_surroundings_do_not_matter() -> None:
    generator = torch.Generator().manual_seed(5)
    labels = torch.randint(5, (300,), generator=generator)
    hidden = torch.randint(3, (300, 12), generator=generator)
    expected = relay_order(labels, labels.flip(0), hidden)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        in_autocast = relay_order(labels, labels.flip(0), hidden)
    with torch.inference_mode():
        inferred = relay_order(labels, labels.flip(0), hidden)
    torch.set_default_dtype(torch.float64)
    try:
        in_double = relay_order(labels, labels.flip(0), hidden)
    finally:
        torch.set_default_dtype(torch.float32)
    for order in (in_autocast, inferred, in_double):
        assert torch.equal(order.units, expected.units)
        assert torch.equal(order.information, expected.information)
    expected.information.add_(1.0)
    weight = torch.ones((), dtype=torch.float64, requires_grad=True)
    (weight * expected.information).sum().backward()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64])
def test_every_dtype_with_gaps_and_negative_values_is_taken(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(6)
    labels = torch.randint(4, (50,), generator=generator)
    hidden = torch.randint(3, (50, 5), generator=generator)
    hidden[:, 3] = hidden[:, 1]
    hidden[:, 4] = 2
    expected = relay_order(labels, labels.flip(0), hidden)
    spread = 40 * hidden if dtype == torch.uint8 else 40 * hidden - 50
    found = relay_order(
        (30 * labels - 10 * (dtype != torch.uint8)).to(dtype),
        labels.flip(0).to(dtype),
        spread.to(dtype),
    )
    for field in fields(RelayOrder):
        assert torch.equal(getattr(found, field.name), getattr(expected, field.name)), field.name


def test_one_sample_and_one_class_relay_nothing() -> None:
    hidden = torch.tensor([[0, 1, 1]])
    label = torch.tensor([7])
    for samples in (1, 9):
        order = relay_order(label.repeat(samples), label.repeat(samples), hidden.repeat(samples, 1))
        assert order.information.tolist() == [0.0] * 4
        assert order.tied.tolist() == [True, True, False]
        assert order.distinct_states.tolist() == [1] * 4
