"""Faces of a report: the figures and tables that loggers show, by the end of their tag."""

from __future__ import annotations

from typing import TypeAlias

from lightning_relay.reports.figure import Figure

Face: TypeAlias = Figure | str
"""A figure as plotly takes it, or a table as Markdown."""

Faces: TypeAlias = dict[str, Face]
"""Faces in the order in which they are logged."""
