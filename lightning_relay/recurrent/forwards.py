"""Whether a call of nn.RNN, nn.GRU or nn.LSTM, or of a subclass, computes what PyTorch's does.

A subclass may have a forward of its own that only passes on to PyTorch's: it makes the initial
state, or handles sequences without steps. Only the outcome of a call tells. So PyTorch's forward
runs once on the inputs of the call, and its outcome is compared with what the own forward returned.
Nothing of the module is called for that, and no random number is drawn.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from types import FunctionType, MethodType
from typing import TYPE_CHECKING, Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from lightning_relay.recurrent.continuation import given_state
from lightning_relay.recurrent.hooks import own_forward
from lightning_relay.recurrent.transfer import on_cpu

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_KINDS = (nn.RNN, nn.GRU, nn.LSTM)

_FORWARDS = tuple(kind.forward for kind in _KINDS)

_TOLERANCE = {torch.float64: 1e-9, torch.float32: 5e-3, torch.bfloat16: 0.1, torch.float16: 2e-2}
"""Largest accepted difference, absolute plus relative, of states computed again and returned ones.

Larger differences than rounding, which on accelerators includes TF32 products, mean another
computation.
"""


def runs_pytorch_forward(module: nn.Module) -> bool:
    """Whether a call of a module runs the forward of nn.RNN, nn.GRU or nn.LSTM."""
    return type(module).forward in _FORWARDS and own_forward(module) is None


def may_pass_on(module: nn.Module) -> TypeGuard[nn.RNNBase]:
    """Whether the class of a module has a forward of its own around nn.RNN, nn.GRU or nn.LSTM."""
    return (
        isinstance(module, _KINDS)
        and type(module).forward not in _FORWARDS
        and own_forward(module) is None
    )


def given_arguments(
    module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[Any, Any]:
    """Input and initial state of a call; None for a state that was left out.

    A forward of its own may name them as it likes: the input is its first argument, and the state
    is ``hx`` or the second argument, where that is a state.
    """
    if type(module).forward in _FORWARDS or not isinstance(module, _KINDS):
        return (args[0] if args else kwargs.get("input")), given_state(args, kwargs)
    names = list(inspect.signature(type(module).forward).parameters)[1:]

    def given(name: str, place: int) -> Any:
        place = names.index(name) if name in names else place
        if len(args) > place:
            return args[place]
        own = names[place] if place < len(names) else name
        return kwargs.get(name, kwargs.get(own))

    state = given("hx", 1)
    parts = state if isinstance(state, tuple) else (state,)
    is_state = all(isinstance(part, Tensor) and part.is_floating_point() for part in parts)
    return given("input", 0), state if is_state else None


def distance(
    found: Tensor, expected: Tensor, autocast: tuple[str, bool, torch.dtype] | None = None
) -> Tensor:
    """Largest difference of two tensors, ``()``; 0 if they agree to the tolerance of their type.

    ``autocast``: type of device, whether it was on, and its dtype, which the tensors may have been
    computed in whatever their own.
    """
    tolerance = _TOLERANCE.get(expected.dtype, 5e-3)
    if autocast is not None and autocast[1]:
        tolerance = max(tolerance, _TOLERANCE.get(autocast[2], 5e-3))
    found, expected = found.double(), expected.double()
    if found.numel() == 0:
        return found.new_zeros(())
    close = torch.isclose(found, expected, rtol=tolerance, atol=tolerance, equal_nan=True).all()
    return (found - expected).abs().max().masked_fill(close, 0)


def autocast_of(tensor: Tensor) -> tuple[str, bool, torch.dtype]:
    """Type of a tensor's device, whether autocast is on there, and its dtype."""
    kind = tensor.device.type
    return kind, torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)


@dataclass(frozen=True, eq=False)
class Unlike:
    """How far the tensors of a result, such as its output, are from those of PyTorch's forward."""

    names: tuple[str, ...]
    far: tuple[Tensor, ...]  # as of ``distance``

    @property
    def is_known(self) -> bool:
        """Whether it takes no wait to read."""
        return all(own.device.type == "cpu" for own in self.far)

    def words(self, far: Sequence[Tensor]) -> str:
        """How the result differs, in words; empty if it does not. ``far`` is in CPU memory."""
        for name, own in zip(self.names, far, strict=True):
            if own:
                return f"whose {name} is up to {float(own):.1e} away from that of PyTorch's forward"
        return ""


def difference(module: nn.RNNBase, inputs: Any, state: Any, result: Any) -> str:
    """How the result of a call differs from that of PyTorch's forward; empty if it does not.

    The words go on after "has a forward of its own, ".
    """
    found = compared(module, inputs, state, result)
    return found if isinstance(found, str) else found.words(on_cpu(*found.far))


def compared(module: nn.RNNBase, inputs: Any, state: Any, result: Any) -> str | Unlike:
    """As ``difference``, but what takes a wait to read is not read."""
    if module.training and module.dropout > 0 and module.num_layers > 1:
        return (
            "and cannot be compared with PyTorch's in training mode, where "
            f"dropout={module.dropout} between its layers is random"
        )
    try:
        expected = _pytorch_result(module, inputs, state)
    except Exception as error:
        return f"and PyTorch's forward does not take what it was given ({error})"
    if not isinstance(result, tuple) or len(result) != 2:
        kind = type(result).__name__
        return f"which returned {kind} where PyTorch's returns a pair of output and final state"
    pairs = [
        (name, part, like)
        for name, own, other in zip(("output", "final state"), result, expected, strict=True)
        for part, like in _pairs(own, other)
    ]
    for name, part, like in pairs:
        kinds = [_described(part), _described(like)]
        if kinds[0] != kinds[1]:
            return f"which returned {kinds[0]} as its {name} where PyTorch's returns {kinds[1]}"
    return Unlike(
        tuple(name for name, *_ in pairs),
        tuple(distance(part.detach(), like, autocast_of(like)) for _, part, like in pairs),
    )


class OwnCall:
    """A call of a forward that may pass on; its input and state are copied before it begins."""

    def __init__(
        self, module: nn.RNNBase, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> None:
        self.module = module
        self.inputs, self.state = given_arguments(module, args, kwargs)
        self._before = _copied(self.inputs), _copied(self.state)

    def difference(self, result: Any) -> str:
        """How it differs from one of PyTorch's forward, also in what it does to its arguments."""
        for name, own, other in zip(
            ("input", "initial state"), (self.inputs, self.state), self._before, strict=True
        ):
            if any(
                isinstance(like, Tensor) and distance(part, like)
                for part, like in _pairs(own, other)
            ):
                return f"which changes its {name} in place"
        return difference(self.module, *self._before, result)


class _Plain:
    """A module as PyTorch's forward sees it: in evaluation mode, without methods of its class."""

    training = False

    def __init__(self, module: nn.RNNBase, kind: type[nn.RNNBase]) -> None:
        self._module = module
        self._kind = kind

    def _update_flat_weights(self) -> None:
        """Nothing: the call did that, and parametrized weights would be computed once more."""

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._kind, name, None)
        if isinstance(found, FunctionType):
            return MethodType(found, self)
        return getattr(self._module, name)


@torch.no_grad()
def _pytorch_result(module: nn.RNNBase, inputs: Any, state: Any) -> tuple[Any, Any]:
    """What PyTorch's forward returns for these inputs."""
    kind = next(kind for kind in _KINDS if isinstance(module, kind))
    forward: Callable[..., tuple[Any, Any]] = kind.forward
    return forward(_Plain(module, kind), inputs, state)


def _pairs(own: Any, other: Any) -> list[tuple[Any, Any]]:
    """The tensors of an output or state, each with the other's; whole where they have none."""
    if isinstance(own, PackedSequence) and isinstance(other, PackedSequence):
        return [(own.data, other.data), (own.batch_sizes, other.batch_sizes)]
    if isinstance(own, tuple) and isinstance(other, tuple) and len(own) == len(other):
        return list(zip(own, other, strict=True))
    return [(own, other)]


def _described(part: Any) -> str:
    if isinstance(part, PackedSequence) or not isinstance(part, Tensor):
        return f"a {type(part).__name__}"
    return f"{part.dtype} {tuple(part.shape)}"


def _copied(given: Any) -> Any:
    if isinstance(given, PackedSequence):
        return given._replace(data=given.data.detach().clone())
    if isinstance(given, tuple):
        return tuple(_copied(part) for part in given)
    return given.detach().clone() if isinstance(given, Tensor) else given
