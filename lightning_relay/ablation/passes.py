"""One pass over evaluation batches: each is run again with every set of units knocked out."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lightning.pytorch.utilities.data import extract_batch_size

from lightning_relay.ablation.runs import EvaluationBatch, KnockoutRuns, Ran
from lightning_relay.ablation.selection import Known
from lightning_relay.ablation.sets import at_steps, counting_all, keys_of
from lightning_relay.knockout.arguments import checked_steps
from lightning_relay.knockout.clamps import check_within
from lightning_relay.reading.containers import rebuilt
from lightning_relay.reading.labels import BatchEntry, Target, read_entry, read_target
from lightning_relay.recurrent.layers import StateKey
from lightning_relay.recurrent.recorder import HiddenStateRecorder
from lightning_relay.recurrent.states import HiddenStates, TooShortError
from lightning_relay.rerun import StepRerun

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from lightning.pytorch import LightningModule, Trainer
    from torch import Tensor

    from lightning_relay.ablation.asked import Ablation
    from lightning_relay.ablation.sets import Sets
    from lightning_relay.reading.concepts import Concepts
    from lightning_relay.relay.report import RelayReport
    from lightning_relay.reports.stage import Stage


@dataclass(eq=False)
class _OfDataloader:
    """What there was of one dataloader.

    Attributes:
        samples_seen: Number of samples so far.
        batches_seen: Number of batches so far.
        x_in: Where the class labels were found, in words.
        sets: What is knocked out, once it is chosen.
        runs: Runs of the batches, from then on.
        reference: Number of sequences whose states make the value.
        waiting: Batches that wait for the states of others.
        recorded: Recorded states of each of these.
    """

    samples_seen: int = 0
    batches_seen: int = 0
    x_in: str | None = None
    sets: Sets | None = None
    runs: KnockoutRuns | None = None
    reference: int = 0
    waiting: list[EvaluationBatch] = field(default_factory=list)
    recorded: list[dict[str, HiddenStates]] = field(default_factory=list)


class KnockoutPass:
    """Runs the batches of an evaluation again.

    Call ``before_step`` and ``after_step`` for each, and ``end`` after the last.

    Args:
        pl_module: The module that is evaluated.
        trainer: Its Trainer.
        stage: Stage of the evaluation.
        asked: What is knocked out, at which values, and what is measured.
        concepts: Concepts whose accuracies are measured.
        relays: For each dataloader the relay report whose orders are followed, if there is one.
        num_batches: Number of batches to come from each dataloader.
        progress: Called after every run with the number of sets, and of batches to run again.
    """

    def __init__(
        self,
        pl_module: LightningModule,
        trainer: Trainer,
        stage: Stage,
        asked: Ablation,
        *,
        concepts: Concepts,
        relays: Sequence[RelayReport | None],
        num_batches: Sequence[float],
        progress: Callable[[int, float], None],
    ) -> None:
        self._layers = asked.which.layers_in(pl_module)
        self._dataloaders: dict[int, _OfDataloader] = {}
        self._pl_module = pl_module
        self._trainer = trainer
        self._stage = stage
        self._asked = asked
        self._concepts = concepts
        self._relays = relays
        self._num_batches = num_batches
        self._progress = progress
        self._rerun: StepRerun | None = None
        self._batch: Any = None
        self._target: Tensor | None = None

    def before_step(self, batch: Any, dataloader: int) -> None:
        """Make what runs the step again, and read the labels, before the step changes anything."""
        own = self._dataloaders.setdefault(dataloader, _OfDataloader())
        asked = self._asked
        self._rerun = self._target = None
        self._batch = rebuilt(batch)  # the step may take parts out of it
        if asked.labelled:
            target = _labels(batch, asked.target)
            self._target, own.x_in = target.labels, target.source
        if own.batches_seen < self._batches_to_run(dataloader):
            self._rerun = StepRerun(self._pl_module, self._trainer, self._stage, asked.prediction)

    def after_step(self, batch_idx: int, dataloader: int) -> None:
        """Run the batch again with every set knocked out."""
        own = self._dataloaders[dataloader]
        batch, self._batch = self._batch, None
        size = extract_batch_size(batch) if self._target is None else len(self._target)
        own.samples_seen += size
        own.batches_seen += 1
        if self._rerun is None:
            return
        own.waiting.append(
            EvaluationBatch(self._rerun, batch, batch_idx, dataloader, self._target, size)
        )
        self._rerun = None
        if own.runs is None and (self._asked.which.needs_steps or self._asked.of_states):
            own.recorded.append(self._recorded(own.waiting[-1]))
            if not self._has_states_enough(own, dataloader):
                return
        self._run_waiting(own, dataloader)

    def end(self) -> dict[int, Ran]:
        """Run the batches that still wait for others; gives what was run, by dataloader.

        Raises:
            StepError: If no sequence had a step at which units were to be held.
            ValueError: If a module was not called, so that nothing was knocked out.
        """
        found = {}
        for dataloader, own in self._dataloaders.items():
            if own.waiting:
                self._run_waiting(own, dataloader)
            assert own.sets is not None
            assert own.runs is not None
            found[dataloader] = Ran(
                self._as_held(own.sets, own.runs.longest),
                own.runs.outcomes,
                own.reference,
                own.samples_seen,
                own.batches_seen,
                own.x_in,
            )
        return found

    def _as_held(self, sets: Sets, longest: Mapping[str, int]) -> Sets:
        """Sets with their steps in the longest sequence."""
        modules = dict.fromkeys(key.module for some in sets.sets for key in keys_of(some))
        for module in modules:
            if longest.get(module) == 0:
                raise ValueError(
                    f"modules: {module!r} was not called in the step, so nothing was knocked out; "
                    "select the modules that are, such as with EveryUnit(modules=…)"
                )
        which = self._asked.which
        if which.needs_steps:
            return counting_all(sets, self._layers, longest)
        steps = checked_steps(which.held_at)
        if steps is not None:
            for module in modules:
                if module in longest:
                    check_within(steps, longest[module])
        return at_steps(sets, steps, longest)

    def _batches_to_run(self, dataloader: int) -> float:
        """Number of batches of a dataloader that are run again; infinite where it is not known."""
        most = 1 if self._trainer.sanity_checking else self._asked.max_batches
        return min(math.inf if most is None else most, self._num_batches[dataloader])

    def _run_waiting(self, own: _OfDataloader, dataloader: int) -> None:
        if own.runs is None:
            own.sets, own.runs = self._begun(own, dataloader)
        sets, batches = len(own.runs.sets), self._batches_to_run(dataloader)
        while own.waiting:
            try:
                own.runs.add(own.waiting.pop(0), lambda: self._progress(sets, batches))
            except TooShortError as error:
                if self._asked.of_states is None:
                    raise
                raise TooShortError(
                    f"reference_samples: got {self._asked.of_states.reference_samples}, and none "
                    f"of these is as long as a later sequence: {error}. Name more, or take Mean()"
                ) from error

    def _has_states_enough(self, own: _OfDataloader, dataloader: int) -> bool:
        """Whether the recorded states are as many as wanted, or all that there will be.

        Where the number of batches is not known, the first must do: there may be no other.
        """
        batches = self._batches_to_run(dataloader)
        return (
            self._asked.of_states is None
            or sum(batch.size for batch in own.waiting) >= self._asked.of_states.reference_samples
            or own.batches_seen >= batches
            or math.isinf(batches)
        )

    def _begun(self, own: _OfDataloader, dataloader: int) -> tuple[Sets, KnockoutRuns]:
        states = {
            layer: HiddenStates.concatenate([batch[layer] for batch in own.recorded])
            for layer in (own.recorded[0] if own.recorded else ())
        }
        own.recorded.clear()
        own.reference = sum(batch.size for batch in own.waiting)
        which = self._asked.which
        steps = {layer: int(part.lengths.max()) for layer, part in states.items()}
        known = Known(
            self._relays[dataloader], self._concepts, steps if which.needs_steps else None
        )
        choose = which.tried if self._trainer.sanity_checking else which.sets
        sets = choose(self._layers, known, self._asked.seed)
        return sets, KnockoutRuns(sets.sets, self._asked, states or None)

    def _recorded(self, batch: EvaluationBatch) -> dict[str, HiddenStates]:
        """States of a batch, of the layers of which units are knocked out."""
        modules = list(dict.fromkeys(StateKey.parse(layer).module for layer in self._layers))
        with HiddenStateRecorder(
            batch.rerun.twin, modules, layers="all", states=("hidden", "cell")
        ) as recorder:
            batch.run(whole=True)
        states = {layer: recorder.states[layer] for layer in self._layers}
        if self._asked.of_states is None or self._asked.of_states.lengths is None:
            return states
        lengths = read_entry(batch.batch, self._asked.of_states.lengths, "lengths")
        return {
            layer: HiddenStates.of_lengths(part.values, lengths) for layer, part in states.items()
        }


def _labels(batch: Any, entry: BatchEntry | None) -> Target:
    try:
        return read_target(batch, entry)
    except ValueError as error:
        raise ValueError(
            f"{error}. For knock-outs of a model without classes give score= the number that its "
            "step logs, such as Logged('val_loss')"
        ) from error
