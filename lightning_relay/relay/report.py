"""The results of a relay analysis: which units relayed what, at which step; saved and loaded."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from itertools import groupby
from operator import itemgetter
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from lightning_relay.information.options import RelayMeasure
from lightning_relay.reports.files import arrays_of, opened, read, write

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

FORMAT = 4
"""Version of the file format; a file of another one is refused."""

CHANCE_LEVEL = 0.05
"""Probability of an error that chance levels are for."""

_MOST_NAMED = 12
"""More units than this that are not ranked are counted instead of named."""


@dataclass(frozen=True, eq=False)
class ConceptRelay:
    """What one layer relays of one concept, at every analysed step.

    What is said of a unit stands at its index.

    Attributes:
        information: Bits, float64 ``(step, unit + 1)``: entry 0 is I_R of all units, entry k that
            of the set that is left when k units have gone.
        units: Unit indices in the order in which they leave the set, least important first, int64
            ``(step, unit)``.
        places: Place of each unit in the order, 0 for the least important, the mean over its tie
            group, float64 ``(step, unit)``.
        scores: Aggregated relay information of each unit, the mean over its tie group, as a
            fraction of the largest at the step, float64 ``(step, unit)``.
        groups: Tie group of each unit, named by its lowest unit, int64 ``(step, unit)``. The data
            do not order the units of a group.
        tied: Whether another unit was as good when the unit was chosen, bool ``(step, unit)``.
        mutual_information: I(X_in; X_out) of the sequences counted at the step, bits, float64
            ``(step,)``.
        corrected: ``information`` by an estimator that corrects for the bias of small samples,
            bits, float64 ``(step, unit + 1)``: Grassberger's where the report's is the plug-in,
            otherwise the report's.
        gap: Corrected minus plug-in I(X_in; X_out | condition), bits, float64
            ``(step, unit + 1)``; the condition of a place are the units that it takes as known.
        coverage: Good–Turing coverage of the joint states of X_in, or of X_out, and the condition,
            whichever is lower, fraction of 1, float64 ``(step, unit + 1)``.
        distinct_states: Number of different states of the condition, int64 ``(step, unit + 1)``.
        alone: Fraction of the sequences that are alone in their state of the condition, float64
            ``(step, unit + 1)``.
        resolved: Whether there are sequences enough for the place of each unit, bool
            ``(step, unit)``; see ``min_coverage`` and ``max_gap`` of ``RelayMeasure``.
        share: Relay share of each unit, bits, float64 ``(step, unit)``: what it takes away when it
            becomes known, the mean over random orders, beyond what a permuted copy would. None,
            like the following, where shares were not measured.
        share_error: Standard error of the share by the choice of orders, bits, float64
            ``(step, unit)``; 0 where all orders were taken.
        share_resolved: Fraction of the orders in which there were sequences enough at the turn of
            the unit, float64 ``(step, unit)``.
        unattributed: Relay information of all units minus the sum of their shares, bits, float64
            ``(step,)``; noise can make it slightly negative.
        lower: Lower ends of bootstrap intervals of ``information``, bits, float64
            ``(step, unit + 1)``; None, like the following, where no resamples were asked for.
        upper: Upper ends, bits, float64 ``(step, unit + 1)``.
        rank_lower: Lower ends of intervals of the places of the units in the order, by unit index,
            float64 ``(step, unit)``; place 0 is the least important.
        rank_upper: Upper ends, float64 ``(step, unit)``.
        rank_stability: Mean rank correlation of the orders of the resamples with this one, float64
            ``(step,)``.
        chance_level: The value that I(X_in; X_out | the units outside a set) exceeds with the
            probability .05 if X_out is permuted among sequences that are alike in these units,
            bits, float64 ``(step, unit + 1)``: first for the set of all units, then for each unit
            alone; None, like the following, where no permutations were asked for.
        chance_p_values: Probability, with X_out permuted, of a value as large as that observed in
            any of these sets at any step, float64 ``(step, unit + 1)``.
        unexplained_p_values: The same probability for the set of no unit, float64 ``(step,)``:
            where it is small, input and output share more than the states of all units account for.
        movable: Fraction of the sequences that a permutation can move to any effect, float64
            ``(step, unit + 1)``; where it is 0, nothing was tested and p is 1.
    """

    information: NDArray[np.float64]
    units: NDArray[np.int64]
    places: NDArray[np.float64]
    scores: NDArray[np.float64]
    groups: NDArray[np.int64]
    tied: NDArray[np.bool]
    mutual_information: NDArray[np.float64]
    corrected: NDArray[np.float64]
    gap: NDArray[np.float64]
    coverage: NDArray[np.float64]
    distinct_states: NDArray[np.int64]
    alone: NDArray[np.float64]
    resolved: NDArray[np.bool]
    share: NDArray[np.float64] | None = None
    share_error: NDArray[np.float64] | None = None
    share_resolved: NDArray[np.float64] | None = None
    unattributed: NDArray[np.float64] | None = None
    lower: NDArray[np.float64] | None = None
    upper: NDArray[np.float64] | None = None
    rank_lower: NDArray[np.float64] | None = None
    rank_upper: NDArray[np.float64] | None = None
    rank_stability: NDArray[np.float64] | None = None
    chance_level: NDArray[np.float64] | None = None
    chance_p_values: NDArray[np.float64] | None = None
    unexplained_p_values: NDArray[np.float64] | None = None
    movable: NDArray[np.float64] | None = None

    @cached_property
    def ambiguous(self) -> NDArray[np.bool]:
        """Whether the data leave the place of each unit open, bool ``(step, unit)``.

        That is so in a tie group of several units.
        """
        sizes = np.zeros_like(self.groups)
        np.add.at(sizes, (np.arange(len(sizes))[:, np.newaxis], self.groups), 1)
        alike: NDArray[np.bool] = np.take_along_axis(sizes, self.groups, axis=1) > 1
        return alike

    @property
    def beyond_chance(self) -> NDArray[np.bool] | None:
        """Whether a unit relays what no other does, beyond chance, bool ``(step, unit)``.

        That is so where X_in and X_out share more than by chance when the states of all units but
        this one are known, and no more than by chance when its state is known too; both at 5 % for
        all units and steps together. Where the states of all units do not account for everything,
        as before the last input, no unit can be told from the rest, and none is beyond chance. Nor
        is a unit that was not tested (``movable`` is 0); that says nothing about it. None where no
        permutations were asked for.
        """
        if self.chance_p_values is None or self.unexplained_p_values is None:
            return None
        explained = self.unexplained_p_values > CHANCE_LEVEL
        beyond: NDArray[np.bool] = self.chance_p_values[:, 1:] <= CHANCE_LEVEL
        return beyond & explained[:, np.newaxis]

    def most_important(self, place: int, count: int) -> str:
        """The most important units at one of the analysed steps, in words.

        Args:
            place: Place of the step among the analysed ones.
            count: Number of units; of units that are not ranked all are named, or none.

        Returns:
            Unit indices, most important first, with ≈ before an ambiguous one. Units whose places
            the data do not resolve stand in brackets, in the order of their indices; where they
            are more than 12, their number does.
        """
        ambiguous, resolved = self.ambiguous[place], self.resolved[place]
        order = [(unit, ambiguous[unit], resolved[unit]) for unit in self.units[place]]
        words: list[str] = []
        left = count
        for is_resolved, group in groupby(reversed(order), key=itemgetter(2)):
            if left <= 0:
                break
            some = list(group)
            if is_resolved:
                some = some[:left]
                words += [f"{'≈' if tied else ''}{unit}" for unit, tied, _ in some]
            elif len(some) > _MOST_NAMED:
                words.append(f"({len(some)} units not ranked)")
            else:
                units = sorted(int(unit) for unit, _, _ in some)
                words.append(f"({' '.join(map(str, units))})")
            left -= len(some)
        return " ".join(words)


@dataclass(frozen=True, eq=False)
class LayerRelay:
    """What one recurrent layer relays.

    Attributes:
        time_steps: The analysed steps, int64 ``(step,)``; a negative one counts back from each
            sequence's own end.
        inputs_ended: Whether all sequences counted at the step had their last input by then, bool
            ``(step,)``; all True where the end of the inputs was not given.
        samples: Number of sequences counted at the step, int64 ``(step,)``; those that are too
            short for it are not.
        distinct_states: Number of different joint states of the units among them, int64
            ``(step,)``.
        concepts: Results by concept name.
    """

    time_steps: NDArray[np.int64]
    inputs_ended: NDArray[np.bool]
    samples: NDArray[np.int64]
    distinct_states: NDArray[np.int64]
    concepts: Mapping[str, ConceptRelay]

    def last_place(self, *, reverse: bool) -> int:
        """Place, among the analysed steps, of the one that the layer computes last.

        That is -1, the last step of each sequence, where it was analysed, and otherwise the step of
        the largest index; for a backward layer, which ends at step 0, that of the smallest.
        """
        steps = self.time_steps
        if reverse:
            return int(np.lexsort((steps, steps < 0))[0])
        return int(np.argmax(np.where(steps == -1, np.inf, steps)))


@dataclass(frozen=True, eq=False)
class RelayReport:
    """Results of one relay analysis.

    Attributes:
        layers: Results by layer key such as ``"rnn.l0"``.
        mutual_information: I(X_in; X_out) of all analysed sequences in bits, by concept name.
        samples: Number of sequences analysed.
        samples_seen: Number of sequences there were; the others were left out by ``max_samples``.
        samples_fitted: Number of sequences to which the thresholds of the codes were fitted: all
            that were analysed, or the first of those seen.
        threshold_agreement: Where thresholds were fitted to the first sequences only, by layer
            key: the fraction of the codes of a fair sample of all sequences that thresholds fitted
            to that sample would give too, at the step and of the unit where it is lowest.
        expected_agreement: What that would be if all sequences were like the first, by layer key.
        beyond_thresholds: Number of sequences that have a step for which there are no thresholds,
            because too few of the first have it, by layer key; these steps are left out.
        measure: How it was measured.
        inputs_end: Step at which the last input was presented, or these steps by module name; None
            where it was not given.
        x_in: Where X_in was found, in words; None outside a Trainer.
        x_out: Where X_out was found, in words; None outside a Trainer.
        stage: ``"validate"`` or ``"test"``; None outside a Trainer.
        epoch: The Trainer's epoch, from 0.
        global_step: The Trainer's number of optimizer steps.
        dataloader: Index of the dataloader.
    """

    layers: Mapping[str, LayerRelay]
    mutual_information: Mapping[str, float]
    samples: int
    samples_seen: int
    samples_fitted: int
    measure: RelayMeasure
    inputs_end: int | Mapping[str, int] | None = None
    x_in: str | None = None
    x_out: str | None = None
    stage: str | None = None
    epoch: int | None = None
    global_step: int | None = None
    dataloader: int = 0
    threshold_agreement: Mapping[str, float] = field(default_factory=dict)
    expected_agreement: Mapping[str, float] = field(default_factory=dict)
    beyond_thresholds: Mapping[str, int] = field(default_factory=dict)

    @property
    def full_condition(self) -> int:
        """Place, in the evidence of an order, of the condition that holds all units.

        The last of a shrinking order, which ends with all units known; the first of a growing one,
        whose last unit leaves R first.
        """
        return -1 if self.measure.direction == "shrink" else 0

    def save(self, path: str | Path | IO[bytes]) -> None:
        """Write the report to an ``.npz`` file, or an open binary file, which NumPy alone can read.

        Arrays stand under ``layer/field`` and ``layer/concept/field``, everything else as JSON
        under ``header``.
        """
        header: dict[str, Any] = {"format": FORMAT, "layers": {}}
        header |= {
            part.name: getattr(self, part.name)
            for part in fields(self)
            if part.name not in ("layers", "mutual_information", "measure")
        }
        header["measure"] = asdict(self.measure)
        header["mutual_information"] = dict(self.mutual_information)
        arrays: dict[str, NDArray[Any]] = {}
        for key, layer in self.layers.items():
            header["layers"][key] = list(layer.concepts)
            arrays |= arrays_of(layer, key)
            for concept, relay in layer.concepts.items():
                arrays |= arrays_of(relay, f"{key}/{concept}")
        write(path, header, arrays)

    @classmethod
    def load(cls, path: str | Path | IO[bytes]) -> RelayReport:
        """Read a report that ``save`` wrote; nothing in the file is executed.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If the file holds no relay report, or one of another format.
        """
        with opened(path, "relay", FORMAT) as (header, file):
            header["layers"] = {
                key: LayerRelay(
                    **read(file, LayerRelay, key),
                    concepts={
                        concept: ConceptRelay(**read(file, ConceptRelay, f"{key}/{concept}"))
                        for concept in concepts
                    },
                )
                for key, concepts in header["layers"].items()
            }
            header["measure"] = RelayMeasure(**header["measure"])
        return cls(**header)
