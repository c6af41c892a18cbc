"""All reports of a run, read from the files that the callbacks saved."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from lightning_relay.ablation.report import KnockoutReport
from lightning_relay.relay.report import RelayReport
from lightning_relay.reports.files import kind_of


@dataclass(frozen=True, eq=False, repr=False)
class RunReports:
    """Reports of a run by optimizer step, those of testing after those of validation.

    Attributes:
        relay: Reports of ``RelayInformationCallback``.
        knockout: Reports of ``KnockoutCallback``.
    """

    relay: tuple[RelayReport, ...]
    knockout: tuple[KnockoutReport, ...]

    def __repr__(self) -> str:
        return f"RunReports: {len(self.relay)} relay, {len(self.knockout)} knock-out"


def load_reports(log_dir: str | Path, prefix: str | None = None) -> RunReports:
    """All reports under a directory, such as the log directory or ``dirpath`` of a callback.

    Args:
        log_dir: Directory to search, with its subdirectories.
        prefix: Prefix of the callbacks whose reports are read. Default: any.

    Returns:
        The reports. Files that cannot be recognised as reports are skipped.

    Raises:
        FileNotFoundError: If the directory does not exist or holds no report.
        ReportFileError: If a report is damaged or has another version of the file format, or a
            file has the name of a callback's report and holds none.
        ValueError: If there are reports of several runs.

    Example:
        >>> runs = load_reports("lightning_logs/version_0")  # doctest: +SKIP
        >>> runs.relay[-1]["rnn.l0"]["joint"].top_units(5)  # doctest: +SKIP
        [3, 7, 1, 12, 0]
    """
    directory = Path(log_dir)
    if not directory.is_dir():
        raise FileNotFoundError(f"log_dir: no directory {str(log_dir)!r}")
    first = "" if prefix is None else f"{prefix.replace('/', '-')}-"
    named = re.compile(re.escape(first) + ("(validate|test)-epoch=" if first else ""))
    found = (path for path in sorted(directory.rglob("*.npz")) if path.is_file())
    paths = [path for path in found if named.match(path.name)]
    kinds = {path: kind_of(path) for path in paths}
    runs = sorted({str(_run_of(path)) for path, kind in kinds.items() if kind is not None})
    if len(runs) > 1:
        raise ValueError(
            f"log_dir: got {str(log_dir)!r} with reports of {len(runs)} runs; it takes one of "
            f"{', '.join(map(repr, runs))}"
        )
    relay = [RelayReport.load(path) for path, kind in kinds.items() if kind == "relay"]
    knockout = [KnockoutReport.load(path) for path, kind in kinds.items() if kind == "knock-out"]
    if not relay and not knockout:
        raise FileNotFoundError(
            f"log_dir: no report '{first}*.npz' under {str(log_dir)!r}; name the directory of the "
            "Trainer's first logger, or the callback's dirpath"
        )
    return RunReports(tuple(sorted(relay, key=_order)), tuple(sorted(knockout, key=_order)))


def _run_of(path: Path) -> Path:
    """Directory of the run that a report belongs to: the callbacks save in ``…_reports`` in it."""
    return path.parent.parent if path.parent.name.endswith("_reports") else path.parent


def _order(report: RelayReport | KnockoutReport) -> tuple[int, bool]:
    """Reports of testing come after those of the validation at the same step."""
    return report.global_step or 0, report.stage == "test"
