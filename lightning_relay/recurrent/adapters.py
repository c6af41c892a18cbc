"""Recurrent modules of other makers: how to read their states."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from torch import nn

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor
    from torch.nn.utils.rnn import PackedSequence

    Reading = Callable[[Any, tuple[Any, ...], Any], Tensor | PackedSequence]

ModuleT = TypeVar("ModuleT", bound=nn.Module)


@dataclass(frozen=True)
class RecurrentAdapter:
    """How the states of one kind of module are read.

    Attributes:
        units: Number of units, given the module.
        hidden: Hidden states, given the module, its positional arguments and its output.
        cell: Cell states in the same way; None for a module without.
        cell_units: Number of units of the cell state; None where it is that of the hidden state.
    """

    units: Callable[[Any], int]
    hidden: Reading
    cell: Reading | None = None
    cell_units: Callable[[Any], int] | None = None


_PYTORCH = (nn.RNN, nn.GRU, nn.LSTM, nn.RNNCell, nn.GRUCell, nn.LSTMCell)

_ADAPTERS: dict[type[nn.Module], RecurrentAdapter] = {}


def register_recurrent(
    kind: type[ModuleT],
    *,
    units: Callable[[ModuleT], int],
    hidden: Callable[[ModuleT, tuple[Any, ...], Any], Tensor | PackedSequence],
    cell: Callable[[ModuleT, tuple[Any, ...], Any], Tensor | PackedSequence] | None = None,
    cell_units: Callable[[ModuleT], int] | None = None,
) -> None:
    """Make a kind of module known as recurrent, so that its states are recorded.

    The states are read after each call, from the module, its positional arguments and its output.
    Their shape says how the module is called: ``(batch, step, unit)`` or a packed sequence for one
    that is given whole sequences, ``(batch, unit)`` for one that is called once for every step. A
    subclass of a module of PyTorch needs an adapter only if its forward does or returns something
    else.

    Args:
        kind: Class of the module; its subclasses are recurrent too. Registered again, the new
            functions replace the old.
        units: Number of units, given the module.
        hidden: Hidden states, given the module, its positional arguments and its output.
        cell: Cell states in the same way; default: it has none.
        cell_units: Number of units of the cell state; default: that of the hidden state.

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
    if not isinstance(kind, type) or not issubclass(kind, nn.Module):
        raise TypeError(f"kind: got {kind!r}; it takes a subclass of torch.nn.Module")
    functions = {"units": units, "hidden": hidden, "cell": cell, "cell_units": cell_units}
    for name, function in functions.items():
        if not callable(function) and (function is not None or name in ("units", "hidden")):
            raise TypeError(f"{name}: got {function!r}; it takes a function of the module")
    if kind in _PYTORCH:
        raise ValueError(f"kind: {kind.__name__} is a recurrent module of PyTorch, known already")
    _ADAPTERS[kind] = RecurrentAdapter(units, hidden, cell, cell_units)


def adapter_of(module: nn.Module) -> RecurrentAdapter | None:
    """The adapter of a module's class or of its nearest registered base; None if there is none."""
    return next((_ADAPTERS[kind] for kind in type(module).__mro__ if kind in _ADAPTERS), None)
