"""Runs of evaluation batches under every knock-out, and their outcomes."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from lightning_relay.ablation.reacting import check_reacts
from lightning_relay.knockout.arguments import make_clamps
from lightning_relay.knockout.lanes import KnockoutLanes
from lightning_relay.reading.answers import NonFiniteScoresError
from lightning_relay.reading.deciding import check_not_of_steps
from lightning_relay.recurrent.layers import recurrent_layers
from lightning_relay.recurrent.states import HiddenStates
from lightning_relay.rerun import (
    NotRepeatedError,
    StepResult,
    check_repeatable,
    check_same_as_own,
)
from lightning_relay.rerun.mapping import CannotMapError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from torch import nn

    from lightning_relay.ablation.asked import Ablation
    from lightning_relay.ablation.sets import Sets
    from lightning_relay.knockout.clamps import Clamp
    from lightning_relay.reading.answers import Answer
    from lightning_relay.reading.labels import Labels
    from lightning_relay.rerun import KeptBatch, StepRerun


class MissingNumberError(ValueError):
    """The step gives no number of the name that is asked for."""


@dataclass(eq=False)
class EvaluationBatch:
    """A batch, and what runs the module's own step on it again.

    ``labels``: what could be the class labels; None where only a logged number is measured.
    ``positions`` are the numbers of its samples among all, and ``counted`` those that are no
    repetitions, both ``(batch,)``. ``before``: what a whole run without knock-out gave before, if
    there was one. ``own``: what the module's own step predicted, where it can be read.
    """

    rerun: StepRerun
    batch: KeptBatch
    batch_idx: int
    dataloader_idx: int
    labels: Labels | None
    size: int
    positions: Tensor
    counted: Tensor
    before: StepResult | None = None
    own: Answer | None = None

    def run(self, *, whole: bool) -> StepResult:
        """Run the step, to its end or until the class scores are known."""
        return self.rerun.run(
            self.batch, self.batch_idx, self.dataloader_idx, labels=self.labels, whole=whole
        )

    def run_together(
        self, lanes: KnockoutLanes, block: Sequence[int], compared: Sequence[int]
    ) -> list[StepResult]:
        """Run the step once for several lanes, until the class scores are known.

        The ``compared`` places in the block are also run alone, and must give the same.
        """
        assert self.labels is not None
        return self.rerun.run_together(
            self.batch,
            self.batch_idx,
            self.dataloader_idx,
            labels=self.labels,
            states=lambda: lanes.states(block),
            given=lanes.given,
            compared=compared,
        )


@dataclass(eq=False)
class Outcomes:
    """Outcomes of the runs, one list entry for each batch; entry 0 of ``set + 1``: no knock-out.

    Those of several processes have a list entry for each sample, but of ``sizes`` and ``values``.

    Attributes:
        sizes: Numbers of samples that are counted.
        positions: Numbers of these samples among all, int64 ``(batch,)``.
        labels: Labels as in ``Answer``, ``(batch,)`` or ``(batch, step)``.
        classes: Predicted classes or real numbers, ``(set + 1, batch)`` or ``(set + 1, batch,
            step)``.
        scores: Class scores, ``(set + 1, batch, …)``, where metrics need them.
        values: Logged numbers, float64 ``(set + 1,)``, where they are the score.
        num_classes: Number of classes with a score; None where only predicted classes are known.
        num_labels: Number of labels of a sample, where there are several.
        x_in: Source of the labels, in words.
        x_out: Source of the predicted classes, in words.
    """

    sizes: list[int] = field(default_factory=list)
    positions: list[Tensor] = field(default_factory=list)
    labels: list[Tensor] = field(default_factory=list)
    classes: list[Tensor] = field(default_factory=list)
    scores: list[Tensor] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)
    num_classes: int | None = None
    num_labels: int | None = None
    x_in: str | None = None
    x_out: str | None = None

    @classmethod
    def together(cls, parts: Sequence[Outcomes]) -> Outcomes:
        """Outcomes of several processes, with the samples in the order of their positions."""
        order = torch.cat([own for part in parts for own in part.positions]).argsort().tolist()

        def ordered(name: str, axis: int) -> list[Tensor]:
            batches = [own for part in parts for own in getattr(part, name)]
            samples = [one for own in batches if own.shape[axis] for one in own.split(1, axis)]
            return [samples[place] for place in order] if samples else []

        return replace(
            parts[0],
            sizes=[size for part in parts for size in part.sizes],
            values=[value for part in parts for value in part.values],
            positions=[torch.tensor([own]) for own in range(len(order))],
            labels=ordered("labels", 0),
            classes=ordered("classes", 1),
            scores=ordered("scores", 1),
        )


@dataclass(frozen=True, eq=False)
class Ran:
    """What was run in an evaluation.

    ``reference`` counts the sequences whose states made the value. ``samples_seen`` and
    ``batches_seen`` count the whole evaluation; None: no more than the outcomes. ``at_steps`` are
    the states ``(batch, 1, unit)`` at each step of ``measured_at``, and ``lengths`` the numbers of
    steps of the sequences ``(batch,)``, by layer key.
    """

    sets: Sets
    outcomes: Outcomes
    reference: int = 0
    samples_seen: int | None = None
    batches_seen: int | None = None
    at_steps: Mapping[str, Sequence[HiddenStates]] = field(default_factory=dict)
    lengths: Mapping[str, Tensor] = field(default_factory=dict)

    @classmethod
    def together(cls, parts: Sequence[Ran]) -> Ran:
        """What several processes ran, with the samples in the order of their positions."""
        if len(parts) == 1:
            return parts[0]
        outcomes = [part.outcomes for part in parts]
        order = torch.cat([own for part in outcomes for own in part.positions]).argsort()
        return replace(
            parts[0],
            outcomes=Outcomes.together(outcomes),
            samples_seen=sum(part.samples_seen or 0 for part in parts),
            batches_seen=sum(part.batches_seen or 0 for part in parts),
            at_steps={
                layer: [
                    HiddenStates.concatenate(at_step).select(order)
                    for at_step in zip(*(part.at_steps[layer] for part in parts), strict=True)
                ]
                for layer in parts[0].at_steps
            },
            lengths={
                layer: torch.cat([part.lengths[layer] for part in parts])[order]
                for layer in parts[0].lengths
            },
        )


@dataclass(eq=False)
class KnockoutRuns:
    """Runs batches without knock-out and with each of the sets knocked out.

    ``longest`` is the number of steps of the longest sequence so far, by module name.
    """

    sets: Sets
    asked: Ablation
    states: Mapping[str, HiddenStates] | None
    outcomes: Outcomes = field(default_factory=Outcomes, init=False)
    longest: dict[str, int] = field(default_factory=dict, init=False)
    _clamps: list[list[Clamp]] | None = field(default=None, init=False)
    _together: bool = field(default=True, init=False)
    _share: bool = field(default=True, init=False)

    def add(self, batch: EvaluationBatch, progress: Callable[[], None]) -> None:
        """Run a batch without knock-out, with each set, and without again, to compare.

        Where only class scores are wanted, the step runs once for several sets if it can. Runs that
        share their work round other than a run alone. A network that makes much of that gives other
        scores then, so its sets are run alone, in this batch and all later ones.

        ``progress`` is called after each run but the last.
        """
        try:
            results = self._run(batch, progress)
        except NotRepeatedError as error:
            if not (self._share and error.small):
                raise
            self._share = self._together = False
            try:
                results = self._run(batch, progress)
            except NotRepeatedError:  # it is no matter of rounding
                raise error from None
            rank_zero_info(
                "Knock-outs: the network makes much of rounding, so its sets are run one by one in "
                "this evaluation, which takes longer."
            )
        self._keep(batch, results)

    def _run(self, batch: EvaluationBatch, progress: Callable[[], None]) -> list[StepResult]:
        """Results without knock-out and with each set; a NotRepeatedError if runs disagree."""
        whole = self.asked.logged is not None
        if self._clamps is None:
            self._clamps = self._clamps_of(batch.rerun.twin)
        drawn = len(self.outcomes.sizes)
        with KnockoutLanes(batch.rerun.twin, self._clamps, drawn, share=self._share) as lanes:
            with lanes.lane(None):
                results = [batch.run(whole=True)]
            answer = results[0].answer
            if not self.outcomes.sizes and answer is not None and self.asked.concepts is None:
                check_not_of_steps(answer, set(lanes.longest.values()))
            returned = None
            if self.asked.logged is not None:
                _, returned = _number_of(results[0], self.asked.logged.name)
            check_same_as_own(batch.own, batch.before or results[0])
            progress()
            together = self._together and not whole and batch.rerun.ends_early
            first = 0
            while first < len(self._clamps):
                block = lanes.together(first) if together else range(first, first + 1)
                found = None
                if len(block) > 1:
                    found = self._run_together(batch, lanes, block)
                    together = found is not None
                if found is None:
                    found = [self._run_alone(batch, lanes, first, whole=whole)]
                results += found
                first += len(found)
                for _ in found:
                    progress()
            if batch.before is not None:
                check_repeatable(batch.before, results[0], returned=returned)
                with lanes.lane(None):
                    check_repeatable(results[0], batch.run(whole=whole), returned=returned)
            for module, steps in lanes.longest.items():
                self.longest[module] = max(steps, self.longest.get(module, 0))
        if batch.before is None:  # a run without lanes computes everything again
            check_repeatable(results[0], batch.run(whole=whole), returned=returned)
        asks = callable(self.asked.prediction) or isinstance(self.asked.prediction, tuple)
        if asks and batch.labels is not None and not self.outcomes.sizes:
            check_reacts(batch, results[0])
        return results

    def _run_alone(
        self, batch: EvaluationBatch, lanes: KnockoutLanes, place: int, *, whole: bool
    ) -> StepResult:
        """Run the step with one of the sets knocked out."""
        try:
            with lanes.lane(place):
                return batch.run(whole=whole)
        except NonFiniteScoresError as error:
            raise NonFiniteScoresError(
                f"value: class scores are NaN or infinite while the set "
                f"{self.sets.sets[place].name!r} is knocked out, and finite without it (batch "
                f"{batch.batch_idx}); hold the units at another value, such as Mean(), or leave "
                "these units out of the selection"
            ) from error

    def _run_together(
        self, batch: EvaluationBatch, lanes: KnockoutLanes, block: range
    ) -> list[StepResult] | None:
        """Run several lanes at once; None, now and later, if the step cannot be run so.

        That is found out with the first and the last lane of the first block; in later batches with
        the last alone.
        """
        ends = (0, len(block) - 1)[bool(self.outcomes.sizes) :]
        try:
            return batch.run_together(lanes, block, ends if block.start == 0 else ())
        except (Exception, CannotMapError):  # if it is the step's own error, it comes again
            self._together = False
            return None

    def _clamps_of(self, model: nn.Module) -> list[list[Clamp]]:
        asked, layers = self.asked, recurrent_layers(model)
        return [
            make_clamps(
                model,
                some.units,
                value=asked.held_value,
                steps=asked.which.held_at if some.steps is None else some.steps,
                states=self.states,
                seed=asked.seed,
                layers=layers,
            )
            for some in self.sets.sets
        ]

    def _keep(self, batch: EvaluationBatch, results: Sequence[StepResult]) -> None:
        outcomes, counted = self.outcomes, batch.counted
        outcomes.sizes.append(int(counted.sum()))
        outcomes.positions.append(batch.positions[counted])
        answers = [result.answer for result in results if result.answer is not None]
        if answers:
            outcomes.labels.append(answers[0].labels.cpu()[counted])
            classes = torch.stack([answer.classes for answer in answers]).cpu()
            outcomes.classes.append(classes[:, counted])
            outcomes.num_classes = answers[0].num_classes
            outcomes.num_labels = answers[0].num_labels
            outcomes.x_in, outcomes.x_out = answers[0].x_in, answers[0].x_out
            scores = [answer.scores for answer in answers if answer.scores is not None]
            if self.asked.computed is not None and scores:
                outcomes.scores.append(torch.stack(scores).cpu()[:, counted])
        if self.asked.logged is not None:
            name = self.asked.logged.name
            values = [_number_of(result, name)[0] for result in results]
            outcomes.values.append(torch.tensor(values, dtype=torch.float64))


def _number_of(result: StepResult, name: str) -> tuple[float, str | None]:
    """The number of a name, and its name among what the step returned, unless it is logged.

    A name is the step's own, or one that Lightning makes of it. What is logged goes before what is
    returned.
    """
    logged = [own for own, names in result.names.items() if name in names]
    if len(logged) > 1:
        raise ValueError(
            f"score: {name!r} may be any of {_listed(logged)}, which {result.step} logs; have the "
            "step log them under names that differ"
        )
    if logged and logged[0] in result.logged:
        return result.logged[logged[0]], None
    if logged and name != "loss":
        numbers = _listed([*result.logged, *result.returned])
        raise ValueError(
            f"score: {result.step} logs a Metric as {logged[0]!r}, whose value spans all batches; "
            "give such a Metric as score= instead, or name one of the numbers that it logs or "
            f"returns: {numbers}"
        )
    found = [own for own in result.returned if own == name or own.endswith(f".{name}")]
    if len(found) > 1 and name not in found:
        raise ValueError(
            f"score: {name!r} may be any of {_listed(found)}, which {result.step} returns; give "
            "the whole name of one"
        )
    if found:
        own = name if name in found else found[0]
        return result.returned[own], own
    has = f"it logs: {_listed(result.logged)}; it returns: {_listed(result.returned)}"
    has += _hint(result, name)
    if name == "loss":
        raise MissingNumberError(
            f"score: {result.step} returns no loss; return it, or name another number. Of numbers "
            f"{has}"
        )
    raise MissingNumberError(
        f"score: {result.step} neither logs nor returns a number {name!r}; {has}"
    )


def _hint(result: StepResult, name: str) -> str:
    """What the step itself calls a number, where Lightning makes no such name of it."""
    own = name.partition("/dataloader_idx_")[0].removesuffix("_epoch").removesuffix("_step")
    return f". The step itself calls it {own!r}" if own != name and own in result.logged else ""


def _listed(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names)) or "none"
