"""A fair sample of sequences from a stream of batches, in memory that is estimated beforehand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from lightning_relay.information.options import RelayMeasure
from lightning_relay.recurrent.transfer import on_cpu
from lightning_relay.sampling.kept import KeptLayer, KeptStates
from lightning_relay.sampling.sample import CHECKED, SequenceSample
from lightning_relay.sampling.storage import LabelRows, Numbers, together

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from torch import Tensor

    from lightning_relay.recurrent.states import HiddenStates
    from lightning_relay.sampling.processes import Processes

_ELEMENTS_AT_ONCE = {"cpu": 2**19, "gpu": 2**24}
"""Approximate number of states of a batch that are taken in at a time, to bound copies.

The host waits for a GPU each time.
"""

_ADVICE = (
    "Keep fewer sequences (max_samples), fit thresholds to fewer (fit_samples), keep fewer steps "
    "(time_steps) or modules (modules), or raise max_bytes; all but the modules are options of "
    "SequenceSample"
)
"""What to do about too much memory."""


class SequenceBuffer:
    """A fair sample of up to ``max_samples`` sequences, with their states and labels.

    *Fair* means that each sequence is as likely to be kept as any other. Every sequence draws a
    random number from the buffer's own generator, and the sequences with the smallest numbers are
    kept. So the sample depends on the seed and on the order of the sequences, but not on the
    division into batches. No other random state is touched.

    With ``storage="codes"``, the states of the first ``fit_samples`` sequences are kept. If more
    sequences come, thresholds are fitted once, to these states. From then on only codes are kept:
    one bit per state for two levels. A step that fewer than 32 of the first sequences have gets no
    thresholds; the sequences that have it are counted. The states of a fair sample of 256 sequences
    of the whole stream are kept to the end, to check how well the thresholds suit them.

    Args:
        sample: Which sequences and steps are kept, and how; default: ``SequenceSample()``.
        measure: Its ``discretization`` and ``levels`` say how states become codes; default:
            ``RelayMeasure()``.
        advice: What to do about too much memory, for the error; default: the options of
            ``sample``.

    Attributes:
        expected: Number of sequences that will be kept, as far as is known.
        bytes_needed: Estimate of the largest number of bytes that will be held at a time.

    Example:
        >>> import torch
        >>> from lightning_relay import HiddenStates
        >>> buffer = SequenceBuffer(SequenceSample(max_samples=2))
        >>> states = HiddenStates.of_lengths(torch.zeros(3, 5, 8), torch.tensor([5, 5, 2]))
        >>> buffer.add({"rnn.l0": states}, torch.tensor([0, 1, 1]), torch.tensor([0, 1, 0]))
        >>> buffer.seen, len(buffer), buffer.states["rnn.l0"].at(0).values.shape
        (3, 2, torch.Size([2, 1, 8]))
    """

    def __init__(
        self,
        sample: SequenceSample | None = None,
        measure: RelayMeasure | None = None,
        *,
        advice: str = _ADVICE,
    ) -> None:
        self._sample = sample or SequenceSample()
        self._measure = measure or RelayMeasure()
        self._advice = advice
        self.expected = 0
        self.bytes_needed = 0
        self._generator = torch.Generator().manual_seed(self._sample.seed)
        self._drawn = 0
        self._kept = _Reservoir(self._sample.max_samples)
        self._checked = _Reservoir(CHECKED)
        self._layers: dict[str, KeptLayer] = {}
        self._shapes: dict[str, tuple[int, int]] = {}
        self._kinds: dict[str, tuple[int, torch.dtype]] = {}
        self._real: set[bool] = set()
        self._x_in = LabelRows()
        self._x_out = LabelRows()

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def seen(self) -> int:
        """Number of sequences added so far."""
        return self._kept.seen

    @property
    def x_in(self) -> Tensor:
        """Labels of the inputs of the kept sequences, ``(batch,)`` or ``(batch, step)``.

        They are int64, or float64 if they were real numbers.
        """
        return self._x_in.read(self._kept.slots())

    @property
    def x_out(self) -> Tensor:
        """Labels that the model gave the kept sequences, as ``x_in``."""
        return self._x_out.read(self._kept.slots())

    @property
    def states(self) -> dict[str, KeptStates]:
        """States or codes of the kept sequences, by layer key."""
        return {
            key: KeptStates(layer, self._kept.slots(), self._checked.slots())
            for key, layer in self._layers.items()
        }

    def add(
        self,
        states: Mapping[str, HiddenStates],
        x_in: Tensor,
        x_out: Tensor,
        *,
        expected: int | None = None,
        positions: Tensor | None = None,
        finite: bool = False,
    ) -> None:
        """Add a batch of sequences.

        Args:
            states: Hidden states by layer key.
            x_in: Label of the input of each sequence, ``(batch,)``, or of each of its steps,
                ``(batch, step)``: integers, or real numbers in every batch.
            x_out: Label that the model gave each sequence or step, as ``x_in``.
            expected: Total number of sequences that will be added, to estimate the memory; default:
                ``max_samples``.
            positions: Number of each sequence in the whole stream, of which other processes may
                have parts, ascending over all batches, int64 ``(batch,)``; default: they follow
                those before.
            finite: Whether the states are known to be finite, so that they need no check.

        Raises:
            TypeError: If labels are not ``(batch,)`` or ``(batch, step)``, or integers in one batch
                and real numbers in another.
            ValueError: If there is no layer, the numbers of sequences and labels differ, the layers
                differ from those of the batches before, a state is NaN or infinite or too large for
                ``storage="half"``, or the kept sequences would take more than ``max_bytes``; says
                how much.
        """
        self._check_batch(states, x_in, x_out, finite=finite)
        if len(x_in) == 0:
            return
        self._check_memory(states, expected)
        if positions is None:
            positions = self._drawn + torch.arange(len(x_in))
        with torch.inference_mode(False), torch.no_grad():
            for first, last in self._spans(len(x_in), states.values()):
                part = {key: layer.select(slice(first, last)) for key, layer in states.items()}
                own = positions[first:last]
                self._add(part, x_in[first:last], x_out[first:last], own)

    def pooled(self, processes: Processes) -> SequenceBuffer:
        """A buffer of the sequences that all processes kept; all of them must call this.

        It is that of a single process which was given the sequences in the order of their
        positions, if only states are kept (``storage`` is not ``"codes"``, or ``fit_samples`` not
        below ``max_samples``).
        """
        if processes.size == 1:
            return self
        slots = self._kept.slots()
        parts = processes.gather(
            _Part(
                self.seen,
                self.bytes_needed,
                self._kept.draws(slots),
                self._kept.arrivals(slots),
                self._x_in.read(slots),
                self._x_out.read(slots),
                {key: layer.rows(slots) for key, layer in self._layers.items()},
            )
        )
        pool = SequenceBuffer(self._sample, self._measure, advice=self._advice)
        parts = [part for part in parts if len(part.draws)]
        if not parts:
            return pool
        order = torch.cat([part.arrivals for part in parts]).argsort()
        draws = torch.cat([part.draws for part in parts])[order]
        rows, places = pool._kept.place(draws, torch.arange(len(draws)))
        own = order[rows]
        for key in parts[0].layers:
            layer = pool._layers[key] = KeptLayer(key, pool._sample, pool._measure)
            layer.take([part.layers[key] for part in parts], own, places)
        for name in ("x_in", "x_out"):
            labels = LabelRows()
            labels.write(places, together([getattr(part, name) for part in parts])[own], len(own))
            setattr(pool, f"_{name}", labels)
        pool._kept.seen = sum(part.seen for part in parts)
        pool.expected, pool.bytes_needed = len(own), max(part.bytes_needed for part in parts)
        return pool

    def _check_batch(
        self, states: Mapping[str, HiddenStates], x_in: Tensor, x_out: Tensor, *, finite: bool
    ) -> None:
        """Raise an error unless a batch is consistent and has the layers of those before."""
        if not states:
            raise ValueError("states: got no layer; it takes hidden states by layer key")
        for name, labels in {"x_in": x_in, "x_out": x_out}.items():
            if labels.dim() not in (1, 2):
                raise TypeError(
                    f"{name}: got shape {tuple(labels.shape)}; it takes labels (batch,) or "
                    "(batch, step)"
                )
        kinds = {key: (layer.values.shape[2], layer.values.dtype) for key, layer in states.items()}
        real = self._real | {x_in.is_floating_point(), x_out.is_floating_point()}
        if len(real) > 1:
            raise TypeError(
                f"x_in, x_out: got {x_in.dtype} and {x_out.dtype}; they take class labels or real "
                "numbers, the same in every batch"
            )
        for key, layer in states.items():
            if not len(layer) == len(x_in) == len(x_out):
                raise ValueError(
                    f"states, x_in, x_out: got {len(layer)} sequences of {key!r}, {len(x_in)} and "
                    f"{len(x_out)} labels; they take one label each for every sequence. A recorder "
                    "keeps all sequences until clear()"
                )
            if not finite:
                layer.check_finite(key)
            if self._sample.storage == "half":
                _check_half(key, layer)
        if self._kinds and kinds != self._kinds:
            raise ValueError(
                f"states: got units and dtypes {kinds} after {self._kinds}; they take the same "
                "layers in every batch"
            )
        self._kinds, self._real = kinds, real

    def _spans(self, sequences: int, layers: Iterable[HiddenStates]) -> Iterator[tuple[int, int]]:
        """Bounds of small parts of a batch, one of which ends where thresholds will be fitted."""
        values = [layer.values for layer in layers]
        most = _ELEMENTS_AT_ONCE["cpu" if values[0].device.type == "cpu" else "gpu"]
        at_once = max(1, most // max(layer[0].numel() for layer in values))
        first = 0
        while first < sequences:
            last = min(first + at_once, sequences)
            to_fit = self._sample.held - self.seen
            if self._sample.codes_follow and to_fit > 0:
                last = min(last, first + to_fit)
            yield first, last
            first = last

    def _add(
        self,
        states: Mapping[str, HiddenStates],
        x_in: Tensor,
        x_out: Tensor,
        positions: Tensor,
    ) -> None:
        fitted = self._sample.codes_follow and self.seen == self._sample.held
        held, checked = torch.arange(len(self._kept)), self._checked.slots()
        draws = self._draws(positions)
        rows, slots = self._kept.place(draws, positions)
        if self._sample.codes_follow:
            checked_places = self._checked.place(draws, positions)
        writings = []
        for key, layer_states in states.items():
            layer = self._layers.setdefault(key, KeptLayer(key, self._sample, self._measure))
            if fitted:
                layer.fit(held, checked, self.expected)
            writings.append(layer.write(layer_states, rows, slots, self.expected))
            if self._sample.codes_follow:
                writings.append(layer.write_checked(layer_states, *checked_places, self.expected))
        x_in, x_out, *parts = on_cpu(x_in, x_out, *(one for own in writings for one in own.parts))
        for writing in writings:
            own, parts = parts[: len(writing.parts)], parts[len(writing.parts) :]
            writing.write(own)
        self._x_in.write(slots, x_in[rows], self.expected)
        self._x_out.write(slots, x_out[rows], self.expected)

    def _draws(self, positions: Tensor) -> Tensor:
        """Random draws of some positions; those between are drawn, too."""
        last = int(positions[-1]) + 1
        draws = torch.rand(last - self._drawn, dtype=torch.float64, generator=self._generator)
        own = draws[positions - self._drawn]
        self._drawn = last
        return own

    def _check_memory(self, states: Mapping[str, HiddenStates], expected: int | None) -> None:
        """Estimate the memory again if a batch is longer or later than expected, and check it."""
        sequences = self._sample.max_samples if expected is None else expected
        batch = len(next(iter(states.values())))
        sequences = max(self.expected, sequences, self.seen + batch)
        sequences = min(self._sample.max_samples, sequences)
        shapes = {
            key: (
                max(self._steps(key, layer), self._shapes.get(key, (0,))[0]),
                layer.values.shape[2],
            )
            for key, layer in states.items()
        }
        if sequences == self.expected and shapes == self._shapes:
            return
        needed, how = 0, []
        for key, (steps, units) in shapes.items():
            size = states[key].values.element_size()
            of_layer, arithmetic = self._sample.bytes_of(
                sequences, steps, units, size, self._measure.levels
            )
            needed += of_layer
            how.append(f"{key!r}: {arithmetic} = {megabytes(of_layer)}")
        most = self._sample.max_bytes
        if most is not None and needed > most:
            raise ValueError(
                f"max_bytes: got {most} ({megabytes(most)}), but {sequences} sequences "
                f"take {megabytes(needed)}. {'; '.join(how)}. {self._advice}"
            )
        self.expected, self.bytes_needed, self._shapes = sequences, needed, shapes

    def _steps(self, key: str, states: HiddenStates) -> int:
        """Number of steps of a batch that can be kept."""
        kept = self._layers.get(key)
        steps = states.values.shape[1]
        return min(steps, max(kept.thresholds, default=0)) if kept and kept.coded else steps


class _Reservoir:
    """Keeps the ``size`` items with the smallest random draws, so each item is equally likely.

    The items kept do not depend on how the stream is divided into batches. They have slots ``0, 1,
    …``; a new item takes the slot of the item that it replaces.
    """

    def __init__(self, size: int) -> None:
        self.seen = 0
        self._size = size
        self._held = 0
        self._draws = Numbers(torch.float64)
        self._arrivals = Numbers(torch.int64)

    def __len__(self) -> int:
        return self._held

    def place(self, draws: Tensor, arrivals: Tensor) -> tuple[Tensor, Tensor]:
        """Indices of the items of a batch that are kept, ascending, and their slots.

        ``draws`` has one random draw for each item, float64 ``(items,)``, and ``arrivals`` its
        place in the stream, int64 ``(items,)``.
        """
        items = torch.arange(len(draws))
        free = items[:0]
        if self._held + len(draws) > self._size:
            every = torch.cat([self._draws.read(torch.arange(self._held)), draws])
            kept = every <= every.kthvalue(self._size).values
            items = items[kept[self._held :]]
            free = (~kept[: self._held]).nonzero().squeeze(1)
        appended = len(items) - len(free)
        slots = torch.cat([free, torch.arange(self._held, self._held + appended)])
        self._draws.write(slots, draws[items])
        self._arrivals.write(slots, arrivals[items])
        self._held += appended
        self.seen += len(draws)
        return items, slots

    def slots(self) -> Tensor:
        """Slots of the kept items, in the order in which the items came."""
        return self._arrivals.read(torch.arange(self._held)).argsort()

    def draws(self, slots: Tensor) -> Tensor:
        """Random draws of the items in some slots."""
        return self._draws.read(slots)

    def arrivals(self, slots: Tensor) -> Tensor:
        """Places in the stream of the items in some slots."""
        return self._arrivals.read(slots)


@dataclass(frozen=True, eq=False)
class _Part:
    """What the buffer of one process kept, in the order of the stream."""

    seen: int
    bytes_needed: int
    draws: Tensor
    arrivals: Tensor
    x_in: Tensor
    x_out: Tensor
    layers: Mapping[str, tuple[Tensor, Tensor]]  # states (batch, column, unit) and lengths (batch,)


def megabytes(count: int) -> str:
    """A number of bytes in kB or MB."""
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB"


def _check_half(key: str, states: HiddenStates) -> None:
    valid = states.valid.unsqueeze(-1)
    largest = float(states.values.abs().masked_fill(~valid, 0).max()) if len(states) else 0.0
    if largest > torch.finfo(torch.float16).max:
        raise ValueError(
            f"storage: a state of {key!r} is {largest:.3g}, beyond the range of half precision; "
            "use storage='states' or 'codes'"
        )
