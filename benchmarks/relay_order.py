"""How fast are orders, shares and all subsets, against a plain version of the published algorithm?

    python benchmarks/relay_order.py [--device cuda] [--quick]

The reference is the algorithm as published (Hintze and Adami 2023), written in NumPy: for every
candidate at every step, I_R from its eight joint entropies, each by packing the joint states into
integers and sorting them. Both get the same codes and give an order; printed are the time of ours
(mean of the medians before and after the reference), the time of the reference, their ratio, the
largest difference of the information in bits, whether the orders agree, and by how much the
resident memory grew at its largest. Where the reference would take hours, it is timed on some
candidates of the order that ours found, which are compared too, and its time for all of them is
extrapolated; that is marked with ~.

At the end: relay shares; relay transfer between all pairs of steps, beside both greedy orders and
a plain version that reads each set on each half by four joint entropies, timed on some sets of one
step and extrapolated (~); how time grows with samples, units, steps and classes, and the bytes of
rows that an order reads and writes in a second, beside those of a plain copy. Compiled loops are
compiled before anything is timed.
"""

from __future__ import annotations

import argparse
import ctypes
import logging
import statistics
import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Trainer, seed_everything
from numpy.typing import NDArray
from torch import Tensor

from lightning_relay import HiddenStateRecorder, discretize
from lightning_relay.information import (
    relay_information_of_all_subsets,
    relay_order,
    relay_share,
    relay_transfer,
)
from lightning_relay.information.counting import (
    CHANGE_COUNT,
    CHANGED,
    FIRST,
    LAST,
    begin_with,
    find_changed,
    room_for_strata,
    split,
)
from lightning_relay.information.rows import Samples
from lightning_relay.tasks import MemoryTask, RecurrentClassifier

Codes = NDArray[np.int64]
TIE = 1e-9
WORD = 62
_SOME_SETS = 200


def joint_entropy(columns: Iterable[Codes]) -> float:
    """Joint entropy of integer variables in bits: pack, sort, count."""
    state: Codes | None = None
    states = 1
    for column in columns:
        levels = int(column.max()) + 1
        if state is None:
            state, states = column, levels
            continue
        if states * levels >= 2**WORD:
            _, state = np.unique(state, return_inverse=True)
            states = len(state)
        state, states = state * levels + column, states * levels
    if state is None:
        return 0.0
    state = np.sort(state)
    ends = np.flatnonzero(np.diff(state, append=state[-1] + 1)) + 1
    frequency = np.diff(ends, prepend=0) / len(state)
    return float(-(frequency * np.log2(frequency)).sum())


def reference_information(x_in: Codes, x_out: Codes, units: list[Codes], relays: set[int]) -> float:
    """I_R in bits from its eight joint entropies."""
    others = [codes for unit, codes in enumerate(units) if unit not in relays]
    return (
        -joint_entropy(others)
        + joint_entropy([x_in, *others])
        + joint_entropy([x_out, *others])
        - joint_entropy([x_in, x_out, *others])
        + joint_entropy(units)
        - joint_entropy([x_in, *units])
        - joint_entropy([x_out, *units])
        + joint_entropy([x_in, x_out, *units])
    )


def reference_order(x_in: Codes, x_out: Codes, units: list[Codes]) -> tuple[list[int], list[float]]:
    """The shrinking order of one time step: units, and the information left after each."""
    left = list(range(len(units)))
    order, information = [], []
    while left:
        values = [reference_information(x_in, x_out, units, set(left) - {unit}) for unit in left]
        best = next(place for place, v in enumerate(values) if v >= max(values) - TIE)
        information.append(values[best])
        order.append(left.pop(best))
    return order, information


def as_columns(x_in: Tensor, x_out: Tensor, hidden: Tensor) -> tuple[Codes, Codes, list[Codes]]:
    """What the reference takes, each unit's codes in memory one after the other."""
    units = [np.ascontiguousarray(codes.numpy().astype(np.int64)) for codes in hidden.unbind(-1)]
    return x_in.numpy(), x_out.numpy(), units


@dataclass(frozen=True)
class Case:
    """Codes to order, on the CPU."""

    name: str
    x_in: Tensor
    x_out: Tensor
    hidden: Tensor


def distinct_states(samples: int = 60_000, units: int = 20) -> Case:
    """All states different; three units make the input, a tenth of the outputs is wrong."""
    generator = torch.Generator().manual_seed(0)
    states = torch.randperm(2**units, generator=generator)[:samples].unsqueeze(1)
    hidden = (states >> torch.arange(units) & 1).to(torch.uint8)
    x_in = (hidden[:, :3].long() * torch.tensor([4, 2, 1])).sum(1)
    wrong = torch.rand(samples, generator=generator) < 0.1
    x_out = torch.where(wrong, torch.randint(8, (samples,), generator=generator), x_in)
    return Case(f"{samples:,} × {units}, all states distinct", x_in, x_out, hidden)


def trained_network(samples: int = 60_000, units: int = 20) -> Case:
    """The last step of an RNN that was trained on the memory task with noisy inputs."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", ".*(does not have many workers|LeafSpec).*")
    seed_everything(1, verbose=False)
    task = MemoryTask(noise=0.5, test_size=samples)
    model = RecurrentClassifier("rnn", task.input_size, task.num_classes, hidden_size=units)
    trainer = Trainer(
        max_epochs=12,
        gradient_clip_val=1.0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, task)
    inputs, labels = task.test_dataloader().dataset[:]
    model.eval()
    with torch.no_grad(), HiddenStateRecorder(model) as recorder:
        answers = model(inputs).argmax(-1)
    states = recorder.states["rnn.l0"]
    codes = discretize(states.values[:, -1:].transpose(0, 1), "kmeans", levels=2)[0]
    hidden = codes.to(torch.uint8)
    rows = torch.cat([labels[:, None], answers[:, None], codes], dim=1)
    name = f"{samples:,} × {units} of a trained RNN, {len(rows.unique(dim=0)):,} distinct rows"
    accuracy = float((labels == answers).double().mean())
    return Case(f"{name}, accuracy {accuracy:.3f}", labels, answers, hidden)


def noisy_network(samples: int, units: int, steps: int, classes: int = 8) -> Case:
    """Units that are noisy thresholds of the class's random code, anew at each step."""
    generator = torch.Generator().manual_seed(0)
    x_in = torch.randint(classes, (samples,), generator=generator)
    wrong = torch.rand(samples, generator=generator) < 0.05
    x_out = torch.where(wrong, torch.randint(classes, (samples,), generator=generator), x_in)
    hidden = torch.empty(steps, samples, units, dtype=torch.uint8)
    for step in range(steps):
        code = torch.randn(classes, units, generator=generator)
        noise = torch.randn(samples, units, generator=generator)
        hidden[step] = code[x_in] + 0.5 * noise > 0
    name = f"{steps} steps × {samples:,} × {units}, {classes} classes, noisy units"
    return Case(name, x_in, x_out, hidden)


def lasting_network(samples: int, units: int, steps: int, classes: int = 8) -> Case:
    """The same at all steps, but for the noise."""
    case = noisy_network(samples, units, 1, classes)
    generator = torch.Generator().manual_seed(1)
    flips = torch.rand(steps, samples, units, generator=generator) < 0.02
    name = f"{steps} steps × {samples:,} × {units}, {classes} classes, the same code at all steps"
    return Case(name, case.x_in, case.x_out, case.hidden ^ flips)


def timed(run: Callable[[], Any], repeats: int, device: str) -> tuple[float, Any]:
    """Median time in seconds, and the result."""
    times, result = [], None
    for _ in range(repeats):
        start = time.perf_counter()
        result = run()
        if device != "cpu":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return statistics.median(times), result


def grown_by(run: Callable[[], Any], device: str) -> str:
    """By how much memory grew at its largest while ``run`` ran."""
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return f"{(torch.cuda.max_memory_allocated() - before) / 1e6:.0f} MB"
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)  # what was freed must not hide what is taken
        Path("/proc/self/clear_refs").write_text("5")
    except (OSError, AttributeError):
        return "unknown"
    before = _status("VmRSS")
    run()
    return f"{(_status('VmHWM') - before) / 1e3:.0f} MB"


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1])


def bytes_touched(case: Case, order: list[int]) -> int:
    """Bytes of rows that an order reads and writes.

    When a unit varies in a stratum, the rows of this are read and written to be split, then read to
    see what varies in the new ones, and read to be counted.
    """
    rows = Samples.of(case.x_in, case.x_out, case.hidden).rows(0)
    strata = room_for_strata(rows.table)
    begin_with(rows.table, strata)
    lines = 0
    for unit in order:
        find_changed(strata, unit, rows.planes, 8 * rows.bytes)
        changed = strata.about[CHANGED, : strata.tally[CHANGE_COUNT]]
        lines += int((strata.about[LAST, changed] - strata.about[FIRST, changed]).sum())
        split(strata, unit, rows.planes, 8 * rows.bytes)
    return int(4 * lines * rows.table.shape[1] * rows.table.itemsize)


def compare(case: Case, device: str, repeats: int) -> None:
    """Time both, print a line."""
    x_in, x_out, hidden = (t.to(device) for t in (case.x_in, case.x_out, case.hidden))

    def ours() -> Any:
        return relay_order(x_in, x_out, hidden)

    ours()
    before, order = timed(ours, repeats, device)
    columns = as_columns(case.x_in, case.x_out, case.hidden)
    reference_time, (units, information) = timed(lambda: reference_order(*columns), 1, "cpu")
    after, _ = timed(ours, repeats, device)
    seconds = (before + after) / 2
    difference = (
        (order.information[1:].cpu() - torch.tensor(information, dtype=torch.float64)).abs().max()
    )
    agree = "yes" if order.units.tolist() == units else "NO"
    memory = grown_by(ours, device), grown_by(lambda: reference_information(*columns, {0}), "cpu")
    print_row(case.name, seconds, reference_time, difference, agree, memory)


def extrapolate(case: Case, device: str, sizes: int, repeats: int) -> None:
    """Time ours, and the reference on one candidate for each of some sizes of R; print a line."""
    x_in, x_out, hidden = (t.to(device) for t in (case.x_in, case.x_out, case.hidden))

    def ours() -> Any:
        return relay_order(x_in, x_out, hidden)

    seconds, order = timed(ours, repeats, device)
    steps, _, units = case.hidden.shape
    columns = as_columns(case.x_in, case.x_out, case.hidden[0])
    times, differences = [], []
    for gone in np.linspace(1, units, sizes).astype(int):
        relays = set(order.units[0, gone:].tolist())
        start = time.perf_counter()
        value = reference_information(*columns, relays)
        times.append(time.perf_counter() - start)
        differences.append(abs(value - float(order.information[0, gone])))
    candidates = steps * units * (units + 1) // 2
    print_row(
        case.name,
        seconds,
        statistics.mean(times) * candidates,
        max(differences),
        "",
        (grown_by(ours, device), ""),
        mark="~",
    )


def print_row(
    name: str,
    seconds: float,
    reference: float,
    difference: float,
    agree: str,
    memory: tuple[str, str],
    mark: str = "",
) -> None:
    """One line of the Markdown table."""
    print(
        f"| {name} | {seconds:.4g} s | {mark}{reference:,.4g} s | {mark}{reference / seconds:,.0f} "
        f"| {difference:.1e} | {agree} | {memory[0]} | {memory[1]} |",
        flush=True,
    )


def scaling(device: str) -> None:
    """Time against one size at a time, with the exponent of its growth."""
    print("\n| what grows | from, to | time, ratio | exponent |\n| :--- | ---: | ---: | ---: |")
    base = {"samples": 4000, "units": 32, "steps": 8, "classes": 8}
    for what, factor in (("samples", 8), ("units", 4), ("steps", 8), ("classes", 8)):
        times = []
        for size in (base[what], base[what] * factor):
            case = noisy_network(**base | {what: size})
            moved = [t.to(device) for t in (case.x_in, case.x_out, case.hidden)]
            relay_order(*moved)
            times.append(timed(partial(relay_order, *moved), 3, device)[0])
        ratio = times[1] / times[0]
        exponent = np.log(ratio) / np.log(factor)
        print(
            f"| {what} | {base[what]:,}, {base[what] * factor:,} | {ratio:.2f} | {exponent:.2f} |"
        )


def bandwidth(cases: list[Case]) -> None:
    """Bytes of rows that an order touches in a second, beside those of a copy."""
    source = torch.ones(2**27)
    target = torch.empty_like(source)
    seconds, _ = timed(lambda: target.copy_(source), 5, "cpu")
    copied = 2 * source.numel() * source.element_size() / seconds / 1e9
    print(f"\nA plain copy on all cores reads and writes {copied:.1f} GB/s. Of an order, one core:")
    for case in cases:
        seconds, order = timed(partial(relay_order, case.x_in, case.x_out, case.hidden), 5, "cpu")
        touched = bytes_touched(case, order.units.tolist())
        rate = touched / seconds / 1e9
        print(
            f"- {case.name}: {touched / 1e6:,.1f} MB of rows, {rate:.1f} GB/s "
            f"({rate / copied:.0%} of the copy) in {seconds:.4g} s"
        )


def shares(cases: list[Case], device: str) -> None:
    """Time of relay shares, and their standard errors."""
    print(
        "\n| relay shares of | orders | time | of one order | largest standard error |\n"
        "| :--- | ---: | ---: | ---: | ---: |"
    )
    for case in cases:
        moved = [t.to(device) for t in (case.x_in, case.x_out, case.hidden)]
        steps = case.hidden.shape[0] if case.hidden.dim() == 3 else 1
        for n_orders in (16, 64):
            run = partial(relay_share, *moved, n_orders=n_orders)
            run()
            seconds, share = timed(run, 3, device)
            print(
                f"| {case.name} | {share.n_orders} | {seconds:.4g} s "
                f"| {1e3 * seconds / steps / share.n_orders:.3g} ms "
                f"| {float(share.standard_error.max()):.4f} bits |",
                flush=True,
            )


def transfers(cases: list[Case], device: str) -> None:
    """Time of relay transfer, of both orders, and of a plain version of its reading."""
    print(
        "\n| relay transfer of | splits | time | both greedy orders | plain reading | ratio |\n"
        "| :--- | ---: | ---: | ---: | ---: | ---: |"
    )
    for case in cases:
        moved = [t.to(device) for t in (case.x_in, case.x_out, case.hidden)]
        steps = len(case.hidden)
        orders = sum(
            timed(partial(relay_order, *moved, direction=way), 3, device)[0]
            for way in ("shrink", "grow")
        )
        x_in, x_out, units = as_columns(case.x_in, case.x_out, case.hidden[0])
        half = slice(0, len(x_in) // 2)
        for n_splits in (4, 10):
            run = partial(relay_transfer, *moved, n_splits=n_splits)
            run()
            seconds, found = timed(run, 3, device)
            size = round(float(found.set_size.double().mean()))
            known = [codes[half] for codes in units[:size]]
            start = time.perf_counter()
            for _ in range(_SOME_SETS):
                given_information(x_in[half], x_out[half], known)
            one = (time.perf_counter() - start) / _SOME_SETS
            sizes = len(found.set_size.unique())
            plain = one * steps * 2 * n_splits * (steps + 32 * sizes)
            print(
                f"| {case.name} | {n_splits} | {seconds:.4g} s | {orders:.4g} s | ~{plain:.4g} s "
                f"| ~{plain / seconds:.0f} |",
                flush=True,
            )


def given_information(x_in: Codes, x_out: Codes, units: list[Codes]) -> float:
    """I(X_in; X_out | units) in bits from its four joint entropies."""
    return (
        joint_entropy([x_in, *units])
        + joint_entropy([x_out, *units])
        - joint_entropy([x_in, x_out, *units])
        - joint_entropy(units)
    )


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--quick", action="store_true", help="leave out what takes minutes")
    arguments = parser.parse_args()
    device = arguments.device
    where = torch.cuda.get_device_name() if device != "cpu" else "CPU"
    print(f"torch {torch.__version__}, {where}, {torch.get_num_threads()} CPU threads\n")
    names = "case", "ours", "reference", "ratio", "largest difference", "same order"
    print(f"| {' | '.join(names)} | memory, ours | reference |")
    print("| :--- | ---: | ---: | ---: | ---: | :--- | ---: | ---: |")
    trained, distinct = trained_network(), distinct_states()
    compare(distinct, device, 9)
    compare(trained, device, 25)
    wide = noisy_network(10_000, 64, 2 if arguments.quick else 50)
    extrapolate(wide, device, 8, 1)
    if not arguments.quick:
        extrapolate(noisy_network(8192, 1024, 100), device, 3, 1)
    del wide

    moved = [t.to(device) for t in (trained.x_in, trained.x_out, trained.hidden)]
    seconds, everything = timed(
        lambda: relay_information_of_all_subsets(*moved, progress=False), 1, device
    )
    shortfall = relay_order(*moved).shortfall(everything)
    print(
        f"\nAll {len(everything):,} subsets of {trained.name}: {seconds:.1f} s; sets of the greedy "
        f"order are at most {float(shortfall.max()):.4f} bits below the best of their size."
    )
    shares([trained, noisy_network(2048, 64, 50), noisy_network(2048, 1024, 1)], device)
    transfers([lasting_network(2048, 64, 50), noisy_network(2048, 64, 50)], device)
    scaling(device)
    bandwidth([distinct, trained])


if __name__ == "__main__":
    main()
