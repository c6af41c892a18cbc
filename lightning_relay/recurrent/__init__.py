"""The recurrent modules of a model: their layers, their states and recordings of them.

A name is loaded when it is first used, so that names of layers can be read without torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightning_relay.lazy import loaded_when_used

if TYPE_CHECKING:
    from lightning_relay.recurrent.adapters import register_recurrent as register_recurrent
    from lightning_relay.recurrent.adapters import (
        register_recurrent_stack as register_recurrent_stack,
    )
    from lightning_relay.recurrent.keys import StateKey as StateKey
    from lightning_relay.recurrent.layers import recurrent_layers as recurrent_layers
    from lightning_relay.recurrent.layers import recurrent_modules as recurrent_modules
    from lightning_relay.recurrent.recorder import HiddenStateRecorder as HiddenStateRecorder
    from lightning_relay.recurrent.states import HiddenStates as HiddenStates
    from lightning_relay.recurrent.torchrecurrent import (
        register_torchrecurrent as register_torchrecurrent,
    )

_HOMES = {
    name: f"{__name__}.{module}"
    for module, names in {
        "adapters": ["register_recurrent", "register_recurrent_stack"],
        "keys": ["StateKey"],
        "layers": ["recurrent_layers", "recurrent_modules"],
        "recorder": ["HiddenStateRecorder"],
        "states": ["HiddenStates"],
        "torchrecurrent": ["register_torchrecurrent"],
    }.items()
    for name in names
}

__all__ = sorted(_HOMES)
__getattr__ = loaded_when_used(__name__, _HOMES)


def __dir__() -> list[str]:
    return __all__
