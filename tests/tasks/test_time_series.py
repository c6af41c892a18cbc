from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from torch.nn.utils.rnn import pad_packed_sequence

from lightning_relay.tasks import TimeSeriesTask

SETS = {"BasicMotions": (4, 6), "ItalyPowerDemand": (2, 1), "JapaneseVowels": (9, 12)}


@pytest.mark.parametrize("name", SETS)
def test_the_sets_that_ship_with_aeon_can_be_loaded(name: str) -> None:
    pytest.importorskip("aeon", reason="the series ship with aeon, an optional dependency")
    task = TimeSeriesTask(name)
    assert (task.num_classes, task.input_size) == SETS[name]
    packed, labels = next(iter(task.test_dataloader()))
    values, lengths = pad_packed_sequence(packed, batch_first=True)
    assert values.shape[2] == task.input_size
    assert len(labels) == len(lengths) == task.batch_size
    assert int(labels.max()) < task.num_classes


def test_a_part_of_the_training_set_is_kept_for_validation() -> None:
    pytest.importorskip("aeon", reason="the series ship with aeon, an optional dependency")
    task = TimeSeriesTask("JapaneseVowels", val_fraction=0.2, seed=1)
    train, val, test = (
        loader.dataset
        for loader in (task.train_dataloader(), task.val_dataloader(), task.test_dataloader())
    )
    assert (len(train), len(val), len(test)) == (216, 54, 370)
    assert torch.bincount(torch.tensor([label for _, label in val])).tolist() == [6] * 9
    training = torch.cat([series for series, _ in train])
    torch.testing.assert_close(training.mean(0), torch.zeros(12), atol=1e-4, rtol=0)
    torch.testing.assert_close(training.std(0), torch.ones(12), atol=1e-4, rtol=0)
    other = TimeSeriesTask("JapaneseVowels", seed=2).val_dataloader().dataset
    assert [len(series) for series, _ in other] != [len(series) for series, _ in val]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"name": "GunPoint2"},
            "got 'GunPoint2'; it takes 'BasicMotions', 'ItalyPowerDemand', 'Ja",
        ),
        ({"val_fraction": 1.0}, "got 1.0; it takes a fraction between 0 and 1$"),
        ({"batch_size": 0}, "got 0; it takes at least 1$"),
    ],
    ids=str,
)
def test_arguments_out_of_range_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=rf"^{next(iter(options))}: {words}"):
        TimeSeriesTask(**{"name": "JapaneseVowels", **options})


def test_a_missing_aeon_is_named_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "aeon", None)
    with pytest.raises(ImportError, match=r"pip install 'lightning_relay\[examples\]'"):
        TimeSeriesTask("JapaneseVowels")
