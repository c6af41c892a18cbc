"""Recording the states of recurrent modules from the user's own forward passes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import torch
from torch import nn

from lightning_relay.recurrent.adapters import adapter_of
from lightning_relay.recurrent.calls import Call, read_call
from lightning_relay.recurrent.continuation import Continuation, given_state
from lightning_relay.recurrent.hooks import (
    HOOK_GUARDS,
    TransientHook,
    ignores_new_hooks,
    is_compiled,
)
from lightning_relay.recurrent.layers import (
    Layers,
    State,
    StateKey,
    check_layers,
    check_states,
    recurrent_modules,
    wanted_keys,
)
from lightning_relay.recurrent.replay import runs_pytorch_forward
from lightning_relay.recurrent.states import HiddenStates

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType

    from torch.utils.hooks import RemovableHandle


class HiddenStateRecorder:
    """Context manager that records the states of a model's recurrent modules.

    Inside the block, every call of a recurrent module is recorded by a forward hook; the states are
    detached copies. The model and what it returns are left as they are, and when the block ends,
    also by an exception, the recorder's hooks, and only these, are gone. What was recorded stays.

    Recorded are nn.RNN, nn.GRU and nn.LSTM with any number of layers, in both directions, with
    projections, on batches, packed sequences and single sequences; nn.RNNCell, nn.GRUCell and
    nn.LSTMCell called in a loop; and modules registered with ``register_recurrent``. What a fused
    module does not return, inner layers and cell states, is replayed from its inputs and weights
    when ``states`` is read, and compared with the final states that the module did return.

    Each call of a fused module gives a batch of sequences, unless it is given the very state that
    the call before it returned, unchanged since: then it goes on with the same sequences. Calls of
    a cell are the steps of one batch of sequences, until the model is called anew or the cell is
    given no state or one of zeros, if that is not the very state that it returned; or ``clear``.

    Args:
        model: Any module.
        modules: Dotted names of the recurrent modules to record; default: all there are.
        layers: ``"last"`` layer of each module, or ``"all"``.
        states: ``"hidden"`` states, ``"cell"`` states of LSTMs, or both.

    Raises:
        TypeError: If ``model`` is no module, or ``modules`` or ``states`` no list.
        ValueError: If the model has no recurrent module, a name is unknown, or only cell states
            are wanted of a module that has none.
        RuntimeError: When the block is entered, if the recorder is in it already, or a module is
            compiled and its hooks would not be heard.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> model = nn.LSTM(input_size=3, hidden_size=8, num_layers=2, batch_first=True).eval()
        >>> with HiddenStateRecorder(model, layers="all", states=("hidden", "cell")) as recorder:
        ...     output, _ = model(torch.zeros(5, 7, 3))
        >>> {key: tuple(states.values.shape) for key, states in recorder.states.items()}
        {'l0': (5, 7, 8), 'l0.cell': (5, 7, 8), 'l1': (5, 7, 8), 'l1.cell': (5, 7, 8)}
    """

    def __init__(
        self,
        model: nn.Module,
        modules: Sequence[str] | None = None,
        *,
        layers: Layers = "last",
        states: Sequence[State] = ("hidden",),
    ) -> None:
        check_layers(layers)
        check_states(states)
        found = recurrent_modules(model, modules)
        keys = {name: wanted_keys(name, module, layers, states) for name, module in found.items()}
        for name in [name for name, wanted in keys.items() if not wanted]:
            raise ValueError(
                f"states: {name!r} ({type(found[name]).__name__}) has no cell states; ask for "
                "'hidden' too, or name the LSTMs with modules="
            )
        self._model = model
        self._modules = found
        self._recordings = {name: _Recording(name, wanted) for name, wanted in keys.items()}
        self._handles: list[RemovableHandle] = []

    def __enter__(self) -> Self:
        if self._handles:
            raise RuntimeError("recorder: it is recording already; leave its block first")
        self._check_hooks_are_heard()
        try:
            self._set_hooks()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        while self._handles:
            self._handles.pop().remove()

    def _set_hooks(self) -> None:
        recordings = list(self._recordings.values())
        for recording in recordings:
            recording.continuation.begin()
        itself = getattr(self._model, "_orig_mod", self._model)
        if all(module is not itself for module in self._modules.values()):
            self._handles.append(self._model.register_forward_pre_hook(_NewPass(recordings)))
        compiled = is_compiled(self._model)
        for name, module in self._modules.items():
            if adapter_of(module) is not None or not isinstance(module, nn.RNNBase):
                look = _Before(self._recordings[name], compiled)
                self._handles.append(
                    module.register_forward_pre_hook(look, prepend=True, with_kwargs=True)
                )
            record = _Record(self._recordings[name], compiled)
            self._handles.append(module.register_forward_hook(record, with_kwargs=True))

    def _check_hooks_are_heard(self) -> None:
        """Compiled code calls fused modules as they are, but may leave out hooks of others."""
        others = [
            name for name, module in self._modules.items() if not runs_pytorch_forward(module)
        ]
        if others and ignores_new_hooks(self._model):
            raise RuntimeError(
                f"recorder: {', '.join(map(repr, others))} may be compiled, and compiled code "
                "leaves out hooks that are set after it was first called. Set "
                f"{HOOK_GUARDS} before the first compiled call; or, where that has been made, also "
                "call torch.compiler.reset()"
            )

    @property
    def states(self) -> dict[str, HiddenStates]:
        """All that was recorded since the last ``clear``, by layer key such as ``"rnn.l0"``.

        Several batches of sequences stand one after the other in the batch dimension, padded to
        the longest.

        Raises:
            RuntimeError: If a module was not called, or its hook did not fire; says which.
            ValueError: If inner layers or cell states cannot be replayed; says why.
        """
        silent = [repr(name) for name, found in self._recordings.items() if not found.batches]
        if silent:
            raise RuntimeError(
                f"recorder: nothing was recorded of {', '.join(silent)}. Either no call of it was "
                "made inside the block: name those that are called with modules=. Or compiled code "
                f"left out its hooks: set {HOOK_GUARDS} and call torch.compiler.reset()"
            )
        found: dict[str, HiddenStates] = {}
        for recording in self._recordings.values():
            found |= recording.states()
        return found

    @property
    def batches(self) -> dict[str, int]:
        """Number of batches of sequences recorded since the last ``clear``, by layer key."""
        return {
            str(key): len(recording.batches)
            for recording in self._recordings.values()
            for key in recording.keys
        }

    @property
    def packed(self) -> dict[str, bool]:
        """Layers that were given packed sequences since the last ``clear``, by layer key.

        True where these were of different lengths and had been sorted before they were packed
        (``enforce_sorted=True``): their order then is that of the packing, not one that the
        recorder could restore.
        """
        return {
            str(key): any(presorted)
            for recording in self._recordings.values()
            if (presorted := recording.presorted())
            for key in recording.keys
        }

    def clear(self) -> None:
        """Forget what was recorded so far."""
        for recording in self._recordings.values():
            recording.batches.clear()


class _Recording:
    """Calls of one module: batches of sequences, each with the calls that follow in time."""

    def __init__(self, name: str, keys: tuple[StateKey, ...]) -> None:
        self.name = name
        self.keys = keys
        self.batches: list[list[Call]] = []
        self.continuation = Continuation()
        self._step_goes_on = False

    def before(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """A step of a cell begins, with the state that it is given before anyone replaces it."""
        self._step_goes_on = self.continuation.step_goes_on(
            given_state(args, kwargs), kept_inside=adapter_of(module) is not None
        )

    def add(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any
    ) -> None:
        """Take in a call."""
        call = read_call(self.name, module, self.keys, args, kwargs, output)
        if self._goes_on(call, args, kwargs):
            self._check_size(call)
            self.batches[-1].append(call)
        else:
            self.batches.append([call])
        self.continuation.remember(_state_of(module, call, output))

    def states(self) -> dict[str, HiddenStates]:
        """States of all batches, by layer key."""
        calls = [[(call.states(), call.valid) for call in batch] for batch in self.batches]
        found = {}
        for key in self.keys:
            parts = []
            for batch in calls:
                values = torch.cat([states[key] for states, _ in batch], dim=1)
                valid = batch[0][1]
                if valid is None:
                    valid = torch.ones(values.shape[:2], dtype=torch.bool, device=values.device)
                parts.append(HiddenStates(values, valid))
            found[str(key)] = HiddenStates.concatenate(parts)
        return found

    def presorted(self) -> list[bool]:
        """For every packed batch, whether it was sorted before."""
        return [
            call.presorted for batch in self.batches for call in batch if call.presorted is not None
        ]

    def _goes_on(self, call: Call, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
        if not self.batches:
            return False
        if call.one_step:
            return self.batches[-1][-1].one_step and self._step_goes_on
        return self.continuation.goes_on(given_state(args, kwargs))

    def _check_size(self, call: Call) -> None:
        expected = self.batches[-1][0].sequences
        if call.sequences != expected:
            raise ValueError(
                f"modules: {self.name!r} was called on {expected} sequences and then, in the same "
                f"pass, on {call.sequences}; the steps of a batch take one number of sequences. "
                "Between batches call the model's own forward, or clear() the recorder"
            )


def _state_of(module: nn.Module, call: Call, output: Any) -> Any:
    """The state that a call returned to go on from; None where there is none."""
    if call.one_step:
        return output
    is_single = isinstance(module, nn.RNNBase) and not module.bidirectional and call.valid is None
    return output[1] if is_single and adapter_of(module) is None else None


class _Before(TransientHook):
    """Forward pre-hook of a cell, before all others; it is never compiled itself."""

    def __init__(self, recording: _Recording, compiled: bool) -> None:
        self._look = torch.compiler.disable(recording.before) if compiled else recording.before

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        self._look(module, args, kwargs)


class _Record(TransientHook):
    """Forward hook of a recurrent module; it is never compiled itself."""

    def __init__(self, recording: _Recording, compiled: bool) -> None:
        self._add = torch.compiler.disable(recording.add) if compiled else recording.add

    def __call__(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any
    ) -> None:
        self._add(module, args, kwargs, output)


class _NewPass(TransientHook):
    """Forward pre-hook of the model: what comes now belongs to other sequences."""

    def __init__(self, recordings: list[_Recording]) -> None:
        self._recordings = recordings

    def __call__(self, _module: nn.Module, _args: Any) -> None:
        for recording in self._recordings:
            recording.continuation.begin()
