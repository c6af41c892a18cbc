import pytest
from torch import nn

from lightning_relay.recurrent import StateKey, recurrent_modules


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


def test_unknown_and_repeated_names_are_refused() -> None:
    with pytest.raises(
        ValueError,
        match=r"modules: no recurrent module 'encoder' in Nested; it has: 'encoder.gru', 'rnn', 'a",
    ):
        recurrent_modules(Nested(), ["encoder"])
    with pytest.raises(ValueError, match=r"modules: 'rnn' and 'again' are one module; name each"):
        recurrent_modules(Nested(), ["rnn", "again"])
    with pytest.raises(ValueError, match=r"modules: 'rnn' and 'rnn' are one module"):
        recurrent_modules(Nested(), ["rnn", "rnn"])
    with pytest.raises(ValueError, match=r"modules: got an empty list; Nested has: 'encoder.gru'"):
        recurrent_modules(Nested(), [])
    with pytest.raises(TypeError, match=r"modules: got the string 'rnn'; it takes a list: \['rnn"):
        recurrent_modules(Nested(), "rnn")


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (nn.GRU(2, 3, num_layers=2), "GRU with num_layers=2"),
        (nn.RNN(2, 3, bidirectional=True), "RNN with bidirectional=True"),
        (nn.LSTM(2, 3, proj_size=2), "LSTM with proj_size=2"),
        (nn.LSTMCell(2, 3), "LSTMCell with a cell called step by step"),
    ],
)
def test_unsupported_modules_are_refused_and_others_named(module: nn.Module, reason: str) -> None:
    model = nn.ModuleDict({"deep": module, "plain": nn.RNN(2, 3)})
    with pytest.raises(
        ValueError, match=rf"modules: 'deep' \({reason}\) cannot be recorded: .*; n"
    ):
        recurrent_modules(model)
    assert list(recurrent_modules(model, ["plain"])) == ["plain"]
