"""Finding and naming the recurrent layers of a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal, get_args

from torch import nn

from lightning_relay.recurrent.adapters import RecurrentAdapter, adapter_of, cells_of
from lightning_relay.recurrent.keys import StateKey

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

Layers = Literal["last", "all"]
"""Which layers of a module are recorded."""

State = Literal["hidden", "cell"]
"""Which states are recorded; only LSTMs have cell states."""

_COMPILED = "_orig_mod"  # the name that torch.compile gives to the module inside it


def recurrent_layers(model: nn.Module, modules: Sequence[str] | None = None) -> dict[str, int]:
    """Number of units of every recurrent layer of a model, by layer key.

    Args:
        model: Any module.
        modules: Dotted names of the recurrent modules to list; default: all in the model.

    Returns:
        Number of units by layer key, for every layer and direction, and for the cell states of
        LSTMs.

    Raises:
        TypeError: If ``model`` is no module, or ``modules`` no list of names.
        ValueError: If the model has no recurrent module, or ``modules`` is empty, names an unknown
            module or names a module twice; lists the recurrent modules of the model.

    Example:
        >>> from torch import nn
        >>> recurrent_layers(nn.LSTM(3, 8, num_layers=2, proj_size=4))
        {'l0': 4, 'l0.cell': 8, 'l1': 4, 'l1.cell': 8}
    """
    return {
        str(key): units
        for name, module in recurrent_modules(model, modules).items()
        for key, units in state_units(name, module).items()
    }


def recurrent_modules(
    model: nn.Module, modules: Sequence[str] | None = None
) -> dict[str, nn.Module]:
    """The recurrent modules of a model whose states can be recorded.

    These are nn.RNN, nn.GRU and nn.LSTM, the cells nn.RNNCell, nn.GRUCell and nn.LSTMCell, and
    modules registered with ``register_recurrent`` or ``register_recurrent_stack``. Of the latter,
    the cells are not listed by themselves. The names leave out ``_orig_mod``, which
    torch.compile puts into them.

    Args:
        model: Any module.
        modules: Dotted names of the recurrent modules to find; default: all in the model.

    Returns:
        The modules by dotted name, in the order of ``modules`` if given, else of the model. A
        module with several names is listed once, under the first.

    Raises:
        TypeError: If ``model`` is no module, or ``modules`` no list of names.
        ValueError: If the model has no recurrent module, or ``modules`` is empty, names an unknown
            module or names a module twice; lists the recurrent modules of the model.

    Example:
        >>> from torch import nn
        >>> recurrent_modules(nn.Sequential(nn.GRU(3, 8), nn.Identity()))
        {'0': GRU(3, 8)}
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: got {type(model).__name__}; it takes a torch.nn.Module")
    owner = type(getattr(model, _COMPILED, model)).__name__
    known = {
        ".".join(part for part in name.split(".") if part != _COMPILED): module
        for name, module in model.named_modules(remove_duplicate=False)
        if isinstance(module, nn.RNNBase | nn.RNNCellBase) or adapter_of(module) is not None
    }
    stacked = {id(cell) for module in known.values() for cell in cells_of(module) or ()}
    known = {name: module for name, module in known.items() if id(module) not in stacked}
    if not known:
        raise ValueError(
            f"model: {owner} has no recurrent module; it takes a model with an nn.RNN, nn.GRU, "
            "nn.LSTM or one of their cells in it, or a module of a kind registered with "
            f"register_recurrent{_hint(model)}"
        )
    if modules is None:
        first_names = {id(module): name for name, module in reversed(known.items())}
        wanted = [name for name, module in known.items() if first_names[id(module)] == name]
    else:
        _check_names(modules, known, owner)
        wanted = list(modules)
    return {name: known[name] for name in wanted}


def all_modules(model: nn.Module, names: Iterable[str]) -> dict[str, nn.Module]:
    """All recurrent modules of a model: those in ``names`` under these, others under the first."""
    wanted = list(dict.fromkeys(names))
    named = recurrent_modules(model, wanted) if wanted else {}
    known = {id(module) for module in named.values()}
    others = recurrent_modules(model).items()
    return named | {name: module for name, module in others if id(module) not in known}


def state_units(name: str, module: nn.Module) -> dict[StateKey, int]:
    """Number of units of each state of one recurrent module, by key."""
    adapter = adapter_of(module)
    cells = cells_of(module)
    units: dict[StateKey, int] = {}
    if cells is not None:
        _check_cells(name, module, cells)
        for layer, cell in enumerate(cells):
            of_cell = state_units(name, cell)
            units |= {replace(key, layer=layer): own for key, own in of_cell.items()}
    elif isinstance(adapter, RecurrentAdapter):
        units[StateKey(name)] = adapter.units(module)
        if adapter.cell is not None:
            units[StateKey(name, cell=True)] = (adapter.cell_units or adapter.units)(module)
    elif isinstance(module, nn.RNNBase):
        for layer in range(module.num_layers):
            for reverse in (False, True)[: 1 + module.bidirectional]:
                units[StateKey(name, layer, reverse)] = hidden_units(module)
                if module.mode == "LSTM":
                    units[StateKey(name, layer, reverse, cell=True)] = module.hidden_size
    elif isinstance(module, nn.RNNCellBase):
        units[StateKey(name)] = module.hidden_size
        if isinstance(module, nn.LSTMCell):
            units[StateKey(name, cell=True)] = module.hidden_size
    return units


def _hint(model: nn.Module) -> str:
    """What to call first if a model has modules of torchrecurrent, which are not registered."""
    for name, module in model.named_modules():
        if type(module).__module__.partition(".")[0] == "torchrecurrent":
            return f". For {name!r} ({type(module).__name__}) call register_torchrecurrent() first"
    return ""


def _check_cells(name: str, module: nn.Module, cells: Sequence[nn.Module]) -> None:
    """Raise a ValueError unless a stack has a cell of its own for each layer."""
    if len(set(map(id, cells))) == len(cells) > 0 and all(
        isinstance(cell, nn.RNNCellBase) or isinstance(adapter_of(cell), RecurrentAdapter)
        for cell in cells
    ):
        return
    kinds = ", ".join(type(cell).__name__ for cell in cells) or "no cell"
    raise ValueError(
        f"modules: the adapter of {name!r} ({type(module).__name__}) gave {kinds}; it takes a "
        "different cell for each layer: an nn.RNNCell, nn.GRUCell, nn.LSTMCell or one of a class "
        "registered with register_recurrent"
    )


def hidden_units(module: nn.RNNBase) -> int:
    """Number of units of the hidden state in one layer and direction."""
    return module.proj_size or module.hidden_size


def wanted_keys(
    name: str, module: nn.Module, layers: Layers, states: Sequence[State]
) -> tuple[StateKey, ...]:
    """Keys of the states of a module that were asked for."""
    keys = state_units(name, module)
    last = max(key.layer for key in keys)
    return tuple(
        key
        for key in keys
        if (layers == "all" or key.layer == last) and ("cell" if key.cell else "hidden") in states
    )


def check_modules(modules: Sequence[str] | None) -> None:
    """Raise a TypeError unless ``modules`` is None or a list of names."""
    if isinstance(modules, str):
        raise TypeError(f"modules: got the string {modules!r}; it takes a list: [{modules!r}]")
    if modules is not None and not (
        isinstance(modules, Sequence) and all(isinstance(name, str) for name in modules)
    ):
        raise TypeError(f"modules: got {modules!r}; it takes a list of module names, or None")


def check_layers(layers: Layers) -> None:
    """Raise a ValueError unless ``layers`` is a legal choice."""
    if layers not in get_args(Layers):
        legal = ", ".join(repr(legal) for legal in get_args(Layers))
        raise ValueError(f"layers: got {layers!r}; it takes {legal}")


def check_states(states: Sequence[State]) -> None:
    """Raise a TypeError or ValueError unless ``states`` is a list of legal choices."""
    legal = get_args(State)
    if isinstance(states, str):
        raise TypeError(f"states: got the string {states!r}; it takes a list: [{states!r}]")
    if not isinstance(states, Sequence) or not states or not all(one in legal for one in states):
        raise ValueError(f"states: got {states!r}; it takes a list of {legal[0]!r}, {legal[1]!r}")


def _check_names(modules: Sequence[str], known: Mapping[str, nn.Module], owner: str) -> None:
    check_modules(modules)
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
