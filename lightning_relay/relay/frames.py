"""A relay report as a pandas frame and an xarray tree."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

import numpy as np

from lightning_relay.latent.frames import datasets
from lightning_relay.reports.frames import evaluation_of, optional

if TYPE_CHECKING:
    from pandas import DataFrame
    from xarray import Dataset, DataTree

    from lightning_relay.relay.report import ConceptRelay, LayerRelay, RelayReport

DIMENSIONS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(
        ["mutual_information", "accuracy", "unattributed", "rank_stability", "set_size", "reached"],
        ("step",),
    ),
    "unexplained_p_values": ("step",),
    **dict.fromkeys(["transfer", "transfer_error"], ("step", "read_at")),
    "lag_profile": ("lag",),
    **dict.fromkeys(
        ["information", "corrected", "gap", "coverage", "distinct_states", "alone"],
        ("step", "gone"),
    ),
    **dict.fromkeys(["lower", "upper"], ("step", "gone")),
    **dict.fromkeys(["units", "telling"], ("step", "place")),
    "told": ("step", "taken"),
    **dict.fromkeys(["chance_level", "chance_p_values", "movable"], ("step", "set")),
}
"""Dimensions of the arrays of ``ConceptRelay``; all others have step and unit."""


def dataframe(report: RelayReport) -> DataFrame:
    """See ``RelayReport.to_dataframe``."""
    pandas = optional("pandas", "to_dataframe")
    about = evaluation_of(report)
    return pandas.concat(
        [
            pandas.DataFrame({**about, "layer": key, "concept": concept, **_columns(layer, relay)})
            for key, layer in report.layers.items()
            for concept, relay in layer.concepts.items()
        ],
        ignore_index=True,
    )


def _columns(layer: LayerRelay, relay: ConceptRelay) -> dict[str, Any]:
    steps, units = relay.units.shape
    of_steps = {
        "step": relay.time_steps,
        **{name: getattr(layer, name) for name in ("samples", "inputs_ended", "distinct_states")},
        "information": relay.information[:, 0],
        "mutual_information": relay.mutual_information,
        "accuracy": relay.accuracy,
        "unattributed": relay.unattributed,
    }
    of_units = {
        name: values for name, values in _arrays(relay) if dimensions(name) == ("step", "unit")
    }
    return {
        **{name: np.repeat(part, units) for name, part in of_steps.items() if part is not None},
        "unit": np.tile(np.arange(units), steps),
        "common_code": layer.common_code.ravel(),
        **{name: part.ravel() for name, part in of_units.items()},
    }


def datatree(report: RelayReport) -> DataTree:
    """See ``RelayReport.to_xarray``."""
    xarray = optional("xarray", "to_xarray")
    about = {name: value for name, value in evaluation_of(report).items() if value is not None}
    parts = {key: _dataset(layer, xarray) for key, layer in report.layers.items()}
    for key, layer in report.layers.items():
        if layer.latent is not None:
            own = datasets(layer.latent, xarray)
            parts |= {f"{key}/{path}": part for path, part in own.items()}
    tree: DataTree = xarray.DataTree.from_dict({"/": xarray.Dataset(attrs=about), **parts})
    return tree


def _dataset(layer: LayerRelay, xarray: Any) -> Dataset:
    relays = list(layer.concepts.values())
    data = {
        name: (
            ("concept", *dimensions(name)),
            np.stack([getattr(relay, name) for relay in relays]),
        )
        for name, _ in _arrays(relays[0])
    }
    for name in ("samples", "inputs_ended"):
        data[name] = (("step",), getattr(layer, name))
    data["common_code"] = (("step", "unit"), layer.common_code)
    coordinates = {"concept": list(layer.concepts), "step": layer.time_steps}
    if "transfer" in data:
        coordinates["read_at"] = layer.time_steps
        coordinates["lag"] = np.arange(1, data["lag_profile"][1].shape[1] + 1)
    return xarray.Dataset(data, coords=coordinates)  # type: ignore[no-any-return]


def dimensions(name: str) -> tuple[str, ...]:
    """Names of the dimensions of an array of ``ConceptRelay``."""
    return DIMENSIONS.get(name, ("step", "unit"))


def _arrays(relay: ConceptRelay) -> list[tuple[str, Any]]:
    parts = [(part.name, getattr(relay, part.name)) for part in fields(relay)]
    return [pair for pair in parts if isinstance(pair[1], np.ndarray) and pair[0] != "time_steps"]
