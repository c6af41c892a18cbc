"""Lightning under both of its names: ``lightning.pytorch`` and ``pytorch_lightning``.

The two packages have the same classes twice, and what is of one is no instance of the other's. The
names here stand for both, if both are installed.
"""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING, Any, TypeGuard

import lightning.pytorch

if TYPE_CHECKING:
    from lightning.pytorch import Callback as Callback
    from lightning.pytorch import LightningModule

try:
    import pytorch_lightning
except ImportError:
    PACKAGES: tuple[Any, ...] = (lightning.pytorch,)
else:
    PACKAGES = (lightning.pytorch, pytorch_lightning)


def classes(name: str) -> Any:
    """The classes of a name, such as ``"loggers.TensorBoardLogger"``, for ``isinstance``."""
    return tuple(map(attrgetter(name), PACKAGES))


MODULES: tuple[Any, ...] = classes("LightningModule")

if not TYPE_CHECKING:
    Callback = type("Callback", classes("Callback"), {"__doc__": "Callback of both packages."})


def is_module(value: object) -> TypeGuard[LightningModule]:
    """Whether it is a LightningModule."""
    return isinstance(value, MODULES)


def module_class(kind: type) -> Any:
    """LightningModule, of the package that a class of modules is built on."""
    return next(base for base in MODULES if issubclass(kind, base))
