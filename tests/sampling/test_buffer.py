from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_relay import RelayMeasure, SequenceSample
from lightning_relay.information.discretization import discretize
from lightning_relay.recurrent import HiddenStates
from lightning_relay.sampling import SequenceBuffer

LAYER = "rnn.l0"


def buffer_of(max_samples: int, **options: Any) -> SequenceBuffer:
    coding = {name: options.pop(name) for name in ("discretization", "levels") if name in options}
    return SequenceBuffer(
        SequenceSample(max_samples=max_samples, **options), RelayMeasure(**coding)
    )


def add(buffer: SequenceBuffer, numbers: Tensor, states: HiddenStates, **options: int) -> None:
    """Sequences whose labels are their numbers."""
    buffer.add({LAYER: states}, numbers, -numbers, **options)


def filled(total: int, batch: int, max_samples: int, **options: Any) -> SequenceBuffer:
    """A buffer given sequences whose states are their numbers."""
    buffer = buffer_of(max_samples, **options)
    for numbers in torch.arange(total).split(batch):
        values = numbers.float().reshape(-1, 1, 1).repeat(1, 2, 3)
        add(buffer, numbers, HiddenStates.of_lengths(values, torch.full((len(values),), 2)))
    return buffer


def kept(buffer: SequenceBuffer) -> list[int]:
    numbers: list[int] = buffer.x_in.tolist()
    return numbers


# Which sequences are kept


def test_everything_is_kept_in_order_while_there_is_room() -> None:
    buffer = filled(10, 4, 10)
    assert kept(buffer) == list(range(10))
    assert (buffer.seen, len(buffer)) == (10, 10)


@pytest.mark.parametrize("batch", [1, 7, 64, 1000])
def test_the_sample_does_not_depend_on_the_division_into_batches(batch: int) -> None:
    buffer = filled(1000, batch, 50, seed=3)
    assert (buffer.seen, len(buffer)) == (1000, 50)
    assert kept(buffer) == kept(filled(1000, 13, 50, seed=3))
    assert kept(buffer) == sorted(kept(buffer))
    assert kept(buffer) != kept(filled(1000, batch, 50, seed=4))


def test_states_and_labels_stay_together() -> None:
    buffer = filled(500, 9, 20)
    assert torch.equal(buffer.states[LAYER].at(1).values[:, 0, 2], buffer.x_in.float())
    assert torch.equal(buffer.x_out, -buffer.x_in)


def test_every_sequence_is_as_likely_as_any_other() -> None:
    counts = torch.zeros(40)
    for seed in range(400):
        counts[kept(filled(40, 8, 10, seed=seed))] += 1
    expected = 400 * 10 / 40
    chi_squared = float(((counts - expected) ** 2 / (expected * 0.75)).sum())
    assert chi_squared < 73.4  # the 99.9th percentile with 39 degrees of freedom is 72.05


def test_no_other_random_stream_is_touched() -> None:
    before = torch.get_rng_state()
    filled(1000, 9, 200, fit_samples=20)
    assert torch.equal(torch.get_rng_state(), before)


# What is kept of them


def stream(
    total: int = 600, steps: int = 5, units: int = 11, *, ragged: bool = False
) -> HiddenStates:
    generator = torch.Generator().manual_seed(1)
    values = torch.randn(total, steps, units, generator=generator).tanh()
    lengths = torch.full((total,), steps)
    if ragged:
        lengths = torch.randint(1, steps + 1, (total,), generator=generator)
        lengths[:3] = steps
    return HiddenStates.of_lengths(values, lengths)


def given(states: HiddenStates, batch: int, max_samples: int, **options: Any) -> SequenceBuffer:
    buffer = buffer_of(max_samples, **options)
    for numbers in torch.arange(len(states)).split(batch):
        part = states.select(numbers)
        longest = int(part.lengths.max())
        add(buffer, numbers, HiddenStates(part.values[:, :longest], part.valid[:, :longest]))
    return buffer


@pytest.mark.parametrize("batch", [1, 50, 600])
@pytest.mark.parametrize("time_steps", [None, [3, 0, -2]])
@pytest.mark.parametrize("storage", ["codes", "states"])
def test_states_are_kept_as_they_are_where_all_fit(
    batch: int, time_steps: list[int] | None, storage: str
) -> None:
    states = stream(ragged=True)
    options = {"fit_samples": 10} if storage == "states" else {}
    buffer = given(states, batch, 400, time_steps=time_steps, storage=storage, **options)
    layer = buffer.states[LAYER]
    assert (layer.fitted, layer.agreement(), layer.left_out()) == (None, 1.0, 0)
    chosen = states.select(buffer.x_in)
    assert torch.equal(layer.lengths, chosen.lengths)
    for step in time_steps or [*range(5), -1]:
        expected, found = chosen.at(step), layer.at(step)
        assert torch.equal(found.valid, expected.valid)
        mask = expected.valid
        assert torch.equal(found.values[mask], expected.values[mask])
    assert not layer.has(5)
    assert layer.has(-1) == (time_steps is None)
    with pytest.raises(ValueError, match="time_steps: got 5, but the longest sequence has 5 steps"):
        layer.at(5)
    with pytest.raises(
        ValueError, match=r"got -3, which was not kept of 'rnn.l0'; add it to the t"
    ):
        layer.at(-3)


METHODS = [("kmeans", 2), ("median", 2), ("sign", 2), ("quantile", 5), ("quantile", 300)]


@pytest.mark.parametrize(("method", "levels"), METHODS)
@pytest.mark.parametrize("time_steps", [None, [3, 0, -2]])
@pytest.mark.parametrize("max_samples", [600, 300])
def test_codes_are_those_of_thresholds_fitted_to_the_first_sequences(
    method: str, levels: int, time_steps: list[int] | None, max_samples: int
) -> None:
    states = stream(ragged=True)
    options: dict[str, Any] = {"discretization": method, "levels": levels}
    buffer = given(states, 64, max_samples, fit_samples=250, time_steps=time_steps, **options)
    layer = buffer.states[LAYER]
    assert layer.fitted == 250
    chosen = states.select(buffer.x_in)
    first = states.select(torch.arange(250))
    for step in time_steps or [*range(5), -1]:
        found, later = layer.at(step), chosen.at(step)
        together = torch.cat([first.at(step).values, later.values])[:, 0]
        valid = torch.cat([first.at(step).valid[:, 0], torch.zeros(len(chosen)).bool()])
        expected = discretize(together, method, levels=levels, valid=valid)[250:]
        mask = later.valid[:, 0]
        assert not found.values.is_floating_point()
        assert torch.equal(found.values[mask, 0].long(), expected[mask])


@pytest.mark.parametrize(("method", "levels"), METHODS)
def test_streamed_codes_are_those_of_two_passes_where_the_first_sequences_tell_all(
    method: str, levels: int
) -> None:
    half = stream(300)
    states = HiddenStates(half.values.repeat(2, 1, 1), half.valid.repeat(2, 1))
    options: dict[str, Any] = {"discretization": method, "levels": levels}
    layer = given(states, 64, 600, fit_samples=300, **options).states[LAYER]
    codes = discretize(states.values.transpose(0, 1), method, levels=levels)
    for step in range(5):
        assert torch.equal(layer.at(step).values[:, 0].long(), codes[step])


@pytest.mark.parametrize("block_bytes", [1, 3000])
def test_small_blocks_hold_the_same(block_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    states = stream(ragged=True)
    expected = given(states, 64, 300, fit_samples=250).states[LAYER]
    monkeypatch.setattr("lightning_relay.sampling.storage._BLOCK_BYTES", block_bytes)
    found = given(states, 64, 300, fit_samples=250).states[LAYER]
    for step in (*range(5), -1):
        valid = expected.at(step).valid
        assert torch.equal(found.at(step).values[valid], expected.at(step).values[valid])


@pytest.mark.parametrize("batch", [1, 7, 64, 600])
def test_codes_do_not_depend_on_the_division_into_batches(batch: int) -> None:
    states = stream(ragged=True)
    one = given(states, batch, 300, fit_samples=250)
    other = given(states, 50, 300, fit_samples=250)
    assert kept(one) == kept(other)
    for step in (*range(5), -1):
        valid = one.states[LAYER].at(step).valid
        found, expected = (b.states[LAYER].at(step).values[valid] for b in (one, other))
        assert torch.equal(found, expected)
    assert one.states[LAYER].agreement() == other.states[LAYER].agreement()


def test_half_precision_is_rounding_and_nothing_else() -> None:
    states = stream()
    layer = given(states, 64, 600, storage="half", fit_samples=10).states[LAYER]
    assert layer.fitted is None
    assert torch.equal(layer.at(2).values[:, 0], states.values[:, 2].half())
    large = HiddenStates(torch.full((2, 1, 1), 1e5), torch.ones(2, 1).bool())
    buffer = SequenceBuffer(SequenceSample(max_samples=10, storage="half"))
    with pytest.raises(
        ValueError, match=r"storage: a state of 'rnn.l0' is 1e\+05, beyond the range of half prec"
    ):
        add(buffer, torch.arange(2), large)
    assert (buffer.seen, len(buffer)) == (0, 0)


@pytest.mark.parametrize(("method", "levels"), [("kmeans", 2), ("median", 2), ("quantile", 8)])
@pytest.mark.parametrize("fit_samples", [100, 500])
def test_thresholds_agree_as_expected_where_all_sequences_are_alike(
    method: str, levels: int, fit_samples: int
) -> None:
    options: dict[str, Any] = {"discretization": method, "levels": levels}
    layer = given(stream(3000), 64, 3000, fit_samples=fit_samples, **options).states[LAYER]
    assert layer.agreement() < 1
    assert layer.agreement() > layer.expected_agreement - 0.1


def test_one_unit_whose_thresholds_do_not_suit_the_rest_of_the_stream_is_told() -> None:
    generator = torch.Generator().manual_seed(0)
    values = 0.1 * torch.randn(2000, 5, 100, generator=generator)
    values += torch.randn(2000, 5, 100, generator=generator).sign()
    values[:, :, 7] = 0.1 * torch.randn(2000, 5, generator=generator)
    values[1000:, :, 7] += 2.0  # ordered by class, and one unit tells the class
    states = HiddenStates.of_lengths(values, torch.full((2000,), 5))
    layer = given(states, 64, 2000, fit_samples=500).states[LAYER]
    assert layer.agreement() < layer.expected_agreement - 0.1
    shuffled = states.select(torch.randperm(2000, generator=generator))
    layer = given(shuffled, 64, 2000, fit_samples=500).states[LAYER]
    assert layer.agreement() > layer.expected_agreement - 0.1


def test_steps_that_few_of_the_first_sequences_have_are_left_out_and_counted() -> None:
    lengths = torch.full((200,), 3)
    lengths[:31] = 5  # fewer than 32 of the first 100
    lengths[120:150] = 6
    states = HiddenStates.of_lengths(stream(200, steps=6).values, lengths)
    layer = given(states, 50, 200, fit_samples=100).states[LAYER]
    assert layer.left_out() == 61
    assert [layer.has(step) for step in (-1, 2, 3, 5)] == [True, True, False, False]
    with pytest.raises(
        ValueError,
        match=r"got 3, which fewer than 32 of the first 100 sequences of 'rnn.l0' have, so it has "
        r"no thresholds; raise fit_samples",
    ):
        layer.at(3)
    layer = given(states, 50, 200, fit_samples=100, time_steps=[5, 0]).states[LAYER]
    assert layer.left_out() == 30
    assert [layer.has(step) for step in (0, 5)] == [True, False]
    layer = given(states, 50, 200, fit_samples=100, time_steps=[5]).states[LAYER]
    assert (layer.agreement(), layer.left_out()) == (1.0, 30)


@pytest.mark.parametrize("options", [{}, {"fit_samples": 60}, {"fit_samples": 60, "levels": 2}])
def test_longer_sequences_may_come_later(options: dict[str, Any]) -> None:
    values = stream(200, steps=40).values
    lengths = torch.tensor([2] * 20 + [5] * 20 + [40] * 160)
    states = HiddenStates.of_lengths(values, lengths)
    buffer = given(states, 20, 200, **options)
    layer = buffer.states[LAYER]
    for step in (0, 1, 4, -1):
        found, expected = layer.at(step), states.at(step)
        valid = expected.valid[:, 0]
        if layer.fitted is None:
            assert torch.equal(found.values[valid], expected.values[valid])
        else:
            first = expected.valid[:, 0] & (torch.arange(200) < 60)
            codes = discretize(expected.values[:, 0], valid=first)
            assert torch.equal(found.values[valid, 0].long(), codes[valid])


# Memory


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"fit_samples": 5000},
            "max_bytes: got 1000 (1.0 kB), but 5000 sequences take 3.2 MB. 'rnn.l0': 5000 "
            "sequences × 10 steps × 16 units × 4 B = 3.2 MB. Keep fewer sequences (max_samples), ",
        ),
        (
            {"max_samples": 50_000, "fit_samples": 100},
            "50000 sequences × 10 steps × 2 B of codes, 256 to check thresholds × 10 steps ×",
        ),
        (
            {"fit_samples": 4000},
            "4000 to fit thresholds × (10 steps × 16 units × 4 B + 10 steps × 2 B of codes)",
        ),
        (
            {"fit_samples": 5000, "time_steps": [1, -1], "storage": "half"},
            "5000 sequences × 2 steps × 16 units × 2 B = 0.3 MB",
        ),
    ],
    ids=["states", "codes", "fitting", "half"],
)
def test_what_would_take_too_much_memory_is_refused_with_the_arithmetic(
    options: dict[str, Any], words: str
) -> None:
    buffer = SequenceBuffer(SequenceSample(**{"max_samples": 5000, "max_bytes": 1000, **options}))
    with pytest.raises(ValueError, match=re.escape(words)):
        add(buffer, torch.arange(8), stream(8, steps=9, units=16))
    assert len(buffer) == 0


def test_the_number_to_come_and_longer_sequences_change_the_estimate() -> None:
    buffer = SequenceBuffer(
        SequenceSample(max_samples=5000, max_bytes=8 * 10 * 16 * 4, fit_samples=5000)
    )
    add(buffer, torch.arange(4), stream(4, steps=9, units=16), expected=8)
    add(buffer, torch.arange(4), stream(4, steps=9, units=16), expected=8)
    with pytest.raises(ValueError, match="but 9 sequences take"):
        add(buffer, torch.arange(1), stream(1, steps=9, units=16), expected=8)
    buffer = SequenceBuffer(SequenceSample(max_samples=8, max_bytes=8 * 10 * 16 * 4))
    add(buffer, torch.arange(4), stream(4, steps=9, units=16))
    with pytest.raises(ValueError, match="8 sequences × 11 steps × 16 units × 4 B"):
        add(buffer, torch.arange(4), stream(4, steps=10, units=16))
    assert len(buffer) == 4


@pytest.mark.parametrize(("levels", "width"), [(2, 2), (7, 11)])
def test_codes_take_as_many_bytes_as_estimated(levels: int, width: int) -> None:
    method = "kmeans" if levels == 2 else "quantile"
    buffer = given(stream(512), 64, 512, fit_samples=256, discretization=method, levels=levels)
    layer = buffer._layers[LAYER]
    assert layer.values is not None
    assert layer.checked is not None
    codes, checked = 512 * 6 * width, 256 * 6 * 11 * 4
    assert (layer.values.nbytes, layer.checked.nbytes) == (codes, checked)
    fitting = 256 * (6 * 11 * 4 + 6 * width)
    assert buffer.bytes_needed == max(codes, fitting) + checked


def test_states_kept_before_thresholds_are_fitted_take_as_many_bytes_as_estimated() -> None:
    buffer = SequenceBuffer(SequenceSample(max_samples=1000, fit_samples=600))
    add(buffer, torch.arange(500), stream(500), expected=500)
    layer = buffer._layers[LAYER]
    assert layer.values is not None
    assert layer.checked is not None
    assert buffer.bytes_needed == layer.values.nbytes + layer.checked.nbytes


def test_a_short_batch_before_long_ones_takes_no_more_room() -> None:
    buffer = SequenceBuffer(SequenceSample(max_samples=100, max_bytes=40_000_000))
    add(buffer, torch.arange(10), stream(10, steps=2, units=64))
    add(buffer, torch.arange(10), stream(10, steps=1400, units=64))
    values = buffer._layers[LAYER].values
    assert values is not None
    assert values.nbytes <= buffer.bytes_needed


def test_long_sequences_after_fitting_take_no_room_for_their_last_steps() -> None:
    buffer = SequenceBuffer(SequenceSample(max_samples=5000, fit_samples=64, max_bytes=1_000_000))
    for _ in range(3):
        add(buffer, torch.arange(64), stream(64, steps=5, units=64))
    add(buffer, torch.arange(1), stream(1, steps=400, units=64))
    assert buffer.states[LAYER].left_out() == 1


def test_batches_that_do_not_fit_are_refused_before_anything_is_kept() -> None:
    buffer = SequenceBuffer(SequenceSample(max_samples=100))
    states = stream(6)
    add(buffer, torch.arange(6), states)
    with pytest.raises(
        ValueError, match=r"got 6 sequences of 'rnn.l0', 3 and 3 labels; they take one label.*clear"
    ):
        add(buffer, torch.arange(3), states)
    with pytest.raises(
        TypeError, match=r"^x_in: got shape \(6, 1, 1\); it takes labels \(batch,\)"
    ):
        add(buffer, torch.zeros(6, 1, 1, dtype=torch.int64), states)
    with pytest.raises(TypeError, match=r"^x_in, x_out: got torch.float32 and torch.float32; they"):
        add(buffer, torch.rand(6), states)
    with pytest.raises(
        ValueError, match=r"states: got units and dtypes .* after .*the same layers"
    ):
        add(buffer, torch.arange(6), stream(6, units=1))
    with pytest.raises(ValueError, match=r"^states: got no layer; it takes hidden states by l"):
        buffer.add({}, torch.arange(1), torch.arange(1))
    states.values[2, 3, 4] = torch.nan
    with pytest.raises(ValueError, match=r"states of 'rnn.l0': nan at step 3, unit 4"):
        add(buffer, torch.arange(6), states)
    add(buffer, torch.arange(0), stream(6).select(torch.arange(0)))
    assert (buffer.seen, len(buffer)) == (6, 6)
    with torch.inference_mode():
        add(buffer, torch.arange(6), stream(6))
    add(buffer, torch.arange(6), stream(6))
    assert len(buffer) == 18


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"storage": "disk"}, ValueError, "got 'disk'; it takes 'codes', 'states', 'half'"),
        ({"max_samples": 1e2}, ValueError, "got 100.0; it takes an integer of at least 2"),
        ({"fit_samples": True}, ValueError, "got True; it takes an integer of at least 2"),
        (
            {"max_bytes": 0},
            ValueError,
            "got 0; it takes an integer number of bytes of at least 1, or None",
        ),
        ({"time_steps": [1, 1]}, ValueError, "got [1, 1]; name each step once"),
        ({"seed": "a"}, TypeError, "got 'a'; it takes an integer"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_bad_options_are_refused(
    options: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=rf"^{next(iter(options))}: {re.escape(words)}$"):
        SequenceSample(**options)


@pytest.mark.parametrize("batch", [1, 7, 64])
def test_labels_of_steps_are_kept_with_their_sequences(batch: int) -> None:
    """Sequences of any length; labels that are missing are told from those that are 0."""
    generator = torch.Generator().manual_seed(1)
    lengths = 1 + torch.randint(6, (200,), generator=generator).sort().values
    buffer = buffer_of(50, seed=2)
    for numbers in torch.arange(200).split(batch):
        longest = int(lengths[numbers].max())
        steps = torch.arange(longest)
        labels = torch.where(steps < lengths[numbers][:, None], numbers[:, None] * 10 + steps, -100)
        labels[:, 0] *= 0
        states = HiddenStates.of_lengths(labels[:, :, None].float(), lengths[numbers])
        buffer.add({LAYER: states}, labels, labels + 1)
    x_in, last = buffer.x_in, lengths.max()
    assert x_in.shape == buffer.x_out.shape == (50, last)
    numbers = torch.where(x_in[:, 1] == -100, torch.zeros(()).long(), x_in[:, 1] // 10)
    assert (numbers > 0).sum() > 20
    for row, number in enumerate(numbers.tolist()):
        if number:
            own = number * 10 + torch.arange(int(last))
            own[0] = 0
            own[lengths[number] :] = -100
            assert torch.equal(x_in[row], own)
    counted = x_in != -100
    assert torch.equal(buffer.x_out[counted], x_in[counted] + 1)


def test_batches_that_grow_in_number_and_in_length() -> None:
    buffer, start = buffer_of(100), 0
    for number, steps in ((2, 5), (2, 6), (8, 5), (30, 4)):
        states = HiddenStates.of_lengths(
            torch.arange(start, start + number)[:, None, None].expand(-1, steps, 3).float(),
            torch.full((number,), steps),
        )
        add(buffer, torch.arange(start, start + number), states, expected=4)
        start += number
    kept = buffer.states[LAYER]
    assert buffer.x_in.tolist() == list(range(42))
    for step, last in ((3, 42), (4, 12)):
        assert kept.at(step).values[:last, 0, 0].tolist() == list(range(last))
    assert kept.at(5).values[2:4, 0, 0].tolist() == [2, 3]
    assert kept.lengths.tolist() == [5] * 2 + [6] * 2 + [5] * 8 + [4] * 30


@pytest.mark.parametrize("real", [False, True])
def test_labels_of_steps_that_a_sequence_lacks_do_not_count(real: bool) -> None:
    buffer = buffer_of(3)
    for start, steps in ((0, 2), (2, 4), (4, 3)):
        labels = torch.arange(start, start + 2)[:, None].expand(-1, steps) + (0.5 if real else 0)
        buffer.add({LAYER: stream(2, steps=steps)}, labels, labels)
    missing = torch.nan if real else -100
    assert buffer.x_in.shape == (3, 4)
    for row in buffer.x_in:
        start = int(row[0]) // 2 * 2
        steps = {0: 2, 2: 4, 4: 3}[start]
        expected = torch.full((4,), missing).double() if real else torch.full((4,), missing)
        expected[:steps] = row[0]
        torch.testing.assert_close(row, expected, rtol=0, atol=0, equal_nan=True)
