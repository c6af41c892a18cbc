"""Options of the measures, and their checks."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, floor
from typing import Any, Literal, get_args

Method = Literal["kmeans", "median", "sign", "quantile"]
"""How thresholds are found; see ``discretize``."""

Estimator = Literal["plugin", "miller_madow", "grassberger", "chao_shen"]
"""How an entropy is estimated from counts.

``"plugin"`` takes the observed frequencies, which makes entropies too small on average. The others
correct this bias. ``"miller_madow"`` (Miller 1955) adds (states - 1) / (2 samples) nats.
``"grassberger"`` (Grassberger 2003, arXiv physics/0307138, eq. 28) replaces the logarithm of each
count. ``"chao_shen"`` (Chao and Shen 2003, Environ. Ecol. Stat. 10:429) scales the frequencies by
the coverage and weights each state by the inverse of its chance of having been seen.
"""

SetEstimator = Estimator | Literal["decoder"]
"""How the information of a given set of units is estimated.

An ``Estimator`` uses counts. ``"decoder"`` takes raw states: see ``decoded_information``.
"""

Direction = Literal["shrink", "grow"]
"""Whether a greedy order takes units out of R (``"shrink"``) or adds them (``"grow"``)."""

Within = Literal["states", "everywhere"]
"""Where X_out is permuted: among samples that share a state of Y_0, or among all samples."""

IGNORED = -100
"""Label that is counted nowhere, as for PyTorch's losses."""

TIE = 1e-9
"""Informations that differ by no more than this many bits are equal."""


@dataclass(frozen=True, kw_only=True)
class RelayMeasure:
    """How relay information is measured.

    Attributes:
        discretization: Method that turns states into integer codes, fitted for each unit and step:
            ``"kmeans"``, ``"median"``, ``"sign"`` or ``"quantile"``.
        levels: Number of codes of a unit. Only ``"quantile"`` takes more than 2.
        direction: Direction of the greedy order, ``"shrink"`` or ``"grow"``.
        estimator: Estimator of entropies from counts: ``"plugin"`` (as in the papers),
            ``"miller_madow"``, ``"grassberger"`` or ``"chao_shen"``.
        min_coverage: Lowest coverage of the joint states, as a fraction of 1, at which the place
            of a unit counts as resolved. Units that are not resolved are not ranked.
        max_gap: Largest difference in bits between the corrected and the plug-in information at
            which the place of a unit counts as resolved. Units that are not resolved are not
            ranked.
        n_orders: Number of random orders for the relay share of each unit, at least 4; more orders
            give smaller errors. A float is instead the standard error aimed at, in bits. 0 computes
            no shares, nor does ``estimator="chao_shen"``. The orders are the same at all steps.
        n_splits: Number of random splits of the sequences into halves for the relay transfer
            between all pairs of steps, at least 4; 0 measures no transfer, nor does
            ``estimator="chao_shen"``. It needs the codes of all steps in memory at once, one
            byte each for up to 256 levels, and for a moment about three times as much.
        n_permutations: Number of permutations of X_out for the chance levels of all units together
            and of each alone: at least 19, or 0 for no chance levels. Where nothing can be
            permuted, for example while the model gives every sequence the same class, the table
            says so and there is no warning.
        n_bootstraps: Number of resamples of the sequences for intervals of information and places:
            at least 40, or 0 for no intervals.
        seed: Seed of orders, splits, permutations and resamples. No other random state is touched.

    Raises:
        TypeError: If ``levels``, ``n_orders``, ``n_splits``, ``n_permutations``,
            ``n_bootstraps``, ``min_coverage``, ``max_gap`` or ``seed`` is not a number of the right
            kind.
        ValueError: If an option is unknown or out of its range. The message names it.

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
    n_splits: int = 4
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
        if type(self.n_splits) is not int or self.n_splits != 0:
            check_splits(self.n_splits)
        if self.n_permutations != 0:
            checked_permutations("states", self.n_permutations, 0.05)
        if self.n_bootstraps != 0:
            check_resamples(self.n_bootstraps)
        check_type("seed", self.seed, int, "an integer")

    @property
    def orders_of_shares(self) -> int | float:
        """``n_orders``, or 0 if the estimator gives no shares."""
        return self.n_orders if is_additive(self.estimator) else 0

    @property
    def splits_of_transfer(self) -> int:
        """``n_splits``, or 0 if the estimator gives no transfer."""
        return self.n_splits if is_additive(self.estimator) else 0

    @property
    def all_steps_at_once(self) -> bool:
        """Whether a result cannot be computed in blocks of steps.

        Transfer compares all steps. With an aimed-at standard error, the step with the largest
        error decides how many orders all steps get.
        """
        draws = self.splits_of_transfer or self.n_permutations or self.n_bootstraps
        return bool(draws) or isinstance(self.orders_of_shares, float)


def check_type(name: str, value: object, kind: Any, takes: str) -> None:
    """Raise a TypeError unless a value is of a kind; a bool is not a number here."""
    if isinstance(value, bool) or not isinstance(value, kind):
        raise TypeError(f"{name}: got {value!r}; it takes {takes}")


def _check_choice(name: str, value: str, choices: Any) -> None:
    if value not in get_args(choices):
        raise ValueError(f"{name}: got {value!r}; it takes {_listed(choices)}")


def _listed(choices: Any) -> str:
    *most, last = map(repr, get_args(choices))
    return f"{', '.join(most)} or {last}"


def check_method(method: str, levels: int) -> None:
    """Raise unless ``method`` is known and gives this number of levels."""
    _check_choice("discretization", method, Method)
    check_type("levels", levels, int, "a number of levels, an int")
    if levels < 2:
        raise ValueError(f"levels: got {levels}; it takes at least 2")
    if levels > 2 and method != "quantile":
        raise ValueError(
            f"levels: got {levels} with {method!r}, which makes two; use 'quantile' for more"
        )


def check_estimator(name: str) -> None:
    """Raise a ValueError unless ``name`` is an estimator from counts."""
    if name == "decoder":
        raise ValueError(
            "estimator: got 'decoder', which only mutual_information and relay_information take; "
            f"here it takes {_listed(Estimator)}. For wide layers, find the order with one of "
            "these, then measure the sets that matter by relay_information(…, estimator='decoder')"
        )
    _check_choice("estimator", name, Estimator)


def check_additive(name: str) -> None:
    """Raise a ValueError unless ``name`` is an additive estimator (see ``is_additive``)."""
    check_estimator(name)
    if not is_additive(name):
        raise ValueError(
            f"estimator: got {name!r}, which depends on all counts at once; for shares and for all "
            "subsets it takes 'plugin', 'miller_madow' or 'grassberger'"
        )


def is_additive(name: str) -> bool:
    """Whether the estimate is a constant minus a sum over states of a function of their counts."""
    return name != "chao_shen"


def check_direction(direction: str) -> None:
    """Raise a ValueError unless ``direction`` is ``"shrink"`` or ``"grow"``."""
    _check_choice("direction", direction, Direction)


def check_evidence_rule(min_coverage: float, max_gap: float) -> None:
    """Raise unless ``min_coverage`` is a fraction and ``max_gap`` is not negative."""
    check_type("min_coverage", min_coverage, int | float, "a number")
    check_type("max_gap", max_gap, int | float, "a number")
    if not 0 <= min_coverage <= 1:
        raise ValueError(f"min_coverage: got {min_coverage!r}; it takes a fraction from 0 to 1")
    if not max_gap >= 0:
        raise ValueError(f"max_gap: got {max_gap!r}; it takes bits from 0")


def check_orders(n_orders: int | float) -> None:
    """Raise unless ``n_orders`` is a number of orders from 4, or a standard error above 0 bits."""
    takes = "a number of orders, an int, or the standard error aimed at in bits, a float"
    check_type("n_orders", n_orders, int | float, takes)
    if isinstance(n_orders, int) and n_orders < 4:
        raise ValueError(f"n_orders: got {n_orders}; it takes at least 4, so that errors are known")
    if isinstance(n_orders, float) and not n_orders > 0:
        raise ValueError(f"n_orders: got {n_orders}; an error aimed at is above 0 bits")


def check_fraction(fraction: float) -> None:
    """Raise unless ``fraction`` is a number above 0 and up to 1."""
    check_type("fraction", fraction, int | float, "a number")
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction: got {fraction!r}; it takes a number above 0 and up to 1")


def check_splits(n_splits: int) -> None:
    """Raise unless ``n_splits`` is a number of splits from 4."""
    check_type("n_splits", n_splits, int, "a number of splits into halves, an int")
    if n_splits < 4:
        raise ValueError(f"n_splits: got {n_splits}; it takes at least 4, so that errors are known")


def checked_permutations(within: str, n_permutations: int, level: float) -> int:
    """Number of permutations, the data included, that may reach a value significant at ``level``.

    Raises if an option is unknown or out of range, or there are too few permutations for the level.
    """
    _check_choice("within", within, Within)
    check_type("n_permutations", n_permutations, int, "a number of permutations, an int")
    if n_permutations < 1:
        raise ValueError(
            f"n_permutations: got {n_permutations}; it takes at least 1, and 200 for a level of 5 %"
        )
    if not 0 < level < 1:
        raise ValueError(
            f"level: got {level}; it takes a probability between 0 and 1, such as 0.05"
        )
    # The small number undoes rounding: 0.05 * 20, for example, is a whole number.
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
    check_type("n_bootstraps", n_bootstraps, int, "a number of resamples, an int")
    fewest = round(2 / (1 - confidence))
    if n_bootstraps < fewest:
        raise ValueError(
            f"n_bootstraps: got {n_bootstraps}; for a confidence of {confidence} it takes at least "
            f"{fewest}, so that a resample lies beyond each end"
        )
