"""Options of a knock-out analysis: the value that units are held at, and the score."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from torchmetrics import Metric, MetricCollection

from lightning_relay.ablation.selection import Selection, check_count
from lightning_relay.reading.bins import Bins, check_bins
from lightning_relay.reading.concepts import Concepts, check_concepts
from lightning_relay.reading.labels import BatchEntry, check_entry
from lightning_relay.reading.predictions import Prediction, check_label_step, check_prediction

_SCORES = "a torchmetrics.Metric or MetricCollection, or Logged(…) for a number that the step gives"


# LightningCLI takes a subclass of a plain class by its name; of several dataclasses it takes the
# first that the arguments fit.
class OfStates:
    """A value computed from recorded states: ``Mean()``, ``MeanPerStep()`` or ``Resample()``."""

    reference_samples: int
    lengths: BatchEntry | None
    name: ClassVar[str]


class Score:
    """What is measured beside the accuracies or instead: ``Computed()`` or ``Logged()``."""


@dataclass(frozen=True, kw_only=True)
class _OfStates(OfStates):
    """A value computed from recorded states, those of the first sequences of the evaluation.

    Attributes:
        reference_samples: Number of sequences whose states are recorded, rounded up to whole
            batches. Where the number of batches is not known, only the first batch is recorded.
        lengths: Lengths of sequences that are padded and not packed: an index, key or attribute of
            the batch, or a function of it. Default: those of the callback.
    """

    reference_samples: int = 1024
    lengths: BatchEntry | None = None

    def __post_init__(self) -> None:
        check_count("reference_samples", self.reference_samples, 2)
        check_entry("lengths", self.lengths)


class Mean(_OfStates):
    """The mean of a unit's states over sequences and steps."""

    name = "mean"


class MeanPerStep(_OfStates):
    """The mean of a unit's states over sequences, at each step."""

    name = "mean_per_step"


class Resample(_OfStates):
    """The states of a recorded sequence, drawn at random for each sequence of every batch."""

    name = "resample"


Value = float | OfStates
"""The value that units are held at."""


@dataclass(frozen=True)
class Logged(Score):
    """A number that the step itself computes for every batch and logs or returns.

    Its value over the evaluation is the mean over batches, weighted by their numbers of samples,
    whatever reduction the step logs it with.

    Attributes:
        name: Name of the number. Of a logged one, it is the step's own name or one that Lightning
            makes of it: ``"val_loss_epoch"``, ``"val_loss_step"`` or
            ``"val_loss/dataloader_idx_0"``. Of one that is returned and not logged, it is the key
            in a mapping or the field of a dataclass; keys inside keys are joined by dots, and the
            last is enough if only one number has it. ``"loss"`` is also a loss that is returned
            alone. If several dataloaders do not all have the number, only those that have it are
            measured.
        mode: ``"min"`` if lower is better, ``"max"`` if higher is better.
        n_bootstraps: Number of resamples of the batches for intervals; 0 for no intervals.
    """

    name: str
    mode: Literal["min", "max"] = "min"
    n_bootstraps: int = 100

    def __post_init__(self) -> None:
        if self.mode not in ("min", "max"):
            raise ValueError(f"mode: got {self.mode!r}; it takes 'min' or 'max'")
        check_count("n_bootstraps", self.n_bootstraps, 0)

    @property
    def tag(self) -> str:
        """Name in reports and tags, which tell dataloaders apart themselves."""
        return self.name.partition("/dataloader_idx_")[0]


@dataclass(frozen=True)
class Computed(Score):
    """A metric of class scores and labels, or of predicted classes where there are no scores.

    Attributes:
        metric: Metric or collection of metrics, each with ``higher_is_better``.
        n_bootstraps: Number of resamples of the sequences for intervals; 0 for no intervals. Each
            metric is computed once for each resample and set; the class scores stay in memory.
    """

    metric: Metric | MetricCollection
    n_bootstraps: int = 100

    def __post_init__(self) -> None:
        check_count("n_bootstraps", self.n_bootstraps, 0)
        if not isinstance(self.metric, Metric | MetricCollection):
            raise TypeError(f"score: got {type(self.metric).__name__}; it takes {_SCORES}")
        for name, part in self.metrics().items():
            if part.higher_is_better is None:
                raise ValueError(
                    f"score: {name} does not say whether higher is better; it takes metrics whose "
                    "higher_is_better is True or False"
                )

    def metrics(self) -> dict[str, Metric]:
        """Copies of the metrics, by name."""
        if isinstance(self.metric, MetricCollection):
            return {str(name): part.clone() for name, part in self.metric.items()}
        return {type(self.metric).__name__: self.metric.clone()}


@dataclass(frozen=True, eq=False)
class Ablation:
    """All options of a knock-out analysis, checked; as ``KnockoutCallback`` explains them."""

    which: Selection
    value: Value = 0.0
    score: Score | None = None
    target: BatchEntry | None = None
    prediction: Prediction | None = None
    label_step: int | None = None
    bins: Bins | None = None
    lengths: BatchEntry | None = None
    concepts: Concepts | None = None
    max_batches: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.which, Selection):
            raise TypeError(
                f"which: got {self.which!r}; it takes EveryUnit(), AlongOrder(), TopUnits(), "
                "RandomSets(), RandomOrders() or NamedSets({'first two': {'rnn.l0': [0, 1]}})"
            )
        if not isinstance(self.value, OfStates):
            number = isinstance(self.value, int | float) and not isinstance(self.value, bool)
            if not number or not math.isfinite(self.value):
                raise ValueError(
                    f"value: got {self.value!r}; it takes a finite number, Mean(), MeanPerStep() "
                    "or Resample()"
                )
        if self.score is not None and not isinstance(self.score, Logged | Computed):
            raise TypeError(f"score: got {self.score!r}; it takes {_SCORES}")
        if self.which.measured_at and not self.labelled:
            raise ValueError(
                f"score: got {self.score!r} alone with {type(self.which).__name__}, which compares "
                "information with accuracies; name target=, prediction=, label_step=, bins=, "
                "lengths= or concepts= to measure these, too"
            )
        check_entry("target", self.target)
        check_entry("lengths", self.lengths)
        check_prediction(self.prediction)
        check_label_step(self.label_step)
        check_bins(self.bins)
        check_concepts(self.concepts)
        if self.max_batches is not None:
            check_count("max_batches", self.max_batches, 1)
        if isinstance(self.seed, bool) or not isinstance(self.seed, int):
            raise TypeError(f"seed: got {self.seed!r}; it takes an integer")

    @property
    def labelled(self) -> bool:
        """Whether class labels and predicted classes are read.

        A logged number needs neither; they are read beside it only where an argument names one.
        """
        named = ("target", "prediction", "label_step", "bins", "lengths", "concepts")
        return self.logged is None or any(getattr(self, name) is not None for name in named)

    @property
    def logged(self) -> Logged | None:
        """The score, if it is a number that the step computes."""
        return self.score if isinstance(self.score, Logged) else None

    @property
    def computed(self) -> Computed | None:
        """The score, if it consists of metrics of class scores."""
        return self.score if isinstance(self.score, Computed) else None

    @property
    def of_states(self) -> OfStates | None:
        """The value, if it is computed from recorded states."""
        return self.value if isinstance(self.value, OfStates) else None

    @property
    def held_value(self) -> float | str:
        """The value, as ``knocked_out`` takes it."""
        return self.value.name if isinstance(self.value, OfStates) else self.value

    def value_in_words(self, reference: int) -> str:
        """The value for reports; ``reference`` is the number of recorded sequences."""
        if self.of_states is None:
            return f"{self.value:g}"
        return f"{self.of_states.name} of the states of the first {reference} sequences"
