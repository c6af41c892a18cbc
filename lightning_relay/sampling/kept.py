"""States of one layer kept in memory: as they are, or as codes once thresholds are fitted."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING

import torch

from lightning_relay.information.discretization import Thresholds, fit_thresholds
from lightning_relay.recurrent.states import HiddenStates, StepError, has_step, raise_no_step
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
    from collections.abc import Iterator

    from torch import Tensor

    from lightning_relay.information.options import RelayMeasure
    from lightning_relay.sampling.sample import SequenceSample

_FEWEST = 32
"""A step that fewer of the first sequences have gets no thresholds, if there are that many."""


class KeptLayer:
    """What is kept of one layer: states, and codes once thresholds are fitted."""

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

    def write(self, states: HiddenStates, rows: Tensor, slots: Tensor, expected: int) -> None:
        """Keep some rows of a batch in their slots, of so many expected."""
        self.units = states.values.shape[2]
        if self.values is None:
            half = self.sample.storage == "half"
            expected = min(expected, self.sample.held)
            self.values = self._blocks_of_states(states, expected, half)
        if len(rows) == 0:
            return
        states = states.select(rows.to(states.values.device))
        self.lengths.write(slots, states.lengths)
        for column, step_states in self._columns(states):
            if self.coded:
                step_states = self._packed(step_states, column)
            self.values.write(slots, step_states, column)

    def write_checked(
        self, states: HiddenStates, rows: Tensor, slots: Tensor, expected: int
    ) -> None:
        """Keep some rows of a batch as they are, to compare thresholds with."""
        if self.checked is None:
            self.checked = self._blocks_of_states(states, min(expected, CHECKED), half=False)
        if len(rows) == 0:
            return
        states = states.select(rows.to(states.values.device))
        self.checked_lengths.write(slots, states.lengths)
        for column, step_states in self._columns(states):
            self.checked.write(slots, step_states, column)

    def fit(self, slots: Tensor, checked: Tensor, expected: int) -> None:
        """Fit thresholds to all that is kept, and keep only codes from now on."""
        states = self.values
        if states is None:
            raise RuntimeError("buffer: there are no states to fit thresholds to")
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
            codes.write(slots, self._packed(values.unsqueeze(1), column), column)
        self.values = codes
        self.coded = True
        # Checked against most of themselves the first sequences would agree too well.
        reference = checked[::2] if 2 * len(checked) > len(slots) else checked
        self.expected_agreement = self.agreement(reference)

    def agreement(self, slots: Tensor) -> float:
        """Lowest fraction, of all steps and units, of codes that own thresholds would give too."""
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
        """The column in which a step is kept; None if it is not."""
        steps = self.sample.time_steps
        if steps is not None:
            column = steps.index(step) if step in steps else None
        else:
            column = step + 1 if step >= -1 else None
        return None if self.coded and column not in self.thresholds else column

    def _columns(self, states: HiddenStates) -> Iterator[tuple[int, Tensor]]:
        """States ``(batch, step, unit)`` to be kept, each with its first column."""
        if self.sample.time_steps is None:
            yield 0, states.at(-1).values
            if self.coded:
                yield 1, states.values[:, : max(self.thresholds)]
            else:
                yield 1, states.values
            return
        for column, step in enumerate(self.sample.time_steps):
            if states.has(step) and not (self.coded and column not in self.thresholds):
                yield column, states.at(step).values

    def _steps(self, lengths: Tensor) -> Iterator[tuple[int, int]]:
        """Kept steps that enough sequences of such lengths have, each with its column."""
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

    def _packed(self, states: Tensor, first_column: int) -> Tensor:
        columns = range(first_column, first_column + states.shape[1])
        cuts = torch.stack([self.thresholds[column].cuts for column in columns])
        codes = Thresholds(cuts.to(states.device)).codes(
            states.transpose(0, 1), code_dtype(self.measure.levels)
        )
        return pack_codes(codes.transpose(0, 1).cpu(), self.measure.levels)

    def _blocks_of_states(self, states: HiddenStates, expected: int, half: bool) -> Blocks:
        columns = self.sample.columns(states.values.shape[1])
        dtype = torch.float16 if half else states.values.dtype
        return Blocks(expected, columns, states.values.shape[2], dtype)


class KeptStates:
    """States or codes of one layer that a buffer kept, read step by step.

    Attributes:
        lengths: Number of valid steps of each sequence, int64 ``(batch,)``.
        time_steps: Steps that were to be kept; None for all, and -1.
        discretization: Method of the codes, if codes were kept.
        levels: Number of codes.
        fitted: Number of sequences to which thresholds were fitted; None where states were kept,
            and none fitted yet.
        expected_agreement: What ``agreement`` would be if all sequences were like the first: that
            of these and a random part of themselves.
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
        """Whether the states of a step were kept, counted as in ``HiddenStates.at``."""
        return self._layer.column_of(step) is not None and bool(has_step(self.lengths, step).any())

    def at(self, step: int) -> HiddenStates:
        """The states or codes at one step of every sequence, as states with one step.

        Raises:
            ValueError: If no sequence has that step, or it was not kept.
        """
        layer, column = self._layer, self._layer.column_of(step)
        valid = has_step(self.lengths, step)
        if not bool(valid.any()):
            raise_no_step(step, self.lengths)
        if column is None or layer.values is None:
            if layer.coded and (self.time_steps is None or step in self.time_steps):
                raise StepError(
                    f"time_steps: got {step}, which fewer than {_FEWEST} of the first "
                    f"{self.fitted} sequences of {layer.key!r} have, so that there are no "
                    "thresholds for it; raise fit_samples, or shuffle the sequences once"
                )
            raise StepError(f"time_steps: got {step}, which was not kept of {layer.key!r}")
        values = layer.values.column(column, self._slots)
        if layer.coded:
            values = unpack_codes(values, layer.units, layer.measure.levels)
        return HiddenStates(values.unsqueeze(1), valid.unsqueeze(1))

    def agreement(self) -> float:
        """How well the thresholds suit a fair sample of the whole stream.

        Returns:
            Fraction of the codes of that sample that thresholds fitted to it would give too, at
            the step and of the unit where it is lowest; 1 where states were kept. Samples differ:
            compare it with ``expected_agreement``.
        """
        return self._layer.agreement(self._checked) if self._layer.coded else 1.0

    def left_out(self) -> int:
        """Number of sequences with a step for which there are no thresholds."""
        if self.fitted is None:
            return 0
        steps = self.time_steps
        if steps is None:
            first = next(step for step in count() if self._layer.column_of(step) is None)
            steps = (first,)
        without = [step for step in steps if self._layer.column_of(step) is None]
        beyond = torch.zeros(len(self.lengths), dtype=torch.bool)
        for step in without:
            beyond |= has_step(self.lengths, step)
        return int(beyond.sum())
