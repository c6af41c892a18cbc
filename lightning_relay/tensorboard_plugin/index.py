"""Which reports lie under a log directory: found by their names, none of them opened."""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass
from pathlib import Path
from threading import Lock, Thread
from typing import TYPE_CHECKING, Any

from lightning_relay.reports.history import ATTEMPT, run_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_NAME = re.compile(
    r"(?P<prefix>.+)-(?P<stage>validate|test)-epoch=(?P<epoch>\d{1,18})-step=(?P<step>\d{1,18})"
    r"(?:-dataloader_(?P<dataloader>\d{1,18}))?(?:-v(?P<version>\d{1,18}))?\.npz"
)
_STAGES = {"validate": "validation", "test": "test"}

_SETTLED = 2 * 10**9
"""A directory that was changed less than these ns before it was read is read again."""


@dataclass(frozen=True)
class Saved:
    """A file that has the name of a callback's report.

    Attributes:
        path: Its path.
        key: Its path below the log directory, by which requests name it.
        run: Directory of its run below the log directory; ``"."`` for the log directory itself.
        series: Reports that belong together, in words: prefix, stage, dataloader.
        stage: ``"validate"`` or ``"test"``.
        place: Step, epoch and version, by which the reports of a series are sorted.
        attempt: 0, or the number of times that the run was resumed in its directory before.
        modified: Time of the last change of the file, ns.
    """

    path: Path
    key: str
    run: str
    series: str
    stage: str
    place: tuple[int, int, int]
    attempt: int
    modified: int


@dataclass(frozen=True)
class Found:
    """What is known of a log directory.

    Attributes:
        reports: Reports by run, series and key; those of a series in order.
        complete: Whether all of the log directory was looked at.
        notes: What went wrong, in words.
    """

    reports: Mapping[str, Mapping[str, Mapping[str, Saved]]]
    complete: bool
    notes: tuple[str, ...]


class ReportIndex:
    """Names of the reports under a log directory, looked for by a thread of its own.

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
        self._known: dict[str, tuple[int, list[Saved], list[str]]] = {}

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
            saved, notes, complete = list(self._saved), tuple(self._notes), self._complete
        return Found(_by_run(saved), complete, notes)

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
            self._walk(saved, notes)
        except Exception as error:
            notes.append(f"The search for reports ended early: {type(error).__name__}: {error}")
        with self._lock:
            self._saved, self._notes, self._complete = saved, notes, True

    def _walk(self, saved: list[Saved], notes: list[str]) -> None:
        """Find all reports; directories are entered through links, too, each once."""
        if not self.logdir or not Path(self.logdir).is_dir():
            notes.append(
                f"{self.logdir!r} is no directory of this machine. Saved reports are read from "
                "local disk; start TensorBoard with --logdir=DIRECTORY"
                if self.logdir
                else "TensorBoard was started without --logdir; this tab reads the reports under it"
            )
            return
        todo, entered, known = [self.logdir], set(), {}
        while todo:
            directory = todo.pop()
            try:
                about = os.stat(directory)  # noqa: PTH116 - a Path for each costs most of the time
                if (about.st_dev, about.st_ino) in entered:
                    continue
                entered.add((about.st_dev, about.st_ino))
                changed, own, below = self._known.get(directory, (-1, [], []))
                if changed != about.st_mtime_ns:
                    own, below = self._read(directory)
                recent = time.time_ns() - about.st_mtime_ns < _SETTLED
                known[directory] = (-1 if recent else about.st_mtime_ns, own, below)
            except OSError as error:
                notes.append(f"{directory!r} cannot be read: {error.strerror}")
                continue
            todo += below
            saved += own
            if own and not self._complete:
                with self._lock:
                    self._saved = list(saved)
        self._known = known

    def _read(self, directory: str) -> tuple[list[Saved], list[str]]:
        """Reports in a directory, and the directories in it."""
        own, below = [], []
        with os.scandir(directory) as entries:
            for entry in entries:
                name = _NAME.fullmatch(entry.name)
                if entry.is_dir():
                    below.append(entry.path)
                elif name is not None and entry.is_file():
                    own.append(_saved(entry, self.logdir, name.groupdict()))
        return own, sorted(below, reverse=True)


def _saved(entry: os.DirEntry[str], logdir: str, name: dict[str, Any]) -> Saved:
    path = Path(entry.path)
    within = Path(os.path.relpath(entry.path, logdir))
    attempt = ATTEMPT.fullmatch(within.parent.name)
    series = f"{name['prefix']}, {_STAGES[name['stage']]}"
    if name["dataloader"] is not None:
        series += f", dataloader {name['dataloader']}"
    return Saved(
        path=path,
        key=_printable(within),
        run=_printable(run_of(within)),
        series=_printable(Path(series)),
        stage=name["stage"],
        place=(int(name["step"]), int(name["epoch"]), int(name["version"] or 0)),
        attempt=int(attempt[1]) if attempt else 0,
        modified=entry.stat().st_mtime_ns,
    )


def _printable(path: Path) -> str:
    """A path as text that JSON and addresses can hold."""
    return os.fsencode(path.as_posix()).decode("utf-8", "backslashreplace")


def _by_run(saved: Iterable[Saved]) -> dict[str, dict[str, dict[str, Saved]]]:
    """Runs in natural order; of each, validation before test, and relays before knock-outs."""
    runs: dict[str, dict[str, list[Saved]]] = {}

    def order(one: Saved) -> tuple[Any, ...]:
        relays = "relay_reports" in one.path.parts
        return _natural(one.run), not relays, one.stage == "test", one.series

    for one in sorted(saved, key=order):
        runs.setdefault(one.run, {}).setdefault(one.series, []).append(one)
    return {
        run: {name: {one.key: one for one in _last_attempts(own)} for name, own in series.items()}
        for run, series in runs.items()
    }


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
