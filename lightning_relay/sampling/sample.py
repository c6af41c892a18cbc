"""Options for the sequences that are kept for analysis, and the memory that they take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from lightning_relay.recurrent.states import check_time_steps
from lightning_relay.sampling.storage import code_dtype, packed_width

Storage = Literal["codes", "states", "half"]
"""What is kept of a state: its code, the state, or the state in half precision."""

CHECKED = 256
"""Number of sequences whose states are kept to the end, to check the thresholds."""


@dataclass(frozen=True, kw_only=True)
class SequenceSample:
    """Which sequences and steps are kept for analysis, and how.

    Attributes:
        max_samples: Maximum number of sequences kept, at least 2. If there are more, a fair sample
            is kept: each sequence is as likely as any other.
        fit_samples: Maximum number of sequences whose raw states stay in memory, at least 2. If
            more sequences are kept with ``storage="codes"``, thresholds are fitted to the first
            ``fit_samples``, and only codes stay in memory: one bit per state for two levels. The
            report says how well these thresholds suit a fair sample of all sequences; a warning
            says if they do not.
        storage: What is kept in memory. ``"codes"`` keeps codes if there are more than
            ``fit_samples`` sequences. ``"states"`` keeps the raw states of all kept sequences, and
            ``"half"`` keeps them in half precision (float16); both fit thresholds to all.
        time_steps: Steps kept. A negative step counts back from the end of each sequence. Default:
            all steps and, for sequences of different lengths, -1. A step that no kept sequence has
            is left out with a warning.
        max_bytes: Maximum CPU memory in bytes for the kept sequences of each dataloader; None for
            no maximum. Memory that fitting and analysis need for a moment is not counted. The need
            is estimated from the first batch, before anything is kept, and again when longer or
            more sequences come.
        seed: Seed of the fair sample.

    Raises:
        TypeError: If ``seed`` is no integer.
        ValueError: If another option is unknown or out of its range; says which.

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
                f"max_bytes: got {self.max_bytes!r}; it takes an integer number of bytes of at "
                "least 1, or None"
            )
        if isinstance(self.seed, bool) or not isinstance(self.seed, int):
            raise TypeError(f"seed: got {self.seed!r}; it takes an integer")

    @property
    def held(self) -> int:
        """Maximum number of sequences whose raw states stay in memory."""
        return self.fit_samples if self.codes_follow else self.max_samples

    @property
    def codes_follow(self) -> bool:
        """Whether only codes stay in memory once thresholds are fitted."""
        return self.storage == "codes" and self.fit_samples < self.max_samples

    def columns(self, steps: int) -> int:
        """Number of columns kept: ``time_steps``, or all steps and -1."""
        return steps + 1 if self.time_steps is None else len(self.time_steps)

    def bytes_of(
        self, sequences: int, steps: int, units: int, size: int, levels: int
    ) -> tuple[int, str]:
        """Largest number of bytes that a layer takes at a time, and the arithmetic in words.

        ``steps`` is that of the longest sequence, ``size`` the number of bytes of a state.
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
        codes = f"{columns} steps × {width} B of codes"
        if fitting > coding:
            how = f"{self.fit_samples} to fit thresholds × ({shape} + {codes})"
        else:
            how = f"{sequences} sequences × {codes}"
        return max(fitting, coding) + needed, f"{how}, {checked}"
