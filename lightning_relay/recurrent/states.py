"""Hidden states of a batch of sequences, with a mask of the steps that are no padding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn, Protocol

import torch
from torch.nn.functional import pad

if TYPE_CHECKING:
    from torch import Tensor


_ELEMENTS_AT_ONCE = 2**19
"""States are looked through in blocks of sequences of about this many values."""


class StepError(ValueError):
    """A step that was asked for lies outside every sequence; longer ones may still come."""


class TooShortError(ValueError):
    """Values to hold or recorded states do not reach to the end of a sequence."""


class LayerStates(Protocol):
    """States of one recurrent layer that can be read step by step, wherever they are kept."""

    @property
    def lengths(self) -> Tensor:
        """Number of valid steps of each sequence, int64 ``(batch,)``."""

    def __len__(self) -> int:
        """Number of sequences."""

    def has(self, step: int) -> bool:
        """Whether there are states of a step, counted as in ``at``."""

    def at(self, step: int) -> HiddenStates:
        """The states at one step of every sequence, as states with one step."""


@dataclass(frozen=True, eq=False)
class HiddenStates:
    """States of one recurrent layer.

    Attributes:
        values: States ``(batch, step, unit)``, whatever ``batch_first`` says; integers are codes of
            states.
        valid: Whether a step belongs to the sequence, bool ``(batch, step)``; False is padding,
            which follows the valid steps.

    Example:
        >>> import torch
        >>> states = HiddenStates.of_lengths(torch.zeros(2, 3, 8), torch.tensor([3, 1]))
        >>> states.lengths
        tensor([3, 1])
    """

    values: Tensor
    valid: Tensor

    def __post_init__(self) -> None:
        if self.values.dim() != 3 or self.valid.shape != self.values.shape[:2]:
            raise ValueError(
                f"values, valid: got shapes {tuple(self.values.shape)} and "
                f"{tuple(self.valid.shape)}; they take (batch, step, unit) and (batch, step)"
            )
        if bool((self.valid[:, 1:] & ~self.valid[:, :-1]).any()):
            raise ValueError(
                "valid: a sequence has padding before a valid step; it takes sequences that are "
                "padded at their end"
            )

    @classmethod
    def of_lengths(cls, values: Tensor, lengths: Tensor) -> HiddenStates:
        """States of which the first ``lengths`` ``(batch,)`` steps of each sequence are valid."""
        batch, steps = values.shape[:2]
        if lengths.shape != (batch,):
            raise ValueError(
                f"lengths: got shape {tuple(lengths.shape)} for {batch} sequences; it takes one "
                "length for each"
            )
        if lengths.is_floating_point() or bool(((lengths < 1) | (lengths > steps)).any()):
            raise ValueError(
                f"lengths: got {lengths.dtype} values from {lengths.min()} to {lengths.max()}; it "
                f"takes integers from 1 to the {steps} steps of the states"
            )
        return cls(values, prefix_mask(lengths.to(values.device), steps))

    @classmethod
    def concatenate(cls, parts: Sequence[HiddenStates]) -> HiddenStates:
        """One batch of all sequences, padded at the end to the longest."""
        if len(parts) == 1:
            return parts[0]
        longest = max(part.values.shape[1] for part in parts)
        missing = [longest - part.values.shape[1] for part in parts]
        return cls(
            torch.cat(
                [
                    pad(part.values, (0, 0, 0, steps))
                    for part, steps in zip(parts, missing, strict=True)
                ]
            ),
            torch.cat(
                [pad(part.valid, (0, steps)) for part, steps in zip(parts, missing, strict=True)]
            ),
        )

    def __len__(self) -> int:
        return len(self.values)

    @property
    def lengths(self) -> Tensor:
        """Number of valid steps of each sequence, int64 ``(batch,)``."""
        return self.valid.sum(1)

    def select(self, sequences: Tensor) -> HiddenStates:
        """The states of some of the sequences, by index or mask."""
        return HiddenStates(self.values[sequences], self.valid[sequences])

    def has(self, step: int) -> bool:
        """Whether any sequence is long enough for a step, counted as in ``at``."""
        return bool(has_step(self.lengths, step).any())

    def at(self, step: int) -> HiddenStates:
        """The states at one step of every sequence, as states with one step.

        Args:
            step: Index of the step; a negative one counts back from each sequence's own end, so
                that -1 is its last valid step. Sequences too short for it are not valid there.

        Raises:
            ValueError: If no sequence has such a step.
        """
        lengths = self.lengths
        if not self.has(step):
            raise_no_step(step, lengths)
        position = torch.full_like(lengths, step) if step >= 0 else lengths + step
        valid = has_step(lengths, step)
        values = self.values[torch.arange(len(lengths), device=lengths.device), position * valid]
        return HiddenStates(values.unsqueeze(1), valid.unsqueeze(1))

    def check_finite(self, layer: str) -> None:
        """Raise a ValueError that says where, if a valid state is NaN or infinite."""
        if bool(torch.isfinite(self.values.sum())):
            return
        at_once = max(1, _ELEMENTS_AT_ONCE // max(1, self.values[:1].numel()))
        wrong = torch.cat(
            [
                (~torch.isfinite(values) & valid.unsqueeze(-1)).any(2).any(1)
                for values, valid in zip(
                    self.values.split(at_once), self.valid.split(at_once), strict=True
                )
            ]
        )
        if bool(wrong.any()):
            sequence = int(wrong.nonzero()[0])
            states = self.values[sequence]
            step, unit = (
                (~torch.isfinite(states) & self.valid[sequence].unsqueeze(-1)).nonzero()[0].tolist()
            )
            raise ValueError(
                f"states of {layer!r}: {float(states[step, unit])} at step {step}, unit {unit} (in "
                f"{int(wrong.sum())} of {len(wrong)} sequences states are not finite); look for "
                "diverging weights or non-finite inputs"
            )


def prefix_mask(lengths: Tensor, steps: int) -> Tensor:
    """Mask of the first ``lengths`` of ``steps`` steps, bool ``(batch, step)``."""
    return torch.arange(steps, device=lengths.device) < lengths.unsqueeze(-1)


def has_step(lengths: Tensor, step: int) -> Tensor:
    """Whether sequences of such lengths have a step, bool ``(batch,)``; negative from the end."""
    return lengths > step if step >= 0 else lengths >= -step


def raise_no_step(step: int, lengths: Tensor) -> NoReturn:
    """Raise the StepError that no sequence of such lengths has a step."""
    if len(lengths) == 0:
        raise StepError(f"time_steps: got {step}, but there is no sequence")
    raise StepError(
        f"time_steps: got {step}, but the longest sequence has {int(lengths.max())} steps"
    )


def check_time_steps(time_steps: Sequence[int] | None) -> None:
    """Raise a ValueError unless ``time_steps`` is None or a list of different steps."""
    if time_steps is None:
        return
    steps = list(time_steps) if isinstance(time_steps, Sequence) else []
    if not steps or any(isinstance(step, bool) or not isinstance(step, int) for step in steps):
        raise ValueError(f"time_steps: got {time_steps!r}; it takes a list of step indices")
    if len(set(steps)) < len(steps):
        raise ValueError(f"time_steps: got {time_steps!r}; name each step once")
