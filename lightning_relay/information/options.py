"""How relay information is measured: options, said once and checked where they are made."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, floor
from typing import Literal, get_args

Method = Literal["kmeans", "median", "sign", "quantile"]
"""How thresholds are found."""

Estimator = Literal["plugin", "miller_madow", "grassberger", "chao_shen"]
"""How an entropy is estimated from counts.

``"plugin"`` takes the observed frequencies; the others correct its bias to too small entropies:
``"miller_madow"`` (Miller 1955) adds (states - 1) / (2 samples) nats, ``"grassberger"``
(Grassberger 2003, arXiv physics/0307138, eq. 28) replaces the logarithm of each count,
``"chao_shen"`` (Chao and Shen 2003, Environ. Ecol. Stat. 10:429) weighs each state by its chance of
having been seen and scales the frequencies by the coverage.
"""

SetEstimator = Estimator | Literal["decoder"]
"""How the information of a given set of units is estimated: from counts, or by decoders.

``"decoder"`` takes states as they are, without codes: see ``decoded_information``.
"""

Direction = Literal["shrink", "grow"]
"""Which way a greedy order is found: by taking units out of R, or by putting them in."""

Within = Literal["states", "everywhere"]
"""Where X_out is permuted: among samples that share a state of Y_0, or among all samples."""


@dataclass(frozen=True, kw_only=True)
class RelayMeasure:
    """How relay information is measured.

    Attributes:
        discretization: How states become codes: ``"kmeans"``, ``"median"``, ``"sign"`` or
            ``"quantile"``, fitted per unit and step.
        levels: Number of codes; only ``"quantile"`` takes more than 2.
        direction: Direction of the greedy order, ``"shrink"`` or ``"grow"``.
        estimator: How entropies are estimated from counts: ``"plugin"`` (of the source),
            ``"miller_madow"``, ``"grassberger"`` or ``"chao_shen"``.
        min_coverage: Units whose place rests on a condition with a lower coverage are not ranked,
            fraction of 1.
        max_gap: Nor are those whose place rests on a condition where the corrected and the plug-in
            estimate differ by more than this, bits.
        n_orders: Number of random orders for the relay share of each unit, at least 4; more give
            smaller errors. A float is the standard error aimed at, in bits. 0: no shares. The
            orders are the same at all steps. ``estimator="chao_shen"`` gives no shares.
        n_permutations: Number of permutations of X_out for chance levels of all units and of each
            alone; 0 for none, and at least 19. Where nothing can be permuted, as while the model
            gives every sequence the same class, the table says so and there is no warning.
        n_bootstraps: Number of resamples of the sequences for intervals of information and places;
            0 for none, and at least 40.
        seed: Seed of orders, permutations and resamples; no other random state is touched.

    Raises:
        TypeError: If ``n_orders`` or an evidence rule is no number.
        ValueError: If an option is unknown or out of its range; says which.

    Example:
        >>> RelayMeasure(estimator="grassberger", n_permutations=199).direction
        'shrink'
    """

    discretization: Method = "kmeans"
    levels: int = 2
    direction: Direction = "shrink"
    estimator: Estimator = "plugin"
    min_coverage: float = 0.9
    max_gap: float = 0.1
    n_orders: int | float = 16
    n_permutations: int = 0
    n_bootstraps: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        check_method(self.discretization, self.levels)
        check_direction(self.direction)
        check_estimator(self.estimator)
        check_evidence_rule(self.min_coverage, self.max_gap)
        if type(self.n_orders) is not int or self.n_orders != 0:
            check_orders(self.n_orders)
        if self.n_permutations != 0:
            check_permutations(self.n_permutations)
        if self.n_bootstraps != 0:
            check_resamples(self.n_bootstraps)
        if isinstance(self.seed, bool) or not isinstance(self.seed, int):
            raise TypeError(f"seed: got {self.seed!r}; it takes an integer")

    @property
    def orders_of_shares(self) -> int | float:
        """``n_orders``, or 0 where the estimator gives no shares."""
        return self.n_orders if is_additive(self.estimator) else 0

    @property
    def all_steps_at_once(self) -> bool:
        """Whether something is asked for that is not measured in blocks of steps.

        An error that is aimed at is one: the number of orders depends on the step that takes most.
        """
        draws = self.n_permutations or self.n_bootstraps
        return bool(draws) or isinstance(self.orders_of_shares, float)


def check_method(method: str, levels: int) -> None:
    """Raise a ValueError unless ``method`` is known and makes ``levels`` levels."""
    if method not in get_args(Method):
        legal = ", ".join(repr(legal) for legal in get_args(Method))
        raise ValueError(f"discretization: got {method!r}; it takes {legal}")
    if levels < 2:
        raise ValueError(f"levels: got {levels}; it takes at least 2")
    if levels > 2 and method != "quantile":
        raise ValueError(
            f"levels: got {levels} with {method!r}, which makes two; use 'quantile' for more"
        )


def check_estimator(name: str) -> None:
    """Raise a ValueError unless there is an estimator called ``name``; lists those there are."""
    if name not in get_args(Estimator):
        legal = ", ".join(repr(legal) for legal in get_args(Estimator))
        if name == "decoder":
            raise ValueError(
                "estimator: got 'decoder', which mutual_information and relay_information take for "
                f"given sets of units; here it takes {legal}. To order wide layers, order with one "
                "of these and ask relay_information(…, estimator='decoder') about the sets that "
                "matter"
            )
        raise ValueError(f"estimator: got {name!r}; it takes {legal}")


def is_additive(name: Estimator) -> bool:
    """Whether the estimate is a constant minus a sum over states of a function of their counts."""
    return name != "chao_shen"


def check_direction(direction: str) -> None:
    """Raise a ValueError unless ``direction`` is ``"shrink"`` or ``"grow"``."""
    if direction not in get_args(Direction):
        raise ValueError(f"direction: got {direction!r}; it takes 'shrink' or 'grow'")


def check_evidence_rule(min_coverage: float, max_gap: float) -> None:
    """Raise unless ``min_coverage`` is a fraction and ``max_gap`` not negative."""
    for name, value in (("min_coverage", min_coverage), ("max_gap", max_gap)):
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise TypeError(f"{name}: got {value!r}; it takes a number")
    if not 0 <= min_coverage <= 1:
        raise ValueError(f"min_coverage: got {min_coverage!r}; it takes a fraction from 0 to 1")
    if not max_gap >= 0:
        raise ValueError(f"max_gap: got {max_gap!r}; it takes bits from 0")


def check_orders(n_orders: int | float) -> None:
    """Raise unless ``n_orders`` is a number of orders from 4, or an error in bits above 0."""
    if isinstance(n_orders, bool) or not isinstance(n_orders, int | float):
        raise TypeError(
            f"n_orders: got {n_orders!r}; it takes a number of orders, an int, or the standard "
            "error aimed at in bits, a float"
        )
    if isinstance(n_orders, int) and n_orders < 4:
        raise ValueError(f"n_orders: got {n_orders}; it takes at least 4, so that errors are known")
    if isinstance(n_orders, float) and not n_orders > 0:
        raise ValueError(f"n_orders: got {n_orders}; an error aimed at is above 0 bits")


def check_permutations(n_permutations: int) -> None:
    """Raise unless there are enough permutations for a level of 5 %."""
    checked_permutations("states", n_permutations, 0.05)


def checked_permutations(within: str, n_permutations: int, level: float) -> int:
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


def check_resamples(n_bootstraps: int, confidence: float = 0.95) -> None:
    """Raise unless there are enough resamples for intervals of this confidence."""
    if not 0 < confidence < 1:
        raise ValueError(f"confidence: got {confidence!r}; it takes a fraction between 0 and 1")
    if isinstance(n_bootstraps, bool) or not isinstance(n_bootstraps, int):
        raise TypeError(f"n_bootstraps: got {n_bootstraps!r}; it takes a number of resamples")
    fewest = round(2 / (1 - confidence))
    if n_bootstraps < fewest:
        raise ValueError(
            f"n_bootstraps: got {n_bootstraps}; for a confidence of {confidence} it takes at least "
            f"{fewest}, so that a resample lies beyond each end"
        )
