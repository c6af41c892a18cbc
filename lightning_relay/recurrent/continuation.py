"""Whether a call of a recurrent module continues the sequences of the call before it."""

from __future__ import annotations

import weakref
from functools import reduce
from operator import and_, or_
from typing import TYPE_CHECKING, Any

from torch import Tensor

from lightning_relay.recurrent.transfer import known

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lightning_relay.recurrent.transfer import Flag


class Continuation:
    """Tells whether each call of one module continues the sequences of the call before.

    A call continues them if it is given the very state that the last call returned: the same
    tensors, not changed in place since, even if they are all zeros. The version counters of the
    tensors tell of changes, except of those made through ``.data``. Inference tensors have no such
    counter, so their values are compared with a copy.

    A step of a cell may also be given another state, such as the one returned after dropout. Then
    it continues them too, unless the state is None, or a forward pass of the model has begun since
    the last step, or the state is all zeros and the one returned was not. A state that a mask made
    zero in all sequences looks like a reset.
    """

    def __init__(self) -> None:
        self._returned: list[tuple[weakref.ref[Tensor], int | Tensor]] = []
        self._returned_any: list[Tensor] = []
        self._new_pass = True

    def begin(self) -> None:
        """Note that a forward pass of the model begins."""
        self._new_pass = True

    def remember(self, state: Any) -> None:
        """Note what a call returned: a state, a pair of states, or None."""
        tensors = [part for part in _parts(state) if isinstance(part, Tensor)]
        self._returned = [(weakref.ref(part), _content(part)) for part in tensors]
        self._returned_any = [part.any() for part in tensors]
        self._new_pass = False

    def goes_on(self, state: Any) -> Flag:
        """Whether a state is the very one that the last call returned, not changed since."""
        parts = _parts(state)
        found = self._returned[-len(parts) :]  # a cell may return an output before its state
        if not len(parts) == len(found) > 0:
            return False
        pairs = list(zip(parts, found, strict=True))
        if not all(isinstance(part, Tensor) and part is own() for part, (own, _) in pairs):
            return False
        return known(reduce(and_, [_is_unchanged(part, content) for part, (_, content) in pairs]))

    def step_goes_on(self, state: Any, *, kept_inside: bool = False) -> Flag:
        """Whether a cell's step, given a state or None, continues the sequences of the last step.

        ``kept_inside``: the cell may keep its state itself, so None does not mean a reset.
        """
        same = self.goes_on(state)
        if same is True or self._new_pass:
            return same
        if state is None:
            return kept_inside
        parts = _parts(state)
        if not all(isinstance(part, Tensor) for part in parts):
            return True
        is_any = reduce(or_, [part.any() for part in parts])
        returned_zero = ~reduce(or_, self._returned_any) if self._returned_any else True
        return known(same | is_any | returned_zero)


def given_state(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """The state that a module was called with; None if it was left out.

    It is the second argument. PyTorch names it ``hx``; a custom module may name it ``state``.
    """
    return args[1] if len(args) > 1 else kwargs.get("hx", kwargs.get("state"))


def _parts(state: Any) -> tuple[Any, ...]:
    """The tensors of a state, which may be a tuple that contains tuples."""
    if not isinstance(state, tuple):
        return (state,)
    return tuple(part for parts in state for part in _parts(parts))


def _content(tensor: Tensor) -> int | Tensor:
    """How often a tensor was changed in place, or a copy where torch does not count that."""
    return tensor.clone() if tensor.is_inference() else tensor._version


def _is_unchanged(tensor: Tensor, content: int | Tensor) -> Flag:
    if not isinstance(content, Tensor):
        return tensor._version == content
    if tensor.shape != content.shape:
        return False
    return ((tensor == content) | (tensor.isnan() & content.isnan())).all()
