"""X_out: the classes that a model predicts, read off its own forward pass."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn
from torch.nn.modules.loss import _Loss
from torchmetrics import Metric, MetricCollection

from lightning_relay.reading.containers import tensors_in
from lightning_relay.recurrent.hooks import HookErrors, TransientHook

if TYPE_CHECKING:
    from torch.utils.hooks import RemovableHandle

Prediction = str | Callable[[Any], Tensor]
"""Source of the class scores: a submodule's name, or a function of what the step returned."""

_UNWATCHED = (
    _Loss,
    Metric,
    MetricCollection,
    torch.jit.ScriptModule,  # takes no hooks
    nn.TransformerEncoderLayer,  # with a hook inside it leaves its fused path for another rounding
    nn.MultiheadAttention,
    nn.RNNCellBase,  # the cell state of an LSTM may be read by no later call
)
"""Modules that give no class scores or must not be hooked; their submodules are not hooked."""


class NonFiniteScoresError(ValueError):
    """Class scores are NaN or infinite."""


@dataclass(frozen=True, eq=False)
class Predictions:
    """Classes that a model predicted for a batch.

    ``module`` names the module that gave the scores. It is None if the module was called more than
    once in the step, also inside other modules, or if a function gave the scores.
    """

    classes: Tensor  # int64 (batch,)
    num_classes: int | None  # None if only classes are known
    source: str  # where the scores or classes come from, in words
    scores: Tensor | None = None  # (batch, num_classes), detached and not copied
    module: str | None = None


@dataclass(frozen=True, eq=False)
class _Call:
    """One outermost call of a module during a step: not made inside the call of another."""

    module: str
    scores: tuple[Tensor, ...]  # floating outputs (batch, classes)
    sizes: frozenset[int]  # sizes of the first dimension of all floating outputs
    seen: str  # shapes of all outputs, in words
    inputs: frozenset[int]  # ids of the input tensors; scores stay alive, so ids can be compared


def check_prediction(prediction: object) -> None:
    """Refuse what is neither a name nor a function, with a TypeError."""
    if prediction is not None and not isinstance(prediction, str) and not callable(prediction):
        raise TypeError(
            f"prediction: got {prediction!r}; it takes the name of a submodule, or a function of "
            "what the step returned"
        )


class PredictionReader:
    """Context manager that finds the class scores that a model computes during a step.

    By default, it looks at all outermost module calls of a step, except for losses and metrics.
    Candidates are floating outputs ``(batch, classes)`` that are no input of a later call with such
    an output. If there is one candidate, and no later call has an output for each sample, the
    candidate is taken. From then on only its module is watched.
    """

    def __init__(self, model: nn.Module, prediction: Prediction | None = None) -> None:
        self._model = model
        self._prediction = prediction
        self._watched: str | None = None
        self._handles: list[RemovableHandle] = []
        self._open: list[str] = []
        self._begun: Counter[str] = Counter()
        self._calls: list[_Call] = []
        self._errors: HookErrors | None = None
        if isinstance(prediction, str):
            names = [name for name, _ in model.named_modules(remove_duplicate=False)]
            if prediction not in names:
                raise ValueError(
                    f"prediction: no submodule {prediction!r} in {type(model).__name__}; it has: "
                    f"{', '.join(repr(name) for name in names if name)}"
                )

    def keep_errors(self, errors: HookErrors) -> None:
        """From the next block on, keep errors of the hooks here; else the forward pass raises."""
        self._errors = errors

    def __enter__(self) -> Self:
        self.restart()
        return self

    def __exit__(self, *_: object) -> None:
        self._unhook()
        self.clear()

    def restart(self) -> None:
        """Look for the class scores again, because the next step may be another one."""
        if not callable(self._prediction):
            self._watch(self._prediction)
        self.clear()

    def clear(self) -> None:
        """Forget the calls of the last step."""
        self._open.clear()
        self._begun.clear()
        self._calls.clear()

    def read(self, outputs: Any, target: Tensor) -> Predictions:
        """Classes predicted in the step since the last ``clear``, which returned ``outputs``.

        ``target`` holds the class labels, int64 ``(batch,)``. A TypeError or ValueError says what
        was seen, if the class scores cannot be found or do not fit the target.
        """
        if callable(self._prediction):
            name = getattr(self._prediction, "__qualname__", repr(self._prediction))
            return _classes(self._prediction(outputs), target, f"prediction={name}")
        call, scores = self._only_scores(target)
        if self._watched is None:
            self._watch(call.module)
        only_call = call.module if self._begun[call.module] == 1 else None
        return replace(_classes(scores, target, _name(call.module)), module=only_call)

    def read_scores(self, target: Tensor) -> Tensor:
        """Class scores ``(batch, classes)`` of the step since the last ``clear``, not checked."""
        return self._only_scores(target)[1].detach()

    def read_lanes(self, scores: Tensor, target: Tensor) -> Predictions:
        """Classes ``(lane, batch)`` for class scores ``(lane, batch, classes)`` of several steps.

        The scores are those of ``read_scores``; they are checked as ``read`` does.
        """
        lanes, batch, _ = scores.shape
        source = "" if self._watched is None else self._watched
        found = _classes(scores.flatten(0, 1), target.repeat(lanes), _name(source))
        return replace(found, classes=found.classes.view(lanes, batch), scores=scores)

    def _watch(self, module: str | None) -> None:
        self._unhook()
        self._watched = module
        if module is None:
            watchable = _watchable(self._model)
        else:
            watchable = {module: self._model.get_submodule(module)}
        for name, submodule in watchable.items():
            self._handles += [
                submodule.register_forward_pre_hook(_Enter(self._open, self._begun, name)),
                submodule.register_forward_hook(
                    _Leave(self._open, self._calls, name, self._errors),
                    with_kwargs=True,
                    always_call=True,
                ),
            ]

    def _unhook(self) -> None:
        while self._handles:
            self._handles.pop().remove()

    def _only_scores(self, target: Tensor) -> tuple[_Call, Tensor]:
        """The call that gave the class scores, and the scores."""
        calls = [call for call in self._calls if len(target) in call.sizes]
        found = [
            (position, scores)
            for position, call in enumerate(calls)
            for scores in call.scores
            if len(scores) == len(target)
        ]
        final = [
            (position, scores)
            for position, scores in found
            if not any(id(scores) in calls[later].inputs for later, _ in found if later > position)
        ]
        if len(final) == 1 and final[0][0] == len(calls) - 1:
            return calls[-1], final[0][1]
        if self._watched is not None and len(self._calls) > 1:
            raise ValueError(
                f"prediction: {_name(self._watched)} was called {len(self._calls)} times in one "
                "step; give prediction= a function of what the step returns"
            )
        if len(final) > 1:
            several = [f"{_name(calls[at].module)} {tuple(scores.shape)}" for at, scores in final]
            problem = f"several outputs could be the class scores: {', '.join(several)}"
        else:
            seen = "; ".join(f"{_name(call.module)}: {call.seen}" for call in self._calls)
            problem = (
                f"the step does not end with class scores of shape ({len(target)}, classes); "
                f"outermost module calls seen: {seen or 'none'}"
            )
        raise ValueError(
            f"prediction: {problem}. Give prediction= the name of the submodule whose output is "
            "the class scores, or a function of what the step returns that gives class scores or "
            "predicted classes"
        )


def _classes(scores: Any, target: Tensor, source: str) -> Predictions:
    if not isinstance(scores, Tensor):
        raise TypeError(f"prediction: {source} gave {type(scores).__name__}; it takes a tensor")
    if scores.dim() == 0 or len(scores) != len(target):
        raise ValueError(
            f"prediction: {source} gave shape {tuple(scores.shape)} for {len(target)} targets; it "
            "takes class scores (batch, classes) or integer classes (batch,)"
        )
    if scores.dim() == 1 and not scores.is_floating_point():
        return Predictions(scores.detach().long().clone(), None, source)
    if not _could_be_scores(scores):
        raise TypeError(
            f"prediction: {source} gave {scores.dtype} of shape {tuple(scores.shape)}; it takes "
            "class scores (batch, classes) of at least two classes, or integer classes (batch,)"
        )
    if bool((scores.isnan() | scores.isposinf()).any()):
        raise NonFiniteScoresError(
            f"prediction: class scores of {source} are NaN or infinite; look for diverging weights "
            "or non-finite inputs"
        )
    classes = scores.shape[1]
    if bool(((target < 0) | (target >= classes)).any()):
        raise ValueError(
            f"target: labels from {int(target.min())} to {int(target.max())}, but {source} gives "
            f"{classes} class scores, for labels 0 to {classes - 1}; name the class labels with "
            "target= or the class scores with prediction="
        )
    scores = scores.detach()
    return Predictions(scores.argmax(1), classes, f"argmax of {source}, {classes} classes", scores)


class _Enter(TransientHook):
    """Forward pre-hook: a module call has begun."""

    def __init__(self, open_calls: list[str], begun: Counter[str], module: str) -> None:
        self._open = open_calls
        self._begun = begun
        self._module = module

    def __call__(self, _module: nn.Module, _args: Any) -> None:
        self._open.append(self._module)
        self._begun[self._module] += 1


class _Leave(TransientHook):
    """Forward hook: a module call has ended, also by an exception; it is kept if outermost."""

    def __init__(
        self,
        open_calls: list[str],
        calls: list[_Call],
        module: str,
        errors: HookErrors | None,
    ) -> None:
        self._open = open_calls
        self._calls = calls
        self._module = module
        self._keep = self._add if errors is None else errors.keeping(self._add)

    def __call__(self, _module: nn.Module, args: Any, kwargs: Any, outputs: Any) -> None:
        if self._open:
            self._open.pop()
        if not self._open:
            self._keep(args, kwargs, outputs)

    def _add(self, args: Any, kwargs: Any, outputs: Any) -> None:
        tensors = [tensor for _, tensor in tensors_in(outputs)]
        self._calls.append(
            _Call(
                self._module,
                tuple(tensor for tensor in tensors if _could_be_scores(tensor)),
                frozenset(
                    len(tensor)
                    for tensor in tensors
                    if tensor.is_floating_point() and tensor.dim() > 0
                ),
                ", ".join(str(tuple(tensor.shape)) for tensor in tensors) or "no tensor",
                frozenset(id(tensor) for _, tensor in tensors_in((args, kwargs))),
            )
        )


def _watchable(model: nn.Module) -> dict[str, nn.Module]:
    modules = dict(model.named_modules())
    skipped = [name for name, module in modules.items() if isinstance(module, _UNWATCHED)]
    return {
        name: module
        for name, module in modules.items()
        if not any(name == other or name.startswith(f"{other}.") for other in skipped)
    }


def _could_be_scores(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and tensor.dim() == 2 and tensor.shape[1] >= 2


def _name(module: str) -> str:
    return repr(module) if module else "the model's own forward"
