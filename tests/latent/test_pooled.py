"""Mean inputs without repetitions, and what several processes kept for latent structures."""

from __future__ import annotations

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from lightning_relay import LatentMeasure, SequenceSample
from lightning_relay.latent.capture import LatentCapture
from lightning_relay.latent.inputs import MeanInputs
from lightning_relay.recurrent.hooks import HookErrors
from lightning_relay.sampling.processes import OtherProcessError, Processes
from tests.support.hooks import hook_count
from tests.support.reports import assert_equal

if TYPE_CHECKING:
    from collections.abc import Callable

    from lightning_relay import LatentStructure

SEQUENCES, STEPS, CHANNELS = 31, 5, 3
GENERATOR = torch.Generator().manual_seed(0)
INPUTS = torch.randn(SEQUENCES, STEPS, CHANNELS, generator=GENERATOR, dtype=torch.float64)
LENGTHS = torch.randint(1, STEPS + 1, (SEQUENCES,), generator=GENERATOR)
LABELS = torch.arange(SEQUENCES) % 3


class Threads:
    """Threads in the place of processes: each has a copy of what another one gathers."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.values: list[Any] = [None] * size
        self.barrier = Barrier(size, timeout=60)

    def run(self, part: Callable[[Processes], Any]) -> list[Any]:
        """What each gives, by rank; an ExceptionGroup of all errors if one fails."""
        ranks = [_InThread(rank, self.size, self) for rank in range(self.size)]
        with ThreadPoolExecutor(self.size) as pool:
            done = [pool.submit(part, own) for own in ranks]
        if errors := [error for error in (own.exception() for own in done) if error is not None]:
            raise BaseExceptionGroup("threads", errors)
        return [own.result() for own in done]


class _InThread(Processes):
    def gather(self, value: Any) -> list[Any]:
        self.group.values[self.rank] = pickle.dumps(value)
        self.group.barrier.wait()
        found = [pickle.loads(own) for own in self.group.values]
        self.group.barrier.wait()
        return found


def dealt(processes: Processes) -> list[tuple[Tensor, Tensor]]:
    """Positions of each batch, and which count: the last processes get some of the first again.

    Of four processes, the first has no batch.
    """
    if processes.size == 4 and processes.rank == 0:
        return []
    own = torch.arange(processes.rank, -(-SEQUENCES // processes.size) * processes.size)
    own = own[:: processes.size]
    return [(part, part < SEQUENCES) for part in own.split(7)]


def whole(rnn: nn.Module, x: Tensor, lengths: Tensor) -> None:
    rnn(x)


def packed(rnn: nn.Module, x: Tensor, lengths: Tensor) -> None:
    rnn(pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False))


def in_pieces(rnn: nn.Module, x: Tensor, lengths: Tensor) -> None:
    _, state = rnn(x[:, :2])
    rnn(x[:, 2:], state)


def by_step(rnn: nn.Module, x: Tensor, lengths: Tensor) -> None:
    state = None
    for step in range(STEPS):
        state = rnn(x[:, step], state)


@pytest.mark.parametrize("size", [1, 2, 3, 4])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("call", [whole, packed, in_pieces, by_step])
def test_repetitions_and_padding_do_not_count_in_the_mean_input(
    call: Callable[..., None], padded: bool, size: int
) -> None:
    lengths = LENGTHS if padded else torch.full_like(LENGTHS, STEPS)
    inside = torch.arange(STEPS) < lengths.unsqueeze(1)
    seen = torch.arange(SEQUENCES) % size > (0 if size == 4 else -1)
    expected = INPUTS[seen][inside[seen]].mean(0)
    filled = INPUTS.masked_fill(~inside.unsqueeze(-1), torch.nan)

    def mean(processes: Processes) -> dict[str, Tensor]:
        rnn = nn.GRUCell(CHANNELS, 4) if call is by_step else nn.GRU(CHANNELS, 4, batch_first=True)
        errors = HookErrors()
        with MeanInputs({"rnn": rnn}, rnn, errors) as inputs:
            for positions, counted in dealt(processes):
                own = positions % SEQUENCES
                named = None if call is packed or not padded else lengths[own]
                inputs.begin(named, 1)
                call(rnn.double(), filled[own], lengths[own])
                inputs.end(counted)
                errors.check()
        assert hook_count(rnn) == 0
        inputs.pool(processes)
        assert not inputs.means(0)
        return inputs.means(1)

    for found in Threads(size).run(mean):
        torch.testing.assert_close(found, {"rnn": expected}, rtol=0, atol=1e-15)


def test_calls_on_another_number_of_sequences_do_not_count() -> None:
    rnn = nn.GRU(CHANNELS, 4, batch_first=True).double()
    with MeanInputs({"rnn": rnn}, rnn, HookErrors()) as inputs:
        inputs.begin(None, 0)
        rnn(INPUTS[:2])
        rnn(INPUTS[:3] + 1)
        inputs.end(torch.tensor([True, True, False]))
    torch.testing.assert_close(inputs.means(0)["rnn"], INPUTS[:2].mean((0, 1)) + 1)


class Deep(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(CHANNELS, 4, num_layers=2, dropout=0.5, batch_first=True)


def structures(
    size: int, measure: LatentMeasure, before: Callable[[int, nn.Module], None] = lambda *_: None
) -> list[dict[str, LatentStructure]]:
    """Structures of a model that is called on one sequence after the other, by rank."""
    torch.manual_seed(1)
    model = Deep().double().eval()

    def structure(processes: Processes) -> dict[str, LatentStructure]:
        own = copy.deepcopy(model)
        before(processes.rank, own)
        capture = LatentCapture(
            own,
            modules=None,
            layers="last",
            states=("hidden",),
            sample=SequenceSample(),
            measure=measure,
        )
        with torch.inference_mode():
            with capture:
                for positions, counted in dealt(processes):
                    for position, counts in zip(positions.split(1), counted.split(1), strict=True):
                        row = position % SEQUENCES
                        capture.before_step(LENGTHS[row], 0)
                        own.rnn(INPUTS[row])
                        capture.after_step(
                            LABELS[row], LENGTHS[row], positions=position, counted=counts
                        )
            capture.pool(processes)
            return capture.structures(processes, 0, None, lambda labels: labels)

    return Threads(size).run(structure)


@pytest.mark.parametrize("max_samples", [10, 1024])
@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize(("inputs", "atol"), [("zero", 0), ("mean", 1e-12)])
def test_structures_are_bit_for_bit_those_of_one_process(
    inputs: Any, atol: float, size: int, max_samples: int
) -> None:
    """But for the mean input, which is a sum in another order."""
    measure = LatentMeasure(max_samples=max_samples, inputs=inputs)
    (alone,) = structures(1, measure)
    attractors = alone["rnn.l1"].attractors
    assert attractors is not None
    assert len(attractors)
    assert alone["rnn.l1"].samples.sum(0)[0] == min(SEQUENCES, max_samples)
    for found in structures(size, measure):
        assert_equal(found, alone, atol)


def test_a_process_without_a_batch_has_the_structures_of_the_others() -> None:
    found = structures(4, LatentMeasure(inputs="mean"))
    attractors = found[0]["rnn.l1"].attractors
    assert attractors is not None
    assert len(attractors)
    for own in found[1:]:
        assert_equal(own, found[0])


def test_a_module_that_is_not_iterated_in_one_process_is_iterated_in_none() -> None:
    def drops(rank: int, model: nn.Module) -> None:
        model.train(rank == 2)

    for found in structures(4, LatentMeasure(), drops):
        structure = found["rnn.l1"]
        assert structure.attractors is None
        assert "dropout=0.5" in structure.no_attractors
        assert structure.samples.sum(0)[0] == len([row for row in range(SEQUENCES) if row % 4])


def test_what_fails_in_one_process_ends_all(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise ValueError("of the first module")

    monkeypatch.setattr("lightning_relay.latent.analysis._attractors", fails)
    with pytest.raises(ExceptionGroup) as told:
        structures(2, LatentMeasure())
    own, others = told.value.exceptions
    assert isinstance(own, ValueError)
    assert isinstance(others, OtherProcessError)
    assert str(others) == "process 0: ValueError: of the first module"
