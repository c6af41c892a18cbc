"""Reports with other results."""

import dataclasses
from typing import Any

from lightning_relay import RelayReport


def changed(report: RelayReport, **fields: Any) -> RelayReport:
    """The report with other fields of its only layer, or else of its only concept."""
    ((key, layer),) = report.layers.items()
    ((concept, relay),) = layer.concepts.items()
    of_layer = {name: fields[name] for name in fields if hasattr(layer, name)}
    of_concept = {name: fields[name] for name in fields if hasattr(relay, name)}
    of_concept.pop("distinct_states", None)
    relay = dataclasses.replace(relay, **of_concept)
    layer = dataclasses.replace(layer, **of_layer, concepts={concept: relay})
    return dataclasses.replace(report, layers={key: layer})
