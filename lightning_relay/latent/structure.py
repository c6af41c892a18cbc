"""Results: the geometry of a layer's states, and where its dynamics settle."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lightning_relay.reports.files import arrays_of, plain_parts, read
from lightning_relay.reports.steps import place_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray


@dataclass(frozen=True, eq=False, repr=False)
class Attractors:
    """Where the states of a module settle under a constant input.

    The module is iterated with all its layers, hidden and cell states, from states that sequences
    visited. An attractor is a fixed point, a cycle, or a continuous set of them, such as a line.
    Attractors that no visited state leads to are not found. Of unstable fixed points and cycles
    only those are there that a visited state started at or hardly leaves; ``largest`` tells.

    Attributes:
        period: Period of each attractor in steps, int64 ``(attractor,)``; 1 is a fixed point.
            Attractors that most states lead to come first.
        continuous: Whether the attractor is a continuous set, bool ``(attractor,)``: states
            between two of its states lead to others of its states.
        radius: Largest distance of its recorded states from their mean, relative to the spread of
            the visited states, float64 ``(attractor,)``.
        eigenvalues: Eigenvalues of the Jacobian of one whole period at a state of the attractor,
            largest modulus first, complex128 ``(attractor, state)``. NaN beyond the first 32
            attractors.
        states: States of this layer on the attractors, in their order, float64 ``(point, unit)``.
            A cycle has one for each phase, in the order in which they follow; of a continuous
            attractor up to 32 are kept.
        attractor: Attractor of each of ``states``, int64 ``(point,)``.
        classes: Class labels of the columns of ``basins``, int64 ``(class,)``.
        basins: Number of visited states that lead to each attractor, by class of their sequence,
            int64 ``(attractor, class)``.
        unsettled: Number of visited states that still move after ``n_steps`` steps, by class, int64
            ``(class,)``.
        diverged: Number of visited states from which the iteration leaves all bounds, by class,
            int64 ``(class,)``.
        label_bits: Information about the class in where a state ends, bits: mutual information of
            the class with the attractor, by Grassberger's estimator. All that did not settle counts
            as one more attractor. The phase of a cycle and the place along a continuous attractor
            do not count, though they can tell more.
        input_bits: Entropy of the class among the visited states, bits.
        n_steps: Number of steps of the iteration.
        inputs: Constant input: ``"zero"``, the ``"mean"`` input, or one ``"given"`` by the user.
    """

    period: NDArray[np.int64]
    continuous: NDArray[np.bool]
    radius: NDArray[np.float64]
    eigenvalues: NDArray[np.complex128]
    states: NDArray[np.float64]
    attractor: NDArray[np.int64]
    classes: NDArray[np.int64]
    basins: NDArray[np.int64]
    unsettled: NDArray[np.int64]
    diverged: NDArray[np.int64]
    label_bits: float
    input_bits: float
    n_steps: int
    inputs: str

    def __len__(self) -> int:
        return len(self.period)

    def __repr__(self) -> str:
        return f"Attractors: {self.in_words()}"

    @property
    def starts(self) -> int:
        """Number of visited states from which the module was iterated."""
        return int(self.basins.sum() + self.unsettled.sum() + self.diverged.sum())

    @property
    def settled(self) -> float:
        """Fraction of the visited states that settle."""
        return float(self.basins.sum()) / self.starts

    @property
    def largest(self) -> NDArray[np.float64]:
        """Largest modulus of the eigenvalues of each attractor, float64 ``(attractor,)``.

        Below 1 small deviations die out, above 1 they grow; near 1 they stay for long, as along a
        continuous attractor.
        """
        return np.abs(self.eigenvalues[:, 0])

    def in_words(self) -> str:
        """How many states settle, and where."""
        fixed = (self.period == 1) & ~self.continuous
        cycles = (self.period > 1) & ~self.continuous
        kinds = [(int(fixed.sum()), "fixed point"), (int(cycles.sum()), "cycle")]
        kinds.append((int(self.continuous.sum()), "continuous attractor"))
        found = [f"{number} {name}{'s' * (number > 1)}" for number, name in kinds if number]
        if cycles.any():
            periods = ", ".join(map(str, np.unique(self.period[cycles])))
            found = [f"{some} (period {periods})" if "cycle" in some else some for some in found]
        text = "without input" if self.inputs == "zero" else f"under the {self.inputs} input"
        text += f", {100 * self.settled:.0f} % of {self.starts} states settle"
        if found:
            text += f": {', '.join(found)}; the attractor tells {self.label_bits:z.2f} of "
            text += f"{self.input_bits:.2f} bits of the class"
        if self.diverged.any():
            text += f"; {self.diverged.sum()} diverge"
        return text


@dataclass(frozen=True, eq=False, repr=False)
class LatentStructure:
    """Geometry of the states of one layer over time.

    Principal components are fitted to the states after the inputs' end: at the steps at which all
    sequences had seen all inputs.

    Attributes:
        time_steps: Steps, int64 ``(step,)``. A negative step counts back from each sequence's own
            end.
        backward: Whether the layer reads the sequences from their end.
        inputs_ended: Whether all sequences had seen all inputs at each step, bool ``(step,)``.
        classes: Class labels that occur, int64 ``(class,)``.
        samples: Number of sequences of each class at each step, int64 ``(class, step)``.
        mean: Mean of the fitted states, float64 ``(unit,)``.
        components: Principal components, orthonormal, float64 ``(component, unit)``. Their signs
            are arbitrary: the largest entry of each is positive.
        explained: Fraction of the variance of the fitted states along each principal component,
            float64 ``(unit,)``, of all components.
        variance: Variance of the fitted states, summed over units.
        trajectories: Mean state of each class at each step, in components, float64
            ``(class, step, component)``; NaN where the class has no sequence.
        speed: Mean distance between the states at a step and at the step before it in time, float64
            ``(step,)``; NaN where the step before is not known.
        within: Variance of the states within classes, summed over units, float64 ``(step,)``,
            unbiased; NaN where no class has two sequences.
        between: Variance of the class means, summed over units, float64 ``(step,)``, unbiased: the
            part that the spread within classes makes is taken away, so it can be below 0.
        points: States of up to 256 sequences at the last step, in components, float64
            ``(point, component)``.
        point_classes: Class label of each of ``points``, int64 ``(point,)``.
        attractors: Where the dynamics settle; None if that was not found out.
        no_attractors: Why ``attractors`` is None; empty if it is not.
    """

    time_steps: NDArray[np.int64]
    backward: bool
    inputs_ended: NDArray[np.bool]
    classes: NDArray[np.int64]
    samples: NDArray[np.int64]
    mean: NDArray[np.float64]
    components: NDArray[np.float64]
    explained: NDArray[np.float64]
    variance: float
    trajectories: NDArray[np.float64]
    speed: NDArray[np.float64]
    within: NDArray[np.float64]
    between: NDArray[np.float64]
    points: NDArray[np.float64]
    point_classes: NDArray[np.int64]
    attractors: Attractors | None = None
    no_attractors: str = ""

    def __repr__(self) -> str:
        return f"LatentStructure: {self.in_words()}"

    @property
    def dimension(self) -> float:
        """Participation ratio of the fitted states: 1 / sum of ``explained`` squared.

        It is k if k components have equal variance and the others none; NaN if nothing varies.
        """
        return float(1 / np.sum(self.explained**2)) if self.variance else np.nan

    @property
    def separation(self) -> NDArray[np.float64]:
        """Fraction of the variance that lies between classes, float64 ``(step,)``; NaN if none."""
        total = self.between + self.within
        return np.divide(self.between, total, out=np.full_like(total, np.nan), where=total > 0)

    def projected(self, states: NDArray[np.float64]) -> NDArray[np.float64]:
        """States ``(…, unit)`` in components, float64 ``(…, component)``."""
        found: NDArray[np.float64] = (states - self.mean) @ self.components.T
        return found

    def in_words(self) -> str:
        """Dimension of the states, and how far classes are apart at the last step."""
        last = self.separation[place_of(-1, self.time_steps, backward=self.backward)]
        if not self.variance:
            return "all states are alike"
        text = f"states spread over {self.dimension:.1f} dimensions"
        if np.isfinite(last):
            text += f"; at the last step {100 * last:z.0f} % of their variance is between classes"
        return text


def to_file(latent: LatentStructure, prefix: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Header, for JSON, and arrays by name of a structure in a file."""
    header, arrays = plain_parts(latent), arrays_of(latent, prefix)
    if latent.attractors is not None:
        header["attractors"] = plain_parts(latent.attractors)
        arrays |= arrays_of(latent.attractors, f"{prefix}/attractors")
    return header, arrays


def from_file(
    header: Mapping[str, Any], arrays: dict[str, NDArray[Any]], prefix: str
) -> LatentStructure:
    """The structure that ``to_file`` took apart."""
    attractors = None
    if "attractors" in header:
        own = read(arrays, Attractors, f"{prefix}/attractors")
        attractors = Attractors(**(header["attractors"] | own))
    return LatentStructure(
        **(dict(header) | read(arrays, LatentStructure, prefix) | {"attractors": attractors})
    )
