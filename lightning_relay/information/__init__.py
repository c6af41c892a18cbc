"""Relay information of discrete states: pure tensors in, bits out."""

from lightning_relay.information.entropy import distinct_states, entropy
from lightning_relay.information.estimators import Estimator
from lightning_relay.information.mutual_information import mutual_information
from lightning_relay.information.ordering import Direction, RelayOrder, relay_order
from lightning_relay.information.relay import relay_information

__all__ = [
    "Direction",
    "Estimator",
    "RelayOrder",
    "distinct_states",
    "entropy",
    "mutual_information",
    "relay_information",
    "relay_order",
]
