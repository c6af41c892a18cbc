"""Units knocked out for all that reads them, inside the recurrence, on an unmodified model."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, cast

from torch import nn

from lightning_relay.knockout.arguments import KnockoutValue, make_clamps
from lightning_relay.knockout.cells import hold_cell
from lightning_relay.knockout.fused import FusedForward, hold_fused
from lightning_relay.knockout.holding import HoldingModule, check_evaluated
from lightning_relay.recurrent.adapters import adapter_of
from lightning_relay.recurrent.hooks import HOOK_GUARDS, ignores_new_hooks, own_forward
from lightning_relay.recurrent.layers import recurrent_modules
from lightning_relay.recurrent.replay import runs_pytorch_forward

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence, Set

    from lightning_relay.knockout.clamps import Clamp
    from lightning_relay.recurrent.states import HiddenStates


_CELL_FORWARDS = (nn.RNNCell.forward, nn.GRUCell.forward, nn.LSTMCell.forward)


@contextmanager
def knocked_out(
    model: nn.Module,
    units: Mapping[str, Sequence[int] | int],
    *,
    value: KnockoutValue | Mapping[str, KnockoutValue] = "zero",
    steps: slice | Sequence[int] | Set[int] | int | None = None,
    states: Mapping[str, HiddenStates] | None = None,
    seed: int = 0,
) -> Iterator[None]:
    """Hold units of recurrent layers at a value, for all that reads them, inside the block.

    A hook that masks the output of a recurrent module leaves the recurrence as it is: the other
    units of the layer still hear the unit. Here every reader sees the value instead: the layer's
    own recurrence, the layer above, the module's output and its final state.

    With ``steps=None`` the initial state is held too. Otherwise the states that are produced at
    those positions of the sequence are replaced, in the backward direction too; the initial state
    is as it was given. Where hidden units of an LSTM are held, its cell states go on as its gates
    make them; where cell units are held, the hidden state of the same step reads the value.

    Held at one value at all steps, nn.RNN, nn.GRU and nn.LSTM run as PyTorch's fused kernels; for
    some steps, these run in segments. Values that differ between many steps or between sequences,
    and packed sequences with ``steps``, are computed step by step. The model's weights are never
    changed, and at the end of the block, also by an exception, the model is as it was. Blocks may
    be nested; the inner one wins. Gradients flow as in any forward pass, but modules that are
    knocked out must be in evaluation mode.

    Args:
        model: Any module with nn.RNN, nn.GRU, nn.LSTM or their cells in it.
        units: Indices of the units by layer key, such as ``{"rnn.l0": [3, 5]}``;
            ``recurrent_layers(model)`` lists the keys. Those with ``.cell`` mean cell states.
        value: What the units are held at: ``"zero"``, a number, or a tensor ``(unit,)``,
            ``(step, unit)`` or ``(batch, step, unit)`` with the units in the order given;
            ``"mean"`` or ``"mean_per_step"`` of the recorded states; ``"resample"``, for each
            sequence the states of a recorded one, at least as long, drawn at every call (a
            sequence that was itself recorded may draw itself). A mapping gives each layer its own.
        steps: Positions in the sequence, as a slice, a set or list, or one; negative ones count
            back from each sequence's own end. Sequences that are too short for a step are left as
            they are there. Default: all steps, and the initial state.
        states: Recorded states by layer key, ``recorder.states`` of a ``HiddenStateRecorder``.
        seed: Seed of ``"resample"``; all layers draw the same sequences.

    Raises:
        TypeError: If an argument is of a wrong type.
        ValueError: If a layer or unit does not exist, is named twice or cannot be knocked out, or a
            value has a wrong shape; when the block ends, if ``steps`` names a position that no
            sequence had.
        RuntimeError: If a module is in training mode, or its code is compiled and would not notice;
            when the block ends, if a module was not called inside it.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> model = nn.GRU(3, 8, batch_first=True).eval()
        >>> with knocked_out(model, {"l0": [2, 5]}, value=0.5):
        ...     output, h_n = model(torch.zeros(1, 4, 3))
        >>> output[0, :, 2]
        tensor([0.5000, 0.5000, 0.5000, 0.5000], grad_fn=<SelectBackward0>)

    Source:
        Hintze and Adami, Entropy 25(3):401 (2023), knock out nodes of feed-forward networks.
    """
    clamps = make_clamps(model, units, value=value, steps=steps, states=states, seed=seed)
    with clamped(model, clamps):
        yield


@contextmanager
def clamped(model: nn.Module, clamps: Sequence[Clamp]) -> Iterator[None]:
    """Hold what the clamps say inside the block.

    Raises:
        ValueError: As ``knocked_out``.
        RuntimeError: As ``knocked_out``.
    """
    with hold(model, clamps) as entered:
        yield
        for held in entered:
            held.check_steps_were_reached(clamps)


@contextmanager
def hold(
    model: nn.Module, clamps: Sequence[Clamp], drawn: int = 0
) -> Iterator[list[HoldingModule]]:
    """Hold what the clamps say inside the block, wherever their steps are.

    Args:
        model: The model.
        clamps: What is held.
        drawn: Number of draws before, for values that are drawn in cells.

    Raises:
        ValueError: If units cannot be knocked out.
        RuntimeError: As ``knocked_out``.
    """
    modules = recurrent_modules(model, list(dict.fromkeys(clamp.key.module for clamp in clamps)))
    for name, module in modules.items():
        check_can_be_held(model, name, module)
    with ExitStack() as stack:
        entered: list[HoldingModule] = []
        for name, module in modules.items():
            own = [clamp for clamp in clamps if clamp.key.module == name]
            if isinstance(module, nn.RNNBase):
                entered.append(stack.enter_context(hold_fused(name, module, own)))
            else:
                cell = cast("nn.RNNCellBase", module)
                entered.append(stack.enter_context(hold_cell(model, name, cell, own, drawn)))
        calls = [held.calls for held in entered]
        yield entered
        for held, before in zip(entered, calls, strict=True):
            held.check_was_called(before)


def check_can_be_held(model: nn.Module, name: str, module: nn.Module) -> None:
    """Raise unless units of a module can be knocked out now.

    Raises:
        ValueError: If its forward is not one of PyTorch's own.
        RuntimeError: If it is in training mode, or compiled so that hooks are not heard.
    """
    check_kind(name, module)
    check_evaluated(name, module)
    if not isinstance(module, nn.RNNBase) and ignores_new_hooks(model):
        raise RuntimeError(
            f"units: {name!r} ({type(module).__name__}) may be compiled, and compiled code leaves "
            f"out hooks that are set after it was first called. Set {HOOK_GUARDS} before the first "
            "compiled call; or, where that has been made, also call torch.compiler.reset()"
        )


def check_kind(name: str, module: nn.Module) -> None:
    """Raise a ValueError unless a module's forward is one of PyTorch's own."""
    kind = type(module).__name__
    if adapter_of(module) is not None:
        raise ValueError(
            f"units: {name!r} ({kind}) has an adapter, which tells how its states are read but not "
            "how they are replaced; knock-outs take nn.RNN, nn.GRU, nn.LSTM and their cells"
        )
    fused = isinstance(module, nn.RNNBase)
    own = own_forward(module)
    known = isinstance(own, FusedForward) or (
        runs_pytorch_forward(module)
        if fused
        else type(module).forward in _CELL_FORWARDS and own is None
    )
    if not known:
        raise ValueError(
            f"units: {name!r} ({kind}) has a forward of its own, and what happens in it is not "
            "known; knock-outs take nn.RNN, nn.GRU, nn.LSTM and their cells with PyTorch's forward"
        )
