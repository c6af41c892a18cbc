"""What a W&B run that is offline keeps in its file."""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from wandb.proto.wandb_internal_pb2 import Record

_BLOCK, _HEADER = 2**15, 7
"""Sizes in LevelDB's format of logs, and of what W&B writes before the first record."""


def records(directory: Path) -> Iterator[Record]:
    """Records of the run whose files are in ``directory / "files"``."""
    from wandb.proto.wandb_internal_pb2 import Record

    (path,) = directory.glob("*.wandb")
    data, place, parts = path.read_bytes(), _HEADER, b""
    while place + _HEADER <= len(data):
        if (left := _BLOCK - place % _BLOCK) < _HEADER:
            place += left
            continue
        length, kind = struct.unpack("<HB", data[place + 4 : place + _HEADER])
        place += _HEADER + length
        parts += data[place - length : place]
        if kind in (1, 4):  # a whole record, or its last part
            yield Record.FromString(parts)
            parts = b""


def rows(directory: Path) -> list[dict[str, Any]]:
    """Rows of the history: what was logged together."""
    found = []
    for record in records(directory):
        if record.HasField("history"):
            row: dict[str, Any] = {}
            for item in record.history.item:
                place, (*parents, last) = row, item.nested_key or [item.key]
                for parent in parents:
                    place = place.setdefault(parent, {})
                place[last] = json.loads(item.value_json)
            found.append(row)
    return found


def uploaded(directory: Path) -> list[str]:
    """Files that W&B uploads with the run, but for its own."""
    found = (one.path for record in records(directory) for one in record.files.files)
    return [path for path in found if path.endswith(".npz")]
