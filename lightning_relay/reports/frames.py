"""What frames of both kinds of report share."""

from __future__ import annotations

from importlib import import_module
from typing import Any


def optional(package: str, method: str) -> Any:
    """The package behind a method of a report; an ImportError says how to install it."""
    try:
        return import_module(package)
    except ImportError as error:
        raise ImportError(f"{method} needs {package}: pip install {package}") from error


def evaluation_of(report: Any) -> dict[str, Any]:
    """Which evaluation a report is of, as columns or attributes."""
    return {name: getattr(report, name) for name in ("stage", "epoch", "global_step")}
