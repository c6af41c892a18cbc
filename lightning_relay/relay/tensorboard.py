"""A report in TensorBoard: pictures and a table for each layer and concept."""

from __future__ import annotations

from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING

import numpy as np

from lightning_relay.relay.picture import PICTURES
from lightning_relay.relay.report import CHANCE_LEVEL

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch.utils.tensorboard import SummaryWriter

    from lightning_relay.relay.report import ConceptRelay, RelayReport

_UNITS_IN_TABLE = 10
_SHARES_IN_TABLE = 5

_SHARES = "largest shares, bits"
_ORDER = "order, most important first"

_MOST_NAMED = 12
"""More units than this that are not ranked are counted instead of named."""


def write_relay_report(
    writer: SummaryWriter,
    report: RelayReport,
    prefix: str,
    global_step: int,
    *,
    suffix: str = "",
) -> None:
    """Write the images and tables of a report.

    Tags are ``{prefix}/{layer}/{concept}/`` and ``relay_share``, ``greedy_order`` or
    ``units_needed`` for images, ``relay_table`` for tables; and ``{prefix}/{concept}/layers`` for
    the image of all layers, where there are several.

    Args:
        writer: TensorBoard's writer.
        report: The report.
        prefix: First part of the tags.
        global_step: The step they are written at.
        suffix: Last part of the tags.
    """
    images: dict[str, NDArray[np.uint8]] = {}
    for key, layer in report.layers.items():
        for concept, relay in layer.concepts.items():
            tag = f"{prefix}/{key}/{concept}"
            for name, draw in PICTURES.items():
                if name == "layers" and len(report.layers) > 1:
                    images.setdefault(f"{prefix}/{concept}/layers", draw(report, key, concept))
                elif name != "layers" and (name != "relay_share" or relay.share is not None):
                    images[f"{tag}/{name}"] = draw(report, key, concept)
            table = relay_table(report, key, concept)
            writer.add_text(f"{tag}/relay_table{suffix}", table, global_step)
    for tag, image in images.items():
        writer.add_image(f"{tag}{suffix}", image, global_step, dataformats="HWC")


def relay_table(report: RelayReport, layer: str, concept: str) -> str:
    """Markdown table with a row for each analysed step: evidence, information, shares, order."""
    results = report.layers[layer]
    relay = results.concepts[concept]
    units = relay.units.shape[1]
    shown = min(_UNITS_IN_TABLE, units)
    steps = range(len(results.time_steps))
    columns = {
        "step": [
            f"{step}{'' if ended else ' *'}"
            for step, ended in zip(results.time_steps, results.inputs_ended, strict=True)
        ],
        "sequences": [str(number) for number in results.samples],
        "states": [str(number) for number in results.distinct_states],
        "coverage": [f"{share:.3f}" for share in relay.coverage[:, report.full_condition]],
        "I(in; out), bits": [f"{bits:.3f}" for bits in relay.mutual_information],
        **_chance_columns(relay),
        "I_R, bits": [_with_interval(relay, step) for step in steps],
        "I_R corrected, bits": [f"{bits:.3f}" for bits in relay.corrected[:, 0]],
        **_share_columns(relay),
        "units that tell 90 %": [_smallest(relay, step) for step in steps],
        **_alone_column(relay),
        "tied": [f"{number} of {units}" for number in relay.ambiguous.sum(1)],
        "resolved": [f"{number} of {units}" for number in relay.resolved.sum(1)],
        _ORDER: [order_in_words(relay, step, shown) for step in steps],
    }
    measure = report.measure
    note = (
        f"{report.samples} of {report.samples_seen} sequences analysed; {measure.discretization}, "
        f"{measure.direction} order, {measure.estimator} estimate. "
        f"{_sources(report)}{_thresholds(report, layer)}"
        "Units that tell 90 %: a set that grows by the unit that adds most until it tells 90 % of "
        "what all units tell; ≈ before a unit: another would have done as well; (?): too few "
        "sequences to be sure. "
        f"Order: the {shown} most important of {units} units; ≈ before a unit: it is tied with "
        "another, so the data do not tell its place. Units in brackets are not ranked, because "
        "there are too few sequences for their places: the coverage of the joint states is below "
        f"{measure.min_coverage:g}, or corrected and plug-in information are more "
        f"than {measure.max_gap:g} bits apart. Coverage is that of the states of all units. "
        f"{_shares(report, relay)}{_chance(report, relay)}{_intervals(report, relay)}"
        "At a step marked * the states had not seen all input."
    )
    rules = [":---" if name in (_SHARES, _ORDER) else "---:" for name in columns]
    rows = [columns, rules, *zip(*columns.values(), strict=True)]
    return "\n".join([note, "", *(f"| {' | '.join(row)} |" for row in rows)])


def order_in_words(relay: ConceptRelay, place: int, count: int) -> str:
    """The most important units of the greedy order at one of the analysed steps.

    Args:
        relay: Results of a concept.
        place: Index of the step.
        count: Maximum number of units; of units that are not ranked all are named, or none.

    Returns:
        Unit indices, most important first, with ≈ before a tied one. Units that are not resolved
        stand in brackets, in the order of their indices; more than 12 of them are counted.
    """
    ambiguous, resolved = relay.ambiguous[place], relay.resolved[place]
    order = [(unit, ambiguous[unit], resolved[unit]) for unit in relay.units[place]]
    words: list[str] = []
    left = count
    for is_resolved, group in groupby(reversed(order), key=itemgetter(2)):
        if left <= 0:
            break
        some = list(group)
        if is_resolved:
            some = some[:left]
            words += [f"{'≈' if tied else ''}{unit}" for unit, tied, _ in some]
        elif len(some) > _MOST_NAMED:
            words.append(f"({len(some)} units not ranked)")
        else:
            units = sorted(int(unit) for unit, _, _ in some)
            words.append(f"({' '.join(map(str, units))})")
        left -= len(some)
    return " ".join(words)


def _smallest(relay: ConceptRelay, place: int) -> str:
    """A small set that tells 90 %, and whether it is the only one and sure."""
    chosen = relay.smallest_set_at(place)
    tied, resolved = relay.telling_tied[place], relay.telling_resolved[place]
    some = " ".join(f"{'≈' if tied[unit] else ''}{unit}" for unit in chosen[:_SHARES_IN_TABLE])
    more = f" … ({len(chosen)})" if len(chosen) > _SHARES_IN_TABLE else ""
    return f"{some or 'none'}{more}{'' if resolved[chosen].all() else ' (?)'}"


def _with_interval(relay: ConceptRelay, step: int) -> str:
    bits = relay.information[step, 0]
    if relay.lower is None or relay.upper is None:
        return f"{bits:.3f}"
    return f"{bits:.2f} [{relay.lower[step, 0]:.2f}, {relay.upper[step, 0]:.2f}]"


def _chance_columns(relay: ConceptRelay) -> dict[str, list[str]]:
    """What all units are by chance; nothing where no permutations were asked for."""
    if relay.chance_level is None or relay.chance_p_values is None or relay.movable is None:
        return {}
    tested = relay.movable[:, 0] > 0
    return {
        "chance level, bits": [
            f"{bits:.3f}" if test else "not tested"
            for bits, test in zip(relay.chance_level[:, 0], tested, strict=True)
        ],
        "p": [
            f"{p_value:.2g}" if test else "not tested"
            for p_value, test in zip(relay.chance_p_values[:, 0], tested, strict=True)
        ],
    }


def _alone_column(relay: ConceptRelay) -> dict[str, list[str]]:
    """How many units alone are beyond chance, of those that can be tested."""
    if relay.beyond_chance is None or relay.movable is None or relay.unexplained_p_values is None:
        return {}
    tested = (relay.movable[:, 1:] > 0).sum(1)
    unexplained = relay.unexplained_p_values <= CHANCE_LEVEL
    words = []
    for beyond, number, rest in zip(relay.beyond_chance.sum(1), tested, unexplained, strict=True):
        if number and rest:
            words.append("cannot tell")
        else:
            words.append(f"{beyond} of {number} tested" if number else "none tested")
    return {"units beyond chance": words}


def _share_columns(relay: ConceptRelay) -> dict[str, list[str]]:
    """What is not attributed, and the largest shares; nothing where shares were not measured."""
    if relay.share is None or relay.share_error is None or relay.unattributed is None:
        return {}
    largest = np.argsort(-relay.share, axis=1, kind="stable")[:, :_SHARES_IN_TABLE]
    return {
        "unattributed, bits": [f"{bits:z.3f}" for bits in relay.unattributed],
        _SHARES: [
            ", ".join(f"{unit}: {share[unit]:z.3f} ± {error[unit]:.3f}" for unit in units)
            for units, share, error in zip(largest, relay.share, relay.share_error, strict=True)
        ],
    }


def _shares(report: RelayReport, relay: ConceptRelay) -> str:
    if relay.share is None:
        return ""
    number = report.measure.n_orders
    orders = f"{number} random orders"
    if isinstance(number, float):
        orders = f"as many random orders as a standard error of {number:g} bits takes"
    shown = min(_SHARES_IN_TABLE, relay.share.shape[1])
    return (
        f"Shares: the {shown} units with the largest relay share. That is what a unit takes away "
        "when it becomes known, beyond what a permuted copy would. It is the mean over "
        f"{orders}, or all where there are no more, ± its standard error by the choice of orders. "
        "Unattributed: I_R minus the sum of all shares; where it is large, a small share does not "
        "say that a unit is unimportant. "
    )


def _chance(report: RelayReport, relay: ConceptRelay) -> str:
    if relay.movable is None:
        return ""
    untested = (relay.movable[:, 1:] == 0).sum()
    note = (
        f"Chance level: what I(in; out) exceeds with the probability {CHANCE_LEVEL:g} when X_out "
        f"is permuted, {report.measure.n_permutations} times; p: that of as much at any step, by "
        "all units or one. A unit is beyond chance where input and output share more, when all "
        "other units are known, than when X_out is permuted among sequences alike in these (p at "
        f"most {CHANCE_LEVEL:g}), and no more when its state is known too. It cannot be told where "
        "all units together do not account for what input and output share. "
    )
    if untested:
        note += (
            f"{untested} of {relay.movable[:, 1:].size} times a unit could not be tested, because "
            "among sequences alike in all other units X_in or X_out never differs: that says "
            "nothing for or against it. "
        )
    if not relay.movable.any():
        note += "Nothing could be tested at all: X_in or X_out is the same in all sequences. "
    return note


def _intervals(report: RelayReport, relay: ConceptRelay) -> str:
    if relay.lower is None:
        return ""
    return (
        f"After I_R its 95 % interval by {report.measure.n_bootstraps} resamples of the sequences. "
    )


def _sources(report: RelayReport) -> str:
    if report.x_in is None:
        return ""
    return f"X_in: {report.x_in}. X_out: {report.x_out}. "


def _thresholds(report: RelayReport, layer: str) -> str:
    if layer not in report.threshold_agreement:
        return ""
    return (
        f"Thresholds were fitted to the first {report.samples_fitted} sequences; of a fair sample "
        "of all, thresholds fitted to it would give "
        f"{report.threshold_agreement[layer]:.1%} of the codes, at the step and of the unit where "
        "they agree least; expected were "
        f"{report.expected_agreement[layer]:.1%}. {report.beyond_thresholds[layer]} sequences have "
        "steps without thresholds, which are left out. "
    )
