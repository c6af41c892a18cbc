"""Whether what is taken for the answer depends on what the model computes."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from lightning_relay.reading.containers import rebuilt
from lightning_relay.reading.predictions import watchable

if TYPE_CHECKING:
    from lightning_relay.ablation.runs import EvaluationBatch
    from lightning_relay.rerun import StepResult

_SIZES = (100.0, 1.0, 10.0) * 3
"""Standard deviation of the noise that is added to outputs of modules, in each try.

The classes of a small batch can be the same by chance, and large noise can saturate a model.
"""


def check_reacts(batch: EvaluationBatch, before: StepResult) -> None:
    """Raise a ValueError if a function of the user gives the same answer whatever modules give.

    The step is run on the twin with noise added to the outputs of all modules without submodules.
    """
    modules = [one for one in watchable(batch.rerun.twin).values() if not [*one.children()]]
    noise = _Noise()
    with ExitStack() as hooks:
        for module in modules:
            hooks.callback(module.register_forward_hook(noise).remove)
        for noise.size in _SIZES:
            try:
                found = batch.run(whole=True)
            except Exception:  # of any type, in the user's code; it depends on the noise
                return
            finally:
                batch.batch.put_back()
            if noise.calls == 0 or _differ(before, found):
                return
    raise ValueError(
        "prediction: the function gives the same answer whatever the modules of the model give, so "
        "no knock-out could change it. It may read what a hook has kept, or an attribute of the "
        "model: the step is run again on a copy, which keeps its own. Have it read its argument, "
        "which is what the step returns; or give a pair, the name of a module and a function of "
        "its output, such as prediction=('head', lambda scores: scores)"
    )


class _Noise:
    """Forward hook that adds noise to floating outputs."""

    def __init__(self) -> None:
        self.calls = 0
        self.size = 0.0
        self._generator = torch.Generator().manual_seed(0)

    def __call__(self, _module: Any, _args: Any, outputs: Any) -> Any:
        self.calls += 1
        return rebuilt(outputs, self._noisy)

    def _noisy(self, value: Any) -> Any:
        if isinstance(value, PackedSequence):
            return value._replace(data=self._noisy(value.data))
        if not isinstance(value, Tensor) or not value.is_floating_point():
            return value
        noise = torch.randn(value.shape, generator=self._generator)
        return value + self.size * noise.to(value)


def _differ(before: StepResult, found: StepResult) -> bool:
    pairs = [(before.classes, found.classes), (before.scores, found.scores)]
    return any(
        one is not None and other is not None and not torch.equal(one, other)
        for one, other in pairs
    )
