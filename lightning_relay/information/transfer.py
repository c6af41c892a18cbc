"""Relay transfer: whether the units that tell something at one step tell it at another."""

from __future__ import annotations

from dataclasses import dataclass
from math import log, nan, sqrt
from typing import TYPE_CHECKING

import numpy as np
import torch

from lightning_relay.information.compiled import compiled, in_threads
from lightning_relay.information.estimators import psi_of
from lightning_relay.information.given import information_given, information_of
from lightning_relay.information.lags import half_life, lag_profile, period
from lightning_relay.information.options import (
    TIE,
    Estimator,
    check_additive,
    check_fraction,
    check_splits,
    check_type,
)
from lightning_relay.information.ordering import let_join
from lightning_relay.information.rows import Samples
from lightning_relay.information.share import small_means, taken_along

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from lightning_relay.information.compiled import Bools, Floats, Ints, Numbers, Words
    from lightning_relay.information.estimators import Psi
    from lightning_relay.information.rows import Rows

_MOST_COUNTS = 2**12
"""Sets with at most this many counts of states and labels are counted in a table."""

_RANDOM_SETS = 32
"""Number of random sets of each size; fewer if the layer has fewer units."""

_ERRORS = 4.0
"""Bits are more than noise if they are more than this many standard errors."""

_LEAST = 0.05
"""Bits are more than noise only if they are more than this fraction of I(X_in; X_out)."""


@dataclass(frozen=True, eq=False)
class RelayTransfer:
    """How much of the information moves between units from step to step.

    Attributes:
        transfer: T(t, t'), float64 ``(steps, steps)``: what the units that tell the concept at step
            t (row) tell at step t' (column), on a scale from 0 (random units) to 1 (the units that
            tell it at t'). Below 0 the units tell less than random ones: the information has left
            them. NaN where it cannot be measured: t or t' has no set; or its set tells no more
            there than random sets of its size; or the set of t' tells no more at t' than random
            sets of the size of the set of t. More means by over four standard errors and over a
            twentieth of I(X_in; X_out).
        standard_error: Standard error of ``transfer`` by the choice of samples, of tied units and
            of random sets, float64 ``(steps, steps)``. It leaves out the choice of the set sizes.
        set_size: Number of units in the set of each step, int64 ``(steps,)``. 0, no set, if it
            tells at most four standard errors or a twentieth of I(X_in; X_out), or if X_in and
            X_out share no more than independent labels would.
        reached: What the set of each step tells, beyond permuted copies, as a fraction of
            I(X_in; X_out) and at most 1, float64 ``(steps,)``. It is low where the units tell
            little or samples are too few. 0 where there is no set; NaN if input and output share
            nothing.
        lag_profile: Mean of ``transfer`` over all measurable pairs of steps that are 1, 2, … steps
            apart, in both directions of time, float64 ``(steps - 1,)``; NaN where there is none.
        half_life: First lag in steps at which the profile is below one half; infinite if there is
            none, NaN if nothing can be measured.
        period: Lag in steps at which the information first returns to units that it had left: the
            profile is at least one half there and has risen by at least one half. 0 if there is no
            such lag in the first half of the profile; longer lags have too few pairs of steps.
    """

    transfer: Tensor
    standard_error: Tensor
    set_size: Tensor
    reached: Tensor
    lag_profile: Tensor
    half_life: float
    period: int


def relay_transfer(
    x_in: Tensor,
    x_out: Tensor,
    hidden: Tensor,
    *,
    fraction: float = 0.9,
    n_splits: int = 5,
    valid: Tensor | None = None,
    estimator: Estimator = "plugin",
    seed: int = 0,
) -> RelayTransfer:
    r"""Whether the units that tell a concept at one step tell it at another, for all pairs.

    Greedy orders cannot tell whether information moves, since they change with every tie. So sets
    of units are compared by what they tell, on samples that did not choose them. The samples are
    split into halves A and B. At each step t, units join a set, each time the one that tells most
    on A; of tied ones, one at random, anew in each half. What it adds is measured on B, beyond a
    permuted copy (see ``relay_share``), so noise adds nothing on average. :math:`S_t` is the set
    when it first tells a fraction of the most that it ever tells, or of
    :math:`I(X_{in}; X_{out})` if that is less, as a mean over splits. With
    :math:`G(t, S) = I(X_{in}; X_{out}) - I(X_{in}; X_{out} | Y_S(t))`, measured on B, and
    :math:`\bar G(t, k)`, its mean over random sets of k units:

    .. math:: T(t, t') = \frac{G(t', S_t) - \bar G(t', |S_t|)}{G(t', S_{t'}) - \bar G(t', |S_t|)}

    Numerator and denominator are means over several splits, with A and B in both roles. They
    compare sets of different sizes, so with the plug-in, which favours large sets, they are
    estimated by Grassberger's estimator. The
    measure does not depend on what codes are called, so a code that changes its sign has not moved.

    Args:
        x_in: Integer labels of the input, ``(samples,)`` or ``(steps, samples)``.
        x_out: Integer labels of the output, ``(samples,)`` or ``(steps, samples)``.
        hidden: Integer codes of the units' states, ``(steps, samples, units)``, of any values.
        fraction: Fraction of the most bits told that a set must tell, above 0 and up to 1.
        n_splits: Number of random splits into halves, at least 4.
        valid: Boolean mask broadcastable to ``(steps, samples)``; a sample with False is not
            counted at the step.
        estimator: Estimator of entropies from counts, any but ``"chao_shen"``; see above for the
            plug-in.
        seed: Seed of splits and random sets. No other random state is touched.

    Returns:
        Transfer between all steps, its standard error, the sets, and means by lag.

    Raises:
        TypeError: If labels or codes are not integers, or an option is not a number.
        ValueError: If shapes do not fit, an option is unknown or out of range, or there is no
            sample to count at a step.

    Example:
        A fair bit moves from unit 0 to unit 1, and back:

        >>> import torch
        >>> bit = torch.tensor([0, 1]).repeat(50)
        >>> other = torch.zeros_like(bit)
        >>> here, there = torch.stack([bit, other], -1), torch.stack([other, bit], -1)
        >>> found = relay_transfer(bit, bit, torch.stack([here, there, here, there]))
        >>> found.transfer[0].tolist(), found.half_life, found.period
        ([1.0, -1.0, 1.0, -1.0], 1.0, 2)

    Source:
        This project's own. Its picture is the temporal generalization matrix of decoding: King and
        Dehaene, Trends Cogn. Sci. 18:203 (2014). The error over repeated halves is that of Nadeau
        and Bengio, Mach. Learn. 52:239 (2003).
    """
    check_additive(estimator)
    check_splits(n_splits)
    check_fraction(fraction)
    check_type("seed", seed, int, "an integer")
    if hidden.dim() != 3:
        raise ValueError(
            f"hidden: got shape {tuple(hidden.shape)}; it takes codes (steps, samples, units)"
        )
    samples = Samples.of(x_in, x_out, hidden, valid, None)
    if samples.leading != hidden.shape[:1]:
        raise ValueError(
            f"x_in, x_out, valid: they broadcast to {tuple(samples.leading)} before the samples; "
            f"they take (samples,) or ({len(hidden)}, samples)"
        )
    generator = np.random.default_rng(seed % 2**64)  # torch takes negative seeds, numpy does not
    halves = np.concatenate([_halves(samples, generator) for _ in range(n_splits)])
    steps = in_threads(
        lambda step: _Step.of(samples, step, halves, estimator), range(samples.indices)
    )
    shared = np.array([step.shared for step in steps])
    priority = np.stack([generator.permutation(samples.units) for _ in halves])
    joined = in_threads(lambda step: step.joined(fraction, priority), steps)
    orders, gains = (np.stack(part) for part in zip(*joined, strict=True))
    sets = _Sets.of(orders, gains, shared, fraction, generator)
    left = np.stack(in_threads(lambda step: step.left(sets), steps))
    return _summed(sets, left, shared, samples.device)


def _halves(samples: Samples, generator: np.random.Generator) -> Bools:
    """A half of the samples and the other half ``(2, samples)``, with about the same labels."""
    shuffled = generator.permutation(samples.x_in.values.shape[-1])
    labels = np.concatenate([samples.x_in.values, samples.x_out.values])[:, shuffled]
    first = np.zeros((2, len(shuffled)), dtype=np.bool_)
    first[0, shuffled[np.lexsort(labels)[generator.integers(2) :: 2]]] = True
    first[1] = ~first[0]
    return first


@dataclass(frozen=True)
class _Sets:
    """Sets that the halves read, and as many random units."""

    members: Bools  # (sets, units), without repetition in a half.
    half: Ints  # (sets,) that reads the set.
    chosen: Ints  # (halves, steps) Place of the set that is read.
    random: Ints  # (halves, steps, windows) Places of random sets of the same size.
    size: Ints  # (steps,) Number of units in the set of each step; some halves need fewer.
    known: Floats  # (steps,) Bits that these units tell beyond permuted copies.

    @classmethod
    def of(
        cls,
        orders: Ints,
        gains: Floats,
        shared: Floats,
        fraction: float,
        generator: np.random.Generator,
    ) -> _Sets:
        """The smallest sets whose gains add up to a fraction of the most.

        ``orders`` are those in which units join, and ``gains`` what each adds, both
        ``(steps, halves, units)``. ``shared`` ``(steps,)`` is I(X_in; X_out).
        """
        _, halves, units = orders.shape
        curves = gains.cumsum(2)
        curve = curves.mean(1)
        most = np.minimum(curve.max(1), shared)
        size = (curve >= fraction * most[:, np.newaxis] - TIE).argmax(1) + 1
        here = np.arange(len(curve)), size - 1
        known = curve[here]
        size[known <= _large(_error(curves, 1)[here], shared)] = 0
        known = np.where(size > 0, np.minimum(known, shared), 0)
        joins = np.zeros((halves, *size.shape, units + 1), dtype=np.bool_)
        taken = np.where(np.arange(units) < size[:, None, None], orders, -1).swapaxes(0, 1)
        np.put_along_axis(joins, taken, True, axis=2)
        chosen = joins[..., :-1]  # -1 stands for no unit.
        windows = np.arange(min(_RANDOM_SETS, units))
        begins = windows * units // len(windows)
        members, half, places, random = [], [], [], []
        first = 0
        for reader in range(halves):
            different, place = np.unique(chosen[reader], axis=0, return_inverse=True)
            place = place.reshape(-1)
            sizes, kind = np.unique(different.sum(1), return_inverse=True)
            # Windows of one circular order have each unit about equally often.
            position = (generator.permutation(units) - begins[:, np.newaxis]) % units
            drawn = position < sizes[:, np.newaxis, np.newaxis]
            members += [different, drawn.reshape(-1, units)]
            half.append(np.full(len(different) + len(sizes) * len(windows), reader))
            places.append(first + place)
            begin = first + len(different) + kind[place] * len(windows)
            random.append(begin[:, np.newaxis] + windows)
            first += len(half[-1])
        together = (np.concatenate(members), np.concatenate(half))
        return cls(*together, np.stack(places), np.stack(random), size, known)


@dataclass(frozen=True)
class _Step:
    """The samples of one step."""

    rows: Rows
    codes: NDArray[np.uint8]  # (units, rows); without rows if codes do not fit.
    weight: Words  # (halves, rows) Number of samples of each row.
    psi: Psi
    unbiased: Psi  # For sets of different sizes.
    means: Floats  # Of psi, for permuted copies.
    shared: float  # I(X_in; X_out) of all samples, bits.

    @classmethod
    def of(cls, samples: Samples, step: int, halves: Bools, estimator: Estimator) -> _Step:
        rows, row = samples.merged(step)
        counted = row >= 0
        weight = [np.bincount(row[half & counted], minlength=len(rows.table)) for half in halves]
        first = np.empty(len(rows.table), dtype=np.int64)
        first[row[counted]] = np.flatnonzero(counted)
        hidden = samples.hidden[step]
        codes = hidden[first if hidden.dtype == np.uint8 else first[:0]].T
        none = np.zeros((1, rows.units), dtype=np.bool_)
        return cls(
            rows,
            np.ascontiguousarray(codes, np.uint8),
            np.stack(weight).astype(np.uint64),
            psi_of(estimator, rows.samples),
            psi_of("grassberger" if estimator == "plugin" else estimator, rows.samples),
            small_means(estimator),
            float(information_given(rows, estimator, none)[0]),
        )

    def joined(self, fraction: float, priority: Ints) -> tuple[Ints, Floats]:
        """Units in the order in which they join, -1 behind them, and what each adds, in bits.

        Both are ``(halves, units)``, as is ``priority``: the first of tied units joins. The other
        half of the split says which unit joins; what it adds, beyond a permuted copy, is that of
        the half. Units no longer join when what is left does not matter for the fraction, and none
        does if labels share no more than by chance.
        """
        rows = self.rows
        if self.shared <= self._by_chance():
            shape = len(self.weight), rows.units
            return np.full(shape, -1), np.zeros(shape)
        one = rows.masks(np.eye(rows.units, dtype=np.bool_))
        sizes = rows.outs, rows.levels, rows.planes, 8 * rows.bytes
        until = max(TIE, (1 - fraction) * self.shared / 10)
        return _joined(
            rows.table,
            rows.by_out,
            self.weight,
            one,
            sizes,
            self.psi,
            self.means,
            rows.counted,
            until,
            priority.astype(np.uint32),
        )

    def _by_chance(self) -> float:
        """Bits of I(X_in; X_out) that independent labels hardly exceed.

        Mean and four standard deviations of the chi-squared distribution that they follow (Wilks).
        """
        labels = self.rows.table[:, -2]
        parts = labels >> np.uint64(32), labels & np.uint64(2**32 - 1)
        freedom = np.prod([len(np.unique(part)) - 1 for part in parts])
        return float((freedom + 4 * sqrt(2 * freedom)) / (2 * self.rows.samples * log(2)))

    def left(self, sets: _Sets) -> Floats:
        """I(X_in; X_out | S) of each set in bits, in the half that reads it, ``(sets,)``."""
        rows = self.rows
        return _given(
            rows.table,
            rows.by_out,
            self.codes,
            rows.levels,
            rows.outs,
            self.weight,
            sets.half,
            sets.members,
            rows.masks(sets.members),
            self.unbiased,
        )


@compiled
def _joined(
    table: Words,
    by_out: Numbers,
    weight: Words,
    one: Words,
    sizes: tuple[int, int, int, int],
    psi: Psi,
    means: Floats,
    counted: bool,
    until: float,
    priority: Numbers,
) -> tuple[Ints, Floats]:
    """``_Step.joined`` for the rows of a table; ``one`` has the mask of each unit."""
    outs, levels, planes, stride = sizes
    orders = np.full((len(weight), len(one)), -1)
    gains = np.zeros(orders.shape, np.float64)
    chosen = np.empty(0, np.int64)
    for half in range(len(weight)):
        part, part_by_out, samples = _weighted(table, by_out, weight[half ^ 1])
        read, _, samples_read = _weighted(table, by_out, weight[half])
        if samples == 0 or samples_read == 0:
            continue
        orders[half] = let_join(
            part,
            part_by_out,
            one,
            (outs, samples, planes, stride),
            psi,
            not counted,
            False,
            chosen,
            priority[half].copy(),
            until,
        ).units
        joined = int((orders[half] >= 0).sum())
        gains[half, :joined] = taken_along(
            read,
            orders[half : half + 1, :joined],
            (outs, samples_read, levels, planes, stride),
            psi,
            means,
            (np.inf, 0.0),
        )[0][0]
    return orders, gains


@compiled
def _weighted(table: Words, by_out: Numbers, weight: Words) -> tuple[Words, Numbers, int]:
    """Rows with these weights, without those of weight 0; their order by X_out; their samples."""
    number = np.empty(len(table), np.uint32)
    rows = 0
    for row in range(len(table)):
        number[row] = rows
        rows += weight[row] > 0
    part, part_by_out = np.empty((rows, table.shape[1]), np.uint64), np.empty(rows, np.uint32)
    place = 0
    for row in range(len(table)):
        if weight[row]:
            part[number[row]] = table[row]
            part[number[row], -1] = weight[row]
        if weight[by_out[row]]:
            part_by_out[place] = number[by_out[row]]
            place += 1
    return part, part_by_out, int(weight.sum())


@compiled
def _given(
    table: Words,
    by_out: Numbers,
    codes: NDArray[np.uint8],
    levels: int,
    outs: int,
    weight: Words,
    half: Ints,
    members: Bools,
    masks: Words,
    psi: Psi,
) -> Floats:
    """I(X_in; X_out | S) in bits of sets S, each in one half.

    A few units have few states, so these are numbered and counted in a table with a line for each
    state and a column for each pair of labels. Other sets are counted with a hash table.
    """
    rows, labels = len(table), table.shape[1] - 2
    cell = np.empty(rows, np.uint32)
    x_in, x_out = np.empty(rows, np.uint32), np.empty(rows, np.uint32)
    cells = 0
    for row in range(rows):
        if row == 0 or table[row, labels] != table[row - 1, labels]:
            x_in[cells] = table[row, labels] >> np.uint64(32)
            x_out[cells] = table[row, labels] & np.uint64(2**32 - 1)
            cells += 1
        cell[row] = cells - 1
    total = weight.sum(1)
    state = np.empty(rows, np.uint32)
    count = np.zeros(_MOST_COUNTS, np.int64)
    of_out = np.zeros(outs, np.int64)
    weighted = table.copy()
    last = -1
    found = np.zeros(len(half), np.float64)
    for place in range(len(half)):
        here = half[place]
        if total[here] == 0:
            continue
        states = 1
        for unit in range(members.shape[1]):
            if members[place, unit] and states * cells <= _MOST_COUNTS:
                states *= levels
        if states * cells > _MOST_COUNTS or codes.shape[1] != rows:
            if here != last:
                weighted[:, -1] = weight[here]
                last = here
            found[place] = information_of(weighted, by_out, total[here], masks[place], psi)
            continue
        state[:] = 0
        for unit in range(members.shape[1]):
            if members[place, unit]:
                for row in range(rows):
                    state[row] = state[row] * np.uint32(levels) + codes[unit, row]
        count[: states * cells] = 0
        for row in range(rows):
            count[state[row] * np.uint32(cells) + cell[row]] += np.int64(weight[here, row])
        bits = 0.0
        for line in range(states):
            whole = alike = 0
            for column in range(cells):
                samples = count[line * cells + column]
                whole += samples
                alike += samples
                of_out[x_out[column]] += samples
                bits += psi.value[samples]
                if column == cells - 1 or x_in[column + 1] != x_in[column]:
                    bits -= psi.value[alike]
                    alike = 0
            bits += psi.value[whole]
            if whole:
                for out in range(outs):
                    bits -= psi.value[of_out[out]]
                    of_out[out] = 0
        found[place] = bits / total[here]
    return found


def _summed(sets: _Sets, left: Floats, shared: Floats, device: torch.device) -> RelayTransfer:
    """Transfer from I(X_in; X_out | S) ``(steps, sets)`` and I(X_in; X_out) ``(steps,)``."""
    random = left.T[sets.random].mean(2)
    left = left.T[sets.chosen]
    own = np.diagonal(left, axis1=1, axis2=2)
    gained, possible = random - left, random - own[:, np.newaxis]
    measurable = possible.mean(0) > _large(_error(possible, 0), shared)
    # A set must differ from random ones at its own step, too.
    found = np.diagonal(measurable) & (sets.size > 0)
    measurable &= found & found[:, np.newaxis]
    whole = np.where(measurable, possible.mean(0), nan)
    transfer = gained.mean(0) / whole
    residual = gained - transfer * possible
    profile = lag_profile(transfer, np.arange(len(transfer)))
    return RelayTransfer(
        transfer=torch.from_numpy(transfer).to(device),
        standard_error=torch.from_numpy(_error(residual, 0) / whole).to(device),
        set_size=torch.from_numpy(sets.size).to(device),
        reached=torch.from_numpy(sets.known / np.where(shared > TIE, shared, nan)).to(device),
        lag_profile=torch.from_numpy(profile).to(device),
        half_life=half_life(profile),
        period=period(profile),
    )


def _error(values: Floats, axis: int) -> Floats:
    """Standard error of a mean over halves along an axis."""
    error: Floats = values.std(axis, ddof=1)
    return error * sqrt(1 + 1 / values.shape[axis])


def _large(error: Floats, shared: Floats) -> Floats:
    """Bits above which a mean with this error is more than noise, beside I(X_in; X_out)."""
    least: Floats = np.maximum(np.maximum(_ERRORS * error, _LEAST * shared), TIE)
    return least
