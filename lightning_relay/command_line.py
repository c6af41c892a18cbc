"""The command line: analyse a checkpoint, and list the recurrent layers of a model."""

from __future__ import annotations

import argparse
import inspect
import logging
import sys
import traceback
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any
from zipfile import is_zipfile

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer

_EPILOG = """\
All other options are those of LightningCLI, such as --trainer.accelerator cpu,
--data.batch_size 16, or --trainer.callbacks+=lightning_relay.KnockoutCallback.
They come after the configuration and change it.
"""

_NEEDS = "pip install 'jsonargparse[signatures]>=4.41'"


class CommandError(Exception):
    """What is asked for cannot be done; the message says why and what to do."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code: 0, 1 if it failed, or 2 if it cannot be read.

    Args:
        arguments: What follows ``python -m lightning_relay``. Default: ``sys.argv``.
    """
    options, others = _parser().parse_known_args(arguments)
    try:
        options.run(options, others)
    except CommandError as error:
        print(f"lightning_relay {options.command}: {error}", file=sys.stderr)
        return 2
    except Exception as error:
        if not _is_in_words(error):
            raise
        print(f"lightning_relay {options.command}: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m lightning_relay",
        description="Which hidden units of a recurrent network relay information?",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    shared = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    shared.add_argument(
        "-c",
        "--config",
        action="append",
        default=[],
        metavar="FILE",
        help="configuration that LightningCLI takes or has saved (config.yaml in the log "
        "directory); of several, the later ones count",
    )
    shared.add_argument(
        "--model",
        metavar="CLASS",
        help="class of the model, such as package.module.Class; needed if neither configuration "
        "nor checkpoint names it",
    )
    analyse = commands.add_parser(
        "analyse",
        parents=[shared],
        allow_abbrev=False,
        help="evaluate a checkpoint with the callbacks of a configuration, and save their reports",
        description="Evaluate a checkpoint on the validation or test set with the callbacks of a "
        "configuration, save their reports and print them. If the configuration has no callback "
        "of lightning_relay, RelayInformationCallback() is added.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    analyse.add_argument("--ckpt_path", required=True, metavar="FILE", help="checkpoint")
    analyse.add_argument(
        "--data",
        metavar="CLASS",
        help="class of the LightningDataModule; needed if the configuration does not name it",
    )
    analyse.add_argument(
        "--stage",
        choices=["validate", "test"],
        default="validate",
        help="set to evaluate; default: validate",
    )
    analyse.add_argument(
        "--dirpath",
        metavar="DIRECTORY",
        help="directory to save reports in; default: that of the configuration, or of its logger, "
        "or the current one",
    )
    analyse.set_defaults(run=_analyse, parts=("model", "data", "trainer", "seed_everything"))
    layers = commands.add_parser(
        "layers",
        parents=[shared],
        allow_abbrev=False,
        help="list the recurrent layers of a model",
        description="List the recurrent layers of a model, by the keys that arguments and reports "
        "name them by.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    layers.add_argument(
        "--ckpt_path", metavar="FILE", help="checkpoint whose hyperparameters the model is built by"
    )
    layers.set_defaults(run=_layers, parts=("model", "seed_everything"))
    return parser


def _analyse(options: argparse.Namespace, others: Sequence[str]) -> None:
    from lightning_relay.ablation.report import KnockoutReport
    from lightning_relay.callbacks.evaluations import report_directory
    from lightning_relay.callbacks.knockout import KnockoutCallback
    from lightning_relay.callbacks.relay_information import RelayInformationCallback
    from lightning_relay.callbacks.reporting_callback import ReportingCallback
    from lightning_relay.relay.report import RelayReport
    from lightning_relay.reports.files import kind_of

    cli = _instantiated(options, others)
    trainer: Trainer = cli.trainer
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    ours = [own for own in callbacks if isinstance(own, ReportingCallback)]
    if not ours:
        print("No callback of lightning_relay is configured: RelayInformationCallback() is added.")
        ours = [RelayInformationCallback()]
        callbacks += ours
    due = [own for own in ours if options.stage in own.stages]
    if not due:
        stages = ", ".join(sorted({stage for own in ours for stage in own.stages}))
        raise CommandError(
            f"--stage: got {options.stage}, and the callbacks of the configuration have stages: "
            f"{stages}"
        )
    for own in due:
        if options.dirpath is not None:
            own.dirpath = options.dirpath
        elif report_directory(trainer, own.dirpath, own.directory) is None:
            own.dirpath = Path(own.directory)
    directories = dict.fromkeys(
        report_directory(trainer, own.dirpath, own.directory) for own in due
    )
    before = set(_reports_in(directories))
    relays = [own for own in due if isinstance(own, RelayInformationCallback)]
    waiting = [own for own in due if isinstance(own, KnockoutCallback) and own.waits_for_relays]
    if relays and waiting:
        trainer.callbacks = [own for own in callbacks if own not in waiting]  # type: ignore[attr-defined]
        _evaluate(cli, options)
        trainer.callbacks = callbacks  # type: ignore[attr-defined]
        for own in due:  # once is enough
            own.stages = own.stages if own in waiting else ()
    _evaluate(cli, options)
    if not trainer.is_global_zero:
        return
    kinds: dict[str | None, Any] = {"relay": RelayReport, "knock-out": KnockoutReport}
    found = {path: kind_of(path) for path in _reports_in(directories) if path not in before}
    saved = {path: kind for path, kind in found.items() if kind is not None}
    for path, kind in saved.items():
        print(f"\n{kinds[kind].load(path)}\nSaved: {path}")
    if not saved:
        raise CommandError("trainer: nothing is saved in a fast_dev_run; leave it out")


def _layers(options: argparse.Namespace, others: Sequence[str]) -> None:
    from lightning_relay.recurrent.keys import StateKey
    from lightning_relay.recurrent.layers import recurrent_layers, recurrent_modules

    quiet = ("logger=false", "enable_checkpointing=false", "accelerator=cpu", "devices=1")
    with _without_information():
        cli = _instantiated(options, [*(f"--trainer.{own}" for own in quiet), *others])
    model: LightningModule = cli.model
    model.configure_model()
    modules = recurrent_modules(model)
    rows = [("layer", "module", "units", "states")]
    for name, units in recurrent_layers(model).items():
        key = StateKey.parse(name)
        kind = type(modules[key.module]).__name__
        rows.append((name, kind, str(units), "cell" if key.cell else "hidden"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for layer, kind, number, states in rows:
        print(f"{layer:<{widths[0]}}  {kind:<{widths[1]}}  {number:>{widths[2]}}  {states}")


@contextmanager
def _without_information() -> Iterator[None]:
    """What Lightning says about a Trainer is of no interest to who asks for a table."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "pytorch_lightning")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.WARNING)
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _evaluate(cli: Any, options: argparse.Namespace) -> None:
    """Run the evaluation; a CommandError says what of the checkpoint does not fit."""
    from lightning_relay.rerun.packages import classes

    evaluate = cli.trainer.validate if options.stage == "validate" else cli.trainer.test
    checkpoint = _checkpoint(options.ckpt_path)
    if loops := checkpoint.get("loops"):  # the epoch and step that reports and logs name
        cli.trainer.fit_loop.load_state_dict(loops["fit_loop"])
    try:
        evaluate(cli.model, datamodule=cli.datamodule, ckpt_path=options.ckpt_path)
    except classes("utilities.exceptions.MisconfigurationException") as error:
        if cli.datamodule is not None:
            raise
        raise CommandError(f"--data: no LightningDataModule is named, and {error}") from error
    except RuntimeError as error:
        differences = _differences(cli.model, checkpoint)
        if not differences:
            raise
        raise CommandError(
            f"--ckpt_path: {options.ckpt_path} does not fit {type(cli.model).__name__}: "
            f"{'; '.join(differences)}"
        ) from error


def _instantiated(options: argparse.Namespace, others: Sequence[str]) -> Any:
    """A LightningCLI with model and Trainer, as configuration, checkpoint and options say."""
    if not all(map(find_spec, ("jsonargparse", "docstring_parser"))):
        raise CommandError(f"it takes jsonargparse, with signatures: {_NEEDS}")
    from lightning_relay.rerun.packages import module_class

    checkpoint = {} if options.ckpt_path is None else _checkpoint(options.ckpt_path)
    configs = [_read(path, options) for path in options.config]
    model = _chosen("model", options.model, configs)
    hparams = checkpoint.get("hyper_parameters", {})
    model.setdefault("class_path", hparams.get("_class_path"))
    if model["class_path"] is None:
        raise CommandError(
            "--model: neither configuration nor checkpoint names the class of the model; name it, "
            "such as --model package.module.Class"
        )
    kind = _class("model", model["class_path"])
    own = {name: value for name, value in hparams.items() if not name.startswith("_")}
    taken = inspect.signature(kind).parameters.values()
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in taken):
        names = {parameter.name for parameter in taken}
        if unknown := sorted(own.keys() - names):
            print(
                f"Hyperparameters of the checkpoint that {kind.__name__} does not take are left "
                f"out: {', '.join(unknown)}",
                file=sys.stderr,
            )
        own = {name: value for name, value in own.items() if name in names}
    model["init_args"] |= own
    configs.append({"model": model})
    if options.command == "analyse":
        data = _chosen("data", options.data, configs)
        if "class_path" in data:
            configs.append({"data": data})
        elif data["init_args"]:
            raise CommandError(
                "--data: the configuration has arguments of a LightningDataModule and does not "
                "name its class; name it, such as --data package.module.Class"
            )
    try:
        package = module_class(kind).__module__.partition(".core")[0]
    except (StopIteration, TypeError):
        raise CommandError(
            f"--model: got {model['class_path']}; it takes a LightningModule"
        ) from None
    arguments = [part for own in configs for part in ("--config", _text(own))]
    with warnings.catch_warnings():
        # The arguments differ from those of the process on purpose; the calls are Lightning's.
        warnings.filterwarnings("ignore", "LightningCLI's args parameter")
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        try:
            return import_module(f"{package}.cli").LightningCLI(
                save_config_callback=None,
                seed_everything_default=0,
                parser_kwargs={"exit_on_error": False},
                args=[*arguments, *others],
                run=False,
            )
        except argparse.ArgumentError as error:
            raise CommandError(str(error)) from error


def _read(path: str, options: argparse.Namespace) -> dict[str, Any]:
    """The parts of a configuration that are needed here, whichever command it was for."""
    import yaml

    if not Path(path).is_file():
        raise CommandError(f"--config: there is no file {path}")
    try:
        config = yaml.safe_load(Path(path).read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise CommandError(f"--config: {path} is no YAML: {error}") from error
    if not isinstance(config, Mapping):
        raise CommandError(f"--config: {path} is no configuration of LightningCLI")
    commands = (getattr(options, "stage", "fit"), "fit", "validate", "test")
    of_command = next((config[own] for own in commands if own in config), config)
    return {key: of_command[key] for key in options.parts if of_command.get(key) is not None}


def _chosen(part: str, given: str | None, configs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Take a class and its arguments out of the configurations; ``given`` names another class."""
    found: dict[str, Any] = {"init_args": {}}
    for config in configs:
        own = config.pop(part, {})
        if isinstance(own, str):
            own = {"class_path": own}
        arguments = own.get("init_args") or {} if "class_path" in own else own
        found = {
            **found,
            **{key: own[key] for key in ("class_path", "dict_kwargs") if key in own},
            "init_args": found["init_args"] | arguments,
        }
    return found if given is None else found | {"class_path": given}


def _class(part: str, path: str) -> type:
    """The class of a dotted path."""
    module, _, name = path.rpartition(".")
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise CommandError(f"--{part}: cannot import {path}: {error}") from error
    if not isinstance(found, type):
        raise CommandError(f"--{part}: got {path}, a {type(found).__name__}; it takes a class")
    return found


def _text(config: Mapping[str, Any]) -> str:
    import yaml

    return str(yaml.safe_dump(config))


def _checkpoint(path: str) -> dict[str, Any]:
    """What a checkpoint has of plain values and tensors; nothing if it is a directory or remote."""
    import torch

    if "://" in path or Path(path).is_dir():
        return {}
    if not Path(path).is_file():
        raise CommandError(f"--ckpt_path: there is no file {path}")
    if not is_zipfile(path):
        raise CommandError(f"--ckpt_path: {path} is no checkpoint of PyTorch")
    try:
        found: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError:
        return {}  # it has objects that are not plain values
    return found


def _differences(model: LightningModule, checkpoint: Mapping[str, Any]) -> list[str]:
    """How the parameters of a checkpoint differ from those of a model, in words."""
    saved = {name: tuple(own.shape) for name, own in checkpoint.get("state_dict", {}).items()}
    needed = {name: tuple(own.shape) for name, own in model.state_dict().items()}
    if not saved:
        return []
    return [
        *(f"{name} is missing" for name in needed if name not in saved),
        *(f"{name} is not in the model" for name in saved if name not in needed),
        *(
            f"{name} has shape {saved[name]}, and {needed[name]} in the model"
            for name in needed
            if saved.get(name, needed[name]) != needed[name]
        ),
    ]


def _reports_in(directories: Iterable[Path | None]) -> list[Path]:
    return [path for own in directories if own is not None for path in sorted(own.rglob("*.npz"))]


def _is_in_words(error: Exception) -> bool:
    """Whether an error is told by its message: one of Lightning's, jsonargparse's or our own."""
    from lightning_relay.rerun.packages import classes

    if isinstance(error, classes("utilities.exceptions.MisconfigurationException")):
        return True
    ((frame, _),) = [*traceback.walk_tb(error.__traceback__)][-1:]
    package = frame.f_globals.get("__name__", "").partition(".")[0]
    told = isinstance(error, ValueError | TypeError | OSError)
    return told and package in ("lightning_relay", "jsonargparse")
