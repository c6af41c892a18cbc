"""Figures and tables of a relay report, for every logger that shows them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightning_relay.latent.table import attractor_table
from lightning_relay.relay.figures import FIGURES
from lightning_relay.relay.table import relay_table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lightning_relay.relay.report import LayerRelay, RelayReport
    from lightning_relay.reports.faces import Faces


def relay_faces(report: RelayReport) -> Faces:
    """Tables of a report and a few figures, by the tags that the callback lists.

    Tables are of every concept, figures of the first one of each layer.
    """
    tables: Faces = {}
    figures: Faces = {}
    for key, layer in report.layers.items():
        first = next(iter(layer.concepts))
        if layer.latent is not None:
            tables[f"{key}/latent_table"] = attractor_table(layer.latent)
        for concept in layer.concepts:
            tables[f"{key}/{concept}/relay_table"] = relay_table(report, key, concept)
        for name in _first(layer):
            tag = f"{key}/latent" if name == "latent" else f"{key}/{first}/{name}"
            figures[tag] = FIGURES[name](report, key, first, -1, None)
    if len(report.layers) > 1:
        key, layer = next(iter(report.layers.items()))
        first = next(iter(layer.concepts))
        figures[f"{first}/layers"] = FIGURES["layers"](report, key, first, -1, None)
    return tables | figures


def _first(layer: LayerRelay) -> Iterator[str]:
    """Figures that a reader sees first: where it is, whether it moves, what the state does."""
    relay = next(iter(layer.concepts.values()))
    yield "units_needed" if relay.share is None else "relay_share"
    if relay.transfer is not None:
        yield "relay_transfer"
    if layer.latent is not None:
        yield "latent"
