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
    ) -> tuple[Figure, int, str]:
        """The figure of what is read after about this time, the number of reports, and a note.

        The newest report comes first, then some from everywhere, so that the figure has all of the
        run early on. Raises a ValueError if nothing was measured.
        """
        from lightning_relay.relay.history_figure import moments_figure

        moments = self._moments(run, series, view)
        end = time.monotonic() + seconds
        reports = list(series.reports.values())
        for place in spread(len(reports)):
            if (key := _key(reports[place])) not in moments:
                moments[key] = self._read(reports[place], view)
                if time.monotonic() > end:
                    break
        read = {one: moments[_key(one)] for one in reports if _key(one) in moments}
        failed = [words for words in read.values() if isinstance(words, str)]
        notes = [f"{len(failed)} of the reports cannot be read: {failed[0]}"] if failed else []
        along, place = "epoch", 1
        if len({one.place[1] for one in reports}) < len(reports):
            along, place = "optimizer steps", 0
        there = {
            float(one.place[place]): own for one, own in read.items() if not isinstance(own, str)
        }
        if failed and not there:
            raise ValueError(notes[0])
        if len(there) + len(failed) < len(read):
            notes.append("Several reports are of one step; the last of each is shown.")
        title = f"{view.layer}: {view.concept}"
        figure = moments_figure(there, title, view.step, view.unit, along)
        return figure, len(read), " ".join(notes)

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
        """What a report has to show, or why it cannot be read."""
        from lightning_relay.relay.history_figure import moment_of
        from lightning_relay.relay.report import RelayReport

        try:
            report = self._reports.read_ahead(saved)
        except (ReportFileError, OSError) as error:
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
