"""Results of a knock-out analysis."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from lightning_relay.ablation.checks import check_report
from lightning_relay.ablation.damage import Damage
from lightning_relay.ablation.figures import KnockoutFigureName, knockout_figure
from lightning_relay.ablation.summary import dataframe, summary
from lightning_relay.reports.figure import shown
from lightning_relay.reports.files import arrays_of, opened, plain_parts, read, safe, write
from lightning_relay.reports.names import known
from lightning_relay.reports.picture import picture_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray
    from pandas import DataFrame
    from plotly.graph_objects import Figure

FORMAT = 6
"""Version of the file format; files of other versions are refused."""

ACCURACY = "accuracy"
"""Name of the accuracy of the class labels among the measures."""

ORDERS = ("most_first", "least_first", "random_first")
"""Groups of sets that follow an order of units."""

STATISTICS = ("r2_size", "r2", "partial_r2", "within_size", "specificity")
"""Fields of ``DamagePrediction``, in the order of its intervals."""

_PARTS = ("accuracy", "class_accuracy", "concept_accuracy", "step_accuracy")


@dataclass(frozen=True)
class KnockoutSet:
    """Units that were knocked out together.

    Attributes:
        name: Short label, unique in the report, such as ``"rnn.l0: 3"`` or ``"bit_0: top 3"``.
        group: How the set was chosen: ``"each"`` unit alone, ``"given"`` by the user, a prefix of
            an order (``"most_first"``, ``"least_first"``, ``"random_first"``), the units that relay
            most of a ``"concept"``, equally many random units, ``"concept_random"``, units drawn at
            ``"random"`` whatever they relay, or ``"all"`` units beside these.
        units: Unit indices by layer key.
        steps: Steps at which the units were knocked out; None: all.
        concept: Name of the concept that chose the order or the units; None for other groups.
        ambiguous: Indices of chosen units whose places the data leave open: another unit's share
            is within two standard errors, or, without shares, there is a tie or too few sequences.
    """

    name: str
    group: str
    units: Mapping[str, tuple[int, ...]]
    steps: tuple[int, ...] | None = None
    concept: str | None = None
    ambiguous: tuple[int, ...] = ()

    @property
    def layer(self) -> str | None:
        """Key of the layer, if all units are of one layer; otherwise None."""
        return next(iter(self.units)) if len(self.units) == 1 else None

    @property
    def unit(self) -> int | None:
        """Index of the unit, if there is exactly one; otherwise None."""
        units = [unit for some in self.units.values() for unit in some]
        return units[0] if len(units) == 1 else None


@dataclass(frozen=True, eq=False)
class DeletionCurve:
    """Accuracy of a concept while the units of a layer are knocked out one after the other.

    Attributes:
        layer: Layer key.
        concept: Name of the concept.
        direction: ``"most_first"``: the units that relay most of the concept go first;
            ``"least_first"``: those that relay least; ``"random_first"``: orders drawn at random.
        units: Unit indices in the order in which they are knocked out, int64 ``(order, unit)``;
            several orders if they are random or break ties at random.
        sizes: Numbers of units knocked out, from 0 to all, int64 ``(size,)``.
        accuracy: Accuracy of the concept, fraction of 1, float64 ``(order, size)``.
        lower: Lower ends of 95 % intervals (Wilson), float64 ``(order, size)``.
        upper: Upper ends, float64 ``(order, size)``.
        area: Mean accuracy over the fraction of units knocked out, float64 ``(order,)``.
    """

    layer: str
    concept: str
    direction: str
    units: NDArray[np.int64]
    sizes: NDArray[np.int64]
    accuracy: NDArray[np.float64]
    lower: NDArray[np.float64]
    upper: NDArray[np.float64]
    area: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ScoreAgreement:
    """Rank correlation of single units' relay shares (or scores) with their damage.

    Attributes:
        layer: Layer key.
        concept: Name of the concept.
        scores: Relay share or unit score (see ``kind``) of each unit that was knocked out alone, at
            the step at which it was held, or as the mean over the steps after the inputs' end,
            float64 ``(unit,)``.
        damage: Damage to the concept's accuracy by the knock-out of the unit alone, float64
            ``(unit,)``.
        correlation: Rank correlation (Spearman) of scores and damage; NaN, like its interval, if
            scores or damage are all equal, or there are fewer than 4 units.
        lower: Lower end of the 95 % interval of the correlation over units.
        upper: Upper end of that interval.
        kind: What ``scores`` are: ``"relay share, bits"``, or ``"unit score"`` of the greedy order
            where shares were not measured.
    """

    layer: str
    concept: str
    scores: NDArray[np.float64]
    damage: NDArray[np.float64]
    correlation: float
    lower: float
    upper: float
    kind: str = "unit score"


@dataclass(frozen=True, eq=False, repr=False)
class DamagePrediction:
    """How well the relay information of random sets predicts the damage when they are knocked out.

    Sequences without the step do not count. R² is the fraction of the variance of the damage over
    sets that a linear regression explains. A number that is undefined is NaN, for example because
    all damages are equal.

    Attributes:
        layer: Layer key of the states whose information is measured.
        step: Step at which sets were held.
        concept: Name of the concept.
        samples: Number of sequences.
        places: Indices of the sets in the report, int64 ``(set,)``.
        sizes: Numbers of units, int64 ``(set,)``.
        information: I_R of each set at the step, bits, float64 ``(set,)``.
        damage: Damage to the concept's accuracy, fraction of 1, float64 ``(set,)``.
        r2_size: R² of the number of units alone.
        r2: R² of the number of units and the information.
        partial_r2: Part that the information explains of what the number of units leaves
            unexplained: (r2 - r2_size) / (1 - r2_size).
        within_size: Rank correlation (Spearman) of information and damage among sets of the same
            size, as the mean over sizes with at least 4 sets, weighted by their number.
        specificity: Correlation over sets of the information about this concept and the damage to
            it, each minus its mean over all concepts. NaN with a single concept.
        lower: Lower ends of 95 % bootstrap intervals over sets and sequences of ``r2_size``,
            ``r2``, ``partial_r2``, ``within_size`` and ``specificity``, float64 ``(5,)``; NaN
            without resamples, and where a resample has no value.
        upper: Upper ends, float64 ``(5,)``.
        unit_damage: Share of each unit in the damage by all units together, fraction of 1, float64
            ``(unit,)``: its Shapley value, the mean over all orders of what the damage grows by
            when the unit is held after those before it. The shares add up to the damage by all
            units. With ``RandomOrders`` it is the mean over these orders; with ``RandomSets`` an
            estimate by weighted regression, NaN if the sets leave it open: there must be two or
            more of each size from 1 to all but one, and enough to tell all units apart.
        unit_lower: Lower ends of 95 % bootstrap intervals of ``unit_damage``, over sets (pairs of
            orders) and sequences, float64 ``(unit,)``; NaN without resamples, with a single pair of
            orders, and where a resample has no value.
        unit_upper: Upper ends, float64 ``(unit,)``.
        unit_share: Relay share of each unit at the step, bits, float64 ``(unit,)``; NaN if shares
            are not measured.
        share_correlation: Rank correlation of ``unit_share`` and ``unit_damage``.

    Source:
        Hintze and Adami, Entropy 25(3):401 (2023), who regress the damage of all sets on their size
        and information. Holding sets at the step of the measurement is this project's own. Shapley
        values of damage: Fakhar and Hilgetag, PLoS Computational Biology 18(6):e1010250 (2022).
    """

    layer: str
    step: int
    concept: str
    samples: int
    places: NDArray[np.int64]
    sizes: NDArray[np.int64]
    information: NDArray[np.float64]
    damage: NDArray[np.float64]
    r2_size: float
    r2: float
    partial_r2: float
    within_size: float
    specificity: float
    lower: NDArray[np.float64]
    upper: NDArray[np.float64]
    unit_damage: NDArray[np.float64]
    unit_lower: NDArray[np.float64]
    unit_upper: NDArray[np.float64]
    unit_share: NDArray[np.float64]
    share_correlation: float

    def __repr__(self) -> str:
        return (
            f"DamagePrediction: {self.layer}, {self.concept}, step {self.step}, {len(self.sizes)} "
            f"sets; R² {self.r2:.2f} ({self.r2_size:.2f} by their size alone)"
        )


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class KnockoutReport:
    """Results of one knock-out analysis: ``report["accuracy"]`` is the damage to the accuracy.

    ``print(report)`` shows a summary; ``to_dataframe`` returns all damages.

    Attributes:
        sets: Sets of units that were knocked out, in the order of every axis ``set``.
        accuracy: Damage to the accuracy of the predicted class, or of all labels of a sample
            together, ``(set,)``; None without labels.
        class_accuracy: Damage to the accuracy on the samples of each class, ``(set, class)``; NaN
            for a class without samples; None without labels, and if samples have several.
        concept_accuracy: Damage to the accuracy of each concept, ``(set, concept)``: the fraction
            of samples whose predicted class has the same value of the concept as the true class;
            None without labels.
        step_accuracy: Damage to the accuracy on the labels of each step, ``(set, step)``; None
            unless each step has a label. The other accuracies are those of all labels then. Their
            intervals allow for labels of one sequence being alike: counts are divided by the design
            effect (Rao and Scott, Biometrics 48:577, 1992).
        classes: Class labels, int64 ``(class,)``; empty without labels, and if samples have
            several.
        class_samples: Number of samples of each class, int64 ``(class,)``.
        step_samples: Number of labels that count at each step, int64 ``(step,)``; empty unless each
            step has a label.
        concepts: Names of the concepts.
        confusion: Number of samples of each class (row) with each predicted class (column), int64
            ``(set + 1, class, predicted class)``; entry 0 is without knock-out.
        predictions_changed: Fraction of samples whose predicted class differs from the one without
            knock-out, float64 ``(set,)``; NaN if no class is predicted.
        metrics: Damage to each metric of the user, by name, ``(set,)`` each.
        value: Value that the units were held at, in words.
        samples: Number of samples that the model was run on again.
        samples_seen: Number of samples in the evaluation.
        batches: Number of batches that the model was run on again.
        batches_seen: Number of batches in the evaluation.
        sets_left_out: Number of selected sets that were not run: those above ``max_sets``, and
            those at steps that only later, longer sequences have.
        curves: Accuracies along orders of units.
        agreement: How well relay shares, or unit scores, predict the damage of single units.
        predictions: How well relay information predicts the damage of random sets, by layer, step
            and concept; with ``RandomSets`` and ``RandomOrders``.
        ignored: Number of labels that are not counted, -100 or NaN, or sequences without one at
            ``label_step``; None if each sequence has one label that counts.
        edges: Inner edges of the bins of real labels and answers, in their unit, or of their
            differences (``bins=("up/down", entry)``): bin k is class k, and edge k its upper end.
            None without bins.
        x_in: Source of X_in, in words.
        x_out: Source of X_out, in words.
        stage: ``"validate"`` or ``"test"``; None outside a Trainer.
        epoch: The Trainer's epoch, from 0.
        global_step: The Trainer's number of optimizer steps.
        dataloader: Index of the dataloader.
        relay_epoch: Epoch of the relay report behind orders and scores; None without one.
        relay_step: The Trainer's number of optimizer steps at that relay report.
    """

    sets: tuple[KnockoutSet, ...]
    accuracy: Damage | None
    class_accuracy: Damage | None
    concept_accuracy: Damage | None
    classes: NDArray[np.int64]
    class_samples: NDArray[np.int64]
    concepts: tuple[str, ...]
    confusion: NDArray[np.int64]
    predictions_changed: NDArray[np.float64]
    value: str
    samples: int
    samples_seen: int
    batches: int
    batches_seen: int
    sets_left_out: int = 0
    step_accuracy: Damage | None = None
    step_samples: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    metrics: Mapping[str, Damage] = field(default_factory=dict)
    curves: tuple[DeletionCurve, ...] = ()
    agreement: tuple[ScoreAgreement, ...] = ()
    predictions: tuple[DamagePrediction, ...] = ()
    ignored: int | None = None
    edges: tuple[float, ...] | None = None
    x_in: str | None = None
    x_out: str | None = None
    stage: str | None = None
    epoch: int | None = None
    global_step: int | None = None
    dataloader: int = 0
    relay_epoch: int | None = None
    relay_step: int | None = None

    def __getitem__(self, measure: str) -> Damage:
        """Damage to a measure by each set; a KeyError lists the measures there are."""
        return self.damage_of(known("measure", measure, {name: name for name in self.measures}))

    def __str__(self) -> str:
        """The summary, at most 15 lines."""
        return summary(self)

    __repr__ = __str__

    def to_dataframe(self) -> DataFrame:
        """Damages as a pandas frame, a row for each set and measure.

        Raises:
            ImportError: If pandas is not installed.
        """
        return dataframe(self)

    def figure(
        self,
        what: KnockoutFigureName,
        layer: str | None = None,
        measure: str | None = None,
        step: int | None = None,
        unit: int | None = None,
    ) -> Figure:
        """An interactive figure of plotly; a notebook shows it by itself.

        Damage to accuracies is drawn in points: hundredths.

        Args:
            what: Name of the figure: ``"damage"`` (to a measure by each set, with intervals),
                ``"damage_map"`` (by each set to accuracy, concepts, classes and steps, or to
                metrics), ``"agreement"`` (by each unit alone, over its relay share),
                ``"prediction"`` (by random sets, over what they relay and over their size),
                ``"damage_share"`` (each unit's share of the damage, over its relay share),
                ``"deletion"`` (accuracy while units are knocked out one after the other) or
                ``"step_damage"`` (by single units at single steps).
            layer: Key of the layer. Default: the first that has results; ``"damage"`` and
                ``"damage_map"`` draw the sets of all layers.
            measure: One of ``measures``, and for ``"damage"`` and ``"step_damage"`` also a class,
                such as ``"class 3"``, or a step whose labels are counted, ``"step 3"``; the name
                of a concept for ``"agreement"``, ``"prediction"``, ``"damage_share"`` and
                ``"deletion"``. Default: the first. ``"damage_map"`` draws all and takes none.
            step: Step at which random sets were held, for ``"prediction"`` and
                ``"damage_share"``. Default: the first.
            unit: Index of a unit that is marked where it is drawn alone: not in ``"prediction"``
                and ``"deletion"``. Default: none.

        Raises:
            ImportError: If plotly is not installed.
            KeyError: If there is no such figure; lists the known ones.
            ValueError: If what the figure shows was not measured, or a figure does not take an
                argument.
        """
        return shown(
            knockout_figure(self, what, layer=layer, measure=measure, step=step, unit=unit)
        )

    def picture(
        self,
        what: KnockoutFigureName,
        layer: str | None = None,
        measure: str | None = None,
        step: int | None = None,
        unit: int | None = None,
    ) -> Image.Image:
        """A figure as an image; a notebook shows it by itself.

        Args, errors and what is drawn are those of ``figure``; texts over points and menus are left
        out, and plotly is not needed. Of cells that share a pixel, the one that is farthest from 0
        is drawn.

        Returns:
            An RGB image of 700 × 660 pixels.
        """
        drawn = knockout_figure(self, what, layer=layer, measure=measure, step=step, unit=unit)
        return Image.fromarray(picture_of(drawn, large=True))

    @property
    def layers(self) -> tuple[str, ...]:
        """Keys of the layers with units knocked out, in the order of the sets."""
        return tuple(dict.fromkeys(key for some in self.sets for key in some.units))

    @property
    def measures(self) -> tuple[str, ...]:
        """Names that ``damage_of`` takes: ``"accuracy"`` and concepts, with labels, and metrics."""
        accuracy = () if self.accuracy is None else (ACCURACY,)
        concepts = () if self.concept_accuracy is None else self.concepts
        return tuple(dict.fromkeys((*accuracy, *concepts, *self.metrics)))

    def damage_of(self, measure: str) -> Damage:
        """One measure without and with each knock-out, ``(set,)``.

        Args:
            measure: ``"accuracy"``, or the name of a concept or of a metric. A name that several
                have means the first of these three.

        Raises:
            ValueError: If there is no such measure; lists those there are.
        """
        if measure == ACCURACY and self.accuracy is not None:
            return self.accuracy
        if measure in self.concepts and self.concept_accuracy is not None:
            return self.concept_accuracy.part(self.concepts.index(measure))
        if measure in self.metrics:
            return self.metrics[measure]
        raise ValueError(
            f"measure: no {measure!r} in the report; it has: "
            f"{', '.join(map(repr, self.measures)) or 'none'}"
        )

    def places(self, *groups: str, layer: str | None = None) -> list[int]:
        """Indices of the sets of these groups; with ``layer``, of the sets in this layer alone."""
        return [
            place
            for place, some in enumerate(self.sets)
            if some.group in groups and layer in (None, some.layer)
        ]

    def single_units(self, layer: str) -> dict[int, int]:
        """Indices of the sets with one unit of a layer, by unit, held always or all at one step."""
        places = self.places("each", layer=layer)
        steps = {self.sets[place].steps for place in places}
        if len(steps) != 1 or any(own is not None and len(own) > 1 for own in steps):
            return {}
        units = {self.sets[place].unit: place for place in places}
        return {unit: place for unit, place in units.items() if unit is not None}

    def single_steps(self, layer: str) -> dict[tuple[int, int], int]:
        """Indices of the sets with one unit of a layer at one of several steps, by both."""
        cells: dict[tuple[int, int], int] = {}
        if self.single_units(layer):
            return cells
        for place in self.places("each", layer=layer):
            some = self.sets[place]
            if some.unit is not None and some.steps is not None and len(some.steps) == 1:
                cells[some.unit, some.steps[0]] = place
        return cells

    def save(self, path: str | Path | IO[bytes]) -> None:
        """Write the report to an ``.npz`` file, or an open binary file, readable with NumPy alone.

        Arrays are named after the report's fields, such as ``accuracy/damage``,
        ``metrics/{name}/damage`` or ``curves/0/accuracy``; the rest is JSON under ``header``. In
        names of metrics, slashes and what cannot be printed are written as ``%2F`` and the like.
        The file appears under its name only when it is complete.

        Raises:
            OSError: If the file cannot be written. Then there is none, or still the one that was
                there before.
            ValueError: If a part of the report has a wrong type or shape, so that it could not be
                loaded.
        """
        check_report(self)
        header: dict[str, Any] = {"format": FORMAT, "kind": "knock-out"}
        arrays: dict[str, NDArray[Any]] = {}
        for part in fields(self):
            value = getattr(self, part.name)
            if isinstance(value, np.ndarray):
                arrays[part.name] = value
            elif isinstance(value, Damage):
                arrays |= arrays_of(value, part.name)
            else:
                header[part.name] = value
        header["sets"] = [vars(some) | {"units": dict(some.units)} for some in self.sets]
        header["metrics"] = list(self.metrics)
        for name, found in self.metrics.items():
            arrays |= arrays_of(found, f"metrics/{safe(name)}")
        for name in _RESULTS:
            header[name] = [plain_parts(result) for result in getattr(self, name)]
            for place, result in enumerate(getattr(self, name)):
                arrays |= arrays_of(result, f"{name}/{place}")
        write(path, header, arrays)

    @classmethod
    def load(cls, path: str | Path | IO[bytes]) -> KnockoutReport:
        """Read a report that ``save`` wrote; nothing in the file is executed.

        Raises:
            FileNotFoundError: If there is no such file.
            ReportFileError: If the file holds no knock-out report, one of another format, or a
                damaged one. It is a ValueError and names the path. Sizes are checked before
                anything is inflated: loading takes no more than 100 times the size of the file,
                and 1 MiB.
        """
        with opened(path, "knock-out", FORMAT) as (header, file):
            header |= {name: _damage(file, name) for name in _PARTS if f"{name}/damage" in file}
            header["sets"] = tuple(_set(some) for some in header["sets"])
            header["concepts"] = tuple(header["concepts"])
            header["edges"] = None if header["edges"] is None else tuple(header["edges"])
            header["metrics"] = {
                name: _damage(file, f"metrics/{safe(name)}") for name in header["metrics"]
            }
            for name, kind in _RESULTS.items():
                header[name] = tuple(
                    kind(**result | read(file, kind, f"{name}/{place}"))
                    for place, result in enumerate(header[name])
                )
            header |= {part.name: file.pop(part.name) for part in fields(cls) if part.name in file}
            report = cls(**header)
            check_report(report)
        return report


_RESULTS = {
    "curves": DeletionCurve,
    "agreement": ScoreAgreement,
    "predictions": DamagePrediction,
}


def _damage(file: dict[str, NDArray[Any]], prefix: str) -> Damage:
    return Damage(**read(file, Damage, prefix))


def _set(plain: dict[str, Any]) -> KnockoutSet:
    """A set from its JSON, in which tuples are lists."""
    units = {key: tuple(units) for key, units in plain["units"].items()}
    steps = None if plain["steps"] is None else tuple(plain["steps"])
    ambiguous = tuple(plain["ambiguous"])
    return KnockoutSet(**plain | {"units": units, "steps": steps, "ambiguous": ambiguous})
