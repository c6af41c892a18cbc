"""What a layer relays of a concept at a step, in the sentences with which a reader begins."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightning_relay.recurrent.keys import StateKey
from lightning_relay.relay.summary import (
    lags_in_words,
    notes_in_words,
    relayed_in_words,
    shares_in_words,
)

if TYPE_CHECKING:
    from lightning_relay.relay.report import LayerRelay, RelayReport


def sentences(
    report: RelayReport, layer: str, concept: str, step: int, unit: int | None
) -> list[str]:
    """What is relayed, by how many units, whether it moves; the chosen unit; what to know of it.

    Args:
        report: A relay report.
        layer: Key of one of its layers.
        concept: Name of one of its concepts.
        step: One of the layer's ``time_steps``; or -1, the step that the layer computes last.
        unit: Index of a unit with a sentence of its own, or None.
    """
    results = report[layer]
    relay = results[concept]
    place = relay.place(step)
    when = _when(results, place)
    words = [f"{when}, {layer} relays {relayed_in_words(report, layer, concept, step, concept)}"]
    if relay.transfer is not None:
        lags = lags_in_words(relay)
        words.append(lags if lags.startswith("whether") else f"between steps, it {lags}")
    if unit is not None:
        words.append(_unit(results, concept, place, unit))
    words.append(shares_in_words(relay, step))
    right, counted = relay.accuracy[place], results.samples[place]
    words.append(f"{100 * right:.3g} % of {counted} answers are right about {concept}")
    words += notes_in_words(report, layer, concept, step)
    if calls := report.calls.get(StateKey.parse(layer).module):
        words.append(f"calls in a step: {calls}")
    latent = results.latent
    if latent is not None:
        words.append(latent.in_words())
        if latent.attractors is not None:
            words.append(latent.attractors.in_words())
    return [f"{own[0].upper()}{own[1:]}." for own in words if own]


def _when(layer: LayerRelay, place: int) -> str:
    step = layer.time_steps[place]
    when = "at each sequence's last step" if step == -1 else f"at step {step}"
    if place == layer.place() and step != -1:
        when += ", the last"
    return when if layer.inputs_ended[place] else f"{when}, before the last input"


def _unit(layer: LayerRelay, concept: str, place: int, unit: int) -> str:
    """A sentence about a unit at a step."""
    relay = layer[concept]
    alone = f"alone, it tells {relay.tells[place, unit]:z.2f} bits"
    if relay.share is None or relay.share_error is None or relay.share_resolved is None:
        return f"unit {unit}: {alone}"
    share = relay.share[place]
    larger = int((share > share[unit]).sum())
    words = (
        f"unit {unit} has a share of {share[unit]:z.2f} ± {relay.share_error[place, unit]:.2f} "
        f"bits there (units with a larger one: {larger} of {len(share)}); {alone}"
    )
    if (resolved := relay.share_resolved[place, unit]) < 1:
        words += f"; enough sequences for it in {100 * resolved:.0f} % of the orders"
    return words + "; nearly constant" * bool(layer.nearly_constant[place, unit])
