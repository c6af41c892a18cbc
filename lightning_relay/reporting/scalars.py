"""The few numbers of a report that are worth a curve and a monitor."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from lightning_relay.report import RelayReport


def relay_scalars(report: RelayReport) -> dict[str, float]:
    """Scalars of a report by name, to be logged under a prefix.

    Means run over the steps at which all inputs had been presented, each weighted with the number
    of sequences that are long enough for it. The last step is -1, the last of each sequence, where
    that was analysed, and otherwise the one of the largest index.

    - ``{layer}/{concept}/information``: mean of I_R of all units, bits.
    - ``{layer}/{concept}/information_last``: I_R of all units at the last step, bits.
    - ``{layer}/{concept}/tied``: fraction of choices in the greedy order that were tied.
    - ``{layer}/distinct_states``: largest number of distinct states at a step.
    - ``{concept}/mutual_information``: I(X_in; X_out) of all analysed sequences, bits.
    - ``samples``, ``samples_seen``: numbers of sequences analysed and seen.

    Raises:
        ValueError: If at every analysed step some sequence still had input to come.
    """
    scalars = {
        f"{concept}/mutual_information": bits for concept, bits in report.mutual_information.items()
    }
    for key, layer in report.layers.items():
        ended = layer.inputs_ended
        if not ended.any():
            raise ValueError(
                f"inputs_end: got {report.inputs_end}, which comes after every analysed step of "
                f"{key!r}; analyse a later step with time_steps=, -1 for each sequence's last"
            )
        weights = layer.samples * ended
        last = int(np.argmax(np.where(layer.time_steps == -1, np.inf, layer.time_steps)))
        for concept, relay in layer.concepts.items():
            scalars |= {
                f"{key}/{concept}/information": float(
                    np.average(relay.information[:, 0], weights=weights)
                ),
                f"{key}/{concept}/information_last": float(relay.information[last, 0]),
                f"{key}/{concept}/tied": float(np.average(relay.tied.mean(1), weights=weights)),
            }
        scalars[f"{key}/distinct_states"] = float(layer.distinct_states.max())
    return scalars | {
        "samples": float(report.samples),
        "samples_seen": float(report.samples_seen),
    }
