from typing import Any

import pytest
import torch

from lightning_relay.tasks import BlockTask


def shown(task: BlockTask, split: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    task.setup("fit")
    loaders = task.train_dataloader(), task.val_dataloader(), task.test_dataloader()
    inputs, labels = loaders[split].dataset.tensors
    return inputs, labels


def test_a_block_of_its_width_drifts_its_way_and_then_there_is_nothing() -> None:
    task = BlockTask((1, 3), sensors=10, shown=5, delay=2, speed=2, noise=0.0, val_size=80)
    inputs, labels = shown(task)
    assert inputs.shape == (80, 7, 10)
    assert (task.steps, task.inputs_end, task.num_classes, task.input_size) == (7, 4, 4, 10)
    assert bool((inputs[:, 5:] == 0).all())
    assert torch.bincount(labels).tolist() == [20] * 4
    starts = set()
    for sequence, label in zip(inputs[:, :5], labels.tolist(), strict=True):
        width = task.concepts["width"](label)
        way = {"left": -2, "right": 2}[str(task.concepts["direction"](label))]
        first = next(
            place for place in range(10) if sequence[0, place] and not sequence[0, place - 1]
        )
        starts.add(first)
        for step, frame in enumerate(sequence):
            block = {(first + way * step + place) % 10 for place in range(int(width))}
            assert set(frame.nonzero()[:, 0].tolist()) == block
    assert starts == set(range(10))


def test_no_single_frame_tells_the_direction() -> None:
    inputs, labels = shown(BlockTask((3,), noise=0.0, val_size=4000))
    for step in range(8):
        rates = [inputs[labels == label, step].mean(0) for label in range(2)]
        assert (rates[0] - rates[1]).abs().max() < 0.06


def test_noise_inverts_sensors_and_distractors_switch_others_on() -> None:
    clean, _ = shown(BlockTask((2,), noise=0.0, val_size=2000))
    noisy, _ = shown(BlockTask((2,), noise=0.1, val_size=2000))
    inverted = (clean != noisy)[:, :8].float()
    assert float(inverted.mean()) == pytest.approx(0.1, rel=0.05)
    assert bool((noisy[:, 8:] == 0).all())
    distracted, _ = shown(BlockTask((2,), noise=0.0, distractors=3, val_size=2000))
    on = distracted[:, :8].sum(-1)
    assert set(on.unique().tolist()) == {3.0, 4.0, 5.0}  # some of three lie on the block
    assert float(on.mean()) == pytest.approx(2 + 3 * 10 / 12, rel=0.02)


def test_sizes_and_seed_are_parameters() -> None:
    options: dict[str, Any] = {"train_size": 40, "val_size": 8, "test_size": 9}
    before = torch.get_rng_state()
    parts = [shown(BlockTask(seed=1, **options), split)[0] for split in range(3)]
    assert torch.equal(torch.get_rng_state(), before)
    assert [len(part) for part in parts] == [40, 8, 9]
    assert torch.equal(shown(BlockTask(seed=1, **options), 0)[0], parts[0])
    assert not torch.equal(shown(BlockTask(seed=2, **options), 0)[0], parts[0])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"widths": ()}, r"got \(\); it takes different numbers of sensors from 1 to 11"),
        ({"widths": (2, 2)}, r"got \(2, 2\); it takes different numbers of sensors from 1 to 11"),
        ({"widths": (0,)}, r"got \(0,\); it takes different numbers of sensors from 1 to 11"),
        ({"widths": (12,)}, r"got \(12,\); it takes different numbers of sensors from 1 to 11"),
        ({"widths": 3}, "got 3; it takes different numbers of sensors from 1 to 11"),
        ({"widths": (2.5,)}, r"got \(2.5,\); it takes different numbers of sensors from 1 to 11"),
        ({"speed": 1.5}, "got 1.5; with 12 sensors it takes 1 to 5 sensors per step"),
        ({"sensors": 2}, "got 2; it takes at least 3"),
        ({"shown": 1}, "got 1; it takes at least 2 steps"),
        ({"delay": -1}, "got -1; it takes at least 0 steps"),
        ({"speed": 6}, "got 6; with 12 sensors it takes 1 to 5 sensors per step"),
        ({"speed": 0}, "got 0; with 12 sensors it takes 1 to 5 sensors per step"),
        ({"noise": 0.5}, "got 0.5; it takes a probability from 0 to below 0.5"),
        ({"distractors": 13}, "got 13; it takes at most 12, the sensors"),
        ({"distractors": -1}, "got -1; it takes at least 0"),
        ({"train_size": 0}, "got 0; it takes at least 1"),
    ],
    ids=str,
)
def test_arguments_out_of_range_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=f"^{next(iter(options))}: {words}$"):
        BlockTask(**options)
