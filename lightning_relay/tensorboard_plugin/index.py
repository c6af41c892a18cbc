"""Which reports lie under a log directory: found by their names, hardly any of them opened."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock, Thread
from typing import TYPE_CHECKING

from lightning_relay.reports.files import ReportFileError, kind_of
from lightning_relay.reports.history import RESUMED
from lightning_relay.tensorboard_plugin.series import (
    RELAY,
    Saved,
    Series,
    before_resumes,
    by_run,
    kind_by,
    saved_of,
    source_of,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

_SETTLED = 2 * 10**9
"""A directory that was changed less than these ns before it was read is read again."""


@dataclass(frozen=True)
class Found:
    """What is known of a log directory.

    Attributes:
        runs: Series by run.
        complete: Whether all of the log directory was looked at.
        notes: What went wrong, in words.
        number: Another one for other contents, also of another TensorBoard.
    """

    runs: Mapping[str, tuple[Series, ...]]
    complete: bool
    notes: tuple[str, ...]
    number: str


@dataclass(frozen=True)
class _Inside:
    """What is in a directory: reports, directories, notes of runs that were resumed."""

    saved: list[Saved]
    below: list[str]
    resumed: list[Path]


_Contents = tuple[list[Saved], list[str], bool, dict[tuple[Path, str], str]]
"""Reports, notes, whether all was looked at, and kinds of reports that were opened."""


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
        self._contents: _Contents = [], [], False, {}
        self._number = time.time_ns()
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
                saved, notes, complete, kinds = self._contents
                runs = by_run(saved, kinds)
                self._found = Found(runs, complete, tuple(notes), str(self._number))
            return self._found

    def any(self, seconds: float) -> bool:
        """Whether there are reports; False if none was found within this time."""
        if self._contents[0]:
            return True
        end = time.monotonic() + seconds
        self.refreshed(0)
        search = self._search
        while not self._contents[0] and search and search.is_alive() and time.monotonic() < end:
            search.join(0.01)
        return bool(self._contents[0])

    def _look(self) -> None:
        notes: list[str] = []
        saved: list[Saved] = []
        try:
            resumed = self._walk(saved, notes)
            saved += before_resumes(saved, resumed, self.logdir, notes)
            self._open_unknown(saved)
        except Exception as error:
            notes.append(f"The search for reports ended early: {type(error).__name__}: {error}")
        self._publish(saved, notes, complete=True)

    def _publish(self, saved: list[Saved], notes: list[str], *, complete: bool) -> None:
        contents = list(saved), list(notes), complete, dict(self._kinds)
        with self._lock:
            if self._contents != contents:
                self._contents = contents
                self._number += 1
                self._found = None

    def _open_unknown(self, saved: list[Saved]) -> None:
        """Read the kind of one report of each series whose directory does not tell it."""
        unknown = {source_of(one): one.path for one in saved if kind_by(one, {}) is None}
        for source, path in unknown.items():
            if source not in self._kinds:
                with suppress(ReportFileError, OSError):  # said when it is shown
                    self._kinds[source] = kind_of(path) or RELAY

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
            if inside.saved and not self._contents[2]:
                self._publish(saved, [], complete=False)
        self._known = known
        return resumed

    def _read(self, directory: str) -> _Inside:
        inside = _Inside([], [], [])
        with os.scandir(directory) as entries:
            for entry in entries:
                if entry.is_dir():
                    inside.below.append(entry.path)
                elif entry.name.endswith(RESUMED):
                    inside.resumed.append(Path(entry.path))
                else:
                    with suppress(FileNotFoundError):  # it has just been removed
                        inside.saved.extend(saved_of(entry, self.logdir))
        inside.below.sort(reverse=True)
        return inside
