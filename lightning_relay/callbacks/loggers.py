"""What each kind of logger takes of a report: figures, tables, and the saved file."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from glob import escape
from io import BytesIO
from pathlib import Path
from posixpath import normpath
from tempfile import TemporaryDirectory
from typing import Any, TypeAlias
from warnings import catch_warnings, simplefilter

from lightning_relay.reports.faces import Faces
from lightning_relay.reports.figure import Figure, shown, to_json
from lightning_relay.reports.picture import picture_of
from lightning_relay.rerun.packages import classes

_STYLE = (
    "body { font: 13px sans-serif } table { border-collapse: collapse } "
    "th, td { border: 1px solid #ccc; padding: 2px 6px; text-align: left; vertical-align: top }"
)

_TENSORBOARD = classes("loggers.TensorBoardLogger")
_WANDB = classes("loggers.WandbLogger")
_MLFLOW = classes("loggers.MLFlowLogger")

Paths: TypeAlias = Callable[[Path], Iterator[Path]]
"""Paths in a directory for a new report, the first choice first."""

Store: TypeAlias = Callable[[Paths, BytesIO], None]
"""Saves the file of a report under the first of its paths that is free."""

Shower: TypeAlias = Callable[[Faces, int], None]
"""Shows faces, by their tags, at a step."""


def shower_of(logger: object) -> Shower | None:
    """What shows faces at a step in a logger; None if the logger shows none."""
    for kind, show in _SHOWERS.items():
        if isinstance(logger, kind):
            return partial(show, logger)
    return None


def _in_tensorboard(logger: Any, faces: Faces, step: int) -> None:
    for tag, face in faces.items():
        if isinstance(face, str):
            logger.experiment.add_text(tag, face, step)
        else:
            logger.experiment.add_image(tag, picture_of(face), step, dataformats="HWC")


def _in_wandb(logger: Any, faces: Faces, step: int) -> None:
    """Add faces to the row of the scalars, which Lightning logs next, with its step.

    A row of their own would change the numbers of the rows that are the user's.
    """
    import wandb

    own = {
        tag: wandb.Html(_html(face), inject=False)
        if isinstance(face, str)
        else wandb.Plotly(_interactive(face))
        for tag, face in faces.items()
    }
    logger.experiment.log(own, commit=False)


def _in_mlflow(logger: Any, faces: Faces, step: int) -> None:
    client, run = logger.experiment, logger.run_id
    for tag, face in faces.items():
        name = _mlflow_name(tag)
        if isinstance(face, str):
            client.log_text(run, _html(face), f"{name}/step={step}.html")
        else:
            client.log_image(run, picture_of(face), key=name, step=step)
            client.log_figure(run, _interactive(face), f"{name}/step={step}.html")


_SHOWERS: Mapping[Any, Callable[[Any, Faces, int], None]] = {
    _TENSORBOARD: _in_tensorboard,
    _WANDB: _in_wandb,
    _MLFLOW: _in_mlflow,
}


def _interactive(figure: Figure) -> Any:
    """The figure as plotly's own; its numbers have seven digits, which halves the file."""
    return shown(json.loads(to_json(figure)))


def _html(table: str) -> str:
    """A page with a table, as TensorBoard shows its Markdown."""
    with catch_warnings():
        simplefilter("ignore", DeprecationWarning)  # of what TensorBoard uses
        from tensorboard.plugin_util import markdown_to_safe_html

        body = markdown_to_safe_html(table)
    return f'<!doctype html><meta charset="utf-8"><style>{_STYLE}</style>\n{body}'


def _mlflow_name(tag: str) -> str:
    """A tag in characters that MLflow takes; others are their code, such as ``-3a`` for a colon."""
    return re.sub(r"[^a-zA-Z0-9_/. -]", lambda found: f"-{ord(found[0]):x}", tag)


def refused(loggers: Iterable[object], names: Iterable[str]) -> list[str]:
    """Names of scalars with which an MLFlowLogger raises: it drops letters, and nothing is left."""
    if not any(map(_is_mlflow, loggers)):
        return []
    left = {name: re.sub(r"[^a-zA-Z0-9_/. -]", "", name) for name in names}
    return [name for name, taken in left.items() if normpath(taken) != taken]


def _is_mlflow(logger: object) -> bool:
    return isinstance(logger, _MLFLOW)


def place_of(logger: Any) -> str | None:
    """Directory of a logger's run, which may be a remote one; None if it has none."""
    if _is_mlflow(logger):
        return None  # what lies in its directory is taken for an experiment
    if isinstance(logger, _WANDB):
        run = logger.experiment
        return None if run.disabled else str(run.dir)
    own, root = getattr(logger, "log_dir", None), logger.save_dir
    if own is None and root is not None:  # where Lightning places checkpoints
        name, version = logger.name, logger.version
        number = f"version_{version}" if isinstance(version, int) else version
        own = "/".join(filter(None, (os.fspath(root), name, number)))
    return None if own is None else os.fspath(own)


def artifact_stores(loggers: Iterable[Any], name: str) -> list[Store]:
    """What saves a report with every MLflow run, in an artifact directory of this name."""
    return [partial(_save_artifact, logger, name) for logger in loggers if _is_mlflow(logger)]


def where_in_words(loggers: Sequence[Any], directory: Path | None, name: str) -> str:
    """Where reports and pictures go; empty if both are in the directory of a run, or named."""
    are_shown = any(map(shower_of, loggers))
    if are_shown and directory is not None:
        return ""
    places = [] if directory is None else [f"in {str(directory)!r}"]
    runs = (logger.run_id for logger in loggers if _is_mlflow(logger))
    places += [f"as artifacts of the MLflow run {run}, under {name}" for run in runs]
    remote = [f" to {place!r}" for place in map(place_of, loggers) if place]
    words = f"not saved{','.join(remote)}, unless dirpath= names a local directory"
    if places:
        words = f"saved {' and '.join(places)}"
    if not are_shown:
        words += (
            "; pictures and tables go to TensorBoard, W&B and MLflow, and none is a logger here"
        )
    return f"reports are {words}"


def upload(loggers: Iterable[Any], path: Path) -> None:
    """Have W&B upload a file that lies in the directory of one of its runs."""
    for logger in loggers:
        if isinstance(logger, _WANDB) and Path(logger.experiment.dir) in path.parents:
            run = logger.experiment
            pattern = Path(run.dir, escape(str(path.relative_to(run.dir))))
            run.save(str(pattern), base_path=run.dir, policy="now")


def _save_artifact(logger: Any, name: str, paths: Paths, file: BytesIO) -> None:
    client, run = logger.experiment, logger.run_id
    taken = {Path(found.path).name for found in client.list_artifacts(run, name)}
    with TemporaryDirectory() as directory:
        path = next(path for path in paths(Path(directory)) if path.name not in taken)
        path.write_bytes(file.getvalue())
        client.log_artifact(run, str(path), name)
