"""Sets of units, windows and values, against one ``knocked_out`` block after the other."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lightning_relay import (
    EveryUnit,
    HiddenStates,
    KnockoutCallback,
    KnockoutReport,
    Mean,
    MeanPerStep,
    NamedSets,
    Resample,
    knocked_out,
)
from tests.support.ablation import (
    UNITS,
    Ragged,
    as_loader,
    assert_report,
    batches,
    by_hand,
    lively,
    recorded,
    validated,
)
from tests.support.models import CLASSES, STEPS, Classifier, InPieces, PlainRNN, Stepped, TwoModules
from tests.support.training import INPUTS, LABELS, batch_of

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("kind", [Classifier, PlainRNN, Ragged, Stepped, InPieces, TwoModules])
def test_every_unit_alone(kind: type[Classifier]) -> None:
    model = lively(kind)
    callback = KnockoutCallback(EveryUnit(layers="all", states=("hidden", "cell")))
    validated(model, callback)
    (report,) = callback.reports
    units: dict[str, int] = {}
    for some in report.sets:
        ((layer, (unit,)),) = some.units.items()
        assert unit == units.get(layer, 0)
        units[layer] = unit + 1
        assert (some.name, some.group) == (f"{layer}: {unit}", "each")
        assert (some.steps, some.concept) == (None, None)
    expected = {
        Classifier: {"rnn.l0": 6},
        PlainRNN: {"rnn.l0": 6},
        Ragged: {
            f"rnn.l{layer}{way}{cell}": 3
            for layer in range(2)
            for way in ("", "_reverse")
            for cell in ("", ".cell")
        },
        Stepped: {"rnn.cell.l0": 6, "rnn.cell.l0.cell": 6},
        InPieces: {"rnn.l0": 6},
        TwoModules: {"rnn.l0": 6, "encoder.l0": 6},
    }[kind]
    assert units == expected
    assert_report(report, model, batches())
    assert (report.samples, report.samples_seen, report.batches, report.batches_seen) == (
        48,
        48,
        3,
        3,
    )
    assert (report.stage, report.epoch, report.global_step) == ("validate", 0, 0)
    assert (report.sets_left_out, report.curves, report.agreement) == (0, (), ())
    assert (report.value, report.x_in) == ("0", "batch[1]")
    assert report.x_out == "argmax of the model's own forward, 4 classes"


@pytest.mark.parametrize("steps", [2, [1, 4], slice(2, None), slice(-3, -1)], ids=str)
@pytest.mark.parametrize("kind", [Classifier, Ragged])
def test_windows(kind: type[Classifier], steps: Any) -> None:
    model = lively(kind)
    callback = KnockoutCallback(EveryUnit(steps=steps), concepts="per_class")
    validated(model, callback)
    (report,) = callback.reports
    positions = {2: (2,), str([1, 4]): (1, 4), str(slice(2, None)): (2, 3, 4, 5)}
    named = positions.get(steps if isinstance(steps, int) else str(steps), (-3, -2))
    assert {some.steps for some in report.sets} == {named}
    concepts = {f"class_{n}": lambda label, n=n: label == n for n in range(CLASSES)}
    assert_report(report, model, batches(), concepts, steps=steps)


def test_every_unit_at_every_step() -> None:
    model = lively(Classifier)
    callback = KnockoutCallback(EveryUnit(steps="each"))
    validated(model, callback)
    (report,) = callback.reports
    cells = report.single_steps("rnn.l0")
    assert sorted(cells) == [(unit, step) for unit in range(UNITS) for step in range(STEPS)]
    labels = LABELS.numpy()
    plain = by_hand(model, batches(), None).argmax(1).numpy()
    assert report.accuracy is not None
    for (unit, step), place in cells.items():
        own = by_hand(model, batches(), {"rnn.l0": [unit]}, steps=step).argmax(1).numpy()
        expected = (plain == labels).mean() - (own == labels).mean()
        assert report.accuracy.damage[place] == pytest.approx(expected, abs=1e-12)
    assert np.ptp(report.accuracy.damage) > 0


def test_steps_that_only_later_batches_have_are_counted() -> None:
    x, y = batches()[0]
    data = as_loader([(x[:, :4], y), (x, y), (x[:, :3], y)])
    callback = KnockoutCallback(EveryUnit(steps="each"))
    validated(lively(Classifier), callback, data=data)
    (report,) = callback.reports
    assert len(report.sets) == UNITS * 4
    assert report.sets_left_out == UNITS * 2


OF_STATES: dict[str, Any] = {"mean": Mean, "mean_per_step": MeanPerStep, "resample": Resample}


@pytest.mark.parametrize("value", [0.7, *OF_STATES])
@pytest.mark.parametrize("kind", [Classifier, Ragged])
def test_values(kind: type[Classifier], value: Any) -> None:
    model = lively(kind)
    states = ["cell" if kind is Ragged else "hidden"]
    held = value if value == 0.7 else OF_STATES[value](reference_samples=30)
    callback = KnockoutCallback(EveryUnit(states=states), value=held, seed=3)
    validated(model, callback)
    (report,) = callback.reports
    reference = None if value == 0.7 else recorded(model, batches()[:2])
    assert_report(report, model, batches(), value=value, states=reference, seed=3)
    expected = "0.7" if value == 0.7 else f"{value} of the states of the first 32 sequences"
    assert report.value == expected
    assert report.samples == 48


@pytest.mark.parametrize(
    "options",
    [{"value": Mean(lengths=1)}, {"value": Mean(), "lengths": 1}],
    ids=["of the value", "of the callback"],
)
def test_the_states_of_lengths_that_are_named_are_valid(options: Any) -> None:
    class Padded(Classifier):
        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
            x, lengths, _ = batch
            self.head(self.rnn(x)[0][torch.arange(len(x)), lengths - 1])

    model = lively(Padded)
    lengths = torch.arange(48) % STEPS + 1
    callback = KnockoutCallback(target=2, **options)
    validated(model, callback, data=batch_of(INPUTS, lengths, LABELS))
    states = recorded(model, [(INPUTS, None)])
    of_lengths = {
        key: HiddenStates.of_lengths(part.values, lengths) for key, part in states.items()
    }
    (report,) = callback.reports
    found = []
    for units in (None, *({"rnn.l0": [unit]} for unit in range(UNITS))):
        block: Any = (
            nullcontext()
            if units is None
            else knocked_out(model, units, value="mean", states=of_lengths)
        )
        with torch.no_grad(), block:
            output = model.rnn(INPUTS)[0]
        found.append(model.head(output[torch.arange(48), lengths - 1]).argmax(1))
    expected = [float((own != found[0]).double().mean()) for own in found[1:]]
    np.testing.assert_allclose(report.predictions_changed, expected, atol=1e-12)


def test_sets_by_name(tmp_path: Path) -> None:
    sets: dict[str, dict[str, Any]] = {
        "pair": {"rnn.l0": [3, 5]},
        "across": {"encoder.l0": [0, 1, 2], "rnn.l0": range(2)},
        "one": {"encoder.l0": np.int64(4)},
        "array": {"encoder.l0": np.array([2, 4])},
        "tensor": {"rnn.l0": torch.tensor([1])},
    }
    model = lively(TwoModules)
    callback = KnockoutCallback(
        NamedSets(sets), concepts={"low": lambda label: label & 1}, value=-1, dirpath=tmp_path
    )
    validated(model, callback)
    (report,) = callback.reports
    (path,) = tmp_path.iterdir()
    assert KnockoutReport.load(path).sets == report.sets
    assert [(some.name, some.group, dict(some.units)) for some in report.sets] == [
        ("pair", "given", {"rnn.l0": (3, 5)}),
        ("across", "given", {"encoder.l0": (0, 1, 2), "rnn.l0": (0, 1)}),
        ("one", "given", {"encoder.l0": (4,)}),
        ("array", "given", {"encoder.l0": (2, 4)}),
        ("tensor", "given", {"rnn.l0": (1,)}),
    ]
    assert_report(report, model, batches(), {"low": lambda label: label & 1}, value=-1)


@pytest.mark.parametrize("kind", [Classifier, Stepped])
def test_steps_that_only_some_batches_have(kind: type[Classifier]) -> None:
    x, y = batches()[0]
    model = lively(kind)
    data = [(x[:, :3], y), (x, y)]
    callback = KnockoutCallback(EveryUnit(steps=4))
    validated(model, callback, data=as_loader(data))
    plain, own = (
        torch.cat([by_hand(model, data[:1], None), by_hand(model, data[1:], some, **options)])
        for some, options in (
            (None, {}),
            ({callback.reports[0].layers[0]: [0]}, {"steps": 4}),
        )
    )
    changed = (plain.argmax(1) != own.argmax(1)).double().mean()
    assert callback.reports[0].predictions_changed[0] == pytest.approx(float(changed), abs=1e-12)


def test_steps_of_modules_that_are_not_knocked_out_do_not_matter() -> None:
    class Decoded(Classifier):
        def __init__(self) -> None:
            super().__init__()
            self.decoder = nn.GRU(6, 6, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            output, _ = self.rnn(x)
            scores: Tensor = self.head(self.decoder(output[:, -2:])[0][:, -1])
            return scores

    model = lively(Decoded)
    callback = KnockoutCallback(EveryUnit(modules=["rnn"], steps=4))
    validated(model, callback)
    assert_report(callback.reports[0], model, batches(), steps=4)
    with pytest.raises(ValueError, match="steps: got 4, but the longest sequence has 2 steps"):
        validated(model, KnockoutCallback(EveryUnit(steps=4)))
