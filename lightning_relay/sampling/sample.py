"""Which sequences of an evaluation are kept, and how: options, and the memory that they take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from lightning_relay.recurrent.states import check_time_steps
from lightning_relay.sampling.storage import code_dtype, packed_width

Storage = Literal["codes", "states", "half"]
"""What is kept of a state: its code, itself, or itself in half precision."""

CHECKED = 256
"""Sequences whose states are kept to the end to compare the thresholds with."""


@dataclass(frozen=True, kw_only=True)
class SequenceSample:
    """Which sequences and steps are kept for analysis, and how.

    Attributes:
        max_samples: Number of sequences kept at most, a fair sample of those seen; at least 2.
        fit_samples: Of how many sequences at most the states themselves are held in memory. Where
            more are kept, thresholds are fitted to the first so many, and of all only codes are
            held, one bit per state for two levels; the report says how well these thresholds suit a
            fair sample of all sequences, and if they do not, a warning does.
        storage: ``"codes"`` as above; ``"states"`` or ``"half"`` hold the states of all kept
            sequences, as they are or in half precision (float16), so that thresholds are fitted to
            all.
        time_steps: Steps kept; a negative one counts back from each sequence's own end. Default:
            all and, for sequences of different lengths, -1. A step that no kept sequence has is
            left out with a warning.
        max_bytes: CPU memory that what is kept may take, for each dataloader; None for any. What is
            needed beside for the moment, to fit thresholds and to analyse, is not counted. It is
            estimated from the first batch, before anything is kept, and again when longer or more
            sequences come.
        seed: Seed of the sample.

    Raises:
        TypeError: If the seed is no integer.
        ValueError: If an option is unknown or out of its range; says which.

    Example:
        >>> SequenceSample(max_samples=100_000, fit_samples=2048).codes_follow
        True
    """

    max_samples: int = 4096
    fit_samples: int = 4096
    storage: Storage = "codes"
    time_steps: Sequence[int] | None = None
    max_bytes: int | None = 2**31
    seed: int = 0

    def __post_init__(self) -> None:
        if self.storage not in get_args(Storage):
            legal = ", ".join(repr(legal) for legal in get_args(Storage))
            raise ValueError(f"storage: got {self.storage!r}; it takes {legal}")
        check_time_steps(self.time_steps)
        if self.time_steps is not None:
            object.__setattr__(self, "time_steps", tuple(self.time_steps))
        for name in ("max_samples", "fit_samples"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 2:
                raise ValueError(f"{name}: got {value!r}; it takes an integer of at least 2")
        if self.max_bytes is not None and (
            not isinstance(self.max_bytes, int) or self.max_bytes < 1
        ):
            raise ValueError(
                f"max_bytes: got {self.max_bytes!r}; it takes an integer number of bytes"
            )
        if isinstance(self.seed, bool) or not isinstance(self.seed, int):
            raise TypeError(f"seed: got {self.seed!r}; it takes an integer")

    @property
    def held(self) -> int:
        """Number of sequences whose states themselves are held at most."""
        return self.fit_samples if self.codes_follow else self.max_samples

    @property
    def codes_follow(self) -> bool:
        """Whether codes are kept as soon as thresholds can be fitted."""
        return self.storage == "codes" and self.fit_samples < self.max_samples

    def columns(self, steps: int) -> int:
        """Number of steps kept of sequences of so many steps."""
        return steps + 1 if self.time_steps is None else len(self.time_steps)

    def bytes_of(
        self, sequences: int, steps: int, units: int, size: int, levels: int
    ) -> tuple[int, str]:
        """Largest number of bytes held of a layer at a time, and how it comes about, in words.

        Args:
            sequences: Number of sequences.
            steps: Number of steps of the longest.
            units: Number of units.
            size: Bytes of a state.
            levels: Number of codes.
        """
        columns = self.columns(steps)
        size = 2 if self.storage == "half" else size
        row = columns * units * size
        shape = f"{columns} steps × {units} units × {size} B"
        if not self.codes_follow:
            return sequences * row, f"{sequences} sequences × {shape}"
        checked = f"{min(CHECKED, sequences)} to check thresholds × {shape}"
        needed = min(CHECKED, sequences) * row
        if sequences <= self.fit_samples:
            return sequences * row + needed, f"{sequences} sequences × {shape}, {checked}"
        width = packed_width(units, levels) * code_dtype(levels).itemsize
        fitting = self.fit_samples * (row + columns * width)
        coding = sequences * columns * width
        if fitting > coding:
            how = (
                f"{self.fit_samples} to fit thresholds × ({shape} + {columns} × {width} B of codes)"
            )
        else:
            how = f"{sequences} sequences × {columns} steps × {width} B of codes"
        return max(fitting, coding) + needed, f"{how}, {checked}"
