"""Arguments, models and data that RelayInformationCallback refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch._dynamo
from lightning.pytorch import LightningModule
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from lightning_relay import RelayInformationCallback, RelayMeasure, SequenceSample
from tests.support.hooks import hook_count
from tests.support.models import Classifier, CompiledLoop, loader
from tests.support.training import INPUTS, LABELS, batch_of, quiet_trainer


@pytest.mark.parametrize(
    ("kind", "options", "error", "message"),
    [
        (
            RelayInformationCallback,
            {"measure": "grow"},
            TypeError,
            r"measure: got 'grow'; it takes RelayMeasure\(…\)",
        ),
        (
            RelayInformationCallback,
            {"sample": 100},
            TypeError,
            r"sample: got 100; it takes SequenceSample\(…\)",
        ),
        (SequenceSample, {"max_samples": 1}, ValueError, "max_samples: got 1; it takes an integer"),
        (SequenceSample, {"max_samples": 2.5}, ValueError, "max_samples: got 2.5; it takes an int"),
        (SequenceSample, {"fit_samples": 1}, ValueError, "fit_samples: got 1; it takes an integer"),
        (SequenceSample, {"max_bytes": 0}, ValueError, "max_bytes: got 0; it takes an integer num"),
        (SequenceSample, {"storage": "disk"}, ValueError, "storage: got 'disk'; it takes 'codes'"),
        (
            SequenceSample,
            {"time_steps": []},
            ValueError,
            r"time_steps: got \[\]; it takes a list o",
        ),
        (SequenceSample, {"time_steps": [1, 1]}, ValueError, r"time_steps: .* name each step once"),
        (SequenceSample, {"time_steps": [0.5]}, ValueError, r"time_steps: got \[0.5\]; it takes"),
        (SequenceSample, {"seed": "a"}, TypeError, "seed: got 'a'; it takes an integer"),
        (RelayMeasure, {"discretization": "mean"}, ValueError, "discretization: got 'mean'; it ta"),
        (RelayMeasure, {"levels": 3}, ValueError, "levels: got 3 with 'kmeans'"),
        (
            RelayMeasure,
            {"direction": "up"},
            ValueError,
            "direction: got 'up'; it takes 'shrink' or",
        ),
        (RelayMeasure, {"estimator": "bayes"}, ValueError, "estimator: got 'bayes'; it takes 'plu"),
        (RelayMeasure, {"min_coverage": 90}, ValueError, "min_coverage: got 90; it takes a fract"),
        (RelayMeasure, {"max_gap": -1}, ValueError, "max_gap: got -1; it takes bits from 0"),
        (
            RelayMeasure,
            {"n_orders": 2},
            ValueError,
            "n_orders: got 2; it takes at least 4, so that",
        ),
        (RelayMeasure, {"n_orders": -0.1}, ValueError, "n_orders: got -0.1; an error aimed at is"),
        (RelayMeasure, {"n_orders": "16"}, TypeError, "n_orders: got '16'; it takes a number of"),
        (
            RelayMeasure,
            {"n_permutations": 5},
            ValueError,
            "n_permutations=5 no p-value is below 1/",
        ),
        (RelayMeasure, {"n_bootstraps": 5}, ValueError, "n_bootstraps: got 5; for a confidence of"),
        (RelayMeasure, {"levels": 3.0}, TypeError, "levels: got 3.0; it takes a number of levels"),
        (RelayMeasure, {"seed": 0.5}, TypeError, "seed: got 0.5; it takes an integer"),
        (RelayInformationCallback, {"layers": "first"}, ValueError, "layers: got 'first'; it take"),
        (RelayInformationCallback, {"states": ["gate"]}, ValueError, r"states: got \['gate'\]; it"),
        *(
            (RelayInformationCallback, {"every_n_epochs": n}, ValueError, f"{n!r}; it takes an int")
            for n in (0, 2.5, True, "2")
        ),
        (
            RelayInformationCallback,
            {"stages": []},
            ValueError,
            r"stages: got \[\]; it takes a list",
        ),
        (
            RelayInformationCallback,
            {"stages": "test"},
            ValueError,
            "stages: got 'test'; it takes a",
        ),
        (RelayInformationCallback, {"stages": ["fit"]}, ValueError, r"stages: got \['fit'\]; it"),
        (RelayInformationCallback, {"concepts": "bits"}, ValueError, "concepts: got 'bits'; it ta"),
        (RelayInformationCallback, {"prefix": ""}, ValueError, "prefix: got ''; it takes a string"),
        (RelayInformationCallback, {"modules": "rnn"}, TypeError, "modules: got the string 'rnn';"),
        (
            RelayInformationCallback,
            {"inputs_end": 1.5},
            TypeError,
            "got 1.5; it takes a step index",
        ),
        (
            RelayInformationCallback,
            {"inputs_end": {"rnn": "auto"}},
            TypeError,
            "got {'rnn': 'auto'}; it takes a step index, a mapping from module",
        ),
        (
            RelayInformationCallback,
            {"inputs_end": "last"},
            ValueError,
            "inputs_end: got 'last'; it takes a step index, a mapping from module .*, or 'auto'",
        ),
    ],
)
def test_options_are_checked_where_they_are_made(
    kind: Any, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        kind(**options)


class Plain(Classifier):
    """No recurrent module."""

    def __init__(self) -> None:
        super().__init__()
        del self.rnn

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.head(x[..., 0])
        return scores


def test_a_model_without_or_with_unknown_recurrent_modules_is_refused_before_training() -> None:
    with pytest.raises(ValueError, match="model: Plain has no recurrent module; it takes a model"):
        quiet_trainer(RelayInformationCallback()).fit(Plain(), loader(), loader())
    with pytest.raises(
        ValueError, match=r"no recurrent module 'lstm' in Classifier; it has: 'rnn'"
    ):
        quiet_trainer(RelayInformationCallback(["lstm"])).fit(Classifier(), loader(), loader())


def test_class_scores_that_cannot_be_found_are_refused() -> None:
    class Hidden(Classifier):
        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
            nn.functional.linear(self.rnn(batch[0])[0][:, -1], self.head.weight)

    model = Hidden()
    with pytest.raises(
        ValueError, match=r"prediction: the step does not end with class scores of shape"
    ):
        quiet_trainer(RelayInformationCallback()).validate(model, loader(), verbose=False)
    assert hook_count(model) == 0


def test_an_empty_evaluation_set_is_refused() -> None:
    empty = batch_of(INPUTS[:0], LABELS[:0])
    message = "dataloader: the validation set is empty, so nothing can be analysed"
    with pytest.warns(UserWarning, match="is zero"), pytest.raises(ValueError, match=message):
        quiet_trainer(RelayInformationCallback()).fit(Classifier(), loader(), empty)
    with pytest.warns(UserWarning, match="is zero"), pytest.raises(ValueError, match=message):
        quiet_trainer(RelayInformationCallback(), num_sanity_val_steps=0).fit(
            Classifier(), loader(), empty
        )
    with pytest.warns(UserWarning, match="is zero"), pytest.raises(ValueError, match=message):
        quiet_trainer(RelayInformationCallback()).validate(Classifier(), empty)
    with (
        pytest.warns(UserWarning, match="is zero"),
        pytest.raises(ValueError, match="dataloader: the test set is empty"),
    ):
        quiet_trainer(RelayInformationCallback()).test(Classifier(), empty)
    with pytest.raises(ValueError, match=r"dataloader: there is no validation set or .* stages="):
        quiet_trainer(RelayInformationCallback()).fit(Classifier(), loader())


def test_an_iterable_set_without_batches_is_refused() -> None:
    class Nothing(IterableDataset[Any]):
        def __iter__(self) -> Any:
            return iter(())

    with pytest.raises(ValueError, match="dataloader: the test set is empty"):
        quiet_trainer(RelayInformationCallback()).test(Classifier(), DataLoader(Nothing()))


def test_a_batch_whose_size_differs_between_states_and_targets_is_refused() -> None:
    class Doubled(Classifier):
        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
            self(torch.cat([batch[0], batch[0]]))

    with pytest.raises(
        ValueError,
        match=r"target: got 16 labels for 32 sequences of 'rnn.l0'; it takes one class label for",
    ):
        quiet_trainer(RelayInformationCallback()).validate(Doubled(), loader(), verbose=False)


def test_a_module_called_twice_or_never_in_a_step_is_refused() -> None:
    class Twice(Classifier):
        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
            self(batch[0])
            self(batch[0])

    class Never(Classifier):
        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
            self.head(batch[0][..., 0])

    for kind, message in (
        (Twice, r"^calls: 'rnn' was called 2 times in one step, with shapes \(batch, steps\): "),
        (Never, r"layer 'rnn.l0' was not called in this step; name only modules that every st"),
    ):
        with pytest.raises(ValueError, match=message):
            quiet_trainer(RelayInformationCallback()).validate(kind(), loader(), verbose=False)


def test_compiled_modules_that_would_leave_out_hooks_are_refused_before_training() -> None:
    torch.compiler.reset()
    with pytest.raises(RuntimeError, match=r"recorder: 'rnn.cell' may be compiled, and compiled c"):
        quiet_trainer(RelayInformationCallback(), num_sanity_val_steps=0).fit(
            CompiledLoop(), loader(), loader()
        )
    with pytest.raises(
        ValueError, match=r"every_n_epochs: got 2 with compiled modules, .*hook_guards = False bef"
    ):
        quiet_trainer(RelayInformationCallback(every_n_epochs=2)).fit(
            CompiledLoop(), loader(), loader()
        )
    model = CompiledLoop()
    quiet_trainer().validate(model, loader(), verbose=False)
    with torch._dynamo.config.patch(skip_nnmodule_hook_guards=False):
        with pytest.raises(
            ValueError, match=r"'rnn.cell.l0' was not called.* is compiled: set tor"
        ):
            quiet_trainer(RelayInformationCallback()).validate(model, loader(), verbose=False)
        torch.compiler.reset()
        callback = RelayInformationCallback(every_n_epochs=2)
        quiet_trainer(callback, max_epochs=4).fit(model.train(), loader(), loader())
    assert [report.epoch for report in callback.reports] == [1, 3]
    torch.compiler.reset()


def test_states_that_are_not_finite_are_refused() -> None:
    spoilt = INPUTS.clone()
    spoilt[20, 3] = torch.nan
    with pytest.raises(
        ValueError, match=r"states of 'rnn.l0': nan at step 3, unit 0 \(in 1 of 16 sequences"
    ):
        quiet_trainer(RelayInformationCallback()).validate(
            Classifier(), batch_of(spoilt, LABELS), verbose=False
        )


def test_lengths_must_be_a_tensor() -> None:
    with pytest.raises(TypeError, match=r"lengths: .* gave int; it takes an integer tensor"):
        quiet_trainer(RelayInformationCallback(lengths=len)).validate(
            Classifier(), loader(), verbose=False
        )


def test_what_is_no_lightning_module_is_refused() -> None:
    with pytest.raises(TypeError, match=r"pl_module: got Linear; it takes a LightningModule"):
        RelayInformationCallback().setup(quiet_trainer(), nn.Linear(1, 1), "fit")  # type: ignore[arg-type]


def test_processes_that_may_have_parts_of_the_model_are_refused() -> None:
    class FSDPStrategy:
        pass

    class FakeTrainer:
        world_size = 2
        strategy = FSDPStrategy()

    words = r"trainer: got 2 processes with FSDPStrategy, which may give each a part of the model"
    with pytest.raises(ValueError, match=words):
        RelayInformationCallback().setup(FakeTrainer(), LightningModule(), "fit")
