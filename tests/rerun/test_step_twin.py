"""The twin of a module: hooks, patches, compiled methods, and what can be copied."""

from __future__ import annotations

import threading
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import torch
import torch._dynamo
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from lightning_relay.recurrent.hooks import is_compiled
from lightning_relay.rerun import check_repeatable
from tests.support.models import (
    CLASSES,
    Classifier,
    CompiledInPlace,
    CompiledLoop,
    CompiledRNN,
    loader,
)
from tests.support.rerun import Rerun, Seen, validated
from tests.support.training import quiet_trainer

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule

    pass


@pytest.mark.parametrize("own_hooks", ["closure", "method", "partial"])
def test_hooks_of_the_user_act_on_the_twin_and_record_there(own_hooks: str) -> None:
    model = Seen()
    recorded: list[Tensor] = []
    model.recorded = recorded

    def hook(_module: nn.Module, _args: Any, output: Tensor) -> Tensor:
        recorded.append(output)
        return output + 1

    def record(records: list[Tensor], _module: nn.Module, _args: Any, output: Tensor) -> Tensor:
        records.append(output)
        return output + 1

    class Recorder:
        def __init__(self) -> None:
            self.recorded = recorded

        def hook(self, _module: nn.Module, _args: Any, output: Tensor) -> Tensor:
            self.recorded.append(output)
            return output + 1

    hooks = {"closure": hook, "method": Recorder().hook, "partial": partial(record, recorded)}
    model.head.register_forward_hook(hooks[own_hooks])
    callback = Rerun()
    validated(model, callback)
    assert len(recorded) == 3
    assert len(callback.twin.recorded) == 2 + 5
    for results, output in zip(callback.results, recorded, strict=True):
        assert results[1].scores is not None
        assert torch.equal(results[1].scores, output + 1)


class Patched(Seen):
    """Has functions as attributes: of its own, and compiled."""

    def __init__(self) -> None:
        super().__init__()
        self.scorer = lambda x: self.head(x)
        self.quick = torch.compile(self.slow, backend="eager")

    def slow(self, x: Tensor) -> Tensor:
        return self.scorer(self.rnn(x)[0][:, -1])

    @torch.compile(backend="eager")
    def forward(self, x: Tensor) -> Tensor:
        return self.quick(x)


def zeroed(twin: LightningModule, run: int) -> None:
    """From the third run on, no unit says anything."""
    if run == 2:
        twin.rnn.forward = lambda x: (torch.zeros(len(x), x.shape[1], 6), None)


@pytest.mark.parametrize(
    ("kind", "whole"),
    [
        (Seen, False),
        (Patched, False),
        (CompiledRNN, False),
        (CompiledInPlace, False),
        (CompiledLoop, False),
        (Seen, True),
        (CompiledRNN, True),
    ],
)
def test_a_patched_twin_changes_the_runs_and_not_the_model(
    kind: type[Classifier], whole: bool
) -> None:
    torch.compiler.reset()
    model = kind()
    callback = Rerun()
    callback.around = (
        zeroed
        if kind is not CompiledLoop
        else lambda twin, run: vars(twin.rnn).update(forward=lambda x: torch.zeros(len(x), 6))
    )
    with torch._dynamo.config.patch(skip_nnmodule_hook_guards=False):
        given = torch.compile(model, backend="eager") if whole else model
        quiet_trainer(callback).validate(given, loader(), verbose=False)
    for results in callback.results:
        for result in results[2:]:
            assert result.scores is not None
            assert torch.equal(result.scores, model.head.bias.expand(16, -1))
    assert not is_compiled(callback.twin)
    assert not hasattr(vars(callback.twin).get("quick"), "_torchdynamo_orig_callable")
    if kind is not CompiledLoop:
        assert not torch.equal(callback.results[0][0].scores, callback.results[0][2].scores)
    assert "forward" not in vars(getattr(model.rnn, "_orig_mod", model.rnn))


@pytest.mark.skipif(not hasattr(torch.compiler, "set_stance"), reason="torch before 2.6")
def test_methods_that_a_class_compiles_are_not_compiled_for_twins() -> None:
    compiled: list[Any] = []

    def counting(graph: Any, _inputs: Any) -> Any:
        compiled.append(graph)
        return graph.forward

    class Compiled(Seen):
        @torch.compile(backend=counting)
        def forward(self, x: Tensor) -> Tensor:
            scores: Tensor = self.head(x.flatten(1))
            return scores

        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(6, CLASSES)

    torch.compiler.reset()
    quiet_trainer().validate(Compiled(), loader(), verbose=False)
    alone = len(compiled)
    torch.compiler.reset()
    validated(Compiled(), Rerun())
    assert len(compiled) == 2 * alone > 0


def test_tensors_of_graphs_and_of_other_steps_can_be_attributes() -> None:
    class Keeping(Seen):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            loss = super().training_step(batch, batch_idx)
            self.losses = [loss]
            self.view = (2 * self.head.weight)[0]
            return loss

        def validation_step(self, batch: Any, batch_idx: int) -> Any:
            self.kept = {"last": batch[0]}
            return super().validation_step(batch, batch_idx)

    callback = Rerun()
    model = Keeping()
    quiet_trainer(callback, max_epochs=2).fit(model, loader(), loader())
    assert model.losses[0].grad_fn is not None
    assert callback.twin.losses[0].grad_fn is None
    assert torch.equal(callback.twin.view, model.view)


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated")
@pytest.mark.parametrize(
    "reparametrized",
    [torch.nn.utils.weight_norm, parametrizations.weight_norm, parametrizations.spectral_norm],
)
def test_reparametrized_modules(reparametrized: Any) -> None:
    model = Seen()
    reparametrized(model.head)
    callback = Rerun()
    quiet_trainer(callback, max_epochs=1).fit(model, loader(), loader())
    for first, *others in callback.results:
        for other in others:
            check_repeatable(first, other)


@pytest.mark.parametrize(
    ("change", "path"),
    [
        (lambda model: setattr(model, "lock", threading.Lock()), r"Seen\.lock \(lock\)"),
        (
            lambda model: setattr(model.rnn, "file", {"a": [threading.Lock()]}),
            r"Seen\.rnn\.file \(dict\)",
        ),
        (
            lambda model: model.head.register_forward_hook(
                partial(lambda lock, *_: None, threading.Lock())
            ),
            r"Seen\.head\._forward_hooks \(partial\)",
        ),
        (lambda model: setattr(model, "items", (i for i in [1])), r"Seen\.items \(generator\)"),
    ],
)
def test_what_cannot_be_copied_is_named(change: Any, path: str) -> None:
    model = Seen()
    model.itself = [model]
    change(model)
    with pytest.raises(TypeError, match=rf"^pl_module: {path} cannot be copied: cannot pickle"):
        validated(model, Rerun())


def test_a_class_can_say_how_it_is_copied() -> None:
    class Handle:
        def __init__(self) -> None:
            self.lock = threading.Lock()

        def __deepcopy__(self, memo: Any) -> Any:
            return self

    model = Seen()
    model.handle = Handle()
    callback = Rerun()
    validated(model, callback)
    assert callback.twin.handle is model.handle

    class Itself(Seen):
        def __deepcopy__(self, memo: Any) -> Any:
            return self

    with pytest.raises(TypeError, match=r"deepcopy of Itself gave no copy of it"):
        validated(Itself(), Rerun())
