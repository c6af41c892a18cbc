"""Relay information as a metric of torchmetrics."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lightning_relay.information.arguments import checked_units
from lightning_relay.information.measures import relay_information
from lightning_relay.information.options import Estimator, check_estimator
from lightning_relay.metrics.relay_metric import RelayMetric

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


class RelayInformation(RelayMetric):
    r"""Relay information I_R of a set R of units, in bits, over all batches since the last reset.

    .. math:: I_R = H(X_{in}; X_{out}; Y_R | Y_0)

    See ``relay_information``. ``update`` and the call take ``(x_in, x_out, hidden, valid=None)``:

    - ``x_in``: integer labels ``(batch,)``; ``(batch, steps)`` if each step has one. Labels of -100
      are left out; ``ignored`` counts them at every step, since the last reset, in this process.
    - ``x_out``: predicted classes, integers ``(batch,)`` or ``(batch, steps)``.
    - ``hidden``: integer codes of states, ``(batch, units)`` or ``(batch, steps, units)``. States
      are cut at thresholds that are the same in all batches, such as by
      ``discretize(states, "sign")``; thresholds fitted to each batch are not.
    - ``valid``: boolean mask ``(batch,)`` or ``(batch, steps)``; False is padding.

    ``compute`` gives a float64 scalar, or ``(steps,)`` if ``hidden`` has steps, up to the longest
    batch. A step without a sample is NaN. So is the value before the first update. As in all of
    torchmetrics, a value with a single entry is a scalar.

    Args:
        relay_units: Indices of the units in R; default: all units.
        estimator: Estimator of entropies from counts.
        kwargs: Keyword arguments of every metric, such as ``compute_on_cpu``.

    Raises:
        TypeError: If unit indices are not integers.
        ValueError: If a unit is negative or named twice, or the estimator is unknown.

    Example:
        A bit that one of two units copies, in two batches:

        >>> import torch
        >>> metric = RelayInformation()
        >>> for bit in torch.tensor([[0, 1, 0, 1], [1, 1, 0, 0]]):
        ...     metric.update(bit, bit, torch.stack([bit, torch.zeros_like(bit)], dim=-1))
        >>> metric.compute()
        tensor(1., dtype=torch.float64)
    """

    def __init__(
        self,
        relay_units: Sequence[int] | Tensor | None = None,
        *,
        estimator: Estimator = "plugin",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_estimator(estimator)
        if relay_units is not None:
            relay_units = checked_units("relay_units", relay_units, None)
        self.relay_units = relay_units
        self.estimator = estimator

    def _check_units(self, count: int) -> None:
        if self.relay_units is not None:
            checked_units("relay_units", self.relay_units, count)

    def _measure(self, x_in: Tensor, x_out: Tensor, hidden: Tensor, weights: Tensor) -> Tensor:
        return relay_information(
            x_in, x_out, hidden, self.relay_units, weights=weights, estimator=self.estimator
        )
