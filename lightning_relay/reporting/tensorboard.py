"""A report in TensorBoard: a picture and a table for each layer and concept."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightning_relay.figures import relay_image

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

    from lightning_relay.report import RelayReport

_UNITS_IN_TABLE = 10


def write_relay_report(
    writer: SummaryWriter,
    report: RelayReport,
    prefix: str,
    global_step: int,
    *,
    suffix: str = "",
) -> None:
    """Write the images and tables of a report.

    Args:
        writer: TensorBoard's writer.
        report: The report.
        prefix: Tags are ``{prefix}/{layer}/{concept}/scores{suffix}`` for images and
            ``{prefix}/{layer}/{concept}/order{suffix}`` for tables.
        global_step: The step they are written at.
        suffix: Last part of the tags.
    """
    for key, layer in report.layers.items():
        for concept in layer.concepts:
            tag = f"{prefix}/{key}/{concept}"
            epoch = "" if report.epoch is None else f", epoch {report.epoch}"
            image = relay_image(layer, concept, f"{key}: {concept}{epoch}")
            writer.add_image(f"{tag}/scores{suffix}", image, global_step, dataformats="HWC")
            writer.add_text(f"{tag}/order{suffix}", relay_table(report, key, concept), global_step)


def relay_table(report: RelayReport, layer: str, concept: str) -> str:
    """Markdown table with a row for each analysed step: evidence, information, order."""
    results = report.layers[layer]
    relay = results.concepts[concept]
    units = relay.units.shape[1]
    shown = min(_UNITS_IN_TABLE, units)
    lines = [
        f"{report.samples} of {report.samples_seen} sequences analysed; {report.discretization}, "
        f"{report.direction} order, {report.estimator} estimate. "
        f"{_sources(report)}{_thresholds(report, layer)}"
        f"Units: the {shown} most important of {units}, most important first; "
        "≈ before a unit: another was as good, so the data do not tell its "
        "place. At a step marked * the states had not seen all input.",
        "",
        "| step | sequences | states | I(in; out), bits | I_R, bits | tied | units |",
        "| ---: | ---: | ---: | ---: | ---: | ---: | :--- |",
    ]
    for index, step in enumerate(results.time_steps):
        lines.append(
            f"| {step}{'' if results.inputs_ended[index] else ' *'} "
            f"| {results.samples[index]} | {results.distinct_states[index]} "
            f"| {relay.mutual_information[index]:.3f} | {relay.information[index, 0]:.3f} "
            f"| {relay.tied[index].sum()} of {units} "
            f"| {relay.most_important(index, shown)} |"
        )
    return "\n".join(lines)


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
