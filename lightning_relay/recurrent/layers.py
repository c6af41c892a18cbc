"""The recurrent layers of a model, found and named."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_CELLS = (nn.RNNCellBase,)


@dataclass(frozen=True, order=True)
class StateKey:
    """Which states: of which module, layer and direction, hidden or cell.

    Its string is the layer key, after PyTorch's own parameter names: ``rnn.l0``,
    ``encoder.rnn.l1_reverse``, ``rnn.l0.cell``; a module that is the model itself has ``l0``.

    Attributes:
        module: Dotted name of the module in the model, empty for the model itself.
        layer: Index of the layer, 0 nearest to the input.
        reverse: Whether it is the backward direction of a bidirectional module.
        cell: Whether the cell states of an LSTM are meant instead of the hidden states.
    """

    module: str
    layer: int = 0
    reverse: bool = False
    cell: bool = False

    def __str__(self) -> str:
        module = f"{self.module}." if self.module else ""
        return f"{module}l{self.layer}{'_reverse' * self.reverse}{'.cell' * self.cell}"


def recurrent_modules(
    model: nn.Module, modules: Sequence[str] | None = None
) -> dict[str, nn.RNNBase]:
    """The recurrent modules of a model whose states can be recorded.

    Args:
        model: Any module.
        modules: Dotted names of the recurrent modules wanted; default: all there are.

    Returns:
        The modules by their dotted names, in the order of ``modules`` or else of the model.

    Raises:
        ValueError: If there is none, a name is unknown or given twice, or a wanted module is of a
            kind that is not supported; says what the model has.

    Example:
        >>> from torch import nn
        >>> recurrent_modules(nn.Sequential(nn.GRU(3, 8), nn.Identity()))
        {'0': GRU(3, 8)}
    """
    owner = type(model).__name__
    known = {
        name: module
        for name, module in model.named_modules(remove_duplicate=False)
        if isinstance(module, (nn.RNNBase, *_CELLS))
    }
    if not known:
        raise ValueError(
            f"model: {owner} has no recurrent module; it takes a model with an nn.RNN, nn.GRU or "
            "nn.LSTM in it"
        )
    if modules is None:
        first_names = {id(module): name for name, module in reversed(known.items())}
        wanted = [name for name, module in known.items() if first_names[id(module)] == name]
    else:
        wanted = _checked_names(modules, known, owner)
    return {name: _supported(name, known[name], known) for name in wanted}


def _checked_names(modules: Sequence[str], known: Mapping[str, nn.Module], owner: str) -> list[str]:
    if isinstance(modules, str):
        raise TypeError(f"modules: got the string {modules!r}; it takes a list: [{modules!r}]")
    names = ", ".join(repr(name) for name in known)
    seen: dict[int, str] = {}
    for name in modules:
        if name not in known:
            raise ValueError(f"modules: no recurrent module {name!r} in {owner}; it has: {names}")
        other = seen.setdefault(id(known[name]), name)
        if other != name or list(modules).count(name) > 1:
            raise ValueError(
                f"modules: {other!r} and {name!r} are one module; name each module once"
            )
    if not seen:
        raise ValueError(f"modules: got an empty list; {owner} has: {names}")
    return list(modules)


def _supported(name: str, module: nn.Module, known: Mapping[str, nn.Module]) -> nn.RNNBase:
    reasons = []
    if not isinstance(module, nn.RNNBase):
        reasons.append("a cell called step by step")
    else:
        if module.num_layers > 1:
            reasons.append(f"num_layers={module.num_layers}")
        if module.bidirectional:
            reasons.append("bidirectional=True")
        if module.proj_size:
            reasons.append(f"proj_size={module.proj_size}")
    if reasons or not isinstance(module, nn.RNNBase):
        others = [other for other in known if other != name]
        mend = f"; name others with modules=, of: {', '.join(map(repr, others))}" if others else ""
        raise ValueError(
            f"modules: {name!r} ({type(module).__name__} with {', '.join(reasons)}) cannot be "
            f"recorded: supported are nn.RNN, nn.GRU and nn.LSTM with one layer and one direction"
            f"{mend}"
        )
    return module
