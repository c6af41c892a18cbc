"""Relay information of discrete states: integers in, bits out.

A name is loaded when it is first used, so that options need neither torch nor numba.
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
    from lightning_relay.information.measures import mutual_information as mutual_information
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
    from lightning_relay.information.transfer import RelayTransfer as RelayTransfer
    from lightning_relay.information.transfer import relay_transfer as relay_transfer

_HOMES = {
    name: f"{__name__}.{module}"
    for module, names in {
        "bootstrapping": ["BootstrapIntervals", "bootstrap"],
        "decoding": ["decoded_information"],
        "discretization": ["discretize"],
        "measures": ["distinct_states", "entropy", "mutual_information", "relay_information"],
        "options": ["Direction", "Estimator", "RelayMeasure", "SetEstimator"],
        "ordering": ["RelayOrder", "relay_order"],
        "permutation": ["ChanceLevel", "chance_level"],
        "share": ["RelayShare", "relay_share"],
        "subsets": ["relay_information_of_all_subsets"],
        "transfer": ["RelayTransfer", "relay_transfer"],
    }.items()
    for name in names
}

__all__ = sorted(_HOMES)
__getattr__ = loaded_when_used(__name__, _HOMES)


def __dir__() -> list[str]:
    return __all__
