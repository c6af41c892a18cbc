"""The server's side of the Relays tab: its own files, names of reports, and figures as JSON."""

from __future__ import annotations

import importlib.util
import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tensorboard.backend import http_util
from tensorboard.plugins import base_plugin
from tensorboard.util import tb_logging
from werkzeug import Request, Response

from lightning_relay.reports.files import ReportFileError
from lightning_relay.tensorboard_plugin.histories import Histories
from lightning_relay.tensorboard_plugin.index import ReportIndex
from lightning_relay.tensorboard_plugin.reading import Reports
from lightning_relay.tensorboard_plugin.showing import described, drawn, in_words
from lightning_relay.tensorboard_plugin.view import View

if TYPE_CHECKING:
    from collections.abc import Callable

    from lightning_relay.ablation.report import KnockoutReport
    from lightning_relay.relay.report import RelayReport
    from lightning_relay.reports.figure import Figure
    from lightning_relay.tensorboard_plugin.series import Series

STATIC = {
    "index.js": "text/javascript",
    "address.js": "text/javascript",
    "drawing.js": "text/javascript",
    "element.js": "text/javascript",
    "questions.js": "text/javascript",
    "sections.js": "text/javascript",
    "selection.js": "text/javascript",
    "server.js": "text/javascript",
    "style.css": "text/css",
}
"""Files of the tab in the folder ``static``, by type."""

_JSON = "application/json"

_PATIENCE = 0.2
"""Maximum number of seconds that TensorBoard waits to hear whether there are reports."""

_LONGER = 2.0
"""The same for the tab, which asks again if the search goes on."""

_AT_ONCE = 0.15
"""Number of seconds for which a request reads reports of a history; the tab asks again."""


class RelaysPlugin(base_plugin.TBPlugin):  # type: ignore[misc]  # TensorBoard has no types
    """Shows the reports that the callbacks saved under TensorBoard's log directory.

    A request names a run and a report by their keys in the index of the log directory; no path
    from a request is opened. What fails is an answer in words, never an exception.
    """

    plugin_name = "lightning_relay"

    def __init__(self, context: base_plugin.TBContext) -> None:
        self._index = ReportIndex(str(context.logdir or ""))
        self._reports = Reports()
        self._histories = Histories(self._reports)

    def is_active(self) -> bool:
        """Whether there are reports, as far as is known after .2 s."""
        return self._index.any(_PATIENCE)

    def frontend_metadata(self) -> base_plugin.FrontendMetadata:
        """Name of the tab, and the module that draws it."""
        return base_plugin.FrontendMetadata(
            es_module_path="/static/index.js", tab_name="Relays", disable_reload=False
        )

    def get_plugin_apps(self) -> dict[str, Callable[..., Any]]:
        """Answers by route."""
        answers: dict[str, Callable[[Request], Response]] = {
            "/static/plotly.min.js": _plotly,
            "/runs": self._runs,
            "/report": self._report,
            "/words": self._words,
            "/figure": self._figure,
            "/csv": self._csv,
        }
        answers |= {f"/static/{name}": partial(_own_file, name) for name in STATIC}
        return {route: _in_words(answer) for route, answer in answers.items()}

    def _runs(self, request: Request) -> Response:
        """Reports by run, stage, kind and callback; or that nothing has changed."""
        found = self._index.refreshed(_LONGER)
        if request.args.get("known") == found.number:
            return _json(request, json.dumps({"number": found.number, "complete": found.complete}))
        about = {
            "logdir": self._index.logdir,
            "number": found.number,
            "complete": found.complete,
            "notes": found.notes,
            "runs": [
                {"run": run, "series": [_listed(one) for one in series]}
                for run, series in found.runs.items()
            ],
        }
        return _json(request, json.dumps(about))

    def _report(self, request: Request) -> Response:
        """What a report holds, and its summary."""
        return _json(request, json.dumps(described(self._asked_for(request))))

    def _words(self, request: Request) -> Response:
        """Sentences of a report about what is chosen."""
        words = in_words(self._asked_for(request), View.of(request.args))
        return _json(request, json.dumps({"sentences": words}))

    def _figure(self, request: Request) -> Response:
        """A figure of a report or of a history; with ``of``, the number of reports to read."""
        from lightning_relay.reports.figure import to_json

        view = View.of(request.args)
        try:
            figure, about = self._drawn(request, view, _AT_ONCE)
        except ValueError as error:
            # It was not measured, which is no failure that a browser should note.
            words = str(error).removeprefix("report: ")
            return _json(request, json.dumps({"error": f"{words[:1].upper()}{words[1:]}."}))
        # Packed arrays hardly shrink, and compressing them takes longer than drawing them.
        return Response(to_json((figure or {}) | about), mimetype=_JSON)

    def _csv(self, request: Request) -> Response:
        """The numbers of a figure."""
        from lightning_relay.reports.figure import to_csv

        figure, _ = self._drawn(request, View.of(request.args), float("inf"))
        answer = Response(to_csv(figure or {"data": []}), mimetype="text/csv")
        name = request.args.get("figure", "")
        answer.headers.set("Content-Disposition", "attachment", filename=f"{name}.csv")
        return answer

    def _drawn(
        self, request: Request, view: View, seconds: float
    ) -> tuple[Figure | None, dict[str, Any]]:
        """What is asked for, as far as it is read, and what there is to say of it."""
        what = request.args.get("figure", "")
        if what == "history":
            run, series = self._series(request)
            figure, read, note = self._histories.drawn(run, series, view, seconds)
            return figure, {"note": note, "read": read, "of": len(series.reports)}
        figure, note = drawn(self._asked_for(request), what, view)
        return figure, {"note": note}

    def _asked_for(self, request: Request) -> RelayReport | KnockoutReport:
        key = request.args.get("report", "")
        for series in self._of_run(request):
            if key in series.reports:
                return self._reports.read(series.reports[key])
        raise KeyError(f"no report {key!r} in this run; it may have been removed")

    def _series(self, request: Request) -> tuple[str, Series]:
        prefix, stage = request.args.get("prefix", ""), request.args.get("stage", "")
        for series in self._of_run(request):
            if (series.kind, series.prefix, series.stage) == ("relay", prefix, stage):
                return request.args["run"], series
        raise KeyError(f"no relay reports {prefix!r}, {stage!r} in this run")

    def _of_run(self, request: Request) -> tuple[Series, ...]:
        run = request.args.get("run", "")
        found = self._index.known()
        if run not in found.runs:
            found = self._index.refreshed(_LONGER)
        if run not in found.runs:
            raise KeyError(f"no run {run!r} with reports under the log directory")
        return found.runs[run]


def _listed(series: Series) -> dict[str, Any]:
    return {
        "kind": series.kind,
        "prefix": series.prefix,
        "stage": series.stage,
        "reports": [
            {
                "report": key,
                "epoch": one.place[1],
                "step": one.place[0],
                "modified": str(one.modified),
            }
            for key, one in series.reports.items()
        ],
    }


def _in_words(answer: Callable[[Request], Response]) -> Callable[..., Any]:
    """A WSGI application that answers; what fails becomes JSON with words."""

    def safe(request: Request) -> Response:
        try:
            return answer(request)
        except (KeyError, FileNotFoundError) as error:
            code, words = 404, str(error.args[0] if isinstance(error, KeyError) else error)
        except ReportFileError as error:
            code, words = 422, str(error)
        except ValueError as error:
            code, words = 400, str(error)
        except Exception as error:
            tb_logging.get_logger().warning("The Relays tab could not answer", exc_info=True)
            code, words = 500, f"{type(error).__name__}: {error}"
        return _json(request, json.dumps({"error": words}), code)

    return Request.application(safe)


def _json(request: Request, text: str, code: int = 200) -> Response:
    answer: Response = http_util.Respond(request, text, _JSON, code=code)
    return answer


def _own_file(name: str, request: Request) -> Response:
    return _file(request, Path(__file__).parent / "static" / name, STATIC[name], "no-cache")


def _plotly(request: Request) -> Response:
    """Plotly's own bundle, out of the installed package, which is not imported."""
    spec = importlib.util.find_spec("plotly")
    path = Path(spec.origin or "").parent / "package_data" / "plotly.min.js" if spec else None
    if path is None or not path.is_file():
        raise FileNotFoundError(
            "Figures take the package plotly, which TensorBoard's Python does not have; install "
            "it there with pip install plotly"
        )
    return _file(request, path, "text/javascript", "private, max-age=604800")


def _file(request: Request, path: Path, kind: str, caching: str) -> Response:
    about = path.stat()
    answer = Response(mimetype=kind)
    answer.set_etag(f"{about.st_size:x}-{about.st_mtime_ns:x}")
    answer.headers["Cache-Control"] = caching
    answer.headers["X-Content-Type-Options"] = "nosniff"
    answer.make_conditional(request)
    if answer.status_code != 304:
        answer.set_data(path.read_bytes())
    return answer
