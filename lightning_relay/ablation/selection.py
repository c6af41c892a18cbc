"""Options that select which units are knocked out, and at which steps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from lightning_relay.ablation.sets import (
    Sets,
    along_orders,
    check_known,
    check_same_units,
    named_sets,
    random_orders,
    random_sets,
    single_units,
    top_relays,
)
from lightning_relay.knockout.arguments import checked_steps, make_clamps
from lightning_relay.knockout.holding import check_kind
from lightning_relay.reading.concepts import Concepts
from lightning_relay.recurrent.keys import StateKey
from lightning_relay.recurrent.layers import (
    Layers,
    State,
    check_layers,
    check_modules,
    check_states,
    recurrent_layers,
    recurrent_modules,
    wanted_keys,
)

if TYPE_CHECKING:
    from torch import nn

    from lightning_relay.relay.report import RelayReport

Steps = int | Sequence[int] | slice | str | None
"""Steps at which units are held, as ``knocked_out`` takes them; None for all."""

_TRIED = 2
"""Number of sets in the sanity check, which runs one batch or all of each dataloader."""


class Selection(ABC):
    """Which units are knocked out, and at which steps.

    ``follows``: whether the sets follow a relay report.
    """

    steps: Steps
    follows: ClassVar[bool] = False

    @property
    def needs_steps(self) -> bool:
        """Whether the sets depend on the numbers of steps."""
        return False

    @property
    def measured_at(self) -> tuple[int, ...]:
        """Steps at which the relay information of the sets is measured."""
        return ()

    @property
    def held_at(self) -> Any:
        """Steps, as ``knocked_out`` takes them, of sets without steps of their own."""
        return None if self.needs_steps else self.steps

    @abstractmethod
    def layers_in(self, model: nn.Module) -> dict[str, int]:
        """Number of units of each selected layer, by layer key; ValueError for unknown layers."""

    @abstractmethod
    def sets(self, layers: Mapping[str, int], known: Known, seed: int) -> Sets:
        """Sets of units to knock out in ``layers``, the result of ``layers_in``."""

    def tried(self, layers: Mapping[str, int], known: Known, seed: int) -> Sets:
        """Few sets for the sanity check."""
        return single_units(layers, steps=known.steps, max_sets=_TRIED, seed=seed)

    def check(self, model: nn.Module, relay: RelayReport | None, concepts: Concepts | None) -> None:
        """Refuse units that cannot be knocked out, and a relay report of another model."""
        layers = self.layers_in(model)
        names = dict.fromkeys(StateKey.parse(layer).module for layer in layers)
        for name, module in recurrent_modules(model, list(names)).items():
            try:
                check_kind(name, module)
            except ValueError as error:
                raise ValueError(
                    f"{error}. Select others, such as with EveryUnit(modules=…)"
                ) from error
        if relay is not None:
            check_same_units(relay, layers)
            if self.follows:
                self.sets(layers, Known(relay, concepts), 0)


@dataclass(frozen=True, eq=False)
class Known:
    """What is known when sets are made; ``steps`` are numbers of steps by layer key."""

    relay: RelayReport | None = None
    concepts: Concepts | None = None
    steps: Mapping[str, int] | None = None


@dataclass(frozen=True, kw_only=True)
class _OfLayers(Selection):
    modules: Sequence[str] | None = None
    layers: Layers = "last"
    states: Sequence[State] = ("hidden",)

    def __post_init__(self) -> None:
        check_modules(self.modules)
        check_layers(self.layers)
        check_states(self.states)

    def layers_in(self, model: nn.Module) -> dict[str, int]:
        """Number of units of each selected layer, by layer key."""
        units = recurrent_layers(model, self.modules)
        found = {
            str(key): units[str(key)]
            for name, module in recurrent_modules(model, self.modules).items()
            for key in wanted_keys(name, module, self.layers, self.states)
        }
        if not found:
            raise ValueError(
                f"states: got {self.states!r}, and none of {', '.join(map(repr, units))} has such "
                "states; it takes 'hidden', or 'cell' where there is an LSTM"
            )
        return found


@dataclass(frozen=True, kw_only=True)
class _AtSteps(_OfLayers):
    steps: Steps = None
    max_sets: int | None = 256

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_sets is not None:
            check_count("max_sets", self.max_sets, 1)
        if not self.needs_steps:
            checked_steps(self.steps)


@dataclass(frozen=True, kw_only=True)
class EveryUnit(_AtSteps):
    """Every unit alone.

    Attributes:
        modules: Dotted names of the recurrent modules; default: all.
        layers: The ``"last"`` layer of each module, or ``"all"``.
        states: ``"hidden"`` states, ``"cell"`` states of LSTMs, or both.
        steps: Steps at which the units are held, as ``knocked_out`` takes them; default: all.
            ``"each"`` knocks out every unit at every single step.
        max_sets: Maximum number of sets; None for no limit. Above it, a random sample of the sets
            is run, and the report counts the others.
    """

    @property
    def needs_steps(self) -> bool:
        """Whether every unit is knocked out at every step."""
        return self.steps == "each"

    def sets(self, layers: Mapping[str, int], known: Known, seed: int) -> Sets:
        """Sets of units to knock out."""
        return single_units(layers, steps=known.steps, max_sets=self.max_sets, seed=seed)


@dataclass(frozen=True, kw_only=True)
class _Following(_AtSteps):
    steps: Steps = -1
    concepts: Sequence[str] | None = None
    n_random: int = 5
    follows: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("n_random", self.n_random, 1)
        if isinstance(self.concepts, str):
            raise TypeError(f"concepts: got the string {self.concepts!r}; it takes a list of names")

    @property
    @abstractmethod
    def _choose(self) -> Callable[..., Sets]:
        """Function that makes sets from a relay report, such as ``along_orders``."""

    def sets(self, layers: Mapping[str, int], known: Known, seed: int) -> Sets:
        """Sets of units to knock out."""
        if self.steps is not None and known.relay is not None:
            self._check_calls(layers, known.relay)
        found = self._choose(
            known.relay,
            layers,
            concepts=self.concepts,
            n_random=self.n_random,
            max_sets=self.max_sets,
            seed=seed,
        )
        check_known(known.concepts, found)
        return found

    def _check_calls(self, layers: Mapping[str, int], relay: RelayReport) -> None:
        """Refuse steps of modules whose calls were not all analysed as they are held."""
        name = type(self).__name__
        for layer in layers:
            calls = relay.calls.get(StateKey.parse(layer).module)
            if calls is not None and layer in relay.layers:
                raise ValueError(
                    f"steps: got {self.steps!r}, which {name} counts in every call of {layer!r}, "
                    f"and the relay report is of other steps (calls in a step: {calls}). Take "
                    f"{name}(steps=None), which holds units in all steps of all calls, or select "
                    f"other modules with {name}(modules=…)"
                )


@dataclass(frozen=True, kw_only=True)
class AlongOrder(_Following):
    """One unit after the other: largest relay share first, smallest first, and in random orders.

    Shares are those of the newest relay report at the last step; where it has none, its greedy
    order is followed. Ties are broken at random, in ``n_random`` orders.

    Attributes:
        concepts: Concepts of the relay report whose orders are followed; default: the first.
        n_random: Number of random orders of each layer, for comparison.
        modules: Dotted names of the recurrent modules; default: all.
        layers: The ``"last"`` layer of each module, or ``"all"``.
        states: ``"hidden"`` states, ``"cell"`` states of LSTMs, or both.
        steps: Steps at which the units are held, as ``knocked_out`` takes them; default: the last,
            whose shares rank the units. None: all steps.
        max_sets: Maximum number of sets; None for no limit. Above it, fewer numbers of units are
            run, and the report counts the sets left out.
    """

    @property
    def _choose(self) -> Callable[..., Sets]:
        return along_orders


@dataclass(frozen=True)
class TopUnits(_Following):
    """The units with the largest relay shares of each concept, and random sets of the same size.

    Shares are those of the newest relay report at the last step; where it has none, the last units
    of its greedy order are taken. Ties are broken at random.

    Attributes:
        top: Number of units in each set.
        concepts: Concepts of the relay report; default: all.
        n_random: Number of random sets for each concept, for comparison.
        modules: Dotted names of the recurrent modules; default: all.
        layers: The ``"last"`` layer of each module, or ``"all"``.
        states: ``"hidden"`` states, ``"cell"`` states of LSTMs, or both.
        steps: Steps at which the units are held, as ``knocked_out`` takes them; default: the last,
            whose shares rank the units. None: all steps.
        max_sets: Maximum number of sets; None for no limit. Above it, fewer random sets are run,
            and the report counts those left out.
    """

    top: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("top", self.top, 1)

    @property
    def _choose(self) -> Callable[..., Sets]:
        return partial(top_relays, top=self.top)


@dataclass(frozen=True, kw_only=True)
class _AtOneStep(_OfLayers):
    """Random sets that are each held at one step, with their relay information."""

    step: int | Sequence[int] = -1
    n_bootstraps: int = 100

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("n_bootstraps", self.n_bootstraps, 0)
        steps = [self.step] if not isinstance(self.step, Sequence) else self.step
        if not steps or any(isinstance(own, bool) or not isinstance(own, int) for own in steps):
            raise TypeError(f"step: got {self.step!r}; it takes a step index or a list of them")
        if len(set(steps)) < len(steps):
            raise ValueError(f"step: got {self.step!r}; it takes different steps")

    @property
    def measured_at(self) -> tuple[int, ...]:
        """Steps at which the relay information of the sets is measured."""
        return (self.step,) if isinstance(self.step, int) else tuple(self.step)

    @property
    def steps(self) -> Steps:  # type: ignore[override]
        """Steps at which sets are held."""
        return self.measured_at

    def check(self, model: nn.Module, relay: RelayReport | None, concepts: Concepts | None) -> None:
        """Refuse units that cannot be knocked out, and sizes and numbers that do not fit."""
        super().check(model, relay, concepts)
        self.sets(self.layers_in(model), Known(relay, concepts), 0)


@dataclass(frozen=True, kw_only=True)
class RandomSets(_AtOneStep):
    """Random sets of units of all sizes, each held at one step, with their relay information.

    They test whether relay information predicts damage: both are measured for the same sets, at the
    same step and on the same sequences. See ``DamagePrediction``. Each layer and step has one more
    set, of all units; every unit's share of the damage by all of them is estimated.

    Attributes:
        n: Number of sets of each layer and step, at least 8. Shares of the damage and their
            intervals take 5 or more for each unit of the layer, 8 in a layer of few units.
        step: Step at which the units are held, or several steps, each with sets of its own. A
            negative step counts back from the end: -1 is the last.
        sizes: Numbers of units in a set, about equally frequent. Default: 1 to all but one.
        n_bootstraps: Number of resamples of sets and sequences for intervals; 0 for no intervals.
        modules: Dotted names of the recurrent modules; default: all.
        layers: The ``"last"`` layer of each module, or ``"all"``.
        states: ``"hidden"`` states, ``"cell"`` states of LSTMs, or both. With both, the hidden and
            the cell state of a unit are held together, and information is that of the cell states.
    """

    n: int = 200
    sizes: Sequence[int] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("n", self.n, 8)
        if self.sizes is not None:
            if not isinstance(self.sizes, Sequence):
                raise TypeError(f"sizes: got {self.sizes!r}; it takes a list of numbers of units")
            sizes = list(self.sizes)
            if not sizes:
                raise ValueError("sizes: got none; it takes numbers of units from 1")
            for size in sizes:
                check_count("sizes", size, 1)

    def sets(self, layers: Mapping[str, int], known: Known, seed: int) -> Sets:
        """Sets of units to knock out."""
        return random_sets(layers, self.n, self.measured_at, self.sizes, seed)

    def tried(self, layers: Mapping[str, int], known: Known, seed: int) -> Sets:
        """Few sets for the sanity check."""
        return random_sets(layers, _TRIED, self.measured_at, self.sizes, seed)


@dataclass(frozen=True, kw_only=True)
class RandomOrders(_AtOneStep):
    """Units held one after the other in random orders, for every unit's share of the damage.

    The share is the unit's Shapley value: the mean of what the damage grows by when the unit is
    held after those before it. Orders come in pairs, an order and its reverse: then units that
    stand in for each other in twos share exactly. The first units of an order are random sets of
    all sizes, so relay information is measured and compared as with ``RandomSets``. See
    ``DamagePrediction``. The estimate has no bias. It is more precise than that of as many
    ``RandomSets`` where units stand in for each other in twos, and less where damage saturates.

    Attributes:
        n: Number of orders of each layer and step, an even number. An order of u units takes u − 1
            sets, and all units one more.
        step: Step at which the units are held, or several steps, each with orders of its own. A
            negative step counts back from the end: -1 is the last.
        max_sets: Maximum number of sets; None for no limit. Above it, fewer orders are run, two or
            more of each layer and step, and the report counts the sets left out.
        n_bootstraps: Number of resamples of orders and sequences for intervals; 0 for no intervals.
            With few orders they are too narrow: of 16 orders, they held 85 % to 100 % of exact
            values (``benchmarks/damage_shares.py``).
        modules: Dotted names of the recurrent modules; default: all.
        layers: The ``"last"`` layer of each module, or ``"all"``.
        states: ``"hidden"`` states, ``"cell"`` states of LSTMs, or both. With both, the hidden and
            the cell state of a unit are held together, and information is that of the cell states.

    Source:
        Fakhar and Hilgetag, PLoS Computational Biology 18(6):e1010250 (2022).
    """

    n: int = 20
    max_sets: int | None = 512

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("n", self.n, 2)
        if self.n % 2:
            raise ValueError(f"n: got {self.n}; it takes an even number, an order and its reverse")
        if self.max_sets is not None:
            check_count("max_sets", self.max_sets, 1)

    def sets(self, layers: Mapping[str, int], known: Known, seed: int) -> Sets:
        """Sets of units to knock out."""
        return random_orders(layers, self.n, self.measured_at, self.max_sets, seed)

    def tried(self, layers: Mapping[str, int], known: Known, seed: int) -> Sets:
        """Few sets for the sanity check."""
        return random_sets(layers, _TRIED, self.measured_at, None, seed)


@dataclass(frozen=True)
class NamedSets(Selection):
    """Sets of the user's own.

    Attributes:
        units: For each set, by name, the unit indices by layer key, such as
            ``{"pair": {"rnn.l0": [3, 5]}}``.
        steps: Steps at which the units are held, as ``knocked_out`` takes them; default: all.
    """

    units: Mapping[str, Mapping[str, Sequence[int] | int]]
    steps: Steps = None

    def __post_init__(self) -> None:
        takes = "it takes sets by name such as {'first two': {'rnn.l0': [0, 1]}}"
        if not isinstance(self.units, Mapping) or not self.units:
            raise TypeError(f"units: got {self.units!r}; {takes}")
        for name, own in self.units.items():
            if not isinstance(name, str) or not isinstance(own, Mapping) or not own:
                raise TypeError(f"units: got {name!r}: {own!r}; {takes}")
        checked_steps(self.steps)

    def layers_in(self, model: nn.Module) -> dict[str, int]:
        """Number of units of each selected layer, by layer key."""
        for own in self.units.values():
            make_clamps(model, own)  # checks names and indices
        named = dict.fromkeys(layer for own in self.units.values() for layer in own)
        modules = list(dict.fromkeys(StateKey.parse(layer).module for layer in named))
        layers = recurrent_layers(model, modules)
        return {layer: layers[layer] for layer in named}

    def sets(self, layers: Mapping[str, int], known: Known, seed: int) -> Sets:
        """Sets of units to knock out."""
        return named_sets(self.units)

    def tried(self, layers: Mapping[str, int], known: Known, seed: int) -> Sets:
        """Few sets for the sanity check."""
        return Sets(named_sets(self.units).sets[:_TRIED])


def check_count(name: str, count: Any, least: int) -> None:
    """Raise a ValueError unless a count is an integer of ``least`` or more."""
    if isinstance(count, bool) or not isinstance(count, int) or count < least:
        raise ValueError(f"{name}: got {count!r}; it takes at least {least}")
