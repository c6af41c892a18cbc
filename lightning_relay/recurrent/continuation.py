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
    as without a bias before the first input, or with all units held at 0. Changes are told by the
    version counters of the tensors, which miss one made through ``.data``. Inference tensors have
    no such counter: their values are compared with a copy.

    The steps of a cell also go on from a state that something else made of the one returned, such
    as dropout or ``torch.where``. They begin anew where there is no state, where it is all zeros,
    and where a forward pass of the model has begun since the last step. A state that a mask made
    zero in all sequences cannot be told from one of zeros: it begins anew. A module with an adapter
    may keep its state itself, so no state given says nothing there.
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

    def step_goes_on(self, state: Any, *, kept_inside: bool = False) -> bool:
        """Whether a step of a cell that is given a state goes on from the last one.

        Args:
            state: The state; None where there is none.
            kept_inside: Whether the cell may keep its state itself.
        """
        is_reset = not kept_inside if state is None else _is_zero(state)
        return self.goes_on(state) or not (self._new_pass or is_reset)


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
        same = torch.equal(tensor, content)
        return same or torch.allclose(tensor, content, rtol=0, atol=0, equal_nan=True)
    return tensor._version == content


def _is_zero(state: Any) -> bool:
    return all(isinstance(part, Tensor) and not bool(part.any()) for part in _parts(state))
