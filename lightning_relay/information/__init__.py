"""Relay information of discrete states: integers in, bits out.

The names are loaded when they are first used: options need neither torch nor numba.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightning_relay.lazy import loaded_when_used

if TYPE_CHECKING:
    from lightning_relay.information.bootstrapping import BootstrapIntervals as BootstrapIntervals
    from lightning_relay.information.bootstrapping import bootstrap as bootstrap
    from lightning_relay.information.decoding import decoded_information as decoded_information
    from lightning_relay.information.discretization import discretize as discretize
    from lightning_relay.information.measures import distinct_states as distinct_states
    from lightning_relay.information.measures import entropy as entropy
    from lightning_relay.information.measures import (
        mutual_information as mutual_information,
    )
    from lightning_relay.information.measures import relay_information as relay_information
    from lightning_relay.information.options import Direction as Direction
    from lightning_relay.information.options import Estimator as Estimator
    from lightning_relay.information.options import RelayMeasure as RelayMeasure
    from lightning_relay.information.options import SetEstimator as SetEstimator
    from lightning_relay.information.ordering import RelayOrder as RelayOrder
    from lightning_relay.information.ordering import relay_order as relay_order
    from lightning_relay.information.permutation import ChanceLevel as ChanceLevel
    from lightning_relay.information.permutation import chance_level as chance_level
    from lightning_relay.information.share import RelayShare as RelayShare
    from lightning_relay.information.share import relay_share as relay_share
    from lightning_relay.information.subsets import (
        relay_information_of_all_subsets as relay_information_of_all_subsets,
    )

_HOMES = {
    "BootstrapIntervals": "lightning_relay.information.bootstrapping",
    "ChanceLevel": "lightning_relay.information.permutation",
    "Direction": "lightning_relay.information.options",
    "Estimator": "lightning_relay.information.options",
    "RelayMeasure": "lightning_relay.information.options",
    "RelayOrder": "lightning_relay.information.ordering",
    "RelayShare": "lightning_relay.information.share",
    "SetEstimator": "lightning_relay.information.options",
    "bootstrap": "lightning_relay.information.bootstrapping",
    "chance_level": "lightning_relay.information.permutation",
    "decoded_information": "lightning_relay.information.decoding",
    "discretize": "lightning_relay.information.discretization",
    "distinct_states": "lightning_relay.information.measures",
    "entropy": "lightning_relay.information.measures",
    "mutual_information": "lightning_relay.information.measures",
    "relay_information": "lightning_relay.information.measures",
    "relay_information_of_all_subsets": "lightning_relay.information.subsets",
    "relay_order": "lightning_relay.information.ordering",
    "relay_share": "lightning_relay.information.share",
}

__all__ = sorted(_HOMES)
__getattr__ = loaded_when_used(__name__, _HOMES)


def __dir__() -> list[str]:
    return __all__
