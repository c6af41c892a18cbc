"""The reports that a resumed run goes on from."""

from __future__ import annotations

import re
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from lightning_relay.callbacks.evaluations import ReportT
from lightning_relay.reports.files import ReportFileError, checksum_of
from lightning_relay.reports.history import place_of, up_to

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


def file_of(report: ReportT) -> BytesIO:
    """A report as it is saved."""
    file = BytesIO()
    report.save(file)
    file.seek(0)
    return file


def up_to_newest(reports: Sequence[ReportT], newest: ReportT) -> list[ReportT]:
    """The reports up to that which holds the same as the newest; none if there is no such."""
    checksum = checksum_of(file_of(newest))
    for place in reversed(range(len(reports))):
        own = reports[place]
        if own.global_step == newest.global_step and checksum_of(file_of(own)) == checksum:
            return list(reports[: place + 1])
    return []


def newest_saved(
    kind: type[ReportT], newest: Path, prefix: str, number: int
) -> tuple[list[ReportT], str]:
    """Saved reports of a run up to the newest, at most so many; and why there may be no more.

    Of several reports of an evaluation, whose names end in ``-v1`` and so on, the last is taken.
    """
    paths, lost = up_to(newest, prefix)
    why = "an earlier attempt saved none" if lost is None else gone(lost)
    found: list[ReportT] = []
    paths = paths[: paths.index(newest) + 1]
    evaluations = {(place_of(path, prefix) or ())[:3]: path for path in paths}
    for path in reversed(evaluations.values()):
        if len(found) == number:
            break
        try:
            found.append(kind.load(path))
        except (ReportFileError, OSError) as error:
            why = str(error)
    return found[::-1], why


def gone(path: str) -> str:
    """What to say of a report that is not where it was saved."""
    return f"{path!r} was moved, deleted or changed"


def other_options(key: str, others: Iterable[str]) -> list[str] | None:
    """Options that differ in the state of a callback of the same prefix; None if there is none.

    Keys of states are made of a class name and a mapping from options, which has a prefix.
    """
    own = _options(key)
    for its in map(_options, map(str, others)):
        if [its.get(name) for name in ("", "prefix")] == [own[name] for name in ("", "prefix")]:
            return [name for name in own if own[name] != its.get(name)]
    return None


def _options(key: str) -> dict[str, str]:
    """Words of a key by option, those before the first under an empty name."""
    first, *parts = re.split(r"'(\w+)': ", key)
    return {"": first} | dict(zip(parts[::2], parts[1::2], strict=True))
