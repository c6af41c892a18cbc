from collections import namedtuple
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import pack_sequence

from lightning_relay.reading.labels import read_target

X = torch.zeros(3, 5, 2)
Y = torch.tensor([2, 0, 1])
Pair = namedtuple("Pair", ["series", "label"])


@dataclass
class Sample:
    series: Tensor
    label: Tensor


def second(batch: Any) -> Tensor:
    return batch[1]


@pytest.mark.parametrize(
    "batch",
    [
        (X, Y),
        [Y.int(), X],
        {"x": X, "y": Y},
        ({"x": X, "z": X}, Y),
        Pair(X, Y),
        Sample(X, Y),
        (torch.zeros(3, 5, dtype=torch.long), Y),
        (pack_sequence([X[0], X[1], X[2]]), Y),
        (X, torch.tensor([True, False, True]), Y),
    ],
)
def test_the_only_integer_tensor_of_the_batch_is_the_target(batch: Any) -> None:
    labels = read_target(batch).labels
    assert labels.dtype == torch.int64
    assert torch.equal(labels, Y)


def test_the_target_can_be_named() -> None:
    lengths = torch.tensor([5, 4, 1])
    assert torch.equal(read_target((X, lengths, Y), 2).labels, Y)
    assert torch.equal(read_target((X, lengths, Y), -1).labels, Y)
    assert torch.equal(read_target({"x": X, "lengths": lengths, "y": Y}, "y").labels, Y)
    assert torch.equal(read_target(Sample(X, Y), "label").labels, Y)
    assert torch.equal(read_target((X, Y), lambda batch: batch[1] % 2).labels, Y % 2)


def test_the_target_is_a_copy() -> None:
    batch = (X, Y.clone())
    labels = read_target(batch).labels
    batch[1].zero_()
    assert torch.equal(labels, Y)


def test_a_batch_with_several_candidates_asks_which() -> None:
    with pytest.raises(
        ValueError,
        match=r"target: several integer tensors \(batch\['n'\], batch\['y'\]\) could be the class "
        r"labels in the batch; it has: batch\['x'\] float32 \(3, 5, 2\), .* give target= an index",
    ):
        read_target({"x": X, "n": Y, "y": Y})


def test_float_targets_are_refused_with_what_was_seen() -> None:
    with pytest.raises(
        ValueError,
        match=r"target: no integer tensor of shape \(batch,\) could be the class labels in the batc"
        r"h; it has: batch\[0\] float32 \(3, 5, 2\), batch\[1\] float32 \(3,\). The analysis needs",
    ):
        read_target((X, Y.float()))


def test_an_integer_beside_float_targets_is_not_taken_for_the_target() -> None:
    with pytest.raises(
        ValueError,
        match=r"target: batch\[1\] holds integers, but batch\[2\] could also be the class labels",
    ):
        read_target((X, torch.tensor([5, 4, 1]), Y.float()))
    with pytest.raises(ValueError, match=r"target: no integer tensor of shape \(batch,\) could be"):
        read_target((X, torch.tensor([True, False, True])))


def test_where_the_target_came_from_is_said() -> None:
    assert read_target({"x": X, "y": Y}).source == "batch['y']"
    assert read_target((X, Y), -1).source == "target=-1"
    assert read_target((X, Y), second).source == "target=second"


@pytest.mark.parametrize(
    ("batch", "target", "error", "words"),
    [
        ({"y": Y}, "z", ValueError, r"the batch has no 'z'; it has: batch\['y'\] int64 \(3,\)$"),
        ((X, Y), 5, ValueError, r"the batch has no 5; it has: batch\[0\] float32 \(3, 5, 2\), bat"),
        ("nothing", None, ValueError, "no integer .* it has: a str without tensors"),
        ({"y": [1, 2]}, "y", TypeError, "'y' gave list; it takes a tensor$"),
        ((X, Y.float()), 1, TypeError, r"1 gave torch.float32 of shape \(3,\); it takes integer c"),
        ((X, X.long()), 1, TypeError, r"1 gave torch.int64 of shape \(3, 5, 2\); it takes integer"),
    ],
    ids=["no key", "no index", "no tensor", "a list", "floats", "other shape"],
)
def test_what_is_not_there_is_refused(
    batch: Any, target: Any, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=f"^target: {words}"):
        read_target(batch, target)
