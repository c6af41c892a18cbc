"""Hidden states of a batch of sequences, with a mask that tells steps from padding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn, Protocol

import torch
from torch import Tensor
from torch.nn.functional import pad

from lightning_relay.recurrent.errors import StepError
from lightning_relay.recurrent.transfer import queued

_ELEMENTS_AT_ONCE = 2**19
"""Approximate number of values in a block of sequences that is checked at a time."""


class LayerStates(Protocol):
    """States of one recurrent layer that can be read step by step."""

    @property
    def lengths(self) -> Tensor:
        """Number of valid steps of each sequence, int64 ``(batch,)``."""

    def __len__(self) -> int:
        """Number of sequences."""

    def has(self, step: int) -> bool:
        """Whether there are states at a step, counted as in ``at``."""

    def at(self, step: int) -> HiddenStates:
        """States at one step of every sequence, with one step."""


@dataclass(frozen=True, eq=False)
class HiddenStates:
    """States of one recurrent layer.

    Attributes:
        values: States ``(batch, step, unit)``, also where the module has ``batch_first=False``.
            Floating values are states, integers are codes of states.
        valid: Whether a step belongs to the sequence, bool ``(batch, step)``. False is padding,
            which may only follow the valid steps.

    Raises:
        ValueError: If the shapes do not match, or a sequence has padding before a valid step.

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
                "valid: got padding before a valid step; it takes sequences padded at their end"
            )

    @classmethod
    def of_lengths(cls, values: Tensor, lengths: Tensor) -> HiddenStates:
        """States of padded sequences with known lengths.

        Args:
            values: States ``(batch, step, unit)``, padded at the end of each sequence.
            lengths: Number of valid steps of each sequence, integers ``(batch,)``.

        Raises:
            ValueError: If there is not one length for each sequence, or a length is no integer
                from 1 to the number of steps.
        """
        batch, steps = values.shape[:2]
        check_one_each(lengths, batch)
        if lengths.is_floating_point() or bool(((lengths < 1) | (lengths > steps)).any()):
            raise ValueError(
                f"lengths: got {lengths.dtype} values from {lengths.min()} to {lengths.max()}; it "
                f"takes integers from 1 to the {steps} steps of the states"
            )
        return cls.padded_at_end(values, prefix_mask(queued(lengths, values.device), steps))

    @classmethod
    def padded_at_end(cls, values: Tensor, valid: Tensor) -> HiddenStates:
        """States of which is known that ``valid`` fits; nothing is checked."""
        states = object.__new__(cls)
        object.__setattr__(states, "values", values)
        object.__setattr__(states, "valid", valid)
        return states

    @classmethod
    def concatenate(cls, parts: Sequence[HiddenStates]) -> HiddenStates:
        """One batch of the sequences of all parts, padded at the end to the longest."""
        if len(parts) == 1:
            return parts[0]
        steps = max(part.valid.shape[1] for part in parts)
        missing = [(part, steps - part.valid.shape[1]) for part in parts]
        return cls.padded_at_end(
            torch.cat([pad(part.values, (0, 0, 0, more)) for part, more in missing]),
            torch.cat([pad(part.valid, (0, more)) for part, more in missing]),
        )

    @classmethod
    def joined(cls, parts: Sequence[HiddenStates]) -> HiddenStates:
        """The sequences of the first part, which go on in the parts after it.

        Valid steps follow each other; padding moves to the end. All parts have one number of
        sequences.
        """
        values = torch.cat([part.values for part in parts], 1)
        valid = torch.cat([part.valid for part in parts], 1)
        if bool(valid.all()):
            return cls.padded_at_end(values, valid)
        order = torch.sort(valid.byte(), dim=1, descending=True, stable=True).indices
        values = values.gather(1, order.unsqueeze(-1).expand_as(values))
        lengths = valid.sum(1)
        steps = int(lengths.max())
        return cls.padded_at_end(values[:, :steps], prefix_mask(lengths, steps))

    def __len__(self) -> int:
        return len(self.values)

    @property
    def lengths(self) -> Tensor:
        """Number of valid steps of each sequence, int64 ``(batch,)``."""
        return self.valid.sum(1)

    def to(self, device: torch.device | str) -> HiddenStates:
        """The states on a device."""
        return self.padded_at_end(self.values.to(device), self.valid.to(device))

    def select(self, sequences: Tensor | slice) -> HiddenStates:
        """The states of some sequences, given by indices, mask or slice."""
        if isinstance(sequences, Tensor):
            rows = sequences.nonzero().squeeze(1) if sequences.dtype == torch.bool else sequences
            sequences = queued(rows, self.values.device)
        return self.padded_at_end(self.values[sequences], self.valid[sequences])

    def has(self, step: int) -> bool:
        """Whether any sequence is long enough for a step, counted as in ``at``."""
        return bool(has_step(self.lengths, step).any())

    def at(self, step: int) -> HiddenStates:
        """States at one step of every sequence, with one step ``(batch, 1, unit)``.

        Args:
            step: Index of the step. A negative index counts back from the end of each sequence: -1
                is its last valid step. Sequences without the step are marked as not valid.

        Raises:
            ValueError: If no sequence has the step.
        """
        if not self.has(step):
            raise_no_step(step, self.lengths)
        return self.known_at(step)

    def known_at(self, step: int) -> HiddenStates:
        """As ``at``, but none is valid if no sequence has the step."""
        lengths = self.lengths
        position = torch.full_like(lengths, step) if step >= 0 else lengths + step
        valid = has_step(lengths, step)
        values = self.values[torch.arange(len(lengths), device=lengths.device), position * valid]
        return self.padded_at_end(values.unsqueeze(1), valid.unsqueeze(1))

    @property
    def finite(self) -> Tensor:
        """A bool tensor; if true, ``check_finite`` raises no error."""
        return torch.isfinite(self.values.sum())

    def check_finite(self, layer: str) -> None:
        """Check that all valid states are finite.

        Args:
            layer: Layer key, for the message.

        Raises:
            ValueError: If a valid state is NaN or infinite; says at which step and unit.
        """
        if bool(self.finite):
            return
        at_once = max(1, _ELEMENTS_AT_ONCE // max(1, self.values[:1].numel()))
        blocks = zip(self.values.split(at_once), self.valid.split(at_once), strict=True)
        wrong = torch.cat([_not_finite(*block).flatten(1).any(1) for block in blocks])
        if bool(wrong.any()):
            sequence = int(wrong.nonzero()[0])
            states = self.values[sequence]
            step, unit = _not_finite(states, self.valid[sequence]).nonzero()[0].tolist()
            raise ValueError(
                f"states of {layer!r}: {float(states[step, unit])} at step {step}, unit {unit} (in "
                f"{int(wrong.sum())} of {len(wrong)} sequences states are not finite); look for "
                "diverging weights or non-finite inputs"
            )


def _not_finite(values: Tensor, valid: Tensor) -> Tensor:
    """Which valid states are NaN or infinite, bool ``(…, step, unit)``."""
    return ~torch.isfinite(values) & valid.unsqueeze(-1)


def check_one_each(lengths: Tensor, sequences: int) -> None:
    """Raise a ValueError unless there is one length for each sequence."""
    if lengths.shape != (sequences,):
        raise ValueError(
            f"lengths: got shape {tuple(lengths.shape)} for {sequences} sequences; it takes one "
            "length for each"
        )


def prefix_mask(lengths: Tensor, steps: int) -> Tensor:
    """Mask ``(batch, steps)`` that is True at the first ``lengths`` steps of each sequence."""
    return torch.arange(steps, device=lengths.device) < lengths.unsqueeze(-1)


def has_step(lengths: Tensor, step: int) -> Tensor:
    """Which sequences have a step, bool ``(batch,)``; a negative step counts from the end."""
    return lengths > step if step >= 0 else lengths >= -step


def every_step(states: LayerStates) -> list[int]:
    """Every step that there is and, if lengths differ, -1, the last of each sequence."""
    lengths = states.lengths
    steps = [step for step in range(int(lengths.max())) if states.has(step)]
    return steps if bool((lengths == lengths[0]).all()) else [*steps, -1]


def raise_no_step(step: int, lengths: Tensor) -> NoReturn:
    """Raise the StepError that no sequence has a step."""
    if len(lengths) == 0:
        raise StepError(f"time_steps: got {step}, but there is no sequence")
    raise StepError(
        f"time_steps: got {step}, but the longest sequence has {int(lengths.max())} steps"
    )


def check_time_steps(time_steps: Sequence[int] | None) -> None:
    """Raise a ValueError unless ``time_steps`` is None or a list of different integers."""
    if time_steps is None:
        return
    steps = list(time_steps) if isinstance(time_steps, Sequence) else []
    if not steps or any(isinstance(step, bool) or not isinstance(step, int) for step in steps):
        raise ValueError(f"time_steps: got {time_steps!r}; it takes a list of step indices")
    if len(set(steps)) < len(steps):
        raise ValueError(f"time_steps: got {time_steps!r}; name each step once")
