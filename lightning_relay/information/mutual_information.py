"""I(X_in; X_out | S), and the same for S with each of many candidate units added."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from lightning_relay.information.arguments import (
    check_codes,
    check_label_tensor,
    check_labels,
    check_valid,
)
from lightning_relay.information.counts import Groups, Rows, count_rows
from lightning_relay.information.entropy import Estimator, entropy_estimator

if TYPE_CHECKING:
    from torch import Tensor

_ELEMENTS_AT_ONCE = 2**22
"""Candidate units are counted together as long as rows times candidates stays below this."""


def mutual_information(
    x_in: Tensor,
    x_out: Tensor,
    given: Tensor | None = None,
    *,
    valid: Tensor | None = None,
    estimator: Estimator = "plugin",
) -> Tensor:
    r"""Mutual information of input and output, conditional on units where they are given, in bits.

    .. math:: I(X_{in}; X_{out} | Y)
        = H(X_{in}, Y) + H(X_{out}, Y) - H(X_{in}, X_{out}, Y) - H(Y)

    Args:
        x_in: Integer labels of the input, ``(samples,)`` or broadcastable to ``(…, samples)``.
        x_out: Integer labels of the output, of a shape like that of ``x_in``.
        given: Integer codes of the units conditioned on, ``(…, samples, units)``; default: none.
        valid: Boolean mask broadcastable to ``(…, samples)``; a sample with False is not counted.
        estimator: How entropies are estimated from counts.

    Returns:
        float64 tensor of shape ``(…)``, in bits.

    Raises:
        TypeError: If labels or codes are not integers.
        ValueError: If shapes do not fit, or there is no sample to count.

    Example:
        >>> import torch
        >>> bit = torch.tensor([0, 0, 1, 1])
        >>> mutual_information(bit, bit)
        tensor(1., dtype=torch.float64)
        >>> mutual_information(bit, bit, given=bit.unsqueeze(-1))
        tensor(0., dtype=torch.float64)
    """
    check_label_tensor("x_in", x_in)
    hidden = torch.zeros_like(x_in, dtype=torch.uint8).unsqueeze(-1) if given is None else given
    rows = labelled_rows(x_in, x_out, hidden, valid)
    condition = Condition.empty(rows, estimator)
    for unit in range(hidden.shape[-1]):
        condition = condition.with_unit(unit)
    return condition.information().reshape(rows.leading)


def labelled_rows(x_in: Tensor, x_out: Tensor, hidden: Tensor, valid: Tensor | None) -> Rows:
    """Checked arguments as counted rows with the columns X_in, X_out, Y_1 … Y_n."""
    check_codes(hidden)
    check_labels("x_in", x_in, hidden)
    check_labels("x_out", x_out, hidden)
    check_valid(valid, hidden)
    return count_rows((x_in, x_out, *hidden.unbind(-1)), valid)


@dataclass(frozen=True)
class Condition:
    """A set S of units that I(X_in; X_out | S) is conditioned on; S grows a unit at a time.

    Everything the project measures asks the same question again and again: what is
    I(X_in; X_out | S ∪ {j}) for every candidate unit j? So the samples are kept grouped by the
    state of S (alone, and with X_in, X_out or both), and a candidate only splits the groups.
    A state of S in which X_in or X_out is constant adds 0 to the plug-in estimate, whatever joins S
    later; its samples are left out, and as S grows soon few are left.

    Attributes:
        rows: The counted samples that are not left out, with the columns X_in, X_out, Y_1 … Y_n.
        groupings: The rows grouped by S, (X_in, S), (X_out, S) and (X_in, X_out, S).
        estimator: How entropies are estimated from counts.
    """

    rows: Rows
    groupings: tuple[Groups, Groups, Groups, Groups]
    estimator: Estimator

    @classmethod
    def empty(cls, rows: Rows, estimator: Estimator) -> Condition:
        """No unit in the condition."""
        entropy_estimator(estimator)
        nothing = rows.ungrouped()
        x_in, x_out = rows.codes[:, 0], rows.codes[:, 1]
        with_in = nothing.split(x_in, rows.levels[0])
        with_out = nothing.split(x_out, rows.levels[1])
        with_both = with_in.split(x_out, rows.levels[1])
        return cls(rows, (nothing, with_in, with_out, with_both), estimator)

    @property
    def unit_levels(self) -> int:
        """A number that the code of every unit stays below."""
        return max(self.rows.levels[2:])

    def with_unit(self, unit: int) -> Condition:
        """The condition with one more unit, the same for all leading indices."""
        return self.extended(self.rows.codes[:, 2 + unit])

    def extended(self, codes: Tensor) -> Condition:
        """The condition with one more unit, whose codes in ``self.rows`` are ``(rows,)``."""
        nothing, with_in, with_out, with_both = (
            groups.split(codes, self.unit_levels) for groups in self.groupings
        )
        varying = _varying(nothing, with_in) & _varying(nothing, with_out)
        kept = varying[nothing.of_row]
        return Condition(
            self.rows.select(kept),
            (
                nothing.select(kept),
                with_in.select(kept),
                with_out.select(kept),
                with_both.select(kept),
            ),
            self.estimator,
        )

    def information(self) -> Tensor:
        """I(X_in; X_out | S) in bits, float64 ``(indices,)``."""
        return self._information(
            self.groupings, self.rows.multiplicity, self.rows.samples, self.estimator
        )

    def information_with(self, candidates: Tensor) -> Tensor:
        """I(X_in; X_out | S ∪ {j}) for every candidate unit j.

        Args:
            candidates: Codes of the candidates in the rows, ``(rows, candidates)``. Which unit a
                column stands for may differ from one leading index to the next.

        Returns:
            float64 tensor ``(indices, candidates)``, in bits.
        """
        rows = self.rows
        indices = rows.samples.numel()
        at_once = max(1, _ELEMENTS_AT_ONCE // max(1, rows.index.numel()))
        values = []
        for block in candidates.split(at_once, dim=1):
            times = block.shape[1]
            codes = block.T.flatten()
            nothing, with_in, with_out, with_both = (
                groups.repeat(times, indices).split(codes, self.unit_levels)
                for groups in self.groupings
            )
            values.append(
                self._information(
                    (nothing, with_in, with_out, with_both),
                    rows.multiplicity.repeat(times),
                    rows.samples.repeat(times),
                    self.estimator,
                ).reshape(times, indices)
            )
        return torch.cat(values).T

    @staticmethod
    def _information(
        groupings: tuple[Groups, Groups, Groups, Groups],
        multiplicity: Tensor,
        samples: Tensor,
        estimator: Estimator,
    ) -> Tensor:
        estimate = entropy_estimator(estimator)
        nothing, with_in, with_out, with_both = (
            estimate(groups.sums(multiplicity), groups.index, samples) for groups in groupings
        )
        return with_in + with_out - with_both - nothing


def _varying(groups: Groups, labelled: Groups) -> Tensor:
    """Whether a group holds several groups of the finer ``labelled``, bool ``(groups,)``."""
    parent = torch.empty_like(labelled.index)
    parent[labelled.of_row] = groups.of_row
    return torch.bincount(parent, minlength=groups.index.numel()) > 1
