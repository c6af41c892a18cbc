"""From the states of a layer to their latent structure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch

from lightning_relay.information.arguments import check_label_tensor
from lightning_relay.latent.attractors import attractors_of
from lightning_relay.latent.module_map import ModuleMap
from lightning_relay.latent.options import LatentMeasure
from lightning_relay.latent.structure import LatentStructure
from lightning_relay.recurrent.inputs_end import InputsEnd, check_inputs_end, inputs_ended
from lightning_relay.recurrent.keys import StateKey
from lightning_relay.recurrent.layers import recurrent_modules
from lightning_relay.recurrent.states import HiddenStates, every_step
from lightning_relay.reports.steps import place_of
from lightning_relay.sampling.kept import KeptStates
from lightning_relay.sampling.processes import Processes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor, nn

    from lightning_relay.latent.structure import Attractors
    from lightning_relay.recurrent.states import LayerStates

_POINTS = 256
"""Number of sequences whose states at the last step are kept for pictures."""


def latent_structure(
    states: Mapping[str, LayerStates],
    x_in: Tensor,
    *,
    model: nn.Module | None = None,
    inputs_end: InputsEnd | None = None,
    inputs: Mapping[str, Tensor] | None = None,
    measure: LatentMeasure | None = None,
) -> dict[str, LatentStructure]:
    """Geometry of the states of each layer, and where the dynamics of its module settle.

    Principal components are fitted to the states at the steps at which all sequences had seen all
    inputs. The module is then iterated under a constant input from states visited at these steps.

    Args:
        states: States by layer key, ``(batch, step, unit)`` each, such as a recorder's. A module is
            iterated if hidden and cell states of all its layers are there.
        x_in: Class label of each sequence, int64 ``(batch,)``.
        model: The model with the modules. Default: nothing is iterated.
        inputs_end: Step at which the last input was presented, as for ``relay_report``.
        inputs: Constant inputs ``(channel,)`` by module name. Default: zeros.
        measure: How the structure is measured. Default: ``LatentMeasure()``. It cannot take the
            mean input, because inputs are not recorded; give it as ``inputs``.

    Returns:
        Structure by layer key.

    Raises:
        TypeError: If labels are not integers.
        ValueError: If there is no layer, labels are not ``(batch,)``, their number differs from
            that of the sequences, a state is NaN or infinite, a step or a module is unknown, or
            ``measure`` takes the mean input.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from lightning_relay import HiddenStateRecorder
        >>> model = nn.GRU(1, 8, batch_first=True)
        >>> x = torch.randn(32, 5, 1)
        >>> with HiddenStateRecorder(model) as recorder:
        ...     _ = model(x)
        >>> found = latent_structure(recorder.states, (x[:, 0, 0] > 0).long(), model=model)["l0"]
        >>> found.trajectories.shape, found.attractors.starts
        ((2, 5, 3), 160)

    Source:
        Sussillo and Barak, Neural Comput. 25:626 (2013), for fixed points of trained networks; Gao
        et al., bioRxiv 214262 (2017), for the participation ratio.
    """
    check_label_tensor("x_in", x_in)
    measure = measure or LatentMeasure()
    if measure.inputs != "zero":
        raise ValueError(
            f"measure: got inputs={measure.inputs!r}, but the inputs of the modules are not known "
            "here; give their means as inputs="
        )
    if not states:
        raise ValueError("states: got no layer; it takes states by layer key")
    for layer, own in states.items():
        if x_in.shape != (len(own),):
            raise ValueError(
                f"x_in: got shape {tuple(x_in.shape)} for {len(own)} sequences of {layer!r}; it "
                "takes one label for each"
            )
        if isinstance(own, HiddenStates):
            own.check_finite(layer)
    maps: dict[str, ModuleMap | str] = {}
    if model is not None:
        names = dict.fromkeys(StateKey.parse(layer).module for layer in states)
        maps = maps_of(recurrent_modules(model, list(names)))
    for name, constant in (inputs or {}).items():
        found = maps.get(name)
        if isinstance(found, ModuleMap):
            maps[name] = found.with_inputs(constant, "given")
        else:
            raise ValueError(f"inputs: {name!r} is no module to iterate; leave it out")
    return structures(Processes(), states, x_in, maps, inputs_end, measure)


def maps_of(
    modules: Mapping[str, nn.Module], *, compared: bool = False
) -> dict[str, ModuleMap | str]:
    """The map of each module, or why it has none, by module name.

    ``compared``: calls of forwards of their own are compared with PyTorch's.
    """
    return {name: ModuleMap.of(name, module, compared=compared) for name, module in modules.items()}


def structures(
    processes: Processes,
    states: Mapping[str, LayerStates],
    x_in: Tensor,
    maps: Mapping[str, ModuleMap | str],
    inputs_end: InputsEnd | None,
    measure: LatentMeasure,
) -> dict[str, LatentStructure]:
    """``latent_structure`` of modules whose maps are known already.

    The processes have the same states and share the modules; all must call this.
    """
    check_inputs_end(inputs_end, states)
    modules: dict[str, dict[StateKey, _Layer]] = {}
    for key in states:
        parsed = StateKey.parse(key)
        layer = _Layer.of(key, states, x_in, inputs_end)
        modules.setdefault(parsed.module, {})[parsed] = layer
    parts = [
        partial(_of_module, layers, maps.get(name, "no model was given"), measure)
        for name, layers in modules.items()
    ]
    found = {key: own for part in processes.share(parts) for key, own in part.items()}
    return {key: found[key] for key in states}


def _of_module(
    layers: Mapping[StateKey, _Layer], found: ModuleMap | str, measure: LatentMeasure
) -> dict[str, LatentStructure]:
    """Structure of each layer of a module."""
    seed = measure.seed % 2**64
    structure = {key: own.structure(measure.n_components, seed) for key, own in layers.items()}
    if measure.n_starts:
        attractors = _attractors(layers, found, measure)
        for key, own in structure.items():
            some = attractors if isinstance(attractors, str) else attractors[key]
            changed = {"no_attractors": some} if isinstance(some, str) else {"attractors": some}
            structure[key] = replace(own, **changed)
    return {str(key): own for key, own in structure.items()}


@dataclass(frozen=True, eq=False)
class _Layer:
    """States of a layer that can be read step by step."""

    states: LayerStates
    x_in: Tensor
    steps: Sequence[int]
    ended: Tensor  # (step,)
    backward: bool

    @classmethod
    def of(
        cls,
        key: str,
        states: Mapping[str, LayerStates],
        x_in: Tensor,
        inputs_end: InputsEnd | None,
    ) -> _Layer:
        own = states[key]
        kept = own.time_steps if isinstance(own, KeptStates) else None
        steps = every_step(own) if kept is None else [step for step in kept if own.has(step)]
        ended = inputs_ended(key, states, steps, inputs_end).cpu()
        if not bool(ended.any()):
            raise ValueError(
                f"inputs_end: got {inputs_end!r}, which comes after every step that was kept of "
                f"{key!r}; keep a later step, such as -1"
            )
        return cls(own, x_in.cpu(), steps, ended, StateKey.parse(key).reverse)

    @property
    def fitted(self) -> list[int]:
        """Steps after the inputs' end; those counted from the end only if there are no others."""
        steps = [step for step, ended in zip(self.steps, self.ended.tolist(), strict=True) if ended]
        return [step for step in steps if step >= 0] or steps

    def at(self, step: int) -> tuple[Tensor, Tensor]:
        """States ``(sequence, unit)``, float64, and whether they are valid, of all sequences."""
        found = self.states.at(step)
        return found.values[:, 0].double().cpu(), found.valid[:, 0].cpu()

    def structure(self, n_components: int, seed: int) -> LatentStructure:
        mean, axes, variances = self._axes()
        components = axes[: min(n_components, len(axes))]
        classes, label = self.x_in.unique(return_inverse=True)
        trajectories, samples, speed, within, between = [], [], [], [], []
        for step in self.steps:
            values, valid = self.at(step)
            counts, means, spread = _of_classes(values[valid], label[valid], len(classes))
            trajectories.append((means - mean) @ components.T)
            samples.append(counts)
            within.append(spread[0])
            between.append(spread[1])
            speed.append(self._speed(step, values, valid))
        last = self.steps[place_of(-1, np.array(self.steps), backward=self.backward)]
        values, valid = self.at(last)
        some = np.random.default_rng(seed).permutation(int(valid.sum()))[:_POINTS]
        total = float(variances.sum())
        return LatentStructure(
            time_steps=np.array(self.steps, dtype=np.int64),
            backward=self.backward,
            inputs_ended=self.ended.numpy(),
            classes=classes.numpy(),
            samples=torch.stack(samples, 1).numpy(),
            mean=mean.numpy(),
            components=components.numpy(),
            explained=(variances / total if total else variances).numpy(),
            variance=total,
            trajectories=torch.stack(trajectories, 1).numpy(),
            speed=np.array(speed),
            within=np.array(within),
            between=np.array(between),
            points=((values[valid][some] - mean) @ components.T).numpy(),
            point_classes=self.x_in[valid][some].numpy(),
        )

    def _axes(self) -> tuple[Tensor, Tensor, Tensor]:
        """Mean, principal components ``(component, unit)`` and variances of the fitted states."""
        number, total, products = 0, torch.zeros(1), torch.zeros(1)
        origin: Tensor | None = None
        for step in self.fitted:
            values, valid = self.at(step)
            if origin is None:
                origin = values[valid].mean(0)  # so that large means cost no precision
            values = values[valid] - origin
            number, total = number + len(values), total + values.sum(0)
            products = products + values.T @ values
        assert origin is not None
        shift = total / number
        variances, axes = torch.linalg.eigh(products / number - torch.outer(shift, shift))
        variances, axes = variances.flip(0).clamp_min(0), axes.flip(1).T
        largest = axes.gather(1, axes.abs().argmax(1, keepdim=True))
        return origin + shift, axes * largest.sign(), variances

    def _speed(self, step: int, values: Tensor, valid: Tensor) -> float:
        before = step + 1 if self.backward else step - 1
        if step < 0 or before not in self.steps or before < 0:
            return float("nan")
        others, known = self.at(before)
        both = valid & known
        return float((values - others)[both].norm(dim=1).mean()) if bool(both.any()) else np.nan


def _of_classes(
    values: Tensor, label: Tensor, classes: int
) -> tuple[Tensor, Tensor, tuple[float, float]]:
    """Number and mean of each class; variance within and between classes, unbiased."""
    counts = torch.bincount(label, minlength=classes)
    sums = torch.zeros(classes, values.shape[1], dtype=values.dtype).index_add_(0, label, values)
    means = sums / counts.unsqueeze(1)  # NaN where a class has no sequence
    present, number = int((counts > 0).sum()), len(values)
    inside = float(((values - means[label]) ** 2).sum())
    if number <= present:
        return counts, means, (np.nan, np.nan)
    within = inside / (number - present)
    apart = float(((means[label] - values.mean(0)) ** 2).sum())
    return counts, means, (within, (apart - (present - 1) * within) / number)


def _attractors(
    layers: Mapping[StateKey, _Layer],
    found: ModuleMap | str,
    measure: LatentMeasure,
) -> dict[StateKey, Attractors] | str:
    """Attractors of a module, for each of its layers, or why there are none."""
    if isinstance(found, str):
        return found
    missing = [str(key) for key in found.units if key not in layers]
    if missing:
        return f"the states of {', '.join(missing)} are not known"
    first = next(iter(layers.values()))
    rows = []
    for step in first.fitted:
        _, valid = first.at(step)
        rows += [(step, row) for row in valid.nonzero()[:, 0].tolist()]
    generator = np.random.default_rng(measure.seed % 2**64)  # of its own for every module
    chosen = sorted(generator.permutation(len(rows))[: measure.n_starts].tolist())
    by_step: dict[int, list[int]] = {}
    for step, row in (rows[place] for place in chosen):
        by_step.setdefault(step, []).append(row)
    starts = torch.cat(
        [
            torch.cat([layers[key].at(step)[0][some] for key in found.units], 1)
            for step, some in by_step.items()
        ]
    )
    label = torch.cat([first.x_in[some] for some in by_step.values()])
    return attractors_of(found, starts, label, measure)
