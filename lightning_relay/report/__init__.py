"""Results of analyses, saved and loaded; NumPy only."""

from lightning_relay.damage import Damage
from lightning_relay.report.knockout import (
    DeletionCurve,
    KnockoutReport,
    KnockoutSet,
    ScoreAgreement,
)
from lightning_relay.report.relay import CHANCE_LEVEL, ConceptRelay, LayerRelay, RelayReport

__all__ = [
    "CHANCE_LEVEL",
    "ConceptRelay",
    "Damage",
    "DeletionCurve",
    "KnockoutReport",
    "KnockoutSet",
    "LayerRelay",
    "RelayReport",
    "ScoreAgreement",
]
