"""Recording of the states of recurrent modules in the user's own forward passes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn

from lightning_relay.recurrent.adapters import RecurrentAdapter, adapter_of, cells_of
from lightning_relay.recurrent.calls import Call, read_call
from lightning_relay.recurrent.chosen import (
    Calls,
    ChosenCalls,
    calls_by_module,
    check_calls,
    check_joinable,
    index_of,
)
from lightning_relay.recurrent.constant_inputs import ConstantInputs, inputs_of
from lightning_relay.recurrent.continuation import Continuation, given_state
from lightning_relay.recurrent.forwards import given_arguments, runs_pytorch_forward
from lightning_relay.recurrent.hooks import (
    HOOK_GUARDS,
    FunctionHook,
    HookErrors,
    TransientHook,
    ignores_new_hooks,
    is_compiled,
)
from lightning_relay.recurrent.layers import (
    Layers,
    State,
    check_layers,
    check_states,
    recurrent_modules,
    wanted_keys,
)
from lightning_relay.recurrent.stacks import StackSteps
from lightning_relay.recurrent.states import HiddenStates
from lightning_relay.recurrent.transfer import on_cpu

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from torch.utils.hooks import RemovableHandle

    from lightning_relay.recurrent.keys import StateKey
    from lightning_relay.recurrent.transfer import Flag


class HiddenStateRecorder:
    """Context manager that records the states of a model's recurrent modules.

    Forward hooks record every call inside the block; the states are detached copies. The model and
    its outputs are not changed. When the block ends, also by an exception, the recorder removes its
    own hooks and no others. The recorded states stay.

    The recorder takes nn.RNN, nn.GRU and nn.LSTM with any number of layers, directions and
    projections, on batches, packed sequences and single sequences. It also takes nn.RNNCell,
    nn.GRUCell and nn.LSTMCell called in a loop, and modules registered with
    ``register_recurrent`` or ``register_recurrent_stack``. nn.RNN, nn.GRU and nn.LSTM do not return
    inner layers and cell states. These are replayed from the inputs and weights of the call when
    ``states`` is read, and compared with the final states that the module returned.

    Each call of nn.RNN, nn.GRU or nn.LSTM gives a new batch of sequences, unless it is given the
    very state that the call before returned, not changed since: then it continues the same
    sequences. The calls of a cell are the steps of one batch of sequences. A new batch begins after
    ``clear``. It also begins if the model was called again, or the cell is given no state or one of
    zeros, except where that is the very state that the cell returned.

    Args:
        model: Any module.
        modules: Dotted names of the recurrent modules to record; default: all in the model.
        layers: Which layers of each module to record: ``"last"`` or ``"all"``.
        states: Which states to record: ``"hidden"``, ``"cell"`` (of LSTMs), or both, as a list.
        calls: Which batches of sequences ``states`` gives: the ``"first"`` or ``"last"`` since
            ``clear``, that of an index such as 1 or -2, or ``"joined"``: all batches are one batch
            whose sequences go on from call to call. A mapping gives the choice by module name.
            Default: all batches.
        inputs: Whether to record the inputs of the modules, too, so that ``inputs_end`` can be
            read.

    Raises:
        TypeError: If ``model`` is no module, ``modules`` or ``states`` no list, or ``calls`` no
            choice.
        ValueError: If the model has no recurrent module, a name or choice is unknown, or only cell
            states are asked for of a module without any.
        RuntimeError: On entering the block, if the recorder is recording already, or compiled code
            would ignore its hooks.

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
        calls: ChosenCalls = None,
        inputs: bool = False,
    ) -> None:
        check_layers(layers)
        check_states(states)
        check_calls(calls)
        found = recurrent_modules(model, modules)
        keys = {name: wanted_keys(name, module, layers, states) for name, module in found.items()}
        for name in [name for name, wanted in keys.items() if not wanted]:
            raise ValueError(
                f"states: {name!r} ({type(found[name]).__name__}) has no cell states; ask for "
                "'hidden' too, or name only LSTMs with modules="
            )
        self._model = model
        self._modules = found
        self._recordings = {
            name: _Recording(name, found[name], keys[name], own, inputs)
            for name, own in calls_by_module(calls, found).items()
        }
        self._handles: list[RemovableHandle] = []
        self._errors: HookErrors | None = None

    @property
    def modules(self) -> list[str]:
        """Names of the recorded modules."""
        return list(self._modules)

    def keep_errors(self, errors: HookErrors) -> None:
        """From the next block on, keep errors of the hooks here; else the forward pass raises."""
        self._errors = errors

    def __enter__(self) -> Self:
        if self._handles:
            raise RuntimeError("recorder: it is recording already; leave its block first")
        self._check_compiled()
        try:
            self._set_hooks()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
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
            recording = self._recordings[name]
            if adapter_of(module) is not None or not isinstance(module, nn.RNNBase):
                # It runs before a hook replaces the state.
                before = FunctionHook(recording.before, compiled, self._errors)
                self._handles.append(
                    module.register_forward_pre_hook(before, prepend=True, with_kwargs=True)
                )
            if recording.stack is not None:
                for cell, add in recording.stack.hooks():
                    step = FunctionHook(add, compiled, self._errors)
                    self._handles.append(cell.register_forward_hook(step, with_kwargs=True))
            after = FunctionHook(recording.add, compiled, self._errors)
            self._handles.append(module.register_forward_hook(after, with_kwargs=True))

    def _check_compiled(self) -> None:
        """Raise a RuntimeError if compiled code may ignore hooks; fused modules keep them."""
        others = [
            name for name, module in self._modules.items() if not runs_pytorch_forward(module)
        ]
        if others and ignores_new_hooks(self._model):
            raise RuntimeError(
                f"recorder: {', '.join(map(repr, others))} may be compiled, and compiled code "
                "leaves out hooks that are set after it was first called. Set "
                f"{HOOK_GUARDS} before the first compiled call. If the model was called already, "
                "also call torch.compiler.reset()"
            )

    @property
    def states(self) -> dict[str, HiddenStates]:
        """States recorded since the last ``clear``, by layer key such as ``"rnn.l0"``.

        Batches of sequences follow each other in the batch dimension, padded to the longest, unless
        ``calls`` chooses or joins some.

        Raises:
            RuntimeError: If nothing was recorded of a module; says which.
            ValueError: If inner layers or cell states cannot be replayed, or the chosen calls do
                not exist or are no one sequence; says why.
        """
        silent = [repr(name) for name, found in self._recordings.items() if not found.batches]
        if silent:
            raise RuntimeError(
                f"recorder: nothing was recorded of {', '.join(silent)}. If it was not called "
                "inside the block, name the modules that are called with modules=. If the model is "
                f"compiled, set {HOOK_GUARDS} and call torch.compiler.reset()"
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
    def shapes(self) -> dict[str, list[tuple[int, int]]]:
        """Numbers of sequences and steps of each batch since ``clear``, by module name."""
        return {name: recording.shapes for name, recording in self._recordings.items()}

    @property
    def packed(self) -> dict[str, bool]:
        """Whether packed sequences were sorted before packing, by layer key, since ``clear``.

        Only layers that were given packed sequences are listed. True means that sequences of
        different lengths were sorted by the user (``enforce_sorted=True``), so the recorder cannot
        restore the order of the batch.
        """
        found: dict[str, bool] = {}
        for recording in self._recordings.values():
            calls = [call for batch in recording.chosen for call in batch]
            presorted = [call.presorted for call in calls if call.presorted is not None]
            if presorted:
                found.update((str(key), any(presorted)) for key in recording.keys)
        return found

    @property
    def inputs_end(self) -> dict[str, int]:
        """Step at which the inputs of modules end, by module name, as ``relay_report`` takes it.

        A module is listed if the inputs of every sequence recorded since the last ``clear`` are
        constant from some step on, for at least two steps. They end at the last step whose input
        differs from those at the end; if sequences end with different inputs, one step later.

        Raises:
            RuntimeError: If inputs are not recorded.
        """
        found = {}
        for name, recording in self._recordings.items():
            if not recording.keeps_inputs:
                raise RuntimeError("recorder: inputs are not recorded; set inputs=True")
            constant = ConstantInputs()
            for inputs in recording.inputs():
                constant.add(inputs)
            if constant.end is not None:
                found[name] = constant.end
        return found

    def keep_inputs(self, modules: Collection[str]) -> None:
        """From the next call on, record the inputs of these modules and of no others."""
        for name, recording in self._recordings.items():
            recording.keeps_inputs = name in modules

    @property
    def inputs(self) -> dict[str, list[HiddenStates | None]]:
        """Inputs ``(batch, step, channel)`` of each batch of sequences, by module name.

        Only modules whose inputs are recorded. None where they could not be read.
        """
        return {
            name: recording.inputs()
            for name, recording in self._recordings.items()
            if recording.keeps_inputs
        }

    def clear(self) -> None:
        """Forget all recorded states and inputs."""
        for recording in self._recordings.values():
            recording.clear()


class _Recording:
    """Calls of one module: a list for each batch of sequences, of calls one after the other."""

    def __init__(
        self,
        name: str,
        module: nn.Module,
        keys: tuple[StateKey, ...],
        calls: Calls | None,
        keeps_inputs: bool,
    ) -> None:
        self.name = name
        self.keys = keys
        self.calls = calls
        self.keeps_inputs = keeps_inputs
        cells = cells_of(module)
        self.stack = None if cells is None else StackSteps(name, module, cells, keys)
        self._batches: list[list[Call]] = []
        self._last: Call | None = None
        self._new: list[tuple[Call, Flag]] = []  # calls, and whether they continue those before
        self.continuation = Continuation()
        self._step_goes_on: Flag = False

    def before(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Look at the state that a step of a cell is given."""
        if self.stack is not None:
            self.stack.begin()
            return
        adapter = adapter_of(module)
        kept_inside = isinstance(adapter, RecurrentAdapter) and adapter.keeps_state
        self._step_goes_on = self.continuation.step_goes_on(
            given_state(args, kwargs), kept_inside=kept_inside
        )

    def add(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any
    ) -> None:
        """Record a call."""
        if self.stack is not None:
            call = self.stack.end()
        else:
            call = read_call(self.name, module, self.keys, args, kwargs, output)
        if self.keeps_inputs:
            call.inputs = inputs_of(module, args, kwargs, (call.sequences, call.steps))
        self._new.append((call, self._goes_on(call, given_arguments(module, args, kwargs)[1])))
        self._last = call
        if all(isinstance(goes_on, bool) for _, goes_on in self._new):
            self._divide()
        self.continuation.remember(_state_of(module, call, output))

    def clear(self) -> None:
        """Forget all calls."""
        self._batches.clear()
        self._new.clear()
        self._last = None

    @property
    def batches(self) -> list[list[Call]]:
        """Calls of each batch of sequences."""
        self._divide()
        return self._batches

    def _divide(self) -> None:
        """Add the new calls to the batches; only here the host may wait for a GPU."""
        new, self._new = self._new, []
        waiting = [goes_on for _, goes_on in new if isinstance(goes_on, Tensor)]
        read = iter(on_cpu(*waiting))
        for call, goes_on in new:
            if not (next(read) if isinstance(goes_on, Tensor) else goes_on):
                self._batches.append([call])
                continue
            expected = self._batches[-1][0].sequences
            if call.sequences != expected:
                raise ValueError(
                    f"modules: {self.name!r} was called on {expected} sequences and then, in the "
                    f"same pass, on {call.sequences}; the steps of a batch take one number of "
                    "sequences. Between batches call the model's own forward, or clear() the "
                    "recorder"
                )
            self._batches[-1].append(call)

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """Numbers of sequences and steps of each batch."""
        return [(batch[0].sequences, sum(call.steps for call in batch)) for batch in self.batches]

    @property
    def chosen(self) -> list[list[Call]]:
        """The batches that were asked for."""
        if self.calls is None or not self.batches:
            return self.batches
        index = index_of(self.calls, self.name, self.shapes)
        return self.batches if index is None else [self.batches[index]]

    def states(self) -> dict[str, HiddenStates]:
        """States of the chosen batches, by layer key."""
        put_together = HiddenStates.concatenate
        if self.calls == "joined":
            check_joinable(
                self.name,
                self.shapes,
                bidirectional=any(key.reverse for key in self.keys),
                packed=[batch[0].presorted is not None for batch in self.batches],
            )
            put_together = HiddenStates.joined
        found: dict[str, list[HiddenStates]] = {str(key): [] for key in self.keys}
        for batch in self.chosen:
            calls = [call.states() for call in batch]
            for key in self.keys:
                values = torch.cat([states[key] for states in calls], dim=1)
                valid = batch[0].valid
                if valid is None:
                    valid = torch.ones(values.shape[:2], dtype=torch.bool, device=values.device)
                found[str(key)].append(HiddenStates.padded_at_end(values, valid))
        return {key: put_together(parts) for key, parts in found.items()}

    def inputs(self) -> list[HiddenStates | None]:
        """Inputs of each batch of sequences; None where they were not read."""
        found: list[HiddenStates | None] = []
        for batch in self.batches:
            parts = [call.inputs for call in batch if call.inputs is not None]
            if len(parts) < len(batch) or len({part.shape[2] for part in parts}) > 1:
                found.append(None)
                continue
            values, valid = torch.cat(parts, dim=1), batch[0].valid
            if valid is None:
                valid = torch.ones(values.shape[:2], dtype=torch.bool, device=values.device)
            found.append(HiddenStates.padded_at_end(values, valid))
        return found

    def _goes_on(self, call: Call, given: Any) -> Flag:
        if self._last is None:
            return False
        if call.one_step:
            return self._last.one_step and self._step_goes_on
        return self.continuation.goes_on(given)


def _state_of(module: nn.Module, call: Call, output: Any) -> Any:
    """The returned state from which the next call can continue, or None."""
    if call.one_step:
        return output
    if cells_of(module) is not None:
        return output[1] if isinstance(output, tuple) and len(output) == 2 else None
    is_single = isinstance(module, nn.RNNBase) and not module.bidirectional and call.valid is None
    return output[1] if is_single and adapter_of(module) is None else None


class _NewPass(TransientHook):
    """Forward pre-hook of the model: cells now begin new sequences."""

    def __init__(self, recordings: list[_Recording]) -> None:
        self._recordings = recordings

    def __call__(self, _module: nn.Module, _args: Any) -> None:
        for recording in self._recordings:
            recording.continuation.begin()
