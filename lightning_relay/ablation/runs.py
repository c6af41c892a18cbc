"""Runs of evaluation batches under every knock-out, and what they gave."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch import Tensor

from lightning_relay.knockout.arguments import make_clamps
from lightning_relay.knockout.lanes import KnockoutLanes
from lightning_relay.rerun import StepRerun, StepResult, check_repeatable, is_alike

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence, Set

    from torch import nn

    from lightning_relay.ablation.report import KnockoutSet
    from lightning_relay.knockout.arguments import KnockoutValue
    from lightning_relay.knockout.clamps import Clamp
    from lightning_relay.recurrent.states import HiddenStates


_COMPARED = 2
"""Of the first stack of a layer and size so many more lanes are compared."""


class MixedSequencesError(Exception):
    """Results of several sets that ran together cannot be trusted."""


@dataclass(frozen=True, eq=False)
class EvaluationBatch:
    """A batch to be run again.

    Attributes:
        rerun: Runs the module's own step.
        batch: The batch.
        batch_idx: Its index.
        dataloader_idx: Index of its dataloader.
        target: Class labels, int64 ``(batch,)``; None where only a logged value is measured.
        size: Number of samples.
    """

    rerun: StepRerun
    batch: Any
    batch_idx: int
    dataloader_idx: int
    target: Tensor | None
    size: int

    def run(self, *, whole: bool, copies: int = 1) -> StepResult:
        """Run the step; where it is made to give scores for ``copies`` of the batch, say so."""
        target = self.target if copies == 1 or self.target is None else self.target.repeat(copies)
        return self.rerun.run(
            self.batch, self.batch_idx, self.dataloader_idx, target=target, whole=whole
        )


@dataclass(eq=False)
class Outcomes:
    """What the runs gave, entry 0 of every first axis without knock-out.

    Attributes:
        sizes: Number of samples of each batch.
        labels: Class labels of each batch, int64 ``(batch,)``.
        classes: Predicted classes of each batch, int64 ``(set + 1, batch)``.
        scores: Class scores of each batch, ``(set + 1, batch, class)``, where they are kept.
        values: The measured value of each batch, float64 ``(set + 1,)``, where there is one.
        num_classes: Number of classes that have a score; None where only classes are known.
        source: Where the predicted classes came from, in words.
    """

    sizes: list[int] = field(default_factory=list)
    labels: list[Tensor] = field(default_factory=list)
    classes: list[Tensor] = field(default_factory=list)
    scores: list[Tensor] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)
    num_classes: int | None = None
    source: str | None = None


class KnockoutEvaluation:
    """Runs batches without knock-out and with each of the sets knocked out.

    Args:
        sets: What is knocked out.
        value: What the units are held at.
        steps: When, for sets that do not say so themselves; None for always.
        states: Recorded states, where the value is made of them.
        seed: Seed of drawn values.
        measured: Name of the value that is measured, ``"loss"`` for what the step returns, others
            for what it logs; None if there is none.
        keep_scores: Whether class scores are kept.
        together: Whether the rest of the step may run for several sets at once.

    Attributes:
        outcomes: What the runs gave so far.
        longest: Number of steps of the longest sequence so far, by module name.
    """

    def __init__(
        self,
        sets: Sequence[KnockoutSet],
        *,
        value: KnockoutValue | Mapping[str, KnockoutValue] = "zero",
        steps: slice | Sequence[int] | Set[int] | int | None = None,
        states: Mapping[str, HiddenStates] | None = None,
        seed: int = 0,
        measured: str | None = None,
        keep_scores: bool = False,
        together: bool = True,
    ) -> None:
        self.sets = sets
        self.outcomes = Outcomes()
        self.longest: dict[str, int] = {}
        self._value = value
        self._steps = steps
        self._states = states
        self._seed = seed
        self._clamps: list[list[Clamp]] | None = None
        self._stacks = together
        self._compared: set[tuple[object, ...]] = set()
        self._measured = measured
        self._keep_scores = keep_scores

    def add(self, batch: EvaluationBatch, progress: Callable[[], None]) -> None:
        """Run a batch without knock-out and with each of the sets.

        Args:
            batch: The batch.
            progress: Called after every run.

        Raises:
            MixedSequencesError: If the step gives other scores for several sets at once, and had
                not in the batches before, whose results may be wrong.
            ValueError: If the step, run again, does not give the same, or what is measured is not
                there.
        """
        whole = self._measured is not None
        if self._clamps is None:
            self._clamps = self._clamps_of(batch.rerun.twin)
        with KnockoutLanes(batch.rerun.twin, self._clamps, len(self.outcomes.sizes)) as lanes:
            with lanes.lane(None):
                results = {-1: batch.run(whole=True)}
            progress()
            if self._stacks and batch.rerun.stops and not whole:
                results |= self._stacked(batch, lanes, progress)
            for number in range(len(self.sets)):
                if number not in results:
                    with lanes.lane(number):
                        results[number] = batch.run(whole=whole)
                    progress()
            with lanes.lane(None):
                check_repeatable(results[-1], batch.run(whole=whole))
            for module, steps in lanes.longest.items():
                self.longest[module] = max(steps, self.longest.get(module, 0))
        self._keep(batch, [results[number] for number in range(-1, len(self.sets))])

    def _stacked(
        self, batch: EvaluationBatch, lanes: KnockoutLanes, progress: Callable[[], None]
    ) -> dict[int, StepResult]:
        """Results of sets that can be run together.

        One lane of every stack is compared with what it is alone. Where it is not the same, or the
        step cannot do with so many sequences at once, there are no more stacks.
        """
        results: dict[int, StepResult] = {}
        for numbers in lanes.stacks():
            found = self._stack(batch, lanes, numbers)
            if found is None:
                self._stacks = False
                return results
            for number, result in zip(numbers, found, strict=True):
                results[number] = result
                progress()
        return results

    def _stack(
        self, batch: EvaluationBatch, lanes: KnockoutLanes, numbers: Sequence[int]
    ) -> list[StepResult] | None:
        """Results of sets that are run together, some also alone; None where they are not alike."""
        with lanes.stack(numbers):
            try:
                together = batch.run(whole=False, copies=len(numbers))
            except Exception:  # a step may fail in any way on a batch of another size
                return None
        if together.classes is None or together.scores is None:
            return None
        classes, scores = (part.chunk(len(numbers)) for part in (together.classes, together.scores))
        found = [
            replace(together, classes=own, scores=others)
            for own, others in zip(classes, scores, strict=True)
        ]
        for place in self._to_compare(batch, numbers):
            with lanes.lane(numbers[place], alone=True):
                if not is_alike(batch.run(whole=False), found[place]):
                    self._raise_if_trusted()
                    return None
        return found

    def _to_compare(self, batch: EvaluationBatch, numbers: Sequence[int]) -> set[int]:
        """Which lanes of a stack are also run alone: some of the first, another one each time."""
        kind = (*self.sets[numbers[0]].units, batch.size, len(numbers))
        first = range(0 if kind in self._compared else _COMPARED)
        self._compared.add(kind)
        return {*first, len(self.outcomes.sizes) % len(numbers)}

    def _raise_if_trusted(self) -> None:
        if self.outcomes.sizes:
            raise MixedSequencesError(
                "the step gave other class scores for several sets at once than for one, and had "
                "not in the batches before: what it gives for one sequence depends on others"
            )

    def _clamps_of(self, model: nn.Module) -> list[list[Clamp]]:
        clamps = []
        for some in self.sets:
            value = self._value
            if isinstance(value, Mapping):
                value = {layer: value[layer] for layer in some.units}
            own = make_clamps(
                model,
                dict(some.units),
                value=value,
                steps=self._steps if some.steps is None else some.steps,
                states=self._states,
                seed=self._seed,
            )
            clamps.append(own)
        return clamps

    def _keep(self, batch: EvaluationBatch, results: Sequence[StepResult]) -> None:
        outcomes = self.outcomes
        outcomes.sizes.append(batch.size)
        if batch.target is not None:
            outcomes.labels.append(batch.target.cpu())
            classes = [result.classes for result in results if result.classes is not None]
            outcomes.classes.append(torch.stack(classes).cpu())
            outcomes.num_classes = results[0].num_classes
            outcomes.source = results[0].source
            scores = [result.scores for result in results if result.scores is not None]
            if self._keep_scores and scores:
                outcomes.scores.append(torch.stack(scores).cpu())
        if self._measured is not None:
            values = [self._value_of(result) for result in results]
            outcomes.values.append(torch.tensor(values, dtype=torch.float64))

    def _value_of(self, result: StepResult) -> float:
        assert self._measured is not None
        value = result.loss if self._measured == "loss" else result.logged.get(self._measured)
        if value is None:
            _raise_not_measured(self._measured, result)
        return value


def _raise_not_measured(name: str, result: StepResult) -> NoReturn:
    has = ", ".join(map(repr, result.logged)) or "none"
    if name in result.logged_metrics:
        raise ValueError(
            f"metric: {result.step} logs a Metric as {name!r}, whose value is that of all batches; "
            "give a Metric of its kind itself: metric=... It logs these numbers: " + has
        )
    if name == "loss":
        raise ValueError(
            f"metric: {result.step} returns no loss; it logs {has}: name one of these, or return "
            "the loss"
        )
    step_name = name.removesuffix("_epoch").removesuffix("_step")
    hint = f"; its own name for it is {step_name!r}" if step_name in result.logged else ""
    raise ValueError(f"metric: {result.step} logs no number {name!r}; it logs {has}{hint}")
