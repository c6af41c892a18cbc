"""How to read the states of recurrent modules that are not PyTorch's own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from torch import nn

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor
    from torch.nn.utils.rnn import PackedSequence

    Reading = Callable[[Any, tuple[Any, ...], Any], Tensor | PackedSequence]

ModuleT = TypeVar("ModuleT", bound=nn.Module)


@dataclass(frozen=True)
class RecurrentAdapter:
    """Functions that ``register_recurrent`` was given for one class of modules."""

    units: Callable[[Any], int]
    hidden: Reading
    cell: Reading | None = None
    cell_units: Callable[[Any], int] | None = None
    keeps_state: bool = True


@dataclass(frozen=True)
class StackAdapter:
    """Function that ``register_recurrent_stack`` was given for one class of modules."""

    cells: Callable[[Any], Sequence[nn.Module]]


_PYTORCH = (nn.RNN, nn.GRU, nn.LSTM, nn.RNNCell, nn.GRUCell, nn.LSTMCell)

_ADAPTERS: dict[type[nn.Module], RecurrentAdapter | StackAdapter] = {}


def register_recurrent(
    kind: type[ModuleT],
    *,
    units: Callable[[ModuleT], int],
    hidden: Callable[[ModuleT, tuple[Any, ...], Any], Tensor | PackedSequence],
    cell: Callable[[ModuleT, tuple[Any, ...], Any], Tensor | PackedSequence] | None = None,
    cell_units: Callable[[ModuleT], int] | None = None,
    keeps_state: bool = True,
) -> None:
    """Register a class of modules as recurrent, so that its states are recorded.

    The states are read after each call. Their shape tells how the module is called. A module that
    takes whole sequences gives states ``(batch, step, unit)`` or a packed sequence. A module that
    is called once for every step gives states ``(batch, unit)``, or ``(unit,)`` for a single
    sequence. A subclass of a PyTorch module needs an adapter only if its ``forward`` computes or
    returns something else.

    Args:
        kind: Class of the module. Its subclasses are recurrent too. Registering a class again
            replaces its functions.
        units: Function that takes the module and returns its number of units.
        hidden: Function that takes the module, its positional arguments and its output, and
            returns the hidden states.
        cell: Function that takes the module, its positional arguments and its output, and returns
            the cell states; default: the module has no cell states.
        cell_units: Function that takes the module and returns the number of units of its cell
            state; default: the same as ``units``.
        keeps_state: Whether a module that is called once for every step may keep its state itself.
            If True, a call without a state continues the sequences of the call before. If False,
            it begins new ones, as with PyTorch's cells.

    Raises:
        TypeError: If ``kind`` is no subclass of nn.Module, or another argument is no function.
        ValueError: If ``kind`` is one of PyTorch's recurrent modules, which need no adapter.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from lightning_relay import HiddenStateRecorder, register_recurrent
        >>> class LeakyUnits(nn.Module):
        ...     def __init__(self, units: int) -> None:
        ...         super().__init__()
        ...         self.recurrent = nn.Linear(units, units)
        ...     def forward(self, x: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
        ...         return 0.9 * h + 0.1 * torch.tanh(x + self.recurrent(h))
        >>> register_recurrent(
        ...     LeakyUnits,
        ...     units=lambda module: module.recurrent.out_features,
        ...     hidden=lambda module, inputs, output: output,
        ... )
        >>> cell, h = LeakyUnits(4), torch.zeros(2, 4)
        >>> with HiddenStateRecorder(cell) as recorder:
        ...     for x in torch.ones(5, 2, 4):
        ...         h = cell(x, h)
        >>> recorder.states["l0"].values.shape
        torch.Size([2, 5, 4])
    """
    _check_kind(kind)
    functions = {"units": units, "hidden": hidden, "cell": cell, "cell_units": cell_units}
    for name, function in functions.items():
        if not callable(function) and (function is not None or name in ("units", "hidden")):
            raise TypeError(f"{name}: got {function!r}; it takes a function of the module")
    _ADAPTERS[kind] = RecurrentAdapter(units, hidden, cell, cell_units, keeps_state)


def register_recurrent_stack(
    kind: type[ModuleT], *, cells: Callable[[ModuleT], Sequence[nn.Module]]
) -> None:
    """Register a class of modules that take whole sequences and call cells of their own for them.

    The states are read at each call of the cells, so the states of all layers and their cell
    states are recorded, whatever the module returns. The layer keys are those of the module, such
    as ``rnn.l1.cell``. The cells are not listed by themselves.

    Args:
        kind: Class of the module. Its subclasses are recurrent too. Registering a class again
            replaces its functions.
        cells: Function that takes the module and returns its cells, one for each layer, from the
            layer that reads the input upwards. The module calls each of them once for every step,
            in the order of the steps. A cell is an nn.RNNCell, nn.GRUCell, nn.LSTMCell or a module
            registered with ``register_recurrent``.

    Raises:
        TypeError: If ``kind`` is no subclass of nn.Module, or ``cells`` is no function.
        ValueError: If ``kind`` is one of PyTorch's recurrent modules, which need no adapter.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from lightning_relay import HiddenStateRecorder, register_recurrent_stack
        >>> class Slow(nn.Module):
        ...     def __init__(self, channels: int, units: int) -> None:
        ...         super().__init__()
        ...         self.cell = nn.LSTMCell(channels, units)
        ...     def forward(self, x: torch.Tensor) -> torch.Tensor:  # (step, batch, channel)
        ...         state = None
        ...         for now in x:
        ...             state = self.cell(now, state)
        ...         return state[0]
        >>> register_recurrent_stack(Slow, cells=lambda module: [module.cell])
        >>> model = Slow(3, 4)
        >>> with HiddenStateRecorder(model, states=("hidden", "cell")) as recorder:
        ...     last = model(torch.ones(5, 2, 3))
        >>> {key: tuple(states.values.shape) for key, states in recorder.states.items()}
        {'l0': (2, 5, 4), 'l0.cell': (2, 5, 4)}
    """
    _check_kind(kind)
    if not callable(cells):
        raise TypeError(f"cells: got {cells!r}; it takes a function of the module")
    _ADAPTERS[kind] = StackAdapter(cells)


def adapter_of(module: nn.Module) -> RecurrentAdapter | StackAdapter | None:
    """The adapter of a module's class or of its nearest registered base; None if there is none."""
    return next((_ADAPTERS[kind] for kind in type(module).__mro__ if kind in _ADAPTERS), None)


def cells_of(module: nn.Module) -> Sequence[nn.Module] | None:
    """The cells, one for each layer, that a module calls; None if its class is no such stack."""
    adapter = adapter_of(module)
    return tuple(adapter.cells(module)) if isinstance(adapter, StackAdapter) else None


def _check_kind(kind: Any) -> None:
    if not isinstance(kind, type) or not issubclass(kind, nn.Module):
        raise TypeError(f"kind: got {kind!r}; it takes a subclass of torch.nn.Module")
    if kind in _PYTORCH:
        raise ValueError(
            f"kind: got {kind.__name__}, a recurrent module of PyTorch; it needs no adapter. "
            "Register a class of your own, such as a subclass"
        )
