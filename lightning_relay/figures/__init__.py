"""Pictures of reports as arrays of pixels, legible at the width of a TensorBoard card."""

from lightning_relay.figures.knockout_curves import agreement_image, deletion_image
from lightning_relay.figures.knockout_maps import damage_image, step_damage_image
from lightning_relay.figures.relay import relay_image

__all__ = [
    "agreement_image",
    "damage_image",
    "deletion_image",
    "relay_image",
    "step_damage_image",
]
