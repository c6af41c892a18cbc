"""One pass over evaluation batches: each is run again with every set of units knocked out."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lightning.pytorch.utilities.data import extract_batch_size

from lightning_relay.ablation.runs import EvaluationBatch, KnockoutEvaluation
from lightning_relay.reading.labels import BatchEntry, Target, read_entry, read_target
from lightning_relay.recurrent.layers import StateKey
from lightning_relay.recurrent.recorder import HiddenStateRecorder
from lightning_relay.recurrent.states import HiddenStates
from lightning_relay.rerun import StepRerun, rebuilt

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence, Set

    from lightning.pytorch import LightningModule, Trainer
    from torch import Tensor

    from lightning_relay.ablation.sets import Sets
    from lightning_relay.reading.predictions import Prediction
    from lightning_relay.rerun import Stage

OF_STATES = ("mean", "mean_per_step", "resample")
"""Values that are made of recorded states."""

_SHORT = ("value: got values for", "states: the longest recorded")
"""So begin the errors of recorded states that do not reach to the end of a sequence."""


@dataclass(frozen=True, eq=False)
class PassOptions:
    """How batches are run again.

    Attributes:
        choose_sets: Gives what is knocked out, given the dataloader and, if ``needs_steps``, the
            numbers of steps by layer key, and otherwise None.
        layers: Keys of the layers of which units are knocked out.
        needs_steps: Whether the sets depend on the number of steps.
        value: What the units are held at.
        steps: When.
        target: Where the class labels stand in a batch; default: found.
        labelled: Whether class labels and class scores are read.
        prediction: Where the class scores come from; default: found.
        lengths: Where the lengths of the sequences stand in a batch, for padded sequences that are
            not packed.
        measured: Name of the value that is measured; None if there is none.
        keep_scores: Whether class scores are kept.
        together: Whether the rest of the step may run for several sets at once.
        reference_samples: Number of sequences whose states are recorded, where the value is made
            of them: the first, in whole batches.
        max_batches: Number of batches of each dataloader that are run again at most.
        seed: Seed of drawn values.
    """

    choose_sets: Callable[[int, Mapping[str, int] | None], Sets]
    layers: Sequence[str]
    needs_steps: bool = False
    value: str | float = "zero"
    steps: slice | Sequence[int] | Set[int] | int | None = None
    target: BatchEntry | None = None
    labelled: bool = True
    prediction: Prediction | None = None
    lengths: BatchEntry | None = None
    measured: str | None = None
    keep_scores: bool = False
    together: bool = True
    reference_samples: int = 1024
    max_batches: int | None = None
    seed: int = 0


@dataclass(eq=False)
class DataloaderPass:
    """What there was of one dataloader.

    Attributes:
        samples_seen: Number of samples so far.
        batches_seen: Number of batches so far.
        x_in: Where the class labels were found, in words.
        sets: What is knocked out, once it is chosen.
        evaluation: What the runs gave.
        waiting: Batches that wait for the states of others.
        recorded: Recorded states of each of these.
        reference: Number of sequences whose states make the value.
    """

    samples_seen: int = 0
    batches_seen: int = 0
    x_in: str | None = None
    sets: Sets | None = None
    evaluation: KnockoutEvaluation | None = None
    waiting: list[EvaluationBatch] = field(default_factory=list)
    recorded: list[dict[str, HiddenStates]] = field(default_factory=list)
    reference: int = 0


class KnockoutPass:
    """Runs the batches of an evaluation again.

    Call ``before_step`` and ``after_step`` for each, and ``end`` after the last.

    Args:
        pl_module: The module that is evaluated.
        trainer: Its Trainer.
        stage: Stage of the evaluation.
        options: How the batches are run again.
        num_batches: Number of batches to come from each dataloader.
        progress: Called after every run with the number of sets, and of batches to run again.

    Attributes:
        dataloaders: What there was, by index of the dataloader.
    """

    def __init__(
        self,
        pl_module: LightningModule,
        trainer: Trainer,
        stage: Stage,
        options: PassOptions,
        *,
        num_batches: Sequence[float],
        progress: Callable[[int, float], None],
    ) -> None:
        self.dataloaders: dict[int, DataloaderPass] = {}
        self._pl_module = pl_module
        self._trainer = trainer
        self._stage = stage
        self._options = options
        self._num_batches = num_batches
        self._progress = progress
        self._rerun: StepRerun | None = None
        self._batch: Any = None
        self._target: Tensor | None = None

    def before_step(self, batch: Any, dataloader: int) -> None:
        """Make what runs the step again, and read the labels, before the step changes anything."""
        own = self.dataloaders.setdefault(dataloader, DataloaderPass())
        self._rerun = self._target = None
        self._batch = rebuilt(batch)  # the step may take parts out of it
        options = self._options
        if options.labelled:
            target = _labels(batch, options.target)
            self._target, own.x_in = target.labels, target.source
        if own.batches_seen >= self.batches_to_run(dataloader):
            return
        self._rerun = StepRerun(self._pl_module, self._trainer, self._stage, options.prediction)

    def after_step(self, batch_idx: int, dataloader: int) -> None:
        """Run the batch again with every set knocked out."""
        own = self.dataloaders[dataloader]
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
        if own.evaluation is None and self._needs_states():
            own.recorded.append(self._recorded(own.waiting[-1]))
            if not self._has_states_enough(own, dataloader):
                return
        self._run_waiting(own, dataloader)

    def end(self) -> None:
        """Run the batches that still wait for others, where fewer came than were to come."""
        for dataloader, own in self.dataloaders.items():
            if own.waiting:
                self._run_waiting(own, dataloader)

    def batches_to_run(self, dataloader: int) -> float:
        """Number of batches of a dataloader that are run again; infinite where it is not known."""
        most = math.inf if self._options.max_batches is None else self._options.max_batches
        return min(most, self._num_batches[dataloader])

    def _run_waiting(self, own: DataloaderPass, dataloader: int) -> None:
        if own.evaluation is None:
            self._begin(own, dataloader)
        assert own.evaluation is not None
        sets, batches = len(own.evaluation.sets), self.batches_to_run(dataloader)
        while own.waiting:
            try:
                own.evaluation.add(own.waiting.pop(0), lambda: self._progress(sets, batches))
            except ValueError as error:
                if not str(error).startswith(_SHORT):
                    raise
                raise ValueError(
                    f"reference_samples: got {self._options.reference_samples}, and none of these "
                    f"is as long as a later sequence: {error}. Name more, or take value='mean'"
                ) from error

    def _needs_states(self) -> bool:
        return self._options.needs_steps or self._options.value in OF_STATES

    def _has_states_enough(self, own: DataloaderPass, dataloader: int) -> bool:
        """Whether the recorded states are as many as wanted, or all that there will be.

        Where the number of batches is not known, the first must do: there may be no other.
        """
        batches = self.batches_to_run(dataloader)
        recorded = sum(batch.size for batch in own.waiting)
        return (
            self._options.value not in OF_STATES
            or recorded >= self._options.reference_samples
            or own.batches_seen >= batches
            or math.isinf(batches)
        )

    def _begin(self, own: DataloaderPass, dataloader: int) -> None:
        options = self._options
        states = {
            layer: HiddenStates.concatenate([batch[layer] for batch in own.recorded])
            for layer in (own.recorded[0] if own.recorded else ())
        }
        own.recorded.clear()
        own.reference = sum(batch.size for batch in own.waiting)
        steps = {layer: int(part.lengths.max()) for layer, part in states.items()}
        own.sets = options.choose_sets(dataloader, steps if options.needs_steps else None)
        own.evaluation = KnockoutEvaluation(
            own.sets.sets,
            value=options.value,
            steps=options.steps,
            states=states or None,
            seed=options.seed,
            measured=options.measured,
            keep_scores=options.keep_scores,
            together=options.together,
        )

    def _recorded(self, batch: EvaluationBatch) -> dict[str, HiddenStates]:
        """States of a batch, of the layers of which units are knocked out."""
        modules = list(
            dict.fromkeys(StateKey.parse(layer).module for layer in self._options.layers)
        )
        twin = batch.rerun.twin
        with HiddenStateRecorder(
            twin, modules, layers="all", states=("hidden", "cell")
        ) as recorder:
            batch.run(whole=True)
        states = {layer: recorder.states[layer] for layer in self._options.layers}
        if self._options.lengths is None:
            return states
        lengths = read_entry(batch.batch, self._options.lengths, "lengths")
        return {
            layer: HiddenStates.of_lengths(part.values, lengths) for layer, part in states.items()
        }


def _labels(batch: Any, entry: BatchEntry | None) -> Target:
    try:
        return read_target(batch, entry)
    except ValueError as error:
        raise ValueError(
            f"{error}. For knock-outs of a model without classes give metric= the name of a number "
            "that its step logs"
        ) from error
