"""Which units are knocked out together."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from lightning_relay.ablation.report import KnockoutSet
from lightning_relay.reading.concepts import JOINT, Concepts, is_concept
from lightning_relay.recurrent.layers import StateKey

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from lightning_relay.knockout.clamps import Steps
    from lightning_relay.relay.report import LayerRelay, RelayReport


@dataclass(frozen=True, eq=False)
class Deletion:
    """Orders in which units of a layer are knocked out one after the other.

    Attributes:
        layer: Layer key.
        concept: Whose relay order it is.
        direction: As of ``DeletionCurve``.
        units: Unit indices, int64 ``(order, unit)``.
        sizes: Numbers of units knocked out, from 0, int64 ``(size,)``.
        places: Place of each set among all, int64 ``(order, size)``; -1 for the empty one.
    """

    layer: str
    concept: str
    direction: str
    units: NDArray[np.int64]
    sizes: NDArray[np.int64]
    places: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Sets:
    """What is knocked out.

    Attributes:
        sets: The sets.
        left_out: Number of those that were asked for and left out for the time they take.
        deletions: Orders that some of them follow.
    """

    sets: tuple[KnockoutSet, ...]
    left_out: int = 0
    deletions: tuple[Deletion, ...] = ()


def single_units(
    layers: Mapping[str, int],
    *,
    steps: Mapping[str, int] | None = None,
    max_sets: int | None = None,
    seed: int = 0,
) -> Sets:
    """Every unit alone.

    Args:
        layers: Numbers of units by layer key.
        steps: Numbers of steps by layer key, for every unit at every step; None for all steps at
            once.
        max_sets: Number of sets at most; of more, a fair sample is taken.
        seed: Seed of the sample.
    """
    sets = [
        KnockoutSet(f"{layer}: {unit}", "each", {layer: (unit,)})
        if step is None
        else KnockoutSet(f"{layer}: {unit} @{step}", "each", {layer: (unit,)}, (step,))
        for layer, units in layers.items()
        for step in ([None] if steps is None else range(steps[layer]))
        for unit in range(units)
    ]
    if max_sets is None or len(sets) <= max_sets:
        return Sets(tuple(sets))
    kept = np.sort(np.random.default_rng(seed).choice(len(sets), max_sets, replace=False))
    return Sets(tuple(sets[place] for place in kept), len(sets) - max_sets)


def named_sets(units: Mapping[str, Mapping[str, Sequence[int] | int]]) -> Sets:
    """Sets of the user's own, by name."""
    sets = []
    for name, own in units.items():
        listed = {
            layer: (some,) if isinstance(some, int) else tuple(some) for layer, some in own.items()
        }
        sets.append(KnockoutSet(name, "given", listed))
    return Sets(tuple(sets))


def along_orders(
    report: RelayReport,
    layers: Mapping[str, int],
    *,
    concepts: Sequence[str] | None = None,
    n_random: int = 5,
    max_sets: int | None = None,
    seed: int = 0,
) -> Sets:
    """Units one after the other by their relay shares at the last step, from both ends.

    Where shares were not measured, by their places in the greedy order. Where units are tied, ties
    are broken at random in as many orders as there are random ones.

    Args:
        report: Where the orders stand.
        layers: Numbers of units by layer key; those that the report does not have are passed over.
        concepts: Whose orders; default: the report's first.
        n_random: Number of random orders of each layer, for comparison.
        max_sets: Number of sets at most; where that is too few for all numbers of units, some of
            these are taken, as even as can be.
        seed: Seed of the random orders.

    Raises:
        ValueError: If the report has none of the layers or not the concept, or ``max_sets`` is too
            few.
    """
    orders: list[_Order] = []
    generator = np.random.default_rng(seed)
    for layer, units in _shared_layers(report, layers).items():
        found = report.layers[layer]
        random = np.stack([generator.permutation(units) for _ in range(n_random)])
        for concept in _known_concepts(found, concepts or list(found.concepts)[:1]):
            ranking = _Ranking.at_end(report, layer, concept)
            tied = ranking.values.size > np.unique(ranking.values).size
            least_first = np.stack(
                [ranking.least_first(generator) for _ in range(n_random if tied else 1)]
            )
            orders += [
                _Order(layer, concept, "most_first", least_first[:, ::-1], ranking.open_places),
                _Order(layer, concept, "least_first", least_first, ranking.open_places),
                _Order(layer, concept, "random_first", random),
            ]
    whole = _deletions(orders, None)
    if max_sets is None or len(whole.sets) <= max_sets:
        return whole
    count = max(1, max_sets // sum(len(order.units) for order in orders))
    thinned = _deletions(orders, count)
    if len(thinned.sets) > max_sets:
        raise ValueError(
            f"max_sets: got {max_sets}, fewer than the {len(thinned.sets)} sets that {len(orders)} "
            "orders take; it takes more, or fewer concepts or random orders"
        )
    while len((more := _deletions(orders, count + 1)).sets) <= max_sets:  # equal ones stand once
        count, thinned = count + 1, more
    return replace(thinned, left_out=len(whole.sets) - len(thinned.sets))


def top_relays(
    report: RelayReport,
    layers: Mapping[str, int],
    *,
    top: int,
    concepts: Sequence[str] | None = None,
    n_random: int = 5,
    max_sets: int | None = None,
    seed: int = 0,
) -> Sets:
    """The units with the largest relay shares of each concept at the last step, and random ones.

    Where shares were not measured, the last units of the greedy order. Ties are broken at random.

    Args:
        report: Where the orders stand.
        layers: Numbers of units by layer key; those that the report does not have are passed over.
        top: Number of units of a set.
        concepts: Which concepts; default: all of the report.
        n_random: Number of random sets for each concept, for comparison.
        max_sets: Number of sets at most; where these are more, there are fewer random sets.
        seed: Seed of the random sets.

    Raises:
        ValueError: If the report has none of the layers or not the concept, a layer has not so
            many units, or ``max_sets`` is too few.
    """
    generator = np.random.default_rng(seed)
    tops: list[KnockoutSet] = []
    random: list[list[KnockoutSet]] = []
    for layer, units in _shared_layers(report, layers).items():
        if top > units:
            raise ValueError(f"top: got {top}, but {layer!r} has {units} units")
        found = report.layers[layer]
        for concept in _known_concepts(found, concepts or list(found.concepts)):
            ranking = _Ranking.at_end(report, layer, concept)
            own = ranking.least_first(generator)[::-1][:top]
            tops.append(
                KnockoutSet(
                    f"{layer}: top {top} of {concept}",
                    "concept",
                    {layer: _plain(own)},
                    concept=concept,
                    ambiguous=tuple(unit for unit in _plain(own) if unit in ranking.open_places),
                )
            )
            random.append(
                [
                    KnockoutSet(
                        f"{layer}: random {number} of {concept}",
                        "concept_random",
                        {layer: _plain(np.sort(generator.choice(units, top, replace=False)))},
                        concept=concept,
                    )
                    for number in range(n_random)
                ]
            )
    each = n_random if max_sets is None else min(n_random, (max_sets - len(tops)) // len(tops))
    if each < min(n_random, 1):
        raise ValueError(
            f"max_sets: got {max_sets}, fewer than the {2 * len(tops)} sets of {len(tops)} "
            "concepts and layers with one random set each; it takes more, or fewer concepts"
        )
    sets = [
        some for own, others in zip(tops, random, strict=True) for some in (own, *others[:each])
    ]
    return Sets(tuple(sets), (n_random - each) * len(tops))


def at_steps(sets: Sets, steps: Steps, longest: Mapping[str, int]) -> Sets:
    """Sets that say at which steps, as they were all knocked out at some.

    Args:
        sets: The sets; those that say so already are left as they are.
        steps: The steps; None for all.
        longest: Number of steps of the longest sequence, by module name, where it is known.
    """
    if steps is None:
        return sets
    known = [
        some
        if some.steps is not None
        else replace(
            some, steps=_positions(steps, [longest.get(key.module) for key in keys_of(some)])
        )
        for some in sets.sets
    ]
    return replace(sets, sets=tuple(known))


def counting_all(sets: Sets, layers: Mapping[str, int], longest: Mapping[str, int]) -> Sets:
    """Single units at single steps, with all left out that there would be in the longest sequence.

    Args:
        sets: The sets, made before the longest sequence was known.
        layers: Numbers of units by layer key.
        longest: Number of steps of the longest sequence, by module name, where it is known.
    """
    modules = {layer: StateKey.parse(layer).module for layer in layers}
    if not all(module in longest for module in modules.values()):
        return sets
    wanted = sum(units * longest[modules[layer]] for layer, units in layers.items())
    return replace(sets, left_out=wanted - len(sets.sets))


def keys_of(some: KnockoutSet) -> list[StateKey]:
    """Keys of the layers of a set."""
    return [StateKey.parse(layer) for layer in some.units]


def check_known(concepts: Concepts, sets: Sets) -> None:
    """Raise a ValueError unless it is known what the concepts of sets ask of a class label."""
    for name in dict.fromkeys(some.concept for some in sets.sets if some.concept is not None):
        if name != JOINT and not is_concept(name, concepts):
            words = concepts if isinstance(concepts, str) else list(concepts)
            raise ValueError(
                f"concepts: got {words!r}, and the relay report has the order of {name!r}; give "
                "the callback concepts= as in the relay analysis, or name others in the selection"
            )


def check_same_units(report: RelayReport, layers: Mapping[str, int]) -> None:
    """Raise a ValueError if a layer has another number of units in a relay report."""
    for layer, units in layers.items():
        if layer not in report.layers:
            continue
        relay = next(iter(report.layers[layer].concepts.values()))
        if relay.units.shape[1] != units:
            raise ValueError(
                f"report: {layer!r} has {relay.units.shape[1]} units in the relay report, and "
                f"{units} in the model; it takes a report of the same model"
            )


_DECIMALS = 9
"""Shares that differ by less are rounding errors, and tied."""

_ERRORS = 2.0
"""Shares that differ by no more standard errors leave the places of their units open."""


@dataclass(frozen=True, eq=False)
class _Order:
    """Units in the orders ``(order, unit)`` in which they are knocked out."""

    layer: str
    concept: str
    direction: str
    units: NDArray[np.int64]
    open_places: frozenset[int] = frozenset()


def _deletions(orders: Sequence[_Order], count: int | None) -> Sets:
    """Sets along orders, of ``count`` sizes besides 0; equal ones stand once."""
    sets: list[KnockoutSet] = []
    known: dict[tuple[str, frozenset[int]], int] = {}
    deletions = []
    for order in orders:
        total = order.units.shape[1]
        sizes = np.arange(total + 1)
        if count is not None and count < total:
            sizes = np.unique(np.linspace(0, total, count + 1).round().astype(np.int64))
        places = np.full((len(order.units), len(sizes)), -1)
        for row, units in enumerate(order.units):
            for column, size in enumerate(sizes[1:], start=1):
                own = (order.layer, frozenset(units[:size].tolist()))
                if own not in known:
                    known[own] = len(sets)
                    sets.append(_first_units(order, row, _plain(units[:size])))
                places[row, column] = known[own]
        deletions.append(
            Deletion(order.layer, order.concept, order.direction, order.units, sizes, places)
        )
    return Sets(tuple(sets), 0, tuple(deletions))


def _first_units(order: _Order, row: int, units: tuple[int, ...]) -> KnockoutSet:
    which = f" {row}" if order.direction == "random_first" else f" of {order.concept}"
    if len(order.units) > 1 and order.direction != "random_first":
        which += f", ties {row}"
    return KnockoutSet(
        f"{order.layer}: {len(units)} {order.direction.replace('_', ' ')}{which}",
        order.direction,
        {order.layer: units},
        concept=order.concept,
        ambiguous=tuple(unit for unit in units if unit in order.open_places),
    )


def _positions(steps: slice | tuple[int, ...], longest: Sequence[int | None]) -> tuple[int, ...]:
    """Positions that steps name in the longest sequence; from the end where they are counted so."""
    if not isinstance(steps, slice):
        return steps
    start, stop = steps.start or 0, steps.stop
    if start < 0 and (stop is None or stop < 0):
        return tuple(range(start, stop or 0, steps.step or 1))
    length = max((own for own in longest if own is not None), default=stop or 0)
    return tuple(range(*steps.indices(length)))


@dataclass(frozen=True, eq=False)
class _Ranking:
    """Units of a layer ranked by what they relay at the step that it computes last.

    Attributes:
        values: Relay shares, or places in the greedy order where shares were not measured, float64
            ``(unit,)``.
        open_places: Units whose places the data leave open.
    """

    values: NDArray[np.float64]
    open_places: frozenset[int]

    @classmethod
    def at_end(cls, report: RelayReport, layer: str, concept: str) -> _Ranking:
        relay = report[layer][concept]
        place = relay.place()
        if relay.share is None or relay.share_error is None:
            open_places = relay.ambiguous[place] | ~relay.resolved[place]
            return cls(relay.places[place], frozenset(np.flatnonzero(open_places).tolist()))
        share, error = relay.share[place].round(_DECIMALS), relay.share_error[place]
        apart = np.abs(share[:, None] - share)
        close = apart <= _ERRORS * np.hypot(error[:, None], error)
        np.fill_diagonal(close, val=False)
        return cls(share, frozenset(np.flatnonzero(close.any(1)).tolist()))

    def least_first(self, generator: np.random.Generator) -> NDArray[np.int64]:
        """Unit indices, the least first, ties broken at random."""
        ties = generator.permutation(len(self.values))
        order: NDArray[np.int64] = np.lexsort((ties, self.values))
        return order


def _shared_layers(report: RelayReport, layers: Mapping[str, int]) -> dict[str, int]:
    shared = {layer: units for layer, units in layers.items() if layer in report.layers}
    if not shared:
        raise ValueError(
            f"report: the relay report has {_listed(report.layers)}, and none of the layers to "
            f"knock out, {_listed(layers)}; analyse these too, with layers= and states="
        )
    check_same_units(report, shared)
    return shared


def _known_concepts(layer: LayerRelay, concepts: Sequence[str]) -> Sequence[str]:
    for concept in concepts:
        if concept not in layer.concepts:
            raise ValueError(
                f"concepts: no concept {concept!r} in the relay report; it has: "
                f"{_listed(layer.concepts)}"
            )
    return concepts


def _plain(units: NDArray[np.int64]) -> tuple[int, ...]:
    return tuple(int(unit) for unit in units)


def _listed(names: Mapping[str, Any]) -> str:
    return ", ".join(map(repr, names))
