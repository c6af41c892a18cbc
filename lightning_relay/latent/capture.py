"""Raw states of a fair sample of sequences, and the maps of their modules, during an evaluation."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Self

from lightning_relay.latent.analysis import maps_of, structures
from lightning_relay.latent.forwards import ComparedForwards
from lightning_relay.latent.inputs import MeanInputs
from lightning_relay.latent.module_map import ModuleMap, why_no_map
from lightning_relay.recurrent.chosen import ChosenCalls, calls_by_module
from lightning_relay.recurrent.hooks import HookErrors
from lightning_relay.recurrent.layers import recurrent_modules, state_units, wanted_keys
from lightning_relay.recurrent.recorder import HiddenStateRecorder
from lightning_relay.recurrent.states import HiddenStates
from lightning_relay.sampling.buffer import SequenceBuffer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor, nn

    from lightning_relay.latent.options import LatentMeasure
    from lightning_relay.latent.structure import LatentStructure
    from lightning_relay.recurrent.inputs_end import InputsEnd
    from lightning_relay.recurrent.layers import Layers, State
    from lightning_relay.sampling.processes import Processes
    from lightning_relay.sampling.sample import SequenceSample


_ADVICE = (
    "These are raw states for the latent structure. Keep fewer sequences (max_samples of "
    "LatentMeasure), fewer steps (time_steps of SequenceSample) or fewer modules (modules), raise "
    "max_bytes of SequenceSample, or leave out latent"
)
"""What to do about too much memory."""


class LatentCapture:
    """Context manager that keeps what latent structures are made of while a model is evaluated.

    Of modules that can be iterated, the hidden and cell states of all layers are kept, of others
    those that are asked for. Where states that nobody asked for cannot be had, the module is not
    iterated, and the structure says why. Weights are copied at the first batch: they are those
    evaluated.
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
        calls: ChosenCalls = None,
    ) -> None:
        self._modules = recurrent_modules(model, modules)
        asked = {
            name: [str(key) for key in wanted_keys(name, module, layers, states)]
            for name, module in self._modules.items()
        }
        self._wanted = [key for keys in asked.values() for key in keys]
        whole = [
            name for name, module in self._modules.items() if not why_no_map(module, compared=True)
        ]
        if not measure.n_starts:
            whole = []
        self._calls = calls_by_module(calls, self._modules)
        self._recorder = HiddenStateRecorder(
            model, modules, layers=layers, states=states, calls=calls
        )
        self._others = {
            name: HiddenStateRecorder(
                model, [name], layers="all", states=("hidden", "cell"), calls=self._calls[name]
            )
            for name in whole
            if any(str(key) not in asked[name] for key in state_units(name, self._modules[name]))
        }
        self._errors = {name: HookErrors() for name in (None, *self._others)}
        self._recorder.keep_errors(self._errors[None])
        for name, recorder in self._others.items():
            recorder.keep_errors(self._errors[name])
        self._inputs = MeanInputs(
            {name: self._modules[name] for name in whole}, model, self._errors[None]
        )
        self._compared = ComparedForwards({name: self._modules[name] for name in whole}, model)
        self._sample = replace(
            sample, max_samples=measure.max_samples, storage="states", seed=measure.seed
        )
        self._measure = measure
        self._buffers: dict[tuple[int, str | None], SequenceBuffer] = {}
        self._maps: dict[str, ModuleMap | str] = {}
        self._dataloader = 0
        self._hooks = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as hooks:
            for recorder in (self._recorder, *self._others.values()):
                hooks.enter_context(recorder)
            hooks.enter_context(self._compared)
            if self._measure.inputs == "mean":
                hooks.enter_context(self._inputs)
            self._hooks = hooks.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._hooks.close()

    def before_step(self, lengths: Tensor | None, dataloader: int) -> None:
        """Forget the batch before; ``lengths`` are those of padded sequences."""
        for errors in self._errors.values():
            errors.clear()
        for recorder in (self._recorder, *self._others.values()):
            recorder.clear()
        self._inputs.begin(lengths, dataloader)
        self._dataloader = dataloader

    def after_step(
        self,
        labels: Tensor,
        lengths: Tensor | None,
        *,
        positions: Tensor,
        counted: Tensor,
        expected: int | None = None,
    ) -> None:
        """Keep the sequences of a batch that count.

        Args:
            labels: Label of each sequence, ``(batch,)``.
            lengths: Lengths of padded sequences, int64 ``(batch,)``; None if nothing is padded.
            positions: Number of each sequence in the whole stream, int64 ``(batch,)``.
            counted: Which sequences count, bool ``(batch,)``.
            expected: Number of sequences of the whole dataloader; default: ``max_samples``.
        """
        self._errors[None].check()
        self._inputs.end(counted)
        keep = partial(self._keep, labels, lengths, positions, counted, expected)
        if not self._maps:
            self._maps = maps_of(self._modules, compared=True)
        self._maps |= self._compared.differences
        self._leave_out_other_means()
        keep(self._recorder, None)
        for name, recorder in self._others.items():
            if isinstance(self._maps[name], str):
                continue
            try:
                self._errors[name].check()
                keep(recorder, name)
            except ValueError as why:  # must not end a run that does without these states
                self._maps[name] = str(why)
            finally:
                recorder.clear()

    def _leave_out_other_means(self) -> None:
        """Iterate no module under the mean input of all calls, of which one is analysed."""
        for name, shapes in self._recorder.shapes.items():
            of_all = self._calls[name] == "joined" or len(shapes) == 1
            if self._measure.inputs == "mean" and not of_all:
                self._maps[name] = (
                    f"the mean input of {name!r} is that of all {len(shapes)} calls in a step, and "
                    "one of them is analysed; LatentMeasure(inputs='zero') needs no mean"
                )

    def _keep(
        self,
        labels: Tensor,
        lengths: Tensor | None,
        positions: Tensor,
        counted: Tensor,
        expected: int | None,
        recorder: HiddenStateRecorder,
        module: str | None,
    ) -> None:
        states = {key: own for key, own in recorder.states.items() if self._is_of(key, module)}
        recorder.clear()
        if lengths is not None:
            states = {
                key: HiddenStates.of_lengths(own.values, lengths) for key, own in states.items()
            }
        if not counted.all():
            labels, positions = labels[counted], positions[counted]
            states = {key: own.select(counted) for key, own in states.items()}
        buffer = self._buffer(self._dataloader, module)
        buffer.add(states, labels, labels, expected=expected, positions=positions)

    def _buffer(self, dataloader: int, module: str | None) -> SequenceBuffer:
        """Sequences of a dataloader, with the states asked for, or with a module's others."""
        new = SequenceBuffer(self._sample, advice=_ADVICE)
        return self._buffers.setdefault((dataloader, module), new)

    def _is_of(self, key: str, module: str | None) -> bool:
        """Whether the states are kept with those asked for (None), or with a module's others."""
        return (key in self._wanted) == (module is None)

    def pool(self, processes: Processes) -> None:
        """Take in what the other processes kept; all must call this.

        The sequences are then those of a single process. A module that cannot be iterated in one
        process is iterated in none.
        """
        self._inputs.pool(processes)
        self._pool_maps(processes)
        dataloaders = processes.gather({dataloader for dataloader, _ in self._buffers})
        for dataloader in sorted(set().union(*dataloaders)):
            for name in (None, *self._others):
                if name is None or isinstance(self._maps[name], ModuleMap):
                    buffer = self._buffer(dataloader, name)
                    self._buffers[dataloader, name] = buffer.pooled(processes)

    def _pool_maps(self, processes: Processes) -> None:
        """Take in why modules are not iterated and, in a process without a batch, all maps."""
        reasons = {name: own for name, own in self._maps.items() if isinstance(own, str)}
        found = processes.gather(reasons if self._maps else None)
        if None in found:  # weights are large: only one process sends them, if it must
            giver = next(rank for rank, own in enumerate(found) if own is not None)
            self._maps = processes.gather(self._maps if processes.rank == giver else {})[giver]
        for own in reversed(found):
            self._maps |= own or {}

    def structures(
        self,
        processes: Processes,
        dataloader: int,
        inputs_end: InputsEnd | None,
        classes: Callable[[Tensor], Tensor],
    ) -> dict[str, LatentStructure]:
        """Structure of each layer asked for, by layer key; ``classes`` gives those of labels.

        The processes share the work; all must call this after ``pool``.
        """
        maps = dict(self._maps)
        for name, mean in self._inputs.means(dataloader).items():
            found = maps[name]
            if isinstance(found, ModuleMap):
                maps[name] = found.with_inputs(mean, "mean")
        buffer = self._buffers[dataloader, None]
        states = dict(buffer.states)
        for name in self._others:
            if isinstance(maps[name], ModuleMap):
                states |= self._buffers[dataloader, name].states
        labels = classes(buffer.x_in)
        found_all = structures(processes, states, labels, maps, inputs_end, self._measure)
        return {key: found_all[key] for key in self._wanted}
