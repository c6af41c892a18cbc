from __future__ import annotations

import errno
import io
import multiprocessing
import os
import time
from collections import Counter
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_relay.reports.files import opened, safe, write, write_new
from tests.support.limits import files_of_at_most

ARRAYS = {"a": np.arange(6.0).reshape(2, 3), "b": np.array(True), "c": np.zeros((0, 2), np.int64)}


def names_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_what_is_written_is_read(tmp_path: Path) -> None:
    write(tmp_path / "report.npz", {"format": 3, "name": "\0ä\ud800"}, ARRAYS)
    with opened(tmp_path / "report.npz", "relay", 3) as (header, arrays):
        assert header == {"name": "\0ä\ud800"}
        assert list(arrays) == list(ARRAYS)
        for name, array in ARRAYS.items():
            found = arrays.pop(name)
            assert (found.dtype, found.shape) == (array.dtype, array.shape)
            np.testing.assert_array_equal(found, array)
            assert found.flags.writeable
    assert names_in(tmp_path) == ["report.npz"]


def test_order_in_memory_does_not_matter() -> None:
    file = io.BytesIO()
    transposed = np.arange(6.0).reshape(2, 3).T
    write(file, {"format": 3}, {"a": transposed})
    with opened(file, "relay", 3) as (_, arrays):
        np.testing.assert_array_equal(arrays.pop("a"), transposed)


def test_a_file_that_cannot_be_written_is_not_there(tmp_path: Path) -> None:
    big = {"a": np.random.default_rng(0).random(1000)}
    with files_of_at_most(1000), pytest.raises(OSError, match="File too large"):
        write(tmp_path / "report.npz", {"format": 3}, big)
    assert names_in(tmp_path) == []
    write(tmp_path / "report.npz", {"format": 3}, ARRAYS)
    before = (tmp_path / "report.npz").read_bytes()
    with files_of_at_most(1000), pytest.raises(OSError, match="File too large"):
        write(tmp_path / "report.npz", {"format": 3}, big)
    assert names_in(tmp_path) == ["report.npz"]
    assert (tmp_path / "report.npz").read_bytes() == before


def saving(directory: Path, start: float, number: int) -> None:
    """Write files, each with its number in it, as a process of its own."""
    time.sleep(max(0, start - time.time()))
    for place in range(number):
        names = (directory / f"{place}-{version}.npz" for version in count())
        write_new(names, f"{os.getpid()}".encode())


def test_processes_that_save_at_once_take_no_name_of_another(tmp_path: Path) -> None:
    number, context = 200, multiprocessing.get_context("spawn")
    arguments = (tmp_path, time.time() + 5, number)
    processes = [context.Process(target=saving, args=arguments) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    written = Counter(path.read_text() for path in tmp_path.iterdir())
    assert written == {str(process.pid): number for process in processes}


def test_what_is_neither_a_path_nor_a_file_is_refused() -> None:
    with pytest.raises(TypeError, match="path: got 3; it takes a path or an open binary file"):
        write(3, {"format": 3}, ARRAYS)  # type: ignore[arg-type]
    with (
        pytest.raises(TypeError, match="path: got None; it takes a path or an open binary file"),
        opened(None, "relay", 3),  # type: ignore[arg-type]
    ):
        pass


def test_a_new_file_is_written_where_there_are_no_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(Path, "hardlink_to", refused)
    for place in range(3):
        write_new((tmp_path / f"{version}.npz" for version in count()), f"{place}".encode())
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        f"{place}.npz": f"{place}" for place in range(3)
    }


def test_a_file_replaces_an_older_one_behind_a_link_and_no_device(tmp_path: Path) -> None:
    (tmp_path / "link.npz").symlink_to(tmp_path / "report.npz")
    for _ in range(2):
        write(tmp_path / "link.npz", {"format": 3}, ARRAYS)
    assert (tmp_path / "link.npz").is_symlink()
    assert names_in(tmp_path) == ["link.npz", "report.npz"]
    (tmp_path / "null").symlink_to("/dev/null")
    write(tmp_path / "null", {"format": 3}, ARRAYS)
    assert (tmp_path / "null").is_char_device()
    with pytest.raises(IsADirectoryError):
        write(tmp_path, {"format": 3}, ARRAYS)


TEXTS = st.text(st.characters(exclude_categories=()), min_size=1)


@given(TEXTS, TEXTS)
def test_safe_names_are_different_and_parts_of_a_name(first: str, second: str) -> None:
    assert (safe(first) == safe(second)) == (first == second)
    assert not set("/\0\\~") & set(safe(first))
    safe(first).encode()


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("bit_0", "bit_0"),
        ("größer als 2", "größer als 2"),
        ("a/b\0", "a%2Fb%00"),
        ("%2F", "%252F"),
        ("latent", "%6Catent"),
        ("\ud800", "%D800"),
    ],
)
def test_names_stay_as_readable_as_can_be(name: str, plain: str) -> None:
    assert safe(name) == plain


def test_long_names_are_cut_and_stay_different() -> None:
    first, second = safe("a" * 70_000), safe("a" * 70_001)
    assert first != second
    assert len(first) == len(second) < 100
    assert first.startswith("a" * 60 + "~")
