"""A fair sample of sequences, gathered from a stream of batches in bounded memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from lightning_relay.recurrent.states import HiddenStates

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor


@dataclass(frozen=True, eq=False)
class Sequences:
    """Sequences with their hidden states and labels.

    Attributes:
        states: Hidden states by layer key.
        x_in: Label of the input of each sequence, int64 ``(batch,)``.
        x_out: Label that the model gave each sequence, int64 ``(batch,)``.
    """

    states: Mapping[str, HiddenStates]
    x_in: Tensor
    x_out: Tensor

    def __len__(self) -> int:
        return len(self.x_in)

    def select(self, sequences: Tensor) -> Sequences:
        """Some of the sequences, by index or mask."""
        return Sequences(
            {layer: states.select(sequences) for layer, states in self.states.items()},
            self.x_in[sequences],
            self.x_out[sequences],
        )


class SequenceBuffer:
    """Keeps up to ``max_samples`` of the sequences it is given, each as likely as any other.

    Every sequence draws a random number from the buffer's own generator, and those with the
    smallest are kept. So the sample depends on the seed and on the order of the sequences, not on
    how they were divided into batches, and no other random stream is touched.

    Args:
        max_samples: Number of sequences kept at most.
        seed: Seed of the buffer's own generator.

    Attributes:
        seen: Number of sequences given so far.
    """

    def __init__(self, max_samples: int, seed: int = 0) -> None:
        self.max_samples = max_samples
        self.seen = 0
        self._generator = torch.Generator().manual_seed(seed)
        self._parts: list[Sequences] = []
        self._draws: list[Tensor] = []

    def __len__(self) -> int:
        return sum(len(part) for part in self._parts)

    def add(self, sequences: Sequences) -> None:
        """Take in a batch; what is kept of it is held on the CPU."""
        self.seen += len(sequences)
        self._parts.append(sequences)
        self._draws.append(
            torch.rand(len(sequences), dtype=torch.float64, generator=self._generator, device="cpu")
        )
        draws = torch.cat(self._draws)
        if len(draws) > self.max_samples:
            self._keep(draws <= draws.kthvalue(self.max_samples).values)
        self._parts[-1] = _on_cpu(self._parts[-1])

    def sequences(self) -> Sequences:
        """The sequences kept, in the order in which they came.

        Raises:
            ValueError: If no sequence was given.
        """
        if not self._parts:
            raise ValueError("buffer: no sequence was added")
        layers = self._parts[0].states
        return Sequences(
            {
                layer: HiddenStates.concatenate([part.states[layer] for part in self._parts])
                for layer in layers
            },
            torch.cat([part.x_in for part in self._parts]),
            torch.cat([part.x_out for part in self._parts]),
        )

    def _keep(self, kept: Tensor) -> None:
        masks = kept.split([len(part) for part in self._parts])
        self._draws = [
            draws[mask] for draws, mask in zip(self._draws, masks, strict=True) if bool(mask.any())
        ]
        self._parts = [
            part if bool(mask.all()) else part.select(mask.to(part.x_in.device))
            for part, mask in zip(self._parts, masks, strict=True)
            if bool(mask.any())
        ]


def _on_cpu(sequences: Sequences) -> Sequences:
    return Sequences(
        {
            layer: HiddenStates(states.values.cpu(), states.valid.cpu())
            for layer, states in sequences.states.items()
        },
        sequences.x_in.cpu(),
        sequences.x_out.cpu(),
    )
