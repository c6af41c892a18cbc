"""What pictures and figures of a relay report have in common: titles, scales, what is missing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightning_relay.reports.figure import plain

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from lightning_relay.latent.structure import LatentStructure
    from lightning_relay.relay.report import ConceptRelay, RelayReport


SHARES_NOT_MEASURED = (
    "report: relay shares were not measured; measure them with RelayMeasure(n_orders=16)"
)


def epoch_of(report: RelayReport) -> str:
    """The epoch, at the end of a title."""
    return "" if report.epoch is None else f", epoch {report.epoch}"


def title_of(report: RelayReport, layer: str, concept: str) -> str:
    """Layer, concept and epoch."""
    return plain(f"{layer}: {concept}{epoch_of(report)}")


def most_bits(report: RelayReport, relays: Sequence[ConceptRelay], concept: str) -> float:
    """H(X_in), at which scales end; more if the labels of a single step differ more."""
    shared = [float(relay.mutual_information.max()) for relay in relays]
    return max(report.input_entropy[concept], *shared, 1e-3)


def share_of(relay: ConceptRelay) -> NDArray[np.float64]:
    """Relay shares; a ValueError if they were not measured."""
    if relay.share is None:
        raise ValueError(SHARES_NOT_MEASURED)
    return relay.share


def transfer_of(report: RelayReport, relay: ConceptRelay) -> NDArray[np.float64]:
    """Relay transfer; a ValueError if it was not measured."""
    if relay.transfer is None:
        raise ValueError(
            "report: relay transfer was not measured"
            + (
                "; measure it with RelayMeasure(n_splits=4)"
                if report.ignored is None
                else ": each step has a label of its own. Name one with label_step="
            )
        )
    return relay.transfer


def latent_of(report: RelayReport, layer: str) -> LatentStructure:
    """Latent structure of a layer; a ValueError if it was not measured."""
    latent = report.layers[layer].latent
    if latent is None:
        raise ValueError(
            "report: the latent structure was not measured; measure it with "
            "RelayInformationCallback(latent=True)"
        )
    return latent
