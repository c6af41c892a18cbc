"""Hidden states and labels of all sequences of an evaluation, gathered around the user's steps."""

from __future__ import annotations

import math
from collections import Counter
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor

from lightning_relay.reading.answers import Answer, NonFiniteScoresError, has_label
from lightning_relay.reading.deciding import check_not_of_steps
from lightning_relay.reading.predictions import Prediction, PredictionReader, Question
from lightning_relay.recurrent.chosen import ChosenCalls, calls_by_module, check_one, in_words
from lightning_relay.recurrent.constant_inputs import ConstantInputs
from lightning_relay.recurrent.hooks import HOOK_GUARDS, HookErrors, is_compiled
from lightning_relay.recurrent.recorder import HiddenStateRecorder
from lightning_relay.recurrent.states import HiddenStates, check_one_each, prefix_mask
from lightning_relay.recurrent.transfer import queued
from lightning_relay.sampling.processes import Positions, Processes

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType

    from torch import nn

    from lightning_relay.reading.bins import Bins
    from lightning_relay.reading.concepts import Concepts
    from lightning_relay.reading.labels import BatchEntry, Labels
    from lightning_relay.recurrent.layers import Layers, State
    from lightning_relay.sampling.buffer import SequenceBuffer


_POOLED = (
    *("num_classes", "num_labels", "sources", "presorted"),
    *("unlabelled", "steps", "_numbers", "constant"),
)
"""Attributes that processes tell each other."""


class EvaluationCapture:
    """Context manager that gathers hidden states, X_in and X_out while a model is evaluated.

    Call ``before_step`` and ``after_step`` around each of the model's own steps. Hooks are on the
    model only inside the block. ``num_batches`` is the number of batches of each dataloader, if
    known; the buffers estimate their memory from it. Where ``concepts`` are given, a sample may
    have as many labels as steps.

    Attributes:
        buffers: Sequences gathered so far, by dataloader.
        num_classes: Number of classes that have a score, by dataloader; None if there are no
            scores.
        num_labels: Number of labels of a sample, by dataloader; None unless there are several.
        sources: Where X_in and X_out were found, in words, by dataloader.
        presorted: Layers whose packed sequences had been sorted by length, and whose order could
            not be checked because ``lengths`` is not named.
        labels: Labels of the newest batch, as in ``Answer``; None before the first.
        unlabelled: Numbers of sequences that have no label at ``label_step``, by dataloader.
        constant: What tells where the inputs end, by dataloader and module name, if it is asked
            for.
        steps: Numbers of steps of the batches with unknown lengths, by layer key. Lengths are
            unknown if sequences are not packed and ``lengths`` is not named.
        lengths: Lengths of the sequences of the newest batch, int64 ``(batch,)``, after its step in
            CPU memory; None if they are not named.
        positions: Numbers of the samples of the newest batch in the whole stream, of which other
            processes may have parts, int64 ``(batch,)``.
        counted: Which samples of the newest batch count, bool ``(batch,)``: those that are no
            repetitions of a sampler and have a label at ``label_step``.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        modules: Sequence[str] | None,
        target: BatchEntry | None,
        prediction: Prediction | None,
        lengths: BatchEntry | None,
        new_buffer: Callable[[], SequenceBuffer],
        layers: Layers = "last",
        states: Sequence[State] = ("hidden",),
        calls: ChosenCalls = None,
        num_batches: Sequence[float] | None = None,
        label_step: int | None = None,
        bins: Bins | None = None,
        concepts: Concepts | None = None,
        find_inputs_end: bool = False,
        new_positions: Callable[[int], Positions] = lambda _: Positions(None, Processes()),
    ) -> None:
        self.buffers: dict[int, SequenceBuffer] = {}
        self.num_classes: dict[int, int | None] = {}
        self.num_labels: dict[int, int | None] = {}
        self.sources: dict[int, tuple[str, str]] = {}
        self.presorted: set[str] = set()
        self.steps: dict[str, set[int]] = {}
        self.constant: dict[int, dict[str, ConstantInputs]] = {}
        self._model = model
        self._recorder = HiddenStateRecorder(
            model, modules, layers=layers, states=states, calls=calls
        )
        self._chosen = calls_by_module(calls, self._recorder.shapes)
        self._numbers: dict[int, dict[str, set[int]]] = {}
        self._new_question = partial(
            Question,
            target,
            prediction,
            label_step,
            bins,
            lengths,
            concepts_named=concepts is not None,
        )
        self._concepts_named = concepts is not None
        self.unlabelled: Counter[int] = Counter()
        self._questions: dict[int, Question] = {}
        self._reader = PredictionReader(model, self._new_question())
        self._errors = HookErrors()
        self._recorder.keep_errors(self._errors)
        self._reader.keep_errors(self._errors)
        self._new_buffer = new_buffer
        self._new_positions = new_positions
        self._dealt: dict[int, Positions] = {}
        self._num_batches = num_batches
        self._find_inputs_end = find_inputs_end
        self._hooks = ExitStack()
        self._dataloader: int | None = None
        self._batch: Any = None
        self._could_be: Labels | None = None
        self.labels: Tensor | None = None
        self.lengths: Tensor | None = None
        self.positions = torch.zeros(0, dtype=torch.int64)
        self.counted = torch.zeros(0, dtype=torch.bool)

    def __enter__(self) -> Self:
        with ExitStack() as hooks:
            hooks.enter_context(self._recorder)
            hooks.enter_context(self._reader)
            self._hooks = hooks.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._hooks.close()

    @property
    def calls(self) -> dict[int, dict[str, str]]:
        """Which calls were taken, in words, by dataloader and name of the modules with several."""
        return {
            dataloader: {
                name: in_words(chosen, numbers[name])
                for name, chosen in self._chosen.items()
                if chosen is not None and max(numbers[name]) > 1
            }
            for dataloader, numbers in self._numbers.items()
        }

    def before_step(self, batch: Any, dataloader: int = 0) -> None:
        """Read labels and lengths from a batch before the step can change it."""
        self._errors.clear()
        self._recorder.clear()
        self._reader.clear()
        if dataloader != self._dataloader:
            self._dataloader = dataloader
            question = self._questions.setdefault(dataloader, self._new_question())
            self._reader.restart(question)
        if self._find_inputs_end:
            constant = self.constant.setdefault(
                dataloader, {name: ConstantInputs() for name in self._recorder.modules}
            )
            self._recorder.keep_inputs([name for name, own in constant.items() if own.possible])
        self._could_be = self._questions[dataloader].labels(batch)
        self._batch = batch
        self.lengths = self._could_be.lengths

    def after_step(self, outputs: Any) -> None:
        """Add the sequences of a batch, after a step that returned ``outputs``.

        Errors of hooks in the step are raised here, and not in the step.
        """
        self._errors.check()
        if self._could_be is None or self._dataloader is None:
            raise RuntimeError("capture: after_step was called without before_step")
        states = self._step_states(self._could_be.sizes)
        answer, lengths = self._read(outputs, self._could_be, states, self._dataloader)
        self.labels = answer.labels
        for layer, own in states.items():
            _check_sequences(layer, len(own), {len(answer.labels)})
        if self._dataloader not in self.num_classes and not self._concepts_named:
            check_not_of_steps(answer, {own.values.shape[1] for own in states.values()})
        self.num_classes[self._dataloader] = answer.num_classes
        self.num_labels[self._dataloader] = answer.num_labels
        self.sources[self._dataloader] = (answer.x_in, answer.x_out)
        seen = self._numbers.setdefault(self._dataloader, {})
        for name, shapes in self._recorder.shapes.items():
            seen.setdefault(name, set()).add(len(shapes))
        if self._dataloader not in self.buffers:
            self.buffers[self._dataloader] = self._new_buffer()
            self._dealt[self._dataloader] = self._new_positions(self._dataloader)
        expected = self._expected(len(answer.labels))
        labels, classes = answer.labels, answer.classes
        positions, counted = self._dealt[self._dataloader].of_batch(len(labels))
        if labels.dim() == 2:
            self._check_steps(states, lengths, labels)
        else:
            labelled = has_label(labels)
            self.unlabelled[self._dataloader] += int((counted & ~labelled).sum())
            counted = counted & labelled
        self.positions, self.counted = positions, counted
        if not counted.all():
            labels, classes, positions = labels[counted], classes[counted], positions[counted]
            states = {layer: own.select(counted) for layer, own in states.items()}
        self.buffers[self._dataloader].add(
            states, labels, classes, expected=expected, positions=positions, finite=True
        )
        self._recorder.clear()
        self._reader.clear()
        self._batch = None

    def _read(
        self, outputs: Any, labels: Labels, states: dict[str, HiddenStates], dataloader: int
    ) -> tuple[Answer, dict[str, Tensor]]:
        """The answer, and the lengths of the sequences of each layer.

        The host waits once for a GPU. Then the states are checked, and padding is marked in them.
        """
        looked = self._looked_at(dataloader)
        beside = [own.lengths for own in states.values()]
        beside += [own.finite for own in states.values()]
        beside += looked.values()
        beside += [] if self.lengths is None else [self.lengths]
        try:
            answer = self._reader.read(outputs, labels, self._batch, beside=beside)
        except NonFiniteScoresError:
            for layer, own in states.items():  # where it begins
                self._within_lengths(layer, own, own.lengths.cpu()).check_finite(layer)
            raise
        read = iter(answer.beside)
        lengths, finite = ({layer: next(read) for layer in states} for _ in range(2))
        for name in looked:
            self.constant[dataloader][name].take(next(read))
        self.lengths = next(read, None)
        for layer, own in states.items():
            states[layer] = self._within_lengths(layer, own, lengths[layer])
            if not finite[layer]:
                states[layer].check_finite(layer)
        return answer, lengths if self.lengths is None else dict.fromkeys(states, self.lengths)

    def _check_steps(
        self, states: dict[str, HiddenStates], lengths: Mapping[str, Tensor], labels: Tensor
    ) -> None:
        """Refuse labels of other steps than those of the states; packing may leave out padding."""
        steps = labels.shape[1]
        for layer, own in states.items():
            padded = layer in self._recorder.packed or self.lengths is not None
            found = own.values.shape[1]
            beyond = torch.arange(steps) >= lengths[layer].unsqueeze(1)
            if padded and (beyond & has_label(labels)).any():
                raise ValueError(
                    f"target: there are labels beyond the ends of the packed sequences of {layer!r}"
                    ". If these are padding, name lengths=, or fill them with -100; if they are of "
                    "other steps, name modules= that have the steps of the labels, or label_step="
                )
            if found != steps and not (padded and found < steps):
                raise ValueError(
                    f"target: got labels of {steps} steps for {found} steps of {layer!r}; states "
                    "are compared with the labels of their own step. Name modules= that have the "
                    "steps of the labels, or give label_step= to take the labels of one step. For "
                    "several labels of each sample, give prediction= their logits or probabilities"
                )

    def pool(self, processes: Processes) -> None:
        """Take in what the other processes gathered; all must call this."""
        if processes.size == 1:
            return
        mine = {name: getattr(self, name) for name in _POOLED}
        for rank, found in enumerate(processes.gather(mine)):
            if rank != processes.rank:
                self._take_in(found)
        for dataloader in sorted(self.sources):
            if dataloader not in self.buffers:
                self.buffers[dataloader] = self._new_buffer()
            self.buffers[dataloader] = self.buffers[dataloader].pooled(processes)

    def _take_in(self, found: Mapping[str, Any]) -> None:
        for name in ("num_classes", "num_labels", "sources"):
            own = getattr(self, name)
            own |= {place: value for place, value in found[name].items() if place not in own}
        self.presorted |= found["presorted"]
        self.unlabelled += found["unlabelled"]
        for layer, steps in found["steps"].items():
            self.steps.setdefault(layer, set()).update(steps)
        for dataloader, numbers in found["_numbers"].items():
            seen = self._numbers.setdefault(dataloader, {})
            for name, own in numbers.items():
                seen.setdefault(name, set()).update(own)
        for dataloader, ends in found["constant"].items():
            for name, end in ends.items():
                kept = self.constant.setdefault(dataloader, {})
                kept.setdefault(name, ConstantInputs()).merge(end)

    def inputs_end(self, dataloader: int) -> dict[str, int]:
        """Steps at which the inputs of modules end, of those that have such a step."""
        ends = {name: own.end for name, own in self.constant.get(dataloader, {}).items()}
        return {name: end for name, end in ends.items() if end is not None}

    def _looked_at(self, dataloader: int) -> dict[str, Tensor]:
        """What tells where the inputs of modules end, to be read."""
        looked = {}
        for name, found in self._recorder.inputs.items():
            inputs = found[0] if len(found) == 1 else None
            if inputs is not None and self.lengths is not None:
                check_one_each(self.lengths, len(inputs))
                steps, lengths = inputs.values.shape[1], queued(self.lengths, inputs.values.device)
                inputs = HiddenStates.padded_at_end(inputs.values, prefix_mask(lengths, steps))
            if (own := self.constant[dataloader][name].look(inputs)) is not None:
                looked[name] = own
        return looked

    def _expected(self, sequences: int) -> int | None:
        """Number of sequences of the whole dataloader if all batches have this size."""
        if self._num_batches is None or self._dataloader is None:
            return None
        batches = self._num_batches[self._dataloader]
        return int(batches) * sequences if math.isfinite(batches) else None

    def _step_states(self, sizes: set[int]) -> dict[str, HiddenStates]:
        for layer, batches in self._recorder.batches.items():
            if batches == 0:
                compiled = (
                    f". The model is compiled: set {HOOK_GUARDS} before it is first called, or "
                    "call torch.compiler.reset() too"
                )
                raise ValueError(
                    f"modules: layer {layer!r} was not called in this step; name only modules that "
                    "every step calls"
                    f"{compiled if is_compiled(self._model) else ''}"
                )
        for name, shapes in self._recorder.shapes.items():
            if self._chosen[name] is None:
                check_one(name, shapes)
        states = self._recorder.states
        for layer, layer_states in states.items():
            _check_sequences(layer, len(layer_states), sizes)
            if self.lengths is not None:
                check_one_each(self.lengths, len(layer_states))
        return states

    def _within_lengths(self, layer: str, states: HiddenStates, lengths: Tensor) -> HiddenStates:
        """The states without the padding that named lengths tell; ``lengths`` are their own."""
        packed = self._recorder.packed
        if self.lengths is None:
            if layer not in packed:
                self.steps.setdefault(layer, set()).add(states.values.shape[1])
            elif packed[layer]:
                self.presorted.add(layer)
            return states
        named = HiddenStates.of_lengths(states.values, self.lengths)
        if layer in packed and not torch.equal(self.lengths.to("cpu", torch.int64), lengths):
            raise ValueError(
                f"lengths: the packed sequences given to {layer!r} have other lengths than named, "
                "so their order is not that of the batch; let the packing sort them "
                "(enforce_sorted=False) instead of sorting them before"
            )
        return named


def _check_sequences(layer: str, sequences: int, sizes: set[int]) -> None:
    if sequences not in sizes:
        raise ValueError(
            f"target: got {' or '.join(map(str, sorted(sizes)))} labels for {sequences} sequences "
            f"of {layer!r}; it takes one class label for each sequence. If the states have the "
            "batch in another dimension, check batch_first, or the adapter of the module's class"
        )
