"""Relay shares as a metric of torchmetrics."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lightning_relay.information.options import (
    Estimator,
    check_additive,
    check_orders,
    check_type,
)
from lightning_relay.information.share import relay_share
from lightning_relay.metrics.relay_metric import RelayMetric

if TYPE_CHECKING:
    from torch import Tensor


class RelayShare(RelayMetric):
    """Relay share of every unit, in bits, over all batches since the last reset.

    See ``relay_share``, whose result is a dataclass of this name, ``lightning_relay.RelayShare``.
    This metric gives its ``share`` alone. ``RelayInformation()`` minus the sum of the shares is
    what no unit is credited with.

    ``update`` and the call take what those of ``RelayInformation`` take. ``compute`` gives float64
    ``(units,)``, or ``(steps, units)`` if ``hidden`` has steps. A step without a sample is NaN. The
    value before the first update is a single NaN. As in all of torchmetrics, a value with a
    single entry is a scalar.

    Args:
        n_orders: Number of random orders, an int from 4, or the standard error aimed at in bits, a
            float.
        corrected: Whether to subtract the loss that a permuted copy of the unit would have caused.
        estimator: Estimator of entropies from counts, any but ``"chao_shen"``.
        seed: Seed of the orders. No other random state is touched.
        kwargs: Keyword arguments of every metric, such as ``compute_on_cpu``.

    Raises:
        TypeError: If ``n_orders`` or ``seed`` is not a number of the right kind.
        ValueError: If ``n_orders`` is out of its range, or the estimator is unknown.

    Example:
        Two units that copy a fair bit share it; a third is always off:

        >>> import torch
        >>> metric = RelayShare(corrected=False)
        >>> for bit in torch.tensor([[0, 1, 0, 1], [1, 1, 0, 0]]):
        ...     metric.update(bit, bit, torch.stack([bit, bit, torch.zeros_like(bit)], dim=-1))
        >>> metric.compute().tolist()
        [0.5, 0.5, 0.0]
    """

    def __init__(
        self,
        n_orders: int | float = 64,
        *,
        corrected: bool = True,
        estimator: Estimator = "plugin",
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_orders(n_orders)
        check_additive(estimator)
        check_type("seed", seed, int, "an integer")
        self.n_orders = n_orders
        self.corrected = corrected
        self.estimator = estimator
        self.seed = seed

    def _shape(self, units: int) -> tuple[int, ...]:
        return (units,)

    def _measure(self, x_in: Tensor, x_out: Tensor, hidden: Tensor, weights: Tensor) -> Tensor:
        return relay_share(
            x_in,
            x_out,
            hidden,
            n_orders=self.n_orders,
            corrected=self.corrected,
            weights=weights,
            estimator=self.estimator,
            seed=self.seed,
        ).share
