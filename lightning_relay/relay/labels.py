"""Codes of X_in and X_out, one for each sequence or one for each of its steps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from lightning_relay.information.options import IGNORED
from lightning_relay.reading.concepts import Concepts, concept_codes
from lightning_relay.reading.labels import TooFewLabelsError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    Codes = dict[str, tuple[Tensor, Tensor]]


class LabelCodes:
    """Codes of input and output by concept, for labels ``(batch,)`` or ``(batch, step)``.

    Attributes:
        counted: Codes of all labels that are counted, ``(labels,)`` each: all of sequences; of
            steps those that are not ``IGNORED``.
        ignored: Number of labels of steps that are ``IGNORED``.
    """

    def __init__(
        self,
        concepts: Concepts | None,
        x_in: Tensor,
        x_out: Tensor,
        num_classes: int | None,
        num_labels: int | None = None,
    ) -> None:
        self._counted = (x_in != IGNORED) & (x_out != IGNORED) if x_in.dim() == 2 else None
        self.ignored = 0 if self._counted is None else int((~self._counted).sum())
        if self._counted is not None:
            x_in, x_out = x_in[self._counted], x_out[self._counted]
            if not len(x_in):
                raise TooFewLabelsError(
                    f"x_in, x_out: all labels are {IGNORED}, which is not counted"
                )
        self.counted: Codes = concept_codes(
            concepts, x_in, x_out, num_classes=num_classes, num_labels=num_labels
        )

    @property
    def of_steps(self) -> bool:
        """Whether there is a label for each step."""
        return self._counted is not None

    def at(self, steps: Sequence[int], lengths: Tensor) -> tuple[Codes, Tensor | None]:
        """Codes at some steps, and which of them are counted, bool ``(step, batch)``; None: all.

        Codes are ``(step, batch)`` for labels of steps, and else ``(batch,)``. A negative step
        counts back from the end of each sequence.
        """
        if self._counted is None:
            return self.counted, None
        counted = self._counted
        wanted = torch.tensor(steps, device=counted.device).unsqueeze(1)
        places = torch.where(wanted < 0, lengths.to(counted.device) + wanted, wanted)
        inside = (places >= 0) & (places < counted.shape[1])
        rows, places = torch.arange(len(counted), device=counted.device), places * inside
        found = {
            name: tuple(self._spread(part)[rows, places] for part in parts)
            for name, parts in self.counted.items()
        }
        return found, counted[rows, places] & inside  # type: ignore[return-value]

    def _spread(self, codes: Tensor) -> Tensor:
        """Codes ``(batch, step)``, 0 where a label is not counted."""
        assert self._counted is not None
        full = torch.zeros(self._counted.shape, dtype=codes.dtype, device=codes.device)
        full[self._counted] = codes
        return full
