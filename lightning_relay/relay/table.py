"""Table of a relay report: a row for each step of a layer and concept."""

from __future__ import annotations

from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING

import numpy as np

from lightning_relay.relay.report import CHANCE_LEVEL, NEARLY_CONSTANT

if TYPE_CHECKING:
    from lightning_relay.relay.report import ConceptRelay, LayerRelay, RelayReport

_UNITS_IN_TABLE = 10
_SHARES_IN_TABLE = 5

_SHARES = "largest shares, bits"
_ORDER = "order, most important first"
_EVIDENCE = "evidence"

_MOST_STEPS = 32
"""Of more steps, so many are in a table."""

_MOST_NAMED = 12
"""Up to this many unranked units are named; more are counted."""


def relay_table(report: RelayReport, layer: str, concept: str) -> str:
    """Markdown table of evidence, information, shares and order, with a row for each step.

    Of more than 32 steps, 32 have a row: the first, the last, and some from everywhere.
    """
    results = report.layers[layer]
    relay = results.concepts[concept]
    units = relay.units.shape[1]
    shown = min(_UNITS_IN_TABLE, units)
    number = len(results.time_steps)
    steps = np.linspace(0, number - 1, min(number, _MOST_STEPS)).round().astype(int).tolist()
    columns = {
        "step": [
            f"{results.time_steps[step]}{'' if results.inputs_ended[step] else ' *'}"
            for step in steps
        ],
        "I_R of I(in; out), bits": [
            f"{_with_interval(relay, step)} of {relay.mutual_information[step]:.3f}"
            for step in steps
        ],
        **_chance_columns(relay, steps),
        **_share_columns(relay, steps),
        "units that tell 90 %": [_smallest(relay, step) for step in steps],
        **_alone_column(relay, steps),
        _ORDER: [order_in_words(relay, step, shown) for step in steps],
        _EVIDENCE: [_evidence(report, results, relay, step) for step in steps],
    }
    measure = report.measure
    some = f"{len(steps)} of {number} steps; the saved report has all. " * (len(steps) < number)
    note = (
        f"{report.samples} of {report.samples_seen} sequences analysed; {measure.discretization}, "
        f"{measure.direction} order, {measure.estimator} estimate. "
        f"{some}{_sources(report)}{_thresholds(report, layer)}"
        "Units that tell 90 %: a set that grows by the unit that adds most until it tells 90 % of "
        "what all units tell; ≈ before a unit: another unit adds as much; (?): too few "
        "sequences to be sure. "
        f"Order: the {shown} most important of {units} units; ≈ before a unit: it is tied with "
        "another, so the data do not tell its place. Units in brackets are not ranked, because "
        "there are too few sequences for their places: the coverage of the joint states is below "
        f"{measure.min_coverage:g}, or corrected and plug-in information are more "
        f"than {measure.max_gap:g} bits apart. Coverage is that of the states of all units. "
        f"{_shares(report, relay)}{_chance(report, relay)}{_intervals(report, relay)}"
        "A unit is nearly constant if 95 % of the sequences or more have one of its codes. "
        "At a step marked * the states had not seen all input."
    )
    rules = [":---" if name in (_SHARES, _ORDER, _EVIDENCE) else "---:" for name in columns]
    rows = [columns, rules, *zip(*columns.values(), strict=True)]
    return "\n".join([note, "", *(f"| {' | '.join(row)} |" for row in rows)])


def order_in_words(relay: ConceptRelay, place: int, count: int) -> str:
    """The ``count`` most important units of the greedy order at the index of a step.

    ≈ marks a tied unit. Unresolved units are in brackets by index, all or none of a group; more
    than 12 of them are counted.
    """
    units = relay.units[place, ::-1]
    found = units, relay.ambiguous[place, units], relay.resolved[place, units]
    order = zip(*(part.tolist() for part in found), strict=True)
    words: list[str] = []
    left = count
    for is_resolved, group in groupby(order, key=itemgetter(2)):
        if left <= 0:
            break
        some = list(group)
        if is_resolved:
            some = some[:left]
            words += [f"{'≈' if tied else ''}{unit}" for unit, tied, _ in some]
        elif len(some) > _MOST_NAMED:
            words.append(f"({len(some)} units not ranked)")
        else:
            words.append(f"({' '.join(map(str, sorted(unit for unit, _, _ in some)))})")
        left -= len(some)
    return " ".join(words)


def _smallest(relay: ConceptRelay, place: int) -> str:
    """A small set that tells 90 %, with marks for ties and too few sequences."""
    chosen = relay.smallest_set_at(place)
    tied, resolved = relay.telling_tied[place], relay.telling_resolved[place]
    some = " ".join(f"{'≈' if tied[unit] else ''}{unit}" for unit in chosen[:_SHARES_IN_TABLE])
    more = f" … ({len(chosen)})" if len(chosen) > _SHARES_IN_TABLE else ""
    return f"{some or 'none'}{more}{'' if resolved[chosen].all() else ' (?)'}"


def _evidence(report: RelayReport, layer: LayerRelay, relay: ConceptRelay, step: int) -> str:
    """What the values of a step rest on, in words."""
    units = relay.units.shape[1]
    return (
        f"{layer.samples[step]} sequences in {layer.distinct_states[step]} states, coverage "
        f"{relay.coverage[step, report.full_condition]:.3f}; I_R corrected "
        f"{relay.corrected[step, 0]:.3f} bits; order: {relay.ambiguous[step].sum()} of {units} "
        f"units tied, {relay.resolved[step].sum()} resolved{_constant(layer, step)}"
    )


def _constant(layer: LayerRelay, step: int) -> str:
    """How many units have nearly one code, if any."""
    number = int((layer.common_code[step] >= NEARLY_CONSTANT).sum())
    return f"; {number} of {layer.common_code.shape[1]} units nearly constant" * (number > 0)


def _with_interval(relay: ConceptRelay, step: int) -> str:
    bits = relay.information[step, 0]
    if relay.lower is None or relay.upper is None:
        return f"{bits:.3f}"
    return f"{bits:.2f} [{relay.lower[step, 0]:.2f}, {relay.upper[step, 0]:.2f}]"


def _chance_columns(relay: ConceptRelay, steps: list[int]) -> dict[str, list[str]]:
    """Chance level and p of all units; empty without permutations."""
    if relay.chance_level is None or relay.chance_p_values is None or relay.movable is None:
        return {}
    tested = relay.movable[steps, 0] > 0
    return {
        "chance level, bits": [
            f"{bits:.3f}" if test else "not tested"
            for bits, test in zip(relay.chance_level[steps, 0], tested, strict=True)
        ],
        "p": [
            f"{p_value:.2g}" if test else "not tested"
            for p_value, test in zip(relay.chance_p_values[steps, 0], tested, strict=True)
        ],
    }


def _alone_column(relay: ConceptRelay, steps: list[int]) -> dict[str, list[str]]:
    """Number of units beyond chance, of those tested; empty without permutations."""
    if relay.beyond_chance is None or relay.movable is None or relay.unexplained_p_values is None:
        return {}
    tested = (relay.movable[steps, 1:] > 0).sum(1)
    unexplained = relay.unexplained_p_values[steps] <= CHANCE_LEVEL
    words = [
        ("cannot tell" if rest else f"{beyond} of {number} tested") if number else "none tested"
        for beyond, number, rest in zip(
            relay.beyond_chance[steps].sum(1), tested, unexplained, strict=True
        )
    ]
    return {"units beyond chance": words}


def _share_columns(relay: ConceptRelay, steps: list[int]) -> dict[str, list[str]]:
    """Unattributed information and the largest shares; empty without shares."""
    if relay.share is None or relay.share_error is None or relay.unattributed is None:
        return {}
    share, error = relay.share[steps], relay.share_error[steps]
    largest = np.argsort(-share, axis=1, kind="stable")[:, :_SHARES_IN_TABLE]
    parts = (np.take_along_axis(own, largest, 1) for own in (share, error))
    rows = zip(largest.tolist(), *(part.tolist() for part in parts), strict=True)
    return {
        "unattributed, bits": [f"{bits:z.3f}" for bits in relay.unattributed[steps]],
        _SHARES: [
            ", ".join(
                f"{unit}: {share:z.3f} ± {error:.3f}"
                for unit, share, error in zip(*row, strict=True)
            )
            for row in rows
        ],
    }


def _shares(report: RelayReport, relay: ConceptRelay) -> str:
    if relay.share is None:
        return ""
    number = report.measure.n_orders
    orders = f"{number} random orders"
    if isinstance(number, float):
        orders = f"random orders, added until the standard error is at most {number:g} bits"
    shown = min(_SHARES_IN_TABLE, relay.share.shape[1])
    return (
        f"Shares: the {shown} units with the largest relay share. A share is the information that "
        "a unit takes away when it becomes known, beyond what a permuted copy takes away: the mean "
        f"over {orders}, or over all orders if there are no more, ± its standard error by the "
        "choice of orders. Unattributed: I_R minus the sum of all shares; if it is large, a small "
        "share does not say that a unit is unimportant. "
    )


def _chance(report: RelayReport, relay: ConceptRelay) -> str:
    if relay.movable is None:
        return ""
    untested = (relay.movable[:, 1:] == 0).sum()
    note = (
        f"Chance level: the value that I(in; out) exceeds with the probability {CHANCE_LEVEL:g} "
        f"when X_out is permuted, {report.measure.n_permutations} times; p: the probability of a "
        "value as large as the observed one at any step, of all units or of one. A unit is beyond "
        "chance if, with all other units known, input and output share more than when X_out is "
        f"permuted among sequences alike in these (p at most {CHANCE_LEVEL:g}), and no more once "
        "the unit is known too. This cannot be told where all units together do not account for "
        "what input and output share. "
    )
    if untested:
        note += (
            f"{untested} of {relay.movable[:, 1:].size} times a unit could not be tested, because "
            "among sequences alike in all other units X_in or X_out never differs; this says "
            "nothing for or against the unit. "
        )
    if not relay.movable.any():
        note += "Nothing could be tested at all: X_in or X_out is the same in all sequences. "
    return note


def _intervals(report: RelayReport, relay: ConceptRelay) -> str:
    if relay.lower is None:
        return ""
    return f"After I_R: its 95 % interval from {report.measure.n_bootstraps} resamples. "


def _sources(report: RelayReport) -> str:
    if report.x_in is None:
        return ""
    calls = "".join(f"Calls of {name!r}: {own}. " for name, own in report.calls.items())
    return f"X_in: {report.x_in}. X_out: {report.x_out}. {calls}"


def _thresholds(report: RelayReport, layer: str) -> str:
    if layer not in report.threshold_agreement:
        return ""
    return (
        f"Thresholds were fitted to the first {report.samples_fitted} sequences. Thresholds fitted "
        f"to a fair sample of all would give {report.threshold_agreement[layer]:.1%} of its codes "
        "too, at the step and of the unit where they agree least; expected are "
        f"{report.expected_agreement[layer]:.1%}. {report.beyond_thresholds[layer]} sequences have "
        "steps without thresholds; these steps are left out. "
    )
