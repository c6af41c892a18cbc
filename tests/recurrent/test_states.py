import re
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_relay.recurrent import HiddenStates
from lightning_relay.recurrent.errors import StepError
from lightning_relay.recurrent.states import check_time_steps


def example() -> HiddenStates:
    """Two sequences of 4 and 2 steps; the state of unit u at step t of sequence s is 100s+10t+u."""
    values = (
        100 * torch.arange(2)[:, None, None] + 10 * torch.arange(4)[:, None] + torch.arange(3)
    ).float()
    return HiddenStates.of_lengths(values, torch.tensor([4, 2]))


def test_lengths_are_the_numbers_of_valid_steps() -> None:
    assert example().valid.tolist() == [[True] * 4, [True, True, False, False]]
    assert example().lengths.tolist() == [4, 2]


def test_a_step_counts_from_the_start() -> None:
    states = example().at(2)
    assert states.values[0, 0].tolist() == [20.0, 21.0, 22.0]
    assert states.valid.tolist() == [[True], [False]]


def test_a_negative_step_counts_from_the_end_of_each_sequence() -> None:
    last = example().at(-1)
    assert last.values[:, 0, 0].tolist() == [30.0, 110.0]
    assert last.valid.tolist() == [[True], [True]]
    assert example().at(-3).valid.tolist() == [[True], [False]]
    assert [example().has(step) for step in (-5, -4, 0, 3, 4)] == [False, True, True, True, False]


@pytest.mark.parametrize("step", [4, -5])
def test_a_step_outside_every_sequence_is_refused(step: int) -> None:
    with pytest.raises(
        ValueError, match=rf"time_steps: got {step}, but the longest sequence has 4"
    ):
        example().at(step)


def test_batches_are_padded_to_the_longest() -> None:
    short = HiddenStates(torch.ones(1, 1, 3), torch.ones(1, 1, dtype=torch.bool))
    both = HiddenStates.concatenate([example(), short])
    assert both.values.shape == (3, 4, 3)
    assert both.lengths.tolist() == [4, 2, 1]
    assert torch.equal(both.values[:2], example().values)
    assert both.select(torch.tensor([2])).lengths.tolist() == [1]


def test_only_valid_states_must_be_finite() -> None:
    states = example()
    states.values[1, 3] = torch.nan
    states.check_finite("rnn.l0")
    states.values[1, 1, 2] = torch.inf
    with pytest.raises(
        ValueError, match=r"states of 'rnn.l0': inf at step 1, unit 2 \(in 1 of 2 sequences states"
    ):
        states.check_finite("rnn.l0")


@pytest.mark.parametrize(
    ("values", "valid", "words"),
    [
        (
            torch.zeros(2, 3),
            torch.ones(2, 3, dtype=torch.bool),
            "values, valid: got shapes (2, 3) and (2, 3); they take (batch, step, unit) and (b",
        ),
        (
            torch.zeros(2, 2, 3),
            torch.tensor([[True, True], [False, True]]),
            "valid: got padding before a valid step; it takes sequences padded at their end",
        ),
    ],
    ids=["shapes", "padding"],
)
def test_masks_that_do_not_fit_are_refused(values: Tensor, valid: Tensor, words: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(words)}"):
        HiddenStates(values, valid)


@pytest.mark.parametrize(
    ("lengths", "words"),
    [
        ([3], "got shape (1,) for 2 sequences; it takes one length for each"),
        ([0, 2], "got torch.int64 values from 0 to 2; it takes integers from 1 to the 3 steps"),
        ([1, 4], "got torch.int64 values from 1 to 4; it takes integers from 1 to the 3 steps"),
        ([1.0, 2.0], "got torch.float32 values from 1.0 to 2.0; it takes integers from 1 to the 3"),
    ],
    ids=str,
)
def test_lengths_that_do_not_fit_are_refused(lengths: list[float], words: str) -> None:
    with pytest.raises(ValueError, match=f"^lengths: {re.escape(words)}"):
        HiddenStates.of_lengths(torch.zeros(2, 3, 1), torch.tensor(lengths))


def test_a_batch_without_sequences_has_no_step() -> None:
    nothing = HiddenStates(torch.zeros(0, 3, 2), torch.zeros(0, 3, dtype=torch.bool))
    assert len(nothing) == 0
    with pytest.raises(StepError, match=r"^time_steps: got 1, but there is no sequence$"):
        nothing.at(1)


@pytest.mark.parametrize("steps", [None, [0], (3, -1), range(4)], ids=str)
def test_different_steps_may_be_wanted(steps: Any) -> None:
    check_time_steps(steps)


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        *((steps, "it takes a list of step indices") for steps in (3, [], {1, 2}, [True], [0.5])),
        ([2, 0, 2], "name each step once"),
    ],
    ids=str,
)
def test_other_time_steps_are_refused(steps: Any, words: str) -> None:
    with pytest.raises(ValueError, match=rf"^time_steps: got .*; {words}$"):
        check_time_steps(steps)


def test_joined_sequences_go_on_without_the_padding_between() -> None:
    values = torch.arange(1.0, 15.0).reshape(2, 7, 1)
    parts = [
        HiddenStates.of_lengths(values[:, :4], torch.tensor([4, 2])),
        HiddenStates.of_lengths(values[:, 4:], torch.tensor([1, 3])),
    ]
    joined = HiddenStates.joined(parts)
    assert joined.lengths.tolist() == [5, 5]
    assert joined.values[..., 0].tolist() == [[1, 2, 3, 4, 5], [8, 9, 12, 13, 14]]
    shorter = HiddenStates.joined([parts[0], HiddenStates.of_lengths(values, torch.tensor([1, 1]))])
    assert shorter.lengths.tolist() == [5, 3]
    assert shorter.values[1, :3, 0].tolist() == [8, 9, 8]
