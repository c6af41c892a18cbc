"""Runs of evaluation batches under every knock-out, and what they gave."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch import Tensor

from lightning_relay.knockout.arguments import make_clamps
from lightning_relay.knockout.lanes import KnockoutLanes
from lightning_relay.rerun import StepRerun, StepResult, check_repeatable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import nn

    from lightning_relay.ablation.asked import Ablation
    from lightning_relay.ablation.report import KnockoutSet
    from lightning_relay.ablation.sets import Sets
    from lightning_relay.knockout.clamps import Clamp
    from lightning_relay.recurrent.states import HiddenStates


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

    def run(self, *, whole: bool) -> StepResult:
        """Run the step, to its end or until the class scores are known."""
        return self.rerun.run(
            self.batch, self.batch_idx, self.dataloader_idx, target=self.target, whole=whole
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


@dataclass(frozen=True, eq=False)
class Ran:
    """What was run in an evaluation.

    Attributes:
        sets: What was knocked out, and when.
        outcomes: What the runs gave.
        reference: Number of sequences whose states made the value.
        samples_seen: Number of samples there were; None for those of the outcomes.
        batches_seen: Number of batches there were, likewise.
        x_in: Where the class labels were found, in words.
    """

    sets: Sets
    outcomes: Outcomes
    reference: int = 0
    samples_seen: int | None = None
    batches_seen: int | None = None
    x_in: str | None = None


class KnockoutRuns:
    """Runs batches without knock-out and with each of the sets knocked out.

    Args:
        sets: What is knocked out.
        asked: At which values, when, and what is measured.
        states: Recorded states, where the value is made of them.

    Attributes:
        sets: The same.
        outcomes: What the runs gave so far.
        longest: Number of steps of the longest sequence so far, by module name.
    """

    def __init__(
        self,
        sets: Sequence[KnockoutSet],
        asked: Ablation,
        states: Mapping[str, HiddenStates] | None,
    ) -> None:
        self.sets = sets
        self.outcomes = Outcomes()
        self.longest: dict[str, int] = {}
        self._asked = asked
        self._states = states
        self._clamps: list[list[Clamp]] | None = None

    def add(self, batch: EvaluationBatch, progress: Callable[[], None]) -> None:
        """Run a batch without knock-out and with each of the sets.

        Args:
            batch: The batch.
            progress: Called after every run.

        Raises:
            ValueError: If the step, run again, does not give the same, or what is measured is not
                there.
        """
        whole = self._asked.logged is not None
        if self._clamps is None:
            self._clamps = self._clamps_of(batch.rerun.twin)
        with KnockoutLanes(batch.rerun.twin, self._clamps, len(self.outcomes.sizes)) as lanes:
            results = []
            for number in (None, *range(len(self.sets))):
                with lanes.lane(number):
                    results.append(batch.run(whole=whole or number is None))
                progress()
            with lanes.lane(None):
                check_repeatable(results[0], batch.run(whole=whole))
            for module, steps in lanes.longest.items():
                self.longest[module] = max(steps, self.longest.get(module, 0))
        self._keep(batch, results)

    def _clamps_of(self, model: nn.Module) -> list[list[Clamp]]:
        asked = self._asked
        return [
            make_clamps(
                model,
                some.units,
                value=asked.held_value,
                steps=asked.which.held_at if some.steps is None else some.steps,
                states=self._states,
                seed=asked.seed,
            )
            for some in self.sets
        ]

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
            if self._asked.computed is not None and scores:
                outcomes.scores.append(torch.stack(scores).cpu())
        if self._asked.logged is not None:
            values = [_value_of(result, self._asked.logged.name) for result in results]
            outcomes.values.append(torch.tensor(values, dtype=torch.float64))


def _value_of(result: StepResult, name: str) -> float:
    value = result.loss if name == "loss" else result.logged.get(name)
    if value is None:
        _raise_not_measured(name, result)
    return value


def _raise_not_measured(name: str, result: StepResult) -> NoReturn:
    has = ", ".join(map(repr, result.logged)) or "none"
    if name in result.logged_metrics:
        raise ValueError(
            f"score: {result.step} logs a Metric as {name!r}, whose value is that of all batches; "
            "give a Metric of its kind itself: score=… It logs these numbers: " + has
        )
    if name == "loss":
        raise ValueError(
            f"score: {result.step} returns no loss; it logs {has}: name one of these, or return "
            "the loss"
        )
    step_name = name.removesuffix("_epoch").removesuffix("_step")
    hint = f"; its own name for it is {step_name!r}" if step_name in result.logged else ""
    raise ValueError(f"score: {result.step} logs no number {name!r}; it logs {has}{hint}")
