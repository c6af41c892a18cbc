"""All reports of a run, read from the files that the callbacks saved."""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from lightning_relay.ablation.report import KnockoutReport
from lightning_relay.relay.history_figure import history_figure
from lightning_relay.relay.report import RelayReport
from lightning_relay.reports.figure import shown
from lightning_relay.reports.files import ReportFileError, kind_of
from lightning_relay.reports.history import attempts_under, before_resume, place_of, real, run_of
from lightning_relay.reports.names import known

if TYPE_CHECKING:
    from collections.abc import Sequence

    from plotly.graph_objects import Figure

HistoryName = Literal["history"]
"""Name of a figure of several reports."""

_VERSION = re.compile(r"-v\d+\.npz$")
"""End of the name of a report that was saved after another of the same evaluation."""


@dataclass(frozen=True, eq=False, repr=False)
class RunReports:
    """Reports of a run by optimizer step, those of testing after those of validation.

    Attributes:
        relay: Reports of ``RelayInformationCallback``.
        knockout: Reports of ``KnockoutCallback``.
        notes: What is left out, not found or there several times, each in a sentence.
    """

    relay: tuple[RelayReport, ...]
    knockout: tuple[KnockoutReport, ...]
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        counts = f"RunReports: {len(self.relay)} relay, {len(self.knockout)} knock-out"
        return "\n".join([counts, *self.notes])

    def figure(
        self,
        what: HistoryName,
        layer: str | None = None,
        concept: str | None = None,
        step: int = -1,
        *,
        unit: int | None = None,
        dataloader: int = 0,
    ) -> Figure:
        """An interactive figure of plotly over the evaluations of a run.

        Args:
            what: ``"history"``: the bits that all units relay at a step, the accuracy, and each
                unit's share of the bits, over epochs, or over optimizer steps if an epoch has
                several evaluations. Reports of testing are left out.
            layer: Key of the layer. Default: the first.
            concept: Name of the concept. Default: the first.
            step: One of the layer's ``time_steps``; or -1, the step that the layer computes last.
            unit: Index of a unit that is highlighted. Default: none.
            dataloader: Index of the dataloader whose reports are drawn.

        Raises:
            ImportError: If plotly is not installed.
            KeyError: If there is no such figure, layer or concept; lists the known ones.
            ValueError: If there is no report, if several are of one evaluation, or if none has
                the step or the unit.
        """
        draw = known("figure", what, {"history": history_figure})
        reports = [
            report
            for report in self.relay
            if report.stage != "test" and report.dataloader == dataloader
        ]
        if not reports:
            raise ValueError(
                f"reports: no relay report of validation, dataloader {dataloader}, among "
                f"{len(self.relay)} relay reports"
            )
        epochs = [report.epoch for report in reports]
        along, times = "epoch", epochs
        if None in epochs or len(set(epochs)) < len(epochs):
            along, times = "optimizer steps", [report.global_step for report in reports]
        named = [(float(time or 0), report) for time, report in zip(times, reports, strict=True)]
        return shown(draw(named, layer, concept, step, unit=unit, along=along))


def load_reports(log_dir: str | Path, prefix: str | None = None) -> RunReports:
    """All reports under a directory, such as the log directory or ``dirpath`` of a callback.

    A run that was resumed from a checkpoint has the reports from before the resume, too: those of
    each earlier directory up to the checkpoint. Reports of an attempt from after a checkpoint that
    was resumed in the same directory are left out. ``notes`` of the result says what is left out.

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

    Warns:
        UserWarning: If reports from before a resume were moved, deleted or changed, or cannot be
            read.

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
    paths, earlier, notes, missing = _by_attempts(directory, paths, first.removesuffix("-"))
    kinds = {path: kind_of(path) for path in paths}
    runs = sorted({str(run_of(path)) for path, kind in kinds.items() if kind is not None})
    if len(runs) > 1:
        raise ValueError(
            f"log_dir: got {str(log_dir)!r} with reports of {len(runs)} runs; it takes one of "
            f"{', '.join(map(repr, runs))}"
        )
    reports, unread = [], []
    for path in earlier:
        try:
            reports.append(_loaded(path, kind_of(path)))
        except (ReportFileError, OSError) as error:
            unread.append(error)
    if unread:
        missing.append(f"{_counted(unread)} from before a resume cannot be read: {unread[0]}")
    for words in missing:
        warnings.warn(words, stacklevel=2)
    reports += [_loaded(path, kind) for path, kind in kinds.items()]
    relay = [report for report in reports if isinstance(report, RelayReport)]
    knockout = [report for report in reports if isinstance(report, KnockoutReport)]
    if not relay and not knockout:
        raise FileNotFoundError(
            f"log_dir: no report '{first}*.npz' under {str(log_dir)!r}; name the directory of the "
            "Trainer's first logger, or the callback's dirpath"
        )
    again = [path for path in (*earlier, *paths) if _VERSION.search(path.name)]
    if again:
        notes.append(
            f"{_counted(again)} of an evaluation that has another (names with -v1 and so on): of "
            "several runs that saved in one directory, or of evaluations at one step"
        )
    return RunReports(
        tuple(sorted(relay, key=_order)), tuple(sorted(knockout, key=_order)), (*missing, *notes)
    )


def _by_attempts(
    directory: Path, paths: list[Path], prefix: str
) -> tuple[list[Path], list[Path], list[str], list[str]]:
    """Reports of the last attempt and from before it; what is left out, and what is missing."""
    earlier, notes, missing = [], [], []
    for own, latest, others in attempts_under(directory, prefix or None):
        before, lost = before_resume(latest, own)
        if lost is not None:
            missing.append(
                f"reports from before a resume are missing: {lost!r} was moved, deleted or changed"
            )
        replaced = [
            path for path in paths if path.parent in others and place_of(path, own) is not None
        ]
        there = set(map(real, before))
        left_out = [path for path in replaced if real(path) not in there]
        if left_out:
            notes.append(
                f"{_counted(left_out)} left out: of other runs or attempts that saved in this "
                f"directory before, beginning with {str(left_out[0])!r}"
            )
        paths = [path for path in paths if path not in set(replaced)]
        earlier += before
    return paths, earlier, notes, missing


def _counted(several: Sequence[object]) -> str:
    return f"{len(several)} report{'s' * (len(several) > 1)}"


def _loaded(path: Path, kind: str | None) -> RelayReport | KnockoutReport | None:
    """The report in a file, if it holds one."""
    if kind == "relay":
        return RelayReport.load(path)
    return KnockoutReport.load(path) if kind == "knock-out" else None


def _order(report: RelayReport | KnockoutReport) -> tuple[int, bool]:
    """Reports of testing come after those of the validation at the same step."""
    return report.global_step or 0, report.stage == "test"
