"""Check of a latent structure before it is saved and after it is loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightning_relay.latent.frames import DIMENSIONS
from lightning_relay.reports.checks import check_shapes

if TYPE_CHECKING:
    from lightning_relay.latent.structure import LatentStructure


def check_latent(latent: LatentStructure, units: int, name: str) -> None:
    """Refuse a structure whose arrays have shapes that do not go together, with a ValueError."""
    sizes = {"unit": units}
    own = DIMENSIONS | {"time_steps": ("latent_step",), "classes": ("class",)}
    check_shapes(latent, own, sizes, name)
    if latent.attractors is not None:
        own = DIMENSIONS | {"attractor": ("attractor_state",), "classes": ("start_class",)}
        check_shapes(latent.attractors, own, sizes, f"{name}/attractors")
