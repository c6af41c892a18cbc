"""Damaged, foreign and forged files: refused by name, or bit for bit what was saved.

A new case is one line: a function of a random generator and two saved files that returns a third,
with the decorator ``case``. ``--adversarial-cases`` sets the number of files; by default there are
35 of every case and kind of report.
"""

from __future__ import annotations

import io
import json
import pickle
import re
import struct
import zipfile
import zlib
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from lightning_relay import KnockoutReport, RelayReport, ReportFileError, load_reports
from lightning_relay.reports.files import kind_of, opened, write
from tests.support.knockouts import single_units, small_knockouts
from tests.support.memory import peak_of
from tests.support.reports import small_report

if TYPE_CHECKING:
    from pathlib import Path

Random = np.random.Generator
Members = dict[str, bytes]
Case = Callable[[Random, bytes, bytes], bytes]

CASES: dict[str, Case] = {}
REPORTS = [RelayReport, KnockoutReport]
MEBIBYTE = 2**20


def case(make: Case) -> Case:
    CASES[make.__name__] = make
    return make


@cache
def saved(kind: type, seed: int) -> bytes:
    """The file of a report; those of reports with another seed differ."""
    report: Any
    if kind is RelayReport:
        report = small_report(steps=3, units=3 + seed, n_orders=4, n_splits=0)
    else:
        report = small_knockouts(single_units(3 + seed), units=3, metrics=("loss",))
    return resaved(report)


def resaved(report: Any) -> bytes:
    """The file of a report, the same for reports that are the same bit for bit."""
    file = io.BytesIO()
    report.save(file)
    return file.getvalue()


def members_of(data: bytes) -> Members:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def zipped(members: Members | list[tuple[str, bytes]], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    pairs = members.items() if isinstance(members, dict) else members
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, data in pairs:
            archive.writestr(zipfile.ZipInfo(name), data, method)
    return file.getvalue()


def npy(array: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, np.asarray(array), **options)
    return file.getvalue()


def header_of(data: bytes) -> dict[str, Any]:
    with np.load(io.BytesIO(data), allow_pickle=False) as file:
        header: dict[str, Any] = json.loads(str(file["header"]))
    return header


def arrays_of(data: bytes) -> dict[str, Any]:
    with np.load(io.BytesIO(data), allow_pickle=False) as file:
        return {name: file[name] for name in file if name not in ("header", "checksum")}


def with_header(data: bytes, header: Any) -> bytes:
    """The file with another header, whose checksum is left as it was."""
    return zipped(members_of(data) | {"header.npy": npy(json.dumps(header))})


def one(random: Random, names: Any) -> Any:
    names = list(names)
    return names[random.integers(len(names))]


def noise(random: Random, most: int = 64) -> bytes:
    return random.bytes(int(random.integers(1, most)))


# Bytes, wherever they are.


@case
def a_bit_flipped(random: Random, data: bytes, other: bytes) -> bytes:
    place, bit = random.integers(len(data)), random.integers(8)
    return data[:place] + bytes([data[place] ^ (1 << int(bit))]) + data[place + 1 :]


@case
def bits_flipped(random: Random, data: bytes, other: bytes) -> bytes:
    for _ in range(random.integers(2, 20)):
        data = a_bit_flipped(random, data, other)
    return data


@case
def a_bit_flipped_in_the_directory(random: Random, data: bytes, other: bytes) -> bytes:
    start = data.rindex(b"PK\x05\x06")
    start = struct.unpack("<I", data[start + 16 : start + 20])[0]
    return data[:start] + a_bit_flipped(random, data[start:], other)


@case
def cut_off(random: Random, data: bytes, other: bytes) -> bytes:
    return data[: random.integers(len(data))]


@case
def cut_at_the_start(random: Random, data: bytes, other: bytes) -> bytes:
    return data[random.integers(1, len(data)) :]


@case
def bytes_inserted(random: Random, data: bytes, other: bytes) -> bytes:
    place = random.integers(len(data) + 1)
    return data[:place] + noise(random) + data[place:]


@case
def bytes_removed(random: Random, data: bytes, other: bytes) -> bytes:
    place = random.integers(len(data))
    return data[:place] + data[place + random.integers(1, 64) :]


@case
def bytes_overwritten(random: Random, data: bytes, other: bytes) -> bytes:
    place, new = random.integers(len(data)), noise(random)
    return data[:place] + new + data[place + len(new) :]


@case
def a_block_of_zeros(random: Random, data: bytes, other: bytes) -> bytes:
    place, length = random.integers(len(data)), int(random.integers(1, 4096))
    return data[:place] + bytes(length) + data[place + length :]


@case
def a_block_moved(random: Random, data: bytes, other: bytes) -> bytes:
    start, end = sorted(random.integers(len(data), size=2))
    return data[:start] + data[end:] + data[start:end]


@case
def the_end_of_another(random: Random, data: bytes, other: bytes) -> bytes:
    place = random.integers(len(data))
    return data[:place] + other[place:]


@case
def two_files_in_one(random: Random, data: bytes, other: bytes) -> bytes:
    return data + (noise(random) if random.integers(2) else data)


# Members.


@case
def packed_again(random: Random, data: bytes, other: bytes) -> bytes:
    return zipped(members_of(data), one(random, [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]))


@case
def in_another_order(random: Random, data: bytes, other: bytes) -> bytes:
    members = list(members_of(data).items())
    return zipped([members[place] for place in random.permutation(len(members))])


@case
def compressed_in_another_way(random: Random, data: bytes, other: bytes) -> bytes:
    return zipped(members_of(data), one(random, [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]))


@case
def a_member_of_another(random: Random, data: bytes, other: bytes) -> bytes:
    members, others = members_of(data), members_of(other)
    name = one(random, others)
    return zipped(members | {name: others[name]})


@case
def most_members_of_another(random: Random, data: bytes, other: bytes) -> bytes:
    members, others = members_of(data), members_of(other)
    kept = one(random, members)
    return zipped(members | others | {kept: members[kept]})


@case
def two_members_swapped(random: Random, data: bytes, other: bytes) -> bytes:
    members = members_of(data)
    first, second = one(random, members), one(random, members)
    return zipped(members | {first: members[second], second: members[first]})


@case
def a_member_removed(random: Random, data: bytes, other: bytes) -> bytes:
    members = members_of(data)
    del members[one(random, members)]
    return zipped(members)


@case
def a_member_renamed(random: Random, data: bytes, other: bytes) -> bytes:
    old, new = one(random, members_of(data)), one(random, members_of(other))
    new = one(random, [new, f"{old}.npy", old.removesuffix(".npy"), old[1:], f"{old}\0", "a.npy"])
    pairs = members_of(data).items()
    return zipped([(new if name == old else name, part) for name, part in pairs])


@case
def a_member_more(random: Random, data: bytes, other: bytes) -> bytes:
    return zipped(members_of(data) | {one(random, ["a", "a.npy", "rnn.l0/a.npy"]): npy(1.0)})


@case
def a_member_twice(random: Random, data: bytes, other: bytes) -> bytes:
    members, others = members_of(data), members_of(other)
    name = one(random, members)
    return zipped([*members.items(), (name, one(random, [members[name], *others.values()]))])


@case
def an_array_of_another_type_or_shape(random: Random, data: bytes, other: bytes) -> bytes:
    members = members_of(data)
    name = one(random, set(members) - {"header.npy", "checksum.npy"})
    array = np.load(io.BytesIO(members[name]))
    ways: list[Callable[[], Any]] = [
        lambda: array.astype(np.float32),
        lambda: array.astype(str),
        lambda: array.astype(">f8"),
        lambda: array[None],
        lambda: array.ravel()[:-1],
        lambda: array.T + 1,
        lambda: np.zeros((3, 4)),
        lambda: array.view(np.uint8) if array.ndim else array + 1,
    ]
    return zipped(members | {name: npy(one(random, ways)())})


@case
def a_value_changed(random: Random, data: bytes, other: bytes) -> bytes:
    members = members_of(data)
    name = one(random, members)
    return zipped(members | {name: members[name][:-1] + bytes([members[name][-1] ^ 1])})


# The header.


def edited(random: Random, value: Any) -> Any:
    """The value with one of its parts, at any depth, changed or lost."""
    if isinstance(value, dict) and value and random.integers(4):
        key = one(random, value)
        if not random.integers(4):
            return {name: part for name, part in value.items() if name != key}
        return value | {key: edited(random, value[key])}
    if isinstance(value, list) and value and random.integers(4):
        place = int(random.integers(len(value)))
        return [*value[:place], edited(random, value[place]), *value[place + 1 :]]
    news = ["many", -1, 2**70, 1.5, None, True, [], {}, [[1]], {"a": 1}, "\0", float("inf")]
    return one(random, news)


@case
def a_header_edited(random: Random, data: bytes, other: bytes) -> bytes:
    return with_header(data, edited(random, header_of(data)))


@case
def a_header_of_another(random: Random, data: bytes, other: bytes) -> bytes:
    header, others = header_of(data), header_of(other)
    key = one(random, others)
    return with_header(data, header | {key: others[key]})


@case
def a_header_that_is_none(random: Random, data: bytes, other: bytes) -> bytes:
    texts = ["", "{", "[]", "1", "[" * 9999, '{"format": 9}', '{"format": 5, "kind": "knock-out"}']
    header = one(random, [npy(one(random, texts)), npy(np.zeros(2)), npy(b"{}"), noise(random)])
    return zipped(members_of(data) | {"header.npy": header})


# Files of other programs.


@case
def a_foreign_file(random: Random, data: bytes, other: bytes) -> bytes:
    makers: list[Callable[[], bytes]] = [
        lambda: b"",
        lambda: noise(random, 4096),
        lambda: zipped({}),
        lambda: zipped({"a.txt": noise(random)}),
        lambda: zipped({"header.npy": npy(1.0), "checksum.npy": noise(random)}),
        lambda: zipped({"header.npy": pickle.dumps({"format": 9})}),
        lambda: zipped({"header.npy": npy(np.array({"format": 9}, object), allow_pickle=True)}),
        lambda: npy(np.zeros(3)),
        lambda: pickle.dumps(header_of(data)),
        lambda: zlib.compress(data),
        lambda: json.dumps(header_of(data)).encode(),
        lambda: zipped({"report.npz": data}),
    ]
    made: bytes = one(random, makers)()
    return made


@pytest.fixture
def number_of_each(request: pytest.FixtureRequest) -> int:
    asked = request.config.getoption("--adversarial-cases")
    return -(-asked // (len(CASES) * len(REPORTS))) if asked else 35


def found_or_refusal(load: Callable[[Path], Any], path: Path) -> Any:
    try:
        return load(path)
    except ReportFileError as error:
        return str(error)


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("kind", REPORTS)
@pytest.mark.parametrize("name", CASES)
def test_a_file_is_refused_by_its_path_or_holds_what_was_saved(
    tmp_path: Path, name: str, kind: Any, number_of_each: int
) -> None:
    data, other = saved(kind, 0), saved(kind, 1)
    path = tmp_path / "relay-validate-epoch=1-step=2.npz"
    for seed in range(number_of_each):
        made = CASES[name](np.random.default_rng(seed), data, other)
        path.write_bytes(made)
        found = found_or_refusal(kind.load, path)
        if isinstance(found, str):
            assert found.startswith(f"path: {str(path)!r} "), f"seed {seed}"
        else:
            assert resaved(found) in (data, other), f"seed {seed}"


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("kind", REPORTS)
@pytest.mark.parametrize("name", CASES)
def test_a_damaged_file_among_those_of_a_run_is_not_left_out(
    tmp_path: Path, name: str, kind: Any
) -> None:
    data, other = saved(kind, 0), saved(kind, 1)
    for path in (tmp_path / "relay-validate-epoch=1-step=2.npz", tmp_path / "other.npz"):
        path.write_bytes(other)
    for seed in range(4):
        path = tmp_path / "relay-validate-epoch=2-step=4.npz"
        path.write_bytes(CASES[name](np.random.default_rng(seed), data, other))
        found = found_or_refusal(load_reports, tmp_path)
        if isinstance(found, str):
            assert found.startswith(f"path: {str(path)!r} "), f"seed {seed}"
        else:
            assert len(found.relay + found.knockout) == 3, f"seed {seed}"


# Forged files: their checksums agree with what they hold.

EDITS: list[tuple[Any, str, Any, str]] = [
    (RelayReport, "samples", "many", "report.samples: got 'many'; it takes int"),
    (RelayReport, "samples", True, "report.samples: got True; it takes int"),
    (RelayReport, "epoch", 1.5, "report.epoch: got 1.5; it takes int | None"),
    (RelayReport, "stage", 3, "report.stage: got 3; it takes str | None"),
    (RelayReport, "mutual_information", {"joint": None}, "mutual_information['joint']: got None"),
    (RelayReport, "mutual_information", [1.0], "mutual_information: got [1.0]; it takes Mapping["),
    (RelayReport, "measure", {"levels": 2.5}, "levels: got 2.5"),
    (RelayReport, "measure", {"estimator": "guess"}, "estimator: got 'guess'"),
    (RelayReport, "layers", {}, "nothing is known of the array"),
    (RelayReport, "layers", 3, "damaged relay report"),
    (RelayReport, "unheard_of", 3, "unexpected keyword argument 'unheard_of'"),
    (RelayReport, "format", 10, "is of another format than 11"),
    (RelayReport, "kind", "knock-out", "no relay report but a knock-out report"),
    (KnockoutReport, "value", None, "report.value: got None; it takes str"),
    (KnockoutReport, "concepts", ["a"], ".baseline: got shape (3,); it takes (concept) with 1"),
    (KnockoutReport, "concepts", [1, 2, 3], "report.concepts[0]: got 1; it takes str"),
    (KnockoutReport, "sets", [], "report.confusion: got shape (4, 4, 4)"),
    (KnockoutReport, "sets", [{}], "damaged knock-out report"),
    (KnockoutReport, "metrics", [], "nothing is known of the array 'metrics/loss/baseline'"),
    (KnockoutReport, "metrics", ["loss", "a"], "damaged knock-out report"),
    (KnockoutReport, "format", 5, "is of another format than 6"),
    (KnockoutReport, "kind", "relay", "no knock-out report but a relay report"),
    (RelayReport, "rnn.l0/joint/scores", np.zeros((3, 3), np.float32), "has the type '<f4'"),
    (RelayReport, "rnn.l0/joint/scores", np.zeros((3, 3), np.int64), "got int64 array; it takes"),
    (RelayReport, "rnn.l0/joint/scores", np.full((3, 3), "a"), "has the type '<U1'"),
    (RelayReport, "rnn.l0/joint/scores", np.zeros((3, 4)), "scores: got shape (3, 4); it takes (s"),
    (RelayReport, "rnn.l0/joint/scores", np.zeros(9), "scores: got shape (9,); it takes (step, un"),
    (RelayReport, "rnn.l0/joint/scores", None, "missing 1 required positional argument: 'scores'"),
    (RelayReport, "rnn.l0/samples", np.zeros(2, np.int64), "rnn.l0.samples: got shape (2,)"),
    (RelayReport, "rnn.l0/other", np.zeros(2), "nothing is known of the array 'rnn.l0/other'"),
    (KnockoutReport, "accuracy/damage", np.zeros(7), "accuracy.damage: got shape (7,); it takes"),
    (KnockoutReport, "accuracy/baseline", np.zeros(1), "accuracy.baseline: got shape (1,)"),
    (KnockoutReport, "curves/0/area", np.zeros(2), "curves/0.area: got shape (2,)"),
    (KnockoutReport, "agreement/0/scores", np.zeros(2), "agreement/0.damage: got shape (3,)"),
    (KnockoutReport, "predictions_changed", None, "argument: 'predictions_changed'"),
]


@pytest.mark.parametrize(("kind", "name", "value", "words"), EDITS)
def test_a_forged_part_is_refused(
    tmp_path: Path, kind: Any, name: str, value: Any, words: str
) -> None:
    data = saved(kind, 0)
    header, arrays = header_of(data), arrays_of(data)
    if name in arrays or isinstance(value, np.ndarray):
        arrays |= {name: value}
    else:
        header |= {name: value}
    path = tmp_path / "forged.npz"
    write(path, header, {name: part for name, part in arrays.items() if part is not None})
    with pytest.raises(ReportFileError) as refusal:
        kind.load(path)
    assert words in str(refusal.value)
    assert str(refusal.value).startswith(f"path: {str(path)!r} ")


@pytest.mark.parametrize("make", [CASES["a_member_more"], CASES["a_member_twice"]])
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_members_are_those_that_the_header_lists(make: Case) -> None:
    data = saved(RelayReport, 0)
    file = io.BytesIO(make(np.random.default_rng(0), data, data))
    with pytest.raises(ReportFileError, match=r"path: an open file .*arrays are missing, or t"):
        RelayReport.load(file)


@pytest.mark.parametrize("kind", REPORTS)
def test_the_header_edited_anywhere_gives_a_report_of_right_types_or_none(kind: Any) -> None:
    data = saved(kind, 0)
    header, arrays = header_of(data), arrays_of(data)
    loaded = 0
    for seed in range(300):
        file = io.BytesIO()
        changed = edited(np.random.default_rng(seed), header)
        write(file, changed if isinstance(changed, dict) else header, arrays)
        with suppress(ReportFileError):
            resaved(kind.load(file))
            loaded += 1
    assert 0 < loaded < 150


# Bombs.

BOMBS = {
    "an array": lambda data: zipped(forged(data, {"rnn.l0/joint/scores": 8 * MEBIBYTE})),
    "arrays together": lambda data: zipped(
        forged(data, {f"rnn.l0/{place}": MEBIBYTE // 8 for place in range(64)})
    ),
    "an array too many": lambda data: zipped(members_of(data) | {"a.npy": bytes(64 * MEBIBYTE)}),
    "many arrays": lambda data: zipped(
        members_of(data) | {f"{place}.npy": bytes(MEBIBYTE) for place in range(64)}
    ),
    "the header": lambda data: zipped(
        members_of(data) | {"header.npy": npy("[" + " " * 16 * MEBIBYTE + "]")}
    ),
    "a size that lies": lambda data: lying(members_of(data), "header.npy", 64 * MEBIBYTE),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_before_it_is_inflated(tmp_path: Path, name: str) -> None:
    path = tmp_path / "bomb.npz"
    path.write_bytes(BOMBS[name](saved(RelayReport, 0)))
    assert path.stat().st_size < MEBIBYTE / 4

    def load() -> None:
        with pytest.raises(ReportFileError, match=re.escape(f"path: {str(path)!r} ")):
            RelayReport.load(path)
        with pytest.raises(ReportFileError, match=re.escape(f"path: {str(path)!r} ")):
            RelayReport.load(path) if kind_of(path) else None

    assert peak_of(load) < 4 * MEBIBYTE


def test_what_a_file_may_hold_bounds_the_memory_of_loading(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    arrays = {"rare": random.random((400_000, 4)) * (random.random((400_000, 1)) < 0.01)}
    write(tmp_path / "report.npz", {"format": 1}, arrays)
    bound = 100 * (tmp_path / "report.npz").stat().st_size + MEBIBYTE

    def load() -> None:
        with opened(tmp_path / "report.npz", "relay", 1) as (_, found):
            assert (found.pop("rare") == arrays["rare"]).all()

    assert 12 * MEBIBYTE < peak_of(load) < 2 * bound


def test_a_header_that_is_parsed_stays_within_the_bound(tmp_path: Path) -> None:
    path = tmp_path / "report.npz"
    text = json.dumps({"format": 1, "layers": [[]] * 400_000})
    filling = {"filling.npy": np.random.default_rng(0).bytes(2**18)}
    path.write_bytes(zipped({"header.npy": npy(text)} | filling))
    bound = 100 * path.stat().st_size + MEBIBYTE

    def load() -> None:
        with pytest.raises(ReportFileError, match="of another format than 11"):
            RelayReport.load(path)

    assert bound / 4 < peak_of(load) < 2 * bound


@pytest.mark.parametrize(
    ("header", "length"), [({}, MEBIBYTE), ({"words": [["a", "b"]] * 200_000}, 9)]
)
def test_a_report_that_compresses_like_a_bomb_is_saved_as_it_is(
    tmp_path: Path, header: dict[str, Any], length: int
) -> None:
    write(tmp_path / "report.npz", {"format": 1} | header, {"nothing": np.zeros(length)})
    with opened(tmp_path / "report.npz", "relay", 1) as (found, arrays):
        assert found == header
        np.testing.assert_array_equal(arrays.pop("nothing"), np.zeros(length))


def forged(data: bytes, lengths: dict[str, int]) -> Members:
    """Members with arrays of zeros, which the header and its checksum agree with."""
    file = io.BytesIO()
    zeros = {name: np.zeros((1, length)) for name, length in lengths.items()}
    write(file, header_of(data), arrays_of(data) | zeros)
    return members_of(file.getvalue())


def lying(members: Members, name: str, size: int) -> bytes:
    """A file with a member that inflates to more than the directory says."""
    small = len(members[name])
    data = bytearray(zipped(members | {name: members[name] + bytes(size)}))
    for at in (
        m.start() for m in re.finditer(re.escape(struct.pack("<I", small + size)), bytes(data))
    ):
        data[at : at + 4] = struct.pack("<I", small)
    return bytes(data)
