import re
from typing import Any

import pytest
import torch
from torch import nn

from lightning_relay.recurrent import StateKey, recurrent_layers, recurrent_modules


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(2, 3)
        self.head = nn.Linear(3, 2)


class Nested(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = Encoder()
        self.rnn = nn.RNN(3, 4)
        self.again = self.rnn


def test_layer_keys_read_like_parameter_names() -> None:
    assert str(StateKey("encoder.rnn")) == "encoder.rnn.l0"
    assert str(StateKey("rnn", layer=1, reverse=True)) == "rnn.l1_reverse"
    assert str(StateKey("rnn", cell=True)) == "rnn.l0.cell"
    assert str(StateKey("")) == "l0"


def test_modules_are_found_once_each_in_the_order_of_the_model() -> None:
    model = Nested()
    assert recurrent_modules(model) == {"encoder.gru": model.encoder.gru, "rnn": model.rnn}
    assert list(recurrent_modules(model, ["rnn", "encoder.gru"])) == ["rnn", "encoder.gru"]
    assert recurrent_modules(model, ["again"]) == {"again": model.rnn}
    assert list(recurrent_modules(model.rnn)) == [""]


def test_a_model_without_recurrent_modules_is_refused() -> None:
    with pytest.raises(ValueError, match=r"model: Linear has no recurrent module; it takes a mod"):
        recurrent_modules(nn.Linear(2, 2))


@pytest.mark.parametrize(
    ("modules", "error", "words"),
    [
        (
            ["encoder"],
            ValueError,
            "no recurrent module 'encoder' in Nested; it has: 'encoder.gru', 'rnn', 'again'",
        ),
        (["rnn", "again"], ValueError, "'rnn' and 'again' are one module; name each module once"),
        (["rnn", "rnn"], ValueError, "'rnn' and 'rnn' are one module; name each module once"),
        ([], ValueError, "got an empty list; Nested has: 'encoder.gru', 'rnn', 'again'"),
        ("rnn", TypeError, "got the string 'rnn'; it takes a list: ['rnn']"),
        ([3], TypeError, "got [3]; it takes a list of module names, or None"),
    ],
    ids=str,
)
def test_unknown_and_repeated_names_are_refused(
    modules: Any, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=f"^modules: {re.escape(words)}$"):
        recurrent_modules(Nested(), modules)


def test_layers_are_listed_with_their_units() -> None:
    model = nn.ModuleDict(
        {
            "encoder": nn.LSTM(2, 5, num_layers=2, bidirectional=True, proj_size=3),
            "decoder": nn.GRU(2, 4),
            "cell": nn.LSTMCell(2, 6),
        }
    )
    assert recurrent_layers(model) == {
        "encoder.l0": 3,
        "encoder.l0.cell": 5,
        "encoder.l0_reverse": 3,
        "encoder.l0_reverse.cell": 5,
        "encoder.l1": 3,
        "encoder.l1.cell": 5,
        "encoder.l1_reverse": 3,
        "encoder.l1_reverse.cell": 5,
        "decoder.l0": 4,
        "cell.l0": 6,
        "cell.l0.cell": 6,
    }
    assert recurrent_layers(model, ["decoder"]) == {"decoder.l0": 4}
    for key in recurrent_layers(model):
        assert str(StateKey.parse(key)) == key
    assert StateKey.parse("l3_reverse.cell") == StateKey("", 3, reverse=True, cell=True)
    with pytest.raises(
        ValueError, match=r"^layer key: got 'rnn'; it takes one such as 'rnn.l0', 'r"
    ):
        StateKey.parse("rnn")


def test_compiled_modules_go_by_their_own_names() -> None:
    model = Nested()
    model.rnn.compile(backend="eager")
    model.encoder = torch.compile(model.encoder, backend="eager")
    compiled = torch.compile(model, backend="eager")
    assert list(recurrent_modules(compiled)) == ["encoder.gru", "rnn"]
    assert list(recurrent_modules(compiled, ["encoder.gru"])) == ["encoder.gru"]
    with pytest.raises(ValueError, match="no recurrent module 'gru' in Nested; it has: 'encoder"):
        recurrent_modules(compiled, ["gru"])
