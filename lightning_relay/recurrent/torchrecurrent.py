"""Adapters for the cells and layers of the package torchrecurrent."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from lightning_relay.recurrent.adapters import register_recurrent, register_recurrent_stack


def register_torchrecurrent() -> None:
    """Register the cells and layers of the package torchrecurrent, and classes built on them.

    Call it once, before a recorder or a Trainer is made. Layers have the states of all their cells,
    under keys such as ``rnn.l0``, ``rnn.l1`` and ``rnn.l1.cell``. The states are what a cell hands
    on from step to step: the first is the hidden state, the second the cell state. What the cells
    of IntersectionRNN, MCLSTM and TLSTM give beside their states is not recorded. Nor is the second
    state of TGRU and TLSTM, which is a copy of the input.

    Raises:
        ModuleNotFoundError: If torchrecurrent is not installed.
        AttributeError: If torchrecurrent has other base classes than in version 0.2.5.

    Source:
        Martinuzzi, arXiv:2510.21252 (2025), describes torchrecurrent.
    """
    package = import_module("torchrecurrent")
    base = import_module("torchrecurrent.base")
    shared: dict[str, Any] = {
        "units": lambda cell: cell.hidden_size,
        "keeps_state": False,  # a cell that is called without a state starts from zeros
    }
    # What a step gives: h, (h, c), (output, h) or (output, (h, c)).
    register_recurrent(
        base.SingleStateCellBase, hidden=lambda cell, inputs, output: output, **shared
    )
    register_recurrent(
        base.DoubleStateCellBase,
        hidden=lambda cell, inputs, output: output[0],
        cell=lambda cell, inputs, output: output[1],
        **shared,
    )
    register_recurrent(
        base.DecoupledSingleStateCellBase,
        hidden=lambda cell, inputs, output: output[1],
        **shared,
    )
    register_recurrent(
        base.DecoupledDoubleStateCellBase,
        hidden=lambda cell, inputs, output: output[1][0],
        cell=lambda cell, inputs, output: output[1][1],
        **shared,
    )
    # The second state of these is a copy of the input.
    register_recurrent(package.TGRUCell, hidden=lambda cell, inputs, output: output[0], **shared)
    register_recurrent(
        package.TLSTMCell, hidden=lambda cell, inputs, output: output[1][0], **shared
    )
    register_recurrent_stack(base.RecurrentLayerBase, cells=lambda layer: layer.cells)
