"""Chance level of relay information: its values when X_out is permuted."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from lightning_relay.information.arguments import checked_units
from lightning_relay.information.compiled import compiled, in_threads
from lightning_relay.information.estimators import psi_of
from lightning_relay.information.given import number_states
from lightning_relay.information.options import TIE, Within, checked_permutations
from lightning_relay.information.rows import Samples, mixed, sorted_by

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from lightning_relay.information.compiled import Bools, Floats, Numbers, Words


@dataclass(frozen=True, eq=False)
class ChanceLevel:
    """Chance level of I(X_in; X_out | Y_0) of sets of units, for every leading index apart.

    Attributes:
        information: Plug-in I(X_in; X_out | Y_0) of the data, bits, float64 ``(…, sets)``.
        mean: Mean of the information under permutation, bits, float64 ``(…, sets)``: the bias of
            the plug-in value if the null hypothesis holds.
        threshold: The (1 - level) quantile of the information under permutation, of each set and
            index alone, bits, float64 ``(…, sets)``. ``information`` is above it (by more than
            1e-9) exactly where ``p_values`` is at most ``level``.
        p_values: Probability of at least this ``information`` by chance, of each set and index
            alone, float64 ``(…, sets)``; never 0.
        family_p_values: Probability of at least this ``information`` by chance, corrected for
            testing all sets at all leading indices, float64 ``(…, sets)``; never below
            ``p_values``.
        movable: Fraction of the samples in states of Y_0 where a permutation can change anything,
            because X_in and X_out both vary, float64 ``(…, sets)``. With ``within="everywhere"``,
            X_out need only vary somewhere.
        n_permutations: Number of permutations.
        level: Probability of a false finding at ``threshold``.
        seed: Seed of the permutations.
        within: Where X_out was permuted.
    """

    information: Tensor
    mean: Tensor
    threshold: Tensor
    p_values: Tensor
    family_p_values: Tensor
    movable: Tensor
    n_permutations: int
    level: float
    seed: int
    within: Within

    @property
    def empty(self) -> Tensor:
        """Whether nothing could be permuted, so that p is 1, bool ``(…, sets)``.

        An empty test says that the data cannot tell, not that the set relays nothing.
        """
        return self.movable == 0


def chance_level(
    x_in: Tensor,
    x_out: Tensor,
    hidden: Tensor,
    relay_units: Sequence[Sequence[int]] | None = None,
    *,
    within: Within = "states",
    n_permutations: int = 200,
    valid: Tensor | None = None,
    level: float = 0.05,
    seed: int = 0,
) -> ChanceLevel:
    r"""Chance level of the relay information of sets R of units, by permutation of X_out.

    .. math:: I(X_{in}; X_{out} | Y_0)
        = H(X_{in}, Y_0) + H(X_{out}, Y_0) - H(X_{in}, X_{out}, Y_0) - H(Y_0)

    Y_0 is the joint state of the units outside R. Only this first term of
    :math:`I_R = I(X_{in}; X_{out} | Y_0) - I(X_{in}; X_{out} | Y)` is tested. The second term is
    small in the data because X_out depends on Y. A permutation destroys that dependence and makes
    the second term as large as its bias. A test of the difference would therefore compare with
    values that are too small, and find relays where there are none (it would be anti-conservative).

    - ``within="states"`` permutes X_out among the samples that share a state of Y_0. Null
      hypothesis: X_in and X_out are independent given Y_0, so the other units account for all that
      the output knows of the input.
    - ``within="everywhere"`` permutes X_out among all valid samples of a leading index. Null
      hypothesis: X_out is independent of (X_in, Y). A trained network is expected to violate it,
      whichever set is tested; the result is the chance level of an untrained network.

    A p-value is (1 + number of permutations with at least the observed value) / (1 + number of
    permutations). The test of one set at one leading index is exact if samples are independent
    draws: under the null hypothesis, p <= level has at most the probability ``level``, whatever the
    number of samples.

    The family-wise p-value compares each standardised value with the largest over all sets and
    leading indices (the maximum statistic of Westfall and Young, in one step). Standardised is
    (value - mean) / sd, with mean and sd over the permutations and the data together, so that the
    data are treated like a permutation. A set that no permutation changes is never the largest. The
    same random numbers permute the samples of all sets and indices. The family-wise p-value is
    exact if all samples are permuted alike: ``"everywhere"``, with the same samples valid at all
    indices. With ``"states"`` the states, and so the permutations, differ between sets. The
    dependence between sets is then lost and the p-value is approximate, usually too large, because
    the largest of less dependent values is larger.

    Args:
        x_in: Integer labels of the input, ``(samples,)`` or broadcastable to ``(…, samples)``.
        x_out: Integer labels of the output, ``(samples,)`` or broadcastable to ``(…, samples)``.
        hidden: Integer codes of the units' states, ``(…, samples, units)``, of any values.
        relay_units: Sets R to test, each a sequence of unit indices; default: each unit alone. The
            empty set is allowed: Y_0 is then all units.
        within: Samples among which X_out is permuted, ``"states"`` or ``"everywhere"``.
        n_permutations: Number of permutations; no p-value is below 1 / (n_permutations + 1).
        valid: Boolean mask broadcastable to ``(…, samples)``; a sample with False is not counted.
        level: Probability of a false finding at the threshold, between 0 and 1.
        seed: Seed of the permutations, which are the same on every device. No other random state is
            touched.

    Returns:
        The observed values, their chance levels, and p-values.

    Raises:
        TypeError: If labels, codes, unit indices or ``n_permutations`` are not integers, or
            ``valid`` is not a mask.
        ValueError: If shapes do not fit, a unit is out of range or named twice, there is no set or
            no sample, an option is unknown or out of range, or ``level`` needs more permutations.

    Warns:
        UserWarning: If nothing can be permuted for any set at any leading index.

    Example:
        A bit and a unit that copies it, beside a unit that is always off. If the copy is in Y_0,
        X_in is constant in every state of Y_0, and nothing can be tested:

        >>> import torch
        >>> bit = torch.arange(64) % 2
        >>> hidden = torch.stack([bit, torch.zeros_like(bit)], dim=-1)
        >>> chance = chance_level(bit, bit, hidden)
        >>> chance.information
        tensor([1., 0.], dtype=torch.float64)
        >>> chance.family_p_values
        tensor([0.0050, 1.0000], dtype=torch.float64)
        >>> chance.empty
        tensor([False,  True])

    Source:
        Westfall and Young, Resampling-Based Multiple Testing (1993); Phipson and Smyth,
        Permutation P-values Should Never Be Zero, Stat. Appl. Genet. Mol. Biol. 9:39 (2010).
    """
    samples = Samples.of(x_in, x_out, hidden, valid)
    exceeding = checked_permutations(within, n_permutations, level)
    family = [[unit] for unit in range(samples.units)] if relay_units is None else relay_units
    others = ~_checked_family(family, samples.units)
    everywhere = within == "everywhere"

    def tested(index: int) -> list[tuple[Floats, float, bool]]:
        rows, row = samples.merged(index)
        psi = psi_of("plugin", rows.samples).value
        key = np.uint64(seed % 2**64)
        return [
            _permuted(rows.table, row, mask, psi, rows.samples, everywhere, n_permutations, key)
            for mask in rows.masks(others)
        ]

    found = in_threads(tested, range(samples.indices))
    values = np.array([[value for value, _, _ in sets] for sets in found])
    movable = np.array([[fraction for _, fraction, _ in sets] for sets in found])
    if not (movable > 0).any():
        singletons = all(single for sets in found for _, _, single in sets)
        warnings.warn(_why_empty(within, singletons=singletons), stacklevel=2)
    information, permuted = values[..., 0], values[..., 1:]
    reached = (permuted >= information[..., np.newaxis] - TIE).sum(-1)
    return ChanceLevel(
        information=samples.shaped(information),
        mean=samples.shaped(permuted.mean(-1)),
        threshold=samples.shaped(np.sort(permuted, axis=-1)[..., -exceeding]),
        p_values=samples.shaped((1 + reached) / (1 + n_permutations)),
        family_p_values=samples.shaped(_family_p_values(values)),
        movable=samples.shaped(movable),
        n_permutations=n_permutations,
        level=level,
        seed=seed,
        within=within,
    )


@compiled
def _permuted(
    table: Words,
    row_of: NDArray[np.int32],
    mask: Words,
    psi: Floats,
    samples: int,
    everywhere: bool,
    n_permutations: int,
    key: np.uint64,
) -> tuple[Floats, float, bool]:
    """I(X_in; X_out | Y_0) in bits of the data and of each permutation, ``(1 + permutations,)``.

    Y_0 is the units in ``mask``, ``row_of`` the row of each sample or -1, and ``psi`` that of the
    plug-in. Only strata in which a permutation can change something are counted; all others add 0.
    The samples of a stratum stand in their own order, so that names of labels do not matter. Also
    returns the fraction of the samples in counted strata, and whether each stratum is one sample.
    """
    half, low = np.uint64(32), np.uint64(2**32 - 1)
    row_state, states = number_states(table, mask)
    x_in = np.empty(samples, np.uint32)
    x_out = np.empty(samples, np.uint32)
    state = np.empty(samples, np.uint32)
    number_of = np.full(states, -1, np.int64)
    found = 0
    place = 0
    for row in row_of:
        if row < 0:
            continue
        if number_of[row_state[row]] < 0:
            number_of[row_state[row]] = found
            found += 1
        x_in[place] = table[row, -2] >> half
        x_out[place] = table[row, -2] & low
        state[place] = number_of[row_state[row]]
        place += 1
    first = np.full(states, -1, np.int64)
    ins_vary = np.zeros(states, np.bool_)
    outs_vary = np.zeros(states, np.bool_)
    for place in range(samples):
        here = state[place]
        if first[here] < 0:
            first[here] = place
        ins_vary[here] |= x_in[place] != x_in[first[here]]
        outs_vary[here] |= x_out[place] != x_out[0 if everywhere else first[here]]
    if everywhere:
        outs_vary[:] = outs_vary.any()
    counted = np.array(
        [place for place in range(samples) if ins_vary[state[place]] and outs_vary[state[place]]],
        dtype=np.uint32,
    )
    values = np.zeros(1 + n_permutations, np.float64)
    if len(counted) == 0:
        return values, 0.0, states == samples
    by_state = sorted_by(state, states, counted)
    by_in = sorted_by(state, states, sorted_by(x_in, np.int64(x_in.max()) + 1, counted))
    pool = x_out.copy() if everywhere else x_out[by_state]
    drawn_at = np.arange(samples)  # the place of each sample in the pool
    if not everywhere:
        for place in range(len(by_state)):
            drawn_at[by_state[place]] = place
    ends = np.array(
        [
            place + 1
            for place in range(len(by_state))
            if place + 1 == len(by_state) or state[by_state[place]] != state[by_state[place + 1]]
        ]
    )
    outs = np.int64(x_out.max()) + 1
    in_cell, in_stratum = np.zeros(outs, np.int64), np.zeros(outs, np.int64)
    random = mixed(key + np.uint64(1))
    for number in range(1 + n_permutations):
        if number > 0 and everywhere:
            random = _shuffle(pool, 0, samples, random)
        begin = 0
        total = 0.0
        for end in ends:
            if number > 0 and not everywhere:
                random = _shuffle(pool, begin, end, random)
            total += psi[end - begin]
            since = begin
            for place in range(begin, end):
                out = pool[drawn_at[by_in[place]]]
                in_cell[out] += 1
                in_stratum[out] += 1
                if place + 1 == end or x_in[by_in[place + 1]] != x_in[by_in[place]]:
                    total -= psi[place + 1 - since]
                    for member in range(since, place + 1):
                        out = pool[drawn_at[by_in[member]]]
                        total += psi[in_cell[out]]
                        in_cell[out] = 0
                    since = place + 1
            for place in range(begin, end):
                out = pool[drawn_at[by_in[place]]]
                total -= psi[in_stratum[out]]
                in_stratum[out] = 0
            begin = end
        values[number] = total / samples
    return values, len(counted) / samples, False


@compiled
def _shuffle(pool: Numbers, begin: int, end: int, random: np.uint64) -> np.uint64:
    """Shuffle a part of the pool (Fisher and Yates); returns the next state of the generator."""
    for place in range(end - 1, begin, -1):
        random += np.uint64(0x9E3779B97F4A7C15)
        bits = (random ^ (random >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        choice = np.uint64(place + 1 - begin)
        other = begin + np.int64(((bits >> np.uint64(32)) * choice) >> np.uint64(32))
        pool[place], pool[other] = pool[other], pool[place]
    return random


def _family_p_values(values: Floats) -> Floats:
    """Family-wise p-values ``(indices, sets)`` of the data, which come before the permutations."""
    spread = values.std(-1)
    moved = spread > TIE
    p_values = np.ones(moved.shape)
    if moved.any():
        some, spread = values[moved], spread[moved][:, np.newaxis]
        standard = (some - some.mean(1, keepdims=True)) / spread
        largest = standard[:, 1:].max(0)
        reached = (largest >= standard[:, :1] - TIE / spread).sum(1)
        p_values[moved] = (1 + reached) / values.shape[-1]
    return p_values


def _why_empty(within: Within, *, singletons: bool) -> str:
    if singletons:
        reason = "every state of the units outside R occurs once (all strata are singletons)"
    elif within == "states":
        reason = "x_in or x_out is constant in every state of the units outside R"
    else:
        reason = "x_out is constant, or x_in is in every state of the units outside R"
    return (
        f"chance_level: {reason}, so nothing can be permuted and every p-value is 1; give more "
        "samples or fewer levels of the states, or put more units in the sets of relay_units"
    )


def _checked_family(relay_units: Sequence[Sequence[int]], units: int) -> Bools:
    """The members ``(sets, units)`` of each set; raises unless there is a set and all are clear."""
    family = relay_units.tolist() if isinstance(relay_units, torch.Tensor) else relay_units
    members = np.zeros((len(family), units), dtype=np.bool_)
    for number, relays in enumerate(family):
        named = relays.tolist() if isinstance(relays, torch.Tensor) else relays
        if isinstance(named, str) or not hasattr(named, "__iter__"):
            raise TypeError(
                f"relay_units: got {named!r} for a set; it takes sets of unit indices, such as "
                "[[0], [1, 2]]"
            )
        members[number, checked_units("relay_units", named, units, f" in set {number}")] = True
    if not len(members):
        raise ValueError(
            "relay_units: got no set; name at least one, or leave it out to test each unit alone"
        )
    return members
