"""X_out: the classes that a model predicts, read off its own forward pass."""

from __future__ import annotations

import inspect
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn.modules.loss import _Loss
from torchmetrics import Metric, MetricCollection

from lightning_relay.reading.answers import (
    OWN_FORWARD,
    Answer,
    Output,
    Reading,
    answered,
    at_step,
    check_sound,
    has_label,
    label_places,
    read,
    within,
)
from lightning_relay.reading.bins import Bins, bins_in_words, is_up_down
from lightning_relay.reading.code import loss_takes_logits
from lightning_relay.reading.containers import tensors_in
from lightning_relay.reading.deciding import NAME_ANSWER, decide
from lightning_relay.reading.functions import Function
from lightning_relay.reading.labels import BatchEntry, Labels, NoReadingError, read_labels
from lightning_relay.recurrent.hooks import HookErrors, TransientHook
from lightning_relay.recurrent.transfer import on_cpu, queued

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch.utils.hooks import RemovableHandle

Prediction = Function | tuple[str, Function] | str
"""Source of the answer: a submodule's name, a function of what the step returned, or a submodule's
name and a function of its output. A function with two arguments is given the batch, too."""

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


@dataclass(frozen=True, eq=False)
class _Call:
    """One outermost call of a module during a step: not made inside the call of another."""

    module: str
    outputs: Any
    answers: tuple[Tensor, ...]  # floating outputs that ``_plain`` gives dimensions 1 to 3
    sizes: frozenset[int]  # sizes of the first dimension of all floating outputs
    seen: str  # places and shapes of all outputs, in words
    inputs: frozenset[int]  # ids of the input tensors; answers stay alive, so ids can be compared
    bounded: bool  # whether a sigmoid comes last


@dataclass(eq=False)
class Question:
    """Which labels and which answers of steps are read; the first step decides, others follow."""

    target: BatchEntry | None = None
    prediction: Prediction | None = None
    label_step: int | None = None
    bins: Bins | None = None
    lengths: BatchEntry | None = None
    concepts_named: bool = False
    reading: Reading | None = None

    def labels(self, batch: Any) -> Labels:
        """What could be the labels of a batch."""
        known = None if self.reading is None else self.reading.label
        since = self.bins[1] if is_up_down(self.bins) else None
        return read_labels(
            batch,
            self.target,
            known,
            real=self.bins is not None,
            since=since,
            lengths=self.lengths,
        )

    def decide(
        self, labels: Labels, outputs: Sequence[Output], given: frozenset[int] = frozenset()
    ) -> Reading:
        """How labels and outputs are read; as in an earlier batch, if there was one."""
        if self.reading is None:
            self.reading = decide(
                labels,
                outputs,
                real=self.bins is not None,
                of_one_step=self.label_step is not None,
                given=given,
                concepts_named=self.concepts_named,
            )
        return self.reading

    def put(self, answer: Answer) -> Answer:
        """The answer to the question, of an answer to all steps."""
        if self.label_step is not None:
            answer = at_step(answer, self.label_step)
        if self.bins is None:
            return answer
        words = bins_in_words(self.bins)
        return replace(answer, x_in=f"{answer.x_in}, {words}", x_out=f"{answer.x_out}, {words}")


def check_label_step(label_step: object) -> None:
    """Refuse what is no step, with a TypeError."""
    if label_step is not None and (isinstance(label_step, bool) or not isinstance(label_step, int)):
        raise TypeError(
            f"label_step: got {label_step!r}; it takes a step of the labels, or None for the step "
            "of the states"
        )


def check_prediction(prediction: object) -> None:
    """Refuse what is neither a name nor a function nor both, with a TypeError."""
    if _is_pair(prediction):
        legal = isinstance(prediction[0], str) and callable(prediction[1])
    else:
        legal = prediction is None or isinstance(prediction, str) or callable(prediction)
    if not legal:
        raise TypeError(
            f"prediction: got {prediction!r}; it takes the name of a submodule, a function of what "
            "the step returned, or a pair: the name of a submodule and a function of its output"
        )


class PredictionReader:
    """Context manager that finds the class scores that a model computes during a step.

    By default, it looks at all outermost module calls of a step, except for losses and metrics.
    Candidates are floating outputs ``(batch,)`` or ``(batch, classes)``, or if there are none,
    those of three dimensions, that are no input of a later call with such an output. Further
    dimensions of size 1 at the end are left out. Candidates are taken from the last call that has
    an output for each sample. From then on only its module is watched, or from the start the named
    ``module``.
    """

    def __init__(
        self, model: nn.Module, question: Question | None = None, module: str | None = None
    ) -> None:
        self._model = model
        self._watched: str | None = None
        self._handles: list[RemovableHandle] = []
        self._open: list[str | None] = []
        self._begun: Counter[str] = Counter()
        self._calls: list[_Call] = []
        self._errors: HookErrors | None = None
        self._module = module
        self._ask(question or Question())

    def _ask(self, question: Question) -> None:
        name, function = _name_and_function(question.prediction)
        self._question = question
        self._function = function
        self._name = self._module or (None if name is None else _found_name(self._model, name))

    @property
    def label_step(self) -> int | None:
        """Step whose labels and answers are read, where each step has one; None: all."""
        return self._question.label_step

    def keep_errors(self, errors: HookErrors) -> None:
        """From the next block on, keep errors of the hooks here; else the forward pass raises."""
        self._errors = errors

    def __enter__(self) -> Self:
        self.restart()
        return self

    def __exit__(self, *_: object) -> None:
        self._unhook()
        self.clear()

    def restart(self, question: Question | None = None) -> None:
        """Look for the class scores again, because the next step may be another one."""
        if question is not None:
            self._ask(question)
        if self._function is None or self._name is not None:
            self._watch(self._name)
        self.clear()

    def clear(self) -> None:
        """Forget the calls of the last step."""
        self._open.clear()
        self._begun.clear()
        self._calls.clear()

    def read(
        self, outputs: Any, labels: Labels, batch: Any = None, *, beside: Sequence[Tensor] = ()
    ) -> Answer:
        """Labels and answers of the step since the last ``clear``, which returned ``outputs``.

        Tensors ``beside`` are brought to CPU memory together with the answer, as its ``beside``.
        A TypeError or ValueError says what was seen, if answers cannot be found or do not fit.
        """
        call, found = self._outputs(outputs, labels, batch)
        reading = self._question.decide(labels, found, self._given(call))
        module = None
        if call is not None:
            if self._watched is None:
                self._watch(call.module)
            module = call.module if self._begun[call.module] == 1 else None
        output = _at(found, reading.place)
        return self._question.put(_read(reading, labels, output, module, beside))

    def read_values(self, labels: Labels, batch: Any = None) -> Tensor:
        """The values that ``read`` makes classes of, as in an earlier step; not checked."""
        reading = self._question.reading
        assert reading is not None
        return _at(self._outputs(None, labels, batch)[1], reading.place).values.detach()

    def read_lanes(self, values: Tensor, labels: Labels) -> Answer:
        """Classes ``(lane, batch)`` for values of several steps, the lanes first."""
        reading = self._question.reading
        assert reading is not None
        source = _name(self._watched or "")
        lanes, step, since = values.shape[:2], self.label_step, labels.since
        found = _read(reading, labels, Output(values[0], source))
        if since is not None:
            since = since.expand(lanes[0], *since.shape).flatten(0, 1)
        output = Output(values.flatten(0, 1), source)
        classes, scores, sound = answered(reading, output, since)
        classes, sound = on_cpu(classes, sound)
        check_sound(output, sound.unflatten(0, lanes) | ~has_label(found.labels))
        classes = classes.unflatten(0, lanes)
        scores = None if scores is None else scores.unflatten(0, lanes)
        if step is not None:
            rows, places, _ = label_places(found.labels, step)
            classes = classes[:, rows, places]
            if scores is not None:
                where = queued(rows, scores.device), queued(places, scores.device)
                scores = scores[:, *where]
        return replace(self._question.put(found), classes=classes, scores=scores)

    def _given(self, call: _Call | None) -> frozenset[int]:
        """Identities of the tensors that modules were called with, up to the call of the answer."""
        calls = self._calls if call is None else self._calls[: self._calls.index(call) + 1]
        return frozenset().union(*(one.inputs for one in calls))

    def _watch(self, module: str | None) -> None:
        self._unhook()
        self._watched = module
        if module is None:
            modules = watchable(self._model)
        else:
            modules = {module: self._model.get_submodule(module)}
        for name, submodule in modules.items():
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

    def _outputs(
        self, outputs: Any, labels: Labels, batch: Any
    ) -> tuple[_Call | None, list[Output]]:
        """What could be the answer, and the call that gave it."""
        if self._function is None:
            call, found = self._last(labels)
            source = _name(call.module)
            return call, [
                Output(values, source, place, self._is_logit(call))
                for place, values in found.items()
            ]
        called = None if self._name is None else self._only_call(self._name)
        given = outputs if called is None else called.outputs
        try:
            values = _result(self._function, given, batch)
        except Exception as error:
            what = "the step returned" if called is None else f"{_name(called.module)} gave"
            raise PredictionError(
                f"prediction: the function failed for what {what}, {_kind_of(given)}: "
                f"{type(error).__name__}: {error}"
            ) from error
        name = getattr(self._function, "__qualname__", repr(self._function))
        source = f"prediction={name}" if called is None else f"{name} of {_name(called.module)}"
        return called, [Output(_plain(_checked(values, source, labels.sizes)), source)]

    def _is_logit(self, call: _Call) -> bool | None:
        if self._question.reading is not None:
            return None
        return False if call.bounded else loss_takes_logits(self._model)

    def _only_call(self, module: str) -> _Call:
        if len(self._calls) == 1:
            return self._calls[0]
        raise ValueError(
            f"prediction: {_name(module)} was called {len(self._calls)} times in one step; give "
            "prediction= a function of what the step returns"
        )

    def _last(self, labels: Labels) -> tuple[_Call, dict[int, Tensor]]:
        """The call that gave the answer, and what could be the answer in it, by place."""
        sizes = labels.sizes
        calls = [call for call in self._calls if call.sizes & sizes]
        reading = self._question.reading
        final = [] if reading is not None and reading.axis else _final(calls, sizes, (1, 2))
        if not final and (labels.may_be_of_steps if reading is None else reading.axis):
            final = _final(calls, sizes, (3,))
        if final and all(position == len(calls) - 1 for position, *_ in final):
            return calls[-1], {place: values for _, place, values in final}
        if self._watched is not None and len(self._calls) > 1:
            self._only_call(self._watched)
        if len(final) > 1:
            several = [f"{_name(calls[at].module)} {tuple(one.shape)}" for at, _, one in final]
            problem = f"several outputs could be the answer: {', '.join(several)}"
        else:
            seen = "; ".join(f"{_name(call.module)}: {call.seen}" for call in self._calls)
            size = " or ".join(map(str, sorted(sizes)))
            wanted = f"class scores of shape ({size}, classes)"
            if self._question.bins is not None:
                wanted = f"real numbers of shape ({size},) or ({size}, step, 1)"
            problem = (
                f"the step does not end with {wanted}; outermost module calls seen: "
                f"{seen or 'none'}"
            )
        raise NoReadingError(f"prediction: {problem}. {NAME_ANSWER}")


def _read(
    reading: Reading,
    labels: Labels,
    output: Output,
    module: str | None = None,
    beside: Sequence[Tensor] = (),
) -> Answer:
    entry, lengths = labels[reading.label], labels.lengths
    own = [] if lengths is None else [lengths]
    answer = read(reading, entry, output, module, labels.since, [*own, *beside])
    if lengths is not None:
        lengths, *others = answer.beside
        answer = replace(within(answer, lengths), beside=others)
    return answer


def _final(
    calls: Sequence[_Call], sizes: set[int], dimensions: tuple[int, ...]
) -> list[tuple[int, int, Tensor]]:
    """Outputs that are no input of a later call with such an output: call, place in it, values."""
    found = [
        (position, place, values)
        for position, call in enumerate(calls)
        for place, values in enumerate(call.answers)
        if len(values) in sizes and _plain(values).dim() in dimensions
    ]
    return [
        (position, place, _plain(values))
        for position, place, values in found
        if not any(id(values) in calls[later].inputs for later, *_ in found if later > position)
    ]


def _result(function: Function, value: Any, batch: Any) -> Any:
    """What a function of one or two arguments gives."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:  # some builtin functions have no signature
        return function(value)
    needed = [one for one in parameters if one.default is one.empty and one.kind in _POSITIONAL]
    return function(value, batch) if len(needed) > 1 else function(value)


class PredictionError(ValueError):
    """A function of the user failed for what a step returned or a module gave."""


_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def _kind_of(value: Any) -> str:
    return "None" if value is None else f"a {type(value).__name__}"


def _checked(values: Any, source: str, sizes: set[int]) -> Tensor:
    if not isinstance(values, Tensor):
        raise TypeError(f"prediction: {source} gave {type(values).__name__}; it takes a tensor")
    if values.dim() == 0 or len(values) not in sizes:
        size = " or ".join(map(str, sorted(sizes)))
        raise ValueError(
            f"prediction: {source} gave shape {tuple(values.shape)} for {size} labels; it takes "
            "class scores (batch, classes), one logit (batch,) or integer classes (batch,)"
        )
    return values


def _at(outputs: list[Output], place: int) -> Output:
    for output in outputs:
        if output.place == place:
            return output
    raise NoReadingError(
        f"prediction: the step gives other outputs than in an earlier batch. {NAME_ANSWER}"
    )


def _name_and_function(
    prediction: Prediction | None,
) -> tuple[str | None, Function | None]:
    if isinstance(prediction, tuple):
        return prediction
    return (prediction, None) if isinstance(prediction, str) else (None, prediction)


def _is_pair(prediction: object) -> TypeGuard[tuple[str, Function]]:
    return isinstance(prediction, tuple) and len(prediction) == 2


def _found_name(model: nn.Module, name: str) -> str:
    """The name of a submodule, which one copy of a model may have compiled and another not."""
    names = [own for own, _ in model.named_modules(remove_duplicate=False)]
    for own in (name, ".".join(part for part in name.split(".") if part != "_orig_mod")):
        if own in names:
            return own
    raise ValueError(
        f"prediction: no submodule {name!r} in {type(model).__name__}; it has: "
        f"{', '.join(repr(own) for own in names if own)}"
    )


class _Enter(TransientHook):
    """Forward pre-hook: a module call has begun.

    Under a strategy that wraps the model, Lightning calls the step through ``forward``, so that the
    whole step is a call of the model itself. Such a call does not count.
    """

    def __init__(self, open_calls: list[str | None], begun: Counter[str], module: str) -> None:
        self._open = open_calls
        self._begun = begun
        self._module = module

    def __call__(self, module: nn.Module, _args: Any) -> None:
        if "_ForwardRedirection" in getattr(module.forward, "__qualname__", ""):
            self._open.append(None)
            return
        self._open.append(self._module)
        self._begun[self._module] += 1


class _Leave(TransientHook):
    """Forward hook: a module call has ended, also by an exception; it is kept if outermost."""

    def __init__(
        self,
        open_calls: list[str | None],
        calls: list[_Call],
        module: str,
        errors: HookErrors | None,
    ) -> None:
        self._open = open_calls
        self._calls = calls
        self._module = module
        self._keep = self._add if errors is None else errors.keeping(self._add)

    def __call__(self, module: nn.Module, args: Any, kwargs: Any, outputs: Any) -> None:
        if self._open and self._open.pop() is None:
            return
        if all(name is None for name in self._open):
            self._keep(module, args, kwargs, outputs)

    def _add(self, module: nn.Module, args: Any, kwargs: Any, outputs: Any) -> None:
        found = list(tensors_in(outputs))
        tensors = [tensor for _, tensor in found]
        self._calls.append(
            _Call(
                self._module,
                outputs,
                tuple(tensor for tensor in tensors if _could_be_answer(tensor)),
                frozenset(
                    len(tensor)
                    for tensor in tensors
                    if tensor.is_floating_point() and tensor.dim() > 0
                ),
                ", ".join(f"{path} {tuple(one.shape)}".strip() for path, one in found)
                or "no tensor",
                frozenset(id(tensor) for _, tensor in tensors_in((args, kwargs))),
                _ends_with_sigmoid(module),
            )
        )


def watchable(model: nn.Module) -> dict[str, nn.Module]:
    """Modules that may give an answer and may be hooked, by name."""
    modules = dict(model.named_modules())
    skipped = [name for name, module in modules.items() if isinstance(module, _UNWATCHED)]
    return {
        name: module
        for name, module in modules.items()
        if not any(name == other or name.startswith(f"{other}.") for other in skipped)
    }


def _could_be_answer(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and _plain(tensor).dim() in (1, 2, 3)


def _plain(values: Tensor) -> Tensor:
    """The values without dimensions of size 1 at the end, beyond the third.

    One value for each sample is ``(batch, 1)`` at the most.
    """
    while values.dim() > 3 and values.shape[-1] == 1:
        values = values.squeeze(-1)
    return values.squeeze(-1) if values.shape[1:] == (1, 1) else values


def _ends_with_sigmoid(module: nn.Module) -> bool:
    if isinstance(module, nn.Sequential) and len(module):
        return _ends_with_sigmoid(module[-1])
    return isinstance(module, nn.Sigmoid)


def _name(module: str) -> str:
    return repr(module) if module else OWN_FORWARD
