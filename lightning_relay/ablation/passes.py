"""A pass over the batches of an evaluation, each run again under every knock-out."""

from __future__ import annotations

import math
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.utilities.data import extract_batch_size

from lightning_relay.ablation.own_step import OwnStep
from lightning_relay.ablation.runs import EvaluationBatch, KnockoutRuns, MissingNumberError, Ran
from lightning_relay.ablation.selection import Known
from lightning_relay.ablation.sets import at_steps, counting_all, keys_of
from lightning_relay.knockout.arguments import checked_steps
from lightning_relay.knockout.clamps import check_within
from lightning_relay.reading.labels import Labels, NoReadingError, read_lengths
from lightning_relay.reading.predictions import Question
from lightning_relay.recurrent.errors import TooShortError
from lightning_relay.recurrent.keys import StateKey
from lightning_relay.recurrent.recorder import HiddenStateRecorder
from lightning_relay.recurrent.states import HiddenStates
from lightning_relay.rerun import KeptBatch, StepRerun, Surroundings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from lightning.pytorch import LightningModule, Trainer
    from torch import Tensor

    from lightning_relay.ablation.asked import Ablation
    from lightning_relay.ablation.sets import Sets
    from lightning_relay.reading.concepts import Concepts
    from lightning_relay.relay.report import RelayReport
    from lightning_relay.reports.stage import Stage
    from lightning_relay.sampling.processes import Positions, Processes


@dataclass(eq=False)
class _OfDataloader:
    """State of one dataloader, in one process.

    ``positions`` tell which samples its batches have. Batches wait, with their recorded states,
    until these are enough to choose sets and values; ``runs`` exist from then on. ``reference``
    counts the sequences that waited. ``missing`` says that its step does not give the number that
    is asked for.
    """

    question: Question
    positions: Positions
    samples_seen: int = 0
    batches_seen: int = 0
    runs: KnockoutRuns | None = None
    missing: MissingNumberError | None = None
    reference: int = 0
    waiting: list[EvaluationBatch] = field(default_factory=list)
    at_steps: list[dict[str, list[HiddenStates]]] = field(default_factory=list)
    lengths: list[dict[str, Tensor]] = field(default_factory=list)
    recorded: list[dict[str, HiddenStates]] = field(default_factory=list)

    def as_ran(self) -> Ran:
        """What was run."""
        assert self.runs is not None
        return Ran(
            self.runs.sets,
            self.runs.outcomes,
            self.reference,
            self.samples_seen,
            self.batches_seen,
            _joined(self.at_steps),
            {
                layer: torch.cat([batch[layer] for batch in self.lengths])
                for layer in (self.lengths[0] if self.lengths else ())
            },
        )

    def reference_states(self, asked: Ablation) -> tuple[Tensor, dict[str, HiddenStates]]:
        """Positions of the waiting sequences whose states make the value, and these states."""
        most = math.inf if asked.of_states is None else asked.of_states.reference_samples
        own = [batch.counted & (batch.positions < most) for batch in self.waiting]
        layers = self.recorded[0] if self.recorded else ()
        return torch.cat(
            [batch.positions[some] for batch, some in zip(self.waiting, own, strict=True)]
        ), {
            layer: HiddenStates.concatenate(
                [
                    states[layer].select(some).to("cpu")
                    for states, some in zip(self.recorded, own, strict=True)
                ]
            )
            for layer in layers
        }


@dataclass(kw_only=True, eq=False)
class KnockoutPass:
    """Runs the batches of an evaluation again.

    Call ``before_step`` and ``after_step`` for each batch, and ``end`` after the last. ``relays``
    and ``num_batches`` have an entry for each dataloader. ``progress`` is called after every run
    with the number of sets and the number of batches to run again. ``untried`` becomes True if the
    sanity check cannot tell whether a validation gives the number that is asked for.

    Each of several ``processes`` has a pass over its own batches. What they need of each other they
    tell at the end, so that batches that wait for states wait until then.
    """

    pl_module: LightningModule
    trainer: Trainer
    stage: Stage
    asked: Ablation
    concepts: Concepts | None
    relays: Sequence[RelayReport | None]
    num_batches: Sequence[float]
    progress: Callable[[int, float], None]
    new_positions: Callable[[int], Positions]
    processes: Processes
    untried: bool = field(default=False, init=False)
    _dataloaders: dict[int, _OfDataloader] = field(default_factory=dict, init=False)
    _rerun: StepRerun | None = field(default=None, init=False)
    _batch: KeptBatch | None = field(default=None, init=False)
    _size: int = field(default=0, init=False)
    _labels: Labels | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self._layers = self.asked.which.layers_in(self.pl_module)
        self._own = OwnStep(self.pl_module)

    @cached_property
    def _surroundings(self) -> Surroundings:
        """Looked for after the first step, which may import modules and make objects."""
        return Surroundings(self.pl_module, self.trainer, self.stage)

    def before_step(self, batch: Any, dataloader: int) -> None:
        """Copy module and batch and read the labels, before the step can change them."""
        asked = self.asked
        if dataloader not in self._dataloaders:
            self._dataloaders[dataloader] = _OfDataloader(
                Question(
                    asked.target,
                    asked.prediction,
                    asked.label_step,
                    asked.bins,
                    asked.lengths,
                    concepts_named=asked.concepts is not None,
                ),
                self.new_positions(dataloader),
            )
        own = self._dataloaders[dataloader]
        self._rerun = self._labels = self._batch = None
        if asked.labelled:
            with _naming_the_score():
                self._labels = own.question.labels(batch)
        sizes = set() if self._labels is None else self._labels.sizes
        self._size = sizes.pop() if len(sizes) == 1 else extract_batch_size(batch)
        if own.missing is None and own.batches_seen < self._batches_to_run(dataloader):
            self._batch = KeptBatch(batch)
            self._rerun = StepRerun(self.pl_module, self.trainer, self.stage, own.question)
            if self._labels is not None:
                self._own.begin(own.question, batch, dataloader)

    def after_step(self, outputs: Any, batch_idx: int, dataloader: int) -> None:
        """Run the batch again with every set knocked out."""
        own = self._dataloaders[dataloader]
        positions, counted = own.positions.of_batch(self._size)
        own.samples_seen += int(counted.sum())
        own.batches_seen += 1
        if self._rerun is None or self._batch is None:
            return
        own.waiting.append(
            EvaluationBatch(
                self._rerun,
                self._batch,
                batch_idx,
                dataloader,
                self._labels,
                self._size,
                positions,
                counted,
                own=None if self._labels is None else self._own.end(outputs, self._labels),
            )
        )
        self._rerun = self._batch = None
        with self._surroundings.unchanged(), _naming_the_score():
            self._run_again(own, dataloader)

    def _run_again(self, own: _OfDataloader, dataloader: int) -> None:
        """Record the newest batch where that is needed, and run the batches that need not wait."""
        which = self.asked.which
        waits = own.runs is None and (which.needs_steps or self.asked.of_states is not None)
        states = self._recorded(own.waiting[-1]) if waits or which.measured_at else {}
        if which.measured_at:
            counted = {
                layer: part.select(own.waiting[-1].counted) for layer, part in states.items()
            }
            own.at_steps.append(
                {
                    layer: [_at(part, step).to("cpu") for step in which.measured_at]
                    for layer, part in counted.items()
                }
            )
            own.lengths.append({layer: part.lengths.cpu() for layer, part in counted.items()})
        if waits:
            own.recorded.append(self._of_lengths(states, own.waiting[-1].batch.contents))
            if not self._has_enough_states(own, dataloader):
                return
        self._run_waiting(own, dataloader)

    def close(self) -> None:
        """Leave the module as it was. Idempotent."""
        self._own.close()

    def end(self) -> dict[int, Ran]:
        """Run the batches that still wait; return what was run, by dataloader.

        Several dataloaders may differ in the numbers that their steps give. Those without the
        number that is asked for are left out; it is an error if no step gives it.
        """
        self._share_states()
        failed: Exception | None = None
        try:
            for dataloader, own in self._dataloaders.items():
                if own.waiting:
                    with self._surroundings.unchanged():
                        self._run_waiting(own, dataloader)
        except Exception as why:  # the other processes wait for this one
            failed = why
        self.processes.check(failed)
        # There are none if the evaluation ended inside the first step.
        mine = {
            dataloader: (own.as_ran(), own.runs.longest)
            for dataloader, own in self._dataloaders.items()
            if own.runs is not None and own.missing is None
        }
        everyone = self.processes.gather(mine)
        found = {}
        for dataloader in sorted({place for own in everyone for place in own}):
            parts = [own[dataloader] for own in everyone if dataloader in own]
            longest: dict[str, int] = {}
            for _, steps in parts:
                longest |= {name: max(longest.get(name, 0), own) for name, own in steps.items()}
            ran = Ran.together([part for part, _ in parts])
            found[dataloader] = replace(ran, sets=self._as_held(ran.sets, longest))
        if not found and not self.untried:
            for error in self.without_number.values():
                raise error
        return found

    def _share_states(self) -> None:
        """Give the states that sets and values are chosen from to all processes."""
        if self.processes.size == 1:
            return
        mine = {
            dataloader: own.reference_states(self.asked)
            for dataloader, own in self._dataloaders.items()
            if own.runs is None and own.waiting
        }
        everyone = self.processes.gather(mine)
        for dataloader, own in self._dataloaders.items():
            parts = [part[dataloader] for part in everyone if dataloader in part]
            if dataloader in mine and parts:
                positions = torch.cat([where for where, _ in parts])
                order = positions.argsort()
                own.recorded = [
                    {
                        layer: HiddenStates.concatenate([some[layer] for _, some in parts])
                        .select(order)
                        .to(self.pl_module.device)
                        for layer in parts[0][1]
                    }
                ]
                own.reference = len(order)

    @property
    def without_number(self) -> dict[int, MissingNumberError]:
        """Errors of the dataloaders whose step does not give the number that is asked for."""
        every = self._dataloaders.items()
        return {place: own.missing for place, own in every if own.missing is not None}

    def _as_held(self, sets: Sets, longest: Mapping[str, int]) -> Sets:
        """Sets with their steps in the longest sequence; refuses modules that were not called."""
        modules = dict.fromkeys(key.module for some in sets.sets for key in keys_of(some))
        for module in modules:
            if longest.get(module) == 0:
                raise ValueError(
                    f"modules: {module!r} was not called in the step, so nothing was knocked out; "
                    "select the modules that are, such as with EveryUnit(modules=…)"
                )
        which = self.asked.which
        if which.needs_steps:
            return counting_all(sets, self._layers, longest)
        steps = checked_steps(which.held_at)
        if steps is not None:
            for module in modules:
                if module in longest:
                    check_within(steps, longest[module])
        return at_steps(sets, steps, longest)

    def _batches_to_run(self, dataloader: int) -> float:
        """Number of batches of a dataloader to run again; infinite where it is not known."""
        most = self.asked.max_batches
        if self.trainer.sanity_checking and not math.isinf(self.trainer.num_sanity_val_steps):
            most = 1
        return min(math.inf if most is None else most, self.num_batches[dataloader])

    def _run_waiting(self, own: _OfDataloader, dataloader: int) -> None:
        if own.runs is None:
            own.runs = self._begun(own, dataloader)
        sets, batches = len(own.runs.sets.sets), self._batches_to_run(dataloader)
        while own.waiting:
            batch = own.waiting.pop(0)
            try:
                self._add(own.runs, batch, lambda: self.progress(sets, batches))
            except MissingNumberError as error:
                own.missing = error
                own.waiting.clear()
                if len(self.num_batches) == 1 and not self.untried:
                    raise
            except TooShortError as error:
                if self.asked.of_states is None:
                    raise
                raise TooShortError(
                    f"reference_samples: got {self.asked.of_states.reference_samples}; all of "
                    f"these are shorter than a later sequence: {error}. Raise it, or take Mean()"
                ) from error
            finally:
                batch.batch.put_back()

    def _add(
        self, runs: KnockoutRuns, batch: EvaluationBatch, progress: Callable[[], None]
    ) -> None:
        """Run a batch with every set knocked out.

        In the sanity check a step may leave out a number, or log it under another name. Then it is
        run as in a validation; if that fails, only a validation can tell.
        """
        try:
            runs.add(batch, progress)
        except MissingNumberError as error:
            if not self.trainer.sanity_checking:
                raise
            batch.rerun.be_validating()
            batch.before = None
            try:
                batch.run(whole=True)
            except Exception:
                self.untried = True
                raise error from None
            finally:
                batch.batch.put_back()
            runs.add(batch, progress)

    def _has_enough_states(self, own: _OfDataloader, dataloader: int) -> bool:
        """Whether enough states are recorded, or no more can come.

        Where the number of batches is not known, the first batch is enough: it may be the only one.
        """
        if self.processes.size > 1:
            return False
        batches = self._batches_to_run(dataloader)
        return (
            self.asked.of_states is None
            or sum(batch.size for batch in own.waiting) >= self.asked.of_states.reference_samples
            or own.batches_seen >= batches
            or math.isinf(batches)
        )

    def _begun(self, own: _OfDataloader, dataloader: int) -> KnockoutRuns:
        states = {
            layer: HiddenStates.concatenate([batch[layer] for batch in own.recorded])
            for layer in (own.recorded[0] if own.recorded else ())
        }
        own.recorded.clear()
        if self.processes.size == 1:
            own.reference = sum(batch.size for batch in own.waiting)
        which = self.asked.which
        steps = None
        if which.needs_steps:
            steps = {layer: int(part.lengths.max()) for layer, part in states.items()}
        known = Known(self.relays[dataloader], self.concepts, steps)
        choose = which.tried if self.trainer.sanity_checking else which.sets
        sets = choose(self._layers, known, self.asked.seed)
        return KnockoutRuns(sets, self.asked, states or None)

    def _recorded(self, batch: EvaluationBatch) -> dict[str, HiddenStates]:
        """States of a batch, for each layer with units to knock out."""
        modules = list(dict.fromkeys(StateKey.parse(layer).module for layer in self._layers))
        with HiddenStateRecorder(
            batch.rerun.twin, modules, layers="all", states=("hidden", "cell")
        ) as recorder:
            try:
                batch.before = batch.run(whole=True)
            finally:
                batch.batch.put_back()
        found = recorder.states
        states = {layer: found[layer] for layer in self._layers}
        if self.asked.which.measured_at:
            self._check_sequences(states, recorder.batches, batch.size)
        return states

    def _check_sequences(
        self, states: Mapping[str, HiddenStates], batches: Mapping[str, int], labels: int
    ) -> None:
        """Refuse states that are not those of one sequence for each label."""
        name = type(self.asked.which).__name__
        for layer, part in states.items():
            if batches[layer] > 1:
                raise ValueError(
                    f"modules: {layer!r} was given {batches[layer]} batches of sequences in one "
                    f"step; {name} takes one, to compare the states of each sequence with its "
                    f"answer. Select other modules with {name}(modules=…), or take EveryUnit()"
                )
            if (sequences := len(part)) != labels:
                raise ValueError(
                    f"target: got {labels} labels for {sequences} sequences of {layer!r}; {name} "
                    "takes one class label for each sequence. If the states have the batch in "
                    "another dimension, check batch_first, or the adapter of the module's class"
                )

    def _of_lengths(self, states: dict[str, HiddenStates], batch: Any) -> dict[str, HiddenStates]:
        """The states without padding, where the value tells the lengths of the sequences."""
        if self.asked.of_states is None:
            return states
        entry = self.asked.of_states.lengths
        entry = self.asked.lengths if entry is None else entry
        if entry is None:
            return states
        lengths = read_lengths(batch, entry)
        return {
            layer: HiddenStates.of_lengths(part.values, lengths) for layer, part in states.items()
        }


@contextmanager
def _naming_the_score() -> Iterator[None]:
    """Say what else can be measured where labels or answers are not found."""
    try:
        yield
    except NoReadingError as error:
        raise NoReadingError(
            f"{error}. For a model without classes, give score= a number that its step logs, such "
            "as Logged('val_loss')"
        ) from error


def _joined(batches: Sequence[Mapping[str, list[HiddenStates]]]) -> dict[str, list[HiddenStates]]:
    """States of all batches at each step, by layer key."""
    return {
        layer: [
            HiddenStates.concatenate(parts)
            for parts in zip(*(batch[layer] for batch in batches), strict=True)
        ]
        for layer in (batches[0] if batches else ())
    }


def _at(states: HiddenStates, step: int) -> HiddenStates:
    """States at a step; none is valid where no sequence of the batch has it."""
    if states.has(step):
        return states.at(step)
    return HiddenStates(states.values[:, :1], torch.zeros_like(states.valid[:, :1]))
