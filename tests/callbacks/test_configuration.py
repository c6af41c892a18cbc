"""Every argument of the callbacks, as LightningCLI reads it from a file and writes it back."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from inspect import signature
from typing import Any

import pytest
import yaml
from lightning.pytorch import Callback
from lightning.pytorch.cli import LightningArgumentParser
from torch import Tensor
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score

from lightning_relay import (
    AlongOrder,
    Computed,
    EveryUnit,
    KnockoutCallback,
    LatentMeasure,
    Logged,
    Mean,
    MeanPerStep,
    NamedSets,
    RandomOrders,
    RandomSets,
    RelayInformationCallback,
    RelayMeasure,
    Resample,
    SequenceSample,
    TopUnits,
)
from lightning_relay.ablation.selection import Selection

# LightningCLI calls what jsonargparse has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")

HERE = __name__


def last(batch):  # type: ignore[no-untyped-def]
    return batch[-1]


def scores(outputs: Mapping[str, Tensor], batch: Any) -> Tensor:
    return outputs["scores"]


def is_odd(label: int) -> bool:
    return label % 2 == 1


class Entry:
    def __init__(self, index: int = 0) -> None:
        self.index = index

    def __call__(self, batch: Any) -> Tensor:
        found: Tensor = batch[self.index]
        return found

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Entry) and other.index == self.index

    __hash__ = None  # type: ignore[assignment]


def of(kind: str, /, **arguments: Any) -> dict[str, Any]:
    path = kind if "." in kind else f"lightning_relay.{kind}"
    return {"class_path": path, "init_args": arguments}


F1 = of("torchmetrics.classification.MulticlassF1Score", num_classes=4)

ENTRIES = [
    (1, 1),
    (-1, -1),
    ("label", "label"),
    ("two.parts", "two.parts"),
    (f"{HERE}.last", last),
    (of(f"{HERE}.Entry", index=2), Entry(2)),
    (None, None),
]

LABELLED = {
    "target": ENTRIES,
    "lengths": ENTRIES,
    "prediction": [
        ("readout", "readout"),
        ("decoder.readout", "decoder.readout"),
        (f"{HERE}.last", last),
        (f"{HERE}.scores", scores),
        (["readout", f"{HERE}.scores"], ("readout", scores)),
        (["decoder.readout", f"{HERE}.last"], ("decoder.readout", last)),
    ],
    "label_step": [(-1, -1), (None, None)],
    "bins": [
        (3, 3),
        ([0.0, 1.5], [0.0, 1.5]),
        ([0, 1], [0, 1]),
        (["up/down", 0], ("up/down", 0)),
        (["up/down", "last_value"], ("up/down", "last_value")),
        (["up/down", f"{HERE}.last"], ("up/down", last)),
    ],
    "concepts": [
        ("joint", "joint"),
        ("per_class", "per_class"),
        (
            {"is_odd": f"{HERE}.is_odd", "last": f"{HERE}.last"},
            {"is_odd": is_odd, "last": last},
        ),
    ],
}

SHARED = {
    "every_n_epochs": [(3, 3)],
    "stages": [(["test"], ("test",))],
    "prefix": [("study/relay", "study/relay")],
    "dirpath": [("some/reports", "some/reports"), (None, None)],
    "on_error": [("raise", "raise")],
}

RELAY = LABELLED | SHARED
RELAY |= {
    "modules": [(["encoder.rnn"], ["encoder.rnn"]), (None, None)],
    "layers": [("all", "all")],
    "states": [(["hidden", "cell"], ("hidden", "cell"))],
    "calls": [("joined", "joined"), (-1, -1), ({"a": -1, "b": "last"}, {"a": -1, "b": "last"})],
    "inputs_end": [(-1, -1), ("auto", "auto"), ({"encoder": 3}, {"encoder": 3})],
    "measure": [
        (
            {"discretization": "quantile", "levels": 3, "direction": "grow", "n_orders": 0.01},
            RelayMeasure(discretization="quantile", levels=3, direction="grow", n_orders=0.01),
        ),
        (
            {"estimator": "grassberger", "min_coverage": 1, "max_gap": 0.5, "n_orders": 8},
            RelayMeasure(estimator="grassberger", min_coverage=1.0, max_gap=0.5, n_orders=8),
        ),
        (
            {"n_splits": 0, "n_permutations": 19, "n_bootstraps": 40, "seed": 2},
            RelayMeasure(n_splits=0, n_permutations=19, n_bootstraps=40, seed=2),
        ),
    ],
    "sample": [
        (
            {"max_samples": 60, "fit_samples": 30, "time_steps": [0, -1], "max_bytes": None},
            SequenceSample(max_samples=60, fit_samples=30, time_steps=[0, -1], max_bytes=None),
        ),
        ({"storage": "half", "seed": 5}, SequenceSample(storage="half", seed=5)),
    ],
    "latent": [
        (True, LatentMeasure()),
        (False, None),
        (
            {"n_components": 2, "max_samples": 9, "n_starts": 16, "inputs": "mean", "seed": 1},
            LatentMeasure(n_components=2, max_samples=9, n_starts=16, inputs="mean", seed=1),
        ),
        ({"n_steps": 50, "max_period": 4}, LatentMeasure(n_steps=50, max_period=4)),
    ],
}

OF_LAYERS: dict[str, Any] = {
    "modules": ["encoder.rnn"],
    "layers": "all",
    "states": ("hidden", "cell"),
}

KNOCKOUT = LABELLED | SHARED
KNOCKOUT |= {
    "which": [
        (of("EveryUnit", steps=1, **OF_LAYERS), EveryUnit(steps=1, **OF_LAYERS)),
        (of("EveryUnit", steps="each", max_sets=None), EveryUnit(steps="each", max_sets=None)),
        (of("EveryUnit", steps=[1, -1]), EveryUnit(steps=[1, -1])),
        (
            of("AlongOrder", concepts=["is_odd"], n_random=2, steps=None, max_sets=9),
            AlongOrder(concepts=["is_odd"], n_random=2, steps=None, max_sets=9),
        ),
        (of("TopUnits", top=2, **OF_LAYERS), TopUnits(top=2, **OF_LAYERS)),
        (
            of("RandomSets", n=8, sizes=[1, 2], step=[1, -1], n_bootstraps=0),
            RandomSets(n=8, sizes=[1, 2], step=[1, -1], n_bootstraps=0),
        ),
        (
            of("RandomOrders", n=4, step=-2, max_sets=None),
            RandomOrders(n=4, step=-2, max_sets=None),
        ),
        (
            of("NamedSets", units={"pair": {"rnn.l0": [0, 3]}, "one": {"rnn.l0": 1}}, steps=-1),
            NamedSets({"pair": {"rnn.l0": [0, 3]}, "one": {"rnn.l0": 1}}, steps=-1),
        ),
        (None, EveryUnit()),
    ],
    "value": [
        (0.5, 0.5),
        (1, 1.0),
        (
            of("Mean", reference_samples=20, lengths=f"{HERE}.last"),
            Mean(reference_samples=20, lengths=last),
        ),
        (of("MeanPerStep"), MeanPerStep()),
        (of("Resample", lengths="lengths"), Resample(lengths="lengths")),
    ],
    "score": [
        (F1, {"MulticlassF1Score": MulticlassF1Score}),
        (
            of("torchmetrics.MetricCollection", metrics={"f1": F1}),
            {"f1": MulticlassF1Score},
        ),
        (
            of(
                "torchmetrics.MetricCollection",
                metrics=[F1, of("torchmetrics.classification.MulticlassAccuracy", num_classes=4)],
            ),
            {"MulticlassF1Score": MulticlassF1Score, "MulticlassAccuracy": MulticlassAccuracy},
        ),
        (of("Computed", metric=F1, n_bootstraps=5), {"MulticlassF1Score": MulticlassF1Score}),
        (
            of("Logged", name="val_loss", mode="max", n_bootstraps=7),
            Logged("val_loss", mode="max", n_bootstraps=7),
        ),
        (None, None),
    ],
    "relay": [("relay_grow", "relay_grow"), (None, None)],
    "max_batches": [(2, 2)],
    "seed": [(3, 3)],
}

CALLBACKS = {RelayInformationCallback: RELAY, KnockoutCallback: KNOCKOUT}


def all_arguments() -> Iterator[Any]:
    """Table row by table row, so that the file that is read gives one value to each argument."""
    for kind, table in CALLBACKS.items():
        for row in range(max(map(len, table.values()))):
            yield pytest.param(
                kind,
                {argument: rows[row] for argument, rows in table.items() if row < len(rows)},
                id=f"{kind.__name__}-{row}",
            )


@pytest.fixture(scope="module")
def parser() -> LightningArgumentParser:
    """Reads what a Trainer takes as callbacks."""
    parser = LightningArgumentParser(exit_on_error=False)
    parser.add_argument("--callbacks", type=list[Callback] | Callback | None)
    return parser


def attribute(callback: Any, argument: str) -> Any:
    """What the callback makes of an argument."""
    owner = callback if hasattr(callback, argument) else callback.asked
    found = getattr(owner, argument)
    if isinstance(found, Computed):
        return {name: type(metric) for name, metric in found.metrics().items()}
    if isinstance(found, Selection) and hasattr(found, "states"):
        return replace(found, states=tuple(found.states))
    return found


@pytest.mark.parametrize("kind", CALLBACKS)
def test_the_tables_have_every_argument(kind: type) -> None:
    assert set(CALLBACKS[kind]) == set(signature(kind.__init__).parameters) - {"self"}


@pytest.mark.parametrize(("kind", "arguments"), list(all_arguments()))
def test_what_is_read_from_a_file_is_read_from_the_saved_file_too(
    kind: type, arguments: dict[str, tuple[Any, Any]], parser: LightningArgumentParser
) -> None:
    given = {argument: written for argument, (written, _) in arguments.items()}
    text = yaml.safe_dump({"callbacks": [of(kind.__name__, **given)]})
    for _ in range(2):
        config = parser.parse_string(text)
        (callback,) = parser.instantiate_classes(config).callbacks
        found = {argument: attribute(callback, argument) for argument in arguments}
        assert found == {argument: expected for argument, (_, expected) in arguments.items()}
        text = parser.dump(config, skip_none=False)
        assert "serialize" not in text


@pytest.mark.parametrize(
    ("kind", "argument", "written", "expected"),
    [
        (RelayInformationCallback, "target", "label", "label"),
        (RelayInformationCallback, "target", "-1", -1),
        (RelayInformationCallback, "lengths", f"{HERE}.last", last),
        (RelayInformationCallback, "prediction", f"[readout, {HERE}.last]", ("readout", last)),
        (RelayInformationCallback, "bins", "[up/down, 0]", ("up/down", 0)),
        (RelayInformationCallback, "bins", "3", 3),
        (RelayInformationCallback, "concepts", f"{{odd: {HERE}.is_odd}}", {"odd": is_odd}),
        (RelayInformationCallback, "calls", "joined", "joined"),
        (RelayInformationCallback, "calls", "1", 1),
        (RelayInformationCallback, "calls", "null", None),
        (RelayInformationCallback, "latent", "true", LatentMeasure()),
        (RelayInformationCallback, "measure.n_orders", "8", RelayMeasure(n_orders=8)),
        (KnockoutCallback, "which", "lightning_relay.RandomOrders", RandomOrders()),
        (KnockoutCallback, "value", "0.5", 0.5),
    ],
)
def test_arguments_are_taken_from_the_command_line(
    kind: type, argument: str, written: str, expected: Any, parser: LightningArgumentParser
) -> None:
    config = parser.parse_args(
        [f"--callbacks=lightning_relay.{kind.__name__}", f"--callbacks.{argument}={written}"]
    )
    (callback,) = parser.instantiate_classes(config).callbacks
    found = attribute(callback, argument.partition(".")[0])
    assert found == expected
    assert type(found) is type(expected)
