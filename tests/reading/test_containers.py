from __future__ import annotations

from collections import OrderedDict, deque, namedtuple
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.utils.rnn import pack_sequence

from lightning_relay.reading.containers import numbers_in, rebuilt, tensors_in

Pair = namedtuple("Pair", "first second")
ONE, TWO = torch.ones(1), torch.ones(2)


@dataclass(frozen=True)
class Record:
    inputs: Any
    label: Any


CONTAINERS: list[tuple[Any, list[str]]] = [
    ([ONE, TWO], ["[0]", "[1]"]),
    ((ONE, TWO), ["[0]", "[1]"]),
    (Pair(ONE, TWO), ["[0]", "[1]"]),
    (deque([ONE, TWO]), ["[0]", "[1]"]),
    ({"x": ONE, 3: TWO}, ["['x']", "[3]"]),
    (OrderedDict(x=ONE, y=TWO), ["['x']", "['y']"]),
    (Record(ONE, TWO), [".inputs", ".label"]),
]


@pytest.mark.parametrize(("container", "places"), CONTAINERS, ids=lambda c: type(c).__name__)
def test_parts_are_found_and_put_together(container: Any, places: list[str]) -> None:
    nested = {"batch": [container, "words", None, 1.5]}
    paths = [f"b['batch'][0]{place}" for place in places]
    found = list(tensors_in(nested, "b"))
    assert [path for path, _ in found] == paths
    assert [tensor for _, tensor in found] == [ONE, TWO]
    again = rebuilt(nested)
    assert again is not nested
    assert type(again["batch"][0]) is type(container)
    assert [tensor for _, tensor in tensors_in(again)] == [ONE, TWO]
    again["batch"].pop()
    again["batch"][0] = None
    assert [path for path, _ in tensors_in(nested, "b")] == paths
    assert len(nested["batch"]) == 4


def test_what_is_no_container_is_left_as_it_is() -> None:
    packed = pack_sequence([ONE, ONE])
    for value in (packed, ONE, "word", MappingProxyType({"x": ONE}), Record, None):
        assert rebuilt(value) is value
    assert list(tensors_in([packed, Record, "word"])) == []


def test_numbers_have_their_keys() -> None:
    inside: dict[str, Any] = {
        "a": torch.tensor([[2.0]]),
        "b": np.float32(0.5),
        "c": np.ones((1, 1)),
    }
    inside["itself"] = inside
    value = {
        "one": 1,
        2: inside,
        "no": [None, "text", torch.ones(2), np.ones(2), torch.tensor(1j), 1j, np.array("x")],
        "flags": {"torch": torch.tensor(True), "numpy": np.True_, "python": False},
    }
    assert dict(numbers_in(value)) == {
        "one": 1.0,
        "2.a": 2.0,
        "2.b": 0.5,
        "2.c": 1.0,
        "flags.torch": 1.0,
        "flags.numpy": 1.0,
        "flags.python": 0.0,
    }
    assert list(numbers_in(3)) == [("", 3.0)]
    assert list(numbers_in((1, 2))) == list(numbers_in(pack_sequence([torch.ones(1)]))) == []
