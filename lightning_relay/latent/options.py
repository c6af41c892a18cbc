"""Options of the latent structure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Inputs = Literal["zero", "mean"]
"""Constant input under which a module is iterated."""


@dataclass(frozen=True, kw_only=True)
class LatentMeasure:
    """How the latent structure of hidden states is measured.

    Attributes:
        n_components: Number of principal components kept; fewer if the layer has fewer units.
        max_samples: Maximum number of sequences whose states are kept for it, a fair sample.
        n_starts: Number of visited states from which a module is iterated; 0 to leave that out.
        n_steps: Maximum number of steps of the iteration, rounded up to a multiple of
            ``max_period``. A state that still moves then has not settled.
        max_period: Longest period of a cycle that is looked for, in steps.
        inputs: Constant input during the iteration: ``"zero"`` for no input, or ``"mean"`` for the
            mean over all steps of the sequences.
        seed: Seed of the fair sample and of the choice of states.

    Raises:
        TypeError: If ``seed`` is no integer.
        ValueError: If another option is unknown or out of its range; says which.

    Example:
        >>> LatentMeasure(n_starts=1024).n_steps
        2000
    """

    n_components: int = 3
    max_samples: int = 1024
    n_starts: int = 512
    n_steps: int = 2000
    max_period: int = 16
    inputs: Inputs = "zero"
    seed: int = 0

    def __post_init__(self) -> None:
        least = {"n_components": 2, "max_samples": 2, "n_starts": 0, "n_steps": 1, "max_period": 1}
        for name, smallest in least.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < smallest:
                raise ValueError(
                    f"{name}: got {value!r}; it takes an integer of at least {smallest}"
                )
        if self.n_steps <= self.max_period:
            raise ValueError(
                f"n_steps: got {self.n_steps}; it takes more than max_period, {self.max_period}"
            )
        if self.inputs not in get_args(Inputs):
            legal = " or ".join(repr(legal) for legal in get_args(Inputs))
            raise ValueError(f"inputs: got {self.inputs!r}; it takes {legal}")
        if isinstance(self.seed, bool) or not isinstance(self.seed, int):
            raise TypeError(f"seed: got {self.seed!r}; it takes an integer")
