"""Whether the relay information of sets predicts the damage when they are knocked out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from lightning_relay.ablation.damage import rank_correlation
from lightning_relay.ablation.report import STATISTICS, DamagePrediction
from lightning_relay.ablation.sets import together
from lightning_relay.ablation.shapley import set_weights, shapley_of_orders, shapley_of_sets
from lightning_relay.information import discretize, relay_information, relay_share
from lightning_relay.reading.labels import TooFewLabelsError
from lightning_relay.recurrent.errors import StepError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from lightning_relay.ablation.report import KnockoutSet
    from lightning_relay.information import RelayMeasure
    from lightning_relay.recurrent.states import HiddenStates

    Floats = NDArray[np.float64]

_TAILS = (0.025, 0.975)
_FEWEST = 4
"""Smallest number of sets of one size that are ranked."""


@dataclass(frozen=True, eq=False)
class Answers:
    """What sequences were, and what the model answered.

    ``x_in`` and ``x_out``: codes of labels and of classes predicted without knock-out, int64
    ``(sample,)``, by concept. ``right``: whether the answer was right, bool ``(set + 1, sample)``,
    by concept; entry 0 is without knock-out. ``counted``: which have a label, bool ``(sample,)``.
    """

    x_in: Mapping[str, Tensor]
    x_out: Mapping[str, Tensor]
    right: Mapping[str, Tensor]
    counted: Tensor


def predictions(
    sets: Sequence[KnockoutSet],
    states: Mapping[str, Sequence[HiddenStates]],
    steps: Sequence[int],
    answers_at: Callable[[str, int], Answers],
    measure: RelayMeasure,
    n_bootstraps: int,
    seed: int,
    *,
    in_orders: bool = False,
) -> list[DamagePrediction]:
    """Predictions of all layers, steps and concepts; ``states`` at each step, by layer key.

    ``answers_at`` gives those of a layer and step.
    ``in_orders``: whether the random sets follow orders, as ``random_orders`` lists them.
    """
    found = []
    for keys in together(states).values():
        for step, at_step in zip(steps, states[keys[-1]], strict=True):
            places = _places(sets, "random", keys, step)
            (of_all,) = _places(sets, "all", keys, step)
            answers = answers_at(keys[-1], step)
            valid = at_step.valid[:, 0].cpu()
            if not valid.any():
                raise StepError(f"step: got {step}; no sequence of {keys[0]!r} has it")
            valid &= answers.counted
            if not valid.any():
                raise TooFewLabelsError(
                    f"step: got {step}; no sequence of {keys[0]!r} has a label there"
                )
            runs = [0, *(place + 1 for place in (*places, of_all))]
            own = _OfStep(
                np.array(places),
                _members([sets[place].units[keys[-1]] for place in places], at_step),
                discretize(
                    at_step.values[:, 0].cpu()[valid],
                    measure.discretization,
                    levels=measure.levels,
                    layer=keys[-1],
                ),
                {name: codes[valid] for name, codes in answers.x_in.items()},
                {name: codes[valid] for name, codes in answers.x_out.items()},
                {name: right[runs][:, valid] for name, right in answers.right.items()},
                measure,
                in_orders,
            )
            found += own.predictions(keys[-1], step, n_bootstraps, seed)
    return found


def _places(sets: Sequence[KnockoutSet], group: str, keys: list[str], step: int) -> list[int]:
    return [
        place
        for place, some in enumerate(sets)
        if some.group == group and some.steps == (step,) and list(some.units) == keys
    ]


def _members(units: Sequence[Sequence[int]], states: HiddenStates) -> Tensor:
    members = torch.zeros(len(units), states.values.shape[2], dtype=torch.bool)
    for row, own in enumerate(units):
        members[row, list(own)] = True
    return members


@dataclass(frozen=True, eq=False)
class _OfStep:
    """Sets held at one step of one layer, and the sequences that have the step."""

    places: NDArray[np.int64]
    members: Tensor  # (set, unit)
    codes: Tensor  # (sample, unit)
    x_in: Mapping[str, Tensor]
    x_out: Mapping[str, Tensor]
    right: Mapping[str, Tensor]  # (set + 2, sample): no knock-out, the sets, all units
    measure: RelayMeasure
    in_orders: bool

    def predictions(
        self, layer: str, step: int, n_bootstraps: int, seed: int
    ) -> list[DamagePrediction]:
        sizes = self.members.sum(1).numpy()
        samples = len(self.codes)
        whole = torch.ones(1, samples, dtype=torch.int64)
        information, damage = self._information(whole)[0], self._damage(whole)[0]
        values = statistics(sizes, information, damage[:, :-1])
        unit_damage = self._shapley(np.arange(len(sizes)), damage)
        generator = np.random.default_rng(seed)
        drawn = generator.multinomial(samples, np.full(samples, 1 / samples), size=n_bootstraps)
        weights = torch.from_numpy(drawn.astype(np.int64))
        resampled, of_units = [], []
        if n_bootstraps and self._blocks > 1:
            for bits, lost in zip(self._information(weights), self._damage(weights), strict=True):
                some = self._resample(generator)
                resampled.append(statistics(sizes[some], bits[:, some], lost[:, some]))
                of_units.append(self._shapley(some, lost))
        ends, unit_ends = _ends(resampled, values), _ends(of_units, unit_damage)
        found = []
        for row, concept in enumerate(self.x_in):
            share, effect = self._share(concept), unit_damage[row]
            found.append(
                DamagePrediction(
                    layer=layer,
                    step=step,
                    concept=concept,
                    samples=samples,
                    places=self.places,
                    sizes=sizes,
                    information=information[row],
                    damage=damage[row, :-1],
                    **dict(zip(STATISTICS, map(float, values[row]), strict=True)),
                    lower=ends[0][row],
                    upper=ends[1][row],
                    unit_damage=effect,
                    unit_lower=unit_ends[0][row],
                    unit_upper=unit_ends[1][row],
                    unit_share=share,
                    share_correlation=rank_correlation(share.round(9), effect.round(9))[0],
                )
            )
        return found

    @property
    def _block(self) -> int:
        """Number of sets that are drawn together: the pair of an order and its reverse, or one."""
        return 2 * (self.members.shape[1] - 1) if self.in_orders else 1

    @property
    def _blocks(self) -> int:
        return len(self.members) // self._block

    def _resample(self, generator: np.random.Generator) -> NDArray[np.int64]:
        """Places of sets drawn with replacement.

        Of k pairs of orders, k − 1 are drawn, so that their mean varies as the mean of k does.
        """
        number = self._blocks - 1 if self.in_orders else self._blocks
        first = generator.integers(self._blocks, size=number) * self._block
        return (first[:, np.newaxis] + np.arange(self._block)).flatten()

    def _shapley(self, some: NDArray[np.int64], damage: Floats) -> Floats:
        """Shapley values ``(concept, unit)`` by some of the sets; the last damage is by all."""
        members, whole = self.members.numpy(), damage[:, -1]
        if self.in_orders:
            return shapley_of_orders(members[some], damage[:, some], whole)
        weights = set_weights(members.sum(1), members.shape[1])[some]
        return shapley_of_sets(members[some], damage[:, some], whole, weights)

    def _information(self, weights: Tensor) -> Floats:
        """I_R of the sets, bits ``(resample, concept, set)``, of weights ``(resample, sample)``."""
        found = [
            relay_information(
                self.x_in[name],
                self.x_out[name],
                self.codes,
                self.members,
                weights=weights,
                estimator=self.measure.estimator,
            )
            for name in self.x_in
        ]
        return torch.stack(found, 1).numpy()

    def _damage(self, weights: Tensor) -> Floats:
        """Damage by the sets, and last by all units, ``(resample, concept, set + 1)``."""
        found = [
            (right[:1].double() - right[1:].double()) @ weights.double().T / len(self.codes)
            for right in self.right.values()
        ]
        return torch.stack(found).permute(2, 0, 1).numpy()

    def _share(self, concept: str) -> Floats:
        measure = self.measure
        if not measure.orders_of_shares:
            return np.full(self.codes.shape[1], np.nan)
        found = relay_share(
            self.x_in[concept],
            self.x_out[concept],
            self.codes,
            n_orders=measure.orders_of_shares,
            estimator=measure.estimator,
            seed=measure.seed,
        )
        return found.share.numpy()


def _ends(resampled: Sequence[Floats], values: Floats) -> Floats:
    """Ends of 95 % intervals ``(2, …)`` of values ``(…)``; NaN without resamples."""
    if not resampled:
        return np.full((2, *values.shape), np.nan)
    ends: Floats = np.quantile(resampled, _TAILS, axis=0)
    return ends


def statistics(sizes: NDArray[np.int64], information: Floats, damage: Floats) -> Floats:
    """``STATISTICS`` ``(concept, 5)`` of information and damage ``(concept, set)``."""
    apart = [part - part.mean(0) for part in (information, damage)]
    return np.array(
        [
            [
                *_explained(sizes, bits, lost),
                _within_size(sizes, bits, lost),
                _correlation(apart[0][row], apart[1][row]),
            ]
            for row, (bits, lost) in enumerate(zip(information, damage, strict=True))
        ]
    )


def _explained(
    sizes: NDArray[np.int64], information: Floats, damage: Floats
) -> tuple[float, float, float]:
    """R² of the size, of size and information, and partial R² of the information."""
    total = float(((damage - damage.mean()) ** 2).sum())
    if total <= 1e-12:
        return np.nan, np.nan, np.nan
    left = []
    for regressors in ([sizes], [sizes, information]):
        columns = np.column_stack([np.ones(len(damage)), *regressors])
        fitted = columns @ np.linalg.lstsq(columns, damage, rcond=None)[0]
        left.append(float(((damage - fitted) ** 2).sum()) / total)
    partial = 1 - left[1] / left[0] if left[0] > 1e-9 else np.nan
    return 1 - left[0], 1 - left[1], partial


def _within_size(sizes: NDArray[np.int64], information: Floats, damage: Floats) -> float:
    """Mean rank correlation among sets of one size, weighted by their number."""
    found, weights = [], []
    for size in np.unique(sizes):
        own = sizes == size
        if own.sum() >= _FEWEST:
            value = rank_correlation(information[own].round(9), damage[own].round(9))[0]
            if np.isfinite(value):
                found.append(value)
                weights.append(own.sum())
    return float(np.average(found, weights=weights)) if found else np.nan


def _correlation(first: Floats, second: Floats) -> float:
    if np.ptp(first) <= 1e-9 or np.ptp(second) <= 1e-9:
        return np.nan
    return float(np.corrcoef(first, second)[0, 1])
