"""Check of a relay report before it is saved and after it is loaded."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

from lightning_relay.latent.checks import check_latent
from lightning_relay.relay.frames import dimensions
from lightning_relay.reports.checks import check_shapes, check_types

if TYPE_CHECKING:
    from lightning_relay.relay.report import ConceptRelay, RelayReport

_AS_LONG_AS = {
    "read_at": "step",
    "place": "unit",
    "gone": "unit + 1",
    "taken": "unit + 1",
    "set": "unit + 1",
}
"""Dimensions of frames that have the lengths of others."""

_LAYER = {
    **dict.fromkeys(["time_steps", "inputs_ended", "samples", "distinct_states"], ("step",)),
    "common_code": ("step", "unit"),
}


def check_report(report: RelayReport) -> None:
    """Refuse a report whose parts have wrong types or shapes, with a ValueError."""
    check_types(report, "RelayReport", "report")
    for key, layer in report.layers.items():
        sizes: dict[str, int] = {}
        check_shapes(layer, _LAYER, sizes, key)
        for name, relay in layer.concepts.items():
            check_shapes(relay, _dimensions(relay), sizes, f"{key}/{name}")
        if layer.latent is not None:
            check_latent(layer.latent, sizes["unit"], f"{key}/latent")


def _dimensions(relay: ConceptRelay) -> dict[str, list[str]]:
    found = {part.name: dimensions(part.name) for part in fields(relay)} | {"time_steps": ("step",)}
    return {name: [_AS_LONG_AS.get(part, part) for part in own] for name, own in found.items()}
