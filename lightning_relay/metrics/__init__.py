"""Relay information and relay shares as metrics of torchmetrics, for a step of one's own."""

from lightning_relay.metrics.relay_information import RelayInformation
from lightning_relay.metrics.relay_share import RelayShare

__all__ = ["RelayInformation", "RelayShare"]
