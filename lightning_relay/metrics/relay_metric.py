"""What the metrics share: labels and codes, gathered as different rows with weights."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor
from torchmetrics import Metric

from lightning_relay.information.arguments import MOST_SAMPLES, check_integers
from lightning_relay.information.options import IGNORED

if TYPE_CHECKING:
    from collections.abc import Sequence

_LABELS = 3
"""Columns before the codes: step, X_in, X_out. The weight is the last column."""


class RelayMetric(Metric):
    """A measure of labels and codes that come in batches.

    Equal samples of a step are kept as one row with a weight, so memory grows with the number of
    different rows. Rows are measured in rising order: neither the division into batches and
    processes nor the order of the samples changes a bit of the result.
    """

    is_differentiable: bool = False
    higher_is_better: bool | None = None
    full_state_update: bool = False

    rows: list[Tensor]  # (rows, 3 + units + 1) each, int32; the first one has no equal rows.
    steps: Tensor  # Largest number of steps of a batch; 0 where codes are (batch, units).
    ignored: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        # "cat" gives a process without a batch a float tensor, which gloo and NCCL cannot gather.
        self.add_state("rows", [], dist_reduce_fx=None)
        self.add_state("steps", torch.tensor(0), dist_reduce_fx="max")
        self.add_state("ignored", torch.tensor(0), dist_reduce_fx="sum")

    def update(
        self, x_in: Tensor, x_out: Tensor, hidden: Tensor, valid: Tensor | None = None
    ) -> None:
        """Count a batch.

        Args:
            x_in: Integer labels of the input, ``(batch,)``; ``(batch, steps)`` if each step has
                one. Labels of -100 are left out.
            x_out: Predicted classes, integers ``(batch,)`` or ``(batch, steps)``. -100 is left out.
            hidden: Integer codes of the units' states, ``(batch, units)`` or
                ``(batch, steps, units)``. The number of steps may differ from batch to batch.
            valid: Boolean mask ``(batch,)`` or ``(batch, steps)``. False is padding, which is not
                counted.

        Raises:
            TypeError: If labels or codes are not integers, or ``valid`` is no mask.
            ValueError: If shapes do not fit, numbers exceed 32 bits, batches have different
                numbers of units, or a step has more than 2**26 samples since the last reset.
        """
        codes = _as_int32(
            "hidden", hidden, "cut the states at fixed thresholds: discretize(states, 'sign')"
        )
        if codes.dim() not in (2, 3) or not codes.shape[1:].numel():
            raise ValueError(
                f"hidden: got shape {tuple(hidden.shape)}; it takes (batch, units) or "
                "(batch, steps, units) with at least one unit"
            )
        self._check_units(codes.shape[-1])
        if valid is not None and (not isinstance(valid, Tensor) or valid.dtype != torch.bool):
            kind = valid.dtype if isinstance(valid, Tensor) else type(valid).__name__
            raise TypeError(f"valid: got {kind}; it takes a mask of torch.bool")
        ins = _as_int32("x_in", x_in, "give class labels or the codes of a concept")
        outs = _as_int32("x_out", x_out, "give predicted classes, such as scores.argmax(-1)")
        ins, outs = _as_codes("x_in", ins, codes), _as_codes("x_out", outs, codes)
        counted = torch.ones_like(ins, dtype=torch.bool)
        if valid is not None:
            counted = _as_codes("valid", valid, codes)
        ignored = ((ins == IGNORED) | (outs == IGNORED)) & counted
        step = torch.full_like(ins[:1], -1)
        if codes.dim() == 3:
            step = torch.arange(codes.shape[1], dtype=torch.int32, device=codes.device)
            self.steps = self.steps.clamp(min=codes.shape[1])
        self.ignored = self.ignored + ignored.sum().to(self.ignored.device)
        columns = [step.expand_as(ins), ins, outs, codes, torch.ones_like(ins)]
        columns = [part if part is codes else part.unsqueeze(-1) for part in columns]
        rows = torch.cat(columns, dim=-1)[counted & ~ignored]
        self._keep([*self.rows, rows.to("cpu" if self.compute_on_cpu else self.device)])

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Value of a batch, which is counted, too; takes what ``update`` takes."""
        value = super().forward(*args, **kwargs)
        self._keep(self.rows)
        return value

    def compute(self) -> Tensor:
        """Value of all batches since the last reset, in bits; NaN where no sample was counted."""
        rows = self._merged(self.rows)
        units, steps = rows.shape[1] - _LABELS - 1, int(self.steps)
        if units < 0:
            return torch.tensor(torch.nan, dtype=torch.float64, device=self.device)
        bits = torch.full(
            (max(1, steps), *self._shape(units)), torch.nan, dtype=torch.float64, device=rows.device
        )
        if len(rows):
            present, number = rows[:, 0].unique_consecutive(return_counts=True)
            place = torch.arange(int(number.max()), device=rows.device)
            last = number.unsqueeze(1) - 1
            # Steps with fewer rows are filled up with their last row, which does not count again.
            filled = rows[number.cumsum(0).unsqueeze(1) - 1 - last + place.minimum(last)]
            weights = filled[..., -1] * (place <= last)
            labels = filled[..., 1], filled[..., 2]
            bits[present.long()] = self._measure(*labels, filled[..., _LABELS:-1], weights)
        return (bits if steps else bits[0]).to(self.device)

    def sync(self, *args: Any, **kwargs: Any) -> None:
        """Gather the rows of all processes; one tensor of each, also where there was no batch."""
        self.rows = [self._merged(self.rows)]
        super().sync(*args, **kwargs)

    def set_dtype(self, dst_type: str | torch.dtype) -> Self:
        """Does nothing: rows hold integers, and bits are float64."""
        return self

    def _check_units(self, count: int) -> None:
        """Raise unless the options fit so many units."""

    def _shape(self, units: int) -> tuple[int, ...]:
        """Shape of the value of one step."""
        return ()

    @abstractmethod
    def _measure(self, x_in: Tensor, x_out: Tensor, hidden: Tensor, weights: Tensor) -> Tensor:
        """Values in bits ``(steps, …)`` of labels ``(steps, rows)`` and the codes of the rows."""

    def _keep(self, rows: Sequence[Tensor]) -> None:
        """Keep rows; merge them once those that came since are as many as those merged before."""
        newer = sum(map(len, rows[1:]))
        self.rows = [self._merged(rows)] if newer >= len(rows[0]) or len(rows) == 1 else [*rows]

    def _merged(self, rows: Sequence[Tensor]) -> Tensor:
        """The different rows in rising order, with the sums of their weights."""
        some = [part for part in rows if part.shape[1]]
        if not some:
            return torch.zeros(0, 0, dtype=torch.int32, device=self.device)
        widths = sorted({part.shape[1] - _LABELS - 1 for part in some})
        if len(widths) > 1:
            raise ValueError(
                f"hidden: got batches of {widths[0]} and of {widths[-1]} units; it takes the same "
                "units in every batch"
            )
        together = torch.cat(some)
        found, row = together[:, :-1].unique(dim=0, return_inverse=True)
        if len(found) and found[0, 0] < 0 < self.steps:
            raise ValueError(
                "hidden: got batches with steps and batches without; it takes (batch, units) or "
                "(batch, steps, units) in every batch"
            )
        weights = together.new_zeros(len(found)).index_add_(0, row, together[:, -1])
        if int(weights.sum(dtype=torch.int64)) > MOST_SAMPLES:
            _check_number(found[:, 0], weights)
        return torch.column_stack([found, weights])


def _check_number(steps: Tensor, weights: Tensor) -> None:
    """Raise a ValueError if a step has more samples than can be counted exactly."""
    _, step = steps.unique(return_inverse=True)
    numbers = torch.zeros(int(step.max()) + 1, dtype=torch.int64, device=steps.device)
    most = int(numbers.index_add_(0, step, weights.long()).max())
    if most > MOST_SAMPLES:
        raise ValueError(
            f"x_in: got {most} samples of a step since the last reset; the metric takes up to "
            f"{MOST_SAMPLES}; reset it more often, or give fewer samples"
        )


def _as_int32(name: str, given: Tensor, remedy: str) -> Tensor:
    check_integers(name, given, remedy)
    numbers = given.detach().to(torch.int32)
    if not torch.equal(numbers.to(given.dtype), given):
        raise ValueError(f"{name}: got numbers of more than 32 bits; number them from 0")
    return numbers


def _as_codes(name: str, given: Tensor, codes: Tensor) -> Tensor:
    """Labels or a mask in the shape of codes ``(batch, …, units)``, without the units."""
    shape = codes.shape[:-1]
    if given.shape not in (shape, shape[:1]):
        raise ValueError(
            f"{name}: got shape {tuple(given.shape)} for hidden {tuple(codes.shape)}, whose first "
            "dimension is the batch; it takes "
            + " or ".join(map(str, dict.fromkeys([tuple(shape[:1]), tuple(shape)])))
        )
    given = given.to(codes.device)
    return (given if given.dim() == len(shape) else given.unsqueeze(1)).expand(shape)
