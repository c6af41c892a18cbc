"""Which reports lie under a log directory: found by their names, hardly any of them opened."""

from __future__ import annotations

import os
import re
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock, Thread
from typing import TYPE_CHECKING, Any

from lightning_relay.reports.files import ReportFileError, kind_of
from lightning_relay.reports.history import ATTEMPT, RESUMED, before_resume, real, run_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_NAME = re.compile(
    r"(?P<prefix>.+)-(?P<stage>validate|test)-epoch=(?P<epoch>\d{1,18})-step=(?P<step>\d{1,18})"
    r"(?:-dataloader_(?P<dataloader>\d{1,18}))?(?:-v(?P<version>\d{1,18}))?\.npz"
)
_STAGES = {"validate": "validation", "test": "test"}
_RELAY = "relay"
_KINDS = {"relay_reports": _RELAY, "knockout_reports": "knock-out"}
"""Kind of the reports in the directories that the callbacks choose themselves."""

_SETTLED = 2 * 10**9
"""A directory that was changed less than these ns before it was read is read again."""


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
        size: Number of its bytes.
    """

    path: Path
    key: str
    run: str
    prefix: str
    stage: str
    place: tuple[int, int, int]
    attempt: int
    modified: int
    size: int


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


@dataclass(frozen=True)
class Found:
    """What is known of a log directory.

    Attributes:
        runs: Series by run.
        complete: Whether all of the log directory was looked at.
        notes: What went wrong, in words.
        number: Another one for other contents.
    """

    runs: Mapping[str, tuple[Series, ...]]
    complete: bool
    notes: tuple[str, ...]
    number: int


@dataclass(frozen=True)
class _Inside:
    """What is in a directory: reports, directories, notes of runs that were resumed."""

    saved: list[Saved]
    below: list[str]
    resumed: list[Path]


class ReportIndex:
    """Names of the reports under a log directory, looked for by a thread of its own.

    A file is opened only if neither its name nor its directory tells the kind of report, one for
    each series; and if a run says that it was resumed after it.

    Args:
        logdir: Log directory as TensorBoard got it; empty if it got none.
    """

    def __init__(self, logdir: str) -> None:
        self.logdir = logdir
        self._lock = Lock()
        self._search: Thread | None = None
        self._saved: list[Saved] = []
        self._notes: list[str] = []
        self._complete = False
        self._number = 0
        self._found: Found | None = None
        self._known: dict[str, tuple[int, _Inside]] = {}
        self._kinds: dict[tuple[Path, str], str] = {}

    def refreshed(self, seconds: float) -> Found:
        """Look again, and say what is known after at most this time."""
        with self._lock:
            search = self._search
            if search is None or not search.is_alive():
                search = Thread(target=self._look, name="relay-reports", daemon=True)
                self._search = search
                search.start()
        search.join(seconds)
        return self.known()

    def known(self) -> Found:
        """What is known now."""
        with self._lock:
            if self._found is None:
                runs = _by_run(self._saved, self._kinds)
                notes = tuple(self._notes)
                self._found = Found(runs, self._complete, notes, self._number)
            return self._found

    def any(self, seconds: float) -> bool:
        """Whether there are reports; False if none was found within this time."""
        if self._saved:
            return True
        end = time.monotonic() + seconds
        self.refreshed(0)
        search = self._search
        while not self._saved and search and search.is_alive() and time.monotonic() < end:
            search.join(0.01)
        return bool(self._saved)

    def _look(self) -> None:
        notes: list[str] = []
        saved: list[Saved] = []
        try:
            resumed = self._walk(saved, notes)
            saved += _before_resumes(saved, resumed, self.logdir, notes)
            self._open_unknown(saved)
        except Exception as error:
            notes.append(f"The search for reports ended early: {type(error).__name__}: {error}")
        self._publish(saved, notes, complete=True)

    def _publish(self, saved: list[Saved], notes: list[str], *, complete: bool) -> None:
        with self._lock:
            if (self._saved, self._notes, self._complete) != (saved, notes, complete):
                self._saved, self._notes, self._complete = list(saved), list(notes), complete
                self._number += 1
                self._found = None

    def _open_unknown(self, saved: list[Saved]) -> None:
        """Read the kind of one report of each series whose directory does not tell it."""
        unknown = {_source(one): one.path for one in saved if _kind(one, {}) is None}
        for source, path in unknown.items():
            if source not in self._kinds:
                with suppress(ReportFileError, OSError):  # said when it is shown
                    self._kinds[source] = kind_of(path) or _RELAY

    def _walk(self, saved: list[Saved], notes: list[str]) -> list[Path]:
        """Find all reports, and the notes of runs that were resumed.

        Directories are entered through links, too, each once.
        """
        if not self.logdir or not Path(self.logdir).is_dir():
            notes.append(
                f"{self.logdir!r} is no directory of this machine. Saved reports are read from "
                "local disk; start TensorBoard with --logdir=DIRECTORY"
                if self.logdir
                else "TensorBoard was started without --logdir; this tab reads the reports under it"
            )
            return []
        todo, entered, known, resumed = [self.logdir], set(), {}, []
        while todo:
            directory = todo.pop()
            try:
                about = os.stat(directory)  # noqa: PTH116 - a Path for each costs most of the time
                if (about.st_dev, about.st_ino) in entered:
                    continue
                entered.add((about.st_dev, about.st_ino))
                changed, inside = self._known.get(directory, (-1, _Inside([], [], [])))
                if changed != about.st_mtime_ns:
                    inside = self._read(directory)
                recent = time.time_ns() - about.st_mtime_ns < _SETTLED
                known[directory] = (-1 if recent else about.st_mtime_ns, inside)
            except OSError as error:
                notes.append(f"{directory!r} cannot be read: {error.strerror}")
                continue
            todo += inside.below
            saved += inside.saved
            resumed += inside.resumed
            if inside.saved and not self._complete:
                self._publish(saved, [], complete=False)
        self._known = known
        return resumed

    def _read(self, directory: str) -> _Inside:
        inside = _Inside([], [], [])
        with os.scandir(directory) as entries:
            for entry in entries:
                name = _NAME.fullmatch(entry.name)
                if entry.is_dir():
                    inside.below.append(entry.path)
                elif name is not None and entry.is_file():
                    inside.saved.append(_saved(entry, self.logdir, name.groupdict()))
                elif entry.name.endswith(RESUMED):
                    inside.resumed.append(Path(entry.path))
        inside.below.sort(reverse=True)
        return inside


def _saved(entry: os.DirEntry[str], logdir: str, name: dict[str, Any]) -> Saved:
    path = Path(entry.path)
    within = Path(os.path.relpath(entry.path, logdir))
    attempt = ATTEMPT.fullmatch(within.parent.name)
    stage = _STAGES[name["stage"]]
    if name["dataloader"] is not None:
        stage += f", dataloader {name['dataloader']}"
    about = entry.stat()
    return Saved(
        path=path,
        key=_printable(within),
        run=_printable(run_of(within)),
        prefix=_printable(Path(name["prefix"])),
        stage=stage,
        place=(int(name["step"]), int(name["epoch"]), int(name["version"] or 0)),
        attempt=int(attempt[1]) if attempt else 0,
        modified=about.st_mtime_ns,
        size=about.st_size,
    )


def _printable(path: Path) -> str:
    """A path as text that JSON and addresses can hold."""
    return os.fsencode(path.as_posix()).decode("utf-8", "backslashreplace")


def _before_resumes(
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


def _source(one: Saved) -> tuple[Path, str]:
    return one.path.parent, one.prefix


def _kind(one: Saved, kinds: Mapping[tuple[Path, str], str]) -> str | None:
    """Kind of a report by its directory, or as it was read; None if it is unknown."""
    known = [_KINDS[part] for part in one.path.parts if part in _KINDS]
    return known[-1] if known else kinds.get(_source(one))


def _by_run(
    saved: Iterable[Saved], kinds: Mapping[tuple[Path, str], str]
) -> dict[str, tuple[Series, ...]]:
    """Series of each run, runs in natural order; of each run, validation before test."""
    runs: dict[str, dict[tuple[str, str, str], list[Saved]]] = {}
    for one in sorted(saved, key=lambda own: (_natural(own.run), own.stage == "test", own.prefix)):
        source = one.stage, _kind(one, kinds) or _RELAY, one.prefix
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
    return stage.startswith("test"), _natural(stage), kind != _RELAY, prefix


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
