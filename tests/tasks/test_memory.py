from typing import Any

import pytest
import torch

from lightning_relay.tasks import MemoryTask


def test_bits_are_presented_one_per_step_and_then_nothing() -> None:
    task = MemoryTask(bits=4, delay=3, noise=0.0, val_size=32)
    task.setup("fit")
    inputs, labels = task.val_dataloader().dataset.tensors
    assert inputs.shape == (32, 7, 1)
    assert (task.steps, task.inputs_end, task.num_classes) == (7, 3, 16)
    assert bool((inputs[:, 4:] == 0).all())
    for sequence, label in zip(inputs[:, :4, 0], labels, strict=True):
        assert sequence.tolist() == [1.0 if int(label) >> bit & 1 else -1.0 for bit in range(4)]
    assert torch.bincount(labels).tolist() == [2] * 16


def test_each_bit_is_a_concept() -> None:
    concepts = MemoryTask(bits=3).concepts
    assert list(concepts) == ["bit_0", "bit_1", "bit_2"]
    assert [concepts["bit_2"](label) for label in range(8)] == [0, 0, 0, 0, 1, 1, 1, 1]


def test_noise_size_and_seed_are_parameters() -> None:
    def sequences(**options: float) -> list[torch.Tensor]:
        task = MemoryTask(train_size=400, val_size=8, test_size=9, **options)
        task.setup("fit")
        return [
            loader.dataset.tensors[0]
            for loader in (task.train_dataloader(), task.val_dataloader(), task.test_dataloader())
        ]

    before = torch.get_rng_state()
    train, val, test = sequences(noise=0.5, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert [len(split) for split in (train, val, test)] == [400, 8, 9]
    assert float(train[:, 3:].std()) == pytest.approx(0.5, rel=0.05)
    assert torch.equal(sequences(noise=0.5, seed=1)[0], train)
    assert not torch.equal(sequences(noise=0.5, seed=2)[0], train)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        *(({name: 0}, "got 0; it takes at least 1") for name in ("bits", "val_size", "batch_size")),
        ({"delay": -1}, "got -1; it takes at least 0 steps"),
        ({"noise": -0.1}, "got -0.1; it takes a standard deviation of at least 0"),
    ],
    ids=str,
)
def test_arguments_out_of_range_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=f"^{next(iter(options))}: {words}$"):
        MemoryTask(**options)
