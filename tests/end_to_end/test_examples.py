"""The examples run as a reader runs them, end with their tables, and log what the README lists.

Only the number of epochs is smaller, and for knock-outs the number of sequences.
"""

import re
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_relay import KnockoutReport, RelayReport

EXAMPLES = Path(__file__).parents[2] / "examples"
README = (EXAMPLES.parent / "README.md").read_text()


# Every set of units is run on every test sequence, so the knock-out example gets fewer of them.
FEWER = """
import runpy, sys
from lightning_relay.tasks import BlockTask, MemoryTask
for task in (BlockTask, MemoryTask):
    task.__init__.__kwdefaults__.update(val_size=256, test_size=256)
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def run(name: str, directory: Path, epochs: int = 2, *, first: str = "") -> str:
    script = ["-c", first] if first else []
    command = [sys.executable, *script, str(EXAMPLES / name), "--epochs", str(epochs)]
    return subprocess.run(command, cwd=directory, capture_output=True, text=True, check=True).stdout


def logged_tags(directory: Path) -> set[str]:
    tags = EventAccumulator(str(directory)).Reload().Tags()
    texts = {tag.removesuffix("/text_summary") for tag in tags["tensors"]}
    return {*tags["scalars"], *tags["images"], *texts}


def documented_tags() -> set[str]:
    """Tags of the README's table that every model of one layer has, ``…`` written out."""
    table = README[
        README.index("| in TensorBoard") : README.index("W&B and MLflow get interactive figures")
    ]
    tags = re.findall(r"`((?:relay|…)/[\w./]+)`", table)
    assert len(tags) == 13
    sometimes = {"relay/joint/layers", "…/migration", "relay/rnn.l0/latent"}
    return {tag.replace("…", "relay/rnn.l0/joint") for tag in set(tags) - sometimes}


def test_the_memory_task_ends_with_its_tables(tmp_path: Path) -> None:
    output = run("memory_task.py", tmp_path)
    rows = re.findall(r"^(rnn|gru|lstm) +([\d.]+)((?: +-?\d\.\d\d){13})$", output, re.MULTILINE)
    assert [cell for cell, *_ in rows] == ["rnn", "gru", "lstm"]
    assert re.findall(r"^(\w+): Relay report: validate", output, re.MULTILINE) == [
        "RNN",
        "GRU",
        "LSTM",
    ]
    summaries = r"^  (?:pattern|bit_\d): [\d.]+ of [\d.]+ bits that input and output share"
    assert len(re.findall(summaries, output, re.MULTILINE)) == 9
    assert output.count("… and 1 more; report[layer][concept] has all of") == 3
    assert len(re.findall("^  without input, .* of 512 states", output, re.MULTILINE)) == 3
    assert output.rstrip().endswith("tensorboard --logdir runs/memory_task")
    for cell in ("rnn", "gru", "lstm"):
        (run_directory,) = (tmp_path / "runs" / "memory_task" / cell).iterdir()
        assert {tag.replace("joint", "pattern") for tag in documented_tags()} <= logged_tags(
            run_directory
        )
        assert {"relay/rnn.l0/latent", "relay/rnn.l0/settled"} <= logged_tags(run_directory)
        assert len(list((run_directory / "relay_reports").iterdir())) == 2


def test_the_block_task_ends_with_its_tables(tmp_path: Path) -> None:
    output = run("block_task.py", tmp_path, first=FEWER)
    cells = ("rnn", "gru", "lstm")
    found = re.findall(r"^(\w+), test accuracy ([\d.]+): Relay report: test", output, re.MULTILINE)
    assert [cell.lower() for cell, _ in found] == list(cells)
    rows = re.findall(r"^(\w+) +(width|direction) +(\S+) +(\S+)$", output, re.MULTILINE)
    assert [row[:2] for row in rows] == list(product(cells, ("width", "direction")))
    assert output.rstrip().endswith("tensorboard --logdir runs/block_task")
    for cell in cells:
        (run_directory,) = (tmp_path / "runs" / "block_task" / cell).iterdir()
        (path,) = (run_directory / "knockout_reports").iterdir()
        printed = [row[2:] for row in rows if row[0] == cell]
        for (alone, both), part in zip(printed, KnockoutReport.load(path).predictions, strict=True):
            assert (alone, both) == (f"{part.r2_size:.2f}", f"{part.r2:.2f}")
            assert len(part.places) == 100


def test_knockouts_end_with_their_tables(tmp_path: Path) -> None:
    output = run("knockouts.py", tmp_path, first=FEWER)
    number, bits = r"-?\d\.\d+", ("bit_0", "bit_1", "bit_2")
    interval = rf" +{number} \[{number}, {number}\]"
    tops = re.findall(
        rf"^(\w+) +top 3 of (bit_\d): ((?:≈?\d+ +){{3}})((?:{interval}){{3}})$",
        output,
        re.MULTILINE,
    )
    assert [(cell, bit) for cell, bit, *_ in tops] == list(product(("rnn", "gru", "lstm"), bits))
    random = rf"^(\w+) +3 at random((?: +{number} \({number} to {number}\)){{3}})$"
    correlations = rf"^(\w+)((?:(?:{interval})| +nan \[nan, nan\]){{3}})$"
    areas = rf"^(\w+)(?: +{number} / {number} / {number}){{3}}$"
    for rows in (random, correlations, areas):
        assert len(re.findall(rows, output, re.MULTILINE)) == 3
    assert output.rstrip().endswith("tensorboard --logdir runs/knockouts")

    for cell in ("rnn", "gru", "lstm"):
        (run_directory,) = (tmp_path / "runs" / "knockouts" / cell).iterdir()
        reports = {
            path.name.partition("-")[0]: KnockoutReport.load(path)
            for path in (run_directory / "knockout_reports").iterdir()
        }
        assert set(reports) == {"knockout_concept", "knockout_each", "knockout_greedy"}
        # Along orders in which many units are tied there are more sets than a report takes.
        assert not reports["knockout_concept"].sets_left_out
        assert not reports["knockout_each"].sets_left_out
        assert {report.samples for report in reports.values()} == {256}
        found = reports["knockout_concept"]
        for place, bit in zip(found.places("concept"), bits, strict=True):
            ((units, damages),) = [own[2:] for own in tops if own[:2] == (cell, bit)]
            assert tuple(map(int, re.findall(r"\d+", units))) == found.sets[place].units["rnn.l0"]
            printed = re.findall(rf"({number}) \[", damages)
            assert printed == [f"{found.damage_of(own).damage[place]:.3f}" for own in bits]
        layer = "rnn.l0"
        assert {
            "knockout_concept_test/damage",
            "knockout_concept_test/knockout_table",
            *(f"knockout_concept_test/{layer}/{bit}/top_damage" for bit in bits),
            *(f"knockout_concept_test/{layer}/{bit}/random_damage" for bit in bits),
            f"knockout_each_test/{layer}/bit_0/agreement",
            f"knockout_greedy_test/{layer}/bit_0/deletion",
            *(f"knockout_greedy_test/{layer}/{bit}/area_most_first" for bit in bits),
        } <= logged_tags(run_directory)


def test_japanese_vowels_ends_with_its_tables(tmp_path: Path) -> None:
    pytest.importorskip("aeon", reason="the series ship with aeon, an optional dependency")
    output = run("japanese_vowels.py", tmp_path, epochs=5)
    assert "370 of 370 test sequences analysed" in output
    steps = re.findall(r"^(-?\d+)(\*?) +(\d+) +\d+ +[\d.]+ +[\d.]+  \d", output, re.MULTILINE)
    assert [step for step, *_ in steps] == ["0", "3", "6", "9", "12", "15", "-1"]
    assert [mark for _, mark, _ in steps] == ["*"] * 6 + [""]
    assert [int(samples) for *_, samples in steps] == [370, 370, 370, 361, 289, 163, 370]
    assert len(re.findall(r"^speaker_\d +[\d.]+ +[\d.]+ ", output, re.MULTILINE)) == 9
    (run_directory,) = (tmp_path / "runs" / "japanese_vowels").iterdir()
    logged = logged_tags(run_directory)
    first, last = (
        {tag.replace("joint", concept) for tag in documented_tags()}
        for concept in ("speaker", "speaker_8")
    )
    assert first <= logged
    assert last - logged == {
        f"relay/rnn.l0/speaker_8/{picture}" for picture in ("relay_share", "relay_transfer")
    }


def test_plain_pytorch_ends_with_its_table_report_and_pictures(tmp_path: Path) -> None:
    output = run("plain_pytorch.py", tmp_path, epochs=15)
    keys = ("lstm.l0", "lstm.l0.cell", "lstm.l1", "lstm.l1.cell")
    rows = re.findall(
        r"^(lstm\S+) +16((?: +\d\.\d\d){13})  \[(?:\d+, ){3}\d+\]$", output, re.MULTILINE
    )
    assert [key for key, _ in rows] == list(keys)
    directory = tmp_path / "runs" / "plain_pytorch"
    report = RelayReport.load(directory / "report.npz")
    for key, printed in rows:
        information = report.layers[key].concepts["joint"].information[:, 0]
        assert printed.split() == [f"{bits:.2f}" for bits in information]
        assert (directory / f"{key}.png").exists()
    # The upper layer is read out, and holds all three bits to the end.
    assert report.layers["lstm.l1"].concepts["joint"].information[-1, 0] > 2.9
    assert float(re.findall(r"^accuracy ([\d.]+)$", output, re.MULTILINE)[0]) > 0.98
