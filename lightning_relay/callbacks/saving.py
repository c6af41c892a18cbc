"""Check, before anything is trained, that reports can be saved."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path

_LONGEST = "-validate-epoch=9999999-step=9999999999-dataloader_99-v99.npz"
"""The longest name of a report, after the prefix."""

_TRIES = 5
"""Number of tries: another run that tries the same directory removes it if it made it."""


def check_dirpath(dirpath: object) -> None:
    """Refuse what names no local directory, with a TypeError or a ValueError."""
    if dirpath is None:
        return
    if not isinstance(dirpath, str | os.PathLike) or not isinstance(os.fspath(dirpath), str):
        raise TypeError(f"dirpath: got {dirpath!r}; it takes the path of a directory, or None")
    if "://" in os.fspath(dirpath):
        raise ValueError(f"dirpath: got {dirpath!r}; it takes the path of a local directory")


def check_can_save(directory: Path, prefix: str) -> None:
    """Write and remove an empty file with the longest name that a report can have.

    Directories that are made for it are removed again. Raises a ValueError that names ``dirpath``
    or ``prefix`` and the reason.
    """
    for tries_left in reversed(range(_TRIES)):
        try:
            _check_once(directory, prefix)
        except ValueError as error:
            if not isinstance(error.__cause__, FileNotFoundError) or not tries_left:
                raise
        else:
            return


def _check_once(directory: Path, prefix: str) -> None:
    made: list[Path] = []
    probe = directory / f"{prefix}{_LONGEST}".replace("/", "-")
    try:
        try:
            made += [path for path in (directory, *directory.parents) if not path.exists()]
            directory.mkdir(parents=True, exist_ok=True)
        except (OSError, ValueError) as error:
            raise _unwritable(directory, error) from error
        try:
            probe.touch()
        except (OSError, ValueError) as error:
            if isinstance(error, OSError) and error.errno != errno.ENAMETOOLONG:
                raise _unwritable(directory, error) from error
            raise ValueError(
                f"prefix: got {_cut(prefix)}, and no file of that name can be written in "
                f"{str(directory)!r} ({_reason(error)}); reports are saved as "
                f"'{{prefix}}{_LONGEST}' at the longest, so choose a shorter or plainer prefix"
            ) from error
        with suppress(OSError):
            probe.unlink()
    finally:
        for path in made:
            with suppress(OSError, ValueError):
                path.rmdir()


def could_not_save(error: OSError) -> str:
    """What to tell the user when a report was not saved."""
    return (
        f"A report was not saved: {_reason(error)}. It is kept in the callback's reports; training "
        "goes on. Make room, or choose another directory with dirpath="
    )


def _unwritable(directory: Path, error: Exception) -> ValueError:
    return ValueError(
        f"dirpath: reports cannot be saved in {str(directory)!r} ({_reason(error)}); name a "
        "directory that can be written with dirpath="
    )


def _reason(error: Exception) -> str:
    return (isinstance(error, OSError) and error.strerror) or str(error)


def _cut(text: str) -> str:
    return repr(text) if len(text) <= 40 else f"{text[:40]!r}… with {len(text)} characters"
