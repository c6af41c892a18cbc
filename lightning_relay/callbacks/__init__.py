"""Lightning callbacks."""

from lightning_relay.callbacks.knockout import KnockoutCallback
from lightning_relay.callbacks.relay_information import RelayInformationCallback

__all__ = ["KnockoutCallback", "RelayInformationCallback"]
