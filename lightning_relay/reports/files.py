"""Files of reports: arrays by name and a JSON header, which NumPy alone can read."""

from __future__ import annotations

import json
from contextlib import contextmanager, nullcontext
from dataclasses import fields
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any
from zipfile import is_zipfile

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

_CLASSES = {"relay": "RelayReport", "knock-out": "KnockoutReport"}
"""Class that reads each kind of report. A header without a kind is that of a relay report."""


def write(
    path: str | Path | IO[bytes], header: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]
) -> None:
    """Write the ``.npz`` format to a path or an open binary file."""
    with Path(path).open("wb") if isinstance(path, str | Path) else nullcontext(path) as file:
        np.savez_compressed(file, header=np.array(json.dumps(header)), **arrays)  # type: ignore[arg-type]


@contextmanager
def opened(
    path: str | Path | IO[bytes], kind: str, version: int
) -> Iterator[tuple[dict[str, Any], Mapping[str, NDArray[Any]]]]:
    """The header and the arrays of a file that ``write`` wrote.

    Raises a ValueError if it holds no report, or one of another kind or version of the format.
    """
    if isinstance(path, str | Path) and Path(path).exists() and not is_zipfile(path):
        raise ValueError(f"path: {str(path)!r} holds no {kind} report")
    with np.load(path, allow_pickle=False) as file:
        header = _header(file)
        if header is None:
            raise ValueError(f"path: {str(path)!r} holds no {kind} report")
        found = header.pop("kind", "relay")
        if found != kind:
            raise ValueError(
                f"path: {str(path)!r} holds no {kind} report but a {found} report; load it with "
                f"{_CLASSES.get(found, 'the class that wrote it')}.load"
            )
        if header.pop("format", None) != version:
            raise ValueError(
                f"path: {str(path)!r} is of another format than {version}; load it with the "
                "version of lightning_relay that wrote it"
            )
        yield header, file


def kind_of(path: Path) -> str | None:
    """Kind of the report in a file, ``"relay"`` or ``"knock-out"``; None for other files."""
    if not is_zipfile(path):
        return None
    with np.load(path, allow_pickle=False) as file:
        header = _header(file)
    return None if header is None else str(header.get("kind", "relay"))


def _header(file: Mapping[str, Any]) -> dict[str, Any] | None:
    """The header that ``write`` wrote; None if another program wrote the file."""
    try:
        header = json.loads(str(file["header"]))
    except (KeyError, ValueError):
        return None
    return header if isinstance(header, dict) and "format" in header else None


def arrays_of(result: Any, prefix: str) -> dict[str, NDArray[Any]]:
    """The arrays among the fields of a dataclass, by name under ``prefix``."""
    parts = {f"{prefix}/{part.name}": getattr(result, part.name) for part in fields(result)}
    return {key: part for key, part in parts.items() if isinstance(part, np.ndarray)}


def read(file: Mapping[str, NDArray[Any]], kind: Any, prefix: str) -> dict[str, NDArray[Any]]:
    """The arrays that ``arrays_of`` put under ``prefix``, by field of the dataclass ``kind``."""
    names = {part.name: f"{prefix}/{part.name}" for part in fields(kind)}
    return {name: file[key] for name, key in names.items() if key in file}
