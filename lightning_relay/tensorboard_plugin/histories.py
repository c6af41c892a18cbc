"""The history of a run, read a few reports at a time, so that no request takes long."""

from __future__ import annotations

import time
from collections import OrderedDict
from threading import Lock
from typing import TYPE_CHECKING, Any

from lightning_relay.reports.files import ReportFileError

if TYPE_CHECKING:
    from lightning_relay.relay.history_figure import Moment
    from lightning_relay.reports.figure import Figure
    from lightning_relay.tensorboard_plugin.reading import Reports
    from lightning_relay.tensorboard_plugin.series import Saved, Series
    from lightning_relay.tensorboard_plugin.view import View

_KEPT = 8
"""Number of selections of series, layer, concept and step that are kept in memory."""


class Histories:
    """What histories show of reports; the last ones are kept in memory.

    Args:
        reports: Reads the reports.
    """

    def __init__(self, reports: Reports) -> None:
        self._reports = reports
        self._lock = Lock()
        self._kept: OrderedDict[Any, dict[tuple[str, int], Moment | str | None]] = OrderedDict()

    def drawn(
        self, run: str, series: Series, view: View, seconds: float
    ) -> tuple[Figure | None, int, str]:
        """The figure of what is read after about this time, the number of reports, and a note.

        The newest report comes first, then some from everywhere, so that the figure has all of the
        run early on. There is no figure as long as none of them has anything to show; once all are
        read, a ValueError says so.
        """
        from lightning_relay.relay.history_figure import moments_figure

        reports = list(series.reports.values())
        read = self._read_some(reports, self._moments(run, series, view), view, seconds)
        failed = [words for words in read.values() if isinstance(words, str)]
        notes = [f"{len(failed)} of the reports cannot be read: {failed[0]}"] if failed else []
        along, place = "epoch", 1
        if len({one.place[1] for one in reports}) < len(reports):
            along, place = "optimizer steps", 0
        there = {
            float(one.place[place]): read[one]
            for one in reports
            if one in read and not isinstance(read[one], str)
        }
        if not any(there.values()) and len(read) < len(reports):
            return None, len(read), " ".join(notes)
        if failed and not there:
            raise ValueError(notes[0])
        if len(there) + len(failed) < len(read):
            notes.append("Several reports are of one step; the last of each is shown.")
        shares = [own.share for own in there.values() if own and own.share is not None]
        smaller = view.unit is None or not any(view.unit < len(share) for share in shares)
        unit = None if smaller else view.unit
        title = f"{view.layer}: {view.concept}"
        figure = moments_figure(there, title, view.step, unit, along)
        return figure, len(read), " ".join(notes)

    def _read_some(
        self,
        reports: list[Saved],
        moments: dict[tuple[str, int], Moment | str | None],
        view: View,
        seconds: float,
    ) -> dict[Saved, Any]:
        """What is known after about this time: one report more than before, at least."""
        end, started = time.monotonic() + seconds, False
        read: dict[Saved, Any] = {}
        for place in spread(len(reports)):
            key = _key(one := reports[place])
            if key not in moments and (not started or time.monotonic() <= end):
                started = True
                try:
                    moments[key] = self._read(one, view)
                except OSError as error:  # it may pass
                    read[one] = str(error)
            if key in moments:
                read[one] = moments[key]
        return read

    def _moments(
        self, run: str, series: Series, view: View
    ) -> dict[tuple[str, int], Moment | str | None]:
        """What was read of a selection, by report."""
        selection = run, series.prefix, series.stage, view.layer, view.concept, view.step
        with self._lock:
            moments = self._kept.setdefault(selection, {})
            self._kept.move_to_end(selection)
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        return moments

    def _read(self, saved: Saved, view: View) -> Moment | str | None:
        """What a report has to show, or why it holds nothing; an OSError may pass."""
        from lightning_relay.relay.history_figure import moment_of
        from lightning_relay.relay.report import RelayReport

        try:
            report = self._reports.read_ahead(saved)
        except ReportFileError as error:
            return str(error)
        if not isinstance(report, RelayReport):
            return f"{saved.key!r} holds no relay report"
        return moment_of(report, view.layer, view.concept, view.step)


def spread(number: int) -> list[int]:
    """All places below a number: the last, then halfway, then in between, and so on."""
    bits = max(1, (number - 1).bit_length())
    places = sorted(range(number), key=lambda place: f"{place:0{bits}b}"[::-1])
    return [number - 1 - place for place in places]


def _key(saved: Saved) -> tuple[str, int]:
    return saved.key, saved.modified
