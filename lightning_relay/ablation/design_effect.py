"""How much less labels of the same sequence tell than labels of different sequences."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def design_effect(
    values: NDArray[Any],
    sequences: NDArray[np.int64],
    parts: NDArray[np.int64],
    number: int,
) -> NDArray[np.float64]:
    """Variance of mean values, with whole sequences drawn, over that with single samples drawn.

    The number of samples divided by it is the number of independent samples that would give a mean
    as certain. Source: Rao and Scott, Biometrics 48:577 (1992), who divide the counts of clustered
    binary data by it. They do this for one proportion. This project takes the effect of the
    difference of two for both, at least 1, and where all values are equal, the mean number of
    samples of a sequence, so that sequences are counted.

    Args:
        values: Numbers whose means are estimated, ``(run, sample)``.
        sequences: Number of the sequence of each sample, int64 ``(sample,)``.
        parts: Part of each sample, from 0 to ``number - 1``, int64 ``(sample,)``: there is a mean
            for each.
        number: Number of parts.

    Returns:
        Effects ``(run, part)``; 1 for a part without samples.
    """
    pairs, place = np.unique(sequences * number + parts, return_inverse=True)
    part = pairs % number
    sizes = np.bincount(place).astype(np.float64)
    samples = np.bincount(part, sizes, number)
    clusters = np.bincount(part, minlength=number).astype(np.float64)
    squares = np.bincount(part, sizes**2, number)
    found = np.ones((len(values), number))
    many = (samples > 1) & (clusters > 1)
    alone = (samples > 1) & (clusters == 1)
    found[:, alone] = samples[alone]
    for row, numbers in zip(found, values, strict=True):
        own = numbers.astype(np.float64)
        sums = np.bincount(place, own, len(pairs))
        total = np.bincount(part, sums, number)[many]
        count, drawn = samples[many], clusters[many]
        mean = total / count
        apart = (
            np.bincount(part, sums**2, number)[many]
            - 2 * mean * np.bincount(part, sums * sizes, number)[many]
            + mean**2 * squares[many]
        )
        of_sequences = drawn / (drawn - 1) * apart / count**2
        square = np.bincount(parts, own**2, number)[many] / count
        equal = square - mean**2 <= 1e-12 * square
        of_samples = np.where(equal, 1, (square - mean**2) / (count - 1))
        ratio = of_sequences / of_samples
        row[many] = np.maximum(np.where(equal, count / drawn, ratio), 1)
    return found
