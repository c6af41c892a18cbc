"""Reports read from their files when they are asked for; the last ones stay in memory."""

from __future__ import annotations

from collections import OrderedDict
from threading import Lock
from typing import TYPE_CHECKING

from lightning_relay.reports.files import ReportFileError, kind_of

if TYPE_CHECKING:
    from pathlib import Path

    from lightning_relay.ablation.report import KnockoutReport
    from lightning_relay.relay.report import RelayReport
    from lightning_relay.tensorboard_plugin.series import Saved

_KEPT = 2**26
"""Number of bytes of files whose reports stay in memory, where they take about four times more."""


class Reports:
    """Reports read from files; the last ones are kept in memory."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._kept: OrderedDict[tuple[Path, int], tuple[RelayReport | KnockoutReport, int]] = (
            OrderedDict()
        )
        self._loading: dict[tuple[Path, int], Lock] = {}
        self._bytes = 0

    def read(self, saved: Saved) -> RelayReport | KnockoutReport:
        """The report in a file; a ReportFileError or an OSError says in words why there is none."""
        about = saved.path.stat()
        key = saved.path, about.st_mtime_ns
        with self._lock:
            loading = self._loading.setdefault(key, Lock())
        with loading:  # several figures ask for one report at once
            with self._lock:
                report = self._kept.get(key, (None, 0))[0]
            if report is None:
                report = _load(saved.path)
            with self._lock:
                self._loading.pop(key, None)
                if key not in self._kept:
                    self._keep(key, report, about.st_size)
                self._kept.move_to_end(key)
                while self._bytes > _KEPT and len(self._kept) > 1:
                    _, (_, size) = self._kept.popitem(last=False)
                    self._bytes -= size
        return report

    def read_ahead(self, saved: Saved) -> RelayReport | KnockoutReport:
        """The same, for a reader who reads many: it is kept only where there is room."""
        about = saved.path.stat()
        key = saved.path, about.st_mtime_ns
        with self._lock:
            if key in self._kept:
                return self._kept[key][0]
        report = _load(saved.path)
        with self._lock:
            if key not in self._kept and self._bytes + about.st_size <= _KEPT:
                self._keep(key, report, about.st_size)
                self._kept.move_to_end(key, last=False)
        return report

    def _keep(self, key: tuple[Path, int], report: RelayReport | KnockoutReport, size: int) -> None:
        self._kept[key] = report, size
        self._bytes += size


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
