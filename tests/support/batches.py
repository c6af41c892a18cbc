"""Writes the table of docs/batches.md: models, their batches and the arguments that they need.

Run ``python -m tests.support.batches``.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_relay.reading.containers import tensors_in
from lightning_relay.reading.labels import described
from tests.support.collection import COLLECTION
from tests.support.pages import with_table

if TYPE_CHECKING:
    from tests.support.collection import Entry

PAGE = Path(__file__).parents[2] / "docs" / "batches.md"
SCRIPT = "tests/support/batches.py"


def table() -> str:
    """The table, in Markdown."""
    rows = [
        "| model | batch | arguments | X_in | X_out |",
        "| --- | --- | --- | --- | --- |",
        *map(row, COLLECTION),
    ]
    return "".join(f"{line}\n" for line in rows)


def row(entry: Entry) -> str:
    tensors = tensors_in(next(iter(entry.data)), "batch")
    batch = ", ".join(f"`{described(path, tensor)}`" for path, tensor in tensors)
    arguments = ", ".join(f"`{name}={in_words(value)}`" for name, value in entry.arguments.items())
    what = (inspect.getdoc(entry.model) or "").partition("\n")[0]
    return f"| {what} | {batch} | {arguments or 'none'} | {entry.x_in} | {entry.x_out} |"


def in_words(value: Any) -> str:
    """An argument as the user writes it; a function by what it returns."""
    if isinstance(value, tuple):
        return f"({', '.join(map(in_words, value))})"
    if callable(value):
        last = inspect.getsource(value).splitlines()[-1]
        returned = last.strip().removeprefix("return ").partition("  #")[0]
        return f"lambda {', '.join(inspect.signature(value).parameters)}: {returned}"
    return repr(value)


if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text(), SCRIPT, table()))
