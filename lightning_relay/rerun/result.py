"""What a run of a step gave, and whether another run gave the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lightning_relay.reading.answers import Answer

_REPEATABLE = 1e-6
"""Maximum difference between two runs, as a fraction of the largest number."""


_ROUNDED = 1e-2
"""Maximum difference that a network may make of rounding, as a fraction of the largest number."""


class NotRepeatedError(ValueError):
    """A run of a step gave something else than another run under the same conditions.

    ``small``: whether all numbers that were compared differ by no more than rounding may explain.
    """

    def __init__(self, message: str, *, small: bool) -> None:
        super().__init__(message)
        self.small = small


@dataclass(frozen=True, eq=False)
class StepResult:
    """What a run of a step gave.

    Attributes:
        step: Name of the step.
        answer: Labels, classes and class scores of the batch; None if none were asked for. The
            scores are a copy.
        whole: Whether the step ran to its end; if not, the attributes below are empty.
        logged: Tensors and numbers that the step logged, by their names; the last under each name.
        logged_metrics: Names under which the step logged metrics.
        returned: Numbers that the step returned, by name: keys of mappings and fields of
            dataclasses, joined by dots. A number returned alone is the ``"loss"``.
        names: All names of what the step logged, by its own: those that Lightning makes of it, too.
    """

    step: str
    answer: Answer | None
    whole: bool
    logged: Mapping[str, float]
    logged_metrics: frozenset[str]
    returned: Mapping[str, float]
    names: Mapping[str, Sequence[str]]

    @property
    def loss(self) -> float | None:
        """What the step returned, or its ``"loss"``; None unless that is a single number."""
        return self.returned.get("loss")

    @property
    def classes(self) -> Tensor | None:
        """Predicted classes, int64 ``(batch,)``; None without an answer."""
        return None if self.answer is None else self.answer.classes

    @property
    def scores(self) -> Tensor | None:
        """Class scores; None without an answer, and where only classes are known."""
        return None if self.answer is None else self.answer.scores


def same_scores(first: StepResult, again: StepResult) -> bool:
    """Whether two runs gave the same class scores, but for a millionth of the largest."""
    if first.scores is None or again.scores is None:
        return False
    return _close(first.scores, again.scores)


def check_repeatable(first: StepResult, again: StepResult, *, returned: str | None = None) -> None:
    """Raise a NotRepeatedError unless two runs of a step under the same conditions gave the same.

    Class scores, losses, logged numbers and the returned number of a name may differ by a millionth
    of the largest. Whatever only one of the runs has is not compared. Other returned numbers are
    not compared either: nothing is made of them, and they may be times.
    """
    pairs = [
        *_pairs(first.answer, again.answer),
        ("losses", _tensor(first.loss), _tensor(again.loss)),
    ]
    pairs += [
        (f"numbers to log as {name!r}", _tensor(number), _tensor(again.logged[name]))
        for name, number in first.logged.items()
        if name in again.logged
    ]
    if returned is not None:
        numbers = [result.returned.get(returned) for result in (first, again)]
        one, other = map(_tensor, numbers)
        pairs.append((f"returned numbers {returned!r}", one, other))
    for what, one, other in pairs:
        if one is not None and other is not None and not _close(one, other):
            raise NotRepeatedError(
                f"pl_module: the {first.step} gave other {what} when it was run again on the same "
                "batch: it keeps a state from call to call, changes the class scores in place, "
                "or draws from random generators of its own; knock-outs need a step that "
                "depends on its batch alone. If it changes the class scores after a module gave "
                "them, give prediction= a function of what the step returns",
                small=_differ_little(pairs),
            )


def check_same_as_own(own: Answer | None, again: StepResult) -> None:
    """Raise a NotRepeatedError unless a run gave the class scores of the module's own step.

    They may differ as in ``check_repeatable``. Whatever only one of them has is not compared.
    """
    pairs = _pairs(own, again.answer)
    for what, one, other in pairs:
        if one is not None and other is not None and not _close(one, other):
            raise NotRepeatedError(
                f"pl_module: the {again.step} gave other {what} when it was run again on the batch "
                "as the callback was given it. If the module's on_validation_batch_start or "
                "another callback's changes batch or module, have it do so before: in "
                "on_after_batch_transfer, or in a callback that stands before this one. If the "
                "step reads global variables or attributes of classes that it changes, have it "
                "depend on its batch alone",
                small=_differ_little(pairs),
            )


_Pairs = list[tuple[str, Tensor | None, Tensor | None]]
"""Names of what two runs have in common, and what each gave."""


def _differ_little(pairs: _Pairs) -> bool:
    """Whether there are real numbers to compare, and rounding may explain how they differ."""
    numbers = [
        (one, other)
        for _, one, other in pairs
        if one is not None and other is not None and one.is_floating_point()
    ]
    return bool(numbers) and all(_close(one, other, _ROUNDED) for one, other in numbers)


def _pairs(first: Answer | None, again: Answer | None) -> _Pairs:
    """What two answers have in common, with its name."""
    if first is None or again is None:
        return []
    return [
        ("predicted classes", first.classes, again.classes),
        ("class scores", first.scores, again.scores),
    ]


def _tensor(number: float | None) -> Tensor | None:
    return None if number is None else torch.tensor([number], dtype=torch.float64)


def _close(first: Tensor, again: Tensor, tolerance: float = _REPEATABLE) -> bool:
    if first.shape != again.shape or first.dtype != again.dtype:
        return False
    if not first.is_floating_point():
        return torch.equal(first, again)
    first, again = first.double(), again.double()
    largest = first[first.isfinite()].abs().amax().item() if first.isfinite().any() else 0.0
    return torch.allclose(first, again, rtol=0, atol=tolerance * largest, equal_nan=True)
