from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pack_sequence
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix

from lightning_relay.reading.labels import Labels, read_labels
from lightning_relay.reading.predictions import PredictionReader, Question, check_prediction
from tests.support.hooks import hook_count

X = torch.randn(4, 5, 2, generator=torch.Generator().manual_seed(0))
TARGET = torch.tensor([0, 1, 2, 1])


def labelled(*entries: Tensor) -> Labels:
    """What could be the labels of a batch."""
    return read_labels((X, *entries))


LABELS = labelled(TARGET)


def reader_of(model: nn.Module, prediction: Any = None) -> PredictionReader:
    return PredictionReader(model, Question(None, prediction))


class Model(nn.Module):
    """A recurrent classifier whose parts are called in the way of ``step``."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(2, 6, batch_first=True)
        self.head = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Dropout(), nn.Linear(8, 3))
        self.other = nn.Linear(6, 4)
        self.logit = nn.Linear(4, 1)
        self.softmax = nn.Softmax(dim=1)
        self.loss = nn.CrossEntropyLoss()
        self.full_loss = nn.BCEWithLogitsLoss(reduction="none")
        self.accuracy = MulticlassAccuracy(3)
        self.confusion = MulticlassConfusionMatrix(4)

    def forward(self, x: Tensor) -> Any:
        return self.head(self.rnn(x)[0][:, -1])

    def final(self) -> Tensor:
        output, _ = self.rnn(X)
        return output[:, -1]


class InTuple(Model):
    def forward(self, x: Tensor) -> Any:
        output, _ = self.rnn(x)
        return {"logits": self.head(output[:, -1]), "states": output}


def own_forward(model: Model) -> None:
    model(X)


def parts(model: Model) -> None:
    model.head(model.final())


def with_softmax(model: Model) -> None:
    model.softmax(model.head(model.final()))


def with_loss_and_metrics(model: Model) -> None:
    scores = model(X)
    model.loss(scores, TARGET)
    model.full_loss(scores, torch.zeros_like(scores))
    model.accuracy(scores, TARGET)
    model.confusion(TARGET, TARGET)


def hidden_layer_outside(model: Model) -> None:
    model.head[3](model.head[1](model.head[0](model.final())))


@pytest.fixture
def model() -> Model:
    torch.manual_seed(0)
    return Model().eval()


@pytest.mark.parametrize(
    ("step", "source"),
    [
        (own_forward, ""),
        (parts, "head"),
        (with_softmax, "softmax"),
        (with_loss_and_metrics, ""),
        (hidden_layer_outside, "head.3"),
    ],
)
def test_class_scores_are_found_and_then_only_their_module_is_watched(
    model: Model, step: Any, source: str
) -> None:
    expected = model(X).argmax(1)
    with PredictionReader(model) as reader:
        for _ in range(3):
            reader.clear()
            step(model)
            answer = reader.read(None, LABELS)
            assert torch.equal(answer.classes, expected)
            assert answer.num_classes == 3
        assert hook_count(model) == hook_count(model.get_submodule(source)) == 2
    assert hook_count(model) == 0


def test_class_scores_are_found_in_what_forward_returns() -> None:
    model = InTuple().eval()
    with PredictionReader(model) as reader:
        expected = model(X)["logits"].argmax(1)
        assert torch.equal(reader.read(None, LABELS).classes, expected)


def test_packed_data_is_not_taken_for_scores() -> None:
    model = Model().eval()
    one_step_each = pack_sequence([x[:1] for x in X])
    with PredictionReader(model) as reader:
        output, final = model.rnn(one_step_each)
        assert output.data.shape == (4, 6)
        model.head(final[0])
        assert reader.read(None, LABELS).num_classes == 3


def test_two_heads_are_not_guessed_between(model: Model) -> None:
    with PredictionReader(model) as reader:
        hidden = model.final()
        model.head(hidden)
        model.other(hidden)
        with pytest.raises(
            ValueError,
            match=r"prediction: several outputs could be the answer: 'head' \(4, 3\), 'other'"
            r" \(4, 4\)\. Give prediction= the name of the submodule",
        ):
            reader.read(None, LABELS)
    with reader_of(model, "other") as reader:
        model.head(hidden)
        scores = model.other(hidden)
        assert torch.equal(reader.read(None, LABELS).classes, scores.argmax(1))


def features_then_one_logit(model: Model) -> None:
    model.logit(functional.relu(model.other(model.final())))


def scores_then_a_value(model: Model) -> None:
    hidden = model.final()
    model.head(hidden)
    model.logit(model.other(hidden))


@pytest.mark.parametrize(
    ("step", "problem"),
    [
        (features_then_one_logit, "several outputs could be the answer"),
        (scores_then_a_value, "several outputs could be the answer"),
    ],
)
def test_scores_are_not_guessed_where_the_step_ends_with_something_else(
    model: Model, step: Any, problem: str
) -> None:
    with PredictionReader(model) as reader:
        step(model)
        with pytest.raises(ValueError, match=f"^prediction: {problem}"):
            reader.read(None, LABELS)


def test_other_steps_can_follow_after_a_restart(model: Model) -> None:
    with PredictionReader(model) as reader:
        own_forward(model)
        assert reader.read(None, LABELS).x_out == "argmax of the model's own forward, 3 classes"
        reader.restart()
        model.other(model.final())
        assert reader.read(None, LABELS).x_out == "argmax of 'other', 4 classes"


def test_a_named_module_is_called_once_in_a_step(model: Model) -> None:
    with reader_of(model, "head") as reader:
        model(X)
        model(X)
        with pytest.raises(
            ValueError, match=r"prediction: 'head' was called 2 times in one step; gi"
        ):
            reader.read(None, LABELS)


def test_masked_classes_may_score_minus_infinity(model: Model) -> None:
    nn.init.constant_(model.head[3].bias, -torch.inf)
    with torch.no_grad():
        model.head[3].bias[2] = 0.0
    with PredictionReader(model) as reader:
        model(X)
        assert reader.read(None, LABELS).classes.tolist() == [2] * 4


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_scripted_modules_take_no_hooks_and_are_passed_over() -> None:
    model = nn.Sequential(torch.jit.script(nn.Linear(2, 2)), nn.Linear(2, 3))
    with PredictionReader(model) as reader:
        model(X[:, 0])
        assert reader.read(None, LABELS).num_classes == 3


def test_modules_that_change_their_path_when_hooked_are_not_hooked() -> None:
    model = nn.Sequential(nn.TransformerEncoderLayer(4, 2, batch_first=True), nn.Linear(4, 3))
    with PredictionReader(model) as reader:
        assert hook_count(model[0]) == 0
        model(torch.zeros(4, 5, 4)[:, :1]).squeeze(1)
        model[1](torch.zeros(4, 4))
        assert reader.read(None, LABELS).x_out == "argmax of '1', 3 classes"


def test_nothing_of_a_step_is_held_afterwards(model: Model) -> None:
    with PredictionReader(model) as reader:
        model(X)
    with reader, pytest.raises(ValueError, match="outermost module calls seen: none"):
        reader.read(None, LABELS)


def test_a_function_of_what_the_step_returned_is_asked(model: Model) -> None:
    scores = torch.eye(4)[:, :3]
    with reader_of(model, lambda outputs: outputs["scores"]) as reader:
        assert hook_count(model) == 0
        answer = reader.read({"scores": scores}, LABELS)
        assert answer.classes.tolist() == [0, 1, 2, 0]
        assert answer.num_classes == 3
    with reader_of(model, lambda outputs: outputs > 0) as reader:
        labels = reader.read(torch.tensor([0.5, -1.0, 2.0, 0.0]), labelled(TARGET % 2))
        assert labels.classes.tolist() == [1, 0, 1, 0]
        assert labels.num_classes is None


def test_scores_that_cannot_be_found_say_what_was_seen(model: Model) -> None:
    with PredictionReader(model) as reader:
        with pytest.raises(ValueError, match=r"outermost module calls seen: none\. Give predict"):
            reader.read(None, LABELS)
        functional.linear(model.final(), model.head[0].weight)
        with pytest.raises(
            ValueError,
            match=r"prediction: the step does not end with class scores of shape \(4, classes\); "
            r"outermost module calls seen: 'rnn': \[0\] \(4, 5, 6\), \[1\] \(1, 4, 6\)\. Give pre",
        ):
            reader.read(None, LABELS)


class Distribution(Model):
    def forward(self, x: Tensor) -> Any:
        mean = self.head(self.rnn(x)[0])[:, :, None]
        return {"parameters": mean, "spread": mean.exp()}


def test_real_numbers_that_cannot_be_found_say_what_was_seen_and_where() -> None:
    model = Distribution()
    with PredictionReader(model, Question(bins=4)) as reader:
        model(X)
        with pytest.raises(
            ValueError,
            match=r"^prediction: the step does not end with real numbers of shape \(4,\) or "
            r"\(4, step, 1\); outermost module calls seen: the model's own forward: "
            r"\['parameters'\] \(4, 5, 1, 3\), \['spread'\] \(4, 5, 1, 3\)\. Give .* or a pair: ",
        ):
            reader.read(None, read_labels((X, torch.randn(4, 5)), real=True))


@pytest.mark.parametrize("shape", [(1,), (1, 1), (1, 1, 1), (5,), (5, 1), (5, 1, 1)])
@pytest.mark.parametrize("flattened", [False, True])
def test_further_dimensions_of_size_1_are_left_out(
    model: Model, shape: tuple[int, ...], flattened: bool
) -> None:
    head = nn.Sequential(nn.Linear(6, shape[0]), nn.Unflatten(1, shape))
    model.head, flatten = head, nn.Flatten()
    model.add_module("flatten", flatten)
    labels = read_labels((X, torch.randn(4, *shape[:2])), real=True)
    question = Question(bins=4, label_step=-1 if 5 in shape else None)
    with PredictionReader(model, question) as reader:
        values = model(X)
        if flattened:  # its input is no answer
            values = flatten(values)
        found = reader.read(None, labels)
    assert found.classes.tolist() == values.detach().flatten(1)[:, -1].double().tolist()
    assert found.module == ("flatten" if flattened else "")


def test_an_exception_inside_a_module_leaves_the_nesting_right(model: Model) -> None:
    with PredictionReader(model) as reader:
        with pytest.raises(RuntimeError, match=r"input\.size"):
            model(torch.zeros(4, 5, 7))
        model(X)
        assert reader.read(None, LABELS).num_classes == 3


def test_hooks_are_gone_after_an_exception(model: Model) -> None:
    with pytest.raises(RuntimeError, match=r"input\.size"), PredictionReader(model):
        model(torch.zeros(4, 5, 7))
    assert hook_count(model) == 0


def test_labels_without_a_score_and_scores_that_are_not_finite_are_refused(model: Model) -> None:
    with PredictionReader(model) as reader:
        model(X)
        with pytest.raises(
            ValueError, match=r"target: labels from 0 to 7, but the model's own forward gives 3 cla"
        ):
            reader.read(None, labelled(torch.tensor([0, 7, 1, 2])))
    nn.init.constant_(model.head[3].bias, torch.nan)
    with PredictionReader(model) as reader:
        model(X)
        with pytest.raises(ValueError, match=r"^prediction: numbers of the model's own forwa"):
            reader.read(None, LABELS)


def test_an_unknown_submodule_is_refused(model: Model) -> None:
    with pytest.raises(
        ValueError, match=r"prediction: no submodule 'readout' in Model; it has: 'rnn', 'head', "
    ):
        reader_of(model, "readout")


@pytest.mark.parametrize(
    ("outputs", "error", "words"),
    [
        (None, TypeError, "gave NoneType; it takes a tensor"),
        (torch.zeros(2, 3), ValueError, r"gave shape \(2, 3\) for 4 labels; it takes class scores"),
        (torch.tensor(0.0), ValueError, r"gave shape \(\) for 4 labels; it takes class scores"),
    ],
    ids=["no tensor", "other length", "a number"],
)
def test_what_a_function_gives_is_checked(
    model: Model, outputs: Any, error: type[Exception], words: str
) -> None:
    with (
        reader_of(model, lambda outputs: outputs) as reader,
        pytest.raises(error, match=rf"^prediction: prediction=.*lambda> {words}"),
    ):
        reader.read(outputs, LABELS)


def test_a_function_of_a_module_s_output_and_the_batch(model: Model) -> None:
    batch = {"shift": torch.tensor([0.0, 50.0, 0.0, 0.0])}

    def shifted(scores: Tensor, batch: Any) -> Tensor:
        return torch.cat([scores[:, :2], scores[:, 2:] + batch["shift"][:, None]], 1)

    with reader_of(model, ("head", shifted)) as reader:
        for _ in range(2):
            reader.clear()
            scores = model(X)
            answer = reader.read(None, LABELS, batch)
            assert hook_count(model) == hook_count(model.head) == 2
            assert torch.equal(answer.classes, shifted(scores, batch).argmax(1))
            assert torch.equal(reader.read_values(LABELS, batch), shifted(scores, batch))
    assert answer.module == "head"
    assert answer.x_out.startswith("argmax of test_a_function")
    with reader_of(model, lambda outputs, batch: outputs + batch["shift"] > 0) as reader:
        answer = reader.read(torch.full((4,), -1.0), labelled(TARGET % 2), batch)
    assert answer.classes.tolist() == [0, 1, 0, 0]


def test_options_of_a_function_are_no_batch(model: Model) -> None:
    with reader_of(model, lambda outputs, threshold=2.0: outputs > threshold) as reader:
        answer = reader.read(torch.arange(4.0), labelled(TARGET % 2), "no batch")
    assert answer.classes.tolist() == [0, 0, 0, 1]


@pytest.mark.parametrize("prediction", [3, ("head",), ("head", 3), (len, "head"), ["head", len]])
def test_what_is_no_prediction_is_refused(prediction: Any) -> None:
    with pytest.raises(TypeError, match=r"^prediction: got .* or a pair: the name of a submodule"):
        check_prediction(prediction)


def test_a_pair_is_a_legal_prediction() -> None:
    for prediction in (None, "head", len, ("head", len)):
        check_prediction(prediction)
