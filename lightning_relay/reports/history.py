"""Saved reports of one run, also of one that was resumed in another directory.

A directory holds the reports of one attempt to train. A run that is resumed in another directory
writes the JSON file ``{prefix}-resumed_from.json`` beside its reports. The file names the newest
report from before the checkpoint; the reports up to its step are those of the resumed run, too.
Where the directory holds reports from after the checkpoint, the resumed run saves in ``resumed_1``
inside it, the next in ``resumed_2``, and so on.
"""

from __future__ import annotations

import json
import os
import re
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_relay.reports.files import checksum_of, write_new

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

RESUMED = "-resumed_from.json"
"""End of the name of the file that says where a run was resumed."""

ATTEMPT = re.compile(r"resumed_([1-9]\d{0,8})")
"""Name of the directory of a resumed run inside that of the run before."""

_NAME = re.compile(
    r"-(validate|test)-epoch=\d+-step=(\d{1,18})(?:-dataloader_(\d{1,18}))?(?:-v(\d{1,18}))?\.npz"
)
_LONGEST = 2**16
"""Maximum number of bytes in a file that says where a run was resumed."""

Place = tuple[int, bool, int, int]
"""Step, whether of testing, dataloader, and version of a name that several reports have."""


@dataclass(frozen=True)
class Saved:
    """A saved report that a run was resumed after.

    Attributes:
        path: Absolute path.
        checksum: Checksum of the report.
    """

    path: str
    checksum: str

    @classmethod
    def of(cls, path: object, checksum: object) -> Saved | None:
        """The report that a checkpoint or a file names; None if it names none."""
        named = isinstance(path, str) and isinstance(checksum, str) and "\0" not in path
        return cls(path, checksum) if named else None  # type: ignore[arg-type]

    def found(self, prefix: str, others: Iterable[Path] = ()) -> Path | None:
        """Its file, or one of the others that holds the same report; else None.

        Only files that have the name of a report of this prefix are opened.
        """
        for path in (*others, Path(self.path)):
            if place_of(path, prefix) is not None and checksum_of(path) == self.checksum:
                return real(path)
        return None

    def beside(self, checkpoint: str | os.PathLike[str] | None) -> Iterator[Path]:
        """Paths that the file has if it was moved together with a checkpoint of its run."""
        if checkpoint is not None:
            parts = Path(self.path).parts
            for parent in Path(checkpoint).absolute().parents[:3]:
                yield from (parent.joinpath(*parts[-length:]) for length in range(1, 5))


def real(path: str | Path) -> Path:
    """The path with its directory resolved; a report that is a link keeps its name."""
    return Path(os.path.realpath(Path(path).parent)) / Path(path).name


def place_of(path: Path, prefix: str) -> Place | None:
    """Place of a report among those of its run, by its name; None if it has another name."""
    first = prefix.replace("/", "-")
    found = _NAME.fullmatch(path.name, len(first)) if path.name.startswith(first) else None
    if found is None:
        return None
    stage, step, dataloader, version = found.groups()
    return int(step), stage == "test", int(dataloader or 0), int(version or 0)


def in_order(directory: Path, prefix: str) -> dict[Path, Place]:
    """Reports of a prefix that lie in a directory, in order."""
    places = {path: place_of(path, prefix) for path in directory.iterdir()}
    own = {path: place for path, place in places.items() if place is not None and path.is_file()}
    return dict(sorted(own.items(), key=lambda item: item[1]))


def up_to(report: Path, prefix: str) -> tuple[list[Path], str | None]:
    """Paths of a run's reports up to the step of this one, over all resumes; and what is lost.

    The second is the path of a report that the run was resumed after, if it is not there or holds
    another report now: what is before it is unknown then.
    """
    parts: list[list[Path]] = []
    seen: set[Path] = set()
    lost: str | None = None
    source: Path | None = real(report)
    while source is not None and source.parent not in seen:
        seen.add(source.parent)
        parts.append(_up_to_step(source, prefix))
        source, lost = resumed_from(source.parent, prefix)
    return list(chain(*reversed(parts))), lost


def before_resume(directory: Path, prefix: str) -> tuple[list[Path], str | None]:
    """The same up to the report that the run in this directory was resumed after."""
    source, lost = resumed_from(directory, prefix)
    return ([], lost) if source is None else up_to(source, prefix)


def resumed_from(directory: Path, prefix: str) -> tuple[Path | None, str | None]:
    """The report that the run in a directory was resumed after, or its path if it is lost."""
    path, note = _note(directory, prefix), None
    with suppress(OSError, ValueError, RecursionError):
        if path.is_file():
            with path.open("rb") as file:
                note = json.loads(file.read(_LONGEST))
    about: dict[str, Any] = note if isinstance(note, dict) else {}
    source = Saved.of(about.get("path"), about.get("checksum"))
    if source is None:
        return None, None
    moved_with_it = Saved.of(about.get("relative"), source.checksum)
    others = [] if moved_with_it is None else [directory / moved_with_it.path]
    found = source.found(prefix, others)
    return found, None if found is not None else source.path


def directory_of_attempt(base: Path, prefix: str, newest: Saved | None, *, resumed: bool) -> Path:
    """Directory in which a run that begins or is resumed saves its reports; it is made.

    Args:
        base: Directory that the user or the logger names.
        prefix: Prefix of the reports.
        newest: Newest saved report of the run so far.
        resumed: Whether the run is resumed from a checkpoint.
    """
    base.mkdir(parents=True, exist_ok=True)
    found = None if newest is None else newest.found(prefix)
    latest, number = latest_attempt(base, prefix)
    own = in_order(latest, prefix)
    here = found is not None and found.parent == Path(os.path.realpath(latest))
    if found is not None and here and len(_up_to_step(found, prefix)) == len(own):
        return latest
    if not number and (not resumed or not (own or newest)):
        return base
    fresh = not number and not own
    note: dict[str, str] = {}
    if newest is not None and resumed:
        note = {"path": newest.path, "checksum": newest.checksum}
        if found is not None:
            start = base if fresh else base / "resumed_1"
            with suppress(ValueError):  # on another drive
                note["relative"] = os.path.relpath(found, os.path.realpath(start))
    if fresh:
        _note(base, prefix).unlink(missing_ok=True)
    later = (base / f"resumed_{place}" for place in count(number + 1))
    notes = _notes([base] if fresh else later, prefix)
    return write_new(notes, json.dumps(note).encode()).parent


def latest_attempt(base: Path, prefix: str) -> tuple[Path, int]:
    """Directory of the latest attempt in a directory, and its number; the directory itself is 0."""
    latest, number = base, 0
    for path in base.iterdir() if base.is_dir() else ():
        attempt = ATTEMPT.fullmatch(path.name)
        if attempt and int(attempt[1]) > number and _note(path, prefix).is_file():
            latest, number = path, int(attempt[1])
    return latest, number


def attempts_under(directory: Path, prefix: str | None) -> Iterator[tuple[str, Path, list[Path]]]:
    """Resumed runs under a directory: prefix, directory of the latest attempt, those of others."""
    found: dict[tuple[str, Path], dict[int, Path]] = {}
    for path in sorted(directory.rglob(f"*{RESUMED}")):
        own = path.name.removesuffix(RESUMED)
        if prefix not in (None, own) or not path.is_file():
            continue
        attempt = ATTEMPT.fullmatch(path.parent.name)
        base, number = (path.parent.parent, int(attempt[1])) if attempt else (path.parent, 0)
        found.setdefault((own, base), {})[number] = path.parent
    for (own, base), attempts in found.items():
        latest = attempts.pop(max(attempts))
        yield own, latest, [one for one in {base, *attempts.values()} if one != latest]


def run_of(path: Path) -> Path:
    """Directory of the run that a report belongs to: the callbacks save in ``…_reports`` in it."""
    directory = path.parent
    if ATTEMPT.fullmatch(directory.name):
        directory = directory.parent
    return directory.parent if directory.name.endswith("_reports") else directory


def _up_to_step(report: Path, prefix: str) -> list[Path]:
    """Reports in the directory of one of them that are not of later steps."""
    last, places = place_of(report, prefix), in_order(report.parent, prefix)
    return [path for path, place in places.items() if last is not None and place[0] <= last[0]]


def _note(directory: Path, prefix: str) -> Path:
    return directory / f"{prefix.replace('/', '-')}{RESUMED}"


def _notes(directories: Iterable[Path], prefix: str) -> Iterator[Path]:
    for directory in directories:
        directory.mkdir(exist_ok=True)
        yield _note(directory, prefix)
