"""Raw states of a fair sample of sequences, and the maps of their modules, during an evaluation."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Self

from lightning_relay.latent.analysis import structures
from lightning_relay.latent.inputs import MeanInputs
from lightning_relay.latent.module_map import ModuleMap, why_no_map
from lightning_relay.recurrent.layers import recurrent_modules, wanted_keys
from lightning_relay.recurrent.recorder import HiddenStateRecorder
from lightning_relay.recurrent.states import HiddenStates
from lightning_relay.sampling.buffer import SequenceBuffer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor, nn

    from lightning_relay.latent.options import LatentMeasure
    from lightning_relay.latent.structure import LatentStructure
    from lightning_relay.recurrent.inputs_end import InputsEnd
    from lightning_relay.recurrent.layers import Layers, State
    from lightning_relay.sampling.sample import SequenceSample


class LatentCapture:
    """Context manager that keeps what latent structures are made of while a model is evaluated.

    Of modules that can be iterated, the hidden and cell states of all layers are kept, of others
    those that are asked for. Weights are copied at the first batch: they are those evaluated.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        modules: Sequence[str] | None,
        layers: Layers,
        states: Sequence[State],
        sample: SequenceSample,
        measure: LatentMeasure,
    ) -> None:
        self._modules = recurrent_modules(model, modules)
        self._wanted = [
            str(key)
            for name, module in self._modules.items()
            for key in wanted_keys(name, module, layers, states)
        ]
        whole = [name for name, module in self._modules.items() if not why_no_map(module)]
        if not measure.n_starts:
            whole = []
        others = [name for name in self._modules if name not in whole]
        self._recorders = []
        if whole:
            every: tuple[State, ...] = ("hidden", "cell")
            self._recorders.append(HiddenStateRecorder(model, whole, layers="all", states=every))
        if others:
            self._recorders.append(HiddenStateRecorder(model, others, layers=layers, states=states))
        self._inputs = MeanInputs({name: self._modules[name] for name in whole}, model)
        self._sample = replace(
            sample, max_samples=measure.max_samples, storage="states", seed=measure.seed
        )
        self._measure = measure
        self._buffers: dict[int, SequenceBuffer] = {}
        self._maps: dict[str, ModuleMap | str] = {}
        self._hooks = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as hooks:
            for recorder in self._recorders:
                hooks.enter_context(recorder)
            if self._measure.inputs == "mean":
                hooks.enter_context(self._inputs)
            self._hooks = hooks.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._hooks.close()

    def before_step(self, lengths: Tensor | None) -> None:
        """Forget the batch before; ``lengths`` are those of padded sequences."""
        for recorder in self._recorders:
            recorder.clear()
        self._inputs.lengths = lengths

    def after_step(self, labels: Tensor, lengths: Tensor | None, dataloader: int) -> None:
        """Keep the sequences of a batch."""
        if not self._maps:
            self._maps = {
                name: ModuleMap.of(name, module) for name, module in self._modules.items()
            }
        states: dict[str, HiddenStates] = {}
        for recorder in self._recorders:
            states |= recorder.states
            recorder.clear()
        if lengths is not None:
            states = {
                key: HiddenStates.of_lengths(own.values, lengths) for key, own in states.items()
            }
        buffer = self._buffers.setdefault(dataloader, SequenceBuffer(self._sample))
        buffer.add(states, labels, labels)

    def structures(
        self, dataloader: int, inputs_end: InputsEnd | None
    ) -> dict[str, LatentStructure]:
        """Structure of each layer asked for, by layer key."""
        maps = dict(self._maps)
        for name, mean in self._inputs.means().items():
            found = maps[name]
            assert isinstance(found, ModuleMap)
            maps[name] = found.with_inputs(mean)
        buffer = self._buffers[dataloader]
        found_all = structures(buffer.states, buffer.x_in, maps, inputs_end, self._measure)
        return {key: found_all[key] for key in self._wanted}
