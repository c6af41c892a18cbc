"""Chance level of relay information: what unrelated labels would give, found by permuting X_out."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from math import ceil, floor
from typing import TYPE_CHECKING, Literal, get_args

import torch

from lightning_relay.information.arguments import (
    broadcast_leading,
    check_codes,
    check_labels,
    check_valid,
    checked_units,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

Within = Literal["states", "everywhere"]
"""Where X_out is permuted: among samples that share a state of Y_0, or among all samples."""

TIE = 1e-9
"""Values that differ by no more than this many bits are equal."""

_ELEMENTS_AT_ONCE = 2**21
"""Permutations are counted together as long as they hold fewer samples and cells than this."""

_CELLS_PER_SAMPLE = 32
"""A table of joint states may have this many cells for each sample; beyond, samples are sorted."""

_KEY_RANGE = 2**62
"""Joint states are packed as long as their keys stay below this, then numbered anew."""


@dataclass(frozen=True, eq=False)
class ChanceLevel:
    """What I(X_in; X_out | Y_0) of sets of units is by chance, for every leading index apart.

    Attributes:
        information: Plug-in I(X_in; X_out | Y_0) of the data, bits, float64 ``(…, sets)``.
        mean: Its average under permutation, bits, float64 ``(…, sets)``: the bias of the plug-in
            value where the null hypothesis holds.
        threshold: Its (1 - level) quantile under permutation, bits, float64 ``(…, sets)``, of each
            set and index alone: ``information`` is above it (by more than 1e-9) exactly where
            ``p_values`` is at most ``level``.
        p_values: Probability of at least this ``information`` by chance, of each set and index
            alone, float64 ``(…, sets)``; never 0.
        family_p_values: The same, corrected for having tested all sets at all leading indices,
            float64 ``(…, sets)``; never below ``p_values``.
        movable: Fraction of the samples that lie in states of Y_0 in which a permutation can
            change anything, because X_in and X_out both vary there, float64 ``(…, sets)``. With
            ``within="everywhere"``, X_out need only vary somewhere.
        n_permutations: Number of permutations.
        level: Probability of an error that ``threshold`` is for.
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
        """Whether nothing could be permuted, so that p is 1 whatever the truth, bool ``(…, sets)``.

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

    with Y_0 the joint state of the units outside R. It is the first term of
    :math:`I_R = I(X_{in}; X_{out} | Y_0) - I(X_{in}; X_{out} | Y)`, and the only one tested. The
    second term is small in the data because X_out depends on Y. A permutation destroys that
    dependence, so under permutation the second term would be as large as its bias, and the
    difference smaller than it is by chance in data such as these: its test would find relays where
    there are none (it would be anti-conservative).

    - ``within="states"`` permutes X_out among the samples that share a state of Y_0. Null
      hypothesis: X_in and X_out are independent given Y_0, so the other units account for all that
      the output knows of the input.
    - ``within="everywhere"`` permutes X_out among all valid samples of a leading index. Null
      hypothesis: X_out is independent of (X_in, Y). A trained network is expected to violate it,
      whichever set is tested; it is the chance level of an untrained one.

    A p-value is (1 + number of permutations with at least the observed value) / (1 + number of
    permutations). The test of a set at a leading index alone is exact: under the null hypothesis
    p <= level has at most the probability ``level``, whatever the number of samples, provided that
    samples are independent draws.

    The family-wise p-value compares each standardised value with the largest over all sets and
    leading indices (the maximum statistic of Westfall and Young, in one step). Standardised is
    (value - mean) / sd with mean and sd over the permutations and the data together, so that the
    data are treated like a permutation; a set that no permutation moves never is the largest. In
    one permutation the same random keys order the samples of all sets and indices. Where they are
    all permuted alike (``"everywhere"``, with the same samples valid at all indices) the
    family-wise p-value is exact. With ``"states"`` the states, and so the permutations, differ
    between sets; the dependence between sets is then kept in part only and the p-value is
    approximate, as a rule too large: the largest of less dependent values is larger.

    Args:
        x_in: Integer labels of the input, ``(samples,)`` or broadcastable to ``(…, samples)``; any
            values.
        x_out: Integer labels of the output, of a shape like that of ``x_in``.
        hidden: Integer codes of the units' states, ``(…, samples, units)``; any values, any number
            of levels and of units.
        relay_units: Sets R to test, each a sequence of unit indices; default: each unit alone. The
            empty set is allowed: Y_0 is then all units.
        within: ``"states"`` or ``"everywhere"``.
        n_permutations: Number of permutations; no p-value is below 1 / (n_permutations + 1).
        valid: Boolean mask broadcastable to ``(…, samples)``; a sample with False is not counted.
        level: Probability of an error that the threshold is for, between 0 and 1.
        seed: Seed of the permutations, which are the same on every device. No other random number
            generator is touched.

    Returns:
        The observed values, what they are by chance, and p-values.

    Raises:
        TypeError: If labels, codes or unit indices are not integers, or the mask is not one.
        ValueError: If shapes do not fit, a unit is out of range or named twice, there is no set or
            no sample, an option is unknown, or ``level`` takes more permutations.

    Warns:
        UserWarning: If nothing can be permuted for any set at any leading index.

    Example:
        A bit and a unit that copies it, beside a unit that is always off. With the copy among the
        other units, X_in is the same wherever they are, and nothing can be tested:

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
    check_codes(hidden)
    check_labels("x_in", x_in, hidden)
    check_labels("x_out", x_out, hidden)
    check_valid(valid, hidden)
    exceeding = _checked_options(within, n_permutations, level)
    units = hidden.shape[-1]
    family = [[unit] for unit in range(units)] if relay_units is None else relay_units
    others = [
        [unit for unit in range(units) if unit not in relays]
        for relays in _checked_family(family, units)
    ]

    samples = hidden.shape[-2]
    leading = broadcast_leading(hidden=hidden[..., 0], x_in=x_in, x_out=x_out, valid=valid)
    shape = torch.Size((*leading, samples))
    log2 = torch.arange(samples + 1, dtype=torch.float64, device=hidden.device).log2()
    columns = (
        hidden.expand(*shape, units).reshape(-1, samples, units),
        *(labels.expand(shape).reshape(-1, samples) for labels in (x_in, x_out)),
    )
    counted = None if valid is None else valid.expand(shape).reshape(-1, samples)
    _check_some_counted(counted, leading)
    strata = [
        stratified
        for place in range(leading.numel())
        for stratified in _stratified(
            *(column[place] for column in columns),
            counted=None if counted is None else counted[place],
            others=others,
            within=within,
            log2=log2,
        )
    ]

    information = torch.stack([stratified.observed(log2) for stratified in strata])
    permuted = torch.cat(
        [
            torch.stack([stratified.permuted(keys, log2) for stratified in strata], dim=1)
            for keys in _keys(samples, n_permutations, seed, hidden.device)
        ]
    )
    movable = torch.tensor(
        [stratified.movable for stratified in strata], dtype=torch.float64, device=hidden.device
    )
    if not bool((movable > 0).any()):
        warnings.warn(_why_empty(strata, within), stacklevel=2)

    def shaped(values: Tensor) -> Tensor:
        return values.reshape(*leading, len(others))

    reached = (permuted >= information - TIE).sum(0)
    return ChanceLevel(
        information=shaped(information),
        mean=shaped(permuted.mean(0)),
        threshold=shaped(permuted.sort(0, descending=True).values[exceeding - 1]),
        p_values=shaped((1 + reached.double()) / (1 + n_permutations)),
        family_p_values=shaped(_family_p_values(information, permuted)),
        movable=shaped(movable),
        n_permutations=n_permutations,
        level=level,
        seed=seed,
        within=within,
    )


@dataclass(frozen=True)
class _Stratified:
    """The samples of one leading index by the state of one Y_0, ready to be permuted and counted.

    A permutation within the states of Y_0 leaves the counts of Y_0, (X_in, Y_0) and (X_out, Y_0)
    as they are, and a state in which X_in or X_out is constant adds 0: only the counts of
    (X_in, X_out, Y_0) in the other states are made anew. The sum of c log2 c over the counts is
    taken as that of log2 c over the samples, since most cells of a table are empty.

    Attributes:
        samples: Samples that are permuted, ``(permuted,)``, those of a stratum side by side.
        stratum: First key of the stratum of each, ``(permuted,)``.
        out: X_out of each: its cell within a table row, ``(permuted,)``.
        counted: Which of them are counted, ``(counted,)``.
        tables: For each table of counts the first cell of the row of each counted sample, the
            number of cells, and the sign of its entropy-like sum.
        unmoved: The part of the sums that no permutation changes.
        total: Number of valid samples.
        movable: Fraction of the valid samples that are counted.
        singletons: Whether every state of Y_0 occurs once.
    """

    samples: Tensor
    stratum: Tensor
    out: Tensor
    counted: Tensor
    tables: tuple[tuple[Tensor, int, int], ...]
    unmoved: Tensor
    total: int
    movable: float
    singletons: bool

    def observed(self, log2: Tensor) -> Tensor:
        """I(X_in; X_out | Y_0) of the data in bits, float64 ``()``."""
        return self._information(self.out[self.counted].unsqueeze(0), log2).squeeze(0)

    def permuted(self, keys: Tensor, log2: Tensor) -> Tensor:
        """The same with X_out in the order of ``keys``, float64 ``(permutations,)``.

        Args:
            keys: Different integers in every row, ``(permutations, samples)``.
            log2: Logarithms of the integers from 0 to the number of samples.
        """
        if self.movable == 0:
            return log2.new_zeros(keys.shape[0])
        largest = max(self.samples.numel(), *(cells for _, cells, _ in self.tables))
        values = []
        for block in keys.split(max(1, _ELEMENTS_AT_ONCE // largest)):
            order = (self.stratum + block.index_select(1, self.samples)).argsort(dim=1)
            if self.counted.numel() < self.samples.numel():
                order = order.index_select(1, self.counted)
            values.append(self._information(self.out.take(order), log2))
        return torch.cat(values)

    def _information(self, out: Tensor, log2: Tensor) -> Tensor:
        sums = self.unmoved.expand(out.shape[0])
        for row, cells, sign in self.tables:
            counts = _counts_of_samples(row + out, cells)
            sums = sums + sign * log2.take(counts).sum(dim=1)
        return sums / self.total


def _stratified(
    hidden: Tensor,
    x_in: Tensor,
    x_out: Tensor,
    *,
    counted: Tensor | None,
    others: Sequence[Sequence[int]],
    within: Within,
    log2: Tensor,
) -> Iterator[_Stratified]:
    """One leading index, ``(samples, units)`` and ``(samples,)``, for every set in turn."""
    samples = torch.arange(hidden.shape[0], device=hidden.device)
    if counted is not None:
        samples = counted.nonzero().squeeze(1)
    in_labels, x_in = torch.unique(x_in[samples], return_inverse=True)
    out_labels, x_out = torch.unique(x_out[samples], return_inverse=True)
    n_in, n_out = in_labels.numel(), out_labels.numel()
    coded = [_codes_from_zero(codes) for codes in hidden[samples].unbind(1)]
    for units in others:
        state = _states([coded[unit] for unit in units], x_in)
        in_state = torch.bincount(state)
        joint_in, row, in_joint = torch.unique(
            state * n_in + x_in, return_inverse=True, return_counts=True
        )
        joint_out, column, out_joint = torch.unique(
            state * n_out + x_out, return_inverse=True, return_counts=True
        )
        ins = torch.bincount(joint_in // n_in, minlength=in_state.numel())
        outs = torch.bincount(joint_out // n_out, minlength=in_state.numel())
        unmoved = log2[in_state[state]] - log2[in_joint[row]]
        if within == "states":
            varying = (ins > 1) & (outs > 1)
            # Labels absent from a state need no cells there.
            out = column - (outs.cumsum(0) - outs)[state]
            unmoved = unmoved - log2[out_joint[column]]
            stratum = state
        else:
            varying = (ins > 1) & (n_out > 1)
            outs = torch.full_like(outs, n_out)
            out = x_out
            stratum = torch.zeros_like(state)
        moving = varying[state]
        permuted = moving.nonzero().squeeze(1)
        if within == "everywhere":
            permuted = torch.arange(samples.numel(), device=samples.device)
        permuted = permuted[stratum[permuted].argsort(stable=True)]
        counted_here = moving[permuted].nonzero().squeeze(1)
        taken = permuted[counted_here]

        width = torch.where(varying, outs, 0)
        width_in = width[joint_in // n_in]
        tables = [((width_in.cumsum(0) - width_in)[row[taken]], int(width_in.sum()), 1)]
        if within == "everywhere":
            tables.append(((width.cumsum(0) - width)[state[taken]], int(width.sum()), -1))
        yield _Stratified(
            samples=samples[permuted],
            stratum=stratum[permuted] * hidden.shape[0],
            out=out[permuted],
            counted=counted_here,
            tables=tuple(tables),
            unmoved=unmoved[taken].sum(),
            total=samples.numel(),
            movable=taken.numel() / samples.numel(),
            singletons=in_state.numel() == samples.numel(),
        )


def _states(coded: Sequence[tuple[Tensor, int]], like: Tensor) -> Tensor:
    """Number of the joint state of each sample, from 0 without gaps, int64 ``(samples,)``."""
    state, states = torch.zeros_like(like), 1
    for codes, levels in coded:
        if states * levels > _KEY_RANGE:
            occupied, state = torch.unique(state, return_inverse=True)
            states = occupied.numel()
        state, states = state * levels + codes, states * levels
    numbered: Tensor = torch.unique(state, return_inverse=True)[1]
    return numbered


def _codes_from_zero(codes: Tensor) -> tuple[Tensor, int]:
    lowest, highest = int(codes.min()), int(codes.max())
    if highest - lowest <= codes.numel():
        return codes.long() - lowest, highest - lowest + 1
    values, codes = torch.unique(codes, return_inverse=True)
    return codes, values.numel()


def _counts_of_samples(cells: Tensor, number: int) -> Tensor:
    """How many samples of the same row share the cell of each, int64 ``(permutations, samples)``.

    Args:
        cells: Cell of each sample, ``(permutations, samples)``.
        number: A number that all cells stay below.
    """
    rows = torch.arange(cells.shape[0], device=cells.device).unsqueeze(1)
    cells = rows * number + cells
    if number > _CELLS_PER_SAMPLE * cells.shape[1]:
        _, cell, sizes = torch.unique(cells, return_inverse=True, return_counts=True)
        of_samples: Tensor = sizes.take(cell)
        return of_samples
    counts = cells.new_zeros(rows.numel() * number)
    counts.scatter_add_(0, cells.flatten(), counts.new_ones(()).expand(cells.numel()))
    return counts.take(cells)


def _keys(samples: int, permutations: int, seed: int, device: torch.device) -> Iterator[Tensor]:
    """Random orders of the samples, ``(permutations, samples)``, in blocks."""
    generator = torch.Generator().manual_seed(seed)
    at_once = max(1, _ELEMENTS_AT_ONCE // samples)
    for start in range(0, permutations, at_once):
        block = range(start, min(start + at_once, permutations))
        orders = [torch.randperm(samples, generator=generator, device="cpu") for _ in block]
        yield torch.stack(orders).to(device)


def _family_p_values(information: Tensor, permuted: Tensor) -> Tensor:
    everything = torch.cat([information.unsqueeze(0), permuted])
    spread = everything.std(0, correction=0)
    moved = spread > TIE
    p_values = torch.ones_like(information)
    if bool(moved.any()):
        spread = spread[moved]
        standard = (everything[:, moved] - everything[:, moved].mean(0)) / spread
        largest = standard[1:].max(dim=1).values
        reached = (largest.unsqueeze(1) >= standard[0] - TIE / spread).sum(0)
        p_values[moved] = (1 + reached.double()) / everything.shape[0]
    return p_values


def _check_some_counted(counted: Tensor | None, leading: torch.Size) -> None:
    if counted is None or bool(counted.any(dim=1).all()):
        return
    where = ""
    if leading:
        first = (~counted.any(dim=1).reshape(leading)).nonzero()[0]
        where = f" at leading index {tuple(first.tolist())}"
    raise ValueError(f"valid: no sample is valid{where}; leave that index out")


def _why_empty(strata: Sequence[_Stratified], within: Within) -> str:
    if all(stratified.singletons for stratified in strata):
        reason = "strata are singletons: every state of the units outside R occurs once"
    elif within == "states":
        reason = "x_in or x_out is constant in every state of the units outside R"
    else:
        reason = "x_out is constant, or x_in is in every state of the units outside R"
    return (
        f"chance_level: {reason}, so nothing can be permuted and every p-value is 1; give more "
        "samples or fewer levels of the states, or put more units in the sets of relay_units"
    )


def check_permutations(n_permutations: int) -> None:
    """Raise unless there are enough permutations for a level of 5 %."""
    _checked_options("states", n_permutations, 0.05)


def _checked_options(within: str, n_permutations: int, level: float) -> int:
    """Number of permutations that may reach a value, itself included, for it to be at ``level``."""
    if within not in get_args(Within):
        raise ValueError(f"within: got {within!r}; it takes one of {', '.join(get_args(Within))}")
    if isinstance(n_permutations, bool) or not isinstance(n_permutations, int):
        raise TypeError(
            f"n_permutations: got {n_permutations!r}; it takes a number of permutations, an int"
        )
    if n_permutations < 1:
        raise ValueError(
            f"n_permutations: got {n_permutations}; it takes at least 1, and 200 for a level of 5 %"
        )
    if not 0 < level < 1:
        raise ValueError(
            f"level: got {level}; it takes a probability between 0 and 1, such as 0.05"
        )
    # 0.05 * 20 and its like are whole numbers but for rounding.
    exceeding = floor(level * (n_permutations + 1) + 1e-9)
    if exceeding < 1:
        raise ValueError(
            f"level: got {level}, but with n_permutations={n_permutations} no p-value is below "
            f"1/{n_permutations + 1}; it takes n_permutations of at least "
            f"{ceil(1 / level - 1e-9) - 1}"
        )
    return exceeding


def _checked_family(relay_units: Sequence[Sequence[int]], units: int) -> list[set[int]]:
    family = relay_units.tolist() if isinstance(relay_units, torch.Tensor) else relay_units
    checked = []
    for number, relays in enumerate(family):
        members = relays.tolist() if isinstance(relays, torch.Tensor) else relays
        if isinstance(members, str) or not hasattr(members, "__iter__"):
            raise TypeError(
                f"relay_units: got {members!r} for a set; it takes sets of unit indices, such as "
                "[[0], [1, 2]]"
            )
        where = f" in set {number}"
        checked.append(set(checked_units("relay_units", members, units, where)))
    if not checked:
        raise ValueError(
            "relay_units: got no set; name at least one, or leave it out to test each unit alone"
        )
    return checked
