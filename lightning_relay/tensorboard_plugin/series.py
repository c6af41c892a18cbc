"""Saved reports by their names: which run, callback and stage they are of, and in which order."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_relay.reports.history import ATTEMPT, RESUMED, before_resume, real, run_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_NAME = re.compile(
    r"(?P<prefix>.+)-(?P<stage>validate|test)-epoch=(?P<epoch>\d{1,18})-step=(?P<step>\d{1,18})"
    r"(?:-dataloader_(?P<dataloader>\d{1,18}))?(?:-v(?P<version>\d{1,18}))?\.npz"
)
_STAGES = {"validate": "validation", "test": "test"}
RELAY = "relay"
_KINDS = {"relay_reports": RELAY, "knockout_reports": "knock-out"}
"""Kind of the reports in the directories that the callbacks choose themselves."""


@dataclass(frozen=True)
class Saved:
    """A file that has the name of a callback's report.

    Attributes:
        path: Its path.
        key: Its path below the log directory, by which requests name it.
        run: Directory of its run below the log directory; ``"."`` for the log directory itself.
        prefix: Prefix of the callback, as it stands in the name.
        stage: Stage and dataloader in words, such as ``"validation"``.
        place: Step, epoch and version, by which the reports of a series are sorted.
        attempt: 0, or the number of times that the run was resumed in its directory before; -1 if
            it was resumed after this report in another directory.
        modified: Time of the last change of the file, ns.
    """

    path: Path
    key: str
    run: str
    prefix: str
    stage: str
    place: tuple[int, int, int]
    attempt: int
    modified: int


@dataclass(frozen=True)
class Series:
    """Reports of one callback in one run, of one stage and dataloader.

    Attributes:
        kind: ``"relay"`` or ``"knock-out"``.
        prefix: Prefix of the callback.
        stage: Stage and dataloader in words.
        reports: Its reports by key, in order.
    """

    kind: str
    prefix: str
    stage: str
    reports: Mapping[str, Saved]


def saved_of(entry: os.DirEntry[str], logdir: str) -> list[Saved]:
    """The report in a file by its name; none if it has another name."""
    found = _NAME.fullmatch(entry.name)
    if found is None or not entry.is_file():
        return []
    name = found.groupdict()
    path = Path(entry.path)
    within = Path(os.path.relpath(entry.path, logdir))
    attempt = ATTEMPT.fullmatch(within.parent.name)
    stage = _STAGES[name["stage"]]
    if name["dataloader"] is not None:
        stage += f", dataloader {name['dataloader']}"
    own = Saved(
        path=path,
        key=_printable(within),
        run=_printable(run_of(within)),
        prefix=_printable(Path(name["prefix"])),
        stage=stage,
        place=(int(name["step"]), int(name["epoch"]), int(name["version"] or 0)),
        attempt=int(attempt[1]) if attempt else 0,
        modified=entry.stat().st_mtime_ns,
    )
    return [own]


def _printable(path: Path) -> str:
    """A path as text that JSON and addresses can hold."""
    return os.fsencode(path.as_posix()).decode("utf-8", "backslashreplace")


def before_resumes(
    saved: Iterable[Saved], resumed: Iterable[Path], logdir: str, notes: list[str]
) -> list[Saved]:
    """Reports from before a resume in another directory, as reports of the resumed run."""
    first = [note for note in resumed if not ATTEMPT.fullmatch(note.parent.name)]
    if not first:
        return []
    there = {real(one.path): one for one in saved}
    earlier = []
    for note in first:
        run = _printable(run_of(Path(os.path.relpath(note, logdir))))
        paths, lost = before_resume(note.parent, note.name.removesuffix(RESUMED))
        earlier += [replace(there[own], run=run, attempt=-1) for own in paths if own in there]
        outside = [own for own in paths if own not in there]
        if lost is not None or outside:
            notes.append(
                f"Reports of {run!r} from before it was resumed are not shown: "
                f"{lost or str(outside[0])!r} "
                + ("was moved, deleted or changed" if lost else "is outside the log directory")
            )
    return earlier


def source_of(one: Saved) -> tuple[Path, str]:
    """Directory and prefix, which all reports of a series have in common."""
    return one.path.parent, one.prefix


def kind_by(one: Saved, kinds: Mapping[tuple[Path, str], str]) -> str | None:
    """Kind of a report by its directory, or as it was read; None if it is unknown."""
    known = [_KINDS[part] for part in one.key.split("/") if part in _KINDS]
    return known[-1] if known else kinds.get(source_of(one))


def by_run(
    saved: Iterable[Saved], kinds: Mapping[tuple[Path, str], str]
) -> dict[str, tuple[Series, ...]]:
    """Series of each run, runs in natural order; of each run, validation before test."""
    runs: dict[str, dict[tuple[str, str, str], list[Saved]]] = {}
    for one in sorted(saved, key=lambda own: (_natural(own.run), own.stage == "test", own.prefix)):
        source = one.stage, kind_by(one, kinds) or RELAY, one.prefix
        runs.setdefault(one.run, {}).setdefault(source, []).append(one)
    return {
        run: tuple(
            Series(kind, prefix, stage, {one.key: one for one in _last_attempts(own)})
            for (stage, kind, prefix), own in sorted(series.items(), key=_order)
        )
        for run, series in runs.items()
    }


def _order(item: tuple[tuple[str, str, str], list[Saved]]) -> tuple[Any, ...]:
    (stage, kind, prefix), _ = item
    return stage.startswith("test"), _natural(stage), kind != RELAY, prefix


def _last_attempts(series: list[Saved]) -> list[Saved]:
    """Reports in order, without those that a resumed run made again."""
    kept: list[Saved] = []
    for attempt in sorted({one.attempt for one in series}):
        own = sorted((one for one in series if one.attempt == attempt), key=lambda one: one.place)
        kept = [one for one in kept if one.place < own[0].place] + own
    return kept


def _natural(text: str) -> list[tuple[int, str]]:
    """Sorts version_9 before version_10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", text)]
