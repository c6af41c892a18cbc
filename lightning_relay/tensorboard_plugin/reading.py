"""What the tab shows of each kind of report, read from its file when it is asked for."""

from __future__ import annotations

from collections import OrderedDict
from threading import Lock
from typing import TYPE_CHECKING, Any

from lightning_relay.reports.files import ReportFileError, kind_of
from lightning_relay.reports.names import known

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from lightning_relay.ablation.report import KnockoutReport
    from lightning_relay.relay.report import RelayReport
    from lightning_relay.reports.figure import Figure
    from lightning_relay.tensorboard_plugin.index import Saved

_KEPT = 8
"""Number of reports that are kept in memory."""


class Reports:
    """Reports read from files; the last ones are kept in memory."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._kept: OrderedDict[tuple[Path, int], RelayReport | KnockoutReport] = OrderedDict()

    def read(self, saved: Saved) -> RelayReport | KnockoutReport:
        """The report in a file; a ReportFileError or an OSError says in words why there is none."""
        key = saved.path, saved.path.stat().st_mtime_ns
        with self._lock:
            if key not in self._kept:
                self._kept[key] = _load(saved.path)
            self._kept.move_to_end(key)
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
            return self._kept[key]


def figures_of(report: RelayReport | KnockoutReport) -> Mapping[str, Callable[..., Figure]]:
    """The figures of this kind of report, by name."""
    from lightning_relay.ablation.figures import FIGURES as OF_KNOCKOUTS
    from lightning_relay.relay.figures import FIGURES as OF_RELAYS
    from lightning_relay.relay.report import RelayReport

    return OF_RELAYS if isinstance(report, RelayReport) else OF_KNOCKOUTS


def drawn(
    report: RelayReport | KnockoutReport, what: str, layer: str, concept: str, step: int
) -> Figure:
    """A figure by its name; those of knock-outs show their first layer and measure.

    Raises a KeyError for names that the report does not have, and a ValueError for what was not
    measured.
    """
    from lightning_relay.relay.report import RelayReport

    draw = known("figure", what, figures_of(report))
    return draw(report, layer, concept, step) if isinstance(report, RelayReport) else draw(report)


def described(report: RelayReport | KnockoutReport) -> dict[str, Any]:
    """What a report holds, for the choices in the tab; and its summary in words."""
    from lightning_relay.relay.report import RelayReport

    return {
        "stage": report.stage,
        "epoch": report.epoch,
        "step": report.global_step,
        "summary": str(report),
        "figures": list(figures_of(report)),
        "layers": _layers(report) if isinstance(report, RelayReport) else [],
    }


def _layers(report: RelayReport) -> list[dict[str, Any]]:
    """Choices that each layer leaves, and each of its concepts in words."""
    from lightning_relay.relay.summary import words_of

    return [
        {
            "name": key,
            "units": layer.common_code.shape[1],
            "time_steps": layer.time_steps.tolist(),
            "concepts": {name: words_of(report, key, name) for name in layer.concepts},
        }
        for key, layer in report.layers.items()
    ]


def _load(path: Path) -> RelayReport | KnockoutReport:
    from lightning_relay.ablation.report import KnockoutReport
    from lightning_relay.relay.report import RelayReport

    kind = kind_of(path)
    if kind == "relay":
        return RelayReport.load(path)
    if kind == "knock-out":
        return KnockoutReport.load(path)
    raise ReportFileError(
        f"path: {str(path)!r} holds "
        + ("no report" if kind is None else f"a {kind} report, which this version does not show")
    )
