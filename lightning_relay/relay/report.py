"""Results of a relay analysis: which units relay what, at which step; saved and loaded."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from math import nan
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from lightning_relay.information.lags import half_life, period
from lightning_relay.information.options import TIE, RelayMeasure, check_fraction
from lightning_relay.latent.structure import from_file, to_file
from lightning_relay.relay.checks import check_report
from lightning_relay.relay.figures import FIGURES, FigureName
from lightning_relay.relay.frames import dataframe, datatree
from lightning_relay.relay.summary import html_summary, summary
from lightning_relay.reports.figure import shown
from lightning_relay.reports.files import arrays_of, opened, read, safe, write
from lightning_relay.reports.names import known
from lightning_relay.reports.picture import picture_of
from lightning_relay.reports.steps import place_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray
    from pandas import DataFrame
    from plotly.graph_objects import Figure
    from xarray import DataTree

    from lightning_relay.latent.structure import LatentStructure

FORMAT = 11
"""Version of the file format; files of other versions are refused."""

NEARLY_CONSTANT = 0.95
"""A unit is nearly constant if this fraction of the sequences has one code."""

CHANCE_LEVEL = 0.05
"""Probability of exceeding a chance level by chance."""


@dataclass(frozen=True, eq=False, repr=False)
class ConceptRelay:
    """What one layer relays of one concept, at every analysed step.

    Every array about units is indexed by unit, except ``units`` and ``telling``, which list units.
    I_R of a set of units is their relay information: I(X_in; X_out | all other units) minus
    I(X_in; X_out | all units). The greedy order takes one unit after the other out of the set R.
    The *condition* of an entry is the set of units that are known there: those that have left a
    shrinking order, or those that are in a growing one.

    Attributes:
        time_steps: Analysed steps, int64 ``(step,)``. A negative step counts back from each
            sequence's own end.
        backward: Whether the layer reads the sequences from their end.
        information: Relay information, bits, float64 ``(step, unit + 1)``. Entry 0 is I_R of all
            units, entry k is I_R of the set that is left when k units have gone.
        units: Unit indices in the order in which they leave the set, least important first, int64
            ``(step, unit)``.
        places: Place of each unit in the order, float64 ``(step, unit)``: 0 is the least
            important. Units of a tie group share the mean of their places.
        scores: Aggregated relay information of each unit, as a fraction of the largest at the
            step, float64 ``(step, unit)``. Units of a tie group share the mean of their scores.
        groups: Tie group of each unit, named by its lowest unit, int64 ``(step, unit)``. The data
            do not order the units of a group.
        tied: Whether another unit was as good when the unit was chosen, bool ``(step, unit)``.
        mutual_information: I(X_in; X_out) of the sequences counted at the step, bits, float64
            ``(step,)``.
        accuracy: Fraction of these sequences in which X_out equals X_in, float64 ``(step,)``.
        corrected: ``information`` by an estimator that corrects for the bias of small samples,
            bits, float64 ``(step, unit + 1)``: Grassberger's if the report's estimator is the
            plug-in, otherwise the report's.
        gap: Corrected minus plug-in I(X_in; X_out | condition), bits, float64
            ``(step, unit + 1)``.
        coverage: Good–Turing coverage of the joint states of the condition and X_in or X_out,
            whichever is lower, fraction of 1, float64 ``(step, unit + 1)``.
        distinct_states: Number of different states of the condition, int64 ``(step, unit + 1)``.
        alone: Fraction of the sequences that are alone in their state of the condition, float64
            ``(step, unit + 1)``.
        resolved: Whether there are enough sequences for the place of each unit, bool
            ``(step, unit)``; see ``min_coverage`` and ``max_gap`` of ``RelayMeasure``.
        tells: Information that the state of each unit alone tells,
            I(X_in; X_out) - I(X_in; X_out | Y_j), bits, float64 ``(step, unit)``.
        irreplaceable: Information that each unit tells and no other unit does, I_R of the unit
            alone, bits, float64 ``(step, unit)``.
        telling: Units in the order in which a growing set takes them, each time the unit that adds
            most, int64 ``(step, unit)``; -1 once the set tells what all units tell.
        telling_tied: Whether another unit added as much when the unit was taken, bool
            ``(step, unit)``.
        telling_resolved: Whether there were enough sequences when the unit was taken, bool
            ``(step, unit)``; see ``min_coverage`` and ``max_gap`` of ``RelayMeasure``. With too few
            sequences a set seems to tell more than it does.
        told: Information that the first k units of ``telling`` tell together, bits, float64
            ``(step, unit + 1)``. The last entry is what all units tell.
        share: Relay share of each unit, bits, float64 ``(step, unit)``: the information that the
            unit takes away when it becomes known, beyond what a permuted copy takes away, as a mean
            over random orders. None if shares were not measured, as the next three are.
        share_error: Standard error of the share by the choice of orders, bits, float64
            ``(step, unit)``; 0 if all orders were taken.
        share_resolved: Fraction of the orders in which there were enough sequences when the unit
            became known, float64 ``(step, unit)``.
        unattributed: Relay information of all units minus the sum of their shares, bits, float64
            ``(step,)``. Noise can make it negative.
        transfer: Relay transfer T(t, t'), float64 ``(step, step)``: what the units that tell the
            concept at the step of the row tell at the step of the column, from 0 (no more than
            random units) to 1 (as much as the units that tell it there); below 0, less than random
            ones. NaN where it cannot be measured; see ``relay_transfer``. None if transfer was not
            measured, as the next four are.
        transfer_error: Standard error of ``transfer``, float64 ``(step, step)``.
        set_size: Number of units in the set of each step, int64 ``(step,)``; 0 where there is no
            set; see ``relay_transfer``.
        reached: What the set of each step tells beyond permuted copies, on sequences that did not
            choose its units, as a fraction of I(X_in; X_out), float64 ``(step,)``; 0 where there is
            no set, NaN where input and output share nothing.
        lag_profile: Mean transfer between steps that are 1, 2, … steps apart, float64 ``(lag,)``;
            NaN where it cannot be measured. Only steps at which all inputs had been presented
            count, and none that count back from the sequences' own ends.
        lower: Lower ends of bootstrap intervals of ``information``, bits, float64
            ``(step, unit + 1)``. None without resamples, as the next four are.
        upper: Upper ends of these intervals, bits, float64 ``(step, unit + 1)``.
        rank_lower: Lower ends of bootstrap intervals of the place of each unit in the order,
            float64 ``(step, unit)``; place 0 is the least important.
        rank_upper: Upper ends of these intervals, float64 ``(step, unit)``.
        rank_stability: Mean rank correlation of the orders of the resamples with this order,
            float64 ``(step,)``.
        chance_level: Value that I(X_in; X_out | the units outside a set) exceeds with the
            probability .05 if X_out is permuted among sequences that are alike in these units,
            bits, float64 ``(step, unit + 1)``: first for the set of all units, then for each unit
            alone. None without permutations, as the next three are.
        chance_p_values: Probability, with X_out permuted, of a value as large as the observed one
            in any of these sets at any step, float64 ``(step, unit + 1)``.
        unexplained_p_values: The same probability for the set of no unit, float64 ``(step,)``. If
            it is small, input and output share more than the states of all units account for.
        movable: Fraction of the sequences that a permutation can move to any effect, float64
            ``(step, unit + 1)``. If it is 0, nothing was tested and p is 1.
    """

    time_steps: NDArray[np.int64]
    backward: bool
    information: NDArray[np.float64]
    units: NDArray[np.int64]
    places: NDArray[np.float64]
    scores: NDArray[np.float64]
    groups: NDArray[np.int64]
    tied: NDArray[np.bool]
    mutual_information: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    corrected: NDArray[np.float64]
    gap: NDArray[np.float64]
    coverage: NDArray[np.float64]
    distinct_states: NDArray[np.int64]
    alone: NDArray[np.float64]
    resolved: NDArray[np.bool]
    tells: NDArray[np.float64]
    irreplaceable: NDArray[np.float64]
    telling: NDArray[np.int64]
    telling_tied: NDArray[np.bool]
    telling_resolved: NDArray[np.bool]
    told: NDArray[np.float64]
    share: NDArray[np.float64] | None = None
    share_error: NDArray[np.float64] | None = None
    share_resolved: NDArray[np.float64] | None = None
    unattributed: NDArray[np.float64] | None = None
    transfer: NDArray[np.float64] | None = None
    transfer_error: NDArray[np.float64] | None = None
    set_size: NDArray[np.int64] | None = None
    reached: NDArray[np.float64] | None = None
    lag_profile: NDArray[np.float64] | None = None
    lower: NDArray[np.float64] | None = None
    upper: NDArray[np.float64] | None = None
    rank_lower: NDArray[np.float64] | None = None
    rank_upper: NDArray[np.float64] | None = None
    rank_stability: NDArray[np.float64] | None = None
    chance_level: NDArray[np.float64] | None = None
    chance_p_values: NDArray[np.float64] | None = None
    unexplained_p_values: NDArray[np.float64] | None = None
    movable: NDArray[np.float64] | None = None

    def __repr__(self) -> str:
        steps, units = self.units.shape
        return f"ConceptRelay: {steps} steps, {units} units"

    def place(self, step: int = -1) -> int:
        """Index of a step in the arrays.

        Args:
            step: One of ``time_steps``; or -1, the step that the layer computes last: the last step
                of each sequence, or step 0 of a backward layer.

        Returns:
            Position of the step in ``time_steps``.

        Raises:
            ValueError: If the step was not analysed.
        """
        return place_of(step, self.time_steps, backward=self.backward)

    def top_units(self, k: int, step: int = -1) -> list[int]:
        """Units with the largest relay shares, largest first.

        Args:
            k: Maximum number of units.
            step: One of ``time_steps``; or -1, the step that the layer computes last.

        Returns:
            Unit indices, as ``knocked_out`` takes them. Units without a positive share are left
            out, so there can be fewer than ``k``.

        Raises:
            ValueError: If ``k`` is not an integer of at least 1, the step was not analysed, or
                shares were not measured.
        """
        if isinstance(k, bool) or not isinstance(k, int) or k < 1:
            raise ValueError(f"k: got {k!r}; it takes a number of units from 1")
        if self.share is None:
            raise ValueError(
                "top_units: relay shares were not measured; measure them with RelayMeasure(n_orders"
                "=16), or use smallest_set"
            )
        share = self.share[self.place(step)]
        ranked = np.argsort(-share, kind="stable")[:k]
        return [int(unit) for unit in ranked if share[unit] > 0]

    def smallest_set(self, fraction: float = 0.9, step: int = -1) -> list[int]:
        """A small set of units that tells a fraction of what all units tell.

        The set grows greedily: each time it takes the unit that adds most. Of several units that
        add equally (``telling_tied``) it takes the lowest, so other sets can do as well.

        Args:
            fraction: Fraction of what all units tell, above 0 and up to 1.
            step: One of ``time_steps``; or -1, the step that the layer computes last.

        Returns:
            Unit indices in the order in which they were taken; empty if the units tell nothing.

        Raises:
            TypeError: If ``fraction`` is not a number.
            ValueError: If ``fraction`` is out of its range or the step was not analysed.
        """
        check_fraction(fraction)
        return self.smallest_set_at(self.place(step), fraction)

    def smallest_set_at(self, place: int, fraction: float = 0.9) -> list[int]:
        """``smallest_set`` at the index of a step."""
        told = self.told[place]
        enough = told >= fraction * told[-1] - TIE
        return [int(unit) for unit in self.telling[place, : int(np.argmax(enough))]]

    @property
    def migration(self) -> float:
        """Part of the information that has left its units one step later: 1 - mean transfer.

        Above 1, the units tell less than random ones then. NaN if it cannot be measured.
        """
        return nan if self.lag_profile is None else 1 - float([*self.lag_profile, nan][0])

    @property
    def half_life(self) -> float:
        """First lag in steps at which the mean transfer is below one half; see ``relay_transfer``.

        Infinite if it stays above, NaN if it cannot be measured.
        """
        return nan if self.lag_profile is None else half_life(self.lag_profile)

    @property
    def period(self) -> int:
        """Lag in steps at which information first returns to units that it had left, or 0."""
        return 0 if self.lag_profile is None else period(self.lag_profile)

    @cached_property
    def ambiguous(self) -> NDArray[np.bool]:
        """Whether each unit is in a tie group with others, bool ``(step, unit)``.

        The data leave the place of such a unit open.
        """
        sizes = np.zeros_like(self.groups)
        np.add.at(sizes, (np.arange(len(sizes))[:, np.newaxis], self.groups), 1)
        alike: NDArray[np.bool] = np.take_along_axis(sizes, self.groups, axis=1) > 1
        return alike

    @property
    def beyond_chance(self) -> NDArray[np.bool] | None:
        """Whether a unit relays what no other does, beyond chance, bool ``(step, unit)``.

        Two tests at 5 %, for all units and steps together, decide. X_in and X_out share more than
        by chance when the states of all other units are known. They share no more than by chance
        when the state of this unit is known too. The second test fails if the states of all units
        do not account for everything, for example before the last input; then no unit is beyond
        chance. A unit that was not tested (``movable`` is 0) is not beyond chance either, which
        says nothing about it. None without permutations.
        """
        if self.chance_p_values is None or self.unexplained_p_values is None:
            return None
        explained = self.unexplained_p_values > CHANCE_LEVEL
        beyond: NDArray[np.bool] = self.chance_p_values[:, 1:] <= CHANCE_LEVEL
        return beyond & explained[:, np.newaxis]


@dataclass(frozen=True, eq=False, repr=False)
class LayerRelay:
    """What one recurrent layer relays.

    Attributes:
        time_steps: Analysed steps, int64 ``(step,)``. A negative step counts back from each
            sequence's own end.
        backward: Whether the layer reads the sequences from their end.
        inputs_ended: Whether all sequences counted at the step had their last input by then, bool
            ``(step,)``; all True if the end of the inputs is not given.
        samples: Number of sequences counted at the step, int64 ``(step,)``. Sequences that are too
            short for the step are not counted.
        distinct_states: Number of different joint states of all units in these sequences, int64
            ``(step,)``.
        common_code: Fraction of these sequences that have the most common code of each unit,
            float64 ``(step, unit)``. Near 1 the threshold leaves hardly any information in the
            code, whatever the state holds: see ``nearly_constant``.
        concepts: Results by concept name.
        latent: Geometry of the states and where the dynamics settle; None if it was not measured.
    """

    time_steps: NDArray[np.int64]
    backward: bool
    inputs_ended: NDArray[np.bool]
    samples: NDArray[np.int64]
    distinct_states: NDArray[np.int64]
    common_code: NDArray[np.float64]
    concepts: Mapping[str, ConceptRelay]
    latent: LatentStructure | None = None

    def __repr__(self) -> str:
        steps, units = self.common_code.shape
        return f"LayerRelay: {steps} steps, {units} units, concepts {', '.join(self.concepts)}"

    def __getitem__(self, concept: str) -> ConceptRelay:
        """Results of a concept; a KeyError lists the known ones."""
        return known("concept", concept, self.concepts)

    @property
    def nearly_constant(self) -> NDArray[np.bool]:
        """Whether at least 95 % of the sequences have one code of a unit, bool ``(step, unit)``.

        Such a unit has hardly any share. If it varies all the same, another ``discretization`` may
        tell more.
        """
        return self.common_code >= NEARLY_CONSTANT

    def place(self, step: int = -1) -> int:
        """Index of a step in the arrays; see ``ConceptRelay.place``."""
        return place_of(step, self.time_steps, backward=self.backward)


@dataclass(frozen=True, eq=False, repr=False)
class RelayReport:
    """Results of one relay analysis; ``report["rnn.l0"]["joint"]`` holds those of a concept.

    It prints as a summary; ``to_dataframe`` and ``to_xarray`` give all numbers.

    Attributes:
        layers: Results by layer key such as ``"rnn.l0"``.
        mutual_information: I(X_in; X_out) of all analysed sequences in bits, by concept name.
        input_entropy: H(X_in) of all analysed sequences in bits, by concept name; a layer cannot
            relay more.
        samples: Number of sequences analysed.
        samples_seen: Number of sequences seen; ``max_samples`` left out the others.
        samples_fitted: Number of sequences to which the thresholds of the codes were fitted: all
            analysed ones, or the first of those seen.
        threshold_agreement: Fraction of the codes of a fair sample of all sequences that thresholds
            fitted to this sample would give too, at the step and of the unit where it is lowest,
            by layer key. Only layers whose thresholds were fitted to the first sequences.
        expected_agreement: Expected value of ``threshold_agreement`` if all sequences were like the
            first, by layer key.
        beyond_thresholds: Number of sequences with a step that has no thresholds because too few
            of the first sequences have it, by layer key. These steps are left out.
        measure: How relay information was measured.
        inputs_end: Step at which the last input was presented, or these steps by module name, as
            given or found; None if it was not given.
        found_inputs_end: Steps at which the inputs of modules were found to end, by module name.
            Empty if none was found or looked for. If ``inputs_end`` is left out, only the first
            evaluation of a fit looks for them.
        label_step: Step whose labels and answers the states were compared with, where each step has
            some; else None.
        ignored: Number of labels of steps that are not counted, -100 or NaN; None if each sequence
            has one label: sequences without one are in ``samples_seen`` and not in ``samples``. If
            steps have labels, ``mutual_information`` and ``input_entropy`` are those of the counted
            labels of all steps.
        edges: Inner edges of the bins of real labels and answers, in their unit, or of their
            differences (``bins=("up/down", entry)``): bin k is class k of X_in and X_out, and edge
            k its upper end. None without bins.
        x_in: Where X_in was found, in words; None outside a Trainer.
        x_out: Where X_out was found, in words; None outside a Trainer.
        calls: Which calls were analysed, in words, by name of the modules that a step called
            several times.
        stage: ``"validate"`` or ``"test"``; None outside a Trainer.
        epoch: The Trainer's epoch, from 0.
        global_step: The Trainer's number of optimizer steps.
        dataloader: Index of the dataloader.
    """

    layers: Mapping[str, LayerRelay]
    mutual_information: Mapping[str, float]
    input_entropy: Mapping[str, float]
    samples: int
    samples_seen: int
    samples_fitted: int
    measure: RelayMeasure
    inputs_end: int | Mapping[str, int] | None = None
    label_step: int | None = None
    ignored: int | None = None
    edges: tuple[float, ...] | None = None
    x_in: str | None = None
    x_out: str | None = None
    calls: Mapping[str, str] = field(default_factory=dict)
    stage: str | None = None
    epoch: int | None = None
    global_step: int | None = None
    dataloader: int = 0
    threshold_agreement: Mapping[str, float] = field(default_factory=dict)
    expected_agreement: Mapping[str, float] = field(default_factory=dict)
    beyond_thresholds: Mapping[str, int] = field(default_factory=dict)
    found_inputs_end: Mapping[str, int] = field(default_factory=dict)

    def __getitem__(self, layer: str) -> LayerRelay:
        """Results of a layer; a KeyError lists the known ones."""
        return known("layer", layer, self.layers)

    def __str__(self) -> str:
        """Summary of at most 15 lines."""
        return summary(self)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return html_summary(self)

    def to_dataframe(self) -> DataFrame:
        """All results of units as a pandas frame, a row for each layer, concept, step and unit.

        Columns are the arrays ``(step, unit)`` of ``ConceptRelay`` and ``common_code``; of each
        step ``information`` of all units, ``mutual_information``, ``accuracy``, ``samples``,
        ``inputs_ended``, ``distinct_states`` and ``unattributed``; and ``stage``, ``epoch`` and
        ``global_step``, so that frames of several epochs can be joined.

        Raises:
            ImportError: If pandas is not installed.
        """
        return dataframe(self)

    def to_xarray(self) -> DataTree:
        """All results as an xarray tree: a dataset for each layer with the dimension ``concept``.

        The other dimensions are ``step`` (coordinates: ``time_steps``), ``unit``, ``place`` in
        ``units`` and ``telling``, ``gone`` for the number of units that left R, ``taken`` for the
        number of units in a growing set, ``set`` for all units followed by each alone, and
        ``read_at`` and ``lag`` in steps for relay transfer. The latent structure of a layer is in
        its group ``latent``, with the dimension ``latent_step``, and attractors are in
        ``latent/attractors``.

        Raises:
            ImportError: If xarray is not installed.
        """
        return datatree(self)

    def figure(
        self,
        what: FigureName,
        layer: str | None = None,
        concept: str | None = None,
        step: int = -1,
        unit: int | None = None,
    ) -> Figure:
        """An interactive figure of plotly; a notebook shows it by itself.

        Args:
            what: Name of the figure: ``"relay_share"``, ``"greedy_order"``, ``"units_needed"``,
                ``"relay_transfer"``, ``"latent"`` (trajectories of the states and attractors, with
                a slider over the steps) or ``"layers"`` (bits relayed by each layer at each step).
            layer: Key of the layer. Default: the first. ``"layers"`` draws all and takes none.
            concept: Name of the concept. Default: the first. ``"latent"`` shows classes and takes
                none.
            step: One of the layer's ``time_steps``, which the figure is about or marks; or -1, the
                step that the layer computes last.
            unit: Index of a unit that the figure marks, where it draws units. Default: none.

        Raises:
            ImportError: If plotly is not installed.
            KeyError: If there is no such figure, layer or concept; lists the known ones.
            ValueError: If what the figure shows was not measured, the step was not analysed, the
                layer does not have the unit, or a layer is named for ``"layers"`` or a concept for
                ``"latent"``.
        """
        return shown(self._drawn(what, layer, concept, step, unit))

    def picture(
        self,
        what: FigureName,
        layer: str | None = None,
        concept: str | None = None,
        step: int = -1,
        unit: int | None = None,
    ) -> Image.Image:
        """A figure as an image; a notebook shows it by itself.

        Args, errors and what is drawn are those of ``figure``; texts over points and the slider are
        left out, and plotly is not needed. Of cells that share a pixel, the one that is farthest
        from 0 is drawn.

        Returns:
            An RGB image of 700 × 660 pixels.
        """
        drawn = self._drawn(what, layer, concept, step, unit)
        return Image.fromarray(picture_of(drawn, large=True))

    def _drawn(
        self, what: str, layer: str | None, concept: str | None, step: int, unit: int | None
    ) -> dict[str, Any]:
        """A figure of the layer and the concept; of the first ones unless they are named."""
        draw = known("figure", what, FIGURES)
        if what == "layers" and layer is not None:
            raise ValueError(f"layer: got {layer!r}, but 'layers' draws all layers; leave it out")
        if what == "latent" and concept is not None:
            raise ValueError(f"concept: got {concept!r}, but 'latent' shows classes; leave it out")
        key = next(iter(self.layers)) if layer is None else layer
        name = next(iter(self[key].concepts)) if concept is None else concept
        units = self[key].common_code.shape[1]
        if unit is not None and not 0 <= unit < units:
            raise ValueError(f"unit: got {unit!r}; {key!r} has units 0 to {units - 1}")
        return draw(self, key, name, step, unit)

    @property
    def full_condition(self) -> int:
        """Index, in arrays ``(step, unit + 1)``, of the condition that holds all units.

        It is the last of a shrinking order, which ends with all units known, and the first of a
        growing one.
        """
        return -1 if self.measure.direction == "shrink" else 0

    def covered(self, layer: str, concept: str) -> NDArray[np.bool]:
        """Whether there are enough sequences for the states of all units, bool ``(step,)``.

        If their coverage is below ``min_coverage`` of the measure, nearly every sequence has a
        state of its own, and any units seem to relay all that input and output share.
        """
        enough: NDArray[np.bool] = (
            self[layer][concept].coverage[:, self.full_condition] >= self.measure.min_coverage
        )
        return enough

    def save(self, path: str | Path | IO[bytes]) -> None:
        """Write the report in the ``.npz`` format to a path or an open binary file.

        NumPy alone can read it. Arrays are under ``layer/field``, ``layer/concept/field``,
        ``latent/layer/field`` and ``latent/layer/attractors/field``; everything else is JSON under
        ``header``. In names of layers and concepts, slashes and what cannot be printed are written
        as ``%2F`` and the like. The file appears under its name only when it is complete.

        Raises:
            OSError: If the file cannot be written. Then there is none, or still the one that was
                there before.
            ValueError: If a part of the report has a wrong type or shape, so that it could not be
                loaded.
        """
        check_report(self)
        header: dict[str, Any] = {"format": FORMAT, "layers": {}}
        header |= {
            part.name: getattr(self, part.name)
            for part in fields(self)
            if part.name not in ("layers", "measure")
        }
        header["measure"] = asdict(self.measure)
        arrays: dict[str, NDArray[Any]] = {}
        for key, layer in self.layers.items():
            about = {"concepts": list(layer.concepts), "backward": layer.backward}
            arrays |= arrays_of(layer, safe(key))
            if layer.latent is not None:
                about["latent"], own = to_file(layer.latent, f"latent/{safe(key)}")
                arrays |= own
            header["layers"][key] = about
            for concept, relay in layer.concepts.items():
                arrays |= arrays_of(relay, f"{safe(key)}/{safe(concept)}")
        write(path, header, arrays)

    @classmethod
    def load(cls, path: str | Path | IO[bytes]) -> RelayReport:
        """Read a report that ``save`` wrote; nothing in the file is executed.

        Raises:
            FileNotFoundError: If the file does not exist.
            ReportFileError: If the file holds no relay report, one of another format, or a damaged
                one. It is a ValueError and names the path. Sizes are checked before anything is
                inflated: loading takes no more than 100 times the size of the file, and 1 MiB.
        """
        with opened(path, "relay", FORMAT) as (header, file):
            layers = {}
            for key, about in header["layers"].items():
                backward = about["backward"]
                concepts = {
                    name: ConceptRelay(
                        **read(file, ConceptRelay, f"{safe(key)}/{safe(name)}"), backward=backward
                    )
                    for name in about["concepts"]
                }
                latent = None
                if "latent" in about:
                    latent = from_file(about["latent"], file, f"latent/{safe(key)}")
                parts = read(file, LayerRelay, safe(key))
                layers[key] = LayerRelay(
                    **parts, backward=backward, concepts=concepts, latent=latent
                )
            header["layers"] = layers
            header["measure"] = RelayMeasure(**header["measure"])
            header["edges"] = None if header["edges"] is None else tuple(header["edges"])
            report = cls(**header)
            check_report(report)
        return report
