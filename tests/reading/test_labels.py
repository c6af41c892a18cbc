from collections import namedtuple
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import pack_sequence

from lightning_relay.reading.labels import read_labels

X = torch.zeros(3, 5, 2)
Y = torch.tensor([2, 0, 1])
Pair = namedtuple("Pair", ["series", "label"])


@dataclass
class Sample:
    series: Tensor
    label: Tensor


def second(batch: Any) -> Tensor:
    return batch[1]


def sources(batch: Any, *options: Any) -> list[str]:
    return [entry.source for entry in read_labels(batch, *options).entries]


@pytest.mark.parametrize(
    ("batch", "found"),
    [
        ((X, Y), ["batch[1]"]),
        ([Y.int(), X], ["batch[0]"]),
        ({"x": X, "y": Y}, ["batch['y']"]),
        ({"x": {"a": X, "b": [Y]}}, ["batch['x']['b'][0]"]),
        (Pair(X, Y), ["batch[1]"]),
        (Sample(X, Y), ["batch.label"]),
        ((X[..., 0], Y), ["batch[0]", "batch[1]"]),
        ((pack_sequence([X[0], X[1], X[2]]), Y), ["batch[1]"]),
        ((X, Y > 0, Y[:, None], Y.float()), ["batch[1]", "batch[2]", "batch[3]"]),
        ((X, torch.tensor(3), Y, torch.zeros(3, dtype=torch.complex64)), ["batch[2]"]),
    ],
)
def test_all_tensors_of_one_or_two_dimensions_could_be_the_labels(
    batch: Any, found: list[str]
) -> None:
    assert sources(batch) == found
    assert sources(batch, None, found[-1]) == found[-1:]


def test_values_are_copies_unless_they_can_be_no_labels() -> None:
    batch = (torch.rand(3, 5), torch.eye(3), Y.clone(), Y.float()[:, None])
    labels = read_labels(batch)
    assert [entry.copied for entry in labels.entries] == [False, True, True, True]
    for values in batch:
        values += 5
    assert torch.equal(labels["batch[1]"].values, torch.eye(3))
    assert torch.equal(labels["batch[2]"].values, Y)
    assert labels.sizes == {3}


def test_several_labels_of_a_sample_are_known() -> None:
    found = read_labels((X, torch.ones(3, 2), Y), 1).multi_hot
    assert [one.source for one in found] == ["batch[1]"]
    assert read_labels((X, torch.eye(3), torch.rand(3, 2), torch.ones(3, 1))).multi_hot == ()


@pytest.mark.parametrize(
    ("target", "source"),
    [(1, "target=1"), (-1, "target=-1"), (second, "target=second"), ("label", "target='label'")],
)
def test_the_labels_can_be_named(target: Any, source: str) -> None:
    batch: Any = Sample(X, Y) if target == "label" else (X, Y)
    labels = read_labels(batch, target)
    assert labels.named
    assert torch.equal(labels[source].values, Y)
    assert labels[source].values is not Y


@pytest.mark.parametrize(
    ("batch", "target", "error", "words"),
    [
        ({"y": Y}, "z", ValueError, r"the batch has no 'z'; it has: batch\['y'\] int64 \(3,\)$"),
        ((X, Y), 5, ValueError, r"the batch has no 5; it has: batch\[0\] float32 \(3, 5, 2\), bat"),
        ("nothing", None, ValueError, "no tensor .* it has: a str without tensors"),
        (
            (X,),
            None,
            ValueError,
            r"no tensor .* it has: batch\[0\] float32 .* give target= an index",
        ),
        ({"y": [1, 2]}, "y", TypeError, "'y' gave list; it takes a tensor$"),
        (
            {"y": ["a"]},
            "y",
            TypeError,
            r"'y' gave list; .*NAMES\.index\(name\) for name in batch\['y",
        ),
        ((X, Y.to(torch.cfloat)), 1, TypeError, r"1 gave complex64 \(3,\); it takes class labels"),
        ((X, Y[0]), 1, TypeError, r"1 gave int64 \(\); it takes class labels"),
    ],
    ids=["no key", "no index", "no tensor", "series", "a list", "names", "complex", "a number"],
)
def test_what_is_not_there_is_refused(
    batch: Any, target: Any, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=f"^target: {words}"):
        read_labels(batch, target)


def test_labels_that_were_there_in_an_earlier_batch_are_missed() -> None:
    with pytest.raises(ValueError, match=r"^target: no batch\[1\] could be the class labels"):
        read_labels((X, X), None, "batch[1]")
