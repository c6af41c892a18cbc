"""Steps that change what they should not: refused by name, or the report is right."""

from __future__ import annotations

import threading
import time
import weakref
from functools import lru_cache, partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
import torch._dynamo
from torch import Tensor
from torchmetrics.classification import MulticlassAccuracy

from lightning_relay import (
    EveryUnit,
    KnockoutCallback,
    KnockoutReport,
    Logged,
    RandomSets,
    RelayInformationCallback,
)
from tests.support.ablation import lively
from tests.support.models import CLASSES, Classifier, Stepped, loader
from tests.support.tally import Tally
from tests.support.training import quiet_trainer

if TYPE_CHECKING:
    from collections.abc import Callable

    from lightning.pytorch import Callback

    from lightning_relay.ablation.selection import Selection

EVERY: list[Selection] = [EveryUnit(), RandomSets(n=20)]


def doing(what: Callable[[Any, Any], Any], kind: type[Classifier] = Classifier) -> type[Classifier]:
    """A module whose step does something with its batch, or gives another batch instead."""

    class Doing(kind):  # type: ignore[misc,valid-type]
        def __init__(self) -> None:
            super().__init__()
            self.accuracy = MulticlassAccuracy(CLASSES, average="micro")

        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
            own = what(self, batch)
            super().validation_step(batch if own is None else own, batch_idx)

    return Doing


def validated(
    kind: type[Classifier], which: Selection, *others: Callback, **options: Any
) -> tuple[KnockoutReport, float]:
    """The report of the knock-outs, and the accuracy that the step itself logs."""
    model = lively(kind)
    callback = KnockoutCallback(which)
    trainer = quiet_trainer(*others, callback, **options)
    trainer.validate(model, loader(), verbose=False)
    return callback.reports[0], float(trainer.callback_metrics["val_accuracy"])


def assert_right(report: KnockoutReport, accuracy: float, right: KnockoutReport) -> None:
    assert report.accuracy is not None
    assert float(report.accuracy.baseline) == pytest.approx(accuracy)
    assert np.array_equal(report.confusion, right.confusion)


def flipped(_: Any, batch: Any) -> Any:
    """A batch with other inputs, of which the step changes nothing in place."""
    return [(batch[0] - 0.5) * -2, batch[1]]


def in_place(change: Callable[[Tensor], Any]) -> Callable[[Any, Any], None]:
    def what(_: Any, batch: Any) -> None:
        change(batch[0])

    return what


CHANGES: dict[str, Callable[[Any, Any], None]] = {
    "methods": in_place(lambda x: x.sub_(0.5).mul_(-2)),
    "data": in_place(lambda x: x.data.sub_(0.5).mul_(-2)),
    "an array of the same memory": in_place(
        lambda x: np.multiply(x.numpy() - 0.5, -2, out=x.numpy())
    ),
    "an entry": in_place(lambda x: x.__setitem__(slice(None), (x - 0.5) * -2)),
    "a view": in_place(lambda x: x.transpose(0, 1).sub_(0.5).mul_(-2)),
}


@pytest.mark.parametrize("which", EVERY, ids=["units", "sets"])
@pytest.mark.parametrize("kind", [Classifier, Stepped])
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_step_may_change_its_batch_in_place(
    change: Callable[[Any, Any], None], kind: type[Classifier], which: Selection
) -> None:
    right, _ = validated(doing(flipped, kind), which)
    report, accuracy = validated(doing(change, kind), which)
    assert_right(report, accuracy, right)


def step_with(state: Callable[[Any], None], carry: Callable[[Any, Any, Tensor], Any]) -> Any:
    """A module whose recurrence begins with the state that the step before has left."""

    class Carrying(Classifier):
        def __init__(self) -> None:
            super().__init__()
            state(self)

        def forward(self, x: Tensor) -> Tensor:
            output, h = self.rnn(x, self.h if len(x) == 16 else None)
            if len(x) == 16:
                carry(self, x, h)
            scores: Tensor = self.head(output[:, -1])
            return scores

    return Carrying


def a_tensor(model: Any) -> None:
    model.h = torch.zeros(1, 16, 6)


def a_buffer(model: Any) -> None:
    model.register_buffer("h", torch.zeros(1, 16, 6))


CARRIED: dict[str, Any] = {
    "an attribute": step_with(a_tensor, lambda model, x, h: setattr(model, "h", h)),
    "a tensor": step_with(a_tensor, lambda model, x, h: model.h.copy_(h)),
    "a buffer": step_with(a_buffer, lambda model, x, h: model.h.copy_(h)),
    "a buffer's data": step_with(a_buffer, lambda model, x, h: model.h.data.copy_(h)),
    "half of it": step_with(a_buffer, lambda model, x, h: model.h.mul_(0.5).add_(h)),
}


@pytest.mark.parametrize("which", EVERY, ids=["units", "sets"])
@pytest.mark.parametrize("kind", CARRIED.values(), ids=CARRIED)
def test_a_step_that_carries_a_state_is_refused(kind: type[Classifier], which: Selection) -> None:
    with pytest.raises(ValueError, match="keeps a state from call to call"):
        validated(kind, which)


def moved(parameter: Callable[[Any], Tensor], by: float = 1.5) -> Callable[[Any, Any], None]:
    """What changes a parameter where torch counts no change."""

    def what(model: Any, batch: Any) -> None:
        parameter(model).data.mul_(by)

    return what


DATA: dict[str, Callable[[Any], Tensor]] = {
    "head.weight": lambda model: model.head.weight,
    "rnn.weight_hh_l0": lambda model: model.rnn.weight_hh_l0,
}


@pytest.mark.parametrize("which", EVERY, ids=["units", "sets"])
@pytest.mark.parametrize("name", DATA)
def test_a_parameter_changed_through_its_data_is_refused_and_put_back(
    name: str, which: Selection
) -> None:
    kind = doing(moved(DATA[name]))
    alone, model = lively(kind), lively(kind)
    first = next(iter(loader()))
    with torch.inference_mode():
        alone.log = lambda *_, **__: None  # type: ignore[assignment,method-assign]
        alone.validation_step(first, 0)
    with pytest.raises(ValueError, match=f"changes the parameter '{name}' in place"):
        quiet_trainer(KnockoutCallback(which)).validate(model, loader(), verbose=False)
    for own, other in zip(model.parameters(), alone.parameters(), strict=True):
        assert torch.equal(own, other)


def test_a_step_that_writes_what_is_there_is_not_refused() -> None:
    doing_nothing = doing(moved(DATA["head.weight"], by=1.0))
    report, accuracy = validated(doing_nothing, EVERY[0])
    assert_right(report, accuracy, validated(doing(lambda model, batch: None), EVERY[0])[0])


def test_an_own_log_method_does_not_hear_our_scalars() -> None:
    class Renaming(Classifier):
        def log(self, name: str, value: Any, **options: Any) -> None:
            super().log(f"own/{name}", value, **options)

    callback = KnockoutCallback()
    trainer = quiet_trainer(callback, RelayInformationCallback())
    trainer.validate(Renaming(), loader(), verbose=False)
    names = {name.partition("/")[0] for name in trainer.callback_metrics}
    assert names == {"own", "knockout", "relay"}


def test_knock_outs_in_threads_wait_for_each_other_and_leave_the_process_as_it_was() -> None:
    stances: Tally[str] = Tally()

    class Slow(Classifier):
        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
            if vars(self).get("_heard_in_rerun") is not None:
                running.append(self)
                stances.add(torch._dynamo.eval_frame._stance.stance)
                time.sleep(1e-4)
                assert {*map(id, running)} == {id(self)}
                running.remove(self)
            return super().validation_step(batch, batch_idx)

    def evaluate() -> None:
        for _ in range(3):
            callback = KnockoutCallback(score=Logged("val_loss"))
            quiet_trainer(callback).validate(lively(Slow), loader(), verbose=False)
            reports.append(callback.reports[0])

    running: list[Any] = []
    reports: list[KnockoutReport] = []
    threads = [threading.Thread(target=evaluate) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(reports) == 9
    assert {*stances.taken()} == {"force_eager"}
    assert torch._dynamo.eval_frame._stance.stance == "default"


def differentiating(inputs: Callable[[Tensor], Tensor], perturbs: bool) -> type[Classifier]:
    """A module whose step differentiates its loss with respect to its inputs."""

    class Differentiating(Classifier):
        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
            x, y = inputs(batch[0]), batch[1]
            with torch.enable_grad():
                scores = self(x.requires_grad_())
                loss = self.loss(scores, y)
                (gradient,) = torch.autograd.grad(loss, x)
            if perturbs:
                scores = self(x + 0.3 * gradient.sign())
            self.log("val_loss", gradient.abs().sum())
            self.log("val_accuracy", (scores.argmax(1) == y).float().mean())
            return {"scores": scores.detach()}

    return Differentiating


DIFFERENTIATING: dict[str, Any] = {
    "the batch": differentiating(lambda x: x, False),
    "a copy": differentiating(lambda x: x.detach().clone(), False),
    "and perturbs it": differentiating(lambda x: x, True),
}


def scores_of(outputs: Any) -> Tensor:
    """What the steps here return."""
    scores: Tensor = outputs["scores"]
    return scores


@pytest.mark.parametrize(
    ("name", "callback"),
    [
        ("the batch", lambda: KnockoutCallback(prediction=scores_of)),
        ("the batch", lambda: KnockoutCallback(EVERY[1], prediction=scores_of)),
        ("the batch", lambda: KnockoutCallback(EveryUnit(steps=2), score=Logged("val_loss"))),
        ("the batch", lambda: RelayInformationCallback(prediction=scores_of)),
        ("a copy", lambda: KnockoutCallback()),
        ("a copy", lambda: KnockoutCallback(EVERY[1])),
        ("a copy", lambda: KnockoutCallback(EveryUnit(steps=2), score=Logged("val_loss"))),
        ("and perturbs it", lambda: KnockoutCallback(prediction=scores_of)),
        ("and perturbs it", lambda: KnockoutCallback(score=Logged("val_loss"))),
    ],
)
def test_a_step_may_differentiate_with_respect_to_its_input(
    name: str, callback: Callable[[], Any]
) -> None:
    kind = DIFFERENTIATING[name]
    found = []
    for callbacks in ([], [callback()]):
        trainer = quiet_trainer(*callbacks, inference_mode=False)
        trainer.validate(lively(kind), loader(), verbose=False)
        found.append([trainer.callback_metrics[name] for name in ("val_loss", "val_accuracy")])
    assert found[0] == found[1]
    (report,) = callbacks[0].reports
    if getattr(report, "accuracy", None) is not None:
        assert float(report.accuracy.baseline) == pytest.approx(float(found[0][1]))


def test_one_module_call_that_is_differentiated_gives_the_scores() -> None:
    report, accuracy = validated(DIFFERENTIATING["the batch"], EVERY[0], inference_mode=False)
    assert report.accuracy is not None
    assert float(report.accuracy.baseline) == pytest.approx(accuracy)


class Calling(Classifier):
    """Calls in every step what hangs on it."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[int] = []
        self.act: Any = None

    def note(self, one: int) -> None:
        self.seen.append(one)

    def remember(self, one: int, seen: list[int] = []) -> None:  # noqa: B006 - it is the case
        seen.append(one)

    def forward(self, x: Tensor) -> Tensor:
        if len(x) == 16:
            self.act(1)
        return super().forward(x)


def with_default(one: int, seen: list[int] = []) -> None:  # noqa: B006 - it is the case
    """A function of a module that keeps something."""
    seen.append(one)


def a_default(model: Calling) -> Any:
    seen: list[int] = []

    def act(one: int, seen: list[int] = seen) -> None:
        seen.append(one)

    model.act = act
    return seen


def a_keyword_default(model: Calling) -> Any:
    seen: list[int] = []

    def act(one: int, *, seen: list[int] = seen) -> None:
        seen.append(one)

    model.act = act
    return seen


def called(act: Callable[[Calling], Any]) -> Callable[[Calling], list[int]]:
    """Hangs something on a model that writes to the model's list."""

    def attach(model: Calling) -> list[int]:
        model.act = act(model)
        return model.seen

    return attach


def elsewhere(model: Calling, **what: Any) -> Any:
    """Hangs things on a submodule."""
    for name, value in what.items():
        setattr(model.rnn, name, value)
    return model


def from_method(model: Calling) -> Any:
    model.act = model.remember
    assert Calling.remember.__defaults__ is not None
    Calling.remember.__defaults__[0].clear()
    return Calling.remember.__defaults__[0]


def from_module(model: Calling) -> Any:
    model.act = with_default
    assert with_default.__defaults__ is not None
    with_default.__defaults__[0].clear()
    return with_default.__defaults__[0]


def in_an_object(model: Calling) -> Any:
    holder = SimpleNamespace(act=lambda one: model.note(one))
    return elsewhere(model, holder=holder) and (lambda one: model.rnn.holder.act(one))


HANGING: dict[str, Callable[[Calling], list[int]]] = {
    "a lambda": called(lambda model: lambda one: model.note(one)),
    "a dict of lambdas": called(
        lambda model: partial(
            lambda acts, one: acts["a"](one), {"a": lambda one: model.seen.append(one)}
        )
    ),
    "a list of lambdas in an attribute": called(
        lambda model: (
            elsewhere(model, acts=[lambda one: model.note(one)])
            and (lambda one: model.rnn.acts[0](one))
        )
    ),
    "a partial": called(lambda model: partial(list.append, model.seen)),
    "a partial of a lambda": called(lambda model: partial(lambda one: model.note(one))),
    "a default": a_default,
    "a keyword default": a_keyword_default,
    "a default of a method": from_method,
    "a default of a module's function": from_module,
    "a method of a list": called(lambda model: model.seen.append),
    "methods of a list in a dict": called(
        lambda model: (
            elsewhere(model, acts={"a": model.seen.append})
            and (lambda one: model.rnn.acts["a"](one))
        )
    ),
    "a method of the parent": called(
        lambda model: elsewhere(model, act=model.note) and (lambda one: model.rnn.act(one))
    ),
    "a weak reference": called(
        lambda model: (
            elsewhere(model, parent=weakref.ref(model))
            and (lambda one: model.rnn.parent().note(one))
        )
    ),
    "a proxy": called(
        lambda model: (
            elsewhere(model, of=[weakref.proxy(model)]) and (lambda one: model.rnn.of[0].note(one))
        )
    ),
    "a cached function": called(lambda model: lru_cache(0)(lambda one: model.note(one))),
    "an object": called(in_an_object),
    "a function in a closure": called(
        lambda model: (lambda inner: lambda one: inner(one))(lambda one: model.note(one))
    ),
}


@pytest.mark.parametrize("attach", HANGING.values(), ids=HANGING)
def test_what_hangs_on_a_module_is_not_shared_with_its_twin(
    attach: Callable[[Calling], list[int]],
) -> None:
    model = lively(doing(lambda model, batch: None, Calling))
    seen = attach(model)
    callback = KnockoutCallback()
    quiet_trainer(callback).validate(model, loader(), verbose=False)
    assert len(seen) == 3
    assert len(callback.reports) == 1


def test_modules_that_are_called_by_what_hangs_on_the_model_are_those_of_the_twin() -> None:
    class Indirect(Classifier):
        def __init__(self) -> None:
            super().__init__()
            self.parts = {"rnn": [lambda x: self.rnn(x)]}

        def forward(self, x: Tensor) -> Tensor:
            scores: Tensor = self.head(self.parts["rnn"][0](x)[0][:, -1])
            return scores

    nothing = doing(lambda model, batch: None)
    right, _ = validated(nothing, EVERY[0])
    assert_right(*validated(doing(lambda model, batch: None, Indirect), EVERY[0]), right)


@pytest.mark.parametrize("which", EVERY, ids=["units", "sets"])
def test_gradients_that_a_refused_step_changes_are_put_back(which: Selection) -> None:
    def backward(model: Any, batch: Any) -> None:
        with torch.enable_grad():
            model.head(torch.ones(1, 6)).sum().backward()

    model = lively(doing(backward))
    with pytest.raises(ValueError, match=r"pl_module: the .*step changes the .*'head\.weight'"):
        quiet_trainer(KnockoutCallback(which), inference_mode=False).validate(
            model, loader(), verbose=False
        )
    assert model.head.weight.grad is not None
    assert model.head.weight.grad.eq(1).all()  # of the module's own step
