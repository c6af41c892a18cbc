"""Scalars of a report, for curves and monitors."""

from __future__ import annotations

from math import isfinite
from typing import TYPE_CHECKING, NoReturn

import numpy as np

from lightning_relay.recurrent.errors import StepError
from lightning_relay.recurrent.keys import StateKey
from lightning_relay.reports.steps import place_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lightning_relay.latent.structure import LatentStructure
    from lightning_relay.relay.report import ConceptRelay, LayerRelay, RelayReport

_NOTED = 0.1
"""Smaller values, in bits, are not compared in notes."""


def relay_scalars(report: RelayReport) -> dict[str, float]:
    """Scalars by name without prefix, listed in ``RelayInformationCallback``.

    Raises a StepError if at every analysed step some sequence had input still to come.
    """
    scalars = {
        f"{concept}/mutual_information": bits for concept, bits in report.mutual_information.items()
    }
    for key, layer in report.layers.items():
        if not layer.inputs_ended.any():
            _raise_all_early(report, key, layer.backward)
        weights = _weights(layer)
        last = layer.place()
        for concept, relay in layer.concepts.items():
            means = _means(relay, report.full_condition)
            scalars |= {
                f"{key}/{concept}/{name}": float(np.average(values, weights=weights))
                for name, values in means.items()
            }
            scalars[f"{key}/{concept}/information_last"] = float(relay.information[last, 0])
            scalars[f"{key}/{concept}/units_needed_last"] = float(len(relay.smallest_set_at(last)))
            if isfinite(relay.migration):
                scalars[f"{key}/{concept}/migration"] = relay.migration
            if relay.share is not None:
                scalars[f"{key}/{concept}/largest_share_last"] = float(relay.share[last].max())
        if layer.latent is not None:
            scalars |= {f"{key}/{name}": value for name, value in _of_states(layer.latent).items()}
    for key, agreement in report.threshold_agreement.items():
        scalars[f"{key}/threshold_agreement"] = agreement
    return scalars


def early_notes(report: RelayReport) -> dict[tuple[str, str], str]:
    """Notes on layers and concepts whose mean may tell of steps before the last input.

    They are made where each sequence has one label, the end of the inputs is not given, and the
    mean over the steps and the last step differ by more than half of the larger, if that is more
    than noise.
    """
    notes: dict[tuple[str, str], str] = {}
    of_steps = report.ignored is not None or report.label_step is not None
    if report.inputs_end is not None or of_steps:
        return notes
    for key, layer in report.layers.items():
        place = layer.place()
        found = report.found_inputs_end.get(StateKey.parse(key).module)
        auto = "" if found is None else f", or inputs_end='auto', which finds step {found}"
        for name, relay in layer.concepts.items():
            last = float(relay.information[place, 0])
            mean = float(np.average(relay.information[:, 0], weights=_weights(layer)))
            larger = max(abs(mean), abs(last))
            if larger >= _NOTED and abs(mean - last) > larger / 2:
                notes[key, name] = (
                    f"{mean:.2f} bits as the mean over the steps, {last:.2f} bits at the last; if "
                    f"early steps have inputs still to come, name the last input with inputs_end="
                    f"{auto}"
                )
    return notes


def _weights(layer: LayerRelay) -> NDArray[np.float64]:
    """Weights of the steps in means, ``(step,)``; all 0 if no step has seen all inputs."""
    weights = layer.samples * layer.inputs_ended
    forward = weights * (layer.time_steps >= 0)
    # A step counted from the end is one of these already.
    return (forward if forward.any() else weights).astype(np.float64)


def _of_states(latent: LatentStructure) -> dict[str, float]:
    """Scalars of the latent structure, where they are known."""
    last = place_of(-1, latent.time_steps, backward=latent.backward)
    found = {
        "dimension": latent.dimension,
        "between_classes_last": float(latent.separation[last]),
        "speed_last": float(latent.speed[last]),
    }
    if latent.attractors is not None:
        found["settled"] = latent.attractors.settled
        found["attractors"] = float(len(latent.attractors))
        found["attractor_bits"] = latent.attractors.label_bits
    return {name: value for name, value in found.items() if isfinite(value)}


def _means(relay: ConceptRelay, full_condition: int) -> dict[str, NDArray[np.float64]]:
    """Values to average over the steps, ``(step,)`` each."""
    values = {
        "information": relay.information[:, 0],
        "coverage": relay.coverage[:, full_condition],
    }
    if relay.unattributed is not None:
        values["unattributed"] = relay.unattributed
    if relay.chance_level is not None:
        values["chance_level"] = relay.chance_level[:, 0]
    if relay.beyond_chance is not None:
        values["units_above_chance"] = relay.beyond_chance.sum(1).astype(np.float64)
    if relay.rank_stability is not None:
        values["rank_stability"] = relay.rank_stability
    return values


def _raise_all_early(report: RelayReport, key: str, reverse: bool) -> NoReturn:
    if reverse:
        raise StepError(
            f"time_steps: {key!r} reads from the end and has seen all input at step 0 only, which "
            "was not analysed; add 0, or leave inputs_end out"
        )
    raise StepError(
        f"inputs_end: got {report.inputs_end}, which comes after every analysed step of "
        f"{key!r}; analyse a later step (time_steps), such as -1, each sequence's last"
    )
