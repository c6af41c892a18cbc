"""Units knocked out for everything that reads them, in the recurrence of an unmodified model."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, cast

from torch import nn

from lightning_relay.knockout.arguments import KnockoutValue, make_clamps
from lightning_relay.knockout.cells import hold_cell
from lightning_relay.knockout.fused import hold_fused
from lightning_relay.knockout.holding import HoldingModule, check_can_be_held
from lightning_relay.recurrent.layers import recurrent_modules

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence, Set

    from lightning_relay.knockout.clamps import Clamp
    from lightning_relay.recurrent.states import HiddenStates


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
    """Hold units of recurrent layers at a value, for everything that reads them, inside the block.

    A hook that masks the output of a recurrent module leaves the recurrence as it is: the other
    units of the layer still hear the unit. Here every reader sees the value instead: the layer's
    own recurrence, the layer above, the module's output and its final state.

    With ``steps=None`` all steps and the initial state are held. Otherwise the states that are
    produced at these positions of the sequence are replaced, also in the backward direction, and
    the initial state is used as given. If hidden units of an LSTM are held, its gates still compute
    the cell states. If cell units are held, the hidden state of the same step reads the value.

    If units are held at one value at all steps, nn.RNN, nn.GRU and nn.LSTM run as PyTorch's fused
    kernels; for some steps, these run in segments. Values that differ between many steps or between
    sequences, and packed sequences with ``steps``, are computed step by step. The model's weights
    are never changed. When the block ends, also by an exception, the model is as it was. Blocks may
    be nested; the inner one wins. Gradients flow as in any forward pass, but modules that are
    knocked out must be in evaluation mode.

    Args:
        model: Any module that contains nn.RNN, nn.GRU, nn.LSTM or their cells.
        units: Indices of the units by layer key, such as ``{"rnn.l0": [3, 5]}``.
            ``recurrent_layers(model)`` lists the keys. Keys that end in ``.cell`` mean the cell
            states of an LSTM.
        value: Value at which the units are held: ``"zero"``, a number, or a tensor ``(unit,)``,
            ``(step, unit)`` or ``(batch, step, unit)`` with the units in the order of ``units``;
            ``"mean"`` or ``"mean_per_step"`` of the recorded states; or ``"resample"``, for each
            sequence the states of a recorded sequence of at least its length, drawn at every call
            (a sequence that was itself recorded may draw itself). A mapping gives each layer its
            own value.
        steps: Positions in the sequence at which the units are held: a slice, a set or list, or a
            single position. Negative positions count back from each sequence's own end. A sequence
            that is too short for a position is left as it is there. Default: all steps, and the
            initial state.
        states: Recorded states by layer key: ``recorder.states`` of a ``HiddenStateRecorder``.
        seed: Seed of ``"resample"``; all layers draw the same sequences.

    Raises:
        TypeError: If an argument is of a wrong type.
        ValueError: If a layer or unit does not exist, is named twice or cannot be knocked out, or
            a value has a wrong shape. When the block ends, if ``steps`` names a position that no
            sequence had.
        RuntimeError: If a module is in training mode, or is compiled and would ignore the
            knock-out. When the block ends, if a module was not called inside it.

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
    with hold(model, clamps) as entered:
        yield
        for held in entered:
            held.check_steps_were_reached(clamps)


@contextmanager
def hold(
    model: nn.Module, clamps: Sequence[Clamp], drawn: int = 0
) -> Iterator[list[HoldingModule]]:
    """Hold what the clamps say inside the block, and check that every module is called there.

    ``drawn`` is the number of draws before, for cells whose values are drawn.
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
            held.check_passed_on()
            held.check_was_called(before)
