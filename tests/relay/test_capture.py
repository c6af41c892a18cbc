import pytest
import torch

from lightning_relay import SequenceSample
from lightning_relay.relay.capture import EvaluationCapture
from lightning_relay.sampling import SequenceBuffer
from tests.support.hooks import hook_count
from tests.support.models import Classifier, loader


def capture_of(model: Classifier, **options: object) -> EvaluationCapture:
    defaults = {
        "modules": None,
        "target": None,
        "prediction": None,
        "lengths": None,
        "new_buffer": lambda: SequenceBuffer(SequenceSample(max_samples=100)),
    }
    return EvaluationCapture(model, **(defaults | options))


def test_steps_are_gathered_by_dataloader_without_any_trainer() -> None:
    model = Classifier().eval()
    with torch.no_grad(), capture_of(model) as capture:
        for dataloader in (0, 1):
            for batch in loader():
                capture.before_step(batch, dataloader)
                model(batch[0])
                capture.after_step(None)
    inputs, labels = loader().dataset.tensors
    with torch.no_grad():
        predicted = model(inputs).argmax(1)
    for dataloader in (0, 1):
        buffer = capture.buffers[dataloader]
        assert torch.equal(buffer.x_in, labels)
        assert torch.equal(buffer.x_out, predicted)
        assert len(buffer.states["rnn.l0"]) == 48
    source = "argmax of the model's own forward, 4 classes"
    assert capture.num_classes == {0: 4, 1: 4}
    assert capture.sources == dict.fromkeys((0, 1), ("batch[1]", source))
    assert hook_count(model) == 0


def test_a_step_that_was_not_begun_is_refused() -> None:
    with (
        capture_of(Classifier()) as capture,
        pytest.raises(RuntimeError, match="after_step was called without before_step"),
    ):
        capture.after_step(None)


def test_no_hook_is_left_when_entering_fails() -> None:
    model = Classifier()
    capture = capture_of(model)
    with capture, pytest.raises(RuntimeError, match="recording already"):
        capture.__enter__()
    assert hook_count(model) == 0
