"""What PyTorch's recurrent modules are and do: their layers, states and recordings."""

from lightning_relay.recurrent.adapters import register_recurrent
from lightning_relay.recurrent.buffer import SequenceBuffer
from lightning_relay.recurrent.kept import KeptStates
from lightning_relay.recurrent.layers import StateKey, recurrent_layers, recurrent_modules
from lightning_relay.recurrent.recorder import HiddenStateRecorder
from lightning_relay.recurrent.states import HiddenStates

__all__ = [
    "HiddenStateRecorder",
    "HiddenStates",
    "KeptStates",
    "SequenceBuffer",
    "StateKey",
    "recurrent_layers",
    "recurrent_modules",
    "register_recurrent",
]
