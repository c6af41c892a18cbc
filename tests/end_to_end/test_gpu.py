"""Both callbacks on a GPU, and where a module computes in half precision."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from lightning_relay import (
    EveryUnit,
    HiddenStates,
    KnockoutCallback,
    LatentMeasure,
    Mean,
    RelayInformationCallback,
    SequenceSample,
    knocked_out,
    relay_report,
)
from tests.support.diary import trained
from tests.support.models import (
    CLASSES,
    STEPS,
    Classifier,
    PlainRNN,
    Stacked,
    Stepped,
    WithoutForward,
    loader,
)
from tests.support.reports import assert_equal
from tests.support.training import INPUTS, LABELS, quiet_trainer

if TYPE_CHECKING:
    from lightning_relay import KnockoutReport, RelayReport

UNITS = 6
KINDS = (PlainRNN, Classifier, WithoutForward, Stacked, Stepped)
ON_A_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
HALVES = [
    ("cpu", "bf16-mixed"),
    pytest.param("gpu", "bf16-mixed", marks=ON_A_GPU),
    pytest.param("gpu", "16-mixed", marks=ON_A_GPU),
]
DTYPES = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


class Unwaiting(WithoutForward):
    """On a GPU, an operation that the host waits for is an error in the modules and their hooks."""

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        x, y = batch
        if x.is_cuda and batch_idx:  # in the first, cuDNN and cuBLAS begin
            torch.cuda.set_sync_debug_mode("error")
        try:
            scores = self.head(self.rnn(x)[0][:, -1])
        finally:
            if x.is_cuda:
                torch.cuda.set_sync_debug_mode("default")
        return self.loss(scores, y)


def new(kind: type[Classifier]) -> Classifier:
    """A model whose answers depend on its states."""
    torch.manual_seed(0)
    model = kind()
    with torch.no_grad():
        for name, weights in model.named_parameters():
            weights.mul_(6.0 if name.startswith("head") else 2.0)
    return model


def relay_of(
    model: Classifier, sample: SequenceSample | None = None, **options: Any
) -> RelayReport:
    callback = RelayInformationCallback(
        layers="all", states=("hidden", "cell"), inputs_end="auto", sample=sample
    )
    quiet_trainer(callback, **options).validate(model, loader(), verbose=False)
    return callback.reports[0]


def knockouts_of(model: Classifier, value: Any = None, **options: Any) -> KnockoutReport:
    callback = KnockoutCallback(EveryUnit(layers="all"), value=value)
    quiet_trainer(callback, **options).validate(model, loader(), verbose=False)
    return callback.reports[0]


@pytest.mark.parametrize(("device", "precision"), HALVES)
@pytest.mark.parametrize("kind", [PlainRNN, Classifier, WithoutForward])
def test_half_precision_is_analysed_as_it_is_computed(
    kind: type[Classifier], device: str, precision: str
) -> None:
    model = new(kind)
    options = {"accelerator": device, "precision": precision}
    relay, knockouts = relay_of(model, **options), knockouts_of(model, value=0.0, **options)
    states, scores = computed(model, device, precision)
    own = {
        key: HiddenStates(values.float(), torch.ones(values.shape[:2], dtype=torch.bool))
        for key, values in states.items()
    }
    expected = relay_report(own, LABELS, scores.argmax(1))
    assert relay.samples == len(LABELS)
    for key in own:
        assert_equal(relay[key], expected[key])
    assert knockouts.confusion is not None
    for place, unit in enumerate([None, *range(UNITS)]):
        units = {} if unit is None else {"rnn.l0": unit}
        _, scores = computed(model, device, precision, units)
        confusion = np.zeros((CLASSES, CLASSES), np.int64)
        np.add.at(confusion, (LABELS.numpy(), scores.argmax(1).numpy()), 1)
        np.testing.assert_array_equal(knockouts.confusion[place], confusion)


def computed(
    model: Classifier, device: str, precision: str, units: dict[str, int] | None = None
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Hidden states and class scores, as they are computed in a Trainer, in CPU memory."""
    place = torch.device("cuda" if device == "gpu" else "cpu")
    model = model.to(place).eval()
    states, scores = [], []
    with torch.inference_mode(), torch.autocast(place.type, DTYPES[precision]):
        for inputs, _ in loader():
            if units:
                with knocked_out(model, units, value=0.0):
                    hidden, _ = model.rnn(inputs.to(place))
            else:
                hidden, _ = model.rnn(inputs.to(place))
            states.append(hidden.cpu())
            scores.append(model.head(hidden[:, -1]).cpu())
    return {"rnn.l0": torch.cat(states)}, torch.cat(scores)


def test_half_precision_has_halves() -> None:
    states, scores = computed(new(WithoutForward), "cpu", "bf16-mixed")
    assert scores.dtype == torch.bfloat16
    assert states["rnn.l0"].shape == (len(INPUTS), STEPS, UNITS)


@ON_A_GPU
@pytest.mark.parametrize("kind", KINDS)
def test_a_gpu_gives_the_reports_of_the_cpu(kind: type[Classifier]) -> None:
    options = {"precision": "64-true"}
    for sample in (None, SequenceSample(max_samples=40, fit_samples=16)):
        here = relay_of(new(kind), sample, **options)
        there = relay_of(new(kind), sample, accelerator="gpu", **options)
        assert_equal(there, here, atol=1e-9)
    for value in (0.0, Mean()):
        here_too = knockouts_of(new(kind), value, **options)
        there_too = knockouts_of(new(kind), value, accelerator="gpu", **options)
        np.testing.assert_array_equal(there_too.confusion, here_too.confusion)


@ON_A_GPU
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_gpu_in_other_precisions(kind: type[Classifier], precision: Any) -> None:
    model = new(kind)
    here = relay_of(new(kind), precision="64-true")
    there = relay_of(model, accelerator="gpu", precision=precision)
    assert there.layers.keys() == here.layers.keys()
    assert there.samples == here.samples
    for concept, bits in here.mutual_information.items():
        assert abs(there.mutual_information[concept] - bits) < 0.2


@ON_A_GPU
def test_hooks_wait_for_nothing_in_a_trainer() -> None:
    relay_of(new(Unwaiting), accelerator="gpu")


@ON_A_GPU
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("kind", [Classifier, WithoutForward, Stacked])
def test_training_on_a_gpu_is_bit_identical(
    kind: type[Classifier], precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    options = {"accelerator": "gpu", "precision": precision}
    callbacks = (
        RelayInformationCallback(
            layers="all", states=("hidden", "cell"), latent=LatentMeasure(n_starts=32, n_steps=64)
        ),
        KnockoutCallback(EveryUnit(), value=Mean()),
    )
    with_callbacks = trained(kind, options, *callbacks)
    without = trained(kind, options)
    assert all(len(callback.reports) == 3 for callback in callbacks)
    torch.testing.assert_close(with_callbacks, without, rtol=0, atol=0, equal_nan=True)
