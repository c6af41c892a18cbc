"""Summary of a relay report in a few lines."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

import numpy as np

from lightning_relay.recurrent.keys import StateKey
from lightning_relay.relay.scalars import early_notes
from lightning_relay.reports.edges import edges_in_words

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lightning_relay.relay.report import ConceptRelay, LayerRelay, RelayReport

MOST_LINES = 15
_TOP = 5
_FRACTION = 0.9
_LEAST = 0.005
"""Shares that would be printed as 0.00 bits are left out."""


def summary(report: RelayReport) -> str:
    """What the units relay at the last step, in at most 15 lines."""
    lines = [headline(report)]
    left = sum(len(layer.concepts) for layer in report.layers.values())
    for key, layer in report.layers.items():
        for number, concept in enumerate(layer.concepts):
            block = [] if number else _opening(report, key, layer)
            relayed, *more = _three(report, key, concept)
            block += [f"  {concept}: {relayed}", *(f"    {line}" for line in more if line)]
            if len(lines) + len(block) > MOST_LINES - (left > 1):
                break
            lines += block
            left -= 1
        else:
            continue
        break
    if left:
        lines.append(f"… and {left} more; report[layer][concept] has all of {_names(report)}")
    return "\n".join(lines)


def html_summary(report: RelayReport) -> str:
    """The summary as a table with a row for each layer and concept."""
    names = ["layer", "step", "concept", "what the units relay", "units", "notes"]
    rows = [
        [key, str(layer.time_steps[layer.place()]), concept, *_three(report, key, concept)]
        for key, layer in report.layers.items()
        for concept in layer.concepts
    ]
    head = "".join(f"<th>{name}</th>" for name in names)
    body = "".join(
        f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows
    )
    return (
        f"<p>{escape(headline(report))}</p><table><thead><tr>{head}</tr></thead>"
        f"<tbody>{body}</tbody></table>"
    )


def headline(report: RelayReport) -> str:
    """Evaluation and number of sequences."""
    where = [] if report.stage is None else [f"{report.stage}, epoch {report.epoch}"]
    many = f"{report.samples}"
    if report.samples != report.samples_seen:
        many += f" of {report.samples_seen}"
    if report.ignored is not None:
        left_out = f", {report.ignored} not counted" if report.ignored else ""
        many += f" sequences with labels of each step{left_out}"
    else:
        many += " sequences"
        if report.label_step is not None:
            many += f" with labels of step {report.label_step}"
    if report.edges is not None:
        many += f", {edges_in_words(report.edges)}"
    return ": ".join(["Relay report", "; ".join([*where, many])])


def _opening(report: RelayReport, key: str, layer: LayerRelay) -> list[str]:
    """Lines about a layer before those about its concepts."""
    calls = report.calls.get(StateKey.parse(key).module)
    latent = layer.latent
    words = [] if latent is None else [latent.in_words()]
    if latent is not None and latent.attractors is not None:
        words.append(latent.attractors.in_words())
    if latent is not None and latent.no_attractors:
        words.append(f"not iterated: {latent.no_attractors}")
    if calls is not None:
        words.insert(0, f"calls in a step: {calls}")
    return [about_layer(key, layer), *(f"  {line}" for line in words)]


def about_layer(key: str, layer: LayerRelay) -> str:
    """Size of a layer, and the step that the summary is about."""
    place = layer.place()
    units = next(iter(layer.concepts.values())).units.shape[1]
    step = layer.time_steps[place]
    named = "each sequence's last step" if step == -1 else f"step {step}"
    early = "" if layer.inputs_ended[place] else ", before the last input"
    return f"{key}, {units} units, at {named} ({layer.samples[place]} sequences){early}:"


def _three(report: RelayReport, key: str, concept: str) -> tuple[str, str, str]:
    """What a layer relays of a concept at its last step; its units; notes. Two can be empty."""
    relay = report[key][concept]
    notes = list(notes_in_words(report, key, concept))
    if relay.transfer is not None:
        notes.insert(0, lags_in_words(relay))
    if (key, concept) in (early := early_notes(report)):
        notes.append(early[key, concept])
    relayed = relayed_in_words(report, key, concept)
    return relayed, shares_in_words(relay), "; ".join(notes)


def relayed_in_words(
    report: RelayReport, key: str, concept: str, step: int = -1, what: str = ""
) -> str:
    """Bits that all units of a layer relay of ``what`` at a step, and how many units suffice."""
    relay = report[key][concept]
    place = relay.place(step)
    relayed = (
        f"{relay.information[place, 0]:z.2f} of {relay.mutual_information[place]:z.2f} bits "
        f"{f'of {what} ' * bool(what)}that input and output share"
    )
    if report.ignored is None:  # else it is that of the labels of all steps
        relayed += f" (input: {report.input_entropy[concept]:.2f} bits)"
    if not report.covered(key, concept)[place]:
        coverage = relay.coverage[place, report.full_condition]
        relayed += f"; too few sequences to be sure (coverage {coverage:.2f})"
    smallest = relay.smallest_set(_FRACTION, step)
    if smallest:
        several = "unit tells" if len(smallest) == 1 else "units tell"
        relayed += f"; {len(smallest)} {several} 90 % of it: {_listed(smallest)}"
        if relay.telling_tied[place, smallest].any():
            relayed += ", or others as good"
        if not relay.telling_resolved[place, smallest].all():
            relayed += " (too few sequences to be sure)"
    return relayed


def shares_in_words(relay: ConceptRelay, step: int = -1) -> str:
    """The largest shares at a step; empty if they were not measured."""
    if relay.share is None or relay.unattributed is None:
        return ""
    place = relay.place(step)
    share = relay.share[place]
    largest = [
        f"{unit} ({share[unit]:.2f})"
        for unit in relay.top_units(_TOP, step)
        if share[unit] > _LEAST
    ]
    text = f"largest shares, bits: {', '.join(largest)}" if largest else "no unit has a share"
    return f"{text}; in no unit's share: {relay.unattributed[place]:z.2f} bits"


def notes_in_words(report: RelayReport, key: str, concept: str, step: int = -1) -> Iterator[str]:
    """What to know of the units at a step: ties, places that are left open, constant units."""
    layer = report[key]
    relay = layer[concept]
    place = relay.place(step)
    units = relay.units.shape[1]
    ambiguous, unresolved = relay.ambiguous[place].sum(), (~relay.resolved[place]).sum()
    if ambiguous:
        yield f"the order leaves {ambiguous} of {units} units tied"
    if unresolved:
        yield f"too few sequences for the places of {unresolved} of {units} units"
    if constant := layer.nearly_constant[place].sum():
        yield f"{constant} of {units} units nearly constant"


def lags_in_words(relay: ConceptRelay) -> str:
    """Whether information moves between units, in words."""
    half_life = relay.half_life
    if np.isnan(half_life) or np.isnan(relay.migration):
        return "whether it moves between units cannot be measured"
    verb = "stays in its units"
    if np.isfinite(half_life):
        verb = f"{'moves' if half_life == 1 else 'drifts'} between units"
    text = f"{verb}: transfer {1 - relay.migration:.2f} after 1 step"
    if half_life > 1:
        when = f"after {half_life:.0f} steps" if np.isfinite(half_life) else "at no lag"
        text += f", below 0.5 {when}"
    return text + f", back after {relay.period} steps" * (relay.period > 0)


def _listed(units: list[int]) -> str:
    words = [str(unit) for unit in units[:_TOP]]
    return ", ".join(words) + (", …" if len(units) > _TOP else "")


def _names(report: RelayReport) -> str:
    concepts = {name: None for layer in report.layers.values() for name in layer.concepts}
    return f"{', '.join(report.layers)} and {', '.join(concepts)}"
