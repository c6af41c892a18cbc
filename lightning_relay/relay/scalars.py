"""The few numbers of a report that are worth a curve and a monitor."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

import numpy as np

from lightning_relay.recurrent.layers import StateKey
from lightning_relay.recurrent.states import StepError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lightning_relay.relay.report import ConceptRelay, RelayReport


def relay_scalars(report: RelayReport) -> dict[str, float]:
    """Scalars of a report by name, to be logged under a prefix.

    Means run over the steps at which all inputs had been presented, each weighted with the number
    of sequences that are long enough for it. The last step is -1, the last of each sequence, where
    that was analysed, and otherwise the one of the largest index; for a backward layer, which ends
    at step 0, the one of the smallest.

    - ``{layer}/{concept}/information``: mean of I_R of all units, bits.
    - ``{layer}/{concept}/information_last``: I_R of all units at the last step, bits.
    - ``{layer}/{concept}/corrected``: the same mean by an estimator that corrects for the bias of
      small samples, bits.
    - ``{layer}/{concept}/coverage``: mean coverage of the joint states of all units and X_in or
      X_out, whichever is lower, fraction of 1.
    - ``{layer}/{concept}/resolved``: mean fraction of the units whose places the data can tell.
    - ``{layer}/{concept}/tied``: fraction of choices in the greedy order that were tied.
    - ``{layer}/{concept}/unattributed``, with shares: mean of I_R of all units minus the sum of
      their relay shares, bits: what the data do not attribute to any unit.
    - ``{layer}/{concept}/chance_level``, with permutations: mean of the value that I(X_in; X_out)
      exceeds by chance with the probability .05, bits.
    - ``{layer}/{concept}/units_above_chance``, with permutations: mean number of units of
      which this is so: when all others are known, X_in and X_out share more than by chance, and
      no more when all are, at 5 % for all units and steps together.
    - ``{layer}/{concept}/rank_stability``, with resamples: mean rank correlation of their orders
      with that of all sequences.
    - ``{layer}/distinct_states``: largest number of distinct states at a step.
    - ``{concept}/mutual_information``: I(X_in; X_out) of all analysed sequences, bits.
    - ``samples``, ``samples_seen``: numbers of sequences analysed and seen.
    - ``{layer}/threshold_agreement``: where thresholds were fitted to the first sequences only,
      the fraction of the codes of a fair sample that thresholds fitted to it would give too, at
      the step and of the unit where it is lowest.

    Raises:
        StepError: If at every analysed step the states of some sequence had not seen all input.
    """
    scalars = {
        f"{concept}/mutual_information": bits for concept, bits in report.mutual_information.items()
    }
    for key, layer in report.layers.items():
        ended = layer.inputs_ended
        reverse = StateKey.parse(key).reverse
        if not ended.any():
            _raise_all_early(report, key, reverse)
        weights = layer.samples * ended
        last = layer.last_place(reverse=reverse)
        for concept, relay in layer.concepts.items():
            means = _means(relay, report.full_condition)
            scalars |= {
                f"{key}/{concept}/{name}": float(np.average(values, weights=weights))
                for name, values in means.items()
            }
            scalars[f"{key}/{concept}/information_last"] = float(relay.information[last, 0])
        scalars[f"{key}/distinct_states"] = float(layer.distinct_states.max())
    for key, agreement in report.threshold_agreement.items():
        scalars[f"{key}/threshold_agreement"] = agreement
    return scalars | {
        "samples": float(report.samples),
        "samples_seen": float(report.samples_seen),
    }


def _means(relay: ConceptRelay, full_condition: int) -> dict[str, NDArray[np.float64]]:
    """What is averaged over the steps, ``(step,)`` each."""
    values = {
        "information": relay.information[:, 0],
        "corrected": relay.corrected[:, 0],
        "coverage": relay.coverage[:, full_condition],
        "resolved": relay.resolved.mean(1),
        "tied": relay.tied.mean(1),
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
            "is not among the analysed steps; add 0, or leave inputs_end out"
        )
    raise StepError(
        f"inputs_end: got {report.inputs_end}, which comes after every analysed step of "
        f"{key!r}; analyse a later step (time_steps), such as -1, each sequence's last"
    )
