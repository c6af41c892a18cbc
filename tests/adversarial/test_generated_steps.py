"""Generated steps that keep, count and change things anywhere: refused by name, or all is right.

A step is a list of deeds, one line each in ``DEEDS``. A deed changes something and gives a number,
which shifts the inputs by its weight. Training must be bit for bit what it is without our callback,
and classes under a knock-out must be those of the user's own step in an evaluation that begins
anew, with the unit knocked out in one batch only.
"""

from __future__ import annotations

import random
from collections import Counter, deque
from functools import cache, partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.pytorch import Callback
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor
from torchmetrics import SumMetric

from lightning_relay import EveryUnit, KnockoutCallback, RandomSets, knocked_out
from tests.support.ablation import lively
from tests.support.models import (
    CLASSES,
    STEPS,
    Classifier,
    PlainRNN,
    Stepped,
    WithoutForward,
    loader,
)
from tests.support.tally import Tally
from tests.support.training import quiet_trainer

if TYPE_CHECKING:
    from collections.abc import Callable

    from lightning_relay import KnockoutSet

SHIFT = 0.3


class Slotted:
    __slots__ = ("n",)


class Tracker:
    """An object of the user's, with state in the object and in its class."""

    total = 0

    def __init__(self) -> None:
        self.n = 0
        self.seen: list[int] = []

    def note(self) -> int:
        self.n += 1
        Tracker.total += 1
        self.seen.append(self.n)
        return self.n + Tracker.total

    @classmethod
    def count(cls) -> int:
        cls.total += 1
        return cls.total

    def shared(self, seen: list[int] = []) -> int:  # noqa: B006 - it is the case
        seen.append(1)
        return len(seen)


COUNT = 0
NUMBERS: dict[str, Any] = {}
SEEN: list[Any] = []
TRACKER = Tracker()
METRIC = SumMetric()
ARRAY = np.zeros(3)
TENSOR = torch.zeros(3)
RNG = np.random.default_rng(1)
PYTHON = random.Random(1)
GENERATOR = torch.Generator()


def reset() -> None:
    """Have all global variables as they were at first."""
    global COUNT, RNG, TRACKER
    COUNT = Tracker.total = Generated.count = 0
    with_attribute.n = 0  # type: ignore[attr-defined]
    for holder in (NUMBERS, SEEN, with_default.__defaults__[0], Tracker.shared.__defaults__[0]):  # type: ignore[index]
        holder.clear()
    cached.cache_clear()
    TRACKER = Tracker()
    METRIC.reset()
    ARRAY[:] = 0
    TENSOR.zero_()
    RNG = np.random.default_rng(1)
    PYTHON.seed(1)
    GENERATOR.manual_seed(1)


def outside() -> Any:
    """Global variables, as they are now."""
    return (
        (COUNT, Tracker.total, Generated.count, with_attribute.n),  # type: ignore[attr-defined]
        (repr(NUMBERS), len(SEEN), with_default.__defaults__, Tracker.shared.__defaults__),
        (TRACKER.n, TRACKER.seen[:], float(METRIC.sum_value), ARRAY.tolist(), TENSOR.tolist()),
        (RNG.bit_generator.state, PYTHON.getstate(), GENERATOR.get_state().tolist()),
        cached.cache_info(),
    )


def in_a_global() -> int:
    global COUNT
    COUNT += 1
    return COUNT


def with_default(seen: list[int] = []) -> int:  # noqa: B006 - it is the case
    seen.append(1)
    return len(seen)


def with_attribute() -> int:
    with_attribute.n += 1  # type: ignore[attr-defined]
    return with_attribute.n  # type: ignore[attr-defined,no-any-return]


def in_a_dict(name: str = "n") -> int:
    NUMBERS[name] = NUMBERS.get(name, 0) + 1
    return NUMBERS[name]  # type: ignore[no-any-return]


def in_a_metric() -> float:
    METRIC.update(1.0)
    return float(METRIC.sum_value)


def in_an_array() -> float:
    ARRAY[1] += 1
    return float(ARRAY[1])


def in_a_tensor() -> float:
    TENSOR[1] += 1
    return float(TENSOR[1])


def in_data() -> float:
    TENSOR.data.add_(1)
    return float(TENSOR[0])


@cache
def cached(n: int) -> int:
    return n


def appended(holder: list[Any], value: Any = 1) -> int:
    holder.append(value)
    return len(holder)


def plus_one(holder: Any, name: str) -> Any:
    setattr(holder, name, getattr(holder, name) + 1)
    return getattr(holder, name)


def changed(tensor: Tensor, by: float = 0.5) -> float:
    tensor.mul_(by).add_(1)
    return float(tensor.flatten()[0])


def in_a_closure() -> Callable[[], int]:
    n = 0

    def count() -> int:
        nonlocal n
        n += 1
        return n

    return count


def replaced(batch: list[Any]) -> float:
    batch[0] = -batch[0]
    return 0.0


def rate(model: Any, by: float = 0.5) -> float:
    for optimizer in model.trainer.optimizers:
        for group in optimizer.param_groups:
            group["lr"] *= by
    return 0.0


def in_a_callback(model: Any) -> Any:
    (other,) = [one for one in model.trainer.callbacks if isinstance(one, Other)]
    return plus_one(other, "n")


DEEDS: dict[str, Callable[[Any, Any], Any]] = {
    "nothing": lambda model, batch: 0,
    "batch: sub_": lambda model, batch: changed(batch[0]),
    "batch: data": lambda model, batch: changed(batch[0].data),
    "batch: view": lambda model, batch: changed(batch[0][1:, 1:]),
    "batch: labels": lambda model, batch: int(batch[1].add_(1).remainder_(4)[0]),
    "batch: an entry": lambda model, batch: replaced(batch),
    "state: attribute": lambda model, batch: plus_one(model, "n"),
    "state: list": lambda model, batch: appended(model.seen),
    "state: outputs": lambda model, batch: appended(model.seen, batch[0]),
    "state: dict": lambda model, batch: model.numbers.update(n=model.numbers["n"] + 1) or 1,
    "state: counter": lambda model, batch: model.counter.update("a") or model.counter["a"],
    "state: deque": lambda model, batch: model.last.append(model.last[-1] + 1) or model.last[0],
    "state: slots": lambda model, batch: plus_one(model.slotted, "n"),
    "state: an object": lambda model, batch: model.tracker.note(),
    "state: buffer": lambda model, batch: changed(model.kept),
    "state: buffer's data": lambda model, batch: changed(model.kept.data),
    "state: tensor": lambda model, batch: changed(model.tensor),
    "state: a new tensor": lambda model, batch: float(
        (setattr(model, "tensor", model.tensor + 1) or model.tensor)[0]
    ),
    "state: closure": lambda model, batch: model.act(),
    "state: partial": lambda model, batch: model.partial(1) or len(model.seen),
    "state: lambda": lambda model, batch: model.acts["a"](),
    "state: metric": lambda model, batch: model.sum.update(1.0) or model.sum.sum_value,
    "state: generator": lambda model, batch: float(torch.rand((), generator=model.generator)),
    "state: array": lambda model, batch: float(np.add(model.array, 1, out=model.array)[0]),
    "class: its attribute": lambda model, batch: plus_one(type(model), "count"),
    "class: by its name": lambda model, batch: plus_one(Generated, "count"),
    "class: of another object": lambda model, batch: Tracker.count(),
    "global: variable": lambda model, batch: in_a_global(),
    "global: dict": lambda model, batch: in_a_dict(),
    "global: list": lambda model, batch: appended(SEEN),
    "global: outputs": lambda model, batch: appended(SEEN, batch[0]),
    "global: object": lambda model, batch: TRACKER.note(),
    "global: metric": lambda model, batch: in_a_metric(),
    "global: array": lambda model, batch: in_an_array(),
    "global: tensor": lambda model, batch: in_a_tensor(),
    "global: data": lambda model, batch: in_data(),
    "global: NumPy's generator": lambda model, batch: RNG.random(),
    "global: Python's generator": lambda model, batch: PYTHON.random(),
    "global: torch's generator": lambda model, batch: float(torch.rand((), generator=GENERATOR)),
    "function: default": lambda model, batch: with_default(),
    "function: default of a method": lambda model, batch: model.tracker.shared(),
    "function: attribute": lambda model, batch: with_attribute(),
    "stream: torch": lambda model, batch: float(torch.rand(())),
    "stream: NumPy": lambda model, batch: np.random.rand(),  # noqa: NPY002 - the stream users have
    "stream: Python": lambda model, batch: random.random(),
    "parameter: data": lambda model, batch: changed(model.head.bias.data, 0.9),
    "parameter: data of the recurrence": lambda model, batch: changed(
        next(model.rnn.parameters()).data, 0.9
    ),
    "parameter: requires_grad": lambda model, batch: float(
        model.head.bias.requires_grad_(False).requires_grad
    ),
    "trainer: rate": lambda model, batch: rate(model),
    "trainer: callback": lambda model, batch: in_a_callback(model),
    "trainer: metrics": lambda model, batch: model.trainer.callback_metrics.update(a=1) or 0,
}

ALWAYS_REFUSED = ("parameter: data", "parameter: data of the recurrence")
"""Deeds that are refused whether or not they change an answer."""


class Deed(NamedTuple):
    name: str
    weight: float
    before: bool


class Generated(Classifier):
    """A step that does deeds before and after the model gives scores."""

    count = 0
    kept: Tensor
    deeds: tuple[Deed, ...] = ()
    answers: Tally[tuple[int, list[int]]]

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("kept", torch.zeros(2))
        self.n = 0
        self.seen: list[Any] = []
        self.numbers = {"n": 0}
        self.counter: Counter[str] = Counter()
        self.last = deque([0, 0], maxlen=2)
        self.slotted = Slotted()
        self.slotted.n = 0
        self.tracker = Tracker()
        self.tensor = torch.zeros(2)
        self.array = np.zeros(2)
        self.act = in_a_closure()
        self.partial = partial(list.append, self.seen)
        self.acts = {"a": lambda: self.tracker.note()}
        self.sum = SumMetric()
        self.generator = torch.Generator().manual_seed(3)
        self.holder = SimpleNamespace(n=0)

    def do(self, batch: Any, before: bool) -> float:
        return sum(
            deed.weight * float(DEEDS[deed.name](self, batch))
            for deed in self.deeds
            if deed.before is before
        )

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        shift = self.do(batch, before=True)
        x, y = batch
        scores = self(x + shift)
        self.answers.add((batch_idx, scores.argmax(1).tolist()))
        self.accuracy(scores, y)
        self.log("val_accuracy", self.accuracy)
        self.log("val_loss", self.loss(scores, y))
        self.do(batch, before=False)


class Alone(Generated):
    """The same with a set knocked out in one batch, by hand, on the module itself."""

    knocked: tuple[int, KnockoutSet | None]

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        where, some = self.knocked
        if batch_idx != where or some is None:
            return super().validation_step(batch, batch_idx)
        steps = None if some.steps is None else {step % STEPS for step in some.steps}
        with knocked_out(self, some.units, steps=steps):
            return super().validation_step(batch, batch_idx)


def turn(batch: Any) -> None:
    batch[0].mul_(-1)


class Other(Callback):
    """Another callback, with an attribute that steps may change, and changes of its own."""

    def __init__(self, changes: bool) -> None:
        self.n = 0
        self.changes = changes

    def on_validation_batch_start(self, *arguments: Any, **_: Any) -> None:
        if self.changes:
            turn(arguments[2])


class Case(NamedTuple):
    kind: type[Classifier]
    deeds: tuple[Deed, ...]
    random_sets: bool
    changes: str

    def model(self, base: type[Generated], **attributes: Any) -> Any:
        """A new model in a new world."""
        reset()
        own = {"deeds": self.deeds, "answers": Tally(), **attributes}
        if self.changes == "module":
            own["on_validation_batch_start"] = lambda model, batch, *_: turn(batch)
        torch.manual_seed(4)
        np.random.seed(4)  # noqa: NPY002 - the stream users have
        random.seed(4)
        return lively(type("Own", (base, self.kind), own))

    def callbacks(self, *ours: Any) -> list[Any]:
        """Another callback, which stands after ours only if it is to change batches there."""
        other = Other(self.changes in ("before", "after"))
        return [*ours, other] if self.changes == "after" else [other, *ours]


def traces(case: Case, *ours: Any) -> Any:
    """What a fit leaves, with or without our callbacks."""
    model = case.model(Generated)
    trainer = quiet_trainer(*case.callbacks(*ours), max_epochs=1, num_sanity_val_steps=1)
    trainer.fit(model, loader(), loader())
    others = [callback.n for callback in trainer.callbacks if isinstance(callback, Other)]
    left = {
        "state": model.state_dict(),
        "rates": [group["lr"] for group in trainer.optimizers[0].param_groups],
        "metrics": {
            name: value
            for name, value in trainer.callback_metrics.items()
            if not name.startswith("knockout/")
        },
        "own": (model.n, model.seen, model.numbers, model.counter, model.last, model.slotted.n),
        "objects": (model.tracker.n, model.tracker.seen, model.tensor, model.array.tolist()),
        "act": (model.act(), float(model.sum.sum_value), model.generator.get_state()),
        "class": (type(model).count, others),
        "needed": [parameter.requires_grad for parameter in model.parameters()],
        "outside": outside(),
        "streams": (torch.get_rng_state(), str(np.random.get_state()), random.getstate()),  # noqa: NPY002
    }
    return apply_to_collection(left, Tensor, Tensor.tolist)


def evaluated(case: Case, model: Any, *ours: Any) -> dict[int, list[int]]:
    """The classes that the module's own steps give in an evaluation, by batch."""
    quiet_trainer(*case.callbacks(*ours)).validate(model, loader(), verbose=False)
    return dict(reversed(model.answers.taken()))  # the module's own come first


def confusion(answers: dict[int, list[int]]) -> Any:
    """Numbers of sequences by label and answer."""
    found = np.zeros((CLASSES, CLASSES), dtype=np.int64)
    for batch, (_, labels) in enumerate(loader()):
        np.add.at(found, (labels.tolist(), answers[batch]), 1)
    return found


def named(error: Exception) -> str:
    """The words of a refusal, which says what it is about."""
    assert str(error).startswith(("pl_module:", "batch:")), error
    return str(error)


def check(case: Case) -> str | None:
    """Assert that all is right; the words of a refusal, if the step is refused."""
    which = RandomSets(n=8, n_bootstraps=0) if case.random_sets else EveryUnit()
    callback = KnockoutCallback(which, on_error="raise")
    try:
        found = traces(case, callback)
        evaluated(case, case.model(Generated), callback)
    except (TypeError, ValueError) as error:
        return named(error)
    assert found == traces(case)
    report = callback.reports[-1]
    alone = evaluated(case, case.model(Alone, knocked=(0, None)))
    assert np.array_equal(report.confusion[0], confusion(alone))
    for place in (0, -1):
        answers = {}
        for batch in alone:
            own = case.model(Alone, knocked=(batch, report.sets[place]))
            answers[batch] = evaluated(case, own)[batch]
        assert np.array_equal(report.confusion[1:][place], confusion(answers))
    return None


CARRIES_NOTHING = (
    *("nothing", "state: dict", "trainer: rate", "trainer: metrics", "parameter: requires_grad"),
    *(name for name in DEEDS if name.startswith(("batch", "stream"))),
)
"""Deeds that give the same number in every run on a batch."""


@pytest.mark.parametrize("weight", [0.0, SHIFT], ids=["unread", "read"])
@pytest.mark.parametrize("name", DEEDS)
def test_a_deed_is_refused_if_answers_depend_on_what_it_carries(name: str, weight: float) -> None:
    refusal = check(Case(Classifier, (Deed(name, weight, True),), False, "nothing"))
    decides = bool(weight) and name not in CARRIES_NOTHING
    assert (refusal is not None) is (decides or name in ALWAYS_REFUSED)


@pytest.mark.parametrize("name", ["nothing", "batch: sub_", "global: list"])
def test_who_changes_the_batch_between_our_callback_and_the_step_is_told(name: str) -> None:
    for changes, told in (("before", False), ("after", True), ("module", True)):
        refusal = check(Case(Classifier, (Deed(name, 0.0, True),), False, changes))
        assert (refusal is not None) is told
        assert refusal is None or "on_validation_batch_start or another callback's" in refusal


DEED = st.builds(
    Deed, st.sampled_from([*DEEDS]), st.sampled_from([0.0, 0.0, 0.0, SHIFT]), st.booleans()
)
CASE = st.builds(
    Case,
    st.sampled_from([Classifier, PlainRNN, WithoutForward, Stepped]),
    st.lists(DEED, min_size=1, max_size=4).map(tuple),
    st.booleans(),
    st.sampled_from([*["nothing"] * 5, "before", "after", "module"]),
)


@pytest.mark.timeout(3600)  # for as many cases as are asked for
def test_generated_steps_are_refused_or_right(request: pytest.FixtureRequest) -> None:
    refused = []

    @settings(max_examples=request.config.getoption("--adversarial-cases") or 40)
    @given(CASE)
    def refused_or_right(case: Case) -> None:
        refused.append(check(case) is not None)

    refused_or_right()
    assert 0.2 < np.mean(refused) < 0.8
