"""States of one layer in memory, which become codes once thresholds are fitted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn.functional import pad

from lightning_relay.information.discretization import Thresholds, fit_thresholds
from lightning_relay.recurrent.errors import StepError
from lightning_relay.recurrent.states import HiddenStates, has_step, raise_no_step
from lightning_relay.recurrent.transfer import queued
from lightning_relay.sampling.sample import CHECKED
from lightning_relay.sampling.storage import (
    Blocks,
    Numbers,
    code_dtype,
    pack_codes,
    packed_width,
    unpack_codes,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import Tensor

    from lightning_relay.information.options import RelayMeasure
    from lightning_relay.sampling.sample import SequenceSample

_FEWEST = 32
"""Number of first sequences that must have a step for it to get thresholds, or all if fewer."""


@dataclass(frozen=True, eq=False)
class Writing:
    """What ``write`` takes once it is in CPU memory."""

    parts: Sequence[Tensor]
    write: Callable[[Sequence[Tensor]], None]


class KeptLayer:
    """States of one layer, or codes once thresholds are fitted, by slot and column.

    With ``time_steps=None``, column 0 is step -1 and column t + 1 is step t. Otherwise each of the
    ``time_steps`` has a column.
    """

    def __init__(self, key: str, sample: SequenceSample, measure: RelayMeasure) -> None:
        self.key = key
        self.sample = sample
        self.measure = measure
        self.units = 0
        self.lengths = Numbers(torch.int64)
        self.checked_lengths = Numbers(torch.int64)
        self.thresholds: dict[int, Thresholds] = {}
        self.coded = False
        self.expected_agreement = 1.0
        self.values: Blocks | None = None
        self.checked: Blocks | None = None

    def write(self, states: HiddenStates, rows: Tensor, slots: Tensor, expected: int) -> Writing:
        """Keep some rows of a batch in slots; ``expected`` is the number of slots to come."""
        self.units = states.values.shape[2]
        if self.values is None:
            half = self.sample.storage == "half"
            expected = min(expected, self.sample.held)
            self.values = self._blocks_of_states(states, expected, half)
        return self._writing(self.values, self.lengths, states, rows, slots)

    def write_checked(
        self, states: HiddenStates, rows: Tensor, slots: Tensor, expected: int
    ) -> Writing:
        """Keep the raw states of some rows of a batch, to check the thresholds with."""
        if self.checked is None:
            self.checked = self._blocks_of_states(states, min(expected, CHECKED), half=False)
        return self._writing(self.checked, self.checked_lengths, states, rows, slots)

    def rows(self, slots: Tensor) -> tuple[Tensor, Tensor]:
        """States ``(slot, column, unit)`` in some slots, and the lengths of their sequences."""
        states = self.values
        assert states is not None
        columns = [states.column(column, slots) for column in range(states.columns)]
        return torch.stack(columns, 1), self.lengths.read(slots)

    def take(self, parts: Sequence[tuple[Tensor, Tensor]], rows: Tensor, slots: Tensor) -> None:
        """Keep some rows of what several layers gave by ``rows``, one after the other, in slots."""
        columns = max(values.shape[1] for values, _ in parts)
        padded = [pad(values, (0, 0, 0, columns - values.shape[1])) for values, _ in parts]
        values = torch.cat(padded)[rows]
        self.units = values.shape[2]
        self.values = Blocks(len(slots), columns, self.units, values.dtype)
        self.values.write(slots, values)
        self.lengths.write(slots, torch.cat([lengths for _, lengths in parts])[rows])

    def fit(self, slots: Tensor, checked: Tensor, expected: int) -> None:
        """Fit thresholds to the states in some slots, and keep only codes from now on."""
        states = self.values
        assert states is not None
        lengths = self.lengths.read(slots)
        codes = Blocks(
            expected,
            self.sample.columns(int(lengths.max())),
            packed_width(self.units, self.measure.levels),
            code_dtype(self.measure.levels),
        )
        for step, column in self._steps(lengths):
            values = states.column(column, slots)
            self.thresholds[column] = self._fitted(values, has_step(lengths, step))
            own = self._codes(values.unsqueeze(1), column)
            codes.write(slots, pack_codes(own, self.measure.levels), column)
        self.values = codes
        self.coded = True
        # Sequences checked against thresholds fitted mostly to themselves would agree too well.
        reference = checked[::2] if 2 * len(checked) > len(slots) else checked
        self.expected_agreement = self.agreement(reference)

    def agreement(self, slots: Tensor) -> float:
        """Fraction of the codes of the checked sequences that their own thresholds would give too.

        It is the fraction of the step and unit where it is lowest; 1 without thresholds.
        """
        if self.checked is None or not self.thresholds:
            return 1.0
        lowest = 1.0
        lengths = self.checked_lengths.read(slots)
        for step, column in self._steps(lengths):
            values = self.checked.column(column, slots)[has_step(lengths, step)]
            own = self._fitted(values, torch.ones(len(values), dtype=torch.bool)).codes(values)
            same = own == self.thresholds[column].codes(values)
            lowest = min(lowest, float(same.double().mean(0).min()))
        return lowest

    def column_of(self, step: int) -> int | None:
        """The column in which a step is kept, or None."""
        steps = self.sample.time_steps
        if steps is not None:
            column = steps.index(step) if step in steps else None
        else:
            column = step + 1 if step >= -1 else None
        return None if self.coded and column not in self.thresholds else column

    def _columns(self, states: HiddenStates) -> Iterator[tuple[int, Tensor]]:
        """States ``(batch, step, unit)`` to keep, each with its first column."""
        if states.values.shape[1] == 0:
            raise_no_step(-1, states.lengths)
        if self.sample.time_steps is None:
            yield 0, states.known_at(-1).values
            yield 1, states.values[:, : max(self.thresholds)] if self.coded else states.values
            return
        for column, step in enumerate(self.sample.time_steps):
            if step < states.values.shape[1] and self.column_of(step) is not None:
                yield column, states.known_at(step).values

    def _writing(
        self, blocks: Blocks, lengths: Numbers, states: HiddenStates, rows: Tensor, slots: Tensor
    ) -> Writing:
        if len(rows) == 0:
            return Writing([], lambda _: None)
        states = states.select(rows)
        columns, parts = [], []
        codes = self.coded and blocks is self.values
        for column, values in self._columns(states):
            columns.append(column)
            parts.append(self._codes(values, column) if codes else values.to(blocks.dtype))

        def write(parts: Sequence[Tensor]) -> None:
            *values, own = parts
            lengths.write(slots, own)
            for column, part in zip(columns, values, strict=True):
                packed = pack_codes(part, self.measure.levels) if codes else part
                blocks.write(slots, packed, column)

        return Writing([*parts, states.lengths], write)

    def _steps(self, lengths: Tensor) -> Iterator[tuple[int, int]]:
        """Kept steps that enough sequences have, each with its column."""
        steps = self.sample.time_steps
        for step in (-1, *range(int(lengths.max()))) if steps is None else steps:
            column = self.column_of(step)
            long_enough = int(has_step(lengths, step).sum())
            if column is not None and long_enough >= min(_FEWEST, len(lengths)):
                yield step, column

    def _fitted(self, values: Tensor, valid: Tensor) -> Thresholds:
        return fit_thresholds(
            values,
            self.measure.discretization,
            levels=self.measure.levels,
            valid=valid,
            layer=self.key,
        )

    def _codes(self, states: Tensor, first_column: int) -> Tensor:
        columns = range(first_column, first_column + states.shape[1])
        cuts = torch.stack([self.thresholds[column].cuts for column in columns])
        codes = Thresholds(queued(cuts, states.device)).codes(
            states.transpose(0, 1), code_dtype(self.measure.levels)
        )
        return codes.transpose(0, 1)

    def _blocks_of_states(self, states: HiddenStates, expected: int, half: bool) -> Blocks:
        columns = self.sample.columns(states.values.shape[1])
        dtype = torch.float16 if half else states.values.dtype
        return Blocks(expected, columns, states.values.shape[2], dtype)


class KeptStates:
    """States or codes of one layer that a buffer kept, read step by step.

    Attributes:
        lengths: Number of valid steps of each sequence, int64 ``(batch,)``.
        time_steps: Steps that were to be kept; None for all steps and -1.
        discretization: Method of the thresholds, if codes were kept.
        levels: Number of codes.
        fitted: Number of sequences to which thresholds were fitted; None if states were kept.
        expected_agreement: Value of ``agreement`` that is expected if all sequences are like the
            first, as a fraction. It is the agreement of the first sequences with a random part of
            themselves.
    """

    def __init__(self, layer: KeptLayer, slots: Tensor, checked: Tensor) -> None:
        self._layer = layer
        self._slots = slots
        self._checked = checked
        self.lengths = layer.lengths.read(slots)
        self.time_steps = layer.sample.time_steps
        self.discretization = layer.measure.discretization
        self.levels = layer.measure.levels
        self.fitted = layer.sample.held if layer.coded else None
        self.expected_agreement = layer.expected_agreement

    def __len__(self) -> int:
        return len(self.lengths)

    def has(self, step: int) -> bool:
        """Whether a step was kept and any sequence has it, counted as in ``HiddenStates.at``."""
        return self._layer.column_of(step) is not None and bool(has_step(self.lengths, step).any())

    def at(self, step: int) -> HiddenStates:
        """States or codes at one step of every sequence, with one step ``(batch, 1, unit)``.

        Args:
            step: Index of the step. A negative index counts back from the end of each sequence.

        Raises:
            ValueError: If no sequence has the step, or it was not kept.
        """
        layer, column = self._layer, self._layer.column_of(step)
        valid = has_step(self.lengths, step)
        if not bool(valid.any()):
            raise_no_step(step, self.lengths)
        if column is None or layer.values is None:
            if layer.coded and (self.time_steps is None or step in self.time_steps):
                raise StepError(
                    f"time_steps: got {step}, which fewer than {_FEWEST} of the first "
                    f"{self.fitted} sequences of {layer.key!r} have, so it has no thresholds; "
                    "raise fit_samples, or shuffle the sequences once"
                )
            raise StepError(
                f"time_steps: got {step}, which was not kept of {layer.key!r}; add it to the "
                "time_steps of SequenceSample"
            )
        values = layer.values.column(column, self._slots)
        if layer.coded:
            values = unpack_codes(values, layer.units, layer.measure.levels)
        return HiddenStates(values.unsqueeze(1), valid.unsqueeze(1))

    def agreement(self) -> float:
        """How well the thresholds suit a fair sample of all sequences.

        Returns:
            Fraction of the codes of the sample that thresholds fitted to the sample would give too,
            at the step and unit where it is lowest; 1 if states were kept. It varies from sample
            to sample, so compare it with ``expected_agreement``.
        """
        return self._layer.agreement(self._checked) if self._layer.coded else 1.0

    def left_out(self) -> int:
        """Number of sequences with a step that has no thresholds."""
        if self.fitted is None:
            return 0
        steps = (
            range(len(self._layer.thresholds) + 1) if self.time_steps is None else self.time_steps
        )
        beyond = torch.zeros(len(self.lengths), dtype=torch.bool)
        for step in steps:
            if self._layer.column_of(step) is None:
                beyond |= has_step(self.lengths, step)
        return int(beyond.sum())
