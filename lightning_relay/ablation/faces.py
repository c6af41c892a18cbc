"""Figures and a table of a knock-out report, for every logger that shows them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lightning_relay.ablation.figures import FIGURES
from lightning_relay.ablation.report import ORDERS
from lightning_relay.ablation.table import knockout_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lightning_relay.ablation.report import KnockoutReport
    from lightning_relay.reports.faces import Faces


def knockout_faces(report: KnockoutReport) -> Faces:
    """The table of a knock-out report and a few figures, by the tags that follow its prefix.

    Of several concepts, those of the first are drawn.

    - ``knockout_table``: text.
    - ``damage``: figure of every set, unless all sets follow orders, are random, or hold single
      units at single steps.
    - ``{layer}/{concept}/deletion``: figure of the accuracy along orders, with ``AlongOrder``.
    - ``{layer}/{concept}/agreement``: figure of damage over relay shares, for single units.
    - ``{layer}/{concept}/prediction``: figure of damage over the relay information of random sets.
    - ``{layer}/step_damage``: figure of single units at single steps.
    """
    faces: Faces = {"knockout_table": knockout_table(report)}
    at_steps = [layer for layer in report.layers if report.single_steps(layer)]
    others = {some.group for some in report.sets} - {*ORDERS, "random", "all"}
    if report.measures and others and not at_steps:
        faces["damage"] = FIGURES["damage"](report)
    results: dict[str, Sequence[Any]] = {
        "deletion": report.curves,
        "agreement": report.agreement,
        "prediction": report.predictions,
    }
    for name, found in results.items():
        concepts: dict[str, str] = {}
        for one in found:
            concepts.setdefault(one.layer, one.concept)
        for layer, concept in concepts.items():
            faces[f"{layer}/{concept}/{name}"] = FIGURES[name](report, layer, concept)
    for layer in at_steps:
        faces[f"{layer}/step_damage"] = FIGURES["step_damage"](report, layer)
    return faces
