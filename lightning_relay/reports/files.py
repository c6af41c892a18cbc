"""Reports as files: arrays by name, and a header of JSON; NumPy alone can read them."""

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
"""What reads the reports of each kind. A header that names no kind is that of a relay report."""


def write(
    path: str | Path | IO[bytes], header: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]
) -> None:
    """Write an ``.npz`` file, or to an open binary file."""
    with Path(path).open("wb") if isinstance(path, str | Path) else nullcontext(path) as file:
        np.savez_compressed(file, header=np.array(json.dumps(header)), **arrays)  # type: ignore[arg-type]


@contextmanager
def opened(
    path: str | Path | IO[bytes], kind: str, version: int
) -> Iterator[tuple[dict[str, Any], Mapping[str, NDArray[Any]]]]:
    """The header and the arrays of a file that ``write`` wrote.

    Args:
        path: A path, or an open binary file.
        kind: Kind of the report, ``"relay"`` or ``"knock-out"``.
        version: Version of the format that is read.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file holds no report, one of another kind, or one of another format.
    """
    if isinstance(path, str | Path) and Path(path).exists() and not is_zipfile(path):
        raise ValueError(f"path: {str(path)!r} holds no {kind} report")
    with np.load(path, allow_pickle=False) as file:
        if "header" not in file:
            raise ValueError(f"path: {str(path)!r} holds no {kind} report")
        header = json.loads(str(file["header"]))
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
    """Kind of the report in a file, ``"relay"`` or ``"knock-out"``; None if it holds none."""
    if not is_zipfile(path):
        return None
    with np.load(path, allow_pickle=False) as file:
        if "header" not in file or file["header"].dtype.kind != "U":
            return None
        header = json.loads(str(file["header"]))
    return str(header.get("kind", "relay")) if "format" in header else None


def arrays_of(result: Any, prefix: str) -> dict[str, NDArray[Any]]:
    """The arrays among the fields of a dataclass, by name under ``prefix``."""
    parts = {part.name: getattr(result, part.name) for part in fields(result)}
    return {
        f"{prefix}/{name}": part for name, part in parts.items() if isinstance(part, np.ndarray)
    }


def read(file: Mapping[str, NDArray[Any]], kind: Any, prefix: str) -> dict[str, NDArray[Any]]:
    """The arrays of a dataclass of this kind that ``arrays_of`` put under ``prefix``."""
    names = {part.name: f"{prefix}/{part.name}" for part in fields(kind)}
    return {name: file[key] for name, key in names.items() if key in file}
