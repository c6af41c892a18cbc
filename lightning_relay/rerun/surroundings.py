"""What a step can change beside its module: global variables, classes, what a Trainer has."""

from __future__ import annotations

import sys
import sysconfig
from contextlib import contextmanager
from types import FunctionType, ModuleType
from typing import TYPE_CHECKING, Any

from lightning_relay.reading.code import LIGHTNING, names_in
from lightning_relay.reports.stage import STEP_OF
from lightning_relay.rerun.functions import LIBRARIES, reachable
from lightning_relay.rerun.holdings import Holdings, Variables, is_entered
from lightning_relay.rerun.packages import is_module
from lightning_relay.rerun.silence import silenced
from lightning_relay.rerun.traces import PROCESS, KeptParameters

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lightning.pytorch import LightningModule, Trainer

    from lightning_relay.reports.stage import Stage

_INSTALLED = tuple({sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")})

_WAYS_TO_TRAINER = {"trainer", "_trainer", "optimizers", "lr_schedulers"}


class Surroundings:
    """What the runs of a step share with training, to undo what they change there.

    That is the parameters, and what code names that the step may call: global variables, attributes
    of classes, and closures and defaults of functions; with them callbacks, optimizers and
    schedulers, if the code names the Trainer. Code of installed packages is not read, unless the
    model is one of theirs. What only C code holds, such as an open file or what
    ``functools.cache`` remembers, is not put back.
    """

    def __init__(self, pl_module: LightningModule, trainer: Trainer, stage: Stage) -> None:
        self._parameters = KeptParameters(pl_module)
        self._left_out = list(pl_module.parameters())
        named = _Named(pl_module, getattr(pl_module, STEP_OF[stage]))
        self._roots = named.objects
        own = {type(one) for one in pl_module.modules() if is_module(one)}
        quiet = [silenced(kind) for kind in own]
        self._variables = named.variables + [Variables(kind) for kind in quiet]
        self._trainer = trainer if named.names & _WAYS_TO_TRAINER else None

    @contextmanager
    def unchanged(self) -> Iterator[None]:
        """Put back what the block changes; a ValueError names a parameter that was changed."""
        with PROCESS, self._parameters.unchanged():
            held = [*self._roots, *self._of_trainer()]
            holdings = Holdings(held, self._variables, numbers=True, but=self._left_out)
            try:
                yield
            finally:
                holdings.put_back()

    def _of_trainer(self) -> list[Any]:
        trainer = self._trainer
        if trainer is None:
            return []
        schedulers = [vars(config.scheduler) for config in trainer.lr_scheduler_configs]
        groups = [optimizer.param_groups for optimizer in trainer.optimizers]
        return [trainer.callbacks, *groups, *schedulers]  # type: ignore[attr-defined]


class _Named:
    """What code names that a step may call.

    Methods are taken to be called if any such code has their name; so are all special methods, and
    methods that a base class of a library has too.

    Attributes:
        names: All names in the code.
        objects: Closures, defaults and attributes of the functions.
    """

    def __init__(self, model: LightningModule, step: Callable[..., Any]) -> None:
        self.names: set[str] = set()
        self.objects: list[Any] = []
        self._globals: dict[int, tuple[dict[str, Any], set[str]]] = {}
        self._classes: dict[type, None] = {}
        self._methods: dict[str, list[FunctionType]] = {}
        self._read: set[int] = set()
        self._packages = {type(module).__module__.partition(".")[0] for module in model.modules()}
        self._packages -= {*LIBRARIES}
        self._left: list[FunctionType] = _functions_of(step)
        self._look_at(model)
        while self._left:
            self._read_code(self._left.pop())

    @property
    def variables(self) -> list[Variables]:
        """The global variables and the classes."""
        of_modules = [Variables(of, names) for of, names in self._globals.values()]
        return of_modules + [Variables(kind) for kind in self._classes]

    def _read_code(self, function: FunctionType) -> None:
        if id(function) in self._read or not self._is_own(function.__module__):
            return
        self._read.add(id(function))
        held = [
            *(function.__defaults__, function.__kwdefaults__, vars(function)),
            *(function.__closure__ or ()),
        ]
        self.objects += held
        used = names_in(function.__code__)
        for name in used - self.names:
            self._left += self._methods.get(name, ())
        self.names |= used
        values = self._take([function.__globals__, *self._imported(function, used)], used)
        for value in [*held, *values]:
            self._look_at(value)

    def _take(self, left: list[dict[str, Any]], used: frozenset[str]) -> list[Any]:
        """Take the variables of modules with these names, also from modules among them."""
        found, seen = [], set()
        while left:
            of = left.pop()
            if id(of) in seen:
                continue
            seen.add(id(of))
            names = self._globals.setdefault(id(of), (of, set()))[1]
            new = used - names
            names |= new
            for name in used & of.keys():
                if isinstance(of[name], ModuleType):
                    left += [vars(of[name])] * self._is_own(of[name].__name__)
                elif name in new:
                    found.append(of[name])
        return found

    def _imported(self, function: FunctionType, used: frozenset[str]) -> list[dict[str, Any]]:
        """The variables of modules that a function may import itself, by relative names too."""
        package = (function.__globals__.get("__package__") or "").split(".")
        places = ["", *(".".join(package[:depth]) + "." for depth in range(1, len(package) + 1))]
        modules = [sys.modules.get(place + name) for place in places for name in used]
        return [
            vars(module)
            for module in modules
            if isinstance(module, ModuleType) and self._is_own(module.__name__)
        ]

    def _look_at(self, value: Any) -> None:
        if isinstance(value, type):
            self._take_class(value)
            return
        for part in reachable([value], is_entered):
            if isinstance(part, FunctionType):
                self._left.append(part)
            elif type(part).__module__ != "builtins":
                self._take_class(type(part))

    def _take_class(self, kind: type) -> None:
        called = self._called_by_libraries(kind)
        for base in kind.__mro__:
            if base in self._classes or not self._is_own(base.__module__):
                continue
            self._classes[base] = None
            for name, value in list(vars(base).items()):
                if type(value) is not FunctionType:
                    self._look_at(value)
                for one in _functions_of(value):
                    self._methods.setdefault(name, []).append(one)
                    if name in self.names or name in called or name[:2] == "__":
                        self._left.append(one)

    def _called_by_libraries(self, kind: type) -> set[str]:
        """Names of methods that a library's base class may call, such as ``forward``.

        Those of Lightning are not called in a step, and may name whole datasets.
        """
        bases = [base for base in kind.__mro__ if not self._is_own(base.__module__)]
        others = [base for base in bases if base.__module__.partition(".")[0] not in LIGHTNING]
        return {name for base in others for name in vars(base)}

    def _is_own(self, module: str | None) -> bool:
        if module is None:  # made by exec
            return True
        package = module.partition(".")[0]
        return package in self._packages or (package not in LIBRARIES and not _is_installed(module))


def _functions_of(attribute: Any) -> list[FunctionType]:
    """The functions of an attribute of a class: itself, or those of a method or property."""
    names = ("__func__", "fget", "fset", "func", "__wrapped__")
    parts = [attribute, *(getattr(attribute, name, None) for name in names)]
    return [one for one in parts if isinstance(one, FunctionType)]


def _is_installed(module: str) -> bool:
    """Whether a module is part of Python or of an installed package; no if Python has none such."""
    if module == "__main__" or module not in sys.modules:
        return False
    file = getattr(sys.modules[module], "__file__", None)
    return file is None or file.startswith(_INSTALLED)
