"""Whether a call of a recurrent module goes on with the sequences of the call before it."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Mapping


class Continuation:
    """Tells whether the calls of one module go on from one another.

    A call goes on if it is given the very state that the last one returned, unchanged since: the
    same tensors, which nothing has changed in place. So it is also where that state is all zeros,
    as without a bias before the first input, or with all units held at 0.

    The steps of a cell also go on from a state that something else made of the one returned, such
    as dropout or ``torch.where``. They begin anew where there is no state, where it is all zeros,
    and where a forward pass of the model has begun since the last step. A state that a mask made
    zero in all sequences cannot be told from one of zeros: it begins anew.
    """

    def __init__(self) -> None:
        self._returned: list[tuple[weakref.ref[Tensor], int | Tensor]] = []
        self._new_pass = True

    def begin(self) -> None:
        """A forward pass of the model begins."""
        self._new_pass = True

    def remember(self, state: Any) -> None:
        """A call has ended; it returned a state, a pair of them, or nothing to go on from."""
        tensors = [part for part in _parts(state) if isinstance(part, Tensor)]
        self._returned = [(weakref.ref(part), _content(part)) for part in tensors]
        self._new_pass = False

    def goes_on(self, state: Any) -> bool:
        """Whether a state is the very one that the last call returned, unchanged since."""
        parts = _parts(state)
        return len(parts) == len(self._returned) > 0 and all(
            isinstance(part, Tensor) and part is returned() and _is_unchanged(part, content)
            for part, (returned, content) in zip(parts, self._returned, strict=True)
        )

    def step_goes_on(self, state: Any) -> bool:
        """Whether a step of a cell that is given a state goes on from the last one."""
        return self.goes_on(state) or not (self._new_pass or state is None or _is_zero(state))


def given_state(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """The state that a module of PyTorch was called with; None where it was left out."""
    return args[1] if len(args) > 1 else kwargs.get("hx")


def _parts(state: Any) -> tuple[Any, ...]:
    return state if isinstance(state, tuple) else (state,)


def _content(tensor: Tensor) -> int | Tensor:
    """How often a tensor was changed in place; a copy, where torch does not count that."""
    return tensor.clone() if tensor.is_inference() else tensor._version


def _is_unchanged(tensor: Tensor, content: int | Tensor) -> bool:
    if isinstance(content, Tensor):
        return torch.equal(tensor, content)
    return tensor._version == content


def _is_zero(state: Any) -> bool:
    return all(isinstance(part, Tensor) and not bool(part.any()) for part in _parts(state))
