"""Sets of units that are knocked out together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from lightning_relay.ablation.report import KnockoutSet
from lightning_relay.knockout.arguments import as_list
from lightning_relay.reading.concepts import JOINT, Concepts, is_concept
from lightning_relay.recurrent.keys import StateKey

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from lightning_relay.knockout.clamps import Steps
    from lightning_relay.relay.report import LayerRelay, RelayReport


@dataclass(frozen=True, eq=False)
class Deletion:
    """Orders in which units of a layer are knocked out, with the fields of ``DeletionCurve``.

    ``places``, int64 ``(order, size)``: index of each set among all; -1 for the empty set.
    """

    layer: str
    concept: str
    direction: str
    units: NDArray[np.int64]
    sizes: NDArray[np.int64]
    places: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Sets:
    """Sets to knock out, the number of selected sets left out, and the orders they follow."""

    sets: tuple[KnockoutSet, ...]
    left_out: int = 0
    deletions: tuple[Deletion, ...] = ()
    in_orders: bool = False


def single_units(
    layers: Mapping[str, int],
    *,
    steps: Mapping[str, int] | None = None,
    max_sets: int | None = None,
    seed: int = 0,
) -> Sets:
    """Every unit alone, at every single step if numbers of steps are given by layer key.

    ``layers`` are numbers of units by layer key. Above ``max_sets``, a random sample is taken.
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


def random_sets(
    layers: Mapping[str, int], n: int, steps: Sequence[int], sizes: Sequence[int] | None, seed: int
) -> Sets:
    """Random sets as ``RandomSets`` explains them, ``n`` of each layer and step, and all units."""
    generator = np.random.default_rng(seed)
    found = []
    for keys, number in _units_together(layers):
        wanted = list(range(1, number)) if sizes is None else list(sizes)
        if not wanted or max(wanted) > number:
            raise ValueError(
                f"sizes: got {sizes!r}; {keys[0]!r} has {number} units, so it takes numbers from 1 "
                f"to {number}" + " (a layer of one unit has no set by default)" * (number == 1)
            )
        for step in steps:
            drawn = np.resize(generator.permutation(np.resize(wanted, max(n, len(wanted)))), n)
            for place, size in enumerate(drawn.tolist()):
                own = np.sort(generator.choice(number, size, replace=False)).tolist()
                name = f"random {place} of {size}"
                found.append(_held_together(name, "random", keys, own, step))
            found.append(_held_together("all units", "all", keys, range(number), step))
    return Sets(tuple(found))


def random_orders(
    layers: Mapping[str, int], n: int, steps: Sequence[int], max_sets: int | None, seed: int
) -> Sets:
    """Random orders as ``RandomOrders`` explains them, ``n`` of each layer and step.

    The sets of a layer and step are the first 1, 2, … units of the first order, all but one, then
    those of its reverse, then those of the next order; and at last all units.
    """
    generator = np.random.default_rng(seed)
    places = [(keys, number, step) for keys, number in _units_together(layers) for step in steps]
    for keys, number, _ in places:
        if number == 1:
            raise ValueError(f"layers: {keys[0]!r} has one unit, which has no order; take others")
    along = sum(number - 1 for _, number, _ in places)
    each = n if max_sets is None else min(n, (max_sets - len(places)) // along // 2 * 2)
    if each < 1:
        raise ValueError(
            f"max_sets: got {max_sets}; an order and its reverse take {2 * along + len(places)} "
            "sets; raise it, or take fewer layers or steps"
        )
    found = []
    for keys, number, step in places:
        for row in range(0, each, 2):
            order = generator.permutation(number)
            for place, units in ((row, order), (row + 1, order[::-1])):
                for size in range(1, number):
                    own = np.sort(units[:size]).tolist()
                    name = f"first {size} of random order {place}"
                    found.append(_held_together(name, "random", keys, own, step))
        found.append(_held_together("all units", "all", keys, range(number), step))
    return Sets(tuple(found), (n - each) * along, in_orders=True)


def _units_together(layers: Mapping[str, int]) -> list[tuple[list[str], int]]:
    """Keys that are held together, and their number of units."""
    found = []
    for keys in together(layers).values():
        units = {layers[key] for key in keys}
        if len(units) > 1:
            raise ValueError(
                f"states: got {' and '.join(map(repr, keys))}, which have "
                f"{' and '.join(str(layers[key]) for key in keys)} units and cannot be held "
                "together; name one of 'hidden' and 'cell'"
            )
        found.append((keys, units.pop()))
    return found


def _held_together(
    name: str, group: str, keys: Sequence[str], units: Iterable[int], step: int
) -> KnockoutSet:
    own = tuple(units)
    return KnockoutSet(f"{keys[0]}: {name} @{step}", group, dict.fromkeys(keys, own), (step,))


def together(layers: Iterable[str]) -> dict[StateKey, list[str]]:
    """Keys of the hidden and the cell state of the same layer and direction, by the first."""
    found: dict[StateKey, list[str]] = {}
    for layer in layers:
        key = StateKey.parse(layer)
        found.setdefault(replace(key, cell=False), []).append(layer)
    return found


def named_sets(units: Mapping[str, Mapping[str, Sequence[int] | int]]) -> Sets:
    """Sets of the user's own, by name; units as ``knocked_out`` takes them."""
    sets = []
    for name, own in units.items():
        listed = {layer: tuple(map(int, as_list(some) or ())) for layer, some in own.items()}
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
    """Sets as ``AlongOrder`` explains them; layers that the report does not have are skipped.

    Above ``max_sets``, evenly spaced numbers of units are taken.
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
            f"max_sets: got {max_sets}; {len(orders)} orders take at least {len(thinned.sets)} "
            "sets; raise it, or take fewer concepts or random orders"
        )
    while len((more := _deletions(orders, count + 1)).sets) <= max_sets:  # orders share sets
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
    """Sets as ``TopUnits`` explains them; layers that the report does not have are skipped."""
    generator = np.random.default_rng(seed)
    tops: list[KnockoutSet] = []
    random: list[list[KnockoutSet]] = []
    for layer, units in _shared_layers(report, layers).items():
        if top > units:
            raise ValueError(f"top: got {top}; it takes at most {units}, the units of {layer!r}")
        found = report.layers[layer]
        for concept in _known_concepts(found, concepts or list(found.concepts)):
            ranking = _Ranking.at_end(report, layer, concept)
            own = tuple(ranking.least_first(generator)[::-1][:top].tolist())
            ambiguous = tuple(unit for unit in own if unit in ranking.open_places)
            name = f"{layer}: top {top} of {concept}"
            tops.append(KnockoutSet(name, "concept", {layer: own}, None, concept, ambiguous))
            drawn = [np.sort(generator.choice(units, top, replace=False)) for _ in range(n_random)]
            random.append(
                [
                    KnockoutSet(
                        f"{layer}: random {number} of {concept}",
                        "concept_random",
                        {layer: tuple(own.tolist())},
                        concept=concept,
                    )
                    for number, own in enumerate(drawn)
                ]
            )
    each = n_random if max_sets is None else min(n_random, (max_sets - len(tops)) // len(tops))
    if each < min(n_random, 1):
        raise ValueError(
            f"max_sets: got {max_sets}; {len(tops)} concepts and layers with one random set each "
            f"take {2 * len(tops)} sets; raise it, or take fewer concepts"
        )
    sets = [
        some for own, others in zip(tops, random, strict=True) for some in (own, *others[:each])
    ]
    return Sets(tuple(sets), (n_random - each) * len(tops))


def at_steps(sets: Sets, steps: Steps, longest: Mapping[str, int]) -> Sets:
    """Write ``steps`` into the sets without steps of their own; None: all steps, no change.

    ``longest`` is the number of steps of the longest sequence, by module name, where it is known.
    """
    if steps is None:
        return sets
    known = []
    for some in sets.sets:
        lengths = [longest.get(key.module) for key in keys_of(some)]
        positions = _positions(steps, lengths) if some.steps is None else some.steps
        known.append(replace(some, steps=positions))
    return replace(sets, sets=tuple(known))


def counting_all(sets: Sets, layers: Mapping[str, int], longest: Mapping[str, int]) -> Sets:
    """Count as left out all single units at single steps of the longest sequence without a set.

    The sets were made before the longest sequence was known; ``longest`` is its number of steps by
    module name.
    """
    modules = {layer: StateKey.parse(layer).module for layer in layers}
    if not all(module in longest for module in modules.values()):
        return sets
    wanted = sum(units * longest[modules[layer]] for layer, units in layers.items())
    return replace(sets, left_out=wanted - len(sets.sets))


def keys_of(some: KnockoutSet) -> list[StateKey]:
    """Keys of the layers of a set."""
    return [StateKey.parse(layer) for layer in some.units]


def check_known(concepts: Concepts | None, sets: Sets) -> None:
    """Raise a ValueError if a set follows a concept that the callback does not measure."""
    for name in dict.fromkeys(some.concept for some in sets.sets if some.concept is not None):
        if name != JOINT and not is_concept(name, concepts):
            words = list(concepts) if isinstance(concepts, Mapping) else concepts or JOINT
            raise ValueError(
                f"concepts: got {words!r}, but the selection follows {name!r} of the relay report; "
                "give the callback concepts= of the relay analysis, or name others in the selection"
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
"""Shares are rounded to this many decimals, so that rounding errors are ties."""

_ERRORS = 2.0
"""Two shares within this many standard errors leave the places of their units open."""


@dataclass(frozen=True, eq=False)
class _Order:
    """Orders ``(order, unit)`` in which units are knocked out."""

    layer: str
    concept: str
    direction: str
    units: NDArray[np.int64]
    open_places: frozenset[int] = frozenset()


def _deletions(orders: Sequence[_Order], count: int | None) -> Sets:
    """Sets along orders, of ``count`` sizes besides 0, or of all; equal sets are listed once."""
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
                    sets.append(_first_units(order, row, tuple(units[:size].tolist())))
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
    """Positions of ``steps`` in the longest sequence; negative ones count from the end."""
    if not isinstance(steps, slice):
        return steps
    start, stop = steps.start or 0, steps.stop
    if start < 0 and (stop is None or stop < 0):
        return tuple(range(start, stop or 0, steps.step or 1))
    length = max((own for own in longest if own is not None), default=stop or 0)
    return tuple(range(*steps.indices(length)))


@dataclass(frozen=True, eq=False)
class _Ranking:
    """Units of a layer ranked at the step that it computes last.

    ``values``, float64 ``(unit,)``: relay shares, or places in the greedy order where shares were
    not measured. ``open_places``: units whose places in the ranking the data leave open.
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


def _listed(names: Mapping[str, Any]) -> str:
    return ", ".join(map(repr, names))
