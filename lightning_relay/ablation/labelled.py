"""Labels that count, and what was answered to each in every run."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import pad

from lightning_relay.reading.answers import has_label
from lightning_relay.reading.bins import bin_edges, binned
from lightning_relay.reading.concepts import concept_codes
from lightning_relay.reading.labels import TooFewLabelsError
from lightning_relay.sampling.storage import together

if TYPE_CHECKING:
    from lightning_relay.ablation.runs import Outcomes
    from lightning_relay.reading.bins import Bins
    from lightning_relay.reading.concepts import Concepts

_MOST_PAIRS = 2**31
"""Maximum number of counts in the confusions of a report, 16 GiB."""


@dataclass(frozen=True, eq=False)
class Labelled:
    """Labels that count, and the predicted classes of all runs; entry 0: no knock-out.

    Attributes:
        labels: Places of the labels in ``values``, int64 ``(sample,)``.
        classes: Places of the predicted classes, int64 ``(set + 1, sample)``.
        values: Class labels, or numbers whose bits are labels, int64 ``(class,)``.
        num_labels: Number of labels of a sample, if there are several; else None.
        sequences: Number of the sequence of each sample, ascending, int64 ``(sample,)``.
        steps: Step of each label, int64 ``(sample,)``; None if a sequence has one label.
        shape: Number of sequences, and of the steps of the longest.
        edges: Inner edges of bins, if labels were real.
    """

    labels: Tensor
    classes: Tensor
    values: Tensor
    num_labels: int | None
    sequences: Tensor
    steps: Tensor | None
    shape: tuple[int, int]
    edges: tuple[float, ...] | None

    @classmethod
    def of(
        cls, outcomes: Outcomes, bins: Bins | None, edges: tuple[float, ...] | None = None
    ) -> Labelled:
        """What the runs of all batches gave, without labels that do not count.

        ``edges`` are those of the relay report that this is compared with; they are taken if they
        make as many bins as are asked for.
        """
        labels, classes = _joined(outcomes)
        counted = has_label(labels)
        if not counted.any():
            raise TooFewLabelsError(f"target: no label of {outcomes.x_in} counts; see label_step=")
        if not isinstance(bins, int) or edges is None or len(edges) != bins - 1:
            edges = None if bins is None else bin_edges(bins, labels)
        where = counted.nonzero()
        shape = (len(labels), 1 if labels.dim() == 1 else labels.shape[1])
        labels, classes = binned(labels[counted], edges), binned(classes[:, counted], edges)
        if outcomes.num_labels is None:
            number = outcomes.num_classes if edges is None else len(edges) + 1
            values = torch.arange(_number_of_classes(labels, classes, number))
        else:
            values = torch.cat([labels, classes.flatten()]).unique()
            labels, classes = (torch.searchsorted(values, part) for part in (labels, classes))
        steps = where[:, 1] if where.shape[1] > 1 else None
        return cls(labels, classes, values, outcomes.num_labels, where[:, 0], steps, shape, edges)

    @property
    def ignored(self) -> int | None:
        """Number of labels that do not count; None if each sequence has one that does."""
        sequences, steps = self.shape
        left = sequences * steps - len(self.labels)
        return left if left or self.steps is not None else None

    def concept_codes(self, concepts: Concepts | None) -> dict[str, Tensor]:
        """Code of every class by concept, ``(class,)``; -1 for those that do not occur."""
        occurring = torch.cat([self.labels.unique(), self.classes.unique()]).unique()
        values = self.values[occurring]
        found = concept_codes(
            concepts,
            values,
            values,
            num_classes=len(self.values),
            num_labels=self.num_labels,
        )
        tables = {}
        for name, (codes, _) in found.items():
            tables[name] = torch.full((len(self.values),), -1).index_copy(0, occurring, codes)
        return tables

    def right(self, codes: Tensor | None = None) -> Tensor:
        """Whether each run was right about the class, or about codes of it, ``(run, sample)``."""
        if codes is None:
            return self.classes == self.labels
        wanted = codes[self.labels]
        return torch.stack([codes[own] == wanted for own in self.classes])

    def at_step(self, step: int, lengths: Tensor) -> Labelled:
        """Samples of one step; a negative step counts back from the end of each sequence.

        ``lengths``, int64 ``(sequence,)``, are those of the states. Raises a ValueError if labels
        are of other steps than the states.
        """
        if self.steps is None:
            return self
        longest, labelled = int(lengths.max()), int(self.steps.max()) + 1
        if longest > self.shape[1] or labelled > longest:
            raise ValueError(
                f"target: got labels of {self.shape[1]} steps for states of {longest} steps; they "
                "are compared step by step. Select modules that have the steps of the labels, or "
                "give label_step= to take the labels of one step"
            )
        places = lengths + step if step < 0 else torch.full_like(lengths, step)
        return self.select(self.steps == places[self.sequences])

    def at_same_step(self, step: int) -> Labelled:
        """Samples of one step for every sequence; none if it counts back from unknown ends."""
        if self.steps is None:
            return self
        if step < 0:
            step = step + self.shape[1] if not self.ignored else -1
        return self.select(self.steps == step)

    def select(self, own: Tensor) -> Labelled:
        """Some of the samples, by a mask ``(sample,)``."""
        return replace(
            self,
            labels=self.labels[own],
            classes=self.classes[:, own],
            sequences=self.sequences[own],
            steps=None if self.steps is None else self.steps[own],
        )


def _joined(outcomes: Outcomes) -> tuple[Tensor, Tensor]:
    """Labels and classes of all batches, with as many steps as the longest has."""
    labels, classes = together(outcomes.labels), outcomes.classes
    if labels.dim() == 2:
        classes = [pad(part, (0, labels.shape[1] - part.shape[2])) for part in classes]
    return labels, torch.cat(classes, 1)


def _number_of_classes(labels: Tensor, classes: Tensor, number: int | None) -> int:
    if number is None:
        lowest = int(min(labels.min(), classes.min()))
        if lowest < 0:
            raise ValueError(
                f"target: got labels or predicted classes from {lowest}; without class scores they "
                "take numbers from 0. Give target= and prediction=, functions that give these"
            )
        number = int(max(labels.max(), classes.max())) + 1
    if number**2 * len(classes) > _MOST_PAIRS:
        raise ValueError(
            f"target: got {number} classes; a report counts all {number} × {number} pairs of label "
            f"and prediction for {len(classes)} runs, and takes at most {_MOST_PAIRS} counts. "
            "Number the classes that occur from 0, with target= and prediction=, or take fewer sets"
        )
    return number
