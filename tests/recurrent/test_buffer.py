import pytest
import torch

from lightning_relay.recurrent import HiddenStates, SequenceBuffer
from lightning_relay.recurrent.buffer import Sequences


def numbered(first: int, last: int, steps: int = 2) -> Sequences:
    """Sequences whose states and labels are their numbers."""
    numbers = torch.arange(first, last)
    values = numbers.float().reshape(-1, 1, 1).repeat(1, steps, 3)
    valid = torch.ones(values.shape[:2], dtype=torch.bool)
    return Sequences({"rnn.l0": HiddenStates(values, valid)}, numbers, -numbers)


def kept(buffer: SequenceBuffer) -> list[int]:
    return buffer.sequences().x_in.tolist()


def filled(total: int, batch: int, max_samples: int, seed: int = 0) -> SequenceBuffer:
    buffer = SequenceBuffer(max_samples, seed)
    for first in range(0, total, batch):
        buffer.add(numbered(first, min(first + batch, total)))
    return buffer


def test_everything_is_kept_in_order_while_there_is_room() -> None:
    buffer = filled(10, 4, 10)
    assert kept(buffer) == list(range(10))
    assert (buffer.seen, len(buffer)) == (10, 10)


@pytest.mark.parametrize("batch", [1, 7, 64, 1000])
def test_the_sample_does_not_depend_on_the_division_into_batches(batch: int) -> None:
    buffer = filled(1000, batch, 50, seed=3)
    assert (buffer.seen, len(buffer)) == (1000, 50)
    assert kept(buffer) == kept(filled(1000, 13, 50, seed=3))
    assert kept(buffer) != kept(filled(1000, batch, 50, seed=4))


def test_states_and_labels_stay_together() -> None:
    sequences = filled(500, 9, 20).sequences()
    assert torch.equal(sequences.states["rnn.l0"].values[:, 1, 2], sequences.x_in.float())
    assert torch.equal(sequences.x_out, -sequences.x_in)


def test_every_sequence_is_as_likely_as_any_other() -> None:
    counts = torch.zeros(40)
    for seed in range(400):
        counts[kept(filled(40, 8, 10, seed))] += 1
    expected = 400 * 10 / 40
    chi_squared = float(((counts - expected) ** 2 / (expected * 0.75)).sum())
    assert chi_squared < 73.4  # the 99.9th percentile with 39 degrees of freedom is 72.05


def test_no_other_random_stream_is_touched() -> None:
    before = torch.get_rng_state()
    filled(100, 9, 20)
    assert torch.equal(torch.get_rng_state(), before)


def test_batches_of_different_lengths_are_padded() -> None:
    buffer = SequenceBuffer(10)
    buffer.add(numbered(0, 2, steps=3))
    buffer.add(numbered(2, 3, steps=5))
    assert buffer.sequences().states["rnn.l0"].lengths.tolist() == [3, 3, 5]


def test_an_empty_buffer_has_no_sequences() -> None:
    with pytest.raises(ValueError, match="buffer: no sequence was added"):
        SequenceBuffer(10).sequences()
