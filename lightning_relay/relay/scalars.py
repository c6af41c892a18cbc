"""The few numbers of a report that are worth a curve and a monitor."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

import numpy as np

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
    - ``{layer}/{concept}/largest_share_last``, with shares: the largest relay share of a unit at
      the last step, bits.
    - ``{layer}/{concept}/unattributed``, with shares: mean of I_R of all units minus the sum of
      their relay shares, bits: what is in no unit's share.
    - ``{layer}/{concept}/units_needed_last``: size of the set of units that tells 90 % of what all
      units tell at the last step; see ``ConceptRelay.smallest_set``.
    - ``{layer}/{concept}/coverage``: mean coverage of the joint states of all units and X_in or
      X_out, whichever is lower, fraction of 1.
    - ``{layer}/{concept}/chance_level``, with permutations: mean of the value that I(X_in; X_out)
      exceeds by chance with the probability .05, bits.
    - ``{layer}/{concept}/units_above_chance``, with permutations: mean number of units that relay,
      beyond chance, what no other unit does; see ``ConceptRelay.beyond_chance``.
    - ``{layer}/{concept}/rank_stability``, with resamples: mean rank correlation of their orders
      with that of all sequences.
    - ``{concept}/mutual_information``: I(X_in; X_out) of all analysed sequences, bits.
    - ``{layer}/threshold_agreement``, where thresholds were fitted to the first sequences only:
      fraction of the codes of a fair sample that thresholds fitted to it would give too, at the
      step and of the unit where it is lowest.

    Raises:
        StepError: If at every analysed step the states of some sequence had not seen all input.
    """
    scalars = {
        f"{concept}/mutual_information": bits for concept, bits in report.mutual_information.items()
    }
    for key, layer in report.layers.items():
        ended = layer.inputs_ended
        if not ended.any():
            _raise_all_early(report, key, layer.backward)
        weights = layer.samples * ended
        last = layer.place()
        for concept, relay in layer.concepts.items():
            means = _means(relay, report.full_condition)
            scalars |= {
                f"{key}/{concept}/{name}": float(np.average(values, weights=weights))
                for name, values in means.items()
            }
            scalars[f"{key}/{concept}/information_last"] = float(relay.information[last, 0])
            scalars[f"{key}/{concept}/units_needed_last"] = float(len(relay.smallest_set_at(last)))
            if relay.share is not None:
                scalars[f"{key}/{concept}/largest_share_last"] = float(relay.share[last].max())
    for key, agreement in report.threshold_agreement.items():
        scalars[f"{key}/threshold_agreement"] = agreement
    return scalars


def _means(relay: ConceptRelay, full_condition: int) -> dict[str, NDArray[np.float64]]:
    """What is averaged over the steps, ``(step,)`` each."""
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
            "is not among the analysed steps; add 0, or leave inputs_end out"
        )
    raise StepError(
        f"inputs_end: got {report.inputs_end}, which comes after every analysed step of "
        f"{key!r}; analyse a later step (time_steps), such as -1, each sequence's last"
    )
