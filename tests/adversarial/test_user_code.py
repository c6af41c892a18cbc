"""Steps of ordinary user code: not refused, and nothing of them is changed by runs of the step."""

from __future__ import annotations

import copy
import gc
import sys
import uuid
import weakref
from abc import ABC, ABCMeta
from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_relay import KnockoutCallback
from lightning_relay.rerun.silence import silenced
from lightning_relay.rerun.twin import Memo, twin_of
from tests.support.ablation import lively
from tests.support.models import Classifier, loader
from tests.support.training import quiet_trainer

if TYPE_CHECKING:
    from collections.abc import Callable


def stepping(what: Callable[[Any, Any], Any], kind: type[Classifier] = Classifier) -> Any:
    """A class of modules whose step does something before all else."""

    class Stepping(kind):  # type: ignore[misc,valid-type]
        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
            what(self, batch)
            return super().validation_step(batch, batch_idx)

    return Stepping


def metrics_of(kind: type[Classifier], *ours: KnockoutCallback, data: Any = None) -> dict[str, Any]:
    """What an evaluation logs, but for what our callback does."""
    trainer = quiet_trainer(*ours)
    trainer.validate(lively(kind), data or loader(), verbose=False)
    metrics = trainer.callback_metrics.items()
    return {name: float(value) for name, value in metrics if not name.startswith("knockout/")}


def assert_leaves_no_trace(kind: Callable[[], type[Classifier]], data: Any = None) -> None:
    callback = KnockoutCallback()
    assert metrics_of(kind(), callback, data=data) == metrics_of(kind(), data=data)
    assert len(callback.reports) == 1


CODE: dict[str, dict[str, str]] = {
    "variables of a module, by two functions": {
        "variables": "first = second = 0\ndef __getattr__(name): return max(first, second)",
        "user": "import variables\n"
        "def one(): variables.first += 1\n"
        "def two(): variables.second += 1\n"
        "def step(model, batch): one(), two()",
    },
    "a module that the step imports": {
        "variables": "count = 0",
        "user": "def step(model, batch):\n    import variables\n    variables.count += 1",
    },
    "a function that the step imports": {
        "variables": "count = 0\ndef add():\n    global count\n    count += 1",
        "user": "def step(model, batch):\n    from variables import add\n    add()",
    },
    "a module that the step imports by a relative name": {
        "variables": "",
        "variables.inner": "count = 0",
        "user": "__package__ = 'variables'\n"
        "def step(model, batch):\n    from . import inner\n    inner.count += 1",
    },
    "an object in an attribute of a class": {
        "variables": "count = 0\n"
        "class Helper:\n"
        "    def note(self):\n"
        "        global count\n"
        "        count += 1\n"
        "class Model: helper = Helper()",
        "user": "def step(model, batch): model.helper.note()",
    },
    "a forward pass that torch calls": {
        "variables": "import torch\n"
        "count = 0\n"
        "class Identity(torch.nn.Module):\n"
        "    def forward(self, x):\n"
        "        global count\n"
        "        count += 1\n"
        "        return x\n"
        "class Model: identity = [Identity()]",
        "user": "def step(model, batch): model.identity[0](batch[0])",
    },
    "a method for a type": {
        "variables": "from functools import singledispatchmethod\n"
        "count = 0\n"
        "class Model:\n"
        "    @singledispatchmethod\n"
        "    def note(self, one): pass\n"
        "    @note.register\n"
        "    def of_int(self, one: int):\n"
        "        global count\n"
        "        count += 1",
        "user": "def step(model, batch): model.note(1)",
    },
    "a decorator that is a class": {
        "variables": "count = 0\n"
        "class Decorator:\n"
        "    def __init__(self, function): self.function = function\n"
        "    def __get__(self, model, kind=None): return lambda: self.function(model)\n"
        "class Model:\n"
        "    @Decorator\n"
        "    def note(self):\n"
        "        global count\n"
        "        count += 1",
        "user": "def step(model, batch): model.note()",
    },
    "slots with names of their own, empty at first": {
        "variables": "class Slotted:\n"
        "    __slots__ = ('__n', 'last')\n"
        "    def up(self):\n"
        "        self.__n = getattr(self, '_Slotted__n', 0) + 1\n"
        "        self.last = self.__n\n"
        "    count = property(lambda self: self.__n)\n"
        "slotted = Slotted()\n"
        "def __getattr__(name): return slotted.count",
        "user": "from variables import slotted\ndef step(model, batch): slotted.up()",
    },
}


def made(name: str, code: str) -> ModuleType:
    module = ModuleType(name)
    module.__file__ = f"{name}.py"
    sys.modules[name] = module
    exec(compile(code, module.__file__, "exec"), vars(module))
    return module


@pytest.mark.parametrize("code", CODE.values(), ids=CODE)
def test_what_the_code_of_a_step_leads_to_is_put_back(code: dict[str, str]) -> None:
    modules = {name: made(name, text) for name, text in code.items()}
    try:
        if "variables.inner" in modules:
            modules["variables"].inner = modules["variables.inner"]  # type: ignore[attr-defined]
        model = vars(modules["variables"]).get("Model", object)
        attributes = {name: value for name, value in vars(model).items() if name[:2] != "__"}
        kind = type("Own", (stepping(modules["user"].step),), attributes)
        metrics_of(kind, KnockoutCallback())
        counting = modules.get("variables.inner", modules["variables"])
        assert counting.count == len(loader())
    finally:
        for name in code:
            del sys.modules[name]


@pytest.mark.parametrize("named", [{}, {"__name__": "loaded_by_hand"}], ids=["exec", "a file"])
def test_code_of_no_module_that_python_knows_is_read(named: dict[str, Any]) -> None:
    exec("count = 0\ndef step(model, batch):\n    global count\n    count += 1", named)
    metrics_of(stepping(named["step"]), KnockoutCallback())
    assert named["count"] == len(loader())


@dataclass(frozen=True, slots=True)
class Frozen:
    rate: float


class Delegating:
    """Asks another object for what it has not."""

    __slots__ = ("inner", "n")

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


CONFIGURATION = Frozen(0.1)
DELEGATING = [Delegating()]
IDENTITY = uuid.uuid4()
READ_ONLY = np.frombuffer(b"1234", dtype=np.uint8)
SPARSE = torch.eye(3).to_sparse()
NANS = torch.full((1,), float("nan")).expand(3)
META = torch.empty(3, device="meta")

NAMING: dict[str, Callable[[Any, Any], Any]] = {
    "a frozen dataclass with slots": lambda model, batch: CONFIGURATION.rate,
    "an object that delegates": lambda model, batch: len(DELEGATING),
    "an object that forbids changes": lambda model, batch: IDENTITY,
    "an array that is read only": lambda model, batch: READ_ONLY.sum(),
    "a sparse tensor": lambda model, batch: SPARSE.sum(),
    "a NaN that is expanded": lambda model, batch: NANS.shape,
    "a tensor without contents": lambda model, batch: META.shape,
    "the type of the Trainer": lambda model, batch: isinstance(model.trainer, Trainer) or 1 / 0,
}


@pytest.mark.parametrize("what", NAMING.values(), ids=NAMING)
def test_a_step_may_name(what: Callable[[Any, Any], Any]) -> None:
    assert_leaves_no_trace(lambda: stepping(what))


def test_a_sparse_tensor_in_a_global_variable_is_put_back() -> None:
    before = SPARSE.to_dense()
    metrics_of(stepping(lambda model, batch: SPARSE.mul_(2)), KnockoutCallback())
    assert torch.equal(SPARSE.to_dense(), before * 2 ** len(loader()))


@pytest.mark.filterwarnings("ignore:Sparse CSR")
@pytest.mark.parametrize("layout", ["to_sparse", "to_sparse_csr"])
def test_a_batch_may_have_sparse_tensors(layout: str) -> None:
    class Dense(Classifier):
        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
            dense = [batch[0].to_dense()[..., None], batch[1]]
            return super().validation_step(dense, batch_idx)

    def sparse(samples: Any) -> Any:
        inputs, labels = zip(*samples, strict=True)
        return [getattr(torch.stack(inputs)[..., 0], layout)(), torch.stack(labels)]

    data = DataLoader(loader().dataset, 16, collate_fn=sparse)
    assert_leaves_no_trace(lambda: Dense, data)


def test_an_error_while_putting_back_one_object_spares_no_other() -> None:
    class Stubborn(dict[str, int]):
        def clear(self) -> None:
            raise RuntimeError("no")

    stubborn, seen = Stubborn(n=0), [0]

    def count(model: Any, batch: Any) -> None:
        for holder, key in ((seen, 0), (stubborn, "n")):
            holder[key] += 1  # type: ignore[index]

    with pytest.raises(RuntimeError, match="no"):
        metrics_of(stepping(count), KnockoutCallback())
    assert seen == [1]


class Reporting(Classifier):
    """Keeps methods that log and print."""

    def __init__(self) -> None:
        super().__init__()
        self.report = self.log
        self.say: Any = partial(self.print, "said")

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        self.report("inputs", batch[0].mean())
        self.say()
        return super().validation_step(batch, batch_idx)


def test_methods_that_log_and_are_kept_are_silent_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert_leaves_no_trace(lambda: Reporting)
    assert capsys.readouterr().out.count("said") == 2 * len(loader())


def test_a_module_in_a_list_is_silent_too() -> None:
    class Holding(Classifier):
        def __init__(self) -> None:
            super().__init__()
            self.held = [Classifier()]

        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
            (held,) = self.held
            held.trainer, held._current_fx_name = self.trainer, "validation_step"
            held.log("inputs", batch[0].mean())
            return super().validation_step(batch, batch_idx)

    assert_leaves_no_trace(lambda: Holding)


@pytest.mark.parametrize("base", [type, ABCMeta])
def test_a_metaclass_hears_of_no_other_class(base: type[type]) -> None:
    heard = []

    class Registry(base):  # type: ignore[misc,valid-type]
        def __new__(cls, name: str, *rest: Any, **options: Any) -> Any:
            heard.append(name)
            return super().__new__(cls, name, *rest, **options)

    class Registered(Classifier, metaclass=Registry):
        pass

    metrics_of(Registered, KnockoutCallback())
    assert heard == ["Registered"]


def test_derived_classes_of_abstract_classes_keep_no_answers_of_theirs() -> None:
    class Abstract(Classifier, ABC):
        pass

    derived = silenced(Abstract)
    assert not isinstance(Abstract(), derived)
    assert isinstance(Abstract(), Abstract)


def test_a_module_may_forbid_attributes() -> None:
    class Strict(Classifier):
        def __setattr__(self, name: str, value: Tensor) -> None:
            if name == "__class__":
                raise AttributeError(name)
            super().__setattr__(name, value)

    assert_leaves_no_trace(lambda: Strict)


def test_classes_do_not_outlive_their_evaluation() -> None:
    large = torch.zeros(3)
    kind = stepping(lambda model, batch: large.sum())
    metrics_of(kind, KnockoutCallback())
    reference = weakref.ref(kind)
    del kind
    for _ in range(3):
        gc.collect()
    assert reference() is None


def test_a_vocabulary_is_copied_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Classifier()
    model.words = {str(number): number for number in range(1000)}  # type: ignore[assignment]
    copied = []
    deepcopy = copy.deepcopy
    monkeypatch.setattr(copy, "deepcopy", lambda *one: copied.append(one) or deepcopy(*one))
    twin = twin_of(model, Memo(model, [], {}))
    assert twin.words == model.words
    assert twin.words is not model.words
    assert len(copied) < 1000
