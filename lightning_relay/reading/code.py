"""Names in the code of functions and models."""

from __future__ import annotations

from functools import lru_cache
from types import CodeType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

_OF_LOGITS = {"BCEWithLogitsLoss", "binary_cross_entropy_with_logits"}
_OF_PROBABILITIES = {"BCELoss", "binary_cross_entropy"}

LIGHTNING = ("lightning", "pytorch_lightning", "lightning_fabric")
"""Packages of Lightning's own modules, under both of its names."""

_LIBRARIES = ("torch", "torchmetrics", *LIGHTNING)


@lru_cache(maxsize=4096)
def names_in(code: CodeType) -> frozenset[str]:
    """Names of global variables and attributes in code, and in functions inside it."""
    inner = [names_in(one) for one in code.co_consts if isinstance(one, CodeType)]
    return frozenset(code.co_names).union(*inner)


def loss_takes_logits(model: nn.Module) -> bool | None:
    """Whether the binary loss that a model has, or else names in its code, takes logits.

    None if there is no such loss, or both.
    """
    kinds = {base for module in model.modules() for base in type(module).__mro__}
    had = {kind.__name__ for kind in kinds}
    named: set[str] = set()
    for kind in kinds:
        if kind.__module__.partition(".")[0] not in _LIBRARIES:
            named.update(*map(_names_of, vars(kind).values()))
    for names in (had, named):
        logits, probabilities = bool(names & _OF_LOGITS), bool(names & _OF_PROBABILITIES)
        if logits != probabilities:
            return logits
    return None


def _names_of(attribute: object) -> frozenset[str]:
    code = getattr(getattr(attribute, "__func__", attribute), "__code__", None)
    return names_in(code) if isinstance(code, CodeType) else frozenset()
