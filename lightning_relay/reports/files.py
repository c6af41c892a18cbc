"""Files of reports: arrays by name and a JSON header, which NumPy alone can read.

A file is a zip archive of NumPy arrays. The member ``header`` is JSON: what is not an array, and of
every array its type, shape and checksum. The member ``checksum`` is that of the header. So nothing
in a damaged file passes for a report, and the size of everything is known before it is inflated.
"""

from __future__ import annotations

import errno
import json
import os
import re
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import fields
from hashlib import sha256
from io import BytesIO
from itertools import chain
from math import prod
from pathlib import Path
from secrets import token_hex
from typing import IO, TYPE_CHECKING, Any
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile, ZipInfo, is_zipfile

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from numpy.typing import NDArray

_CLASSES = {"relay": "RelayReport", "knock-out": "KnockoutReport"}
"""Class that reads each kind of report. A header without a kind is that of a relay report."""

_DTYPES = {"<f8", "<i8", "|b1", "<c16"}
"""Types of the arrays of reports, in NumPy's words."""

_INFLATION = 100
"""A file holds at most this number of bytes for each of its own, and ``_SLACK``."""

_OF_TEXT = 20
"""The same for the header alone: parsed, it can take several times as much."""

_SLACK = 2**20

_CHUNK = 2**18
"""Number of bytes that are inflated at once."""

_RESERVED = {"latent", "header", "checksum"}
"""First parts of names in a file that are not names of layers."""

_HEADER = re.compile(
    rb"\x93NUMPY\x01\x00..\{'descr': '<U\d+', 'fortran_order': False, 'shape': \(\), \} *\n",
    re.DOTALL,
)
"""Beginning of a text that NumPy saved."""

_NAMED = re.compile(r"-(validate|test)-epoch=\d+-step=\d+")
"""Part of the names of all files that the callbacks save."""


class ReportFileError(ValueError):
    """A file does not hold the report that is to be loaded; the message names its path.

    It is another kind of file or report, was written in another version of the format, or is
    damaged: cut off, changed, or put together from parts of others.
    """


def write(
    path: str | Path | IO[bytes], header: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]
) -> None:
    """Write the ``.npz`` format to a path or an open binary file.

    A file appears under its name only when it is complete; after an error there is none, or still
    the one that was there before.
    """
    _check_path(path, "write")
    data = _packed(header, arrays)
    if not isinstance(path, str | Path):
        path.write(data)
        return
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file():  # a device cannot be replaced
        target.write_bytes(data)
        return
    with _temporary(target.parent, data) as temporary:
        temporary.replace(target)


def write_new(paths: Iterable[Path], data: bytes) -> Path:
    """Write a file under the first of the paths on a file system that is free; this path.

    Of several processes that write at once, none takes the name of another's file; on a file system
    without hard links that is so unless they do it in the same instant.
    """
    free = (path for path in paths if not path.exists())
    first = next(free)
    with _temporary(first.parent, data) as temporary:
        for path in chain([first], free):
            try:
                path.hardlink_to(temporary)
            except FileExistsError:
                continue
            except OSError:
                temporary.replace(path)
            return path
    raise FileExistsError(errno.EEXIST, "no name is free", str(first))


@contextmanager
def _temporary(directory: Path, data: bytes) -> Iterator[Path]:
    """A file in a directory for as long as the block runs."""
    path = directory / f".{token_hex(8)}.tmp"
    try:
        with path.open("xb") as file:
            file.write(data)
        yield path
    finally:
        with suppress(OSError):
            path.unlink()


@contextmanager
def opened(
    path: str | Path | IO[bytes], kind: str, version: int
) -> Iterator[tuple[dict[str, Any], dict[str, NDArray[Any]]]]:
    """The header and the arrays of a file that ``write`` wrote; ``read`` takes the arrays out.

    Raises a ReportFileError if the file holds no report, one of another kind or version of the
    format, or a damaged one; also if the caller raises an error or leaves an array.
    """
    _check_path(path, "read")
    name = _name(path)
    with _binary(path) as file, _damage_named(name, kind):
        size = file.seek(0, os.SEEK_END)
        archive = ZipFile(file) if is_zipfile(file) else None
        header = None if archive is None else _header(archive, size)
        if archive is None or header is None:
            raise ReportFileError(f"path: {name} holds no {kind} report")
        found = header.pop("kind", "relay")
        if found != kind:
            raise ReportFileError(
                f"path: {name} holds no {kind} report but a {found} report; load it with "
                f"{_CLASSES.get(str(found), 'the class that wrote it')}.load"
            )
        if header.pop("format", None) != version:
            raise ReportFileError(
                f"path: {name} is of another format than {version}; load it with the "
                "version of lightning_relay that wrote it"
            )
        arrays = _arrays(archive, size, header)
        yield header, arrays
        if arrays:
            raise ValueError(f"nothing is known of the array {next(iter(arrays))!r}")


def kind_of(path: Path) -> str | None:
    """Kind of the report in a file, ``"relay"`` or ``"knock-out"``; None for other files.

    Raises a ReportFileError if there was a report, by the file's name or its ends, and its kind
    cannot be read any more.
    """
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        header = None
        with suppress(ReportFileError), _damage_named(_name(path), "relay"):
            header = _header(ZipFile(file), size)
        if header is not None:
            return str(header.get("kind", "relay"))
        file.seek(0)
        start = file.read(64)
        file.seek(max(0, size - 2**16))
        if _NAMED.search(path.name) or b"checksum.npy" in start + file.read():
            raise ReportFileError(
                f"path: {_name(path)} holds no report, or a damaged one; remove it, or copy it "
                "again from where it was saved"
            )
    return None


def checksum_of(path: Path | IO[bytes]) -> str | None:
    """Checksum of a saved report, by which two are compared; None if there is no report.

    Only a regular file is opened, and of it only this checksum and the header are read.
    """
    with suppress(OSError, ValueError, MemoryError), _damage_named(_name(path), "relay"):
        if not isinstance(path, Path) or path.is_file():
            with _binary(path) as file:
                header = _header(ZipFile(file), file.seek(0, os.SEEK_END))
                return None if header is None else header["checksum"]
    return None


def safe(name: str) -> str:
    """A name of the user as a part of an array's name in a file: any two names differ there.

    A slash, a backslash, ``%``, ``~`` and what cannot be printed become ``%`` and a number. A long
    name is cut and gets a checksum.
    """
    plain = re.sub("[\0-\x1f\x7f/\\\\%~\ud800-\udfff]", lambda found: f"%{ord(found[0]):02X}", name)
    if plain in _RESERVED:
        return f"%{ord(plain[0]):02X}{plain[1:]}"
    return plain if len(plain) <= 100 else f"{plain[:60]}~{_checksum(plain.encode())}"


def arrays_of(result: Any, prefix: str) -> dict[str, NDArray[Any]]:
    """The arrays among the fields of a dataclass, by name under ``prefix``."""
    parts = {f"{prefix}/{part.name}": getattr(result, part.name) for part in fields(result)}
    return {key: part for key, part in parts.items() if isinstance(part, np.ndarray)}


def plain_parts(result: Any) -> dict[str, Any]:
    """Fields of a result that are numbers, truth values or text, by name."""
    parts = {part.name: getattr(result, part.name) for part in fields(result)}
    return {
        name: part for name, part in parts.items() if isinstance(part, bool | int | float | str)
    }


def read(file: dict[str, NDArray[Any]], kind: Any, prefix: str) -> dict[str, NDArray[Any]]:
    """Take out what ``arrays_of`` put under ``prefix``, by field of the dataclass ``kind``."""
    names = {part.name: f"{prefix}/{part.name}" for part in fields(kind)}
    return {name: file.pop(key) for name, key in names.items() if key in file}


def _packed(header: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """The file; not compressed if it would hold too much for its size."""
    members, index = {}, {}
    for name, array in arrays.items():
        members[name] = _saved(array)
        index[name] = [array.dtype.str, list(array.shape), _checksum(members[name])]
    text = json.dumps({**header, "bytes": sum(map(len, members.values())), "arrays": index})
    about = {"checksum": _checksum(text.encode()), "header": text}
    members = {name: _saved(np.array(part)) for name, part in about.items()} | members
    for method in (ZIP_DEFLATED, ZIP_STORED):
        file = BytesIO()
        with ZipFile(file, "w") as archive:
            for name, data in members.items():
                archive.writestr(ZipInfo(f"{name}.npy"), data, method)
        size = len(file.getvalue())
        whole = sum(map(len, members.values())) <= _most(size)
        if whole and len(members["header"]) <= _most(size, _OF_TEXT):
            break
    return file.getvalue()


def _saved(array: NDArray[Any]) -> bytes:
    file = BytesIO()
    np.save(file, np.asarray(array, order="C"), allow_pickle=False)
    return file.getvalue()


def _checksum(data: bytes | bytearray) -> str:
    return sha256(data).hexdigest()[:16]


def _most(size: int, each: int = _INFLATION) -> int:
    """Maximum number of bytes in all members of a file of this size."""
    return each * size + _SLACK


def _name(path: str | Path | IO[bytes]) -> str:
    own = path if isinstance(path, str | Path) else getattr(path, "name", None)
    return "an open file" if own is None else repr(str(own))


def _check_path(path: object, method: str) -> None:
    if not isinstance(path, str | Path) and not hasattr(path, method):
        raise TypeError(f"path: got {path!r}; it takes a path or an open binary file")


def _binary(path: str | Path | IO[bytes]) -> Any:
    return Path(path).open("rb") if isinstance(path, str | Path) else nullcontext(path)


@contextmanager
def _damage_named(name: str, kind: str) -> Iterator[None]:
    """Turn whatever a damaged file makes Python raise into a ReportFileError.

    What the operating system refuses is raised as it is. A damaged file asks for impossible places,
    which is the only refusal that it can cause.
    """
    try:
        yield
    except (ReportFileError, MemoryError):
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno != errno.EINVAL:
            raise
        raise ReportFileError(
            f"path: {name} holds a damaged {kind} report ({error}); copy it again from where it "
            "was saved, or make a new one"
        ) from error


def _header(archive: ZipFile, size: int) -> dict[str, Any] | None:
    """The header that ``write`` wrote; None if another program wrote the file."""
    text = _text(archive, size, "header")
    if text is None:
        return None
    checksum = _text(archive, size, "checksum")
    if checksum is not None and checksum != _checksum(text.encode()):
        raise ValueError("its header is not what was saved")
    try:
        header = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(header, dict) or "format" not in header:
        return None
    return header | {"checksum": checksum}


def _text(archive: ZipFile, size: int, name: str) -> str | None:
    """A member that is text; None if there is none."""
    if f"{name}.npy" not in archive.namelist():
        return None
    data = _member(archive, size, name)
    start = _HEADER.match(data)
    return None if start is None else data[start.end() :].decode("utf-32-le").rstrip("\0")


def _member(archive: ZipFile, size: int, name: str) -> bytearray:
    """The bytes of a member: no more than the file says and may hold are ever inflated."""
    info = archive.getinfo(f"{name}.npy")
    if info.file_size > _most(size, _INFLATION if name not in _RESERVED else _OF_TEXT):
        raise ValueError(f"{name!r} would take {info.file_size} bytes")
    if info.compress_type not in (ZIP_DEFLATED, ZIP_STORED):
        raise ValueError(f"{name!r} is compressed in another way")
    data, place = bytearray(info.file_size), 0
    with archive.open(info) as member:
        while part := member.read(_CHUNK):
            data[place : place + len(part)] = part
            place += len(part)
    return data


def _arrays(archive: ZipFile, size: int, header: dict[str, Any]) -> dict[str, NDArray[Any]]:
    """All arrays, after checks of names and sizes, each with its checksum."""
    if header.pop("checksum") is None:
        raise ValueError("it has no checksum")
    index, total = header.pop("arrays"), header.pop("bytes")
    members = {info.filename: info for info in archive.infolist()}
    names = [f"{name}.npy" for name in ("checksum", "header", *index)]
    if len(archive.infolist()) != len(names) or set(members) != set(names):
        raise ValueError("arrays are missing, or there are others")
    sizes = [info.file_size for info in archive.infolist()]
    if sum(sizes) > _most(size) or sum(members[name].file_size for name in names[2:]) != total:
        raise ValueError(f"its arrays would take {sum(sizes)} bytes")
    return {
        name: _array(archive, size, name, dtype, tuple(shape), checksum)
        for name, (dtype, shape, checksum) in index.items()
    }


def _array(
    archive: ZipFile, size: int, name: str, dtype: str, shape: tuple[int, ...], checksum: str
) -> NDArray[Any]:
    if dtype not in _DTYPES or not all(type(length) is int and length >= 0 for length in shape):
        raise ValueError(f"{name!r} has the type {dtype!r} and the shape {shape!r}")
    count = prod(shape)
    start = archive.getinfo(f"{name}.npy").file_size - count * np.dtype(dtype).itemsize
    if start <= 0:
        raise ValueError(f"{name!r} is too small for the shape {shape}")
    data = _member(archive, size, name)
    described = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    if _checksum(data) != checksum or data[10:start].rstrip() != described:
        raise ValueError(f"{name!r} is not what was saved")
    return np.frombuffer(data, dtype, count, start).reshape(shape)
