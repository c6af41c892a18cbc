"""Exceptions of the user's own code, anywhere in a fit: they arrive, and nothing of ours is left.

A case is one combination of a line of ``PLACES``, a line of ``ERRORS``, and what stands around
them. Each is compared with the same fit without our callbacks. ``--adversarial-cases`` sets how
many of all cases are drawn; 200 by default.
"""

from __future__ import annotations

import random
import signal
from functools import cache
from itertools import product
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pytest
import torch
import torch._dynamo
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.loggers.logger import Logger
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchmetrics.classification import MulticlassAccuracy

from lightning_relay import EveryUnit, KnockoutCallback, RelayInformationCallback, RelayMeasure
from tests.support.diary import metrics_of
from tests.support.models import CLASSES, Classifier
from tests.support.training import INPUTS, LABELS, quiet_trainer

if TYPE_CHECKING:
    from collections.abc import Iterator


class OwnError(BaseException):
    """A base exception of the user's own."""


ERRORS: dict[str, Any] = {
    "ValueError": lambda: ValueError("the user's own"),
    "RuntimeError": lambda: RuntimeError("the user's own"),
    "KeyError": lambda: KeyError(("odd", 3), None),
    "KeyboardInterrupt": lambda: KeyboardInterrupt(),
    "SystemExit": lambda: SystemExit(3),
    "OwnError": lambda: OwnError("the user's own", [1]),
    "OutOfMemory": lambda: torch.OutOfMemoryError("the user's own"),
    "MemoryError": lambda: MemoryError(),
    "AssertionError": lambda: AssertionError(),
    "GeneratorExit": lambda: GeneratorExit(),
}  # not StopIteration, which Lightning takes for the end of the data

EVALUATIONS = ("sanity", "epoch 0", "epoch 1")
EPOCHS = EVALUATIONS[1:]
PLACES: dict[str, tuple[str, ...]] = {
    "callback.setup": ("sanity",),
    "callback.on_fit_start": ("sanity",),
    "callback.on_sanity_check_start": ("sanity",),
    "callback.on_sanity_check_end": ("sanity",),
    "callback.on_train_start": ("sanity",),
    "callback.on_train_epoch_start": EPOCHS,
    "callback.on_train_batch_start": EPOCHS,
    "callback.on_train_batch_end": EPOCHS,
    "callback.on_before_backward": EPOCHS,
    "callback.on_train_epoch_end": EPOCHS,
    "callback.on_train_end": ("epoch 1",),
    "callback.on_fit_end": ("epoch 1",),
    "callback.teardown": ("epoch 1",),
    "callback.on_validation_start": EVALUATIONS,
    "callback.on_validation_epoch_start": EVALUATIONS,
    "callback.on_validation_batch_start": EVALUATIONS,
    "callback.on_validation_batch_end": EVALUATIONS,
    "callback.on_validation_epoch_end": EVALUATIONS,
    "callback.on_validation_end": EVALUATIONS,
    "module.setup": ("sanity",),
    "module.configure_optimizers": ("sanity",),
    "module.on_train_epoch_start": EPOCHS,
    "module.on_before_optimizer_step": EPOCHS,
    "module.on_validation_start": EVALUATIONS,
    "module.on_validation_batch_start": EVALUATIONS,
    "module.on_validation_batch_end": EVALUATIONS,
    "module.on_validation_epoch_end": EVALUATIONS,
    "module.on_validation_end": EVALUATIONS,
    "module.on_validation_model_eval": EVALUATIONS,
    "module.on_validation_model_train": EVALUATIONS,
    "training step": EPOCHS,
    "before the step": EVALUATIONS,
    "after the step": EVALUATIONS,
    "before the recurrent module": EVALUATIONS,
    "after the recurrent module": EVALUATIONS,
    "forward": EVALUATIONS,
    "metric update": EVALUATIONS,
    "metric compute": EVALUATIONS,
    "data": EVALUATIONS,
    "logger": EPOCHS,
}
OURS: dict[str, Any] = {
    "relay": lambda: [relay_callback()],
    "latent": lambda: [relay_callback(latent=True)],
    "knockouts": lambda: [KnockoutCallback(EveryUnit(max_sets=2), on_error="raise")],
    "both": lambda: [
        relay_callback(),
        KnockoutCallback(EveryUnit(max_sets=2), on_error="raise"),
    ],
}
POSITIONS = ("before", "after", "between")
LOUD = (False, True)


class Case(NamedTuple):
    """One fit; ``loud``: another callback raises an error when it is told of the exception."""

    place: str
    error: str
    when: str
    ours: str
    position: str
    loud: bool


CASES = [
    Case(place, error, when, *others)
    for place, whens in PLACES.items()
    for error, when, *others in product(ERRORS, whens, OURS, POSITIONS, LOUD)
    if others[1] != "between" or others[0] == "both"
]


def relay_callback(**options: Any) -> RelayInformationCallback:
    quick = RelayMeasure(n_orders=0, n_splits=0)
    return RelayInformationCallback(measure=quick, on_error="raise", **options)


class Fuse:
    """Raises an error once, at a place and a time."""

    def __init__(self) -> None:
        self.light("", "", None)

    def light(self, place: str, when: str, error: BaseException | None) -> None:
        self.place, self.when, self.error = place, when, error
        self.raised: BaseException | None = None
        self.trainer: Trainer | None = None
        self.started = False

    def reach(self, place: str) -> None:
        if place == self.place and self.error is not None and self.when == self.now:
            self.raised, self.error = self.error, None
            raise self.raised

    @property
    def now(self) -> str:
        assert self.trainer is not None
        early = self.trainer.sanity_checking or not self.started
        return "sanity" if early else f"epoch {min(self.trainer.current_epoch, 1)}"


FUSE = Fuse()


def reaching(place: str, hook: Any) -> Any:
    def reached(*arguments: Any, **options: Any) -> Any:
        FUSE.reach(place)
        return hook(*arguments, **options)

    return reached


class Accuracy(MulticlassAccuracy):
    def update(self, *arguments: Any) -> None:
        FUSE.reach("metric update")
        super().update(*arguments)

    def compute(self) -> Tensor:
        FUSE.reach("metric compute")
        return super().compute()


class Model(Classifier):
    """A model that reaches many places."""

    def __init__(self) -> None:
        super().__init__()
        self.accuracy = Accuracy(CLASSES)
        self.rnn.register_forward_pre_hook(_before_rnn)
        self.rnn.register_forward_hook(_after_rnn)

    def forward(self, x: Tensor) -> Tensor:
        FUSE.reach("forward")
        return super().forward(x)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        FUSE.reach("training step")
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        FUSE.reach("before the step")
        super().validation_step(batch, batch_idx, dataloader_idx)
        FUSE.reach("after the step")


def _before_rnn(*_: Any) -> None:
    FUSE.reach("before the recurrent module")


def _after_rnn(*_: Any) -> None:
    FUSE.reach("after the recurrent module")


class Other(Callback):
    """A callback that reaches its hooks."""

    def on_train_start(self, *_: Any) -> None:
        FUSE.started = True


class Loud(Callback):
    def on_exception(self, *_: Any) -> None:
        raise LookupError("told of an exception")


for place in PLACES:
    owner, _, name = place.partition(".")
    if name:
        kind: type[Any] = {"callback": Other, "module": Model}[owner]
        setattr(kind, name, reaching(place, getattr(kind, name)))


class Data(Dataset[Any]):
    def __len__(self) -> int:
        return 16

    def __getitem__(self, index: int) -> Any:
        if FUSE.trainer is not None and FUSE.trainer.evaluating | FUSE.trainer.sanity_checking:
            FUSE.reach("data")
        return INPUTS[index], LABELS[index]


class Log(Logger):
    name = version = None

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        FUSE.reach("logger")

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        pass


def state_after(
    place: str, error: str, when: str, *, loud: bool, ours: str | None, position: str = "before"
) -> dict[str, Any]:
    """What is there after a fit, with or without our callbacks."""
    seed_everything(5, verbose=False)
    own = OURS[ours]() if ours else []
    callbacks: list[Callback] = {
        "before": [Other(), *own],
        "after": [*own, Other()],
        "between": [*own[:1], Other(), *own[1:]],
    }[position]
    callbacks = [Loud()] * loud + callbacks
    FUSE.light(place, when, ERRORS[error]())
    FUSE.trainer = trainer = quiet_trainer(
        *callbacks,
        logger=Log(),
        num_sanity_val_steps=1,
        limit_train_batches=1,
        log_every_n_steps=1,
    )
    model = Model()
    arrived: BaseException | None = None
    try:
        trainer.fit(model, DataLoader(Data(), 8), DataLoader(Data(), 8))
    except BaseException as caught:
        arrived = caught
    assert set(trainer.callbacks) == set(callbacks)
    found = {
        "raised": FUSE.raised is not None,
        "own": arrived is FUSE.raised,
        "arrived": (type(arrived), repr(arrived)),
        "state": {name: value.clone() for name, value in model.state_dict().items()},
        "metrics": metrics_of(model),
        "torch stream": torch.get_rng_state(),
        "streams": (
            random.getstate(),
            str(np.random.get_state(legacy=False)),  # noqa: NPY002 - the stream users have
        ),
        "attributes": [sorted(vars(module)) for module in model.modules()],
        "hooks": [
            (len(module._forward_hooks), len(module._forward_pre_hooks))
            for module in model.modules()
        ],
        "training": [module.training for module in model.modules()],
        "process": (
            torch._dynamo.eval_frame._stance.stance,
            torch.is_grad_enabled(),
            torch.is_inference_mode_enabled(),
            torch.get_default_dtype(),
        ),
        "status": trainer.state.status,
    }
    FUSE.light("", "", None)
    for callback in own:
        for name in ("_told", "_capture", "_latent", "_pass", "_progress"):
            assert getattr(callback, name, None) is None
    model.eval()
    with torch.no_grad():
        found["scores"] = model(INPUTS)
    return found


@cache
def state_without_us(place: str, error: str, when: str, loud: bool) -> dict[str, Any]:
    return state_after(place, error, when, loud=loud, ours=None)


@pytest.fixture(autouse=True)
def interruptible() -> Iterator[None]:
    """Lightning has the process ignore Ctrl+C after one."""
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


def drawn(number: int) -> list[Case]:
    """Cases from all places, in fours that are compared with the same fit without us."""
    fits: dict[tuple[Any, ...], list[Case]] = {}
    for case in random.Random(1).sample(CASES, len(CASES)):
        fits.setdefault((case.place, case.error, case.when, case.loud), []).append(case)
    places: dict[str, int] = dict.fromkeys(PLACES, 0)
    order: dict[Case, tuple[int, int]] = {}
    for (place, *_), own in fits.items():
        order |= {case: (rank // 4, places[place]) for rank, case in enumerate(own)}
        places[place] += 1
    return sorted(order, key=order.__getitem__)[:number]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "case" in metafunc.fixturenames:
        cases = sorted(drawn(metafunc.config.getoption("--adversarial-cases") or 200))
        ids = ["-".join(map(str, case)).replace(" ", "_") for case in cases]
        metafunc.parametrize("case", cases, ids=ids)


def test_an_exception_arrives_and_nothing_of_ours_is_left(case: Case) -> None:
    expected = state_without_us(case.place, case.error, case.when, case.loud)
    found = state_after(
        case.place,
        case.error,
        case.when,
        loud=case.loud,
        ours=case.ours,
        position=case.position,
    )
    assert expected["raised"]
    for name in ("state", "metrics", "scores"):
        torch.testing.assert_close(found.pop(name), expected[name], rtol=0, atol=0, msg=name)
    assert torch.equal(found.pop("torch stream"), expected["torch stream"])
    assert found == {name: expected[name] for name in found}
