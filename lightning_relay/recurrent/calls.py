"""The states that one call of a recurrent module gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from lightning_relay.recurrent.adapters import RecurrentAdapter, adapter_of
from lightning_relay.recurrent.forwards import autocast_of, given_arguments
from lightning_relay.recurrent.layers import hidden_units
from lightning_relay.recurrent.replay import FusedCall, check_replayable, replay, versions_of
from lightning_relay.recurrent.transfer import padded

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from lightning_relay.recurrent.forwards import Unlike
    from lightning_relay.recurrent.keys import StateKey


@dataclass(eq=False)
class Call:
    """One call of a recurrent module on ``sequences`` sequences of up to ``steps`` steps.

    ``presorted`` is True for packed sequences of different lengths that had been sorted before they
    were packed, False for other packed sequences, and None for tensors.
    """

    known: dict[StateKey, Tensor]  # states (batch, step, unit) that need no replay
    sequences: int
    steps: int = 1
    one_step: bool = False  # whether it was given one step instead of whole sequences
    valid: Tensor | None = None  # steps that are no padding, bool (batch, step); None for all
    presorted: bool | None = None
    pending: tuple[FusedCall, Collection[StateKey]] | None = None  # what to replay
    inputs: Tensor | None = None  # (batch, step, channel), where they are asked for and read

    def states(self) -> Mapping[StateKey, Tensor]:
        """All states ``(batch, step, unit)``, by key."""
        if self.pending is not None:
            self.known |= replay(*self.pending)
            self.pending = None
        return self.known


def read_call(
    name: str,
    module: nn.Module,
    keys: Collection[StateKey],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    output: Any,
) -> Call:
    """Read the states ``keys`` of a call right after it; ``name`` is the module's dotted name.

    A ValueError says what cannot be read from the output, or cannot be replayed.
    """
    adapter = adapter_of(module)
    if isinstance(adapter, RecurrentAdapter):
        return _adapted(name, module, adapter, keys, args, output)
    if isinstance(module, nn.RNNBase):
        return _fused(name, module, keys, args, kwargs, output)
    if isinstance(module, nn.RNNCellBase):
        return _cell(name, module, keys, output)
    raise TypeError(f"modules: {name!r} ({type(module).__name__}) is no recurrent module")


def _fused(
    name: str,
    module: nn.RNNBase,
    keys: Collection[StateKey],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    result: Any,
) -> Call:
    if not isinstance(result, tuple) or len(result) != 2:
        raise _misread(
            name,
            module,
            f"{type(result).__name__} where PyTorch's recurrent modules return a pair of output "
            "and final state",
        )
    output, final = result
    presorted = valid = None
    if isinstance(output, PackedSequence):
        values, valid, presorted = _unpacked(output)
        values = values.detach()
    else:
        values = _batch_first(module, output).detach().clone()
    units = hidden_units(module)
    width = units * (1 + module.bidirectional)
    if values.shape[-1] != width:
        raise _misread(name, module, f"states of {values.shape[-1]} units where it has {width}")
    last = module.num_layers - 1
    states = {
        key: values[..., units:] if key.reverse else values[..., :units]
        for key in keys
        if key.layer == last and not key.cell
    }
    pending = None
    missing = [key for key in keys if key not in states]
    if missing:
        inputs, initial = given_arguments(module, args, kwargs)
        unlike = check_replayable(name, module, missing, inputs, initial, result)
        call = _fused_call(name, module, inputs, initial, final, values, valid, unlike)
        pending = (call, missing)
    sequences, steps, _ = values.shape
    return Call(states, sequences, steps, valid=valid, presorted=presorted, pending=pending)


def _fused_call(
    name: str,
    module: nn.RNNBase,
    inputs: Any,
    initial: Any,
    final: Any,
    hidden: Tensor,
    valid: Tensor | None,
    unlike: Unlike | None,
) -> FusedCall:
    device = hidden.device
    if isinstance(inputs, PackedSequence):
        inputs = inputs._replace(data=inputs.data.detach().clone())
        dtype = inputs.data.dtype
    else:
        inputs = _batch_first(module, inputs).detach().clone()
        dtype = inputs.dtype
    if initial is None:
        sizes = [hidden_units(module)]
        sizes += [module.hidden_size] * (module.mode == "LSTM")
        rows = module.num_layers * (1 + module.bidirectional)
        initial = tuple(
            torch.zeros(rows, len(hidden), size, dtype=dtype, device=device) for size in sizes
        )
    # A parametrized weight is computed at each access, perhaps at random; the call used these.
    weights = tuple(weight.detach() for weight in module._flat_weights if weight is not None)
    return FusedCall(
        name=name,
        module=module,
        inputs=inputs,
        initial=_copies(initial),
        final=_copies(final),
        hidden=hidden,
        valid=valid,
        autocast=autocast_of(hidden),
        weights=weights,
        versions=versions_of(weights),
        unlike=unlike,
    )


def _cell(name: str, module: nn.RNNCellBase, keys: Collection[StateKey], output: Any) -> Call:
    parts = output if isinstance(output, tuple) else (output,)
    wanted = 1 + isinstance(module, nn.LSTMCell)
    if len(parts) != wanted or not all(
        isinstance(part, Tensor) and part.shape[-1] == module.hidden_size for part in parts
    ):
        expected = "hidden and cell state" if wanted == 2 else "hidden state"
        raise _misread(
            name, module, f"something else than the {expected} of {module.hidden_size} units"
        )
    states = {key: _one_step(parts[key.cell]) for key in keys}
    return Call(states, len(next(iter(states.values()))), one_step=True)


def _adapted(
    name: str,
    module: nn.Module,
    adapter: RecurrentAdapter,
    keys: Collection[StateKey],
    args: tuple[Any, ...],
    output: Any,
) -> Call:
    states: dict[StateKey, Tensor] = {}
    valid = presorted = None
    dimensions = set()
    for key in keys:
        reading = adapter.cell if key.cell and adapter.cell is not None else adapter.hidden
        values = reading(module, args, output)
        if isinstance(values, PackedSequence):
            values, valid, presorted = _unpacked(values)
        size = adapter.units(module)
        if key.cell and adapter.cell_units is not None:
            size = adapter.cell_units(module)
        if (
            not isinstance(values, Tensor)
            or values.dim() not in (1, 2, 3)
            or values.shape[-1] != size
        ):
            got = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
            raise ValueError(
                f"modules: the adapter of {name!r} ({type(module).__name__}) gave {got} for "
                f"{str(key)!r}; it takes states (batch, step, {size}), or (batch, {size}) of a "
                "module that is called once for every step"
            )
        dimensions.add(values.dim())
        states[key] = values.detach().clone() if values.dim() == 3 else _one_step(values)
    if len(dimensions) > 1:
        raise ValueError(
            f"modules: the adapter of {name!r} ({type(module).__name__}) gave hidden and cell "
            "states of different numbers of dimensions; it takes (batch, step, unit) for both, or "
            "(batch, unit) for both"
        )
    sequences, steps, _ = next(iter(states.values())).shape
    return Call(states, sequences, steps, dimensions != {3}, valid, presorted)


def _misread(name: str, module: nn.Module, returned: str) -> ValueError:
    return ValueError(
        f"modules: {name!r} ({type(module).__name__}) returned {returned}; register an adapter "
        "for its class with register_recurrent"
    )


def _unpacked(packed: PackedSequence) -> tuple[Tensor, Tensor, bool]:
    """States ``(batch, step, unit)`` of a packed sequence, and its ``valid`` and ``presorted``."""
    sizes = packed.batch_sizes
    ones = torch.ones(len(packed.data), dtype=torch.bool, device=packed.data.device)
    differ = bool(sizes[0] != sizes[-1])
    return (
        padded(packed),
        padded(packed._replace(data=ones)),
        packed.sorted_indices is None and differ,
    )


def _batch_first(module: nn.RNNBase, states: Tensor) -> Tensor:
    if states.dim() == 2:
        return states.unsqueeze(0)
    return states if module.batch_first else states.transpose(0, 1)


def _one_step(states: Tensor) -> Tensor:
    batch = states if states.dim() == 2 else states.unsqueeze(0)
    return batch.detach().clone().unsqueeze(1)


def _copies(states: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Copies of h and perhaps c, ``(layer and direction, batch, unit)``."""
    parts = (states,) if isinstance(states, Tensor) else states
    return tuple(
        (part if part.dim() == 3 else part.unsqueeze(1)).detach().clone() for part in parts
    )
