"""Pictures and a table of a knock-out report, for every logger that shows them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightning_relay.ablation.curves import agreement_image, deletion_image, prediction_image
from lightning_relay.ablation.maps import damage_image, step_damage_image
from lightning_relay.ablation.report import ORDERS
from lightning_relay.ablation.scalars import by_name
from lightning_relay.ablation.summary import distinct_measures
from lightning_relay.ablation.table import knockout_table

if TYPE_CHECKING:
    from lightning_relay.ablation.report import KnockoutReport
    from lightning_relay.reports.faces import Faces


def knockout_faces(report: KnockoutReport) -> Faces:
    """The images and the table of a knock-out report, by the tags that follow its prefix.

    - ``knockout_table``: text.
    - ``damage``: image of every set, unless all sets follow orders or are random.
    - ``{layer}/{concept}/deletion``: image of the accuracy along orders, with ``AlongOrder``.
    - ``{layer}/{concept}/agreement``: image of damage over relay shares, for single units.
    - ``{layer}/{concept}/prediction``: image of damage over the relay information of random sets;
      with several steps, ``…/prediction_{step}``.
    - ``{layer}/{measure}/step_damage``: image of single units at single steps.
    """
    epoch = "" if report.epoch is None else f", epoch {report.epoch}"
    faces: Faces = {}
    if not report.sets or any(some.group not in (*ORDERS, "random", "all") for some in report.sets):
        faces["damage"] = damage_image(report, f"knock-outs{epoch}")
    for layer, concept in dict.fromkeys((some.layer, some.concept) for some in report.curves):
        title = f"{layer}: {concept}{epoch}"
        faces[f"{layer}/{concept}/deletion"] = deletion_image(report, layer, concept, title)
    for found in report.agreement:
        title = f"{found.layer}: {found.concept}{epoch}"
        image = agreement_image(report, found.layer, found.concept, title)
        faces[f"{found.layer}/{found.concept}/agreement"] = image
    for name, predicted in by_name(report, "prediction").items():
        title = f"{predicted.layer}: {predicted.concept}{epoch}"
        of_step = report.step_accuracy is not None
        faces[name] = prediction_image(predicted, title, of_step=of_step)
    for layer in report.layers:
        if report.single_steps(layer):
            for measure in distinct_measures(report):
                image = step_damage_image(report, layer, measure, f"{layer}{epoch}")
                faces[f"{layer}/{measure}/step_damage"] = image
    faces["knockout_table"] = knockout_table(report)
    return faces
