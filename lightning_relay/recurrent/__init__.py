"""The recurrent modules of a model: their layers, their states and recordings of them."""

from lightning_relay.recurrent.adapters import register_recurrent, register_recurrent_stack
from lightning_relay.recurrent.layers import StateKey, recurrent_layers, recurrent_modules
from lightning_relay.recurrent.recorder import HiddenStateRecorder
from lightning_relay.recurrent.states import HiddenStates
from lightning_relay.recurrent.torchrecurrent import register_torchrecurrent

__all__ = [
    "HiddenStateRecorder",
    "HiddenStates",
    "StateKey",
    "recurrent_layers",
    "recurrent_modules",
    "register_recurrent",
    "register_recurrent_stack",
    "register_torchrecurrent",
]
