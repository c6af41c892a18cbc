"""Names of layers, read and written without PyTorch."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class StateKey:
    """Name of the states of one layer and direction of a module.

    Its string is the layer key, which follows PyTorch's parameter names: ``rnn.l0``,
    ``encoder.rnn.l1_reverse`` or ``rnn.l0.cell``; ``l0`` if the module is the model itself.

    Attributes:
        module: Dotted name of the module in the model; empty for the model itself.
        layer: Index of the layer; layer 0 reads the input.
        reverse: True for the backward direction of a bidirectional module.
        cell: True for the cell states of an LSTM, False for the hidden states.

    Example:
        >>> str(StateKey("encoder.rnn", layer=1, reverse=True))
        'encoder.rnn.l1_reverse'
        >>> StateKey.parse("rnn.l0.cell")
        StateKey(module='rnn', layer=0, reverse=False, cell=True)
    """

    module: str
    layer: int = 0
    reverse: bool = False
    cell: bool = False

    def __str__(self) -> str:
        module = f"{self.module}." if self.module else ""
        return f"{module}l{self.layer}{'_reverse' * self.reverse}{'.cell' * self.cell}"

    @classmethod
    def parse(cls, key: str) -> StateKey:
        """Read a layer key.

        Args:
            key: Layer key such as ``"rnn.l0"``.

        Raises:
            ValueError: If the string is no layer key.
        """
        match = re.fullmatch(r"(?:(.+)\.)?l(\d+)(_reverse)?(\.cell)?", key)
        if match is None:
            raise ValueError(
                f"layer key: got {key!r}; it takes one such as 'rnn.l0', 'rnn.l1_reverse' or "
                "'rnn.l0.cell'"
            )
        module, layer, reverse, cell = match.groups()
        return cls(module or "", int(layer), reverse is not None, cell is not None)
