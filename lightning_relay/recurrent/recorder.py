"""Recording the hidden states of recurrent modules from the user's own forward passes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import torch
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

from lightning_relay.recurrent.layers import StateKey, recurrent_modules
from lightning_relay.recurrent.states import HiddenStates

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from torch import Tensor, nn
    from torch.utils.hooks import RemovableHandle


class HiddenStateRecorder:
    """Context manager that records the hidden states of a model's recurrent modules.

    Inside the block, every forward pass of a recurrent module is recorded by a forward hook; the
    states are detached copies. The model and what it returns are left as they are, and when the
    block ends, also by an exception, the recorder's hooks, and only these, are gone. What was
    recorded stays.

    Supported are nn.RNN, nn.GRU and nn.LSTM with one layer and one direction, batched, with
    ``batch_first`` either way, on tensors and on packed sequences.

    Args:
        model: Any module.
        modules: Dotted names of the recurrent modules to record; default: all there are.

    Raises:
        ValueError: If the model has no recurrent module, a name is unknown, or a module is of a
            kind that is not supported.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> model = nn.GRU(input_size=3, hidden_size=8, batch_first=True)
        >>> with HiddenStateRecorder(model) as recorder:
        ...     output, _ = model(torch.zeros(5, 7, 3))
        >>> recorder.states["l0"].values.shape
        torch.Size([5, 7, 8])
    """

    def __init__(self, model: nn.Module, modules: Sequence[str] | None = None) -> None:
        self._modules = recurrent_modules(model, modules)
        self._recorded: dict[StateKey, list[HiddenStates]] = {
            StateKey(name): [] for name in self._modules
        }
        self._packed: dict[StateKey, bool] = {}
        self._handles: list[RemovableHandle] = []

    def __enter__(self) -> Self:
        if self._handles:
            raise RuntimeError("recorder: it is recording already; leave its block first")
        for name, module in self._modules.items():
            self._handles.append(
                module.register_forward_hook(_Hook(self._recorded, self._packed, name))
            )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        while self._handles:
            self._handles.pop().remove()

    @property
    def states(self) -> dict[str, HiddenStates]:
        """All that was recorded since the last ``clear``, by layer key such as ``"rnn.l0"``.

        The sequences of several calls stand one after the other in the batch dimension, padded to
        the longest. A module that was not called has no entry.
        """
        return {
            str(key): HiddenStates.concatenate(parts)
            for key, parts in self._recorded.items()
            if parts
        }

    @property
    def calls(self) -> dict[str, int]:
        """How often each layer was recorded since the last ``clear``, by layer key."""
        return {str(key): len(parts) for key, parts in self._recorded.items()}

    @property
    def packed(self) -> dict[str, bool]:
        """Layers that were given packed sequences since the last ``clear``, by layer key.

        True where these were of different lengths and had been sorted before they were packed
        (``enforce_sorted=True``): their order then is that of the packing, not one that the
        recorder could restore.
        """
        return {str(key): presorted for key, presorted in self._packed.items()}

    def clear(self) -> None:
        """Forget what was recorded so far."""
        self._packed.clear()
        for parts in self._recorded.values():
            parts.clear()


class _Hook:
    """Forward hook of one module; holds no reference to the model."""

    def __init__(
        self,
        recorded: dict[StateKey, list[HiddenStates]],
        packed: dict[StateKey, bool],
        module: str,
    ) -> None:
        self._recorded = recorded
        self._packed = packed
        self._module = module

    def __call__(self, module: nn.RNNBase, _inputs: Any, outputs: Any) -> None:
        key = StateKey(self._module)
        states = _states(self._module, module, outputs[0])
        self._recorded[key].append(states)
        if isinstance(outputs[0], PackedSequence):
            presorted = outputs[0].sorted_indices is None and not bool(states.valid.all())
            self._packed[key] = presorted or self._packed.get(key, False)


def _states(name: str, module: nn.RNNBase, output: Tensor | PackedSequence) -> HiddenStates:
    if isinstance(output, PackedSequence):
        values, lengths = pad_packed_sequence(output, batch_first=True)
        return HiddenStates.of_lengths(values.detach(), lengths)
    if output.dim() != 3:
        raise ValueError(
            f"modules: {name!r} was called on an unbatched sequence; give it a batch of sequences"
        )
    values = (output if module.batch_first else output.transpose(0, 1)).detach().clone()
    return HiddenStates(
        values, torch.ones(values.shape[:2], dtype=torch.bool, device=values.device)
    )
