"""Relay information of discrete states: integers in, bits out."""

from lightning_relay.information.bootstrapping import BootstrapIntervals, bootstrap
from lightning_relay.information.decoding import decoded_information
from lightning_relay.information.entropy import distinct_states, entropy
from lightning_relay.information.estimators import Estimator, SetEstimator
from lightning_relay.information.mutual_information import mutual_information
from lightning_relay.information.ordering import Direction, RelayOrder, relay_order
from lightning_relay.information.permutation import ChanceLevel, chance_level
from lightning_relay.information.relay import relay_information
from lightning_relay.information.share import RelayShare, relay_share
from lightning_relay.information.subsets import relay_information_of_all_subsets

__all__ = [
    "BootstrapIntervals",
    "ChanceLevel",
    "Direction",
    "Estimator",
    "RelayOrder",
    "RelayShare",
    "SetEstimator",
    "bootstrap",
    "chance_level",
    "decoded_information",
    "distinct_states",
    "entropy",
    "mutual_information",
    "relay_information",
    "relay_information_of_all_subsets",
    "relay_order",
    "relay_share",
]
