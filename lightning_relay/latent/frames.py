"""A latent structure as xarray datasets."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

import numpy as np

from lightning_relay.reports.files import plain_parts

if TYPE_CHECKING:
    from lightning_relay.latent.structure import LatentStructure

DIMENSIONS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(["inputs_ended", "speed", "within", "between"], ("latent_step",)),
    "samples": ("class", "latent_step"),
    "mean": ("unit",),
    "components": ("component", "unit"),
    "explained": ("axis",),
    "trajectories": ("class", "latent_step", "component"),
    "points": ("point", "component"),
    "point_classes": ("point",),
    **dict.fromkeys(["period", "continuous", "radius"], ("attractor",)),
    "eigenvalues": ("attractor", "state"),
    "states": ("attractor_state", "unit"),
    "of_attractor": ("attractor_state",),
    "basins": ("attractor", "start_class"),
    **dict.fromkeys(["unsettled", "diverged"], ("start_class",)),
}
"""Dimensions of the arrays of a structure and its attractors."""


def datasets(latent: LatentStructure, xarray: Any) -> dict[str, Any]:
    """Datasets by path below the layer; steps have a name of their own, as they may differ."""
    coordinates = {"class": latent.classes, "latent_step": latent.time_steps}
    found = {"latent": xarray.Dataset(_arrays(latent), coordinates, plain_parts(latent))}
    if latent.attractors is not None:
        own = _arrays(latent.attractors)
        own["eigenvalue_modulus"] = (("attractor",), latent.attractors.largest)
        starts = {"start_class": latent.attractors.classes}
        found["latent/attractors"] = xarray.Dataset(own, starts, plain_parts(latent.attractors))
    return found


def _arrays(result: Any) -> dict[str, tuple[tuple[str, ...], Any]]:
    parts = {part.name: getattr(result, part.name) for part in fields(result)}
    if "attractor" in parts:  # the name of a dimension
        parts["of_attractor"] = parts.pop("attractor")
    return {
        name: (DIMENSIONS[name], part)
        for name, part in parts.items()
        if isinstance(part, np.ndarray) and name in DIMENSIONS
    }
