"""Check of a knock-out report before it is saved and after it is loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightning_relay.reports.checks import check_shapes, check_types

if TYPE_CHECKING:
    from lightning_relay.ablation.damage import Damage
    from lightning_relay.ablation.report import KnockoutReport

_REPORT = {
    **dict.fromkeys(["classes", "class_samples"], ("class",)),
    "step_samples": ("step",),
    "confusion": ("set + 1", "class", "class"),
    "predictions_changed": ("set",),
}
_CURVE = {
    "units": ("order", "unit"),
    "sizes": ("size",),
    **dict.fromkeys(["accuracy", "lower", "upper"], ("order", "size")),
    "area": ("order",),
}
_AGREEMENT = dict.fromkeys(["scores", "damage"], ("unit",))
_PREDICTION = {
    **dict.fromkeys(["places", "sizes", "information", "damage"], ("random set",)),
    **dict.fromkeys(["lower", "upper"], ("statistic",)),
    **dict.fromkeys(["unit_damage", "unit_lower", "unit_upper", "unit_share"], ("unit",)),
}


def check_report(report: KnockoutReport) -> None:
    """Refuse a report whose parts have wrong types or shapes, with a ValueError."""
    check_types(report, "KnockoutReport", "report")
    sizes = {"set": len(report.sets), "concept": len(report.concepts)}
    check_shapes(report, _REPORT, sizes, "report")
    _check_damage(report.accuracy, (), sizes, "accuracy")
    _check_damage(report.class_accuracy, ("class",), sizes, "class_accuracy")
    _check_damage(report.step_accuracy, ("step",), sizes, "step_accuracy")
    _check_damage(report.concept_accuracy, ("concept",), sizes, "concept_accuracy")
    for name, damage in report.metrics.items():
        _check_damage(damage, (), sizes, f"metrics/{name}")
    for place, curve in enumerate(report.curves):
        check_shapes(curve, _CURVE, {}, f"curves/{place}")
    for place, agreement in enumerate(report.agreement):
        check_shapes(agreement, _AGREEMENT, {}, f"agreement/{place}")
    for place, prediction in enumerate(report.predictions):
        check_shapes(prediction, _PREDICTION, {"statistic": 5}, f"predictions/{place}")


def _check_damage(
    damage: Damage | None, axes: tuple[str, ...], sizes: dict[str, int], name: str
) -> None:
    if damage is not None:
        with_sets = dict.fromkeys(["knocked_out", "damage", "lower", "upper"], ("set", *axes))
        check_shapes(damage, {"baseline": axes, **with_sets}, sizes, name)
