"""From recorded states and labels to a relay report."""

from __future__ import annotations

import dataclasses
import warnings
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from lightning_relay.information import (
    bootstrap,
    chance_level,
    entropy,
    mutual_information,
    relay_order,
    relay_share,
    relay_transfer,
)
from lightning_relay.information.arguments import check_label_tensor
from lightning_relay.information.discretization import fit_thresholds
from lightning_relay.information.each import given_each_unit
from lightning_relay.information.lags import lag_profile
from lightning_relay.information.options import TIE, RelayMeasure
from lightning_relay.reading.labels import TooFewLabelsError
from lightning_relay.recurrent.inputs_end import InputsEnd, check_inputs_end, inputs_ended
from lightning_relay.recurrent.keys import StateKey
from lightning_relay.recurrent.states import HiddenStates, check_time_steps, every_step, has_step
from lightning_relay.relay.labels import LabelCodes
from lightning_relay.relay.report import (
    CHANCE_LEVEL,
    ConceptRelay,
    LayerRelay,
    RelayReport,
)
from lightning_relay.sampling.kept import KeptStates
from lightning_relay.sampling.processes import Processes
from lightning_relay.sampling.storage import code_dtype

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from lightning_relay.information import RelayOrder
    from lightning_relay.latent.structure import LatentStructure
    from lightning_relay.reading.concepts import Concepts
    from lightning_relay.recurrent.states import LayerStates

    Arrays = dict[str, Any]

_CODES_AT_ONCE = 2**22
"""Steps are analysed in blocks of about this many codes."""

_INTERVALS = ("lower", "upper", "rank_lower", "rank_upper", "rank_stability")

_LOWER_AGREEMENT = 0.1
"""Thresholds that agree less than expected by more than this fraction are warned of."""


def relay_report(
    states: Mapping[str, LayerStates],
    x_in: Tensor,
    x_out: Tensor,
    *,
    concepts: Concepts | None = None,
    num_classes: int | None = None,
    num_labels: int | None = None,
    measure: RelayMeasure | None = None,
    time_steps: Sequence[int] | None = None,
    inputs_end: InputsEnd | None = None,
    samples_seen: int | None = None,
    latent: Mapping[str, LatentStructure] | None = None,
) -> RelayReport:
    """Relay information, greedy order and shares of the units of every layer, step and concept.

    Needs no Lightning: the states may come from a ``HiddenStateRecorder`` around any forward pass.

    Args:
        states: Hidden states by layer key, ``(batch, step, unit)`` each. Integers are codes, made
            from the states with the ``discretization`` and ``levels`` of ``measure``.
        x_in: Class label of each input sequence, int64 ``(batch,)``; or of each of its steps,
            ``(batch, step)``. The states of a step are compared with the labels of this step, and
            labels -100 are not counted.
        x_out: Class that the model predicts for each sequence or step, as ``x_in``.
        concepts: What is asked of the class label: ``"joint"`` (which is it), ``"per_class"`` (is
            it class k, or has the sample label k), or functions of the class label by name.
            Default: ``"joint"``, or ``"per_class"`` with ``num_labels``.
        num_classes: Number of classes for ``"per_class"``. Default: the labels that occur.
        num_labels: Number of labels of a sample, if it has several: bit k of ``x_in`` and ``x_out``
            says whether it has label k. Functions are called with a tuple of 0 and 1 then.
        measure: How relay information is measured. Default: ``RelayMeasure()``.
        time_steps: Steps to analyse. A negative step counts back from each sequence's own end. A
            step that no sequence of a layer has is left out with a warning; it is an error if no
            step is left. Default: every step up to the end of the longest sequence and, if lengths
            differ, -1, the last step of each.
        inputs_end: Step at which the last input was presented. A negative step counts back from
            each sequence's own end. A mapping from module names to steps, if modules have steps of
            their own, such as a decoder; modules that are not named are not marked. A step is
            marked in the report if the states of some sequence had not seen all input, because
            X_out then depends on more than the states. The backward direction of a first layer has
            seen all input at step 0 only. ``HiddenStateRecorder(model, inputs=True).inputs_end``
            finds the steps where inputs are constant at the end. Default: no step is marked.
        samples_seen: Number of sequences seen before some were left out. Default: the number of
            labels.
        latent: Geometry of the states by layer key, from ``latent_structure``, to keep with the
            report. Default: none. Layers that are not in ``states`` are left out.

    Returns:
        The report, information in bits. At each step only the sequences that are long enough are
        counted. There is no relay transfer if each step has labels of its own.

    Raises:
        TypeError: If labels are not integers.
        ValueError: If ``states`` is empty or a key is not a layer key, labels are neither
            ``(batch,)`` nor ``(batch, step)``, numbers of sequences and labels differ, no label of
            a step that there is counts, codes were made with other
            options than those of ``measure``, a step is outside every sequence, ``inputs_end``
            names an unknown module, or a state is NaN or infinite.

    Example:
        >>> import torch
        >>> from lightning_relay import HiddenStates
        >>> x = torch.tensor([0, 1]).repeat(8)
        >>> states = HiddenStates(x.reshape(16, 1, 1).float(), torch.ones(16, 1, dtype=torch.bool))
        >>> report = relay_report({"rnn.l0": states}, x, x)
        >>> report.layers["rnn.l0"].concepts["joint"].information[0]
        array([1., 0.])
    """
    return shared_report(
        Processes(),
        states,
        x_in,
        x_out,
        concepts=concepts,
        num_classes=num_classes,
        num_labels=num_labels,
        measure=measure,
        time_steps=time_steps,
        inputs_end=inputs_end,
        samples_seen=samples_seen,
        latent=latent,
    )


def shared_report(
    processes: Processes,
    states: Mapping[str, LayerStates],
    x_in: Tensor,
    x_out: Tensor,
    *,
    concepts: Concepts | None,
    num_classes: int | None,
    num_labels: int | None,
    measure: RelayMeasure | None,
    time_steps: Sequence[int] | None = None,
    inputs_end: InputsEnd | None,
    samples_seen: int | None,
    latent: Mapping[str, LatentStructure] | None,
) -> RelayReport:
    """``relay_report`` of states that all processes have; they share the work.

    All must call this.
    """
    measure = measure or RelayMeasure()
    check_time_steps(time_steps)
    x_in, x_out = _labels("x_in", x_in), _labels("x_out", x_out)
    if not states:
        raise ValueError("states: got no layer; it takes hidden states by layer key")
    for layer, layer_states in states.items():
        StateKey.parse(layer)
        if len(layer_states) != len(x_in) or len(x_in) != len(x_out):
            raise ValueError(
                f"states, x_in, x_out: got {len(layer_states)} sequences of {layer!r}, "
                f"{len(x_in)} and {len(x_out)} labels; they take equal numbers"
            )
    if x_in.shape != x_out.shape:
        raise ValueError(
            f"x_in, x_out: got shapes {tuple(x_in.shape)} and {tuple(x_out.shape)}; they take "
            "labels of the same sequences or steps"
        )
    check_inputs_end(inputs_end, states)
    labels = LabelCodes(concepts, x_in, x_out, num_classes, num_labels)
    if labels.of_steps:
        measure = dataclasses.replace(measure, n_splits=0)
    layers = {}
    for layer, layer_states in states.items():
        if isinstance(layer_states, HiddenStates):
            layer_states.check_finite(layer)
        if isinstance(layer_states, KeptStates):
            _check_codes(layer, layer_states, measure)
        steps = _steps(layer, layer_states, time_steps)
        steps, samples = _with_labels(layer, layer_states, steps, labels)
        measured: list[Callable[[], tuple[NDArray[np.int64], dict[str, Arrays]]]] = []
        common, kept_codes, kept_valid = [], [], []
        start = 0
        for block in _blocks(layer_states, steps, processes.size):
            own = slice(start, start + len(block))
            start += len(block)
            valid = torch.cat([part.valid for part in block], dim=1).T & samples[own]
            hidden = torch.cat([part.values for part in block], dim=1).transpose(0, 1)
            if hidden.is_floating_point():
                thresholds = fit_thresholds(
                    hidden,
                    measure.discretization,
                    levels=measure.levels,
                    valid=valid,
                    layer=layer,
                )
                hidden = thresholds.codes(hidden, code_dtype(measure.levels))
            codes, _ = labels.at(steps[own], layer_states.lengths)
            measured.append(partial(_measured, codes, hidden, valid, measure))
            common.append(_common_code(hidden, valid))
            if measure.all_steps_at_once:
                kept_codes.append(_narrow(hidden))
                kept_valid.append(valid)
        distinct_states, of_concepts = zip(*processes.share(measured), strict=True)
        relays: dict[str, Arrays] = {
            name: {
                part: np.concatenate([block[name][part] for block in of_concepts])
                for part in of_concepts[0][name]
            }
            for name in labels.counted
        }
        if kept_codes:
            hidden, valid = torch.cat(kept_codes), torch.cat(kept_valid)
            codes, _ = labels.at(steps, layer_states.lengths)
            drawn = {
                name: _drawn(codes[name], hidden, valid, measure, processes.size) for name in relays
            }
            names = [name for name, parts in drawn.items() for _ in parts]
            calls = [part for parts in drawn.values() for part in parts]
            for name, found in zip(names, processes.share(calls), strict=True):
                relay = relays[name]
                for part, values in found.items():  # of all steps, or of those that follow
                    relay[part] = np.concatenate([relay[part], values]) if part in relay else values
        analysed, backward = np.array(steps, dtype=np.int64), StateKey.parse(layer).reverse
        ended = inputs_ended(layer, states, steps, inputs_end).cpu().numpy()
        for relay in relays.values():
            if "transfer" in relay:
                kept = np.flatnonzero(ended & (analysed >= 0))
                relay["lag_profile"] = lag_profile(
                    relay["transfer"][np.ix_(kept, kept)], analysed[kept]
                )
        layers[layer] = LayerRelay(
            time_steps=analysed,
            backward=backward,
            inputs_ended=ended,
            samples=samples.sum(1).cpu().numpy(),
            distinct_states=np.concatenate(distinct_states),
            common_code=np.concatenate(common),
            concepts={
                name: ConceptRelay(time_steps=analysed, backward=backward, **relay)
                for name, relay in relays.items()
            },
            latent=(latent or {}).get(layer),
        )
    coded = {
        layer: kept
        for layer, kept in states.items()
        if isinstance(kept, KeptStates) and kept.fitted is not None
    }
    report = RelayReport(
        layers=layers,
        mutual_information={
            name: float(mutual_information(concept_in, concept_out, estimator=measure.estimator))
            for name, (concept_in, concept_out) in labels.counted.items()
        },
        input_entropy={
            name: float(entropy(concept_in.unsqueeze(-1)))
            for name, (concept_in, _) in labels.counted.items()
        },
        samples=len(x_in),
        samples_seen=len(x_in) if samples_seen is None else samples_seen,
        samples_fitted=min([len(x_in), *(kept.fitted or 0 for kept in coded.values())]),
        threshold_agreement={layer: kept.agreement() for layer, kept in coded.items()},
        expected_agreement={layer: kept.expected_agreement for layer, kept in coded.items()},
        beyond_thresholds={layer: kept.left_out() for layer, kept in coded.items()},
        measure=measure,
        inputs_end=inputs_end,
        ignored=labels.ignored if labels.of_steps else None,
    )
    _warn_of_thresholds(report)
    return report


def _labels(name: str, labels: Tensor) -> Tensor:
    check_label_tensor(name, labels)
    if labels.dim() not in (1, 2):
        raise ValueError(
            f"{name}: got shape {tuple(labels.shape)}; it takes (batch,) or (batch, step)"
        )
    return labels.long()


def _check_codes(layer: str, states: KeptStates, measure: RelayMeasure) -> None:
    made_with = (states.discretization, states.levels)
    if states.fitted is None or made_with == (measure.discretization, measure.levels):
        return
    raise ValueError(
        f"discretization, levels: got {measure.discretization!r}, {measure.levels}, but the codes "
        f"of {layer!r} were made with {states.discretization!r}, {states.levels}; use these"
    )


def _warn_of_thresholds(report: RelayReport) -> None:
    remedy = (
        "see threshold_agreement and beyond_thresholds of the report; shuffle the sequences once "
        "with a fixed seed, raise fit_samples, or keep states instead of codes "
        "(SequenceSample(storage='states'))"
    )
    fitted = f"thresholds were fitted to the first {report.samples_fitted} sequences"
    for layer, agreement in report.threshold_agreement.items():
        if agreement < report.expected_agreement[layer] - _LOWER_AGREEMENT:
            warnings.warn(
                f"{layer!r}: {fitted}, which are not like the others; {remedy}", stacklevel=3
            )
        if report.beyond_thresholds[layer]:
            warnings.warn(
                f"{layer!r}: {fitted}, and too few of these have some steps of the others; such "
                f"steps are left out; {remedy}",
                stacklevel=3,
            )


def _steps(layer: str, states: LayerStates, time_steps: Sequence[int] | None) -> list[int]:
    kept = states.time_steps if isinstance(states, KeptStates) else None
    wanted = time_steps if time_steps is not None else kept
    if wanted is None:
        return every_step(states)
    present = [step for step in wanted if states.has(step)]
    if not present:
        states.at(wanted[0])  # raises and says why
    absent = [step for step in wanted if step not in present]
    if absent:
        warnings.warn(
            f"time_steps: no sequence of {layer!r} has the steps {absent}, or none of them was "
            "kept; they are left out",
            stacklevel=3,
        )
    return present


def _with_labels(
    layer: str, states: LayerStates, steps: list[int], labels: LabelCodes
) -> tuple[list[int], Tensor]:
    """Steps at which a label counts, and which sequences count there, bool ``(step, batch)``."""
    samples = torch.stack([has_step(states.lengths, step) for step in steps])
    _, counted = labels.at(steps, states.lengths)
    if counted is None:
        return steps, samples
    samples &= counted.to(samples.device)
    kept = samples.any(1).tolist()
    if not any(kept):
        raise TooFewLabelsError(
            f"x_in, x_out: no label of a step of {layer!r} counts; all are -100"
        )
    return [step for step, some in zip(steps, kept, strict=True) if some], samples[kept]


def _blocks(
    states: LayerStates, steps: Sequence[int], number: int = 1
) -> Iterator[list[HiddenStates]]:
    """States at the steps, in blocks of a few steps, or in so many blocks of about equal size."""
    first = states.at(steps[0])
    at_once = max(1, _CODES_AT_ONCE // max(1, first.values.numel()))
    at_once = min(at_once, -(-len(steps) // number))
    for start in range(0, len(steps), at_once):
        yield [states.at(step) for step in steps[start : start + at_once]]


def _narrow(codes: Tensor) -> Tensor:
    """The same codes, in one byte each if they fit."""
    small = int(codes.min()) >= 0 and int(codes.max()) < 2**8
    return codes.to(torch.uint8) if small else codes


def _common_code(codes: Tensor, valid: Tensor) -> NDArray[np.float64]:
    """Fraction of the valid samples that have the most common code, of ``(step, batch, unit)``."""
    counted = valid.unsqueeze(-1)
    values = range(2) if codes.dtype == torch.uint8 and int(codes.max()) < 2 else codes.unique()
    most = torch.zeros(codes[:, 0].shape, dtype=torch.int64, device=codes.device)
    for value in values:
        most = torch.maximum(most, ((codes == value) & counted).sum(1))
    fraction: NDArray[np.float64] = (most.double() / valid.sum(1, keepdim=True)).cpu().numpy()
    return fraction


def _measured(
    codes: Mapping[str, tuple[Tensor, Tensor]], hidden: Tensor, valid: Tensor, measure: RelayMeasure
) -> tuple[NDArray[np.int64], dict[str, Arrays]]:
    """Numbers of distinct states, and results by concept, of codes ``(step, batch, unit)``."""
    relays, counted = {}, None if bool(valid.all()) else valid
    for name, labels in codes.items():
        ordered = partial(
            relay_order,
            *labels,
            hidden,
            valid=counted,
            estimator=measure.estimator,
            min_coverage=measure.min_coverage,
            max_gap=measure.max_gap,
        )
        order = ordered(direction=measure.direction)
        growing = order if measure.direction == "grow" else ordered(direction="grow")
        information = mutual_information(*labels, valid=counted, estimator=measure.estimator)
        found = {
            # A scalar if all sequences reach all steps.
            "mutual_information": information.expand(len(hidden)),
            "accuracy": ((labels[0] == labels[1]) & valid).sum(1) / valid.sum(1).double(),
            **{part.name: getattr(order, part.name) for part in dataclasses.fields(order)},
            **_of_sets(growing, information, labels, hidden, counted, measure),
        }
        relays[name] = {part: values.cpu().numpy() for part, values in found.items()}
        if measure.orders_of_shares and not isinstance(measure.orders_of_shares, float):
            relays[name] |= _shares(labels, hidden, counted, measure)
    everything = -1 if measure.direction == "shrink" else 0
    return order.distinct_states[:, everything].cpu().numpy(), relays


def _of_sets(
    growing: RelayOrder,
    information: Tensor,
    labels: tuple[Tensor, Tensor],
    hidden: Tensor,
    valid: Tensor | None,
    measure: RelayMeasure,
) -> dict[str, Tensor]:
    """Arrays of what single units and growing sets tell, by their names in ``ConceptRelay``."""
    alone, others = given_each_unit(*labels, hidden, valid=valid, estimator=measure.estimator)
    shared = information.unsqueeze(-1)
    told = growing.information.flip(-1)
    telling = growing.units.flip(-1)
    complete = told[..., :-1] >= told[..., -1:] - TIE
    return {
        "tells": shared - alone,
        "irreplaceable": others - (shared - told[..., -1:]),
        "telling": telling.masked_fill(complete.cumsum(-1) > 0, -1),
        "telling_tied": growing.tied,
        "telling_resolved": growing.resolved,
        "told": told,
    }


def _shares(
    labels: tuple[Tensor, Tensor], hidden: Tensor, valid: Tensor | None, measure: RelayMeasure
) -> Arrays:
    """Relay shares of codes ``(step, batch, unit)``."""
    found = relay_share(
        *labels,
        hidden,
        n_orders=measure.orders_of_shares,
        valid=valid,
        estimator=measure.estimator,
        min_coverage=measure.min_coverage,
        max_gap=measure.max_gap,
        seed=measure.seed,
    )
    return {
        "share": found.share.cpu().numpy(),
        "share_error": found.standard_error.cpu().numpy(),
        "share_resolved": found.resolved.cpu().numpy(),
        "unattributed": found.unattributed.cpu().numpy(),
    }


def _drawn(
    labels: tuple[Tensor, Tensor],
    hidden: Tensor,
    valid: Tensor,
    measure: RelayMeasure,
    number: int,
) -> list[Callable[[], Arrays]]:
    """What measures everything with random draws that all steps share.

    Codes are ``(step, batch, unit)``. Intervals are measured in so many parts of the steps, which
    draw alike.
    """
    drawn = {
        _shares: isinstance(measure.orders_of_shares, float),
        _transfer: measure.splits_of_transfer,
        _chance: measure.n_permutations,
    }
    calls: list[Callable[[], Arrays]] = [
        partial(part, labels, hidden, valid, measure) for part, asked in drawn.items() if asked
    ]
    if measure.n_bootstraps:
        for own in torch.arange(len(hidden)).tensor_split(min(number, len(hidden))):
            x_in, x_out = (part[own] if part.dim() == 2 else part for part in labels)
            calls.append(partial(_intervals, (x_in, x_out), hidden[own], valid[own], measure))
    return calls


def _intervals(
    labels: tuple[Tensor, Tensor], hidden: Tensor, valid: Tensor, measure: RelayMeasure
) -> Arrays:
    """Bootstrap intervals, by the names in ``ConceptRelay``."""
    found = bootstrap(
        *labels,
        hidden,
        direction=measure.direction,
        n_bootstraps=measure.n_bootstraps,
        valid=valid,
        estimator=measure.estimator,
        seed=measure.seed,
    )
    return {name: getattr(found, name).cpu().numpy() for name in _INTERVALS}


def _transfer(
    labels: tuple[Tensor, Tensor], hidden: Tensor, valid: Tensor, measure: RelayMeasure
) -> Arrays:
    """Relay transfer between all steps, by the names in ``ConceptRelay``."""
    found = relay_transfer(
        *labels,
        hidden,
        n_splits=measure.splits_of_transfer,
        valid=None if bool(valid.all()) else valid,
        estimator=measure.estimator,
        seed=measure.seed,
    )
    return {
        "transfer": found.transfer.cpu().numpy(),
        "transfer_error": found.standard_error.cpu().numpy(),
        "set_size": found.set_size.cpu().numpy(),
        "reached": found.reached.cpu().numpy(),
    }


def _chance(
    labels: tuple[Tensor, Tensor], hidden: Tensor, valid: Tensor, measure: RelayMeasure
) -> Arrays:
    """Chance levels of all units and of each alone, by their names in ``ConceptRelay``."""
    steps, _, units = hidden.shape
    if not _vary(labels, valid):
        # Nothing can be permuted: a class does not occur, or the model predicts one class only.
        # movable is 0 then; a warning in every epoch would not say more.
        nothing = np.zeros((steps, units + 1))
        return {
            "chance_level": nothing,
            "chance_p_values": nothing + 1,
            "unexplained_p_values": np.ones(steps),
            "movable": nothing.copy(),
        }
    chance = chance_level(
        *labels,
        hidden,
        [list(range(units)), *([unit] for unit in range(units)), []],
        n_permutations=measure.n_permutations,
        valid=valid,
        level=CHANCE_LEVEL,
        seed=measure.seed,
    )
    return {
        "chance_level": chance.threshold[:, :-1].cpu().numpy(),
        "chance_p_values": chance.family_p_values[:, :-1].cpu().numpy(),
        "unexplained_p_values": chance.family_p_values[:, -1].cpu().numpy(),
        "movable": chance.movable[:, :-1].cpu().numpy(),
    }


def _vary(labels: tuple[Tensor, Tensor], valid: Tensor) -> bool:
    """Whether X_in and X_out, ``(…, batch)``, both differ among the valid ones of some step."""
    differ = torch.ones(len(valid), dtype=torch.bool, device=valid.device)
    for part in labels:
        codes = part.expand(valid.shape)
        largest = codes.masked_fill(~valid, codes.min()).amax(1)
        differ &= largest > codes.masked_fill(~valid, codes.max()).amin(1)
    return bool(differ.any())
