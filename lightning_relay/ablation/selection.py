"""Which units are knocked out, and when: options, and the sets that they make."""

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
    single_units,
    top_relays,
)
from lightning_relay.knockout.arguments import checked_steps, make_clamps
from lightning_relay.knockout.holding import check_kind
from lightning_relay.reading.concepts import JOINT, Concepts
from lightning_relay.recurrent.layers import (
    Layers,
    State,
    StateKey,
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
"""When units are held, as of ``knocked_out``; None for always."""

_TRIED = 2
"""The sanity check runs so many sets, on one batch of each dataloader."""


class Selection(ABC):
    """Which units are knocked out, and when.

    Attributes:
        steps: When the units are held, as of ``knocked_out``; None for always.
        follows: Whether the sets follow the orders of a relay report.
    """

    steps: Steps
    follows: ClassVar[bool] = False

    @property
    def needs_steps(self) -> bool:
        """Whether the sets depend on the numbers of steps."""
        return False

    @property
    def held_at(self) -> Any:
        """When sets that do not say so themselves are held, as of ``knocked_out``."""
        return None if self.needs_steps else self.steps

    @abstractmethod
    def layers_in(self, model: nn.Module) -> dict[str, int]:
        """Numbers of units of the layers of which units are knocked out, by key.

        Raises:
            ValueError: If the model does not have them.
        """

    @abstractmethod
    def sets(self, layers: Mapping[str, int], known: Known, seed: int) -> Sets:
        """What is knocked out.

        Args:
            layers: What ``layers_in`` gave.
            known: What else is known by then.
            seed: Seed of what is drawn.
        """

    def tried(self, layers: Mapping[str, int], known: Known, seed: int) -> Sets:
        """The few sets of a sanity check; arguments as of ``sets``."""
        return single_units(layers, steps=known.steps, max_sets=_TRIED, seed=seed)

    def check(self, model: nn.Module, relay: RelayReport | None, concepts: Concepts) -> None:
        """Raise an error unless the units can be knocked out and a relay report is of the model."""
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
    """What is known when sets are made.

    Attributes:
        relay: The relay report whose orders are followed.
        concepts: Concepts whose accuracies are measured.
        steps: Numbers of steps by layer key.
    """

    relay: RelayReport | None = None
    concepts: Concepts = JOINT
    steps: Mapping[str, int] | None = None


@dataclass(frozen=True, kw_only=True)
class _OfLayers(Selection):
    modules: Sequence[str] | None = None
    layers: Layers = "last"
    states: Sequence[State] = ("hidden",)
    steps: Steps = None
    max_sets: int | None = 256

    def __post_init__(self) -> None:
        check_modules(self.modules)
        check_layers(self.layers)
        check_states(self.states)
        if self.max_sets is not None:
            check_count("max_sets", self.max_sets, 1)
        if not self.needs_steps:
            checked_steps(self.steps)

    def layers_in(self, model: nn.Module) -> dict[str, int]:
        """Numbers of units of the layers of which units are knocked out, by key."""
        units = recurrent_layers(model, self.modules)
        found = {
            str(key): units[str(key)]
            for name, module in recurrent_modules(model, self.modules).items()
            for key in wanted_keys(name, module, self.layers, self.states)
        }
        if not found:
            raise ValueError(
                f"states: got {self.states!r}, and none of {', '.join(map(repr, units))} is of "
                "such states; it takes 'hidden', or 'cell' where there is an LSTM"
            )
        return found


@dataclass(frozen=True, kw_only=True)
class EveryUnit(_OfLayers):
    """Every unit alone.

    Attributes:
        modules: Dotted names of the recurrent modules; default: all there are.
        layers: The ``"last"`` layer of each module, or ``"all"``.
        states: ``"hidden"`` states, ``"cell"`` states of LSTMs, or both.
        steps: When the units are held, as of ``knocked_out``; default: always. ``"each"``: every
            unit at every step.
        max_sets: Number of sets at most, None for any. Of more a fair sample is taken; those left
            out are counted.
    """

    @property
    def needs_steps(self) -> bool:
        """Whether every unit is knocked out at every step."""
        return self.steps == "each"

    def sets(self, layers: Mapping[str, int], known: Known, seed: int) -> Sets:
        """What is knocked out."""
        return single_units(layers, steps=known.steps, max_sets=self.max_sets, seed=seed)


@dataclass(frozen=True, kw_only=True)
class _Following(_OfLayers):
    concepts: Sequence[str] | None = None
    n_random: int = 5
    follows: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("n_random", self.n_random, 1)
        if isinstance(self.concepts, str):
            raise TypeError(f"concepts: got the string {self.concepts!r}; it takes a list")

    @property
    @abstractmethod
    def _choose(self) -> Callable[..., Sets]:
        """Makes sets of a relay report, as ``along_orders``."""

    def sets(self, layers: Mapping[str, int], known: Known, seed: int) -> Sets:
        """What is knocked out."""
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


@dataclass(frozen=True, kw_only=True)
class AlongOrder(_Following):
    """One unit after the other along the newest relay order, from both ends and in random orders.

    The order is that of the last step.

    Attributes:
        concepts: Concepts of the relay report whose orders are followed; default: the first.
        n_random: Number of random orders of each layer, for comparison.
        modules: As of ``EveryUnit``, like ``layers``, ``states`` and ``steps`` (but not
            ``"each"``).
        max_sets: Number of sets at most, None for any. Of more, fewer numbers of units are taken;
            those left out are counted.
    """

    @property
    def _choose(self) -> Callable[..., Sets]:
        return along_orders


@dataclass(frozen=True)
class TopUnits(_Following):
    """The units that relay most of each concept at the last step, and as many drawn at random.

    Attributes:
        top: Number of units of a set.
        concepts: Concepts of the relay report; default: all.
        n_random: Number of random sets for each concept, for comparison.
        modules: As of ``EveryUnit``, like ``layers``, ``states`` and ``steps`` (but not
            ``"each"``).
        max_sets: Number of sets at most, None for any. Where these are more, there are fewer random
            sets; those left out are counted.
    """

    top: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("top", self.top, 1)

    @property
    def _choose(self) -> Callable[..., Sets]:
        return partial(top_relays, top=self.top)


@dataclass(frozen=True)
class NamedSets(Selection):
    """Sets of the user's own.

    Attributes:
        units: Unit indices by layer key, by name of the set, such as
            ``{"pair": {"rnn.l0": [3, 5]}}``.
        steps: When the units are held, as of ``knocked_out``; default: always.
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
        """Numbers of units of the layers of which units are knocked out, by key."""
        for own in self.units.values():
            make_clamps(model, own)  # checks names and indices
        layers = recurrent_layers(model)
        return {layer: layers[layer] for own in self.units.values() for layer in own}

    def sets(self, layers: Mapping[str, int], known: Known, seed: int) -> Sets:
        """What is knocked out."""
        return named_sets(self.units)

    def tried(self, layers: Mapping[str, int], known: Known, seed: int) -> Sets:
        """The few sets of a sanity check."""
        return Sets(named_sets(self.units).sets[:_TRIED])


def check_count(name: str, count: Any, least: int) -> None:
    """Raise a ValueError unless a count is an integer of at least so many."""
    if isinstance(count, bool) or not isinstance(count, int) or count < least:
        raise ValueError(f"{name}: got {count!r}; it takes at least {least}")
