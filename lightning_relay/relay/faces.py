"""Pictures and tables of a relay report, for every logger that shows them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightning_relay.latent.table import attractor_table
from lightning_relay.relay.picture import PICTURES
from lightning_relay.relay.table import relay_table

if TYPE_CHECKING:
    from lightning_relay.relay.report import ConceptRelay, RelayReport
    from lightning_relay.reports.faces import Faces

_OF_CONCEPTS = {name: draw for name, draw in PICTURES.items() if name not in ("latent", "layers")}


def relay_faces(report: RelayReport) -> Faces:
    """Tables and images of a report by the tags that the callback lists, without its prefix."""
    tables: Faces = {}
    images: Faces = {}
    for key, layer in report.layers.items():
        if layer.latent is not None:
            images[f"{key}/latent"] = PICTURES["latent"](report, key, "")
            tables[f"{key}/latent_table"] = attractor_table(layer.latent)
        for concept, relay in layer.concepts.items():
            for name, draw in _OF_CONCEPTS.items():
                if _is_measured(relay, name):
                    images[f"{key}/{concept}/{name}"] = draw(report, key, concept)
            layers = f"{concept}/layers"
            if len(report.layers) > 1 and layers not in images:
                images[layers] = PICTURES["layers"](report, key, concept)
            tables[f"{key}/{concept}/relay_table"] = relay_table(report, key, concept)
    return tables | images


def _is_measured(relay: ConceptRelay, picture: str) -> bool:
    needed = {"relay_share": relay.share, "relay_transfer": relay.transfer}
    return picture not in needed or needed[picture] is not None
